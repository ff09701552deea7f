"""All that a service needs to know, checked before anything starts: grid, units, model, places, outputs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.derived import at, over
from sa_nowcast.derived.fields import cells_of, to_grid
from sa_nowcast.derived.filling import MOVED_FROM
from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.forecasts.at_once import has_distribution
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.forecasts.defaults import as_nowcaster
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.interop import projection
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.thresholds import check_thresholds
from sa_nowcast.metadata.units import amount_of_rate, conversion, is_amount
from sa_nowcast.operations.clock import Clock
from sa_nowcast.published import ARCHIVE, FORECASTS, OBSERVED, SERVICE
from sa_nowcast.recipe.service import PointRecipe, ServiceRecipe, seconds
from sa_nowcast.sources.opening import open_data, region
from sa_nowcast.sources.reading import require
from sa_nowcast.storage.manifest import is_zarr
from sa_nowcast.storage.slots import SlotStore
from sa_nowcast.storage.whole import require_writable

LOOPBACK: Final = "127.0.0.1"
JOURNAL: Final = "state/journal.sqlite"
"""What a service has done, in its folder."""
WINDOWS: Final = ("30min", "60min")
_OWN: Final = ("name", "variable", "units", "step_seconds", "lead_times_seconds", "grid", "model")
"""What tells one service's outputs from another's."""
Values = npt.NDArray[np.float32]
Places = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


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

    def read(self, path: Path, position: int | None = None) -> list[tuple[int, Values, float]]:
        """Read the frames of a file, or one of a store: time, values on the grid and in the units of the service.

        Beside them stands what they were multiplied by.

        `_Unlike` says how a frame differs from those of the service; any other error, that the file cannot be read.
        """
        arrivals = self.recipe.arrivals
        frames = read_frames(self.recipe, path)
        units = frames.channels[0].units
        factor = conversion(units, self.units)
        if factor is None:
            raise _Unlike("units", f"{units or 'no units'} in place of {self.units or 'none'}")
        y, x = self.like.dims
        turned = []
        for own, theirs in ((y, frames.grid.y), (x, frames.grid.x)):
            here, there = self.like.coords.get(own), frames.coords.get(theirs)
            size = self.like.sizes[own]
            found = frames.grid.height if own == y else frames.grid.width
            if size != found or (here is None) != (there is None):
                raise _Unlike("grid", f"{own} has {found} cells in place of {size}")
            if here is None or there is None or dims.same_axis(here.values, there.values):
                turned.append(1)
            elif dims.same_axis(here.values, there.values[::-1]):
                turned.append(-1)
            else:
                raise _Unlike("grid", f"other values of {own}")
        if dict(frames.grid.projection) != dict(self.grid.projection):
            raise _Unlike("grid", "another map projection")
        first, stop = (0, len(frames)) if position is None else (position, position + 1)
        values = frames.field(frames.read(first, stop))[:, 0, :: turned[0], :: turned[1]]
        if factor != 1:
            values = values * np.float32(factor)
        told = arrivals.variable or str(self.like.name)
        if frames.name != told:
            raise _Unlike("variable", f"{frames.name} in place of {told}")
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


class _Unlike(Exception):
    """A frame that is not like those of the service: the reason in a word, and what was found."""

    def __init__(self, reason: str, found: str) -> None:
        self.reason, self.found = reason, found
        super().__init__(f"{reason}: {found}")


Unlike = _Unlike


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


def check(recipe: ServiceRecipe) -> Site:
    """Return the service that a recipe describes, or raise the first thing that would stop it; nothing is written.

    Raises
    ------
    RecipeError, DataError, ModelError, StorageError, MissingLibraryError
        An output within its input, or one that cannot be written or is another service's; no frame to tell the grid by;
        a point or an area outside the grid; thresholds in other units; what the model cannot do; a port in use; a
        library that is not installed.
    """
    source = Path(recipe.arrivals.source).expanduser().absolute()
    folder = Path(recipe.output.folder).expanduser().absolute()
    _require_apart(source, folder)
    like, grid = _like(recipe, source)
    _require_folder(folder)
    step = int(seconds(recipe.arrivals.step) * 1e9)
    site = Site(
        recipe, folder, source, _model(recipe), like, grid, step,
        int(seconds(recipe.max_age) * 1e9), int(seconds(recipe.keep) * 1e9), (), _nowhere(), (), None,
        Clock(recipe.clock),
    )  # fmt: skip
    site = _with_model(site)
    limits = check_thresholds(list(recipe.thresholds), site.units) if recipe.thresholds else ()
    site = replace(site, thresholds=limits)
    if (limits or recipe.members) and not has_distribution(site.nowcaster):
        name = "thresholds" if limits else "members"
        raise RecipeError(
            name, f"of {site.nowcaster.name}, which forecasts no distribution", expected="a model with one",
            fix=f"leave {name} out, or take the default model",
        )  # fmt: skip
    site = _with_points(site)
    if recipe.areas is not None:
        over(like, recipe.areas, name=recipe.areas_name)
        site = replace(site, areas=json.loads(Path(recipe.areas).expanduser().read_text("utf-8-sig")))
    if "geotiff" in recipe.output.formats:
        require("rasterio", "geotiff")
        _require_georeferenced(like)
    if "extrapolation" in recipe.verification.references:
        require("pysteps", "pysteps")
    if recipe.port is not None:
        _require_free(recipe.port)
    _require_own(site)
    return site


def _require_apart(source: Path, folder: Path) -> None:
    """Refuse an output in its input, which would be read as frames; and an input within what is removed in time."""
    for inner, outer, what in ((folder, source, "lies in its input"), (source, folder, "holds its input")):
        if inner.resolve() == outer.resolve() or outer.resolve() in inner.resolve().parents:
            raise RecipeError(
                "output.folder", f"{folder} {what}, {source}", expected="a folder of its own",
                fix=f"write output.folder={str(source.with_name(source.name + '-forecasts'))!r}",
            )  # fmt: skip


def _require_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise StorageError(str(folder), f"cannot be written ({os.strerror(errno.EEXIST)})", fix="name another folder")
    require_writable(folder, folder=True)


def _like(recipe: ServiceRecipe, source: Path) -> tuple[xr.DataArray, Any]:
    """Return the grid with its labels, by the file that the recipe names, or the first one that can be read."""
    if not source.is_dir():
        raise DataError(
            f"arrivals.source {source}", "no such folder or store", expected="where frames arrive",
            fix="make the folder, or name another one",
        )  # fmt: skip
    if recipe.arrivals.like is not None:
        frames = read_frames(recipe, Path(recipe.arrivals.like).expanduser())
    else:
        candidates = [source] if is_zarr(source) else sorted(p for p in source.glob(recipe.arrivals.pattern))
        found, first = None, None
        for path in candidates:
            try:
                found = read_frames(recipe, path)
                break
            except DataError as error:  # damaged ones are for the service to tell of
                first = first or error
        if found is None:
            if first is not None:
                raise first
            raise DataError(
                f"arrivals.source {source}",
                f"no file like {recipe.arrivals.pattern} yet, to tell the grid by",
                fix="name a file with the grid and units of the frames as arrivals.like",
            )
        frames = found
    array = frames.arrays[0]
    attrs = dict(array.attrs)
    units, wanted = frames.channels[0].units, recipe.arrivals.units
    if wanted is not None:
        if conversion(units, wanted) is None:
            raise RecipeError(
                "arrivals.units", f"{wanted} of frames in {units or 'no units'}", "units that these convert to"
            )
        attrs["units"] = wanted
    elif units is not None:
        attrs["units"] = units
    attrs = {k: v for k, v in attrs.items() if k not in ("valid_min", "valid_max", "valid_range", "actual_range")} | (
        {} if wanted is not None else {k: attrs[k] for k in ("valid_min", "valid_max", "valid_range") if k in attrs}
    )
    y, x = frames.grid.y, frames.grid.x
    # A grid mapping that is there for every time is one.
    coords = {n: c.isel({d: 0 for d in c.dims if d not in (y, x)}) for n, c in frames.coords.items()}
    like = xr.DataArray(
        np.zeros((frames.grid.height, frames.grid.width), np.float32), dims=(y, x), coords=coords,
        name=str(array.name or "data"), attrs=attrs,
    )  # fmt: skip
    mapping = array.encoding.get("grid_mapping", array.attrs.get("grid_mapping"))
    if mapping in like.coords:
        like.attrs.pop("grid_mapping", None)
        like.encoding["grid_mapping"] = mapping
    return like, frames.grid


def _model(recipe: ServiceRecipe) -> Nowcaster:
    return default_model() if recipe.model == "default" else as_nowcaster(Path(recipe.model).expanduser())


def _with_model(site: Site) -> Site:
    """Return the site with the model as it is for its frames, which it was asked whether it takes."""
    history = site.nowcaster.history
    shape = (history, *site.like.shape)
    frames = site.field(np.broadcast_to(np.float32(0), shape), [site.step * n for n in range(history)])
    nowcaster, _ = site.nowcaster.accept(frames, dims.UNNAMED, "check")
    if site.recipe.members and site.recipe.tile:
        raise RecipeError("tile", f"{site.recipe.tile} with members", expected="null: the whole grid")
    return replace(site, nowcaster=nowcaster)


def _nowhere() -> Places:
    return np.empty(0, np.intp), np.empty(0, np.intp)


def _with_points(site: Site) -> Site:
    """Return the site with the pixels of its points."""
    points = site.recipe.points
    if not points:
        return site
    numbers = site.like.copy(data=np.arange(site.like.size, dtype=np.float64).reshape(site.like.shape))
    parts = []
    for point in points:
        pair, kind = _pair(point)
        parts.append(at(numbers, {point.name: pair}, coordinates=kind))
    flat = np.array([float(p.values[0]) for p in parts]).astype(np.intp)
    width = site.like.shape[1]
    return replace(site, places=(flat // width, flat % width), located=tuple(p.isel(point=0) for p in parts))


def _pair(point: PointRecipe) -> tuple[tuple[float, float], Any]:
    if point.latitude is not None and point.longitude is not None:
        return (point.latitude, point.longitude), "geographic"
    assert point.y is not None
    assert point.x is not None
    return (point.y, point.x), "grid"


def _require_georeferenced(like: xr.DataArray) -> None:
    if projection.crs_of(like) is None:
        raise DataError(
            str(like.name), "no map projection, which a GeoTIFF needs", expected="a grid mapping (CF section 5.6)",
            fix="leave geotiff out of output.formats",
        )  # fmt: skip
    for axis in like.dims:
        projection.regular_axis(like, axis)


def _require_free(port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((LOOPBACK, port))
        except OSError as error:
            raise RecipeError(
                "port", f"{port} cannot be had ({error.strerror})", expected="a port that is free",
                fix="name another port, or null",
            ) from error  # fmt: skip


def _require_own(site: Site) -> None:
    """Refuse a folder that holds another service's outputs, or anything else."""
    folder = site.folder
    if not folder.exists() or not any(folder.iterdir()):
        return
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    state = (folder / JOURNAL).parent
    if names <= {state.name, FORECASTS} and state.is_dir() and not any(folder.glob(f"{FORECASTS}/[!.]*")):
        return  # one that was killed before it had said what it is
    fix = "name another output.folder, or remove this one"
    try:
        theirs = json.loads((folder / SERVICE).read_text("utf-8"))
    except (OSError, ValueError):
        raise StorageError(str(folder), "holds something else than a service's outputs", fix=fix) from None
    own = site.described()
    differing = [key for key in _OWN if theirs.get(key) != json.loads(json.dumps(own[key]))]
    if differing:
        shown = "; ".join(f"{key} {_short(theirs.get(key))}, not {_short(own[key])}" for key in differing)
        raise StorageError(str(folder), f"was written by another service: {shown}", fix=fix)
    for place, dim in ((folder / OBSERVED, dims.TIME), (folder / ARCHIVE, dims.INIT_TIME)):
        store = SlotStore(place, dim, np.timedelta64(site.step, "ns"))
        if store.exists and (store.owner().get("service") != theirs.get("id") or not (folder / JOURNAL).is_file()):
            raise StorageError(str(place), "was written by another service", fix=fix)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:20]}… (SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"


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
