from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from source_files import taxibj_stamps, write_taxibj

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources import TaxiBJBackendEntrypoint, benchmark_split
from sa_nowcast.sources.taxibj import parse_slots

h5py = pytest.importorskip("h5py", reason="TaxiBJ is HDF5: pip install h5py")
ENGINE = TaxiBJBackendEntrypoint


@pytest.fixture
def two_years(tmp_path: Path) -> tuple[Path, np.ndarray]:
    first = write_taxibj(tmp_path / "BJ15_M32x32_T30_InOut.h5", taxibj_stamps("2015-11-01", 3, (5, 60)), seed=1)
    second = write_taxibj(tmp_path / "BJ16_M32x32_T30_InOut.h5", taxibj_stamps("2016-02-01", 2), seed=2)
    return tmp_path, np.concatenate([first, second])


def test_slots_are_half_hours_that_start_at_midnight() -> None:
    times = parse_slots(np.array([b"2015110101", b"2015110148"]), "BJ16")
    assert times.tolist() == np.array(["2015-11-01T00:00", "2015-11-01T23:30"], "datetime64[ns]").tolist()


def test_one_file_opens_through_xarray_with_its_values_and_labels(two_years: tuple[Path, np.ndarray]) -> None:
    folder, data = two_years
    ds = xr.open_dataset(folder / "BJ15_M32x32_T30_InOut.h5", engine=ENGINE)
    assert dict(ds.sizes) == {"time": 142, "flow": 2, "y": 32, "x": 32}
    assert ds.flow.values.tolist() == ["inflow", "outflow"]
    np.testing.assert_array_equal(ds.crowd_flow.values, data[:142])


def test_missing_slots_stay_gaps(two_years: tuple[Path, np.ndarray]) -> None:
    ds = xr.open_dataset(two_years[0] / "BJ15_M32x32_T30_InOut.h5", engine=ENGINE)
    steps = np.diff(ds.time.values) / np.timedelta64(30, "m")
    assert np.flatnonzero(steps == 2).tolist() == [4, 58]
    assert set(steps) == {1, 2}


@pytest.mark.parametrize("how", ["folder", "pattern", "list backwards"])
def test_several_years_are_joined_in_the_order_of_time(two_years: tuple[Path, np.ndarray], how: str) -> None:
    folder, data = two_years
    files = sorted(folder.iterdir(), reverse=True)
    source = {"folder": folder, "pattern": folder / "BJ1*.h5", "list backwards": [str(f) for f in files]}[how]
    ds = xr.open_dataset(source, engine=ENGINE)
    np.testing.assert_array_equal(ds.crowd_flow.values, data)
    assert ds.indexes["time"].is_monotonic_increasing
    assert np.unique(ds.year).tolist() == [2015, 2016]


@functools.cache
def _lazy_and_whole(folder: Path) -> tuple[xr.DataArray, xr.DataArray]:
    lazy = xr.open_dataset(folder, engine=ENGINE, cache=False).crowd_flow
    whole = np.concatenate([h5py.File(f)["data"][...] for f in sorted(folder.iterdir())])
    return lazy, xr.DataArray(whole, dims=lazy.dims)


def some_slice(size: int) -> st.SearchStrategy[slice]:
    # xarray itself fails on an empty slice that runs backwards.
    return st.slices(size).filter(lambda s: len(range(*s.indices(size))) > 0)


@given(
    time=st.one_of(st.integers(-238, 237), st.lists(st.integers(0, 237), max_size=9), some_slice(238)),
    flow=st.one_of(st.integers(0, 1), some_slice(2)),
    x=st.one_of(st.integers(0, 31), st.lists(st.integers(0, 31), max_size=3), some_slice(32)),
)
def test_every_selection_equals_the_same_selection_in_memory(
    tmp_path_factory: pytest.TempPathFactory, time: object, flow: object, x: object
) -> None:
    folder = tmp_path_factory.getbasetemp() / "taxibj_years"
    if not folder.exists():
        folder.mkdir()
        write_taxibj(folder / "BJ15_M32x32_T30_InOut.h5", taxibj_stamps("2015-11-01", 3, (5, 60)), seed=1)
        write_taxibj(folder / "BJ16_M32x32_T30_InOut.h5", taxibj_stamps("2016-02-01", 2), seed=2)
    lazy, whole = _lazy_and_whole(folder)
    key = {"time": time, "flow": flow, "x": x}
    np.testing.assert_array_equal(lazy.isel(key).values, whole.isel(key).values)


