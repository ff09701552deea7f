"""Values that were observed nearby, as a distribution: events above levels, forecast by the candidates of the mean.

Maps of many events are large. They are made when a level is first needed, in half precision, several at a time; what
all events share at a lead time is found once; and where thresholds are asked for, only the levels around them are
known, in each part of the grid those that it needs.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from sa_nowcast.models.candidates import (
    EDGE,
    FINE,
    STANDING,
    WIDE_BLURS,
    finer,
    moving_without_slope,
    standing_without_slope,
)
from sa_nowcast.models.motion import arrivals, bilinear, carried, inside, sample

if TYPE_CHECKING:
    from sa_nowcast.models.margins import Law

_AT_ONCE: Final = 4  # levels whose events are made together: what is shared by them then counts little
_TILE: Final = 128  # pixels a side of a part of the grid in which only the levels that it needs are known
_CACHED: Final = 2**17  # values that are added up at once


class Logarithms:
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


class Weights(NamedTuple):
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


class Nearby:
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
        """Return of sequences (N, T, H, W) what may move and stand but slopes, and the means.

        (FINE - 1, N, H, W), (STANDING - 1, N, H, W), (N, wide, h, w) and (N,).
        """
        earlier = [carried(x[None, :, -1 - k], at)[0] for k, at in enumerate(self._times, 1)]
        moving, wide = moving_without_slope(torch.stack([*earlier[::-1], x[:, -1]], 1), x, self.law.patch)
        return torch.stack(moving), torch.stack(standing_without_slope(x)), wide, x.mean((1, 2, 3))

    def _make(self, first: int, last: int) -> None:
        """Make the maps of those of the levels from `first` to before `last` that have none."""
        missing = [n for n in range(first, last) if not self._made[n]]
        for begin in range(0, len(missing), _AT_ONCE):
            some = missing[begin : begin + _AT_ONCE]
            events = (self.law.frames > self.levels[some].view(-1, 1, 1, 1)).to(self.law.frames)
            moving, standing, self.wide[some], self.overall[some] = self._maps(events)
            for i, n in enumerate(some):
                self.moving[:, n], self.standing[:, n], self._made[n] = moving[:, i], standing[:, i], True

    def weights(self, step: int) -> Weights:
        """Return what all events share at a step."""
        law, at = self.law, self.law.arrivals[step]
        at_patches = law.at_patches(at)
        still = finer(sample(law.standing[step], at_patches)[0], law.patch)
        return Weights(
            by=finer(law.moving[step][0, : FINE - 1], law.patch),
            smooth=law.moving[step][:, FINE - 1 :],
            still=still,
            share=1 - still.sum(0),
            known=inside(at, *law.frames.shape[1:])[0, 0],
            at=at,
            at_patches=at_patches,
        )

    def expected(self, weights: Weights) -> Tensor:
        """Return the values that are expected, (H, W)."""
        moving, standing, wide, overall = self.values
        maps = self._arriving(weights, moving, wide, overall)
        entering = self._entering(weights, wide)
        result = torch.empty_like(weights.share)
        for tile in self._tiles():
            result[tile] = self._at(weights, maps, entering, standing, tile)[0]
        return result

    def above(self, weights: Weights) -> Tensor:
        """Return the chances to be above all levels, (K, H, W), each as it is."""
        self._make(0, len(self.levels))
        result = self.law.frames.new_empty(len(self.levels), *self.law.frames.shape[1:])
        for first in range(0, len(result), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            maps, entering = self._some(weights, some)
            for tile in self._tiles():
                result[(some, *tile)] = self._at(weights, maps, entering, self.standing[:, some], tile)
        return result

    def chances(self, weights: Weights, scale: Logarithms, wanted: Tensor) -> Tensor:
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

    def _some(self, weights: Weights, some: slice) -> tuple[Tensor, Tensor]:
        """Return of some levels, whose maps are made, what arrives and what enters."""
        wide = self.wide[some]
        return self._arriving(weights, self.moving[:, some], wide, self.overall[some]), self._entering(weights, wide)

    def _arriving(self, weights: Weights, moving: Tensor, wide: Tensor, overall: Tensor) -> Tensor:
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

    def _entering(self, weights: Weights, wide: Tensor) -> Tensor:
        """Return what comes in from beyond the edge, (N, h, w)."""
        return sample(wide[None, :, EDGE], weights.at_patches)[0]

    def _at(
        self, weights: Weights, maps: Tensor, entering: Tensor, standing: Tensor, tile: tuple[slice, slice]
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
