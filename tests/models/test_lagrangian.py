"""The network in Lagrangian coordinates."""

from __future__ import annotations

import pytest
import torch
from test_motion import shifting
from torch import Tensor

from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models import build, candidates, estimate_memory, lagrangian, motion
from sa_nowcast.models.estimate import fitting_tile
from sa_nowcast.models.inspection import attention_map
from sa_nowcast.models.lagrangian import CORE_TILE, LagrangianNetwork
from sa_nowcast.models.live import _Live
from sa_nowcast.models.rollout import Network
from sa_nowcast.models.window import scaled, window_of

OPTIONS = {"hidden": (8, 8), "kernel": 3, "patch": 4, "score_scale": "sqrt", "output": "moving"}


def network(channels: int = 1, seed: int = 0, trained: bool = True, **options: object) -> Network:
    """Return a network; as if trained, its head is not what it starts from."""
    torch.manual_seed(seed)
    net = build("sa-convlstm", **OPTIONS | options, channels=channels)
    if trained:
        with torch.no_grad():
            for name, weight in net.named_parameters():
                if name.startswith("head"):
                    weight += 0.1 * torch.randn_like(weight)
    return net.eval()


def history(*shape: int, seed: int = 0) -> Tensor:
    """Return (B, T, C, H, W) smooth fields that move."""
    batch, frames, channels, height, width = shape
    size = max(height, width)
    maps = [
        shifting(1, 2, size if size % 2 == 0 else size + 1, frames, seed + i)[0, :, :height, :width]
        for i in range(batch * channels)
    ]
    return torch.stack(maps).view(batch, channels, frames, height, width).transpose(1, 2)


def test_build_gives_it_for_its_output() -> None:
    assert isinstance(network(), LagrangianNetwork)
    assert not isinstance(build("sa-convlstm", **OPTIONS | {"output": "change"}), LagrangianNetwork)


@torch.inference_mode()
def test_an_untrained_network_moves_the_last_frame() -> None:
    x = shifting(2, -1, 96, 8)[:, :, None]
    forecast = network(trained=False)(x[:, :4], 4)[..., 24:-24, 24:-24]
    truth, last = x[:, 4:, :, 24:-24, 24:-24], x[:, 3:4, :, 24:-24, 24:-24]
    assert (forecast - truth).square().mean() < 0.05 * (last - truth).square().mean()


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (16, 8), (33, 49), (80, 80), (101, 130)])
def test_any_grid_is_forecast(size: tuple[int, int]) -> None:
    forecast = network()(torch.randn(2, 4, 1, *size), 3)
    assert forecast.shape == (2, 3, 1, *size)
    assert torch.isfinite(forecast).all()


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_any_history_is_read(frames: int) -> None:
    assert network()(history(1, frames, 1, 40, 40), 2).shape == (1, 2, 1, 40, 40)


@torch.inference_mode()
@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (10.0, 0.0), (1.0, 273.0), (250.0, -40.0)])
def test_the_forecast_follows_the_units(scale: float, offset: float) -> None:
    net, x = network().double(), history(1, 4, 1, 48, 48).double()
    for module in net.modules():
        module.double()
    moved = net(scale * x + offset, 3)
    assert (moved - (scale * net(x, 3) + offset)).abs().max() < 2e-3 * scale * float(x.std())


