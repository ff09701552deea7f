"""`SyntheticSamples`: sequences that a generator makes while a network trains on them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sa_nowcast.stream.samples import NumberedSamples
from sa_nowcast.windows import require_whole

EPOCH: Final = 10_000
"""Samples that count as an epoch, by convention: MovingMNIST's published training set had so many sequences."""


class Generator(Protocol):
    """What makes sequences by number, the same in every process: `MovingMnist`, `SyntheticFields`, or your own.

    Attributes
    ----------
    length : int
        Frames a sequence.
    shape : (int, int)
        Rows and columns of a frame.
    run : int
        Successive sequences that are best made together, by one worker of a loader.
    """

    length: int
    shape: tuple[int, int]
    run: int

    def batch(self, start: int, count: int) -> npt.NDArray[Any]:
        """Return sequences ``start`` to ``start + count``, (count, length, rows, columns)."""

    def describe(self, number: int, /) -> str:
        """Return which sequence a number is, as errors print it."""


class SyntheticSamples(NumberedSamples):
    """Endless training samples: sample k is sequence k of a generator, made when it is asked for, on the CPU.

    A float32 tensor (T, 1, H, W): of `MovingMnist` grey values, 0 to 255; of `SyntheticFields` NaN where values are
    missing. `sa_nowcast.stream.loader` takes it in place of a `SequenceDataset`: the generator is the same in every
    process, so the batches are the same whatever the number of workers and ranks, and a resumed run goes on with the
    samples that an unbroken run would have seen.

    Parameters
    ----------
    generator : MovingMnist, SyntheticFields or other Generator
        It says the size and the length of a sequence, and the seed.
    epoch : int
        Samples that count as an epoch (``len``). A generator has no end: later epochs bring other sequences.

    Raises
    ------
    RecipeError
        An epoch without samples.

    Examples
    --------
    >>> from sa_nowcast.sources import MovingMnist
    >>> from sa_nowcast.stream import loader
    >>> train = SyntheticSamples(MovingMnist("mnist", seed=3))  # doctest: +SKIP
    >>> next(iter(loader(train, batch_size=8, batches=80_000))).shape  # doctest: +SKIP
    torch.Size([8, 20, 1, 64, 64])
    """

    device = torch.device("cpu")

    def __init__(self, generator: Generator, epoch: int = EPOCH) -> None:
        require_whole(epoch=epoch)
        self.generator, self.epoch = generator, int(epoch)

    def __len__(self) -> int:
        return self.epoch

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W) of every sample."""
        return self.generator.length, 1, *self.generator.shape

    def batch(self, samples: Sequence[int]) -> Tensor:
        """Return samples as one tensor (B, T, C, H, W); successive numbers are made in one go.

        Raises
        ------
        IndexError
            A negative number: there is no last sample to count from.
        """
        if any(s < 0 for s in samples):
            raise IndexError(f"sample {min(samples)}: samples are counted from 0")
        x_BTHW = np.empty((len(samples), self.generator.length, *self.generator.shape), np.float32)
        ends = [i for i in range(1, len(samples)) if samples[i] != samples[i - 1] + 1]
        for begin, end in itertools.pairwise([0, *ends, len(samples)] if len(samples) else []):
            x_BTHW[begin:end] = self.generator.batch(int(samples[begin]), end - begin)
        return torch.from_numpy(x_BTHW)[:, :, None]

    def stripe(self, sample: int) -> int:
        """Return a number that successive samples share which are best made together, by one worker of a loader."""
        return sample // self.generator.run

    def describe(self, sample: int) -> str:
        """Return which sequence a sample is, as errors print it."""
        return self.generator.describe(sample)
