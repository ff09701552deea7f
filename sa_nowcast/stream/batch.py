"""Raw batches become what a network sees: scaled, filled, and a mask of what was valid."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sa_nowcast.scaling import Scaling


class Batch(NamedTuple):
    """Scaled windows without NaN, and where they were valid."""

    x_BTCHW: Tensor
    valid_BTCHW: Tensor


def prepare(raw_BTCHW: Tensor, scaling: Scaling, history: int) -> Batch:
    """Scale a raw batch, remember what was valid, and fill what was not.

    A missing pixel takes the latest valid value before it; where there is none, the earliest valid one within the
    history; where there is none either, 0 (no rain under a rain scaling, the mean under a standard one). A target
    frame never fills the history, so nothing of the future leaks into a forecast.

    Parameters
    ----------
    raw_BTCHW : Tensor, shape (batch, time, channel, row, column)
        Physical units, NaN where missing.
    scaling : Scaling
        To network values.
    history : int
        Frames of the time axis, from its beginning, that are given to the network.
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
