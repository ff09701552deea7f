"""Real fields that sums, series and means are tested on: a corner of the embedded sample, with missing pixels."""

from __future__ import annotations

import functools

import numpy as np
import xarray as xr

import sa_nowcast
from sa_nowcast.forecasts.labels import labelled


@functools.cache
def frames() -> xr.DataArray:
    """30 frames every 2 minutes from 00:02 on, 24 x 28 pixels in degrees; 2 % and a wedge are missing."""
    ds = sa_nowcast.open_sample("mrms").isel(time=slice(1, 31), latitude=slice(470, 494), longitude=slice(441, 469))
    field = ds["precip_rate"].load().astype(np.float32)
    assert float((field > 0).mean()) > 0.5
    rows, columns = np.mgrid[0:24, 0:28]
    scattered = np.random.default_rng(0).random(field.shape) < 0.02
    return field.where(~scattered & (rows < 2 * columns + 12))


@functools.cache
def ensemble() -> xr.DataArray:
    """Return 3 members of 2 init times and 9 lead times: the frames of the sample, as if they had been forecast."""
    values = np.stack([np.stack([frames().values[m + i : m + i + 9] for i in (0, 4)]) for m in (0, 5, 11)])
    field = xr.DataArray(
        values,
        dims=("realization", "init_time", "lead_time", "latitude", "longitude"),
        coords={n: frames()[n] for n in ("latitude", "longitude")},
        name="precip_rate",
        attrs=frames().attrs,
    )
    init = frames()["time"].values[[0, 4]] - np.timedelta64(2, "m")
    return labelled(field, init, np.arange(1, 10) * np.timedelta64(2, "m"), {})


def lazy(field: xr.DataArray) -> xr.DataArray:
    """Return a field in chunks that cut every dimension."""
    return field.chunk({d: max(1, n // 2) for d, n in field.sizes.items()})
