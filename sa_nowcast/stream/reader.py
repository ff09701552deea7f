"""Windows out of blocks: what is read once is held until no window of its lane needs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sa_nowcast.stream.blocks import Block, Blocks, MemoryBlocks
from sa_nowcast.stream.order import Layout
from sa_nowcast.windows import Positions


class Window(NamedTuple):
    """A window: its first frame on the axis of all sources' frames, and its part of the grid."""

    start: int
    rows: slice
    columns: slice


class Reader(Protocol):
    """Fills tensors with windows."""

    device: torch.device

    def read(self, window: Window, lane: int, out_TCHW: Tensor) -> None:
        """Read a window into `out_TCHW`, which says how many frames there are."""


class BlockReader:
    """Reads windows of several sources from their blocks.

    Parameters
    ----------
    blocks : sequence of Blocks
        One a source.
    first : ndarray of int
        Where each source begins on the axis of all frames, and where the last one ends.
    layout : Layout
    """

    device = torch.device("cpu")

    def __init__(self, blocks: Sequence[Blocks], first: Positions, layout: Layout) -> None:
        self.blocks, self.first, self.layout = list(blocks), first, layout
        self._held: dict[int, dict[int, Block]] = {}

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
                held[number] = blocks.read(low - first, high - first)
            part = out[max(low - begin, 0) : min(high, end) - begin]
            blocks.unpack(held[number], max(begin - low, 0), low - first, window.rows, window.columns, part)

    def source(self, frame: int) -> int:
        """Return the source that a frame belongs to."""
        return int(np.searchsorted(self.first, frame, side="right")) - 1

    def frames(self, inside: npt.NDArray[np.bool_], at_once: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the frames that are `inside`, (time, channel, row, column), so many at once at most."""
        whole = slice(None)
        for low, high in zip(self.layout.edges[:-1].tolist(), self.layout.edges[1:].tolist(), strict=True):
            if not inside[low:high].any():
                continue
            source = self.source(low)
            first = int(self.first[source])
            block = self.blocks[source].read(low - first, high - first)
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
