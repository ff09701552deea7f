"""Raw batches become what a network sees: scaled, filled, and a mask of what was valid."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from sa_nowcast.scaling import Scaling


class Batch(NamedTuple):
    """Scaled windows without NaN, and where they were valid."""

    x_BTCHW: Tensor
    valid_BTCHW: Tensor


LEAST_SHARE: Final = 0.01
"""Share of a window's values at their minimum from which on it stands for nothing there."""


def prepare(raw_BTCHW: Tensor, scaling: Scaling, history: int, *, by_window: bool = False) -> Batch:
    """Scale a raw batch, remember what was valid, and fill what was not.

    A missing pixel takes the latest valid value before it; where there is none, the earliest valid one within the
    history; where there is none either, 0 (no rain under a rain scaling, the mean under a standard one), or what
    `by_window` asks for. A target frame never fills the history, so nothing of the future leaks into a forecast.

    Parameters
    ----------
    raw_BTCHW : Tensor, shape (batch, time, channel, row, column)
        Physical units, NaN where missing.
    scaling : Scaling
        To network values.
    history : int
        Frames of the time axis, from its beginning, that are given to the network.
    by_window : bool
        Whether a pixel that was never observed takes a value of its window and channel: the least one of the history
        where a hundredth of the values or more have it (no rain), else their mean. For networks that scale each window
        by itself (``needs_scaling`` of `sa_nowcast.models.registry.Declared`), to which 0 is a value as any other.
    """
    valid = torch.isfinite(raw_BTCHW)
    x = scaling.to_network(raw_BTCHW, torch)
    if bool(valid.all()):
        return Batch(x.contiguous(), valid)
    rest = of_window(x[:, :history], valid[:, :history]) if by_window else x.new_zeros(())
    return Batch(_filled(x, valid, history, rest).contiguous(), valid)


def of_window(x: Tensor, valid: Tensor) -> Tensor:
    """Return the value of pixels that were never observed, (B, 1, C, 1, 1); 0 in a window without any value."""
    every = (1, 3, 4)
    count = valid.sum(every, keepdim=True)
    least = torch.where(valid, x, torch.inf).amin(every, keepdim=True)
    share = (x == least).sum(every, keepdim=True) / count
    mean = torch.where(valid, x, 0).double().sum(every, keepdim=True) / count
    return torch.where(share >= LEAST_SHARE, least, mean.to(x.dtype)).nan_to_num(0.0)


def _filled(x: Tensor, valid: Tensor, history: int, rest: Tensor) -> Tensor:
    time = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1, 1)
    latest = torch.where(valid, time, -1).cummax(dim=1).values
    known = valid[:, :history]
    first = torch.where(known, time[:, :history], history).amin(dim=1, keepdim=True)
    source = torch.where(latest >= 0, latest, first.clamp(max=history - 1))
    filled = x.gather(1, source)
    return torch.where(torch.isfinite(filled), filled, rest)
