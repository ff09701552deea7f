"""`MadeSamples`: sequences of many kinds made while a network trains on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sa_nowcast.errors import RecipeError
from sa_nowcast.stream.made_fields import MadeFields

EPOCH: Final = 10_000
"""Samples that count as an epoch, by convention, as for MovingMNIST."""


class MadeSamples(Dataset[Tensor]):
    """Endless training samples of made fields: sample k is sequence k of a generator, made when it is asked for.

    A float32 tensor (T, 1, H, W), NaN where values are missing. `sa_nowcast.stream.loader` takes it in place of a
    `SequenceDataset`; see `DigitSamples` for what that gives.

    Parameters
    ----------
    source : MadeFields
    epoch : int
        Samples that count as an epoch (``len``). The generator has no end: later epochs bring other sequences.

    Raises
    ------
    RecipeError
        An epoch without samples.
    """

    def __init__(self, source: MadeFields, epoch: int = EPOCH) -> None:
        if isinstance(epoch, bool) or not isinstance(epoch, int | np.integer) or epoch < 1:
            raise RecipeError("epoch", f"{epoch!r}", expected="a whole number of at least 1")
        self.source, self.epoch = source, int(epoch)

    def __len__(self) -> int:
        return self.epoch

    def __getitem__(self, sample: int) -> Tensor:
        return self.batch([sample])[0]

    def __getitems__(self, samples: Sequence[int]) -> list[Tensor]:
        """Return several samples; torch's own loaders ask in this way."""
        return list(self.batch(samples).unbind(0))

    @property
    def device(self) -> torch.device:
        """Where samples are made: always the CPU."""
        return torch.device("cpu")

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W) of every sample."""
        return self.source.length, 1, self.source.size, self.source.size

    def batch(self, samples: Sequence[int]) -> Tensor:
        """Return samples as one tensor (B, T, C, H, W).

        Raises
        ------
        IndexError
            A negative number.
        """
        if any(s < 0 for s in samples):
            raise IndexError(f"sample {min(samples)}: samples are counted from 0")
        return torch.from_numpy(np.stack([self.source.sequence(int(s)) for s in samples])[:, :, None])

    def stripe(self, sample: int) -> int:
        """Return a number by which a loader's workers divide the samples: each is made alone."""
        return sample

    def describe(self, sample: int) -> str:
        """Return which sequence a sample is, as errors print it."""
        return f"made fields, seed {self.source.seed}, sequence {sample} ({self.source.kind(sample)})"
