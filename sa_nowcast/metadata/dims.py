"""The only place that names dimensions, coordinates and their CF attributes.

Finding time and the two horizontal dimensions follows the CF conventions 1.11: the ``axis`` attribute
(section 4), then ``standard_name`` (sections 4.1, 4.2, 4.4), then ``units`` of latitude and longitude
(sections 4.1, 4.2), then the names that people and models commonly give, and last the coordinates that vary along
dimensions without a coordinate of their own: times along one, two-dimensional latitude and longitude along two
(section 5.2).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.metadata.units import canonical_units as canonical_units
from sa_nowcast.metadata.units import is_count as is_count
from sa_nowcast.metadata.units import is_rain as is_rain

TIME: Final = "time"
LEAD_TIME: Final = "lead_time"
INIT_TIME: Final = "init_time"
VALID_TIME: Final = "valid_time"
REALIZATION: Final = "realization"
THRESHOLD: Final = "threshold"
QUANTILE: Final = "quantile"
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
ROLES: Final[tuple[Role, ...]] = ("time", "y", "x")

_AXIS: Final[Mapping[Role, str]] = {"time": "T", "y": "Y", "x": "X"}
_STANDARD_NAMES: Final[Mapping[Role, tuple[str, ...]]] = {
    "time": ("time",),
    "y": ("projection_y_coordinate", "latitude", "grid_latitude"),
    "x": ("projection_x_coordinate", "longitude", "grid_longitude"),
}
_UNITS: Final[Mapping[Role, str]] = {"time": "", "y": "degrees_north", "x": "degrees_east"}
_NAMES: Final[Mapping[Role, tuple[str, ...]]] = {
    "time": ("time", "times", "t", "date", "datetime", "valid_time", "time_counter", "ocean_time", "xtime"),
    # Those of WRF, ROMS, NEMO, MOM, HYCOM and satellite swaths too, where latitude and longitude are two-dimensional.
    "y": (
        "y", "latitude", "lat", "northing", "y_geostationary", "y_osgb", "rows", "row", "height", "h", "j", "nlat",
        "south_north", "south_north_stag", "eta_rho", "eta_u", "eta_v", "eta_psi", "rlat", "yc", "y_c", "nj", "ny",
        "grid_latitude", "ygrid_0", "yh", "yq", "yt_ocean", "yu_ocean", "lines", "line", "along_track", "scanline",
        "nrows", "northings", "y_grid",
    ),
    "x": (
        "x", "longitude", "lon", "easting", "x_geostationary", "x_osgb", "cols", "col", "columns", "column", "width",
        "w", "i", "nlon", "west_east", "west_east_stag", "xi_rho", "xi_u", "xi_v", "xi_psi", "rlon", "xc", "x_c",
        "ni", "nx", "grid_longitude", "xgrid_0", "xh", "xq", "xt_ocean", "xu_ocean", "pixels", "pixel", "across_track",
        "cross_track", "ground_pixel", "ncols", "eastings", "x_grid",
    ),
}  # fmt: skip
CHANNEL_NAMES: Final = ("channel", "channels", "band", "bands", "variable", "flow", "c", "feature")


_POSITION: Final = re.compile(
    r"(x?(lat|lon|long|latitude|longitude)(s|2d|_2d|_rho|_u|_v|_psi|_t|_m|_c|_0|_bnds|_bounds)?"
    r"|nav_l(at|on)|geol(at|on)(_[a-z])?|[tuv]l(at|ong?)|gridl(at|on)(_0)?)"
)
_REFERENCE_TIMES: Final = ("init_time", "reference_time", "forecast_reference_time")
_TIME_STAMPS: Final = ("valid_time", "time", "xtime", "times", "ocean_time", "time_counter")

Roles = tuple[Hashable, Hashable, Hashable]
"""The dimensions of time, y and x."""


class DimNames(NamedTuple):
    """Dimension names that a user gave, where CF attributes and common names do not tell; None is to be found."""

    time: Hashable | None = None
    y: Hashable | None = None
    x: Hashable | None = None
    channel: Hashable | None = None

    @property
    def by_role(self) -> dict[Role, Hashable | None]:
        """The names of time, y and x by their role."""
        return dict(zip(ROLES, self, strict=False))


UNNAMED: Final = DimNames()


def find_dim(obj: xr.DataArray | xr.Dataset, role: Role, told: Hashable | None = None) -> Hashable:
    """Return the dimension of `obj` that plays the given role.

    Parameters
    ----------
    obj : DataArray or Dataset
        Of a Dataset, the dimension that the gridded variables share (see `grids`); other variables decide nothing.
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
    found = []
    if isinstance(obj, xr.Dataset):
        found = list(dict.fromkeys(roles[ROLES.index(role)] for roles in grids(obj)))
    found = found or _found(dims, {n: c.variable for n, c in obj.coords.items()}, role)
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(label, f"dimensions {_listed(found)} could each be {role}", fix=f"name one with {role}=")
    fix = f"name it with {role}=, or set its CF attributes"
    raise DataError(label, f"no {role} dimension among {_listed(dims)}", fix=fix)


