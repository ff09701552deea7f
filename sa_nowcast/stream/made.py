"""`MadeSamples`: sequences of many kinds made while a network trains on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sa_nowcast.stream.made_fields import MadeFields
from sa_nowcast.stream.numbered import EPOCH, EndlessSamples, require_counted


class MadeSamples(EndlessSamples):
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
        super().__init__(epoch)
        self.source = source

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
        require_counted(samples)
        return torch.from_numpy(np.stack([self.source.sequence(int(s)) for s in samples])[:, :, None])

    def stripe(self, sample: int) -> int:
        """Return a number by which a loader's workers divide the samples: each is made alone."""
        return sample

    def describe(self, sample: int) -> str:
        """Return which sequence a sample is, as errors print it."""
        return f"made fields, seed {self.source.seed}, sequence {sample} ({self.source.kind(sample)})"
