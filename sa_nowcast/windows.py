"""Planning of history/target windows, gaps and time splits: integers only, no input or output.

A window of length L that starts at s uses the frames s, s + 1, …, s + L - 1. Every range is half-open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import DataError, RecipeError

Range = tuple[int, int]
Positions = npt.NDArray[np.int64]

# Each use of randomness has a stream of its own, so that adding one never shifts another.
ORDER_STREAM, _CROP, _MOVE = 1, 2, 4


@dataclass(frozen=True)
class Split:
    """Three periods in time order, separated by guard frames that no window may use."""

    train: Range
    validation: Range
    test: Range


def require_whole(least: int = 1, **values: Any) -> None:
    """Raise `RecipeError` for the first value that is no whole number of at least `least`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise RecipeError(name, f"{value!r}", expected=f"a whole number of at least {least}")


def window_starts(
    segments: Sequence[Range], length: int, within: Range, blocked: Sequence[int] | Positions = (), stride: int = 1
) -> Positions:
    """Return the starts of all windows that lie inside one segment and inside `within`, and use no blocked frame.

    Parameters
    ----------
    segments : sequence of (int, int)
        Ranges without a gap.
    length : int
        Frames a window: history + steps.
    within : (int, int)
        The split's range.
    blocked : sequence of int
        Frames that no window may use (frames without any valid value).
    stride : int
        Distance between successive starts within a segment.
    """
    bad = np.sort(np.asarray(blocked, dtype=np.int64))
    starts: list[Positions] = []
    for begin, end in segments:
        first, last = max(begin, within[0]), min(end, within[1]) - length
        if last >= first:
            candidates = np.arange(first, last + 1, stride, dtype=np.int64)
            hits = np.searchsorted(bad, candidates + length) - np.searchsorted(bad, candidates)
            starts.append(candidates[hits == 0])
    return np.concatenate(starts) if starts else np.empty(0, dtype=np.int64)


def shortened_windows(
    segments: Sequence[Range], length: int, least: int, within: Range, blocked: Sequence[int] | Positions = ()
) -> tuple[Positions, Positions]:
    """Return starts and ends of windows that end early, with `least` frames or more, where there are no `length`.

    Parameters
    ----------
    segments, within, blocked
        As for `window_starts`.
    length, least : int
        Frames a window, and how many of them have to be there.

    Returns
    -------
    starts, ends : ndarray of int
        Of each window its first frame, and the first one after it.
    """
    starts = window_starts(segments, least, within, blocked)
    stops = np.sort([*blocked, within[1], *(end for _, end in segments)]).astype(np.int64)
    ends = stops[np.searchsorted(stops, starts + least)]
    return starts, np.minimum(starts + length, ends)


def split_in_time(
    frames: int,
    length: int,
    *,
    validation: float,
    test: float,
    guard: int,
    training: float | None = None,
    least: int | None = None,
) -> Split:
    """Split `frames` positions into training, validation and test periods, in this order in time.

    Parameters
    ----------
    frames : int
        Frames in the sequence.
    length : int
        Frames a window needs; a period that is asked for gets at least so many.
    validation, test : float
        Shares of the sequence, each in [0, 1); 0 leaves the period out.
    guard : int
        Frames left unused between two periods: neighbouring frames are nearly the same, and without a guard the
        last training frame would give the first validation frame away.
    training : float, optional
        Share of the sequence to train on; by default all that is left. The earliest frames are taken.
    least : int, optional
        Frames that the training and the validation period get at least; by default a whole window.

    Raises
    ------
    RecipeError
        Shares that are negative or leave nothing to train on, or a negative guard.
    DataError
        Fewer frames than the periods and guards need (both numbers are said).
    """
    for name, share in (("validation", validation), ("test", test), ("training", training or 0.0)):
        if not 0 <= share < 1:
            raise RecipeError(f"split.{name}", f"{share}", expected="a share from 0 to below 1")
    total = validation + test + (training or 0.0)
    if total > 1 + 1e-9 or validation + test > 1 - 1e-9:  # sums of decimal shares are off by a few 1e-16
        room = ", with something left to train on" if total <= 1 + 1e-9 else ""
        raise RecipeError("split", f"shares add up to {total:g}", expected=f"at most 1{room}")
    if guard < 0:
        raise RecipeError("split.guard", f"{guard}", expected="0 frames or more")
    fewest = length if least is None else least
    shares = ((validation, fewest), (test, length))
    sizes, left = _sizes(frames, shares, guard)
    if left < fewest:
        needed, short = frames, fewest - left
        while short > 0:
            needed += short  # a frame more leaves at most a frame more, so that no smaller number is enough
            short = fewest - _sizes(needed, shares, guard)[1]
        raise DataError(
            "time",
            f"{frames} frames, of which {max(left, 0)} would be left to train on",
            expected=f"at least {needed} (windows of {length}, guard {guard})",
            fix="give more frames, shorten history or steps, or leave out a split",
        )
    train = left if training is None else min(max(round(training * frames), fewest), left)
    ranges, stop = [(0, train)], left
    for size in sizes:
        start = stop + (guard if size else 0)
        stop = start + size
        ranges.append((start, stop))
    return Split(*ranges)


def _sizes(frames: int, shares: tuple[tuple[float, int], ...], guard: int) -> tuple[list[int], int]:
    """Return the sizes of periods, given by share and least size, and the frames that they and the guards leave."""
    sizes = [max(round(share * frames), fewest) if share > 0 else 0 for share, fewest in shares]
    return sizes, frames - sum(sizes) - guard * sum(size > 0 for size in sizes)


def epoch_order(seed: int, epoch: int, windows: int) -> Positions:
    """Return the order in which an epoch visits `windows` windows: a function of (seed, epoch) alone."""
    return np.random.default_rng((seed, ORDER_STREAM, epoch)).permutation(windows)


def crop_corner(
    seed: int, sample: int, height: int, width: int, crop: tuple[int, int], attempt: int = 0
) -> tuple[int, int]:
    """Return the first row and column of a random crop of a sample: a function of (seed, sample, attempt) alone.

    A crop that is larger than the grid in one direction takes the whole grid there.
    """
    rng = np.random.default_rng((seed, _CROP, sample))
    rows = columns = 0
    for _ in range(attempt + 1):
        rows = int(rng.integers(0, max(height - crop[0], 0) + 1))
        columns = int(rng.integers(0, max(width - crop[1], 0) + 1))
    return rows, columns


def flips_and_turns(seed: int, sample: int) -> tuple[bool, bool, int]:
    """Return whether to mirror a sample's rows and columns and how many quarters to turn it, from (seed, sample)."""
    up, left, quarters = np.random.default_rng((seed, _MOVE, sample)).integers(0, (2, 2, 4))
    return bool(up), bool(left), int(quarters)