def grids(ds: xr.Dataset, told: Mapping[Role, Hashable | None] | None = None) -> dict[Roles, list[str]]:
    """Return the gridded variables of `ds` by their dimensions of time, y and x, each found on the variable alone.

    Parameters
    ----------
    ds : Dataset
    told : mapping, optional
        Dimensions by role, where the user gave them: variables without them are left out.

    Returns
    -------
    dict of list
        Names in alphabetical order: a Zarr store without consolidated metadata lists its variables in an order that
        may change. Latitude and longitude that vary in time are no variables of a field.
    """
    told = {role: dim for role, dim in (told or {}).items() if dim is not None}
    coords = {n: c.variable for n, c in ds.coords.items()}
    known: dict[frozenset[Hashable], Roles | None] = {}
    found: dict[Roles, list[str]] = {}
    for name, variable in sorted(((str(n), v.variable) for n, v in ds.data_vars.items()), key=lambda item: item[0]):
        if variable.ndim < 3 or not set(told.values()) <= set(variable.dims) or is_position(name, variable):
            continue
        key = frozenset(variable.dims)
        if key not in known:
            own = {n: c for n, c in coords.items() if set(c.dims) <= key}
            each = [[told[r]] if r in told else _found(variable.dims, own, r) for r in ROLES]
            only = [e[0] for e in each if len(e) == 1]
            known[key] = (only[0], only[1], only[2]) if len(set(only)) == 3 else None
        roles = known[key]
        if roles is not None:
            found.setdefault(roles, []).append(name)
    return found


def likeliest(ds: xr.Dataset, found: Mapping[Roles, list[str]]) -> Roles:
    """Return the one of several grids that has the most variables without further dimensions, then the most values."""
    plain = {roles: [n for n in names if ds[n].ndim == len(roles)] for roles, names in found.items()}
    return max(found, key=lambda roles: (len(plain[roles]), sum(ds[n].size for n in plain[roles] or found[roles])))


