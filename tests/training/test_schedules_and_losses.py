from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trials import masked_loss

from sa_nowcast.training.objective import lead_weight, learning_rate_factor, losses, truth_mask, truth_probability


def _fields(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction, target = (torch.randn(2, 5, 1, 6, 7, generator=generator) for _ in range(2))
    return prediction, target, torch.rand(2, 5, 1, 6, 7, generator=generator) > 0.3


@pytest.mark.parametrize("kind", ["l2", "l1+l2"])
def test_the_loss_is_the_mean_over_valid_pixels(kind: str) -> None:
    prediction, target, valid = _fields()
    error = (prediction - target).double().numpy()[valid.numpy()]
    expected = np.mean(error**2) + (np.mean(np.abs(error)) if kind == "l1+l2" else 0)
    # A float32 sum of some 300 terms.
    assert float(masked_loss(prediction, target, valid, kind)) == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_accumulations_is_that_of_sums_since_the_init_time_written_out() -> None:
    prediction, target, valid = _fields()
    known, total, count = 2, 0.0, 0
    error = (prediction - target).double().numpy()
    for b, t, c, i, j in np.ndindex(*error.shape):
        if t < known:
            whole, pixel = bool(valid[b, t, c, i, j]), error[b, t, c, i, j] ** 2
        else:
            whole = bool(valid[b, known : t + 1, c, i, j].all())
            pixel = error[b, known : t + 1, c, i, j].sum() ** 2 / (t + 1 - known)
        total, count = total + whole * pixel, count + whole
    found = masked_loss(prediction, target, valid, "accumulation", None, known)
    assert float(found) == pytest.approx(total / count, rel=1e-6)


@pytest.mark.parametrize("kind", ["l2", "l1+l2"])
def test_masked_pixels_take_no_part_in_loss_or_gradient(kind: str) -> None:
    prediction, target, valid = _fields()
    prediction.requires_grad_()
    loss = masked_loss(prediction, target, valid, kind)
    (gradient,) = torch.autograd.grad(loss, prediction)
    changed = torch.where(valid, target, 1e6)
    other = masked_loss(prediction, changed, valid, kind)
    assert torch.equal(other, loss)
    assert torch.equal(torch.autograd.grad(other, prediction)[0], gradient)
    assert (gradient[~valid] == 0).all()
    assert (gradient[valid] != 0).all()


def test_a_batch_without_a_valid_pixel_has_loss_0_and_no_gradient() -> None:
    prediction, target, valid = _fields()
    prediction.requires_grad_()
    loss = masked_loss(prediction, target, torch.zeros_like(valid), "l2")
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, prediction)[0] == 0).all()


def test_the_loss_is_summed_in_float32_whatever_the_precision_of_training() -> None:
    prediction, target, valid = (
        t.expand(64, 5, 1, 6, 7) for t in (torch.ones(1), torch.zeros(1), torch.ones(1).bool())
    )
    loss = masked_loss(prediction.bfloat16(), target.bfloat16(), valid, "l2")
    assert loss.dtype == torch.float32
    assert float(loss) == 1  # bfloat16 stops counting at 256


def test_balanced_lead_times_make_persistence_equally_wrong_at_each() -> None:
    _, target, valid = _fields(1)
    target, history = target * torch.tensor([1.0, 1, 1, 3, 9]).view(1, -1, 1, 1, 1), 3
    weight = lead_weight(target, valid, history)
    assert weight.shape == (1, 2, 1, 1, 1)
    error = [
        float((target[:, t] - target[:, history - 1])[valid[:, t]].square().mean()) * float(weight[0, t - history])
        for t in (3, 4)
    ]
    assert error[0] == pytest.approx(error[1], rel=1e-5)

    # Their mean stays what it was.
    bare = [float((target[:, t] - target[:, history - 1])[valid[:, t]].square().mean()) for t in (3, 4)]
    assert np.mean(error) == pytest.approx(np.mean(bare), rel=1e-5)
    # A lead time without change, or without a valid pixel, has a finite weight.
    target[:, 3] = target[:, 2]
    valid[:, 4] = False
    assert torch.isfinite(lead_weight(target, valid, history)).all()


@pytest.mark.parametrize("kind", ["l2", "l1+l2", "accumulation"])
def test_balanced_lead_times_are_those_of_the_loss_that_is_trained(kind: str) -> None:
    _, target, valid = _fields(1)
    weight, history = lead_weight(target, valid, 2, kind), 2  # type: ignore[arg-type]
    still = target[:, 1:2].expand_as(target[:, 2:])
    error, seen = losses(still, target[:, history:], valid[:, history:], kind)  # type: ignore[arg-type]
    by_lead = (error * weight).sum(dim=(0, 2, 3, 4)) / seen.sum(dim=(0, 2, 3, 4))
    torch.testing.assert_close(by_lead, by_lead[:1].expand_as(by_lead))


@given(st.integers(1, 5000))
def test_one_cycle_rises_falls_and_stays_above_zero(max_steps: int) -> None:
    factors = [learning_rate_factor(s, max_steps, "one-cycle") for s in range(max_steps)]
    top = int(np.argmax(factors))
    assert min(factors) > 0
    assert max(factors) <= 1
    assert top <= math.ceil(0.1 * max_steps) + 1
    assert all(np.diff(factors[: top + 1]) >= 0)
    assert all(np.diff(factors[top:]) <= 0)


def test_one_cycle_ends_at_a_thousandth_and_a_constant_rate_is_constant() -> None:
    assert learning_rate_factor(1000, 1000, "one-cycle") == pytest.approx(1e-3)
    assert {learning_rate_factor(s, 10, "constant") for s in range(20)} == {1.0}


def test_the_papers_sampling_reaches_zero_at_50_000() -> None:
    assert truth_probability(0, 1.0, 2e-5) == 1
    assert truth_probability(25_000, 1.0, 2e-5) == pytest.approx(0.5)
    assert truth_probability(49_999, 1.0, 2e-5) > 0
    assert truth_probability(50_001, 1.0, 2e-5) == 0


@given(st.integers(0, 9), st.integers(0, 10**6), st.floats(0.01, 1))
def test_a_mask_is_a_function_of_seed_and_step(seed: int, step: int, probability: float) -> None:
    one, other = (truth_mask(seed, step, 8, 5, probability) for _ in range(2))
    assert one is not None
    assert one.shape == (8, 4)
    np.testing.assert_array_equal(one, other)  # type: ignore[arg-type]


def test_masks_hold_true_frames_at_the_probability_asked_for() -> None:
    drawn = np.stack([truth_mask(0, s, 8, 6, 0.3) for s in range(500)])  # type: ignore[misc]
    # 20,000 draws: one standard deviation is 0.0032, and the seed is fixed.
    assert abs(drawn.mean() - 0.3) < 0.013
    assert truth_mask(0, 0, 8, 6, 0.0) is None
    assert truth_mask(0, 0, 8, 1, 0.5) is None
    assert truth_mask(0, 0, 8, 6, 1.0).all()  # type: ignore[union-attr]
