from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sa_nowcast
from sa_nowcast.errors import RecipeError
from sa_nowcast.frames import Frames


@pytest.fixture(scope="module")
def mrms() -> xr.Dataset:
    return sa_nowcast.open_sample("mrms")


def test_the_sample_is_what_its_documentation_says(mrms: xr.Dataset) -> None:
    frames = Frames.from_xarray(mrms)
    assert frames.shape == (36, 1, 512, 512)
    assert frames.step == np.timedelta64(2, "m")
    assert (frames.label(0), frames.label(35)) == ("2019-06-10T00:00", "2019-06-10T01:10")
    assert frames.channels[0].units == "mm h-1"
    # Coordinates in degrees as float64.
    assert frames.grid.dy == pytest.approx(-0.01, rel=1e-3)
    assert frames.grid.dx == pytest.approx(0.01, rel=1e-3)
    values = frames.read(0, 36)
    assert np.isnan(values).any()
    assert np.nanmin(values) >= 0
    assert np.nanmax(values) > 20


def test_the_sample_is_opened_lazily_and_carries_provenance_and_licence(mrms: xr.Dataset) -> None:
    assert not mrms["precip_rate"].variable._in_memory
    assert mrms["precip_rate"].chunks is None
    assert mrms.attrs["Conventions"].startswith("CF-1.")
    assert "public domain" in mrms.attrs["license"]
    assert all(mrms.attrs[k] for k in ("title", "institution", "source", "history"))


def test_the_sample_takes_at_most_3_mb_and_is_zarr_3() -> None:
    folder = Path(str(files("sa_nowcast") / "data"))
    assert sum(f.stat().st_size for f in folder.glob("*.zarr/**/*") if f.is_file()) <= 3e6
    assert all((store / "zarr.json").is_file() for store in folder.glob("*.zarr"))


def test_the_sample_equals_the_file_that_it_was_cut_from(mrms: xr.Dataset, real_data: Path) -> None:
    with xr.open_dataset(real_data / "mrms" / "mrms_precip_rate_2019-06-10.nc") as whole:
        name = next(iter(mrms.data_vars))
        part = whole[name].sel(
            time=mrms["time"][::7], latitude=mrms["latitude"], longitude=mrms["longitude"], method="nearest"
        )
        np.testing.assert_array_equal(part.astype(np.float32), mrms[name][::7].astype(np.float32))


def test_an_unknown_sample_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="'era5', expected one of mrms"):
        sa_nowcast.open_sample("era5")
