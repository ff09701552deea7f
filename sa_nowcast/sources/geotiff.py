"""GeoTIFF stacks: one file a frame, or one file with a band a frame, as one lazy CF Dataset."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing import quiet
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.sources.paths import (
    PathLike,
    differs,
    expand,
    pattern_remedy,
    recognised_pattern,
    sort_by_time,
    time_from_name,
    times_from_names,
)
from sa_nowcast.sources.projection import CRS_NAME, map_coords
from sa_nowcast.sources.reading import reading, require

SUFFIXES: Final = (".tif", ".tiff")
BAND: Final = "band"
_VALID: Final = ("valid_time", "time", "datetime", "timestamp")
# When a picture was taken, as writers of TIFF and of satellite data say it; a stack's names come first.
_TAKEN: Final = ("acquisitiondatetime", "acquisition_datetime", "acquisition_time", "acquisition_date")
_NAMES: Final = ("variable", "short_name", "netcdf_varname")
_ATTRS: Final = ("standard_name", "long_name", "cell_methods", "valid_min", "valid_max", "valid_range")


@dataclass(frozen=True)
class _Header:
    """What a file says before its values are read."""

    shape: tuple[int, int]
    bands: tuple[int, ...]
    transform: Any
    crs: Any
    dtypes: tuple[str, ...]
    packings: tuple[tuple[str, float, float, float | None], ...]
    descriptions: tuple[str | None, ...]
    units: tuple[str | None, ...]
    tags: Mapping[str, str]
    band_tags: tuple[Mapping[str, str], ...]
    alpha: tuple[int, ...]


def open_geotiff(
    source: PathLike | Iterable[PathLike],
    *,
    time_pattern: str | None = None,
    name: str | None = None,
    units: str | None = None,
    bands: Sequence[int] | int | None = None,
) -> xr.Dataset:
    """Open GeoTIFF files of one grid as one lazy Dataset, a chunk a file.

    Parameters
    ----------
    source : path or iterable of paths
        Files, folders or patterns.
    time_pattern : str, optional
        The time in the files' names, as ``datetime.strptime`` takes it. By default the tag ``valid_time`` (or ``time``)
        of the file or its bands, else the one date and time that each name holds, else the tags of acquisition.
    name : str, optional
        What the variable is to be called; by default the tag ``variable``, else the letters that the names of all
        files begin with, else the tag ``standard_name``, else ``value``.
    units : str, optional
        Units of the values, for files that do not say.
    bands : int or sequence of int, optional
        Which bands to read, from 1; by default all but alpha.

    Returns
    -------
    Dataset
        One variable (time, [band,] y, x), or (time, [band,] latitude, longitude): bands are times where their
        descriptions or tags are, else channels. What the files mark as nodata is NaN, and their scales and offsets are
        applied; float32 where that holds every stored value, float64 elsewhere, with the packing in ``encoding`` where
        all files share it. Coordinates are those of pixel centres, and the CRS is the CF grid mapping ``crs``.

    Raises
    ------
    DataError
        No files, no time, two files with one time, a turned grid, or a file on another grid.
    MissingLibraryError
        rasterio is not installed.
    """
    rasterio = require("rasterio", "geotiff")
    paths = expand(source, SUFFIXES)
    wanted = None if bands is None else (bands,) if isinstance(bands, int) else tuple(bands)
    headers = [_header(rasterio, path, wanted) for path in paths]
    _require_alike(headers, paths)
    times, along_bands = _times(headers, paths, time_pattern)
    order = sort_by_time(paths, [moments[0] for moments in times])
    paths, headers, times = ([items[i] for i in order] for items in (paths, headers, times))  # type: ignore[assignment]
    first = headers[0]
    packed = _shared_packing(headers)
    dtype = np.float32 if all(_fits_float32(p) for h in headers for p in h.packings) else np.float64
    array = _lazy(paths, headers, dtype, along_bands)
    y, x, coords = _coords(first, paths[0])
    dim = (y, x) if along_bands or len(first.bands) == 1 else (BAND, y, x)
    label = name or _name(first, paths)
    variable = xr.Variable(("time", *dim), array, _attrs(headers, units, paths[0]))
    if CRS_NAME in coords:
        variable.attrs["grid_mapping"] = CRS_NAME
    if packed is not None:
        variable.encoding.update(packed)
    moments = np.concatenate(times)
    _require_order(moments, paths)
    time = xr.Variable("time", moments, {"standard_name": "time", "long_name": "time", "axis": "T"})
    if BAND in dim:
        labels = [d or str(b) for d, b in zip(first.descriptions, first.bands, strict=True)]
        coords[BAND] = xr.Variable(BAND, labels if len(set(labels)) == len(labels) else list(map(str, first.bands)))
    attrs = {"Conventions": "CF-1.11", "source": "GeoTIFF files"}
    ds = xr.Dataset({label: variable}, {"time": time, **coords}, attrs)
    ds.encoding["source"] = str(paths[0])
    return ds


def _header(rasterio: Any, path: Path, wanted: tuple[int, ...] | None) -> _Header:
    with (
        reading(path, "GeoTIFF"),
        quiet.warnings_ignored(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(path) as file,
    ):
        alpha = rasterio.enums.ColorInterp.alpha
        own = tuple(i for i, c in zip(file.indexes, file.colorinterp, strict=True) if c != alpha)
        bands = own if wanted is None else wanted
        lacking = [b for b in bands if b not in file.indexes]
        if lacking:
            raise RecipeError("bands", f"{lacking[0]} of {path.name}", expected=f"among 1 to {file.count}")
        at = [file.indexes.index(b) for b in bands]
        return _Header(
            shape=(file.height, file.width),
            bands=bands,
            transform=file.transform,
            crs=file.crs,
            dtypes=tuple(file.dtypes[i] for i in at),
            packings=tuple((file.dtypes[i], file.scales[i], file.offsets[i], file.nodatavals[i]) for i in at),
            descriptions=tuple(file.descriptions[i] for i in at),
            units=tuple(file.units[i] for i in at),
            tags={k.lower(): v for k, v in file.tags().items()},
            band_tags=tuple({k.lower(): v for k, v in file.tags(b).items()} for b in bands),
            alpha=tuple(i for i in file.indexes if i not in own),
        )


def _require_alike(headers: Sequence[_Header], paths: Sequence[Path]) -> None:
    first = headers[0]
    if first.transform.b or first.transform.d:
        size = math.hypot(first.transform.a, first.transform.d)
        old, new = (shlex.quote(str(p)) for p in (paths[0], paths[0].with_name(f"upright_{paths[0].name}")))
        raise DataError(
            str(paths[0]),
            "a turned or sheared grid",
            expected="rows and columns along the axes",
            fix=f"rio warp {old} {new} --res {size:.9g}, and name the new file" if first.crs else None,
        )
    if any(dtype.startswith("complex") for dtype in first.dtypes):
        raise DataError(str(paths[0]), f"values of type {first.dtypes[0]}", expected="real numbers")
    axes = _axes(first)
    for header, path in zip(headers[1:], paths[1:], strict=True):
        for what, value, wanted in (
            ("size", header.shape, first.shape),
            ("CRS", header.crs, first.crs),
            ("number of bands", len(header.bands), len(first.bands)),
        ):
            if value != wanted:
                shown = [" x ".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in (value, wanted)]
                raise differs(path, f"{what} {shown[0]}", shown[1], paths[0])
        if not all(dims.same_axis(a, b) for a, b in zip(axes, _axes(header), strict=True)):
            raise differs(path, f"its corner at {header.transform.c:g}, {header.transform.f:g}",
                           f"{first.transform.c:g}, {first.transform.f:g}", paths[0])  # fmt: skip
        several = len(first.bands) > 1  # of one band, the description may say the time or what else differs
        if several and header.descriptions != first.descriptions and _band_times(header) is None:
            raise differs(path, f"bands {_listed(header)}", _listed(first), paths[0])
        if header.units != first.units:
            raise differs(path, f"units {header.units[0] or 'none'}", str(first.units[0] or "none"), paths[0])


def _listed(header: _Header) -> str:
    return ", ".join(str(d) for d in header.descriptions)


def _axes(header: _Header) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the coordinates of pixel centres, y and x."""
    (height, width), t = header.shape, header.transform
    return t.f + t.e * (np.arange(height) + 0.5), t.c + t.a * (np.arange(width) + 0.5)


