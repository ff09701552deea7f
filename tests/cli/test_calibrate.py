"""The command that calibrates a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import xarray as xr
from command_line import Here
from sequences import rain

import sa_nowcast

DATA = rain(40, seed=3)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    DATA.to_netcdf(tmp_path / "rain.nc")
    return tmp_path / "rain.nc"


def test_a_model_is_calibrated_where_it_stands(here: Here, saved: Path, frames: Path, tmp_path: Path) -> None:
    told = ("calibrate", saved, frames, "--quiet", "--from", "2020-06-01T00:30")
    assert here(*told, "--dry-run", "--json").code == 0
    assert json.loads(here.out)["calibration"] is None
    assert sa_nowcast.load(saved).calibration is None
    assert here(*told, "--json").code == 0
    assert json.loads(here.out)["calibration"]["init_times"] == 31
    assert sa_nowcast.load(saved).calibration.about["dataset"] == str(frames)
    here("inspect", saved, "--json")
    assert json.loads(here.out)["calibration"]["steps"] == 3
    assert here("forecast", frames, "--model", saved, "--members", 2, "-o", tmp_path / "members.nc").code == 0
    assert xr.open_dataset(tmp_path / "members.nc").sizes["realization"] == 2


def test_an_archive_calibrates_a_copy(here: Here, saved: Path, frames: Path, tmp_path: Path) -> None:
    archive, copy = tmp_path / "archive.zarr", tmp_path / "copy.nowcaster"
    DATA.sa_nowcast.hindcast(model=saved, to=archive)
    told = ("calibrate", saved, frames, "--archive", archive, "-o", copy)
    assert here(*told).code == 0
    assert here.out.strip() == str(copy)
    assert sa_nowcast.load(saved).calibration is None
    assert sa_nowcast.load(copy).calibration.about["init_times"] == 34
    here.fails(2, "--steps: given beside --archive, which has its own. Fix: leave it out", *told, "--steps", 2)
    here.fails(5, "a model stands there", *told)
