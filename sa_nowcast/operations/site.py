"""What a service reads, forecasts and publishes: its frames, and how it is described. `checks` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.derived import over
from sa_nowcast.derived.fields import cells_of, to_grid
from sa_nowcast.derived.filling import MOVED_FROM
from sa_nowcast.errors import DataError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.interop import projection
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.units import amount_of_rate, conversion, is_amount
from sa_nowcast.operations.clock import Clock
from sa_nowcast.recipe.service import ServiceRecipe, seconds
from sa_nowcast.sources.opening import open_data, region
from sa_nowcast.sources.reading import require

JOURNAL: Final = "state/journal.sqlite"
"""What a service has done, in its folder."""
WINDOWS: Final = ("30min", "60min")
Values = npt.NDArray[np.float32]
Places = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


@dataclass(frozen=True)
class Refusal:
    """Why an arrival is no frame: a word, and what was found."""

    reason: str
    found: str


@dataclass(frozen=True)
class Site:
    """A service that was checked: what it reads, forecasts and publishes.

    Attributes
    ----------
    like : DataArray, dims (y, x)
        The grid with its coordinates, the name of the variable and its attributes; zeros.
    step, max_age, keep : int
        Nanoseconds.
    places : tuple of ndarray
        Rows and columns of the points.
    located : tuple of DataArray
        The points with their coordinates.
    """

    recipe: ServiceRecipe
    folder: Path
    source: Path
    nowcaster: Nowcaster
    like: xr.DataArray
    grid: Any
    step: int
    max_age: int
    keep: int
    thresholds: tuple[float, ...]
    places: Places
    located: tuple[xr.DataArray, ...]
    areas: Mapping[str, Any] | None
    clock: Clock

    @property
    def history(self) -> int:
        """Frames that a forecast needs."""
        return self.nowcaster.history

    @property
    def reach(self) -> int:
        """Frames up to an init time that a forecast is made from: the history, and what its gaps are filled from."""
        longest = self.recipe.fill_gaps
        return self.history + (longest + MOVED_FROM - 1 if longest else 0)

    @property
    def units(self) -> str | None:
        """Units of all that is published."""
        return dims_units(self.like)

    @property
    def leads(self) -> list[int]:
        """Lead times in nanoseconds."""
        return [self.step * n for n in range(1, self.recipe.steps + 1)]

    @property
    def adds_up(self) -> str | None:
        """The units of accumulations; None where the variable is no rate and no amount."""
        attrs = dict(self.like.attrs)
        rate = amount_of_rate(attrs)
        return rate[0] if rate is not None else self.units if is_amount(attrs) else None

    def field(self, values: npt.NDArray[Any], times: list[int]) -> xr.DataArray:
        """Return frames (time, y, x) with their labels."""
        time = xr.Variable(dims.TIME, np.array(times, "M8[ns]"), {"standard_name": "time", "axis": "T"})
        result = xr.DataArray(values, dims=(dims.TIME, *self.like.dims), coords={**self.like.coords, dims.TIME: time},
                              name=self.like.name, attrs=self.like.attrs)  # fmt: skip
        result.encoding = dict(self.like.encoding)
        return result

    def read(self, path: Path, position: int | None = None) -> list[tuple[int, Values, float]] | Refusal:
        """Read the frames of a file, or one of a store: time, values on the grid and in the units of the service.

        Beside them stands what they were multiplied by.

        A `Refusal` says how a frame differs from those of the service; an error, that the file cannot be read.
        """
        arrivals = self.recipe.arrivals
        frames = read_frames(self.recipe, path)
        units = frames.channels[0].units
        factor = conversion(units, self.units)
        if factor is None:
            return Refusal("units", f"{units or 'no units'} in place of {self.units or 'none'}")
        y, x = self.like.dims
        turned = []
        for own, theirs in ((y, frames.grid.y), (x, frames.grid.x)):
            here, there = self.like.coords.get(own), frames.coords.get(theirs)
            size = self.like.sizes[own]
            found = frames.grid.height if own == y else frames.grid.width
            if size != found or (here is None) != (there is None):
                return Refusal("grid", f"{own} has {found} cells in place of {size}")
            if here is None or there is None or dims.same_axis(here.values, there.values):
                turned.append(1)
            elif dims.same_axis(here.values, there.values[::-1]):
                turned.append(-1)
            else:
                return Refusal("grid", f"other values of {own}")
        if dict(frames.grid.projection) != dict(self.grid.projection):
            return Refusal("grid", "another map projection")
        first, stop = (0, len(frames)) if position is None else (position, position + 1)
        values = frames.field(frames.read(first, stop))[:, 0, :: turned[0], :: turned[1]]
        if factor != 1:
            values = values * np.float32(factor)
        told = arrivals.variable or str(self.like.name)
        if frames.name != told:
            return Refusal("variable", f"{frames.name} in place of {told}")
        times = frames.times[first:stop].astype(np.int64).tolist()
        return [(t, np.ascontiguousarray(v), factor) for t, v in zip(times, values, strict=True)]

    def described(self) -> dict[str, Any]:
        """Return what ``service.json`` says of it, without its id."""
        like, attrs = self.like, self.like.attrs
        return {
            "name": self.recipe.name,
            "version": __version__,
            "variable": str(like.name),
            "long_name": attrs.get("long_name") or attrs.get("standard_name") or str(like.name),
            "standard_name": attrs.get("standard_name"),
            "units": self.units,
            "accumulation_units": self.adds_up,
            "step_seconds": self.step / 1e9,
            "lead_times_seconds": [lead / 1e9 for lead in self.leads],
            "products": [*self.recipe.products, *(["members"] if self.recipe.members else [])],
            "thresholds": list(self.thresholds),
            "quantiles": list(self.recipe.quantiles),
            "model": self.nowcaster.identity,
            "grid": _grid_told(like),
            "points": [point.name for point in self.recipe.points],
            "areas": [] if self.areas is None else _names_of(over(like, self.areas, name=self.recipe.areas_name)),
            "formats": list(self.recipe.output.formats),
            "max_age_seconds": self.max_age / 1e9,
            "recipe": self.recipe.model_dump(mode="json"),
        }


def dims_units(array: xr.DataArray) -> str | None:
    """Return the units of a field as text."""
    units = array.attrs.get("units")
    return None if units is None else str(units)


def read_frames(recipe: ServiceRecipe, path: Path) -> Frames:
    """Open a file or store as checked frames of the recipe's variable."""
    arrivals = recipe.arrivals
    ds = open_data(str(path), engine=arrivals.engine, options=arrivals.options, time=arrivals.time)
    ds = region(ds, arrivals.region or {}, "arrivals.region")
    step = np.timedelta64(int(seconds(arrivals.step) * 1e9), "ns")
    names = None if arrivals.variable is None else [arrivals.variable]
    frames = Frames.from_xarray(ds, variables=names, time=arrivals.time, gaps="skip", step=step)
    if len(frames.channels) > 1:
        raise DataError(
            str(path),
            f"{len(frames.channels)} fields ({', '.join(c.name for c in frames.channels)})",
            expected="one",
            fix="name one as arrivals.variable",
        )
    return frames


