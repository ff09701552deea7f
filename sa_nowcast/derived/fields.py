"""What sums, series and means share: the field of a Dataset, its grid as cells with edges, and where a place lies."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.forecasts.labels import DROPPED_ATTRS
from sa_nowcast.frames.grid import grid_mapping_name, grid_of
from sa_nowcast.interop import projection
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import normalised, text
from sa_nowcast.metadata.cells import is_bounds
from sa_nowcast.sources.reading import require

Floats = npt.NDArray[np.float64]
LONGITUDE_LATITUDE: Final = "OGC:CRS84"
_METHOD: Final = re.compile(
    r"(?P<axes>(?:[\w.-]+:\s+)+)(?P<rest>\w+(?:\s+(?:where|over|within)\s+\w+)*(?:\s+\([^)]*\))?)"
)


def one_field(data: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """Return the field: a DataArray itself, the only gridded variable of a Dataset with its grid mapping."""
    if isinstance(data, xr.DataArray):
        return normalised(data)
    if not isinstance(data, xr.Dataset):
        raise DataError("data", f"a {type(data).__name__}", expected="an xarray Dataset or DataArray")
    ds = normalised(data)
    names = [n for n, v in ds.data_vars.items() if dims.LEAD_TIME in v.dims and not is_bounds(ds, n)]
    names = names or [n for found in dims.grids(ds).values() for n in found]
    if len(names) != 1:
        raise DataError(
            "dataset",
            f"{len(names)} gridded variables ({', '.join(map(str, names)) or 'none'})",
            expected="one",
            fix="choose it, as in ds['name'].sa_nowcast",
        )
    mapping = grid_mapping_name(ds[names[0]])
    return dims.with_positions(ds.set_coords(mapping) if mapping in ds.data_vars else ds)[names[0]]


def require_additive(field: xr.DataArray, what: str) -> None:
    """Refuse quantiles: a sum or a mean of them is no quantile of the sum or the mean."""
    if dims.QUANTILE in field.dims:
        raise DataError(
            label(field),
            f"quantiles, of which {what} are no quantiles",
            expected="one forecast, or members",
            fix="forecast with members=24, derive that, and take .quantile([0.1, 0.9], 'realization') of it",
        )


def label(field: xr.DataArray) -> str:
    """Return what errors call a field."""
    return str(field.name) if field.name is not None else "data"


def own_attrs(field: xr.DataArray) -> dict[Hashable, Any]:
    """Return a field's attributes, those of the one variable that was selected from several included."""
    chosen = {k: str(field.coords[k].values) for k in dims.PER_VARIABLE if k in field.coords and not field[k].ndim}
    return {**field.attrs, **chosen}


