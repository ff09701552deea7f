"""Windows out of blocks: parts of a sequence that are read once, and held until no window of their lane needs them.

A `Blocks` reads successive frames as they are stored and unpacks any part of them into float32, bit by bit what
`Frames.read` gives: `ZarrBlocks` straight from a Zarr store's chunks, `FrameBlocks` from anything that xarray opened,
`MemoryBlocks` from what is in memory already.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from zarr.storage import ObjectStore

from sa_nowcast.errors import DataError
from sa_nowcast.frames import Frames, require_usable
from sa_nowcast.stream.ahead import Ahead
from sa_nowcast.stream.order import Layout, StoredAxis
from sa_nowcast.stream.packed import Unpacker
from sa_nowcast.stream.stored import StoredVariable, stored_variables
from sa_nowcast.times import show_time
from sa_nowcast.windows import Positions

Array = npt.NDArray[Any]
Values = npt.NDArray[np.float32]
Block = list[Array]
"""Successive frames, each array (time, channel, row, column) in the layout of `Frames`, as stored."""

# What zarr and its codecs raise where bytes are missing or wrong.
_DAMAGED = (OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError)
_FRAMES_A_READ = 64


class Blocks(ABC):
    """The frames of one sequence, for reading in parts."""

    axis: StoredAxis  # in what parts reading is cheap
    far = False  # whether the store is elsewhere, where a request takes long and several can be under way

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
    def unpack(self, block: Block, begin: int, first: int, rows: slice, columns: slice, out: Values) -> None:
        """Unpack frames of a block from entry `begin` on, of a part of the grid, until `out` (T, C, H, W) is full.

        `first` is the frame that is the block's first entry. A value that is infinite, or a fill value that is not
        declared, is a `DataError` (variable and time are named).
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

    def unpack(self, block: Block, begin: int, first: int, rows: slice, columns: slice, out: Values) -> None:
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
        self.far = any(isinstance(s := v.array.store, ObjectStore) or getattr(s, "far", False) for v in variables)
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

    def unpack(self, block: Block, begin: int, first: int, rows: slice, columns: slice, out: Values) -> None:
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


class Window(NamedTuple):
    """A window: its first frame on the axis of all sources' frames, and its part of the grid."""

    start: int
    rows: slice
    columns: slice


class BlockReader:
    """Reads windows of several sources from their blocks, one a source.

    `first` says where each source begins on the axis of all frames, and where the last one ends.
    """

    device = torch.device("cpu")

    def __init__(self, blocks: Sequence[Blocks], first: Positions, layout: Layout) -> None:
        self.blocks, self.first, self.layout = list(blocks), first, layout
        self._held: dict[int, dict[int, Block]] = {}
        self.ahead = Ahead(self._read) if any(b.far for b in self.blocks) else None

    def ask(self, begin: int, end: int, lane: int) -> None:
        """Begin to read what frames ``begin`` to ``end`` need and the lane does not hold, where that helps."""
        if self.ahead is not None:
            held = self._held.get(lane, {})
            wanted = range(self.layout.cell(begin), self.layout.cell(end - 1) + 1)
            self.ahead.ask(lane, [cell for cell in wanted if cell not in held])

    def read(self, window: Window, lane: int, out_TCHW: Tensor) -> None:
        """Read a window; cells that no later window of the lane needs are let go first."""
        out, length = out_TCHW.numpy(), len(out_TCHW)
        edges = self.layout.edges
        begin, end = window.start, window.start + length
        cell, last = self.layout.cell(begin), self.layout.cell(end - 1)
        held = self._held.setdefault(lane, {})
        if not self.layout.whole:
            reach = self.layout.reach(cell, length)
            for old in [c for c in held if not cell <= c <= reach]:
                del held[old]
        source = self.source(begin)
        blocks, first = self.blocks[source], int(self.first[source])
        for number in range(cell, last + 1):
            low, high = int(edges[number]), int(edges[number + 1])
            if number not in held:
                held[number] = self._read(number) if self.ahead is None else self.ahead.take(lane, number)
            part = out[max(low - begin, 0) : min(high, end) - begin]
            blocks.unpack(held[number], max(begin - low, 0), low - first, window.rows, window.columns, part)

    def _read(self, cell: int) -> Block:
        low, high = int(self.layout.edges[cell]), int(self.layout.edges[cell + 1])
        source = self.source(low)
        first = int(self.first[source])
        return self.blocks[source].read(low - first, high - first)

    def source(self, frame: int) -> int:
        """Return the source that a frame belongs to."""
        return int(np.searchsorted(self.first, frame, side="right")) - 1

    def frames(self, inside: npt.NDArray[np.bool_], at_once: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the frames that are `inside`, (time, channel, row, column), so many at once at most."""
        whole = slice(None)
        edges = self.layout.edges.tolist()
        cells = [cell for cell in range(len(edges) - 1) if inside[edges[cell] : edges[cell + 1]].any()]
        read = ((cell, self._read(cell)) for cell in cells) if self.ahead is None else self.ahead.in_order(cells)
        for cell, block in read:
            low, high = edges[cell : cell + 2]
            source = self.source(low)
            first = int(self.first[source])
            for begin in range(low, high, at_once):
                end = min(begin + at_once, high)
                out = np.empty((end - begin, *self.blocks[source].frame_shape), np.float32)
                self.blocks[source].unpack(block, begin - low, low - first, whole, whole, out)
                yield out[inside[begin:end]]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}}


class DeviceReader:
    """Reads windows out of frames that are on a device as a whole."""

    def __init__(self, blocks: Sequence[MemoryBlocks], device: torch.device) -> None:
        self.device = device
        self._frames = torch.cat([torch.from_numpy(b.values) for b in blocks]).to(device)

    def read(self, window: Window, lane: int, out_TCHW: Tensor) -> None:
        """Copy a window on the device."""
        end = window.start + len(out_TCHW)
        out_TCHW.copy_(self._frames[window.start : end, :, window.rows, window.columns])
