"""Shares of pixels within polygons, exactly, and polygons of GeoJSON. Numbers only; no data are read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ring = Floats
"""Vertices in order, shape (n, 2): column and row in pixels from the grid's first corner, or longitude and latitude."""


def enclosed(ring: Ring) -> float:
    """Return the area within a ring, positive where its vertices go from the first axis towards the second one."""
    x, y = (ring - ring[0]).T  # near to zero, differences lose no digits
    return float(0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def shares(parts: list[list[Ring]], shape: tuple[int, int]) -> tuple[npt.NDArray[np.intp], Floats]:
    """Return the pixels that lie in polygons, and which share of each does.

    Parameters
    ----------
    parts : list of list of ndarray, shape (n, 2)
        Of each polygon the exterior ring and its interior ones; pixel (row, column) is the square from (column, row) to
        (column + 1, row + 1). Which way round the vertices go does not matter.
    shape : tuple of int
        Rows and columns of the grid; what lies outside does not count.

    Returns
    -------
    pixels : ndarray of int
        Positions in the grid, row by row.
    shares : ndarray
        Above 0, and up to 1 where the polygons do not cross themselves or each other.

    Notes
    -----
    By Green's theorem: an edge adds to every pixel the area between it and the right end of the pixel's row, with the
    sign of its direction, so that what lies outside of the polygon cancels. Edges are cut where they cross rows and
    columns; each piece then counts in one pixel by the trapezium beside it, and in full in all pixels to the right.
    """
    starts, ends = [], []
    for rings in parts:
        for number, ring in enumerate(rings):
            turned = ring if (enclosed(ring) < 0) == (number == 0) else ring[::-1]
            starts.append(turned)
            ends.append(np.roll(turned, -1, axis=0))
    a, b = np.concatenate(starts), np.concatenate(ends)
    low = np.maximum(np.floor(a.min(0)), 0).astype(np.intp)
    high = np.minimum(np.ceil(a.max(0)), shape[::-1]).astype(np.intp)
    width, height = high - low
    if width <= 0 or height <= 0:
        return np.empty(0, dtype=np.intp), np.empty(0)
    a, b = a - low, b - low
    for axis, count in ((1, height), (0, width)):
        a, b = _cut(a, b, axis, int(count))
    middle, climb = (a + b) / 2, (b - a)[:, 1]
    row, column = np.floor(middle[:, 1]).astype(np.intp), np.floor(middle[:, 0]).astype(np.intp)
    counts = (row >= 0) & (row < height) & (column < width)
    row, column, climb, across = row[counts], column[counts], climb[counts], middle[counts, 0]
    beside = np.where(column < 0, 0.0, across - column)  # the share of the pixel to the left of the piece
    column = np.maximum(column, 0)
    added = np.zeros((height, width + 1))
    np.add.at(added, (row, column), climb * (1 - beside))
    np.add.at(added, (row, column + 1), climb * beside)
    covered = np.cumsum(added, axis=1)[:, :-1]
    inside = np.nonzero(np.abs(covered) > 1e-9)
    pixels = (inside[0] + low[1]) * shape[1] + inside[1] + low[0]
    return pixels.astype(np.intp), covered[inside]


def _cut(a: Floats, b: Floats, axis: int, last: int) -> tuple[Floats, Floats]:
    """Return the pieces of edges from `a` to `b`, cut where they cross the whole numbers from 0 to `last`."""
    start, end = a[:, axis], b[:, axis]
    first = np.maximum(np.floor(np.minimum(start, end)) + 1, 0)
    stop = np.minimum(np.ceil(np.maximum(start, end)) - 1, last)
    cuts = np.maximum(stop - first + 1, 0).astype(np.intp)
    edge = np.repeat(np.arange(len(a)), cuts + 1)
    number = np.arange(len(edge)) - np.repeat(np.cumsum(cuts + 1) - (cuts + 1), cuts + 1)
    rising = (end >= start)[edge]
    length = np.where(end == start, 1.0, end - start)

    def crossing(which: npt.NDArray[np.intp]) -> Floats:
        whole = np.where(rising, first[edge] + which, stop[edge] - which)
        return np.asarray((whole - start[edge]) / length[edge], dtype=np.float64)

    begins = np.where(number == 0, 0.0, crossing(number - 1))[:, np.newaxis]
    finishes = np.where(number == cuts[edge], 1.0, crossing(number))[:, np.newaxis]
    step = (b - a)[edge]
    # The ends of an edge exactly, so that edges that meet leave no gap.
    head = np.where(begins == 0.0, a[edge], a[edge] + begins * step)
    tail = np.where(finishes == 1.0, b[edge], a[edge] + finishes * step)
    return head, tail


def finer(ring: Ring, lengths: Floats, longest: float) -> Ring:
    """Return a ring with edges divided so that none is longer than `longest`; `lengths` are those of its edges."""
    pieces = np.maximum(np.ceil(lengths / longest), 1).astype(np.intp)
    edge = np.repeat(np.arange(len(ring)), pieces)
    along = (np.arange(len(edge)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) / pieces[edge]
    following = np.roll(ring, -1, axis=0)
    return np.asarray(ring[edge] + along[:, np.newaxis] * (following - ring)[edge], dtype=np.float64)
