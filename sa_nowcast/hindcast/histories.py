"""The frames that some init times need, and a short name for data."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from typing import Any

import dask.array
import dask.base
import numpy as np

from sa_nowcast.frames import Frames
from sa_nowcast.times import show_step
from sa_nowcast.windows import Positions


def sha256(content: bytes) -> str:
    """Return the digest as text."""
    return hashlib.sha256(content).hexdigest()


def content(frames: Frames, positions: Positions | None = None, history: int = 1) -> str:
    """Name the data: channels, grid, step, and a digest of coordinates and of some frames (all would take long)."""
    if positions is None:
        positions = np.unique(np.linspace(0, len(frames) - 1, 4).astype(np.int64))
    some, _ = taken(frames, positions, history)
    digest = hashlib.sha256()
    for axis in (frames.grid.y, frames.grid.x):
        if axis in frames.arrays[0].coords:
            digest.update(np.ascontiguousarray(frames.arrays[0][axis].values.astype(np.float64)).tobytes())
    digest.update(some.times.tobytes())
    digest.update(some.read(0, len(some)).tobytes())
    units = ", ".join(f"{c.name} [{c.units}]" if c.units else c.name for c in frames.channels)
    size = f"{frames.grid.height} x {frames.grid.width}"
    return f"{units} on {size}, every {show_step(frames.step)}, SHA-256 of samples {digest.hexdigest()[:12]}"


def taken(frames: Frames, positions: Positions, history: int) -> tuple[Frames, Positions]:
    """Return the frames that the histories need and nothing else, and the init positions among them."""
    needed, place = np.unique(positions[:, None] + np.arange(1 - history, 1), return_inverse=True)
    contiguous = int(needed[-1]) - int(needed[0]) + 1 == len(needed)
    chosen: Any = slice(int(needed[0]), int(needed[-1]) + 1) if contiguous else needed
    arrays = []
    for array in frames.arrays:
        part = array.reset_coords(drop=True).isel({frames.time_dim: chosen})
        if isinstance(part.variable._data, dask.array.Array):
            optimize: Any = dask.base.optimize  # untyped
            part = part.copy(data=optimize(part.data)[0])  # only the part's own graph goes to a worker
        arrays.append(part)
    breaks = [0, *(np.flatnonzero(np.diff(needed) > 1) + 1).tolist(), len(needed)]
    taken = replace(
        frames,
        arrays=tuple(arrays),
        times=frames.times[needed],
        segments=tuple(itertools.pairwise(breaks)),
        coords={},
        loaded=None if frames.loaded is None else frames.loaded[chosen],
    )
    return taken, place.reshape(len(positions), history)[:, -1].astype(np.int64)
