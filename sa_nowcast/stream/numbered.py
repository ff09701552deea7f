"""What all samples share that are asked for by number, and those without end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sa_nowcast.errors import RecipeError

EPOCH: Final = 10_000
"""Samples that count as an epoch, by convention: MovingMNIST's published training set had so many sequences."""


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


class EndlessSamples(NumberedSamples):
    """Samples that are made when they are asked for, on the CPU; later epochs bring other ones.

    Parameters
    ----------
    epoch : int
        Samples that count as an epoch (``len``).

    Raises
    ------
    RecipeError
        An epoch without samples.
    """

    def __init__(self, epoch: int) -> None:
        if isinstance(epoch, bool) or not isinstance(epoch, int | np.integer) or epoch < 1:
            raise RecipeError("epoch", f"{epoch!r}", expected="a whole number of at least 1")
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return self.epoch

    @property
    def device(self) -> torch.device:
        """Where samples are made: always the CPU."""
        return torch.device("cpu")


def require_counted(samples: Sequence[int]) -> None:
    """Raise `IndexError` for a negative number: there is no last sample to count from."""
    if any(s < 0 for s in samples):
        raise IndexError(f"sample {min(samples)}: samples are counted from 0")
