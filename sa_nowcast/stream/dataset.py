"""`SequenceDataset`: the windows of one or several gridded sequences, as tensors."""

from __future__ import annotations

import multiprocessing
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sa_nowcast import windows
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.scaling import Scaling
from sa_nowcast.stream.ahead import Ahead
from sa_nowcast.stream.blocks import BlockReader, DeviceReader, MemoryBlocks, Window, open_blocks
from sa_nowcast.stream.order import block_order, choose_layout
from sa_nowcast.stream.samples import NumberedSamples
from sa_nowcast.stream.sources import Period, Source, called, open_sequences, starts_of
from sa_nowcast.times import Gaps, show_time
from sa_nowcast.windows import Positions

IN_MEMORY_BYTES = 2**31
"""Sequences of at most so many bytes (as float32, all sources together) are read once and kept in memory."""

CACHE_BYTES = 128 * 2**20
"""What a `SequenceDataset` that reads from storage holds at most, as stored, unless it is told otherwise."""

CROP_TRIES = 10
"""How many crops are drawn at most until one is wet enough."""

_FRAMES_AT_ONCE = 64


class SequenceDataset(NumberedSamples):
    """The windows of gridded sequences as float32 tensors (T, C, H, W) in physical units, NaN where missing.

    Frames come north up, whatever the order of the axes in storage. Windows lie inside one source, cross no gap in
    time, and stay inside the period that is asked for.

    Parameters
    ----------
    source : path, Dataset, DataArray, or a sequence of them
        Zarr stores and files of any kind that `sa_nowcast.sources.open_source` opens. Several have one grid, cadence,
        and the same channels.
    history, steps : int
        Frames given and frames to forecast; a window has ``history + steps`` frames.
    variables, time, y, x, channel : optional
        Names, where CF attributes and common names do not tell. By default all gridded variables are channels: of a
        Dataset in its order, of what is opened from a path by name.
    gaps : {"refuse", "skip"}
        What to do about missing times.
    stride : int
        Frames between the starts of successive windows.
    period : {"train", "validation", "test"}, optional
        One of three periods in time order, split over the times of all sources; by default all windows.
    validation, test : float
        Shares of the times, where `period` is given.
    guard : int, optional
        Frames left unused between two periods; by default one history.
    starts : sequence of int, optional
        Windows that `sa_nowcast.windows.window_starts` planned on the one source, in place of all windows.
    ends : sequence of int, optional
        For each of `starts` the first frame that is not read: from there on the window is missing (NaN).
    crop : int or (int, int), optional
        Rows and columns of a random crop of each window; by default the whole grid. A crop that is larger than the
        grid in one direction takes the whole grid there.
    wet_threshold, wet_fraction : float
        A crop is taken when at least this share of its pixels, over the whole window, is at or above the threshold
        (in the data's units); of ten drawn crops the wettest one, where none has so many.
    flips, turns : bool
        Whether to mirror windows at random, and to turn them by quarters.
    seed : int
        Decides order, crops, flips and turns, together with the number of the sample.
    shuffle : bool
        Whether an epoch has an order of its own, or the one in time.
    cache_bytes : int
        What is held at most when reading from storage.
    in_memory : bool, optional
        Whether all frames are read into memory first; by default up to `sa_nowcast.stream.IN_MEMORY_BYTES` as float32.
    device : str or torch.device, optional
        Keep all frames on this device; samples are made there, and loader workers cannot be used.

    Raises
    ------
    DataError
        A source that cannot be used, sources that differ, or no window at all.
    RecipeError
        An option that is not allowed.

    Notes
    -----
    ``dataset[k]`` is a function of (seed, k) alone, for every k >= 0: epochs of ``len(dataset)`` samples follow each
    other without end. Samples should be taken in the order of k, as `sa_nowcast.stream.loader` takes them: this order
    is shuffled already, and reads every stored chunk about once an epoch.
    """

    def __init__(
        self,
        source: Source | Sequence[Source],
        history: int,
        steps: int,
        *,
        variables: Sequence[str] | None = None,
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        gaps: Gaps = "refuse",
        stride: int = 1,
        period: Period | None = None,
        validation: float = 0.2,
        test: float = 0.2,
        guard: int | None = None,
        starts: Sequence[int] | npt.NDArray[np.int64] | None = None,
        ends: Sequence[int] | npt.NDArray[np.int64] | None = None,
        crop: int | tuple[int, int] | None = None,
        wet_threshold: float = 0.0,
        wet_fraction: float = 0.0,
        flips: bool = False,
        turns: bool = False,
        seed: int = 0,
        shuffle: bool = True,
        cache_bytes: int = CACHE_BYTES,
        in_memory: bool | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        windows.require_whole(history=history, steps=steps, stride=stride)
        self.history, self.steps, self.length = int(history), int(steps), int(history) + int(steps)
        self.seed, self.shuffle, self.flips, self.turns = seed, shuffle, flips, turns
        self.crop = (crop, crop) if isinstance(crop, int) else crop
        self.wet_threshold, self.wet_fraction = wet_threshold, wet_fraction
        if not 0 <= wet_fraction <= 1:
            raise RecipeError("wet_fraction", f"{wet_fraction}", expected="a share from 0 to 1")
        if self.crop is not None and min(self.crop) < 1:
            raise RecipeError("crop", f"{self.crop}", expected="at least 1 row and column")
        given = list(source) if isinstance(source, Sequence) and not isinstance(source, str | bytes) else [source]
        self._names = [called(s, number) for number, s in enumerate(given)]
        sequences = open_sequences(given, variables=variables, time=time, y=y, x=x, channel=channel, gaps=gaps)
        self.channels, self.grid, self.step = sequences[0].channels, sequences[0].grid, sequences[0].step
        if turns and self.sample_shape[-2] != self.sample_shape[-1]:
            rows, columns = self.sample_shape[-2:]
            raise RecipeError("turns", f"samples of {rows} x {columns}", expected="squares", fix="give a square crop")
        shares = {"validation": validation, "test": test, "guard": self.history if guard is None else guard}
        planned = _starts(sequences, self.length, stride, period, shares, starts)
        if in_memory is None:
            in_memory = sum(f.nbytes for f in sequences) <= IN_MEMORY_BYTES
        blocks = [open_blocks(f, in_memory=in_memory or device is not None) for f in sequences]
        self._times = [f.times for f in sequences]
        self._first = np.cumsum([0, *(len(f) for f in sequences)])
        self.starts: Positions = np.concatenate([s + f for s, f in zip(planned, self._first, strict=False)])
        lengths = self.length if ends is None else np.minimum(np.asarray(ends) - self.starts, self.length)
        self._lengths = np.broadcast_to(lengths, self.starts.shape)
        loaded = [b for b in blocks if isinstance(b, MemoryBlocks)]
        all_loaded = len(loaded) == len(blocks)
        self.layout = choose_layout([b.axis for b in blocks], self.length, None if all_loaded else cache_bytes)
        self._reader: BlockReader | DeviceReader = (
            BlockReader(blocks, self._first, self.layout)
            if device is None
            else DeviceReader(loaded, torch.device(device))
        )
        self._orders: dict[int, Positions] = {}
        self._seen: dict[int, tuple[int, int]] = {}  # by lane: the last sample, and that of which cells were asked for

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def device(self) -> torch.device:
        """Where samples are made."""
        return self._reader.device

    def batch(self, samples: Sequence[int]) -> Tensor:
        """Return samples as one tensor (B, T, C, H, W)."""
        out = _empty((len(samples), *self.sample_shape), self._reader.device)
        ahead = self._reader.ahead if isinstance(self._reader, BlockReader) else None
        if ahead is not None:
            self._ask(samples)
        for entry, sample in zip(out, samples, strict=True):
            self._fill(int(sample), entry)
            if ahead is not None:
                self._look_ahead(int(sample), ahead)
            if self.flips or self.turns:
                up, left, quarters = windows.flips_and_turns(self.seed, int(sample))
                entry.copy_(_moved(entry, (up, left) if self.flips else (False, False), quarters if self.turns else 0))
        return out

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W) of every sample."""
        height, width = self.grid.height, self.grid.width
        if self.crop is not None:
            height, width = min(self.crop[0], height), min(self.crop[1], width)
        return self.length, len(self.channels), height, width

    def window(self, sample: int) -> Window:
        """Return which window a sample is: its first frame, rows and columns (before flips and turns)."""
        if self.wet_fraction <= 0 or self.crop is None:
            return self._candidate(sample, 0)
        return self._fill(sample, torch.empty(self.sample_shape, device=self._reader.device))

    def times(self, sample: int) -> npt.NDArray[np.datetime64]:
        """Return the times of a sample's frames."""
        number = self._window_number(sample)
        start, length = int(self.starts[number]), int(self._lengths[number])
        source = self.source(sample)
        first = start - int(self._first[source])
        times = self._times[source][first : first + length]
        return np.concatenate([times, times[-1] + self.step * np.arange(1, self.length - length + 1)])

    def source(self, sample: int) -> int:
        """Return the number of the source that a sample is from."""
        return int(np.searchsorted(self._first, self.starts[self._window_number(sample)], side="right")) - 1

    def describe(self, sample: int) -> str:
        """Return what a sample is, as errors print it: first and last time, and source and crop where they vary."""
        times = self.times(sample)
        text = f"{show_time(times[0])} to {show_time(times[-1])}"
        if len(self._names) > 1:
            text = f"{self._names[self.source(sample)]}, {text}"
        if self.sample_shape[-2:] != (self.grid.height, self.grid.width):
            _, rows, columns = self.window(sample)
            text += f", rows {rows.start} to {rows.stop - 1} and columns {columns.start} to {columns.stop - 1}"
            text += " from the upper left"
        return text

    def stripe(self, sample: int) -> int:
        """Return a number that samples from one place in storage share; a loader's workers divide them by it."""
        if self.layout.whole:
            return sample
        return self._lane(sample) if self.shuffle else self.layout.cell(int(self.starts[self._window_number(sample)]))

    def fit_scaling(self, kind: str = "auto") -> Scaling:
        """Fit a scaling to the frames that the windows use, each of them once; see `sa_nowcast.scaling.Scaling.fit`."""
        if not isinstance(self._reader, BlockReader):
            raise RecipeError("fit_scaling", "the data are on a device", fix="fit it to a dataset without device=")
        edges = np.zeros(int(self._first[-1]) + 1, dtype=np.int64)
        np.add.at(edges, self.starts, 1)
        np.add.at(edges, self.starts + self._lengths, -1)
        return Scaling.fit(kind, self.channels, self._reader.frames(np.cumsum(edges[:-1]) > 0, _FRAMES_AT_ONCE))

    def _ask(self, samples: Sequence[int]) -> None:
        """Begin to read the cells of samples, one sample a lane."""
        assert isinstance(self._reader, BlockReader)
        for sample in {self._lane(s): s for s in map(int, reversed(samples))}.values():
            start, length = self._span(sample)
            self._reader.ask(start, start + length, self._lane(sample))

    def _look_ahead(self, sample: int, ahead: Ahead) -> None:
        """Begin to read the next cell that the lane of a sample needs, within the epoch."""
        assert isinstance(self._reader, BlockReader)
        if not self.shuffle and multiprocessing.parent_process() is not None:
            return  # a worker of a loader, whose next cell is another's
        lane, each = self._lane(sample), self.layout.lanes if self.shuffle else 1
        (last, seen), end = self._seen.get(lane, (-1, -1)), (sample // len(self) + 1) * len(self)
        if not last < sample <= seen < end:
            ahead.forget(lane)
            seen = sample
        while ahead.room(lane, each) and seen + each < end:
            seen += each
            start, length = self._span(seen)
            self._reader.ask(start, start + length, lane)
        self._seen[lane] = sample, seen

    def _span(self, sample: int) -> tuple[int, int]:
        """Return the first frame of a sample, and how many there are."""
        number = self._window_number(sample)
        return int(self.starts[number]), int(self._lengths[number])

    def _fill(self, sample: int, out_TCHW: Tensor) -> Window:
        """Read a sample into `out_TCHW`, before flips and turns, and return where it is."""
        length = int(self._lengths[self._window_number(sample)])
        out_TCHW[length:] = torch.nan
        out_TCHW = out_TCHW[:length]
        lane = self._lane(sample)
        window = self._candidate(sample, 0)
        self._reader.read(window, lane, out_TCHW)
        if self.wet_fraction <= 0 or self.crop is None:
            return window
        best, most = window, _wet(out_TCHW, self.wet_threshold)
        for attempt in range(1, CROP_TRIES):
            if most >= self.wet_fraction:
                break
            window = self._candidate(sample, attempt)
            self._reader.read(window, lane, out_TCHW)
            wet = _wet(out_TCHW, self.wet_threshold)
            if wet > most:
                best, most = window, wet
        if best != window:
            self._reader.read(best, lane, out_TCHW)
        return best

    def _candidate(self, sample: int, attempt: int) -> Window:
        start = int(self.starts[self._window_number(sample)])
        height, width = self.grid.height, self.grid.width
        if self.crop is None:
            return Window(start, slice(0, height), slice(0, width))
        row, column = windows.crop_corner(self.seed, sample, height, width, self.crop, attempt)
        rows = slice(row, min(row + self.crop[0], height))
        return Window(start, rows, slice(column, min(column + self.crop[1], width)))

    def _window_number(self, sample: int) -> int:
        if sample < 0:
            raise IndexError(f"sample {sample}: samples are counted from 0")
        epoch, place = divmod(sample, len(self))
        if not self.shuffle:
            return place
        if epoch not in self._orders:
            # A batch can lie in two epochs, and a loader reads ahead into the next one.
            self._orders = {e: o for e, o in self._orders.items() if abs(e - epoch) <= 1}
            self._orders[epoch] = block_order(self.seed, epoch, self.starts, self.layout)
        return int(self._orders[epoch][place])

    def _lane(self, sample: int) -> int:
        return sample % len(self) % self.layout.lanes if self.shuffle else 0

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self._reader, DeviceReader):
            raise RecipeError("workers", "data that are on a device", expected="0 workers, or data without device=")
        return {**self.__dict__, "_orders": {}, "_seen": {}}


