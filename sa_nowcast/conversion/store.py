"""Reading a converted store: refused when it is half there, and damage is named with variable, chunk and times."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources.lazy import outer
from sa_nowcast.sources.paths import PathLike
from sa_nowcast.times import show_time

COMPLETE: Final = "sa_nowcast_complete"
PARTIAL: Final = ".partial"
LOCK: Final = ".lock"
"""After `PARTIAL`: the file that the writer of a store holds."""

Check = Literal["chunks", "mark", "nothing"]
_DAMAGED: Final = (RuntimeError, ValueError, OSError, KeyError, IndexError)


def open_zarr(path: PathLike, *, check: Check = "chunks", chunks: Mapping[str, int] | None = None) -> xr.Dataset:
    """Open a store that `convert` wrote.

    Parameters
    ----------
    path : path
    check : {"chunks", "mark", "nothing"}
        What is looked at before anything is read: that every shard's file is there; only that the conversion ended; or
        nothing, for Zarr stores that others wrote.
    chunks : mapping, optional
        As for ``xarray.open_dataset``: None reads when a part is used, ``{}`` makes dask arrays of the stored chunks.

    Returns
    -------
    Dataset
        Its grid mappings are coordinates. A damaged or missing chunk raises `DataError` when it is read.

    Raises
    ------
    DataError
        No store, a conversion that did not end, or missing shards (variable, file and times are named).
    """
    if check not in get_args(Check):
        raise RecipeError("check", repr(check), expected=" or ".join(map(repr, get_args(Check))))
    root = Path(path).expanduser()
    group = _group(root, check)
    arrays = {name: array for name, array in group.arrays() if not name.startswith(".")}
    times = _times(arrays)
    variables: dict[str, xr.Variable] = {}
    for name, array in arrays.items():
        checked = CheckedArray(str(root), name, times)
        if check == "chunks":
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
    for name in index:
        ds[name].load()
    ds.encoding["source"] = str(root)
    if chunks is None:
        return ds
    stored = {d: c for v in ds.data_vars.values() for d, c in v.encoding["preferred_chunks"].items()}
    return ds.chunk(dict(chunks) or stored)


def verify(path: PathLike) -> None:
    """Read every chunk of a store once.

    Raises
    ------
    DataError
        The first chunk that is damaged or missing.
    """
    root = Path(path).expanduser()
    arrays = dict(_group(root, "mark").arrays())
    times = _times(arrays)
    for name in arrays:
        checked = CheckedArray(str(root), name, times)
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
    """

    def __init__(self, store: str, name: str, times: npt.NDArray[Any]) -> None:
        self.store, self.name, self.times = store, name, times
        self._open()
        self.shape, self.dtype = self.array.shape, self.array.dtype
        self.cell = self.array.shards or self.array.chunks
        names = getattr(self.array.metadata, "dimension_names", None) or ()
        self.time_axis = names.index("time") if "time" in names else None

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
        touched = [np.atleast_1d(np.arange(n)[k]) for k, n in zip(key, self.shape, strict=True)]
        if all(len(t) for t in touched):
            self._require_files(touched)
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
        """Raise `DataError` where a file of the array is missing."""
        self._require_files([np.arange(n) for n in self.shape])

    def _require_files(self, touched: list[npt.NDArray[Any]]) -> None:
        cells = [np.unique(t // c).tolist() for t, c in zip(touched, self.cell, strict=True)]
        for index in itertools.product(*cells):
            file = Path(self.store) / self.name / self._key(index)
            if not file.is_file():
                raise DataError(
                    f"{self.name}, {self._label(index)}",
                    f"the chunk file {self.name}/{self._key(index)} is missing",
                    fix="convert the source again, or copy the file again",
                )

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

    def _damage(self, touched: list[npt.NDArray[Any]], error: Exception) -> DataError:
        """Find the chunk that cannot be read, and name it."""
        lead = [t.tolist() for t in touched[: len(self.array.chunks)]]
        sizes = self.array.chunks
        for index in itertools.product(*(sorted({i // c for i in t}) for t, c in zip(lead, sizes, strict=True))):
            try:
                self.array[
                    tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, sizes, self.shape, strict=True))
                ]
            except _DAMAGED as found:
                file = tuple(i * c // s for i, c, s in zip(index, sizes, self.cell, strict=True))
                time = (
                    ""
                    if self.time_axis is None
                    else f", {_show(self.times[index[self.time_axis] * sizes[self.time_axis]])}"
                )
                return DataError(
                    f"{self.name}{time}",
                    f"chunk {'.'.join(map(str, index))} in {self.name}/{self._key(file)} is damaged ({found})",
                    fix="convert the source again, or copy the file again",
                )
        return DataError(self.name, f"cannot be read ({type(error).__name__}: {error})", fix="check the disk")


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


def _times(arrays: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the time axis, decoded, or an empty one."""
    array = arrays.get("time")
    if array is None:
        return np.empty(0, dtype="datetime64[ns]")
    try:
        values = np.asarray(array[...])
    except _DAMAGED as error:
        raise DataError("time", f"the time axis is damaged ({error})", fix="convert the source again") from error
    decoded: npt.NDArray[Any] = xr.conventions.decode_cf_variable(
        "time", xr.Variable("time", values, dict(array.attrs))
    ).values
    return decoded


def _show(time: Any) -> str:
    return show_time(time) if np.issubdtype(time.dtype, np.datetime64) else str(time)
