"""What networks promise that are no stack of recurrent layers: gradients, sizes, sampling, memory and refusals."""

from __future__ import annotations

import copy
import json
from typing import Any

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from listed import OPTIONS, left_open, tiny
from test_networks_exact import random_frames, randomise

from sa_nowcast import models
from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.registry import NETWORKS
from sa_nowcast.recipe import network_config
from sa_nowcast.recipe.model import require_together
from sa_nowcast.recipe.training import TrainingRecipe

HISTORY = 3
ANY_GRID = [name for name in OPTIONS if name != "fc-lstm"]
WITH_CHANGE = [name for name in OPTIONS if "change" in NETWORKS[name].outputs]
WITH_CHECKPOINTS = [name for name in OPTIONS if NETWORKS[name].checkpoints]
every_network = pytest.mark.parametrize("name", OPTIONS)
on_any_grid = pytest.mark.parametrize("name", ANY_GRID)


def small(name: str, **options: Any) -> models.Network:
    return randomise(tiny(name, **options))


def test_every_network_is_in_these_tests_or_a_stack() -> None:
    assert {*oracle.STACKS, *OPTIONS} == set(models.NAMES)


@pytest.mark.parametrize(("name", "output"), [(n, o) for n in OPTIONS for o in NETWORKS[n].outputs])
def test_every_parameter_gets_a_gradient(name: str, output: str) -> None:
    net = tiny(name, output=output).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * random_frames(*parameter.shape)  # some start at zero, and so others have no gradient
    size = (16, 24) if name in ANY_GRID else (8, 12)
    predictions, penalty = net.predictions_and_penalty(random_frames(2, 6, 2, *size), HISTORY)
    (predictions.square().sum() + (0 if penalty is None else penalty)).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not (p.grad != 0).any()] == []


@every_network
def test_nothing_is_kept_between_calls(name: str) -> None:
    net, x, other = tiny(name), torch.rand(2, 6, 2, 8, 12), torch.rand(3, 4, 2, 8, 12)
    state = copy.deepcopy(net.state_dict())
    first = net.predict_all(x, HISTORY)
    first.sum().backward()
    net(other[:, :HISTORY], steps=1)
    assert torch.equal(net.predict_all(x, HISTORY), first)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert not list(net.buffers())


@every_network
def test_the_last_batch_may_be_smaller(name: str) -> None:
    net, x = small(name), random_frames(5, 6, 2, 8, 12)
    with torch.no_grad():
        whole = net.predict_all(x, HISTORY)
        torch.testing.assert_close(net.predict_all(x[3:], HISTORY), whole[3:], rtol=0, atol=1e-10)


@every_network
def test_a_shorter_forecast_is_the_beginning_of_a_longer_one(name: str) -> None:
    net, x = small(name), random_frames(1, HISTORY, 2, 8, 12)
    with torch.no_grad():
        longer = net(x, steps=2 * HISTORY + 1)
        assert longer.shape == (1, 2 * HISTORY + 1, 2, 8, 12)
        for steps in (1, HISTORY, HISTORY + 1):
            torch.testing.assert_close(net(x, steps), longer[:, :steps], rtol=0, atol=1e-10)


@every_network
def test_predict_all_is_the_forecast_where_it_forecasts(name: str) -> None:
    net, x = small(name), random_frames(2, 7, 2, 8, 12)
    first = net.first_predicted(HISTORY)
    assert first == (1 if NETWORKS[name].predicts_known else HISTORY)
    with torch.no_grad():
        predictions = net.predict_all(x, HISTORY)
        torch.testing.assert_close(predictions[:, HISTORY - 1 :], net(x[:, :HISTORY], 4), rtol=0, atol=1e-10)
    assert torch.equal(predictions[:, : first - 1], x[:, 1:first])
    assert predictions.shape == (2, 6, 2, 8, 12)


@every_network
def test_truth_is_read_where_the_mask_says_so_if_predictions_are_fed_back(name: str) -> None:
    net, x = small(name), random_frames(2, 6, 2, 8, 12)
    mask = torch.tensor([[True, False], [False, False]])
    with torch.no_grad():
        free, told = net.predict_all(x, HISTORY), net.predict_all(x, HISTORY, mask)
    same = torch.isclose(free, told, rtol=1e-9, atol=1e-9).flatten(2).all(2)
    assert same[1].all()
    assert same[0].tolist() == [True, True, True, *[not NETWORKS[name].feeds_back] * 2]
    with pytest.raises(ModelError, match=r"truth_mask: its shape is \(2, 1\), expected \(2, 2\)"):
        net.predict_all(x, HISTORY, mask[:, :1])


@every_network
def test_the_last_prediction_has_a_gradient_for_the_first_frame(name: str) -> None:
    net, x = small(name), random_frames(1, 6, 2, 8, 12).requires_grad_()
    net.predict_all(x, HISTORY)[:, -1].square().sum().backward()
    assert x.grad is not None
    assert (x.grad[:, 0] != 0).any()
    assert not (x.grad[:, HISTORY:] != 0).any()


@on_any_grid
def test_weights_of_16_by_16_run_on_24_by_40(name: str) -> None:
    net = tiny(name)
    net.predict_all(torch.rand(2, 5, 2, 16, 16), HISTORY).sum().backward()
    with torch.no_grad():
        assert net(torch.rand(1, HISTORY, 2, 24, 40), 2).shape == (1, 2, 2, 24, 40)


@on_any_grid
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (13, 3)])
def test_sides_that_nothing_divides_are_padded_and_cropped(name: str, patch: int, size: tuple[int, int]) -> None:
    y = tiny(name, patch=patch)(torch.rand(1, HISTORY, 2, *size), steps=2)
    assert y.shape == (1, 2, 2, *size)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", WITH_CHANGE)
