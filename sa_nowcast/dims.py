"""The only place that names dimensions, coordinates and their CF attributes.

Finding time and the two horizontal dimensions follows the CF conventions 1.11: the ``axis`` attribute
(section 4), then ``standard_name`` (sections 4.1, 4.2, 4.4), then ``units`` of latitude and longitude
(sections 4.1, 4.2), and last the names that people commonly give.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Final, Literal

import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.units import canonical_units as canonical_units
from sa_nowcast.units import is_count as is_count
from sa_nowcast.units import is_rain as is_rain

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


def _label(obj: xr.DataArray | xr.Dataset) -> str:
    name = getattr(obj, "name", None)
    return str(name) if name is not None else "data"


def _listed(names: Iterable[Hashable]) -> str:
    return ", ".join(str(n) for n in names) or "none"
