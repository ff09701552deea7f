"""Schedules as functions of the step: learning rate, and the share of true frames in scheduled sampling."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

_SAMPLING = 3
_WARM_UP_SHARE = 0.1
_FINAL_SHARE = 1e-3


def learning_rate_factor(step: int, max_steps: int, schedule: Literal["one-cycle", "constant"]) -> float:
    """Return the factor on the highest learning rate at `step`.

    ``one-cycle`` rises linearly over the first tenth of the run and falls along a half cosine to a thousandth
    (after Smith and Topin 2019, doi:10.1117/12.2520589); ``constant`` is 1 throughout, as in the paper.
    """
    if schedule == "constant":
        return 1.0
    warm_up = max(_WARM_UP_SHARE * max_steps, 1.0)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    through = min((step - warm_up) / max(max_steps - warm_up, 1.0), 1.0)
    return _FINAL_SHARE + (1 - _FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * through))


def truth_probability(step: int, start: float, decay: float) -> float:
    """Return the probability that a forecast step reads the true frame (scheduled sampling, Bengio et al. 2015).

    The lineage of the paper starts at 1 and loses 2e-5 with every update, so that 0 is reached at 50,000.
    """
    return max(start - decay * step, 0.0)


def truth_mask(
    seed: int, step: int, batch: int, forecast_steps: int, probability: float
) -> npt.NDArray[np.bool_] | None:
    """Draw which forecast inputs are true frames, (batch, forecast_steps - 1), from (seed, step) alone; None: none."""
    if probability <= 0 or forecast_steps < 2:
        return None
    return np.random.default_rng((seed, _SAMPLING, step)).random((batch, forecast_steps - 1)) < probability
