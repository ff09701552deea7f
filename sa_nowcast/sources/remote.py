"""Zarr stores at an address, opened lazily as those in a folder are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr
import zarr
from zarr.errors import ContainsArrayError, GroupNotFoundError

from sa_nowcast.errors import DataError
from sa_nowcast.sources.files import open_with_zeros
from sa_nowcast.sources.reading import reading
from sa_nowcast.storage.addresses import require_address
from sa_nowcast.storage.manifest import ARCHIVE, COMPLETE
from sa_nowcast.storage.remote import RemoteStore, absent


def open_address(
    address: str,
    *,
    chunks: Mapping[str, int] | None = None,
    check: bool = True,
    options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open a Zarr store of format 2 or 3 at an address; nothing but its metadata and coordinates is read.

    Parameters
    ----------
    address : str
        Such as ``s3://bucket/rain.zarr``.
    chunks : mapping, optional
        As for ``xarray.open_dataset``.
    check : bool
        Whether a store that `sa_nowcast.convert` or a hindcast wrote is compared with the list of its files.
    options : mapping, optional
        For ``xarray.open_dataset``.

    Raises
    ------
    DataError
        No such bucket, or no Zarr store there.
    StorageError
        It cannot be read: forbidden, throttled, out of reach.
    RecipeError
        An address of another kind, or one that holds a secret.
    MissingLibraryError
        obstore is not installed.
    """
    store, how = RemoteStore(require_address(address)), dict(options or {})
    group = open_group(store, how.get("group"))
    if COMPLETE in group.attrs:
        store = RemoteStore(store.address, listed=check)
    return opened(store, store.address, group, chunks, how)


def opened(
    store: Any, name: str, group: zarr.Group, chunks: Mapping[str, int] | None, how: dict[str, Any], *unmasked: str
) -> xr.Dataset:
    """Open a store of zarr's, whose `group` is there; arrays that are `unmasked` have a fill value of no meaning."""
    if {COMPLETE, ARCHIVE} & set(group.attrs):
        how = {"decode_timedelta": True} | how
    how.setdefault("consolidated", group.metadata.consolidated_metadata is not None)
    with reading(name, "zarr"):
        plain = [] if {"use_zarr_fill_value_as_mask", "decode_cf"} & set(how) else [*_zeros(group), *unmasked]
        if plain:
            ds = open_with_zeros(store, chunks, how, plain)
        else:
            ds = xr.open_dataset(store, engine="zarr", chunks=chunks, **how)
    if COMPLETE in group.attrs:
        ds = ds.set_coords([m for v in ds.variables.values() if (m := v.attrs.get("grid_mapping")) in ds.variables])
    ds.encoding["source"] = name
    return ds


def open_group(store: Any, path: str | None = None) -> zarr.Group:
    """Return the group of a store, or say why there is none."""
    try:
        return zarr.open_group(store, path=path, mode="r")
    except ContainsArrayError as error:
        raise DataError(str(store), "is a Zarr array", expected="a group of arrays with their coordinates") from error
    except (GroupNotFoundError, FileNotFoundError):
        if isinstance(store, RemoteStore):
            raise absent(store) from None
        inside = f"holds no Zarr group{f' {path}' if path else ''}"
        raise DataError(str(store), inside, expected="arrays with their coordinates") from None


def _zeros(group: zarr.Group) -> list[str]:
    """Return the arrays that are filled with 0 by default, of format 2; see `sa_nowcast.sources.files`."""
    if group.metadata.zarr_format != 2:
        return []
    declared = {"_FillValue", "missing_value"}
    arrays = [(n, a) for n, a in group.arrays() if a.dtype.kind in "iuf" and not declared & set(a.attrs)]
    return [name for name, array in arrays if array.metadata.fill_value == 0]
