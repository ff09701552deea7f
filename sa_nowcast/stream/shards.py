"""Chunks of a local Zarr format 3 store, straight from their files.

zarr reads a part of a shard chunk by chunk, at half the pace of a whole shard. What `sa_nowcast.convert` writes, and
other stores with the same codecs, can be had faster: the shard's index is read once, all bytes that are wanted in one
piece, and every chunk is decompressed to where its frames belong. Whatever is not as expected here is left to zarr,
which reads it or says what is wrong.

The layout of a shard and its index is that of the specification,
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.zstd import decompress
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
from zarr.storage import LocalStore

Index = npt.NDArray[np.uint64]


class ShardReader:
    """Reads whole frames of an array whose chunks are one or more whole frames along the first axis.

    Parameters
    ----------
    array : zarr.Array
        One for which `readable` holds.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._folder = Path(array.store.root) / array.path  # type: ignore[attr-defined]
        self._key = array.metadata.encode_chunk_key
        self._dtype, self._shape = array.dtype, array.shape
        self._chunk = int(array.chunks[0])
        self._shard = int((array.shards or array.chunks)[0])
        self._index: tuple[int, Index] | None = None

    @staticmethod
    def readable(array: zarr.Array[Any]) -> bool:
        """Whether the array's chunks and codecs are the ones that are read here."""
        if array.metadata.zarr_format != 3 or type(array.store) is not LocalStore or array.shards is None:
            return False
        codecs = array.metadata.codecs
        if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec) or array.ndim < 2:
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
        key = self._key((shard, *[0] * (len(self._shape) - 1)))
        size = len(out) // (high - low)
        try:
            with (self._folder / key).open("rb") as file:
                index = self._index_of(file, shard)
                if index is None:
                    return False
                offsets, lengths = index[low:high, 0].astype(np.int64), index[low:high, 1].astype(np.int64)
                start, stop = int(offsets.min()), int((offsets + lengths).max())
                if start < 0 or stop - start > 2 * int(lengths.sum()):
                    return False  # a chunk that is not stored, or chunks far apart
                file.seek(start)
                content = memoryview(file.read(stop - start))
            pieces = [content[o : o + n] for o, n in zip((offsets - start).tolist(), lengths.tolist(), strict=True)]
            targets = [out[n * size : (n + 1) * size] for n in range(len(pieces))]
            for piece, target in zip(pieces, targets, strict=True):
                decompress(piece, target)
        except (OSError, RuntimeError, ValueError):
            return False
        return True

    def _index_of(self, file: Any, shard: int) -> Index | None:
        if self._index is None or self._index[0] != shard:
            entries = self._shard // self._chunk
            file.seek(-(16 * entries + 4), 2)
            content = file.read()
            if google_crc32c.value(content[:-4]) != int.from_bytes(content[-4:], "little"):
                return None
            self._index = shard, np.frombuffer(content[:-4], "<u8").reshape(entries, 2)
        return self._index[1]
