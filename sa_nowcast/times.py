"""Times of a sequence: read, checked for order and regularity, and shown as a user reads them."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError

Times = npt.NDArray[np.datetime64]
Gaps = Literal["refuse", "skip"]


def read_times(array: xr.DataArray, dim: Hashable, name: str) -> Times:
    """Return the times along `dim` as datetime64[ns], or refuse what numpy cannot hold."""
    if dim not in array.coords:
        raise DataError(
            name,
            f"dimension {dim} has no coordinate",
            expected="times",
            fix=f"ds.assign_coords({dim}=pd.date_range(...))",
        )
    coord = array.coords[dim]
    if coord.dtype.kind == "O" and coord.size:
        first = coord.values[0]
        if hasattr(first, "calendar"):
            raise DataError(
                f"{name}, {dim}",
                f"cftime dates of calendar {first.calendar}",
                expected="datetime64",
                fix=f"ds.convert_calendar('standard', use_cftime=False, dim={str(dim)!r})",
            )
        raise DataError(
            f"{name}, {dim}",
            f"objects such as {first!r}",
            expected="datetime64 without a time zone",
            fix=f"ds.assign_coords({dim}=ds.indexes[{str(dim)!r}].tz_convert('UTC').tz_localize(None))",
        )
    zone = getattr(array.indexes.get(dim), "tz", None)
    if zone is not None:
        raise DataError(
            f"{name}, {dim}",
            f"times in time zone {zone}",
            expected="UTC without a time zone",
            fix=f"ds.assign_coords({dim}=ds.indexes[{str(dim)!r}].tz_convert('UTC').tz_localize(None))",
        )
    if not np.issubdtype(coord.dtype, np.datetime64):
        raise DataError(
            f"{name}, {dim}",
            f"values of type {coord.dtype}",
            expected="datetime64",
            fix=f"ds.assign_coords({dim}=pd.date_range(...))",
        )
    times: Times = coord.values.astype("datetime64[ns]")
    if np.isnat(times).any():
        raise DataError(
            f"{name}, {dim}",
            f"no time at position {int(np.argmax(np.isnat(times)))}",
            expected="a time for every frame",
        )
    return times


def regular_segments(
    times: Times, dim: Hashable, name: str, gaps: Gaps, step: np.timedelta64 | None
) -> tuple[np.timedelta64, tuple[tuple[int, int], ...]]:
    """Return the step and the half-open ranges of positions without a gap, or refuse the first fault."""
    if gaps not in ("refuse", "skip"):
        raise DataError(name, f"gaps={gaps!r}", expected="'refuse' or 'skip'")
    differences = np.diff(times).astype(np.int64)
    if (differences < 0).any():
        at = int(np.argmax(differences < 0)) + 1
        raise DataError(
            f"{name}, {show_time(times[at])}",
            f"times are not sorted: position {at} is before {show_time(times[at - 1])} at position {at - 1}",
            fix=f"ds.sortby({str(dim)!r})",
        )
    if (differences == 0).any():
        at = int(np.argmax(differences == 0))
        count = int((times == times[at]).sum())
        raise DataError(
            f"{name}, {show_time(times[at])}",
            f"the time occurs {count} times, first at position {at}",
            expected="once",
            fix=f"ds.drop_duplicates({str(dim)!r}), if the frames are the same",
        )
    if step is not None:
        wanted = int(np.asarray(step).astype("timedelta64[ns]").astype(np.int64))
    elif len(differences):
        values, counts = np.unique(differences, return_counts=True)
        wanted = int(values[np.argmax(counts)])
    else:
        raise DataError(name, "1 frame, which has no time step", expected="at least 2 frames", fix="give more frames")
    wrong = np.flatnonzero(differences != wanted)
    if len(wrong) and gaps == "refuse":
        at = int(wrong[0])
        missing = max(int(differences[at]) // wanted - 1, 0)
        lost = f" ({missing} missing, first {show_time(times[at] + np.timedelta64(wanted, 'ns'))})" if missing else ""
        more = f", and {len(wrong) - 1} more such places" if len(wrong) > 1 else ""
        raise DataError(
            f"{name}, {show_time(times[at + 1])}",
            f"step is {show_step(np.timedelta64(int(differences[at]), 'ns'))}{lost}{more}",
            expected=show_step(np.timedelta64(wanted, "ns")),
            fix="fill in or resample the times, or allow gaps with gaps='skip' (data.gaps: skip in a recipe)",
        )
    cuts = [0, *(wrong + 1).tolist(), len(times)]
    return np.timedelta64(wanted, "ns"), tuple(itertools.pairwise(cuts))


def show_time(time: np.datetime64) -> str:
    """Return a time as ISO 8601, to the minute where the seconds are zero."""
    text = str(time.astype("datetime64[ns]")).rstrip("0").rstrip(".")
    whole = str(time.astype("datetime64[s]"))
    if text.startswith(whole) and len(text) > len(whole):
        return text
    return whole[:-3] if whole.endswith(":00") else whole


def show_step(step: np.timedelta64) -> str:
    """Return a time step in the largest unit that holds it without a fraction: ``2 min``, ``3 h``, ``1 d``."""
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
    return f"{ns} ns"


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
