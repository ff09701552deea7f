"""What a path holds, told from the path itself, and opened as what it is."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import xarray as xr
from zarr.abc.store import Store

from sa_nowcast.bundle.files import MODEL
from sa_nowcast.conversion import COMPLETE, open_zarr
from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.frames import grid_mapping_name
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import normalised, text
from sa_nowcast.recipe import SAMPLE_PREFIX
from sa_nowcast.sources import chain, open_source
from sa_nowcast.sources.remote import open_group
from sa_nowcast.sources.samples import open_sample
from sa_nowcast.storage.addresses import is_address, require_address
from sa_nowcast.storage.manifest import ARCHIVE, is_repository, is_store, is_zarr
from sa_nowcast.storage.references import ReferenceStore, is_references
from sa_nowcast.storage.remote import RemoteStore
from sa_nowcast.storage.repositories import SUFFIX, is_repository_at, open_snapshot
from sa_nowcast.storage.whole import nearest_to

Kind = Literal["model", "recipe", "run", "forecast", "scores", "data"]
RECIPE_SUFFIXES: Final = (".yaml", ".yml")
_RUN: Final = "recipe.json"


def kind_of(source: str) -> Kind:
    """Say what `source` names, by what lies there; whatever is nothing else is data.

    Returns
    -------
    {"model", "recipe", "run", "forecast", "scores", "data"}
        A saved nowcaster; a recipe's YAML; the folder of a run; one forecast or an archive of them; scores as
        `sa_nowcast.to_table` or `verify` gives them; or a file, folder, pattern or store with frames.
    """
    if is_address(source):
        return _kind_at(source)
    path = Path(source).expanduser()
    if path.suffix.lower() in RECIPE_SUFFIXES:
        return "recipe"
    if path.is_dir() and not is_store(path):
        if (path / MODEL).is_file() or path.suffix == ".nowcaster":
            return "model"
        return "run" if (path / _RUN).is_file() else "data"
    if path.suffix.lower() == ".csv":
        return "scores"
    if not path.exists():
        return "data"
    try:
        if _of_own_reader(path):
            return _kind_of_dataset(open_source(path, decode_times=False))
        with xr.open_dataset(path, engine="zarr" if is_zarr(path) else None, decode_times=False) as ds:
            return _kind_of_dataset(ds)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError, StorageError):
        return "data"  # whose reader says what is wrong with it


def _of_own_reader(path: Path) -> bool:
    """Say whether a path holds an Icechunk repository, or references to chunks."""
    return is_repository(path) or is_references(path)


def _kind_at(address: str) -> Kind:
    try:
        return _kind_of_dataset(open_source(address, decode_times=False))
    except DataError:
        return "data"  # as below


def _kind_of_dataset(ds: xr.Dataset) -> Kind:
    if dims.LEAD_TIME not in ds.variables:
        return "data"
    return "forecast" if {dims.INIT_TIME, dims.VALID_TIME} & set(map(str, ds.variables)) else "scores"


def open_data(
    source: str,
    *,
    engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    variables: Sequence[str] | None = None,
    time: Hashable | None = None,
) -> xr.Dataset:
    """Open frames lazily; sequences are put one after another.

    Parameters
    ----------
    source : str
        What `sa_nowcast.sources.open_source` opens, or ``sample:mrms`` for the embedded sample.
    engine, options, time : optional
        For `open_source`.
    variables : sequence of str, optional
        Only these, with the grid mappings that they name.

    Raises
    ------
    DataError
        No such file, one that cannot be opened, or one without such a variable.
    RecipeError
        An engine or option that is not known.
    """
    if source.startswith(SAMPLE_PREFIX):
        return chosen(open_sample(source.removeprefix(SAMPLE_PREFIX)), variables)
    return chain(chosen(normalised(open_source(source, engine=engine, time=time, **dict(options or {}))), variables))


def chosen(ds: xr.Dataset, variables: Sequence[str] | None) -> xr.Dataset:
    """Return the variables, all where None, with the grid mappings that they name."""
    if variables is None:
        return ds
    unknown = [n for n in variables if n not in ds.data_vars]
    if unknown:
        known = ", ".join(map(str, ds.data_vars)) or "none"
        raise DataError("data", f"no variable {unknown[0]!r}", expected=f"one of {known}")
    mappings = [m for n in variables if (m := grid_mapping_name(ds[n])) in ds.variables and m not in ds.coords]
    return ds[[*variables, *dict.fromkeys(mappings)]]


def region(ds: xr.Dataset, bounds: Mapping[str, tuple[float, float]], key: str) -> xr.Dataset:
    """Return the part of `ds` within coordinate ranges; `key` is what a recipe calls them."""
    for name, (low, high) in bounds.items():
        known = ", ".join(str(n) for n, index in ds.indexes.items() if index.dtype.kind in "fiu")
        if name not in known.split(", "):
            raise RecipeError(f"{key}.{name}", "no such coordinate in the data", expected=f"one of {known}")
        values = ds.indexes[name]
        selected = ds.isel({name: (values >= min(low, high)) & (values <= max(low, high))})
        if not selected.sizes[name]:
            raise RecipeError(
                f"{key}.{name}",
                f"no grid point from {low} to {high}",
                expected=f"within {values.min():g} to {values.max():g}",
            )
        ds = selected
    return ds


def named_like(data: xr.Dataset | xr.DataArray, forecast: xr.DataArray, told: dims.DimNames) -> Any:
    """Return observations with the dimensions that were told renamed to those of a forecast, and to ``time``.

    A dimension that is not there, and one whose new name is taken, are refused.
    """
    wanted = {"time": dims.TIME}
    known = {dims.INIT_TIME, dims.LEAD_TIME, dims.VARIABLE, dims.REALIZATION}
    left = [str(d) for d in forecast.dims if d not in known]
    for role, dim in zip(("channel", "y", "x")[-len(left) :], left[-3:], strict=False):
        wanted[role] = dim
    names = {}
    for role, name in told._asdict().items():
        if name is None:
            continue
        if name not in data.dims:
            raise DataError("truth", f"no dimension {name!r} (dimensions: {', '.join(map(str, data.dims))})",
                            fix=f"name one with {role}=")  # fmt: skip
        if role in wanted and wanted[role] != name:
            names[name] = wanted[role]
    taken = [new for new in names.values() if new in data.dims and new not in names]
    if taken:
        raise DataError(
            "truth",
            f"has a dimension {taken[0]!r} of its own",
            expected="another name",
            fix=f"ds.rename({{{taken[0]!r}: {taken[0] + '_'!r}}})",
        )
    gone = [new for new in names.values() if new in data.coords and new not in names]
    return data.drop_vars(gone).rename(names) if names else data


def open_forecast(source: str) -> xr.DataArray:
    """Open a forecast or an archive, from NetCDF or Zarr, lazily on dask.

    Returns
    -------
    DataArray
        Dimensions as in the file; several variables are put along a leading ``variable`` dimension, with their units
        and names as coordinates.

    Raises
    ------
    DataError
        No such file, no forecast in it, an archive that is not whole, or forecasts on different grids.
    """
    path = Path(source).expanduser()
    if not is_address(source) and not path.exists():
        remedy = nearest_to(path) or "make one with sa-nowcast forecast or sa-nowcast hindcast"
        raise DataError(source, "no such file or folder", expected="a forecast or an archive", fix=remedy)
    ds = normalised(_opened(source if is_address(source) else path))
    names = sorted(str(n) for n, v in ds.data_vars.items() if dims.LEAD_TIME in v.dims)
    if not names:
        raise DataError(
            source,
            f"no variable with {dims.LEAD_TIME} (variables: {', '.join(map(str, ds.data_vars)) or 'none'})",
            expected="a forecast or an archive",
            fix="make one with sa-nowcast forecast or sa-nowcast hindcast",
        )
    first: xr.DataArray = ds[names[0]]
    if len(names) == 1:
        return first
    different = [n for n in names if ds[n].dims != first.dims]
    if different:
        raise DataError(source, f"{different[0]} has other dimensions than {names[0]}", expected="the same ones")
    several: xr.DataArray = ds[names].to_dataarray(dims.VARIABLE)
    texts = {key: [text(ds[n].attrs.get(key)) or "" for n in names] for key in dims.PER_VARIABLE}
    labels = {key: (dims.VARIABLE, own) for key, own in texts.items() if any(own) or key == dims.UNITS}
    order = [*(d for d in first.dims if d in (dims.REALIZATION, dims.INIT_TIME)), dims.VARIABLE]
    several = several.transpose(*order, ...).assign_coords(labels)
    shared = {k: v for k, v in first.attrs.items() if all(ds[n].attrs.get(k) == v for n in names)}
    several.attrs = {k: v for k, v in shared.items() if k not in labels}
    return several.rename("forecast")


def _opened(path: Path | str) -> xr.Dataset:
    if not isinstance(path, Path) or _of_own_reader(path):
        return open_source(path, chunks={}, decode_timedelta=True)
    try:
        if is_zarr(path):
            attrs = zarr_attrs(path)
            # What convert and hindcast wrote is read with its checksums, and refused where it is not whole.
            if COMPLETE in attrs or ARCHIVE in attrs or path.name.endswith(".partial"):
                return open_zarr(path, chunks={})
            return xr.open_dataset(path, engine="zarr", chunks={}, decode_timedelta=True)
        return xr.open_dataset(path, chunks={}, decode_timedelta=True)
    except (DataError, StorageError):
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise DataError(
            str(path), f"cannot be opened ({type(error).__name__}: {error})", expected="NetCDF or Zarr"
        ) from error


def zarr_header(source: str) -> tuple[int, dict[str, Any]] | None:
    """Return the format of a Zarr store and its global attributes, none where they cannot be read; None: no store."""
    path = Path(source).expanduser()
    if is_references(source):
        return _header(ReferenceStore(source))
    if is_repository(path) or source.endswith(SUFFIX):
        return _header(open_snapshot(source))
    if is_address(source):
        try:
            return _header(RemoteStore(require_address(source)))
        except DataError:
            if not is_repository_at(source):
                raise
            return _header(open_snapshot(source))
    return (3 if (path / "zarr.json").is_file() else 2, zarr_attrs(path)) if is_zarr(path) else None


def _header(store: Store) -> tuple[int, dict[str, Any]]:
    group = open_group(store)
    return group.metadata.zarr_format, dict(group.attrs)


def zarr_attrs(path: Path) -> dict[str, Any]:
    """Return the global attributes of a Zarr store of format 2 or 3; none where they cannot be read."""
    for name in ("zarr.json", ".zattrs"):
        try:
            content = json.loads((path / name).read_text())
        except (OSError, ValueError):
            continue
        return dict(content.get("attributes", {}) if name == "zarr.json" else content)
    return {}
