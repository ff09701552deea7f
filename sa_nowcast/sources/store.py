"""Reading a converted store: refused when it is half there, and damage is named with variable, chunk and times."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing

from sa_nowcast.errors import DataError, RecipeError, SaNowcastError
from sa_nowcast.metadata import dims
from sa_nowcast.sources.paths import PathLike
from sa_nowcast.sources.reading import outer
from sa_nowcast.storage.addresses import is_address
from sa_nowcast.storage.manifest import COMPLETE, MANIFEST, METADATA, PARTIAL, Manifest, metadata_bytes
from sa_nowcast.times import show_time

_TIME_AXES: Final = (dims.TIME, dims.INIT_TIME)
"""Of converted data, and of archives."""

Check = Literal["chunks", "mark", "nothing"]
_FIX: Final = "convert the source again, or copy the file again; check='mark' reads what is sound"
_DAMAGED: Final = (RuntimeError, ValueError, OSError, KeyError, IndexError)


def open_zarr(path: PathLike, *, check: Check = "chunks", chunks: Mapping[str, int] | None = None) -> xr.Dataset:
    """Open a store that `convert` wrote.

    Parameters
    ----------
    path : path or address
        An address as `sa_nowcast.sources.open_source` reads it.
    check : {"chunks", "mark", "nothing"}
        ``chunks`` compares the store with the list that was written with it: metadata, and the size of every file,
        when it is opened; the SHA-256 of a file when something of it is first read, which reads the file whole once.
        ``mark`` looks only whether the conversion ended, and ``nothing`` is for Zarr stores that others wrote; then a
        chunk's own checksum is all that tells of damage.
    chunks : mapping, optional
        As for ``xarray.open_dataset``: None reads when a part is used, ``{}`` makes dask arrays of the stored chunks.

    Returns
    -------
    Dataset
        Its grid mappings are coordinates. A chunk that is damaged, missing, or another's raises `DataError` when it is
        read.

    Raises
    ------
    DataError
        No store, a conversion that did not end, damaged metadata, or missing or truncated shards (variable, file and
        times are named).
    """
    if check not in get_args(Check):
        raise RecipeError("check", repr(check), expected=" or ".join(map(repr, get_args(Check))))
    if is_address(path):
        from sa_nowcast.sources.remote import open_address  # which knows files, and those this

        return open_address(path, chunks=chunks, check=check == "chunks")
    root = Path(path).expanduser()
    try:
        return _opened(root, check, chunks)
    except SaNowcastError:
        raise
    except Exception as error:
        # Damaged metadata raise almost anything: KeyError, TypeError, AttributeError, MemoryError, ...
        raise DataError(
            str(root), f"its metadata cannot be used ({type(error).__name__}: {error})", fix="copy the store again"
        ) from error


def _opened(root: Path, check: Check, chunks: Mapping[str, int] | None) -> xr.Dataset:
    group, manifest = _checked(root, check)
    arrays = _arrays(root, group)
    times = _times(str(root), arrays, manifest)
    variables: dict[str, xr.Variable] = {}
    for name, array in arrays.items():
        checked = CheckedArray(str(root), name, times, manifest)
        if manifest is not None:
            checked.check_files()
        attrs = dict(array.attrs)
        names = getattr(array.metadata, "dimension_names", None) or attrs.pop("_ARRAY_DIMENSIONS", ())
        dims = tuple(n or f"{name}_{i}" for i, n in enumerate(names))
        preferred = dict(zip(dims, array.chunks, strict=False))
        encoding = {
            "chunks": array.chunks, "preferred_chunks": preferred, "shards": array.shards,
            "compressors": array.compressors, "dtype": array.dtype, "fill_value": array.fill_value,
        }  # fmt: skip
        if "_FillValue" in attrs and array.dtype.kind in "f":
            attrs["_FillValue"] = array.fill_value
        variables[name] = xr.Variable(dims, indexing.LazilyIndexedArray(checked), attrs, encoding)
    attrs = dict(group.attrs)
    mappings = [m for v in variables.values() if (m := v.attrs.get("grid_mapping")) in variables]
    ds = xr.decode_cf(xr.Dataset(variables, attrs=attrs), decode_coords=True, decode_timedelta=True)
    index = [n for n, v in ds.variables.items() if v.dims == (n,)]
    ds = ds.set_coords([*dict.fromkeys(mappings), *index])
    for dim in index:
        ds[dim].load()
    ds.encoding["source"] = str(root)
    if chunks is None:
        return ds
    stored = {d: c for v in ds.data_vars.values() for d, c in v.encoding["preferred_chunks"].items()}
    return ds.chunk(dict(chunks) or stored)


def finished(path: PathLike) -> bool:
    """Say whether a store at `path` has the completion mark, whatever else may be wrong with it."""
    try:
        content = json.loads(metadata_bytes(Path(path) / METADATA))
        return COMPLETE in content["attributes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def verify(path: PathLike) -> None:
    """Read every chunk of a store once.

    Raises
    ------
    DataError
        The first chunk that is damaged or missing.
    """
    root = Path(path).expanduser()
    group, manifest = _checked(root, "chunks")
    arrays = _arrays(root, group)
    times = _times(str(root), arrays, manifest)
    for name in arrays:
        checked = CheckedArray(str(root), name, times, manifest)
        checked.check_files()
        for region in checked.regions():
            checked.read(region)


class CheckedArray(BackendArray):
    """An array of a store whose reads name what is damaged. Opened anew in each process.

    Parameters
    ----------
    store, name : str
    times : ndarray
        The store's time axis, for messages.
    manifest : Manifest, optional
        What the files must be; by default they must only be there.
    """

    def __init__(self, store: str, name: str, times: npt.NDArray[Any], manifest: Manifest | None = None) -> None:
        self.store, self.name, self.times, self.manifest = store, name, times, manifest
        self._open()
        self.shape, self.dtype = self.array.shape, self.array.dtype
        self.cell = self.array.shards or self.array.chunks
        names = getattr(self.array.metadata, "dimension_names", None) or ()
        self.time_axis = next((names.index(axis) for axis in _TIME_AXES if axis in names), None)

    def _open(self) -> None:
        self.array: Any = zarr.open_array(self.store, path=self.name, mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self.read)

    def read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        """Read the outer product of integers, slices and integer arrays.

        Raises
        ------
        DataError
            A chunk is damaged or missing.
        """
        touched = [_touched(k, n) for k, n in zip(key, self.shape, strict=True)]
        if all(len(t) for t in touched):
            self._require_files(touched, read=True)
        try:
            if any(isinstance(k, np.ndarray) for k in key):
                # Frames are whole chunks: indices within one are taken after reading it.
                lead = len(self.cell) - 2 if len(self.cell) > 2 else 0
                outside = tuple(k if i < lead else slice(None) for i, k in enumerate(key))
                kept = tuple(np.atleast_1d(k) if isinstance(k, int | np.integer) else k for k in outside)
                block = np.asarray(self.array.oindex[kept])
                inside = tuple(
                    (0 if isinstance(k, int | np.integer) else slice(None)) if i < lead else k
                    for i, k in enumerate(key)
                )
                return outer(block, inside)
            return np.asarray(self.array[key])
        except MemoryError as error:
            raise DataError(
                self.name, f"does not fit into memory: {self.array.metadata.shape} of {self.dtype}", fix="read less"
            ) from error
        except _DAMAGED as error:
            raise self._damage(touched, error) from error

    def regions(self) -> list[tuple[slice, ...]]:
        """Return the part of the array that each file holds."""
        counts = [-(-n // c) for n, c in zip(self.shape, self.cell, strict=True)]
        return [
            tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, self.cell, self.shape, strict=True))
            for index in itertools.product(*map(range, counts))
        ]

    def check_files(self) -> None:
        """Raise `DataError` where a file of the array is missing, or of another size; none is read."""
        self._require_files([range(n) for n in self.shape], read=False)

    def _require_files(self, touched: Sequence[Sequence[int]], *, read: bool) -> None:
        for index in _cells(touched, self.cell):
            key = f"{self.name}/{self._key(index)}"
            if self.manifest is None:
                fault = None if (Path(self.store) / key).is_file() else "is missing"
            else:
                fault = self.manifest.fault(key) if read else self.manifest.size_fault(key)
            if fault is None:
                continue
            region = [range(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, self.cell, self.shape, strict=True)]
            chunk = None if fault == "is missing" else self._first_damaged(region)
            raise chunk or DataError(f"{self.name}, {self._label(index)}", f"the chunk file {key} {fault}", fix=_FIX)

    def _key(self, index: tuple[int, ...]) -> str:
        key: str = self.array.metadata.encode_chunk_key(index)
        return key

    def _label(self, index: tuple[int, ...]) -> str:
        """Return the times that a file holds."""
        if self.time_axis is None or not len(self.times):
            return "all times"
        start = index[self.time_axis] * self.cell[self.time_axis]
        stop = min(start + self.cell[self.time_axis], len(self.times))
        return f"{_show(self.times[start])} to {_show(self.times[stop - 1])}"

    def _damage(self, touched: Sequence[Sequence[int]], error: Exception) -> DataError:
        """Find the chunk that cannot be read, and name it."""
        return self._first_damaged(touched) or DataError(
            self.name,
            f"cannot be read ({type(error).__name__}: {error})",
            fix="read again, or copy the store to another disk",
        )

    def _first_damaged(self, touched: Sequence[Sequence[int]]) -> DataError | None:
        sizes = self.array.chunks
        for index in _cells(touched, sizes):
            try:
                self.array[
                    tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, sizes, self.shape, strict=True))
                ]
            except _DAMAGED as found:
                file = tuple(i * c // s for i, c, s in zip(index, sizes, self.cell, strict=True))
                time = ""
                if self.time_axis is not None and len(self.times):
                    time = f", {_show(self.times[index[self.time_axis] * sizes[self.time_axis]])}"
                return DataError(
                    f"{self.name}{time}",
                    f"chunk {'.'.join(map(str, index))} in {self.name}/{self._key(file)} is damaged ({found})",
                    fix=_FIX,
                )
        return None


def _touched(key: Any, size: int) -> Sequence[int]:
    """Return the positions that an indexer takes of a dimension; a range where it is one, however long."""
    if isinstance(key, slice):
        return range(*key.indices(size))
    return [int(k) % size for k in np.atleast_1d(key)] if size else []


def _cells(touched: Sequence[Sequence[int]], sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the cells of a grid that positions lie in; a store may declare more cells than memory holds."""
    if not touched:
        yield ()
        return
    positions, size = touched[0], sizes[0]
    if isinstance(positions, range) and len(positions):
        low, high = min(positions[0], positions[-1]), max(positions[0], positions[-1])
        cells: Iterable[int] = range(low // size, high // size + 1)
        if abs(positions.step) > size:
            cells = sorted({p // size for p in positions})
    else:
        cells = sorted({p // size for p in positions})
    for cell in cells:
        for rest in _cells(touched[1:], sizes[1:]):
            yield (cell, *rest)


def _group(root: Path, check: Check) -> Any:
    partial = root.with_name(root.name + PARTIAL)
    if not root.exists():
        if partial.exists():
            raise DataError(
                str(root),
                "the conversion did not end",
                expected="a whole store",
                fix="run the same convert again to go on",
            )
        raise DataError(str(root), "no such store")
    if root.name.endswith(PARTIAL):
        raise DataError(str(root), "a store that is still being written", fix="run the same convert again to go on")
    try:
        group = zarr.open_group(root, mode="r")
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise DataError(str(root), f"is no Zarr store ({type(error).__name__}: {error})") from error
    if check != "nothing" and COMPLETE not in group.attrs:
        raise DataError(
            str(root),
            f"has no completion mark ({COMPLETE})",
            expected="a store that convert wrote to its end",
            fix="convert it, or check='nothing' for stores that others wrote",
        )
    return group


def _checked(root: Path, check: Check) -> tuple[Any, Manifest | None]:
    if check != "chunks":
        return _group(root, check), None
    if not (root / MANIFEST).exists():
        _group(root, check)  # what is no finished store is said as such
    manifest = Manifest(root)
    manifest.check_metadata()  # before zarr meets it
    return _group(root, check), manifest


def _arrays(root: Path, group: Any) -> dict[str, Any]:
    try:
        return {name: array for name, array in group.arrays() if not name.startswith(".")}
    except (*_DAMAGED, TypeError, AttributeError) as error:
        raise DataError(
            str(root), f"its metadata cannot be read ({type(error).__name__}: {error})", fix="copy the store again"
        ) from error


def _times(store: str, arrays: Mapping[str, Any], manifest: Manifest | None) -> npt.NDArray[Any]:
    """Return the time axis, decoded, or an empty one."""
    nothing = np.empty(0, dtype="datetime64[ns]")
    # One forecast's init time is a single number, along which nothing lies.
    name = next((axis for axis in _TIME_AXES if axis in arrays and len(arrays[axis].shape) == 1), None)
    if name is None:
        return nothing
    time = CheckedArray(store, name, nothing, manifest)
    values = time.read(tuple(slice(None) for _ in time.shape))
    decoded: npt.NDArray[Any] = xr.conventions.decode_cf_variable(
        name, xr.Variable(name, values, dict(time.array.attrs))
    ).values
    return decoded


def _show(time: Any) -> str:
    return show_time(time) if np.issubdtype(time.dtype, np.datetime64) else str(time)
