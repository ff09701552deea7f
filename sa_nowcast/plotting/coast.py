"""Coastlines for a map, from Natural Earth shapes that cartopy has on this computer. Nothing is ever downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError, StorageError
from sa_nowcast.frames import grid_mapping_name
from sa_nowcast.metadata.dims import canonical_units
from sa_nowcast.plotting.mesh import Chart, Position, position_of

Line = npt.NDArray[np.float64]  # (points, 2), x and y
Extent = tuple[float, float, float, float]

# Natural Earth's scales, and up to how many degrees of a map's height each is fine enough for.
SCALES = {"10m": 10.0, "50m": 40.0, "110m": 360.0}
_METRES = {"m": 1.0, "km": 1000.0}
_METRES_PER_DEGREE = 111_195.0
# No segment of a coastline is so many metres long, unless a projection has moved its ends to opposite sides.
_TORN = 5e6


def is_geographic(data: xr.DataArray, dim: str, role: Position = "latitude") -> bool:
    """Say whether the coordinate of a dimension of `data` holds latitudes (or longitudes)."""
    return dim in data.coords and position_of(dim, data[dim].variable) == role


def is_rotated(data: xr.DataArray, y: str) -> bool:
    """Say whether the rows of `data` are latitudes of a rotated pole (CF appendix F)."""
    mapping = _mapping(data)
    return mapping is not None and mapping.get("grid_mapping_name") == "rotated_latitude_longitude" and y in data.coords


def is_projected(data: xr.DataArray, y: str) -> bool:
    """Say whether the rows of `data` have coordinates in a projection that a grid mapping describes."""
    return _mapping(data) is not None and _unit(data, y) is not None


def coastlines(
    data: xr.DataArray, y: str, x: str, extent: Extent | None, wanted: bool | None, chart: Chart | None = None
) -> list[Line]:
    """Return the coastlines within `extent`, in the coordinates of `data`.

    `data` has latitude as y, or a grid mapping (CF section 5.6) among its coordinates; `chart` says how two-dimensional
    latitude and longitude become those of `extent`. Where cartopy, its shapes or the place of the grid are not known,
    there are none; where they are `wanted` (True), that is a `MissingLibraryError`, `StorageError` or `DataError`.
    """
    if wanted is False:
        return []
    try:
        if extent is None:
            raise DataError("coastlines", "the grid has no coordinates", "latitude and longitude, or a grid mapping")
        if chart is not None and chart.pole:
            return [
                piece
                for line in _lonlat_lines(str(_shapes(extent[3] - extent[2])))
                for piece in _within(np.stack(chart.project(*line.T), axis=1), extent, np.inf)
            ]
        crs, unit = (None, 1.0) if chart is not None else _place(data, y)
        height = (extent[3] - extent[2]) * (unit / _METRES_PER_DEGREE if crs is not None else 1.0)
        lines = _lonlat_lines(str(_shapes(height)))
        if crs is None:
            return [
                piece
                for line in lines
                for turn in (-360.0, 0.0, 360.0)
                for piece in _within(line + np.array([turn, 0.0]), extent, np.inf)
            ]
        pyproj = importlib.import_module("pyproj")
        # A rotated pole is a geographic system itself, and its coordinates are degrees.
        rotated = crs.is_geographic and crs.source_crs is not None
        there = pyproj.Transformer.from_crs(crs.source_crs if rotated else crs.geodetic_crs, crs, always_xy=True)
        size, torn = (1.0, 180.0) if rotated else (unit, _TORN / unit)
        return [
            piece
            for line in lines
            for piece in _within(np.stack(there.transform(*line.T), axis=1) / size, extent, torn)
        ]
    except (MissingLibraryError, StorageError, DataError):
        if wanted:
            raise
        return []


def _mapping(data: xr.DataArray) -> Mapping[Hashable, Any] | None:
    """Return the attributes of the grid mapping among the coordinates of `data`."""
    named = grid_mapping_name(data)
    names = [named] if named in data.coords else list(data.coords)
    return next(
        (data[n].attrs for n in names if "grid_mapping_name" in data[n].attrs or "crs_wkt" in data[n].attrs), None
    )


def _unit(data: xr.DataArray, y: str) -> float | None:
    """Return how many metres a unit of `y` is (of a rotated pole, along its meridian); None where it is no length."""
    mapping = _mapping(data)
    if y not in data.coords or mapping is None or data[y].dtype.kind not in "iuf":
        return None
    units = canonical_units(str(data[y].attrs.get("units", "")))
    if is_rotated(data, y):
        return _METRES_PER_DEGREE
    if units in ("rad", "radian", "radians"):  # scan angles of a geostationary satellite, CF appendix F
        height = mapping.get("perspective_point_height")
        return None if height is None else float(height)
    return _METRES.get(units or "")


def _place(data: xr.DataArray, y: str) -> tuple[Any, float]:
    """Return the projection (None for latitude and longitude) and how many of its units a unit of `y` is."""
    if is_geographic(data, y):
        return None, 1.0
    mapping = _mapping(data)
    expected = "latitude and longitude in degrees, or a grid mapping and y and x in m or km"
    if mapping is None:
        raise DataError("coastlines", "the grid has no grid mapping", expected)
    unit = _unit(data, y)
    if unit is None:
        found = f"y is in {data[y].attrs.get('units')!r}" if y in data.coords else "y has no coordinate"
        raise DataError("coastlines", found, expected)
    try:
        pyproj = importlib.import_module("pyproj")
    except ImportError:
        raise _no_cartopy() from None
    try:
        return pyproj.CRS.from_cf(dict(mapping)), unit
    except (pyproj.exceptions.CRSError, KeyError) as error:
        raise DataError("coastlines", f"the grid mapping cannot be read ({error})") from error


def _no_cartopy() -> MissingLibraryError:
    return MissingLibraryError("coastlines", "cartopy is not installed", None, install("maps"))


def _shapes(height: float) -> Path:
    """Return the file of coastlines that suits a map of so many degrees, else the next finer or coarser one."""
    try:
        cartopy, io = importlib.import_module("cartopy"), importlib.import_module("cartopy.io")
        importlib.import_module("cartopy.io.shapereader")  # makes its shapes known to cartopy.io
    except ImportError:
        raise _no_cartopy() from None
    scales = list(SCALES)
    suits = next(i for i, limit in enumerate(SCALES.values()) if height <= limit or limit == 360.0)
    for scale in [*scales[suits::-1], *scales[suits + 1 :]]:
        shapes = io.Downloader.from_config(("shapefiles", "natural_earth", scale, "physical", "coastline"))
        place = {"config": cartopy.config, "category": "physical", "name": "coastline", "resolution": scale}
        for path in (shapes.pre_downloaded_path(place), shapes.target_path(place)):
            if path is not None and Path(path).is_file():
                return Path(path)
    raise StorageError(
        "coastlines",
        "cartopy has no coastlines on this computer",
        None,
        "download them once with `cartopy_feature_download physical`; plotting never does",
    )


@lru_cache(maxsize=3)
def _lonlat_lines(path: str) -> tuple[Line, ...]:
    shapely, reader = importlib.import_module("shapely"), importlib.import_module("cartopy.io.shapereader")
    shapes = list(reader.Reader(path).geometries())
    # Of land as of coasts the outlines are what is drawn.
    shapes = [shape.boundary if "Polygon" in shape.geom_type else shape for shape in shapes]
    parts = shapely.get_parts(shapes)
    parts = shapely.get_parts(parts)
    return tuple(shapely.get_coordinates(part) for part in parts)


def _within(line: Line, extent: Extent, torn: float) -> list[Line]:
    """Return the runs of `line` that may cross `extent`, without segments as long as `torn` or without a place."""
    left, right, bottom, top = extent
    with np.errstate(invalid="ignore"):
        low, high = np.minimum(line[1:], line[:-1]), np.maximum(line[1:], line[:-1])
        crosses = (low[:, 0] <= right) & (high[:, 0] >= left) & (low[:, 1] <= top) & (high[:, 1] >= bottom)
        kept = crosses & (high - low < torn).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(int)))
    return [line[begin : end + 1] for begin, end in edges.reshape(-1, 2)]
