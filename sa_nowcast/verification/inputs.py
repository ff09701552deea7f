"""Check a forecast against its truth once, and hand both on in one fixed layout.

Everything behind this module works on blocks that a :class:`Pairing` hands out: the forecast with dims (realization,
init_time, variable, lead_time, channel, y, x), the truth with dims (time, variable, channel, y, x), absent ones of
size 1, and the positions of the truth frames found by coordinate.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import match_names, normalised, text
from sa_nowcast.times import nearest, valid_times, with_times
from sa_nowcast.verification.scales import kilometres, read_scales
from sa_nowcast.verification.scoring import Scoring
from sa_nowcast.verification.spectra import WAVELENGTH, Rings
from sa_nowcast.verification.statistics import Labels
from sa_nowcast.verification.units import require_same_units

NAMED = ("realization", "init_time", "variable", "lead_time", "channel")


@dataclass(frozen=True)
class Pairing:
    """A forecast, its truth and a reference that were checked against each other, and what scores are asked for.

    Only :func:`pair` makes one. Nothing is loaded: what the user gave is kept as it is, and laid out block by block.

    Attributes
    ----------
    forecast : DataArray, with the dimensions init_time and lead_time
    truth : DataArray, with the dimension `time`
    reference : DataArray or None
        None where there is none, and where it is persistence.
    valid_index : ndarray of int, (init_time, lead_time)
        The position in ``truth`` of each forecast's valid time.
    init_index : ndarray of int, (init_time,), or None
        The position in ``truth`` of each init time, where persistence is the reference.
    """

    forecast: xr.DataArray
    truth: xr.DataArray
    reference: xr.DataArray | None
    valid_index: npt.NDArray[np.intp]
    init_index: npt.NDArray[np.intp] | None
    spatial: tuple[str, str]
    time: str
    labels: Labels

    @property
    def has_reference(self) -> bool:
        """Whether there is a reference, persistence among them."""
        return self.reference is not None or self.init_index is not None

    def forecast_block(self, data: xr.DataArray, block: slice, leads: slice) -> xr.DataArray:
        """Return these init and lead times of forecast or reference, (M, I, V, L, C, Y, X), lazy where it was."""
        return self._laid_out(data.isel(init_time=block, lead_time=leads), NAMED)

    def truth_frames(self, frames: npt.NDArray[np.intp]) -> xr.DataArray:
        """Return these frames of the truth, (T, V, C, Y, X), lazy where it was."""
        return self._laid_out(self.truth.isel({self.time: frames}), (self.time, "variable", "channel"))

    def _laid_out(self, data: xr.DataArray, named: Sequence[str]) -> xr.DataArray:
        """Return `data` transposed to (`named`..., y, x), with absent dims of size 1 put in."""
        bare = data.drop_vars([name for name in data.coords if name not in data.dims])
        return bare.expand_dims([name for name in named if name not in data.dims]).transpose(*named, *self.spatial)


def horizontal(data: xr.DataArray) -> tuple[xr.DataArray, tuple[str, str], str]:
    """Return `data` with its channel dimension named ``channel``, its spatial dimensions and the channel's own name.

    Spatial are the dimensions left beside the named ones of a forecast. Where three are left, y and x are found by
    their CF attributes and names, and the third holds the channels.
    """
    left = [dim for dim in data.dims if dim not in NAMED]
    if len(left) == 3 and "channel" not in data.dims:
        y, x = dims.find_dim(data, "y"), dims.find_dim(data, "x")
        channel = next(dim for dim in left if dim not in (y, x))
        return data.rename({channel: "channel"}), (str(y), str(x)), str(channel)
    if len(left) != 2:
        raise DataError(
            describe(data),
            f"dims {tuple(map(str, data.dims))} leave {tuple(map(str, left))} as the spatial ones",
            "two spatial dims beside " + ", ".join(NAMED),
            "rename or select the others",
        )
    return data, (str(left[0]), str(left[1])), "channel"


def describe(data: xr.DataArray, role: str = "forecast") -> str:
    """Return the name of `data` for the start of an error line."""
    return str(data.name) if data.name is not None else role


def single_array(
    data: xr.DataArray | xr.Dataset, forecast: xr.DataArray, role: str = "truth", time: Hashable | None = None
) -> xr.DataArray:
    """Return the variable(s) of `data` that `forecast` is a forecast of.

    Of a Dataset these are the ones named by the forecast's ``variable`` coordinate, else the one with the forecast's
    name, else the only one. `time` is its time dimension, where attributes, type and names do not tell.
    """
    if not isinstance(data, xr.DataArray | xr.Dataset):
        raise RecipeError(role, f"a {type(data).__name__}", "a DataArray or Dataset", f"open the {role} with xarray")
    if dims.LEAD_TIME in data.dims:
        raise DataError(
            role, f"has a dimension {dims.LEAD_TIME}, so it is a forecast", "observations", "give what was observed"
        )
    if isinstance(data, xr.DataArray):
        return data
    names = [str(name) for name in data.data_vars]
    if "variable" in forecast.dims:
        wanted = [str(name) for name in forecast["variable"].values]
        # A forecast that went through a file may have a safe name in place of the data's own.
        found = match_names(wanted, data.data_vars)
        data = data.rename({own: name for name, own in found.items() if own != name})
        lacking = [name for name in wanted if name not in found]
        if lacking:
            raise DataError(role, f"has the variables {names}", f"{lacking} too, as the forecast has")
        # Lazily opened variables are put together by dask, so that joining them does not load them.
        data = dims.with_positions(data)[wanted]
        array = data.chunk({dims.find_dim(data, "time", time): 1}).to_array("variable")
        units = [text(data[name].attrs.get("units")) or "" for name in wanted]
        return array.assign_coords(units=("variable", units))
    data = dims.with_positions(data)
    for own in match_names([forecast.name], data.data_vars).values():
        return data[own]
    names = [str(name) for name in data.data_vars]
    if len(names) == 1:
        return data[names[0]]
    raise DataError(
        role,
        f"has the variables {names}, none named as the forecast ({forecast.name})",
        "one of them",
        f"pass one variable, such as {role}[{names[0]!r}]" if names else f"pass a {role} with data",
    )


def check_lead_time(data: xr.DataArray, role: str = "forecast") -> None:
    """Raise DataError unless `data` has timedelta64 lead times and datetime64 init times."""
    where = describe(data, role)
    for name, kind, expected in (
        (dims.LEAD_TIME, np.timedelta64, "a lead_time among them"),
        (dims.INIT_TIME, np.datetime64, "an init_time, scalar or a dimension"),
    ):
        if name not in data.coords:
            raise DataError(where, f"has the coordinates {sorted(map(str, data.coords))}", expected)
        if not np.issubdtype(data[name].dtype, kind):
            raise DataError(
                f"{where}, {name}",
                f"dtype is {data[name].dtype}",
                kind.__name__,
                "open the file with decode_timedelta=True" if name == dims.LEAD_TIME else None,
            )


def _grid_text(data: xr.DataArray, spatial: tuple[str, str]) -> str:
    parts = []
    for dim in spatial:
        text = f"{dim} {data.sizes[dim]}"
        if dim in data.coords and data.sizes[dim]:
            values = data[dim].values
            text += f" ({values[0]:.6g} to {values[-1]:.6g})" if np.issubdtype(values.dtype, np.number) else ""
        parts.append(text)
    return " × ".join(parts)


def on_grid(data: xr.DataArray, forecast: xr.DataArray, spatial: tuple[str, str], role: str) -> xr.DataArray:
    """Return `data` with its spatial axes in the forecast's direction; refuse grids that differ in more than that."""
    if not set(spatial) <= set(data.dims):
        raise DataError(
            describe(data, role),
            f"{role} has the dims {tuple(map(str, data.dims))}",
            f"{' and '.join(spatial)} among them, as the forecast has",
        )
    for dim in spatial:
        same = data.sizes[dim] == forecast.sizes[dim]
        if same and dim in data.coords and dim in forecast.coords:
            ours, theirs = forecast[dim].values, data[dim].values
            if dims.same_axis(ours, theirs):
                continue
            if dims.same_axis(ours, theirs[::-1]):
                data = data.isel({dim: slice(None, None, -1)})
                continue
            same = False
        if not same:
            raise DataError(
                describe(data, role),
                f"{role} is on the grid {_grid_text(data, spatial)}",
                f"the forecast's {_grid_text(forecast, spatial)}",
                f"regrid or crop the {role} to the forecast's grid",
            )
    return data


