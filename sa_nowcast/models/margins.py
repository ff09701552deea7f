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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.candidates import finer
from sa_nowcast.models.motion import blur, optical_flow, sample
from sa_nowcast.models.nearby import Logarithms, Nearby

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
        events = Nearby(self, own)
        scale = Logarithms(own)
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
        events = Nearby(self, levels)
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
