"""TrajGRU: the warp, the cell and a whole forecast against loops in NumPy; the sign of a flow; parameters."""

from __future__ import annotations

from typing import Any

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from listed import tiny
from test_networks_exact import EXACT, arrays, random_frames, randomise

from sa_nowcast import models
from sa_nowcast.errors import RecipeError
from sa_nowcast.models.trajgru import TrajGRU, warp

Array = Any


def slower(module: torch.nn.Module) -> torch.nn.Module:
    """With random weights, and flows of a few positions: not all is gathered from outside."""
    randomise(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".flows." in f".{name}":
                parameter *= 0.2
    return module


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.2 * x)


def convolve(w: dict[str, Array], x: Array, stride: int = 1, padding: int | None = None) -> Array:
    """Cross-correlate (C, H, W) with ``w["weight"]``, (O, C, k, k), and add ``w["bias"]``."""
    weight = w["weight"]
    k = weight.shape[-1]
    p = k // 2 if padding is None else padding
    x = np.pad(x, ((0, 0), (p, p), (p, p)))
    rows, columns = (1 + (side - k) // stride for side in x.shape[1:])
    y = np.zeros((len(weight), rows, columns))
    for row in range(rows):
        for column in range(columns):
            part = x[:, row * stride : row * stride + k, column * stride : column * stride + k]
            y[:, row, column] = np.einsum("ocij,cij->o", weight, part)
    return y + w["bias"][:, None, None]


def transposed(w: dict[str, Array], x: Array, stride: int) -> Array:
    """Spread each position of (C, H, W) by ``w["weight"]``, (C, O, k, k); one position is cut off around."""
    weight = w["weight"]
    k, (_, rows, columns) = weight.shape[-1], x.shape
    y = np.zeros((weight.shape[1], (rows - 1) * stride + k, (columns - 1) * stride + k))
    for row in range(rows):
        for column in range(columns):
            part = np.einsum("coij,c->oij", weight, x[:, row, column])
            y[:, row * stride : row * stride + k, column * stride : column * stride + k] += part
    return y[:, 1:-1, 1:-1] + w["bias"][:, None, None]


def gathered(h: Array, u: Array) -> Array:
    """h(x - u(x)), bilinear between the four positions around, of which those outside are zero; u is (right, down)."""
    _, rows, columns = h.shape
    y = np.zeros_like(h)
    for row in range(rows):
        for column in range(columns):
            down, across = row - u[1, row, column], column - u[0, row, column]
            for r in (int(np.floor(down)), int(np.floor(down)) + 1):
                for c in (int(np.floor(across)), int(np.floor(across)) + 1):
                    if 0 <= r < rows and 0 <= c < columns:
                        y[:, row, column] += (1 - abs(down - r)) * (1 - abs(across - c)) * h[:, r, c]
    return y


def cell(w: dict[str, Array], x: Array | None, h: Array) -> Array:
    flow = convolve(oracle.under(w, "flow_hidden"), h)
    if x is not None:
        flow = flow + convolve(oracle.under(w, "flow_input"), x)
    u = convolve(oracle.under(w, "flows"), leaky(flow))
    links = len(u) // 2
    warped = np.stack([gathered(h, u[2 * n : 2 * n + 2]) for n in range(links)], axis=1)
    a_r, a_z, a_h = np.split(convolve(oracle.under(w, "hidden"), warped.reshape(-1, *h.shape[1:])), 3)
    x_r = x_z = x_h = 0.0
    if x is not None:
        x_r, x_z, x_h = np.split(convolve(oracle.under(w, "input"), x), 3)
    z = oracle.sigmoid(x_z + a_z)
    return z * h + (1 - z) * leaky(x_h + oracle.sigmoid(x_r + a_r) * a_h)


GEOMETRY = {"moving-mnist": [(1, 1), (2, 2)], "hko-7": [(5, 5), (3, 3), (2, 2)]}


def forecast(config: models.NetworkConfig, w: dict[str, Array], frames: Array, steps: int) -> Array:
    """The frames after `frames`, (T, C, H, W), of one sample."""
    strides = [
        GEOMETRY[config.setting][min(n, len(GEOMETRY[config.setting]) - 1)][0] for n in range(len(config.hidden))
    ]
    layers, divisor = oracle.under(w, "layers"), config.patch * int(np.prod(strides))
    _, _, rows, columns = frames.shape
    padded = np.pad(frames, ((0, 0), (0, 0), (0, -rows % divisor), (0, -columns % divisor)))
    maps = [oracle.fold(frame, config.patch) for frame in padded]
    states = []
    for n, stride in enumerate(strides):
        maps = [leaky(convolve(oracle.under(layers, f"down.{n}"), x, stride, 1)) for x in maps]
        h = np.zeros((config.hidden[n], *maps[0].shape[1:]))
        for t, x in enumerate(maps):
            h = maps[t] = cell(oracle.under(layers, f"encoder.{n}"), x, h)
        states.append(h)
    given: list[Array | None] = [None] * steps
    for n in reversed(range(len(strides))):
        h = states[n]
        for t, x in enumerate(given):
            h = cell(oracle.under(layers, f"forecaster.{n}"), x, h)
            given[t] = leaky(transposed(oracle.under(layers, f"up.{n}"), h, strides[n]))
    out = []
    for x in given:
        y = convolve(oracle.under(w, "head"), leaky(convolve(oracle.under(layers, "last"), x)))
        y = oracle.unfold(y, config.patch, padded.shape[1:])[:, :rows, :columns]
        out.append(frames[-1] + y if config.output == "change" else y)
    return np.stack(out)


def test_the_warp_is_its_equation_and_zero_outside() -> None:
    h, u = random_frames(2, 3, 5, 7), 3 * random_frames(2, 4, 2, 5, 7, seed=2)
    got = warp(h, u).numpy()
    for b in range(2):
        for n in range(4):
            np.testing.assert_allclose(got[b, :, n], gathered(h[b].numpy(), u[b, n].numpy()), **EXACT)
    assert not warp(h, torch.full((2, 1, 2, 5, 7), 40.0, dtype=torch.float64)).any()


@pytest.mark.parametrize("size", [(4, 5), (1, 3), (1, 1)])
def test_gradcheck_of_the_warp(size: tuple[int, int]) -> None:
    h, u = random_frames(2, 2, *size).requires_grad_(), random_frames(2, 3, 2, *size, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(warp, (h, u))


def test_a_flow_points_where_the_pattern_moves() -> None:
    h = torch.zeros(1, 1, 5, 6)
    h[..., 2, 1] = 1
    moved = warp(h, torch.tensor([3.0, -1.0])[:, None, None].expand(1, 1, 2, 5, 6))
    assert (moved[0, 0, 0] > 0.99).nonzero().tolist() == [[1, 4]]


@pytest.mark.parametrize("inputs", [0, 3])
def test_the_cell_is_its_equations(inputs: int) -> None:
    layer = slower(TrajGRU(inputs, 4, 3, 5))
    h, x = random_frames(2, 4, 6, 5), random_frames(2, inputs, 6, 5, seed=2) if inputs else None
    got = layer(None if x is None else layer.inputs(x), h).detach().numpy()
    for b in range(2):
        expected = cell(arrays(layer), None if x is None else x[b].numpy(), h[b].numpy())
        np.testing.assert_allclose(got[b], expected, **EXACT)


def test_flows_start_at_zero() -> None:
    layer = TrajGRU(3, 4, 2, 5)
    assert not layer.flows.weight.any()
    assert not layer.flows.bias.any()


@pytest.mark.parametrize("setting", ["moving-mnist", "hko-7"])
@pytest.mark.parametrize("options", [{"output": "frame"}, {"output": "change", "patch": 2}])
@pytest.mark.parametrize("hidden", [(4, 5, 3), (4,)])
def test_a_forecast_is_the_oracles(setting: str, options: dict[str, Any], hidden: tuple[int, ...]) -> None:
    net = slower(tiny("trajgru", setting=setting, hidden=hidden, links=(2,), **options))
    frames = random_frames(2, 3, 2, 7, 9)
    with torch.no_grad():
        got = net(frames, 2).numpy()
    for b in range(2):
        np.testing.assert_allclose(got[b], forecast(net.config, arrays(net), frames[b].numpy(), 2), **EXACT)


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"links": (5,)}, 2.84),
        ({"links": (9,)}, 3.42),
        ({}, 4.00),
        ({"links": (17,)}, 4.58),
        ({"setting": "hko-7", "hidden": (64, 192, 192), "links": (13, 13, 9)}, 12.15),
    ],
)
def test_it_has_as_many_parameters_as_its_settings_say(options: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        net = models.build("trajgru", **options)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == millions


def test_links_of_another_number_of_layers_are_refused_in_one_line() -> None:
    with pytest.raises(
        RecipeError, match=r"network\.links: \[3, 2\], with 3 layers.*Fix: write links: \[3\]"
    ) as caught:
        models.build("trajgru", links=(3, 2))
    assert "\n" not in str(caught.value)
