"""Several forecasts scored on one sample, so that their scores can stand in one table and one figure."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.times import show_time, with_times
from sa_nowcast.verification.collect import collect_statistics
from sa_nowcast.verification.inputs import check_labels, check_lead_time, horizontal, on_grid
from sa_nowcast.verification.left_out import say_left_out, without_pixels
from sa_nowcast.verification.metrics import METRICS, select_metrics
from sa_nowcast.verification.verify import Bootstrap, summarise


def compare(
    forecasts: Mapping[str, xr.DataArray],
    truth: xr.DataArray | xr.Dataset,
    metrics: Sequence[str] | None = None,
    thresholds: Sequence[float | str] | xr.DataArray | None = None,
    reference: str | None = None,
    *,
    neighbourhoods: Sequence[int] | None = None,
    data_range: tuple[float, float] = (0.0, 1.0),
    clip: bool = False,
    valid_times: str = "common",
    bootstrap: Bootstrap | None = None,
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
    truth, metrics, thresholds, neighbourhoods, data_range, clip, bootstrap, time
        As for `verify`. Metrics that need members (crps_fair, spread, spread_skill, rank_histogram) are given for
        those forecasts that have some.
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
    if not isinstance(forecasts, Mapping) or not forecasts:
        raise RecipeError("forecasts", "none are given", "a mapping of names to forecasts")
    if reference is not None and reference not in (*forecasts, "persistence"):
        raise RecipeError("reference", f"{reference!r} is unknown", "one of " + ", ".join((*forecasts, "persistence")))
    common = _on_one_grid(_on_common_times(forecasts))
    present = _present_in_all(list(common.values()))
    common = {name: forecast.where(present) for name, forecast in common.items()}
    told = None if metrics is None else [metric.name for metric in select_metrics(metrics)]
    ensembles = {name: forecast.sizes.get(dims.REALIZATION, 1) > 1 for name, forecast in common.items()}
    scores: dict[str, xr.Dataset] = {}
    lost: xr.DataArray | None = None
    for name, forecast in common.items():
        own = told
        if told is not None and any(ensembles.values()) and not ensembles[name]:
            own = [metric for metric in told if not METRICS[metric].ensemble]
            if not own:
                continue
        against = None if reference == name else common.get(reference or "", reference)
        sums = collect_statistics(
            forecast,
            truth,
            own,
            thresholds=thresholds,
            neighbourhoods=neighbourhoods,
            reference=against,
            reference_name=reference if isinstance(against, xr.DataArray) else None,
            data_range=data_range,
            clip=clip,
            time=time,
        )
        scores[name] = summarise(sums, valid_times=valid_times, bootstrap=bootstrap)
        scores[name].attrs["compared_with"] = ", ".join(other for other in forecasts if other != name)
        lost = without_pixels(sums) if lost is None else lost | without_pixels(sums)
    if lost is not None:
        say_left_out(scores, lost, forecasts)
    return scores


def _on_common_times(forecasts: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """Return the init times and lead times that all have, in one order."""
    common = {}
    for name, forecast in forecasts.items():
        check_lead_time(forecast, name)
        for dim in (dims.LEAD_TIME, dims.INIT_TIME):
            forecast = forecast if dim in forecast.dims else forecast.expand_dims(dim)
        common[name] = with_times(forecast, dims.INIT_TIME, name)
    for dim, word in ((dims.INIT_TIME, "init time"), (dims.LEAD_TIME, "lead time")):
        shared: npt.NDArray[Any] = functools.reduce(np.intersect1d, (each[dim].values for each in common.values()))
        if not shared.size:
            shown = "; ".join(f"{name} {_span(each[dim].values)}" for name, each in common.items())
            raise DataError("forecasts", f"share no {word}: {shown}", f"some {word}s that all have")
        common = {name: each.sel({dim: shared}) for name, each in common.items()}
    return common


def _span(values: npt.NDArray[Any]) -> str:
    if not values.size:
        return "has none"
    ends = values.min(), values.max()
    if values.dtype.kind == "M":
        return " to ".join(show_time(end) for end in ends)
    return " to ".join(f"{end / np.timedelta64(1, 'm'):g} min" for end in ends)


def _on_one_grid(forecasts: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """Return the forecasts with their spatial axes in the direction of the first one's."""
    first, *others = forecasts
    model, spatial, _ = horizontal(forecasts[first])
    aligned = {first: forecasts[first]}
    for name in others:
        found, theirs, channel = horizontal(forecasts[name])
        if set(theirs) != set(spatial):
            raise DataError(name, f"has the spatial dims {theirs}", f"{spatial}, as {first} has", "rename them")
        found = on_grid(found, model, spatial, name)
        for dim in (dims.VARIABLE, "channel"):
            found = check_labels(found, model, dim, name)
        aligned[name] = found.rename(channel=channel) if "channel" in found.dims else found
    return aligned


def _present_in_all(forecasts: Sequence[xr.DataArray]) -> xr.DataArray:
    """Return where all members of all forecasts are finite, without labels: axes that nearly agree are one grid."""
    masks = []
    for forecast in forecasts:
        there = forecast.copy(data=np.isfinite(forecast.data)).drop_vars(list(forecast.coords))
        masks.append(there.all(dims.REALIZATION) if dims.REALIZATION in there.dims else there)
    present = masks[0]
    for mask in masks[1:]:
        present = present & mask
    return present
