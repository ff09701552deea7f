"""Which part of which Zarr array a variable is, where it is nothing but a part of one.

xarray opens a Zarr array lazily and wraps it in what selects and decodes. Where only that was done (no arithmetic),
the same values can be had straight from the chunks: the array is found below the wrappers, and what was selected by
comparing coordinates with the store's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.storage import LocalStore

from sa_nowcast.conversion import COMPLETE
from sa_nowcast.errors import DataError
from sa_nowcast.frames import Frames
from sa_nowcast.storage.manifest import Manifest
from sa_nowcast.stream.packed import PACKING
from sa_nowcast.stream.shards import ShardReader

_DASK_SELECTIONS = ("original-open_dataset-", "open_dataset-", "getitem-", "rechunk-", "transpose-")


@dataclass(frozen=True, eq=False)
class StoredVariable:
    """A variable's part of a Zarr array.

    Attributes
    ----------
    name : str
    array : zarr.Array
    axes : tuple of int
        The array's axes of time, [channel,] row and column.
    offset : int
        Position on the array's time axis of the first frame.
    rows, columns : slice
        The part of the grid, in the order of the store.
    flip_rows, flip_columns : bool
        Whether the store counts rows from the south, columns from the east.
    packing : mapping
        How values are packed, by CF.
    complete : bool
        Whether the store is known to hold every chunk, so that one that is not there was lost.
    """

    name: str
    array: zarr.Array[Any]
    axes: tuple[int, ...]
    offset: int
    rows: slice
    columns: slice
    flip_rows: bool
    flip_columns: bool
    packing: Mapping[str, Any]
    complete: bool

    @property
    def chunk(self) -> int:
        """Frames a chunk."""
        return int(self.array.chunks[self.axes[0]])

    @property
    def unit(self) -> int:
        """Frames a stored object: a shard where there are shards."""
        return int((self.array.shards or self.array.chunks)[self.axes[0]])

    @property
    def frame_nbytes(self) -> int:
        """Bytes of one frame, unpacked from its codec."""
        sizes = [self.array.shape[a] for a in self.axes[1:-2]]
        grid = (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)
        return int(math.prod(sizes) * grid * self.array.dtype.itemsize)

    def read(self, begin: int, end: int) -> npt.NDArray[Any]:
        """Read frames as stored, (time, channel, row, column), north up."""
        index: list[slice] = [slice(None)] * self.array.ndim
        index[self.axes[0]] = slice(self.offset + begin, self.offset + end)
        index[self.axes[-2]], index[self.axes[-1]] = self.rows, self.columns
        values = self._frames(self.offset + begin, self.offset + end, tuple(index)).transpose(self.axes)
        values = values if len(self.axes) == 4 else values[:, None]
        return values[:, :, :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def _frames(self, begin: int, end: int, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        if self._shards is not None:
            whole = self._shards.read(begin, end)
            if whole is not None:
                found: npt.NDArray[Any] = whole[(slice(None), *index[1:])]
                return found
        return np.asarray(self.array[index])

    @cached_property
    def _shards(self) -> ShardReader | None:
        return ShardReader(self.array) if self.axes[0] == 0 and ShardReader.readable(self.array) else None

    def require_files(self, begin: int, end: int) -> None:
        """Raise where a file of a local store that was complete is not the one that was written.

        Raises
        ------
        DataError, OSError
        """
        if not self.complete or not isinstance(self.array.store, LocalStore):
            return
        sizes = self.array.shards or self.array.chunks
        spans = [range(math.ceil(n / s)) for n, s in zip(self.array.shape, sizes, strict=True)]
        unit = sizes[self.axes[0]]
        spans[self.axes[0]] = range((self.offset + begin) // unit, (self.offset + end - 1) // unit + 1)
        folder = Path(self.array.store.root) / self.array.path
        for index in itertools.product(*spans):
            key = self.array.metadata.encode_chunk_key(index)
            if not (folder / key).is_file():
                raise FileNotFoundError(f"the chunk file {self.array.path}/{key} is missing")
            fault = self._manifest.fault(f"{self.array.path}/{key}")
            if fault is not None:
                raise OSError(f"the chunk file {self.array.path}/{key} {fault}")

    @cached_property
    def _manifest(self) -> Manifest:
        return Manifest(Path(self.array.store.root))  # type: ignore[attr-defined]


def stored_variables(frames: Frames) -> list[StoredVariable] | None:
    """Return the Zarr arrays that `frames` are parts of, or None where they are not."""
    found = [_stored(frames, array) for array in frames.arrays]
    return None if any(v is None for v in found) else [v for v in found if v is not None]


def _stored(frames: Frames, array: xr.DataArray) -> StoredVariable | None:
    root = _root(array.variable)
    if root is None:
        return None
    names = _dimension_names(root)
    roles = [
        frames.time_dim,
        *([frames.channel_dim] if frames.channel_dim in array.dims else []),
        frames.grid.y,
        frames.grid.x,
    ]
    if names is None or sorted(map(str, names)) != sorted(map(str, roles)):
        return None
    axes = tuple(names.index(str(r)) for r in roles)
    group = _group(root)
    if group is None:
        return None
    lengths = dict(zip(roles, (root.shape[a] for a in axes), strict=True))
    time = _part(array, group, frames.time_dim, lengths)
    rows, columns = (_part(array, group, d, lengths) for d in (frames.grid.y, frames.grid.x))
    channels = None if len(roles) == 3 else _part(array, group, roles[1], lengths)
    if time is None or rows is None or columns is None or time[1]:
        return None
    if len(roles) == 4 and channels != (slice(0, lengths[roles[1]]), False):
        return None
    return StoredVariable(
        name=str(array.name or root.basename),
        array=root,
        axes=axes,
        offset=time[0].start,
        rows=rows[0],
        columns=columns[0],
        flip_rows=rows[1] != _ascending(frames.grid.dy),
        flip_columns=columns[1] != _descending(frames.grid.dx),
        packing={k: array.encoding[k] for k in PACKING if k in array.encoding},
        complete=COMPLETE in group.attrs,
    )


def _root(variable: xr.Variable) -> zarr.Array[Any] | None:
    """Return the Zarr array below a variable's wrappers, where they only select and decode."""
    data: Any = variable._data
    graph = getattr(data, "__dask_graph__", None)
    if graph is not None:
        layers = getattr(graph(), "layers", {})
        roots = [k for k in layers if str(k).startswith(_DASK_SELECTIONS[0])]
        if len(roots) != 1 or not all(str(k).startswith(_DASK_SELECTIONS) for k in layers):
            return None
        data = next(iter(dict(layers[roots[0]]).values()))
    while not isinstance(data, zarr.Array):
        # `array` is what xarray's wrappers call what they wrap, `_array` what its Zarr backend calls the store's array.
        data = getattr(data, "array", None) if hasattr(data, "array") else getattr(data, "_array", None)
        if data is None or isinstance(data, np.ndarray):
            return None
    return data


