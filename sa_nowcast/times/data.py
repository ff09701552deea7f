"""Times of data, without what storing them as floats added, and with coordinates that hold them."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable
from datetime import date
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.times.given import FIRST_YEAR, ISO, LAST_YEAR, Times, plain, read_time
from sa_nowcast.times.regular import LEAST_TOLERANCE, UNITS, made_up, tolerance
from sa_nowcast.times.shown import show_time

_Data = TypeVar("_Data", xr.DataArray, xr.Dataset)
_LONG_UNITS: Final = tuple(60 * 10**9 * n for n in (5, 10, 15, 30, 60, 1440))
_YEAR: Final = 31_556_952  # seconds of a mean Gregorian year
_SIZES: Final = {
    "day": 86400 * 10**9, "hour": 3600 * 10**9, "hr": 3600 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9,
    "minute": 60 * 10**9, "min": 60 * 10**9, "second": 10**9, "sec": 10**9, "": 10**9, "millisecond": 10**6,
}  # fmt: skip


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
    values: Any = coord.values
    if not isinstance(coord.dtype, np.dtype):  # pandas' times with a time zone
        values = pd.DatetimeIndex(coord.to_index()).tz_convert("UTC").tz_localize(None).to_numpy()
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
    years = ISO.match(origin.strip())
    begin = (int(years["time"][:4]) if years else 1970) - 1970
    seconds = coord.values.astype("datetime64[s]").astype(np.int64) - begin * _YEAR
    farthest = int(np.abs(seconds).max()) * 10**9  # an int of Python: two millennia are beyond 64 bits
    spacing = np.spacing(np.asarray(farthest / size, dtype=kind))
    # Half of it by rounding; and decoding multiplies in float64.
    return int(spacing * size / 2 + np.spacing(float(farthest))) + 1


def valid_times(init: Times, leads: npt.NDArray[np.timedelta64], name: str) -> Times:
    """Return init times, scalar or (n,), plus lead times (m,), or refuse those beyond the year 2262."""
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


def _holds_times(coord: xr.DataArray) -> bool:
    if coord.dtype.kind not in "OSU":
        return coord.dtype.kind == "M"
    values = coord.values
    return bool(values.size) and (hasattr(values.flat[0], "calendar") or _from_text(values) is not None)


def _from_text(values: npt.NDArray[Any]) -> Times | None:
    """Return text in ISO 8601, or datetimes as objects, as times in UTC; None where they are something else."""
    items = [v.decode("ascii", "replace") if isinstance(v, bytes) else v for v in values.ravel().tolist()]
    texts = [plain(v) if isinstance(v, str) else v for v in items]
    if not all(isinstance(t, date) or (isinstance(t, str) and ISO.fullmatch(t)) for t in texts):
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
            fix=made_up(dim, array.sizes[dim]),
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
    return DataError(where, found, expected="datetime64", fix=made_up(dim, array.sizes[dim]))


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
    """Return times in the finest unit that all of them are near to, or as they are; of every part alike."""
    values = times.astype(np.int64)
    apart = np.abs(np.diff(values))
    most = rounding or (tolerance(int(np.median(apart))) if apart.any() else LEAST_TOLERANCE)
    for unit in (*UNITS, *(_LONG_UNITS if rounding else ())):
        if unit < 2 * rounding:
            continue
        whole = (values + unit // 2) // unit * unit
        off = int(np.abs(whole - values).max(initial=0))
        if off <= min(max(unit // 100, min(rounding, 2 * unit // 5)), most):
            return whole.astype("datetime64[ns]") if off else times
    return times
