"""The distribution of a forecast in Lagrangian coordinates, and members that are drawn from it."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from sa_nowcast.models import build
from sa_nowcast.models.candidates import FINE, STANDING, aligned_frames, moving_maps, standing_maps
from sa_nowcast.models.lagrangian import LagrangianNetwork
from sa_nowcast.models.margins import Law, normal_score
from sa_nowcast.models.members import Travelling, _displaced, _unit_displacement, members, quantiles, quantiles_of
from sa_nowcast.models.nearby import Nearby
from sa_nowcast.sources.synthetic_fields import SyntheticFields

NORMAL = NormalDist()


def network() -> LagrangianNetwork:
    torch.manual_seed(0)
    made = build("sa-convlstm", hidden=(8,), kernel=3, patch=8, output="moving")
    assert isinstance(made, LagrangianNetwork)
    with torch.no_grad():
        torch.nn.init.normal_(made.margins.head.weight, std=0.05)
    return made.eval()


def rain(
    size: tuple[int, int] = (64, 72), seed: int = 3, places: tuple[int, ...] = (0, 2, 4, 6, 8, 10)
) -> torch.Tensor:
    """Return rain (1, frames, 1, rows, columns) in patches that move along the rows to these places."""
    rng = np.random.default_rng(seed)
    waves = np.fft.rfft2(rng.standard_normal((96, 96)))
    wave = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.rfftfreq(96)[None])
    field = np.fft.irfft2(waves * np.exp(-((8 * wave) ** 2)), (96, 96))
    field = np.maximum(field / field.std() - 0.3, 0)
    frames = np.stack([np.roll(field, place, 1)[: size[0], : size[1]] for place in places])
    return torch.from_numpy(frames.astype(np.float32))[None, :, None]


UNSURE = (0, 6, 12, 21)
"""Places of rain whose last motion of three is another: the flow becomes 7 pixels a step, where it was 6 before."""


def law_of(x: torch.Tensor, steps: int = 4) -> Law:
    with torch.no_grad():
        (law,) = network().laws(x[:, :4], steps)
    return law


def test_chances_are_probabilities_that_fall_with_the_level() -> None:
    law = law_of(rain())
    assert law.bound == 0.0
    with torch.no_grad():
        for chances in law.chances(torch.tensor([-1.0, 0.0, 0.2, 0.5, 1.0, 50.0])):
            assert chances.shape == (6, 64, 72)
            assert (chances[0] == 1).all()
            assert (chances[-1] < 1e-3).all()
            assert (chances.diff(dim=0) <= 1e-6).all()
            assert (chances >= 0).all()


def test_chances_are_interpolated_between_all_levels_however_few_are_computed() -> None:
    # More than one part of the grid, and rain in some of it alone: other parts need other levels.
    x = rain((96, 96)).repeat(1, 1, 1, 2, 3)[..., :144, :264]
    x[..., 100:] *= 20
    law = law_of(torch.where(torch.arange(264) > 40, x, 0.0), steps=3)
    asked = torch.tensor([0.05, 0.7, 30.0])
    levels = law.levels().double()
    with torch.no_grad():
        everywhere = zip(law.chances(asked), law.nearby(levels.float()), law.mean, strict=True)
        for step, (found, (above, expected), mean) in enumerate(everywhere):
            little = 1e-4 * float(law.frames.max())
            ratio = ((mean + little) / (expected + little)).clamp(0.25, 4)
            wanted = ((mean + (asked[:, None, None] - mean) / (1 - 0.2 / (step + 1))) / ratio).clamp(min=0).double()
            above = above.double()
            above[-1] = 0
            number = torch.searchsorted(levels, wanted).clamp(1, len(levels) - 1)
            low, high = levels[number - 1], levels[number]
            share = torch.where(number > 1, (wanted / low).log() / (high / low).log(), wanted / high).clamp(0, 1)
            written_out = torch.lerp(above.gather(0, number - 1), above.gather(0, number), share)
            torch.testing.assert_close(found.double(), written_out, rtol=0, atol=1e-5)


def test_events_have_the_candidates_of_the_mean_but_for_trends() -> None:
    law = law_of(rain())
    events = Nearby(law, torch.tensor([0.3]))
    moving, standing, wide, overall = events.values
    frames = law.frames[None]
    fine, smooth = moving_maps(aligned_frames(frames, law.flow), frames, law.patch)
    torch.testing.assert_close(moving[:, 0], fine[0, : FINE - 1])
    torch.testing.assert_close(standing[:, 0], standing_maps(frames)[0, : STANDING - 1])
    torch.testing.assert_close(wide, smooth)
    torch.testing.assert_close(overall, frames.mean()[None])


def test_the_mean_of_the_distribution_is_the_mean_forecast() -> None:
    law = law_of(rain())
    drawn = members(law, [np.random.default_rng(k) for k in range(200)])
    expected = law.as_given(law.mean).numpy()
    wet = expected > 0.3
    assert drawn.mean(0)[wet].mean() == pytest.approx(expected[wet].mean(), rel=0.05)


def test_a_field_without_a_bound_has_a_normal_distribution() -> None:
    x = rain() + 5 + torch.randn(1, 6, 1, 64, 72, generator=torch.Generator().manual_seed(1))
    law = law_of(x)
    assert law.bound is None
    levels = torch.tensor([4.5, 5.5])
    with torch.no_grad():
        for step, chances in enumerate(law.chances(levels)):
            mean, width = law.mean[step].numpy(), law.width_at(step).numpy()
            for level, chance in zip(levels.numpy(), chances.numpy(), strict=True):
                for place in ((0, 0), (20, 30), (63, 71)):
                    deviation = (mean[place] - level) / width[place]
                    assert float(chance[place]) == pytest.approx(NORMAL.cdf(float(deviation)), abs=1e-5)


def test_noise_below_the_bound_is_no_bound() -> None:
    x = rain()
    x[0, 2, 0, 5, 5] = -0.4
    assert law_of(x).bound == 0.0


@pytest.mark.parametrize("places", [(0, 2, 4, 6), UNSURE])
def test_members_have_the_chances_of_the_distribution(places: tuple[int, ...]) -> None:
    law = law_of(rain(places=places))
    drawn = members(law, [np.random.default_rng(k) for k in range(400)])
    with torch.no_grad():
        for step, chances in enumerate(law.chances(torch.tensor([0.1, 0.5, 1.0]))):
            seen = np.stack([(drawn[:, step] > level).mean(0) for level in (0.1, 0.5, 1.0)])
            difference = seen - chances.numpy()
            assert abs(difference).max() < 5 * math.sqrt(0.25 / 400)
            assert abs(difference.mean((1, 2))).max() < 0.02


def test_the_error_of_the_motion_is_found_from_what_the_last_frame_changed() -> None:
    # The flow changes from 6 to 19 / 3 along one of two axes: sqrt((3 - 1) / 2) / 3.
    assert law_of(rain((96, 96), places=(0, 6, 12, 19))).motion_error == pytest.approx(1 / 3, rel=0.15)
    assert law_of(rain((96, 96))).motion_error < 0.02


@pytest.mark.parametrize("x", [torch.zeros(1, 4, 1, 64, 64), rain()[:, :2], rain(places=(0, 0, 0, 0))])
def test_without_a_motion_it_has_no_error(x: torch.Tensor) -> None:
    assert law_of(x).motion_error < 1e-3


def test_a_field_without_a_bound_is_not_displaced() -> None:
    x = rain(places=UNSURE) + 5 + 0.1 * torch.randn(1, 4, 1, 64, 72, generator=torch.Generator().manual_seed(1))
    assert law_of(x).motion_error == 0


def test_displacements_are_smooth_and_have_unit_variance() -> None:
    drawn = np.stack([_unit_displacement((200, 120), np.random.default_rng(k)).numpy() for k in range(200)])
    assert drawn.shape == (200, 2, 25, 15)
    assert drawn.var() == pytest.approx(1, abs=0.15)
    assert abs((drawn[:, 0] * drawn[:, 1]).mean()) < 0.15  # rows and columns independently
    near, far = ((drawn[..., shift:, :] * drawn[..., : 25 - shift, :]).mean() for shift in (1, 24))
    assert near == pytest.approx(math.exp(-(8**2) / (4 * 32**2)), abs=0.15)
    assert abs(far) < 0.3


def test_a_displaced_map_is_moved_and_has_the_edge_beyond_the_edge() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    by = np.stack([np.full((3, 4), 1.0), np.full((3, 4), -2.2)])
    np.testing.assert_array_equal(_displaced(values, by), [[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]])


def test_an_error_of_the_motion_counts_ever_more() -> None:
    law = law_of(rain((96, 96), places=UNSURE))
    variances = []
    for error in (law.motion_error, 0.0):
        vars(law)["motion_error"] = error
        drawn = members(law, [np.random.default_rng(k) for k in range(60)])
        variances.append(drawn.var(0).mean((1, 2)))
    ratio = variances[0] / variances[1]
    assert ratio[0] > 1
    assert (np.diff(ratio) > 0.002).all()


@pytest.mark.parametrize("places", [(0, 2, 4, 6), UNSURE])
def test_a_member_is_the_same_among_more(places: tuple[int, ...]) -> None:
    law = law_of(rain(places=places))
    few, more = (members(law, [np.random.default_rng([7, k]) for k in range(count)]) for count in (2, 5))
    np.testing.assert_array_equal(few, more[:2])


def test_quantiles_are_exceeded_by_their_chances() -> None:
    law = law_of(rain())
    found = torch.from_numpy(quantiles_of(law, [0.5, 0.9]))
    for step in range(found.shape[1]):
        for place in [divmod(int(i), 72) for i in torch.topk(law.mean[step].flatten(), 40).indices[::10]]:
            for probability, values in zip((0.5, 0.9), found[:, step], strict=True):
                with torch.no_grad():
                    chance = list(law.chances(values[place][None]))[step][0]
                assert values[place] > 0
                assert float(chance[place]) == pytest.approx(1 - probability, abs=2e-3)


def test_small_grids_have_distributions_too() -> None:
    law = law_of(rain((20, 25)))
    drawn = members(law, [np.random.default_rng(0)])
    assert drawn.shape == (1, 4, 20, 25)
    assert np.isfinite(drawn).all()
    assert drawn.max() > 0.1


def test_fields_that_travel_have_unit_variance_and_follow_the_motion() -> None:
    x = rain((64, 64))
    law = law_of(x)
    travelling = Travelling(law)
    draws = np.stack([[f.numpy() for f in travelling.draw(np.random.default_rng(k))] for k in range(150)])
    np.testing.assert_allclose(draws.var((0, 2, 3)), 1, rtol=0.12)
    assert abs(draws.mean((0, 2, 3))).max() < 0.1

    def correlation(shift: int) -> float:
        return float((draws[:, 2, :, 8 : 56 - shift] * draws[:, 3, :, 8 + shift : 56]).mean())

    assert correlation(2) > correlation(0) + 0.02  # rain moves two pixels a step
    assert correlation(2) > correlation(4) + 0.02


def test_the_score_is_that_of_a_written_out_integral() -> None:
    fine, width = np.linspace(-8, 10, 18_001, retstep=True)
    below = np.array([NormalDist(1.0, 0.7).cdf(v) for v in fine])
    for value in (0.2, 1.0, 3.5):
        integral = np.square(below - (fine >= value)).sum() * width
        one, wide, seen = (torch.tensor([v]).double() for v in (1.0, 0.7, value))
        assert float(normal_score(one, wide, seen)) == pytest.approx(integral, abs=1e-3)


def test_quantiles_of_levels_are_interpolated_by_ratio() -> None:
    levels = torch.tensor([0.0, 1.0, 4.0])
    above = torch.tensor([[0.6], [0.4], [0.0]])
    found = quantiles(levels, above, torch.tensor([[0.7], [0.5], [0.2], [0.0]]))
    np.testing.assert_allclose(found[:, 0].numpy(), [0.0, 0.5, 2.0, 4.0], rtol=1e-5)


def test_the_loss_of_the_distribution_trains_the_margins_alone() -> None:
    net = network().train()
    fields = SyntheticFields(64, 4, 3, seed=5)
    x = torch.from_numpy(np.nan_to_num(fields.batch(0, 4)))[:, :, None]
    loss = net.margins_loss(x, torch.ones_like(x, dtype=torch.bool), 4)
    loss.backward()
    assert 0 < float(loss.detach()) < 2
    assert all(p.grad is not None for p in net.margins.parameters())
    own = {id(p) for p in net.margins.parameters()}
    assert all(p.grad is None for p in net.parameters() if id(p) not in own)


def test_pixels_without_truth_do_not_count_in_the_loss() -> None:
    net = network()
    x = rain() + 5 + torch.randn(1, 6, 1, 64, 72, generator=torch.Generator().manual_seed(1))
    valid = torch.ones_like(x, dtype=torch.bool)
    valid[:, 5, :, :, 40:] = False
    other = x.clone()
    other[:, 5, :, :, 40:] = 9.0
    losses = [float(net.margins_loss(part, valid, 4).detach()) for part in (x, other)]
    assert losses[0] == losses[1]
