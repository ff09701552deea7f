"""Times, dimensions and values of frames; remedies that are Python are evaluated as they are printed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sequences import rain, weather

from remedies.collector import matches
from remedies.trial import keywords, remedy, value
from sa_nowcast.errors import DataError
from sa_nowcast.frames import Frames, jump
from sa_nowcast.hindcast import hindcast


def _with_times(values, **attrs) -> xr.Dataset:
    return rain(len(values)).assign_coords(time=("time", values, attrs)).to_dataset()


def _other_label(times) -> xr.Dataset:
    """Frames whose times are another coordinate than their dimension's own."""
    ds = rain(len(times)).to_dataset().drop_vars("time")
    return ds.assign_coords(valid_time=("time", times, {"standard_name": "time"}))


def _longitudes(values) -> xr.Dataset:
    ds = rain(6, 8, len(values)).rename(x="lon", y="lat")
    return ds.assign_coords(
        lon=("lon", values, {"units": "degrees_east", "standard_name": "longitude"}),
        lat=("lat", 50 - 0.1 * np.arange(8), {"units": "degrees_north", "standard_name": "latitude"}),
    ).to_dataset()


def _rows(values) -> xr.Dataset:
    return rain(6, len(values), 8).assign_coords(y=("y", values, rain()["y"].attrs)).to_dataset()


def _coarse() -> xr.Dataset:
    """Times that a file stores as float32 days, so that several frames have one."""
    times = pd.date_range("2020-06-01", periods=20, freq="5min")
    days = ((times - pd.Timestamp("1900-01-01")) / pd.Timedelta("1D")).astype("float32")
    ds = rain(20).to_dataset().assign_coords(time=("time", days, {"units": "days since 1900-01-01"}))
    return xr.decode_cf(ds)


MONTHS = pd.date_range("2020-01-01", periods=8, freq="5min")
NOLEAP = xr.date_range("2020-01-01", periods=8, freq="6h", calendar="noleap", use_cftime=True)
TIMES: dict[str, tuple[str, Callable[[], xr.Dataset]]] = {
    "no times": (
        "ds.assign_coords({…: pd.date_range('2000-01-01', periods=…, freq='5min')})",
        lambda: rain().to_dataset().drop_vars("time"),
    ),
    "numbers of no unit": (
        "ds.assign_coords({…: pd.date_range('2000-01-01', periods=…, freq='5min')})",
        lambda: _with_times(np.arange(8)),
    ),
    "times stored too coarsely": (
        "ds.assign_coords({…: pd.date_range('2000-01-01', periods=…, freq='5min')})", _coarse,
    ),
    "another calendar": (
        "….convert_calendar('standard', use_cftime=False, dim=……)", lambda: _with_times(NOLEAP),
    ),
    "a missing time": (
        "….sel({…: …[…].notnull()})",
        lambda: _with_times(np.r_[MONTHS.values[:7], np.datetime64("NaT")]),
    ),
    "years beyond nanoseconds": (
        "….sel({…: slice('…', '…')})",
        lambda: _with_times(np.r_[np.datetime64("1600-01-01", "s"), MONTHS.values.astype("M8[s]")[:7]]),
    ),
    "lead times": (
        "ds.assign_coords({…: … + ds[…]})", lambda: _with_times(MONTHS - MONTHS[0]),
    ),
    "lead times with one init time": (
        "ds.assign_coords({…: … + ds[…]})",
        lambda: _with_times(MONTHS - MONTHS[0]).assign_coords(start=np.datetime64("2020-01-01", "ns")),
    ),
    "dates as numbers": (
        "ds.assign_coords({…: …})", lambda: _with_times([20200101 + i for i in range(8)]),
    ),
    "times that are not decoded": (
        "xr.decode_cf(ds)", lambda: _with_times(np.arange(8), units="hours since 2020-01-01"),
    ),
    "two coordinates of times": (
        "ds.swap_dims({…: …})",
        lambda: rain(8).to_dataset().drop_vars("time").assign_coords(a=("time", MONTHS), b=("time", MONTHS)),
    ),
    "times that are not sorted": ("ds.sortby(…)", lambda: rain(8).isel(time=[0, 2, 1, 3]).to_dataset()),
    "a time that occurs twice": (
        "….drop_duplicates(…)", lambda: rain(8).isel(time=[0, 1, 1, 2, 3]).to_dataset(),
    ),
    "another coordinate whose times occur twice": (
        "….drop_duplicates(…)", lambda: _other_label(MONTHS[[0, 1, 1, 2, 3]]),
    ),
    "times some seconds off": (
        "ds.assign_coords({…: ds[…].dt.round('……')})",
        lambda: _with_times(MONTHS + pd.to_timedelta([0, 20, -20, 15, 0, -10, 5, 0], "s")),
    ),
}  # fmt: skip
ORDERED = (
    "no times", "numbers of no unit", "times stored too coarsely", "times that are not sorted",
    "a time that occurs twice", "another coordinate whose times occur twice", "times some seconds off",
)  # fmt: skip
"""Those whose remedy stands where order and step are checked."""
GRIDS: dict[str, tuple[str, Callable[[], xr.Dataset]]] = {
    "rows that are not sorted": ("ds.sortby(…)", lambda: _rows([0.0, 2, 1, 3, 4, 5, 6, 7])),
    "a row that occurs twice": (
        "ds.drop_duplicates(…).sortby(…)", lambda: _rows([*np.arange(11.0), 10.0]),
    ),
    "rows of rounded labels": ("ds.drop_vars(…)", lambda: _rows([0.0, 0, 1, 1, 2, 2, 3, 3])),
    "rows without a number": ("ds.drop_vars(…)", lambda: _rows([0.0, 1, np.nan, 3, 4, 5, 6, 7])),
    "longitudes on both sides of Greenwich": (
        "….sortby(…)", lambda: _longitudes([0.0, 1, 2, 359, 358, 357]),
    ),
}  # fmt: skip
VALUES: dict[str, tuple[str, Callable[[], xr.Dataset]]] = {
    "an infinite value": (
        "ds.where(abs(ds) < float('inf')) turns them into missing values",
        lambda: rain(8).where(rain(8)["x"] > 0, np.inf).to_dataset(),
    ),
    "fill values of floats that nobody declared": (
        "ds.where(…) turns them into missing values",
        lambda: rain(8).where(rain(8)["x"] > 0, 9.96921e36).to_dataset(),
    ),
    "fill values of integers that nobody declared": (
        "ds.where(…) turns them into missing values",
        lambda: rain(8).where(rain(8)["x"] > 0, -(2**31)).astype("int32").to_dataset(),
    ),
}  # fmt: skip
VARIABLES: dict[str, tuple[str, Callable[[], xr.Dataset]]] = {
    "variables of another dimension": (
        "ds[…]",
        lambda: weather(8).assign(levels=weather(8)["rain"].expand_dims(level=2)),
    ),
    "variables on two grids": (
        "ds[…]", lambda: rain(8).to_dataset().assign(coarse=rain(8, 6, 5).rename(y="y2", x="x2")),
    ),
}  # fmt: skip


