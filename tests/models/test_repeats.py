"""Values older than their frame: the motion is found from frames that differ, and values are moved by their age."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import sa_nowcast
from sa_nowcast.models import lagrangian
from sa_nowcast.models.motion import blur, optical_flow
from sa_nowcast.models.repeats import Regular, without_gaps, without_repeats
from sa_nowcast.scaling import ChannelScaling, Scaling
from sa_nowcast.stream import prepare

VELOCITY = (1.5, -2.0)  # rows and columns per step
SIDE = 128
SAME = Scaling((ChannelScaling("affine", "mm h-1", 0.0, 1.0),))


def showers(times: list[float], seed: int = 0) -> Tensor:
    """Return frames of a field with a bound that moves at `VELOCITY`, (1, T, SIDE, SIDE)."""
    generator = torch.Generator().manual_seed(seed)
    periodic = blur(torch.randn(1, 1, 3 * SIDE, 3 * SIDE, generator=generator), 4.0)
    periodic = (periodic / periodic.std()).clamp(min=0)
    rows, columns = torch.meshgrid(torch.arange(SIDE) + SIDE, torch.arange(SIDE) + SIDE, indexing="ij")
    frames = []
    for t in times:
        at = torch.stack([(columns - VELOCITY[1] * t), (rows - VELOCITY[0] * t)], -1) / (3 * SIDE - 1) * 2 - 1
        frames.append(torch.nn.functional.grid_sample(periodic, at[None].float(), align_corners=True)[0, 0])
    return torch.stack(frames)[None]


def test_frames_that_all_differ_are_returned_as_they_are() -> None:
    x = showers([0, 1, 2, 3])
    assert without_repeats(x).frames is x


@pytest.mark.parametrize("scans", [[0, 0, 2, 2], [0, 1, 1, 3], [0, 0, 2, 2, 4, 4], [0, 0, 0, 3, 3, 3]])
def test_the_motion_of_what_is_returned_is_that_of_the_scans(scans: list[float]) -> None:
    x = showers(scans)
    truth = torch.tensor(VELOCITY).view(2, 1, 1)
    inner = (slice(None), slice(24, -24), slice(24, -24))
    found = optical_flow(without_repeats(x).frames)[0][inner]
    assert float((found - truth).norm(dim=0).mean()) < 0.2 * float(truth.norm())


def test_without_it_repeated_frames_say_that_nothing_moves() -> None:
    assert float(optical_flow(showers([0, 0, 2, 2])).norm(dim=1).mean()) < 0.6 * float(torch.tensor(VELOCITY).norm())


def test_values_are_moved_by_their_age_less_the_usual_one() -> None:
    """Scans every second step are half a step late on average."""
    inner = (..., slice(24, -24), slice(24, -24))
    found, exact = without_repeats(showers([0, 0, 2, 2])).frames, showers([-0.5, 0.5, 1.5, 2.5])
    assert float((found - exact)[inner].square().mean()) < 0.03 * float(exact.var())


@pytest.mark.parametrize("scans", [[0, 0, 2, 2], [0, 1, 2, 3]])
def test_what_a_forecast_needs_no_more_is_let_go(scans: list[float]) -> None:
    given = without_repeats(showers(scans))
    left, forecast = given.without_frames(), torch.zeros(1, 3, SIDE, SIDE)
    assert left.frames.numel() == 0
    assert left.last.untyped_storage().nbytes() == 4 * left.last.numel()
    assert torch.equal(left.expected(forecast), given.expected(forecast))


def test_a_scan_that_lasts_two_steps_is_half_likely_to_be_there_after_one_more() -> None:
    found = without_repeats(showers([0, 0, 2, 2]))
    forecast = found.expected(torch.zeros(1, 3, SIDE, SIDE))
    inner = (slice(None), slice(24, -24), slice(24, -24))
    for step in range(3):
        torch.testing.assert_close(forecast[0][inner][step], 0.5 ** (step + 1) * found.last[0, 0, 24:-24, 24:-24])


def test_where_nothing_repeats_values_stay_to_the_last_bit() -> None:
    moving, repeating = showers([0, 1, 2, 3]), showers([0, 0, 2, 2], seed=1)
    x = torch.cat([moving.repeat(1, 1, 2, 1), repeating.repeat(1, 1, 2, 1)], 3)  # left and right
    found = without_repeats(x).frames
    assert torch.equal(found[..., :48], x[..., :48])
    assert not torch.equal(found[..., -48:], x[..., -48:])


@pytest.mark.parametrize("size", [(16, 8), (32, 32)])
def test_small_grids_are_left_alone(size: tuple[int, int]) -> None:
    counts = torch.randint(0, 2, (1, 1, *size)).float().repeat(1, 4, 1, 1)
    counts[:, 2:] = torch.randint(0, 9, (1, 1, *size)).float()
    assert without_repeats(counts).frames is counts


def test_a_film_of_a_still_scene_is_left_alone() -> None:
    film = torch.rand(1, 1, 96, 96).repeat(1, 5, 1, 1)
    for t in range(5):
        film[:, t, 40:52, 10 + 8 * t : 20 + 8 * t] = 1.0
    assert without_repeats(film).frames is film


def test_rain_of_few_classes_that_moves_slowly_is_left_alone() -> None:
    x = (2 * showers([0, 0.1, 0.2, 0.3])).round()
    assert without_repeats(x).frames is x


def test_frames_without_values_repeat_nothing() -> None:
    x = showers([0, 0, 2, 2]).to("meta")
    assert without_repeats(x).frames is x


def test_windows_of_a_batch_do_not_change_each_other() -> None:
    one, other = showers([0, 0, 2, 2]), showers([0, 1, 2, 3], seed=1)
    both = without_repeats(torch.cat([one, other])).frames
    torch.testing.assert_close(both[:1], without_repeats(one).frames)
    assert torch.equal(both[1:], other)


def test_the_sample_whose_frames_repeat_is_forecast_better(monkeypatch: pytest.MonkeyPatch) -> None:
    rain = sa_nowcast.open_sample("mrms")["precip_rate"].isel(latitude=slice(256, 512)).load()
    init_times = rain.time.values[[8, 20]]

    def errors() -> np.ndarray:
        archive = rain.sa_nowcast.hindcast(12, init_times=init_times).compute()
        return np.stack(
            [((one - rain.sel(time=one.valid_time)) ** 2).mean(["latitude", "longitude"]) for one in archive]
        )

    now = errors()
    monkeypatch.setattr(lagrangian, "without_repeats", lambda x: Regular(x, x[:, -1:], None))
    assert now.mean() < 0.92 * errors().mean()


def filled(x: Tensor, lost: list[tuple[int, slice]]) -> tuple[Tensor, Tensor]:
    """Return frames (1, T, 1, H, W) as a model is given them where columns of some were not observed, and what was."""
    with_gaps = x[:, :, None].clone()
    for t, columns in lost:
        with_gaps[:, t, :, :, columns] = torch.nan
    return prepare(with_gaps, SAME, x.shape[1])[:2]


@pytest.mark.parametrize("lost", [[1], [2], [3], [0], [2, 3], [0, 1]])
def test_what_fills_an_area_is_moved_to_the_time_of_its_frame(lost: list[int]) -> None:
    truth, area = showers([0, 1, 2, 3]), slice(48, 104)
    x, observed = filled(truth, [(t, area) for t in lost])
    found = without_gaps(x, observed)
    inner = (0, lost, 0, slice(24, -24), slice(56, 96))
    as_filled = float((x[:, :, 0][0, lost][..., 24:-24, 56:96] - truth[0, lost][..., 24:-24, 56:96]).square().mean())
    assert float((found[inner] - truth[0, lost][..., 24:-24, 56:96]).square().mean()) < 0.35 * as_filled
    assert torch.equal(found[..., :40], x[..., :40])
    assert torch.equal(found[..., 112:], x[..., 112:])


def test_frames_without_gaps_are_returned_as_they_are() -> None:
    x, observed = filled(showers([0, 1, 2, 3]), [])
    assert without_gaps(x, observed) is x


def test_single_pixels_and_what_no_frame_has_keep_what_fills_them() -> None:
    x, observed = filled(showers([0, 1, 2, 3]), [(2, slice(20, 22)), *((t, slice(60, 110)) for t in range(4))])
    assert without_gaps(x, observed) is x


def test_areas_are_filled_by_window_and_channel() -> None:
    one, other = (filled(showers([0, 1, 2, 3], seed), [(2, slice(48, 104))]) for seed in (0, 1))
    complete, all_seen = filled(showers([0, 1, 2, 3]), [])
    rows = [torch.cat([one[0], complete], 2), torch.cat([complete, other[0]], 2)]
    seen = [torch.cat([one[1], all_seen], 2), torch.cat([all_seen, other[1]], 2)]
    found = without_gaps(torch.cat(rows), torch.cat(seen))
    torch.testing.assert_close(found[:1, :, :1], without_gaps(*one))
    torch.testing.assert_close(found[1:, :, 1:], without_gaps(*other))
    assert torch.equal(found[0, :, 1], complete[0, :, 0])
    assert torch.equal(found[1, :, 0], complete[0, :, 0])
