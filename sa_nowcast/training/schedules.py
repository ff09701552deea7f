"""Schedules as functions of the step: learning rate, and the shares of true frames that training reads."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

_SAMPLING, _CONTEXT_SAMPLING = 3, 4
_FINAL_SHARE = 1e-3

Schedule = Literal["one-cycle", "cosine", "constant"]


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
