"""Ensembles and probabilities: the sums over pixels that their scores are made of, and the formulas over them.

The Brier score, its parts, the reliability diagram, the ROC curve and the economic value are formulas over one table
for each threshold: of the pixels with and without the event, by how many of the members have it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing import quiet
from sa_nowcast.verification.bootstrap import resample
from sa_nowcast.verification.fields import SPREAD_CLASSES, Array, Fields, Mask, Sums, over_pixels, ratio

COST_LOSS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The cost-loss ratios for which the economic value is given: rare severe events are decided on at small ones."""

# What variance rounding alone gives to equal values, as a share of their mean square.
_ROUNDING: Final = 1e-12

SPREAD_BINS: Final = 10
"""Bins of equal numbers of pixels, by spread, in which the error of the mean is compared with it."""

Keys = npt.NDArray[np.uint64]


# --- the sums


def distances(ordered: Array, truth: Array) -> tuple[Array, Array]:
    """Return sums over pixels of the mean of |x_j - y|, and of 1/M times the sum over all pairs of |x_j - x_k|.

    The pairs are summed by order: the sum over j < k is that over i of (2 i - M - 1) x_(i).
    """
    size = len(ordered)
    error, distance = np.zeros_like(truth), np.zeros_like(truth)
    for place, member in enumerate(ordered, start=1):
        error += np.abs(member - truth)
        distance += (2.0 * place - size - 1) * member
    return over_pixels(error / size), over_pixels(distance * (2.0 / size))


def crps_terms(fields: Fields) -> Sums:
    """Return the distances of members from the truth and from each other."""
    return dict(zip(("member_error", "member_distance"), distances(fields.ordered, fields.truth), strict=True))


def tail_terms(fields: Fields) -> Sums:
    """Return the same of members and truth raised to each threshold, (I, V, L, C, threshold)."""
    thresholds = fields.settings.thresholds
    terms = [distances(np.maximum(fields.ordered, t), np.maximum(fields.truth, t)) for t in thresholds]
    names = ("tail_error", "tail_distance")
    return {name: np.stack(parts, axis=-1) for name, parts in zip(names, zip(*terms, strict=True), strict=True)}


def spread_terms(fields: Fields) -> Sums:
    """Return the moments of the standard deviation of the members and of the absolute error of their mean."""
    variance = fields.members.var(axis=0, ddof=1) if len(fields.members) > 1 else np.zeros_like(fields.truth)
    spread, error = np.sqrt(variance), np.abs(fields.forecast - fields.truth)
    return {
        "variance": over_pixels(variance),
        "spread": over_pixels(spread),
        "squared_error": over_pixels(error * error),
        "absolute_error": over_pixels(error),
        "spread_and_error": over_pixels(spread * error),
    }


def spread_classes(fields: Fields) -> Sums:
    """Return pixels, variance of the members and squared error of their mean by classes of the spread.

    Shapes (I, V, L, C, class). The classes of `SPREAD_CLASSES` do not depend on the data, so that sums can be added.
    """
    variance = fields.members.var(axis=0, ddof=1) if len(fields.members) > 1 else np.zeros_like(fields.truth)
    error = (fields.forecast - fields.truth) ** 2
    # What rounding alone gives to equal members is no spread.
    present = variance > _ROUNDING * fields.forecast**2
    octaves = 0.5 * np.log2(np.where(present, variance, 1.0)) + 30.0
    place = np.where(present, np.clip(np.floor(4.0 * octaves) + 1, 1, SPREAD_CLASSES - 1), 0).astype(np.int32)
    terms = {"class_pixels": None, "class_variance": variance, "class_squared_error": error}
    return {name: counted(place, fields.mask, SPREAD_CLASSES, each) for name, each in terms.items()}


def ranks(fields: Fields) -> Sums:
    """Count the pixels by the truth's rank among the members, (I, V, L, C, rank); a tie is broken at random."""
    below, equal = np.zeros(fields.mask.shape, dtype=np.int32), np.zeros(fields.mask.shape, dtype=np.int32)
    for member in fields.members:
        below += member < fields.truth
        equal += member == fields.truth
    below += (uniform(fields.keys) * (equal + 1)).astype(np.int32)
    return {"rank_count": counted(below, fields.mask, len(fields.members) + 1)}


