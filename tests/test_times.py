from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from sequences import rain

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.times import (
    most_common_step,
    nearest,
    read_period,
    read_time,
    read_times,
    regular_segments,
    show_step,
    tolerance,
    valid_times,
    with_times,
)

# What files say, and the largest deviation of the times that they hold within 2024 (pydata/xarray#8468).
FLOATS = [
    ("days since 1970-01-01", "float64"),
    ("days since 0001-01-01", "float64"),
    ("days since 1858-11-17", "float64"),
    ("days since 2000-01-01 12:00:00", "float64"),
    ("hours since 1900-01-01", "float64"),
    ("seconds since 1970-01-01", "float64"),
    ("hours since 2024-01-01", "float32"),
    ("days since 2024-01-01", "float32"),
    ("minutes since 2024-01-01", "float32"),
    ("seconds since 2024-01-01", "float32"),
]


def stored(da: xr.DataArray, path: Path, units: str, dtype: str) -> xr.Dataset:
    da.to_dataset().to_netcdf(path, encoding={"time": {"dtype": dtype, "units": units}})
    return xr.open_dataset(path)


def at(times: Any) -> xr.DataArray:
    da = rain(len(times), 4, 4).drop_vars("time")
    return da.assign_coords(time=("time", times))


@pytest.mark.parametrize(("units", "dtype"), FLOATS)
@pytest.mark.parametrize(("start", "step", "frames"), [("2024-05-01", "5min", 40), ("2024-12-01", "1h", 700)])
def test_times_stored_as_floats_are_the_times_that_were_meant(
    units: str, dtype: str, start: str, step: str, frames: int, tmp_path: Path
) -> None:
    exact = at(pd.date_range(start, periods=frames, freq=step))
    with stored(exact, tmp_path / "t.nc", units, dtype) as ds:
        found = Frames.from_xarray(ds)
        np.testing.assert_array_equal(found.times, exact["time"].values)
        assert found.step == pd.Timedelta(step)
        assert found.segments == ((0, frames),)


def test_a_part_of_a_sequence_has_the_times_of_the_whole(tmp_path: Path) -> None:
    exact = at(pd.date_range("2024-05-01", periods=60, freq="5min"))
    with stored(exact, tmp_path / "t.nc", "days since 0001-01-01", "float64") as ds:
        for first in range(0, 58, 7):
            part = Frames.from_xarray(ds.isel(time=slice(first, first + 2)))
            np.testing.assert_array_equal(part.times, exact["time"].values[first : first + 2])
            assert part.step == np.timedelta64(5, "m")


def test_rounding_is_taken_off_where_the_file_is_not_known_any_more() -> None:
    exact = pd.date_range("2024-05-01", periods=50, freq="5min").to_numpy().astype("datetime64[ns]")
    noise = np.random.default_rng(0).integers(-5000, 5000, 50).astype("timedelta64[ns]")
    np.testing.assert_array_equal(read_times(at(exact + noise), "time", "rain"), exact)


@pytest.mark.parametrize("milliseconds", [299_900, 300_001, 333, 1001])
@pytest.mark.parametrize("frames", [5, 60])
def test_a_cadence_of_its_own_stays(milliseconds: int, frames: int, tmp_path: Path) -> None:
    exact = at(pd.date_range("2024-05-01T00:00:07", periods=frames, freq=f"{milliseconds}ms"))
    assert Frames.from_xarray(exact).step == np.timedelta64(milliseconds, "ms")
    with stored(exact, tmp_path / "t.nc", "days since 1970-01-01", "float64") as ds:
        found = Frames.from_xarray(ds)
        assert found.step == np.timedelta64(milliseconds, "ms")
        np.testing.assert_array_equal(found.times, exact["time"].values)


def test_a_start_that_is_in_no_whole_unit_keeps_its_labels_and_is_regular() -> None:
    exact = pd.date_range("2024-05-01T00:00:17.123456789", periods=30, freq="5min").to_numpy()
    jitter = np.random.default_rng(1).integers(-300, 300, 30).astype("timedelta64[ns]")
    found = Frames.from_xarray(at(exact + jitter))
    assert found.step == np.timedelta64(5, "m")
    assert np.abs((found.times - exact).astype(np.int64)).max() <= 1000


def test_a_step_that_is_off_by_more_than_a_thousandth_is_found() -> None:
    times = pd.date_range("2024-05-01", periods=20, freq="5min").to_numpy().copy()
    times[10:] += np.timedelta64(2, "s")
    with pytest.raises(DataError, match=r"2024-05-01T00:50:02: step is 302 s, expected 5 min"):
        Frames.from_xarray(at(times))
    assert Frames.from_xarray(at(times), gaps="skip").segments == ((0, 10), (10, 20))


