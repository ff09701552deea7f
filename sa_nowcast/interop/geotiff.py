"""Forecasts as GeoTIFF, for geographic information systems; written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.forecasts.labels import require_one
from sa_nowcast.interop import projection
from sa_nowcast.metadata import dims
from sa_nowcast.sources.reading import require
from sa_nowcast.storage.whole import partial_beside, put_in_place

SUFFIXES = (".tif", ".tiff")


def to_geotiff(
    forecast: xr.DataArray, path: str | Path, *, crs: str | None = None, overwrite: bool = False
) -> list[Path]:
    """Write a forecast of one init time as GeoTIFF: a folder of one file per lead time, or one file.

    Parameters
    ----------
    forecast : DataArray, dims ([one other,] lead_time, y, x)
        On a regular grid. Where there is another dimension (members, channels, variables), its entries are the bands
        of each lead time's file.
    path : path
        Ending in ``.tif`` or ``.tiff``: one file with a band per lead time. Else a folder of files, named by
        variable, init time and lead time: ``rain_20200601T0135_0005min.tif`` (``_0000000030s`` where a lead time
        is no whole minute).
    crs : str, optional
        Coordinate reference system as WKT, ``EPSG:`` code or PROJ string; by default that of the grid mapping, and
        EPSG:4326 for latitude and longitude without one.
    overwrite : bool
        Whether a GeoTIFF, or a folder of nothing but GeoTIFFs, that stands there is replaced.

    Returns
    -------
    list of Path
        The files, by lead time.

    Notes
    -----
    Values are float32, north up, nodata NaN, compressed without loss. Coordinates in km are written in metres. Bands
    are described by lead time, or by what they hold; tags hold init, lead and valid time (ISO 8601, UTC), units and
    the forecast's own attributes.

    Raises
    ------
    DataError
        It is no forecast, has several init times or too many dimensions, or its grid is not regular or has no CRS.
    MissingLibraryError
        rasterio is not installed.
    StorageError
        Something stands there, or it cannot be written.
    """
    rasterio = require("rasterio", "geotiff")
    label = str(forecast.name or "forecast")
    field, other = _arranged(forecast, label)
    target = Path(path)
    single = target.suffix.lower() in SUFFIXES
    if single and other is not None:
        raise DataError(
            label, f"dimension {other} beside lead_time, y, x", expected="none for one file", fix="give a folder's path"
        )
    profile = _profile(rasterio, field, crs, label)
    _require_free(target, single, overwrite)
    leads = field[dims.LEAD_TIME].values
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial_beside(target) as partial:
            if single:
                names = [target.name]
                _write(rasterio, partial, field, profile, [_shown(lead) for lead in leads], _tags(field))
            else:
                partial.mkdir()
                names = [_file_name(field, lead, label) for lead in leads]
                for i, name in enumerate(names):
                    one = field.isel({dims.LEAD_TIME: [i]}) if other is None else field.isel({dims.LEAD_TIME: i})
                    bands = [_shown(leads[i])] if other is None else [str(v) for v in _labels(field, other)]
                    _write(rasterio, partial / name, one, profile, bands, _tags(field.isel({dims.LEAD_TIME: i})))
            put_in_place(partial, target)
    except (OSError, rasterio.errors.RasterioError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            str(target), f"the forecast could not be written ({reason})", fix="choose another folder"
        ) from error
    return [target] if single else [target / name for name in names]


def write_cog(
    field: xr.DataArray, path: Path, tags: Mapping[str, str], profile: Mapping[str, Any] | None = None
) -> None:
    """Write one map as a cloud-optimised GeoTIFF: tiled, with overviews, its header first.

    Parameters
    ----------
    field : DataArray, dims (y, x)
        On a regular grid, north up and west left or turned.
    path : Path
        A file; whoever calls makes it appear whole.
    tags : mapping
        Text beside those of the field's attributes.
    profile : mapping, optional
        What `cog_profile` gave for the same grid; it is made anew else.
    """
    rasterio = require("rasterio", "geotiff")
    known = cog_profile(field) if profile is None else profile
    values = field.values.astype(np.float32)
    y, x = (projection.regular_axis(field, name) for name in field.dims)
    values = values[:: -1 if y.step > 0 else 1, :: -1 if x.step < 0 else 1]
    own = {str(k): str(v) for k, v in field.attrs.items() if isinstance(v, str | int | float | np.generic)}
    with (
        rasterio.Env(GDAL_NUM_THREADS="1"),
        rasterio.MemoryFile() as memory,
    ):
        with memory.open(driver="GTiff", count=1, **{k: v for k, v in known.items() if k != "driver"}) as file:
            file.update_tags(**own, **tags)
            file.write(values, 1)
            file.set_band_description(1, str(field.attrs.get("long_name") or field.name))
        with memory.open() as file:
            rasterio.shutil.copy(
                file, path, driver="COG", COMPRESS="DEFLATE", LEVEL="1", PREDICTOR="YES", BLOCKSIZE="256",
                OVERVIEW_RESAMPLING="AVERAGE",
            )  # fmt: skip


def cog_profile(field: xr.DataArray) -> dict[str, Any]:
    """Return size, transform and CRS of the maps of a grid, for `write_cog`."""
    rasterio = require("rasterio", "geotiff")
    require("rasterio.shutil", "geotiff")
    y, x = field.dims
    north_up = field
    for axis, step in ((y, -1), (x, 1)):
        if projection.regular_axis(field, axis).step * step < 0:
            north_up = north_up.isel({axis: slice(None, None, -1)})
    north_up.encoding = dict(field.encoding)
    profile = _profile(rasterio, north_up, None, str(field.name or "forecast"))
    return {k: v for k, v in profile.items() if k not in ("compress", "predictor")}


def _arranged(forecast: xr.DataArray, label: str) -> tuple[xr.DataArray, Hashable | None]:
    """Return (lead_time, [other,] y, x) with north up and west left, and the name of the other dimension."""
    require_one(forecast, label)
    encoding = forecast.encoding
    forecast = forecast.squeeze(dims.INIT_TIME) if dims.INIT_TIME in forecast.dims else forecast
    forecast = forecast.expand_dims(dims.LEAD_TIME) if dims.LEAD_TIME not in forecast.dims else forecast
    y, x = (dims.find_dim(forecast, role) for role in ("y", "x"))
    others = [d for d in forecast.dims if d not in (dims.LEAD_TIME, y, x)]
    if len(others) > 1:
        listed = ", ".join(map(str, others))
        raise DataError(
            label,
            f"dimensions {listed} beside lead_time, y, x",
            expected="at most one",
            fix=f"choose an entry with .isel({others[0]}=0)",
        )
    for axis, step in ((y, -1), (x, 1)):
        if projection.regular_axis(forecast, axis).step * step < 0:
            forecast = forecast.isel({axis: slice(None, None, -1)})
    field = forecast.transpose(dims.LEAD_TIME, *others, y, x)
    field.encoding = dict(encoding)
    return field, (others[0] if others else None)


def _profile(rasterio: Any, field: xr.DataArray, crs: str | None, label: str) -> dict[str, Any]:
    """Return size, transform and CRS of the files."""
    text = projection.crs_of(field) if crs is None else crs
    if text is None:
        raise DataError(label, "no grid mapping", expected="a CRS", fix="name it, as in crs='EPSG:3035'")
    try:
        reference = rasterio.crs.CRS.from_user_input(text)
    except (rasterio.errors.CRSError, ValueError) as error:
        where = (RecipeError, "crs") if crs is not None else (DataError, f"{label}, grid mapping")
        raise where[0](where[1], f"{text!r:.60} is no CRS that GDAL knows", fix="give a code, as EPSG:3035") from error
    y, x = (projection.regular_axis(field, name) for name in field.dims[-2:])
    # The axes are in metres; the CRS may count in others, as in US feet.
    unit = 1.0 if reference.is_geographic else float(reference.linear_units_factor[1])
    if reference.is_geographic != projection.is_geographic(field):
        kinds = ("degrees", "lengths") if reference.is_geographic else ("lengths", "degrees")
        raise DataError(label, f"coordinates in {kinds[1]}", expected=f"{kinds[0]}, as the CRS has")
    west, north, width, height = (v / unit for v in (x.edges[0], y.edges[1], abs(x.step), abs(y.step)))
    return {
        "driver": "GTiff",
        "dtype": "float32",
        "height": y.size,
        "width": x.size,
        "crs": reference,
        "transform": rasterio.transform.Affine(width, 0.0, west, 0.0, -height, north),
        "nodata": np.nan,
        "compress": "deflate",
        "predictor": 3,
    }


def _write(
    rasterio: Any, path: Path, field: xr.DataArray, profile: dict[str, Any], bands: list[str], tags: dict[str, str]
) -> None:
    """Write (band, y, x)."""
    with rasterio.open(path, "w", count=len(bands), **profile) as file:
        file.update_tags(**tags)
        for i, band in enumerate(bands):
            file.write(field.isel({field.dims[0]: i}).values.astype(np.float32), i + 1)
            file.set_band_description(i + 1, band)
            if "lead_time" not in tags:
                file.update_tags(i + 1, **_times(field.isel({field.dims[0]: i})))


def _tags(field: xr.DataArray) -> dict[str, str]:
    own = {str(k): str(v) for k, v in field.attrs.items() if isinstance(v, str | int | float | np.generic)}
    init = {"init_time": _iso(field[dims.INIT_TIME].values.reshape(-1)[0])}
    return own | (init if field[dims.LEAD_TIME].ndim else _times(field))


def _times(field: xr.DataArray) -> dict[str, str]:
    init, lead = field[dims.INIT_TIME].values.reshape(-1)[0], field[dims.LEAD_TIME].values.reshape(-1)[0]
    return {
        "init_time": _iso(init),
        "lead_time": pd.Timedelta(lead).isoformat(),
        "valid_time": _iso(init + lead),
    }


def _iso(moment: Any) -> str:
    return f"{pd.Timestamp(moment).isoformat()}Z"


def _shown(lead: np.timedelta64) -> str:
    seconds = float(lead / np.timedelta64(1, "s"))
    return f"+{seconds / 60:g} min" if seconds % 60 == 0 else f"+{seconds:g} s"


def _labels(field: xr.DataArray, name: Hashable) -> Any:
    return field[name].values if name in field.coords else np.arange(field.sizes[name])


def _file_name(field: xr.DataArray, lead: np.timedelta64, label: str) -> str:
    seconds = float(lead / np.timedelta64(1, "s"))
    init = pd.Timestamp(field[dims.INIT_TIME].values.reshape(-1)[0])
    start = init.strftime("%Y%m%dT%H%M%S" if init.second else "%Y%m%dT%H%M")
    after = f"{round(seconds / 60):04d}min" if seconds % 60 == 0 else f"{seconds:010g}s"
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', label)}_{start}_{after}.tif"


def _require_free(target: Path, single: bool, overwrite: bool) -> None:
    if not target.exists():
        return
    if single:
        ours = target.is_file()
    else:
        ours = target.is_dir() and all(f.suffix.lower() in SUFFIXES for f in target.iterdir())
    if not (ours and overwrite):
        what = ("a file" if single else "a folder of GeoTIFFs") if ours else "something else"
        fix = "choose another path" + (", or pass overwrite=True" if ours else "")
        raise StorageError(str(target), f"{what} stands there", expected="a new path", fix=fix)
