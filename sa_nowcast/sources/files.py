"""Anything that xarray opens, in one file or many, as one lazy Dataset along time."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError, one_of
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import text
from sa_nowcast.sources.paths import (
    PathLike,
    differs,
    expand,
    pattern_remedy,
    same_time,
    sort_by_time,
    time_from_name,
)
from sa_nowcast.sources.reading import reading
from sa_nowcast.sources.store import finished, open_zarr
from sa_nowcast.storage.manifest import is_zarr
from sa_nowcast.times import with_times

SUFFIXES: Final = (".nc", ".nc4", ".cdf", ".netcdf", ".h5", ".hdf5", ".grib", ".grib2", ".grb", ".grb2")
_PACKING: Final = ("dtype", "scale_factor", "add_offset", "_FillValue", "missing_value")


def open_files(
    source: PathLike | Iterable[PathLike],
    *,
    engine: str | Any = None,
    time: Hashable | None = None,
    time_pattern: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open one or many files or Zarr stores (format 2 or 3) with xarray, joined along time.

    Parameters are those of `sa_nowcast.sources.open_source`, which has `options` as keywords.

    Returns
    -------
    Dataset
        Packed types stay in ``encoding`` where all files share them. A file that holds one frame and its time as a
        scalar becomes one entry of the time dimension. Files are of one grid where their coordinates agree to a
        thousandth of a cell, and the first one's are kept; an axis that runs the other way is turned. A file without
        any time step is left out, with a warning.

    Raises
    ------
    RecipeError
        xarray has no such engine.
    DataError
        No files, an unreadable file, a file on another grid or with other variables or units, a file without a time,
        or two files with one time.
    """
    if isinstance(engine, str) and engine not in xr.backends.list_engines():
        known = one_of(engine, xr.backends.list_engines())
        raise RecipeError("engine", f"{engine!r} is not known to xarray", expected=known)
    paths = expand(source, SUFFIXES)
    options = dict(options or {})
    if len(paths) == 1 and time_pattern is None:
        ds = _open(paths[0], engine, None, options)
        if _is_empty(ds, time):
            raise DataError(str(paths[0]), "the file holds no time step", expected="at least one frame")
        return ds if _has_time(ds, time) or not _scalar_times(ds)[0] else _with_time(ds.chunk(), paths[0], None, time)
    opened = [(_open(path, engine, {}, options), path) for path in paths]
    filled = _with_frames(opened, time)
    paths, parts = [path for _, path in filled], [_with_time(ds, path, time_pattern, time) for ds, path in filled]
    names = {dims.find_dim(part, "time", time) for part in parts}
    if len(names) > 1:
        shown = " and ".join(sorted(map(str, names)))
        raise DataError(str(paths[0].parent), f"the files call time {shown}", expected="one name")
    axis = names.pop()
    order = sort_by_time(paths, [np.datetime64(part[axis].values[0], "ns") for part in parts])
    paths, parts = [paths[i] for i in order], [parts[i] for i in order]
    for i, path in enumerate(paths[1:], 1):
        parts[i] = _on_grid(parts[i], path, parts[0], paths[0], axis)
    for (before, path), (after, next_path) in itertools.pairwise(zip(parts, paths, strict=True)):
        if (shared := np.intersect1d(before[axis].values, after[axis].values)).size:
            raise same_time(path, next_path, shared[0])
    how: dict[str, Any] = {"compat": "override", "join": "override", "combine_attrs": "override"}
    joined: xr.Dataset = xr.concat(parts, dim=axis, data_vars="minimal", coords="minimal", **how)
    _keep_packing(joined, parts)
    return joined


def _open(path: Path, engine: Any, chunks: Mapping[str, int] | None, options: Mapping[str, Any]) -> xr.Dataset:
    if engine is None and is_zarr(path):
        if not options and finished(path):
            return open_zarr(path, chunks=chunks)  # which notices more than xarray does
        engine = "zarr"
    if engine == "zarr" and not {"use_zarr_fill_value_as_mask", "decode_cf"} & set(options):
        zeros = zeros_by_default(path, options.get("group"))
        if zeros:
            return open_with_zeros(path, chunks, options, zeros)
    with reading(path, engine if isinstance(engine, str) else "a file of xarray"):
        return xr.open_dataset(path, engine=engine, chunks=chunks, **options)


