"""forecast: the same as in Python, and what stops it is said before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from command_line import Here, call
from sequences import georeferenced, rain

import sa_nowcast
from sa_nowcast.computing.installing import install
from sa_nowcast.forecasts.defaults import ENVIRONMENT


def test_the_file_holds_what_python_forecasts(here: Here, radar: Path, saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.nc"
    here("forecast", radar, "--model", saved, "-o", out, "--init-time", "2020-06-01T01:00")
    assert (here.code, here.out) == (0, f"{out}\n")
    with xr.open_dataset(radar) as ds:
        wanted = ds.sa_nowcast.forecast(model=str(saved), init_time="2020-06-01T01:00")
    with xr.open_dataset(out, decode_timedelta=True) as written:
        np.testing.assert_array_equal(written["rain"].values, wanted.values)
        assert written["init_time"].values == np.datetime64("2020-06-01T01:00")


def test_a_lead_time_stands_for_steps(here: Here, radar: Path, saved: Path, tmp_path: Path) -> None:
    here("forecast", radar, "--model", saved, "-o", tmp_path / "a.zarr", "--lead-time", "20min", "--json")
    document = json.loads(here.out)
    assert document["lead_times"] == ["5 min", "10 min", "15 min", "20 min"]
    assert document["steps_beyond_training"] == 1
    assert sa_nowcast.open_zarr(tmp_path / "a.zarr", check="nothing")["rain"].sizes["lead_time"] == 4
    common = ("forecast", radar, "--model", saved, "-o", tmp_path / "b.nc")
    here.fails(2, "--lead-time: 7min, expected a multiple of the cadence, 5 min", *common, "--lead-time", "7min")
    here.fails(2, "--lead-time: 'soon', expected a duration", *common, "--lead-time", "soon")
    here.fails(2, "--lead-time: given beside --steps", *common, "--lead-time", "5min", "--steps", "1")


def test_members_probabilities_and_quantiles_are_written(here: Here, radar: Path, tmp_path: Path) -> None:
    common = ("forecast", radar, "-o", tmp_path / "a.nc", "--steps", "2", "--replace")
    for options, dim, size in (
        (["--members", "3", "--seed", "4"], "realization", 3),
        (["--threshold", "1", "--threshold", "2 mm h-1"], "threshold", 2),
        (["--quantile", "0.9"], "quantile", 1),
    ):
        assert here(*common, *options).code == 0
        with xr.open_dataset(tmp_path / "a.nc", decode_timedelta=True) as written, xr.open_dataset(radar) as ds:
            (name,) = (n for n, v in written.data_vars.items() if "lead_time" in v.dims)
            assert written[name].sizes[dim] == size
            if dim == "realization":
                wanted = ds.sa_nowcast.forecast(steps=2, members=3, seed=4)
                np.testing.assert_array_equal(written[name].values, wanted.values)
    here.fails(2, "--members: given beside --threshold, expected one", *common, "--threshold", "1", "--members", "2")


def test_the_model_of_the_environment_is_the_default(
    here: Here, radar: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(saved))
    assert here("forecast", radar, "-o", tmp_path / "a.nc").code == 0


def wrong_units(ds: xr.Dataset) -> xr.Dataset:
    ds["rain"].attrs["units"] = "m s-1"
    return ds


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
@pytest.mark.parametrize(
    ("change", "options", "code", "line"),
    [
        (wrong_units, [], 4, "MODEL rain: units 'm s-1', expected 'mm h-1', which the model was trained on"),
        (lambda ds: ds.isel(x=slice(None, None, 2)), [], 4, "grid spacing 1000 x 2000 m, expected 1000 x 1000 m"),
        (lambda ds: ds.isel(time=slice(None, None, 2)), [], 4, "step is 10 min, expected 5 min"),
        (lambda ds: ds.isel(time=slice(38, None)), [], 3, "needs 4 frames, has 2"),
        (lambda ds: ds, ["--init-time", "2020-06-01T00:07"], 3, "the init time is not among the data's times"),
        (lambda ds: ds, ["--init-time", "noon"], 2, "expected one time in UTC"),
        (lambda ds: ds, ["--steps", "0"], 2, "steps: 0, expected a whole number of at least 1"),
        (lambda ds: ds, ["--tile", "3"], 2, "tile: 3, expected at least 16 pixels"),
        (lambda ds: ds, ["--device", "cuda:9"], 2, "device"),
        (lambda ds: ds, ["--model", "none.nowcaster"], 4, "MODEL none.nowcaster: no such folder"),
        (lambda ds: ds, ["--grid", "some"], 2, "--grid: 'some', expected check or any"),
        (lambda ds: ds, ["-o", "/dev/null/a.nc"], 5, "STORAGE /dev/null/a.nc: cannot be written (Not a directory)"),
        (lambda ds: ds, ["-o", "a.grib"], 2, "ends in '.grib', expected one of .nc, .zarr, .tif, .tiff"),
    ],
)  # fmt: skip
def test_what_stops_it_is_the_same_line_and_code_in_a_dry_run(
    change: Any, options: list[str], code: int, line: str, dry: bool, here: Here, saved: Path, tmp_path: Path
) -> None:
    change(georeferenced(rain(40))).to_netcdf(tmp_path / "changed.nc")
    model = [] if "--model" in options else ["--model", str(saved)]
    place = [] if "-o" in options else ["-o", str(tmp_path / "a.nc")]
    here.fails(code, line, "forecast", tmp_path / "changed.nc", *model, *place, *options, *(["--dry-run"] * dry))
    assert not (tmp_path / "a.nc").exists()


def test_a_dry_run_writes_nothing_and_says_what_it_would_do(
    here: Here, radar: Path, saved: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    here("forecast", radar, "--model", saved, "-o", tmp_path / "a.nc", "--dry-run")
    assert (here.code, here.out) == (0, "")
    assert "rain from 2020-06-01T03:15, 3 lead times up to 15 min" in here.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_stands_there_is_replaced_only_when_asked(
    here: Here, radar: Path, saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.nc").write_text("mine")
    here.fails(5, "exists already", "forecast", radar, "--model", saved, "-o", tmp_path / "a.nc")
    assert here("forecast", radar, "--model", saved, "-o", tmp_path / "a.nc", "--replace").code == 0


def test_without_a_model_the_line_says_how_to_get_one(here: Here, radar: Path, tmp_path: Path) -> None:
    here("forecast", radar, "-o", tmp_path / "a.nc")
    assert here.code in (0, 4)  # 0 where a model ships with the package and fits
    if here.code:
        assert len(here.err.splitlines()) == 1


@pytest.mark.slow
def test_a_missing_extra_is_named_with_its_command(radar: Path, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "rasterio.py").write_text("raise ModuleNotFoundError(\"No module named 'rasterio'\", name='rasterio')")
    path = f"{tmp_path}:{Path(sa_nowcast.__file__).parent.parent}"
    done = call("forecast", str(radar), "--model", str(saved), "-o", str(tmp_path / "a.tif"), PYTHONPATH=path)
    assert done.returncode == 2
    assert done.stderr == f"INSTALL rasterio: is not installed. Fix: {install('geotiff')}.\n"


@pytest.mark.parametrize("moment", ["2020-06-01T01:00Z", "2020-06-01T03:00+02:00", "2020-06-01 01:00 UTC"])
def test_init_times_with_an_offset_are_converted(
    moment: str, here: Here, radar: Path, saved: Path, tmp_path: Path
) -> None:
    here("forecast", radar, "--model", saved, "-o", tmp_path / "a.nc", "--init-time", moment, "--json")
    assert json.loads(here.out)["init_time"] == "2020-06-01T01:00"
    here.fails(
        2, "--init-time: '3000-01-01', expected a year from 1678 to 2261", "forecast", radar, "--model", saved,
        "-o", tmp_path / "b.nc", "--init-time", "3000-01-01",
    )  # fmt: skip


def test_the_product_is_chosen(here: Here, radar: Path, saved: Path, tmp_path: Path) -> None:
    common = ("forecast", radar, "--model", saved)
    here(*common, "-o", tmp_path / "a.nc", "--product", "matched", "--json")
    assert json.loads(here.out)["product"] == "matched"
    with xr.open_dataset(radar) as ds:
        wanted = ds.sa_nowcast.forecast(model=str(saved), product="matched")
    with xr.open_dataset(tmp_path / "a.nc", decode_timedelta=True) as written:
        np.testing.assert_array_equal(written["rain"].values, wanted.values)
        assert written["rain"].attrs["sa_nowcast_product"] == "matched"
        assert "probability-matched" in written["rain"].attrs["comment"]
    here.fails(2, "product: 'median', expected 'mean' or 'matched'", *common, "--product", "median", "--dry-run")
