"""Histories of forecasts: which times they need, which of them may be missing, and frames with gaps filled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from sa_nowcast.derived import fill_gaps
from sa_nowcast.metadata import dims
from sa_nowcast.operations.site import Site


def window(site: Site, init: int) -> list[int]:
    """Return the times of the history, and before them those from which its gaps may be filled."""
    return [init - k * site.step for k in range(site.reach - 1, -1, -1)]


def missing(site: Site, init: int, there: Collection[int]) -> list[int] | None:
    """Return which times of a history have to be filled; None where no forecast is possible.

    The frame of the init time itself has to be there, and a gap has to be as short as the recipe allows.
    """
    if init not in there:
        return None
    first = init - (site.history - 1) * site.step
    result: list[int] = []
    gap: list[int] = []
    for when in reversed(window(site, init)):
        gap = [] if when in there else [*gap, when]
        if gap and gap[0] >= first:  # it may go on before the history, and counts with its whole length
            if len(gap) > site.recipe.fill_gaps:
                return None
            result += [when] if when >= first else []
    return result[::-1]


def history_of(
    site: Site, init: int, frame: Callable[[int], Any], lacking: Collection[int], length: int
) -> npt.NDArray[np.float32] | None:
    """Return the history (time, y, x) up to an init time, without the frames of some times, which are filled.

    Parameters
    ----------
    site : Site
    init : int
    frame : callable
        Gives the frame of a time, or None where it is gone.
    lacking : collection of int
        Times of the `window` whose frames take no part.
    length : int
        How many frames are wanted.

    Returns
    -------
    ndarray or None
        None where a frame is gone.
    """
    times = window(site, init) if lacking else [init - k * site.step for k in range(length - 1, -1, -1)]
    frames = [None if t in lacking else frame(t) for t in times]
    if any(found is None and t not in lacking for t, found in zip(times, frames, strict=True)):
        return None
    blank = np.full(site.like.shape, np.nan, np.float32)
    values = np.stack([blank if found is None else found for found in frames])
    if lacking:
        values = fill_gaps(site.field(values, times), site.recipe.fill_gaps, time=dims.TIME).values
    return np.asarray(values[-length:], np.float32)
