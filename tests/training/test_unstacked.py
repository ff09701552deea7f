"""Networks that are no stack of recurrent layers are trained, saved and loaded as any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sequences import NETWORK, rain
from trials import Each, same_bits, train, with_callback

import sa_nowcast
from sa_nowcast import models
from sa_nowcast.errors import RecipeError

NAMES = ["mcnet", "vpn-baseline", "frnn", "st-resnet"]
TWO_LAYERS = {**NETWORK, "hidden": (4, 4)}


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_trained_saved_and_forecasts_the_same_when_loaded(name: str, tmp_path: Path) -> None:
    data = rain()
    sampling = {"truth_start": 0.5, "context_truth_start": 0.25, "context_truth_rise": 0.1, "reversed_input": True}
    nowcaster = train(
        data,
        network={**TWO_LAYERS, "name": name},
        max_steps=4,
        batch_size=4,
        **(sampling if models.preset(name=name).declared.feeds_back else {"reversed_input": True}),
    )
    nowcaster.save(tmp_path / "model")
    loaded = sa_nowcast.load(tmp_path / "model")
    assert loaded.network.config == nowcaster.network.config
    assert same_bits(loaded, nowcaster)
    one, other = nowcaster.forecast(data), loaded.forecast(data)
    xr.testing.assert_equal(one, other)
    assert bool(np.isfinite(one.to_dataarray() if isinstance(one, xr.Dataset) else one).all())


@pytest.mark.parametrize("name", [name for name in NAMES if not models.preset(name=name).declared.feeds_back])
def test_what_such_a_network_would_not_read_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"training\.truth_start: 0\.5, with network\.name: {name}, expected 0"):
        train(network={**TWO_LAYERS, "name": name}, truth_start=0.5)


def test_the_gradient_difference_loss_is_in_the_gradient_and_not_in_the_logged_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[dict[str, torch.Tensor]] = []

    def after(trainer: Any, module: Any, outputs: Any) -> None:
        found.append({key: outputs[key].detach().clone() for key in ("loss", "mean")})

    with_callback(monkeypatch, Each(after=after))
    train(network={**TWO_LAYERS, "name": "mcnet"}, max_steps=2, validation=0)
    assert all((step["loss"] - step["mean"]).item() > 0 for step in found)


OF_DAYS = {**TWO_LAYERS, "name": "st-resnet", "period": 1, "frames_a_day": 4}


def test_a_network_reads_frames_of_days_and_weeks_before_where_the_history_has_them() -> None:
    data = of_cadence(100, "6h")
    nowcaster = train(data, network={**OF_DAYS, "trend": 1}, history=28, steps=2, max_steps=1, batch_size=1)
    assert nowcaster.terms.history == 28
    changed = data.copy(deep=True)
    changed[-28] += 1  # a week before the first forecast
    one, other = (np.asarray(nowcaster.forecast(frames)) for frames in (data, changed))
    assert (one[0] != other[0]).any()


@pytest.mark.parametrize(
    ("network", "cadence", "message"),
    [
        (OF_DAYS, "7h", r"network\.frames_a_day: 4, and the data have a frame every 420 min, expected neither period"),
        (OF_DAYS, "3h", r"network\.frames_a_day: 4, and the data have a frame every 180 min, expected 8"),
        ({**OF_DAYS, "trend": 1}, "6h", r"history: 4, with network\.name: st-resnet, expected at least 28"),
    ],
)
def test_a_daily_period_that_data_or_history_do_not_have_is_refused(
    network: dict[str, Any], cadence: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        train(of_cadence(40, cadence), network=network, history=4, max_steps=1)
    assert "\n" not in str(caught.value)


def of_cadence(frames: int, cadence: str) -> xr.DataArray:
    values = np.random.default_rng(0).random((frames, 8, 8), dtype=np.float32)
    times = xr.date_range("2020-01-01", periods=frames, freq=cadence)
    return xr.DataArray(values, {"time": times}, ("time", "y", "x"), name="flow", attrs={"units": "1"})
