"""DFN: the filtering, a step and a whole rollout against loops in NumPy; what filters can do; parameters."""

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
from sa_nowcast.models.dfn import filtered
from sa_nowcast.recipe import network_config

Array = Any


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.01 * x)


def chain(w: dict[str, Array], x: Array, stride_of_second: int = 1) -> Array:
    """All convolutions, each with its bias and rectifier; a stride keeps every so many positions."""
    for place, n in enumerate(sorted({int(name.split(".")[0]) for name in w})):
        y = oracle.convolve(x, w[f"{n}.weight"]) + w[f"{n}.bias"][:, None, None]
        stride = stride_of_second if place == 1 else 1
        x = leaky(y[:, ::stride, ::stride])
    return x


def filter_each(x: Array, logits: Array, reach: int) -> Array:
    """Σ_d w_d(p) x(p + d) for (C, H, W) and logits (C, D, H, W), zeros outside."""
    channels, rows, columns = x.shape
    y = np.zeros_like(x)
    for c in range(channels):
        for row in range(rows):
            for column in range(columns):
                w = np.exp(logits[c, :, row, column] - logits[c, :, row, column].max())
                w = w / w.sum()
                d = 0
                for r in range(row - reach, row + reach + 1):
                    for q in range(column - reach, column + reach + 1):
                        if 0 <= r < rows and 0 <= q < columns:
                            y[c, row, column] += w[d] * x[c, r, q]
                        d += 1
    return y


def step(config: models.NetworkConfig, w: dict[str, Array], x: Array, s: Array) -> tuple[Array, Array]:
    """The next folded frame, and S, from a folded frame and the S before."""
    layers, (_, rows, columns) = oracle.under(w, "layers"), x.shape
    encoded = chain(oracle.under(layers, "encoder"), x, 2)
    s = encoded + chain(oracle.under(layers, "recurrent"), s)
    y = chain(oracle.under(layers, "decoder"), s).repeat(2, axis=1).repeat(2, axis=2)[:, :rows, :columns]
    y = chain(oracle.under(layers, "finer"), y)
    given = oracle.pointwise(y, w["head.weight"], w["head.bias"])
    count = (2 * config.reach + 1) ** 2
    out = filter_each(x, given[: len(x) * count].reshape(len(x), count, rows, columns), config.reach)
    return (out + given[len(x) * count :] if config.residual else out), s


def rollout(config: models.NetworkConfig, w: dict[str, Array], frames: Array, history: int, truth: list[bool]) -> Array:
    """Predictions of frames 1, 2, … of one sample; after the history a frame is read where `truth` says so."""
    patch, predictions = config.patch, []
    x = oracle.fold(frames[0], patch)
    s = np.zeros((config.hidden[-1], *(-(-side // 2) for side in x.shape[1:])))
    for t in range(len(frames) - 1):
        known = t < history or truth[t - history]
        y, s = step(config, w, oracle.fold(frames[t] if known else predictions[-1], patch), s)
        predictions.append(oracle.unfold(y, patch, frames[0].shape))
    return np.stack(predictions)


def test_the_filtering_is_its_equation_and_keeps_constants_inside() -> None:
    x, logits = random_frames(2, 3, 5, 6), random_frames(2, 3, 9, 5, 6, seed=2)
    got = filtered(x, logits).numpy()
    for b in range(2):
        np.testing.assert_allclose(got[b], filter_each(x[b].numpy(), logits[b].numpy(), 1), **EXACT)
    inside = filtered(torch.ones_like(x), logits)[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.ones_like(inside))


def test_gradcheck_of_the_filtering() -> None:
    x, logits = random_frames(2, 2, 3, 4).requires_grad_(), random_frames(2, 2, 9, 3, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(filtered, (x, logits))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"residual": True},
        {"patch": 2, "hidden": (3,)},
        {"hidden": (3, 4, 2, 5)},
        {"kernel": 5, "hidden": (3, 4), "reach": 1},
    ],
)
def test_a_rollout_is_the_oracles(options: dict[str, Any]) -> None:
    net, frames = randomise(tiny("dfn", **options)), random_frames(2, 5, 2, 7, 9)
    with torch.no_grad():
        net.head.weight *= 0.1  # so that no filter takes a single position
    truth = torch.tensor([[True], [False]])
    with torch.no_grad():
        got, forecast = net.predict_all(frames, 3, truth).numpy(), net(frames[:, :3], 2).numpy()
    for b in range(2):
        args = net.config, arrays(net), frames[b].numpy(), 3
        np.testing.assert_allclose(got[b], rollout(*args, truth[b].tolist()), **EXACT)
        np.testing.assert_allclose(forecast[b], rollout(*args, [False])[2:], **EXACT)


def test_rain_forms_where_there_is_none_only_with_the_residual() -> None:
    dry = torch.zeros(1, 3, 2, 6, 8)
    assert not tiny("dfn")(dry, 2).any()
    with_residual = randomise(tiny("dfn", residual=True)).float()
    assert with_residual(dry, 2).abs().max() > 1e-3


def test_the_residual_starts_at_zero() -> None:
    x, net = torch.rand(1, 3, 2, 6, 8), tiny("dfn", residual=True)
    assert not net.head.weight[net.filters :].any()
    without = tiny("dfn")
    without.load_state_dict(
        net.state_dict() | {f"head.{k}": v[: net.filters] for k, v in net.head.state_dict().items()}
    )
    torch.testing.assert_close(net(x, 2), without(x, 2), rtol=0, atol=0)


def test_it_has_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in models.build("dfn").parameters()) == 637_361


def test_a_preset_of_another_output_leaves_it_and_asking_for_that_is_refused() -> None:
    assert network_config({"name": "dfn"}, channels=1).output == "frame"
    with pytest.raises(RecipeError, match=r"network\.output: 'change', with dfn, expected one of frame"):
        network_config({"name": "dfn", "output": "change"}, channels=1)