def _times(
    headers: Sequence[_Header], paths: Sequence[Path], pattern: str | None
) -> tuple[list[npt.NDArray[np.datetime64]], bool]:
    """Return the times of each file, and whether bands are times."""
    along = [_band_times(header) for header in headers]
    if all(times is not None for times in along) and pattern is None:
        return [times for times in along if times is not None], len(headers[0].bands) > 1
    if pattern is not None:
        return [np.array([time_from_name(path, pattern)]) for path in paths], False
    for keys in (_VALID, None, (*_TAKEN, "tifftag_datetime")):
        found = times_from_names(paths) if keys is None else [_tagged(header.tags, keys) for header in headers]
        if found is not None and all(moment is not None for moment in found):
            return [np.array([moment], "datetime64[ns]") for moment in found], False
    raise _no_time(paths)


def _no_time(paths: Sequence[Path]) -> DataError:
    where = next((p for p in paths if recognised_pattern(p.name) is None), paths[0])
    return DataError(
        str(where),
        "no time in the tags, and none or more than one in the name",
        expected="one date and time, as in rain_20240501_0005.tif",
        fix=pattern_remedy(where.name),
    )


def _band_times(header: _Header) -> npt.NDArray[np.datetime64] | None:
    """Return one time a band, where its tags or its description say so; of one band, only its tags count."""
    found = [_tagged(tags, _VALID) for tags in header.band_tags]
    if any(moment is None for moment in found) and len(header.bands) > 1:
        found = [_moment(text or "") for text in header.descriptions]
    return None if any(moment is None for moment in found) else np.array(found, "datetime64[ns]")


