from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

MINUTE = np.timedelta64(1, "m").astype("timedelta64[ns]")
START = np.datetime64("2019-06-10T00:00", "ns")


def observations(frames=8, y=6, x=7, *, step=5, seed=0, channels=0, units="mm h-1") -> xr.DataArray:
    """A small sequence of non-negative values with about half of them zero."""
    generator = np.random.default_rng(seed)
    shape = (frames, channels, y, x) if channels else (frames, y, x)
    values = np.maximum(generator.gamma(0.7, 3.0, shape) - 1.0, 0.0)
    dims = ("time", "channel", "y", "x") if channels else ("time", "y", "x")
    coords = {
        "time": START + np.arange(frames) * step * MINUTE,
        "y": np.arange(y) * 1000.0,
        "x": np.arange(x) * 1000.0,
    }
    if channels:
        coords["channel"] = [f"c{i}" for i in range(channels)]
    return xr.DataArray(values, dims=dims, coords=coords, name="rain", attrs={"units": units})


def forecast_of(truth, init=(1, 2, 3, 4), leads=(1, 2, 3), *, seed=1, members=0, noise=1.0) -> xr.DataArray:
    """An archive that is the truth at its valid times plus noise."""
    generator = np.random.default_rng(seed)
    times = truth["time"].values
    step = times[1] - times[0]
    starts, ahead = times[list(init)], np.asarray(leads) * step
    values = np.stack([np.stack([truth.isel(time=i + lead).values for lead in leads]) for i in init])
    size = (members, *values.shape) if members else values.shape
    values = np.maximum(values + noise * generator.normal(size=size), 0.0)
    inner = truth.dims[1:]
    dims = (*(("realization",) if members else ()), "init_time", "lead_time", *inner)
    coords = {name: truth.coords[name] for name in inner}
    return xr.DataArray(
        values,
        dims=dims,
        coords={**coords, "init_time": starts, "lead_time": ahead},
        name=truth.name,
        attrs=dict(truth.attrs),
    )


@pytest.fixture(scope="session")
def mrms() -> xr.DataArray:
    """Twelve frames of real rain rates, every eighth pixel, with the edge of the radar's coverage in a corner."""
    folder = os.environ.get("SA_NOWCAST_DATA")
    if not folder:
        pytest.skip("real data: set SA_NOWCAST_DATA to the folder that holds mrms/mrms_precip_rate_2019-06-10.nc")
    path = Path(folder) / "mrms" / "mrms_precip_rate_2019-06-10.nc"
    if not path.exists():
        pytest.skip(f"real data: the folder of SA_NOWCAST_DATA has no mrms/{path.name}")
    with xr.open_dataset(path) as data:
        return data["precip_rate"][:24:2, ::8, ::8].load()
