"""From a PROJ string and the corners of an image to CF coordinates and a CF grid mapping."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import numpy as np
import xarray as xr

from sa_nowcast.computing import quiet
from sa_nowcast.errors import DataError
from sa_nowcast.sources.reading import require

CRS_NAME: Final = "crs"
Corner = Literal["upper", "lower"]


def image_coords(
    proj: str,
    shape: tuple[int, int],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    pixel: tuple[float | None, float | None],
    unit: str,
    origin: Corner,
    where: str,
) -> dict[str, xr.DataArray]:
    """Return the CF coordinates of an image in a map projection.

    Parameters
    ----------
    proj : str
        PROJ string.
    shape : (int, int)
        Rows and columns.
    x_range, y_range : (float, float)
        From the lowest to the highest, in `unit`: the image's edges, or its outermost cell centres, whichever the
        pixel size tells (some formats give the one, some the other).
    pixel : (float or None, float or None)
        Width and height of a cell; None where the format does not say, and the ranges are then edges.
    unit : {"m", "km", "degrees"}
    origin : {"upper", "lower"}
        Whether the first row is the northernmost or the southernmost.

    Returns
    -------
    dict of DataArray
        ``y``, ``x`` in metres with two-dimensional ``latitude`` and ``longitude``, or one-dimensional ``latitude`` and
        ``longitude``; and the scalar ``crs`` with the attributes of CF appendix F and the WKT.

    Raises
    ------
    DataError
        The grid fits neither reading of its ranges.
    """
    pyproj = require("pyproj", "pysteps")
    scale = 1000.0 if unit == "km" else 1.0
    crs = pyproj.CRS(_in_metres(proj) if unit == "km" else proj)
    rows, columns = shape
    x = _centres(x_range, pixel[0], columns, "columns", where) * scale
    y = _centres(y_range, pixel[1], rows, "rows", where) * scale
    if origin == "upper":
        y = y[::-1]
    mapping = xr.DataArray(np.int32(0), attrs=crs_attrs(crs))
    if crs.is_geographic:
        return {
            "latitude": xr.DataArray(y, dims="latitude", attrs=_attrs("latitude", "degrees_north", "Y")),
            "longitude": xr.DataArray(x, dims="longitude", attrs=_attrs("longitude", "degrees_east", "X")),
            CRS_NAME: mapping,
        }
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform(*np.meshgrid(x, y))
    return {
        "y": xr.DataArray(y, dims="y", attrs=_attrs("projection_y_coordinate", "m", "Y")),
        "x": xr.DataArray(x, dims="x", attrs=_attrs("projection_x_coordinate", "m", "X")),
        "latitude": xr.DataArray(latitude, dims=("y", "x"), attrs=_attrs("latitude", "degrees_north")),
        "longitude": xr.DataArray(longitude, dims=("y", "x"), attrs=_attrs("longitude", "degrees_east")),
        CRS_NAME: mapping,
    }


def crs_attrs(crs: Any) -> dict[str, Any]:
    """Return the attributes of a CF grid mapping variable (conventions 1.11, section 5.6 and appendix F).

    Parameters
    ----------
    crs : pyproj.CRS
    """
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
) -> np.ndarray[Any, np.dtype[np.float64]]:
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
