"""SimVP-gSTA: a block and a forecast against loops in NumPy; longer and shorter forecasts; parameters."""

from __future__ import annotations

import math
from typing import Any

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from listed import tiny
from test_networks_exact import EXACT, arrays, random_frames, randomise

from sa_nowcast import models
from sa_nowcast.models.simvp_gsta import Block

Array = Any


def convolve(w: dict[str, Array], x: Array, stride: int = 1) -> Array:
    y = oracle.convolve(x, w["weight"]) + w["bias"][:, None, None]
    return y[:, ::stride, ::stride]


def depthwise(w: dict[str, Array], x: Array, dilation: int = 1) -> Array:
    """Each channel with its own kernel, whose elements lie `dilation` positions apart; zeros outside."""
    y, (_, rows, columns), k = np.zeros_like(x), x.shape, w["weight"].shape[-1]
    for row in range(rows):
        for column in range(columns):
            for a in range(k):
                for b in range(k):
                    r, c = row + dilation * (a - k // 2), column + dilation * (b - k // 2)
                    if 0 <= r < rows and 0 <= c < columns:
                        y[:, row, column] += w["weight"][:, 0, a, b] * x[:, r, c]
    return y + w["bias"][:, None, None]


def norm(w: dict[str, Array], x: Array, groups: int) -> Array:
    parts = [(part - part.mean()) / np.sqrt(part.var() + 1e-5) for part in np.split(x, groups)]
    return w["weight"][:, None, None] * np.concatenate(parts) + w["bias"][:, None, None]


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def block(w: dict[str, Array], x: Array) -> Array:
    y = norm(oracle.under(w, "norm"), x, 1)
    gate = oracle.under(w, "gate")
    inner = depthwise(oracle.under(gate, "near"), gelu(convolve(oracle.under(w, "before"), y)))
    a, b = np.split(convolve(oracle.under(gate, "both"), depthwise(oracle.under(gate, "far"), inner, 3)), 2)
    x = x + w["scale"] * (y + convolve(oracle.under(w, "after"), oracle.sigmoid(b) * a))
    wide = convolve(oracle.under(w, "widen"), norm(oracle.under(w, "other_norm"), x, 1))
    narrow = convolve(oracle.under(w, "narrow"), gelu(depthwise(oracle.under(w, "depthwise"), wide)))
    x = x + w["other_scale"] * narrow
    return convolve(oracle.under(w, "out"), x) if "out.weight" in w else x


def finer(x: Array) -> Array:
    """Four channels become the four positions of one with twice the sides."""
    channels, rows, columns = x.shape
    y = np.zeros((channels // 4, 2 * rows, 2 * columns))
    for c in range(channels):
        y[c // 4, c % 4 // 2 :: 2, c % 2 :: 2] = x[c]
    return y


def rectified(w: dict[str, Array], x: Array, stride: int = 1, up: int = 1) -> Array:
    y = convolve(oracle.under(w, "0"), x, stride)
    y = finer(y) if up == 2 else y
    y = norm(oracle.under(w, "2" if up == 2 else "1"), y, 2 if len(y) % 2 == 0 else 1)
    return y * oracle.sigmoid(y)


def next_frames(config: models.NetworkConfig, w: dict[str, Array], frames: Array) -> Array:
    """As many frames as are read."""
    layers, strides = oracle.under(w, "layers"), [1, 2, 1, 2, 1, 2][: config.spatial]
    divisor, (count, _, rows, columns) = config.patch * 2 ** (config.spatial // 2), frames.shape
    padded = np.pad(frames, ((0, 0), (0, 0), (0, -rows % divisor), (0, -columns % divisor)))
    skips, maps = [], []
    for frame in padded:
        x = oracle.fold(frame, config.patch)
        for n, stride in enumerate(strides):
            x = rectified(oracle.under(layers, f"encoder.{n}"), x, stride)
            if n == 0:
                skips.append(x)
        maps.append(x)
    x = np.concatenate(maps)
    for n in range(len(config.hidden)):
        x = block(oracle.under(layers, f"blocks.{n}"), x)
    out = []
    for skip, y in zip(skips, np.split(x, count), strict=True):
        for n, up in enumerate(reversed(strides)):
            last = n == len(strides) - 1
            y = rectified(oracle.under(layers, f"decoder.{n}"), y + skip if last else y, 1, up)
        y = oracle.pointwise(y, w["head.weight"][:, :, 0, 0], w["head.bias"])
        y = oracle.unfold(y, config.patch, padded.shape[1:])[:, :rows, :columns]
        out.append(frames[-1] + y if config.output == "change" else y)
    return np.stack(out)


@pytest.mark.parametrize("outputs", [4, 3])
def test_the_block_is_its_equations(outputs: int) -> None:
    module, x = randomise(Block(4, outputs)), random_frames(2, 4, 7, 5)
    got = module(x).detach().numpy()
    for b in range(2):
        np.testing.assert_allclose(got[b], block(arrays(module), x[b].numpy()), **EXACT)


@pytest.mark.parametrize("options", [{}, {"output": "change", "patch": 2}, {"hidden": (3,), "spatial": 2}])
def test_a_forecast_is_the_oracles_and_a_longer_one_reads_it(options: dict[str, Any]) -> None:
    net, frames = randomise(tiny("simvp-gsta", **options)), random_frames(2, 4, 2, 7, 9)
    with torch.no_grad():
        got = net(frames, 5).numpy()
    for b in range(2):
        first = next_frames(net.config, arrays(net), frames[b, 1:].numpy())
        second = next_frames(net.config, arrays(net), first)
        np.testing.assert_allclose(got[b], np.concatenate([first, second])[:5], **EXACT)


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({}, 46.77),
        ({"hidden": (32, *[256] * 7), "spatial": 2, "history": 4, "channels": 2}, 9.96),
    ],
)
def test_it_has_as_many_parameters_as_openstl_prints(options: dict[str, Any], millions: float) -> None:
    """46.8 million for MovingMNIST, and 9.96 for TaxiBJ: their blocks widen eightfold, not fourfold."""
    with torch.device("meta"):
        count = sum(p.numel() for p in models.build("simvp-gsta", **options).parameters())
    assert round(count / 1e6, 2) == millions
