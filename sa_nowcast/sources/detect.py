"""Which reader a file is for, told from its first bytes and not from its ending alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from sa_nowcast.errors import DataError
from sa_nowcast.sources import files, geotiff
from sa_nowcast.sources.damage import reading
from sa_nowcast.sources.fmi import is_fmi
from sa_nowcast.sources.knmi import is_knmi
from sa_nowcast.sources.mch import SIGN
from sa_nowcast.sources.odim import is_odim
from sa_nowcast.sources.optional import require
from sa_nowcast.sources.paths import PathLike, expand
from sa_nowcast.storage.manifest import is_zarr

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_HDF5_SUFFIXES: Final = (".h5", ".hdf", ".hdf5", ".he5")
_IMAGES: Final = (".pgm", ".pgm.gz", ".gif")
_SNIFFED: Final = 2**20


def detect(source: PathLike | Iterable[PathLike]) -> tuple[str | None, list[Path]]:
    """Return the reader for a source (None: xarray guesses), and its files: in a folder, those that it is for.

    Raises
    ------
    DataError
        A folder that holds several kinds of frames.
    """
    known = tuple(dict.fromkeys((*files.SUFFIXES, *_HDF5_SUFFIXES, *geotiff.SUFFIXES, *_IMAGES)))
    paths = expand(source, known)
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault(_kind(path), []).append(path)
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


def _kind(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(geotiff.SUFFIXES):
        return "geotiff"
    return "images" if name.endswith(_IMAGES) else "files"


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
