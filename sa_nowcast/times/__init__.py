"""Times: of a sequence, checked for order and regularity; as users give them; and shown as users read them.

Files store times as floating-point numbers of days or hours, so that decoded ones are off by up to 0.3 us (float64 days
since 1970), 5 us (float64 days since the year 1) or seconds (float32 hours of a year). `read_times` takes that off. A
step counts as regular where it is within a thousandth of the cadence: 0.3 s of 5 min, in which rain moves some metres.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Hashable, Sequence
from datetime import date, timedelta
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata import dims

Times = npt.NDArray[np.datetime64]
Gaps = Literal["refuse", "skip"]
Positions = npt.NDArray[np.intp]
Found = npt.NDArray[np.bool_]
_Data = TypeVar("_Data", xr.DataArray, xr.Dataset)


FIRST_YEAR, LAST_YEAR = 1678, 2261
"""The years of which nanoseconds since 1970 hold every time."""

_MICROSECOND = 1000
_UNITS = tuple(_MICROSECOND * n for n in (1, 10, 100, 10**3, 10**4, 10**5, 10**6, 10**7, 6 * 10**7))
_LONG_UNITS = tuple(60 * 10**9 * n for n in (5, 10, 15, 30, 60, 1440))
_COARSE = 10**9
_LEAST_TOLERANCE = 20 * _MICROSECOND
_ISO = re.compile(
    r"(?P<time>\d{4}(?P<day>-?\d\d(-?\d\d(?P<hour>[T _]?\d\d(:?\d\d(:?\d\d([.,]\d+)?)?)?)?)?)?)"
    r" ?(?P<zone>Z|UTC|GMT|[+-]\d\d(:?\d\d)?)?"
)
_YEAR = 31_556_952  # seconds of a mean Gregorian year
_SIZES = {
    "day": 86400 * 10**9, "hour": 3600 * 10**9, "hr": 3600 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9,
    "minute": 60 * 10**9, "min": 60 * 10**9, "second": 10**9, "sec": 10**9, "": 10**9, "millisecond": 10**6,
}  # fmt: skip
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")


def read_times(array: xr.DataArray | xr.Dataset, dim: Hashable, name: str) -> Times:
    """Return the times along `dim` as datetime64[ns], without what storing them as floats added.

    They are those of the dimension's own coordinate, or of another one along it, such as WRF's ``XTIME`` or GRIB's
    ``valid_time``. Times with a time zone are converted to UTC; text in ISO 8601 is read.

    Parameters
    ----------
    array : DataArray or Dataset
    dim : hashable
    name : str
        What errors call the data.

    Raises
    ------
    DataError
        No times, or such as numpy's nanoseconds cannot hold: other calendars, years before 1678 or after 2261.
    """
    coord = _time_coordinate(array, dim, name)
    if coord is None:
        raise _no_times(array, dim, name)
    label = coord.name
    base = "ds" if label == dim else f"ds.swap_dims({{{dim!r}: {label!r}}})"
    where = f"{name}, {label}"
    values: Any = _in_utc(coord)
    calendar = getattr(values.flat[0], "calendar", None) if values.dtype == object and values.size else None
    if calendar is not None:
        _require_years(where, base, label, np.array([v.year for v in values.flat]))
        align = ", align_on='date'" if calendar == "360_day" else ""
        raise DataError(
            where,
            f"cftime dates of calendar {calendar}",
            expected="datetime64",
            fix=f"{base}.convert_calendar('standard', use_cftime=False, dim={label!r}{align})",
        )
    if values.dtype.kind != "M":
        values = _from_text(values)
    if np.isnat(values).any():
        raise DataError(
            where,
            f"no time at position {int(np.argmax(np.isnat(values)))}",
            expected="a time for every frame",
            fix=f"{base}.sel({{{label!r}: {base}[{label!r}].notnull()}})",
        )
    _require_years(where, base, label, values.astype("datetime64[Y]").astype(np.int64) + 1970)
    times: Times = values.astype("datetime64[ns]")
    return _without_rounding(times, stored_rounding(array, dim)) if times.ndim == 1 else times


def with_times(obj: _Data, dim: Hashable, name: str) -> _Data:
    """Return `obj` with the times of `read_times` as the coordinate of `dim`; as it is where it has them."""
    times = read_times(obj, dim, name)
    own = obj.coords.get(dim)
    if own is not None and _is_plain(own) and np.array_equal(own.values, times):
        return obj
    coord = _time_coordinate(obj, dim, name)
    assert coord is not None
    encoding = {k: v for k, v in coord.encoding.items() if k in ("dtype", "units", "calendar")}
    return obj.assign_coords({dim: xr.Variable(coord.dims, times, coord.attrs, encoding)})


def times_name(array: xr.DataArray | xr.Dataset, dim: Hashable) -> Hashable:
    """Return the name of the coordinate that holds the times along `dim`."""
    coord = _time_coordinate(array, dim, "data")
    return dim if coord is None or coord.name is None else coord.name


def stored_rounding(array: xr.DataArray | xr.Dataset, dim: Hashable) -> int:
    """Return by how many nanoseconds the times along `dim` can be off as their file stores them; 0 where unknown."""
    coord = _time_coordinate(array, dim, "data")
    kind = None if coord is None else coord.encoding.get("dtype")
    unit, _, origin = ("" if coord is None else str(coord.encoding.get("units", ""))).partition(" since ")
    size = _SIZES.get(unit.strip().lower().rstrip("s"))
    if coord is None or not _is_plain(coord) or not coord.size or size is None or np.dtype(kind or "i8").kind != "f":
        return 0
    years = _ISO.match(origin.strip())
    begin = (int(years["time"][:4]) if years else 1970) - 1970
    seconds = coord.values.astype("datetime64[s]").astype(np.int64) - begin * _YEAR
    farthest = int(np.abs(seconds).max()) * 10**9  # an int of Python: two millennia are beyond 64 bits
    spacing = np.spacing(np.asarray(farthest / size, dtype=kind))
    # Half of it by rounding; and decoding multiplies in float64.
    return int(spacing * size / 2 + np.spacing(float(farthest))) + 1


def tolerance(step: int | np.timedelta64, rounding: int = 0) -> int:
    """Return by how many nanoseconds a step may differ from `step` and be regular; `rounding` as in `stored_rounding`.

    A thousandth of it, or what storing can add to a difference of two times; at least 20 µs, at most a quarter of it.
    """
    size = _nanoseconds(step)
    return min(max(size // 1000, 2 * rounding, _LEAST_TOLERANCE), size // 4)


def nearest(index: Times, wanted: Times | np.datetime64, step: np.timedelta64 | None = None) -> tuple[Positions, Found]:
    """Return where the times nearest to `wanted` stand in `index`, and whether they are the same.

    Times are the same where they are within a hundredth of the step: so those that a file stores as floating-point
    numbers are found by exact ones, and the other way round.

    Parameters
    ----------
    index : ndarray of datetime64, shape (n,)
        In any order.
    wanted : ndarray of datetime64, any shape
    step : timedelta64, optional
        By default the least difference between times of `index`.
    """
    order = np.argsort(index, kind="stable")
    ordered, asked = index[order].astype("datetime64[ns]"), np.asarray(wanted, dtype="datetime64[ns]")
    if not ordered.size:
        return np.zeros(asked.shape, dtype=np.intp), np.zeros(asked.shape, dtype=bool)
    after = np.clip(np.searchsorted(ordered, asked), 0, ordered.size - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(asked - ordered[before]) < np.abs(ordered[after] - asked)
    place = np.where(closer, before, after)
    apart = np.diff(ordered).astype(np.int64)
    least = _nanoseconds(step) if step is not None else int(apart[apart > 0].min(initial=2**62))
    allowed = least // 100 if least < 2**62 else 0
    return order[place], np.abs(ordered[place] - asked).astype(np.int64) <= allowed


def numbered(times: Times, step: np.timedelta64) -> npt.NDArray[np.int64]:
    """Return the numbers of times in their order; those within a hundredth of `step` have one number."""
    known = np.unique(times)
    numbers = np.cumsum(np.diff(known, prepend=known[:1]).astype(np.int64) > _nanoseconds(step) // 100)
    return np.asarray(numbers[np.searchsorted(known, times)], dtype=np.int64)


def regular_segments(
    times: Times,
    dim: Hashable,
    name: str,
    gaps: Gaps,
    step: np.timedelta64 | None,
    rounding: int = 0,
    label: Hashable | None = None,
) -> tuple[np.timedelta64, tuple[tuple[int, int], ...]]:
    """Return the step and the half-open ranges of positions without a gap, or refuse the first fault.

    `rounding` is that of `stored_rounding`, see `tolerance`; `label` the coordinate of the times, where it is not
    `dim`'s own.
    """
    label = dim if label is None else label
    if gaps not in ("refuse", "skip"):
        raise DataError(name, f"gaps={gaps!r}", expected="'refuse' or 'skip'")
    differences = np.diff(times).astype(np.int64)
    if (differences < 0).any():
        at = int(np.argmax(differences < 0)) + 1
        raise DataError(
            f"{name}, {show_time(times[at])}",
            f"times are not sorted: position {at} is before {show_time(times[at - 1])} at position {at - 1}",
            fix=f"ds.sortby({label!r})",
        )
    if (differences == 0).any():
        at = int(np.argmax(differences == 0))
        count = int((times == times[at]).sum())
        base = "ds" if label == dim else f"ds.swap_dims({{{dim!r}: {label!r}}})"
        apart = np.timedelta64(2 * rounding, "ns")
        known = rounding > int(np.median(differences)) // 4 or not np.median(differences)
        coarse = rounding > _COARSE and known
        raise DataError(
            f"{name}, {show_time(times[at])}",
            f"the time occurs {count} times, first at position {at}"
            + (f": the file stores times by a type that holds them every {show_step(apart)} only" if coarse else ""),
            expected="the first time and the step of the data"
            if coarse
            else "once, and the first frame of each is kept",
            fix=_made_up(dim, len(times)) if coarse else f"{base}.drop_duplicates({label!r})",
        )
    if step is not None:
        wanted = _nanoseconds(step)
    elif len(differences):
        wanted = most_common_step(differences, rounding)
    else:
        raise DataError(name, "1 frame, which has no time step", expected="at least 2 frames", fix="give more frames")
    wrong = np.flatnonzero(np.abs(differences - wanted) > tolerance(wanted, rounding))
    if len(wrong) and gaps == "refuse":
        at = int(wrong[0])
        off = np.abs(differences - np.rint(differences / wanted).astype(np.int64) * wanted)
        missing = max(round(int(differences[at]) / wanted) - 1, 0)
        lost = f" ({missing} missing, first {show_time(times[at] + np.timedelta64(wanted, 'ns'))})" if missing else ""
        more = f", and {len(wrong) - 1} more such places" if len(wrong) > 1 else ""
        raise DataError(
            f"{name}, {show_time(times[at + 1])}",
            f"step is {show_step(np.timedelta64(int(differences[at]), 'ns'))}{lost}{more}",
            expected=show_step(np.timedelta64(wanted, "ns")),
            # Where all are whole numbers of steps apart, frames are missing, and none is out of place.
            fix=(_round_off(times, label) if (off > tolerance(wanted, rounding)).any() else None)
            or "fill in or resample the times, or allow gaps with gaps='skip' (data.gaps: skip in a recipe)",
        )
    cuts = [0, *(wrong + 1).tolist(), len(times)]
    return np.timedelta64(wanted, "ns"), tuple(itertools.pairwise(cuts))


def most_common_step(differences: npt.NDArray[np.int64], rounding: int = 0) -> int:
    """Return the most common of positive differences in nanoseconds; those within `tolerance` are one.

    Where they vary by rounding it is their mean, in the coarsest unit that the mean allows.
    """
    ordered = np.sort(differences)
    if ordered[0] == ordered[-1]:
        return int(ordered[0])
    allowed = np.minimum(np.maximum(np.maximum(ordered // 1000, 4 * rounding), _LEAST_TOLERANCE), ordered // 4)
    ends = np.searchsorted(ordered, ordered + allowed, side="right")
    first = int(np.argmax(ends - np.arange(len(ordered))))
    alike = ordered[first : ends[first]]
    values, counts = np.unique(alike, return_counts=True)
    if not rounding and counts.max() * 2 > len(alike):
        return int(values[np.argmax(counts)])
    mean, spread = round(float(alike.mean())), int(alike[-1] - alike[0])
    whole = (round(mean / unit) * unit for unit in reversed(_UNITS) if unit <= mean)
    return next((w for w in whole if abs(w - mean) * len(alike) <= 2 * spread), mean)


def read_time(value: Any, where: str, expected: str = "one time in UTC, such as '2019-06-10T00:30'") -> np.datetime64:
    """Return a time that a user gives as datetime64[ns] in UTC.

    Parameters
    ----------
    value : str, datetime64, datetime, Timestamp, cftime date, or a DataArray or array of one of them
        Text is ISO 8601, with Z or another offset where it is not UTC without saying so; 2019-06 is its first day.
    where : str
        The argument, for errors.
    expected : str
        What errors say is expected.

    Raises
    ------
    RecipeError
        No time, or one that nanoseconds cannot hold.
    """
    shown = " ".join(repr(value).split())[:80]
    value = getattr(value, "values", value)
    value = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if getattr(value, "calendar", None) in _CALENDARS:
        value = value.isoformat()
    stamp: Any = pd.NaT
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if isinstance(value, str):
            stamp = _stamp(value)
        elif isinstance(value, date | np.datetime64):
            stamp = pd.Timestamp(value)
        if not pd.isna(stamp) and stamp.tz is not None:
            stamp = stamp.tz_convert("UTC").tz_localize(None)
    if pd.isna(stamp):
        raise RecipeError(where, shown, expected)
    if not FIRST_YEAR <= stamp.year <= LAST_YEAR:
        raise RecipeError(where, shown, f"a year from {FIRST_YEAR} to {LAST_YEAR}, which nanoseconds can hold")
    return np.datetime64(stamp.as_unit("ns").to_datetime64())


def read_moments(values: Any, where: str) -> Times:
    """Return a sequence of times that a user gives, each as by `read_time`."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "M" and not np.isnat(values).any():
        years = values.astype("datetime64[Y]").astype(np.int64) + 1970
        if ((years >= FIRST_YEAR) & (years <= LAST_YEAR)).all():
            return values.astype("datetime64[ns]")
    return np.array([read_time(one, where) for one in values], dtype="datetime64[ns]")