def positions(index: npt.NDArray[Any], wanted: npt.NDArray[Any], where: str, what: str) -> npt.NDArray[np.intp]:
    """Return where each of `wanted` times stands in `index`; refuse absent ones."""
    found, there = nearest(index, wanted)
    absent = np.unique(wanted[~there])
    if absent.size:
        shown = ", ".join(np.datetime_as_string(absent[:3].astype("datetime64[s]")))
        more = f" and {absent.size - 3} more" if absent.size > 3 else ""
        fix = "give data that cover them, or drop those init times"
        raise DataError(where, f"lacks the {what} {shown}{more}", fix=fix)
    return found


def check_labels(data: xr.DataArray, forecast: xr.DataArray, dim: str, role: str) -> xr.DataArray:
    """Return `data` with the labels of `dim` in the forecast's order."""
    where, theirs, ours = describe(data, role), data.sizes.get(dim), forecast.sizes.get(dim)
    if ours is None and theirs == 1:
        return data.isel({dim: 0}, drop=True)
    if theirs is None and ours == 1:
        return data.expand_dims({dim: forecast[dim].values} if dim in forecast.coords else {dim: 1})
    if ours is None and theirs is not None:
        raise DataError(where, f"{role} has a dimension {dim}", f"none, as the forecast, or {dim} chosen")
    if theirs is None and ours is not None:
        raise DataError(where, f"{role} has no dimension {dim}", f"{dim} as the forecast has")
    if ours is not None and dim in data.coords and dim in forecast.coords:
        labels, known = forecast[dim].values, set(data[dim].values.tolist())
        if lacking := [label for label in labels.tolist() if label not in known]:
            raise DataError(where, f"{role} lacks the {dim} {lacking}", "those of the forecast")
        return data.sel({dim: labels})
    if theirs != ours:
        raise DataError(where, f"{role} has {theirs} of {dim}", f"{ours} as the forecast")
    return data


