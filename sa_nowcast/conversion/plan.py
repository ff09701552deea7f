"""What a conversion will write: arrays, chunks, shards and sizes, before anything is written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sa_nowcast.times import show_step, show_time

MiB: Final = 2**20
# A shard is read about once an epoch; below the lower size a disk seeks more than it reads, above the upper one a
# worker holds too much (it keeps about three of them).
SMALLEST_SHARD: Final = 32 * MiB
LARGEST_SHARD: Final = 256 * MiB
# A window that crosses into the next shard reads frames twice: with 8 windows a shard at most one frame in eight.
WINDOWS_PER_SHARD: Final = 8

Region = tuple[slice, ...]


def frames_per_shard(frame_bytes: int, frames: int, window: int) -> int:
    """Choose how many frames a shard holds.

    Parameters
    ----------
    frame_bytes : int
        Bytes of one frame as stored, not compressed.
    frames : int
        Frames there are.
    window : int
        Frames of the windows that will be read.

    Returns
    -------
    int
        At least 8 windows and 32 MiB, at most 256 MiB and all frames there are; always at least one frame.
    """
    wanted = max(WINDOWS_PER_SHARD * window, math.ceil(SMALLEST_SHARD / frame_bytes))
    return max(1, min(wanted, LARGEST_SHARD // frame_bytes, frames))


@dataclass(frozen=True)
class VariablePlan:
    """How one variable is stored.

    Attributes
    ----------
    name : str
    dims : tuple of str
        Dimensions before time, time, and the frame's own.
    shape : tuple of int
    dtype : dtype
        As stored: packed where the source packs.
    chunks, shards : tuple of int
        A chunk is one frame.
    time_axis : int
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    time_axis: int

    @classmethod
    def choose(
        cls,
        name: str,
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        time_axis: int,
        window: int,
        frames: int | None,
    ) -> VariablePlan:
        """Choose chunks and shards; `frames` is the shard's size where the user gave it."""
        frame, lead = shape[time_axis + 1 :], shape[:time_axis]
        length = shape[time_axis]
        frame_bytes = max(1, math.prod(frame) * dtype.itemsize)
        wanted = frames or frames_per_shard(frame_bytes, length * math.prod(lead), window)
        per_time = min(wanted, length)
        # Whole sequences to a shard, where there are several dimensions before the frame: the last of them first.
        per_lead, left = [], wanted // per_time
        for size in reversed(lead):
            per_lead.append(max(1, min(size, left)))
            left //= per_lead[-1]
        chunks = (1,) * (len(lead) + 1) + frame
        return cls(name, dims, shape, dtype, chunks, (*reversed(per_lead), per_time, *frame), time_axis)

    @property
    def nbytes(self) -> int:
        """Bytes, not compressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def shard_nbytes(self) -> int:
        """Bytes of a full shard, not compressed."""
        return math.prod(self.shards) * self.dtype.itemsize

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of a chunk, not compressed."""
        return math.prod(self.chunks) * self.dtype.itemsize

    @property
    def grid(self) -> tuple[int, ...]:
        """How many shards along each dimension."""
        return tuple(math.ceil(size / shard) for size, shard in zip(self.shape, self.shards, strict=True))

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Yield the index of every shard, in the order of time."""
        return itertools.product(*map(range, self.grid))

    def region(self, index: tuple[int, ...]) -> Region:
        """Return the part of the array that a shard holds."""
        return tuple(
            slice(i * shard, min((i + 1) * shard, size))
            for i, shard, size in zip(index, self.shards, self.shape, strict=True)
        )

    def path(self, index: tuple[int, ...]) -> str:
        """Return the shard's file below the store."""
        return "/".join([self.name, "c", *map(str, index)])

    def __str__(self) -> str:
        frames = math.prod(self.shards[: self.time_axis + 1])
        return (
            f"{self.name} ({', '.join(self.dims)}) {self.dtype}:"
            f" {' x '.join(map(str, self.shape))}, {_size(self.nbytes)};"
            f" chunk 1 frame, {_size(self.chunk_nbytes)};"
            f" shard {frames} frame{'s' * (frames > 1)}, {_size(self.shard_nbytes)}; {math.prod(self.grid)} shards"
        )


@dataclass(frozen=True)
class ConversionPlan:
    """What `convert` writes, or has written.

    Attributes
    ----------
    target : str
    variables : tuple of VariablePlan
        The variables that are written shard by shard; coordinates are written whole.
    times : ndarray
        The time axis.
    step : timedelta64 or None
        The cadence; None where times are irregular or there is one only.
    missing_times : ndarray
        Times of the cadence that the source does not have.
    fingerprint : str
        SHA-256 of everything but the data; a conversion is resumed where it is the same.
    stored_nbytes : int or None
        Bytes on disk; None before the conversion.
    """

    target: str
    variables: tuple[VariablePlan, ...]
    times: npt.NDArray[Any]
    step: np.timedelta64 | None
    missing_times: npt.NDArray[Any]
    fingerprint: str
    stored_nbytes: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all variables, not compressed."""
        return sum(v.nbytes for v in self.variables)

    @property
    def shards(self) -> int:
        """How many shards are written."""
        return sum(math.prod(v.grid) for v in self.variables)

    def as_dict(self) -> Mapping[str, Any]:
        """Return the plan as JSON can hold it."""
        return {
            "target": self.target,
            "fingerprint": self.fingerprint,
            "frames": len(self.times),
            "missing_times": len(self.missing_times),
            "nbytes": self.nbytes,
            "stored_nbytes": self.stored_nbytes,
            "variables": [
                {
                    "name": v.name, "dims": list(v.dims), "shape": list(v.shape), "dtype": str(v.dtype),
                    "chunks": list(v.chunks), "shards": list(v.shards), "nbytes": v.nbytes,
                }
                for v in self.variables
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        every = "" if self.step is None else f" every {show_step(self.step)}"
        line = f"{self.target}: {len(self.times)} frames{every}"
        if np.issubdtype(self.times.dtype, np.datetime64) and len(self.times):
            line += f", {show_time(self.times[0])} to {show_time(self.times[-1])}"
        line += f", {len(self.missing_times)} missing times"
        if self.stored_nbytes is not None:
            line += (
                f"; {_size(self.stored_nbytes)} on disk, {self.stored_nbytes / max(self.nbytes, 1):.2f} of the raw size"
            )
        return "\n".join([line, *(f"  {v}" for v in self.variables)])


def _size(nbytes: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.3g} {unit}"
    return f"{nbytes} B"