def test_gaps_among_rounded_times_are_found(tmp_path: Path) -> None:
    exact = at(pd.date_range("2024-05-01", periods=60, freq="5min"))
    gappy = exact.isel(time=[*range(20), *range(23, 40), *range(41, 60)])
    with stored(gappy, tmp_path / "t.nc", "days since 1970-01-01", "float64") as ds:
        with pytest.raises(
            DataError, match=r"T01:55: step is 20 min \(3 missing, first 2024-05-01T01:40\), and 1 more"
        ):
            Frames.from_xarray(ds)
        assert Frames.from_xarray(ds, gaps="skip").segments == ((0, 20), (20, 37), (37, 56))


def test_a_type_that_holds_no_times_of_this_step_is_named(tmp_path: Path) -> None:
    exact = at(pd.date_range("2024-05-01", periods=40, freq="5min"))
    with (
        stored(exact, tmp_path / "t.nc", "hours since 1900-01-01", "float32") as ds,
        pytest.raises(
            DataError, match=r"occurs 2 times.* the file stores times by a type that holds them every 4"
        ) as e,
    ):
        Frames.from_xarray(ds)
    mended = eval(str(e.value).split("Fix: ")[1].rstrip("."), {"ds": ds, "pd": pd})
    assert Frames.from_xarray(mended).step == np.timedelta64(5, "m")


def test_times_that_vary_by_seconds_are_refused_with_a_remedy_that_works() -> None:
    times = pd.date_range("2024-05-01", periods=12, freq="5min").to_numpy()
    off = np.random.default_rng(2).integers(-9, 9, 12).astype("timedelta64[s]")
    ds = at(times + off)
    with pytest.raises(DataError, match=r"dt\.round\('5min'\)") as caught:
        Frames.from_xarray(ds)
    mended = eval(str(caught.value).split("Fix: ")[1].rstrip("."), {"ds": ds})
    np.testing.assert_array_equal(Frames.from_xarray(mended).times, times)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
def test_the_most_common_step_of_whole_seconds_is_one_of_them(seconds: list[int]) -> None:
    # A thousandth apart is the same step, and then it may be their mean.
    step = most_common_step(np.array(seconds) * 10**9)
    assert min(abs(step - s * 10**9) / (s * 10**9) for s in seconds) <= 1e-3


def test_what_is_regular_is_within_a_thousandth_or_the_rounding_and_never_a_quarter() -> None:
    assert tolerance(np.timedelta64(5, "m")) == 3 * 10**8
    assert tolerance(300 * 10**9, rounding=10**9) == 2 * 10**9
    assert tolerance(300 * 10**9, rounding=10**11) == 75 * 10**9
    assert tolerance(10**6) == 20_000
    assert tolerance(8) == 2


UTC_TIME = np.datetime64("2024-05-01T00:30", "ns")


