"""Series at named points: the nearest pixel, or linear between pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.derived.fields import (
    Cells,
    Floats,
    Line,
    cells_of,
    derived_attrs,
    has_mapping,
    label,
    one_field,
    to_grid,
    without_grid,
)
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata.cells import STATION

POINT: Final = "point"
Coordinates = Literal["auto", "grid", "geographic"]
_DEGREES: Final = (("latitude", "longitude"), ("lat", "lon"), ("lat", "long"))
_NAMES: Final = ("name", "station", "point", "id")


@dataclass(frozen=True)
class _Points:
    names: list[str]
    first: Floats
    """Latitude, or y."""
    second: Floats
    """Longitude, or x."""
    geographic: bool

    def shown(self, at: int) -> str:
        return f"({self.first[at]:.8g}, {self.second[at]:.8g})"


def at(
    data: xr.DataArray | xr.Dataset,
    points: Mapping[str, Sequence[float]] | Any,
    *,
    method: Literal["nearest", "linear"] = "nearest",
    coordinates: Coordinates = "auto",
    y: Hashable | None = None,
    x: Hashable | None = None,
) -> xr.DataArray:
    """Return the series at named points.

    Parameters
    ----------
    data : DataArray or Dataset
        A forecast, a hindcast or frames, with any dimensions beside y and x. Of a Dataset the only gridded variable.
    points : mapping, DataFrame or Dataset
        Names to pairs of numbers, ``{"Bern": (46.95, 7.44)}``; or a table with columns ``latitude`` and ``longitude``
        (``lat`` and ``lon``), or with those of the grid, such as ``y`` and ``x``. Names of a table are its column
        ``name``, ``station``, ``point`` or ``id``, else its index; of a Dataset likewise, along its one dimension.
    method : {"nearest", "linear"}
        The value of the pixel whose centre is nearest along each axis, by default: a value that the forecast has. Or
        bilinear between the four centres around the point, smoother and with lower peaks; within the outermost half
        pixel it is constant towards the edge, and missing where one of the pixels that it takes from is.
    coordinates : {"auto", "grid", "geographic"}
        What the pairs are: ``geographic`` is (latitude, longitude) in degrees, ``grid`` is (y, x) in the grid's own
        units (positions from 0 on where a dimension has no coordinate). ``auto`` is geographic where the grid has
        latitudes and longitudes, or a map projection with a grid mapping (CF section 5.6), and else grid. The names of
        a table's columns tell by themselves.
    y, x : hashable, optional
        The dimensions, where attributes and names do not tell.

    Raises
    ------
    RecipeError
        No points, no numbers, a name twice, an unknown method, or latitudes beyond the poles.
    DataError
        A point outside the grid, whose bounds are said (a pixel reaches half a cell beyond its centre); a projected
        grid without a grid mapping.
    MissingLibraryError
        Latitudes and longitudes on a projected grid need pyproj, of the extra ``geotiff``.

    Returns
    -------
    DataArray
        Dims of `data`, ``point`` in place of y and x. The coordinate ``point`` has the names (CF discrete sampling
        geometry, ``cf_role`` ``timeseries_id``); y and x are the points' own, and so are latitude and longitude where
        they were given. `to_cf` adds the global attribute ``featureType``, ``timeSeries`` (CF section 9), and calls the
        names ``point_name``.
    """
    if method not in ("nearest", "linear"):
        raise RecipeError("method", repr(method), expected="'nearest' or 'linear'")
    if coordinates not in ("auto", "grid", "geographic"):
        raise RecipeError("coordinates", repr(coordinates), expected="'auto', 'grid' or 'geographic'")
    field = one_field(data)
    cells = cells_of(field, y, x)
    geographic = coordinates == "geographic" or (coordinates == "auto" and (cells.geographic or has_mapping(field)))
    given = _read(points, cells, geographic, coordinates)
    rows, columns = _on_grid(field, cells, given)
    bare = without_grid(field, cells)
    if method == "nearest":
        values = _pixels(bare, cells, _nearest(cells.y, rows), _nearest(cells.x, columns))
    else:
        values = _linear(bare, cells, rows, columns)
    return _labelled(values, field, cells, given, rows, columns)


def _read(points: Any, cells: Cells, geographic: bool, coordinates: Coordinates) -> _Points:
    if isinstance(points, xr.Dataset) or (hasattr(points, "columns") and hasattr(points, "index")):
        names, pairs, geographic = _table(points, cells, coordinates)
    elif isinstance(points, Mapping):
        names, pairs = [str(n) for n in points], list(points.values())
    else:
        raise RecipeError("points", f"a {type(points).__name__}", expected="a mapping of names to pairs, or a table")
    if not names:
        raise RecipeError("points", "no point", expected="at least one")
    what = "(latitude, longitude)" if geographic else f"({cells.y.name}, {cells.x.name})"
    numbers = np.stack([_pair(name, pair, what) for name, pair in zip(names, pairs, strict=True)])
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise RecipeError("points", f"{twice!r} {names.count(twice)} times", expected="each name once")
    given = _Points(names, numbers[:, 0], numbers[:, 1], geographic)
    wrong = (np.abs(given.first) > 90) | (np.abs(given.second) > 360)
    if geographic and wrong.any():
        at = int(np.argmax(wrong))
        where, found = f"point {names[at]!r}", f"{given.shown(at)} is no latitude and longitude"
        fix = None if cells.geographic else f"coordinates='grid' where it is {cells.y.name} and {cells.x.name}"
        raise RecipeError(where, found, expected="degrees", fix=fix)
    return given


def _pair(name: str, pair: Any, what: str) -> Floats:
    numbers = np.full(2, np.nan)
    with contextlib.suppress(TypeError, ValueError):
        numbers = np.asarray(pair, dtype=np.float64)
    if numbers.shape != (2,) or not np.isfinite(numbers).all():
        raise RecipeError(f"point {name!r}", f"{pair!r:.60}", expected=f"two numbers, {what}")
    return numbers


def _table(points: Any, cells: Cells, coordinates: Coordinates) -> tuple[list[str], list[Any], bool]:
    """Return the names and pairs of a DataFrame or Dataset, and whether they are latitudes and longitudes."""
    columns: dict[str, Any] = {str(n).lower(): points[n] for n in _columns(points)}
    grid = ((str(cells.y.name).lower(), str(cells.x.name).lower()), ("y", "x"))
    kinds = {"geographic": _DEGREES, "grid": grid, "auto": (*_DEGREES, *grid)}
    pair = next((p for p in kinds[coordinates] if set(p) <= columns.keys()), None)
    if pair is None:
        found = f"columns {', '.join(columns) or 'none'}"
        raise RecipeError("points", found, expected=" or ".join(f"{a} and {b}" for a, b in kinds[coordinates][:4:3]))
    first, second = (np.ravel(np.asarray(columns[name])) for name in pair)
    named = next((columns[n] for n in _NAMES if n in columns), None)
    if named is None:
        own = points.index if not isinstance(points, xr.Dataset) else None
        named = np.arange(len(first)) + 1 if own is None else own
    names = [str(n) for n in np.ravel(np.asarray(getattr(named, "values", named)))]
    if not len(names) == len(first) == len(second):
        raise RecipeError("points", f"{len(names)} names of {len(first)} points", expected="one name for each point")
    return names, list(np.stack([first, second], axis=1)), pair in _DEGREES or cells.geographic


def _columns(points: Any) -> Iterable[Hashable]:
    return list(points.variables) if isinstance(points, xr.Dataset) else list(points.columns)


def _on_grid(field: xr.DataArray, cells: Cells, given: _Points) -> tuple[Floats, Floats]:
    """Return the grid's y and x of points, or refuse those outside."""
    rows, columns = given.first, given.second
    if given.geographic:
        transform = to_grid(field, cells)
        if transform is None:
            raise DataError(
                label(field),
                "latitudes and longitudes on a grid that says no map projection",
                expected="a grid mapping (CF section 5.6)",
                fix=f"give points as {cells.y.name} and {cells.x.name} of the grid, with coordinates='grid'",
            )
        rows, columns = transform(rows, columns)
    if cells.geographic:
        turns = np.ceil((cells.x.edges[0] - columns) / 360.0)  # the first turn that is not west of the grid
        columns = np.where(cells.x.within(columns), columns, columns + 360.0 * turns)
    outside = np.flatnonzero(~(cells.y.within(rows) & cells.x.within(columns)))
    if outside.size:
        at = int(outside[0])
        place = "" if cells.geographic or not given.geographic else f", {rows[at]:.8g}, {columns[at]:.8g} of the grid,"
        names = ", ".join(repr(given.names[i]) for i in outside[1:4])
        more = f"; and so {'is' if outside.size == 2 else 'are'} {names}" if names else ""
        more += f" and {outside.size - 4} more" if outside.size > 4 else ""
        raise DataError(
            f"point {given.names[at]!r}",
            f"{given.shown(at)}{place} is outside the grid{more}",
            expected=cells.shown(),
            fix="leave it out, or take data of a larger grid",
        )
    return rows, columns


