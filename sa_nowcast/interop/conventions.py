"""Forecasts under the names that other forecast archives use, and back without a loss.

What a convention cannot hold (its own attributes overwrite ours, it has no coordinate for it, it wants another
dimension) is kept as JSON in one attribute, `RECORD`, of every converted variable: so the way back is exact. Data
that come from elsewhere have no such attribute, and `from_convention` then goes by the convention's names alone.

Where the names come from:

``cf``
    CF conventions 1.11, sections 4.4 and 6.1.1, as this package writes files.
``ecmwf``
    What cfgrib makes of GRIB (its ``dataset.COORD_ATTRS``): ``number``, ``time``, ``step``, ``valid_time``,
    ``latitude``, ``longitude``; ``y`` and ``x`` with two-dimensional latitude and longitude on projected grids.
``weatherbench``
    WeatherBench 2 (doi:10.1029/2023MS004019) and WeatherBench-X: ``time`` is the init time and always a dimension,
    ``prediction_timedelta`` the lead time, ``number`` the member; no valid time.
``earth2studio``
    NVIDIA Earth2Studio: one DataArray, dims (ensemble, time, lead_time, variable, lat, lon); ``time`` is the init time.
``pysteps``
    The names of pysteps' NetCDF exporter (1.x), with the attributes that its xarray data model (version 2 branch)
    adds: ``ens_number``, ``time`` (valid), ``y``, ``x``, ``precip_intensity`` and so on, one init time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, cast, get_args

import numpy as np
import pandas as pd
import xarray as xr

from sa_nowcast import cf, dims
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.interop import projection
from sa_nowcast.interop.names import NAMES, PYSTEPS_VARIABLES, Names

Convention = Literal["cf", "ecmwf", "weatherbench", "earth2studio", "pysteps"]
CONVENTIONS: Final[tuple[str, ...]] = get_args(Convention)
RECORD: Final = "sa_nowcast_convention"
"""Attribute that holds, as JSON, what the way back needs."""

_TIMES = (dims.INIT_TIME, dims.LEAD_TIME, dims.VALID_TIME)
_NANOSECONDS = {dims.INIT_TIME: "datetime64[ns]", dims.LEAD_TIME: "timedelta64[ns]", dims.VALID_TIME: "datetime64[ns]"}


# A kg of water on a square metre stands 1 mm deep.
_PYSTEPS_UNITS: Final = {"mm h-1": "mm/h", "kg m-2 h-1": "mm/h", "mm": "mm", "kg m-2": "mm", "dBZ": "dBZ"}
PYSTEPS_THRESHOLD: Final = 0.1
"""Least rain that pysteps' examples count as rain, mm h-1 or mm."""