@pytest.mark.parametrize(
    "given_time",
    [
        "2024-05-01T00:30", "2024-05-01 00:30", "2024-05-01T00:30Z", "2024-05-01T00:30:00z", "2024-05-01 00:30 UTC",
        "2024-05-01T00:30:00.000Z", "2024-05-01T02:30+02:00", "2024-05-01T02:30+0200", "2024-05-01T02:30+02",
        "2024-04-30T19:30-05:00", "2024-05-01T06:00+05:30", "20240501T0030Z", "202405010030", " 2024-05-01T00:30 ",
        "2024-05-01_00:30:00", "2024-05-01T00:30:00,0Z",
        pd.Timestamp("2024-05-01T00:30"), pd.Timestamp("2024-05-01T00:30", tz="UTC"),
        pd.Timestamp("2024-05-01T02:30", tz="Europe/Oslo"), datetime(2024, 5, 1, 0, 30),
        datetime(2024, 5, 1, 0, 30, tzinfo=UTC), datetime(2024, 5, 1, 2, 30, tzinfo=timezone(timedelta(hours=2))),
        np.datetime64("2024-05-01T00:30"), np.array("2024-05-01T00:30", dtype="datetime64[s]"),
        xr.DataArray(np.datetime64("2024-05-01T00:30", "ns")), cftime.DatetimeGregorian(2024, 5, 1, 0, 30),
        cftime.DatetimeProlepticGregorian(2024, 5, 1, 0, 30),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_a_time_is_read_in_utc_however_it_is_given(given_time: Any) -> None:
    assert read_time(given_time, "init_time") == UTC_TIME


@pytest.mark.parametrize(
    "none",
    ["tomorrow", "now", "today", "noon", "", "10:30", "5", "05/01/2024", "2024-05-01T00:30 CET", "2024-13-01",
     "2024-05-01T25:00", "2024-05-01+02:00", 20240501, 0.0, None, True, pd.NaT, np.datetime64("NaT"),
     ["2024-05-01"], cftime.DatetimeNoLeap(2024, 5, 1)],
    ids=repr,
)  # fmt: skip
def test_what_is_no_time_is_refused(none: Any) -> None:
    with pytest.raises(RecipeError, match=r"init_time: .*expected one time in UTC") as caught:
        read_time(none, "init_time")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "far", ["3000-01-01", "1000-01-01T00:00Z", np.datetime64("3000-01-01", "s"), pd.Timestamp("9999-01-01"),
            cftime.DatetimeProlepticGregorian(2500, 1, 1)], ids=str,
)  # fmt: skip
def test_years_beyond_nanoseconds_are_refused_and_never_become_others(far: Any) -> None:
    with pytest.raises(RecipeError, match="expected a year from 1678 to 2261"):
        read_time(far, "init_time")


def test_a_slice_ends_with_the_day_or_minute_that_it_names() -> None:
    first, last = read_period(slice("2019-06", "2019-08"), "p")
    assert first == np.datetime64("2019-06-01")
    assert last is not None
    assert np.datetime64("2019-08-31T23:59:59") < last < np.datetime64("2019-09-01")
    assert read_period(slice("2024-05-01T02:30+02:00", None), "p") == (UTC_TIME, None)
    first, last = read_period(slice(None, "2024-05-01T02:30+02:00"), "p")
    assert first is None
    assert last is not None
    assert UTC_TIME <= last < UTC_TIME + np.timedelta64(1, "m")
    stamp = pd.Timestamp("2024-05-01T00:30")
    assert read_period(slice(stamp, stamp), "p") == (UTC_TIME, UTC_TIME)


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
@pytest.mark.parametrize("year", ["3000", "1000", "2262", "9999"])
def test_sequences_in_years_beyond_nanoseconds_are_refused(unit: str, year: str) -> None:
    # pydata/xarray#975: datetime64[s] holds the year 3000, and a cast to nanoseconds makes it 1830.
    times = np.datetime64(f"{year}-06-01", unit) + np.arange(4) * np.timedelta64(300, "s")
    with pytest.raises(DataError, match=rf"rain, time: 4 of 4 times are in the years {year} to {year}, expected 1678"):
        Frames.from_xarray(at(times))


@pytest.mark.parametrize("calendar", ["standard", "proleptic_gregorian", "noleap", "360_day"])
def test_dates_of_cftime_beyond_nanoseconds_are_refused_with_a_remedy_that_takes_the_others(calendar: str) -> None:
    dates = xr.date_range("2261-12-28", periods=8, freq="1D", calendar=calendar, use_cftime=True)
    ds = at(dates)
    for _ in range(2):  # first the years, then the calendar
        with pytest.raises(DataError, match=r"of 8 times are in the years 2261 to 2262|cftime dates of") as caught:
            Frames.from_xarray(ds)
        ds = eval(str(caught.value).split("Fix: ")[1].rstrip("."), {"ds": ds})
    assert Frames.from_xarray(ds).times[0] == np.datetime64("2261-12-28", "ns")


def test_valid_times_beyond_nanoseconds_are_refused() -> None:
    init, leads = np.datetime64("2261-12-31T12:00", "ns"), np.array([1, 200], dtype="timedelta64[D]")
    with pytest.raises(DataError, match=r"rain, 2261-12-31T12:00: the valid times reach beyond 2262-04-11"):
        valid_times(np.asarray(init), leads.astype("timedelta64[ns]"), "rain")
    assert valid_times(np.asarray(init), leads[:1].astype("timedelta64[ns]"), "rain")[0] == np.datetime64(
        "2262-01-01T12"
    )


def test_times_with_a_zone_are_taken_in_utc() -> None:
    local = pd.date_range("2024-05-01T02:00", periods=6, freq="5min", tz="Europe/Oslo")
    exact = local.tz_convert("UTC").tz_localize(None).to_numpy()
    ones = (
        at(local),
        at(list(local.to_pydatetime())),
        rain(6, 4, 4).drop_vars("time").assign_coords(t2=("time", local)),
    )
    for da in ones:
        np.testing.assert_array_equal(Frames.from_xarray(da).times, exact)


TIMES = pd.date_range("2024-05-01", periods=6, freq="5min")


def along(**coords: Any) -> xr.DataArray:
    da = rain(6, 4, 4).drop_vars("time").rename(time="Time")
    return da.assign_coords({n: c if isinstance(c, tuple) else ("Time", c) for n, c in coords.items()})


@pytest.mark.parametrize(
    "coords",
    [
        {"XTIME": TIMES},
        {"valid_time": TIMES, "Time": pd.to_timedelta(np.arange(6) * 5, unit="min")},
        {"valid_time": TIMES, "Time": np.arange(6), "time": ((), np.datetime64("2024-05-01", "ns"))},
        {"stamp": ("Time", TIMES, {"standard_name": "time"}), "received": TIMES + pd.Timedelta("2min")},
        {"init_time": TIMES - pd.Timedelta("1h"), "valid_time": TIMES},
        {"Times": np.array([str(t)[:19].replace(" ", "_") for t in TIMES], dtype="S19")},
        {"Time": [f"{t.isoformat()}Z" for t in TIMES]},
    ],
    ids=["XTIME", "step", "frame number", "standard name", "reference times beside", "Times of WRF", "text"],
)
def test_times_are_found_under_another_name(coords: dict[str, Any]) -> None:
    # Ouranosinc/xclim#989, xarray-contrib/xwrf#169, ecmwf/cfgrib#11
    da = along(**coords)
    np.testing.assert_array_equal(Frames.from_xarray(da).times, TIMES.to_numpy())
    np.testing.assert_array_equal(with_times(da, "Time", "rain")["Time"].values, TIMES.to_numpy())


def test_several_coordinates_that_could_be_the_times_are_refused_with_a_choice() -> None:
    ds = along(sent=TIMES, received=TIMES)
    with pytest.raises(DataError, match=r"(received, sent|sent, received) could each be its times") as caught:
        Frames.from_xarray(ds)
    mended = eval(str(caught.value).split("Fix: ")[1].rstrip("."), {"ds": ds})
    np.testing.assert_array_equal(Frames.from_xarray(mended).times, TIMES.to_numpy())


@pytest.mark.parametrize(
    "ds",
    [
        along(),
        along(Time=np.arange(6)),
        along(Time=("Time", np.arange(6), {"units": "hours since 2024-05-01"})).to_dataset(),
        along(Time=pd.to_timedelta(np.arange(6) * 5, unit="min")),
        along(Time=pd.to_timedelta(np.arange(6) * 5, unit="min"), start=((), np.datetime64("2024-05-01", "ns"))),
        along(Time=np.arange(20240501, 20240507)),
        along(Time=[*"abcdef"]),
        along(XTIME=TIMES.insert(3, pd.NaT)[:6]),
        along(XTIME=TIMES[[0, 1, 1, 2, 3, 4]]),
        along(XTIME=TIMES[::-1]),
        along(XTIME=xr.date_range("2024-05-01", periods=6, freq="5min", calendar="360_day", use_cftime=True)),
    ],
    ids=[
        "none", "numbers", "undecoded", "timedelta", "timedelta and start", "days as numbers", "text", "NaT", "twice",
        "backwards", "360 days",
    ],
)  # fmt: skip
def test_the_remedies_for_times_work_as_they_are_printed(ds: xr.DataArray | xr.Dataset) -> None:
    with pytest.raises(DataError) as caught:
        Frames.from_xarray(ds, time="Time", gaps="skip")
    fix = str(caught.value).split("Fix: ")[1].rstrip(".")
    frames = Frames.from_xarray(eval(fix, {"ds": ds, "xr": xr, "pd": pd, "np": np}), gaps="skip")
    assert len(frames) >= 5


def test_the_nearest_time_is_that_of_a_frame_within_a_hundredth_of_the_step() -> None:
    index = TIMES.to_numpy()[[3, 0, 2, 1]]
    wanted = TIMES.to_numpy()[:5] + np.array([0, 2000, -2999, 3001, 0], dtype="timedelta64[ms]")
    places, there = nearest(index, wanted)
    assert places.tolist() == [1, 3, 2, 0, 0]
    assert there.tolist() == [True, True, True, False, False]
    assert nearest(index[:0], wanted)[1].any() is np.False_


def test_a_step_in_fractions_of_seconds_is_shown_in_seconds() -> None:
    assert show_step(np.timedelta64(299_999_999_744, "ns")) == "299.999999744 s"


def test_segments_are_cut_where_a_step_differs_by_more_than_rounding() -> None:
    times = (np.array([0, 300, 600.1, 900, 1500, 1800.2]) * 1e9).astype("int64").astype("datetime64[ns]")
    step, segments = regular_segments(times, "time", "rain", "skip", None)
    assert step == np.timedelta64(300, "s")
    assert segments == ((0, 4), (4, 6))
