"""The only place that names dimensions, coordinates and their CF attributes.

Finding time and the two horizontal dimensions follows the CF conventions 1.11: the ``axis`` attribute
(section 4), then ``standard_name`` (sections 4.1, 4.2, 4.4), then ``units`` of latitude and longitude
(sections 4.1, 4.2), and last the names that people commonly give.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError

TIME: Final = "time"
LEAD_TIME: Final = "lead_time"
INIT_TIME: Final = "init_time"
VALID_TIME: Final = "valid_time"
REALIZATION: Final = "realization"
VARIABLE: Final = "variable"
UNITS: Final = "units"
PER_VARIABLE: Final = (UNITS, "standard_name", "long_name", "cell_methods")
"""Attributes that become coordinates along `VARIABLE` where variables are stacked, and attributes again in a file."""

# CF standard names, section 4.4 and the CF standard name table.
LEAD_TIME_ATTRS: Final = {"standard_name": "forecast_period", "long_name": "lead time"}
INIT_TIME_ATTRS: Final = {"standard_name": "forecast_reference_time", "long_name": "initialisation time"}
VALID_TIME_ATTRS: Final = {"standard_name": "time", "long_name": "valid time"}
REALIZATION_ATTRS: Final = {"standard_name": "realization", "units": "1", "long_name": "ensemble member"}

Role = Literal["time", "y", "x"]

_AXIS: Final[Mapping[Role, str]] = {"time": "T", "y": "Y", "x": "X"}
_STANDARD_NAMES: Final[Mapping[Role, tuple[str, ...]]] = {
    "time": ("time",),
    "y": ("projection_y_coordinate", "latitude", "grid_latitude"),
    "x": ("projection_x_coordinate", "longitude", "grid_longitude"),
}
_UNITS: Final[Mapping[Role, tuple[str, ...]]] = {
    "time": (),
    "y": ("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn"),
    "x": ("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese"),
}
_NAMES: Final[Mapping[Role, tuple[str, ...]]] = {
    "time": ("time", "times", "t", "date", "datetime", "valid_time"),
    "y": (
        "y",
        "latitude",
        "lat",
        "northing",
        "y_geostationary",
        "y_osgb",
        "rows",
        "row",
        "height",
        "h",
        "j",
        "nlat",
    ),
    "x": (
        "x",
        "longitude",
        "lon",
        "easting",
        "x_geostationary",
        "x_osgb",
        "cols",
        "col",
        "columns",
        "column",
        "width",
        "w",
        "i",
        "nlon",
    ),
}
CHANNEL_NAMES: Final = ("channel", "channels", "band", "bands", "variable", "flow", "c", "feature")


def find_dim(obj: xr.DataArray | xr.Dataset, role: Role, told: Hashable | None = None) -> Hashable:
    """Return the dimension of `obj` that plays the given role.

    Parameters
    ----------
    obj : DataArray or Dataset
    role : {"time", "y", "x"}
    told : hashable, optional
        The dimension's name, where the user gave it; it is only checked.

    Raises
    ------
    DataError
        No dimension plays the role, or more than one does.
    """
    label = _label(obj)
    dims = list(obj.dims)
    if told is not None:
        if told not in dims:
            raise DataError(label, f"no dimension {told!r} (dimensions: {_listed(dims)})", fix=f"name one with {role}=")
        return told
    coords = {d: obj.coords[d].variable for d in dims if d in obj.coords}
    tests: list[list[Hashable]] = [
        [d for d, c in coords.items() if str(c.attrs.get("axis", "")).upper() == _AXIS[role]],
        [d for d, c in coords.items() if c.attrs.get("standard_name") in _STANDARD_NAMES[role]],
        [d for d, c in coords.items() if str(c.attrs.get("units", "")).lower() in _UNITS[role]],
    ]
    if role == "time":
        tests.append(
            [d for d, c in coords.items() if c.dtype.kind == "M"]
        )  # with a time zone too, which is refused by name
    lower = {str(d).lower(): d for d in dims}
    tests.append([lower[n] for n in _NAMES[role] if n in lower][:1])
    for found in tests:
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise DataError(label, f"dimensions {_listed(found)} could each be {role}", fix=f"name one with {role}=")
    raise DataError(
        label,
        f"no {role} dimension among {_listed(dims)}",
        fix=f"name it with {role}=, or set its CF attributes",
    )


def find_channel(da: xr.DataArray, known: Iterable[Hashable], told: Hashable | None = None) -> Hashable | None:
    """Return the channel dimension of `da`: the one left beside `known`, or None where there is none.

    Raises
    ------
    DataError
        More dimensions are left than one, or the one that is left is not like channels and was not told.
    """
    known = set(known)
    left = [d for d in da.dims if d not in known]
    if told is not None:
        if told not in left:
            raise DataError(
                _label(da),
                f"no channel dimension {told!r} (left: {_listed(left)})",
                fix="name one with channel=",
            )
        left.remove(told)
        if not left:
            return told
    elif not left:
        return None
    elif len(left) == 1 and str(left[0]).lower() in CHANNEL_NAMES:
        return left[0]
    sizes = ", ".join(f"{d!s} ({da.sizes[d]})" for d in left)
    raise DataError(
        _label(da),
        f"dimension {sizes} is neither time, y, x nor a known channel name",
        fix=f"choose one entry with .isel({left[0]}=0), or name it with channel={str(left[0])!r}",
    )


def same_axis(one: npt.ArrayLike, other: npt.ArrayLike) -> bool:
    """Say whether two coordinates are of one grid: they agree to a thousandth of a cell, or to float32's rounding.

    Parameters
    ----------
    one, other : array
        Values along a dimension, or of a two-dimensional coordinate; anything but numbers must be equal.
    """
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape:
        return False
    if not (a.dtype.kind in "fiu" and b.dtype.kind in "fiu"):
        return bool(np.array_equal(a, b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    steps = [np.abs(np.diff(a, axis=axis)) for axis in range(a.ndim) if a.shape[axis] > 1]
    # Of a two-dimensional coordinate, one axis is the one along which it grows.
    step = max((float(np.nanmin(s)) if np.isfinite(s).any() else 0.0 for s in steps), default=1.0)
    largest = float(np.nanmax(np.abs(a), initial=0.0))
    # Rounding to float32 moves 180 degrees by up to 8e-6, more than a thousandth of a cell of 100 m; a tenth of a cell
    # is where a grid is another one all the same.
    tolerance = max(1e-3 * step, min(largest * float(np.finfo(np.float32).eps), 0.1 * step))
    return bool(((np.abs(a - b) < tolerance) | (a == b) | (np.isnan(a) & np.isnan(b))).all())


_UNIT_ALIASES: Final = {
    "hr": "h", "hrs": "h", "hour": "h", "hours": "h", "sec": "s", "second": "s", "seconds": "s", "minute": "min",
    "minutes": "min", "meter": "m", "metre": "m", "meters": "m", "metres": "m", "kelvin": "K", "dbz": "dBZ",
    "millimeter": "mm", "millimetre": "mm", "millimeters": "mm", "millimetres": "mm", "degc": "degC", "°c": "degC",
    "celsius": "degC", "degrees_celsius": "degC", "percent": "%", "dimensionless": "1", "": "1",
    **dict.fromkeys(_UNITS["y"], "degrees_north"), **dict.fromkeys(_UNITS["x"], "degrees_east"),
}  # fmt: skip


_NUMBER: Final = re.compile(r"(\d+\.?\d*(?:[eE][+-]?\d+)?)(?:\^([+-]?\d))?")
_NAMED: Final = re.compile(r"(.*?[^\d^+-])\^?([+-]?\d+)?")


def canonical_units(units: str | None) -> str | None:
    """Return one spelling for the units that CF, pysteps and people spell differently.

    ``mm/h``, ``mm h^-1``, ``mm hr**-1`` and ``mm h-1`` all become ``mm h-1``. This compares units; it converts none.
    """
    if units is None:
        return None
    text = units.strip().replace("**", "^").replace("·", " ").replace("*", " ")
    text = re.sub(r"\.(?!\d)|(?<!\d)\.", " ", text)  # a point between names multiplies; within a number it stays
    numerator, *denominators = text.split("/")
    number = 1.0
    factors: dict[str, int] = {}
    for sign, part in [(1, numerator), *((-1, d) for d in denominators)]:
        for token in part.split():
            if (match := _NUMBER.fullmatch(token)) and 1e-30 < (value := float(match[1])) < 1e30:
                number *= value ** (sign * int(match[2] or 1))
                continue
            match = _NAMED.fullmatch(token)
            name, power = (match[1], int(match[2] or 1)) if match else (token, 1)
            name = _UNIT_ALIASES.get(name, _UNIT_ALIASES.get(name.lower(), name))
            if name != "1":
                factors[name] = factors.get(name, 0) + sign * power
    shown = [n if p == 1 else f"{n}{p}" for n, p in sorted(factors.items(), key=lambda f: (f[1] < 0, f[0])) if p]
    return " ".join([*([f"{number:g}"] if number != 1 else []), *shown]) or "1"


_RAIN_RATE_UNITS: Final = frozenset({"mm h-1", "kg m-2 s-1", "mm min-1", "mm s-1", "kg m-2 h-1"})
_RAIN_NAMES: Final = frozenset(
    {"rainfall_rate", "precipitation_flux", "lwe_precipitation_rate", "rainfall_flux", "stratiform_rainfall_rate",
     "precipitation_amount", "lwe_thickness_of_precipitation_amount", "rainfall_amount", "thickness_of_rainfall_amount"}
)  # fmt: skip


def is_rain(attrs: Mapping[Hashable, Any]) -> bool:
    """Say whether the attributes describe rain as a rate or an amount (not reflectivity)."""
    return attrs.get("standard_name") in _RAIN_NAMES or canonical_units(attrs.get("units")) in _RAIN_RATE_UNITS


def _label(obj: xr.DataArray | xr.Dataset) -> str:
    name = getattr(obj, "name", None)
    return str(name) if name is not None else "data"


def _listed(names: Iterable[Hashable]) -> str:
    return ", ".join(str(n) for n in names) or "none"
