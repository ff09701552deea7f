"""Means over areas: catchments, countries, boxes; by labels or masks of pixels, or polygons of GeoJSON."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.derived import polygons
from sa_nowcast.derived.fields import (
    Cells,
    Floats,
    cells_of,
    derived_attrs,
    label,
    one_field,
    own_attrs,
    require_additive,
    to_grid,
    with_method,
    without_grid,
)
from sa_nowcast.errors import DataError, RecipeError, one_of
from sa_nowcast.frames.grid import grid_mapping_name
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import text
from sa_nowcast.metadata.cells import AREA

REGION: Final = "region"
# Of edges in pixels: on a map an edge of so many kilometres bends by metres.
_LONGEST_EDGE: Final = 16.0
_GEOMETRIES: Final = ("Polygon", "MultiPolygon")
_TURNS: Final = (-360.0, 0.0, 360.0)


@dataclass(frozen=True)
class _Area:
    """Pixels of an area by position, row by row as the data have them, and their weights."""

    name: str
    pixels: npt.NDArray[np.intp]
    weights: Floats
    covered: float
    """The share of the area that lies on the grid."""


def over(
    data: xr.DataArray | xr.Dataset,
    areas: xr.DataArray | Mapping[str, Any] | str | os.PathLike[str] | Any,
    *,
    name: str | None = None,
    least: float = 0.5,
    y: Hashable | None = None,
    x: Hashable | None = None,
) -> xr.DataArray:
    """Return means over areas, such as catchments.

    Parameters
    ----------
    data : DataArray or Dataset
        A forecast, a hindcast or frames, with any dimensions beside y and x. Of a Dataset the only gridded variable.
    areas : DataArray, mapping, path or GeoJSON
        - A DataArray (y, x) of whole numbers on the same grid: pixels of one number are an area, 0 and less and missing
          ones none. Areas have the numbers as names, or those of the attributes ``flag_values`` and ``flag_meanings``.
        - A mapping of names to boolean masks (y, x), DataArrays or arrays of the grid's shape; they may overlap.
        - GeoJSON (RFC 7946) in longitude and latitude: the path of a file, a dict, or what has ``__geo_interface__``.
          Of Polygon and MultiPolygon, interior rings are left out of the area. They are brought into the grid's map
          projection.
    name : str, optional
        The property of GeoJSON features that names the areas; by default ``name``, in capitals too, then the features'
        ``id``, then numbers from 1 on.
    least : float, default 0.5
        The share of an area, of its part beyond the grid too, that must have values for its mean to be one.
    y, x : hashable, optional
        The dimensions, where attributes and names do not tell.

    Raises
    ------
    RecipeError
        No areas, areas of another type or geometry, a name twice, or `least` beyond 0 to 1.
    DataError
        Labels or masks of another grid; an area without a pixel on the grid, by name; a polygon that crosses itself, or
        is not in degrees; GeoJSON on a grid that is neither geographic nor says its map projection.
    MissingLibraryError
        GeoJSON on a projected grid needs pyproj, of the extra ``geotiff``.

    Returns
    -------
    DataArray
        Dims of `data`, ``region`` in place of y and x (``area`` has a meaning of its own among CF's cell methods, to
        which ``area: mean`` is added). The coordinate ``region`` has the names, ``covered`` the share (0 to 1) of each
        area that lies on the grid; of labels and masks it is 1.

    Notes
    -----
    A pixel counts by its size times the share of it that lies in the area: 1 of labels and masks, exact for polygons.
    Sizes are those on a sphere where the grid is geographic, in proportion to the cosine of latitude, and those in the
    map's plane elsewhere. Missing pixels are left out of the mean; where less than `least` of the area has values, it
    is missing. Means are made in float64 and have the type of floating-point data.
    """
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
        raise RecipeError("least", repr(least), expected="a share from 0 to 1")
    field = one_field(data)
    require_additive(field, "means over areas")
    cells = cells_of(field, y, x)
    found = _found(areas, field, cells, name)
    if not found:
        raise RecipeError("areas", "no area", expected="at least one")
    names = [area.name for area in found]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise RecipeError("areas", f"{names.count(twice)} are called {twice!r}", "each name once", "rename them")
    beyond = [area.name for area in found if not len(area.pixels)]
    if beyond:
        more = f", nor in {', '.join(map(repr, beyond[1:4]))}" if beyond[1:] else ""
        more += f" and {len(beyond) - 4} more" if len(beyond) > 4 else ""
        raise DataError(
            f"area {beyond[0]!r}",
            f"no pixel of the grid is in it{more}",
            expected=f"areas on the grid, {cells.shown()}",
            fix="leave it out, or take data of a larger grid",
        )
    bare = without_grid(field, cells)
    mapping = grid_mapping_name(field)
    bare = bare.drop_vars([] if mapping is None else mapping, errors="ignore")
    grid = (cells.y.name, cells.x.name)
    if field.chunks is not None and any(len(field.chunksizes[d]) > 1 for d in grid):
        # Whole fields in a block, of fewer of the other dimensions.
        bare = bare.chunk({d: -1 if d in grid else "auto" for d in bare.dims})
    kind = field.dtype if field.dtype.kind == "f" else np.dtype(np.float64)
    result: xr.DataArray = xr.apply_ufunc(
        _means,
        bare,
        kwargs={
            "pixels": np.concatenate([area.pixels for area in found]),
            "weights": np.concatenate([area.weights for area in found]),
            "firsts": np.cumsum([0, *(len(area.pixels) for area in found[:-1])]),
            "wholes": np.array([area.weights.sum() / area.covered for area in found]),
            "least": float(least),
            "kind": kind,
        },
        input_core_dims=[grid],
        output_core_dims=[[REGION]],
        dask="parallelized",
        output_dtypes=[kind],
        dask_gufunc_kwargs={"output_sizes": {REGION: len(found)}},
    )
    covered = {"units": "1", "long_name": "share of the area that lies on the grid"}
    result = result.assign_coords(
        {
            REGION: xr.Variable(REGION, names, AREA, {"_FillValue": None}),
            "covered": xr.Variable(REGION, [area.covered for area in found], covered, {"_FillValue": None}),
        }
    )
    method: dict[Hashable, Any] = {"cell_methods": with_method(own_attrs(field), "area: mean", ("area",))}
    result.attrs = {k: v for k, v in derived_attrs(field.attrs, method).items() if k != "grid_mapping"}
    result.name = field.name
    return result


def _means(
    block: npt.NDArray[Any],
    *,
    pixels: npt.NDArray[np.intp],
    weights: Floats,
    firsts: npt.NDArray[np.intp],
    wholes: Floats,
    least: float,
    kind: np.dtype[Any],
) -> npt.NDArray[Any]:
    """Return the means of a block (..., y, x), field by field, so that memory is that of one."""
    fields = block.reshape(-1, block.shape[-2] * block.shape[-1])
    result = np.full((len(fields), len(firsts)), np.nan, dtype=kind)
    for number, one in enumerate(fields):
        values = one[pixels].astype(np.float64)
        there = ~np.isnan(values)
        weight = np.add.reduceat(np.where(there, weights, 0.0), firsts)
        total = np.add.reduceat(np.where(there, values, 0.0) * weights, firsts)
        # A rounding of sums is no missing pixel.
        known = (weight > 0) & (weight >= (least - 1e-9) * wholes)
        result[number, known] = total[known] / weight[known]
    return result.reshape(*block.shape[:-2], len(firsts))


def _found(areas: Any, field: xr.DataArray, cells: Cells, name: str | None) -> list[_Area]:
    areas = getattr(areas, "__geo_interface__", areas)
    if isinstance(areas, str | os.PathLike):
        return _of_geojson(_read(Path(areas)), str(areas), field, cells, name)
    if isinstance(areas, Mapping) and isinstance(areas.get("type"), str):
        return _of_geojson(areas, "areas", field, cells, name)
    if name is not None:
        raise RecipeError("name", repr(name), expected="GeoJSON, whose properties have names")
    if isinstance(areas, xr.DataArray):
        return _of_labels(areas, field, cells)
    if isinstance(areas, Mapping) and not isinstance(areas, xr.Dataset):
        return [_of_mask(str(n), mask, field, cells) for n, mask in areas.items()]
    expected = "a DataArray of labels, a mapping of names to masks, or GeoJSON (a path or a dict)"
    raise RecipeError("areas", f"a {type(areas).__name__}", expected=expected)


# --- labels and masks


def _of_labels(areas: xr.DataArray, field: xr.DataArray, cells: Cells) -> list[_Area]:
    numbers = _as_on_grid("areas", areas, field, cells)
    if numbers.dtype.kind not in "iuf":
        raise RecipeError(
            "areas", f"labels of type {numbers.dtype}", expected="whole numbers", fix="give masks as {'name': mask}"
        )
    numbers = np.nan_to_num(numbers.astype(np.float64), nan=0.0)
    if (numbers != np.rint(numbers)).any():
        odd = numbers[numbers != np.rint(numbers)][0]
        raise RecipeError("areas", f"the label {odd:g}", expected="whole numbers", fix="give masks as {'name': mask}")
    meanings = (text(areas.attrs.get("flag_meanings")) or "").split()
    values = np.ravel(areas.attrs.get("flag_values", [])).tolist()
    named = dict(zip(values, meanings, strict=False)) if len(values) == len(meanings) else {}
    known = [int(n) for n in np.unique(numbers[numbers > 0])]
    return [_of_pixels(named.get(n, str(n)), np.flatnonzero(numbers == n), cells) for n in known]


def _of_mask(name: str, mask: Any, field: xr.DataArray, cells: Cells) -> _Area:
    within = _as_on_grid(f"area {name!r}", mask, field, cells)
    if within.dtype.kind != "b":
        raise RecipeError(
            f"area {name!r}", f"a mask of type {within.dtype}", expected="booleans", fix="mask.astype(bool)"
        )
    return _of_pixels(name, np.flatnonzero(within), cells)


def _as_on_grid(where: str, given: Any, field: xr.DataArray, cells: Cells) -> npt.NDArray[Any]:
    """Return labels or masks as (y, x) in the order of the data, or refuse those of another grid."""
    grid = (cells.y.name, cells.x.name)
    shape = (cells.y.size, cells.x.size)
    if not isinstance(given, xr.DataArray):
        values = np.asarray(given)
        if values.shape != shape:
            raise DataError(where, f"an array of shape {values.shape}", expected=f"{shape}, as the grid")
        return values
    if set(given.dims) != set(grid):
        found = f"dimensions {', '.join(map(str, given.dims)) or 'none'}"
        raise DataError(where, found, expected=f"{grid[0]} and {grid[1]}, as the grid")
    for line in (cells.y, cells.x):
        one, other = given.coords.get(line.name), field.coords.get(line.name)
        if (one is not None and other is not None and not dims.same_axis(one.values, other.values)) or given.sizes[
            line.name
        ] != line.size:
            spacing = float(np.diff(line.centres).min()) if line.size > 1 else 1.0
            index = ", ".join(f"{d!r}: ds[{d!r}]" for d in grid)
            how = f"({{{index}}}, method='nearest', tolerance={spacing / 2:.8g}, fill_value=False)"
            raise DataError(
                where,
                f"its {line.name} is not that of the data",
                expected="one grid",
                fix=f"bring it onto the grid of the data, as with {where.split()[0]}.reindex{how}",
            )
    return given.transpose(*grid).values


def _of_pixels(name: str, pixels: npt.NDArray[np.intp], cells: Cells) -> _Area:
    """Return the area of whole pixels; their positions are those of the data."""
    return _Area(name, pixels, _sizes(cells).ravel()[pixels], 1.0)


def _sizes(cells: Cells) -> Floats:
    """Return the sizes of pixels in the order of the data."""
    sizes = cells.sizes()
    rows, columns = (line.positions(np.arange(line.size)) for line in (cells.y, cells.x))
    return sizes[np.ix_(rows, columns)]


# --- GeoJSON


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", expected="a file of GeoJSON") from error
    except ValueError as error:
        raise DataError(str(path), f"is no JSON ({error})", expected="a file of GeoJSON") from error
    if not isinstance(content, Mapping):
        raise DataError(str(path), f"holds a {type(content).__name__}", expected="GeoJSON")
    return content


def _of_geojson(
    content: Mapping[str, Any], where: str, field: xr.DataArray, cells: Cells, name: str | None
) -> list[_Area]:
    transform = to_grid(field, cells)
    if transform is None:
        raise DataError(
            label(field),
            "GeoJSON on a grid that says no map projection",
            expected="latitudes and longitudes, or a grid mapping (CF section 5.6)",
            fix="give masks on the grid, as {'name': mask}",
        )
    result = []
    for called, geometry in _features(content, where, name):
        parts = [_rings(polygon, called) for polygon in _polygons(geometry, called)]
        result.append(_of_polygons(called, parts, cells, transform))
    return result


def _features(content: Mapping[str, Any], where: str, name: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give the name and geometry of every feature."""
    features = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    for number, feature in enumerate(features if isinstance(features, list | tuple) else [], start=1):
        if not isinstance(feature, Mapping):
            raise RecipeError(f"{where}, feature {number}", f"a {type(feature).__name__}", expected="a Feature")
        is_feature = feature.get("type") == "Feature"
        properties = (feature.get("properties") or {}) if is_feature else {}
        geometry = feature.get("geometry") if is_feature else feature
        key = name or next((k for k in properties if str(k).lower() == "name"), None)
        if name is not None and name not in properties:
            found = f"no property {name!r}"
            raise RecipeError(f"{where}, feature {number}", found, expected=one_of(name, map(str, properties)) or "one")
        called = properties[key] if key is not None else feature.get("id", number)
        yield str(called), geometry if isinstance(geometry, Mapping) else {}


