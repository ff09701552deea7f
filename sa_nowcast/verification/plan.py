"""Forecasts against truth: checked at once, on one sample, and scored."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import xarray as xr

from sa_nowcast.errors import ForecastWarning, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.bounds import UNIT_RANGE
from sa_nowcast.times import show_step
from sa_nowcast.verification.bootstrap import Bootstrap
from sa_nowcast.verification.collect import collect
from sa_nowcast.verification.inputs import Pairing, pair
from sa_nowcast.verification.metrics import METRICS, select_metrics
from sa_nowcast.verification.named import is_reference
from sa_nowcast.verification.sample import PAIR, Truth, on_common_times, on_one_grid, present_in, why_left_out
from sa_nowcast.verification.scoring import Scoring
from sa_nowcast.verification.statistics import Statistics
from sa_nowcast.verification.summary import summarise

PERSISTENCE = "persistence"


@dataclass(frozen=True)
class Plan:
    """Forecasts that were checked against truth and each other; no value was read.

    Attributes
    ----------
    scoring : Scoring
    pairings : mapping of str to Pairing
        Of each forecast that is scored, by its name.
    compared : mapping of str to DataArray
        All forecasts on one sample: a pixel that is missing in one takes no part in the scores of any.
    left_out : str
        Which init times and lead times were left out, as a clause; empty where none were.
    """

    scoring: Scoring
    pairings: Mapping[str, Pairing]
    compared: Mapping[str, xr.DataArray]
    left_out: str = ""

    def compute(self) -> dict[str, xr.Dataset]:
        """Return the scores of each forecast, and warn of init times of which no pixel is scored."""
        scores: dict[str, xr.Dataset] = {}
        lost: xr.DataArray | None = None
        for name, pairing in self.pairings.items():
            sums = collect(pairing)
            scores[name] = summarise(sums, valid_times=self.scoring.valid_times, bootstrap=self.scoring.bootstrap)
            if name:
                scores[name].attrs["compared_with"] = ", ".join(other for other in self.compared if other != name)
            pixels = sums.forecast["pixels"]
            empty = pixels.sum([dim for dim in pixels.dims if dim not in PAIR]).transpose(*PAIR) == 0
            lost = empty if lost is None else lost | empty
        if lost is not None and (text := why_left_out(lost, self.compared)):
            for each in scores.values():
                each.attrs["left_out"] = text
            warnings.warn(text, ForecastWarning, stacklevel=3)
        return scores

    def describe(self) -> str:
        """Return one line: which forecasts, how many, and against what."""
        told = self.as_dict()
        sizes = f"{told['init_times']} forecasts of {len(told['lead_times'])} lead times"
        return f"{', '.join(self.pairings)}: {sizes}, against {told['reference'] or 'nothing'}"

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        first = next(iter(self.pairings.values()))
        labels = [pairing.labels for pairing in self.pairings.values()]
        return {
            "archives": {name: dict(pairing.forecast.sizes) for name, pairing in self.pairings.items()},
            "init_times": first.forecast.sizes[dims.INIT_TIME],
            "lead_times": [show_step(lead) for lead in first.forecast[dims.LEAD_TIME].values],
            "metrics": list(dict.fromkeys(name for each in labels for name in each.metrics)),
            "thresholds": list(labels[0].settings.thresholds) if self.scoring.thresholds is not None else [],
            "scales": [scale.label for scale in labels[0].settings.scales],
            "reference": next((each.reference for each in labels if each.reference), None),
            "left_out": self.left_out,
        }


def plan(
    forecasts: xr.DataArray | dict[str, xr.DataArray],
    truth: Truth,
    scoring: Scoring = Scoring(),  # noqa: B008 - frozen
    reference: str | xr.DataArray | None = None,
    *,
    reference_name: str | None = None,
    time: Hashable | None = None,
    lacking: Literal["refuse", "skip"] = "refuse",
) -> Plan:
    """Check forecasts against truth and each other; no value of lazy ones is read.

    Parameters
    ----------
    forecasts : DataArray or dict of names to DataArrays
        One forecast, which stands under "" in the plan; or several that are scored on the sample that all have.
    truth, scoring, reference_name, time
        As for :func:`verify`.
    reference : str or DataArray, optional
        "persistence", a forecast, or the name of one of `forecasts`. A forecast beside several is one of the sample,
        under `reference_name`.
    lacking : {"refuse", "skip"}
        What is done with the init times of several forecasts for which truth lacks a frame.
    """
    if not isinstance(forecasts, dict):
        if isinstance(reference, str) and reference != PERSISTENCE:
            raise _unknown_reference(reference)
        pairing = pair(forecasts, truth, scoring, reference, reference_name=reference_name, time=time)
        compared = {str(forecasts.name or "the forecast"): pairing.forecast}
        if isinstance(reference, xr.DataArray) and pairing.reference is not None:
            compared[str(reference_name or reference.name or "the reference")] = pairing.reference
        return Plan(scoring, {"": pairing}, compared)
    everything = dict(forecasts)
    if not everything:
        raise RecipeError("forecasts", "none are given", "a mapping of names to forecasts")
    if isinstance(reference, xr.DataArray):
        everything[str(reference_name)] = reference
        reference = str(reference_name)
    if reference is not None and reference not in (known := (*everything, PERSISTENCE)):
        raise RecipeError("reference", f"{reference!r} is unknown", "one of " + ", ".join(known))
    needs_init = reference == PERSISTENCE and reference not in everything
    compared, left_out = on_common_times(everything, truth if lacking == "skip" else None, needs_init, time)
    compared = on_one_grid(compared)
    present = functools.reduce(lambda a, b: a & b, map(present_in, compared.values()))
    common = {name: forecast.where(present) for name, forecast in compared.items()}
    told = None if scoring.metrics is None else [metric.name for metric in select_metrics(scoring.metrics)]
    members = {name for name, forecast in common.items() if forecast.sizes.get(dims.REALIZATION, 1) > 1}
    pairings = {}
    for name in forecasts:
        own = told
        if told is not None and members and name not in members:
            own = [metric for metric in told if not METRICS[metric].ensemble]
            if not own and members.intersection(forecasts):
                continue
        against = None if reference == name else common.get(reference or "", reference)
        pairings[name] = pair(
            common[name],
            truth,
            replace(scoring, metrics=own or told),
            against,
            reference_name=reference if isinstance(against, xr.DataArray) else None,
            time=time,
        )
    return Plan(scoring, pairings, compared, left_out)


def verify(
    forecast: xr.DataArray,
    truth: xr.DataArray | xr.Dataset,
    metrics: Sequence[str] | None = None,
    thresholds: Sequence[float | str] | xr.DataArray | None = None,
    reference: str | xr.DataArray | None = None,
    *,
    reference_name: str | None = None,
    neighbourhoods: Sequence[int] | None = None,
    data_range: tuple[float, float] = UNIT_RANGE,
    clip: bool = False,
    valid_times: str | None = None,
    bootstrap: Bootstrap | None = None,
    scales: Sequence[str] | None = None,
    time: Hashable | None = None,
) -> xr.Dataset:
    """Score `forecast` against `truth` by lead time.

    Truth is chosen by coordinate: the frame at init_time + lead_time. A pixel that is missing in the truth, in any
    member of the forecast or in the reference takes no part. The archive is reduced block by block along init time,
    by dask where it is dask-backed, so that it may be larger than memory.

    Parameters
    ----------
    forecast : DataArray, dims ([realization,] [init_time,] [variable,] lead_time, [channel,] y, x), any order
        One forecast or an archive. Of an ensemble, the errors are those of the mean of its members, the scores of
        events are of the sums over its members, and its FSS is that of its probabilities.
    truth : DataArray or Dataset, dims (time, [channel,] y, x)
        The observations, in the forecast's units and on its grid.
    metrics : sequence of str, optional
        Names from :data:`sa_nowcast.verification.METRICS`, in any case; "ssim" and "psnr" stand for all their
        conventions, "roc", "reliability", "binned_spread_skill" and "spectra" for what their diagrams show. By default
        mse, and csi where there are thresholds.
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
        How intervals are made, those of skills and the bars of consistency of a reliability diagram: 1000 samples,
        90 % by default; ``Bootstrap(scores=True)`` gives each score one too.
    scales : sequence of str, optional
        What values are means over before they are scored, each a label of a dimension ``scale``: "pixel", an area such
        as "20 km" or "10 pixels", a time such as "1 h" of successive lead times, or both, "20 km 1 h". By default
        single pixels and lead times, without that dimension. Thresholds are those of the means, in the data's units.
    time : hashable, optional
        The time dimension of `truth`; found by its CF attributes, type or name otherwise.

    Returns
    -------
    Dataset, dims (lead_time, [variable,] [channel,] [scale,] and those of the metric)
        Of the metric are threshold, neighbourhood, rank, probability, cost_loss, spread_bin and wavelength where it has
        them. A variable for each metric, with ``<metric>_<reference>``, ``<metric>_skill``, ``<metric>_skill_lower``
        and ``<metric>_skill_upper``; the pixels and forecasts that count as ``count`` and ``forecasts``. Scores are NaN
        where they are undefined, such as the CSI without any event, or a mean over a time that ends at another lead
        time.

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
    scoring = Scoring(metrics, thresholds, neighbourhoods, data_range, clip, valid_times, bootstrap, scales)
    return plan(forecast, truth, scoring, reference, reference_name=reference_name, time=time).compute()[""]


