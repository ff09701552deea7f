"""From a PROJ string and the corners of an image to CF coordinates and a CF grid mapping."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing import quiet
from sa_nowcast.errors import DataError
from sa_nowcast.sources.reading import require

CRS_NAME: Final = "crs"


def place(
    projection: str, x: Iterable[float], y: Iterable[float], pixel: Sequence[float | None], unit: str, *, upper: bool
) -> dict[str, Any]:
    """Return where an image lies under pysteps' names: the extremes of x and y, the size of a pixel, the first row."""
    x, y = list(x), list(y)
    return {
        "projection": projection,
        "x1": min(x), "x2": max(x), "y1": min(y), "y2": max(y),
        "xpixelsize": pixel[0], "ypixelsize": pixel[1],
        "cartesian_unit": unit,
        "yorigin": "upper" if upper else "lower",
    }  # fmt: skip


def image_coords(metadata: Mapping[str, Any], shape: tuple[int, int], where: str) -> dict[str, xr.Variable]:
    """Return the CF coordinates of an image (rows, columns) in a map projection; `metadata` is that of `place`.

    Its ranges are the image's edges, or its outermost cell centres, whichever the pixel size tells (some formats give
    the one, some the other); they are edges where the format gives no size. Coordinates are ``y``, ``x`` in metres with
    two-dimensional ``latitude`` and ``longitude``, or one-dimensional ``latitude`` and ``longitude``; and the scalar
    ``crs`` with the attributes of CF appendix F and the WKT. A grid that fits neither reading of its ranges is refused.
    """
    pyproj = require("pyproj", "pysteps")
    in_km = metadata.get("cartesian_unit", "m") == "km"
    crs = pyproj.CRS(_in_metres(metadata["projection"]) if in_km else metadata["projection"])
    y, x = (
        _centres((metadata[f"{a}1"], metadata[f"{a}2"]), metadata.get(f"{a}pixelsize"), count, name, where)
        * (1000.0 if in_km else 1.0)
        for a, count, name in zip("yx", shape, ("rows", "columns"), strict=True)
    )
    if metadata["yorigin"] == "upper":
        y = y[::-1]
    coords = map_coords(crs, y, x)
    if not crs.is_geographic:
        to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        longitude, latitude = to_degrees.transform(*np.meshgrid(x, y))
        coords["latitude"] = xr.Variable(("y", "x"), latitude, _attrs("latitude", "degrees_north"))
        coords["longitude"] = xr.Variable(("y", "x"), longitude, _attrs("longitude", "degrees_east"))
    return coords


def map_coords(crs: Any, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> dict[str, xr.Variable]:
    """Return y and x (metres), or latitude and longitude, along the dimensions of their names, and the grid mapping."""
    if crs.is_geographic:
        names, attrs = ("latitude", "longitude"), (("latitude", "degrees_north"), ("longitude", "degrees_east"))
    else:
        names, attrs = ("y", "x"), (("projection_y_coordinate", "m"), ("projection_x_coordinate", "m"))
    axes = zip(names, (y, x), attrs, "YX", strict=True)
    coords = {name: xr.Variable(name, values, _attrs(*told, axis)) for name, values, told, axis in axes}
    return {**coords, CRS_NAME: xr.Variable((), np.int32(0), crs_attrs(crs))}


def crs_attrs(crs: Any) -> dict[str, Any]:
    """Return the attributes of a CF grid mapping of a `pyproj.CRS` (conventions 1.11, section 5.6 and appendix F)."""
    # CF's oblique_mercator cannot say what the WKT beside it does (the rectified angle).
    with quiet.warnings_ignored(UserWarning):
        attrs: dict[str, Any] = crs.to_cf()
    attrs = {k: list(v) if isinstance(v, tuple) else v for k, v in attrs.items()}
    attrs["spatial_ref"] = attrs["crs_wkt"]
    return attrs


def _attrs(standard_name: str, units: str, axis: str | None = None) -> dict[str, str]:
    attrs = {"standard_name": standard_name, "long_name": standard_name.replace("_", " "), "units": units}
    return attrs if axis is None else {**attrs, "axis": axis}


def _in_metres(proj: str) -> str:
    """Give the ellipsoid in metres where a PROJ string has it in kilometres, as KNMI's files do."""

    def metres(match: re.Match[str]) -> str:
        value = float(match[2])
        return f"+{match[1]}={value * 1000.0:.15g}" if value < 10000.0 else match[0]

    return re.sub(r"\+(a|b|R)=([0-9.]+)", metres, proj)


def _centres(
    limits: tuple[float, float], pixel: float | None, count: int, name: str, where: str
) -> npt.NDArray[np.float64]:
    low, high = sorted(float(v) for v in limits)
    if pixel is not None:
        cells = (high - low) / abs(float(pixel))
        if abs(cells - (count - 1)) < 0.25:
            return np.linspace(low, high, count)
        if abs(cells - count) > 0.25:
            raise DataError(
                where, f"{count} {name} of {pixel:g} between {low:g} and {high:g}", expected=f"{cells:.1f} {name}"
            )
    step = (high - low) / count
    return np.asarray(low + (np.arange(count) + 0.5) * step, dtype=np.float64)
