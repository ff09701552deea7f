"""Networks whose memory goes through the layers: their cells, the memory's way, the penalty, and the promises."""

from __future__ import annotations

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from test_networks_exact import EXACT, arrays, random_frames, randomise, small

from sa_nowcast import models
from sa_nowcast.models.causal_lstm import CausalLSTM
from sa_nowcast.models.cells import cell_update, gated_output
from sa_nowcast.models.mim import MemoryInMemory
from sa_nowcast.models.options import ZigzagConfig
from sa_nowcast.models.predrnn import STLSTM
from sa_nowcast.models.predrnn_plus_plus import GradientHighway
from sa_nowcast.models.predrnn_v2 import likeness
from sa_nowcast.models.registry import NETWORKS

every_network = pytest.mark.parametrize("name", oracle.ZIGZAG)
with_and_without_norm = pytest.mark.parametrize("norm", [False, True])


def config(norm: bool) -> ZigzagConfig:
    return ZigzagConfig(name="predrnn", kernel=3, norm=norm)


def maps(*channels: int) -> list[torch.Tensor]:
    return [random_frames(2, 7, 5, c, seed=n) for n, c in enumerate(channels)]


def of_sample(b: int, tensors: list[torch.Tensor]) -> list[np.ndarray]:
    return [x[b].permute(2, 0, 1).numpy() for x in tensors]


def assert_maps(got: torch.Tensor, b: int, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got[b].detach().permute(2, 0, 1), expected, **EXACT)


@with_and_without_norm
def test_st_lstm_is_its_equations(norm: bool) -> None:
    cell, given = randomise(STLSTM(3, 4, config(norm))), maps(3, 4, 4, 4)
    weights = cell.weights()
    h, c, m, gains = cell(weights, cell.input(weights.input, given[0]), *given[1:])
    for b in range(2):
        expected = oracle.st_lstm(arrays(cell), *of_sample(b, given))
        for got, want in zip((h, c, m, *gains), (*expected[:3], *expected[3]), strict=True):
            assert_maps(got, b, want)


@with_and_without_norm
def test_causal_lstm_is_its_equations_for_a_memory_of_another_width(norm: bool) -> None:
    cell, given = randomise(CausalLSTM(3, 6, 4, config(norm))), maps(3, 4, 4, 6)
    weights = cell.weights()
    out = cell(weights, cell.input(weights.input, given[0]), *given[1:])
    for b in range(2):
        for got, want in zip(out, oracle.causal_lstm(arrays(cell), *of_sample(b, given)), strict=True):
            assert_maps(got, b, want)


@with_and_without_norm
def test_the_gradient_highway_is_its_equations(norm: bool) -> None:
    unit, (x, z) = randomise(GradientHighway(4, config(norm))), maps(4, 4)
    out = unit(unit.weights(), x, z)
    for b in range(2):
        assert_maps(out, b, oracle.gradient_highway(arrays(unit), *of_sample(b, [x, z])))


@with_and_without_norm
@pytest.mark.parametrize("first", [False, True])
def test_the_memory_in_memory_is_its_equations(norm: bool, first: bool) -> None:
    within, (x, c, n, s) = randomise(MemoryInMemory(3, 4, config(norm))), maps(3, 4, 4, 4)
    zeros = torch.zeros_like(s)
    out = within(within.weights(), *((None, None, None, zeros) if first else (x, c, n, s)))
    for b in range(2):
        given = [zeros] * 3 if first else [c, n, s]
        change = None if first else of_sample(b, [x])[0]
        expected = oracle.memory_in_memory(arrays(within), change, *of_sample(b, given))
        for got, want in zip(out, expected, strict=True):
            if got is None:
                assert not want.any()
            else:
                assert_maps(got, b, want)


@pytest.mark.parametrize("name", ["mim", "mim-star"])
@pytest.mark.parametrize("cascade", ["paper", "code"])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_both_cascades_of_a_rollout_are_the_oracles(name: str, cascade: str, layers: int) -> None:
    hidden = (4, 3, 5, 4)[:layers] if name == "mim-star" else (4,) * layers
    net, frames = small(name, hidden=hidden, cascade=cascade, norm=True), random_frames(1, 4, 2, 5, 6)
    with torch.no_grad():
        predictions = net.predict_all(frames, history=2)[0].numpy()
    np.testing.assert_allclose(predictions, oracle.rollout(net.config, arrays(net), frames[0].numpy(), 2, 2), **EXACT)