def _tagged(tags: Mapping[str, str], keys: Sequence[str]) -> np.datetime64 | None:
    return next((moment for key in keys if (moment := _moment(tags.get(key, ""))) is not None), None)


def _moment(text: str) -> np.datetime64 | None:
    """Return the time that a tag or description holds; TIFF writes 2024:05:01 00:05:00."""
    text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text.strip())
    pattern = recognised_pattern(text)
    return None if pattern is None else time_from_name(Path(text), pattern)


def _require_order(moments: npt.NDArray[np.datetime64], paths: Sequence[Path]) -> None:
    steps = np.diff(moments)
    if len(steps) and not (steps > np.timedelta64(0)).all():
        at = int(np.argmin(steps > np.timedelta64(0)))
        label = f"{moments[at + 1].astype('datetime64[s]')!s}"
        fix = "leave out the files whose times others have"
        raise DataError(str(paths[0].parent), f"the time {label} does not follow", expected="rising times", fix=fix)


def _fits_float32(packing: tuple[str, float, float, float | None]) -> bool:
    dtype, scale, offset, _ = packing
    return scale == 1 and offset == 0 and np.dtype(dtype) in map(np.dtype, ("u1", "i1", "u2", "i2", "f4"))


def _shared_packing(headers: Sequence[_Header]) -> dict[str, Any] | None:
    """Return how integers are packed, where all bands of all files are packed alike and have a nodata value."""
    packings = {p for h in headers for p in h.packings}
    dtype, scale, offset, nodata = next(iter(packings))
    if len(packings) > 1 or np.dtype(dtype).kind not in "iu" or nodata is None or not float(nodata).is_integer():
        return None
    limits = np.iinfo(dtype)
    if not limits.min <= nodata <= limits.max:
        return None
    encoding: dict[str, Any] = {"dtype": np.dtype(dtype), "_FillValue": np.dtype(dtype).type(int(nodata))}
    if scale != 1 or offset != 0:
        encoding |= {"scale_factor": float(scale), "add_offset": float(offset)}
    return encoding


def _lazy(paths: Sequence[Path], headers: Sequence[_Header], dtype: Any, along_bands: bool) -> Any:
    import dask.array
    from dask.delayed import delayed

    array: Any = dask.array  # untyped
    read = delayed(_read, pure=True)
    parts = []
    for path, header in zip(paths, headers, strict=True):
        shape = (len(header.bands), *header.shape)
        part = array.from_delayed(read(path, header, np.dtype(dtype).str), shape, dtype)
        parts.append(part if along_bands else part[None] if len(header.bands) > 1 else part)
    return array.concatenate(parts)


