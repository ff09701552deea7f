"""References and repositories as other libraries make them, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import xarray as xr


def by_kerchunk(file: Path, place: Path | None = None, *, relative: bool = False) -> Path:
    """Write references to the chunks of a NetCDF file as kerchunk makes them, and return their path."""
    pytest.importorskip("kerchunk", reason="references are made by kerchunk: pip install kerchunk")
    from kerchunk.hdf import SingleHdf5ToZarr
    from kerchunk.netCDF3 import NetCDF3ToZarr

    made = NetCDF3ToZarr if file.read_bytes()[:3] == b"CDF" else SingleHdf5ToZarr
    document = made(str(file), inline_threshold=300).translate()
    for value in document["refs"].values():
        if relative and isinstance(value, list):
            value[0] = file.name
    place = place or file.with_suffix(".json")
    place.write_text(json.dumps(document))
    return place


def by_virtualizarr(file: Path) -> Any:
    """Return a virtual dataset of VirtualiZarr."""
    virtualizarr = pytest.importorskip("virtualizarr", reason="pip install virtualizarr")
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore

    return virtualizarr.open_virtual_dataset(
        f"file://{file}",
        parser=virtualizarr.parsers.HDFParser(),
        registry=ObjectStoreRegistry({"file://": LocalStore()}),
        loadable_variables=["time", "y", "x"],
    )


def committed(place: Path, data: xr.DataArray, message: str, **how: Any) -> str:
    """Write data to the repository of a folder by icechunk and xarray alone; return the snapshot."""
    icechunk = pytest.importorskip("icechunk", reason="pip install icechunk")
    repository = icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(str(place)))
    session = repository.writable_session("main")
    data.to_dataset().to_zarr(session.store, mode="w", zarr_format=3, consolidated=False, **how)
    snapshot: str = session.commit(message)
    return snapshot


def with_references(place: Path, file: Path) -> str:
    """Commit references to a file's chunks to a new repository; return where chunks may lie by its own settings."""
    icechunk = pytest.importorskip("icechunk", reason="pip install icechunk")
    prefix = f"file://{file.parent}/"
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, icechunk.local_filesystem_store(prefix)))
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(place)), config)
    repository.save_config()
    session = repository.writable_session("main")
    by_virtualizarr(file).vz.to_icechunk(session.store)
    session.commit("references")
    return prefix