def derived_attrs(attrs: Mapping[Hashable, Any], added: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """Return the attributes that describe what is derived of a field too, with those that are added."""
    kept = {k: v for k, v in attrs.items() if k == "grid_mapping" or k not in DROPPED_ATTRS}
    return {**kept, **added}


def with_method(attrs: Mapping[Hashable, Any], method: str, replaced: tuple[str, ...] = ()) -> str:
    """Return the cell methods (CF section 7.3) with one more at the end, without those of the axes `replaced`."""
    told = text(attrs.get("cell_methods")) or ""
    kept = [m.group().strip() for m in _METHOD.finditer(told) if not _axes(m["axes"]) & set(replaced)]
    return " ".join([*kept, method])


def has_method(attrs: Mapping[Hashable, Any], method: str, axes: tuple[str, ...]) -> bool:
    """Say whether the cell methods name `method` for one of the axes."""
    told = text(attrs.get("cell_methods")) or ""
    return any(_axes(m["axes"]) & set(axes) and m["rest"].split()[0] == method for m in _METHOD.finditer(told))


def _axes(told: str) -> set[str]:
    return {name.strip(":") for name in told.split()}


@dataclass(frozen=True)
class Line:
    """The cells along one dimension in ascending order.

    Attributes
    ----------
    centres : ndarray, shape (n,)
    edges : ndarray, shape (n + 1,)
        Midway between centres, and as far beyond the outermost ones.
    falling : bool
        Whether the data have them in descending order.
    """

    name: Hashable
    centres: Floats
    edges: Floats
    falling: bool
    units: str

    @property
    def size(self) -> int:
        """The number of cells."""
        return len(self.centres)

    def within(self, values: Floats) -> npt.NDArray[np.bool_]:
        """Say which values lie in a cell."""
        return np.asarray((values >= self.edges[0]) & (values <= self.edges[-1]))

    def cells(self, values: Floats) -> Floats:
        """Return values in cells from the lower edge of the first one, and beyond the edges in outermost cells."""
        result = np.interp(values, self.edges, np.arange(self.size + 1.0))
        below, above = (self.edges[0] - values), (values - self.edges[-1])
        first, last = self.edges[1] - self.edges[0], self.edges[-1] - self.edges[-2]
        result = np.where(below > 0, -below / first, result)
        return np.asarray(np.where(above > 0, self.size + above / last, result), dtype=np.float64)

    def positions(self, ascending: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return where the data have the cells that are numbered in ascending order."""
        return self.size - 1 - ascending if self.falling else ascending

    def shown(self) -> str:
        """Return the range of the cells as errors print it."""
        return f"{self.name} from {self.edges[0]:.8g} to {self.edges[-1]:.8g}"


@dataclass(frozen=True)
class Cells:
    """The horizontal grid as cells; columns are longitudes where it is geographic."""

    y: Line
    x: Line
    geographic: bool

    def shown(self) -> str:
        """Return the bounds of the grid as errors print them."""
        return f"{self.y.shown()} and {self.x.shown()} {self.x.units}".strip()

    def sizes(self) -> Floats:
        """Return the area of every cell, (y, x) in ascending order: on a sphere where the grid is geographic."""
        return np.diff(self.heights(self.y.edges))[:, np.newaxis] * np.diff(self.x.edges)

    def heights(self, y: Floats) -> Floats:
        """Return y such that areas of (height, x) are those of the grid: sines of latitudes, for one."""
        return np.sin(np.deg2rad(np.clip(y, -90, 90))) if self.geographic else y


def cells_of(field: xr.DataArray, y: Hashable | None, x: Hashable | None) -> Cells:
    """Return the cells of a field's grid; positions from 0 on where a dimension has no coordinate."""
    rows, columns = dims.find_dim(field, "y", y), dims.find_dim(field, "x", x)
    if rows == columns:
        raise DataError(label(field), f"y={rows!r} and x={columns!r}", expected="two different dimensions")
    grid_of(field, rows, columns, label(field), None)  # refuses coordinates that are no sequence
    return Cells(_line(field, rows), _line(field, columns), projection.is_geographic(field))


def _line(field: xr.DataArray, dim: Hashable) -> Line:
    if dim not in field.coords or field[dim].dtype.kind not in "fiu":
        edges = np.arange(field.sizes[dim] + 1.0) - 0.5
        return Line(dim, edges[1:] - 0.5, edges, False, "")
    values = dims.unwrapped(field[dim])
    if len(values) < 2:
        raise DataError(label(field), f"{dim} has one cell, whose size is not told", expected="at least 2 cells")
    falling = bool(values[-1] < values[0])
    centres = values[::-1] if falling else values
    middle = (centres[1:] + centres[:-1]) / 2
    edges = np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
    return Line(dim, centres, edges, falling, text(field[dim].attrs.get("units")) or "")


def has_mapping(field: xr.DataArray) -> bool:
    """Say whether the grid says how it is projected."""
    return projection.mapping_attrs(field) is not None


def to_grid(field: xr.DataArray, cells: Cells) -> Callable[[Floats, Floats], tuple[Floats, Floats]] | None:
    """Return what makes the grid's (y, x) of latitudes and longitudes; None where the grid does not say how.

    Geographic grids need no library; pyproj does the rest, and points that a projection does not show are infinite.
    """
    return _transformed(field, cells, inverse=False)


def from_grid(field: xr.DataArray, cells: Cells) -> Callable[[Floats, Floats], tuple[Floats, Floats]] | None:
    """Return what makes latitudes and longitudes of the grid's (y, x), as `to_grid` does the reverse."""
    return _transformed(field, cells, inverse=True)


def _transformed(
    field: xr.DataArray, cells: Cells, inverse: bool
) -> Callable[[Floats, Floats], tuple[Floats, Floats]] | None:
    if cells.geographic:
        return lambda first, second: (first, second)
    wkt = projection.crs_of(field)
    if wkt is None:
        return None
    pyproj = require("pyproj", "geotiff")
    crs = pyproj.CRS(wkt)
    transformer = pyproj.Transformer.from_crs(LONGITUDE_LATITUDE, crs, always_xy=True)
    down, across = (_per_unit(field, crs, line) for line in (cells.y, cells.x))

    def there(latitude: Floats, longitude: Floats) -> tuple[Floats, Floats]:
        x, y = transformer.transform(longitude, latitude)
        return np.asarray(y) * down, np.asarray(x) * across

    def back(y: Floats, x: Floats) -> tuple[Floats, Floats]:
        longitude, latitude = transformer.transform(x / across, y / down, direction="INVERSE")
        return np.asarray(latitude), np.asarray(longitude)

    return back if inverse else there


def _per_unit(field: xr.DataArray, crs: Any, line: Line) -> float:
    """Return how many units of the grid's coordinate one unit of the reference system is."""
    if not crs.is_projected:
        return 1.0
    metres = float(crs.axis_info[0].unit_conversion_factor)
    attrs = projection.mapping_attrs(field) or {}
    heights = {"rad": float(attrs.get("perspective_point_height", 0.0))}  # scan angles of a geostationary satellite
    unit = {"m": 1.0, "km": 1000.0, **heights}.get(dims.canonical_units(line.units) or "m", 0.0)
    if not unit:
        raise DataError(
            label(field),
            f"{line.name} is in {line.units}",
            expected="m or km",
            fix=f"convert the values of {line.name}, and set its attribute units",
        )
    return metres / unit


def without_grid(field: xr.DataArray, cells: Cells) -> xr.DataArray:
    """Return a field without the coordinates that vary along its grid."""
    along = {cells.y.name, cells.x.name}
    return field.drop_vars([n for n, c in field.coords.items() if along & set(c.dims)])
