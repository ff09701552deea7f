from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from sequences import START, georeferenced, of_two_grids, rain, rounded, traffic, weather, wrf

from sa_nowcast.errors import DataError
from sa_nowcast.frames import Frames, jump
from sa_nowcast.times import show_step, show_time

PACKING = {"rain": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 0.0, "_FillValue": -1}}


def read(obj: xr.DataArray | xr.Dataset, **options: object) -> np.ndarray:
    frames = Frames.from_xarray(obj, **options)  # type: ignore[arg-type]
    return frames.read(0, len(frames))


@pytest.fixture(scope="module")
def holed() -> xr.DataArray:
    """Rain with missing pixels."""
    da = rain(6)
    return da.where(da < 6)


@pytest.fixture(scope="module")
def wanted(holed: xr.DataArray) -> np.ndarray:
    assert np.isnan(holed.values).any()
    return holed.values[:, None]


def test_the_layout_is_time_channel_row_column_with_the_north_up_and_nan_where_missing(
    holed: xr.DataArray, wanted: np.ndarray
) -> None:
    values = read(holed)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values, wanted)


@pytest.mark.parametrize("order", list(itertools.permutations(("time", "y", "x"))))
def test_the_order_of_dimensions_does_not_matter(
    holed: xr.DataArray, wanted: np.ndarray, order: tuple[str, ...]
) -> None:
    np.testing.assert_array_equal(read(holed.transpose(*order)), wanted)