def zeros_by_default(path: Path, group: str | None = None) -> list[str]:
    """Return the arrays of a Zarr store of format 2 that are filled with 0 and do not say that 0 means missing.

    0 is what Zarr itself fills with. xarray takes the fill value of format 2 for missing all the same, and with it
    every dry pixel and every count of none.
    """
    found = []
    for file in sorted((path / (group or "")).glob("*/.zarray")):
        with contextlib.suppress(OSError, ValueError):
            fill, attrs = json.loads(file.read_text()).get("fill_value"), file.with_name(".zattrs")
            declared = json.loads(attrs.read_text()) if attrs.is_file() else {}
            if type(fill) in (int, float) and fill == 0 and not {"_FillValue", "missing_value"} & set(declared):
                found.append(file.parent.name)
    return found


def open_with_zeros(
    path: Any, chunks: Mapping[str, int] | None, options: Mapping[str, Any], zeros: Sequence[str]
) -> xr.Dataset:
    """Open a Zarr store, by its path or one of zarr's, with the values 0 of some arrays kept, others as xarray does."""
    decoding = {k: v for k, v in options.items() if k in inspect.signature(xr.decode_cf).parameters}
    with reading(path, "zarr"):
        opening = {k: v for k, v in options.items() if k not in decoding}
        raw = xr.open_dataset(path, engine="zarr", chunks=chunks, decode_cf=False, **opening)
        for name in zeros:
            if name in raw.variables:
                raw[name].attrs.pop("_FillValue", None)
        decoded = xr.decode_cf(raw, **decoding)
    decoded.encoding = dict(raw.encoding)
    return decoded


def _with_frames(opened: Sequence[tuple[xr.Dataset, Path]], time: Hashable | None) -> list[tuple[xr.Dataset, Path]]:
    """Return the files that hold frames, and warn of the others."""
    empty = [path for ds, path in opened if _is_empty(ds, time)]
    if len(empty) == len(opened):
        raise DataError(str(empty[0].parent), f"none of {len(empty)} files holds a time step", expected="frames")
    if empty:
        shown = ", ".join(str(path) for path in empty[:3]) + (", ..." if len(empty) > 3 else "")
        noun = "1 file that holds" if len(empty) == 1 else f"{len(empty)} files that hold"
        warnings.warn(f"left out {noun} no time step: {shown}", stacklevel=4)
    filled = [(ds, path) for ds, path in opened if path not in empty]
    for ds, path in filled:
        for variable in ds.data_vars.values():
            bare = [str(d) for d in variable.dims if variable.sizes[d] == 0]
            if bare and variable.ndim >= 2:
                found = f"{variable.name} has no entry along {bare[0]}"
                raise DataError(str(path), found, expected="at least one", fix="leave the file out")
    return filled


def _is_empty(ds: xr.Dataset, time: Hashable | None) -> bool:
    """Say whether the time dimension has no entry: it cannot be told by its values then, so names count."""
    if time is not None:
        return ds.sizes.get(time) == 0
    empty = [d for d, size in ds.sizes.items() if size == 0]
    try:
        return bool(empty) and dims.find_dim(ds, "time") in empty
    except DataError:
        return False


