"""Icechunk repositories, and references to the chunks of other files, opened lazily as Zarr stores are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.sources.paths import PathLike
from sa_nowcast.sources.remote import open_group, opened
from sa_nowcast.storage.addresses import is_address
from sa_nowcast.storage.references import ReferenceStore, refuse_parquet
from sa_nowcast.storage.repositories import open_snapshot


def open_icechunk(
    source: PathLike | Iterable[PathLike],
    *,
    branch: str | None = None,
    tag: str | None = None,
    snapshot: str | None = None,
    virtual: str | Iterable[str] = (),
    group: str | None = None,
    chunks: Mapping[str, int] | None = None,
    decode_times: bool = True,
    decode_timedelta: bool | None = None,
) -> xr.Dataset:
    """Open a snapshot of an Icechunk repository; what is committed later is not seen.

    Parameters
    ----------
    source : path or address
        A folder, or ``s3://bucket/name`` with the environment's credentials.
    branch, tag, snapshot : str, optional
        Which one, by one of them. By default the newest of branch ``main``.
    virtual : str or iterable of str
        Where chunks may be read that the repository holds references to only: the prefixes of its virtual chunk
        containers, such as ``s3://bucket/`` or ``file:///data/``. None by default, since a repository may refer to any
        file.
    group : str, optional
        A group in it.
    chunks, decode_times, decode_timedelta : optional
        As for ``xarray.open_dataset``.

    Raises
    ------
    DataError
        No repository, branch, tag or snapshot; the nearest is named.
    StorageError
        It cannot be read.
    MissingLibraryError
        icechunk is not installed.
    """
    prefixes = [virtual] if isinstance(virtual, str) else list(virtual)
    store = open_snapshot(_one(source), branch=branch, tag=tag, snapshot=snapshot, virtual=prefixes)
    how = _how(group, decode_times, decode_timedelta)
    return opened(store, store.place, open_group(store, group), chunks, how)


def open_references(
    source: PathLike | Iterable[PathLike],
    *,
    group: str | None = None,
    chunks: Mapping[str, int] | None = None,
    decode_times: bool = True,
    decode_timedelta: bool | None = None,
) -> xr.Dataset:
    """Open the files that references name (JSON of kerchunk or VirtualiZarr) as one store; nothing is copied.

    Parameters
    ----------
    source : path or address
        Of the JSON. Relative paths in it start at its own folder.
    group : str, optional
        A group in it.
    chunks, decode_times, decode_timedelta : optional
        As for ``xarray.open_dataset``.

    Raises
    ------
    DataError
        No such file, or none of references. When it is read: a file that they name is missing, holds fewer bytes, or
        was changed since.
    """
    refuse_parquet(_one(source))
    store = ReferenceStore(_one(source))
    how = _how(group, decode_times, decode_timedelta)
    return opened(store, store.source, open_group(store, group), chunks, how, *store.unmasked)


def _how(group: str | None, times: bool, timedelta: bool | None) -> dict[str, Any]:
    given = {"group": group, "decode_timedelta": timedelta}
    return {"decode_times": times} | {k: v for k, v in given.items() if v is not None}


def _one(source: PathLike | Iterable[PathLike]) -> str:
    if is_address(source):
        return source
    paths = [source] if isinstance(source, str | os.PathLike) else list(source)
    if len(paths) != 1:
        raise RecipeError("source", f"{len(paths)} of them", expected="one; a list is for SequenceDataset([...])")
    return str(paths[0])
