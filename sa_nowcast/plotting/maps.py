"""Where the panels of a map lie, and frames as they are drawn on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from sa_nowcast.metadata.dims import is_longitude, unwrapped
from sa_nowcast.plotting.coast import Extent, Line, coastlines, is_geographic, is_projected, is_rotated
from sa_nowcast.plotting.mesh import Array, Chart, axis_edges, chart_of, edges_of, middle, positions, positions_of

# More cells than this along an axis cannot be seen in a panel.
PANEL_CELLS = 400


def panel(data: xr.DataArray, y: str, x: str) -> xr.DataArray:
    """Return a frame as (y, x) with x ascending and north up (first row at the top), thinned to what can be seen."""
    data = whole_globe(data, x)
    steps = {dim: -(-data.sizes[dim] // PANEL_CELLS) for dim in (y, x)}
    if max(steps.values()) > 1:
        thinned = {str(name): middle if coord.ndim > 1 else "mean" for name, coord in data.coords.items()}
        data = data.coarsen(steps, boundary="trim", coord_func=thinned).mean()
    data = north_up(data.transpose(y, x), y, x)
    if data.dtype.kind not in "f":
        data = data.astype(np.float32)  # truth values, and integers without a missing value
    return data.load() if data.chunks is None else data.compute()


def whole_globe(data: xr.DataArray, x: str) -> xr.DataArray:
    """Return `data` with its longitudes ascending or descending throughout, where they cross the antimeridian."""
    if x not in data.coords or data[x].dtype.kind not in "iuf":
        return data
    turned = unwrapped(data[x])
    steps = np.diff(turned)
    # Sorted longitudes: the western end of the grid is in the east.
    if is_longitude(data[x]) and steps.size > 1 and (steps > 0).all() and steps.max() > 180.0:
        first = int(np.argmax(steps)) + 1
        data = data.roll({x: -first}, roll_coords=True)
        turned = np.roll(turned, -first)
        turned[turned.size - first :] += 360.0
    if np.array_equal(turned, data[x]):
        return data
    return data.assign_coords({x: data[x].copy(data=turned)})


def north_up(data: xr.DataArray, y: str, x: str) -> xr.DataArray:
    """Return `data` with its first row in the north and its first column in the west, as its coordinates tell."""
    places = {dim: data[dim].values for dim in (y, x) if dim in data.coords and data[dim].dtype.kind in "iuf"}
    names = positions(data, y, x)
    if names is not None and not on_axes(data, y):
        found = positions_of(data, y, x)
        if found is not None:
            east, north = chart_of(*found).project(found[1], found[0])
            with np.errstate(invalid="ignore"):
                places = {y: _means(north, 1), x: _means(east, 0)}
    for dim, rises in ((y, False), (x, True)):
        values = places.get(dim, np.empty(0))
        if values.size > 1 and values[0] != values[-1] and bool(values[0] < values[-1]) != rises:
            data = data.isel({dim: slice(None, None, -1)})
    return data


def _means(values: Array, axis: int) -> Array:
    """Return the first and the last of the means along `axis` that are known."""
    known = np.isfinite(values)
    counts = known.sum(axis=axis)
    means = np.where(known, values, 0.0).sum(axis=axis)[counts > 0] / counts[counts > 0]
    return np.array([means[0], means[-1]], dtype=float)


def on_axes(data: xr.DataArray, y: str) -> bool:
    """Say whether the grid's own axes are its place: latitude and longitude, or coordinates in a projection."""
    return is_geographic(data, y) or is_projected(data, y)


@dataclass(frozen=True)
class Map:
    """Where panels lie.

    Outer edges (left, right, bottom, top; None without numeric coordinates), the drawn length of a unit of y over that
    of x, height over width of a panel, axis labels and the texts of ticks of y and x, coastlines, the corners of all
    cells of a grid that is not even in x and y, and named parallels and meridians where ticks cannot tell them.
    """

    extent: Extent | None
    aspect: float
    shape: float
    labels: tuple[str, str] = ("", "")
    ticks: tuple[Callable[[float], str], Callable[[float], str]] = ("{:g}".format, "{:g}".format)
    coast: Sequence[Line] = ()
    mesh: tuple[Array, Array] | None = None
    graticule: Sequence[tuple[Line, str]] = ()

    def place(self, row: tuple[str, float], column: tuple[str, float]) -> str:
        """Return a place as titles show it, from the name of each dimension and the label on it."""
        texts = [tick(value) for tick, (_, value) in zip(self.ticks, (row, column), strict=True)]
        if self.extent is not None and not any(self.labels):
            return ", ".join(texts)
        units = [label.partition(" (")[2].rstrip(")") for label in self.labels]
        names = row[0], column[0]
        return ", ".join(f"{n} {t} {u}".rstrip() for n, t, u in zip(names, texts, units, strict=True))


def _degrees(positive: str, negative: str) -> Callable[[float], str]:
    def text(value: float) -> str:
        turned = (value + 180) % 360 - 180  # longitudes may run from 0 to 360, or across the antimeridian
        return f"{abs(turned):g}°{'' if turned in (0, -180) else positive if turned > 0 else negative}"

    return text


