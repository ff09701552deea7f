"""Grids whose latitude and longitude are two-dimensional (CF section 5.2): where their cells lie on a map."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.metadata.dims import canonical_units

Array = npt.NDArray[np.float64]
Project = Callable[[Array, Array], tuple[Array, Array]]
Position = Literal["latitude", "longitude"]

_UNITS: Final = {"degrees_north": "latitude", "degrees_east": "longitude"}
# lat, lat2d, latitude, XLAT_M, nav_lat, geolat_t, TLAT, gridlat_0, lat_rho, and the same of longitude.
_NAMES: Final = re.compile(
    r"(?!grid_l)(x|nav_|geo|grid|[tuvf]|[a-z]+_)?(?P<axis>lat|lon)(itudes?|gitudes?|g|s)?(2d)?(_\w{1,4})?"
)
# Beyond this latitude degrees of longitude are too short for a map of latitude and longitude.
_POLAR: Final = 83.0
_EARTH: Final = 6371.0  # km


def position_of(name: Hashable, coord: xr.Variable | xr.DataArray) -> Position | None:
    """Return which of the two `coord` holds, by its CF attributes or else by its name; None where it is neither."""
    if coord.dtype.kind not in "fiu":
        return None
    standard = coord.attrs.get("standard_name")
    if standard in ("latitude", "longitude"):
        return "latitude" if standard == "latitude" else "longitude"
    units = canonical_units(str(coord.attrs["units"])) if "units" in coord.attrs else None
    if units in _UNITS:
        return "latitude" if units == "degrees_north" else "longitude"
    found = _NAMES.fullmatch(str(name).lower())
    if found is None or standard is not None or units not in (None, "1", "degrees", "degree"):
        return None
    return "latitude" if found["axis"] == "lat" else "longitude"


def positions(data: xr.DataArray, y: str, x: str) -> tuple[str, str] | None:
    """Return the names of the latitude and the longitude of `data` that both have the dims `y` and `x`, if any."""
    found: dict[Position, str] = {}
    # Those with a standard name first: a file may hold more than one pair.
    by_attributes = sorted(data.coords.items(), key=lambda item: "standard_name" not in item[1].attrs)
    for name, coord in by_attributes:
        if set(coord.dims) == {y, x} and (role := position_of(name, coord.variable)) is not None:
            found.setdefault(role, str(name))
    return (found["latitude"], found["longitude"]) if len(found) == 2 else None


def positions_of(data: xr.DataArray, y: str, x: str) -> tuple[Array, Array] | None:
    """Return latitude and longitude as (y, x), NaN where there is none (as beyond the edge of the Earth's disk)."""
    names = positions(data, y, x)
    if names is None:
        return None
    latitude, longitude = (data[name].transpose(y, x).values.astype(float) for name in names)
    known = (abs(latitude) <= 90.5) & (abs(longitude) <= 720.0)
    known &= np.isfinite(latitude) & np.isfinite(longitude)
    if not known.any():
        return None
    return np.where(known, latitude, np.nan), np.where(known, longitude, np.nan)


def middle(values: npt.NDArray[np.float64], axis: int | tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return the entries in the middle of `axis`: longitudes across the antimeridian have no mean."""
    axes = (axis,) if isinstance(axis, int) else axis
    for one in sorted((a % values.ndim for a in axes), reverse=True):
        values = values.take(values.shape[one] // 2, axis=one)
    return values


@dataclass(frozen=True)
class Chart:
    """How places become points of a map.

    `project` returns x and y of longitude and latitude in degrees: these themselves, the longitudes without a jump on
    this grid; or, round a `pole` (1 north, -1 south, 0 none), the azimuthal equidistant projection, in degrees from the
    pole.
    """

    project: Project
    pole: int


def chart_of(latitude: Array, longitude: Array) -> Chart:
    """Return the chart that suits a grid's cells."""
    turned = np.deg2rad(longitude[np.isfinite(longitude)])
    furthest = float(np.nanmax(abs(latitude)))
    low, high = float(np.nanmin(latitude)), float(np.nanmax(latitude))
    if furthest > _POLAR and high - low < 90.0:
        pole = 1 if high > -low else -1
        up = float(np.arctan2(np.sin(turned).mean(), np.cos(turned).mean()))
        if np.hypot(np.sin(turned).mean(), np.cos(turned).mean()) < 0.2:  # all round the pole, no side of it is ours
            up = 0.0

        def azimuthal(lon: Array, lat: Array) -> tuple[Array, Array]:
            angle, distance = np.deg2rad(lon) - up, 90.0 - pole * lat
            return distance * np.sin(angle), -pole * distance * np.cos(angle)

        return Chart(azimuthal, pole)
    cut = _cut(np.sort(np.rad2deg(turned) % 360.0), float(longitude[np.isfinite(longitude)][0]) % 360.0)

    def plate(lon: Array, lat: Array) -> tuple[Array, Array]:
        return (lon - cut) % 360.0 + cut, lat

    return Chart(plate, 0)


def _cut(longitudes: Array, first: float) -> float:
    """Return the longitude, from -360 to 0, that a map may begin at: in the widest gap between those there are."""
    gaps = np.diff(longitudes, append=longitudes[0] + 360.0)
    at = int(np.argmax(gaps))
    middle = float(longitudes[at] + gaps[at] / 2)
    if gaps[at] < max(15.0, 2.0 * float(np.median(gaps[gaps > 1e-6]))):  # round the globe: cut where its rows begin
        middle = first - gaps[at] / 2
    return middle % 360.0 - 360.0  # the middle of the map is then from -180 to 180


def edges_of(latitude: Array, longitude: Array, chart: Chart) -> tuple[Array, Array]:
    """Return x and y of the corners of all cells, halfway between centres: one row and column more than the cells.

    Cells without a place get one beside their neighbours; their values are to be masked by the caller.
    """
    x, y = chart.project(longitude, latitude)
    return _corners(_filled(x)), _corners(_filled(y))


def axis_edges(values: Array) -> Array:
    """Return the edges halfway between centres along one axis."""
    padded = np.concatenate([[2 * values[0] - values[1]], values, [2 * values[-1] - values[-2]]])
    edges: Array = (padded[1:] + padded[:-1]) / 2
    return edges


def _corners(values: Array) -> Array:
    for axis in (0, 1):
        values = np.apply_along_axis(axis_edges, axis, values)
    return values


def _filled(values: Array) -> Array:
    """Return `values` with the nearest known one along the row, else along the column, where there is none."""
    if np.isfinite(values).all():
        return values
    values = values.copy()
    for lines in (values, values.T):
        for line in lines:
            known = np.flatnonzero(np.isfinite(line))
            if known.size:
                line[:] = np.interp(np.arange(line.size), known, line[known])
    return values


def torn_cells(x: Array) -> npt.NDArray[np.bool_]:
    """Say which cells reach from one side of a map of the globe to the other, by the x of their corners."""
    four = np.stack([x[:-1, :-1], x[:-1, 1:], x[1:, :-1], x[1:, 1:]])
    torn: npt.NDArray[np.bool_] = four.max(axis=0) - four.min(axis=0) > 180.0
    return torn


def distances(latitude: Array, longitude: Array, place: tuple[float, float]) -> Array:
    """Return the great circle distance in km of each cell from a place, given as latitude and longitude."""
    lat, lon = np.deg2rad(latitude), np.deg2rad(longitude)
    lat0, lon0 = np.deg2rad(place[0]), np.deg2rad(place[1])
    half = np.sin((lat - lat0) / 2) ** 2 + np.cos(lat) * np.cos(lat0) * np.sin((lon - lon0) / 2) ** 2
    result: Array = 2 * _EARTH * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
    return result
