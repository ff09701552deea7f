"""One door for all sources: `open_source` finds the right reader, by name or by the first bytes of a file."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import xarray as xr

from sa_nowcast.errors import DataError, RecipeError, one_of
from sa_nowcast.sources.arrays import open_array
from sa_nowcast.sources.files import SUFFIXES as FILES
from sa_nowcast.sources.files import open_files
from sa_nowcast.sources.film import open_film
from sa_nowcast.sources.fmi import is_fmi
from sa_nowcast.sources.geotiff import SUFFIXES as GEOTIFFS
from sa_nowcast.sources.geotiff import open_geotiff
from sa_nowcast.sources.knmi import is_knmi
from sa_nowcast.sources.kth import open_kth
from sa_nowcast.sources.mch import SIGN
from sa_nowcast.sources.moving_mnist import MovingMnistBackendEntrypoint
from sa_nowcast.sources.odim import is_odim
from sa_nowcast.sources.paths import PathLike, expand
from sa_nowcast.sources.radar import IMPORTERS, open_radar
from sa_nowcast.sources.reading import reading, require, require_known
from sa_nowcast.sources.remote import open_address
from sa_nowcast.sources.taxibj import open_taxibj
from sa_nowcast.sources.virtual import open_icechunk, open_references
from sa_nowcast.storage.addresses import is_address, plain, require_address
from sa_nowcast.storage.manifest import is_repository, is_zarr
from sa_nowcast.storage.references import is_references, refuse_parquet
from sa_nowcast.storage.repositories import SUFFIX, is_repository_at

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_HDF5_SUFFIXES: Final = (".h5", ".hdf", ".hdf5", ".he5")
_IMAGES: Final = (".pgm", ".pgm.gz", ".gif")
_SNIFFED: Final = 2**20


def _open_moving_mnist(
    source: PathLike | Iterable[PathLike], *, drop_variables: str | Iterable[str] | None = None
) -> xr.Dataset:
    path = expand(source, (".npy",))[0]
    return MovingMnistBackendEntrypoint().open_dataset(path, drop_variables=drop_variables)


_READERS: Final[Mapping[str, Callable[..., xr.Dataset]]] = {
    "array": open_array,
    "film": open_film,
    "geotiff": open_geotiff,
    "icechunk": open_icechunk,
    "kerchunk": open_references,
    "kth": open_kth,
    "moving_mnist": _open_moving_mnist,
    "taxibj": open_taxibj,
}


_AT_ADDRESSES: Final = ("icechunk", "kerchunk")


def _open_at(address: str, engine: str | None, options: dict[str, Any]) -> xr.Dataset:
    """Open an address: references by its ending, a Zarr store, or an Icechunk repository where one lies there."""
    if engine not in (None, "zarr", *_AT_ADDRESSES):
        found = f"{engine!r} reads files, and {plain(address)} is an address"
        raise RecipeError("engine", found, expected=f"one of 'zarr', {', '.join(map(repr, _AT_ADDRESSES))}")
    address = require_address(address)
    refuse_parquet(address)
    if engine is None and is_references(address):
        engine = "kerchunk"
    if engine is None and address.endswith(SUFFIX):
        engine = "icechunk"
    if engine in _AT_ADDRESSES:
        return _READERS[engine](address, **_known(engine, options))
    try:
        return open_address(address, chunks=options.pop("chunks", None), options=options)
    except DataError:
        # Asked for only where there is no Zarr store: that is by far more common.
        if engine is not None or not is_repository_at(address):
            raise
    return _open_at(address, "icechunk", options)


def _known(engine: str, options: dict[str, Any]) -> dict[str, Any]:
    require_known(options, _READERS[engine], engine)
    return options


def open_source(
    source: PathLike | Iterable[PathLike],
    *,
    engine: str | Any = None,
    time: Hashable | None = None,
    time_pattern: str | None = None,
    **options: Any,
) -> xr.Dataset:
    """Open any source that the package reads, lazily.

    Parameters
    ----------
    source : path or iterable of paths
        A file, a folder, a pattern, a Zarr store, an Icechunk repository, or several; or the address of one Zarr store
        (``s3://``, ``gs://``, ``az://``, ``https://`` or ``http://``), of references (``.json``) or of an Icechunk
        repository (``s3://``).
    engine : str or BackendEntrypoint, optional
        ``taxibj``, ``moving_mnist``, ``kth``, ``array`` (NumPy files), ``film``, ``geotiff``, ``icechunk``,
        ``kerchunk``, a format of radar composites (see `open_radar`), or an engine of xarray. By default the files
        tell: GeoTIFF, ODIM_H5, KNMI's HDF5, FMI's PGM, MeteoSwiss's GIF and Icechunk are known by what is in them,
        references by the ending ``.json``, and of all others xarray guesses.
    time : hashable, optional
        The time dimension of files that xarray opens, where CF attributes and common names do not tell.
    time_pattern : str, optional
        The time in the files' names, as ``datetime.strptime`` takes it: ``%Y%m%d%H%M``.
    **options
        For the reader: `open_taxibj`, `open_kth`, `open_array`, `open_film`, `open_geotiff`, `open_radar`,
        `open_icechunk`, `open_references`, or the options of ``xarray.open_dataset``.

    Raises
    ------
    RecipeError
        An unknown engine or option; the nearest known one is named. An option that the reader cannot do without. An
        address of another kind, or one that holds a secret.
    StorageError
        A store at an address cannot be read: forbidden, throttled, out of reach.
    """
    if is_address(source):
        return _open_at(source, engine, options)
    if engine is None:
        engine, source = _detect(source)
    elif engine == "rasterio" and engine not in xr.backends.list_engines():
        engine = "geotiff"
    if isinstance(engine, str):
        if engine in _READERS:
            if time_pattern is not None:
                options["time_pattern"] = time_pattern
            reader = _READERS[engine]
            parameters = require_known(options, reader, engine)
            missing = [p.name for p in parameters if p.default is p.empty and p.name not in options]
            if missing:
                raise RecipeError("options", f"no {' and no '.join(missing)}, which engine {engine} needs")
            return reader(source, **options)
        if engine in IMPORTERS:
            return open_radar(source, engine, time_pattern=time_pattern, **options)
        known = {*_READERS, *IMPORTERS, *xr.backends.list_engines()}
        if engine not in known:
            raise RecipeError("engine", f"{engine!r} is not known", expected=one_of(engine, known))
    return open_files(source, engine=engine, time=time, time_pattern=time_pattern, options=options)


def reader_options() -> set[str]:
    """Return the names of all options of the package's own readers."""
    readers = [*_READERS.values(), *(i.reader for i in IMPORTERS.values() if i.reader), open_radar]
    named = {name for reader in readers for name in list(inspect.signature(reader).parameters)[1:]}
    return (named | {"time_pattern", "product", "extent"}) - {"engine", "options"}


def _detect(source: PathLike | Iterable[PathLike]) -> tuple[str | None, list[Path]]:
    """Return the reader for a source (None: xarray guesses), and its files: in a folder, those that it is for."""
    if not isinstance(source, str | os.PathLike):
        source = [*source]
        one = source[0] if len(source) == 1 else None
    else:
        one = source
    if one is not None:
        refuse_parquet(path := Path(one).expanduser())
        if is_repository(path) or is_references(path):
            return ("icechunk" if is_repository(path) else "kerchunk"), [path]
    known = tuple(dict.fromkeys((*FILES, *_HDF5_SUFFIXES, *GEOTIFFS, *_IMAGES)))
    paths = expand(source, known)
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        name = path.name.lower()
        kind = "geotiff" if name.endswith(GEOTIFFS) else "images" if name.endswith(_IMAGES) else "files"
        kinds.setdefault(kind, []).append(path)
    if len(kinds) > 1 and "images" in kinds and _of_image(kinds["images"][0]) is None:
        del kinds["images"]  # pictures beside the data
    if len(kinds) > 1:
        shown = " and ".join(f"{len(found)} like {found[0].name}" for found in kinds.values())
        one = max(kinds.values(), key=len)[0]
        pattern = one.parent / f"*{''.join(one.suffixes[-1:])}"
        raise DataError(str(one.parent), f"files of several kinds: {shown}", expected="one kind", fix=f"name {pattern}")
    (kind, found), *_ = kinds.items()
    if kind == "geotiff":
        return "geotiff", found
    if kind == "images":
        return _of_image(found[0]), found
    return _of_hdf5(found[0]), found


def _of_image(path: Path) -> str | None:
    if path.name.lower().endswith(".gif"):
        with path.open("rb") as file:
            return "mch_gif" if SIGN in file.read(4096) else None
    return "fmi_pgm" if is_fmi(path) else None


def _of_hdf5(path: Path) -> str | None:
    if is_zarr(path) or not path.is_file():
        return None
    with path.open("rb") as raw:
        if raw.read(len(_HDF5)) != _HDF5:
            return None
        if path.suffix.lower() in (".nc", ".nc4", ".netcdf", ".cdf"):
            return None  # NetCDF 4 is HDF5 as well
        start = raw.read(_SNIFFED)
    if importlib.util.find_spec("h5py") is None:
        # Then the reader says which library is missing.
        return "odim_hdf5" if b"ODIM_H5" in start else "knmi_hdf5" if b"calibration_formulas" in start else None
    h5py: Any = require("h5py", "pysteps")
    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        return "odim_hdf5" if is_odim(file) else "knmi_hdf5" if is_knmi(file) else None
