"""The distribution that a forecast in Lagrangian coordinates has at each pixel and lead time: its margins.

Where a field has a bound that many of its values are at, such as rain, the distribution is one of values that were
observed nearby: that a value is above a level is forecast as the field itself is, by the same candidates, from the
frames of which pixels are above it. Nothing then is expected that the history did not hold, and a dry place stays dry
as far as its neighbourhood is. This distribution is moved to the mean forecast, and made narrower or wider about it.
Any other field has a normal distribution about the mean forecast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.candidates import (
    CANDIDATES,
    EDGE,
    FINE,
    STANDING,
    aligned_frames,
    finer,
    moving_maps,
    standing_maps,
)
from sa_nowcast.models.motion import carried, inside, sample

LEVELS: Final = 20
"""Values at which the distribution of a bounded field is known; between them it is interpolated."""

EVERY: Final = 4
"""Rows and columns between the pixels whose distributions are scored in training: neighbours say much the same."""

_WIDTH: Final = 48
_SHARP: Final = 5.0  # as of the weights of the mean
_NARROW: Final = 0.2  # share by which the distribution of values nearby is narrower at first, at lead time 1
_MOST: Final = 4.0  # times: how much the mean forecast may differ from that of values nearby
_WIDENS: Final = 0.25  # logarithm by which a normal distribution widens at first with each doubling of the lead time
_BEYOND: Final = (1.25, 1.6)  # times the largest value seen: the last levels
_SEEN: Final = 2**15  # values, at most, from which levels are found


class Margins(nn.Module):
    """Small layers that turn what the core has read, and a lead time, into a distribution at each patch.

    Parameters
    ----------
    inputs : int
        Features of the core and what each position is told besides.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.reads = nn.Linear(inputs, _WIDTH)
        self.leads = nn.Linear(2, _WIDTH, bias=False)
        self.between = nn.Linear(_WIDTH, _WIDTH)
        self.head = nn.Linear(_WIDTH, CANDIDATES + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, read: Tensor, local: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return for a step what the logits of the candidates gain, and how wide the distribution is.

        (B, h, w, candidates); (B, 1, h, w) times the width of the values nearby; and (B, 1, h, w) the standard
        deviation of a normal distribution, from the changes `local`.
        """
        lead = math.log2(step + 1)
        given = self.leads(read.new_tensor([lead / 4, 1 / (step + 1)]))
        given = self.head(F.silu(self.between(F.silu(read + given))))
        wider = torch.exp(2 * given[..., CANDIDATES]).clamp(0.2, 5)
        spread, width = (1 - _NARROW / (step + 1)) * wider, local * math.exp(_WIDENS * lead) * wider
        return _SHARP * given[..., :CANDIDATES], spread[:, None], width[:, None]


@dataclass
class Law:
    """The distribution of one window of one channel at all lead times; h and w count patches.

    Attributes
    ----------
    frames : Tensor
        (T, H, W): the history, in the units of the forecast.
    arrivals : list of Tensor
        (1, 2, H, W) each: where what arrives at each pixel is now.
    flow : Tensor
        (1, 2, H, W).
    mean : Tensor
        (steps, H, W): the forecast of least squared error.
    moving, standing, width : list of Tensor
        For each step: weights (1, candidates, h, w) of what moves and of what stands, but for trends, and (1, 1, h, w)
        how wide the distribution is: times that of the values nearby where there is a bound, else the standard
        deviation in the units of the forecast.
    bound : float or None
        The value that many are at and that nothing is below; None where there is none.
    kept : Tensor
        (steps, bands): correlation of each band of scales with what it is now, along the motion.
    patch : int
    size : tuple of int
        Rows and columns of the grid that was given, and how many times each pixel is repeated in `frames`.
    """

    frames: Tensor
    arrivals: list[Tensor]
    flow: Tensor
    mean: Tensor
    moving: list[Tensor]
    standing: list[Tensor]
    width: list[Tensor]
    bound: float | None
    kept: Tensor
    patch: int
    size: tuple[int, int, int]

    def as_given(self, maps: Tensor) -> Tensor:
        """Return maps (..., H, W) on the grid that was given."""
        rows, columns, repeat = self.size
        maps = maps[..., : repeat * rows, : repeat * columns]
        return F.avg_pool2d(maps, repeat) if repeat > 1 else maps

    def levels(self) -> Tensor:
        """Return ascending values at which the distribution is to be known, (LEVELS,); of a field with a bound.

        The bound; values that so many of those above it are below; larger ones at equal ratios up to the largest; and
        two beyond it.
        """
        low = float(self.bound or 0.0)
        above = self.frames[self.frames > low]
        if above.numel() == 0:
            return low + torch.linspace(0, 1, LEVELS)
        above = above[:: above.numel() // _SEEN + 1] - low
        most = float(self.frames.max()) - low
        few = LEVELS // 3
        lower = torch.quantile(above, torch.linspace(0.04, 0.8, few).to(above))
        ratios = torch.linspace(math.log(max(float(lower[-1]), 1e-6 * most)), math.log(most), LEVELS - few - 2)[1:]
        parts = [lower.cpu(), ratios.exp(), torch.tensor([x * most for x in _BEYOND])]
        ascending = torch.cat([torch.zeros(1), *parts])
        # Equal ones are set apart, by less than counts for anything.
        apart = torch.cummax(ascending, 0).values + 1e-6 * most * torch.arange(LEVELS)
        return low + apart

    def chances(self, levels: Tensor, place: tuple[int, int] | None = None) -> Iterator[Tensor]:
        """Yield for each step how likely the value is above each level, (K, H, W).

        Parameters
        ----------
        levels : Tensor
            (K,), in the units of the forecast.
        place : tuple of int, optional
            Of every `EVERY`-th row and column alone, from there on. By default of all.
        """
        levels = levels.to(self.frames).view(-1, 1, 1)
        if self.bound is None:
            for step, mean in enumerate(self.mean):
                mean, width = mean[_some(place)], self.width_at(step)[_some(place)]
                yield 0.5 * torch.erfc((levels - mean) / (math.sqrt(2) * width))
            return
        own = self.levels().to(self.frames)
        for above, expected, mean, width in self.nearby(own, place):
            ratio = self._ratio(expected, mean)
            wanted = mean + (levels - mean) / width
            wanted = self.bound + (wanted - self.bound) / ratio
            result = _between(own, above, wanted.clamp(min=self.bound))
            yield torch.where(levels < self.bound, torch.ones_like(result), result)

    def values(self, drawn: Tensor, expected: Tensor, mean: Tensor, width: Tensor) -> Tensor:
        """Return values nearby, (..., N), as values of the distribution; the rest is as `nearby` gives it, (N,)."""
        low = float(self.bound or 0.0)
        moved = low + self._ratio(expected, mean) * (drawn - low)
        return torch.where(drawn > low, (mean + width * (moved - mean)).clamp(min=low), drawn)

    def _ratio(self, expected: Tensor, mean: Tensor) -> Tensor:
        """Return how many times the mean forecast is what values nearby let expect, above the bound."""
        low, little = float(self.bound or 0.0), 1e-4 * float(self.frames.max() - self.frames.min()) + 1e-30
        return ((mean - low + little) / (expected - low + little)).clamp(1 / _MOST, _MOST)

    def nearby(
        self, levels: Tensor, place: tuple[int, int] | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield for each step the chances that values nearby are above levels, (K, H, W), and three maps (H, W).

        What they let expect, the mean forecast, and how many times as wide the distribution is.
        """
        some, events = _some(place), _Nearby(self, levels)
        for step, at in enumerate(self.arrivals):
            at_patches = self._at_patches(at)
            there = finer(sample(torch.cat([self.standing[step], self.width[step]], 1), at_patches)[0], self.patch)
            there = there[some]
            above, expected = events.at(step, at[some], at_patches, there[:-1], some)
            yield above, expected, self.mean[step][some], there[-1]

    def width_at(self, step: int) -> Tensor:
        """Return how wide the distribution is, (H, W)."""
        width = finer(sample(self.width[step], self._at_patches(self.arrivals[step]))[0, 0], self.patch)
        return width.clamp(min=1e-30)

    def _at_patches(self, at: Tensor) -> Tensor:
        return (F.avg_pool2d(at, self.patch) - (self.patch - 1) / 2) / self.patch


def _some(place: tuple[int, int] | None) -> tuple[Any, ...]:
    """Return what chooses every so many rows and columns of maps."""
    return (..., *((slice(None),) * 2 if place is None else (slice(first, None, EVERY) for first in place)))


def _between(levels: Tensor, above: Tensor, wanted: Tensor) -> Tensor:
    """Return chances to be above values (N, H, W), given those to be above levels; see `members.quantiles`."""
    above = torch.cat([above[:-1], torch.zeros_like(above[-1:])])
    upper = torch.searchsorted(levels, wanted.contiguous()).clamp(1, len(levels) - 1)
    low, high = levels[upper - 1], levels[upper]
    base = levels[0]
    straight = (wanted - low) / (high - low)
    curved = torch.log(((wanted - base) / (low - base).clamp(min=1e-30)).clamp(min=1e-30))
    curved = curved / torch.log((high - base) / (low - base).clamp(min=1e-30))
    share = torch.where(upper > 1, curved, straight).clamp(0, 1)
    return torch.lerp(above.gather(0, upper - 1), above.gather(0, upper), share)


class _Nearby:
    """How the events that values were above levels are forecast by the candidates of the mean; and so the values."""

    def __init__(self, law: Law, levels: Tensor) -> None:
        self.law = law
        moving, standing, wide, overall = [], [], [], []
        # Many maps take half the memory.
        kept = law.frames.dtype if torch.is_grad_enabled() else torch.float16
        with torch.no_grad():
            for level in [*levels, None]:
                events = (law.frames if level is None else (law.frames > level).to(law.frames))[None]
                fine, smooth = moving_maps(aligned_frames(events, law.flow), events, law.patch)
                stored = law.frames.dtype if level is None else kept
                moving.append(fine[0, : FINE - 1].to(stored))
                standing.append(standing_maps(events)[0, : STANDING - 1].to(stored))
                wide.append(smooth[0])
                overall.append(events.mean())
        self.moving, self.standing = moving, standing
        self.wide, self.overall = torch.stack(wide), torch.stack(overall)

    def at(
        self, step: int, at: Tensor, at_patches: Tensor, still: Tensor, some: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the chances of all levels at a step, (K, H, W), and what values are expected, (H, W)."""
        law, weights = self.law, self.law.moving[step]
        height, width = law.frames.shape[1:]
        smooth = (weights[:, FINE - 1 : -1] * self.wide).sum(1) + weights[:, -1] * self.overall[:, None, None]
        by, known = finer(weights[0, : FINE - 1], law.patch), inside(at, height, width)[0, 0]
        share = 1 - still.sum(0)
        result = []
        for number, (moving, standing) in enumerate(zip(self.moving, self.standing, strict=True)):
            arriving = carried(_summed(by, moving, finer(smooth[number], law.patch))[None, None], at)[0, 0]
            entering = finer(sample(self.wide[None, number : number + 1, EDGE], at_patches)[0, 0], law.patch)
            arriving = torch.lerp(entering[some], arriving, known)
            result.append(_summed(still, standing[some], share * arriving))
        return torch.stack(result[:-1]).cummin(0).values, result[-1]


def _summed(weights: Tensor, maps: Tensor, base: Tensor) -> Tensor:
    """Return `base` (H, W) and maps (C, H, W) by their weights."""
    if torch.is_grad_enabled():
        return base + (weights * maps).sum(0)
    result = base.clone()
    for weight, one in zip(weights, maps, strict=True):
        result += weight * one
    return result


def score(laws: list[Law], truth: Tensor, valid: Tensor, place: tuple[int, int]) -> Tensor:
    """Return the CRPS of distributions, as a share of persistence's absolute error; the mean over lead times.

    Parameters
    ----------
    laws : list of Law
        Of N windows.
    truth, valid : Tensor
        (N, steps, H, W): what was observed, on the grid of the windows, and where.
    place : tuple of int
        Row and column, each below `EVERY`: of every so many pixels along both axes, from there on, is the mean.
    """
    some = _some(place)
    total = still = truth.new_zeros(truth.shape[1])
    for law, its, there in zip(laws, truth[some], valid[some], strict=True):
        if law.bound is None:
            widths = [law.width_at(step)[some] for step in range(len(its))]
            errors = [_normal_score(law.mean[step][some], width, its[step]) for step, width in enumerate(widths)]
        else:
            levels = law.levels().to(its)
            chances = law.chances(levels, place)
            errors = [_level_score(levels, chance, its[step]) for step, chance in enumerate(chances)]
        total = total + (torch.stack(errors) * there).sum((1, 2))
        still = still + ((law.frames[-1][some] - its).abs() * there).sum((1, 2))
    return (total / (still + 1e-3 * still.mean() + 1e-12)).mean()


def _normal_score(mean: Tensor, width: Tensor, truth: Tensor) -> Tensor:
    """Return the CRPS of normal distributions (Gneiting et al. 2005, doi:10.1175/MWR2904.1)."""
    z = (truth - mean) / width
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return width * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def _level_score(levels: Tensor, chances: Tensor, truth: Tensor) -> Tensor:
    """Return the CRPS of distributions that are linear between levels (K,), by their chances (K, ...) of being above.

    Below the first level lies the rest of the first chance, at the level itself; nothing lies above the last.
    """
    above = torch.cat([chances[:-1], torch.zeros_like(chances[-1:])])
    low, high = (x.view(-1, *[1] * truth.ndim) for x in (levels[:-1], levels[1:]))
    share = ((truth - low) / (high - low)).clamp(0, 1)
    first, last = 1 - above[:-1], 1 - above[1:]
    middle = torch.lerp(first, last, share)

    def square(a: Tensor, b: Tensor, width: Tensor) -> Tensor:
        return width * (a * a + a * b + b * b) / 3

    inner = square(first, middle, share * (high - low)) + square(1 - middle, 1 - last, (1 - share) * (high - low))
    return inner.sum(0) + (levels[0] - truth).clamp(min=0) + (truth - levels[-1]).clamp(min=0)
