"""What forecasts and verifies needs no training code and no Lightning; what trains says how to install it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from operations.service_files import incoming, service
from sequences import NETWORK, georeferenced, rain

import sa_nowcast
from sa_nowcast import workflow
from sa_nowcast.computing.installing import install
from sa_nowcast.errors import MissingLibraryError
from sa_nowcast.recipe import ComparisonRecipe, TablesRecipe, find_recipe, parse_recipe, read_any
from sa_nowcast.survey.recipes import check_recipe
from sa_nowcast.workflow.tables import run_tables

# An import that is refused ends the program: nothing that catches ImportError can hide one.
WITHOUT = """
import os, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "torchmetrics") or name == "sa_nowcast.training":
            print("imported:", name, file=sys.stderr, flush=True)
            os._exit(1)
sys.meta_path.insert(0, Refused())
"""
FORECASTS = """
import xarray as xr
import sa_nowcast
rain = xr.open_dataset("rain.nc")
forecast = rain.sa_nowcast.forecast(steps=2)
hindcasts = rain.sa_nowcast.hindcast(steps=2, init_times=rain.time[5:8])
hindcasts.sa_nowcast.verify(rain["rain"], metrics=["mse", "csi"], thresholds=[1.0])
from sa_nowcast import cli
for words in (["forecast", "rain.nc", "--steps", "2", "-o", "fc.nc"], ["watch", "service.json", "--dry-run"]):
    sys.argv = ["sa-nowcast", *words]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, words
"""
SERVES = """
import xarray as xr
import sa_nowcast
xr.open_dataset("rain.nc").sa_nowcast.forecast(steps=2, members=2)
from sa_nowcast.recipe import ComparisonRecipe, ServiceRecipe
from sa_nowcast.workflow.comparing import run_comparison
run_comparison(ComparisonRecipe.model_validate_json(open("comparison.json").read()))
from sa_nowcast.operations import watch
watch(ServiceRecipe.model_validate_json(open("service.json").read()), until_idle=True)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with frames, and recipes of a comparison and of a service that forecasts from them."""
    ds = georeferenced(rain(10))
    ds.to_netcdf(tmp_path / "rain.nc")
    incoming(tmp_path, ds, range(5))
    (tmp_path / "service.json").write_text(service(tmp_path, ds, "default", now=4).model_dump_json(by_alias=True))
    one = {"name": "rain", "source": str(tmp_path / "rain.nc"), "stride": 4}
    asked = {"name": "both", "history": 4, "steps": 2, "sets": [one], "models": ["persistence", "default"]}
    comparison = ComparisonRecipe.model_validate({**asked, "output": {"folder": str(tmp_path / "compared")}})
    (tmp_path / "comparison.json").write_text(comparison.model_dump_json(by_alias=True))
    return tmp_path


def run_without_training(code: str, place: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT + code], cwd=place, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_forecasting_and_verifying_import_no_lightning_and_no_training(place: Path) -> None:
    run_without_training(FORECASTS, place)
    assert (place / "fc.nc").is_file()


@pytest.mark.slow
def test_members_comparisons_and_a_service_import_no_lightning_and_no_training(place: Path) -> None:
    run_without_training(SERVES, place)
    assert (place / "compared" / "scores.csv").is_file()
    assert list((place / "out" / "forecasts").iterdir())


@pytest.fixture
def without_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)


@pytest.mark.usefixtures("without_lightning")
def test_what_trains_says_how_to_install_lightning_before_it_does_anything(tmp_path: Path) -> None:
    rain(40).to_netcdf(tmp_path / "rain.nc")
    recipe = parse_recipe(
        f"name: trial\nhistory: 4\nsteps: 2\ndata: {{source: {tmp_path / 'rain.nc'}}}\n"
        f"network: {{hidden: [4]}}\noutput: {{folder: {tmp_path / 'run'}}}\n"
    )
    calls: list[Callable[[], object]] = [
        lambda: sa_nowcast.fit(None, history=4, steps=2),  # type: ignore[arg-type]
        lambda: rain(20).sa_nowcast.fit(history=4, steps=2, network=NETWORK, folder=tmp_path / "run"),
        lambda: workflow.run(recipe),
        lambda: workflow.train(recipe),
    ]
    for call in calls:
        with pytest.raises(MissingLibraryError, match=rf"^INSTALL lightning: .*{re.escape(install('train'))}"):
            call()
    assert not (tmp_path / "run").exists()
    failed = [finding for finding in check_recipe(recipe) if finding.error is not None]
    assert [finding.check for finding in failed] == ["libraries"]
    assert isinstance(failed[0].error, MissingLibraryError)


@pytest.mark.slow
@pytest.mark.usefixtures("without_lightning")
def test_tables_train_nothing_without_lightning(tmp_path: Path) -> None:
    recipe = read_any(find_recipe("networks"), [f"output.folder={tmp_path / 'tables'}"])
    assert isinstance(recipe, TablesRecipe)
    with pytest.raises(MissingLibraryError, match=re.escape(install("train"))):
        run_tables(recipe)
    assert not (tmp_path / "tables").exists()
