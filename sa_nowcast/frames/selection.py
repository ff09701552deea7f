"""Which variables make a sequence, unpacked, and which of their dimensions are time, y, x and channel."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.frames.grid import grid_mapping_name
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.bounds import KEYS as BOUNDS
from sa_nowcast.metadata.bounds import signed_as

_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


def select(
    obj: xr.DataArray | xr.Dataset,
    variables: Sequence[str] | None,
    told: dims.DimNames,
) -> tuple[tuple[xr.DataArray, ...], dims.Roles, Hashable | None]:
    """Return the variables, each (time, [channel,] y, x), these dimensions, and that of the channels."""
    if not isinstance(obj, xr.DataArray | xr.Dataset):
        raise DataError("data", f"a {type(obj).__name__}", expected="an xarray Dataset or DataArray")
    if isinstance(obj, xr.DataArray):
        t_dim, y_dim, x_dim = (dims.find_dim(obj, role, dim) for role, dim in told.by_role.items())
        if variables is not None:
            raise DataError(str(obj.name or "data"), "variables= was given for a DataArray", expected="a Dataset")
        chosen = [obj]
    else:
        (t_dim, y_dim, x_dim), names = _variables(obj, variables, told.by_role)
        keys = {str(n): n for n in obj.data_vars}  # names need not be text
        chosen = [obj[keys[n]] for n in names]
    if len({t_dim, y_dim, x_dim}) < 3:
        raise DataError("data", f"time={t_dim!r}, y={y_dim!r}, x={x_dim!r}", expected="three different dimensions")
    chosen = [_decoded(a) for a in chosen]
    channel_dim: Hashable | None
    known = (t_dim, y_dim, x_dim)
    if len(chosen) == 1:
        channel_dim = dims.find_channel(chosen[0], known, told.channel)
    else:
        plain = [str(a.name) for a in chosen if set(a.dims) == set(known)]
        for array in chosen:
            if set(array.dims) != set(known):
                raise DataError(
                    str(array.name),
                    f"dimensions {', '.join(map(str, array.dims))} beside other variables",
                    expected=", ".join(map(str, known)),
                    fix=f"ds[{plain or [str(chosen[0].name)]!r}]",
                )
        channel_dim = dims.VARIABLE
    order = [t_dim, *([channel_dim] if channel_dim is not None and len(chosen) == 1 else []), y_dim, x_dim]
    for array in chosen:
        if array.dtype.kind not in "fiub":
            raise DataError(str(array.name or "data"), f"values of type {array.dtype}", expected="numbers")
        empty = [str(d) for d in array.dims if array.sizes[d] == 0]
        if empty:
            raise DataError(str(array.name or "data"), f"dimension {empty[0]} has no entries", expected="at least one")
    return tuple(a.transpose(*order) for a in chosen), known, channel_dim


def _variables(
    ds: xr.Dataset, wanted: Sequence[str] | None, told: Mapping[dims.Role, Hashable | None]
) -> tuple[dims.Roles, list[str]]:
    """Return the dimensions of time, y and x, looked for on the chosen variables alone, and the variables."""
    if wanted is not None:
        unknown = [n for n in wanted if n not in map(str, ds.data_vars)]
        if unknown or not wanted:
            known = ", ".join(n for names in dims.grids(ds, told).values() for n in names)
            if not wanted:
                raise DataError("data", "an empty list of variables", expected=f"some of {known}")
            raise DataError("data", f"no variable {unknown[0]!r}", expected=f"one of {known or 'none'}")
        ds = ds[[n for n in ds.data_vars if str(n) in wanted]]
    found = dims.grids(ds, told)
    gridded = [n for names in found.values() for n in names]
    wrong = next((n for n in wanted or () if n not in gridded), None)
    if wrong is not None or not found:
        if wrong is not None and ds[wrong].ndim < 3:
            have = ", ".join(map(str, ds[wrong].dims))
            needed = map(str, next(iter(found))) if len(found) == 1 else dims.ROLES
            raise DataError(wrong, f"dimensions {have}", expected=f"at least {', '.join(needed)}")
        one = ds if wrong is None else ds[wrong]
        roles = [dims.find_dim(one, role, dim) for role, dim in told.items()]  # which says what is missing
        raise DataError("data", f"no variable has the dimensions {', '.join(map(str, roles))}", expected="one with all")
    roles_found = one_grid(ds, found)
    return roles_found, list(wanted) if wanted is not None else gridded


def one_grid(ds: xr.Dataset, found: Mapping[dims.Roles, list[str]]) -> dims.Roles:
    """Return the only grid that `dims.grids` found, or refuse several: one variable has to be chosen."""
    if len(found) == 1:
        return next(iter(found))
    shown = "; ".join(f"{_some(names)} ({', '.join(map(str, roles))})" for roles, names in found.items())
    name = found[dims.likeliest(ds, found)][0]
    mapping = grid_mapping_name(ds[name])
    raise DataError(
        "data",
        f"variables of different dimensions: {shown}",
        expected="one grid",
        fix=f"ds[{[name, *([mapping] if mapping in ds.data_vars else [])]!r}]",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _decoded(array: xr.DataArray) -> xr.DataArray:
    """Unpack what was opened with ``mask_and_scale=False``, so that packed values are never taken for physical ones."""
    keys = _PACKING if array.dtype.kind in "iu" else _PACKING[:-1]
    if not any(k in array.attrs for k in keys):
        return array
    variable = array.variable
    if array.dtype.kind in "iu" and any(k in array.attrs for k in BOUNDS):
        variable = variable.copy(deep=False)
        variable.attrs = {k: _typed(v, array.dtype) if k in BOUNDS else v for k, v in array.attrs.items()}
    # Alone: xarray cannot decode beside times with a time zone, which `read_times` refuses by name.
    bare = xr.Dataset({"packed": variable})
    try:
        for key in ("scale_factor", "add_offset"):
            np.asarray(array.attrs.get(key, 0)).astype(np.float64).item()  # which xarray asks only when values are read
        decoded = xr.decode_cf(bare, decode_times=False, decode_coords=False)["packed"]
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{k}={array.attrs[k]!r:.40}" for k in _PACKING if k in array.attrs)
        raise DataError(
            str(array.name or "data"), f"cannot be unpacked by {shown} ({error})", fix="correct or remove the attribute"
        ) from error
    return decoded.assign_coords(array.coords).rename(array.name)


def _typed(bounds: Any, dtype: np.dtype[Any]) -> Any:
    """Give whole numbers without a type, as JSON and people write them beside packed values, that of the values."""
    if isinstance(bounds, list | tuple):
        return [_typed(b, dtype) for b in bounds]
    if isinstance(bounds, int) and not isinstance(bounds, bool):
        same = signed_as(bounds, dtype)
        return bounds if same is None else dtype.type(same)
    return bounds
