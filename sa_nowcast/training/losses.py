"""Losses over the valid pixels of a batch, in network units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Loss = Literal["l2", "l1+l2", "rain-weighted"]


def loss_sums(
    prediction: Tensor, target: Tensor, valid: Tensor, kind: Loss, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the loss summed over valid pixels, and how many of them there are, as float32 scalars.

    Parameters
    ----------
    prediction, target : Tensor, shape (B, T - 1, C, H, W)
    valid : Tensor of bool, same shape
        Where the target was observed; the rest takes no part.
    kind : {"l2", "l1+l2", "rain-weighted"}
        Squared error, or the sum of absolute and squared error, which the paper takes for KTH (Lin et al. 2020,
        section 4.1, doi:10.1609/aaai.v34i07.6819); rain-weighted is that sum under `weight`.
    weight : Tensor, same shape, optional
        What each pixel counts; see `rain_weight`.
    """
    seen = valid.to(torch.float32)
    error = (prediction.float() - target.float()) * seen
    pixels = error.square()
    if kind != "l2":
        pixels = pixels + error.abs()
    if weight is not None:
        pixels = pixels * weight
    return pixels.sum(), seen.sum()


def masked_loss(prediction: Tensor, target: Tensor, valid: Tensor, kind: Loss, weight: Tensor | None = None) -> Tensor:
    """Return the mean loss over valid pixels, as a float32 scalar; the parameters are those of `loss_sums`.

    Notes
    -----
    A batch without one valid pixel has loss 0 and gives no gradient. A weighted loss is divided by the number of
    pixels, not by the sum of their weights, as in its source.
    """
    total, count = loss_sums(prediction, target, valid, kind, weight)
    return total / count.clamp(min=1)


def rain_weight(rain: Tensor, weights: Sequence[tuple[float, float]]) -> Tensor:
    """Return what each pixel counts by how much it rained there: balanced errors (B-MSE and B-MAE).

    After Shi et al. 2017 (Deep learning for precipitation nowcasting: a benchmark and a new model, NeurIPS 30,
    section 4.2), whose weights are 1 below 2 mm h-1, then 2, 5 from 5, 10 from 10 and 30 from 30 mm h-1.

    Parameters
    ----------
    rain : Tensor
        The observed rain rate in mm h-1; NaN counts 1.
    weights : sequence of (float, float)
        Thresholds, rising, and the weight at or above each.
    """
    result = torch.ones_like(rain)
    for threshold, weight in weights:
        result = torch.where(rain >= threshold, weight, result)
    return result
