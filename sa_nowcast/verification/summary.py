"""Scores by lead time, from additive statistics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing import quiet
from sa_nowcast.errors import RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.times import numbered
from sa_nowcast.verification.bootstrap import Bootstrap, drawn_weights, resample
from sa_nowcast.verification.ensembles import consistent
from sa_nowcast.verification.fields import EVENT_DIMS
from sa_nowcast.verification.metrics import COUNTS, METRICS, Metric
from sa_nowcast.verification.spectra import WAVELENGTH
from sa_nowcast.verification.statistics import Labels, Statistics

_ORDER = (dims.LEAD_TIME, dims.VARIABLE, "channel", *EVENT_DIMS)
_ENDS = ("lower", "upper")
_COORD_ATTRS = {
    dims.LEAD_TIME: dims.LEAD_TIME_ATTRS,
    dims.VARIABLE: {"long_name": "variable"},
    "channel": {"long_name": "channel"},
    **EVENT_DIMS,
}


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
    total = forecast.sum("init_time")
    metrics = [METRICS[name] for name in labels.metrics]
    scores = xr.Dataset({metric.name: _score(metric, total, labels.members, labels) for metric in metrics})
    how = bootstrap or Bootstrap()
    weights, block = drawn_weights(forecast["init_time"].values, forecast["lead_time"].values, how)
    told = f"circular block bootstrap over init times, {how.samples} samples, blocks of {block}"
    if weights is not None and how.scores:
        samples = resample(forecast, weights).assign(members=labels.members)
        for metric in metrics:
            _add_ends(scores, metric.name, metric.formula(samples), how.level, told)
    if weights is not None and "observed_frequency" in scores:
        ends = consistent(forecast, weights, how.level, how.seed)
        also = f"{told}; binomial, with as many independent pixels as these samples tell"
        for end, limit in zip(_ENDS, ends, strict=True):
            words = f"{end} end of where {how.level:.0%} of frequencies lie if the probabilities are right"
            limit.attrs = {"long_name": words, "convention": also, "units": "1"}
            scores[f"observed_frequency_consistent_{end}"] = limit
    if sums.reference is not None:
        reference, _ = _sample(sums.reference, wanted)
        _add_reference(scores, forecast, reference, labels, how, weights, told)
    for name in dict.fromkeys(("pixels", *(metric.count for metric in metrics))):
        count = total[name].astype(np.int64)
        count.attrs = {"long_name": f"number of {COUNTS[name]}", "units": "1"}
        scores["count" if name == "pixels" else name] = count
    scores["forecasts"] = (forecast["pixels"] > 0).sum("init_time")
    scores["forecasts"].attrs = {"long_name": "number of forecasts with a pixel scored", "units": "1"}
    scores.attrs.update(
        title=f"verification of {labels.label}",
        Conventions="CF-1.11",
        sample=used,
        scored_variable=labels.label,
    )
    if labels.reference is not None:
        scores.attrs["reference"] = labels.reference
    for dim in _COORD_ATTRS.keys() & scores.coords.keys():
        scores[dim].attrs.update(_COORD_ATTRS[str(dim)])
    if "threshold" in scores.coords and labels.units is not None:
        scores["threshold"].attrs["units"] = labels.units
    if WAVELENGTH in scores.coords and labels.settings.rings is not None:
        scores[WAVELENGTH].attrs["units"] = labels.settings.rings.units
    absent = [dim for dim in ("variable", "channel") if dim not in labels.present and dim in scores.dims]
    scores = scores.squeeze(absent, drop=True) if absent else scores
    scores = scores.transpose(*(dim for dim in _ORDER if dim in scores.dims))
    return scores.rename(channel=labels.channel_name) if "channel" in scores.dims else scores


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
    if "{}" not in metric.units:
        score.attrs["units"] = metric.units
    elif labels.units is not None:
        score.attrs["units"] = "1" if labels.units in ("1", "") else metric.units.format(labels.units)
    if metric.sums.data_range:
        score.attrs["data_range"] = list(labels.settings.data_range)
        score.attrs["forecast_clipped"] = str(labels.settings.clip or metric.name.endswith("uint8")).lower()
    return score


def _skill(score: xr.DataArray, reference: xr.DataArray, perfect: float) -> xr.DataArray:
    distance = perfect - reference
    return (score - reference) / distance.where(distance != 0)


def _add_reference(
    scores: xr.Dataset,
    forecast: xr.Dataset,
    reference: xr.Dataset,
    labels: Labels,
    how: Bootstrap,
    weights: npt.NDArray[np.float64] | None,
    told: str,
) -> None:
    """Add the scores of the reference, and the skills against it with their intervals."""
    name = labels.reference
    drawn = None
    if weights is not None:
        drawn = (
            resample(forecast, weights).assign(members=labels.members),
            resample(reference, weights).assign(members=labels.reference_members),
        )
    total = reference.sum("init_time")
    for metric in (METRICS[name] for name in labels.metrics):
        if metric.ensemble and labels.reference_members < 2:
            continue
        other = _score(metric, total, labels.reference_members, labels)
        if any(not other[dim].equals(scores[metric.name][dim]) for dim in ("rank", "probability") if dim in other.dims):
            continue  # ensembles of other sizes have other ranks and probabilities
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
        if drawn is None:
            continue
        samples = _skill(metric.formula(drawn[0]), metric.formula(drawn[1]), metric.perfect)
        _add_ends(scores, f"{metric.name}_skill", samples, how.level, told)


def _add_ends(scores: xr.Dataset, name: str, samples: xr.DataArray, level: float, told: str) -> None:
    """Add the ends of the interval of the score or skill of this name."""
    of = scores[name].attrs
    for end, share in zip(_ENDS, ((1 - level) / 2, (1 + level) / 2), strict=True):
        limit = _quantile(samples, share)
        limit.attrs = {"long_name": f"{end} end of the {level:.0%} interval of the {of['long_name']}"}
        limit.attrs |= {"convention": told} | ({"units": of["units"]} if "units" in of else {})
        scores[f"{name}_{end}"] = limit


def _quantile(samples: xr.DataArray, share: float) -> xr.DataArray:
    """Return a quantile over the samples in which the skill is defined; NaN where there is none."""
    with quiet.warnings_ignored(RuntimeWarning, "All-NaN slice"):
        return samples.where(np.isfinite(samples)).quantile(share, "sample").drop_vars("quantile")