def probability_table(fields: Fields) -> Sums:
    """Count the pixels with and without the event by how many members have it, (I, V, L, C, threshold, M + 1)."""
    tables = []
    size = len(fields.members) + 1
    for threshold in fields.settings.thresholds:
        number, seen = fields.events(threshold)
        tables.append(counted(number + np.int32(size) * seen, fields.mask, 2 * size))
    table = np.stack(tables, axis=-2)
    return {"without_event": table[..., :size], "with_event": table[..., size:]}


def counted(values: npt.NDArray[np.integer[Any]], mask: Mask, size: int, weights: Array | None = None) -> Array:
    """Count how often each of 0..size - 1 stands in a frame, over the pixels present; (..., size).

    With `weights`, of the values' shape, return their sums in place of the numbers.
    """
    frames = int(np.prod(mask.shape[:-2]))
    each = values.reshape(frames, -1) + size * np.arange(frames)[:, None]
    there = mask.reshape(frames, -1)
    of = None if weights is None else weights.reshape(frames, -1)[there]
    numbers = np.bincount(each[there], of, minlength=size * frames)
    return numbers.reshape(*mask.shape[:-2], size).astype(np.float64)


# --- draws that are a function of the place


def mixed(values: Keys) -> Keys:
    """Return numbers whose bits look independent of those given (the output function of SplitMix64).

    Source: Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195
    """
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def axis_keys(labels: npt.NDArray[Any], axis: int) -> Keys:
    """Return numbers for the places along an axis, from its labels: times and numbers by value, others by position."""
    if labels.dtype.kind in "mM":
        values = labels.astype(f"{labels.dtype.kind}8[ns]").astype(np.int64).view(np.uint64)
    elif labels.dtype.kind in "iuf":
        values = (labels.astype(np.float64) + 0.0).view(np.uint64)  # -0 is 0
    else:
        values = np.arange(labels.size, dtype=np.uint64)
    return mixed(values ^ mixed(np.full(1, axis, dtype=np.uint64)))


def uniform(keys: tuple[Keys, ...]) -> Array:
    """Return numbers in [0, 1) at every place that the keys of its axes span."""
    # The sum is the same in whatever order the axes lie.
    total = sum(key.reshape(-1, *[1] * (len(keys) - 1 - axis)) for axis, key in enumerate(keys))
    return np.asarray((mixed(np.asarray(total)) >> np.uint64(11)) * 2.0**-53)


# --- the formulas


def crps(s: xr.Dataset, pairs: xr.DataArray, kind: str = "member") -> xr.DataArray:
    """Return the mean of |x - y| less half the distance of members, summed over pairs and divided by M `pairs`."""
    return ratio(s[f"{kind}_error"] - 0.5 * s[f"{kind}_distance"] / pairs, s["pixels"])


def spread_skill(s: xr.Dataset) -> xr.DataArray:
    """Return the root of (M + 1) / M times the mean variance over the mean squared error of the ensemble mean."""
    return ((s["members"] + 1) / s["members"] * ratio(s["variance"], s["squared_error"])) ** 0.5


def binned(s: xr.Dataset, name: str) -> xr.DataArray:
    """Return sums of the classes of spread in bins: 0 without spread, then `SPREAD_BINS` of equal numbers of pixels.

    A class across the edge of two bins is divided between them by its number of pixels.
    """
    count, values = (s[each].isel(spread_class=slice(1, None)) for each in ("class_pixels", name))
    before = count.cumsum("spread_class") - count
    total = count.sum("spread_class")
    mean = values / _positive(count)
    parts = [s[name].isel(spread_class=0)]
    for number in range(SPREAD_BINS):
        low, high = (total * (each / SPREAD_BINS) for each in (number, number + 1))
        within = (np.minimum(before + count, high) - np.maximum(before, low)).clip(min=0.0)
        parts.append((mean * within).sum("spread_class"))
    bins = xr.DataArray(np.arange(SPREAD_BINS + 1), dims="spread_bin", name="spread_bin")
    return xr.concat(parts, bins, coords="minimal", compat="override").drop_vars("spread_class", errors="ignore")