def _read(ds: xr.Dataset | xr.DataArray) -> Frames:
    frames = Frames.from_xarray(ds, gaps="refuse")
    frames.read(0, len(frames))
    return frames


@pytest.mark.parametrize("case", [case for case in TIMES if case not in ORDERED])
@remedy("times/data.py", *(text for case, (text, _) in TIMES.items() if case not in ORDERED))
def test_times(case):
    yield from _times_given(*TIMES[case])


@pytest.mark.parametrize("case", ORDERED)
@remedy("times/regular.py", *(TIMES[case][0] for case in ORDERED))
def test_times_in_order(case):
    yield from _times_given(*TIMES[case])


def _times_given(text, data):
    ds = data()
    fix = yield lambda: _read(ds)
    assert matches(text, fix)
    mended = value(fix, ds=ds)
    yield lambda: _read(mended)


@pytest.mark.parametrize("case", GRIDS)
@remedy("frames/grid.py", *(text for text, _ in GRIDS.values()))
def test_grids(case):
    text, ds = GRIDS[case][0], GRIDS[case][1]()
    fix = yield lambda: _read(ds)
    assert matches(text, fix)
    mended = value(fix, ds=ds)
    yield lambda: _read(mended)


@pytest.mark.parametrize("case", VALUES)
@remedy("frames/values.py", *(text for text, _ in VALUES.values()))
def test_values(case):
    text, ds = VALUES[case][0], VALUES[case][1]()
    fix = yield lambda: _read(ds)
    assert matches(text, fix)
    mended = value(fix, ds=ds)
    yield lambda: _read(mended)


@pytest.mark.parametrize("case", VARIABLES)
@remedy("frames/selection.py", *(text for text, _ in VARIABLES.values()))
def test_variables(case):
    text, ds = VARIABLES[case][0], VARIABLES[case][1]()
    fix = yield lambda: _read(ds)
    assert matches(text, fix)
    mended = value(fix, ds=ds)
    yield lambda: _read(mended)


@remedy("frames/grid.py", "ds.isel({…: slice(…, …)})", "….sortby(…)")
@pytest.mark.parametrize("case", ["hole", "antimeridian"])
def test_a_grid_with_a_hole_is_named_in_a_warning(case):
    ds = _rows([0.0, 1, 2, 3, 4, 500, 501, 502]) if case == "hole" else _longitudes([-180.0, -179, -178, 177, 178, 179])
    name = "y" if case == "hole" else "lon"

    def look(ds):
        found = jump(ds[name])
        if found is not None:
            raise found

    fix = yield lambda: look(ds)
    yield lambda: look(value(fix, ds=ds))