def test_no_state_stands_for_zeros_with_norms_too() -> None:
    x, zeros = random_frames(1, 5, 4, 3), torch.zeros(1, 5, 4, 4, dtype=torch.float64)
    cell = randomise(STLSTM(3, 4, config(True)))
    given = cell.weights(), cell.input(cell.weights().input, x)
    torch.testing.assert_close(cell(*given, None, zeros, None)[:3], cell(*given, zeros, zeros, zeros)[:3])
    causal = randomise(CausalLSTM(3, 4, 4, config(True)))
    of_causal = causal.weights(), causal.input(causal.weights().input, x)
    torch.testing.assert_close(causal(*of_causal, None, None, None), causal(*of_causal, zeros, zeros, zeros))
    unit = randomise(GradientHighway(3, config(True)))
    torch.testing.assert_close(unit(unit.weights(), x, None), unit(unit.weights(), x, torch.zeros_like(x)))


@pytest.mark.parametrize("name", ["causal-lstm", "predrnn-plus-plus", "mim-star"])
@pytest.mark.parametrize("hidden", [(4, 6, 3), (5, 3), (4,)])
def test_a_rollout_with_layers_of_several_widths_is_the_oracles(name: str, hidden: tuple[int, ...]) -> None:
    net, frames = small(name, hidden=hidden, norm=True), random_frames(1, 4, 2, 5, 6)
    with torch.no_grad():
        predictions = net.predict_all(frames, history=2)[0].numpy()
    np.testing.assert_allclose(predictions, oracle.rollout(net.config, arrays(net), frames[0].numpy(), 2, 2), **EXACT)


def test_the_decoupling_loss_of_a_rollout_is_the_oracles() -> None:
    net, frames = small("predrnn-v2", decoupling=0.3), random_frames(2, 5, 2, 7, 5)
    _, penalty = net.predictions_and_penalty(frames, 3)
    args = net.config, arrays(net)
    expected = [oracle.rollout(*args, sample.numpy(), 3, 2, penalty=True) for sample in frames]
    assert penalty is not None
    assert penalty.item() == pytest.approx(np.mean(expected), abs=1e-10)


def test_the_decoupling_loss_falls_where_it_is_followed() -> None:
    torch.manual_seed(0)
    net, x = models.build("predrnn-v2", hidden=(6, 6), kernel=3, patch=2, decoupling=1), torch.rand(2, 5, 1, 8, 8)
    optimizer, found = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(10):
        _, penalty = net.predictions_and_penalty(x, 3)
        assert penalty is not None
        found.append(penalty.item())
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert found[-1] < 0.5 * found[0]


def test_likeness_is_one_for_the_same_direction_and_zero_for_none_in_common() -> None:
    a = random_frames(2, 3, 4, 5)
    assert likeness(a, -2 * a).item() == pytest.approx(1)
    left, right = a.clone(), a.clone()
    left[:, :1], right[:, 1:] = 0, 0
    assert likeness(left, right).item() == 0


def test_without_gradients_or_weight_there_is_no_penalty() -> None:
    x = torch.rand(1, 4, 1, 8, 8)
    options = {"hidden": (4, 4), "kernel": 3, "patch": 2}
    with torch.no_grad():
        assert models.build("predrnn-v2", **options).predictions_and_penalty(x, 2)[1] is None
    assert models.build("predrnn-v2", decoupling=0, **options).predictions_and_penalty(x, 2)[1] is None
    assert models.build("predrnn", **options).predictions_and_penalty(x, 2)[1] is None


