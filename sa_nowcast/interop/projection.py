"""Where a forecast lies: the axes of its grid, and its coordinate reference system for tools that want one."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sa_nowcast.computing import quiet
from sa_nowcast.errors import DataError
from sa_nowcast.metadata import dims
from sa_nowcast.sources.reading import require

# Latitude and longitude without a grid mapping: CF (section 5.6) then leaves the figure of the earth open, and this
# is what tools that need one assume.
GEOGRAPHIC = "EPSG:4326"
_WKT_ATTRS = ("crs_wkt", "spatial_ref")
_GEOGRAPHIC_NAMES = ("latitude", "longitude")
_METRES = {"m": 1.0, "km": 1000.0}
# Coordinates that a file rounds to float32 differ by less than this from a regular axis, in cells.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Axis:
    """A regular axis of cell centres, in metres or degrees: the first one, and the signed distance to the next."""

    name: Hashable
    first: float
    step: float
    size: int

    @property
    def edges(self) -> tuple[float, float]:
        """The lowest and the highest edge of a cell."""
        ends = (self.first - self.step / 2, self.first + (self.size - 0.5) * self.step)
        return min(ends), max(ends)


def is_geographic(forecast: xr.DataArray) -> bool:
    """Say whether rows are latitudes and columns longitudes, by their units or standard names."""
    try:
        y, x = (dims.find_dim(forecast, role) for role in ("y", "x"))
    except DataError:
        return False
    for name, wanted, units in ((y, "latitude", "degrees_north"), (x, "longitude", "degrees_east")):
        attrs = forecast[name].attrs if name in forecast.coords else {}
        named = attrs.get("standard_name") == wanted or str(name).lower() in (wanted, wanted[:3])
        if not named and dims.canonical_units(attrs.get("units")) != units:
            return False
    return True


def regular_axis(forecast: xr.DataArray, name: Hashable) -> Axis:
    """Return an axis of the grid, in metres, or in degrees where it has them.

    A dimension without a coordinate, with one cell, uneven steps, or units of no length and no angle is a `DataError`.
    """
    label = str(forecast.name or "forecast")
    if name not in forecast.coords or forecast.sizes[name] < 2:
        what = "one cell" if name in forecast.coords else "no coordinate"
        raise DataError(label, f"{name} has {what}", expected="the coordinates of at least 2 cells")
    values = dims.unwrapped(forecast[name])
    step = (values[-1] - values[0]) / (len(values) - 1)
    regular = values[0] + step * np.arange(len(values))
    if not step or not np.allclose(values, regular, rtol=0, atol=abs(step) * _TOLERANCE):
        raise DataError(label, f"{name} is not regular", expected="cells of one size", fix="regrid the forecast")
    units = str(forecast[name].attrs.get("units", ""))
    known = units.lower().startswith("degree") or (not units and is_geographic(forecast))
    factor = 1.0 if known else _METRES.get(dims.canonical_units(units) or "", 0.0)
    if not factor:
        found = f"{name} is in {units or 'no stated units'}"
        raise DataError(
            label, found, expected="m, km or degrees", fix=f"convert the values of {name}, and set its attribute units"
        )
    return Axis(name, float(values[0]) * factor, float(step) * factor, len(values))


def mapping_attrs(forecast: xr.DataArray) -> dict[str, Any] | None:
    """Return the attributes of the grid mapping variable, None where there is none."""
    named = forecast.encoding.get("grid_mapping", forecast.attrs.get("grid_mapping"))
    if named in forecast.coords:
        return dict(forecast.coords[named].attrs)
    for coord in forecast.coords.values():
        if "grid_mapping_name" in coord.attrs or "crs_wkt" in coord.attrs:
            return dict(coord.attrs)
    return None


def crs_of(forecast: xr.DataArray) -> str | None:
    """Return the coordinate reference system as WKT, `GEOGRAPHIC` for plain latitude and longitude, None if unknown.

    Where the grid mapping has no WKT of its own, pyproj makes it from the attributes of CF appendix F: `DataError`
    where they describe no projection that pyproj knows, `MissingLibraryError` where it is not installed.
    """
    attrs = mapping_attrs(forecast)
    if attrs is None:
        return GEOGRAPHIC if is_geographic(forecast) else None
    for key in _WKT_ATTRS:
        if attrs.get(key):
            return str(attrs[key])
    pyproj = require("pyproj", "pysteps")
    try:
        text: str = pyproj.CRS.from_cf(attrs).to_wkt()
    except (KeyError, ValueError, pyproj.exceptions.CRSError) as error:
        raise DataError(
            str(forecast.name or "forecast"),
            f"grid mapping {attrs.get('grid_mapping_name')!r} that pyproj cannot read ({error})",
            fix="give the grid mapping variable the attribute crs_wkt",
        ) from error
    return text


def proj_string(forecast: xr.DataArray) -> str | None:
    """Return the coordinate reference system as a PROJ string, as pysteps keeps it; None if unknown."""
    wkt = crs_of(forecast)
    if wkt is None:
        return None
    pyproj = require("pyproj", "pysteps")
    with quiet.warnings_ignored(UserWarning):  # that a PROJ string says less than WKT is known
        text: str = pyproj.CRS(wkt).to_proj4()
    return text.replace(" +type=crs", "")
