"""The baseline of Video Pixel Networks: every part against an oracle in NumPy, and its size."""

from __future__ import annotations

from typing import Any

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from test_networks_exact import EXACT, arrays, random_frames, randomise, small

from sa_nowcast import models
from sa_nowcast.models.vpn_baseline import MultiplicativeUnit, ResidualBlock

Map = np.ndarray[Any, Any]
PAPER = {"hidden": (256,), "patch": 1, "encoder_blocks": 8, "decoder_blocks": 12}


def spread_out(kernel: Map, spread: int) -> Map:
    """The kernel that reads positions `spread` apart, with zeros between."""
    outputs, inputs, k, _ = kernel.shape
    wide = np.zeros((outputs, inputs, spread * (k - 1) + 1, spread * (k - 1) + 1))
    for row in range(k):
        for col in range(k):
            wide[:, :, spread * row, spread * col] = kernel[:, :, row, col]
    return wide


def unit(w: dict[str, Map], h: Map, spread: int = 1) -> Map:
    gates = oracle.convolve(h, spread_out(w["gates.weight"], spread)) + w["gates.bias"][:, None, None]
    g1, g2, g3, u = np.split(gates, 4)
    inner = oracle.sigmoid(g2) * h + oracle.sigmoid(g3) * np.tanh(u)
    result: Map = oracle.sigmoid(g1) * np.tanh(inner)
    return result


def block(w: dict[str, Map], h: Map, spread: int = 1) -> Map:
    inner = oracle.biased(oracle.under(w, "narrow"), h)
    for n in range(2):
        inner = unit(oracle.under(w, f"units.{n}"), inner, spread)
    result: Map = h + oracle.biased(oracle.under(w, "widen"), inner)
    return result


def rollout(net: models.Network, frames: Map, history: int, steps: int, truth: list[bool]) -> Map:
    """Predictions of frames 1..history+steps-1 of one sample, one step after another."""
    config, w = net.config, oracle.under(arrays(net), "layers")
    blocks = config.encoder_blocks, config.decoder_blocks  # type: ignore[attr-defined]
    shape, patch = frames[0].shape, config.patch
    rows, columns = -(-shape[1] // patch), -(-shape[2] // patch)
    states = [[np.zeros((width, rows, columns))] * 2 for width in config.hidden]
    predictions: list[Map] = []
    for t in range(history + steps - 1):
        frame = frames[t] if t < history or truth[t - history] else predictions[-1]
        y = oracle.biased(oracle.under(w, "encoder.0"), oracle.fold(frame, patch))
        for n in range(blocks[0]):
            spread = 2 ** (n % 4) if config.dilated else 1  # type: ignore[attr-defined]
            y = block(oracle.under(w, f"encoder.{n + 1}"), y, spread)
        for n, state in enumerate(states):
            state[:] = oracle.conv_lstm(oracle.under(w, f"context.{n}.gates"), y, *state)
            y = state[0]
        for n in range(blocks[1]):
            y = block(oracle.under(w, f"decoder.{n}"), y)
        out = oracle.biased(oracle.under(arrays(net), "head"), y)
        out = oracle.sigmoid(out) if config.bounded else out  # type: ignore[attr-defined]
        out = oracle.unfold(out, patch, shape)
        predictions.append(frame + out if config.output == "change" else out)
    return np.stack(predictions)


@pytest.mark.parametrize("spread", [1, 2, 4])
def test_unit_and_block_are_their_equations(spread: int) -> None:
    x = random_frames(2, 6, 7, 6)
    for module, expected in ((MultiplicativeUnit(6, 3, spread), unit), (ResidualBlock(6, 3, spread), block)):
        got = randomise(module)(x).detach()
        for b in range(2):
            want = expected(arrays(module), x[b].permute(2, 0, 1).numpy(), spread)
            np.testing.assert_allclose(got[b].permute(2, 0, 1), want, **EXACT)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": (4,)},
        {"hidden": (4, 6), "encoder_blocks": 1, "decoder_blocks": 2, "output": "change"},
        {"hidden": (5,), "encoder_blocks": 3, "decoder_blocks": 1, "dilated": True, "bounded": True},
    ],
)
def test_a_rollout_is_the_oracles(options: dict[str, Any]) -> None:
    net, frames = small("vpn-baseline", **options), random_frames(2, 5, 2, 7, 9)
    truth = torch.tensor([[True], [False]])
    with torch.no_grad():
        predictions = net.predict_all(frames, 3, truth_mask=truth)
    for b in range(2):
        expected = rollout(net, frames[b].numpy(), 3, 2, truth[b].tolist())
        np.testing.assert_allclose(predictions[b], expected, **EXACT)


def test_gradcheck_of_a_block() -> None:
    module = randomise(ResidualBlock(4, 3))
    assert torch.autograd.gradcheck(module, (random_frames(1, 3, 3, 4).requires_grad_(),))


def test_the_paper_s_size_has_as_many_parameters_as_its_convolutions() -> None:
    """1.247 million a block, and 29.65 for 20 blocks and the ConvLSTM: added up by hand, with biases."""
    with torch.device("meta"):
        net = models.build("vpn-baseline", **PAPER)
    blocks = [sum(p.numel() for p in part.parameters()) for part in net.layers.decoder]
    assert blocks == [2 * 256 * 128 + 128 + 256 + 2 * (4 * 9 * 128 * 128 + 4 * 128)] * 12
    assert round(blocks[0] / 1e6, 3) == 1.247
    context = 9 * 512 * 1024 + 1024
    first_and_head = 9 * 256 + 256 + 256 + 1
    count = sum(p.numel() for p in net.parameters())
    assert count == 20 * blocks[0] + context + first_and_head
    assert round(count / 1e6, 2) == 29.65