def _polygons(geometry: Mapping[str, Any], called: str) -> list[Any]:
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection":
        return [p for one in geometry.get("geometries") or [] for p in _polygons(one, called)]
    if kind not in _GEOMETRIES or not isinstance(coordinates, list | tuple) or not coordinates:
        found = f"a geometry of type {kind}" if kind not in _GEOMETRIES else f"a {kind} without coordinates"
        raise RecipeError(f"area {called!r}", found, expected=" or ".join(_GEOMETRIES))
    return [coordinates] if kind == "Polygon" else list(coordinates)


def _rings(polygon: Any, called: str) -> list[polygons.Ring]:
    """Return the rings of a polygon as (longitude, latitude), or refuse what is none."""
    rings = []
    for ring in polygon:
        try:
            positions = np.array([[position[0], position[1]] for position in ring], dtype=np.float64)
        except (TypeError, ValueError, IndexError):
            positions = np.empty((0, 2))
        if len(positions) and (positions[0] == positions[-1]).all():
            positions = positions[:-1]
        if len(positions) < 3 or not np.isfinite(positions).all():
            raise RecipeError(
                f"area {called!r}", "a ring that is no list of positions", expected="at least 3 positions"
            )
        beyond = (np.abs(positions[:, 0]) > 360) | (np.abs(positions[:, 1]) > 90)
        if beyond.any():
            longitude, latitude = positions[np.argmax(beyond)]
            raise DataError(
                f"area {called!r}",
                f"({longitude:g}, {latitude:g}) is no longitude and latitude",
                expected="degrees, as GeoJSON has them",
            )
        rings.append(positions)
    return rings


