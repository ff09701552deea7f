"""From what a user asks for to positions of init times, each with its history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.forecasts.labels import init_position
from sa_nowcast.frames import Frames
from sa_nowcast.times import nearest, read_moments, read_period
from sa_nowcast.windows import Positions, window_starts


def init_positions(frames: Frames, history: int, init_times: Any = None, stride: int = 1) -> Positions:
    """Return the positions of the init times that are asked for, ascending.

    Parameters
    ----------
    frames : Frames
    history : int
        Frames that a forecast starts from.
    init_times, stride
        As for `hindcast`.

    Raises
    ------
    DataError
        None is possible, one is not among the times, or one lacks history; the line says which and why.
    RecipeError
        A time that is none, or that is given twice.
    """
    if init_times is None or isinstance(init_times, slice):
        first, stop = 0, len(frames)
        if init_times is not None:
            first, stop = _bounds(frames, init_times)
        starts = window_starts(frames.segments, history, (max(0, first - history + 1), stop), stride=stride)
        if not len(starts):
            longest = max((min(b, stop) - a for a, b in frames.segments if a < stop), default=0)
            where = "" if init_times is None else f" in {_show_slice(init_times)}"
            raise DataError(
                frames.name,
                f"no init time{where} has {history} frames up to it without a gap"
                f" ({stop - first} times{where}, at most {max(longest, 0)} frames in a row up to one)",
                fix="give earlier frames, or choose other init times",
            )
        return starts + history - 1
    given = getattr(init_times, "values", init_times)
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray) or np.ndim(given) != 1:
        shown = " ".join(repr(init_times).split())
        raise RecipeError("init_times", f"{shown:.80}", expected="a slice of times, or a sequence of times")
    moments = given[::stride]
    if not len(moments) or any(t is None for t in moments):
        raise RecipeError("init_times", "None among the times" if len(moments) else "no time", expected="times")
    moments = read_moments(moments, "init_time")
    places, there = nearest(frames.times, moments, frames.step)
    if not there.all():
        init_position(frames, moments[int(np.argmin(there))])  # which says that it is not there
    positions = places.astype(np.int64)
    positions.sort()
    twice = positions[1:][np.diff(positions) == 0]
    if len(twice):
        raise RecipeError("init_times", f"{frames.label(int(twice[0]))} is given twice", expected="each time once")
    begins = np.array([a for a, _ in frames.segments])
    have = positions - begins[np.searchsorted(begins, positions, side="right") - 1] + 1
    if (have < history).any():
        at = int(np.argmax(have < history))
        position, count = int(positions[at]), int((have < history).sum())
        begin = position - int(have[at]) + 1
        gap = f" since the gap after {frames.label(begin - 1)}" if begin else ""
        more = f"; and {count - 1} more such init times" if count > 1 else ""
        raise DataError(
            f"{frames.name}, {frames.label(position)}",
            f"needs {history} frames, has {have[at]}{gap}{more}",
            fix="give earlier frames, fill the gap, or pass a slice of init times, which leaves such ones out",
        )
    return positions


def _bounds(frames: Frames, wanted: slice) -> tuple[int, int]:
    if wanted.step is not None:
        raise RecipeError(
            "init_times",
            f"a slice with step {wanted.step!r}",
            expected="no step",
            fix=f"stride={wanted.step!r} beside the slice"
            if isinstance(wanted.step, int)
            else "stride=2 beside the slice",
        )
    first, last = read_period(wanted, "init_times")
    # As `Frames.position` finds single times.
    near = frames.step // 100
    start = 0 if first is None else int(np.searchsorted(frames.times, first - near))
    stop = len(frames) if last is None else int(np.searchsorted(frames.times, last + near, side="right"))
    return start, max(start, stop)


def _show_slice(wanted: slice) -> str:
    return " to ".join("the end" if t is None else str(t) for t in (wanted.start or "the start", wanted.stop))
