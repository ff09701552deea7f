"""A network is one module and one entry: with them it is built, trained, estimated and written into recipes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sa_nowcast import models
from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models.config import NetworkConfig, Whole
from sa_nowcast.models.cores import Core
from sa_nowcast.models.estimate import tensor_bytes
from sa_nowcast.models.gates import Gates
from sa_nowcast.models.live import live_bytes
from sa_nowcast.models.record import network_record
from sa_nowcast.models.registry import NETWORKS, Declared, preset
from sa_nowcast.recipe import network_config
from sa_nowcast.recipe.model import network_fields


@network_record
class ZigzagConfig(NetworkConfig):
    """A network with an option of its own."""

    width: Whole = 3
    """Width of the convolution on the memory."""


class Zigzag(Core):
    """Each layer reads the memory of the layer below, and the lowest that of the top one step before."""

    def __init__(self, inputs: int, config: ZigzagConfig) -> None:
        super().__init__()
        below = (inputs, *config.hidden[:-1])
        self.gates = nn.ModuleList(
            Gates(i, h, config.kernel, config.forget_bias) for i, h in zip(below, config.hidden, strict=True)
        )
        self.mixes = nn.ModuleList(
            nn.Conv2d(h, h, config.width, padding=config.width // 2, bias=False) for h in config.hidden
        )
        self.hidden = config.hidden

    def weights(self) -> list[Any]:
        return [gates.weights() for gates in self.gates]

    def start(self, x_BHWC: Tensor) -> Any:
        zeros = [x_BHWC.new_zeros(*x_BHWC.shape[:3], h) for h in self.hidden]
        return [(None, c) for c in zeros], zeros[-1]

    def step(self, weights: list[Any], x_BHWC: Tensor, state: Any) -> tuple[Tensor, Any]:
        cells, memory = state
        after = []
        for gates, mix, w, (h, c) in zip(self.gates, self.mixes, weights, cells, strict=True):
            h, c = gates(w, gates.inputs(w, x_BHWC), h, c)
            memory = torch.tanh(mix((memory + h).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
            x_BHWC = h + memory
            after.append((x_BHWC, c))
        return x_BHWC, (after, memory)


@pytest.fixture
def zigzag(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    module = ModuleType("sa_nowcast.models.zigzag")
    module.core = Zigzag  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(NETWORKS, "zigzag", Declared("zigzag", "memory through the layers", config=ZigzagConfig))
    live_bytes.cache_clear()
    yield "zigzag"
    live_bytes.cache_clear()


OPTIONS = {"channels": 1, "hidden": (6, 6), "kernel": 3, "patch": 2}


@pytest.mark.parametrize("output", ["frame", "change", "moving"])
def test_a_network_whose_memory_goes_through_the_layers_forecasts_and_learns(zigzag: str, output: str) -> None:
    torch.manual_seed(0)
    net = models.build(zigzag, **OPTIONS, output=output)
    x = torch.rand(2, 6, 1, 40, 36)
    assert net(x[:, :4], 3).shape == (2, 3, 1, 40, 36)
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(6):
        optimizer.zero_grad()
        loss = (net.predict_all(x, 4)[:, 3:] - x[:, 4:]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_its_states_are_kept_at_every_so_many_steps_alone(zigzag: str, steps: int) -> None:
    x, results = torch.rand(1, 6, 1, 8, 8), []
    for every in (0, steps):
        torch.manual_seed(0)
        net = models.build(zigzag, **OPTIONS, checkpoint_steps=every)
        net.predict_all(x, 3).square().sum().backward()
        results.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(results[0], results[1])


def test_its_option_is_checked_written_and_read(zigzag: str) -> None:
    config = network_config({"name": zigzag, "width": 5}, channels=1)
    assert isinstance(config, ZigzagConfig)
    assert NetworkConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["width"] == 5
    with pytest.raises(RecipeError, match=r"network\.width: 0, expected a whole number of at least 1"):
        preset("small", name=zigzag, width=0)
    with pytest.raises(ModelError, match=r"network\.width: is no field"):
        preset("small", width=5)
    fields = network_fields()
    assert fields["width"]["description"] == "Width of the convolution on the memory."
    assert "zigzag (memory through the layers)" in fields["name"]["description"]


def test_it_has_no_attention_map(zigzag: str) -> None:
    with pytest.raises(ModelError, match="zigzag has no attention"):
        models.attention_map(models.build(zigzag, **OPTIONS), torch.rand(1, 3, 1, 8, 8), (0, 0))


@pytest.mark.parametrize("training", [False, True])
def test_its_memory_is_counted_and_grows_with_grid_and_steps(zigzag: str, training: bool) -> None:
    def needed(side: int, steps: int) -> int:
        config = preset("small", name=zigzag, hidden=(32, 32))
        return models.estimate_memory(config, (side, side), 2, history=3, steps=steps, training=training)

    assert needed(64, 2) < needed(128, 2) < needed(128, 6 if training else 60)
    assert 3 < needed(512, 2) / needed(256, 2) < 5


@pytest.mark.parametrize("training", [False, True])
def test_a_moving_network_forecasts_after_its_memory_was_counted(zigzag: str, training: bool) -> None:
    # Matrices are kept for each size of a grid: those made without values must not be taken for real ones.
    config, (height, width) = preset("small", name=zigzag, hidden=(4,), output="moving"), (52, 116 + 4 * training)
    assert models.estimate_memory(config, (height, width), 1, history=3, steps=2, training=training) > 0
    y = models.build(config)(torch.rand(1, 3, 1, height, width), 2)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("checkpoint_steps", [0, 2])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [name for name, entry in NETWORKS.items() if entry.memory is not None])
def test_what_a_network_declares_is_what_is_counted(name: str, training: bool, checkpoint_steps: int) -> None:
    """Within a sixth: as far as both are from what a process with an allocator that loses nothing holds."""
    config = preset("small", name=name, hidden=(32, 16), patch=2, checkpoint_steps=checkpoint_steps)
    weights = 4 * sum(p.numel() for p in models.build(config).parameters())
    counted = live_bytes(config, (64, 48), 4, 4, 3, training) + (4 if training else 1) * weights
    declared = tensor_bytes(config, (64, 48), 4, history=4, steps=3, training=training)
    assert declared == pytest.approx(counted, rel=1 / 6)
