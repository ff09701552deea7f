"""The sample data that ship with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import xarray as xr

from sa_nowcast.errors import RecipeError

SAMPLES = {"mrms": "mrms_2019-06-10.zarr"}


def open_sample(name: str = "mrms") -> xr.Dataset:
    """Open an embedded sample, lazily.

    Parameters
    ----------
    name : {"mrms"}
        ``mrms``: surface precipitation rate of the MRMS radar mosaic over the central United States, 2019-06-10
        00:00 to 01:10 UTC, 36 frames every 2 minutes of 512 x 512 pixels at 0.01 degrees, mm h-1, missing outside
        radar coverage. Public domain (NOAA National Severe Storms Laboratory). Some frames repeat the one before
        them, as the mosaic did.

    Returns
    -------
    Dataset, dims (time, latitude, longitude)
    """
    if name not in SAMPLES:
        raise RecipeError("open_sample", f"{name!r}", expected=f"one of {', '.join(SAMPLES)}")
    ds: xr.Dataset = xr.open_zarr(
        Path(str(files("sa_nowcast") / "data" / SAMPLES[name])), chunks=None, consolidated=False
    )
    return ds
