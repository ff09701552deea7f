"""Big grids in overlapping tiles: where they lie, and how their forecasts blend without a seam. Numbers only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

OVERLAP_SHARE = 0.25
"""Of a tile's width: what it shares with its neighbour."""

LEAST_TILE = 16
"""Pixels. Smaller tiles would be mostly overlap."""

_MARGIN_SHARE = 0.25  # of the overlap: at a tile's edge nothing is known of what moves in, so it counts for nothing


class Tile(NamedTuple):
    """A tile: its rows and columns, and what each of them counts where tiles overlap."""

    rows: slice
    columns: slice
    weight: Array


def plan_tiles(height: int, width: int, tile: int) -> list[Tile]:
    """Cover a grid with tiles of at most `tile` rows and columns; the weights of all tiles add up to 1 everywhere.

    Parameters
    ----------
    height, width : int
        Of the grid, in pixels.
    tile : int
        At least `LEAST_TILE`.

    Returns
    -------
    list of Tile
        One where the grid is no larger than a tile. Neighbours overlap by a quarter of a tile or more, and all tiles
        have one size, so that one compiled or captured network serves them all.
    """
    return [
        Tile(rows, columns, np.outer(down, across).astype(np.float32))
        for (rows, down), (columns, across) in itertools.product(_spans(height, tile), _spans(width, tile))
    ]


def blend(values: Array, tile: int, forecast: Callable[[Array], Array], steps: int) -> Array:
    """Forecast tile by tile, and blend where tiles overlap.

    Parameters
    ----------
    values : ndarray, shape (B, T, C, H, W)
        Histories.
    tile : int
        Rows and columns of a tile.
    forecast : callable
        From a history (B, T, C, h, w) to a forecast (B, steps, C, h, w).
    steps : int

    Returns
    -------
    ndarray, shape (B, steps, C, H, W)
    """
    height, width = values.shape[-2:]
    result: Array = np.zeros((values.shape[0], steps, *values.shape[2:]), dtype=np.float32)
    for rows, columns, weight in plan_tiles(height, width, tile):
        result[..., rows, columns] += weight * forecast(np.ascontiguousarray(values[..., rows, columns]))
    return result


def _spans(size: int, tile: int) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield the tiles along one axis, and the weights of their pixels."""
    if size <= tile:
        yield slice(0, size), np.ones(size)
        return
    least = max(int(tile * OVERLAP_SHARE), 1)
    count = -(-(size - least) // (tile - least))
    starts = [round(i * (size - tile) / (count - 1)) for i in range(count)]
    place = np.arange(size) + 0.5
    rising = [np.ones(size)]  # what the tiles from this one on count
    for before, start in itertools.pairwise(starts):
        shared = before + tile - start
        margin = shared * _MARGIN_SHARE
        rising.append(np.clip((place - start - margin) / (shared - 2 * margin), 0.0, 1.0))
    rising.append(np.zeros(size))
    for number, start in enumerate(starts):
        span = slice(start, start + tile)
        yield span, (rising[number] - rising[number + 1])[span]
