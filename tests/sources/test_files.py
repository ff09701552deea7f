from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from sequences import rain

from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError
from sa_nowcast.sources import open_source
from sa_nowcast.sources.optional import require
from sa_nowcast.survey.data import check_data


def write_frames(folder: Path, count: int = 4, *, scalar: bool = True) -> np.ndarray:
    """One NetCDF file a frame, packed, its time a scalar as BoM's files have it."""
    values = np.random.default_rng(0).integers(0, 200, (count, 5, 6))
    for number, time in enumerate(pd.date_range("2024-01-01", periods=count, freq="10min")):
        ds = xr.Dataset(
            {"rain": (("y", "x"), values[number] * 0.5, {"units": "mm h-1"})},
            {"y": np.arange(5.0)[::-1], "x": np.arange(6.0)},
        )
        if scalar:
            ds["valid_time"] = ((), time, {"standard_name": "time"})
        ds.rain.encoding = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}
        ds.to_netcdf(folder / f"rain_{time:%Y%m%dT%H%M}.nc")
    return values * 0.5


def test_one_file_a_frame_is_joined_along_its_scalar_time_and_stays_packed(tmp_path: Path) -> None:
    values = write_frames(tmp_path)
    ds = open_source(tmp_path)
    assert ds.rain.dims == ("time", "y", "x")
    np.testing.assert_array_equal(ds.rain.values, values)
    assert ds.time.values[1] == np.datetime64("2024-01-01T00:10")
    assert ds.rain.encoding["dtype"] == np.int16
    assert ds.rain.encoding["scale_factor"] == 0.5


def test_a_single_frame_gets_its_time_dimension_too(tmp_path: Path) -> None:
    values = write_frames(tmp_path, 1)
    ds = open_source(tmp_path)
    assert ds.rain.dims == ("time", "y", "x")
    np.testing.assert_array_equal(ds.rain.values, values)


def test_times_come_from_the_files_names_where_a_pattern_says_so(tmp_path: Path) -> None:
    write_frames(tmp_path, scalar=False)
    with pytest.raises(DataError, match="the file holds no time"):
        open_source(tmp_path)
    ds = open_source(tmp_path, time_pattern="%Y%m%dT%H%M")
    assert ds.time.values[-1] == np.datetime64("2024-01-01T00:30")


def test_files_that_pack_differently_are_joined_as_floats(tmp_path: Path) -> None:
    values = write_frames(tmp_path)
    path = sorted(tmp_path.iterdir())[2]
    ds = xr.load_dataset(path)
    ds.rain.encoding["scale_factor"] = 0.25
    ds.to_netcdf(path)
    joined = open_source(tmp_path)
    np.testing.assert_array_equal(joined.rain.values, values)
    assert "scale_factor" not in joined.rain.encoding


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.isel(x=slice(3)), "x has 3 entries, expected 6 as in rain_20240101T0000.nc"),
        (lambda ds: ds.assign_coords(x=ds.x + 1), "other values of x, expected the same as in"),
        (lambda ds: ds.rename(rain="snow"), "variables snow, expected rain as in"),
        (lambda ds: ds.assign(rain=ds.rain.assign_attrs(units="dBZ")), "rain in dBZ, expected mm h-1 as in"),
        (
            lambda ds: ds.assign(valid_time=ds.valid_time - np.timedelta64(10, "m")),
            "both have the time 2024-01-01T00:10:00",
        ),
    ],
)
def test_a_file_that_does_not_belong_is_named(tmp_path: Path, change: object, message: str) -> None:
    write_frames(tmp_path)
    path = sorted(tmp_path.iterdir())[2]
    changed = change(xr.load_dataset(path))  # type: ignore[operator]
    changed.to_netcdf(path)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path)


def test_a_damaged_file_an_unknown_engine_and_a_missing_path_give_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "damaged.nc").write_bytes(b"CDF\x01 cut")
    with pytest.raises(DataError, match=r"damaged.nc: cannot be read as"):
        open_source(tmp_path / "damaged.nc")
    with pytest.raises(RecipeError, match="'netcdf4', the nearest"):
        open_source(tmp_path, engine="netcdf5")
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(tmp_path / "nothing")
    with pytest.raises(DataError, match="no file matches the pattern"):
        open_source(tmp_path / "*.grib")


