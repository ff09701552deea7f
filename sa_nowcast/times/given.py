"""Times, periods and lead times as users give them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from sa_nowcast.errors import RecipeError
from sa_nowcast.times.shown import show_step

Times = npt.NDArray[np.datetime64]

FIRST_YEAR, LAST_YEAR = 1678, 2261
"""The years of which nanoseconds since 1970 hold every time."""
ISO: Final = re.compile(
    r"(?P<time>\d{4}(?P<day>-?\d\d(-?\d\d(?P<hour>[T _]?\d\d(:?\d\d(:?\d\d([.,]\d+)?)?)?)?)?)?)"
    r" ?(?P<zone>Z|UTC|GMT|[+-]\d\d(:?\d\d)?)?"
)
_CALENDARS: Final = ("standard", "gregorian", "proleptic_gregorian")


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
    with August, as in pandas. A bound that is no time is refused by its text.
    """
    expected = "a slice of times in UTC, such as slice('2019-06', '2019-08')"
    first = None if wanted.start is None else read_time(wanted.start, where, expected)
    if wanted.stop is None:
        return first, None
    last = read_time(wanted.stop, where, expected)
    found = ISO.fullmatch(plain(wanted.stop)) if isinstance(wanted.stop, str) else None
    if found is not None:
        # An offset shifts the end as it does the begin.
        period = pd.Period(found["time"].replace("_", "T"))
        last = last + (period.end_time - period.start_time).as_unit("ns").to_timedelta64()
    return first, last


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


def plain(text: str) -> str:
    """Return text as `ISO` matches it."""
    return text.strip().upper()


def _stamp(text: str) -> pd.Timestamp:
    found = ISO.fullmatch(plain(text))
    if found is None or (found["zone"] and not found["hour"]):
        raise ValueError(text)
    zone = (found["zone"] or "").replace("UTC", "Z").replace("GMT", "Z")
    return pd.Timestamp(found["time"].replace("_", "T").replace(",", ".") + zone)