def _nearest(line: Line, values: Floats) -> npt.NDArray[np.intp]:
    inner = np.searchsorted(line.edges[1:-1], values, side="right")
    return line.positions(inner.astype(np.intp))


def _pixels(
    bare: xr.DataArray, cells: Cells, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> xr.DataArray:
    where = {cells.y.name: xr.DataArray(rows, dims=POINT), cells.x.name: xr.DataArray(columns, dims=POINT)}
    return bare.isel(where)


def _linear(bare: xr.DataArray, cells: Cells, rows: Floats, columns: Floats) -> xr.DataArray:
    """Return the bilinear values; pixels without weight may be missing."""
    kind = bare.dtype if bare.dtype.kind == "f" else np.dtype(np.float64)
    total: xr.DataArray | None = None
    for row, row_weight in _around(cells.y, rows):
        for column, column_weight in _around(cells.x, columns):
            weight = xr.DataArray(row_weight * column_weight, dims=POINT)
            part = (_pixels(bare, cells, row, column).astype(np.float64) * weight).where(weight > 0, 0.0)
            total = part if total is None else total + part
    assert total is not None
    return total.astype(kind)


def _around(line: Line, values: Floats) -> list[tuple[npt.NDArray[np.intp], Floats]]:
    """Return the cells before and after each value with their weights."""
    place = np.interp(values, line.centres, np.arange(float(line.size)))
    before = np.minimum(place.astype(np.intp), max(line.size - 2, 0))
    after = np.minimum(before + 1, line.size - 1)
    weight = place - before
    return [(line.positions(before), 1.0 - weight), (line.positions(after), weight)]


def _labelled(
    values: xr.DataArray, field: xr.DataArray, cells: Cells, given: _Points, rows: Floats, columns: Floats
) -> xr.DataArray:
    """Give series the names and positions of their points, and the attributes of the field."""
    coords: dict[Hashable, xr.Variable] = {POINT: _coord(np.array(given.names), STATION)}
    for line, own in ((cells.y, rows), (cells.x, columns)):
        attrs = {k: v for k, v in field[line.name].attrs.items() if k != "bounds"} if line.name in field.coords else {}
        coords[line.name] = _coord(own, attrs)
    if given.geographic and not cells.geographic:
        coords["latitude"] = _coord(given.first, {"standard_name": "latitude", "units": "degrees_north"})
        coords["longitude"] = _coord(given.second, {"standard_name": "longitude", "units": "degrees_east"})
    result = values.transpose(..., POINT).drop_vars(list(coords), errors="ignore").assign_coords(coords)
    result.attrs = derived_attrs(field.attrs, {})
    result.name = field.name
    if "grid_mapping" in field.encoding:
        result.encoding["grid_mapping"] = field.encoding["grid_mapping"]
    return result


def _coord(values: npt.NDArray[Any], attrs: Mapping[Any, Any]) -> xr.Variable:
    return xr.Variable((POINT,), values, dict(attrs), {"_FillValue": None})