def _axis_label(data: xr.DataArray, dim: str, thousands: bool) -> str:
    units = str(data[dim].attrs.get("units", ""))
    units = "km" if thousands else units
    return f"{dim} ({units})" if units else dim


def map_of(data: xr.DataArray, y: str, x: str, coast: bool | None = False) -> Map:
    """Return where the panels of `data`, whose dims are y, x and any others, lie; `coast` as in `coastlines`."""
    rows, columns = data.sizes[y], data.sizes[x]
    numeric = all(dim in data.coords and data[dim].dtype.kind in "iuf" for dim in (y, x))
    if min(rows, columns) > 1 and not (numeric and on_axes(data, y)):
        found = positions_of(data, y, x)
        if found is not None:
            return _map_of_mesh(data, y, x, found, coast)
    if not numeric or min(rows, columns) < 2:
        coastlines(data, y, x, None, coast)
        return Map(None, 1.0, rows / columns)
    ys, xs = data[y].values.astype(float), data[x].values.astype(float)
    mesh = None
    if _even(ys) and _even(xs):
        dy, dx = abs(ys[-1] - ys[0]) / (rows - 1), abs(xs[-1] - xs[0]) / (columns - 1)
        extent = (xs.min() - dx / 2, xs.max() + dx / 2, ys.min() - dy / 2, ys.max() + dy / 2)
    else:
        across, along = np.meshgrid(axis_edges(xs), axis_edges(ys))
        mesh, extent = (across, along), (across.min(), across.max(), along.min(), along.max())
    geographic, turned = is_geographic(data, y), is_rotated(data, y)
    lines = coastlines(data, y, x, extent, coast)
    aspect = 1.0 / max(0.2, float(np.cos(np.deg2rad(ys.mean())))) if geographic or turned else 1.0
    aspect, shape = _shape(extent, aspect, rows, columns)
    if geographic:
        return Map(extent, aspect, shape, ticks=(_degrees("N", "S"), _degrees("E", "W")), coast=lines, mesh=mesh)
    metres = data[y].attrs.get("units") in ("m", "metre", "meter") and float(np.abs(ys).max()) >= 1e4
    labels = (_axis_label(data, y, metres), _axis_label(data, x, metres))
    text = (lambda value: f"{value / 1000:g}") if metres else "{:g}".format
    return Map(extent, aspect, shape, labels, (text, text), lines, mesh)


def _map_of_mesh(data: xr.DataArray, y: str, x: str, found: tuple[Array, Array], coast: bool | None) -> Map:
    """Return where panels on two-dimensional latitude and longitude lie: cell by cell."""
    chart = chart_of(*found)
    mesh = edges_of(*found, chart)
    extent = tuple(float(end(part)) for part in mesh for end in (np.min, np.max))
    assert len(extent) == 4
    lines = coastlines(data, y, x, extent, coast, chart)
    aspect = 1.0 if chart.pole else 1.0 / max(0.2, float(np.cos(np.deg2rad(np.nanmean(found[0])))))
    aspect, shape = _shape(extent, aspect, data.sizes[y], data.sizes[x])
    ticks = (_degrees("N", "S"), _degrees("E", "W"))
    around = graticule(chart, extent) if chart.pole else ()
    return Map(extent, aspect, shape, ticks=ticks, coast=lines, mesh=mesh, graticule=around)


def graticule(chart: Chart, extent: Extent) -> list[tuple[Line, str]]:
    """Return parallels and meridians of a map round a pole, with their names."""
    furthest = max(np.hypot(px, py) for px in extent[:2] for py in extent[2:])
    step = next((s for s in (1, 2, 5, 10, 20) if furthest / s <= 6), 30)
    north, east = _degrees("N", "S"), _degrees("E", "W")
    lines = []
    for distance in np.arange(step, min(furthest, 90) + step, step):
        turn, level = np.linspace(-180, 180, 181), chart.pole * (90.0 - distance)
        lines.append((np.stack(chart.project(turn, np.full(181, level)), axis=1), north(level)))
    for meridian in range(-180, 180, 45):
        level = chart.pole * np.linspace(90.0 - step, 90.0 - furthest, 100)
        lines.append((np.stack(chart.project(np.full(100, float(meridian)), level), axis=1), east(meridian)))
    return lines


def _even(values: Array) -> bool:
    """Say whether the cells along an axis are of one size, to a quarter of one."""
    even = np.linspace(values[0], values[-1], values.size)
    return bool(abs(values - even).max() <= 0.25 * abs(values[-1] - values[0]) / (values.size - 1))


def _shape(extent: Extent, aspect: float, rows: int, columns: int) -> tuple[float, float]:
    """Return the aspect and the shape of a panel; those of its cells where it would be a strip."""
    shape = (extent[3] - extent[2]) / (extent[1] - extent[0]) * aspect
    return (aspect, shape) if 0.2 < shape < 5 else (aspect * (rows / columns) / shape, rows / columns)
