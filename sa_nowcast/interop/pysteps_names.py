"""Names, units and coordinates as pysteps' NetCDF exporter writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.interop import projection
from sa_nowcast.interop.names import NAMES
from sa_nowcast.interop.record import pack, recoded
from sa_nowcast.metadata import dims

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