def test_an_untrained_network_that_predicts_changes_is_persistence(name: str) -> None:
    net, x = tiny(name, output="change"), torch.rand(2, HISTORY, 2, 8, 12)
    torch.testing.assert_close(net(x, 4), x[:, -1:].expand(-1, 4, -1, -1, -1), rtol=0, atol=0)


@every_network
def test_gradients_stay_in_float32_under_bf16_autocast(name: str) -> None:
    net, x = tiny(name), torch.rand(2, 6, 2, 8, 12)
    exact = net.predict_all(x, HISTORY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = net.predict_all(x, HISTORY)
    assert rounded.dtype == torch.float32
    rounded.square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())
    # bf16 keeps 8 bits: 0.4 % of values of order one, through all layers.
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)


@every_network
def test_a_few_updates_lower_the_loss(name: str) -> None:
    net = tiny(name)
    ramp = torch.linspace(0, 1, 12)[None, None, None, None].expand(2, 6, 2, 8, 12)
    x = torch.stack([ramp[:, t].roll(t, -1) for t in range(6)], dim=1)
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(30):
        loss = (net.predict_all(x, HISTORY) - x[:, 1:])[:, HISTORY - 1 :].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@every_network
def test_its_record_is_checked_written_and_read(name: str) -> None:
    config = network_config({"name": name, **OPTIONS[name]}, channels=2)
    assert config == NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert models.build(config).config == config
    with pytest.raises(RecipeError, match=f"there is no network '{name}s'.*Fix: write '{name}'"):
        models.build(name + "s")


@every_network
@pytest.mark.parametrize("preset", models.PRESETS)
def test_every_preset_makes_a_network(name: str, preset: str) -> None:
    with torch.device("meta"):
        net = models.build(network_config({"name": name, "preset": preset}, channels=2))
    assert sum(p.numel() for p in net.parameters()) > 0


@every_network
def test_options_of_training_that_it_would_leave_unused_are_refused(name: str) -> None:
    config, entry = network_config({"name": name, **OPTIONS[name]}, channels=2), NETWORKS[name]
    for option, value, allowed in (
        ("truth_start", 0.5, entry.feeds_back),
        ("context_truth_start", 0.5, entry.predicts_known),
    ):
        recipe = TrainingRecipe.model_validate({option: value})
        if allowed:
            require_together(config, recipe)
            continue
        with pytest.raises(RecipeError, match=rf"training\.{option}: 0\.5, with network\.name: {name}"):
            require_together(config, recipe)


@every_network
@pytest.mark.parametrize("training", [False, True])
def test_its_memory_is_counted_and_grows_with_grid_and_batch(name: str, training: bool) -> None:
    config = network_config({"name": name, **left_open(name)}, channels=2)

    def needed(side: int, batch: int) -> int:
        told = config.completed(HISTORY, (side, side))
        return models.estimate_memory(told, (side, side), batch, history=HISTORY, steps=4, training=training)

    assert needed(16, 2) < needed(64, 2) < needed(64, 4)
    with pytest.raises(ModelError, match=f"{name} on 64×64, batch 4, 3 to 4 frames: needs about"):
        models.require_memory(
            config.completed(HISTORY, (64, 64)), (64, 64), 4, history=HISTORY, steps=4, available=2**16
        )


@pytest.mark.parametrize("name", WITH_CHECKPOINTS)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_checkpointing_changes_neither_predictions_nor_gradients(name: str, steps: int) -> None:
    frames, results = random_frames(2, 7, 2, 5, 6), []
    for every in (0, steps):
        net = small(name, checkpoint_steps=every)
        out, penalty = net.predictions_and_penalty(frames, 4)
        (out.square().sum() + (0 if penalty is None else penalty)).backward()
        results.append([out, *(p.grad for p in net.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", WITH_CHECKPOINTS)
def test_memory_that_is_counted_falls_with_checkpoints(name: str) -> None:
    def needed(every: int) -> int:
        config = network_config({"name": name, **OPTIONS[name], "checkpoint_steps": every}, channels=2)
        return models.estimate_memory(config, (64, 64), 4, history=8, steps=8)

    assert needed(1) < 0.7 * needed(0)


@every_network
def test_gradcheck_of_a_whole_rollout(name: str) -> None:
    net = small(name, channels=1, **({"grid": (4, 3)} if name == "fc-lstm" else {}))
    frames = random_frames(1, HISTORY + 2, 1, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: net.predict_all(x, HISTORY), (frames,))


@every_network
def test_it_has_no_attention_map(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name} has no attention"):
        models.attention_map(tiny(name), torch.rand(1, HISTORY, 2, 8, 12), (0, 0))


@every_network
def test_frames_that_it_cannot_read_are_refused(name: str) -> None:
    x = torch.rand(3, 6, 2, 8, 12)
    with pytest.raises(ModelError, match="they have 1 channels, expected 2"):
        tiny(name).predict_all(x[:, :, :1], HISTORY)
    x[1, 0, 0, 2, 2] = np.nan
    with pytest.raises(ModelError, match="batch index 1: hold NaN"):
        tiny(name)(x[:, :HISTORY])


@pytest.mark.slow
@every_network
def test_compiled_it_predicts_the_same(name: str) -> None:
    """1e-5: the compiler keeps float32 but reorders sums."""
    x = torch.rand(1, 6, 2, 8, 12)
    eager = tiny(name).predict_all(x, HISTORY)
    torch.testing.assert_close(models.compile_cells(tiny(name)).predict_all(x, HISTORY), eager, rtol=1e-4, atol=1e-5)
