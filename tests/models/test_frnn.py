"""FRNN: every part against an oracle in NumPy, and its size."""

from __future__ import annotations

from typing import Any

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from test_networks_exact import EXACT, arrays, random_frames, randomise, small

from sa_nowcast import models
from sa_nowcast.models.frnn import ConvGRU, double

Map = np.ndarray[Any, Any]
PAPER = {"hidden": (128, 128, 256, 256, 512, 512, 256, 256)}


def gru(w: dict[str, Map], x: Map, h: Map) -> Map:
    width = len(h)
    bias = w["bias"][:, None, None]
    x_z, x_r, x_n = np.split(oracle.convolve(x, w["input.weight"]) + bias, 3)
    h_z, h_r = np.split(oracle.convolve(h, w["gates.weight"]), 2)
    z, r = oracle.sigmoid(x_z + h_z), oracle.sigmoid(x_r + h_r)
    n = np.tanh(x_n + oracle.convolve(r * h, w["candidate.weight"]))
    assert len(z) == width
    result: Map = z * n + (1 - z) * h
    return result


def doubled(x: Map) -> Map:
    y = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2]))
    for row in range(y.shape[1]):
        for col in range(y.shape[2]):
            y[:, row, col] = x[:, row // 2, col // 2]
    return y


def rollout(net: models.Network, frames: Map, history: int, steps: int) -> Map:
    """The forecast of one sample: frame by frame up through all layers, then down through all of them."""
    config, w = net.config, oracle.under(arrays(net), "layers")
    layers, patch, shape = len(config.hidden), config.patch, frames[0].shape
    of_scale = 2 ** ((layers + 1) // 2)
    rows, columns = -(-shape[1] // patch), -(-shape[2] // patch)
    states: list[Map] = []
    below: list[Map] = []
    for t in range(history):
        x = oracle.to_multiple(oracle.fold(frames[t], patch), of_scale)
        x = np.tanh(oracle.biased(oracle.under(w, "encoder.0"), x))
        x = np.tanh(oracle.biased(oracle.under(w, "encoder.1"), x))
        below = []
        for n in range(layers):
            x = oracle.halve(x) if n % 2 == 0 else x
            below.append(x)
            if t == 0:
                first = w[f"stack.{n}.first"][:, None, None]
                states.append(first + np.zeros((len(first), *x.shape[1:])))
            states[n] = x = gru(oracle.under(w, f"stack.{n}.up"), x, states[n])
    top = states[-1]
    predictions: list[Map] = []
    for step in range(steps):
        if step:
            top = gru(oracle.under(w, f"stack.{layers - 1}.up"), below[-1], top)
        x = top
        for n in range(layers - 1, -1, -1):
            below[n] = x = gru(oracle.under(w, f"stack.{n}.down"), x, below[n])
            x = doubled(x) if n % 2 == 0 else x
        x = np.tanh(oracle.biased(oracle.under(w, "decoder"), x))[:, :rows, :columns]
        out = oracle.biased(oracle.under(arrays(net), "head"), x)
        out = np.tanh(out) if config.bounded else out  # type: ignore[attr-defined]
        out = oracle.unfold(out, patch, shape)
        before = predictions[-1] if predictions else frames[history - 1]
        predictions.append(before + out if config.output == "change" else out)
    return np.stack(predictions)


def test_the_gru_is_its_equations() -> None:
    cell, x, h = randomise(ConvGRU(3, 4, 3)), random_frames(2, 5, 6, 3), random_frames(2, 5, 6, 4, seed=2)
    weights = cell.weights()
    got = cell(weights, cell.inputs(weights, x), h).detach()
    for b in range(2):
        expected = gru(arrays(cell), x[b].permute(2, 0, 1).numpy(), h[b].permute(2, 0, 1).numpy())
        np.testing.assert_allclose(got[b].permute(2, 0, 1), expected, **EXACT)


def test_every_value_stands_at_2_by_2_positions() -> None:
    x = random_frames(1, 2, 3, 4)
    np.testing.assert_array_equal(double(x)[0].permute(2, 0, 1), doubled(x[0].permute(2, 0, 1).numpy()))


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"hidden": (3, 4, 5), "stem": 2, "patch": 1, "output": "change"},
        {"hidden": (4, 3), "stem": 3, "patch": 2, "bounded": True},
        {"hidden": (3,), "stem": 2, "patch": 1, "kernel": 5},
    ],
)
def test_a_rollout_is_the_oracles(history: int, options: dict[str, Any]) -> None:
    net, frames = small("frnn", **options), random_frames(2, history + 3, 2, 7, 9)
    with torch.no_grad():
        predictions = net.predict_all(frames, history)
        assert torch.equal(predictions[:, : history - 1], frames[:, 1:history])
        assert torch.equal(predictions[:, history - 1 :], net(frames[:, :history], 3))
    for b in range(2):
        expected = rollout(net, frames[b].numpy(), history, 3)
        np.testing.assert_allclose(predictions[b, history - 1 :], expected, **EXACT)


def test_no_frame_after_the_history_is_read() -> None:
    net, x = small("frnn", hidden=(4, 4), patch=1), random_frames(1, 6, 2, 8, 8)
    with torch.no_grad():
        told = net.predict_all(x, 3, torch.ones(1, 2, dtype=torch.bool))
        assert torch.equal(told, net.predict_all(x, 3))


def test_the_paper_s_size_has_as_many_parameters_as_its_convolutions() -> None:
    """About 105.7 million: added up by hand, for frames of one channel."""
    with torch.device("meta"):
        count = sum(p.numel() for p in models.build("frnn", **PAPER).parameters())
    below = (64, *PAPER["hidden"][:-1])
    kernels = [5] * 4 + [3] * 4
    layers = [
        3 * (a + b) ** 2 * k**2 + 3 * (a + b) + b for a, b, k in zip(below, PAPER["hidden"], kernels, strict=True)
    ]
    stem = (25 * 32 + 32) + (25 * 32 * 64 + 64) + (25 * 64 * 32 + 32) + (25 * 32 + 1)
    assert count == sum(layers) + stem
    assert round(count / 1e6, 2) == 105.76