def _names_of(means: xr.DataArray) -> list[str]:
    return [str(name) for name in means["region"].values]


def _grid_told(like: xr.DataArray) -> dict[str, Any]:
    """Return what the grid is, as JSON."""
    told: dict[str, Any] = {"crs": projection.crs_of(like)}
    for role, dim in zip(("y", "x"), like.dims, strict=True):
        coord = like.coords.get(dim)
        ends = (None, None) if coord is None else (float(coord.values[0]), float(coord.values[-1]))
        told[role] = {
            "name": str(dim), "size": like.sizes[dim], "first": ends[0], "last": ends[1],
            "units": None if coord is None else coord.attrs.get("units"),
        }  # fmt: skip
    told["bbox"] = bounding_box(like)
    return told


def bounding_box(like: xr.DataArray) -> list[float] | None:
    """Return west, south, east and north of the cells in degrees; None where the grid says no map projection."""
    cells = cells_of(like, None, None)
    x, y = cells.x.edges, cells.y.edges
    if cells.geographic:
        return [round(float(v), 6) for v in (x[0], y[0], x[-1], y[-1])]
    if to_grid(like, cells) is None:
        return None
    pyproj = require("pyproj", "geotiff")
    axes = [projection.regular_axis(like, d) for d in like.dims]
    (south, north), (west, east) = axes[0].edges, axes[1].edges
    to_degrees = pyproj.Transformer.from_crs(pyproj.CRS(projection.crs_of(like)), "OGC:CRS84", always_xy=True)
    return [round(float(v), 6) for v in to_degrees.transform_bounds(west, south, east, north)]


def shown(duration: int) -> str:
    """Return a duration in nanoseconds as people read it."""
    return str(pd.Timedelta(duration, unit="ns")).replace("0 days ", "")