def _of_polygons(called: str, parts: list[list[polygons.Ring]], cells: Cells, transform: Any) -> _Area:
    shape = (cells.y.size, cells.x.size)
    pixels, share, whole, inside = [], [], 0.0, True
    for rings in parts:
        placed = [_placed(ring, called, cells, transform) for ring in rings]
        sizes = [abs(polygons.enclosed(np.stack([p[:, 0], cells.heights(p[:, 1])], axis=1))) for p in placed]
        whole += sizes[0] - sum(sizes[1:])
        inside &= bool(cells.y.within(placed[0][:, 1]).all() and cells.x.within(placed[0][:, 0]).all())
        # A part on the other side of a grid that goes round the earth, or is counted from 0 to 360.
        for turn in _TURNS if cells.geographic else (0.0,):
            turned = [np.stack([cells.x.cells(p[:, 0] + turn), cells.y.cells(p[:, 1])], axis=1) for p in placed]
            one, weight = polygons.shares([turned], shape)
            pixels.append(one)
            share.append(weight)
    # Pixels that several parts share count once, by the sum of their shares.
    known, back = np.unique(np.concatenate(pixels), return_inverse=True)
    summed = np.bincount(back, weights=np.concatenate(share), minlength=len(known))
    if len(summed) and (summed.max() > 1 + 1e-6 or summed.min() < -1e-6):
        raise DataError(
            f"area {called!r}",
            "polygons that cross themselves or each other",
            expected="valid ones, as RFC 7946 has them",
            fix="divide it where its rings cross, as with shapely.make_valid",
        )
    summed = np.minimum(summed, 1.0)
    weights = cells.sizes().ravel()[known] * summed
    covered = 1.0 if inside or not whole else min(float(weights.sum() / whole), 1.0)
    rows, columns = np.divmod(known, shape[1])
    own = cells.y.positions(rows) * shape[1] + cells.x.positions(columns)
    return _Area(called, own, weights, covered)


def _placed(ring: polygons.Ring, called: str, cells: Cells, transform: Any) -> polygons.Ring:
    """Return a ring as (x, y) of the grid, with edges so short that they are straight there as they are in degrees."""

    def place(positions: polygons.Ring) -> polygons.Ring:
        y, x = transform(positions[:, 1], positions[:, 0])
        placed = np.stack([x, y], axis=1)
        if not np.isfinite(placed).all():
            raise DataError(
                f"area {called!r}",
                "it reaches beyond what the map projection of the grid shows",
                expected="an area that it shows whole",
                fix="leave it out, or give a mask on the grid",
            )
        return placed

    placed = place(ring)
    at = np.stack([cells.x.cells(placed[:, 0]), cells.y.cells(placed[:, 1])], axis=1)
    lengths = np.hypot(*(np.roll(at, -1, axis=0) - at).T)
    return place(polygons.finer(ring, lengths, _LONGEST_EDGE))
