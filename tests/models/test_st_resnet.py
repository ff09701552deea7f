"""ST-ResNet: every part against an oracle in NumPy, its lags, and its size."""

from __future__ import annotations

from typing import Any

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from test_networks_exact import EXACT, arrays, random_frames, randomise, small

from sa_nowcast import models
from sa_nowcast.errors import RecipeError
from sa_nowcast.models.st_resnet import Fusion, ResidualUnit

Map = np.ndarray[Any, Any]
OF_DAYS = {"period": 1, "trend": 1, "frames_a_day": 2}
TAXIBJ = {"channels": 2, "period": 1, "trend": 1, "frames_a_day": 48}


def unit(w: dict[str, Map], x: Map) -> Map:
    inner = oracle.biased(oracle.under(w, "first"), oracle.relu(x))
    result: Map = x + oracle.biased(oracle.under(w, "second"), oracle.relu(inner))
    return result


def rollout(net: models.Network, frames: Map, history: int, steps: int) -> Map:
    """The forecast of one sample; frames of days and weeks before are looked up by their lag."""
    config, w = net.config, oracle.under(arrays(net), "layers")
    patch, shape, units = config.patch, frames[0].shape, len(config.hidden)
    day = config.frames_a_day  # type: ignore[attr-defined]
    close = [n + 1 for n in range(config.closeness)]  # type: ignore[attr-defined]
    days = [day * (n + 1) for n in range(config.period)]  # type: ignore[attr-defined]
    weeks = [7 * day * (n + 1) for n in range(config.trend)]  # type: ignore[attr-defined]
    known = list(frames[:history])
    for _ in range(steps):
        total = 0.0
        for n, lags in enumerate(lags for lags in (close, days, weeks) if lags):
            read = [oracle.fold(known[max(len(known) - lag, 0)], patch) for lag in lags]
            row = oracle.under(w, f"rows.{n}")
            y = oracle.biased(oracle.under(row, "0"), np.concatenate(read))
            for k in range(units):
                y = unit(oracle.under(row, str(k + 1)), y)
            y = oracle.biased(oracle.under(row, str(units + 2)), oracle.relu(y))
            total = total + arrays(net)["head.weight"][n][:, None, None] * y
        out = oracle.unfold(np.tanh(total) if config.bounded else total, patch, shape)  # type: ignore[attr-defined]
        known.append(known[-1] + out if config.output == "change" else out)
    return np.stack(known[history:])


def test_unit_and_fusion_are_their_equations() -> None:
    x = random_frames(2, 5, 6, 4)
    module, fusion = randomise(ResidualUnit(4, 3)), randomise(Fusion(2, 2, True))
    for b in range(2):
        one = x[b].permute(2, 0, 1).numpy()
        np.testing.assert_allclose(module(x)[b].detach().permute(2, 0, 1), unit(arrays(module), one), **EXACT)
        w = arrays(fusion)["weight"][:, :, None, None]
        fused = fusion(x)[b].detach().permute(2, 0, 1)
        np.testing.assert_allclose(fused, np.tanh(w[0] * one[:2] + w[1] * one[2:]), **EXACT)


@pytest.mark.parametrize(
    ("history", "options"),
    [
        (1, {"patch": 1}),
        (3, {"patch": 2, "bounded": True}),
        (15, {**OF_DAYS, "patch": 1, "output": "change"}),
        (4, {"patch": 1, "closeness": 1, "period": 2, "frames_a_day": 2}),
    ],
)
def test_a_rollout_is_the_oracles(history: int, options: dict[str, Any]) -> None:
    net, frames = small("st-resnet", hidden=(3, 3), **options), random_frames(2, history + 3, 2, 5, 7)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.5)  # else ReLUs let values grow from step to step
        predictions = net.predict_all(frames, history)
        assert torch.equal(predictions[:, : history - 1], frames[:, 1:history])
    for b in range(2):
        expected = rollout(net, frames[b].numpy(), history, 3)
        np.testing.assert_allclose(predictions[b, history - 1 :], expected, **EXACT)


def test_truth_that_is_told_is_read_in_place_of_a_prediction() -> None:
    net, frames = small("st-resnet", hidden=(3, 3), patch=1), random_frames(2, 6, 2, 8, 8)
    with torch.no_grad():
        told = net.predict_all(frames, 4, torch.ones(2, 1, dtype=torch.bool))
        torch.testing.assert_close(told[:, 4:], net(frames[:, :5], 1), rtol=1e-12, atol=1e-12)


def test_frames_of_a_day_and_a_week_before_have_a_gradient_and_others_none() -> None:
    net, x = small("st-resnet", hidden=(3, 3), patch=1, **OF_DAYS), random_frames(1, 15, 2, 8, 8).requires_grad_()
    net(x, 1).square().sum().backward()
    assert x.grad is not None
    read = (x.grad != 0).flatten(2).any(2)[0].tolist()
    assert [n - 15 for n, it_is in enumerate(read) if it_is] == [-14, -3, -2, -1]


def test_a_history_without_a_week_is_refused() -> None:
    net = small("st-resnet", hidden=(3, 3), **OF_DAYS)
    with pytest.raises(RecipeError, match=r"history: 13, with network\.name: st-resnet, expected at least 14"):
        net(random_frames(1, 13, 2, 8, 8), 1)


@pytest.mark.parametrize("options", [{"period": 1}, {"trend": 1}])
def test_a_period_without_the_frames_of_a_day_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match=r"network\.frames_a_day: not given, with period: . and trend: ."):
        models.build("st-resnet", **options)


def test_units_of_several_widths_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"network\.hidden: \[8, 4\], with name: st-resnet, whose layers have one"):
        models.build("st-resnet", hidden=(8, 4))


@pytest.mark.parametrize(("units", "printed"), [(12, 2.70), (4, 0.92)])
def test_the_paper_s_size_differs_by_its_fusion_of_pixels_and_its_external_layers(units: int, printed: float) -> None:
    """Three rows on frames of 2 channels, as for TaxiBJ; the weather goes 28 to 10 to 2·32·32 in the authors' code."""
    with torch.device("meta"):
        count = sum(p.numel() for p in models.build("st-resnet", hidden=(64,) * units, **TAXIBJ).parameters())
    of_units = units * 2 * (9 * 64 * 64 + 64)
    first = [9 * 2 * frames * 64 + 64 for frames in (3, 1, 1)]
    assert count == sum(first) + 3 * (of_units + 9 * 64 * 2 + 2) + 3 * 2
    of_pixels, external = 3 * 2 * 32 * 32, (28 * 10 + 10) + (10 * 2048 + 2048)
    assert round((count - 3 * 2 + of_pixels + external) / 1e6, 2) == printed
