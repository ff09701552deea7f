"""FC-LSTM: the cell and a forecast against loops in NumPy; the grid that it is bound to; parameters."""

from __future__ import annotations

from typing import Any

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from listed import tiny
from test_networks_exact import EXACT, arrays, random_frames, randomise

from sa_nowcast import models
from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models.fc_lstm import LSTM
from sa_nowcast.models.live import forecast_flop
from sa_nowcast.recipe import network_config

Array = Any


def cell(w: dict[str, Array], x: Array | None, h: Array, c: Array) -> tuple[Array, Array]:
    """h and c, one value after the other."""
    count, gates = len(h), w["input.bias"] + w["hidden.weight"] @ h
    if x is not None:
        gates = gates + w["input.weight"] @ x
    h_next, c_next, (to_i, to_f, to_o) = np.zeros(count), np.zeros(count), w["peepholes"]
    for n in range(count):
        i = oracle.sigmoid(gates[n] + to_i[n] * c[n])
        f = oracle.sigmoid(gates[count + n] + to_f[n] * c[n])
        c_next[n] = f * c[n] + i * np.tanh(gates[2 * count + n])
        h_next[n] = oracle.sigmoid(gates[3 * count + n] + to_o[n] * c_next[n]) * np.tanh(c_next[n])
    return h_next, c_next


def stack(config: models.NetworkConfig, w: dict[str, Array], x: Array | None, states: list[Any]) -> list[Any]:
    after: list[Any] = []
    for n in range(len(config.hidden)):
        after.append(cell(oracle.under(w, str(n)), after[-1][0] if after else x, *states[n]))
    return after


def forecast(
    config: models.NetworkConfig, w: dict[str, Array], frames: Array, history: int, truth: list[bool]
) -> Array:
    """The frames after the history, which are read where `truth` says so."""
    states = [(np.zeros(h), np.zeros(h)) for h in config.hidden]
    for frame in frames[:history]:
        states = stack(config, oracle.under(w, "layers.encoder"), frame.ravel(), states)
    predictions, last, given = [], frames[history - 1], None
    for step in range(len(frames) - history):
        states = stack(config, oracle.under(w, "layers.decoder"), given, states)
        y = (w["head.weight"] @ states[-1][0] + w["head.bias"]).reshape(last.shape)
        y = oracle.sigmoid(y) if config.bounded else y
        predictions.append(last + y if config.output == "change" else y)
        told = step < len(truth) and truth[step]
        last = frames[history + step] if told else predictions[-1]
        given = last.ravel()
    return np.stack(predictions)


@pytest.mark.parametrize("with_input", [True, False])
def test_the_cell_is_its_equations(with_input: bool) -> None:
    module, (x, h, c) = randomise(LSTM(5, 4, 1.0)), (random_frames(2, n, seed=n) for n in (5, 4, 4))
    got = module(x if with_input else None, (h, 2 * c))
    for b in range(2):
        expected = cell(arrays(module), x[b].numpy() if with_input else None, h[b].numpy(), 2 * c[b].numpy())
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one[b].detach(), other, **EXACT)


@pytest.mark.parametrize("options", [{}, {"output": "change"}, {"bounded": True, "hidden": (4, 3, 5)}])
def test_a_forecast_is_the_oracles_with_truth_where_it_is_read(options: dict[str, Any]) -> None:
    net, frames = randomise(tiny("fc-lstm", **options)), random_frames(2, 6, 2, 8, 12)
    mask = torch.tensor([[True, False], [False, True]])
    with torch.no_grad():
        got = net.predict_all(frames, 3, mask).numpy()
    for b in range(2):
        expected = forecast(net.config, arrays(net), frames[b].numpy(), 3, mask[b].tolist())
        np.testing.assert_allclose(got[b, 2:], expected, **EXACT)


def test_another_grid_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"12 rows and 8 columns, expected 8 and 12, the grid that .*bound to") as told:
        tiny("fc-lstm")(torch.rand(1, 3, 2, 12, 8))
    assert "\n" not in str(told.value)
    assert models.build("fc-lstm", hidden=(4,))(torch.rand(1, 3, 1, 64, 64)).shape == (1, 1, 1, 64, 64)


def test_a_grid_that_is_none_is_refused() -> None:
    for grid in ([8], [8, 0], 8):
        with pytest.raises((RecipeError, ModelError), match=r"network\.grid"):
            network_config({"name": "fc-lstm", "grid": grid}, channels=1)


def test_a_change_passes_through_no_logistic_sigmoid() -> None:
    with pytest.raises(RecipeError, match=r"network\.bounded: true, with output: change"):
        network_config({"name": "fc-lstm", "bounded": True, "output": "change"}, channels=1)


def test_its_encoder_and_decoder_have_176_million_parameters() -> None:
    """Added up by hand, with frames of 64×64 and two layers of 2048."""
    layers = [(4096 + 2048) * 8192 + 8192 + 3 * 2048, (2048 + 2048) * 8192 + 8192 + 3 * 2048]
    with torch.device("meta"):
        count = sum(p.numel() for p in models.build("fc-lstm").parameters())
    assert count == 2 * sum(layers) + 4096 * 2048 + 4096
    assert round(count / 1e6) == 176


def test_operations_of_a_forecast_are_those_of_its_products() -> None:
    config = models.preset(name="fc-lstm", hidden=(3, 5))
    values, history, steps = 4 * 6, 3, 2
    state, given = 4 * (3 * 3 + 5 * 3 + 5 * 5), 4 * values * 3  # the decoder's first step reads no frame
    products = (history + steps) * state + (history + steps - 1) * given + steps * 5 * values
    assert forecast_flop(config, (4, 6), history, steps) == 2 * products