def _with_time(ds: xr.Dataset, path: Path, time_pattern: str | None, told: Hashable | None) -> xr.Dataset:
    """Return `ds` with a time dimension: its own, or one made of a scalar time, or of the file's name."""
    if _has_time(ds, told):
        ds = dims.with_positions(ds)
        return with_times(ds, dims.find_dim(ds, "time", told), path.name)
    named, scalars = _scalar_times(ds)
    if time_pattern is not None:
        value: Any = time_from_name(path, time_pattern)
        attrs: dict[Any, Any] = {"standard_name": "time", "axis": "T"}
    elif named:
        value, attrs = ds[named[0]].values, dict(ds[named[0]].attrs)
    else:
        raise DataError(str(path), "the file holds no time", fix=pattern_remedy(path.name, asked=True))
    bounds = {text(v.attrs.get("bounds")) for v in ds.variables.values()}  # some files have numbers there
    gridded = [n for n, v in ds.data_vars.items() if v.ndim >= 2 and n not in bounds]
    ds = ds.drop_vars(named).set_coords([n for n in ds.data_vars if n not in gridded and n not in named])
    growing = [*gridded, *(n for n in scalars if n not in named)]
    grown = {
        n: xr.Variable(("time", *v.dims), v.data[np.newaxis], v.attrs, v.encoding) if n in growing else v
        for n, v in ds.variables.items()
    }
    coords = {n: v for n, v in grown.items() if n not in gridded}
    time = xr.Variable("time", np.atleast_1d(np.asarray(value, dtype="datetime64[ns]")), attrs)
    return xr.Dataset({n: grown[n] for n in gridded}, {**coords, "time": time}, ds.attrs)


def _has_time(ds: xr.Dataset, told: Hashable | None) -> bool:
    known = dims.with_positions(ds).coords.variables
    return told in ds.dims or any(
        (n in known and known[n].dtype.kind == "M") or dims.times_along(known, n) for n in ds.dims
    )


def _scalar_times(ds: xr.Dataset) -> tuple[list[Hashable], list[Hashable]]:
    """Return the scalars that are the frame's time, by standard name or the name ``time``, and all that are times."""
    scalars = [n for n, v in ds.variables.items() if v.ndim == 0 and np.issubdtype(v.dtype, np.datetime64)]
    named = [n for n in scalars if ds[n].attrs.get("standard_name") == "time"]
    return named or [n for n in scalars if n == "time"], scalars


def _on_grid(part: xr.Dataset, path: Path, first: xr.Dataset, first_path: Path, time: Hashable) -> xr.Dataset:
    """Return a file's part with its axes in the first one's direction, or refuse one on another grid."""
    if set(part.data_vars) != set(first.data_vars):
        raise differs(path, f"variables {_names(part)}", _names(first), first_path)
    for dim, size in first.sizes.items():
        if dim != time and part.sizes.get(dim) != size:
            raise differs(path, f"{dim} has {part.sizes.get(dim, 0)} entries", str(size), first_path)
    for name, coord in first.coords.items():
        if name == time or time in coord.dims or not _places(coord, first):
            continue
        if name not in part.coords:
            raise differs(path, f"no coordinate {name}", "one", first_path)
        if dims.same_axis(coord.values, part[name].values):
            continue
        if coord.ndim > 1 or not dims.same_axis(coord.values, part[name].values[::-1]):
            raise differs(path, f"other values of {name}", "the same", first_path)
        part = part.isel({name: slice(None, None, -1)})
    for name, variable in first.data_vars.items():
        found, expected = (v.attrs.get("units") for v in (part[name], variable))
        if found != expected and dims.canonical_units(str(found)) != dims.canonical_units(str(expected)):
            raise differs(path, f"{name} in {found}", str(expected), first_path)
    return part


def _places(coord: xr.DataArray, ds: xr.Dataset) -> bool:
    """Say whether a coordinate says where the cells are: of a dimension, or of a grid that has no such."""
    return coord.dims == (coord.name,) or (coord.ndim == 2 and not any(d in ds.coords for d in coord.dims))


def _keep_packing(joined: xr.Dataset, parts: Sequence[xr.Dataset]) -> None:
    """Keep a variable's packing where every file has the same; files that pack differently are joined as floats."""
    for name in joined.data_vars:
        packings = [{k: part[name].encoding.get(k) for k in _PACKING} for part in parts]
        same = all(str(p) == str(packings[0]) for p in packings)
        for key in _PACKING:
            joined[name].encoding.pop(key, None)
            if same and packings[0][key] is not None:
                joined[name].encoding[key] = packings[0][key]


def _names(ds: xr.Dataset) -> str:
    return ", ".join(sorted(map(str, ds.data_vars))) or "none"
