"""What a network in Lagrangian coordinates knows of a window: its values in a scale of their own, and what it reads."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sa_nowcast.models.candidates import aligned_frames, moving_maps, standing_maps, trials
from sa_nowcast.models.motion import blur, optical_flow

_LOOKED_AT: Final = 2**16  # values, at most, from which the bound is found
_TINY: Final = 1e-6  # of the standard deviation, that no scale is below
_BOUNDED: Final = 0.01  # share of pixels at the minimum from which on it is taken for a bound


class Window(NamedTuple):
    """What is known of a batch of windows, whose values have unit variance; h and w count patches."""

    aligned: Tensor
    """(B, T, H, W): the frames as the flow brings them to the time of the last."""
    plain: Tensor
    """(B, T, H, W): the frames as they are."""
    fine: Tensor
    """(B, FINE, H, W): what moves and has details; see `moving_maps`."""
    wide: Tensor
    """(B, wide, h, w): what moves and has none."""
    standing: Tensor
    """(B, STANDING, H, W): what stays; see `standing_maps`."""
    mean: Tensor
    """(B, 1, 1): the mean of all values."""
    change: Tensor
    """(B, 1, 1): root mean square of the changes against the last frame."""
    local: Tensor
    """(B, h, w): the same around each patch, in Lagrangian coordinates."""
    scalars: Tensor
    """(B, h, w, POSITION_SCALARS): what each position is told besides."""
    speed: Tensor
    """(B, 1): root mean square of the motion, in pixels per step, of what there is above the least value."""
    products: Tensor
    """(B, TRIED, CANDIDATES, CANDIDATES): mean products of the errors of candidates; see `trials`."""


class Scaled(NamedTuple):
    """Windows (B, T, H, W) with unit variance, and what they were, (B, 1, 1) each; forecasts are within the bounds."""

    values: Tensor
    origin: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    bounded: Tensor
    """(B,) of bool: whether many values are at the least one, which is then the origin."""


def scaled(x: Tensor) -> Scaled:
    """Return windows (B, T, H, W) with unit variance.

    The origin is the mean, or the least value where many pixels have that: nothing then stays exactly nothing, and no
    forecast is below it.
    """
    low, high, mean = x.amin((1, 2, 3)), x.amax((1, 2, 3)), x.mean((1, 2, 3))
    flat = x.flatten(1)
    # A radar's noise may lie below the value that means nothing.
    floor = flat[:, :: flat.shape[1] // _LOOKED_AT + 1].quantile(_BOUNDED, 1, interpolation="lower")
    low = torch.where((flat == floor[:, None]).float().mean(1) >= _BOUNDED, floor, low)
    bounded = (flat == low[:, None]).float().mean(1) >= _BOUNDED
    room = 0.5 * (high - low)
    origin = torch.where(bounded, low, mean).view(-1, 1, 1)
    scale = torch.maximum(x.std((1, 2, 3)), 1e-6 * mean.abs() + 1e-30).view(-1, 1, 1)
    low = torch.where(bounded, low, low - room).view(-1, 1, 1)
    return Scaled((x - origin[:, None]) / scale[:, None], origin, scale, low, (high + room).view(-1, 1, 1), bounded)


def cut(window: Window, tiles: list[tuple[slice, slice]], patch: int) -> Window:
    """Return tiles, whose rows and columns are those of patches, as so many windows one after the other.

    Of what the core reads alone.
    """

    def part_of(x: Tensor, patch: int, dim: int) -> Tensor:
        parts = []
        for tile in tiles:
            part = x
            for along, span in zip((dim, dim + 1), tile, strict=True):
                part = part.narrow(along, span.start * patch, (span.stop - span.start) * patch)
            parts.append(part)
        return torch.cat(parts)

    def repeated(x: Tensor) -> Tensor:
        return x.repeat(len(tiles), 1, 1)

    return window._replace(
        aligned=part_of(window.aligned, patch, 2),
        plain=part_of(window.plain, patch, 2),
        mean=repeated(window.mean),
        change=repeated(window.change),
        scalars=part_of(window.scalars, 1, 1),
    )


def window_of(x: Tensor, patch: int) -> tuple[Window, Tensor]:
    """Return what is known of frames (B, T, H, W) of unit variance, whose sides are whole patches, and their flow."""
    B, T, H, W = x.shape
    mean = x.mean((1, 2, 3)).view(-1, 1, 1)
    flow = optical_flow(x) if T > 1 else x.new_zeros(B, 2, H, W)
    tried, kept, products = trials(x, mean, patch, flow)
    aligned = aligned_frames(x, flow)
    fine, wide = moving_maps(aligned, x, patch)
    change = (x[:, :-1] - x[:, -1:]).square().mean((1, 2, 3)).sqrt().view(-1, 1, 1) if T > 1 else 0 * mean
    moved = 0 * x[:, -1]
    for t in range(T - 1):
        moved += (aligned[:, t] - x[:, -1]).square() / (T - 1)
    local = (blur(F.avg_pool2d(moved, patch), 4.0 / patch) + _TINY**2).sqrt()
    change = change + _TINY
    low = x.amin((1, 2, 3), keepdim=True)
    per_window = torch.cat(
        [
            (moved.mean((1, 2), keepdim=True).sqrt() + _TINY).log() - change.log(),
            change.clamp(1e-4, 10).log(),
            (x == low).float().mean((1, 2, 3)).view(-1, 1, 1),
        ],
        2,
    )
    near = F.avg_pool2d(flow.norm(dim=1, keepdim=True), patch)[:, 0].log1p()
    h, w = near.shape[-2:]
    scalars = [per_window[:, :, None].expand(B, h, w, 3), near[..., None], tried]
    scalars.append(kept[:, None, None].expand(B, h, w, kept.shape[1]))
    told = torch.cat(scalars, -1)
    above = x[:, -1] - low[:, 0]
    speed = ((above * flow.square().sum(1)).sum((1, 2)) / (above.sum((1, 2)) + 1e-9)).sqrt()[:, None]
    return Window(aligned, x, fine, wide, standing_maps(x), mean, change, local, told, speed, products), flow
