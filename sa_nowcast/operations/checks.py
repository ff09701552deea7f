"""What would stop a service, found before anything starts: grid, units, model, places, outputs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.derived import at, over
from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.forecasts.at_once import has_distribution
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.forecasts.defaults import as_nowcaster
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.interop import projection
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.thresholds import check_thresholds
from sa_nowcast.metadata.units import conversion
from sa_nowcast.operations.clock import Clock
from sa_nowcast.operations.site import JOURNAL, Places, Site, read_frames
from sa_nowcast.published import ARCHIVE, FORECASTS, OBSERVED, SERVICE
from sa_nowcast.recipe.service import PointRecipe, ServiceRecipe, seconds
from sa_nowcast.sources.reading import require
from sa_nowcast.storage.manifest import is_zarr
from sa_nowcast.storage.slots import SlotStore
from sa_nowcast.storage.whole import require_writable

LOOPBACK: Final = "127.0.0.1"
_OWN: Final = ("name", "variable", "units", "step_seconds", "lead_times_seconds", "grid", "model")
"""What tells one service's outputs from another's."""


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