def test_a_missing_library_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(
        MissingLibraryError, match=r'no_such_library: is not installed. Fix: pip install "sa-nowcast\[kth\]"'
    ):
        require("no_such_library.part", "kth")


@pytest.mark.parametrize(
    ("path", "variable", "shape"),
    [
        ("mrms/mrms_precip_rate_2019-06-10.nc", "precip_rate", (36, 1024, 1024)),
        ("era5", "t2m", (480, 33, 49)),
        ("winds", "UWND", (96, 73, 144)),
        ("satellite/msg_hrv_2020-04-01_v2.zarr", "data", (25, 891, 1843)),
        ("radar/bom/66_20201031_0[01]*.nc", "precipitation", (12, 512, 512)),
    ],
)
@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated")
def test_what_xarray_opens_is_opened(real_data: Path, path: str, variable: str, shape: tuple[int, ...]) -> None:
    ds = open_source(real_data / path)
    assert ds[variable].shape == shape


@pytest.mark.parametrize("dtype", ["i2", "u1", "i8", "f4"])
@pytest.mark.parametrize("consolidated", [True, False])
def test_zeros_of_zarr_2_are_values_where_nothing_says_otherwise(
    dtype: str, consolidated: bool, tmp_path: Path
) -> None:
    # pydata/xarray#5475: 0 is what Zarr fills with, and xarray makes every 0 missing.
    values = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
    values[1] = 0
    group = zarr.open_group(tmp_path / "v2.zarr", mode="w", zarr_format=2)
    for name, told in (("rain", {}), ("declared", {"_FillValue": 0})):
        array = group.create_array(name, shape=values.shape, dtype=dtype, chunks=(1, 3, 4), fill_value=0)
        array[:] = values
        array.attrs.update(_ARRAY_DIMENSIONS=["time", "y", "x"], units="1", **told)
    time = group.create_array("time", shape=(2,), dtype="i8", fill_value=0)
    time[:] = [0, 5]
    time.attrs.update(_ARRAY_DIMENSIONS=["time"], units="minutes since 2024-05-01")
    if consolidated:
        zarr.consolidate_metadata(tmp_path / "v2.zarr", zarr_format=2)
    ds = open_source(tmp_path / "v2.zarr")
    np.testing.assert_array_equal(ds["rain"].values, values)
    assert np.isnan(ds["declared"].values[1]).all()
    assert ds["time"].values[0] == np.datetime64("2024-05-01")
    found = check_data(str(tmp_path / "v2.zarr"), variables=["rain"])
    (finding,) = [f for f in found if f.check == "fill value"]
    assert finding.status == "WARN"
    assert "rain is filled with 0 and has no _FillValue" in finding.detail


def test_a_user_who_opens_zarr_2_is_told_of_its_fill_value(tmp_path: Path) -> None:
    dry = (rain(12) * 0).astype("i2")
    group = zarr.open_group(tmp_path / "v2.zarr", mode="w", zarr_format=2)
    array = group.create_array("rain", shape=dry.shape, dtype="i2", chunks=(1, 24, 20), fill_value=0)
    array[:] = dry.values
    array.attrs.update(_ARRAY_DIMENSIONS=["time", "y", "x"], units="mm h-1")
    ds = xr.open_zarr(tmp_path / "v2.zarr", consolidated=False).assign_coords(time=dry.time)
    with pytest.raises(DataError, match=r"every value is missing \(the fill value is 0.*open_source\(path\)"):
        ds.sa_nowcast.forecast(steps=1)
    kept = open_source(tmp_path / "v2.zarr").assign_coords(time=dry.time)
    assert float(kept.sa_nowcast.forecast(steps=1).max()) == 0


def test_fill_values_of_zarr_2_that_xarray_wrote_are_missing_still(tmp_path: Path) -> None:
    packed = {"rain": {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}}
    data = rain(6).where(rain(6) > 1)
    data.to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=True, encoding=packed)
    opened = open_source(tmp_path / "a.zarr")["rain"].values
    np.testing.assert_array_equal(opened, xr.open_zarr(tmp_path / "a.zarr")["rain"].values)
    assert np.isnan(opened).any()