def to_convention(forecast: xr.DataArray, name: Convention) -> xr.Dataset | xr.DataArray:
    """Return a forecast under the names of another convention; `from_convention` brings it back exactly.

    Parameters
    ----------
    forecast : DataArray, dims ([realization,] [init_time,] [variable,] lead_time, ..., y, x)
        One forecast, an archive or an ensemble, in memory or lazy. It is not changed, and its values are not read
        (but for reflectivity in "pysteps", whose threshold and zero value come from the values).
    name : {"cf", "ecmwf", "weatherbench", "earth2studio", "pysteps"}

    Returns
    -------
    DataArray for "earth2studio", else Dataset
        Init, lead and valid times in nanoseconds ("cf": lead times in whole seconds). Axes keep their direction, and
        projected grids their ``y`` and ``x``.

    Raises
    ------
    RecipeError
        An unknown convention.
    DataError
        It is no forecast; a name of the convention is taken; or the convention cannot hold it: pysteps knows one init
        time and one variable in mm h-1, mm, kg m-2 or dBZ.
    """
    _check_name(name)
    _check_forecast(forecast)
    if name == "cf":
        return _to_cf(forecast)
    spec = NAMES[name]
    label = str(forecast.name or "forecast")
    if name == "pysteps":
        _require_pysteps(forecast, label)
    record: dict[str, Any] = _describe(forecast, name)
    result = _copied(forecast)
    if not spec.keeps_valid_time and _is_derived(forecast):
        record["derived"] = list(map(str, forecast[dims.VALID_TIME].dims))
        result = result.drop_vars(dims.VALID_TIME)
    if name == "pysteps" and dims.INIT_TIME in result.dims:
        record["squeezed"] = True
        result = result.isel({dims.INIT_TIME: 0})
    if spec.init_is_dimension and dims.INIT_TIME not in result.dims:
        result = result.expand_dims(dims.INIT_TIME)
    for coord in _TIMES:
        if coord in result.coords:
            result = _recoded(result, coord, result[coord].values.astype(_NANOSECONDS[coord]))
    axes = _axes(result, spec)
    for role, attrs in spec.attrs.items():
        own = axes.get(role, (role, role))[0] if role in ("y", "x") else role
        if own not in result.coords or (role in ("y", "x") and not projection.is_geographic(forecast)):
            continue
        result[own].attrs = {**attrs, **({"axis": a} if (a := result[own].attrs.get("axis")) else {})}
    if name == "ecmwf" and projection.is_geographic(forecast):
        latitude = result[axes["y"][0]]
        if latitude.values[0] > latitude.values[-1]:
            latitude.attrs["stored_direction"] = "decreasing"
    if name == "pysteps":
        result = _pysteps_coordinates(result, axes, record)
    new = {old: new for old, new in spec.names.items() if old in result.coords or old in result.dims}
    new |= {old: to for old, to in axes.values() if old != to}
    result = _renamed(result, new, label)
    record["names"] = {to: old for old, to in new.items()}
    if name == "earth2studio":
        return _as_earth2studio(result, spec, record, label)
    return _as_dataset(result, spec, record, name)


def from_convention(data: xr.Dataset | xr.DataArray, name: Convention | None = None) -> xr.DataArray:
    """Return data of another convention as a forecast of this package.

    Parameters
    ----------
    data : Dataset or DataArray
        What `to_convention` returned, read from a file or not, whole or selected from; or a forecast of another
        source in that convention.
    name : {"cf", "ecmwf", "weatherbench", "earth2studio", "pysteps"}, optional
        By default the convention that the data tell: by their attribute, else by their names.

    Returns
    -------
    DataArray, dims ([realization,] [init_time,] [variable,] lead_time, ..., y, x)
        Identical to the forecast that `to_convention` was given, where nothing was changed between. Data from
        elsewhere get our names and CF attributes; several variables are stacked along ``variable``.

    Raises
    ------
    RecipeError
        An unknown convention.
    DataError
        The data are in none of the conventions, or in another than `name`.
    """
    if name is not None:
        _check_name(name)
    fields = _fields(data)
    record = _read_record(fields)
    found = record["convention"] if record else _recognise(data)
    if name is not None and found != name:
        what = "in none of the known conventions" if found is None else f"in the convention {found!r}"
        raise DataError(_label(data), what, expected=f"{name!r}")
    if found is None:
        raise DataError(
            _label(data), f"dimensions {', '.join(map(str, data.dims))}", expected=f"one of {', '.join(CONVENTIONS)}"
        )
    if record is None:
        return _from_names(data, fields, found)
    return _restored(fields, record)


# --- what the way back needs


def _describe(forecast: xr.DataArray, name: str) -> dict[str, Any]:
    """Return all of a forecast that a convention may change, as JSON holds it."""
    wrong = [n for n in (*forecast.dims, *forecast.coords) if not isinstance(n, str)]
    if wrong or not isinstance(forecast.name, str | None):
        raise DataError("forecast", f"the name {(wrong or [forecast.name])[0]!r}", expected="names that are text")
    coords = {}
    for key, coord in forecast.coords.items():
        coords[key] = {"attrs": _pack(coord.attrs, str(key))}
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


