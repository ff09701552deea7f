"""What training makes small, and along which schedules: losses over valid pixels, and functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SAMPLING, _CONTEXT_SAMPLING = 3, 4
_FINAL_SHARE = 1e-3

Loss = Literal["l2", "l1+l2", "rain-weighted", "accumulation"]
Schedule = Literal["one-cycle", "cosine", "constant"]


def losses(
    prediction: Tensor, target: Tensor, valid: Tensor, kind: Loss, weight: Tensor | None = None, known: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the loss of every pixel, 0 where it is not valid, and 1 where it is.

    The quotient of their sums is the loss. A weighted one is divided by the number of pixels too, not by the sum of
    their weights, as in its source; a batch without one valid pixel gives no gradient.

    Parameters
    ----------
    prediction, target : Tensor, shape (B, T - 1, C, H, W)
    valid : Tensor of bool, same shape
        Where the target was observed; the rest takes no part.
    kind : {"l2", "l1+l2", "rain-weighted", "accumulation"}
        Squared error, or the sum of absolute and squared error, which the paper takes for KTH (Lin et al. 2020,
        section 4.1, doi:10.1609/aaai.v34i07.6819); rain-weighted is that sum under `weight`; accumulation is the
        squared error of the sum of all frames since the init time, over the number of these frames: errors that are
        independent from frame to frame count as with l2, those that last count more, up to that number of times.
    weight : Tensor, same shape, optional
        What each pixel counts; see `rain_weight`.
    known : int
        How many frames come first that are before the init time.
    """
    prediction, target = (x if x.dtype == torch.float64 else x.float() for x in (prediction, target))
    seen = valid.to(target.dtype)
    error = (prediction - target) * seen
    if kind == "accumulation":
        frames = torch.arange(1, error.shape[1] - known + 1, device=error.device).view(1, -1, 1, 1, 1)
        seen = torch.cat([seen[:, :known], seen[:, known:].cumprod(1)], 1)
        error = torch.cat([error[:, :known], error[:, known:].cumsum(1) / frames.sqrt()], 1) * seen
    pixels = error.square()
    if kind in ("l1+l2", "rain-weighted"):
        pixels = pixels + error.abs()
    if weight is not None:
        pixels = pixels * weight
    return pixels, seen


def loss_sums(*batch: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the sums of what `losses` returns, which takes the same."""
    pixels, seen = losses(*batch, **options)
    return pixels.sum(), seen.sum()


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


def lead_weight(target: Tensor, valid: Tensor, history: int, kind: Loss = "l2", weight: Tensor | None = None) -> Tensor:
    """Return what each predicted frame counts, so that persistence's loss is the same at each lead time.

    Parameters
    ----------
    target, valid : Tensor, shape (B, T, C, H, W)
        All frames of the windows, and where they were observed.
    history : int
        Frames up to the init time; those after it are the lead times.
    kind, weight
        The loss, and what each pixel after the init time counts, as for `losses`.

    Returns
    -------
    Tensor, shape (1, T - history, 1, 1, 1)
        Their mean over lead times, under persistence's losses, is 1.
    """
    still = target[:, history - 1 : history].expand_as(target[:, history:])
    error, seen = losses(still, target[:, history:], valid[:, history:], kind, weight)
    by_lead = error.sum((0, 2, 3, 4)) / seen.sum((0, 2, 3, 4)).clamp(min=1)
    mean = by_lead.mean()
    return (mean / by_lead.clamp(min=1e-3 * mean + 1e-12)).view(1, -1, 1, 1, 1)


def learning_rate_factor(step: float, max_steps: int, schedule: Schedule, warm_up: float = 0.1) -> float:
    """Return the factor on the highest learning rate at `step`.

    ``one-cycle`` rises linearly over the share `warm_up` of the run and falls along a half cosine to a thousandth
    (after Smith and Topin 2019, doi:10.1117/12.2520589); ``cosine`` falls from the beginning (Loshchilov and Hutter
    2017, SGDR, without restarts); ``constant`` is 1 throughout, as in the paper. A run that is limited by time gives
    the step that it would have reached at the same share of its updates.
    """
    if schedule == "constant":
        return 1.0
    rise = max(warm_up * max_steps, 1.0) if schedule == "one-cycle" else 0.0
    if step < rise:
        return (step + 1) / (rise + 1)
    through = min((step - rise) / max(max_steps - rise, 1.0), 1.0)
    return _FINAL_SHARE + (1 - _FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * through))


def truth_probability(step: int, start: float, decay: float) -> float:
    """Return the probability that a forecast step reads the true frame (scheduled sampling, Bengio et al. 2015).

    The lineage of the paper starts at 1 and loses 2e-5 with every update, so that 0 is reached at 50,000.
    """
    return max(start - decay * step, 0.0)


def context_truth_probability(step: int, start: float, rise: float) -> float:
    """Return the probability that a step within the history reads the true frame, which it gains with time.

    Reverse scheduled sampling (Wang et al. 2023, PredRNN, section 3.4, doi:10.1109/TPAMI.2022.3165153): a network
    that cannot rely on every true frame learns to keep what it saw earlier.
    """
    return min(start + rise * step, 1.0)


def truth_mask(
    seed: int, step: int, batch: int, forecast_steps: int, probability: float
) -> npt.NDArray[np.bool_] | None:
    """Draw which forecast inputs are true frames, (batch, forecast_steps - 1), from (seed, step) alone; None: none."""
    if probability <= 0 or forecast_steps < 2:
        return None
    return np.random.default_rng((seed, _SAMPLING, step)).random((batch, forecast_steps - 1)) < probability


def context_mask(seed: int, step: int, batch: int, history: int, probability: float) -> npt.NDArray[np.bool_]:
    """Draw which inputs after the first frame of the history are true, (batch, history - 1), from (seed, step)."""
    return np.random.default_rng((seed, _CONTEXT_SAMPLING, step)).random((batch, history - 1)) < probability
