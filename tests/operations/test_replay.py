"""A past day through a service that runs as a process of its own, with faults."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from operations.service_files import STEP, frames, service
from sa_nowcast import cli
from sa_nowcast.errors import RecipeError, StorageError
from sa_nowcast.operations import Faults, Report, replay
from sa_nowcast.operations.faults import planned

RECIPES = Path(__file__).parents[2] / "recipes"


def test_what_arrives_is_a_function_of_the_seed_and_has_the_shares_that_were_asked_for() -> None:
    times = [n * STEP for n in range(200)]
    names = [f"{n}.nc" for n in range(200)]
    plan, whole = planned(times, names, STEP, Faults(), np.random.default_rng(0))
    again, _ = planned(times, names, STEP, Faults(), np.random.default_rng(0))
    assert plan == again
    late = [d for d in plan if d.at > times[d.number] and "again" not in d.name]
    assert 30 <= len(late) <= 40  # a fifth, but for those in the outage
    assert all(d.at - times[d.number] <= 3 * STEP for d in late)
    assert sum(d.kind == "truncated" for d in plan) in (3, 4)
    assert 170 <= len(whole) <= 190
    assert not any(times[100] <= t < times[112] for t in whole)
    assert [d.at for d in plan] == sorted(d.at for d in plan)
    everything, all_whole = planned(times, names, STEP, Faults.none(), np.random.default_rng(0))
    assert (len(everything), all_whole) == (200, times)


def test_bad_arguments_are_refused(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(RecipeError, match="a share from 0 to 1"):
        Faults(late=2)
    ds = frames(6)
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "mine").write_text("")
    with pytest.raises(StorageError, match="is not empty"):
        replay("sample:mrms", service(tmp_path, ds, saved))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a busy machine the comparison alone takes minutes
def test_the_sample_with_faults_through_the_recipe_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["sa-nowcast", "replay", "sample:mrms", str(RECIPES / "service.yaml"), "--speed", "20", "--json"]
    arguments += ["--outage", "10min", "--truncated", "0.06", "--set", "output.formats=[netcdf, geotiff, stac]"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capfd.readouterr()
    assert caught.value.code == 0, out + err
    found = json.loads(out)
    assert found["faults"] == []
    assert found["killed"] == 2
    assert found["published"] + found["expired"] == found["possible"] > 5
    assert found["stopped_in"] < 10
    assert found["counts"]["late"] > 0
    assert found["counts"]["duplicate"] > 0
    assert found["counts"]["refused"]["unreadable"] == 2
    assert found["pairs"] > 50


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_real_radar_day_with_faults(tmp_path: Path, real_data: Path) -> None:
    from sa_nowcast.recipe import read_service

    recipe = tmp_path / "service.yaml"
    recipe.write_text(f"""\
name: Brisbane
arrivals:
  source: {tmp_path / "incoming"}
  pattern: "*.nc"
  engine: bom_rf3
  step: 10min
steps: 6
max_age: 90min
keep: 3d
points: [{{name: Brisbane, latitude: -27.47, longitude: 153.03}}]
verification: {{references: [persistence, extrapolation]}}
output: {{folder: {tmp_path / "published"}, formats: [netcdf, geotiff, stac]}}
""")
    found = replay(str(real_data / "radar" / "bom"), read_service(recipe), speed=120)
    assert found.faults == []
    assert found.frames == 144
    assert found.published + found.expired == found.possible > 50
    assert found.killed == 2
    assert found.stopped_in < 10


def test_a_replay_that_published_nothing_says_so_and_not_that_all_is_equal() -> None:
    said = "\n".join(Report(frames=3, delivered=2).lines())
    assert "nothing was there to compare" in said
    assert "nothing was published" in said
    assert "equal" not in said
