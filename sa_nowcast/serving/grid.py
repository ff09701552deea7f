"""Where a forecast lies on a map: the pixel at a place, and the pixels of a picture in Mercator's projection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.derived.fields import Cells, Floats, cells_of, from_grid, to_grid
from sa_nowcast.errors import DataError
from sa_nowcast.interop import projection

Positions = npt.NDArray[np.intp]
OUTSIDE: Final = -1
_MOST_PIXELS: Final = 4_000_000
_POLE: Final = 85.05  # degrees of latitude, where maps in this projection end


@dataclass(frozen=True)
class Picture:
    """Which pixel of the grid each pixel of a picture shows.

    Attributes
    ----------
    index : ndarray, shape (height, width)
        Positions in the flattened grid; `OUTSIDE` where there is none.
    bounds : tuple of float
        South, west, north and east edge in degrees.
    """

    index: npt.NDArray[np.int32]
    bounds: tuple[float, float, float, float]


class Grid:
    """The horizontal grid of a field on the earth.

    Raises
    ------
    DataError
        The grid does not say where it lies.
    MissingLibraryError
        It has a map projection, and pyproj is not installed.
    """

    def __init__(self, field: xr.DataArray) -> None:
        self.cells: Cells = cells_of(field, None, None)
        there, back = to_grid(field, self.cells), from_grid(field, self.cells)
        self.crs = None if self.cells.geographic else projection.crs_of(field)
        if there is None or back is None:
            raise DataError(
                str(field.name),
                "a grid that says no place on the earth",
                expected="latitude and longitude, or a grid mapping (CF section 5.6)",
            )
        self._there, self._back = there, back
        self.shape = (self.cells.y.size, self.cells.x.size)

    def pixels(self, latitude: Floats, longitude: Floats) -> tuple[Positions, Positions]:
        """Return the rows and columns of the pixels at places; `OUTSIDE` for both where there is none."""
        rows, columns = self._there(np.asarray(latitude, float), np.asarray(longitude, float))
        if self.cells.geographic:
            columns = columns + 360.0 * np.ceil((self.cells.x.edges[0] - columns) / 360.0)
        inside = self.cells.y.within(rows) & self.cells.x.within(columns)
        found = []
        for line, values in ((self.cells.y, rows), (self.cells.x, columns)):
            at = np.searchsorted(line.edges[1:-1], np.where(inside, values, line.edges[0]), side="right")
            found.append(np.where(inside, line.positions(at.astype(np.intp)), OUTSIDE))
        return found[0], found[1]

    @cached_property
    def centres(self) -> tuple[Floats, Floats]:
        """Latitudes and longitudes of all pixels, (row, column) as the data have them."""
        y, x = (line.centres[:: -1 if line.falling else 1] for line in (self.cells.y, self.cells.x))
        latitude, longitude = self._back(*np.meshgrid(y, x, indexing="ij"))
        return latitude, longitude

    def centre(self, row: int, column: int) -> tuple[float, float]:
        """Return latitude and longitude of a pixel."""
        at = [line.centres[line.positions(np.array([i]))] for line, i in ((self.cells.y, row), (self.cells.x, column))]
        return self.degrees(float(at[0][0]), float(at[1][0]))

    def degrees(self, y: float, x: float) -> tuple[float, float]:
        """Return latitude and longitude of a place in the units of the grid."""
        latitude, longitude = self._back(np.array([y]), np.array([x]))
        return float(latitude[0]), float(longitude[0])

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """The south, west, north and east edge in degrees; east may be above 180."""
        y, x = self.cells.y.edges, self.cells.x.edges
        if not self.cells.geographic:
            # The extremes of a projected grid lie on its edge, unless a pole is within: then some row is all around it.
            sides = [(y, np.full(y.shape, x[0])), (y, np.full(y.shape, x[-1]))]
            sides += [(np.full(x.shape, y[0]), x), (np.full(x.shape, y[-1]), x)]
            latitude, longitude = (np.concatenate(part) for part in zip(*(self._back(*s) for s in sides), strict=True))
            longitude = longitude[np.isfinite(longitude)]
            if np.ptp(longitude) > 180:
                longitude = np.where(longitude < 0, longitude + 360, longitude)
            y, x = latitude[np.isfinite(latitude)], longitude
        south, north = max(float(y.min()), -_POLE), min(float(y.max()), _POLE)
        return south, float(x.min()), north, float(x.max())

    @cached_property
    def picture(self) -> Picture:
        """A picture in which every pixel of the grid has at least one, up to four million.

        Each of its pixels shows the value of the pixel whose cell it lies in: nothing is interpolated.
        """
        south, west, north, east = self.bounds
        top, bottom = _mercator(np.array([north, south]))
        if self.cells.geographic:
            edges = _mercator(np.clip(self.cells.y.edges, -_POLE, _POLE))
            width = round((east - west) / float(np.diff(self.cells.x.edges).min()))
            height = int(np.ceil((top - bottom) / np.diff(edges)[np.diff(edges) > 0].min()))
        else:  # a cell that is turned by 45° has a pixel's centre in it where these are no more than 1 / √2 of it apart
            latitude, longitude = self.centres
            northing = _mercator(latitude)
            moves = [np.hypot(np.diff(longitude, axis=a), np.diff(northing, axis=a)) for a in (0, 1)]
            step = min(float(move[np.isfinite(move)].min()) for move in moves) / np.sqrt(2)
            width, height = int(np.ceil((east - west) / step)), int(np.ceil((top - bottom) / step))
        shrunk = min(1.0, float(np.sqrt(_MOST_PIXELS / (width * height))))
        width, height = max(1, round(width * shrunk)), max(1, round(height * shrunk))
        latitude = _latitude(top + (bottom - top) * (np.arange(height) + 0.5) / height)
        longitude = west + (east - west) * (np.arange(width) + 0.5) / width
        rows, columns = self.pixels(*np.meshgrid(latitude, longitude, indexing="ij"))
        index = np.where(rows == OUTSIDE, OUTSIDE, rows * self.shape[1] + columns)
        return Picture(index.astype(np.int32), (south, west, north, east))


def _mercator(latitude: Floats) -> Floats:
    """Return the northing of Mercator's projection of a sphere, in degrees as longitudes are."""
    return np.asarray(np.rad2deg(np.arctanh(np.sin(np.deg2rad(latitude)))))


def _latitude(northing: Floats) -> Floats:
    return np.asarray(np.rad2deg(np.arcsin(np.tanh(np.deg2rad(northing)))))
