"""Networks that are no stack of recurrent layers go through `fit`, bundles and forecasts as all others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from listed import OPTIONS, left_open
from sequences import rain
from trials import Each, same_bits, train, weights, with_callback

import sa_nowcast
from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models.registry import NETWORKS

every_network = pytest.mark.parametrize("name", OPTIONS)


def trained(name: str, **options: Any) -> sa_nowcast.Nowcaster:
    sampling = {"truth_start": 0.5} if NETWORKS[name].feeds_back else {}
    if NETWORKS[name].predicts_known:
        sampling |= {"context_truth_start": 0.25, "context_truth_rise": 0.1}
    given = {"network": {"name": name, **left_open(name)}, "max_steps": 3, "crop": None} | sampling | options
    return train(rain(), **given)


@every_network
def test_a_network_is_trained_saved_and_forecasts_the_same_when_loaded(name: str, tmp_path: Path) -> None:
    data, nowcaster = rain(), trained(name, folder=tmp_path / "run", average=0.5, reversed_input=True)
    nowcaster.save(tmp_path / "model")
    loaded = sa_nowcast.load(tmp_path / "model")
    assert loaded.network.config == nowcaster.network.config
    assert same_bits(loaded, nowcaster)
    one, other = nowcaster.forecast(data), loaded.forecast(data)
    xr.testing.assert_equal(one, other)
    assert bool(np.isfinite(one.to_dataarray() if isinstance(one, xr.Dataset) else one).all())
    assert nowcaster.forecast(data, steps=7).sizes["lead_time"] == 7


@every_network
def test_training_goes_on_from_its_weights_with_the_read_out_alone(name: str) -> None:
    first = trained(name)
    untold = {"truth_start": 0.0, "context_truth_start": 1.0}
    second = trained(name, network=None, start=first, train_core=False, max_steps=2, **untold)
    before, after = weights(first), weights(second)
    assert all(before[key].equal(after[key]) for key in before if key.startswith("layers."))
    assert second.network.config == first.network.config


def test_a_model_that_is_bound_to_its_grid_refuses_another_in_one_line() -> None:
    nowcaster = trained("fc-lstm")
    assert nowcaster.network.config.to_dict()["grid"] == [24, 20]
    with pytest.raises(ModelError, match=r"30 rows and 20 columns, expected 24 and 20, the grid .* bound to") as told:
        nowcaster.forecast(rain(height=30))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["unet", "simvp-gsta"])
def test_a_history_is_that_of_the_data_unless_the_network_names_a_shorter_one(name: str) -> None:
    assert trained(name, max_steps=1).network.config.to_dict()["history"] == 4
    shorter = {"name": name, **left_open(name), "history": 2}
    assert trained(name, network=shorter, max_steps=1).network.config.to_dict()["history"] == 2
    with pytest.raises(RecipeError, match=rf"history: 4, with network\.name: {name}, expected at least 6"):
        trained(name, network={**shorter, "history": 6})


@pytest.mark.parametrize("name", [name for name in OPTIONS if not NETWORKS[name].graphs])
def test_a_cuda_graph_is_refused_in_one_line_where_the_network_cannot_be_captured(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"training\.acceleration: graph, with network\.name: {name}"):
        trained(name, acceleration="graph")


def test_the_gradient_difference_loss_is_in_the_gradient_and_not_in_the_logged_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[dict[str, torch.Tensor]] = []

    def after(trainer: Any, module: Any, outputs: Any) -> None:
        found.append({key: outputs[key].detach().clone() for key in ("loss", "mean")})

    with_callback(monkeypatch, Each(after=after))
    train(network={"name": "mcnet", **OPTIONS["mcnet"]}, max_steps=2, validation=0)
    assert all((step["loss"] - step["mean"]).item() > 0 for step in found)


OF_DAYS = {"name": "st-resnet", "hidden": (4, 4), "patch": 4, "period": 1, "frames_a_day": 4}


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
