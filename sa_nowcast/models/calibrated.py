"""The distribution of what is observed given a forecast of its mean, as a hindcast has shown it.

Any network has one so: it needs no motion and no training of its own. `sa_nowcast.models.calibrating` learns it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sa_nowcast.models.members import fast

NODES: Final = 61
"""Normal scores, evenly from -3 to 3, at which quantiles are known; between them they are interpolated."""
PIXELS: Final = 2**14
"""That are turned into values, chances or scores at once."""

_ENDS: Final = 3.0  # what is rarer has the values of the last quantiles, so that no tail is without end
_BEYOND: Final = 64  # pixels around the grid, at least: opposite edges are independent
_LITTLE: Final = 0.05  # correlation below which two pixels count as independent


@dataclass(frozen=True, eq=False)
class Table:
    """What calibration has learned of one channel; B bins of the forecast at each lead time, R distances.

    Attributes
    ----------
    means : Tensor
        (steps, B): mean forecast of each bin, ascending; infinite where a lead time has fewer bins.
    at_bound : Tensor
        (steps, B): how likely the value is to be at the bound.
    values : Tensor
        (steps, B, NODES): quantiles of the values above the bound, or of all where there is none.
    variance : Tensor
        (steps, B): of what a value tells of its normal score: below 1 where many values are equal.
    radii : Tensor
        (R,): distances in pixels, 0 first.
    alike : Tensor
        (steps, R): correlation of normal scores at such a distance.
    follows : Tensor
        (steps, R): the same, of one lead time with the one before.
    bound : float or None
        The least value, where many are at it.
    whole : bool
        Whether all values are whole numbers.
    """

    means: Tensor
    at_bound: Tensor
    values: Tensor
    variance: Tensor
    radii: Tensor
    alike: Tensor
    follows: Tensor
    bound: float | None
    whole: bool


class Margin:
    """The distributions at one lead time, of pixels with given forecasts.

    Parameters
    ----------
    table : Table
    step : int
    forecast : Tensor
        (N,): the mean forecast.
    """

    def __init__(self, table: Table, step: int, forecast: Tensor) -> None:
        self.table, self.step = table, step
        means = table.means[step].to(forecast)
        means = means[torch.isfinite(means)]
        known = forecast.clamp(means[0], means[-1])
        self.excess = forecast - known  # beyond what calibration has seen the distribution is moved along
        self.upper = torch.searchsorted(means, known.contiguous()).clamp(max=len(means) - 1)
        self.lower = (self.upper - 1).clamp(min=0)
        apart = (means[self.upper] - means[self.lower]).clamp(min=1e-30)
        self.share = ((known - means[self.lower]) / apart).clamp(0, 1)
        self.above = 1 - self._between(table.at_bound)

    def _between(self, of_bins: Tensor) -> Tensor:
        own = of_bins[self.step].to(self.share)
        return torch.lerp(own[self.lower], own[self.upper], self.share)

    def variance(self) -> Tensor:
        """Return the variance of what values tell of their normal scores, (N,)."""
        return self._between(self.table.variance)

    def at(self, scores: Tensor) -> Tensor:
        """Return the values that have these normal scores, (M, N) as `scores`."""
        table, inner = self.table, scores
        if table.bound is not None:
            more = torch.special.ndtr(-scores)
            inner = -torch.special.ndtri((more / self.above.clamp(min=1e-30)).clamp(1e-7, 1 - 1e-7))
        place = (inner.clamp(-_ENDS, _ENDS) + _ENDS) * ((NODES - 1) / (2 * _ENDS))
        node = place.long().clamp(max=NODES - 2)
        own, part = table.values[self.step].to(scores).reshape(-1), place - node
        of_bins = [torch.lerp(own[b * NODES + node], own[b * NODES + node + 1], part) for b in (self.lower, self.upper)]
        result = torch.lerp(of_bins[0], of_bins[1], self.share) + self.excess
        result = result.round() if table.whole else result
        if table.bound is None:
            return result
        return torch.where(more < self.above, result.clamp(min=table.bound), table.bound)

    def chances(self, levels: Tensor) -> Tensor:
        """Return how likely values above levels, (K, N) or (K, 1), are: (K, N)."""
        table = self.table
        own = table.values[self.step].to(self.share)
        quantiles = torch.lerp(own[self.lower], own[self.upper], self.share[:, None]) + self.excess[:, None]
        if table.bound is not None:
            quantiles = quantiles.clamp(min=table.bound)
        asked = levels.to(quantiles).expand(-1, len(quantiles)).T.contiguous()  # (N, K)
        wanted = asked.floor() + 0.5 if table.whole else asked
        upper = torch.searchsorted(quantiles, wanted, right=True)
        inside = upper.clamp(1, NODES - 1)
        low, high = quantiles.gather(1, inside - 1), quantiles.gather(1, inside)
        part = ((wanted - low) / (high - low).clamp(min=1e-30)).clamp(0, 1)
        more = torch.special.ndtr(_ENDS - (inside - 1 + part) * (2 * _ENDS / (NODES - 1)))
        more = torch.where(upper == 0, 1.0, torch.where(upper == NODES, 0.0, more)) * self.above[:, None]
        return (more if table.bound is None else torch.where(asked < table.bound, 1.0, more)).T

    def scores(self, observed: Tensor) -> Tensor:
        """Return what values (N,) let expect of their normal scores: the mean over the scores that have this value."""
        bound = self.table.bound
        below = 1 - self.chances(observed[None])[0]
        before = 1 - self.chances(observed[None] - 1)[0] if self.table.whole else below
        if bound is not None:
            before = torch.where(observed <= bound, 0.0, before)
        first, last = (torch.special.ndtri(p.clamp(1e-4, 1 - 1e-4)) for p in (before, below))
        density = [torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi) for z in (first, last)]
        density[0] = torch.where(before > 0, density[0], 0.0)
        density[1] = torch.where(below < 1, density[1], 0.0)
        several = below - before
        return torch.where(several > 1e-4, (density[0] - density[1]) / several.clamp(min=1e-4), last)


class Fields:
    """Gaussian fields of unit variance with the correlations of a table, at fixed places.

    Parameters
    ----------
    table : Table
    steps : int
    shape : tuple of int
        Rows and columns.
    """

    def __init__(self, table: Table, steps: int, shape: tuple[int, int]) -> None:
        radii = table.radii.double().numpy()
        alike, follows = table.alike[:steps].double().numpy(), table.follows[:steps].double().numpy()
        far = radii[(np.abs(alike) > _LITTLE).any(0)].max(initial=0.0)
        self.shape = shape
        self.domain = tuple(fast(n + max(_BEYOND, min(n, math.ceil(far)))) for n in shape)
        apart = [np.minimum(np.arange(n), n - np.arange(n)) for n in self.domain]
        distance = np.hypot(apart[0][:, None], apart[1])

        def power(correlation: npt.NDArray[np.float64]) -> Tensor:
            # Beyond what was measured the correlation ends by degrees.
            there = np.interp(distance, [*radii, 2 * radii[-1] + 1], [*correlation, 0.0])
            waves: Tensor = torch.fft.rfft2(torch.from_numpy(there))
            return waves.real

        self._amplitude, self._follows = [], []
        before = None
        for own, cross in zip(alike, follows, strict=True):
            now = power(own).clamp(min=0)  # what no field can have is left out
            now = now / torch.fft.irfft2(now, s=self.domain)[0, 0]
            if before is None:
                kept = torch.zeros_like(now)
            else:
                kept = (power(cross) / (now * before).sqrt().clamp(min=1e-6)).clamp(0, 0.999)
            self._amplitude.append(now.sqrt().float())
            self._follows.append(kept.float())
            before = now

    def draw(self, generator: np.random.Generator) -> Iterator[Tensor]:
        """Yield the field at each lead time, (rows, columns)."""
        state: Tensor | float = 0.0
        for follows, amplitude in zip(self._follows, self._amplitude, strict=True):
            new = torch.from_numpy(generator.standard_normal(self.domain, dtype=np.float32))
            state = follows * state + (1 - follows.square()).sqrt() * torch.fft.rfft2(new, norm="ortho")
            field = torch.fft.irfft2(state * amplitude, s=self.domain, norm="ortho")
            yield field[: self.shape[0], : self.shape[1]]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The distribution of a forecast of one channel by a table; a `sa_nowcast.models.members.Distribution`.

    Attributes
    ----------
    mean : Tensor
        (steps, rows, columns): the forecast, in the units of the data.
    table : Table
    """

    mean: Tensor
    table: Table

    def chances(self, levels: Tensor) -> Iterator[Tensor]:
        """Yield for each step how likely the value is above levels (K,), (K, rows, columns)."""
        for margins in self._margins():
            chances = torch.cat([margin.chances(levels.float()[:, None]) for margin in margins], 1)
            yield chances.view(-1, *self.mean.shape[1:])

    def quantiles(self, probabilities: Sequence[float]) -> npt.NDArray[np.float32]:
        """Return the values that are at most so large with these probabilities, (probability, step, rows, columns)."""
        scores = torch.special.ndtri(torch.tensor(list(probabilities), dtype=torch.float64)).float()[:, None]
        steps = [torch.cat([m.at(scores.expand(-1, len(m.share))) for m in margins], 1) for margins in self._margins()]
        return torch.stack(steps, 1).view(len(scores), *self.mean.shape).numpy()

    def members(self, generators: Sequence[np.random.Generator], result: npt.NDArray[np.float32]) -> None:
        """Put members in `result`, (member, step, rows, columns); each generator draws one."""
        fields = Fields(self.table, len(self.mean), (self.mean.shape[1], self.mean.shape[2]))
        for member, generator in zip(result, generators, strict=True):
            for target, field in zip(member, fields.draw(generator), strict=True):
                target[:] = field.numpy()
        for step, margins in enumerate(self._margins()):
            drawn = torch.from_numpy(result[:, step].reshape(len(result), -1))
            parts = [m.at(scores) for m, scores in zip(margins, torch.split(drawn, PIXELS, 1), strict=True)]
            result[:, step] = torch.cat(parts, 1).view(len(result), *self.mean.shape[1:]).numpy()

    def _margins(self) -> Iterator[Iterator[Margin]]:
        """Yield for each step the margins of some pixels at a time."""
        for step, mean in enumerate(self.mean.float().cpu().flatten(1)):
            yield (Margin(self.table, step, some) for some in torch.split(mean, PIXELS))