def _dimension_names(array: zarr.Array[Any]) -> list[str] | None:
    names: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return None if names is None or None in names else [str(n) for n in names]


def _group(array: zarr.Array[Any]) -> xr.Dataset | None:
    path = array.path.rpartition("/")[0] or None
    try:
        ds: xr.Dataset = xr.open_zarr(array.store, group=path, chunks=None, consolidated=False)
    except (OSError, ValueError, KeyError, DataError):
        return None
    return ds


def _part(
    array: xr.DataArray, group: xr.Dataset, dim: Hashable, lengths: Mapping[Hashable, int]
) -> tuple[slice, bool] | None:
    """Return which entries of a dimension of the store the array has, and whether in reverse; None: not a range."""
    size, whole = array.sizes[dim], lengths[dim]
    if dim not in array.coords or dim not in group.coords:
        return (slice(0, whole), False) if size == whole else None
    have, stored = array.coords[dim].values, group.coords[dim].values
    if len(stored) != whole:
        return None
    for reverse in (False, True):
        wanted = have[::-1] if reverse else have
        for start in np.flatnonzero(stored == wanted[0]).tolist():
            if np.array_equal(stored[start : start + size], wanted):
                return slice(start, start + size), reverse
    return None


def _ascending(spacing: float | None) -> bool:
    return spacing is not None and spacing > 0


def _descending(spacing: float | None) -> bool:
    return spacing is not None and spacing < 0
