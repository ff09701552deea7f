"""MCNet: every part against an oracle in NumPy, and what it promises."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from test_networks_exact import EXACT, arrays, random_frames, small

from sa_nowcast import models
from sa_nowcast.errors import RecipeError
from sa_nowcast.models.mcnet import gradient_difference, unpool

Map = np.ndarray[Any, Any]


def row_of(w: dict[str, Map], x: Map, count: int) -> Map:
    """Convolutions with biases, each followed by a ReLU."""
    for n in range(count):
        x = oracle.relu(oracle.biased(oracle.under(w, str(n)), x))
    return x


def motion_features(w: dict[str, Map], x: Map, scales: int) -> tuple[Map, list[Map]]:
    found = []
    for n in range(scales):
        found.append(oracle.relu(oracle.biased(oracle.under(w, f"motion.{n}"), x)))
        x = oracle.halve(found[-1])
    return x, found


def content_features(w: dict[str, Map], x: Map, scales: int) -> tuple[Map, list[Map]]:
    found = []
    for n in range(scales):
        found.append(row_of(oracle.under(w, f"content.{n}"), x, 3 if n == scales - 1 else 2))
        x = oracle.halve(found[-1])
    return x, found


def unpooled(x: Map) -> Map:
    y = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2]))
    for row in range(x.shape[1]):
        for col in range(x.shape[2]):
            y[:, 2 * row, 2 * col] = x[:, row, col]
    return y


def decoded(w: dict[str, Map], y: Map, motion: list[Map], content: list[Map]) -> Map:
    """The maps that the head reads, from the combined map at the smallest scale."""
    last = len(motion) - 1
    for n in range(last, -1, -1):
        part = oracle.under(w, f"residual.{n}")
        joined = np.concatenate([motion[n], content[n]])
        r = oracle.biased(oracle.under(part, "1"), oracle.relu(oracle.biased(oracle.under(part, "0"), joined)))
        y = oracle.relu(unpooled(y) + r)
        y = row_of(oracle.under(w, f"decoder.{n}"), y, (2 if n == last else 1) + (1 if n else 0))
    return y


def rollout(net: models.Network, frames: Map, history: int, steps: int) -> Map:
    """The forecast of one sample, frame by frame."""
    config, w = net.config, oracle.under(arrays(net), "layers")
    scales, patch, shape = len(config.hidden), config.patch, frames[0].shape
    folded = [oracle.fold(frame, patch) for frame in frames[:history]]
    rows, columns = folded[0].shape[1:]
    moved = [b - a for a, b in pairwise(folded)] or [np.zeros_like(folded[0])]
    h = c = np.zeros((config.hidden[-1], -(-rows // 2**scales), -(-columns // 2**scales)))
    motion: list[Map] = []
    for change in moved:
        small_map, motion = motion_features(w, oracle.to_multiple(change, 2**scales), scales)
        h, c = oracle.conv_lstm(oracle.under(w, "dynamics"), small_map, h, c)
    predictions: list[Map] = []
    last, frame = folded[-1], frames[history - 1]
    for step in range(steps):
        if step:
            now = oracle.fold(predictions[-1], patch)
            small_map, motion = motion_features(w, oracle.to_multiple(now - last, 2**scales), scales)
            h, c = oracle.conv_lstm(oracle.under(w, "dynamics"), small_map, h, c)
            last, frame = now, predictions[-1]
        what, content = content_features(w, oracle.to_multiple(last, 2**scales), scales)
        y = decoded(w, row_of(oracle.under(w, "combination"), np.concatenate([h, what]), 3), motion, content)
        out = oracle.biased(oracle.under(arrays(net), "head"), y[:, :rows, :columns])
        out = np.tanh(out) if config.bounded else out  # type: ignore[attr-defined]
        out = oracle.unfold(out, patch, shape)
        predictions.append(frame + out if config.output == "change" else out)
    return np.stack(predictions)


@pytest.mark.parametrize("history", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"hidden": (3, 4), "patch": 1},
        {"hidden": (3, 4), "patch": 2, "bounded": True},
        {"hidden": (3,), "patch": 1, "output": "change"},
        {"hidden": (2, 3, 3), "patch": 1, "kernel": 1},
    ],
)
def test_a_rollout_is_the_oracles(history: int, options: dict[str, Any]) -> None:
    net, frames = small("mcnet", **options), random_frames(2, history + 3, 2, 7, 9)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.5)  # else ReLUs let values grow from step to step
        predictions = net.predict_all(frames, history)
        assert torch.equal(predictions[:, : history - 1], frames[:, 1:history])
        assert torch.equal(predictions[:, history - 1 :], net(frames[:, :history], 3))
    for b in range(2):
        expected = rollout(net, frames[b].numpy(), history, 3)
        np.testing.assert_allclose(predictions[b, history - 1 :], expected, **EXACT)


def test_truth_that_is_told_is_read_in_place_of_a_prediction() -> None:
    net, frames = small("mcnet", patch=1), random_frames(2, 6, 2, 8, 8)
    with torch.no_grad():
        told = net.predict_all(frames, 4, torch.ones(2, 1, dtype=torch.bool))
        torch.testing.assert_close(told[:, 4:], net(frames[:, :5], 1), rtol=1e-12, atol=1e-12)


def test_values_are_unpooled_into_the_upper_left() -> None:
    x = random_frames(1, 2, 3, 4)
    np.testing.assert_array_equal(unpool(x)[0].permute(2, 0, 1), unpooled(x[0].permute(2, 0, 1).numpy()))


def test_the_gradient_difference_loss_is_its_equation() -> None:
    p, y = random_frames(2, 3, 1, 4, 5), random_frames(2, 3, 1, 4, 5, seed=2)
    rows: list[float] = []
    columns: list[float] = []
    for b in range(2):
        for t in range(3):
            for i in range(4):
                for j in range(5):
                    for up, left, found in ((1, 0, rows), (0, 1, columns)):
                        if i >= up and j >= left:
                            true = abs(y[b, t, 0, i, j] - y[b, t, 0, i - up, j - left])
                            found.append(abs(true - abs(p[b, t, 0, i, j] - p[b, t, 0, i - up, j - left])).item())
    assert gradient_difference(p, y).item() == pytest.approx(np.mean(rows) + np.mean(columns), abs=1e-12)
    assert gradient_difference(p[..., :1, :1], y[..., :1, :1]).item() == 0


def test_the_gradient_difference_loss_of_the_forecast_is_added_with_its_weight() -> None:
    frames = random_frames(1, 5, 2, 8, 8)
    found = []
    for weight in (0, 0.5, 1.0):
        net = small("mcnet", patch=1, gradient_difference=weight)
        predictions, penalty = net.predictions_and_penalty(frames, 3)
        expected = weight * gradient_difference(predictions[:, 2:], frames[:, 3:]).item()
        assert (0 if penalty is None else penalty.item()) == pytest.approx(expected)
        found.append(penalty)
    assert found[0] is None
    with torch.no_grad():
        assert net.predictions_and_penalty(frames, 3)[1] is None


def test_the_generator_of_the_paper_has_as_many_parameters_as_printed() -> None:
    """14.09 million for frames of one channel: added up by hand, with a bias in every convolution."""
    motion = (25 * 64 + 64) + (25 * 64 * 128 + 128) + (49 * 128 * 256 + 256)
    dynamics = 9 * 512 * 1024 + 1024
    vgg = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    content = sum(9 * i * o + o for i, o in vgg)
    decoder = sum(9 * i * o + i for i, o in vgg)
    combination = sum(9 * i * o + o for i, o in [(512, 256), (256, 128), (128, 256)])
    residual = sum(9 * 2 * w * w + w + 9 * w * w + w for w in (64, 128, 256))
    with torch.device("meta"):
        count = sum(p.numel() for p in models.build("mcnet").parameters())
    assert count == motion + dynamics + content + combination + residual + decoder
    assert round(count / 1e6, 2) == 14.09


def test_a_bound_of_a_change_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"network\.bounded: true, with output: change, expected false"):
        models.build("mcnet", bounded=True, output="change")
