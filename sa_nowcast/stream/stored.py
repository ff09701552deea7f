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
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from numcodecs.zstd import decompress
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
from zarr.storage import LocalStore

from sa_nowcast.conversion import COMPLETE
from sa_nowcast.errors import DataError
from sa_nowcast.frames import Frames
from sa_nowcast.storage.manifest import Manifest
from sa_nowcast.storage.remote import RemoteStore
from sa_nowcast.stream.packed import PACKING

Index = npt.NDArray[np.uint64]

_INDICES: Final = 64
"""Of so many shards the index is kept: several lanes read parts of as many shards in turn."""
_DASK_SELECTIONS = ("original-open_dataset-", "open_dataset-", "getitem-", "rechunk-", "transpose-")


@dataclass(frozen=True, eq=False)
class StoredVariable:
    """A variable's part of a Zarr array."""

    name: str
    array: zarr.Array[Any]
    axes: tuple[int, ...]  # of time, [channel,] row and column
    offset: int  # position on the array's time axis of the first frame
    rows: slice  # in the order of the store
    columns: slice
    flip_rows: bool  # the store counts rows from the south
    flip_columns: bool  # and columns from the east
    packing: Mapping[str, Any]  # by CF
    complete: bool  # the store is known to hold every chunk, so that one that is not there was lost

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
        """Raise `DataError` or `OSError` where a file of a local store that was complete is not as it was written."""
        if not self.complete or not isinstance(self.array.store, LocalStore):
            return
        sizes = self.array.shards or self.array.chunks
        spans = [range(math.ceil(n / s)) for n, s in zip(self.array.shape, sizes, strict=True)]
        unit = sizes[self.axes[0]]
        spans[self.axes[0]] = range((self.offset + begin) // unit, (self.offset + end - 1) // unit + 1)
        for index in itertools.product(*spans):
            key = f"{self.array.path}/{self.array.metadata.encode_chunk_key(index)}"
            fault = self._manifest.fault(key)
            if fault is not None:
                raise OSError(f"the chunk file {key} {fault}")

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
    time, *channels, rows, columns = (_part(array, group, role, lengths) for role in roles)
    if time is None or rows is None or columns is None or time[1]:
        return None
    if channels and channels[0] != (slice(0, lengths[roles[1]]), False):
        return None
    return StoredVariable(
        name=str(array.name or root.basename),
        array=root,
        axes=axes,
        offset=time[0].start,
        rows=rows[0],
        columns=columns[0],
        flip_rows=rows[1] != ((frames.grid.dy or 0) > 0),
        flip_columns=columns[1] != ((frames.grid.dx or 0) < 0),
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
        # A store elsewhere has its metadata in one request, where they are consolidated.
        consolidated = (
            not isinstance(array.store, LocalStore)
            and zarr.open_group(array.store, path=path, mode="r").metadata.consolidated_metadata is not None
        )
        ds: xr.Dataset = xr.open_zarr(array.store, group=path, chunks=None, consolidated=consolidated)
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


class ShardReader:
    """Reads whole frames of an array of a Zarr format 3 store, straight from its files or objects.

    zarr reads a part of a shard chunk by chunk, at half the pace of a whole shard. What `sa_nowcast.convert` writes,
    and other stores with the same codecs, can be had faster: the shard's index is read once, all bytes that are wanted
    in one piece, and every chunk is decompressed to where its frames belong. Whatever is not as expected here is left
    to zarr, which reads it or says what is wrong. The layout of a shard and its index is that of
    https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._store: Any = array.store
        self._path = array.path
        self._key = array.metadata.encode_chunk_key
        self._dtype, self._shape = array.dtype, array.shape
        self._fill = array.fill_value
        self._chunk = int(array.chunks[0])
        self._shard = int((array.shards or array.chunks)[0])
        self._indices: dict[int, Index] = {}

    @staticmethod
    def readable(array: zarr.Array[Any]) -> bool:
        """Whether the array's chunks and codecs are the ones that are read here."""
        if array.metadata.zarr_format != 3 or not isinstance(array.store, LocalStore | RemoteStore):
            return False
        codecs = array.metadata.codecs
        if array.shards is None or len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec) or array.ndim < 2:
            return False
        sharding = codecs[0]
        little = array.dtype.itemsize == 1 or array.dtype.newbyteorder("<") == array.dtype
        return (
            little
            and [type(c) for c in sharding.codecs] == [BytesCodec, ZstdCodec]
            and [type(c) for c in sharding.index_codecs] == [BytesCodec, Crc32cCodec]
            and str(getattr(sharding.index_location, "value", sharding.index_location)) == "end"
            and array.chunks[1:] == array.shape[1:] == array.shards[1:]
        )

    def read(self, begin: int, end: int) -> npt.NDArray[Any] | None:
        """Read entries ``begin`` to ``end`` of the first axis; None: zarr should read them."""
        first, last = begin // self._chunk, -(-end // self._chunk)
        out = np.empty((last - first) * self._chunk * int(np.prod(self._shape[1:])), self._dtype)
        parts = memoryview(out.view(np.uint8))  # type: ignore[arg-type]
        size = len(parts) // (last - first)
        per_shard = self._shard // self._chunk
        for shard in range(first // per_shard, (last - 1) // per_shard + 1):
            low, high = max(first, shard * per_shard), min(last, (shard + 1) * per_shard)
            into = parts[(low - first) * size : (high - first) * size]
            if not self._read_shard(shard, low - shard * per_shard, high - shard * per_shard, into):
                return None
        frames = out.reshape(-1, *self._shape[1:])
        return frames[begin - first * self._chunk : end - first * self._chunk]

    def _read_shard(self, shard: int, low: int, high: int, out: memoryview) -> bool:
        key = f"{self._path}/{self._key((shard, *[0] * (len(self._shape) - 1)))}"
        size = len(out) // (high - low)
        try:
            content, start = None, 0
            try:
                if (low, high) == (0, self._shard // self._chunk):
                    content = self._bytes(key, 0)  # the whole, with its index, at once
                index = self._index_of(key, shard, content)
            except FileNotFoundError:
                if isinstance(self._store, LocalStore):
                    raise
                # Elsewhere each look costs a request.
                index = self._indices[shard] = np.full((self._shard // self._chunk, 2), -1, np.int64).view(np.uint64)
            if index is None:
                return False
            offsets, lengths = index[low:high, 0].astype(np.int64), index[low:high, 1].astype(np.int64)
            there = offsets >= 0  # others are not stored: all their values are the fill value
            if content is None and there.any():
                start, stop = int(offsets[there].min()), int((offsets + lengths)[there].max())
                if stop - start > 2 * int(lengths[there].sum()):
                    return False  # chunks far apart
                content = self._bytes(key, start, stop)
            for n, (offset, length) in enumerate(zip((offsets - start).tolist(), lengths.tolist(), strict=True)):
                target = out[n * size : (n + 1) * size]
                if there[n]:
                    assert content is not None
                    decompress(content[offset : offset + length], target)
                else:
                    np.frombuffer(target, self._dtype)[:] = self._fill
        except (OSError, RuntimeError, ValueError):
            return False
        return True

    def _bytes(self, key: str, start: int, stop: int | None = None) -> memoryview:
        """Return bytes of a file or object: up to `stop`, or to its end; where `start` is negative, the last ones."""
        if isinstance(self._store, RemoteStore):
            return self._store.part(key, start, stop)
        with (Path(self._store.root) / key).open("rb") as file:
            file.seek(start, 2 if start < 0 else 0)
            return memoryview(file.read(-1 if stop is None else stop - start))

    def _index_of(self, key: str, shard: int, whole: memoryview | None) -> Index | None:
        if shard not in self._indices:
            size = 16 * (self._shard // self._chunk) + 4
            # A copy: a view would keep the whole object.
            content = bytes(self._bytes(key, -size) if whole is None else whole[-size:])
            if google_crc32c.value(content[:-4]) != int.from_bytes(content[-4:], "little"):
                return None
            for former in list(self._indices)[: -_INDICES + 1]:
                self._indices.pop(former, None)  # as another thread may have done
            self._indices[shard] = np.frombuffer(content[:-4], "<u8").reshape(-1, 2)
        return self._indices.get(shard)
