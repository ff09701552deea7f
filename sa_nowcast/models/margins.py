"""The distribution that a forecast in Lagrangian coordinates has at each pixel and lead time: its margins.

Where a field has a bound that many of its values are at, such as rain, the distribution is one of values that were
observed nearby: that a value is above a level is forecast as the field itself is, by the same candidates, from the
frames of which pixels are above it. Nothing then is expected that the history did not hold, and a dry place stays dry
as far as its neighbourhood is. This distribution is moved to the mean forecast, and made narrower or wider about it;
and it is averaged over displacements by errors of the motion. Any other field has a normal distribution about the mean
forecast.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.candidates import BLURS, EDGE, FINE, STANDING, WIDE_BLURS, finer
from sa_nowcast.models.motion import arrivals, bilinear, blur, carried, inside, optical_flow, sample

LEVELS: Final = 20
"""Values at which the distribution of a bounded field is known; between them it is interpolated."""

_WIDTH: Final = 48
_NARROW: Final = 0.2  # share by which the distribution is narrower than that of values nearby, at lead time 1
_MOST: Final = 4.0  # times: how much the mean forecast may differ from that of values nearby
_WIDENS: Final = 0.25  # logarithm by which a normal distribution widens at first with each doubling of the lead time
_MOST_ERROR: Final = 0.2  # of the speed: the standard deviation of the motion's error along an axis is at most that
_UNMOVED: Final = 0.25  # pixels: a smaller displacement makes no difference
_BEYOND: Final = (1.25, 1.6)  # times the largest value seen: the last levels
_SEEN: Final = 2**15  # values, at most, from which levels are found
_AT_ONCE: Final = 4  # levels whose events are made together: what is shared by them then counts little
_TILE: Final = 128  # pixels a side of a part of the grid in which only the levels that it needs are known
_CACHED: Final = 2**17  # values that are added up at once


class Margins(nn.Module):
    """Small layers that turn what the core has read, and a lead time, into the width of a normal distribution.

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
        self.head = nn.Linear(_WIDTH, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, read: Tensor, local: Tensor, step: int) -> Tensor:
        """Return for a step the standard deviation, (B, 1, h, w), from the changes `local` around each patch."""
        lead = math.log2(step + 1)
        given = self.leads(read.new_tensor([lead / 4, 1 / (step + 1)]))
        given = self.head(F.silu(self.between(F.silu(read + given))))
        return (local * torch.exp(_WIDENS * lead + 2 * given[..., 0]))[:, None]


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
        For each step: weights (1, candidates, h, w) of what moves and of what stands, but for trends, which values
        nearby have where there is a bound; and (1, 1, h, w) the standard deviation of a normal distribution, in the
        units of the forecast, where there is none.
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

    @cached_property
    def motion_error(self) -> float:
        """How wrong the motion is along each axis, in pixels of `frames` per step: a standard deviation.

        From how much the last frame has changed the flow, where there is something to see. If the motions of n pairs of
        frames had independent errors of variance s², this change had s² / n / (n - 1), and their mean has s² / n. 0 for
        fewer than three frames, and for fields without a bound: the width of their distribution holds it already.
        """
        pairs = len(self.frames) - 1
        if self.bound is None or pairs < 2:
            return 0.0
        seen = (self.frames > self.bound).any(0)
        if not seen.any():
            return 0.0
        with torch.no_grad():
            changed = self.flow - optical_flow(self.frames[None, :-1])
            change, speed = (float(x[0, :, seen].square().sum(0).mean()) for x in (changed, self.flow))
        return min(math.sqrt((pairs - 1) * change / 2), _MOST_ERROR * math.sqrt(speed))

    def displacement(self, step: int) -> float:
        """Return how far errors of the motion displace along each axis, in pixels of `frames`: a standard deviation."""
        far = self.motion_error * (step + 1)
        return far if far > _UNMOVED else 0.0

    def over_displacements(self, maps: Tensor, step: int) -> Tensor:
        """Return maps (K, H, W) as their means over all displacements that errors of the motion make by a step."""
        far = self.displacement(step)
        # One of few widths: a matrix is kept for each.
        return blur(maps, 2 ** (round(4 * math.log2(far)) / 4)) if far else maps

    def chances(self, levels: Tensor) -> Iterator[Tensor]:
        """Yield for each step how likely the value is above levels (K,) in the units of the forecast, (K, H, W)."""
        levels = levels.to(self.frames).view(-1, 1, 1)
        if self.bound is None:
            for step, mean in enumerate(self.mean):
                yield 0.5 * torch.erfc((levels - mean) / (math.sqrt(2) * self.width_at(step)))
            return
        own = self.levels().to(self.frames)
        events = _Nearby(self, own)
        scale = _Logarithms(own)
        for step in range(len(self.arrivals)):
            weights = events.weights(step)
            mean = self.mean[step]
            wanted = mean + (levels - mean) / _narrowed(step)
            wanted = (wanted - self.bound) / self._ratio(events.expected(weights), mean)
            result = self.over_displacements(events.chances(weights, scale, wanted.clamp_(min=0).log_()), step)
            yield result.masked_fill(levels < self.bound, 1.0)

    def values(self, drawn: Tensor, step: int, expected: Tensor, mean: Tensor) -> Tensor:
        """Return values nearby, (..., N), as values of the distribution, given two maps (N,) of a step.

        What values nearby let expect there, and the mean forecast.
        """
        low = float(self.bound or 0.0)
        moved = low + self._ratio(expected, mean) * (drawn - low)
        return torch.where(drawn > low, (mean + _narrowed(step) * (moved - mean)).clamp(min=low), drawn)

    def _ratio(self, expected: Tensor, mean: Tensor) -> Tensor:
        """Return how many times the mean forecast is what values nearby let expect, above the bound."""
        low, little = float(self.bound or 0.0), 1e-4 * float(self.frames.max() - self.frames.min()) + 1e-30
        return ((mean - low + little) / (expected - low + little)).clamp(1 / _MOST, _MOST)

    def nearby(self, levels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each step the chances that values nearby are above levels, (K, H, W), and what they let expect."""
        events = _Nearby(self, levels)
        for step in range(len(self.arrivals)):
            weights = events.weights(step)
            above = events.above(weights)
            for higher, lower in zip(above[1:], above, strict=False):
                torch.minimum(higher, lower, out=higher)
            yield above, events.expected(weights)

    def width_at(self, step: int) -> Tensor:
        """Return the standard deviation of the normal distribution, (H, W)."""
        width = finer(sample(self.width[step], self.at_patches(self.arrivals[step]))[0, 0], self.patch)
        return width.clamp(min=1e-30)

    def at_patches(self, at: Tensor) -> Tensor:
        """Return places (1, 2, H, W) on the grid of patches, (1, 2, h, w)."""
        return (F.avg_pool2d(at, self.patch) - (self.patch - 1) / 2) / self.patch


def _narrowed(step: int) -> float:
    """Return how many times as wide as that of values nearby the distribution is."""
    return 1 - _NARROW / (step + 1)


class _Logarithms:
    """Levels by the logarithm of how far they are above the first, between which chances are interpolated."""

    def __init__(self, levels: Tensor) -> None:
        self.at = (levels - levels[0]).log()
        self.numbers = self.at.tolist()
        self.first = float(levels[1] - levels[0])

    def around(self, wanted: Tensor) -> tuple[int, int]:
        """Return the numbers of the first and the last level that chances to be above values need."""
        low, high = (float(x) for x in wanted.aminmax())
        last = len(self.numbers) - 1
        if math.isnan(high):
            return 0, last
        return min(bisect_right(self.numbers, low) - 1, last - 1), min(max(bisect_left(self.numbers, high), 1), last)

    def between(self, above: Tensor, first: int, wanted: Tensor) -> Tensor:
        """Return chances to be above values (H, W), given those to be above levels from `first` on, (K, H, W).

        Up to the lowest level above the bound, the value itself counts and no logarithm.
        """
        at = self.at[first : first + len(above)].view(-1, 1, 1)
        share = (wanted - at[:-1]) / at.diff(dim=0)
        if first == 0:
            share[0] = wanted.exp() / self.first
        return above[0] + share.clamp_(0, 1).mul_(above.diff(dim=0)).sum(0)


class _Weights(NamedTuple):
    """What all events share at a step: weights of what moves and what stands, and where it comes from."""

    by: Tensor
    """(FINE - 1, H, W)"""
    smooth: Tensor
    """(1, wide, h, w): the weights of what has no details, and of the mean of everything."""
    still: Tensor
    """(STANDING - 1, H, W)"""
    share: Tensor
    """(H, W): of what moves."""
    known: Tensor
    """(H, W): how far what arrives was on the grid."""
    at: Tensor
    """(1, 2, H, W)"""
    at_patches: Tensor
    """(1, 2, h, w)"""


class _Nearby:
    """How the events that values were above levels are forecast by the candidates of the mean; and so the values.

    Maps of an event are made when it is first needed.
    """

    def __init__(self, law: Law, levels: Tensor) -> None:
        self.law, self.levels = law, levels
        frames = law.frames
        size, few = frames.shape[1:], [n // law.patch for n in frames.shape[1:]]
        self._times = [*arrivals(law.flow, len(frames) - 1)]
        self._made = [False] * len(levels)
        # Many maps take half the memory.
        self.moving = frames.new_empty(FINE - 1, len(levels), *size, dtype=torch.float16)
        self.standing = frames.new_empty(STANDING - 1, len(levels), *size, dtype=torch.float16)
        self.wide = frames.new_empty(len(levels), len(WIDE_BLURS), *few)
        self.overall = frames.new_empty(len(levels))
        self.values = self._maps(frames[None])

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return of sequences (N, T, H, W) what `moving_maps` and `standing_maps` do but slopes, and the means.

        (FINE - 1, N, H, W), (STANDING - 1, N, H, W), (N, wide, h, w) and (N,).
        """
        last = x[:, -1]
        earlier = [carried(x[None, :, -1 - k], at)[0] for k, at in enumerate(self._times, 1)]
        aligned = torch.stack([*earlier[::-1], last], 1)
        mean, plain = aligned.mean(1), x.mean(1)
        few = aligned[:, -2:].mean(1)
        moving = torch.stack([last, *(blur(last, sigma) for sigma in BLURS), few, mean, blur(mean, 2.0)])
        coarse = F.avg_pool2d(last[:, None], self.law.patch)[:, 0]
        wide = torch.stack([blur(coarse, sigma / self.law.patch) for sigma in WIDE_BLURS], 1)
        return moving, torch.stack([last, plain, blur(plain, 2.0)]), wide, x.mean((1, 2, 3))

    def _make(self, first: int, last: int) -> None:
        """Make the maps of those of the levels from `first` to before `last` that have none."""
        missing = [n for n in range(first, last) if not self._made[n]]
        for begin in range(0, len(missing), _AT_ONCE):
            some = missing[begin : begin + _AT_ONCE]
            events = (self.law.frames > self.levels[some].view(-1, 1, 1, 1)).to(self.law.frames)
            moving, standing, self.wide[some], self.overall[some] = self._maps(events)
            for i, n in enumerate(some):
                self.moving[:, n], self.standing[:, n], self._made[n] = moving[:, i], standing[:, i], True

    def weights(self, step: int) -> _Weights:
        """Return what all events share at a step."""
        law, at = self.law, self.law.arrivals[step]
        at_patches = law.at_patches(at)
        still = finer(sample(law.standing[step], at_patches)[0], law.patch)
        return _Weights(
            by=finer(law.moving[step][0, : FINE - 1], law.patch),
            smooth=law.moving[step][:, FINE - 1 :],
            still=still,
            share=1 - still.sum(0),
            known=inside(at, *law.frames.shape[1:])[0, 0],
            at=at,
            at_patches=at_patches,
        )

    def expected(self, weights: _Weights) -> Tensor:
        """Return the values that are expected, (H, W)."""
        moving, standing, wide, overall = self.values
        maps = self._arriving(weights, moving, wide, overall)
        entering = self._entering(weights, wide)
        result = torch.empty_like(weights.share)
        for tile in self._tiles():
            result[tile] = self._at(weights, maps, entering, standing, tile)[0]
        return result

    def above(self, weights: _Weights) -> Tensor:
        """Return the chances to be above all levels, (K, H, W), each as it is."""
        self._make(0, len(self.levels))
        result = self.law.frames.new_empty(len(self.levels), *self.law.frames.shape[1:])
        for first in range(0, len(result), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            maps, entering = self._some(weights, some)
            for tile in self._tiles():
                result[(some, *tile)] = self._at(weights, maps, entering, self.standing[:, some], tile)
        return result

    def chances(self, weights: _Weights, scale: _Logarithms, wanted: Tensor) -> Tensor:
        """Return chances to be above values, given as logarithms (N, H, W), by maps of the levels around them alone."""
        tiles = [(tile, [scale.around(one[tile]) for one in wanted]) for tile in self._tiles()]
        result = torch.empty_like(wanted)
        # Spans that overlap somewhere share a run of levels, and each of a tile's runs lies within one of these.
        for start, end, _ in _runs([span for _, spans in tiles for span in spans]):
            self._make(start, end + 1)
            maps, entering = self._some(weights, slice(start, end + 1))
            for tile, spans in tiles:
                inside_it = [n for n, (first, _) in enumerate(spans) if start <= first <= end]
                for first, last, chosen in _runs([spans[n] for n in inside_it]):
                    some = slice(first - start, last + 1 - start)
                    standing = self.standing[:, first : last + 1]
                    above = self._at(weights, maps[some], entering[some], standing, tile)
                    if last == len(self.levels) - 1:
                        above[-1] = 0.0
                    for n in (inside_it[i] for i in chosen):
                        low, high = (number - first for number in spans[n])
                        result[n][tile] = scale.between(above[low : high + 1], spans[n][0], wanted[n][tile])
        return result.clamp_(0, 1)

    def _tiles(self) -> list[tuple[slice, slice]]:
        rows, columns = (
            [slice(first, min(first + _TILE, size)) for first in range(0, size, _TILE)]
            for size in self.law.frames.shape[1:]
        )
        return [(down, right) for down in rows for right in columns]

    def _some(self, weights: _Weights, some: slice) -> tuple[Tensor, Tensor]:
        """Return of some levels, whose maps are made, what arrives and what enters."""
        wide = self.wide[some]
        return self._arriving(weights, self.moving[:, some], wide, self.overall[some]), self._entering(weights, wide)

    def _arriving(self, weights: _Weights, moving: Tensor, wide: Tensor, overall: Tensor) -> Tensor:
        """Return mixtures of what moves where it is now, (N, H, W)."""
        smooth = (weights.smooth[:, :-1] * wide).sum(1) + weights.smooth[:, -1] * overall[:, None, None]
        result = finer(smooth, self.law.patch)
        height, width = result.shape[1:]
        rows = max(1, _CACHED // (len(result) * width))
        for first in range(0, height, rows):
            some = slice(first, first + rows)
            for weight, maps in zip(weights.by[:, some], moving[:, :, some], strict=True):
                result[:, some] += weight * maps
        return result

    def _entering(self, weights: _Weights, wide: Tensor) -> Tensor:
        """Return what comes in from beyond the edge, (N, h, w)."""
        return sample(wide[None, :, EDGE], weights.at_patches)[0]

    def _at(
        self, weights: _Weights, maps: Tensor, entering: Tensor, standing: Tensor, tile: tuple[slice, slice]
    ) -> Tensor:
        """Return mixtures at a step, (N, rows, columns), on a part of the grid."""
        result = sample(maps[None], weights.at[(..., *tile)])[0]
        known = weights.known[tile]
        if known.amin() < 1:
            result = torch.lerp(_part(entering, tile, self.law.patch), result, known)
        result *= weights.share[tile]
        for weight, one in zip(weights.still, standing, strict=True):
            result += weight[tile] * one[(slice(None), *tile)]
        return result


def _part(x: Tensor, tile: tuple[slice, slice], times: int) -> Tensor:
    """Return a part of `finer`, of maps (N, h, w), by the same products: it begins and ends where one does."""
    rows, columns = (
        [
            (given, read, matrix)
            for given, read, matrix in bilinear(size, times)
            if part.start <= given.start < part.stop
        ]
        for size, part in zip(x.shape[-2:], tile, strict=True)
    )
    across = [torch.cat([matrix.to(x) @ one[read] for _, read, matrix in rows]) for one in x]
    return torch.stack(
        [torch.cat([one[:, read] @ matrix.to(x).mT for _, read, matrix in columns], 1) for one in across]
    )


def _runs(spans: list[tuple[int, int]]) -> list[tuple[int, int, list[int]]]:
    """Return spans of levels that overlap as one each: its first and last level, and the numbers of the spans."""
    runs: list[tuple[int, int, list[int]]] = []
    for number in sorted(range(len(spans)), key=spans.__getitem__):
        first, last = spans[number]
        if runs and first <= runs[-1][1]:
            begin, end, numbers = runs[-1]
            runs[-1] = begin, max(end, last), [*numbers, number]
        else:
            runs.append((first, last, [number]))
    return runs


def score(
    laws: list[Law], truth: Tensor, valid: Tensor, everywhere: Callable[[Tensor], Tensor] = lambda still: still
) -> Tensor:
    """Return the CRPS of normal distributions, as a share of persistence's absolute error; the mean over lead times.

    Parameters
    ----------
    laws : list of Law
        Of N windows; those of fields with a bound do not count, for nothing in them is learned but the mean.
    truth, valid : Tensor
        (N, steps, H, W): what was observed, on the grid of the windows, and where.
    everywhere : callable, optional
        Given sums (steps,) over these windows, returns those over all windows that the error is to be a share of.
    """
    total = still = truth.new_zeros(truth.shape[1])
    for law, its, there in zip(laws, truth, valid, strict=True):
        widths = torch.stack([law.width_at(step) for step in range(len(its))])
        if law.bound is None:
            total = total + (normal_score(law.mean, widths, its) * there).sum((1, 2))
            still = still + ((law.frames[-1] - its).abs() * there).sum((1, 2))
        else:
            total = total + 0 * widths.sum((1, 2))  # so that the layers have a gradient all the same
    still = everywhere(still)
    return (total / (still + 1e-3 * still.mean() + 1e-12)).mean()


def normal_score(mean: Tensor, width: Tensor, truth: Tensor) -> Tensor:
    """Return the CRPS of normal distributions (Gneiting et al. 2005, doi:10.1175/MWR2904.1)."""
    z = (truth - mean) / width
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return width * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
