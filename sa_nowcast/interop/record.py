"""What a convention cannot hold, kept as JSON beside the data, and the steps that both ways share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, cast, get_args

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.metadata import dims

Convention = Literal["cf", "ecmwf", "weatherbench", "earth2studio", "pysteps"]
CONVENTIONS: Final[tuple[str, ...]] = get_args(Convention)
RECORD: Final = "sa_nowcast_convention"
"""Attribute that holds, as JSON, what the way back needs."""

TIMES = (dims.INIT_TIME, dims.LEAD_TIME, dims.VALID_TIME)
NANOSECONDS = {dims.INIT_TIME: "datetime64[ns]", dims.LEAD_TIME: "timedelta64[ns]", dims.VALID_TIME: "datetime64[ns]"}


def describe(forecast: xr.DataArray, name: str) -> dict[str, Any]:
    """Return all of a forecast that a convention may change, as JSON holds it."""
    wrong = [n for n in (*forecast.dims, *forecast.coords) if not isinstance(n, str)]
    if wrong or not isinstance(forecast.name, str | None):
        raise DataError("forecast", f"the name {(wrong or [forecast.name])[0]!r}", expected="names that are text")
    coords = {}
    for key, coord in forecast.coords.items():
        coords[key] = {"attrs": pack(coord.attrs, str(key))}
        if coord.dtype.kind in "mMU":
            coords[key]["dtype"] = coord.dtype.str
    return {
        "version": 1,
        "convention": name,
        "name": forecast.name,
        "dims": list(forecast.dims),
        "coords": coords,
        "grid_mapping": forecast.encoding.get("grid_mapping"),
    }


def pack(value: Any, where: str) -> Any:
    """Return an attribute, or a mapping of attributes, as JSON that tells its type."""
    if isinstance(value, Mapping):
        return {str(k): pack(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufUS":
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        plain = value.astype("U") if value.dtype.kind == "S" else value
        return [kind, value.dtype.str, plain.tolist()]
    if isinstance(value, list | tuple):
        return ["tuple" if isinstance(value, tuple) else "list", [pack(v, where) for v in value]]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataError(where, f"an attribute of type {type(value).__name__}", expected="text, numbers or lists of them")


def unpack(value: Any) -> Any:
    """Return what `pack` was given."""
    if isinstance(value, dict):
        return {k: unpack(v) for k, v in value.items()}
    if isinstance(value, list):
        kind, *rest = value
        if kind in ("array", "scalar"):
            array = np.array(rest[1], dtype=np.dtype(rest[0]))
            return array if kind == "array" else array[()]
        items = [unpack(v) for v in rest[0]]
        return tuple(items) if kind == "tuple" else items
    return value


def written(variable: xr.DataArray, record: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Put the record on a variable, with what its attributes were before."""
    changed = {k: pack(before[k], k) for k in before if k not in variable.attrs or variable.attrs[k] is not before[k]}
    added = [k for k in variable.attrs if k not in before]
    variable.attrs[RECORD] = json.dumps({**record, "attrs": changed, "added_attrs": added}, sort_keys=True)


def read_record(fields: list[xr.DataArray]) -> dict[str, Any] | None:
    """Return the record of a converted forecast; None where the data come from elsewhere."""
    text = fields[0].attrs.get(RECORD) if fields else None
    if text is None:
        return None
    try:
        record = json.loads(text)
        if record["version"] != 1 or record["convention"] not in CONVENTIONS:
            raise ValueError("written by a newer version")
    except (TypeError, ValueError, KeyError) as error:
        raise DataError(
            f"{fields[0].name}, attribute {RECORD}", f"unreadable ({error})", fix="remove it to go by the names alone"
        ) from error
    return cast("dict[str, Any]", record)


def fields_of(data: xr.Dataset | xr.DataArray) -> list[xr.DataArray]:
    """Return the variables that hold a forecast."""
    if isinstance(data, xr.DataArray):
        return [data]
    every = list(data.data_vars.values())
    recorded = [v for v in every if RECORD in v.attrs]
    return recorded or every


def label_of(data: xr.Dataset | xr.DataArray) -> str:
    """Return what errors call the data."""
    name = getattr(data, "name", None)
    return str(name) if name is not None else "data"


def copied(forecast: xr.DataArray) -> xr.DataArray:
    """Return the forecast with attributes of its own, so that the caller's stay as they are."""
    copy = forecast.copy(deep=False)
    copy = copy.assign_coords({n: c.copy(deep=False) for n, c in forecast.coords.items()})
    copy.attrs = dict(forecast.attrs)
    for name, coord in forecast.coords.items():
        copy[name].attrs = dict(coord.attrs)
    return copy


def recoded(data: xr.DataArray, name: str, values: Any) -> xr.DataArray:
    """Return `data` with other values in a coordinate, its attributes and encoding kept."""
    old = data[name]
    data = data.assign_coords({name: (old.dims, values)})
    data[name].attrs = dict(old.attrs)
    data[name].encoding = {"_FillValue": None} if "_FillValue" in old.encoding else {}
    return data


def renamed(data: xr.DataArray, names: Mapping[str, str], label: str) -> xr.DataArray:
    """Rename dimensions and coordinates, or say which name is taken."""
    stay = {*data.dims, *data.coords} - set(names)
    taken = sorted(stay & set(names.values()), key=str)
    if taken:
        found = f"its coordinate {taken[0]!r} has a name that the convention needs"
        raise DataError(label, found, fix=f"drop it with .drop_vars({str(taken[0])!r})")
    return data.rename({old: new for old, new in names.items() if old != new})
