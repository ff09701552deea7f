"""Networks that are no stack of recurrent layers: what all of them promise."""

from __future__ import annotations

import networks_oracle as oracle
import pytest
import torch
from test_networks_exact import random_frames, small

from sa_nowcast import models

every_network = pytest.mark.parametrize("name", [name for name in models.NAMES if name not in oracle.STACKS])


@every_network
def test_the_last_prediction_has_a_gradient_for_the_first_frame(name: str) -> None:
    net, x = small(name, hidden=(8, 8)), random_frames(1, 5, 2, 16, 16).requires_grad_()
    net.predict_all(x, 3)[:, -1].square().sum().backward()
    assert x.grad is not None
    # Of positions of which the smaller ones are pooled away a few may have none.
    assert (x.grad[:, 0] != 0).double().mean() > 0.9


@every_network
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_checkpointing_changes_neither_predictions_nor_gradients(name: str, steps: int) -> None:
    frames, results = random_frames(2, 7, 2, 5, 6), []
    for every in (0, steps):
        net = small(name, hidden=(4, 4), checkpoint_steps=every)
        out, penalty = net.predictions_and_penalty(frames, 4)
        (out.square().sum() + (0 if penalty is None else penalty)).backward()
        results.append([out, *(p.grad for p in net.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


@every_network
def test_the_last_batch_may_be_smaller_and_the_same_batch_gives_the_same(name: str) -> None:
    net, x = small(name), random_frames(5, 5, 2, 8, 8)
    with torch.no_grad():
        whole = net.predict_all(x, 3)
        torch.testing.assert_close(net.predict_all(x[3:], 3), whole[3:], rtol=1e-12, atol=1e-12)
        assert torch.equal(net.predict_all(x, 3), whole)


@every_network
def test_weights_of_16_by_16_maps_run_on_24_by_40(name: str) -> None:
    net = models.build(name, hidden=(6, 6), kernel=3, patch=2)
    net.predict_all(torch.rand(2, 4, 1, 32, 32), 2).sum().backward()
    with torch.no_grad():
        assert torch.isfinite(net(torch.rand(1, 2, 1, 48, 80), 2)).all()


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
    # bf16 keeps 8 bits: 0.4 % of values of order one, in some twenty layers and two steps.
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)


@every_network
@pytest.mark.parametrize("training", [False, True])
def test_memory_is_counted_and_grows_with_the_grid(name: str, training: bool) -> None:
    def needed(side: int) -> int:
        config = models.preset("small", name=name)
        return models.estimate_memory(config, (side, side), 2, history=3, steps=2, training=training)

    assert 2.5 < needed(512) / needed(256) < 5


@every_network
def test_gradcheck_of_a_whole_rollout(name: str) -> None:
    net, frames = small(name, channels=1, hidden=(4, 4)), random_frames(1, 5, 1, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: net.predict_all(x, 3), (frames,))


@every_network
def test_memory_that_is_counted_falls_with_checkpoints(name: str) -> None:
    def needed(every: int) -> int:
        config = models.preset("small", name=name, patch=2, checkpoint_steps=every)
        return models.estimate_memory(config, (64, 64), 4, history=8, steps=8)

    assert needed(1) < 0.7 * needed(0)