@pytest.mark.parametrize(("y", "x"), [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_the_direction_of_the_axes_does_not_matter(holed: xr.DataArray, wanted: np.ndarray, y: int, x: int) -> None:
    turned = holed.isel(y=slice(None, None, y), x=slice(None, None, x))
    frames = Frames.from_xarray(turned)
    np.testing.assert_array_equal(frames.read(0, 6), wanted)
    np.testing.assert_array_equal(frames.field(frames.read(0, 6))[:, 0], turned.values)


@given(
    st.integers(0, 5),
    st.integers(1, 6),
    st.tuples(st.integers(0, 23), st.integers(1, 24)),
    st.booleans(),
    st.booleans(),
)
def test_any_part_that_is_read_is_that_part_of_the_whole(
    start: int, count: int, rows: tuple[int, int], south_up: bool, loaded: bool
) -> None:
    da = rain(6)
    frames = Frames.from_xarray(da.isel(y=slice(None, None, -1)) if south_up else da)
    frames = frames.load() if loaded else frames
    stop, part = min(start + count, 6), slice(rows[0], min(rows[0] + rows[1], 24))
    got = frames.read(start, stop, part, slice(3, 11))
    np.testing.assert_array_equal(got[:, 0], da.values[start:stop, part, 3:11])


def _netcdf4(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds.to_netcdf(folder / "a.nc", engine="netcdf4")
    return xr.open_dataset(folder / "a.nc", engine="netcdf4")


def _h5netcdf(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds.to_netcdf(folder / "b.nc", engine="h5netcdf")
    return xr.open_dataset(folder / "b.nc", engine="h5netcdf")


def _zarr(version: int) -> Callable[[xr.Dataset, Path], xr.Dataset]:
    def through(ds: xr.Dataset, folder: Path) -> xr.Dataset:
        ds.to_zarr(folder / f"{version}.zarr", zarr_format=version, consolidated=False)  # type: ignore[call-overload]
        return xr.open_zarr(folder / f"{version}.zarr", chunks=None, consolidated=False)

    return through


def _dask(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    return ds.chunk(time=2, y=7, x=5)


def _packed(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds.to_netcdf(folder / "p.nc", encoding=PACKING)
    return xr.open_dataset(folder / "p.nc")


def _packed_undecoded(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds.to_netcdf(folder / "u.nc", encoding=PACKING)
    ds = xr.open_dataset(folder / "u.nc", mask_and_scale=False)
    assert ds["rain"].dtype == np.int16
    return ds


def _packed_zarr(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds.to_zarr(folder / "p.zarr", zarr_format=3, consolidated=False, encoding=PACKING)
    return xr.open_zarr(folder / "p.zarr", chunks={}, consolidated=False, mask_and_scale=False)


def _double(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    return ds.astype(np.float64)


def _fill_value_attribute(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds = ds.fillna(-9999)
    ds["rain"].attrs["_FillValue"] = np.float32(-9999)
    return ds


STORAGES = [
    _netcdf4, _h5netcdf, _zarr(2), _zarr(3), _dask, _packed, _packed_undecoded, _packed_zarr, _double,
    _fill_value_attribute,
]  # fmt: skip


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: getattr(s, "__qualname__", "").split(".")[0].strip("_"))
def test_every_storage_reads_as_the_identical_array(
    storage: Callable[[xr.Dataset, Path], xr.Dataset], holed: xr.DataArray, wanted: np.ndarray, tmp_path: Path
) -> None:
    with storage(holed.to_dataset(), tmp_path) as ds:
        # Hundredths: value and packed integer times 0.01 round to the same float32, so there is nothing to tolerate.
        np.testing.assert_array_equal(read(ds), wanted)


def test_checking_reads_coordinates_only(holed: xr.DataArray) -> None:
    def fail(block: np.ndarray) -> np.ndarray:
        raise AssertionError("data were read")

    lazy = holed.chunk(time=1).map_blocks(lambda b: b.copy(data=b.data), template=holed.chunk(time=1))
    lazy = lazy.copy(data=lazy.data.map_blocks(fail, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)))
    assert Frames.from_xarray(lazy).shape == (6, 1, 24, 20)


def test_cf_attributes_win_over_names() -> None:
    da = rain(6)
    swapped = da.rename(y="x", x="y").transpose("time", "y", "x")
    np.testing.assert_array_equal(read(swapped), read(da))


def test_told_names_are_taken() -> None:
    da = rain(6).drop_vars(("y", "x"))
    odd = da.rename(time="scan", y="azimuth", x="gate")
    with pytest.raises(DataError, match="no y dimension among scan, azimuth, gate"):
        Frames.from_xarray(odd)
    np.testing.assert_array_equal(read(odd, y="azimuth", x="gate"), read(da))
    with pytest.raises(DataError, match="three different dimensions"):
        Frames.from_xarray(odd, y="gate", x="gate")


def test_a_channel_dimension_gives_channels_with_its_labels() -> None:
    da = traffic(6)
    frames = Frames.from_xarray(da)
    assert [c.name for c in frames.channels] == ["in", "out"]
    assert frames.channel_dim == "channel"
    np.testing.assert_array_equal(frames.read(0, 6), da.values)
    last = da.transpose("time", "row", "column", "channel").rename(channel="quantity")
    np.testing.assert_array_equal(read(last, channel="quantity"), da.values)


def test_units_may_vary_by_channel() -> None:
    da = traffic(6).assign_coords(units=("channel", ["veh h-1", "km h-1"]))
    assert [c.units for c in Frames.from_xarray(da).channels] == ["veh h-1", "km h-1"]


def test_variables_become_channels_in_the_order_asked_for() -> None:
    ds = weather(6)
    frames = Frames.from_xarray(ds)
    assert [(c.name, c.units) for c in frames.channels] == [("rain", "mm h-1"), ("temperature", "K")]
    both = frames.read(0, 6)
    np.testing.assert_array_equal(both[:, 1], ds["temperature"].values)
    np.testing.assert_array_equal(read(ds, variables=["temperature", "rain"]), both[:, ::-1])
    np.testing.assert_array_equal(read(ds, variables=["temperature"]), both[:, 1:])
    transposed = ds.assign(temperature=ds["temperature"].transpose("x", "time", "y"))
    np.testing.assert_array_equal(read(transposed), both)


def test_what_is_not_gridded_is_left_out_of_a_dataset() -> None:
    ds = georeferenced(rain(6)).assign(time_bounds=(("time", "nv"), np.zeros((6, 2))), level=("z", np.zeros(3)))
    assert [c.name for c in Frames.from_xarray(ds).channels] == ["rain"]


def test_two_dimensional_latitude_and_longitude_and_the_grid_mapping_are_kept() -> None:
    ds = georeferenced(rain(6))
    frames = Frames.from_xarray(ds)
    assert set(frames.coords) == {"y", "x", "latitude", "longitude", "crs"}
    xr.testing.assert_identical(
        frames.coords["latitude"].drop_vars(("y", "x"), errors="ignore").variable.to_base_variable(),
        ds["latitude"].variable.to_base_variable(),
    )
    assert frames.coords["crs"].attrs == ds["crs"].attrs
    assert frames.grid.projection["latitude_of_projection_origin"] == "52.0"
    assert (frames.grid.dy, frames.grid.dx, frames.grid.units) == (-1000.0, 1000.0, "m")


def test_grid_mapping_is_found_however_xarray_decoded_it(tmp_path: Path) -> None:
    georeferenced(rain(6)).to_netcdf(tmp_path / "a.nc")
    for decode in (True, "all"):
        with xr.open_dataset(tmp_path / "a.nc", decode_coords=decode) as ds:  # type: ignore[arg-type]
            frames = Frames.from_xarray(ds)
            assert frames.grid.projection["grid_mapping_name"] == "lambert_azimuthal_equal_area"
            assert "crs" in frames.coords


def test_a_grid_without_coordinates_is_allowed() -> None:
    frames = Frames.from_xarray(traffic(6))
    assert (frames.grid.dy, frames.grid.dx) == (None, None)
    assert frames.grid.spacing() == "no coordinates"


TIMES = pd.date_range(START, periods=6, freq="5min")


def _times(*positions: int) -> xr.DataArray:
    return rain(len(positions)).assign_coords(time=TIMES[list(positions)])


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ((0, 1, 1, 2), r"rain, 2020-06-01T00:05: the time occurs 2 times, first at position 1, expected once"),
        ((0, 2, 1, 3), r"rain, 2020-06-01T00:05: times are not sorted: position 2 is before 2020-06-01T00:10"),
        ((3, 2, 1, 0), r"not sorted.*ds\.sortby\('time'\)"),
        ((0, 1, 3, 4), r"2020-06-01T00:15: step is 10 min \(1 missing, first 2020-06-01T00:10\), expected 5 min"),
        ((0, 1, 3, 5), r"step is 5 min|step is 10 min"),
    ],
)
def test_the_time_that_is_wrong_is_named(positions: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Frames.from_xarray(_times(*positions))
    assert "\n" not in str(caught.value)


def test_a_gap_of_three_hours_is_named_with_what_to_do() -> None:
    da = rain(8)
    times = da["time"].values.copy()
    times[4:] += np.timedelta64(3, "h")
    with pytest.raises(
        DataError,
        match=r"rain, 2020-06-01T03:20: step is 185 min \(36 missing, first 2020-06-01T00:20\), expected 5 min\. "
        r"Fix: .*gaps='skip'",
    ):
        Frames.from_xarray(da.assign_coords(time=times))


def test_gaps_that_are_skipped_cut_the_sequence_into_segments() -> None:
    da = rain(10).isel(time=[0, 1, 2, 4, 5, 9])
    frames = Frames.from_xarray(da, gaps="skip")
    assert frames.segments == ((0, 3), (3, 5), (5, 6))
    assert frames.select_positions(1, 5).segments == ((0, 2), (2, 4))
    np.testing.assert_array_equal(frames.select_positions(1, 5).read(0, 4)[:, 0], da.values[1:5])


@given(st.sets(st.integers(0, 60), min_size=2, max_size=30), st.integers(1, 4))
def test_segments_are_the_longest_runs_at_the_cadence(minutes: set[int], step: int) -> None:
    at = sorted(minutes)
    times = np.datetime64(START, "ns") + np.array(at) * np.timedelta64(60 * 10**9, "ns")
    da = xr.DataArray(np.zeros((len(at), 1, 1)), dims=("time", "y", "x"), coords={"time": times})
    frames = Frames.from_xarray(da, gaps="skip", step=np.timedelta64(step, "m"))
    assert [i for a, b in frames.segments for i in range(a, b)] == list(range(len(at)))
    for a, b in frames.segments:
        assert all(at[i + 1] - at[i] == step for i in range(a, b - 1))
    for (_, end), (begin, _) in itertools.pairwise(frames.segments):
        assert begin == end
        assert at[begin] - at[begin - 1] != step


def test_an_unknown_word_for_gaps_is_refused() -> None:
    with pytest.raises(DataError, match="gaps='allow', expected 'refuse' or 'skip'"):
        Frames.from_xarray(rain(6), gaps="allow")  # type: ignore[arg-type]


def test_an_irregular_sequence_is_refused_with_the_first_step_that_differs() -> None:
    times = np.datetime64(START, "ns") + np.array([0, 5, 10, 17, 22, 27]) * np.timedelta64(60 * 10**9, "ns")
    with pytest.raises(DataError, match=r"00:17: step is 7 min, expected 5 min"):
        Frames.from_xarray(rain(6).assign_coords(time=times))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            [cftime.DatetimeNoLeap(2020, 6, 1, 0, m) for m in range(0, 30, 5)],
            r"cftime dates of calendar noleap, expected datetime64\. Fix: .*convert_calendar",
        ),
        (np.arange(6), "values of type int64, expected datetime64"),
        ([f"day {d}" for d in range(1, 7)], "expected datetime64"),
        (TIMES.insert(2, pd.NaT)[:6], "no time at position 2, expected a time for every frame"),
    ],
    ids=["cftime", "numbers", "text", "NaT"],
)
def test_times_that_are_not_plain_datetimes_are_refused_with_the_remedy(times: object, message: str) -> None:
    da = rain(6).drop_vars("time").assign_coords(time=("time", times))
    with pytest.raises(DataError, match=message) as caught:
        Frames.from_xarray(da, time="time")
    assert str(caught.value).startswith("DATA rain, time: ")


def test_the_remedies_for_times_work() -> None:
    frames = Frames.from_xarray(rain(6))
    dates = xr.date_range(START, periods=6, freq="5min", use_cftime=True, calendar="standard")
    mended = rain(6).assign_coords(time=dates).convert_calendar("standard", use_cftime=False, dim="time")
    np.testing.assert_array_equal(Frames.from_xarray(mended).times, frames.times)


def test_the_remedy_names_the_dimension_of_these_data() -> None:
    with pytest.raises(DataError, match=r"ds\.sortby\('scan'\)"):
        Frames.from_xarray(_times(0, 2, 1, 3).rename(time="scan"))
    with pytest.raises(DataError, match=r"ds\.drop_duplicates\('scan'\)"):
        Frames.from_xarray(_times(0, 1, 1, 2).rename(time="scan"))


def test_a_time_dimension_without_coordinate_is_refused() -> None:
    with pytest.raises(DataError, match="dimension time has no coordinate, expected times"):
        Frames.from_xarray(rain(6).drop_vars("time"))


def test_one_frame_has_no_step() -> None:
    with pytest.raises(DataError, match="1 frame, which has no time step"):
        Frames.from_xarray(rain(1))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_values_are_named_by_variable_and_time(value: float) -> None:
    ds = weather(6)
    ds["temperature"][3, 5, 6] = value
    frames = Frames.from_xarray(ds)
    frames.read(0, 3)
    with pytest.raises(DataError, match=r"temperature, 2020-06-01T00:15: 1 infinite values"):
        frames.read(2, 6)


# FESOM/fesom2#799: what netCDF, GRIB, Ferret and GDAL fill with, and what NaN becomes in integers.
FILLS: list[tuple[float, str, str]] = [
    (9.969209968386869e36, "f4", "K"), (9.969209968386869e36, "f8", "K"), (1e20, "f4", "K"), (-1e34, "f4", "degC"),
    (9.999e20, "f4", "mm h-1"), (-3.4028234663852886e38, "f4", "K"), (1e30, "f8", "dBZ"), (-2147483647, "i4", "K"),
    (-(2**31), "i4", "K"), (-(2**63), "i8", "K"), (-9223372036854775806, "i8", "K"), (2**32 - 1, "u4", "K"),
    (-9999, "f4", "mm h-1"), (-9999, "i2", "mm h-1"), (-999.9, "f4", "mm/5min"), (-3, "f4", "mm h-1"),
    (-1, "i4", "counts"), (-32768, "i2", "vehicles"), (-99, "f8", "kg m-2 s-1"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "dtype", "units"), FILLS)
def test_fill_values_that_nobody_declared_are_named_and_the_remedy_works(value: float, dtype: str, units: str) -> None:
    da = rain(6).astype(dtype).assign_attrs(units=units, standard_name=None)
    da.values[3, 5, 6:8] = value
    frames = Frames.from_xarray(da)
    frames.read(0, 3)
    with pytest.raises(DataError, match=r"rain, 2020-06-01T00:15: 2 values such as .*not declared") as refused:
        frames.read(2, 6)
    assert refused.value.fix is not None
    mended = eval(refused.value.fix.split(" turns")[0], {"ds": da})
    values = read(mended)
    assert np.isnan(values[3, 0, 5, 6:8]).all()
    assert np.isnan(values).sum() == 2
    # Declared, it is missing as any.
    declared = da.assign_attrs(da.attrs | {"_FillValue": da.dtype.type(value)})
    assert np.isnan(read(declared)).sum() == 2


@pytest.mark.parametrize(
    ("value", "dtype", "units"),
    [(-9999, "f4", "K"), (1e19, "f4", "K"), (-3, "f4", "degC"), (-9999, "f4", None), (2**31 - 1, "f4", "Pa")],
)
def test_values_that_could_be_meant_are_read(value: float, dtype: str, units: str | None) -> None:
    da = rain(6).astype(dtype).assign_attrs(units=units, standard_name=None)
    da.values[3, 5, 6:8] = value
    assert (read(da)[3, 0, 5, 6:8] == np.float32(value)).all()


def test_what_interpolation_leaves_below_zero_is_rain_still() -> None:
    da = rain(6)
    da.values[3, 5, 6:8] = -1.37, -1.21
    assert float(read(da).min()) == np.float32(-1.37)


def test_names_need_not_be_text() -> None:
    ds = xr.Dataset({5: rain(6), ("a", 1): rain(6, seed=1)})
    assert [c.name for c in Frames.from_xarray(ds).channels] == ["('a', 1)", "5"]
    assert [c.name for c in Frames.from_xarray(ds, variables=["5"]).channels] == ["5"]


@pytest.mark.filterwarnings("error")
def test_values_beyond_float32_are_refused_too() -> None:
    with pytest.raises(DataError, match=r"rain, 2020-06-01T00:00: .*infinite"):
        read(rain(6).astype(np.float64) + 1e300)


@pytest.mark.parametrize("dim", ["time", "y", "x"])
def test_an_empty_dimension_is_refused(dim: str) -> None:
    with pytest.raises(DataError, match=f"dimension {dim} has no entries"):
        Frames.from_xarray(rain(6).isel({dim: slice(0, 0)}))


def test_variables_that_are_not_there_or_not_gridded_are_refused_by_name() -> None:
    ds = weather(6).assign(level=("z", np.zeros(3)))
    with pytest.raises(DataError, match="no variable 'snow', expected one of rain, temperature"):
        Frames.from_xarray(ds, variables=["snow"])
    with pytest.raises(DataError, match="level: dimensions z, expected at least time, y, x"):
        Frames.from_xarray(ds, variables=["level"])
    with pytest.raises(DataError, match="an empty list of variables"):
        Frames.from_xarray(ds, variables=[])
    with pytest.raises(DataError, match="variables= was given for a DataArray"):
        Frames.from_xarray(ds["rain"], variables=["rain"])
    with pytest.raises(DataError, match="no variable has the dimensions time, y, x"):
        Frames.from_xarray(ds[["rain"]].isel(y=0, drop=True).assign(other=("y", np.zeros(24))))


def test_an_extra_dimension_is_refused_with_its_size() -> None:
    with pytest.raises(DataError, match=r"dimension height \(3\) is neither"):
        Frames.from_xarray(rain(6).expand_dims(height=3))
    ds = weather(6)
    ds["temperature"] = ds["temperature"].expand_dims(band=2)
    with pytest.raises(DataError, match="temperature: dimensions band, time, y, x beside other variables"):
        Frames.from_xarray(ds)


def test_what_is_not_xarray_or_not_numbers_is_refused() -> None:
    with pytest.raises(DataError, match="a ndarray, expected an xarray Dataset or DataArray"):
        Frames.from_xarray(rain(6).values)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"values of type .*expected numbers"):
        Frames.from_xarray(rain(6).astype(str))
    with pytest.raises(DataError, match="values of type complex64"):
        Frames.from_xarray(rain(6).astype(np.complex64))


def test_a_coordinate_that_goes_back_and_forth_is_refused() -> None:
    y = rain(6)["y"].values.copy()
    y[3] = y[10]
    with pytest.raises(DataError, match=r"rain, y: coordinate is neither increasing nor decreasing"):
        Frames.from_xarray(rain(6).assign_coords(y=y))


def test_a_damaged_chunk_is_named_by_variable_and_times(tmp_path: Path) -> None:
    rain(6).to_netcdf(tmp_path / "a.nc", encoding={"rain": {"zlib": True, "chunksizes": (1, 24, 20)}})
    data = bytearray((tmp_path / "a.nc").read_bytes())
    data[-2000:] = bytes(len(data[-2000:]))
    (tmp_path / "a.nc").write_bytes(data)
    with xr.open_dataset(tmp_path / "a.nc") as ds:
        frames = Frames.from_xarray(ds)
        with pytest.raises(DataError, match=r"rain, 2020-06-01T00:00 to 2020-06-01T00:25: storage could not give"):
            frames.read(0, 6)


@pytest.mark.parametrize(
    ("ns", "text"),
    [(120 * 10**9, "2 min"), (90 * 10**9, "90 s"), (3 * 3600 * 10**9, "3 h"), (86400 * 10**9, "1 d"), (5, "5 ns")],
)
def test_steps_are_shown_in_the_largest_whole_unit(ns: int, text: str) -> None:
    assert show_step(np.timedelta64(ns, "ns")) == text


@pytest.mark.parametrize(
    "text", ["2020-06-01T00:00", "2020-06-01T00:00:30", "2020-06-01T00:00:30.5", "2020-06-01T10:00:00.000000001"]
)
def test_times_are_shown_without_trailing_zeros(text: str) -> None:
    assert show_time(np.datetime64(text, "ns")) == text


def test_position_is_found_by_time() -> None:
    frames = Frames.from_xarray(rain(6))
    assert [frames.position(t) for t in frames.times] == list(range(6))
    assert frames.position(np.datetime64("2020-06-01T00:01", "ns")) is None
    assert frames.position(np.datetime64("2030-01-01", "ns")) is None


def test_valid_bounds_of_packed_data_are_given_in_physical_units(tmp_path: Path) -> None:
    da = rain(6)
    da.attrs["valid_range"] = np.array([0, 20000], dtype=np.int16)
    da.to_dataset().to_netcdf(tmp_path / "a.nc", encoding=PACKING)
    for decode in (True, False):
        with xr.open_dataset(tmp_path / "a.nc", mask_and_scale=decode) as ds:
            bounds = Frames.from_xarray(ds).channels[0].attrs["valid_range"]
            # 20000 times 0.01, in double precision
            np.testing.assert_allclose(bounds, [0, 200], rtol=1e-12)


def test_real_radar_reads_alike_decoded_and_packed(real_data: Path) -> None:
    path = real_data / "mrms" / "mrms_precip_rate_2019-06-10.nc"
    with xr.open_dataset(path) as decoded, xr.open_dataset(path, mask_and_scale=False) as packed:
        part = slice(100, 200)
        ours, theirs = Frames.from_xarray(decoded), Frames.from_xarray(packed)
        np.testing.assert_array_equal(ours.read(0, 3, part, part), theirs.read(0, 3, part, part))
        assert ours.step == np.timedelta64(2, "m")


@pytest.mark.parametrize("options", [{"variables": ["rain"]}, {"time": "time", "y": "y", "x": "x"}])
def test_other_variables_of_a_dataset_decide_nothing(options: dict[str, object]) -> None:
    # mlcast-community/mlcast-datasets#43, ecmwf/anemoi-core#899
    frames = Frames.from_xarray(of_two_grids(rain(12)), **options)  # type: ignore[arg-type]
    assert (frames.time_dim, frames.grid.y, frames.grid.x) == ("time", "y", "x")
    assert [c.name for c in frames.channels] == ["rain"]
    other = Frames.from_xarray(of_two_grids(rain(12)), variables=["satellite"])
    assert (other.grid.y, other.grid.height) == ("ys", 12)
    assert Frames.from_xarray(of_two_grids(rain(12)), variables=["model"]).step == np.timedelta64(30, "m")


def test_variables_on_several_grids_are_refused_with_the_likeliest_choice() -> None:
    ds = of_two_grids(rain(12))
    with pytest.raises(
        DataError,
        match=r"variables of different dimensions: model \(time_model, y, x\); rain \(time, y, x\); satellite",
    ) as caught:
        Frames.from_xarray(ds)
    frames = Frames.from_xarray(eval(str(caught.value).split("Fix: ")[1].rstrip("."), {"ds": ds}))
    assert [c.name for c in frames.channels] == ["rain"]
    mapped = georeferenced(rain(12)).assign(satellite=ds["satellite"])
    with pytest.raises(DataError, match=r"Fix: ds\[\['rain', 'crs'\]\]\."):
        Frames.from_xarray(mapped)


def test_a_file_of_wrf_is_read_without_a_name() -> None:
    frames = Frames.from_xarray(wrf(6), variables=["T2"])
    assert (frames.time_dim, frames.grid.y, frames.grid.x) == ("Time", "south_north", "west_east")
    np.testing.assert_array_equal(frames.times, rain(6)["time"].values)
    # The places are given for every time, and do not move.
    assert {n: c.dims for n, c in frames.coords.items()} == {
        "XLAT": ("south_north", "west_east"),
        "XLONG": ("south_north", "west_east"),
    }
    np.testing.assert_array_equal(frames.read(0, 6)[:, 0], wrf(6)["T2"].values)
    nest = wrf(6)
    nest["XLAT"] = nest["XLAT"] + xr.DataArray(np.arange(6), dims="Time")
    assert "XLAT" not in Frames.from_xarray(nest, variables=["T2"]).coords
    without = wrf(6).drop_vars("XTIME")
    np.testing.assert_array_equal(Frames.from_xarray(without, variables=["T2"]).times, frames.times)


def test_latitude_and_longitude_that_are_variables_are_kept_as_coordinates() -> None:
    ds = georeferenced(rain(6)).reset_coords(["latitude", "longitude"]).drop_vars(("y", "x"))
    frames = Frames.from_xarray(ds)
    assert [c.name for c in frames.channels] == ["rain"]
    assert {"latitude", "longitude", "crs"} <= set(frames.coords)


def _at_longitudes(longitudes: np.ndarray) -> xr.DataArray:
    da = rain(6).drop_vars(("y", "x")).rename(y="lat", x="lon")
    return da.assign_coords(lat=np.linspace(10, -13, 24), lon=("lon", longitudes, {"units": "degrees_east"}))


@pytest.mark.parametrize("first", [168.0, 350.0, 179.5])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_grid_across_the_antimeridian_is_one_picture(first: float, direction: int) -> None:
    # jswhit/pygrib#81, pangeo-data/xESMF#247
    turn = 360 if first == 350 else 0
    wrapped = (np.arange(20) + first + 180 + turn / 2) % 360 - 180 + turn / 2
    assert np.abs(np.diff(wrapped)).max() > 300
    da = _at_longitudes(wrapped).isel(lon=slice(None, None, direction))
    frames = Frames.from_xarray(da)
    assert frames.grid.dx == direction
    np.testing.assert_array_equal(frames.read(0, 6)[:, 0], rain(6).values)
    np.testing.assert_array_equal(frames.coords["lon"].values, da["lon"].values)


def test_a_picture_that_sorting_has_torn_is_named_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    wrapped = (np.arange(20) + 168.0 + 180) % 360 - 180
    ds = _at_longitudes(wrapped).sortby("lon").rename("torn")
    Frames.from_xarray(ds)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "sa_nowcast"]
    assert "torn: DATA lon: a jump from -173 to 168 between cells of 1, expected one whole grid" in line
    mended = Frames.from_xarray(eval(line.split("Fix: ")[1].rstrip("."), {"ds": ds}))
    np.testing.assert_array_equal(mended.read(0, 6)[:, 0], rain(6).values)


@pytest.mark.parametrize(
    ("values", "torn"),
    [
        (np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(24)[0])), False),
        (1.5 ** np.arange(24), False),
        (np.logspace(-3, 3, 24), False),
        (np.r_[0:10, 12:26], False),
        (np.r_[0:10, 40:54], True),
        (np.r_[54:40:-1, 9:-1:-1], True),
    ],
    ids=["Gaussian", "stretched", "logarithmic", "two rows missing", "thirty missing", "descending"],
)
def test_uneven_spacings_are_no_holes(values: np.ndarray, torn: bool) -> None:
    ds = rain(6).assign_coords(y=values)
    found = jump(ds["y"])
    assert (found is not None) is torn
    if found is not None:
        assert jump(eval(str(found.fix), {"ds": ds})["y"]) is None