@pytest.mark.parametrize("steps", [1, 2, 50])
@every_network
def test_checkpointing_changes_neither_predictions_nor_gradients(name: str, steps: int) -> None:
    frames, results = random_frames(2, 7, 2, 5, 6), []
    for every in (0, steps):
        net = small(name, checkpoint_steps=every)
        out, penalty = net.predictions_and_penalty(frames, 4, torch.tensor([[True, False], [False, True]]))
        (out.square().sum() + (0 if penalty is None else penalty)).backward()
        results.append([out, *(p.grad for p in net.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


@every_network
def test_the_last_batch_may_be_smaller_and_the_same_batch_gives_the_same(name: str) -> None:
    net, x = small(name), random_frames(5, 5, 2, 8, 8)
    with torch.no_grad():
        whole = net.predict_all(x, 3)
        torch.testing.assert_close(net.predict_all(x[3:], 3), whole[3:], rtol=0, atol=1e-12)
        assert torch.equal(net.predict_all(x, 3), whole)


@every_network
def test_the_last_prediction_has_a_gradient_for_the_first_frame(name: str) -> None:
    net, x = small(name), random_frames(1, 6, 2, 8, 8).requires_grad_()
    net.predict_all(x, 4)[:, -1].square().sum().backward()
    assert x.grad is not None
    assert (x.grad[:, 0] != 0).all()


@every_network
def test_the_memory_goes_from_the_top_to_the_bottom_of_the_next_step(name: str) -> None:
    net = small(name, hidden=(4, 4))
    weights, x = net.layers.weights(), random_frames(1, 5, 5, 8)
    _, state = net.layers.step(weights, x, net.layers.start(x))
    # In PredRNN-V2 the number of steps stands around it.
    nested = name == "predrnn-v2"
    layers, memory = state[0] if nested else state
    zeros = (torch.zeros_like(memory[0]), memory[1]) if isinstance(memory, tuple) else torch.zeros_like(memory)
    other = (layers, zeros)
    first, _ = net.layers.step(weights, x, state)
    second, _ = net.layers.step(weights, x, (other, 1) if nested else other)
    assert (first - second).abs().max() > 1e-3


@every_network
def test_weights_of_16_by_16_maps_run_on_24_by_40(name: str) -> None:
    net = models.build(name, hidden=(6, 6), kernel=3, norm=True)
    net.predict_all(torch.rand(2, 4, 1, 64, 64), 2).sum().backward()
    with torch.no_grad():
        assert torch.isfinite(net(torch.rand(1, 2, 1, 96, 160), 2)).all()


@pytest.mark.parametrize("name", [name for name in oracle.ZIGZAG if "moving" in NETWORKS[name].outputs])
def test_a_network_in_lagrangian_coordinates_has_a_zigzag_memory_too(name: str) -> None:
    torch.manual_seed(0)
    net = models.build(name, hidden=(4, 4), kernel=3, patch=2, output="moving")
    x = torch.rand(1, 5, 1, 40, 36)
    net.predict_all(x, 3)[:, 2:].sub(x[:, 3:]).square().mean().backward()
    with torch.no_grad():
        assert torch.isfinite(net(x[:, :3], 2)).all()


@every_network
def test_gradients_stay_in_float32_under_bf16_autocast(name: str) -> None:
    torch.manual_seed(0)
    net, x = models.build(name, hidden=(6, 6), kernel=3, patch=2), torch.rand(2, 5, 1, 8, 8)
    exact = net.predict_all(x, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, penalty = net.predictions_and_penalty(x, 3)
    assert rounded.dtype == torch.float32
    (rounded.square().mean() + (0 if penalty is None else penalty)).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())
    # bf16 keeps 8 bits: 0.4 % of values of order one, in a rollout of five steps.
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.03)


def test_the_highway_stands_between_the_lowest_two_layers_alone() -> None:
    net = small("predrnn-plus-plus", hidden=(4, 4, 4))
    assert [name for name, _ in net.named_parameters() if "highway" in name] == [
        f"layers.1.highway.{part}" for part in ("input.weight", "input.bias", "state.weight")
    ]
    assert not [name for name, _ in small("causal-lstm").named_parameters() if "highway" in name]


@pytest.mark.parametrize("addends", [(9,), (9, 9), (9, 9, 6)])
@pytest.mark.parametrize("squash", [False, True])
def test_gradcheck_of_the_updates(addends: tuple[int, ...], squash: bool) -> None:
    c, *given = (random_frames(1, 2, 3, n, seed=n + k).requires_grad_() for k, n in enumerate((3, *addends)))
    assert torch.autograd.gradcheck(cell_update, (c, *given))
    assert torch.autograd.gradcheck(lambda *x: cell_update(*x)[0], (c, *given))
    inner, *others = (random_frames(1, 2, 3, 3, seed=k).requires_grad_() for k in range(1 + len(addends)))
    assert torch.autograd.gradcheck(lambda *x: gated_output(*x, squash=squash), (inner, *others))


def test_the_updates_that_a_compiler_sees_are_the_updates_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    c, a, b, narrow = (random_frames(2, 3, 4, n, seed=n) for n in (3, 9, 9, 6))

    def all_of_them() -> list[torch.Tensor]:
        outputs = [gated_output(c, c + 1, 2 * c, squash=squash) for squash in (False, True)]
        return [*cell_update(c, a), *cell_update(c, a, b), *cell_update(c, a, b, narrow), *outputs]

    eager = all_of_them()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(eager, all_of_them(), rtol=0, atol=1e-14)
