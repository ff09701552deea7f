"""The optical flow and what is moved along it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sa_nowcast.models import motion
from sa_nowcast.models.motion import (
    bilinear,
    blur,
    inside,
    joined,
    optical_flow,
    places,
    sample,
    separable,
    trajectories,
)


def field(size: int, seed: int = 0, slope: float = 2.5) -> Tensor:
    """Return a smooth random periodic map (size, size)."""
    noise = torch.fft.rfft2(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))
    wave = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
    wave[0, 0] = 1
    return torch.fft.irfft2(noise * wave ** (-slope / 2), s=(size, size))


def shifting(down: int, right: int, size: int = 96, frames: int = 4, seed: int = 0) -> Tensor:
    """Return (1, T, size, size): a field that shifts by whole pixels per frame."""
    wide = field(2 * size, seed)
    frames_of = [torch.roll(wide, (down * t, right * t), (0, 1)) for t in range(frames)]
    return torch.stack(frames_of)[None, :, size // 2 : -size // 2, size // 2 : -size // 2]


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -2), (5, -3), (-9, 7), (12, -10)])
def test_the_flow_is_the_shift_of_a_shifting_field(shift: tuple[int, int]) -> None:
    flow = optical_flow(shifting(*shift))[0, :, 24:-24, 24:-24]
    for found, wanted in zip(flow, shift, strict=True):
        assert (found - wanted).abs().mean() < 0.15


@pytest.mark.parametrize("units", [(1.0, 0.0), (1e-6, 0.0), (3.0, 280.0), (1e5, -4.0)])
def test_the_flow_does_not_depend_on_units(units: tuple[float, float]) -> None:
    x = shifting(3, 2).double()
    torch.testing.assert_close(optical_flow(units[0] * x + units[1]), optical_flow(x), atol=1e-3, rtol=0)


def test_noise_stands_still() -> None:
    x = torch.randn(4, 4, 96, 96, generator=torch.Generator().manual_seed(0))
    assert optical_flow(x).norm(dim=1).mean() < 0.25


def test_a_still_scene_under_noise_stands_still() -> None:
    scene = field(96)
    x = scene + 0.3 * scene.std() * torch.randn(1, 4, 96, 96, generator=torch.Generator().manual_seed(1))
    assert optical_flow(x).norm(dim=1).mean() < 0.05


@pytest.mark.parametrize("value", [0.0, 273.15])
def test_a_field_without_features_does_not_move(value: float) -> None:
    flow = optical_flow(torch.full((2, 4, 40, 52), value))
    assert torch.equal(flow, torch.zeros(2, 2, 40, 52))


def test_two_frames_are_enough_and_one_is_not() -> None:
    assert abs(float(optical_flow(shifting(0, 4, frames=2))[0, 1, 30:60, 30:60].mean()) - 4) < 0.3
    with pytest.raises(ValueError, match="two frames"):
        optical_flow(torch.zeros(1, 1, 8, 8))


def test_trajectories_of_a_uniform_flow_go_straight_back() -> None:
    flow = torch.tensor([1.5, -2.0]).view(1, 2, 1, 1).expand(1, 2, 10, 12)
    for step, at in enumerate(trajectories(flow, 3), 1):
        torch.testing.assert_close(at, places(10, 12, flow) - step * flow)


def test_a_rotation_brings_what_was_there_a_quarter_turn_ago() -> None:
    here = places(65, 65, torch.zeros(1))
    turn = 2 * torch.pi / 4 / 32
    flow = turn * torch.stack([here[:, 1] - 32, -(here[:, 0] - 32)], 1)
    at = trajectories(flow, 32)[-1]
    # What arrives right of the middle was above or below it, at nearly the same distance: Euler's steps spiral.
    row, column = at[0, :, 32, 52]
    assert abs(float(column) - 32) < 2
    assert abs(abs(float(row) - 32) - 20) < 2


def test_sampling_at_the_pixels_gives_the_map_and_beyond_the_edge_lies_the_edge() -> None:
    x = field(16).view(1, 1, 16, 16)
    here = places(16, 16, x)
    torch.testing.assert_close(sample(x, here), x)
    torch.testing.assert_close(sample(x, here - 100), x[..., :1, :1].expand_as(x))
    assert torch.equal(inside(here, 16, 16), torch.ones(1, 1, 16, 16))
    assert float(inside(here - 100, 16, 16).max()) == 0


@pytest.mark.parametrize("sigma", [0.7, 3.0, 8.0])
def test_a_blur_keeps_constants_and_lowers_the_variance(sigma: float) -> None:
    constant = torch.full((2, 20, 33), 7.0)
    torch.testing.assert_close(blur(constant, sigma), constant)
    x = field(40)[None]
    assert blur(x, sigma).var() < x.var()


@pytest.mark.parametrize(("sigma", "pool"), [(0.7, 1), (3.0, 1), (3.0, 4), (30.0, 1)])
def test_a_large_map_is_blurred_by_blocks_as_it_is_in_one_piece(
    sigma: float, pool: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = field(300)[None, :280, :].contiguous()
    by_blocks = blur(x, sigma, pool)
    monkeypatch.setattr(motion, "_BLOCK", 300)
    whole = blur(x, sigma, pool)
    assert by_blocks.shape == (1, 280 // pool, 300 // pool)
    torch.testing.assert_close(by_blocks, whole, atol=1e-5, rtol=1e-5)
    if pool > 1:
        torch.testing.assert_close(whole, torch.nn.functional.avg_pool2d(blur(x, sigma), pool), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [40, 300])
def test_a_blur_over_its_maps_is_that_beside_them(size: int) -> None:
    x = torch.stack([field(size), field(size, seed=1)])[None]
    beside, over = blur(x, 3.0), x.clone()
    assert torch.equal(blur(over, 3.0, over=True), beside)
    turned = x.mT.clone().mT  # whose values do not lie row by row
    torch.testing.assert_close(blur(turned, 3.0, over=True), beside)


@pytest.mark.parametrize("rows", [1, 7, 20])
def test_strips_are_joined_to_the_map_that_they_were_cut_from(rows: int) -> None:
    x = torch.stack([field(20), field(20, seed=1)])[None]
    assert torch.equal(joined(iter(x.split(rows, 2)), 20), x)
    x.requires_grad_()
    joined(iter(x.split(rows, 2)), 20).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * x)


def test_a_large_map_has_the_gradient_of_a_blur() -> None:
    x, weight = field(200)[None].requires_grad_(), field(200, seed=1)[None]
    (blur(x, 3.0) * weight).sum().backward()
    # A Gaussian weighs far from the edge as it is weighed.
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:, 20:-20, 20:-20], blur(weight, 3.0)[:, 20:-20, 20:-20], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 3), (20, 33), (70, 41)])
def test_finer_maps_are_those_of_torch(size: tuple[int, int]) -> None:
    x = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    fine = separable(x, bilinear(size[0], 4), bilinear(size[1], 4))
    wanted = torch.nn.functional.interpolate(x[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(fine, wanted, atol=1e-5, rtol=1e-5)


def test_a_flow_strip_by_strip_is_that_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    x = shifting(3, -2, 160)
    whole = optical_flow(x)
    monkeypatch.setattr(motion, "STRIP", 160 * 7)
    monkeypatch.setattr(motion, "_BLOCK", 16)
    torch.testing.assert_close(optical_flow(x), whole, atol=1e-3, rtol=1e-3)
