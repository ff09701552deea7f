"""From what xarray opened to the Dataset that is stored: order of dimensions, packing, times, labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from zarr.codecs import ZstdCodec

from sa_nowcast.conversion.plan import ConversionPlan
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import (
    held_values,
    normalised,
    renamed,
    safe_names,
    say_left_out,
    storable_attrs,
    unused,
)
from sa_nowcast.storage.shards import VariablePlan
from sa_nowcast.times import most_common_step, show_step, show_time, tolerance, with_times

Irregular = Literal["refuse", "allow"]

MISSING_TIMES: Final = "missing_times"
_ROWS_COLUMNS: Final[tuple[dims.Role, ...]] = ("y", "x")
_PACKING: Final = ("dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


def prepare(
    source: xr.Dataset | xr.DataArray,
    target: Path,
    *,
    variables: Sequence[str] | None,
    names: dims.DimNames,
    irregular: Irregular,
    window: int,
    frames: int | None,
    level: int,
    attrs: Mapping[str, Any],
) -> tuple[xr.Dataset, ConversionPlan]:
    """Check `source` and plan its conversion; see `sa_nowcast.conversion.convert` for the parameters.

    Of the Dataset, lazy still, dimensions are in the order in which they are stored, and encodings are those of the
    store; ``missing_times`` is in it.
    """
    ds = _dataset(source) if isinstance(source, xr.DataArray) else source
    ds = _chosen(normalised(ds), variables).drop_vars(MISSING_TIMES, errors="ignore")
    ds = xr.decode_cf(ds, decode_times=False, decode_coords=False, decode_timedelta=False)  # what was opened packed
    ds = dims.with_positions(ds)
    axis = dims.find_dim(ds, "time", names.time)
    if axis not in ds.coords or ds[axis].dtype.kind != "m" or dims.times_along(ds.coords.variables, axis):
        ds = with_times(ds, axis, str(target))
    safe = safe_names([*ds.variables, *ds.dims])
    axis, y, x, channel = (safe.get(d, d) for d in (axis, *names[1:]))
    ds = renamed(ds)
    step, missing = _cadence(ds, axis, irregular)
    ds = _ordered(ds, axis, {"y": y, "x": x}, channel)
    gridded = [str(n) for n, v in ds.variables.items() if axis in v.dims and v.ndim >= 3]
    if not gridded:
        raise DataError(
            str(target), f"no variable has {axis} and two more dimensions", fix="pass another time= or other variables="
        )
    whole = ds.drop_vars(gridded).load().variables
    kept = {n: whole.get(n, v) for n, v in ds.variables.items()}
    grid_mappings = {str(ds[n].attrs.get("grid_mapping", ds[n].encoding.get("grid_mapping", ""))) for n in gridded}
    lost: list[str] = []
    for name, variable in list(kept.items()):
        held = variable if name in gridded else held_values(variable)
        if held is None:
            del kept[name]
            lost.append(str(name))
        else:
            kept[name] = _cleaned(held, str(name), name in gridded, lost)
    coords = {n for n in ds.coords if n in kept and n not in grid_mappings}
    if len(missing):
        kept[MISSING_TIMES] = _time_variable(missing, {"long_name": "times without a frame"}, MISSING_TIMES)
        coords.add(MISSING_TIMES)
        # The mlcast specification of source data asks for it wherever steps differ, gaps included.
        attrs = {"consistent_timestep_start": str(ds[axis].values[0].astype("datetime64[s]")), **attrs}
    if np.issubdtype(ds[axis].dtype, np.datetime64):
        labels = {"standard_name": "time", "axis": "T"}
        kept[axis] = _time_variable(ds[axis].values, {**ds[axis].attrs, **labels}, str(axis))
    stored = xr.Dataset(
        {n: v for n, v in kept.items() if n not in coords},
        {n: v for n, v in kept.items() if n in coords},
        storable_attrs(
            {**ds.attrs, "Conventions": ds.attrs.get("Conventions", "CF-1.11"), **attrs}, "", lost, zarr=True
        ),
    )
    say_left_out(lost)
    plans = tuple(
        VariablePlan.choose(
            name,
            tuple(map(str, stored[name].dims)),
            stored[name].shape,
            np.dtype(stored[name].encoding.get("dtype", stored[name].dtype)),
            stored[name].dims.index(axis),
            window,
            frames,
        )
        for name in gridded
    )
    times = stored[axis].values
    plan = ConversionPlan(str(target), plans, times, step, missing, _fingerprint(stored, plans, level))
    for variable in stored.variables.values():
        variable.encoding["compressors"] = (ZstdCodec(level=level, checksum=True),)
    for one in plans:
        stored[one.name].encoding |= {"chunks": one.chunks, "shards": one.shards}
    return stored, plan


def _dataset(source: xr.DataArray) -> xr.Dataset:
    name = "data" if source.name is None or not str(source.name).strip() else str(source.name)
    return source.to_dataset(name=unused(name, {*source.coords, *source.dims}))


def _chosen(ds: xr.Dataset, variables: Sequence[str] | None) -> xr.Dataset:
    if variables is None:
        return ds
    unknown = [n for n in variables if n not in ds.variables]
    if unknown:
        known = ", ".join(map(str, ds.data_vars))
        raise RecipeError("variables", f"{unknown[0]!r} is not in the source", expected=f"some of {known}")
    mappings = [m for n in variables if (m := ds[n].attrs.get("grid_mapping")) in ds.variables]
    return ds[[*variables, *dict.fromkeys(mappings)]]


def _cadence(ds: xr.Dataset, axis: Hashable, irregular: Irregular) -> tuple[np.timedelta64 | None, npt.NDArray[Any]]:
    """Return the cadence and the times of it that are missing."""
    times = ds[axis].values
    nothing = times[:0]
    times = times.astype(times.dtype.kind + "8[ns]")
    differences = np.diff(times).astype(np.int64)
    if (differences <= 0).any():
        at = int(np.argmax(differences <= 0))
        same = differences[at] == 0
        label = _show(times[at + 1])
        raise DataError(
            f"{axis}, {label}",
            "the time occurs twice" if same else f"the time follows {_show(times[at])}",
            expected="each time once" if same else "increasing times",
            fix=f"ds.drop_duplicates({str(axis)!r})" if same else f"ds.sortby({str(axis)!r})",
        )
    if not len(differences):
        return None, nothing
    step = most_common_step(differences)
    count = np.rint(differences / step).astype(np.int64)
    wrong = np.flatnonzero(np.abs(differences - count * step) > tolerance(step))
    if wrong.size:
        if irregular == "allow":
            return None, nothing
        at = int(wrong[0])
        raise DataError(
            f"{axis}, {_show(times[at + 1])}",
            f"step is {show_step(np.timedelta64(int(differences[at]), 'ns'))}",
            expected=f"{show_step(np.timedelta64(step, 'ns'))} or a multiple of it",
            fix="pass irregular='allow', where irregular times are meant",
        )
    missing = [times[at] + np.arange(1, count[at]) * np.timedelta64(step, "ns") for at in np.flatnonzero(count > 1)]
    return np.timedelta64(step, "ns"), np.concatenate([nothing.astype(times.dtype), *missing])


def _show(time: Any) -> str:
    return show_time(time) if np.issubdtype(time.dtype, np.datetime64) else show_step(time)


def _ordered(
    ds: xr.Dataset, axis: Hashable, told: Mapping[Literal["y", "x"], Hashable | None], channel: Hashable | None
) -> xr.Dataset:
    """Bring every gridded variable into the order (sequences, time, channels, y, x)."""
    wanted: dict[Any, Hashable | None] = {**told, "channel": channel}
    for key, dim in wanted.items():
        if dim is not None and dim not in ds.dims:
            found = f"no dimension {dim!r} (dimensions: {', '.join(map(str, ds.dims))})"
            raise DataError("data", found, fix=f"name one with {key}=")
    for role, dim in told.items():
        if dim is not None and dim in ds.coords:
            ds = ds.assign_coords({dim: ds[dim].assign_attrs(axis=role.upper())})
    for name, variable in ds.variables.items():
        if axis not in variable.dims or variable.ndim < 3:
            continue
        roles: list[Hashable] = []
        for role, dim in told.items():
            try:
                roles.append(dims.find_dim(ds[name], role, dim if dim in variable.dims else None))
            except DataError:
                continue  # a source whose rows and columns nobody named keeps its own order
        before = [
            d
            for d in variable.dims[: variable.dims.index(axis)]
            if d not in roles and d != channel and str(d).lower() not in dims.CHANNEL_NAMES
        ]
        last = [d for d in roles if d in variable.dims]
        middle = [d for d in variable.dims if d != axis and d not in before and d not in last]
        ds[name] = ds[name].transpose(*before, axis, *middle, *last)
    return ds


def _cleaned(variable: xr.Variable, name: str, gridded: bool, lost: list[str]) -> xr.Variable:
    """Return the variable with no encoding but its packing, and what belongs to its CF labels."""
    old, attrs = variable.encoding, dict(variable.attrs)
    if variable.dtype.kind == "U":
        # Format 3 specifies text of any length only.
        variable = xr.Variable(variable.dims, variable.values.astype(object))
    encoding = {k: old[k] for k in _PACKING if k in old}
    packed = "scale_factor" in old or "add_offset" in old or np.dtype(old.get("dtype", variable.dtype)).kind in "iu"
    if variable.dtype.kind in "mM" or variable.dtype.kind in "OUT" or not (gridded and packed):
        encoding = {
            k: v for k, v in encoding.items() if k in ("_FillValue", "missing_value") and variable.dtype.kind == "f"
        }
    if gridded:
        if "_FillValue" in encoding:
            encoding["fill_value"] = encoding["_FillValue"]
        elif variable.dtype.kind == "f" and not packed:
            encoding["_FillValue"] = encoding["fill_value"] = variable.dtype.type(np.nan)
    if "grid_mapping" in old:
        attrs["grid_mapping"] = old["grid_mapping"]
    attrs.pop("coordinates", None)
    return xr.Variable(variable.dims, variable._data, storable_attrs(attrs, name, lost, zarr=True), encoding)


def _time_variable(times: npt.NDArray[Any], attrs: Mapping[Any, Any], dim: str) -> xr.Variable:
    """Return times that are stored as integers, in the largest unit that holds them exactly."""
    nanoseconds = times.astype("datetime64[ns]").astype(np.int64)
    unit = "seconds" if not (nanoseconds % 10**9).any() else "nanoseconds"
    encoding = {"units": f"{unit} since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": np.dtype(np.int64)}
    clean = {k: v for k, v in attrs.items() if k not in ("units", "calendar", "_FillValue")}
    return xr.Variable((dim,), times.astype("datetime64[ns]"), clean, encoding)


def _labels(attrs: Mapping[Any, Any]) -> list[tuple[str, str]]:
    # Not repr: numpy's depends on print options that other libraries set.
    return sorted((k, json.dumps(v)) for k, v in storable_attrs(attrs, "", [], zarr=True).items())


def _fingerprint(ds: xr.Dataset, plans: Sequence[VariablePlan], level: int) -> str:
    """Return the SHA-256 of everything that decides the result but the gridded values."""
    digest = hashlib.sha256()
    gridded = {plan.name for plan in plans}
    parts: list[Any] = [level, _labels(ds.attrs)]
    for name, variable in sorted(ds.variables.items(), key=lambda item: str(item[0])):
        labels = [_labels(variable.attrs), _labels(variable.encoding)]
        parts.append([str(name), list(map(str, variable.dims)), list(variable.shape), str(variable.dtype), labels])
        if name not in gridded:
            values = variable.values
            digest.update(
                repr(values.tolist()).encode() if values.dtype.kind in "OT" else np.ascontiguousarray(values).tobytes()
            )
    parts.append([[p.name, p.chunks, p.shards, str(p.dtype)] for p in plans])
    digest.update(json.dumps(parts).encode())
    return digest.hexdigest()
