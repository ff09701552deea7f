"""Order and regularity of times: the step, gaps, and which times are the same."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import DataError
from sa_nowcast.times.given import Times
from sa_nowcast.times.shown import show_step, show_time

Gaps = Literal["refuse", "skip"]
Positions = npt.NDArray[np.intp]
Found = npt.NDArray[np.bool_]

_MICROSECOND: Final = 1000
UNITS: Final = tuple(_MICROSECOND * n for n in (1, 10, 100, 10**3, 10**4, 10**5, 10**6, 10**7, 6 * 10**7))
LEAST_TOLERANCE: Final = 20 * _MICROSECOND
_COARSE: Final = 10**9


def tolerance(step: int | np.timedelta64, rounding: int = 0) -> int:
    """Return by how many nanoseconds a step may differ from `step` and be regular; `rounding` as in `stored_rounding`.

    A thousandth of it, or what storing can add to a difference of two times; at least 20 µs, at most a quarter of it.
    """
    size = _nanoseconds(step)
    return min(max(size // 1000, 2 * rounding, LEAST_TOLERANCE), size // 4)


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
            fix=made_up(dim, len(times)) if coarse else f"{base}.drop_duplicates({label!r})",
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
    allowed = np.minimum(np.maximum(np.maximum(ordered // 1000, 4 * rounding), LEAST_TOLERANCE), ordered // 4)
    ends = np.searchsorted(ordered, ordered + allowed, side="right")
    first = int(np.argmax(ends - np.arange(len(ordered))))
    alike = ordered[first : ends[first]]
    values, counts = np.unique(alike, return_counts=True)
    if not rounding and counts.max() * 2 > len(alike):
        return int(values[np.argmax(counts)])
    mean, width = round(float(alike.mean())), int(alike[-1] - alike[0])
    whole = (round(mean / unit) * unit for unit in reversed(UNITS) if unit <= mean)
    return next((w for w in whole if abs(w - mean) * len(alike) <= 2 * width), mean)


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


def _nanoseconds(step: int | np.timedelta64) -> int:
    return step if isinstance(step, int) else int(np.asarray(step).astype("timedelta64[ns]").astype(np.int64))


def made_up(dim: Hashable, count: int) -> str:
    """Return how to give times where the data have none: with an own first time and step in place of these."""
    return f"ds.assign_coords({{{dim!r}: pd.date_range('2000-01-01', periods={count}, freq='5min')}})"
