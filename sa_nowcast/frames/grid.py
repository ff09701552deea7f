"""The horizontal grid of a sequence: sizes, spacings, map projection, and what is wrong with its coordinates."""

from __future__ import annotations

import functools
import itertools
import logging
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.metadata import dims

_LOG = logging.getLogger("sa_nowcast")
# Of the usual spacing: what is farther apart is no neighbour. Stretched grids have uneven spacings throughout.
LARGEST_JUMP = 10.0


@dataclass(frozen=True)
class Grid:
    """The horizontal grid: dimension names, sizes, spacings in the coordinates' own units, and grid mapping.

    Spacings are medians and None where a dimension has no numeric coordinate or fewer than two points.
    `projection` holds what tells one map projection from another (``grid_mapping_name`` and its parameters).
    """

    y: Hashable
    x: Hashable
    height: int
    width: int
    dy: float | None
    dx: float | None
    units: str | None
    projection: Mapping[str, str]

    def spacing(self) -> str:
        """Return the spacing as a user reads it: ``0.01 x 0.01 degrees_north``."""
        if self.dy is None or self.dx is None:
            return "no coordinates"
        return f"{abs(self.dy):.6g} x {abs(self.dx):.6g} {self.units or ''}".rstrip()


def grid_of(array: xr.DataArray, y: Hashable, x: Hashable, name: str, mapping: xr.DataArray | None) -> Grid:
    """Return the grid along `y` and `x`, or refuse coordinates that are no sequence; a jump in one is logged."""
    spacings: list[float | None] = []
    for dim in (y, x):
        if dim not in array.coords or array.coords[dim].dtype.kind not in "fiu" or array.sizes[dim] < 2:
            spacings.append(None)
            continue
        values = dims.unwrapped(array.coords[dim])
        differences = np.diff(values)
        if not np.isfinite(differences).all() or not ((differences > 0).all() or (differences < 0).all()):
            raise _unordered(f"{name}, {dim}", dim, array.coords[dim])
        if (fault := jump(array.coords[dim])) is not None:
            _say(f"{name}: {fault}")
        spacings.append(float(np.median(differences)))
    units = array.coords[y].attrs.get("units") if y in array.coords else None
    return Grid(
        y=y,
        x=x,
        height=array.sizes[y],
        width=array.sizes[x],
        dy=spacings[0],
        dx=spacings[1],
        units=None if units is None else str(units),
        projection=_projection(mapping),
    )


def _unordered(where: str, dim: Hashable, coord: xr.DataArray) -> DataError:
    values = coord.values.astype(np.float64)
    found = "coordinate is neither increasing nor decreasing"
    if not np.isfinite(values).all():
        at = int(np.argmin(np.isfinite(values)))
        return DataError(
            where, f"{found}: no number at position {at}", "a number for every row or column", f"ds.drop_vars({dim!r})"
        )
    known, counts = np.unique(values, return_counts=True)
    if (counts > 1).any():
        twice = f"{found}: {known[np.argmax(counts)]:g} occurs {counts.max()} times"
        # Many are labels that were rounded: without their rows or columns the picture would be another.
        few = (counts - 1).sum() * 10 <= len(values)
        fix = f"ds.drop_duplicates({dim!r}).sortby({dim!r})" if few else f"ds.drop_vars({dim!r})"
        return DataError(where, twice, "each once", fix)
    turned = coord.copy(data=np.sort(values % 360))
    if dims.is_longitude(coord) and _jump_at(np.diff(turned.values)) is None:
        return DataError(where, found, fix=f"{_modulo(dim)}.sortby({dim!r})")
    return DataError(where, found, fix=f"ds.sortby({dim!r})")


def _modulo(dim: Hashable) -> str:
    return f"ds.assign_coords({{{dim!r}: ds[{dim!r}] % 360}})"


def _jump_at(differences: npt.NDArray[np.float64]) -> int | None:
    """Return the place of a jump between parts of a regular grid; uneven spacings, as of latitudes, are no jumps."""
    sizes = np.abs(differences)
    usual = float(np.median(sizes))
    jumps = sizes > LARGEST_JUMP * usual
    if not jumps.any() or len(sizes) < 3 or np.abs(sizes[~jumps] / usual - 1).max() > 0.01:
        return None
    return int(np.argmax(sizes))


def jump(coord: xr.DataArray) -> DataError | None:
    """Return what is wrong with a regular grid with a jump in it, as one line, or None.

    Sorting longitudes that cross the antimeridian makes such jumps, which networks, which see pixels, do not notice.
    """
    values = dims.unwrapped(coord)
    sizes = np.abs(np.diff(values))
    at = _jump_at(sizes)
    if at is None:
        return None
    name = coord.name
    if dims.is_longitude(coord) and _jump_at(np.diff(np.sort(values % 360))) is None:
        fix = f"{_modulo(name)}.sortby({name!r})"
    else:
        cuts = np.flatnonzero(sizes > LARGEST_JUMP * np.median(sizes)) + 1
        parts = itertools.pairwise([0, *cuts.tolist(), len(values)])
        start, stop = max(parts, key=lambda part: part[1] - part[0])
        fix = f"ds.isel({{{name!r}: slice({start}, {stop})}})"
    found = f"a jump from {coord.values[at]:g} to {coord.values[at + 1]:g} between cells of {np.median(sizes):g}"
    return DataError(str(name), found, expected="one whole grid", fix=fix)


@functools.cache
def _say(line: str) -> None:
    """Log a line as a warning, once in a process."""
    _LOG.warning(line)


def grid_mapping_name(array: xr.DataArray) -> str | None:
    """Return the name of the grid mapping variable (CF section 5.6), from encoding or attributes."""
    text = array.encoding.get("grid_mapping") or array.attrs.get("grid_mapping")
    return re.split(r"[\s:]", str(text).strip())[0] if text else None


def _projection(mapping: xr.DataArray | None) -> dict[str, str]:
    if mapping is None:
        return {}
    # WKT strings differ between writers of the same projection; the CF parameters do not.
    skip = ("crs_wkt", "spatial_ref", "long_name", "GeoTransform")
    return {str(k): str(v) for k, v in sorted(mapping.attrs.items(), key=lambda i: str(i[0])) if k not in skip}