@remedy(
    "times/regular.py", "fill in or resample the times, or allow gaps with gaps='skip' (data.gaps: skip in a recipe)"
)
@pytest.mark.parametrize("how", ["fill in", "resample", "skip"])
def test_a_missing_frame(how):
    holed = rain(8).isel(time=[0, 1, 2, 4, 5, 6, 7]).to_dataset()
    fix = yield lambda: _read(holed)
    if how == "skip":
        yield lambda: Frames.from_xarray(holed, **keywords(fix))
    elif how == "resample":
        yield lambda: _read(holed.resample(time="10min").mean())
    else:
        yield lambda: _read(holed.interp(time=rain(8)["time"]))


@remedy("times/regular.py", "give more frames")
def test_one_frame():
    yield lambda: _read(rain(1))
    yield lambda: _read(rain(2))


@remedy("times/data.py", "steps=…")
def test_valid_times_beyond_what_can_be_stored():
    data = rain(20).assign_coords(time=pd.date_range("2260-05-01", periods=20, freq="30D"))
    fix = yield lambda: hindcast(data, "persistence", 9)
    yield lambda: hindcast(data, "persistence", **keywords(fix))


@remedy("frames/selection.py", "correct or remove the attribute")
@pytest.mark.parametrize("wrong", [{"scale_factor": "many"}, {"add_offset": "none"}, {"scale_factor": [0.1, 0.2]}])
@pytest.mark.parametrize("how", ["correct", "remove"])
def test_an_attribute_of_packing_that_is_none(how, wrong):
    data = rain(8).astype("int16").assign_attrs(rain().attrs, **wrong)
    yield lambda: _read(data)
    for name in wrong:
        del data.attrs[name]
        if how == "correct":
            data.attrs[name] = 0.01


# --- dimensions


@remedy("metadata/dims.py", "name one with …=")
@pytest.mark.parametrize("case", ["none of that name", "two of them"])
def test_a_dimension_that_is_named(case):
    if case == "two of them":
        data = rain(6).rename(y="a", x="b").drop_vars(["a", "b"])
        data = data.assign_coords(a=("a", np.arange(24.0), {"axis": "Y"}), b=("b", np.arange(20.0), {"axis": "Y"}))
        fix = yield lambda: _read(data)
        name = fix.rpartition(" ")[2].rstrip("=")
        yield lambda: Frames.from_xarray(data, **{name: "a", "x": "b"})
    else:
        fix = yield lambda: Frames.from_xarray(rain(), y="rows")
        yield lambda: Frames.from_xarray(rain(), **{fix.rpartition(" ")[2].rstrip("="): "y"})


@remedy("metadata/dims.py", "name it with …=, or set its CF attributes")
@pytest.mark.parametrize("how", ["name", "attributes"])
def test_a_dimension_that_is_not_found(how):
    data = rain(6).rename(y="a", x="b").drop_vars(["a", "b"])
    fix = yield lambda: _read(data)
    if how == "name":
        yield lambda: Frames.from_xarray(data, y="a", x="b")
    else:
        told = {d: (d, np.arange(data.sizes[d]), {"axis": axis}) for d, axis in (("a", "Y"), ("b", "X"))}
        yield lambda: _read(data.assign_coords(told))
    assert "y=" in fix


@remedy("metadata/dims.py", "name one with channel=")
def test_a_channel_dimension_that_is_not_there():
    data = rain(6).expand_dims(channel=2)
    yield lambda: Frames.from_xarray(data, channel="flow")
    yield lambda: Frames.from_xarray(data, channel="channel")


@remedy("metadata/dims.py", "choose one entry with .isel(…=0), or name it with channel=…")
@pytest.mark.parametrize("how", ["choose", "name"])
def test_another_dimension(how):
    ds = rain(6).expand_dims(height=2)
    fix = yield lambda: _read(ds)
    if how == "name":
        yield lambda: Frames.from_xarray(ds, **keywords(fix.partition(", or ")[2]))
    else:
        yield lambda: _read(value(fix.replace(" .", " ds."), ds=ds))


@remedy("frames/sequence.py", "write the file again from its source")
def test_frames_of_a_damaged_store(tmp_path):
    options = {"zarr_format": 3, "consolidated": False, "encoding": {"rain": {"chunks": (1, 24, 20)}}}
    rain(8).to_dataset().to_zarr(tmp_path / "a.zarr", **options)
    (tmp_path / "a.zarr" / "rain" / "c" / "3" / "0" / "0").write_bytes(b"damaged")
    yield lambda: _read(xr.open_zarr(tmp_path / "a.zarr", consolidated=False, chunks=None))
    rain(8).to_dataset().to_zarr(tmp_path / "a.zarr", mode="w", **options)


def test_an_error_without_a_remedy_says_what_is_expected():
    ds = xr.Dataset({"a": ("time", [1.0, 2]), "b": (("y", "x"), np.zeros((2, 2)))}, {"time": MONTHS[:2]})
    with pytest.raises(DataError, match=r"no variable has the dimensions time, y, x, expected one with all\.$"):
        _read(ds)