def _pack(value: Any, where: str) -> Any:
    """Return an attribute, or a mapping of attributes, as JSON that tells its type."""
    if isinstance(value, Mapping):
        return {str(k): _pack(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufUS":
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        plain = value.astype("U") if value.dtype.kind == "S" else value
        return [kind, value.dtype.str, plain.tolist()]
    if isinstance(value, list | tuple):
        return ["tuple" if isinstance(value, tuple) else "list", [_pack(v, where) for v in value]]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataError(where, f"an attribute of type {type(value).__name__}", expected="text, numbers or lists of them")


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _unpack(v) for k, v in value.items()}
    if isinstance(value, list):
        kind, *rest = value
        if kind in ("array", "scalar"):
            array = np.array(rest[1], dtype=np.dtype(rest[0]))
            return array if kind == "array" else array[()]
        items = [_unpack(v) for v in rest[0]]
        return tuple(items) if kind == "tuple" else items
    return value


def _written(variable: xr.DataArray, record: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Put the record on a variable, with what its attributes were before."""
    changed = {k: _pack(before[k], k) for k in before if k not in variable.attrs or variable.attrs[k] is not before[k]}
    added = [k for k in variable.attrs if k not in before]
    variable.attrs[RECORD] = json.dumps({**record, "attrs": changed, "added_attrs": added}, sort_keys=True)


def _read_record(fields: list[xr.DataArray]) -> dict[str, Any] | None:
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


# --- there


def _check_name(name: object) -> None:
    if name not in CONVENTIONS:
        raise RecipeError("convention", f"{name!r}", expected=f"one of {', '.join(CONVENTIONS)}")


def _check_forecast(forecast: xr.DataArray) -> None:
    label = str(forecast.name or "data")
    missing = [n for n in _TIMES if n not in forecast.coords]
    if missing:
        raise DataError(label, f"no coordinate {missing[0]}", expected="a forecast")
    if dims.LEAD_TIME not in forecast.dims:
        raise DataError(
            label, f"{dims.LEAD_TIME} is no dimension", expected="a forecast", fix=f"select [{dims.LEAD_TIME}]"
        )
    if RECORD in forecast.attrs:
        raise DataError(label, "already converted", fix="bring it back with from_convention first")


def _copied(forecast: xr.DataArray) -> xr.DataArray:
    """Return the forecast with attributes of its own, so that the caller's stay as they are."""
    copy = forecast.copy(deep=False)
    copy = copy.assign_coords({n: c.copy(deep=False) for n, c in forecast.coords.items()})
    copy.attrs = dict(forecast.attrs)
    for name, coord in forecast.coords.items():
        copy[name].attrs = dict(coord.attrs)
    return copy


def _recoded(data: xr.DataArray, name: str, values: Any) -> xr.DataArray:
    """Return `data` with other values in a coordinate, its attributes and encoding kept."""
    old = data[name]
    data = data.assign_coords({name: (old.dims, values)})
    data[name].attrs = dict(old.attrs)
    data[name].encoding = {"_FillValue": None} if "_FillValue" in old.encoding else {}
    return data


def _is_derived(forecast: xr.DataArray) -> bool:
    """Say whether valid time is init time plus lead time, so that it need not be kept."""
    valid, given = forecast[dims.INIT_TIME] + forecast[dims.LEAD_TIME], forecast[dims.VALID_TIME]
    return set(valid.dims) == set(given.dims) and bool((valid.transpose(*given.dims).values == given.values).all())


def _axes(data: xr.DataArray, spec: Names) -> dict[str, tuple[str, str]]:
    """Return, by role, the present and the new name of the horizontal axes and of 2-D latitude and longitude."""
    found: dict[str, tuple[str, str]] = {}
    try:
        y, x = (str(dims.find_dim(data, role)) for role in ("y", "x"))
    except DataError:
        return found  # fields without a horizontal grid keep the names that they have
    to_y, to_x = spec.geographic if projection.is_geographic(data) else (spec.projected or (y, x))
    found |= {"y": (y, to_y), "x": (x, to_x)}
    for wanted, to in zip(("latitude", "longitude"), spec.curvilinear, strict=True):
        for name, coord in data.coords.items():
            if coord.ndim == 2 and set(coord.dims) == {y, x} and coord.attrs.get("standard_name", name) == wanted:
                found[wanted] = (str(name), to)
    return found


def _renamed(data: xr.DataArray, names: Mapping[str, str], label: str) -> xr.DataArray:
    stay = {*data.dims, *data.coords} - set(names)
    taken = sorted(stay & set(names.values()), key=str)
    if taken:
        raise DataError(
            label, f"a coordinate {taken[0]!r} is in the way", fix=f"drop it with .drop_vars({str(taken[0])!r})"
        )
    return data.rename({old: new for old, new in names.items() if old != new})


def _ordered(data: xr.DataArray, order: tuple[str, ...], y_x: tuple[str, ...]) -> xr.DataArray:
    first = [d for d in order if d in data.dims]
    last = [d for d in y_x if d in data.dims]
    middle = [d for d in data.dims if d not in (*first, *last)]
    return data.transpose(*first, *middle, *last)


def _y_x(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the new names of the forecast's two last dimensions, in their order."""
    new = {old: to for to, old in record["names"].items()}
    last = [d for d in record["dims"] if d not in (*_TIMES, dims.REALIZATION, dims.VARIABLE)][-2:]
    return tuple(new.get(d, d) for d in last)


def _as_dataset(data: xr.DataArray, spec: Names, record: dict[str, Any], name: str) -> xr.Dataset:
    data = _ordered(data, spec.order, _y_x(record))
    before = dict(data.attrs)
    ds = _split(data, record)
    if name == "pysteps":
        (old,) = ds.data_vars
        units = pysteps_units(before.get("units")) or ""
        new, long_name = PYSTEPS_VARIABLES[units]
        ds = ds.rename({old: new})
        ds.attrs = {
            "Conventions": "CF-1.7",
            "institution": str(before.get("institution", "")),
            **({"projection": text} if (text := record.pop("projection")) else {}),
            "precip_var": new,
        }
        least, zero = _rain_limits(ds[new], units)
        ds[new].attrs |= {
            "units": units,
            "long_name": long_name,
            "accutime": record.pop("accutime"),
            "threshold": least,
            "zerovalue": zero,
            **({"grid_mapping": m} if (m := record["grid_mapping"]) in ds.coords else {}),
        }
    for key in ds.data_vars:
        _written(ds[key], record, before)
        ds[key].encoding = {"_FillValue": np.float32(np.nan)} if ds[key].dtype == np.float32 else {}
        if record["grid_mapping"] in ds.coords and name != "pysteps":
            ds[key].encoding["grid_mapping"] = record["grid_mapping"]
    return ds


def _split(data: xr.DataArray, record: dict[str, Any]) -> xr.Dataset:
    """Return a Dataset of one variable, or of one for each entry of `variable`, with attributes of its own."""
    if dims.VARIABLE not in data.dims:
        return data.to_dataset(name=data.name or "forecast")
    own = {k: data.coords[k].values for k in dims.PER_VARIABLE if k in data.coords}
    names = [str(n) for n in data[dims.VARIABLE].values]
    record["variables"] = names
    record["per_variable"] = {k: [str(t) for t in v] for k, v in own.items()}
    ds = data.drop_vars(own).to_dataset(dim=dims.VARIABLE)
    for i, key in enumerate(names):
        ds[key].attrs = dict(data.attrs) | {k: str(v[i]) for k, v in own.items() if str(v[i])}
    return ds


def _as_earth2studio(data: xr.DataArray, spec: Names, record: dict[str, Any], label: str) -> xr.DataArray:
    if dims.VARIABLE not in data.dims:
        record["variable_added"] = True
        data = data.expand_dims({dims.VARIABLE: [label]})
    data = _ordered(data, spec.order, _y_x(record))
    data.encoding = {}
    _written(data, record, dict(data.attrs))
    if record["grid_mapping"] in data.coords:
        data.encoding["grid_mapping"] = record["grid_mapping"]
    return data


def _to_cf(forecast: xr.DataArray) -> xr.Dataset:
    record = _describe(forecast, "cf") | {"names": {}}
    if dims.VARIABLE in forecast.dims:
        record["variables"] = [str(n) for n in forecast[dims.VARIABLE].values]
        record["per_variable"] = {
            k: [str(t) for t in forecast.coords[k].values] for k in dims.PER_VARIABLE if k in forecast.coords
        }
    ds = cf.to_dataset(forecast)
    for key in ds.data_vars:
        _written(ds[key], record, dict(forecast.attrs))
    return ds


# --- pysteps


def pysteps_units(units: str | None) -> str | None:
    """Return units as pysteps spells them, without a conversion; None where it does not know them.

    ``kg m-2`` and ``kg m-2 h-1`` of water are mm and mm/h.
    """
    return _PYSTEPS_UNITS.get(dims.canonical_units(units) or "")


def _require_pysteps(forecast: xr.DataArray, label: str) -> None:
    if forecast.sizes.get(dims.INIT_TIME, 1) != 1:
        raise DataError(
            label,
            f"{forecast.sizes[dims.INIT_TIME]} init times",
            expected="one, as pysteps knows no archive",
            fix="choose one with .isel(init_time=0)",
        )
    if dims.VARIABLE in forecast.dims:
        raise DataError(
            label, "several variables", expected="one", fix="choose one with .sel(variable=...) and set attrs['units']"
        )
    units = forecast.attrs.get("units")
    if pysteps_units(units) is None:
        raise DataError(
            label, f"units {units!r}", expected="mm h-1, mm or dBZ, as pysteps has", fix="convert the values"
        )


def _pysteps_coordinates(
    data: xr.DataArray, axes: Mapping[str, tuple[str, str]], record: dict[str, Any]
) -> xr.DataArray:
    """Return `data` with valid times in place of lead times, members from 1 on, and pysteps' attributes on the axes."""
    record["projection"] = projection.proj_string(data)
    leads = data[dims.LEAD_TIME].values
    steps = np.diff(leads)
    seconds = float((steps.min() if len(steps) else leads[0]) / np.timedelta64(1, "s"))
    record["accutime"] = seconds / 60.0
    data = _recoded(data, dims.LEAD_TIME, data[dims.INIT_TIME].values + leads)
    data[dims.LEAD_TIME].attrs = {"standard_name": "time", "long_name": "forecast time", "stepsize": seconds}
    if dims.REALIZATION in data.dims:
        values = data[dims.REALIZATION].values if dims.REALIZATION in data.coords else None
        record["members"] = None if values is None else _pack(values, dims.REALIZATION)
        data = data.assign_coords({dims.REALIZATION: np.arange(1, data.sizes[dims.REALIZATION] + 1)})
        data[dims.REALIZATION].attrs = dict(NAMES["pysteps"].attrs[dims.REALIZATION])
    geographic = projection.is_geographic(data)
    for role in ("y", "x"):
        own = axes[role][0] if role in axes else None
        if own in data.coords:
            axis = data[own]
            centres = axis.values
            axis.attrs = {
                "standard_name": f"projection_{role}_coordinate",
                "long_name": f"{role}-coordinate in Cartesian system",
                "units": "degrees" if geographic else str(axis.attrs.get("units", "m")),
                "axis": role.upper(),
                **({"stepsize": float(np.median(np.diff(centres)))} if len(centres) > 1 else {}),
            }
    return data


def _rain_limits(data: xr.DataArray, units: str) -> tuple[float, float]:
    """Return pysteps' threshold and zero value: those of its examples for rain; for reflectivity, from the values."""
    if units != "dBZ":
        return PYSTEPS_THRESHOLD, 0.0
    lowest = data.min()
    above = data.where(data > lowest).min()
    return float(above), float(lowest)


# --- and back


def _fields(data: xr.Dataset | xr.DataArray) -> list[xr.DataArray]:
    if isinstance(data, xr.DataArray):
        return [data]
    every = list(data.data_vars.values())
    recorded = [v for v in every if RECORD in v.attrs]
    return recorded or every


def _label(data: xr.Dataset | xr.DataArray) -> str:
    name = getattr(data, "name", None)
    return str(name) if name is not None else "data"


def _recognise(data: xr.Dataset | xr.DataArray) -> str | None:
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


def _restored(fields: list[xr.DataArray], record: Mapping[str, Any]) -> xr.DataArray:
    """Return the forecast that `to_convention` was given, of what is left of it."""
    data = _stacked([_copied(f) for f in fields], record)
    record = json.loads(data.attrs.pop(RECORD))  # of the variable whose attributes these are
    for key in record.get("added_attrs", ()):
        data.attrs.pop(key, None)
    names = {new: old for new, old in record["names"].items() if new in data.coords or new in data.dims}
    data = data.rename({new: old for new, old in names.items() if new != old})
    if record["convention"] == "pysteps":
        data = _with_leads(data)
        if record.get("members") is not None and dims.REALIZATION in data.coords:
            positions = np.asarray(data[dims.REALIZATION].values) - 1
            data = _recoded(data, dims.REALIZATION, _unpack(record["members"])[positions])
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
                data = _recoded(data, key, data[key].values.astype(np.dtype(was["dtype"])))
            data[key].attrs = _unpack(was["attrs"])
    data.attrs |= _unpack(record.get("attrs", {}))
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
    first = by_name[names[kept[0]]]
    index = pd.Index([names[i] for i in kept], name=dims.VARIABLE)
    data: xr.DataArray = xr.concat(
        [by_name[names[i]].rename(None) for i in kept],
        index,
        coords="minimal",
        compat="override",
        combine_attrs="override",
    )
    data.attrs = dict(first.attrs)
    data = _recoded(data, dims.VARIABLE, np.array(index, dtype=np.dtype(record["coords"][dims.VARIABLE]["dtype"])))
    for key, texts in record["per_variable"].items():
        dtype = np.dtype(record["coords"][key].get("dtype", "O"))
        data = data.assign_coords({key: (dims.VARIABLE, np.array([texts[i] for i in kept], dtype=dtype))})
    return data


def _with_leads(data: xr.DataArray) -> xr.DataArray:
    """Return `data` with lead times where pysteps has valid times."""
    valid = data[dims.LEAD_TIME].values
    if dims.INIT_TIME not in data.coords:
        raise DataError(
            _label(data), "no coordinate forecast_reference_time", fix="assign the init time as this coordinate"
        )
    return _recoded(data, dims.LEAD_TIME, valid - data[dims.INIT_TIME].values)


def _from_names(data: xr.Dataset | xr.DataArray, fields: list[xr.DataArray], name: str) -> xr.DataArray:
    """Return data from elsewhere as a forecast: our names, CF attributes, a valid time."""
    if name == "cf":
        names: dict[str, str] = {}
    else:
        names = {new: old for old, new in NAMES[name].names.items() if new != old}
    lead = {v: k for k, v in names.items()}.get(dims.LEAD_TIME, dims.LEAD_TIME)
    fields = [f for f in fields if lead in f.dims or lead in f.coords]
    if not fields:
        raise DataError(_label(data), f"no variable has {lead}", expected=f"a forecast in the convention {name!r}")
    fields = [_copied(f) for f in fields]
    result = fields[0]
    if len(fields) > 1:
        shapes = {f.dims: f for f in fields}
        if len(shapes) > 1:
            raise DataError(
                _label(data),
                f"variables of different dimensions ({' and '.join(str(f.name) for f in shapes.values())})",
                fix="choose one, as in ds['name']",
            )
        texts = {k: [str(f.attrs.get(k, "")) for f in fields] for k in dims.PER_VARIABLE}
        result = xr.concat(
            [f.rename(None) for f in fields],
            pd.Index([str(f.name) for f in fields], name=dims.VARIABLE),
            coords="minimal",
            compat="override",
            combine_attrs="drop",
        ).rename("forecast")
        own = {k: (dims.VARIABLE, np.array(v)) for k, v in texts.items() if any(v) or k == dims.UNITS}
        result = result.assign_coords(own)
    result = _renamed(result, {n: o for n, o in names.items() if n in result.coords or n in result.dims}, _label(data))
    if dims.VARIABLE in result.dims and result.sizes[dims.VARIABLE] == 1:
        only = str(result[dims.VARIABLE].values[0])
        result = result.isel({dims.VARIABLE: 0}, drop=True).rename(result.name or only)
    if name == "pysteps":
        result = _with_leads(result)
    for coord in (dims.INIT_TIME, dims.LEAD_TIME):
        if coord not in result.coords or result[coord].dtype.kind not in "mM":
            raise DataError(
                _label(data), f"no {coord} as times", expected="decoded times", fix="open it with decode_timedelta=True"
            )
        result = _recoded(result, coord, result[coord].values.astype(_NANOSECONDS[coord]))
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
