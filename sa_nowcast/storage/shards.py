"""How an array is cut into shards, and how one is written: packed, checked, written, read back.

A shard is one file: the unit of work, of repetition and of a writer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from sa_nowcast.errors import DataError, SaNowcastError, StorageError
from sa_nowcast.storage.manifest import sha256_of

MiB: Final = 2**20
# A shard is read about once an epoch; below the lower size a disk seeks more than it reads, above the upper one a
# worker holds too much (it keeps about three of them).
SMALLEST_SHARD: Final = 32 * MiB
LARGEST_SHARD: Final = 256 * MiB
# A window that crosses into the next shard reads frames twice: with 8 windows a shard at most one frame in eight.
WINDOWS_PER_SHARD: Final = 8


def frames_per_shard(frame_bytes: int, frames: int, window: int) -> int:
    """Return how many frames of a size a shard holds, for windows of so many of them.

    At least 8 windows and 32 MiB, at most 256 MiB and all `frames` that there are; always at least one.
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

    def region(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the part of the array that a shard holds."""
        return tuple(
            slice(i * shard, min((i + 1) * shard, size))
            for i, shard, size in zip(index, self.shards, self.shape, strict=True)
        )

    def path(self, index: tuple[int, ...]) -> str:
        """Return the shard's file below the store."""
        return "/".join([self.name, "c", *map(str, index)])

    def __str__(self) -> str:
        whole, chunk, shard = map(size_text, (self.nbytes, self.chunk_nbytes, self.shard_nbytes))
        frames = math.prod(self.shards[: self.time_axis + 1])
        return (
            f"{self.name} ({', '.join(self.dims)}) {self.dtype}: {' x '.join(map(str, self.shape))}, {whole};"
            f" chunk 1 frame, {chunk}; shard {frames} frame{'s' * (frames > 1)}, {shard};"
            f" {math.prod(self.grid)} shards"
        )


def size_text(nbytes: int) -> str:
    """Return a number of bytes as it is shown."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.3g} {unit}"
    return f"{nbytes} B"


@dataclass(frozen=True)
class ShardRecord:
    """A shard that was written and read back: its file below the store, size and SHA-256."""

    path: str
    nbytes: int
    sha256: str

    def still_there(self, store: Path) -> bool:
        """Say whether the file is as it was written."""
        file = store / self.path
        return file.is_file() and file.stat().st_size == self.nbytes and sha256_of(file) == self.sha256


def write_shard(store: str, plan: VariablePlan, index: tuple[int, ...], block: xr.Variable, label: str) -> ShardRecord:
    """Write the shard of `store` at `index`, with the lazy values `block`; errors call it `label`.

    `DataError`: the source cannot be read, or its values do not fit the packing. `StorageError`: the shard cannot be
    written, or reads back other than it was written.
    """
    try:
        # This task is one of several already: the source's own graph must not start threads beneath it.
        values = np.asarray(block.compute(scheduler="synchronous").values)
    except SaNowcastError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, IndexError, EOFError) as error:
        raise DataError(
            label,
            f"the source cannot be read ({type(error).__name__}: {error})",
            # What was converted before was of other data.
            fix="repair or leave out its file, and pass existing='replace'",
        ) from error
    packed = pack(xr.Variable(block.dims, values, block.attrs, block.encoding), plan, label)
    region, file = plan.region(index), Path(store) / plan.path(index)
    try:
        array = zarr.open_array(store, path=plan.name, mode="r+", config={"write_empty_chunks": True})
        file.unlink(missing_ok=True)  # zarr reads what it overwrites, and a damaged shard could not be written anew
        array[region] = packed
        again = np.asarray(array[region])
        size, digest = file.stat().st_size, sha256_of(file)
    except OSError as error:
        raise StorageError(
            str(file),
            f"cannot be written ({error.strerror or error})",
            fix="make room and run again to resume, or name another target",
        ) from error
    except (RuntimeError, ValueError) as error:
        raise StorageError(str(file), f"does not read back ({error})", fix="name a target on another disk") from error
    if again.tobytes() != packed.tobytes():
        raise StorageError(str(file), "reads back other values than were written", fix="name a target on another disk")
    return ShardRecord(plan.path(index), size, digest)


def pack(variable: xr.Variable, plan: VariablePlan, label: str) -> npt.NDArray[Any]:
    """Return the values as they are stored; `DataError` where they would not unpack to what they were."""
    encoded = xr.conventions.encode_cf_variable(variable, name=plan.name)
    packed = np.ascontiguousarray(encoded.values)
    if packed.dtype != plan.dtype:
        packed = packed.astype(plan.dtype)
    if packed.dtype == variable.dtype and not {"scale_factor", "add_offset"} & variable.encoding.keys():
        return packed
    kept = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
    attrs = {k: v for k, v in encoded.attrs.items() if k in kept}
    unpacked = xr.conventions.decode_cf_variable(plan.name, xr.Variable(variable.dims, packed, attrs)).values
    if not np.array_equal(unpacked, variable.values, equal_nan=variable.dtype.kind == "f"):
        raise DataError(
            label,
            f"values change when they are packed as {plan.dtype} again",
            expected="what the source's packing holds exactly",
            fix=f"store them as they are, by ds[{plan.name!r}].encoding.clear(), and pass existing='replace'",
        )
    return packed