def collect_statistics(
    forecast: xr.DataArray,
    truth: xr.DataArray | xr.Dataset,
    metrics: Sequence[str] | None = None,
    *,
    thresholds: Sequence[float | str] | xr.DataArray | None = None,
    neighbourhoods: Sequence[int] | None = None,
    reference: str | xr.DataArray | None = None,
    reference_name: str | None = None,
    data_range: tuple[float, float] = UNIT_RANGE,
    clip: bool = False,
    scales: Sequence[str] | None = None,
    time: Hashable | None = None,
) -> Statistics:
    """Return the sums that the scores of `forecast` against `truth` are formulas over.

    Parameters
    ----------
    forecast, truth, metrics, thresholds, neighbourhoods, reference, reference_name, data_range, clip, scales, time
        As for :func:`sa_nowcast.verification.verify`.

    Returns
    -------
    Statistics
        To be added to those of other archives, and given to :func:`sa_nowcast.verification.summarise`.
    """
    scoring = Scoring(metrics, thresholds, neighbourhoods, data_range, clip, scales=scales)
    return collect(plan(forecast, truth, scoring, reference, reference_name=reference_name, time=time).pairings[""])


def compare(
    forecasts: Mapping[str, xr.DataArray],
    truth: xr.DataArray | xr.Dataset,
    metrics: Sequence[str] | None = None,
    thresholds: Sequence[float | str] | xr.DataArray | None = None,
    reference: str | None = None,
    *,
    neighbourhoods: Sequence[int] | None = None,
    data_range: tuple[float, float] = UNIT_RANGE,
    clip: bool = False,
    valid_times: str = "common",
    bootstrap: Bootstrap | None = None,
    scales: Sequence[str] | None = None,
    time: Hashable | None = None,
) -> dict[str, xr.Dataset]:
    """Score several forecasts against one truth, all on the same init times, lead times and pixels.

    What one of them lacks takes no part in the scores of any: an init time or lead time that is not in all of them, and
    a pixel that is missing in one of them, such as what an extrapolation brings in from outside. So the scores differ
    by the forecasts and not by the samples.

    Parameters
    ----------
    forecasts : mapping of names to DataArrays
        Forecasts or archives, on one grid; networks, references and ensembles alike. Backed by dask, each block is read
        once for each forecast, and memory stays bounded as in `verify`.
    truth, metrics, thresholds, neighbourhoods, data_range, clip, bootstrap, scales, time
        As for `verify`. Metrics that need members (crps_fair, twcrps_fair, brier_fair, spread, spread_skill,
        binned_spread_skill, spread_error_correlation, rank_histogram) are given for those forecasts that have some.
    reference : str, optional
        Adds skills against this one: a name in `forecasts`, or "persistence", which is made from the truth.
    valid_times : {"common", "all"}, default "common"
        As for `verify`.

    Returns
    -------
    dict of names to Datasets
        For `to_table` and `sa_nowcast.plotting.plot_scores`. The reference's own scores have no skill.

    Warns
    -----
    ForecastWarning
        As for `verify`: where one of the forecasts has no value at all from some init times, which then take no part in
        the scores of any, it is named.

    Raises
    ------
    DataError
        If the forecasts share no init time or lead time, or as for `verify`.
    RecipeError
        If there are no forecasts or `reference` is none of them, or as for `verify`.
    """
    scoring = Scoring(metrics, thresholds, neighbourhoods, data_range, clip, valid_times, bootstrap, scales)
    named = dict(forecasts) if isinstance(forecasts, Mapping) else {}
    return plan(named, truth, scoring, reference, time=time).compute()


def _unknown_reference(name: str) -> RecipeError:
    training = ", training=truth" if name == "climatology" else ""
    made = f"sa_nowcast.reference({name!r}{training}).forecast(truth, "
    return RecipeError(
        "reference",
        f"{name!r} is unknown",
        '"persistence", None or a forecast DataArray',
        f"pass reference={made}lead_times=forecast.lead_time, init_time=forecast.init_time)"
        if is_reference(name)
        else None,
    )