@pytest.mark.parametrize(
    "y",
    [
        np.r_[np.arange(23.0), np.nan],
        np.r_[np.arange(23.0), 5.0],
        np.r_[5.0, 3.0, 4.0, np.arange(6.0, 27.0)],
        np.repeat(np.arange(12.0), 2),
    ],
    ids=["no number", "once twice", "order", "all twice"],
)
def test_the_remedies_for_coordinates_work_as_they_are_printed(y: np.ndarray) -> None:
    ds = rain(6).assign_coords(y=y)
    with pytest.raises(DataError, match="neither increasing nor decreasing") as caught:
        Frames.from_xarray(ds)
    mended = eval(str(caught.value).split("Fix: ")[1].rstrip("."), {"ds": ds})
    assert Frames.from_xarray(mended).grid.height >= 23


def test_labels_of_a_file_with_rounded_times_find_their_frames() -> None:
    jittered = rounded(rain(20))
    frames = Frames.from_xarray(jittered)
    np.testing.assert_array_equal(frames.times, rain(20)["time"].values)
    assert [frames.position(t) for t in jittered["time"].values] == list(range(20))


@pytest.mark.parametrize(
    ("low", "refused"),
    [
        ([-3.0, -1.0], True),  # the codes of MRMS
        ([-9999.0, -9999.0], True),
        ([-9999.0, -9999.0, -1.25, -0.5], True),  # beside noise
        ([-99.9, -99.9], True),
        ([-9999.0], False),  # once: no code that is certain
        ([-4.0, -4.0, -3.7, -1.9, -2.8], False),  # noise that is whole now and then
        ([-0.5, -0.25, -0.5], False),
    ],
)
def test_codes_for_missing_in_rain_are_told_from_noise(low: list[float], refused: bool) -> None:
    data = rain(4).copy(deep=True)
    data[0, 0, : len(low)] = low
    frames = Frames.from_xarray(data)
    if refused:
        with pytest.raises(DataError, match=rf"values such as {min(low):.6g}, which mean missing"):
            frames.read(0, 4)
    else:
        assert frames.read(0, 4).min() == np.float32(min(low))
