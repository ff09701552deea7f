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

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.forecasts import cf
from sa_nowcast.interop import projection
from sa_nowcast.interop.names import (
    NAMES,
    PYSTEPS_VARIABLES,
    Names,
    pysteps_coordinates,
    pysteps_units,
    rain_limits,
    require_pysteps,
)
from sa_nowcast.interop.record import (
    CONVENTIONS,
    NANOSECONDS,
    RECORD,
    TIMES,
    Convention,
    copied,
    describe,
    fields_of,
    label_of,
    read_record,
    recoded,
    renamed,
    written,
)
from sa_nowcast.interop.restore import from_names, recognise, restored
from sa_nowcast.metadata import dims


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
        require_pysteps(forecast, label)
    record: dict[str, Any] = describe(forecast, name)
    result = copied(forecast)
    if not spec.keeps_valid_time and _is_derived(forecast):
        record["derived"] = list(map(str, forecast[dims.VALID_TIME].dims))
        result = result.drop_vars(dims.VALID_TIME)
    if name == "pysteps" and dims.INIT_TIME in result.dims:
        record["squeezed"] = True
        result = result.isel({dims.INIT_TIME: 0})
    if spec.init_is_dimension and dims.INIT_TIME not in result.dims:
        result = result.expand_dims(dims.INIT_TIME)
    for coord in TIMES:
        if coord in result.coords:
            result = recoded(result, coord, result[coord].values.astype(NANOSECONDS[coord]))
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
        result = pysteps_coordinates(result, axes, record)
    new = {old: new for old, new in spec.names.items() if old in result.coords or old in result.dims}
    new |= {old: to for old, to in axes.values() if old != to}
    result = renamed(result, new, label)
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
    fields = fields_of(data)
    record = read_record(fields)
    found = record["convention"] if record else recognise(data)
    if name is not None and found != name:
        what = "in none of the known conventions" if found is None else f"in the convention {found!r}"
        raise DataError(label_of(data), what, expected=f"{name!r}")
    if found is None:
        raise DataError(
            label_of(data), f"dimensions {', '.join(map(str, data.dims))}", expected=f"one of {', '.join(CONVENTIONS)}"
        )
    if record is None:
        return from_names(data, fields, found)
    return restored(fields, record)


def _check_name(name: object) -> None:
    if name not in CONVENTIONS:
        raise RecipeError("convention", f"{name!r}", expected=f"one of {', '.join(CONVENTIONS)}")


def _check_forecast(forecast: xr.DataArray) -> None:
    label = str(forecast.name or "data")
    missing = [n for n in TIMES if n not in forecast.coords]
    if missing:
        raise DataError(label, f"no coordinate {missing[0]}", expected="a forecast")
    if dims.LEAD_TIME not in forecast.dims:
        raise DataError(
            label, f"{dims.LEAD_TIME} is no dimension", expected="a forecast", fix=f"ds.expand_dims({dims.LEAD_TIME!r})"
        )
    if RECORD in forecast.attrs:
        raise DataError(label, "already converted", fix="bring it back with from_convention first")


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


def _ordered(data: xr.DataArray, order: tuple[str, ...], y_x: tuple[str, ...]) -> xr.DataArray:
    first = [d for d in order if d in data.dims]
    last = [d for d in y_x if d in data.dims]
    middle = [d for d in data.dims if d not in (*first, *last)]
    return data.transpose(*first, *middle, *last)


def _y_x(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the new names of the forecast's two last dimensions, in their order."""
    new = {old: to for to, old in record["names"].items()}
    last = [d for d in record["dims"] if d not in (*TIMES, dims.REALIZATION, dims.VARIABLE)][-2:]
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
        least, zero = rain_limits(ds[new], units)
        ds[new].attrs |= {
            "units": units,
            "long_name": long_name,
            "accutime": record.pop("accutime"),
            "threshold": least,
            "zerovalue": zero,
            **({"grid_mapping": m} if (m := record["grid_mapping"]) in ds.coords else {}),
        }
    for key in ds.data_vars:
        written(ds[key], record, before)
        ds[key].encoding = {"_FillValue": np.float32(np.nan)} if ds[key].dtype == np.float32 else {}
        if record["grid_mapping"] in ds.coords and name != "pysteps":
            ds[key].encoding["grid_mapping"] = record["grid_mapping"]
    return ds


def _split(data: xr.DataArray, record: dict[str, Any]) -> xr.Dataset:
    """Return a Dataset of one variable, or of one for each entry of `variable`, with attributes of its own."""
    if dims.VARIABLE not in data.dims:
        return data.to_dataset(name=data.name or "forecast")
    own = _note_variables(data, record)
    ds = data.drop_vars(own).to_dataset(dim=dims.VARIABLE)
    for i, key in enumerate(record["variables"]):
        ds[key].attrs = dict(data.attrs) | {k: texts[i] for k, texts in own.items() if texts[i]}
    return ds


def _note_variables(data: xr.DataArray, record: dict[str, Any]) -> dict[str, list[str]]:
    """Put the names of several variables on record, and what each has of its own, which is returned."""
    own = {k: [str(t) for t in data.coords[k].values] for k in dims.PER_VARIABLE if k in data.coords}
    record |= {"variables": [str(n) for n in data[dims.VARIABLE].values], "per_variable": own}
    return own


def _as_earth2studio(data: xr.DataArray, spec: Names, record: dict[str, Any], label: str) -> xr.DataArray:
    if dims.VARIABLE not in data.dims:
        record["variable_added"] = True
        data = data.expand_dims({dims.VARIABLE: [label]})
    data = _ordered(data, spec.order, _y_x(record))
    data.encoding = {}
    written(data, record, dict(data.attrs))
    if record["grid_mapping"] in data.coords:
        data.encoding["grid_mapping"] = record["grid_mapping"]
    return data


def _to_cf(forecast: xr.DataArray) -> xr.Dataset:
    record = describe(forecast, "cf") | {"names": {}}
    if dims.VARIABLE in forecast.dims:
        _note_variables(forecast, record)
    ds = cf.to_dataset(forecast)
    for key in ds.data_vars:
        written(ds[key], record, dict(forecast.attrs))
    return ds
