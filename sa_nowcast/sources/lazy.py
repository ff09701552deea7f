"""Outer indexing of what is not read yet."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def outer(array: npt.NDArray[Any], key: tuple[Any, ...]) -> npt.NDArray[Any]:
    """Return ``array`` at the outer product of integers, slices and integer arrays, as xarray's backends index.

    Slices and integers come first, so that a mapped file is read no further than they reach.
    """
    basic = tuple(
        slice(k, k + 1 or None) if isinstance(k, int | np.integer) else k if isinstance(k, slice) else slice(None)
        for k in key
    )
    part = array[basic]
    for axis, k in enumerate(key):
        if isinstance(k, np.ndarray):
            part = np.take(part, k, axis=axis)
    drop = tuple(axis for axis, k in enumerate(key) if isinstance(k, int | np.integer))
    return np.ascontiguousarray(part.squeeze(axis=drop))
