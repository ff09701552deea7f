"""U-Net: a forecast against loops in NumPy; what it reads; parameters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from listed import tiny
from test_networks_exact import arrays, random_frames, randomise

from sa_nowcast import models
from sa_nowcast.errors import RecipeError

Array = Any


def rectified(w: dict[str, Array], x: Array) -> Array:
    return oracle.relu(oracle.biased(w, x))


def pair(w: dict[str, Array], x: Array) -> Array:
    return rectified(oracle.under(w, "2"), rectified(oracle.under(w, "0"), x))


def next_frame(config: models.NetworkConfig, w: dict[str, Array], frames: list[Array]) -> Array:
    layers, grids = oracle.under(w, "layers"), len(config.hidden)
    divisor, (_, rows, columns) = config.patch * 2 ** (grids - 1), frames[0].shape
    padded = [np.pad(f, ((0, 0), (0, -rows % divisor), (0, -columns % divisor))) for f in frames]
    x, kept = np.concatenate([oracle.fold(f, config.patch) for f in padded]), []
    for n in range(grids):
        x = pair(oracle.under(layers, f"down.{n}"), oracle.halve(x) if n else x)
        kept.append(x)
    for n in reversed(range(grids - 1)):
        x = pair(oracle.under(layers, f"up.{n}"), np.concatenate([x.repeat(2, axis=1).repeat(2, axis=2), kept[n]]))
    x = rectified(oracle.under(layers, "last.0"), x)
    y = oracle.pointwise(x, w["head.weight"][:, :, 0, 0], w["head.bias"])
    y = oracle.unfold(y, config.patch, padded[0].shape)[:, :rows, :columns]
    return frames[-1] + y if config.output == "change" else y


@pytest.mark.parametrize("options", [{}, {"output": "change", "patch": 2}, {"hidden": (3,), "kernel": 5}])
def test_a_forecast_is_the_oracles_with_truth_where_it_is_read(options: dict[str, Any]) -> None:
    net, frames = randomise(tiny("unet", **options)), random_frames(2, 7, 2, 7, 9)
    mask = torch.tensor([[True, False], [False, True]])
    with torch.no_grad():
        got = net.predict_all(frames, 4, mask).numpy()
    for b in range(2):
        read, known = list(frames[b, :4].numpy()), frames[b].numpy()
        for step in range(3):
            expected = next_frame(net.config, arrays(net), read[-3:])
            np.testing.assert_allclose(got[b, 3 + step], expected, rtol=1e-10, atol=1e-10)
            read.append(known[4 + step] if step < 2 and mask[b, step] else expected)


def test_it_reads_the_last_frames_of_a_longer_history_and_refuses_a_shorter_one() -> None:
    net, x = tiny("unet"), torch.rand(1, 5, 2, 8, 8)
    assert torch.equal(net(x, 2), net(x[:, 2:], 2))
    with pytest.raises(RecipeError, match=r"history: 2, with network\.name: unet, expected at least 3"):
        net(x[:, :2], 2)


def test_a_record_that_leaves_the_history_open_is_completed() -> None:
    config = models.preset("small", name="unet")
    assert models.build(config).history == 4
    completed = config.completed(7, (16, 16))
    assert completed.to_dict()["history"] == models.build(completed).history == 7
    assert completed.completed(3, None) == completed
    assert models.preset("small").completed(7, (16, 16)) == models.preset("small")


def test_it_has_as_many_parameters_as_rainnet() -> None:
    """31.4 million; each convolution added up by hand."""
    widths = (64, 128, 256, 512, 1024)
    pairs = [(i, o) for i, o in zip((4, *widths), widths, strict=False)]
    pairs += [(below + above, below) for below, above in pairwise(widths)]
    expected = sum(9 * (i * o + o * o) + 2 * o for i, o in pairs) + 9 * 64 * 2 + 2 + 2 + 1
    with torch.device("meta"):
        count = sum(p.numel() for p in models.build("unet").parameters())
    assert count == expected
    assert round(count / 1e6, 1) == 31.4
