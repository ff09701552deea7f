"""What is asked of one forecast at once is what is asked of it one by one."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from sequences import rain

from sa_nowcast.forecasts.at_once import at_once
from sa_nowcast.forecasts.default_model import default_model

ROWS, COLUMNS = np.array([3, 20, 11]), np.array([15, 2, 30])


def field(kind: str) -> xr.DataArray:
    history = rain(4, 36, 40)
    if kind == "turned":
        history = history.isel(y=slice(None, None, -1), x=slice(None, None, -1))
    if kind == "missing":
        history = history.where((history.x > 3000) | (history.y > 3000))
    if kind == "unbounded":
        history = (history + 0.1 * np.arange(36)[:, None] + 280 + 0.01 * np.arange(40)).assign_attrs(units="K")
        del history.attrs["standard_name"]
    return history


@pytest.mark.parametrize("kind", ["plain", "turned", "missing", "unbounded"])
def test_mean_probabilities_and_quantiles_are_those_that_are_asked_for_alone(kind: str) -> None:
    history, model = field(kind), default_model()
    own, frames = model.accept(history)
    limits = [281.5, 285.0] if kind == "unbounded" else [0.5, 2.0]
    found = at_once(own, frames.load(), 2, "cpu", thresholds=limits, quantiles=[0.1, 0.5, 0.9], places=(ROWS, COLUMNS))
    np.testing.assert_array_equal(found.mean, model.forecast(history, 2, device="cpu"))
    np.testing.assert_array_equal(found.probability, model.exceedance(history, limits, 2, device="cpu"))
    whole = model.quantiles(history, [0.1, 0.5, 0.9], 2, device="cpu").values
    np.testing.assert_allclose(found.quantiles, whole[..., ROWS, COLUMNS], rtol=1e-6, atol=1e-6)


def test_of_members_probabilities_are_their_share_and_quantiles_theirs() -> None:
    history, model = field("turned"), default_model()
    own, frames = model.accept(history)
    asked = {"thresholds": [1.0], "quantiles": [0.5], "places": (ROWS, COLUMNS)}
    found = at_once(own, frames.load(), 2, "cpu", members=5, seed=3, **asked)
    members = model.forecast(history, 2, members=5, seed=3, device="cpu").values
    np.testing.assert_array_equal(found.members, members)
    np.testing.assert_array_equal(found.mean, model.forecast(history, 2, device="cpu"))
    np.testing.assert_allclose(found.probability[0], (members > 1).mean(0), atol=1e-6)
    np.testing.assert_allclose(found.quantiles[0], np.median(members, 0)[:, ROWS, COLUMNS], rtol=1e-6)
    assert at_once(own, frames.load(), 2, "cpu").probability is None
