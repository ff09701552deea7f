"""The distribution of what is observed given a forecast, and how its normal scores depend on each other, from pairs.

Margins are by isotonic distributional regression (Henzi, Ziegel and Gneiting 2021, doi:10.1111/rssb.12450) on a single
forecast (EasyUQ: Walz, Henzi, Ziegel and Gneiting 2024, doi:10.1137/22M1541915), in bins of the forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from sa_nowcast.models.calibrated import NODES, PIXELS, Margin, Table

LEAST_PAIRS: Final = 2000
"""Of each channel and lead time."""

_PER_BIN: Final = 200  # pairs, at least
_BINS: Final = 128
_LEVELS: Final = 512
_AT_BOUND: Final = 0.01  # share of values at the least one, from which on that is a bound
_OFTEN: Final = 0.005  # share of values from which on a value has a chance of its own
_FEW: Final = 20  # pairs above the bound from which on a bin has a distribution of its own
_DRAWS: Final = 250  # of each bin, by which it is known what values tell of their normal scores
_MOVED: Final = 4 / 3  # times, at most, by which a value is moved to the middle of its bin
_RINGS: Final = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # pixels

Values = npt.NDArray[np.float64]


def margins(pairs: Sequence[tuple[Values, Values]]) -> Table:
    """Return the distributions of one channel at all lead times, with pixels and lead times that are independent.

    Parameters
    ----------
    pairs : sequence of tuple of ndarray, shape (N,)
        For each lead time forecasts, and what was observed; none missing, `LEAST_PAIRS` at least.
    """
    seen = np.concatenate([observed for _, observed in pairs])
    whole = bool((seen >= 0).all() and (seen == np.rint(seen)).all())
    bound = float(seen.min()) if (seen == seen.min()).mean() >= _AT_BOUND else None
    steps = [_of_step(forecast, observed, bound, whole) for forecast, observed in pairs]
    most = max(len(means) for means, _, _ in steps)

    def stacked(part: int, fill: float | None = None) -> torch.Tensor:
        rows = []
        for step in steps:
            row, missing = step[part], most - len(step[0])
            rest = np.repeat(row[-1:], missing, 0) if fill is None else np.full(missing, fill)
            rows.append(np.concatenate([row, rest]))
        return torch.from_numpy(np.stack(rows)).float()

    none = torch.zeros(len(pairs), 1)
    means = stacked(0, np.inf)
    table = Table(
        means, stacked(1), stacked(2), torch.ones_like(means), torch.zeros(1), torch.ones(len(pairs), 1), none, bound,
        whole,
    )  # fmt: skip
    if bound is None and not whole:
        return table
    variance = torch.ones_like(means)
    scores = torch.special.ndtri((torch.arange(_DRAWS) + 0.5).double() / _DRAWS)
    for step, own in enumerate(means):
        known = own[torch.isfinite(own)].double()
        margin = Margin(table, step, known.repeat_interleave(_DRAWS))
        told = margin.scores(margin.at(scores.repeat(len(known))[None])[0])
        variance[step, : len(known)] = told.square().view(-1, _DRAWS).mean(1)
    return replace(table, variance=variance)


def _of_step(forecast: Values, observed: Values, bound: float | None, whole: bool) -> tuple[Values, Values, Values]:
    """Return what a `Table` has of one lead time: the bins' means, chances to be at the bound, and quantiles."""
    count = int(np.clip(len(forecast) // _PER_BIN, 1, _BINS))
    ends = 0.5 ** np.arange(1, 1 + max(0, int(np.log2(len(forecast) / count / _PER_BIN)))) / count
    edges = np.unique(np.quantile(forecast, np.sort([*np.arange(1, count) / count, *ends, *(1 - ends)])))
    found, number = np.unique(np.searchsorted(edges, forecast, side="right"), return_inverse=True)
    weights = np.bincount(number).astype(np.float64)
    means = np.bincount(number, forecast) / weights
    # A bin is as wide as forecasts there are few; the distribution at its mean is not.
    if bound is None:
        observed = observed + (means[number] - forecast)
    else:
        little = 1e-9 * (np.abs(means).max() + 1)
        ratio = (means[number] - bound).clip(little) / (forecast - bound).clip(little)
        observed = bound + (observed - bound) * ratio.clip(1 / _MOVED, _MOVED)
    if whole:
        observed = np.rint(observed)
    levels = _levels(observed)
    places = number * len(levels) + np.searchsorted(levels, observed)
    counts = np.bincount(places, minlength=len(found) * len(levels)).reshape(len(found), -1)
    below = _falling(counts.cumsum(1) / weights[:, None], weights)
    if bound is None:
        at_bound = np.zeros(len(found))
    else:
        at_bound = below[:, np.searchsorted(levels, bound)]
        levels, below = levels[levels >= bound], below[:, levels >= bound]
    scores = torch.special.ndtr(torch.linspace(-3, 3, NODES, dtype=torch.float64)).numpy()
    quantiles = np.full((len(found), NODES), levels[0])
    for i in range(len(found))[::-1]:
        if weights[i] * (1 - at_bound[i]) >= _FEW:
            quantiles[i] = np.interp(scores, (below[i] - at_bound[i]) / (1 - at_bound[i]), levels)
        elif i + 1 < len(found):
            quantiles[i] = quantiles[i + 1]
    return means, at_bound, quantiles


def _levels(observed: Values) -> Values:
    """Return ascending values at which chances to be at most so large are counted.

    What is observed often is there twice, as itself and as the number before it: the chance makes a step there.
    """
    values, counts = np.unique(observed, return_counts=True)
    often = values
    if len(values) > _LEVELS // 2:
        often = values[counts >= _OFTEN * len(observed)]
        ends = 0.5 ** np.arange(9, 1 + np.log2(len(observed)))
        values = np.quantile(observed, [*np.linspace(0, 1, _LEVELS), *ends, *(1 - ends)])
    return np.unique(np.concatenate([values, often, np.nextafter(often, -np.inf)]))


def _falling(shares: Values, weights: Values) -> Values:
    """Return what is nearest to shares (bin, level) by weighted least squares and never rises from bin to bin.

    The pooled mean of adjacent violators, by its formula: the least over first bins of the greatest over last ones.
    """
    total = np.concatenate([[0.0], weights.cumsum()])[:, None]
    sums = np.concatenate([np.zeros((1, shares.shape[1])), (shares * weights[:, None]).cumsum(0)])
    result = np.full(shares.shape, np.inf)
    for first in range(len(weights)):
        means = (sums[first + 1 :] - sums[first]) / (total[first + 1 :] - total[first])
        result[first:] = np.minimum(result[first:], np.maximum.accumulate(means[::-1])[::-1])
    return result


class Dependence:
    """Sums by which the correlations of normal scores in space, and from a lead time to the next, are known.

    Parameters
    ----------
    table : Table
        With the margins.
    shape : tuple of int
        Rows and columns.

    Notes
    -----
    Where many values are equal, one tells its normal score only roughly: what is known is the mean h over the scores
    that have this value, of variance v. By Hermite's polynomials the covariance of h at two pixels, whose scores have
    the correlation r, is v² r + (v - v²) r² to second order. That is solved for r, with sums over pixels in place of
    single ones. Missing pixels count nothing.
    """

    def __init__(self, table: Table, shape: tuple[int, int]) -> None:
        self.table, self.shape = table, shape
        reach = min(max(shape) - 1, _RINGS[-1])
        edges = [r for r in _RINGS if r <= reach]
        self.domain = tuple(n + min(n - 1, reach) for n in shape)
        apart = [np.minimum(np.arange(n), n - np.arange(n)) for n in self.domain]
        # Longer ones than the domain was widened by are no distances.
        known = [np.where(a <= reach, np.maximum(n - a, 0), 0) for a, n in zip(apart, shape, strict=True)]
        distance, pairs = np.hypot(apart[0][:, None], apart[1]), np.multiply.outer(*known)
        middles = (np.array(edges[1:]) + edges[:-1]) / 2
        self._ring = np.where((pairs > 0) & (distance <= reach), np.searchsorted(middles, distance), len(edges)).ravel()
        inside = np.bincount(self._ring, pairs.ravel(), len(edges) + 1)[:-1]
        self.radii = np.bincount(self._ring, (pairs * distance).ravel(), len(edges) + 1)[:-1] / inside
        self._sums = np.zeros((2, 2, len(table.means), len(edges)))

    def add(self, forecast: Values, observed: Values) -> None:
        """Add one forecast, (steps, rows, columns), and what was observed; NaN where it is missing."""
        there = np.isfinite(forecast) & np.isfinite(observed)
        fields = np.zeros((2, *there.shape))
        for step, known in enumerate(there):
            given, seen = (torch.split(torch.from_numpy(v[step][known]), PIXELS) for v in (forecast, observed))
            parts = [Margin(self.table, step, one) for one in given]
            scores = [margin.scores(one) for margin, one in zip(parts, seen, strict=True)]
            fields[0, step][known] = torch.cat(scores).numpy()
            fields[1, step][known] = torch.cat([margin.variance() for margin in parts]).numpy()
        waves = np.fft.rfft2(fields, self.domain)
        for lag in (0, 1):
            products = waves[:, lag:] * waves[:, : len(there) - lag].conj()
            for which, step in np.ndindex(products.shape[:2]):
                map_of = np.fft.irfft2(products[which, step], self.domain).ravel()
                sums = np.bincount(self._ring, map_of, len(self.radii) + 1)[:-1]
                self._sums[lag, which, step + lag] += sums

    def table_of(self) -> Table:
        """Return the table with these correlations."""
        products, variances = self._sums[:, 0], self._sums[:, 1]
        known = variances > 1e-9 * variances.max(initial=1e-300)
        ratio = np.where(known, products / np.where(known, variances, 1.0), 0.0)
        curved = (ratio[:1, :, :1] - 1).clip(min=0)
        curved = np.concatenate([curved, (curved + np.roll(curved, 1, 1)) / 2])
        correlations = np.clip(2 * ratio / (1 + np.sqrt(1 + 4 * curved * np.abs(ratio))), -1, 1)
        correlations[0, :, 0] = 1.0
        radii, alike, follows = (torch.from_numpy(part).float() for part in (self.radii, *correlations))
        return replace(self.table, radii=radii, alike=alike, follows=follows)
