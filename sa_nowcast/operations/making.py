"""From a history to all that is published of one forecast, in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.derived import accumulate_passing, over, rain_spell
from sa_nowcast.derived.filling import FILLED
from sa_nowcast.forecasts.at_once import at_once
from sa_nowcast.forecasts.cf import to_dataset
from sa_nowcast.forecasts.job import plan
from sa_nowcast.forecasts.matched import COMMENT, matched
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.units import conversion
from sa_nowcast.operations.clock import iso, moment
from sa_nowcast.operations.site import WINDOWS, Site

LEAST_RAIN: Final = 0.1
"""mm h-1 from which on it rains, where the recipe names no thresholds."""
AS_OF, FRAMES = "sa_nowcast_as_of", "sa_nowcast_frames"
COMMENT_ON_FILLED: Final = "frames of the history that were missing were filled along the motion: "


@dataclass(frozen=True)
class Made:
    """One forecast.

    Attributes
    ----------
    init : int
        Nanoseconds since 1970.
    filled : list of str
        Times of the history whose frames were missing.
    mean, matched, members, probability : DataArray or None
    sums : mapping of str to DataArray
        Accumulations by their windows.
    spell : tuple of DataArray or None
        Onset and end.
    points, areas : dict
        As their files hold them.
    flags : mapping
        For each point and area whether thresholds are exceeded; see `sa_nowcast.operations.alerts`.
    """

    init: int
    as_of: str
    filled: list[str]
    mean: xr.DataArray
    matched: xr.DataArray | None
    members: xr.DataArray | None
    probability: xr.DataArray | None
    sums: Mapping[str, xr.DataArray]
    spell: tuple[xr.DataArray, xr.DataArray] | None
    points: dict[str, Any]
    areas: dict[str, Any] | None
    flags: dict[str, list[bool | None]]

    def dataset(self, title: str) -> xr.Dataset:
        """Return everything as one Dataset that follows the CF conventions."""
        ds = to_dataset(self.mean, title)
        name = next(n for n in map(str, ds.data_vars) if dims.LEAD_TIME in ds[n].dims)
        for suffix, other in (("matched", self.matched), ("members", self.members)):
            if other is not None:
                ds[f"{name}_{suffix}"] = _as_in(to_dataset(other.rename(f"{name}_{suffix}")), f"{name}_{suffix}")
        if self.probability is not None:
            ds["probability"] = _as_in(to_dataset(self.probability.rename("probability")), "probability")
        for one in (*self.sums.values(), *(self.spell or ())):
            bare = one.reset_coords(drop=True)
            if "cell_methods" in bare.attrs:  # it has no lead time of its own in this file: CF section 7.3.4
                told = str(bare.attrs["cell_methods"]).replace(f"{dims.LEAD_TIME}:", f"{dims.TIME}:")
                bare = bare.assign_attrs(cell_methods=told)
            ds[str(one.name)] = bare
            ds[str(one.name)].encoding = {**one.encoding, "_FillValue": np.float32(np.nan)}
        ds.attrs |= {AS_OF: self.as_of, FRAMES: self.mean.attrs[FRAMES]}
        if self.filled:
            told = " ".join(self.filled)
            ds.attrs |= {FILLED: told, "comment": COMMENT_ON_FILLED + told}
        return ds


def _as_in(ds: xr.Dataset, name: str) -> xr.DataArray:
    found: xr.DataArray = ds[name]
    return found


def make(
    site: Site, times: Sequence[int], history: npt.NDArray[np.float32], as_of: int, filled: Sequence[int] = ()
) -> Made:
    """Forecast from the last of some frames.

    Parameters
    ----------
    site : Site
    times : sequence of int
        Of the history, in nanoseconds since 1970.
    history : ndarray, shape (time, y, x)
        In the layout of the data.
    as_of : int
        When the forecast is made.
    filled : sequence of int
        Which of `times` are of frames that were missing, and filled.
    """
    recipe = site.recipe
    observed = site.field(history, list(times))
    job = plan(site.nowcaster, observed, recipe.steps, tile=recipe.tile, device=recipe.device)
    found = at_once(
        job.method,  # type: ignore[arg-type]
        job.frames.load(),
        recipe.steps,
        recipe.device,
        tile=job.tile,
        thresholds=site.thresholds,
        quantiles=recipe.quantiles,
        places=site.places,
        members=recipe.members,
        seed=recipe.seed,
    )
    told = {AS_OF: str(iso(as_of)), FRAMES: " ".join(str(iso(t)) for t in times if t not in filled)}
    mean = job.labelled(found.mean).assign_attrs(told)
    alike: xr.DataArray | None = None
    if "matched" in recipe.products:
        values = matched(found.mean[:, None], history[:, None])[:, 0]
        comment = "; ".join([*([str(c)] if (c := mean.attrs.get("comment")) else []), COMMENT])
        alike = mean.copy(data=values).assign_attrs(sa_nowcast_product="matched", comment=comment)
        alike.encoding = dict(mean.encoding)
    members = probability = None
    if found.members is not None:
        members = _along(mean, found.members, dims.REALIZATION, np.arange(recipe.members or 0), dims.REALIZATION_ATTRS)
        members = members.assign_attrs(sa_nowcast_product="members", sa_nowcast_seed=recipe.seed)
    if found.probability is not None and site.thresholds:
        limits = np.array(site.thresholds)
        attrs = {"long_name": "threshold", "spp__relative_to_threshold": "above"}
        probability = _along(
            mean, found.probability, dims.THRESHOLD, limits, attrs | ({"units": site.units} if site.units else {})
        )
        about = str(mean.attrs.get("long_name") or mean.name)
        kept = {k: v for k, v in mean.attrs.items() if str(k).startswith("sa_nowcast")}
        probability.attrs = {"long_name": f"probability that {about} is above a threshold", "units": "1", **kept}
    sums = accumulate_passing(mean, observed, WINDOWS) if site.adds_up is not None else {}
    spell = None
    if (least := _least(site)) is not None:
        spell = rain_spell(mean, least, observed.isel({dims.TIME: -1}))
    made = Made(
        int(times[-1]), str(iso(as_of)), [str(iso(t)) for t in filled], mean, alike, members, probability, sums, spell,
        {}, None, {},
    )  # fmt: skip
    points, flags = _points(site, made, found.quantiles)
    areas, of_areas = _areas(site, made, times, history)
    return replace(made, points=points, areas=areas, flags=flags | of_areas)


def _along(
    like: xr.DataArray, values: npt.NDArray[np.float32], dim: str, labels: npt.NDArray[Any], attrs: Mapping[str, Any]
) -> xr.DataArray:
    """Return values with one more dimension before those of `like`."""
    coords = {**like.coords, dim: xr.Variable(dim, labels, attrs, {"_FillValue": None})}
    result = xr.DataArray(values, dims=(dim, *like.dims), coords=coords, name=like.name, attrs=like.attrs)
    result.encoding = dict(like.encoding)
    return result


def _least(site: Site) -> float | None:
    """Return the value from which on it rains: the lowest threshold, else 0.1 mm h-1 of rain."""
    if site.thresholds:
        return site.thresholds[0] if site.thresholds[0] > 0 else None
    factor = conversion("mm h-1", site.units)
    return None if factor is None or site.adds_up is None else LEAST_RAIN * factor


def numbers(values: Any) -> Any:
    """Return values as JSON holds them: numbers of six digits, null where missing."""
    if isinstance(values, np.ndarray):
        return [numbers(v) for v in values]
    value = float(values)
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _points(
    site: Site, made: Made, quantiles: npt.NDArray[np.float32] | None
) -> tuple[dict[str, Any], dict[str, list[bool | None]]]:
    rows, columns = site.places
    leads = [int(lead / 1e9) if lead % 10**9 == 0 else lead / 1e9 for lead in site.leads]
    shared = {"lead_times": leads, "valid_times": [iso(made.init + lead) for lead in site.leads]}
    entries: list[dict[str, Any]] = []
    flags: dict[str, list[bool | None]] = {}
    for number, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        point = site.recipe.points[number]
        of_point = site.located[number].coords

        def value(name: Any, own: Any = of_point) -> float | None:
            return float(own[name].values) if name in own and np.isfinite(own[name].values) else None

        y, x = site.like.dims
        names = ("latitude", "longitude") if "latitude" in of_point else (y, x)
        degrees = (
            names
            if names[0] == "latitude" or made.mean[y].attrs.get("units", "").startswith("degree")
            else (None, None)
        )
        series = made.mean.values[:, row, column]
        chance = None if made.probability is None else made.probability.values[:, :, row, column]
        entry = {
            "name": point.name,
            "latitude": value(degrees[0]),
            "longitude": value(degrees[1]),
            "y": value(y),
            "x": value(x),
            **shared,
            "mean": numbers(series),
            "matched": None if made.matched is None else numbers(made.matched.values[:, row, column]),
            "quantiles": {}
            if quantiles is None
            else {f"{q:g}": numbers(v[:, number]) for q, v in zip(site.recipe.quantiles, quantiles, strict=True)},
            "probability": {}
            if chance is None
            else {f"{t:g}": numbers(c) for t, c in zip(site.thresholds, chance, strict=True)},
            "accumulation": {w: numbers(s.values[row, column]) for w, s in made.sums.items()},
            "onset_minutes": None if made.spell is None else numbers(made.spell[0].values[row, column]),
            "end_minutes": None if made.spell is None else numbers(made.spell[1].values[row, column]),
        }
        entries.append(entry)
        by, limit = (series, None) if chance is None else (chance, site.recipe.alerts.probability)
        flags[point.name] = [
            _flag(by if chance is None else chance[k], t if limit is None else limit)
            for k, t in enumerate(site.thresholds)
        ]
    return {**_head(site, made), "points": entries}, flags


def _head(site: Site, made: Made) -> dict[str, Any]:
    return {
        "init_time": iso(made.init), "as_of": made.as_of, "filled": made.filled, "variable": str(made.mean.name),
        "units": site.units, "accumulation_units": site.adds_up,
    }  # fmt: skip


def _flag(values: npt.NDArray[Any], limit: float) -> bool | None:
    """Say whether a limit is reached at some time; None where no value is known."""
    known = values[np.isfinite(values)]
    return bool((known >= limit).any()) if known.size else None


def _areas(
    site: Site, made: Made, times: Sequence[int], history: npt.NDArray[np.float32]
) -> tuple[dict[str, Any] | None, dict[str, list[bool | None]]]:
    if site.areas is None:
        return None, {}
    seen = [i for i, t in enumerate(times) if str(iso(t)) not in made.filled]
    stack: dict[str, npt.NDArray[Any]] = {"observed": history[seen], "mean": made.mean.values}
    if made.members is not None:
        stack["members"] = made.members.values.reshape(-1, *history.shape[1:])
    if made.matched is not None:
        stack["matched"] = made.matched.values
    for threshold, chance in zip(
        site.thresholds, () if made.probability is None else made.probability.values, strict=False
    ):
        stack[f"probability {threshold:g}"] = chance
    for window, one in made.sums.items():
        stack[f"accumulation {window}"] = one.values[None]
    rows = {name: len(values) for name, values in stack.items()}
    like = site.like
    everything = xr.DataArray(
        np.concatenate(list(stack.values())), dims=("row", *like.dims), coords=like.coords, name=like.name
    )
    everything.encoding = dict(like.encoding)
    means = over(everything, site.areas, name=site.recipe.areas_name)
    leads = [int(lead / 1e9) if lead % 10**9 == 0 else lead / 1e9 for lead in site.leads]
    features = site.areas["features"] if site.areas.get("type") == "FeatureCollection" else [site.areas]
    result, flags = [], {}
    for number, feature in enumerate(features):
        name, first = str(means["region"].values[number]), 0
        own = {}
        for key, count in rows.items():
            own[key] = means.values[first : first + count, number]
            first += count
        properties = {
            "name": name,
            "covered": numbers(means["covered"].values[number]),
            "observed": {"times": [iso(times[i]) for i in seen], "values": numbers(own["observed"])},
            "lead_times": leads,
            "valid_times": [iso(made.init + lead) for lead in site.leads],
            "mean": numbers(own["mean"]),
            "matched": numbers(own["matched"]) if "matched" in own else None,
            "quantiles": _quantiles(site, made, own.get("members")),
            "probability": {k.split()[1]: numbers(v) for k, v in own.items() if k.startswith("probability")},
            "accumulation": {k.split()[1]: numbers(v[0]) for k, v in own.items() if k.startswith("accumulation")},
        }
        geometry = feature.get("geometry") if feature.get("type") == "Feature" else feature
        result.append({"type": "Feature", "geometry": geometry, "properties": properties})
        flags[name] = [_flag(own["mean"], t) for t in site.thresholds]
    return {"type": "FeatureCollection", **_head(site, made), "features": result}, flags


def _quantiles(site: Site, made: Made, members: npt.NDArray[Any] | None) -> dict[str, Any]:
    """Return the quantiles of what members have over an area: those of single pixels say nothing of its mean."""
    if members is None:
        return {}
    assert made.members is not None
    axis = made.members.dims.index(dims.REALIZATION)
    found = np.quantile(members.reshape(made.members.shape[:2]), site.recipe.quantiles, axis=axis)
    return {f"{q:g}": numbers(values) for q, values in zip(site.recipe.quantiles, found, strict=True)}


def valid_time(init: int, lead: int) -> np.datetime64:
    """Return the time that a forecast is for."""
    return moment(init + lead)