def with_positions(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` with its times and its latitudes and longitudes as coordinates, where they are variables.

    Files without the attribute ``coordinates`` have them so: ``Times`` of WRF, ``lat(y, x)`` of many.
    """
    names = [n for n, v in ds.data_vars.items() if (v.ndim == 1 and is_time(str(n), v.variable))]
    names += [n for n, v in ds.data_vars.items() if v.ndim in (2, 3) and is_position(str(n), v.variable)]
    return ds.set_coords(names) if names else ds


def is_longitude(coord: xr.DataArray) -> bool:
    """Say whether a coordinate along one dimension holds longitudes, by CF attributes or its name."""
    return (
        coord.attrs.get("standard_name") in ("longitude", "grid_longitude")
        or canonical_units(coord.attrs.get("units")) == _UNITS["x"]
        or str(coord.name).lower() in ("lon", "long", "longitude", "rlon")
    )


def unwrapped(coord: xr.DataArray) -> npt.NDArray[np.float64]:
    """Return a coordinate as float64, longitudes without the jump by 360 where they cross the antimeridian or 0.

    What is not called longitude is unwrapped where that gives even steps, and its units do not speak against degrees.
    """
    values: npt.NDArray[np.float64] = coord.values.astype(np.float64)
    steps = np.diff(values)
    if not steps.size or (steps > 0).all() or (steps < 0).all() or not np.isfinite(steps).all():
        return values
    turned: npt.NDArray[np.float64] = np.unwrap(values, period=360.0)
    steps = np.diff(turned)
    whole = ((steps > 0).all() or (steps < 0).all()) and abs(turned[-1] - turned[0]) <= 360
    degrees = str(coord.attrs.get("units", "degrees")).lower().startswith("deg")
    even = degrees and np.allclose(steps, np.median(steps), rtol=0.01, atol=0)
    return turned if whole and (even or is_longitude(coord)) else values


def is_position(name: str, variable: xr.Variable) -> bool:
    """Say whether a variable of two or more dimensions holds latitudes or longitudes, by CF attributes or its name."""
    if variable.ndim < 2 or variable.dtype.kind not in "fiu":
        return False
    attrs = variable.attrs
    return (
        attrs.get("standard_name") in ("latitude", "longitude")
        or canonical_units(attrs.get("units")) in (_UNITS["y"], _UNITS["x"])
        or ("units" not in attrs and _POSITION.fullmatch(name.lower()) is not None)
    )


def is_time(name: str, variable: xr.Variable) -> bool:
    """Say whether a variable can hold the times of frames: by its type, or as the text that WRF has."""
    attrs = variable.attrs
    if attrs.get("standard_name") == "forecast_reference_time" or name in _REFERENCE_TIMES:
        return False
    if variable.dtype.kind in "OSU":
        return attrs.get("standard_name") == "time" or name.lower() in _TIME_STAMPS
    return bool(variable.dtype.kind == "M")


def times_along(coords: Mapping[Hashable, xr.Variable], dim: Hashable) -> list[Hashable]:
    """Return the coordinates beside `dim`'s own that hold times along it; the likeliest ones alone where some are."""
    found = [n for n, c in coords.items() if n != dim and c.dims == (dim,) and is_time(str(n), c)]
    for test in (
        [n for n in found if coords[n].attrs.get("standard_name") == "time"],
        [n for n in found if coords[n].attrs.get("axis") == "T"],
        [n for known in _TIME_STAMPS for n in found if str(n).lower() == known][:1],
    ):
        if len(test) == 1:
            return test
    return found


def _found(dims: Iterable[Hashable], coords: Mapping[Hashable, xr.Variable], role: Role) -> list[Hashable]:
    """Return the dimensions that play a role by the first of the tests that any of them passes."""
    dims = list(dims)
    own = {d: coords[d] for d in dims if d in coords}
    tests: list[list[Hashable]] = [
        [d for d, c in own.items() if str(c.attrs.get("axis", "")).upper() == _AXIS[role]],
        [d for d, c in own.items() if c.attrs.get("standard_name") in _STANDARD_NAMES[role]],
        [d for d, c in own.items() if canonical_units(c.attrs.get("units")) == _UNITS[role]],
    ]
    if role == "time":
        tests.append([d for d, c in own.items() if c.dtype.kind == "M"])  # with a time zone too
    lower = {str(d).lower(): d for d in dims}
    tests.append([lower[n] for n in _NAMES[role] if n in lower][:1])
    found = next((test for test in tests if test), None)
    if found is not None:
        return found
    if role == "time":
        return [d for d in dims if times_along(coords, d)]
    # CF section 5.2: (row, column) is the order of two-dimensional latitude and longitude, after time where they move.
    pairs = {c.dims[-2:] for n, c in coords.items() if is_position(str(n), c)}
    pairs = {pair for pair in pairs if set(pair) <= set(dims)}
    if len(pairs) != 1:
        return [pair[ROLES.index(role) - 1] for pair in sorted(pairs, key=str)]
    one = pairs.pop()
    if role == "x":
        (y,) = _found(dims, coords, "y")[:1] or (None,)
        return [d for d in one if d != y][-1:]
    named = [lower[n] for n in _NAMES["x"] if n in lower][:1]
    return [d for d in one if d not in named][:1]


def find_channel(da: xr.DataArray, known: Iterable[Hashable], told: Hashable | None = None) -> Hashable | None:
    """Return the dimension beside `known`, which is that of channels, or None where there is none.

    More dimensions than one, or one that is not called like channels and was not told, are refused.
    """
    known = set(known)
    left = [d for d in da.dims if d not in known]
    if told is not None:
        if told not in left:
            found = f"no channel dimension {told!r} (left: {_listed(left)})"
            raise DataError(_label(da), found, fix="name one with channel=")
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

    They are the values along a dimension, or of a two-dimensional coordinate; anything but numbers must be equal.
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


def _label(obj: xr.DataArray | xr.Dataset) -> str:
    name = getattr(obj, "name", None)
    return str(name) if name is not None else "data"


def _listed(names: Iterable[Hashable]) -> str:
    return ", ".join(str(n) for n in names) or "none"