def test_holidays_and_meteorology_become_coordinates(two_years: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, _ = two_years
    (tmp_path / "BJ_Holiday.txt").write_text("20151102\n20160101\n")
    stamps = taxibj_stamps("2015-11-01", 2)
    weather = np.zeros((len(stamps), 17))
    weather[np.arange(len(stamps)), np.arange(len(stamps)) % 17] = 1
    with h5py.File(tmp_path / "BJ_Meteorology.h5", "w") as file:
        file["date"], file["Weather"] = stamps, weather
        file["Temperature"], file["WindSpeed"] = np.arange(96.0), np.full(96, 3.5)
    ds = xr.open_dataset(
        folder / "BJ15_M32x32_T30_InOut.h5",
        engine=ENGINE,
        holidays=tmp_path / "BJ_Holiday.txt",
        meteorology=tmp_path / "BJ_Meteorology.h5",
    )
    assert ds.holiday.sel(time="2015-11-02").values.all()
    assert not ds.holiday.sel(time="2015-11-01").values.any()
    assert ds.temperature.sel(time="2015-11-01T01:00").item() == 2.0
    assert np.isnan(ds.temperature.sel(time="2015-11-03").values).all()
    assert ds.weather.sel(time="2015-11-01T01:00").item() == 2
    assert (ds.weather.sel(time="2015-11-03") == -1).all()


def _times(first: str, days: int, without: tuple[int, ...] = ()) -> np.ndarray:
    return parse_slots(taxibj_stamps(first, days, without), "made")


@given(
    without=st.sets(st.integers(0, 48 * 9 - 1), max_size=4),
    history=st.integers(1, 5),
    steps=st.integers(1, 5),
    test=st.integers(1, 60),
)
def test_benchmark_windows_are_those_of_a_slow_search(without: set[int], history: int, steps: int, test: int) -> None:
    time = np.concatenate([_times("2014-03-01", 9, tuple(without)), _times("2015-03-01", 2)])
    year = np.repeat([2014, 2015], [48 * 9 - len(without), 96])
    split = benchmark_split(time, year, history=history, steps=steps, test_windows=test)
    whole_days = [d for d in np.unique(time.astype("M8[D]")) if (time.astype("M8[D]") == d).sum() == 48]
    kept = [i for i, t in enumerate(time) if t.astype("M8[D]") in whole_days]
    assert split.kept.tolist() == kept
    length, half_hour, windows = history + steps, np.timedelta64(30, "m"), []
    for start in range(len(kept) - length + 1):
        frames = kept[start : start + length]
        regular = all(time[b] - time[a] == half_hour for a, b in itertools.pairwise(frames))
        if regular and len({year[f] for f in frames}) == 1:
            windows.append(start)
    assert [*split.train, *split.test] == windows
    assert split.test.tolist() == windows[-test:]
    tested = {f for start in windows[-test:] for f in range(start, start + length)}
    fitted = {f for start in windows[:-test] for f in range(start, start + length)} - tested
    assert split.fit.tolist() == sorted(fitted)


def test_the_benchmark_split_by_name_drops_days_keeps_1344_tests_and_fits_on_the_rest(tmp_path: Path) -> None:
    data = write_taxibj(tmp_path / "BJ16_M32x32_T30_InOut.h5", taxibj_stamps("2015-11-01", 40, (48 * 3 + 7,)))
    with h5py.File(tmp_path / "BJ16_M32x32_T30_InOut.h5", "a") as file:
        file["data"][-1] = 99999.0  # in the last test window only: scaling must not see it
    ds = xr.open_dataset(tmp_path / "BJ16_M32x32_T30_InOut.h5", engine=ENGINE, split="taxibj-benchmark")
    assert ds.sizes["time"] == 39 * 48
    assert (ds.split == 2).sum() == 1344
    assert ds.attrs["split_test_windows"] == 1344
    assert ds.attrs["split_scale_max"] <= data.max() < 99999.0
    assert ds.attrs["split_train_windows"] == int((ds.split == 1).sum())
    assert np.datetime64("2015-11-04") not in ds.time.values.astype("M8[D]")


def test_bj16_as_published_has_7220_frames_and_its_split_is_planned() -> None:
    # 7,776 slots of 162 days, 556 of them missing, as published; which ones are drawn here.
    without = tuple(np.random.default_rng(0).choice(7776, 556, replace=False).tolist())
    times = _times("2015-11-01", 162, without)
    assert len(times) == 7220
    with pytest.raises(DataError, match="windows of 8 frames in whole days"):
        benchmark_split(times, np.full(7220, 2016))


def test_bad_files_give_one_clear_line(two_years: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, _ = two_years
    with pytest.raises(DataError, match=r"date b?'?2015110149'? at position 1, expected YYYYMMDDSS"):
        parse_slots(np.array([b"2015110101", b"2015110149"]), "BJ16")
    with pytest.raises(DataError, match="date that does not exist"):
        parse_slots(np.array([b"2015023001"]), "BJ16")
    with pytest.raises(RecipeError, match="'taxibj-benchmark', the nearest"):
        xr.open_dataset(folder, engine=ENGINE, split="taxibj-benchmrk")
    copy = tmp_path / "copy_M32x32_T30_InOut.h5"
    write_taxibj(copy, taxibj_stamps("2016-02-01", 1))
    with pytest.raises(DataError, match="both have the time 2016-02-01T00:00"):
        xr.open_dataset([*sorted(folder.glob("BJ*.h5")), copy], engine=ENGINE)
    broken = tmp_path / "broken.h5"
    broken.write_bytes(b"not hdf5")
    with pytest.raises(DataError, match=r"broken.h5: cannot be read as taxibj"):
        xr.open_dataset(broken, engine=ENGINE)
    backwards = tmp_path / "backwards.h5"
    write_taxibj(backwards, taxibj_stamps("2016-02-01", 1)[::-1])
    with pytest.raises(DataError, match="expected dates in increasing order"):
        xr.open_dataset(backwards, engine=ENGINE)


def test_dates_that_are_no_text_or_beyond_nanoseconds_are_refused() -> None:
    with pytest.raises(DataError, match=r"date '.016010101' at position 0, expected YYYYMMDDSS"):
        parse_slots(np.array([b"\x80016010101"]), "BJ16")
    with pytest.raises(DataError, match="dates from 9999-01-01 to 9999-01-01, expected years from 1678 to 2261"):
        parse_slots(np.array([b"9999010101"]), "BJ16")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("text", "data of type"),
        ("huge", r"/data says it holds \d+ bytes and has 0, expected at most 1100 times as many"),
        ("dates", r"data \(48, 2, 32, 32\) with dates \(47,\), expected"),
        ("encoding", "cannot be read as taxibj"),
    ],
)
def test_a_damaged_file_is_refused_before_its_values_are_read(damage: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "BJ16_M32x32_T30_InOut.h5"
    write_taxibj(path, taxibj_stamps("2016-02-01", 1))
    if damage == "encoding":
        # The dates' type of string with an encoding that HDF5 does not have, which h5py answers with a TypeError.
        held = path.read_bytes()
        at = held.index(b"\x13\x01\x00\x00\x0a\x00\x00\x00") + 1
        path.write_bytes(held[:at] + b"\x21" + held[at + 1 :])
    else:
        with h5py.File(path, "a") as file:
            if damage == "dates":
                dates = file["date"][1:]
                del file["date"]
                file["date"] = dates
            else:
                del file["data"]
                if damage == "text":
                    file["data"] = np.full((48, 2, 1, 1), b"x")
                else:
                    file.create_dataset("data", (48, 2, 2**20, 2**20), np.float32, chunks=(1, 2, 32, 32))
    with pytest.raises(DataError, match=message):
        xr.open_dataset(path, engine=ENGINE)


def test_years_of_several_types_are_read_without_rounding(tmp_path: Path) -> None:
    for year, dtype in ((15, np.int32), (16, np.float32)):
        with h5py.File(tmp_path / f"BJ{year}_M32x32_T30_InOut.h5", "w") as file:
            file["data"] = np.full((48, 2, 32, 32), 1.5 if dtype is np.float32 else 1, dtype)
            file["date"] = taxibj_stamps(f"20{year}-02-01", 1)
    ds = xr.open_dataset(tmp_path, engine=ENGINE)
    assert ds.crowd_flow.values.mean() == 1.25


def test_meteorology_whose_parts_are_of_several_lengths_or_text_is_refused(tmp_path: Path) -> None:
    stamps = taxibj_stamps("2016-02-01", 1)
    path, weather = tmp_path / "BJ16_M32x32_T30_InOut.h5", tmp_path / "BJ_Meteorology.h5"
    write_taxibj(path, stamps)
    with h5py.File(weather, "w") as file:
        file["date"], file["Weather"] = stamps, np.zeros((48, 17))
        file["Temperature"], file["WindSpeed"] = np.zeros(48), np.zeros(47)
    with pytest.raises(DataError, match=r"WindSpeed \(47,\), expected \(48,\) as of Weather"):
        xr.open_dataset(path, engine=ENGINE, meteorology=weather)
    with h5py.File(weather, "a") as file:
        del file["WindSpeed"]
        file["WindSpeed"] = np.full(48, b"calm")
    with pytest.raises(DataError, match=r"WindSpeed of type .S4, expected numbers"):
        xr.open_dataset(path, engine=ENGINE, meteorology=weather)