def read_period(wanted: slice, where: str) -> tuple[np.datetime64 | None, np.datetime64 | None]:
    """Return the first and the last nanosecond of a slice of times; None where it is open.

    Text without a time of day, or without seconds, means all of that day or minute: slice('2019-06', '2019-08') ends
    with August, as in pandas.

    Raises
    ------
    RecipeError
        A bound that is no time, by its text.
    """
    expected = "a slice of times in UTC, such as slice('2019-06', '2019-08')"
    first = None if wanted.start is None else read_time(wanted.start, where, expected)
    if wanted.stop is None:
        return first, None
    last = read_time(wanted.stop, where, expected)
    found = _ISO.fullmatch(_plain(wanted.stop)) if isinstance(wanted.stop, str) else None
    if found is not None:
        # An offset shifts the end as it does the begin.
        period = pd.Period(found["time"].replace("_", "T"))
        last = last + (period.end_time - period.start_time).as_unit("ns").to_timedelta64()
    return first, last


def valid_times(init: Times, leads: npt.NDArray[np.timedelta64], name: str) -> Times:
    """Return init times, scalar or (n,), plus lead times (m,); nanoseconds end in the year 2262.

    Raises
    ------
    DataError
        A valid time beyond that.
    """
    starts, ahead = (part.astype(np.int64) for part in (init.astype("datetime64[ns]"), leads.astype("timedelta64[ns]")))
    last = np.iinfo(np.int64).max
    if starts.size and ahead.size and int(starts.max()) + int(ahead.max()) > last:
        most = int((last - int(starts.max())) // max(int(ahead.min()), 1))
        raise DataError(
            f"{name}, {show_time(np.datetime64(int(starts.max()), 'ns'))}",
            f"the valid times reach beyond {show_time(np.datetime64(last, 'ns'))}",
            expected="times that nanoseconds can hold",
            fix=f"steps={most}" if most > 0 else None,
        )
    valid: Times = (starts[..., np.newaxis] + ahead).astype("datetime64[ns]")
    return valid


def stored_as(times: Times) -> dict[str, str]:
    """Return the encoding that holds times exactly, as integers of the largest unit."""
    whole = not (times.astype("datetime64[ns]").astype(np.int64) % 10**9).any()
    return {"units": f"{'seconds' if whole else 'nanoseconds'} since 1970-01-01", "dtype": "int64"}


def _time_coordinate(array: xr.DataArray | xr.Dataset, dim: Hashable, name: str) -> xr.DataArray | None:
    """Return the coordinate that holds the times along `dim`, or None where none does."""
    if dim in array.coords and _holds_times(array.coords[dim]):
        return array.coords[dim]
    found = dims.times_along({n: c.variable for n, c in array.coords.items()}, dim)
    found = [n for n in found if _holds_times(array.coords[n])]
    if len(found) > 1:
        raise DataError(
            f"{name}, {dim}",
            f"{', '.join(map(str, found))} could each be its times",
            expected="one",
            fix=f"ds.swap_dims({{{dim!r}: {found[0]!r}}})",
        )
    return array.coords[found[0]] if found else None


def _is_plain(coord: xr.DataArray) -> bool:
    """Say whether a coordinate is of datetime64; pandas' types with a time zone are no dtypes of numpy."""
    return isinstance(coord.dtype, np.dtype) and coord.dtype.kind == "M"


def _in_utc(coord: xr.DataArray) -> npt.NDArray[Any]:
    """Return the values of a coordinate, times with a time zone in UTC."""
    if isinstance(coord.dtype, np.dtype):
        return coord.values
    return pd.DatetimeIndex(coord.to_index()).tz_convert("UTC").tz_localize(None).to_numpy()


def _holds_times(coord: xr.DataArray) -> bool:
    if coord.dtype.kind not in "OSU":
        return coord.dtype.kind == "M"
    values = coord.values
    return bool(values.size) and (hasattr(values.flat[0], "calendar") or _from_text(values) is not None)


def _from_text(values: npt.NDArray[Any]) -> Times | None:
    """Return text in ISO 8601, or datetimes as objects, as times in UTC; None where they are something else."""
    items = [v.decode("ascii", "replace") if isinstance(v, bytes) else v for v in values.ravel().tolist()]
    texts = [_plain(v) if isinstance(v, str) else v for v in items]
    if not all(isinstance(t, date) or (isinstance(t, str) and _ISO.fullmatch(t)) for t in texts):
        return None
    try:
        return np.array([read_time(t, "") for t in texts], dtype="datetime64[ns]").reshape(values.shape)
    except RecipeError:
        return None


def _no_times(array: xr.DataArray | xr.Dataset, dim: Hashable, name: str) -> DataError:
    if dim not in array.coords:
        return DataError(
            name,
            f"dimension {dim} has no coordinate",
            expected="times, your own first one and step",
            fix=_made_up(dim, array.sizes[dim]),
        )
    coord = array.coords[dim]
    where, found = f"{name}, {dim}", f"values of type {coord.dtype}"
    if coord.dtype.kind == "m":
        begin = [n for n, c in array.coords.items() if c.ndim == 0 and c.dtype.kind == "M"]
        origin = f"ds[{begin[0]!r}]" if len(begin) == 1 else "np.datetime64('2000-01-01', 'ns')"
        return DataError(where, found, "datetime64", f"ds.assign_coords({{{dim!r}: {origin} + ds[{dim!r}]}})")
    if coord.dtype.kind in "fiu":
        if " since " in str(coord.attrs.get("units", "")):
            return DataError(where, f"times as numbers, {coord.attrs['units']}", "datetime64", "xr.decode_cf(ds)")
        digits = {len(str(v)) for v in coord.values.astype(np.int64).ravel().tolist()}
        form = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(max(digits, default=0))
        with contextlib.suppress(ValueError):
            if form is not None and len(digits) == 1 and coord.dtype.kind in "iu" and coord.ndim == 1:
                pd.to_datetime(coord.values.astype(str), format=form)
                text = f"pd.to_datetime(ds[{dim!r}].values.astype(str), format={form!r})"
                return DataError(where, found, "datetime64", f"ds.assign_coords({{{dim!r}: {text}}})")
    return DataError(where, found, expected="datetime64", fix=_made_up(dim, array.sizes[dim]))


def _made_up(dim: Hashable, count: int) -> str:
    """Return how to give times where the data have none: with an own first time and step in place of these."""
    return f"ds.assign_coords({{{dim!r}: pd.date_range('2000-01-01', periods={count}, freq='5min')}})"


def _require_years(where: str, base: str, label: Hashable, years: npt.NDArray[np.int64]) -> None:
    outside = (years < FIRST_YEAR) | (years > LAST_YEAR)
    if outside.any():
        raise DataError(
            where,
            f"{int(outside.sum())} of {years.size} times are in the years {years.min()} to {years.max()}",
            expected=f"{FIRST_YEAR} to {LAST_YEAR}, the years that numpy's nanoseconds can hold; others cannot be used",
            fix=f"{base}.sel({{{label!r}: slice('{FIRST_YEAR}', '{LAST_YEAR}')}})",
        )


def _without_rounding(times: Times, rounding: int) -> Times:
    """Return times in the finest unit that all of them are near to, or as they are.

    Near is within what their file's type adds, or within a hundredth of the unit where that is not known; then none
    moves by more than `tolerance`. The result does not depend on which part of a sequence is given.
    """
    values = times.astype(np.int64)
    apart = np.abs(np.diff(values))
    most = rounding or (tolerance(int(np.median(apart))) if apart.any() else _LEAST_TOLERANCE)
    for unit in (*_UNITS, *(_LONG_UNITS if rounding else ())):
        if unit < 2 * rounding:
            continue
        whole = (values + unit // 2) // unit * unit
        off = int(np.abs(whole - values).max(initial=0))
        if off <= min(max(unit // 100, min(rounding, 2 * unit // 5)), most):
            return whole.astype("datetime64[ns]") if off else times
    return times


def _round_off(times: Times, dim: Hashable) -> str | None:
    """Return how to round times that are a regular sequence but for deviations of less than half a step."""
    if len(times) < 3:
        return None
    mean = round(int((times[-1] - times[0]).astype(np.int64)) / (len(times) - 1))
    for unit, letter in ((3600 * 10**9, "h"), (60 * 10**9, "min"), (10**9, "s")):
        count = round(mean / unit)
        size = count * unit
        if count and abs(size - mean) * len(times) < size:
            steps = np.diff((times.astype(np.int64) + size // 2) // size)
            if (steps == 1).all():
                return f"ds.assign_coords({{{dim!r}: ds[{dim!r}].dt.round('{count}{letter}')}})"
    return None


def _plain(text: str) -> str:
    return text.strip().upper()


def _stamp(text: str) -> pd.Timestamp:
    found = _ISO.fullmatch(_plain(text))
    if found is None or (found["zone"] and not found["hour"]):
        raise ValueError(text)
    zone = (found["zone"] or "").replace("UTC", "Z").replace("GMT", "Z")
    return pd.Timestamp(found["time"].replace("_", "T").replace(",", ".") + zone)


def _nanoseconds(step: int | np.timedelta64) -> int:
    return step if isinstance(step, int) else int(np.asarray(step).astype("timedelta64[ns]").astype(np.int64))


def show_time(time: np.datetime64) -> str:
    """Return a time as ISO 8601, to the minute where the seconds are zero."""
    text = str(time.astype("datetime64[ns]")).rstrip("0").rstrip(".")
    whole = str(time.astype("datetime64[s]"))
    if text.startswith(whole) and len(text) > len(whole):
        return text
    return whole[:-3] if whole.endswith(":00") else whole


def show_step(step: np.timedelta64) -> str:
    """Return a time step in the largest unit that holds it without a fraction: ``2 min``, ``3 h``, ``1 d``.

    What is no whole number of milliseconds is given in seconds with a fraction.
    """
    ns = int(step.astype("timedelta64[ns]").astype(np.int64))
    for unit, size in (
        ("d", 86400 * 10**9),
        ("h", 3600 * 10**9),
        ("min", 60 * 10**9),
        ("s", 10**9),
        ("ms", 10**6),
    ):
        if ns % size == 0 and ns != 0:
            return f"{ns // size} {unit}"
    return f"{ns / 10**9:.12g} s" if abs(ns) > 10**6 else f"{ns} ns"


def read_leads(lead_times: Any) -> npt.NDArray[np.timedelta64]:
    """Return lead times as timedelta64[ns], or refuse what is none; a str is read as pandas does, such as "10min"."""
    given = getattr(lead_times, "values", lead_times)
    given = [given] if isinstance(given, str | np.timedelta64 | timedelta) else given
    shown = " ".join(repr(lead_times).split())
    items = list(given) if isinstance(given, Sequence | np.ndarray) and np.ndim(given) == 1 else []
    # pandas reads a bare number as nanoseconds.
    bare = [i for i in items if isinstance(i, str | int | float | np.number) and not isinstance(i, np.timedelta64)]
    if not items or any(not str(item).strip(" 0123456789.").strip() or not isinstance(item, str) for item in bare):
        raise RecipeError("lead_times", f"{shown:.80}", "a sequence of timedelta64, or of text such as '10min'")
    try:
        leads: npt.NDArray[np.timedelta64] = pd.to_timedelta(items).to_numpy().astype("timedelta64[ns]")
    except (ValueError, TypeError) as error:
        raise RecipeError("lead_times", f"{shown:.80}", "lead times such as '10min'") from error
    if np.isnat(leads).any() or (leads <= np.timedelta64(0)).any() or (np.diff(leads) <= np.timedelta64(0)).any():
        raise RecipeError("lead_times", f"are {[show_step(lead) for lead in leads]}", "positive and ascending")
    return leads
