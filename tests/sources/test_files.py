from __future__ import annotations

import re
from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from sequences import rain, wrf

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.sources import open_source
from sa_nowcast.sources.reading import require
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


def test_numbers_in_the_attribute_bounds_name_no_variable(tmp_path: Path) -> None:
    values = write_frames(tmp_path, 2)
    for path in tmp_path.iterdir():
        with netCDF4.Dataset(path, "a") as file:  # as xarray does not write it
            file["rain"].bounds = np.array([0.0, 100.0])
    np.testing.assert_array_equal(open_source(tmp_path).rain.values, values)


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
        MissingLibraryError, match=rf"no_such_library: is not installed. Fix: {re.escape(install('kth'))}"
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


def test_files_of_wrf_are_joined_along_their_times(tmp_path: Path) -> None:
    for first in (0, 4, 8):
        wrf(12).isel(Time=slice(first, first + 4)).to_netcdf(tmp_path / f"wrfout_{first:02d}.nc")
    ds = open_source(tmp_path / "wrfout_*.nc")
    np.testing.assert_array_equal(ds["Time"].values, wrf(12)["XTIME"].values)
    np.testing.assert_array_equal(Frames.from_xarray(ds, variables=["T2"]).times, wrf(12)["XTIME"].values)


def test_files_with_rounded_times_that_are_opened_one_by_one_are_regular_together(tmp_path: Path) -> None:
    encoding = {"time": {"dtype": "float64", "units": "days since 0001-01-01"}}
    for first in range(0, 24, 3):
        rain(24).isel(time=slice(first, first + 3)).to_netcdf(tmp_path / f"{first:02d}.nc", encoding=encoding)
    np.testing.assert_array_equal(open_source(tmp_path / "*.nc")["time"].values, rain(24)["time"].values)


def blob(frames: int = 6) -> xr.Dataset:
    values = np.random.default_rng(0).random((frames, 5, 6)).astype(np.float32)
    coords = {"time": pd.date_range("2024-05-01", periods=frames, freq="5min")}
    degrees = {"lat": np.linspace(52.3, 50, 5), "lon": np.linspace(-10, -7.7, 6)}
    return xr.Dataset({"rain": (("time", "lat", "lon"), values, {"units": "mm h-1"})}, {**coords, **degrees})


def halves(folder: Path, change: object, ds: xr.Dataset | None = None) -> xr.Dataset:
    ds = blob() if ds is None else ds
    ds.isel(time=slice(3)).to_netcdf(folder / "a.nc")
    changed = change(ds.isel(time=slice(3, 6)))  # type: ignore[operator]
    changed.to_netcdf(folder / "b.nc")
    return ds


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.assign_coords(lon=ds.lon + 1e-10),
        lambda ds: ds.assign_coords(lon=ds.lon.astype("f4"), lat=ds.lat.astype("f4")),
        lambda ds: ds.assign_coords(lon=ds.lon.round(5)),
        lambda ds: ds.isel(lat=slice(None, None, -1)),
        lambda ds: ds.isel(lat=slice(None, None, -1), lon=slice(None, None, -1)).assign_coords(lon=ds.lon[::-1] + 1e-9),
        lambda ds: ds.assign(rain=ds.rain.assign_attrs(units="mm/h")),
    ],
)
def test_files_whose_coordinates_differ_by_rounding_or_direction_are_one_grid(tmp_path: Path, change: object) -> None:
    """Rounding and precision of coordinates, as in openclimatefix/ocf-data-sampler#337 and pydata/xarray#2217."""
    ds = halves(tmp_path, change)
    joined = open_source(tmp_path)
    np.testing.assert_array_equal(joined.rain.values, ds.rain.values)
    np.testing.assert_array_equal(joined.lon.values, ds.lon.values)


def test_zarr_stores_of_one_grid_are_joined_from_a_folder(tmp_path: Path) -> None:
    ds = blob()
    ds.isel(time=slice(3)).to_zarr(tmp_path / "a.zarr", consolidated=False)
    ds.isel(time=slice(3, 6)).assign_coords(lon=ds.lon.astype("f4")).to_zarr(tmp_path / "b.zarr", consolidated=False)
    for source in (tmp_path, str(tmp_path / "*.zarr"), sorted(tmp_path.iterdir())):
        np.testing.assert_array_equal(open_source(source).rain.values, ds.rain.values)


def curvilinear(shift: float = 0.0) -> xr.Dataset:
    ds = blob().drop_vars(["lat", "lon"]).rename(lat="south_north", lon="west_east")
    lat = 50 + 0.01 * np.arange(5)[:, None] + 0.001 * np.arange(6) + shift
    lon = 5 + 0.01 * np.arange(6) - 0.001 * np.arange(5)[:, None]
    return ds.assign_coords(XLAT=(("south_north", "west_east"), lat), XLONG=(("south_north", "west_east"), lon))


def test_two_dimensional_coordinates_tell_grids_apart_too(tmp_path: Path) -> None:
    ds = curvilinear()
    ds.isel(time=slice(3)).to_netcdf(tmp_path / "a.nc")
    for shift, fits in ((1e-9, True), (0.005, False)):
        curvilinear(shift).isel(time=slice(3, 6)).to_netcdf(tmp_path / "b.nc")
        if fits:
            assert open_source(tmp_path).sizes["time"] == 6
        else:
            with pytest.raises(DataError, match=r"b.nc: other values of XLAT, expected the same as in a.nc"):
                open_source(tmp_path)


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_a_grid_that_is_shifted_by_a_share_of_a_cell_is_another_one(tmp_path: Path, share: float) -> None:
    halves(tmp_path, lambda ds: ds.assign_coords(lon=ds.lon + share * 0.46))
    with pytest.raises(DataError, match=r"b\.nc: other values of lon"):
        open_source(tmp_path)


def parts(folder: Path, *slices: slice) -> None:
    for name, part in zip("abcdef", slices, strict=False):
        blob().isel(time=part).to_netcdf(folder / f"{name}.nc", unlimited_dims=["time"])


def test_a_file_without_a_time_step_is_left_out_and_named(tmp_path: Path) -> None:
    """As in pydata/xarray#1719 and COSIMA/cosima-cookbook#165."""
    parts(tmp_path, slice(0, 3), slice(3, 3), slice(3, 6))
    with pytest.warns(UserWarning, match=r"left out 1 file that holds no time step: .*b.nc"):
        assert open_source(tmp_path).sizes["time"] == 6
    (tmp_path / "a.nc").unlink()
    with pytest.warns(UserWarning, match=r"b.nc"):
        assert open_source(tmp_path).sizes["time"] == 3


def test_files_that_are_all_empty_and_a_file_without_rows_are_refused_by_name(tmp_path: Path) -> None:
    parts(tmp_path, slice(0, 0), slice(3, 3))
    with pytest.raises(DataError, match="none of 2 files holds a time step"):
        open_source(tmp_path)
    with pytest.raises(DataError, match=r"a.nc: the file holds no time step"):
        open_source(tmp_path / "a.nc")
    parts(tmp_path, slice(0, 3), slice(3, 6))
    blob().isel(time=slice(3, 6), lat=slice(0)).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(DataError, match=r"b.nc: rain has no entry along lat"):
        open_source(tmp_path)


def test_the_remedy_for_files_without_a_time_names_the_pattern_that_works(tmp_path: Path) -> None:
    write_frames(tmp_path, scalar=False)
    with pytest.raises(DataError, match="time_pattern='%Y%m%dT%H%M'"):
        open_source(tmp_path)


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