def _starts(
    sequences: Sequence[Frames],
    length: int,
    stride: int,
    period: Period | None,
    shares: dict[str, float],
    given: Sequence[int] | Positions | None,
) -> list[Positions]:
    if given is None:
        planned = starts_of(sequences, length, stride, period, **shares)
    elif len(sequences) > 1 or period is not None:
        raise RecipeError("starts", "given for several sources or a period", expected="one source, no period")
    else:
        planned = [np.asarray(given, dtype=np.int64)]
    if not sum(map(len, planned)):
        longest = max((e - b for f in sequences for b, e in f.segments), default=0)
        where = "windows" if period is None else f"windows of the {period} period"
        raise DataError(
            where,
            f"none of {length} frames",
            expected="at least one",
            fix=f"give more frames (the longest stretch without a gap has {longest}), or shorten history or steps",
        )
    return planned


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return memory for a batch; on the CPU from numpy, which asks for large pages, and they are filled faster."""
    return torch.from_numpy(np.empty(shape, np.float32)) if device.type == "cpu" else torch.empty(shape, device=device)


def _moved(x_TCHW: Tensor, flips: tuple[bool, bool], quarters: int) -> Tensor:
    mirrored = x_TCHW.flip([d for d, on in zip((-2, -1), flips, strict=True) if on])
    return torch.rot90(mirrored, quarters, (-2, -1))


def _wet(x_TCHW: Tensor, threshold: float) -> float:
    return float((x_TCHW >= threshold).float().mean())