@torch.inference_mode()
def test_channels_are_forecast_alone_and_samples_too() -> None:
    x = history(2, 4, 2, 40, 44)
    both = network(2)(x, 3)
    torch.testing.assert_close(both[:, :, 1:], network(1)(x[:, :, 1:], 3), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both[1:], network(2)(x[1:], 3), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("value", [0.0, -5.0, 1e6])
def test_a_constant_stays_what_it_is(value: float) -> None:
    x = torch.full((1, 4, 1, 40, 40), value)
    torch.testing.assert_close(network()(x, 3), x[:, :3])


@torch.inference_mode()
def test_where_many_pixels_lie_at_the_least_value_nothing_falls_below_it() -> None:
    x = (history(1, 4, 1, 64, 64) - 1).clamp(min=0) + 2
    assert float(network(seed=3)(x, 6).min()) >= 2


@torch.inference_mode()
def test_tiles_of_a_large_grid_leave_no_seam() -> None:
    size = 4 * CORE_TILE * 2
    x = history(1, 4, 1, size, size)
    forecast = network()(x, 2)[0, -1, 0]
    steps = (forecast.diff(dim=1)).abs().mean(0)
    inner = steps[16:-16]
    # No column differs from its neighbour by far more than columns do elsewhere.
    assert inner.max() < 2.5 * inner.median()


@pytest.mark.parametrize("size", [(56, 72), (132, 148)])
def test_a_forecast_strip_by_strip_without_a_graph_is_that_of_training(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = network(), history(2, 4, 1, *size)
    kept = net(x, 4)
    assert kept.requires_grad
    monkeypatch.setattr(motion, "STRIP", 9 * size[1])
    monkeypatch.setattr(motion, "_BLOCK", 16)
    monkeypatch.setattr(lagrangian, "WINDOWS_AT_ONCE", 6)
    with torch.inference_mode():
        torch.testing.assert_close(net(x, 4), kept.detach(), atol=1e-3 * float(x.std()), rtol=0)


@torch.inference_mode()
def test_a_lead_time_is_forecast_alike_however_many_are_asked_for() -> None:
    net, x = network(), history(1, 4, 1, 56, 72)
    torch.testing.assert_close(net(x, 12)[:, :3], net(x, 3))


@torch.inference_mode()
def test_what_comes_in_across_a_dry_edge_is_dry() -> None:
    """Rain that moves away from the left edge leaves nothing behind it, however much of the window is wet."""
    rain = shifting(0, 4, 160, 4)[:, :, None].clamp(min=0)
    for t in range(4):
        rain[:, t, ..., : 64 + 4 * t] = 0
    forecast = network(seed=1)(rain, 8)[0, -1, 0]
    assert float(rain.mean()) > 0.05
    assert float(forecast[:, :16].max()) == 0
    assert float(forecast.max()) > 0


@torch.inference_mode()
@pytest.mark.parametrize("size", [96, 33])
def test_inflow_lies_behind_the_edges_that_the_motion_leaves(size: int) -> None:
    x = history(2, 4, 1, size, size)  # by one row and two columns a step
    beyond = network().inflow(x, 4)
    assert beyond.shape == (2, 4, 1, size, size)
    assert beyond.dtype == torch.bool
    assert beyond[:, 3, 0, :2].all()
    assert beyond[:, 3, 0, :, :5].all()
    assert not beyond[:, :, 0, 10:, 14:].any()


def test_a_band_counts_as_much_as_it_is_correlated_with_itself_along_the_motion() -> None:
    """White noise beside a pattern that moves: the noise does not last, the pattern does."""
    moves = shifting(0, 1, 128, 4)  # by no more than a pixel: the motion stays certain
    noise = torch.randn(moves.shape, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 1.0):
        x = moves / moves.std() + share * noise
        x = (x - x.mean()) / x.std()
        net = network(trained=False)
        window, _ = window_of(x, net.config.patch)
        kept = window.scalars[0, 0, 0, -candidates.LAGS * candidates.BANDS :].view(candidates.LAGS, -1).exp()
        weights, error = (told.detach()[0, 0, 0].exp() for told in net._by_correlation(window, 11))
        assert float(weights.sum()) == pytest.approx(1, abs=0.05)
        if share:
            assert float(kept[:, 0].max()) < 0.1
            assert float(weights[0]) < 0.1
            assert 0.4 < float(error) < 1  # the variance of the noise is 0.5
        else:
            assert float(kept[:, :6].min()) > 0.9
            assert float(weights[0]) > 0.6
            assert float(error) < 0.2
        assert float(kept[:, 4].min()) > 0.9  # of 8 to 16 pixels


@torch.inference_mode()
def test_a_fast_motion_loses_its_fine_scales_with_lead_time_and_not_its_wide_ones() -> None:
    kept = {}
    for columns in (1, 5):
        net = network(trained=False)
        window, _ = window_of(scaled(shifting(0, columns, 160, 4)).values, net.config.patch)
        assert float(window.speed) == pytest.approx(columns, rel=0.25)
        for step in (0, 11):
            kept[columns, step] = net._kept(window.scalars[0, 0, 0], window.speed[0], step)
    assert torch.all(kept[5, 0] > kept[1, 0] - 0.1)  # within the trials nothing is lost for it
    assert float(kept[1, 11][0]) > 0.9
    assert float(kept[5, 11][0]) < 1e-3
    assert float(kept[5, 11][5]) > 0.8  # of 16 to 32 pixels


@torch.inference_mode()
def test_what_stands_counts_where_mixtures_of_it_would_have_forecast_the_last_frame() -> None:
    """A pattern that stands under noise, and one that moves: how much stands is told from the history."""
    noise = 0.3 * torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(0))
    share = {}
    for columns in (0, 3):
        net = network(trained=False)
        window, _ = window_of(scaled(shifting(0, columns, 128, 4) + noise).values, net.config.patch)
        read = net.reads(torch.cat([net._features(window), window.scalars], -1))
        stands = net._stands(window, read)
        assert bool(torch.isfinite(stands).all())
        *_, standing = net._weights(window, read, stands, 5)
        share[columns] = float(standing[:, :-1].sum(1).mean())
    assert share[3] < 0.2
    assert share[0] > 3 * share[3]


@pytest.mark.parametrize("chosen", [candidates.FINE - 1, 0, candidates.MOVING])
def test_a_candidate_that_has_all_the_weight_leaves_forecast_and_gradients_finite(chosen: int) -> None:
    net = network(trained=False)
    with torch.no_grad():
        net.head.bias[:-1] -= 40
        net.head.bias[chosen] += 80
    forecast = net(history(1, 4, 1, 64, 64), 3)
    forecast.square().mean().backward()
    assert bool(torch.isfinite(forecast).all())
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


@torch.inference_mode()
def test_smoothing_reaches_the_mean_of_the_window() -> None:
    net = network(trained=False)
    x = history(1, 4, 1, 96, 96)
    with torch.no_grad():
        net.head.bias[:] = 0
        net.head.bias[candidates.MOVING - 1] = 10
    inner = net(x, 2)[..., 16:-16, 16:-16]
    torch.testing.assert_close(inner, x.mean().expand(inner.shape), atol=1e-3 * float(x.std()), rtol=0)


def test_every_weight_gets_a_gradient_and_known_frames_are_given_back() -> None:
    net = network(trained=False).train()
    x = history(1, 7, 1, 48, 48)
    predicted = net.predict_all(x, 4)
    assert torch.equal(predicted[:, :3], x[:, 1:4])
    (predicted - x[:, 1:]).square().mean().backward()
    lacking = [name for name, weight in net.named_parameters() if weight.grad is None]
    assert all(name.startswith("margins.") for name in lacking), lacking  # which have a loss of their own
    # A few updates make it better than the extrapolation that it starts from.
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (net.predict_all(x, 4) - x[:, 1:]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_its_loss_is_that_of_the_forecast_alone() -> None:
    assert network().first_predicted(4) == 4
    assert build("sa-convlstm", **OPTIONS | {"output": "change"}).first_predicted(4) == 1


def test_what_it_cannot_read_is_refused() -> None:
    net = network()
    with pytest.raises(ModelError, match="hold NaN"):
        net(torch.full((1, 4, 1, 40, 40), torch.nan))
    with pytest.raises(ModelError, match="they have 2 channels"):
        net(torch.zeros(1, 4, 2, 40, 40))
    with pytest.raises(ModelError, match="the network looks at frames that move"):
        attention_map(net, torch.zeros(1, 4, 1, 40, 40), (0, 0))
    with pytest.raises(RecipeError, match="checkpoint_steps: 1, with output: moving"):
        network(checkpoint_steps=1)


@pytest.mark.slow
def test_a_forecast_holds_fewer_than_sixty_maps_of_a_large_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The history three times, all candidates of one lead time, and twelve results."""
    net, side = network(patch=8), 320
    monkeypatch.setattr(motion, "STRIP", 16 * side)  # whose strips and tiles are as small a part of it
    monkeypatch.setattr(lagrangian, "CORE_TILE", 12)
    monkeypatch.setattr(lagrangian, "WINDOWS_AT_ONCE", 1)
    x = history(1, 4, 1, side, side)
    with _Live(net.parameters()) as live, torch.no_grad():
        net(x, 12)
    assert live.peak + 4 * x.numel() < 60 * 4 * side**2


@pytest.mark.parametrize("rows", [1, 5, 8, 21, 64])
def test_means_over_patches_strip_by_strip_are_those_of_the_whole(rows: int) -> None:
    x = history(1, 3, 1, 64, 48)[:, :, 0]
    parts = list(candidates._pooled(iter(x.split(rows, 2)), 8))
    assert torch.equal(torch.cat(parts, 2), torch.nn.functional.avg_pool2d(x, 8))


def test_its_memory_grows_with_grid_and_steps_and_it_needs_no_tiles() -> None:
    config = network().config

    def needed(side: int, steps: int, training: bool) -> int:
        return estimate_memory(config, (side, side), 1, history=4, steps=steps, training=training)

    # What many lead times take comes after what the core takes, and is more only from some number on.
    for training, steps in ((False, 96), (True, 12)):
        assert needed(64, 4, training) < needed(256, 4, training) < needed(256, steps, training)
    assert needed(256, 4, False) < needed(256, 4, True)
    assert fitting_tile(config, (512, 512), 1, history=4, steps=4, available=1) is None