def _read(path: Path, header: _Header, dtype: str) -> npt.NDArray[Any]:
    """Return the bands of a file, NaN where its nodata, mask or alpha says so."""
    rasterio = require("rasterio", "geotiff")
    with (
        reading(path, "GeoTIFF"),
        quiet.warnings_ignored(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(path) as file,
    ):
        if (file.height, file.width) != header.shape:
            raise DataError(str(path), "the file was changed since it was opened", fix="open it again")
        stored = file.read(list(header.bands), masked=True)
        # GDAL applies alpha by itself to one or three bands only.
        hidden = (file.read(list(header.alpha)) == 0).any(axis=0) if header.alpha else None
    values = stored.data.astype(dtype)
    for i, (_, scale, offset, _) in enumerate(header.packings):
        if scale != 1 or offset != 0:
            values[i] = values[i] * scale + offset
    values[np.ma.getmaskarray(stored)] = np.nan
    if hidden is not None:
        values[:, hidden] = np.nan
    return np.asarray(values)


def _coords(header: _Header, path: Path) -> tuple[str, str, dict[str, Any]]:
    """Return the names of y and x, and the coordinates."""
    y, x = _axes(header)
    t = header.transform
    if header.crs is None or not header.crs:
        attrs = [{"long_name": f"{a.lower()} of the pixel's centre", "axis": a} for a in "YX"]
        if (t.a, t.b, t.c, t.d, t.e, t.f) == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):  # no place is said
            attrs = [{"long_name": n, "units": "1", "axis": a} for n, a in (("row", "Y"), ("column", "X"))]
            y, x = np.arange(len(y), dtype=np.float64), np.arange(len(x), dtype=np.float64)
        return "y", "x", {"y": ("y", y, attrs[0]), "x": ("x", x, attrs[1])}
    pyproj = require("pyproj", "geotiff")
    with quiet.warnings_ignored(UserWarning):
        crs = pyproj.CRS.from_wkt(header.crs.to_wkt())
    factor = float(header.crs.linear_units_factor[1]) if header.crs.is_projected else 1.0
    # A grid mapping counts in the units of its coordinates; metres are what others expect.
    coords = map_coords(crs if factor == 1.0 else _in_metres(pyproj, crs), y * factor, x * factor)
    y_dim, x_dim, _ = coords
    return y_dim, x_dim, coords


def _in_metres(pyproj: Any, crs: Any) -> Any:
    with quiet.warnings_ignored(UserWarning):
        text = re.sub(r"\+(units|to_meter)=\S+", "", crs.to_proj4())
    return pyproj.CRS(f"{text} +units=m")


def _attrs(headers: Sequence[_Header], units: str | None, path: Path) -> dict[str, Any]:
    header = headers[0]
    tags = {**header.tags, **header.band_tags[0]}
    attrs: dict[str, Any] = {}
    for key in _ATTRS:
        if tags.get(key):
            attrs[key] = tags[key] if key.endswith(("_name", "methods")) else _numbers(tags[key])
    attrs = {k: v for k, v in attrs.items() if v is not None}
    stated = header.units[0] or tags.get("units") or tags.get("unittype")
    if units is not None and stated and dims.canonical_units(units) != dims.canonical_units(stated):
        raise RecipeError("units", f"{units!r} for {path.name}", expected=f"{stated!r}, as the file says")
    if units or stated:
        attrs["units"] = units or stated
    described = {h.descriptions for h in headers}
    if len(header.bands) == 1 and len(described) == 1 and header.descriptions[0]:
        attrs.setdefault("long_name", header.descriptions[0])
    return attrs


def _numbers(text: str) -> Any:
    try:
        found = [float(part) for part in re.split(r"[\s,;]+", text.strip("[]() "))]
    except ValueError:
        return None
    return found[0] if len(found) == 1 else found


def _name(header: _Header, paths: Sequence[Path]) -> str:
    tags = {**header.tags, **header.band_tags[0]}
    told = next((tags[key] for key in _NAMES if tags.get(key)), None)
    if told is None:
        # The letters before the first number, as in rain_20240501_0005.tif, where all files have the same.
        shared = {re.split(r"\d", path.stem)[0] for path in paths}
        told = shared.pop() if len(shared) == 1 else ""
    return re.sub(r"\W+", "_", told).strip("_") or tags.get("standard_name") or "value"
