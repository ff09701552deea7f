"""PredRNN-V2 is trained on its decoupling loss too; the other networks with a zigzag memory as any network."""

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
from sa_nowcast.errors import RecipeError

ZIGZAG = ("predrnn", "predrnn-v2", "causal-lstm", "predrnn-plus-plus", "mim", "mim-star")
TWO_LAYERS = {**NETWORK, "hidden": (4, 4)}


@pytest.mark.parametrize("name", ZIGZAG)
def test_a_network_is_trained_saved_and_forecasts_the_same_when_loaded(name: str, tmp_path: Path) -> None:
    data = rain()
    sampling = {"truth_start": 0.5, "context_truth_start": 0.25, "context_truth_rise": 0.1, "reversed_input": True}
    nowcaster = train(data, network={**TWO_LAYERS, "name": name, "norm": True}, max_steps=4, batch_size=4, **sampling)
    nowcaster.save(tmp_path / "model")
    loaded = sa_nowcast.load(tmp_path / "model")
    assert loaded.network.config == nowcaster.network.config
    assert same_bits(loaded, nowcaster)
    one, other = nowcaster.forecast(data), loaded.forecast(data)
    xr.testing.assert_equal(one, other)
    assert bool(np.isfinite(one.to_dataarray() if isinstance(one, xr.Dataset) else one).all())


def test_the_decoupling_loss_is_in_the_gradient_and_not_in_the_logged_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, torch.Tensor]] = []
    gradients: list[torch.Tensor] = []

    def after(trainer: Any, module: Any, outputs: Any) -> None:
        found.append({key: outputs[key].detach().clone() for key in ("loss", "mean")})
        gradients.append(module.network.layers.shared.grad.clone())

    with_callback(monkeypatch, Each(after=after))
    network = {**TWO_LAYERS, "name": "predrnn-v2", "decoupling": 2.0}
    train(network=network, max_steps=2, validation=0)
    assert all(0 < (step["loss"] - step["mean"]).item() < 2 for step in found)
    assert all(bool(gradient.any()) for gradient in gradients)


def test_a_cuda_graph_of_a_penalised_network_is_refused_in_one_line() -> None:
    with pytest.raises(RecipeError, match=r"training\.acceleration: graph, with network\.name: predrnn-v2"):
        train(network={**TWO_LAYERS, "name": "predrnn-v2"}, acceleration="graph")