def binned_spread(s: xr.Dataset) -> xr.DataArray:
    """Return the root of (M + 1) / M times the mean variance in each bin."""
    return ((s["members"] + 1) / s["members"] * ratio(binned(s, "class_variance"), binned(s, "class_pixels"))) ** 0.5


def binned_rmse(s: xr.Dataset) -> xr.DataArray:
    """Return the root of the mean squared error of the ensemble mean in each bin."""
    return ratio(binned(s, "class_squared_error"), binned(s, "class_pixels")) ** 0.5


def binned_share(s: xr.Dataset) -> xr.DataArray:
    """Return the share of pixels in each bin."""
    return ratio(binned(s, "class_pixels"), s["pixels"])


def spread_error_correlation(s: xr.Dataset) -> xr.DataArray:
    """Return Pearson's correlation over pixels of the spread with the absolute error; NaN where one is constant."""
    spread, error = ratio(s["spread"], s["pixels"]), ratio(s["absolute_error"], s["pixels"])
    covariance = ratio(s["spread_and_error"], s["pixels"]) - spread * error
    squares = [ratio(s[name], s["pixels"]) for name in ("variance", "squared_error")]
    first, second = (
        (square - mean**2).where(square - mean**2 > _ROUNDING * square)
        for square, mean in zip(squares, (spread, error), strict=True)
    )
    return covariance / (first * second) ** 0.5


def brier(s: xr.Dataset) -> xr.DataArray:
    """Return the mean of (i / M - o)², with i of M members."""
    p = s["probability"]
    return ratio((s["with_event"] * (1 - p) ** 2 + s["without_event"] * p**2).sum("probability"), s["pixels"])


def brier_fair(s: xr.Dataset) -> xr.DataArray:
    """Return the Brier score less i (M - i) / (M² (M - 1)), what the number of members alone adds to it."""
    p = s["probability"]
    excess = (_forecasts(s) * p * (1 - p)).sum("probability") / (s["members"] - 1)
    return brier(s) - ratio(excess, s["pixels"])


def brier_reliability(s: xr.Dataset) -> xr.DataArray:
    """Return the mean over forecasts of (i / M - frequency of the event given i)²."""
    weighted = _forecasts(s) * (s["probability"] - observed_frequency(s)) ** 2
    return ratio(weighted.sum("probability"), s["pixels"])


def brier_resolution(s: xr.Dataset) -> xr.DataArray:
    """Return the mean over forecasts of (frequency of the event given i - its frequency)²."""
    weighted = _forecasts(s) * (observed_frequency(s) - _base_rate(s)) ** 2
    return ratio(weighted.sum("probability"), s["pixels"])


def brier_uncertainty(s: xr.Dataset) -> xr.DataArray:
    """Return the variance of the event."""
    return _base_rate(s) * (1 - _base_rate(s))


def observed_frequency(s: xr.Dataset) -> xr.DataArray:
    """Return the frequency of the event given each forecast probability; NaN where that was never forecast."""
    return ratio(s["with_event"], _forecasts(s))


def forecast_share(s: xr.Dataset) -> xr.DataArray:
    """Return how often each probability was forecast."""
    return ratio(_forecasts(s), s["pixels"])


def hit_rate(s: xr.Dataset) -> xr.DataArray:
    """Return the share of events that were forecast with each probability or a higher one."""
    return _from_top(s["with_event"]) / _positive(s["with_event"].sum("probability"))


def false_alarm_rate(s: xr.Dataset) -> xr.DataArray:
    """Return the share of pixels without the event that were forecast with each probability or a higher one."""
    return _from_top(s["without_event"]) / _positive(s["without_event"].sum("probability"))


