"""Scores of a forecast archive by lead time, from additive statistics."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.times import numbered
from sa_nowcast.verification.bootstrap import block_length, block_weights, resample
from sa_nowcast.verification.collect import collect_statistics
from sa_nowcast.verification.left_out import say_left_out, without_pixels
from sa_nowcast.verification.metrics import METRICS, Metric
from sa_nowcast.verification.statistics import Labels, Statistics

COORD_ATTRS = {
    "lead_time": {"standard_name": "forecast_period", "long_name": "lead time"},
    "threshold": {"long_name": "event threshold"},
    "neighbourhood": {"long_name": "width of the square neighbourhood in pixels", "units": "1"},
    "rank": {"long_name": "rank of the truth among the members", "units": "1"},
    "variable": {"long_name": "variable"},
    "channel": {"long_name": "channel"},
}


@dataclass(frozen=True)
class Bootstrap:
    """How the interval of a skill is made.

    Attributes
    ----------
    samples : int, default 1000
        The number of resampled archives; 0 makes no interval.
    level : float, default 0.9
        The share of samples between the lower and the upper end.
    block : int, optional
        Successive init times drawn together; by default what :func:`~sa_nowcast.verification.bootstrap.block_length`
        finds.
    seed : int, default 0
        The same seed gives the same interval.
    """

    samples: int = 1000
    level: float = 0.9
    block: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 0 or not 0 < self.level < 1 or (self.block is not None and self.block < 1):
            raise RecipeError("bootstrap", f"is {self}", "samples >= 0, a level between 0 and 1, a block of at least 1")


def verify(
    forecast: xr.DataArray,
    truth: xr.DataArray | xr.Dataset,
    metrics: Sequence[str] | None = None,
    thresholds: Sequence[float | str] | xr.DataArray | None = None,
    reference: str | xr.DataArray | None = None,
    *,
    reference_name: str | None = None,
    neighbourhoods: Sequence[int] | None = None,
    data_range: tuple[float, float] = (0.0, 1.0),
    clip: bool = False,
    valid_times: str | None = None,
    bootstrap: Bootstrap | None = None,
    time: Hashable | None = None,
) -> xr.Dataset:
    """Score `forecast` against `truth` by lead time.

    Truth is chosen by coordinate: the frame at init_time + lead_time. A pixel that is missing in the truth, in any
    member of the forecast or in the reference takes no part. The archive is reduced block by block along init time,
    by dask where it is dask-backed, so that it may be larger than memory.

    Parameters
    ----------
    forecast : DataArray, dims ([realization,] [init_time,] [variable,] lead_time, [channel,] y, x), any order
        One forecast or an archive. Of an ensemble, the deterministic metrics score the mean of the members.
    truth : DataArray or Dataset, dims (time, [channel,] y, x)
        The observations, in the forecast's units and on its grid.
    metrics : sequence of str, optional
        Names from :data:`sa_nowcast.verification.METRICS`, in any case; "ssim" and "psnr" stand for all their
        conventions. By default mse, and csi where there are thresholds.
    thresholds : sequence of float or str, or DataArray, optional
        Events are values ``>=`` a threshold in the data's units, both as float32; text such as ``"1 mm h-1"`` is
        checked against them. By default 0.1 to 30 mm h-1 for rain rates.
    reference : "persistence" or DataArray, optional
        Adds scores named ``mse_persistence`` and skills ``mse_skill``. Persistence is the truth at init time; a
        DataArray has at least the forecast's init and lead times.
    reference_name : str, optional
        Stands in place of "reference" in the names where `reference` is a DataArray without a name.
    neighbourhoods : sequence of int, optional
        Odd window widths of the FSS in pixels; 1, 5 and 11 by default.
    data_range : tuple of float, default (0, 1)
        The physical values that stand for 0 and 1 in frame_mse, frame_mae, ssim and psnr.
    clip : bool, default False
        Clip the forecast to `data_range` in those metrics.
    valid_times : {"common", "all"}, optional
        The sample: all pairs, or those whose valid times all lead times share, so that lead times are compared on
        the same truth. By default "common" with a reference and "all" without. Where the lead times share none, as in
        a single forecast, all pairs are taken, and the attribute ``sample`` says so.
    bootstrap : Bootstrap, optional
        How the interval of the skill is made: 1000 samples, 90 % by default.
    time : hashable, optional
        The time dimension of `truth`; found by its CF attributes, type or name otherwise.

    Returns
    -------
    Dataset, dims (lead_time, [variable,] [channel,] and threshold, neighbourhood, rank where a metric has them)
        A variable for each metric, with ``<metric>_<reference>``, ``<metric>_skill``, ``<metric>_skill_lower`` and
        ``<metric>_skill_upper``; the pixels and forecasts that count as ``count`` and ``forecasts``. Scores are NaN
        where they are undefined, such as the CSI without any event.

    Warns
    -----
    ForecastWarning
        Where no pixel of some forecasts is scored, as those of a reference that found too little rain: it is said how
        many, and which of the forecast, the reference and the truth has no value. The attribute ``left_out`` keeps it.

    Raises
    ------
    DataError
        If truth lacks valid times, or the units, grids or labels differ.
    RecipeError
        If a metric, threshold or other argument is not valid.

    Notes
    -----
    Skill is ``1 - score / score of the reference`` for scores that are 0 when perfect, else
    ``(score - reference) / (perfect - reference)``.
    """
    sums = collect_statistics(
        forecast,
        truth,
        metrics,
        thresholds=thresholds,
        neighbourhoods=neighbourhoods,
        reference=reference,
        reference_name=reference_name,
        data_range=data_range,
        clip=clip,
        time=time,
    )
    scores = summarise(sums, valid_times=valid_times, bootstrap=bootstrap)
    compared = {str(forecast.name or "the forecast"): forecast}
    if isinstance(reference, xr.DataArray):
        compared[str(reference_name or reference.name or "the reference")] = reference
    say_left_out({"": scores}, without_pixels(sums), compared)
    return scores


def summarise(sums: Statistics, *, valid_times: str | None = None, bootstrap: Bootstrap | None = None) -> xr.Dataset:
    """Return the scores of `sums`, as :func:`verify` does.

    Parameters
    ----------
    sums : Statistics
        Of one archive, or of several that were added.
    valid_times, bootstrap : optional
        As for :func:`verify`.

    Returns
    -------
    Dataset

    Raises
    ------
    RecipeError
        If `sums` is the zero, or an argument is not valid.
    """
    if sums.labels is None:
        raise RecipeError("statistics", "hold nothing", "those of at least one forecast")
    if valid_times not in (None, "common", "all"):
        raise RecipeError("valid_times", f"is {valid_times!r}", '"common" or "all"')
    labels = sums.labels
    wanted = valid_times or ("all" if sums.reference is None else "common")
    forecast, used = _sample(sums.forecast, wanted)
    scores = xr.Dataset()
    for name in labels.metrics:
        metric = METRICS[name]
        scores[name] = _score(metric, _total(forecast), labels.members, labels)
    if sums.reference is not None:
        reference, _ = _sample(sums.reference, wanted)
        _add_reference(scores, forecast, reference, labels, bootstrap or Bootstrap())
    _add_counts(scores, forecast, labels)
    scores.attrs.update(
        title=f"verification of {labels.label}",
        Conventions="CF-1.11",
        sample=used,
        scored_variable=labels.label,
    )
    if labels.reference is not None:
        scores.attrs["reference"] = labels.reference
    for dim, attrs in COORD_ATTRS.items():
        if dim in scores.coords:
            scores[dim].attrs.update(attrs)
    if "threshold" in scores.coords and labels.units is not None:
        scores["threshold"].attrs["units"] = labels.units
    absent = [dim for dim in ("variable", "channel") if dim not in labels.present and dim in scores.dims]
    scores = scores.squeeze(absent, drop=True) if absent else scores
    order = ("lead_time", "variable", "channel", "threshold", "neighbourhood", "rank")
    scores = scores.transpose(*(dim for dim in order if dim in scores.dims))
    return scores.rename(channel=labels.channel_name) if "channel" in scores.dims else scores


def _total(sums: xr.Dataset) -> xr.Dataset:
    return sums.sum("init_time")


def _sample(sums: xr.Dataset, wanted: str) -> tuple[xr.Dataset, str]:
    """Return the sums of the sample, others set to zero, and the words for it."""
    if wanted == "all":
        return sums, "all pairs of init time and lead time"
    common = common_pairs(sums["init_time"].values, sums["lead_time"].values)
    if not common.any():
        return sums, "all pairs of init time and lead time (the lead times share no valid time)"
    keep = xr.DataArray(common, dims=("init_time", "lead_time"))
    return sums.where(keep, 0.0), "the valid times that all lead times share"


def common_pairs(
    init_times: npt.NDArray[np.datetime64], lead_times: npt.NDArray[np.timedelta64]
) -> npt.NDArray[np.bool_]:
    """Return which pairs have a valid time that every lead time has, shape (init_time, lead_time)."""
    if lead_times.size < 2:
        return np.ones((init_times.size, lead_times.size), dtype=bool)
    valid = numbered(init_times[:, None] + lead_times[None, :], np.abs(np.diff(np.sort(lead_times))).min())
    times, number = np.unique(valid, return_counts=True)
    return np.isin(valid, times[number == lead_times.size])


def _score(metric: Metric, sums: xr.Dataset, members: int, labels: Labels) -> xr.DataArray:
    score = metric.formula(sums.assign(members=members))
    score.attrs = {"long_name": metric.long_name, "convention": metric.convention}
    if labels.units is not None or "{}" not in metric.units:
        score.attrs["units"] = _power(metric.units, labels.units)
    if metric.kind in ("frame_errors", "peak_ratios", "similarity"):
        low, high = labels.settings.data_range
        score.attrs["data_range"] = [low, high]
        score.attrs["forecast_clipped"] = str(labels.settings.clip or metric.name.endswith("uint8")).lower()
    return score


def _power(template: str, units: str | None) -> str:
    if units in (None, "1", "") and "{}" in template:
        return "1"
    return template.format(units)


def _skill(score: xr.DataArray, reference: xr.DataArray, perfect: float) -> xr.DataArray:
    distance = perfect - reference
    return (score - reference) / distance.where(distance != 0)


def _add_reference(
    scores: xr.Dataset, forecast: xr.Dataset, reference: xr.Dataset, labels: Labels, how: Bootstrap
) -> None:
    name = labels.reference
    init, lead = forecast["init_time"].values, forecast["lead_time"].values
    block = how.block or block_length(init, lead)
    weights = None
    if how.samples and init.size >= 2 * block:
        weights = block_weights(init.size, block, how.samples, how.seed)
        drawn = resample(forecast, weights), resample(reference, weights)
    total = _total(reference)
    for metric in (METRICS[name] for name in labels.metrics):
        if metric.ensemble and labels.reference_members < 2:
            continue
        other = _score(metric, total, labels.reference_members, labels)
        other.attrs["long_name"] += f" of {name}"
        scores[f"{metric.name}_{name}"] = other
        if metric.perfect is None:
            continue
        skill = _skill(scores[metric.name], other, metric.perfect)
        skill.attrs = {
            "long_name": f"skill of the {metric.long_name} against {name}",
            "convention": "1 - score / reference" if metric.perfect == 0 else "(score - reference) / (1 - reference)",
            "units": "1",
        }
        scores[f"{metric.name}_skill"] = skill
        if weights is None:
            continue
        samples = _skill(
            metric.formula(drawn[0].assign(members=labels.members)),
            metric.formula(drawn[1].assign(members=labels.reference_members)),
            metric.perfect,
        )
        for end, share in (("lower", (1 - how.level) / 2), ("upper", (1 + how.level) / 2)):
            limit = _quantile(samples, share)
            limit.attrs = {
                "long_name": f"{end} end of the {how.level:.0%} interval of the {skill.attrs['long_name']}",
                "convention": f"circular block bootstrap over init times, {how.samples} samples, blocks of {block}",
                "units": "1",
            }
            scores[f"{metric.name}_skill_{end}"] = limit


def _quantile(samples: xr.DataArray, share: float) -> xr.DataArray:
    """Return a quantile over the samples in which the skill is defined; NaN where there is none."""
    axis = samples.get_axis_num("sample")
    ordered = np.sort(samples.values, axis=axis)
    there = np.isfinite(samples.values).sum(axis=axis, keepdims=True)
    place = np.clip(share * (there - 1), 0, None)
    below = np.take_along_axis(ordered, np.floor(place).astype(np.intp), axis=axis)
    above = np.take_along_axis(ordered, np.ceil(place).astype(np.intp), axis=axis)
    values = below + (above - below) * (place - np.floor(place))
    return samples.isel(sample=0, drop=True).copy(data=np.squeeze(values, axis=axis))


def _add_counts(scores: xr.Dataset, forecast: xr.Dataset, labels: Labels) -> None:
    total = _total(forecast)
    texts = {"pixels": "pixels scored", "frames": "frames scored", "ssim_frames": "frames scored by ssim"}
    names = ["pixels", *(METRICS[name].count for name in labels.metrics)]
    for name in dict.fromkeys(names):
        count = total[name].astype(np.int64)
        count.attrs = {"long_name": f"number of {texts[name]}", "units": "1"}
        scores["count" if name == "pixels" else name] = count
    there = (forecast["pixels"] > 0).sum("init_time")
    there.attrs = {"long_name": "number of forecasts with a pixel scored", "units": "1"}
    scores["forecasts"] = there
