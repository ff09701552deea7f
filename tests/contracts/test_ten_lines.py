"""The ten lines that the issue and the README promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sa_nowcast

# What the lines leave to defaults takes minutes; the shape of the way is the same with less of everything.
QUICK = {"network": {"hidden": (4,), "kernel": 3}, "crop": 32, "batch_size": 1, "validation_samples": 1}


def _ten_lines(ds: xr.Dataset, folder: Path, max_steps: int, **options: object) -> xr.DataArray:
    nowcaster = ds.sa_nowcast.fit(history=4, steps=4, max_steps=max_steps, **options)
    fc = ds.sa_nowcast.forecast(steps=4, model=nowcaster)
    nowcaster.save(folder / "mrms.nowcaster")
    again = sa_nowcast.load(folder / "mrms.nowcaster")
    xr.testing.assert_identical(ds.sa_nowcast.forecast(steps=4, model=again), fc)
    sa_nowcast.set_default_model(again)
    xr.testing.assert_identical(ds.sa_nowcast.forecast(steps=4), fc)
    return fc


def _check(fc: xr.DataArray, ds: xr.Dataset) -> None:
    assert fc.dims == ("lead_time", "latitude", "longitude")
    assert fc.attrs["units"] == "mm h-1"
    assert fc["init_time"] == ds["time"][-1]
    assert fc["valid_time"].values[-1] - fc["init_time"].values == np.timedelta64(8, "m")
    assert np.isfinite(fc).any()
    assert fc.min() >= 0
    # Outside the radars' coverage there is nothing to go on.
    covered = ds["precip_rate"][-4:].notnull().any("time")
    np.testing.assert_array_equal(fc.notnull().all("lead_time"), covered)


def test_the_ten_lines_work(tmp_path: Path) -> None:
    ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(0, 512, 4), longitude=slice(0, 512, 4))
    _check(_ten_lines(ds, tmp_path, max_steps=4, progress=False, **QUICK), ds)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_ten_lines_work_as_they_stand(tmp_path: Path) -> None:
    ds = sa_nowcast.open_sample("mrms")
    _check(_ten_lines(ds, tmp_path, max_steps=600), ds)
