"""Windows become batches of tensors: the one place where xarray data enter torch.

A sample is a function of (seed, sample number): which window, in which order, cropped where. So a resumed or
re-distributed run sees exactly the samples that an unbroken run sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sa_nowcast import windows
from sa_nowcast.errors import RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.scaling import Scaling

IN_MEMORY_BYTES = 2**31
"""Sequences of at most so many bytes (as float32) are read once and kept in memory."""


_epoch_order = lru_cache(maxsize=4)(windows.epoch_order)


class Batch(NamedTuple):
    """Scaled windows without NaN, and where they were valid."""

    x_BTCHW: Tensor
    valid_BTCHW: Tensor


class WindowDataset(Dataset[Tensor]):
    """The windows of a sequence as float32 tensors (T, C, H, W) in physical units, NaN where missing.

    Parameters
    ----------
    frames : Frames
        The sequence; read into memory when it is smaller than `IN_MEMORY_BYTES`.
    starts : sequence of int
        First frame of each window, as `sa_nowcast.windows.window_starts` plans them.
    length : int
        Frames a window: history + steps.
    crop : (int, int), optional
        Rows and columns of a random crop; by default the whole grid.
    seed : int
        Decides order and crops, together with the sample number.
    shuffle : bool
        Whether sample k of an epoch is window k, or the k-th of a permutation of its own in every epoch.

    Notes
    -----
    ``dataset[k]`` is defined for every k >= 0: epochs follow each other without end, ``len(dataset)`` samples each.
    """

    def __init__(
        self,
        frames: Frames,
        starts: Sequence[int] | npt.NDArray[np.int64],
        length: int,
        *,
        crop: tuple[int, int] | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.frames = frames.load() if frames.nbytes <= IN_MEMORY_BYTES else frames
        self.starts = np.asarray(starts, dtype=np.int64)
        if not len(self.starts):
            raise RecipeError("windows", f"none of {length} frames", expected="at least one", fix="give more frames")
        self.length, self.crop, self.seed, self.shuffle = length, crop, seed, shuffle

    def __len__(self) -> int:
        return len(self.starts)

    def window(self, sample: int) -> tuple[int, slice, slice]:
        """Return the first frame, the rows and the columns of a sample."""
        epoch, place = divmod(sample, len(self))
        start = int(self.starts[_epoch_order(self.seed, epoch, len(self))[place] if self.shuffle else place])
        height, width = self.frames.grid.height, self.frames.grid.width
        if self.crop is None:
            return start, slice(0, height), slice(0, width)
        row, column = windows.crop_corner(self.seed, sample, height, width, self.crop)
        rows = slice(row, min(row + self.crop[0], height))
        return start, rows, slice(column, min(column + self.crop[1], width))

    def __getitem__(self, sample: int) -> Tensor:
        start, rows, columns = self.window(sample)
        return torch.from_numpy(self.frames.read(start, start + self.length, rows, columns))


class StepSampler(Sampler[list[int]]):
    """The sample numbers of every batch: step s takes samples s·B to (s + 1)·B - 1, whatever came before.

    Parameters
    ----------
    batch_size, steps : int
        Samples a batch, and how many batches there are in all.
    first : int
        Where to begin; a resumed run begins at the step after the last finished one.
    """

    def __init__(self, batch_size: int, steps: int, first: int = 0) -> None:
        self.batch_size, self.steps, self.first = batch_size, steps, first

    def __len__(self) -> int:
        # The length of the whole run: the trainer counts batches from the run's beginning, also after a resume.
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.steps):
            yield list(range(step * self.batch_size, (step + 1) * self.batch_size))


def batches(dataset: WindowDataset, sampler: Sampler[list[int]], *, workers: int = 0) -> DataLoader[Tensor]:
    """Return a loader of raw batches (B, T, C, H, W), in physical units with NaN.

    Workers start by forkserver: zarr runs threads, and a forked child of a threaded process can deadlock.
    """
    context = "forkserver" if workers else None
    return DataLoader(dataset, batch_sampler=sampler, num_workers=workers, multiprocessing_context=context)


def prepare(raw_BTCHW: Tensor, scaling: Scaling, history: int) -> Batch:
    """Scale a raw batch, remember what was valid, and fill what was not.

    A missing pixel takes the latest valid value before it; where there is none, the earliest valid one within the
    history; where there is none either, 0 (no rain under a rain scaling, the mean under a standard one). A target
    frame never fills the history, so nothing of the future leaks into a forecast.
    """
    valid = torch.isfinite(raw_BTCHW)
    x = scaling.to_network(raw_BTCHW, torch)
    if bool(valid.all()):
        return Batch(x.contiguous(), valid)
    return Batch(_filled(x, valid, history).contiguous(), valid)


def _filled(x: Tensor, valid: Tensor, history: int) -> Tensor:
    time = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1, 1)
    latest = torch.where(valid, time, -1).cummax(dim=1).values
    known = valid[:, :history]
    first = torch.where(known, time[:, :history], history).amin(dim=1, keepdim=True)
    source = torch.where(latest >= 0, latest, first.clamp(max=history - 1))
    return torch.nan_to_num(x.gather(1, source), nan=0.0)