def as_archive(forecast: xr.DataArray, name: str) -> xr.DataArray:
    """Return a forecast with the dimensions init_time and lead_time, and times without the rounding of files."""
    for dim in (dims.LEAD_TIME, dims.INIT_TIME):
        forecast = forecast if dim in forecast.dims else forecast.expand_dims(dim)
    return with_times(forecast, dims.INIT_TIME, name)


def _alike(
    data: xr.DataArray, forecast: xr.DataArray, spatial: tuple[str, str], channel: str, role: str
) -> tuple[xr.DataArray, str | None]:
    """Return `data` on the forecast's grid and with its labels, and the units of both."""
    data = on_grid(data.rename({channel: "channel"}) if channel in data.dims else data, forecast, spatial, role)
    for dim in ("variable", "channel"):
        data = check_labels(data, forecast, dim, role)
    return data, require_same_units(data, forecast, role)


def _at_times_of(forecast: xr.DataArray, reference: xr.DataArray) -> xr.DataArray:
    role = "reference"
    for dim in ("init_time", "lead_time"):
        lacking = np.setdiff1d(forecast[dim].values, reference[dim].values)
        if lacking.size:
            raise DataError(
                describe(reference, role),
                f"reference lacks {lacking.size} of the forecast's {dim}s, the first is {lacking[0]}",
                f"every {dim} of the forecast",
            )
        reference = reference.sel({dim: forecast[dim].values})
    return reference


