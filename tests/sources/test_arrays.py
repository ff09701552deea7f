from __future__ import annotations

import pickle
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from sa_nowcast.conversion import convert, open_zarr
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.scaling import Scaling
from sa_nowcast.sources import open_array, open_source
from sa_nowcast.stream import SequenceDataset

WHEN: dict[str, Any] = {"start": "2015-01-01", "step": "30min"}
FLOW = np.random.default_rng(0).integers(0, 240, (12, 5, 4, 2), dtype=np.int16)


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    np.save(tmp_path / "flow.npy", FLOW)
    return tmp_path / "flow.npy"


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    np.savez_compressed(tmp_path / "flow.npz", data=FLOW)
    return tmp_path / "flow.npz"


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_an_array_is_labelled_by_what_its_user_knows(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    ds = open_array(path, **WHEN, name="crowd_flow", units="1", channels=["inflow", "outflow"])
    assert ds["crowd_flow"].dims == ("time", "y", "x", "channel")
    assert ds["crowd_flow"].dtype == np.int16
    assert ds["crowd_flow"].attrs == {"units": "1"}
    np.testing.assert_array_equal(ds["crowd_flow"].values, FLOW)
    times = np.datetime64("2015-01-01", "ns") + np.arange(12) * np.timedelta64(30, "m")
    np.testing.assert_array_equal(ds["time"].values, times)
    assert ds["channel"].values.tolist() == ["inflow", "outflow"]
    assert (ds["y"].values.tolist(), ds["x"].values.tolist()) == ([0, 1, 2, 3, 4], [0, 1, 2, 3])
    assert (ds["y"].attrs["axis"], ds["x"].attrs["axis"]) == ("Y", "X")


def test_its_windows_can_be_trained_on(npz: Path) -> None:
    windows = SequenceDataset(open_array(npz, **WHEN, channels=["in", "out"]), 3, 2, shuffle=False)
    assert [c.name for c in windows.channels] == ["in", "out"]
    # the layout of the stream counts rows from the largest y
    np.testing.assert_array_equal(windows[4].numpy(), FLOW[4:9].transpose(0, 3, 1, 2)[:, :, ::-1])


def test_a_mapped_file_is_read_where_it_is_used_and_in_other_processes(npy: Path) -> None:
    ds = open_array(npy, **WHEN)
    assert "values with dtype=int16" in repr(ds["flow"].variable)  # not read yet
    np.testing.assert_array_equal(ds["flow"][3, ::-2, [0, 3], 1], FLOW[3, ::-2, [0, 3], 1].T)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ds))["flow"].values, FLOW)  # noqa: S301
    np.save(npy, FLOW[:4])
    with pytest.raises(DataError, match="was changed since it was opened"):
        open_array(npy, **WHEN).pipe(lambda _: ds["flow"].values)


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (("time", "y", "x"), (12, 5, 8)),
        (("channel", "time", "x", "y"), (2, 12, 4, 5)),
        (["sequence", "time", "y", "x"], (3, 4, 5, 8)),
    ],
)
def test_axes_are_what_dims_says(tmp_path: Path, dims: Any, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", FLOW.reshape(shape))
    ds = open_array(tmp_path / "a.npy", **WHEN, dims=dims)
    assert ds["flow"].dims == tuple(dims)
    np.testing.assert_array_equal(ds["flow"].values, FLOW.reshape(shape))
    assert ds["time"].size == dict(zip(dims, shape, strict=True))["time"]


def test_it_is_the_engine_array_of_open_source_and_convert(npy: Path, tmp_path: Path) -> None:
    options = {**WHEN, "channels": ["in", "out"]}
    ds = open_source(npy, engine="array", **options)
    xr.testing.assert_identical(ds, open_array(npy, **options))
    convert(npy, tmp_path / "a.zarr", engine="array", options=options)
    np.testing.assert_array_equal(open_zarr(tmp_path / "a.zarr")["flow"].transpose("time", "y", "x", ...).values, FLOW)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no start and no step, which engine array needs"),
        ({"start": "2015-01-01"}, "no step, which engine array needs"),
        ({**WHEN, "unit": "1"}, "'unit' is not known to engine array, expected 'units', the nearest of"),
    ],
)
def test_missing_and_unknown_options_of_an_engine_are_named(npy: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        open_source(npy, engine="array", **options)


@pytest.mark.parametrize("engine", ["kth", "taxibj", "moving_mnist"])
def test_unknown_options_of_other_engines_are_named_too(npy: Path, engine: str) -> None:
    with pytest.raises(RecipeError, match=f"'lenght' is not known to engine {engine}"):
        open_source(npy, engine=engine, lenght=3)


def test_one_of_several_arrays_is_taken_by_key(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, train=FLOW, test=FLOW + 1)
    with pytest.raises(DataError, match=r"the arrays train, test, expected one, or key=\. Fix: give key='train'"):
        open_array(path, **WHEN)
    np.testing.assert_array_equal(open_array(path, **WHEN, key="test")["flow"].values, FLOW + 1)
    with pytest.raises(RecipeError, match=r"no array 'tests' in a\.npz, expected 'test', the nearest of"):
        open_array(path, **WHEN, key="tests")


@pytest.mark.parametrize(
    "start", ["2015-01-01T06:30", "20150101T0630", datetime(2015, 1, 1, 6, 30), np.datetime64("2015-01-01T06:30"),
              "2015-01-01T06:30Z", datetime(2015, 1, 1, 6, 30, tzinfo=UTC)],
)  # fmt: skip
def test_start_is_read_as_iso_8601_in_utc(npy: Path, start: Any) -> None:
    first = open_array(npy, start=start, step="1h")["time"].values[0]
    assert first == np.datetime64("2015-01-01T06:30")
    assert open_array(npy, start=date(2015, 1, 1), step="1h")["time"].values[0] == np.datetime64("2015-01-01")


@pytest.mark.parametrize(
    "start", ["10:30", "10", "now", "today", "1.1.2015", "", 20150101, 0.0, None, np.datetime64("NaT"), "5000-01-01"]
)
def test_a_start_that_is_no_time_is_refused(npy: Path, start: Any) -> None:
    with pytest.raises(RecipeError, match=r"start: .* is no time, expected a date and time such as"):
        open_array(npy, start=start, step="30min")


def test_a_start_in_another_time_zone_is_converted_to_utc(npy: Path) -> None:
    for start in ("2015-01-01T06:30+02:00", datetime(2015, 1, 1, 6, 30, tzinfo=timezone(timedelta(hours=2)))):
        first = open_array(npy, start=start, step="30min")["time"].values[0]
        assert first == np.datetime64("2015-01-01T04:30")


@pytest.mark.parametrize("step", ["1h", "60min", "3600s", "01:00:00", timedelta(hours=1), np.timedelta64(60, "m")])
def test_step_is_read_as_a_length_of_time(npy: Path, step: Any) -> None:
    times = open_array(npy, start="2015-01-01", step=step)["time"].values
    assert set(np.diff(times)) == {np.timedelta64(1, "h")}


@pytest.mark.parametrize(
    "step",
    ["30", "half an hour", "", 30, 0.5, None, np.timedelta64(30), np.timedelta64("NaT"), np.datetime64("2015-01-01"),
     "0min", "-30min", timedelta(0)],
)  # fmt: skip
def test_a_step_that_is_no_length_of_time_is_refused(npy: Path, step: Any) -> None:
    with pytest.raises(RecipeError, match=r"step: .* expected .*such as '30min' or '1h'"):
        open_array(npy, start="2015-01-01", step=step)


def test_times_beyond_what_can_be_stored_are_refused(npy: Path) -> None:
    with pytest.raises(RecipeError, match="12 frames reach beyond the year 2262"):
        open_array(npy, start="2262-01-01", step="36500D")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dims": ("time", "y", "x")}, DataError, r"\(12, 5, 4, 2\), expected 3: time, y, x\. Fix: give dims"),
        ({"dims": ("time", "row", "x", "channel")}, RecipeError, "expected different names, with time, y, x among"),
        ({"dims": ("time", "y", "x", "x")}, RecipeError, "expected different names"),
        ({"dims": "time"}, RecipeError, "expected different names"),
        ({"channels": ["in"]}, DataError, "1 labels: in, expected 2, the size of channel"),
        ({"channels": "in"}, RecipeError, "'in', expected a list of labels"),
        ({"key": "data"}, RecipeError, "which is one array, expected no key"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_the_array_are_refused(
    npy: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_array(npy, **WHEN, **options)


def test_channels_without_such_a_dimension_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FLOW[..., 0])
    with pytest.raises(RecipeError, match="channels: 0 dimensions beside time, y, x"):
        open_array(tmp_path / "a.npy", **WHEN, dims=("time", "y", "x"), channels=["in"])


class Evil:
    """What a pickle can do: this one would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_python_objects_are_never_loaded(tmp_path: Path, suffix: str) -> None:
    values = np.full((2, 2, 2, 1), Evil(tmp_path / "written"), dtype=object)
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, values, allow_pickle=True)
    else:
        np.savez(path, data=values)
    with pytest.raises(DataError, match="holds Python objects, which can carry code and are not loaded"):
        open_array(path, **WHEN)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_file_that_was_cut_short_or_damaged_is_refused(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    whole = path.read_bytes()
    for length in (0, 5, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"is not a whole NumPy file \(.+\), expected \.npy or \.npz"):
            open_array(path, **WHEN)
    if kind == "npz":
        at = len(whole) // 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
        with pytest.raises(DataError, match="is not a whole NumPy file"):
            open_array(path, **WHEN)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 2, 2, 1), "a"), "values of type <U1, expected numbers"),
        (np.zeros((2, 2, 2, 1), complex), "values of type complex128"),
        (np.zeros((0, 2, 2, 1)), "an array without values"),
    ],
)
def test_values_that_are_no_frames_of_numbers_are_refused(tmp_path: Path, values: Any, message: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=message):
        open_array(tmp_path / "a.npy", **WHEN)


def test_what_is_not_one_file_is_refused(tmp_path: Path, npy: Path, npz: Path) -> None:
    with pytest.raises(DataError, match="2 files, expected one array in one file"):
        open_array(tmp_path, **WHEN)
    with pytest.raises(DataError, match="no such file or folder"):
        open_array(tmp_path / "other.npy", **WHEN)
    (tmp_path / "text.npy").write_text("time,flow\n1,2\n")
    with pytest.raises(DataError, match="is not a whole NumPy file"):
        open_array(tmp_path / "text.npy", **WHEN)
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(DataError, match="the file holds no array"):
        open_array(tmp_path / "empty.npz", **WHEN)


def test_flows_of_new_york_are_opened_with_their_times(real_data: Path) -> None:
    taxi = open_source(
        real_data / "traffic" / "nyc_taxi_30min_1008x10x20x1.npz", engine="array", start="2015-01-01", step="30min"
    )
    assert dict(taxi.sizes) == {"time": 1008, "y": 10, "x": 20, "channel": 1}
    assert taxi["time"].values[-1] == np.datetime64("2015-01-21T23:30")  # three weeks
    # New York takes fewer taxis at five in the morning than at seven in the evening.
    hourly = taxi["flow"].groupby("time.hour").mean(...)
    assert float(hourly.sel(hour=5)) < 0.5 * float(hourly.sel(hour=19))
    bike = open_source(
        real_data / "traffic" / "nyc_bike_hourly_958x16x8x2.npz",
        engine="array", start="2016-08-01", step="1h", channels=["inflow", "outflow"], units="1",
    )  # fmt: skip
    assert dict(bike.sizes) == {"time": 958, "y": 16, "x": 8, "channel": 2}
    assert bike["flow"].dtype == np.int16
    windows = SequenceDataset(bike, 4, 4)
    assert windows.sample_shape == (8, 2, 16, 8)
    assert len(windows) == 951


def test_forecasts_of_counts_do_not_go_below_the_least_value_there_can_be(npy: Path) -> None:
    ds = open_array(npy, **WHEN, valid_min=0)
    assert ds["flow"].attrs["valid_min"] == 0
    (channel, *_) = Frames.from_xarray(ds).channels
    scaling = Scaling.fit("standard", [channel], [np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)])
    assert scaling.to_physical(np.full((1, 1, 1), -100.0, dtype=np.float32)).item() == 0
    with pytest.raises(RecipeError, match="valid_min: 'none', expected a finite number"):
        open_array(npy, **WHEN, valid_min="none")  # type: ignore[arg-type]
