"""inspect, schema and doctor: what is there, in keys that stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command_line import Here
from sequences import rain

import sa_nowcast
from sa_nowcast.computing.installing import install
from sa_nowcast.recipe import comparison_schema, recipe_schema, tables_schema
from sa_nowcast.survey.doctor import environment


def inspected(here: Here, *arguments: object) -> dict[str, object]:
    here("inspect", *arguments, "--json")
    assert here.code == 0, here.err
    document: dict[str, object] = json.loads(here.out)
    return document


def test_a_model(here: Here, saved: Path) -> None:
    found = inspected(here, saved)
    assert found["kind"] == "model"
    assert found["sha256"] == sa_nowcast.load(str(saved)).digest
    assert found["cadence"] == "5 min"
    assert found["parameters"] == sum(p.numel() for p in sa_nowcast.load(str(saved)).network.parameters())
    here("inspect", saved)
    assert "provenance.training_period" in here.out


def test_frames_stores_forecasts_archives_and_scores(here: Here, radar: Path, saved: Path, tmp_path: Path) -> None:
    found = inspected(here, radar)
    assert found["kind"] == "data"
    assert found["times"] == {"count": 40, "first": "2020-06-01T00:00", "last": "2020-06-01T03:15", "step": "5 min"}
    assert found["bytes"] == radar.stat().st_size
    sa_nowcast.convert(radar, tmp_path / "s.zarr")
    store = inspected(here, tmp_path / "s.zarr")
    assert (store["kind"], store["complete"], store["zarr_format"]) == ("data", True, 3)
    here("forecast", radar, "--model", saved, "-o", tmp_path / "f.nc")
    one = inspected(here, tmp_path / "f.nc")
    assert (one["kind"], one["lead_times"]) == ("forecast", ["5 min", "10 min", "15 min"])
    here("hindcast", radar, tmp_path / "a.zarr", "--model", saved, "--quiet")
    archive = inspected(here, tmp_path / "a.zarr")
    assert (archive["kind"], archive["complete"]) == ("archive", True)
    here("verify", tmp_path / "a.zarr", radar, "-o", tmp_path / "s.csv")
    scores = inspected(here, tmp_path / "s.csv")
    assert (scores["kind"], scores["metrics"], scores["reference"]) == ("scores", ["mse", "csi"], "persistence") or (
        scores["metrics"] == ["mse"]
    )


def test_recipes_by_path_and_name(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = inspected(here, "quickstart")
    assert found["kind"] == "recipe"
    assert isinstance(found["recipe"], dict)
    assert found["recipe"]["name"] == "quickstart"


def test_a_wrong_path_and_a_file_of_something_else_are_one_line(here: Here, tmp_path: Path) -> None:
    here.fails(3, "DATA none.nc: no such file or folder", "inspect", "none.nc")
    (tmp_path / "text.nc").write_text("no NetCDF")
    here.fails(3, "text.nc", "inspect", tmp_path / "text.nc")
    (tmp_path / "no.nowcaster").mkdir()
    here.fails(4, "it holds no model.json", "inspect", tmp_path / "no.nowcaster")


def test_schema_is_that_of_recipes(here: Here) -> None:
    here("schema")
    assert json.loads(here.out) == recipe_schema()
    here("schema", "comparison")
    assert json.loads(here.out) == comparison_schema()
    here("schema", "tables")
    assert json.loads(here.out) == tables_schema()
    here.fails(2, "schema: 'table', expected one of experiment, comparison, tables", "schema", "table")


def test_doctor_names_extras_with_their_command(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment()
    assert found["sa_nowcast"] == sa_nowcast.__version__
    assert found["extras"]["plot"] == {"libraries": ["matplotlib"], "missing": [], "install": None}
    monkeypatch.setattr("sa_nowcast.survey.doctor._importable", lambda name: False)
    monkeypatch.setattr("sa_nowcast.survey.doctor._version", lambda name: None)
    assert environment()["extras"]["plot"]["install"] == install("plot")


def test_doctor_measures_windows_a_second_of_frames_and_of_a_recipe(here: Here, radar: Path, tmp_path: Path) -> None:
    here("doctor", radar, "--workers", "0", "--seconds", "0.1", "--json")
    assert here.code == 0, here.err
    plan = json.loads(here.out)["plan"]
    (measured,) = plan["workers"]
    assert measured["windows_per_second"] > 1
    assert plan["frames"]["shape"] == [40, 1, 24, 20]
    assert 0 < plan["memory"]["forecasting"] < plan["memory"]["training"] < plan["memory"]["free"]
    tree = {
        "name": "a",
        "history": 4,
        "steps": 3,
        "data": {"source": str(radar)},
        "output": {"folder": str(tmp_path / "r")},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    here("doctor", tmp_path / "a.yaml", "--workers", "0", "--seconds", "0.1")
    assert "34 of 4 + 3 frames" in here.out
    assert not (tmp_path / "r").exists()
    rain(3).to_netcdf(tmp_path / "short.nc")
    here.fails(3, "would be left to train on", "doctor", tmp_path / "short.nc")


@pytest.mark.slow
def test_doctor_measures_loader_processes(here: Here, radar: Path) -> None:
    here("doctor", radar, "--workers", "0", "--workers", "1", "--seconds", "0.2", "--json")
    assert [m["workers"] for m in json.loads(here.out)["plan"]["workers"]] == [0, 1]