def _require_each_once(values: npt.NDArray[Any], where: str, what: str) -> None:
    if np.unique(values).size != values.size:
        raise DataError(where, f"{what} is there twice", "each once")


def _rings(archive: xr.DataArray, spatial: tuple[str, str]) -> Rings:
    shape = archive.sizes[spatial[0]], archive.sizes[spatial[1]]
    if min(shape) < 2:
        raise DataError("spectrum", f"frames are {shape[0]} × {shape[1]}", "2 × 2 or larger")
    spacing = kilometres(archive, spatial)
    return Rings(shape) if spacing is None else Rings(shape, spacing, "km")


def pair(
    forecast: xr.DataArray,
    truth: xr.DataArray | xr.Dataset,
    scoring: Scoring = Scoring(),  # noqa: B008 - frozen
    reference: str | xr.DataArray | None = None,
    *,
    reference_name: str | None = None,
    time: Hashable | None = None,
) -> Pairing:
    """Check `forecast`, `truth` and `reference` against each other and what is asked for, in one layout.

    The arguments are those of :func:`sa_nowcast.verification.verify`.
    """
    forecast, truth = normalised(forecast), normalised(truth) if isinstance(truth, xr.DataArray | xr.Dataset) else truth
    check_lead_time(forecast)
    forecast, spatial, channel_name = horizontal(forecast)
    where = describe(forecast)
    archive = as_archive(forecast, where)
    if scoring.scales is not None and (np.diff(archive["lead_time"].values) < np.timedelta64(0)).any():
        archive = archive.sortby("lead_time")
    for dim in ("init_time", "lead_time"):
        _require_each_once(archive[dim].values, f"{where}, {dim}", "a value")
    observed = single_array(truth, forecast, time=time)
    time = str(dims.find_dim(observed, "time", time))
    observed = with_times(observed, time, describe(observed, "truth"))
    observed, units = _alike(observed, forecast, spatial, channel_name, "truth")
    times = observed[time].values
    _require_each_once(times, f"{describe(observed, 'truth')}, {time}", "a time")
    init, lead = archive["init_time"].values, archive["lead_time"].values
    valid_index = positions(times, valid_times(init, lead, where), f"truth of {where}", "valid times")
    init_index, paired = None, None
    if isinstance(reference, str):
        init_index = positions(times, init, f"truth of {where}", "init times that persistence starts from,")
        reference_name = reference_name or reference
    elif reference is not None:
        reference = normalised(reference)
        check_lead_time(reference, "reference")
        reference = as_archive(reference, describe(reference, "reference"))
        reference, _ = _alike(reference, archive, spatial, channel_name, "reference")
        paired = _at_times_of(archive, reference)
        reference_name = reference_name or str(reference.name or "reference")
    members = archive.sizes.get(dims.REALIZATION, 1)
    metrics, settings = scoring.resolved(units, members, min(archive.sizes[dim] for dim in spatial))
    if scoring.scales is not None:
        settings = replace(settings, scales=read_scales(scoring.scales, archive, spatial, archive["lead_time"].values))
    if any(WAVELENGTH in each for metric in metrics for each in metric.sums.dims.values()):
        settings = replace(settings, rings=_rings(archive, spatial))
    labels = Labels(
        metrics=tuple(metric.name for metric in metrics),
        units=units,
        present=tuple(name for name in NAMED if name in forecast.dims),
        reference=reference_name,
        label=where,
        settings=settings,
        members=members,
        reference_members=1 if paired is None else paired.sizes.get(dims.REALIZATION, 1),
        channel_name=channel_name,
    )
    return Pairing(archive, observed, paired, valid_index, init_index, spatial, time, labels)
