"""Losses over the valid pixels of a batch, in network units."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Loss = Literal["l2", "l1+l2"]


def masked_loss(prediction: Tensor, target: Tensor, valid: Tensor, kind: Loss) -> Tensor:
    """Return the mean loss over valid pixels, as a float32 scalar.

    Parameters
    ----------
    prediction, target : Tensor, shape (B, T - 1, C, H, W)
    valid : Tensor of bool, same shape
        Where the target was observed; the rest takes no part.
    kind : {"l2", "l1+l2"}
        The mean squared error, or the sum of mean absolute and mean squared error, which the paper takes for KTH
        (Lin et al. 2020, section 4.1, doi:10.1609/aaai.v34i07.6819).

    Notes
    -----
    A batch without one valid pixel has loss 0 and gives no gradient.
    """
    weight = valid.to(prediction.dtype).float()
    error = (prediction.float() - target.float()) * weight
    total = error.square().sum()
    if kind == "l1+l2":
        total = total + error.abs().sum()
    return total / weight.sum().clamp(min=1)
