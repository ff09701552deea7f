"""Samples that are asked for by number: what a loader needs of them, and what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Samples(Protocol):
    """What a loader and a trainer need of samples: `SequenceDataset`, `SyntheticSamples`, or a class of your own.

    Sample k is a function of k alone, for every k >= 0, whatever was asked for before and in whatever process; epochs
    of ``len(samples)`` samples follow each other without end. To be used with workers it can be pickled.
    """

    def __len__(self) -> int:
        """Return how many samples are an epoch."""

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W) of every sample."""

    @property
    def device(self) -> torch.device:
        """Where samples are made; workers can be used where this is the CPU."""

    def batch(self, samples: Sequence[int]) -> Tensor:
        """Return samples as one float32 tensor (B, T, C, H, W), in physical units with NaN where missing."""

    def stripe(self, sample: int) -> int:
        """Return a number that samples share which one worker should make; workers divide samples by it."""

    def describe(self, sample: int) -> str:
        """Return what a sample is, as errors print it."""


class NumberedSamples(Dataset[Tensor]):
    """Samples of which `batch` gives several at once; torch's own loaders ask for them in other ways."""

    @abstractmethod
    def batch(self, samples: Sequence[int]) -> Tensor:
        """Return samples as one tensor (B, T, C, H, W)."""

    def __getitem__(self, sample: int) -> Tensor:
        return self.batch([sample])[0]

    def __getitems__(self, samples: Sequence[int]) -> list[Tensor]:
        """Return several samples; torch's own loaders ask in this way."""
        return list(self.batch(samples).unbind(0))
