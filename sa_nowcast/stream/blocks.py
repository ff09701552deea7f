"""Where a sequence's frames come from, in parts that are read once and cut into windows.

A `Blocks` reads successive frames as they are stored and unpacks any part of them into float32, bit by bit what
`Frames.read` gives: `ZarrBlocks` straight from a Zarr store's chunks, `FrameBlocks` from anything that xarray opened,
`MemoryBlocks` from what is in memory already.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import DataError
from sa_nowcast.frames import Frames, require_usable
from sa_nowcast.stream.order import StoredAxis
from sa_nowcast.stream.packed import Unpacker
from sa_nowcast.stream.stored import StoredVariable, stored_variables
from sa_nowcast.times import show_time

Array = npt.NDArray[Any]
Block = list[Array]
"""Successive frames, each array (time, channel, row, column) in the layout of `Frames`, as stored."""

# What zarr and its codecs raise where bytes are missing or wrong.
_DAMAGED = (OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError)
_FRAMES_A_READ = 64


class Blocks(ABC):
    """The frames of one sequence, for reading in parts.

    Attributes
    ----------
    axis : StoredAxis
        In what parts reading is cheap.
    """

    axis: StoredAxis

    def __init__(self, frames: Frames) -> None:
        self.channels = frames.channels
        self.times, self.frame_shape = frames.times, frames.shape[1:]

    def label(self, position: int) -> str:
        """Return the time of a frame as errors print it."""
        return show_time(self.times[position])

    @abstractmethod
    def read(self, begin: int, end: int) -> Block:
        """Read frames ``begin`` to ``end`` as they are stored."""

    @abstractmethod
    def unpack(
        self, block: Block, begin: int, first: int, rows: slice, columns: slice, out: npt.NDArray[np.float32]
    ) -> None:
        """Unpack frames of a block into `out` (time, channel, row, column).

        Parameters
        ----------
        block : list of ndarray
            What `read` gave.
        begin : int
            The first entry of the block to unpack.
        first : int
            The frame that is the block's first entry.
        rows, columns : slice
            The part of the grid.
        out : ndarray
            It says how many frames there are.

        Raises
        ------
        DataError
            A value that is infinite, or a fill value that is not declared (variable and time are named).
        """


class FrameBlocks(Blocks):
    """Reads through `Frames`, for what is no plain selection of a Zarr store; blocks hold float32."""

    def __init__(self, frames: Frames) -> None:
        super().__init__(frames)
        self.frames = frames
        chunk = max((_time_chunk(frames, i) for i in range(len(frames.arrays))), default=1)
        per_read = chunk * max(1, _FRAMES_A_READ // chunk)
        _, channels, height, width = frames.shape
        self.axis = StoredAxis(len(frames), per_read, chunk, 0, channels * height * width * 4)

    def read(self, begin: int, end: int) -> Block:
        """Read frames ``begin`` to ``end`` as float32."""
        return [self.frames.read(begin, end)]

    def unpack(
        self, block: Block, begin: int, first: int, rows: slice, columns: slice, out: npt.NDArray[np.float32]
    ) -> None:
        """Copy frames of a block."""
        np.copyto(out, block[0][begin : begin + len(out), :, rows, columns])


class MemoryBlocks(FrameBlocks):
    """All frames in memory as float32. Lazy sources are read again by whoever unpickles this, never sent."""

    def __init__(self, frames: Frames) -> None:
        super().__init__(frames.load())
        self.axis = replace(self.axis, unit=len(frames), atom=len(frames))

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """All frames."""
        if self.frames.loaded is None:
            self.frames = self.frames.load()
        assert self.frames.loaded is not None
        return self.frames.loaded

    def read(self, begin: int, end: int) -> Block:
        """Return frames ``begin`` to ``end``; nothing is copied."""
        return [self.values[begin:end]]

    def __getstate__(self) -> dict[str, Any]:
        lazy = all(a.chunks is not None or not a.variable._in_memory for a in self.frames.arrays)
        return {**self.__dict__, "frames": replace(self.frames, loaded=None)} if lazy else self.__dict__


class ZarrBlocks(Blocks):
    """Reads the chunks of a Zarr store, and keeps them packed; the store is opened again in every process."""

    def __init__(self, frames: Frames, variables: list[StoredVariable]) -> None:
        super().__init__(frames)
        self.variables = variables
        self._unpackers = [Unpacker(v.array.dtype, v.packing) for v in variables]
        atom, unit = (math.lcm(*(getattr(v, kind) for v in variables)) for kind in ("chunk", "unit"))
        first = variables[0]
        aligned = all((v.offset % v.unit, v.unit) == (first.offset % first.unit, first.unit) for v in variables)
        self.axis = StoredAxis(
            frames=len(frames),
            unit=unit if aligned else atom,
            atom=atom,
            offset=first.offset if aligned else 0,
            frame_nbytes=sum(v.frame_nbytes for v in variables),
        )

    def read(self, begin: int, end: int) -> Block:
        """Read frames ``begin`` to ``end`` as they are packed."""
        return [self._read(v, begin, end) for v in self.variables]

    def unpack(
        self, block: Block, begin: int, first: int, rows: slice, columns: slice, out: npt.NDArray[np.float32]
    ) -> None:
        """Unpack frames of a block; values are what xarray decodes, to the last bit."""
        channel = 0
        for stored, unpacker in zip(block, self._unpackers, strict=True):
            part = stored[begin : begin + len(out), :, rows, columns]
            target = out[:, channel : channel + stored.shape[1]]
            unpacker.into(part, target)
            if unpacker.can_be_unusable:
                channels = self.channels[channel : channel + stored.shape[1]]
                require_usable(target, channels, lambda t: self.label(first + begin + t), unpacker.whole)
            channel += stored.shape[1]

    def _read(self, variable: StoredVariable, begin: int, end: int) -> Array:
        try:
            variable.require_files(begin, end)
            values = variable.read(begin, end)
        except _DAMAGED as error:
            raise self._damage(variable, begin, end, error) from error
        return values

    def _damage(self, variable: StoredVariable, begin: int, end: int, error: Exception) -> DataError:
        """Find the chunk that cannot be read, and name its first time."""
        for at in range(begin, end, variable.chunk):
            try:
                variable.require_files(at, at + 1)
                variable.read(at, at + 1)
            except _DAMAGED as found:
                begin, error = at, found
                break
        return DataError(
            f"{variable.name}, {self.label(begin)}",
            f"storage could not give the values ({type(error).__name__}: {error})",
            fix="write the store again from its source",
        )


def open_blocks(frames: Frames, *, in_memory: bool) -> Blocks:
    """Return the fastest way to read `frames` that gives the same bits."""
    if in_memory or frames.loaded is not None:
        return MemoryBlocks(frames)
    variables = stored_variables(frames)
    if variables is not None:
        blocks = ZarrBlocks(frames, variables)
        if _same(blocks, frames):
            return blocks
    return FrameBlocks(frames)


def _same(blocks: ZarrBlocks, frames: Frames) -> bool:
    """Whether the last frame reads the same both ways: a store that was changed on its way here is read as changed."""
    last = len(frames) - 1
    out = np.empty((1, *frames.shape[1:]), np.float32)
    try:
        blocks.unpack(blocks.read(last, last + 1), 0, last, slice(None), slice(None), out)
        return out.tobytes() == frames.read(last, last + 1).tobytes()
    except DataError:
        return True  # the damage will be named when it is met, if it is


def _time_chunk(frames: Frames, variable: int) -> int:
    array = frames.arrays[variable]
    if array.chunks is not None:
        return int(array.chunks[array.dims.index(frames.time_dim)][0])
    sizes = array.encoding.get("chunksizes") or array.encoding.get("chunks")
    names = array.encoding.get("preferred_chunks")
    if names and frames.time_dim in names:
        return max(1, min(int(names[frames.time_dim]), len(frames)))
    return 1 if not sizes else max(1, min(int(sizes[0]), len(frames)))
