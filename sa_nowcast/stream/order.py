"""The order in which windows are read, as integers: shuffled, and yet every stored frame is read about once an epoch.

The frames of all stores stand behind each other on one axis. It is cut into *cells*, which are what one read fetches;
successive cells form *runs*. An epoch permutes the runs and shuffles the windows inside each cell; the sequence that
results is cut into *lanes* of equal length, and the samples of an epoch take one window of each lane in turn:

    runs, permuted     | 7 8 9 | 1 2 3 | 4 5 6 | 10 11 12 |        (numbers are cells)
    lane 0             | 7 8 9   1 2 3 |
    lane 1                             | 4 5 6   10 11 12 |
    samples            lane 0, lane 1, lane 0, lane 1, ...

So the windows of a batch come from as many places as there are lanes, a reader holds one or two cells a lane, and a
reader that serves some of the lanes only (a loader's worker, a rank) never reads the cells of the others. A frame is
read twice only where a window crosses from a run's last cell into the next run, and where a lane is cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sa_nowcast.windows import ORDER_STREAM, Positions, epoch_order

LANES = 8
# What a run's end and a lane's cut cost together stays below an eighth of what is read.
_RUN_SHARE, _CUT_SHARE = 0.08, 0.03


@dataclass(frozen=True)
class StoredAxis:
    """How one store keeps its frames."""

    frames: int
    unit: int  # frames of a stored object: a shard, or a chunk
    atom: int  # frames of the smallest part that can be read on its own: a chunk
    offset: int  # position of frame 0 within its unit, where the sequence begins inside one
    frame_nbytes: int  # as it is stored


@dataclass(frozen=True, eq=False)
class Layout:
    """How the axis of frames is cut and kept in memory."""

    edges: Positions  # cell c covers the frames edges[c] to edges[c + 1]; stores begin at an edge
    lanes: int
    run: int  # cells
    whole: bool  # everything fits: all cells are kept, and the order is a plain permutation

    def cell(self, frame: int) -> int:
        """Return the cell that holds a frame."""
        return int(np.searchsorted(self.edges, frame, side="right")) - 1

    def reach(self, cell: int, length: int) -> int:
        """Return the last cell that a window of `length` frames can need which starts in `cell`."""
        return self.cell(min(int(self.edges[cell + 1]) + length - 2, int(self.edges[-1]) - 1))


def choose_layout(stores: Sequence[StoredAxis], length: int, budget: int | None) -> Layout:
    """Cut the frames of all stores into cells for windows of `length` frames, with at most `budget` bytes in memory.

    The bytes are counted as stored; without a budget all frames are in memory. One chunk is there at the least.
    """
    total = sum(s.frames for s in stores)
    if budget is None or sum(s.frames * s.frame_nbytes for s in stores) <= budget:
        return Layout(_edges(stores, max(s.frames for s in stores)), 1, 1, whole=True)
    frame_nbytes, atom = max(s.frame_nbytes for s in stores), max(s.atom for s in stores)
    overlap = length - 1
    lanes, size = 1, atom
    for candidate in (LANES, LANES // 2, LANES // 4, 1):
        held = _cell_within(budget // (candidate * frame_nbytes), overlap)
        cuts = 2 * (candidate - 1)  # a cut costs its cell, and the one that a window crosses into
        most = held if not cuts else min(held, int(total * _CUT_SHARE) // cuts)
        if most - most % atom >= max(atom, overlap // 2):
            lanes, size = candidate, most - most % atom
            break
    crossed = math.ceil(overlap / size)
    return Layout(_edges(stores, size), lanes, max(1, math.ceil(crossed / _RUN_SHARE)), whole=False)


def _cell_within(frames: int, overlap: int) -> int:
    """Return the largest cell of which a lane holds at most `frames` frames, the crossing windows' cells included."""
    for crossed in range(1, 9):
        size = frames // (1 + crossed)
        if size * crossed >= overlap:
            return size
    return 0


def _edges(stores: Sequence[StoredAxis], size: int) -> Positions:
    """Cut each store into cells of at most `size` frames: several whole units, or equal pieces of one."""
    edges, first = [0], 0
    for store in stores:
        stretch = store.unit * max(1, size // store.unit)
        for begin in range(-(store.offset % store.unit), store.frames, stretch):
            length = min(stretch, store.frames - begin)
            step = math.ceil(length / math.ceil(length / size) / store.atom) * store.atom
            edges += [first + e for e in range(begin + step, begin + length, step) if e > 0]
            edges.append(first + begin + length)
        first += store.frames
    return np.asarray(edges, dtype=np.int64)


def block_order(seed: int, epoch: int, starts: Positions, layout: Layout) -> Positions:
    """Return the order in which an epoch visits the windows: a function of the plan and (seed, epoch) alone.

    `starts` are the first frames of the windows, increasing. Entry p of the result is the window of the epoch's sample
    p; it is in lane ``p % layout.lanes``.
    """
    count = len(starts)
    if layout.whole:
        return epoch_order(seed, epoch, count)
    rng = np.random.default_rng((seed, ORDER_STREAM, epoch))
    cells = np.searchsorted(layout.edges, starts, side="right") - 1
    # Runs end elsewhere in every epoch, so that the same frames are not read twice each time.
    runs = (cells + rng.integers(layout.run)) // layout.run
    rank = rng.permutation(int(runs[-1]) + 1)
    sequence = np.lexsort((rng.random(count), cells, rank[runs]))
    order = np.empty(count, dtype=np.int64)
    sizes = [len(range(lane, count, layout.lanes)) for lane in range(layout.lanes)]
    for lane, part in enumerate(np.split(sequence, np.cumsum(sizes)[:-1])):
        order[lane :: layout.lanes] = part
    return order