def roc_area(s: xr.Dataset) -> xr.DataArray:
    """Return the area under the ROC curve by trapezes: of a pair with and without the event, how often p is higher."""
    # Exact in whole numbers: each width times the mean height of its two ends.
    area = (s["without_event"] * (2 * _from_top(s["with_event"]) - s["with_event"])).sum("probability")
    events, others = s["with_event"].sum("probability"), s["without_event"].sum("probability")
    return area / _positive(2 * events * others)


def economic_value(s: xr.Dataset) -> xr.DataArray:
    """Return what the best use of the probabilities saves, as a share of what a perfect forecast would; by cost-loss.

    Expenses in units of the loss: whoever protects pays the cost, whoever does not pays the loss where the event comes.
    Climatology protects always or never. With the forecast one protects from the probability on that is best, or never.

    Source: Richardson 2000, https://doi.org/10.1002/qj.49712656313
    """
    cost = xr.DataArray(np.asarray(COST_LOSS), dims="cost_loss", coords={"cost_loss": np.asarray(COST_LOSS)})
    events = s["with_event"].sum("probability")
    total = events + s["without_event"].sum("probability")
    hits = _from_top(s["with_event"])
    protected = hits + _from_top(s["without_event"])
    expense = (cost * protected + events - hits).min("probability")
    never = events.broadcast_like(expense)
    climate = never.where(never < cost * total, cost * total)
    return (climate - expense.where(expense < never, never)) / _positive(climate - cost * events)


def consistent(sums: xr.Dataset, weights: Array, level: float, seed: int) -> tuple[xr.DataArray, xr.DataArray]:
    """Return between which ends the frequency of the event given each probability lies if the probability is right.

    As many events are drawn of a binomial distribution as there are independent forecasts: f (1 - f) by the variance of
    the frequency f over samples of blocks of init times, for pixels near each other have their events in common. Where
    f is 0 or 1, it is as many of the forecasts as at the probability at which they are fewest.

    Parameters
    ----------
    sums : Dataset
        By init time.
    weights : ndarray, (samples, init_time)
        How often each init time is drawn in each sample.
    level : float
        The share of samples between the two ends.
    seed : int

    Notes
    -----
    Bröcker and Smith 2007, https://doi.org/10.1175/WAF993.1, who draw independent forecasts.
    """
    table = sums[["with_event", "without_event"]]
    total, drawn = table.sum("init_time"), resample(table, weights)
    number, frequency = _forecasts(total), observed_frequency(total)
    uncertain = (frequency * (1 - frequency)).where(lambda each: each > 0)
    variance = observed_frequency(drawn).var("sample")
    independent = uncertain / _positive(variance)
    independent = number.where(independent > number, independent)
    share = (independent / _positive(number)).min("probability").fillna(1.0)
    independent = independent.fillna(number * share).clip(min=1.0)
    times = _forecasts(drawn) / _positive(number)
    draws = (independent * times).fillna(0.0).round().clip(min=1.0).astype(np.int64)
    p = total["probability"].broadcast_like(draws).transpose(*draws.dims)
    events = draws.copy(data=np.random.default_rng(seed).binomial(draws.values, p.values))
    samples = (events / draws).where(number > 0)
    with quiet.warnings_ignored(RuntimeWarning, "All-NaN slice"):
        ends = samples.quantile([(1 - level) / 2, (1 + level) / 2], "sample")
    low, high = (ends.isel(quantile=i, drop=True) for i in (0, 1))
    return low, high


def _forecasts(s: xr.Dataset) -> xr.DataArray:
    return s["with_event"] + s["without_event"]


def _base_rate(s: xr.Dataset) -> xr.DataArray:
    return ratio(s["with_event"].sum("probability"), s["pixels"])


def _from_top(counts: xr.DataArray) -> xr.DataArray:
    """Return for each probability the number of those with it or a higher one."""
    return counts.sum("probability") - counts.cumsum("probability") + counts


def _positive(values: xr.DataArray) -> xr.DataArray:
    return values.where(values > 0)
