"""`DigitSamples`: MovingMNIST sequences made while a network trains on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sa_nowcast.sources.mnist_generator import MovingMnist
from sa_nowcast.stream.numbered import EPOCH, EndlessSamples, require_counted

# Successive samples that one worker makes: long enough that a call's fixed cost is shared, short enough that the
# workers divide a small batch evenly.
_RUN: Final = 4


class DigitSamples(EndlessSamples):
    """Endless training samples of MovingMNIST: sample k is sequence k of a generator, made when it is asked for.

    A float32 tensor (T, 1, H, W) in grey values, 0 to 255. `sa_nowcast.stream.loader` takes it in place of a
    `SequenceDataset`: the generator is the same in every process, so the batches are the same whatever the number of
    workers and ranks, and a resumed run goes on with the samples that an unbroken run would have seen.

    Parameters
    ----------
    source : MovingMnist
        It says the digits, their number, the size and the length of a sequence, and the seed.
    epoch : int
        Samples that count as an epoch (``len``). The generator has no end: later epochs bring other sequences.

    Raises
    ------
    RecipeError
        An epoch without samples.

    Examples
    --------
    >>> from sa_nowcast.sources import MovingMnist
    >>> from sa_nowcast.stream import loader
    >>> train = DigitSamples(MovingMnist("mnist", seed=3))  # doctest: +SKIP
    >>> next(iter(loader(train, batch_size=8, batches=80_000))).shape  # doctest: +SKIP
    torch.Size([8, 20, 1, 64, 64])
    """

    def __init__(self, source: MovingMnist, epoch: int = EPOCH) -> None:
        super().__init__(epoch)
        self.digits = source

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W) of every sample."""
        return self.digits.length, 1, *self.digits.shape

    def batch(self, samples: Sequence[int]) -> Tensor:
        """Return samples as one tensor (B, T, C, H, W); runs of successive numbers are made in one go.

        Raises
        ------
        IndexError
            A negative number.
        """
        source = self.digits
        grey: npt.NDArray[np.uint8] = np.empty((len(samples), source.length, *source.shape), np.uint8)
        for begin, end in _runs(samples):
            source.batch(int(samples[begin]), end - begin, out=grey[begin:end])
        x_BTHW: npt.NDArray[Any] = grey.astype(np.float32)
        return torch.from_numpy(x_BTHW)[:, :, None]

    def stripe(self, sample: int) -> int:
        """Return a number that a few successive samples share; a loader's workers divide the samples by it."""
        return sample // _RUN

    def describe(self, sample: int) -> str:
        """Return which sequence a sample is, as errors print it."""
        return f"MovingMNIST {self.digits.part} digits, seed {self.digits.seed}, sequence {sample}"


def _runs(samples: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the half-open ranges of places whose samples are successive numbers."""
    require_counted(samples)
    ends = [i for i in range(1, len(samples)) if samples[i] != samples[i - 1] + 1]
    yield from itertools.pairwise([0, *ends, len(samples)] if len(samples) else [])
