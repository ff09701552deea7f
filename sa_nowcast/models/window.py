"""What a network in Lagrangian coordinates knows of a window: its values in a scale of their own, and what it reads."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

_LOOKED_AT: Final = 2**16  # values, at most, from which the bound is found
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
