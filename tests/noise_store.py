"""A large radar store of noise for benchmarks: few shards are made, the rest stand for copies of them."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr


def write(path: Path, *, size: int, shard: int, shards: int, distinct: int, consolidated: bool) -> None:
    """Write the metadata of all shards, and the values of the first `distinct` ones.

    int16 packed with scale and fill value, a frame a chunk, `shard` frames a shard, Zstandard with checksum; noise that
    compresses to about five sixths.
    """
    frames = shard * shards
    zeros = da.zeros((frames, size, size), np.float32, chunks=(shard, -1, -1))
    times = pd.date_range("2020-01-01", periods=frames, freq="5min")
    places = {"y": np.arange(size)[::-1] * 1e3, "x": np.arange(size) * 1e3}
    template = xr.Dataset({"rain": (("time", "y", "x"), zeros, {"units": "mm h-1"})}, {"time": times, **places})
    template.to_zarr(
        path, compute=False, zarr_format=3, consolidated=consolidated,
        encoding={
            "rain": {
                "dtype": "int16", "scale_factor": 0.01, "_FillValue": -1, "chunks": (1, size, size),
                "shards": (shard, size, size), "compressors": zarr.codecs.ZstdCodec(level=3, checksum=True),
            }
        },
    )  # fmt: skip
    array = zarr.open_array(path, path="rain", mode="r+")
    rng = np.random.default_rng(0)
    for number in range(distinct):
        values = rng.integers(-1, 3000, (shard, size, size)).astype(np.int16)
        array[number * shard : (number + 1) * shard] = values
