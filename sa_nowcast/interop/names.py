"""What other conventions call a forecast's dimensions, coordinates and units; `conventions` gives the sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.interop import projection
from sa_nowcast.interop.record import pack, recoded
from sa_nowcast.metadata import dims


@dataclass(frozen=True)
class Names:
    """What a convention calls things. `order` is that of the first dimensions; the horizontal ones come last."""

    names: Mapping[str, str]
    order: tuple[str, ...]
    geographic: tuple[str, str] = ("latitude", "longitude")  # axes of a grid in latitude and longitude
    curvilinear: tuple[str, str] = ("latitude", "longitude")  # two-dimensional latitude and longitude
    projected: tuple[str, str] | None = None  # axes of other grids; None: as they are
    init_is_dimension: bool = False
    keeps_valid_time: bool = True
    attrs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


NAMES: Final[Mapping[str, Names]] = {
    "ecmwf": Names(
        {dims.INIT_TIME: "time", dims.LEAD_TIME: "step", dims.VALID_TIME: "valid_time", dims.REALIZATION: "number"},
        ("number", "time", "step"),
        projected=("y", "x"),
        attrs={
            dims.INIT_TIME: {"standard_name": "forecast_reference_time", "long_name": "initial time of forecast"},
            dims.LEAD_TIME: {"standard_name": "forecast_period", "long_name": "time since forecast_reference_time"},
            dims.VALID_TIME: {"standard_name": "time", "long_name": "time"},
            dims.REALIZATION: {
                "standard_name": "realization", "long_name": "ensemble member numerical id", "units": "1",
            },
            "y": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
            "x": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
        },
    ),
    "weatherbench": Names(
        {dims.INIT_TIME: "time", dims.LEAD_TIME: "prediction_timedelta", dims.REALIZATION: "number"},
        ("time", "number", "prediction_timedelta"),
        init_is_dimension=True,
        keeps_valid_time=False,
    ),
    "earth2studio": Names(
        {dims.INIT_TIME: "time", dims.LEAD_TIME: "lead_time", dims.REALIZATION: "ensemble"},
        ("ensemble", "time", "lead_time", dims.VARIABLE),
        geographic=("lat", "lon"),
        curvilinear=("lat", "lon"),
        init_is_dimension=True,
        keeps_valid_time=False,
    ),
    "pysteps": Names(
        {dims.INIT_TIME: "forecast_reference_time", dims.LEAD_TIME: "time", dims.REALIZATION: "ens_number"},
        ("ens_number", "time"),
        geographic=("y", "x"),
        curvilinear=("lat", "lon"),
        projected=("y", "x"),
        keeps_valid_time=False,
        attrs={
            dims.INIT_TIME: {"long_name": "forecast reference time"},
            dims.REALIZATION: {"standard_name": "realization", "long_name": "ensemble member", "units": ""},
        },
    ),
}  # fmt: skip

# The variable of pysteps that holds each of its units.
PYSTEPS_VARIABLES: Final = {
    "mm/h": ("precip_intensity", "instantaneous precipitation rate"),
    "mm": ("precip_accum", "accumulated precipitation"),
    "dBZ": ("reflectivity", "equivalent reflectivity factor"),
}
# A kg of water on a square metre stands 1 mm deep.
_PYSTEPS_UNITS: Final = {"mm h-1": "mm/h", "kg m-2 h-1": "mm/h", "mm": "mm", "kg m-2": "mm", "dBZ": "dBZ"}
PYSTEPS_THRESHOLD: Final = 0.1
"""Least rain that pysteps' examples count as rain, mm h-1 or mm."""


def pysteps_units(units: str | None) -> str | None:
    """Return units as pysteps spells them, without a conversion; None where it does not know them.

    ``kg m-2`` and ``kg m-2 h-1`` of water are mm and mm/h.
    """
    return _PYSTEPS_UNITS.get(dims.canonical_units(units) or "")


def require_pysteps(forecast: xr.DataArray, label: str) -> None:
    """Refuse what pysteps has no place for, in one line."""
    if forecast.sizes.get(dims.INIT_TIME, 1) != 1:
        raise DataError(
            label,
            f"{forecast.sizes[dims.INIT_TIME]} init times",
            expected="one, as pysteps knows no archive",
            fix="choose one with .isel(init_time=0)",
        )
    if dims.VARIABLE in forecast.dims:
        raise DataError(
            label,
            "several variables",
            expected="one",
            fix=f"choose one with .sel(variable={str(forecast[dims.VARIABLE].values[0])!r})",
        )
    units = forecast.attrs.get("units")
    if pysteps_units(units) is None:
        raise DataError(
            label,
            f"units {units!r}",
            expected="mm h-1, mm or dBZ, as pysteps has",
            fix="convert the values, and set attrs['units']",
        )


def pysteps_coordinates(
    data: xr.DataArray, axes: Mapping[str, tuple[str, str]], record: dict[str, Any]
) -> xr.DataArray:
    """Return `data` with valid times in place of lead times, members from 1 on, and pysteps' attributes on the axes."""
    record["projection"] = projection.proj_string(data)
    leads = data[dims.LEAD_TIME].values
    steps = np.diff(leads)
    seconds = float((steps.min() if len(steps) else leads[0]) / np.timedelta64(1, "s"))
    record["accutime"] = seconds / 60.0
    data = recoded(data, dims.LEAD_TIME, data[dims.INIT_TIME].values + leads)
    data[dims.LEAD_TIME].attrs = {"standard_name": "time", "long_name": "forecast time", "stepsize": seconds}
    if dims.REALIZATION in data.dims:
        values = data[dims.REALIZATION].values if dims.REALIZATION in data.coords else None
        record["members"] = None if values is None else pack(values, dims.REALIZATION)
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


def rain_limits(data: xr.DataArray, units: str) -> tuple[float, float]:
    """Return pysteps' threshold and zero value: those of its examples for rain; for reflectivity, from the values."""
    if units != "dBZ":
        return PYSTEPS_THRESHOLD, 0.0
    lowest = data.min()
    above = data.where(data > lowest).min()
    return float(above), float(lowest)
