"""The way back from a convention: exactly by its record, or by its names alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.interop.names import NAMES
from sa_nowcast.interop.record import NANOSECONDS, RECORD, copied, label_of, recoded, renamed, unpack
from sa_nowcast.metadata import dims


def recognise(data: xr.Dataset | xr.DataArray) -> str | None:
    """Return the convention that the names are of; None where they are of none."""
    names = {*data.dims, *data.coords}
    if "prediction_timedelta" in names:
        return "weatherbench"
    if {"step", "time"} <= names:
        return "ecmwf"
    if dims.LEAD_TIME in names:
        return "cf" if dims.INIT_TIME in names else "earth2studio" if "time" in names else None
    if "precip_var" in data.attrs or ({"forecast_reference_time", "time"} <= names and {"y", "x"} <= names):
        return "pysteps"
    return None


def restored(fields: list[xr.DataArray], record: Mapping[str, Any]) -> xr.DataArray:
    """Return the forecast that `to_convention` was given, of what is left of it."""
    data = _stacked([copied(f) for f in fields], record)
    record = json.loads(data.attrs.pop(RECORD))  # of the variable whose attributes these are
    for key in record.get("added_attrs", ()):
        data.attrs.pop(key, None)
    names = {new: old for new, old in record["names"].items() if new in data.coords or new in data.dims}
    data = data.rename({new: old for new, old in names.items() if new != old})
    if record["convention"] == "pysteps":
        data = _with_leads(data)
        if record.get("members") is not None and dims.REALIZATION in data.coords:
            positions = np.asarray(data[dims.REALIZATION].values) - 1
            data = recoded(data, dims.REALIZATION, unpack(record["members"])[positions])
        elif "members" in record and dims.REALIZATION in data.coords:
            data = data.drop_vars(dims.REALIZATION)
        if record.get("squeezed") and dims.INIT_TIME not in data.dims:
            data = data.expand_dims(dims.INIT_TIME)
    if record.get("variable_added") and data.sizes.get(dims.VARIABLE, 0) <= 1:
        data = data.isel({dims.VARIABLE: 0}, drop=True) if dims.VARIABLE in data.dims else data.drop_vars(dims.VARIABLE)
    if dims.INIT_TIME not in record["dims"] and data.sizes.get(dims.INIT_TIME) == 1:
        data = data.isel({dims.INIT_TIME: 0})
    if "derived" in record and dims.VALID_TIME not in data.coords:
        valid = data[dims.INIT_TIME] + data[dims.LEAD_TIME]
        valid = valid.transpose(*(d for d in record["derived"] if d in valid.dims), ...)
        data = data.assign_coords({dims.VALID_TIME: (valid.dims, valid.values)})
    for key, was in record["coords"].items():
        if key in data.coords:
            if "dtype" in was and data[key].dtype.str != was["dtype"]:
                data = recoded(data, key, data[key].values.astype(np.dtype(was["dtype"])))
            data[key].attrs = unpack(was["attrs"])
    data.attrs |= unpack(record.get("attrs", {}))
    data = data.transpose(*(d for d in record["dims"] if d in data.dims), ...).rename(record["name"])
    data.encoding = {"grid_mapping": record["grid_mapping"]} if record["grid_mapping"] in data.coords else {}
    return data


def _stacked(fields: list[xr.DataArray], record: Mapping[str, Any]) -> xr.DataArray:
    names = record.get("variables")
    if names is None:
        return fields[0]
    by_name = {str(f.name): f for f in fields}
    kept = [i for i, n in enumerate(names) if n in by_name]
    if len(fields) == 1 and not kept:
        return fields[0]
    index = pd.Index([names[i] for i in kept], name=dims.VARIABLE)
    data = _joined([by_name[name] for name in index], index)
    data.attrs = dict(by_name[index[0]].attrs)
    data = recoded(data, dims.VARIABLE, np.array(index, dtype=np.dtype(record["coords"][dims.VARIABLE]["dtype"])))
    for key, texts in record["per_variable"].items():
        dtype = np.dtype(record["coords"][key].get("dtype", "O"))
        data = data.assign_coords({key: (dims.VARIABLE, np.array([texts[i] for i in kept], dtype=dtype))})
    return data


def _joined(fields: list[xr.DataArray], index: pd.Index) -> xr.DataArray:
    nameless = [f.rename(None) for f in fields]
    data: xr.DataArray = xr.concat(nameless, index, coords="minimal", compat="override", combine_attrs="override")
    return data


def _with_leads(data: xr.DataArray) -> xr.DataArray:
    """Return `data` with lead times where pysteps has valid times."""
    valid = data[dims.LEAD_TIME].values
    if dims.INIT_TIME not in data.coords:
        raise DataError(
            label_of(data), "no coordinate forecast_reference_time", fix="assign the init time as this coordinate"
        )
    return recoded(data, dims.LEAD_TIME, valid - data[dims.INIT_TIME].values)


def from_names(data: xr.Dataset | xr.DataArray, fields: list[xr.DataArray], name: str) -> xr.DataArray:
    """Return data from elsewhere as a forecast: our names, CF attributes, a valid time."""
    if name == "cf":
        names: dict[str, str] = {}
    else:
        names = {new: old for old, new in NAMES[name].names.items() if new != old}
    lead = {v: k for k, v in names.items()}.get(dims.LEAD_TIME, dims.LEAD_TIME)
    fields = [f for f in fields if lead in f.dims or lead in f.coords]
    if not fields:
        raise DataError(label_of(data), f"no variable has {lead}", expected=f"a forecast in the convention {name!r}")
    fields = [copied(f) for f in fields]
    result = fields[0]
    if len(fields) > 1:
        shapes = {f.dims: f for f in fields}
        if len(shapes) > 1:
            raise DataError(
                label_of(data),
                f"variables of different dimensions ({' and '.join(str(f.name) for f in shapes.values())})",
                fix=f"choose one, as in ds[{str(fields[0].name)!r}]",
            )
        texts = {k: [str(f.attrs.get(k, "")) for f in fields] for k in dims.PER_VARIABLE}
        result = _joined(fields, pd.Index([str(f.name) for f in fields], name=dims.VARIABLE)).rename("forecast")
        result.attrs = {}
        own = {k: (dims.VARIABLE, np.array(v)) for k, v in texts.items() if any(v) or k == dims.UNITS}
        result = result.assign_coords(own)
    result = renamed(result, {n: o for n, o in names.items() if n in result.coords or n in result.dims}, label_of(data))
    if dims.VARIABLE in result.dims and result.sizes[dims.VARIABLE] == 1:
        only = str(result[dims.VARIABLE].values[0])
        result = result.isel({dims.VARIABLE: 0}, drop=True).rename(result.name or only)
    if name == "pysteps":
        result = _with_leads(result)
    for coord in (dims.INIT_TIME, dims.LEAD_TIME):
        if coord not in result.coords or result[coord].dtype.kind not in "mM":
            what = f"no {coord} as times"
            raise DataError(label_of(data), what, "decoded times", "open it with decode_timedelta=True")
        result = recoded(result, coord, result[coord].values.astype(NANOSECONDS[coord]))
    if dims.LEAD_TIME not in result.dims:
        result = result.expand_dims(dims.LEAD_TIME)
    if dims.VALID_TIME not in result.coords:
        valid = result[dims.INIT_TIME] + result[dims.LEAD_TIME]
        result = result.assign_coords({dims.VALID_TIME: (valid.dims, valid.values)})
    for coord, attrs in (
        (dims.INIT_TIME, dims.INIT_TIME_ATTRS),
        (dims.LEAD_TIME, dims.LEAD_TIME_ATTRS),
        (dims.VALID_TIME, dims.VALID_TIME_ATTRS),
        (dims.REALIZATION, dims.REALIZATION_ATTRS),
    ):
        if coord in result.coords:
            result[coord].attrs = dict(attrs)
    first = [d for d in (dims.REALIZATION, dims.INIT_TIME, dims.VARIABLE, dims.LEAD_TIME) if d in result.dims]
    return result.transpose(*first, ...)
