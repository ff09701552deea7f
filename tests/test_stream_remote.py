"""Stores that are not on a local disk give the same batches; here they lie in fsspec's memory and in Zarr's."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from object_server import ObjectServer
from sequences import rain
from zarr.storage import FsspecStore, MemoryStore

from sa_nowcast.errors import DataError
from sa_nowcast.stream import SequenceDataset, StepSampler, batches, loader
from sa_nowcast.stream.ahead import THREADS
from sa_nowcast.stream.blocks import ZarrBlocks

SMALL: dict[str, Any] = {"in_memory": False, "cache_bytes": 20_000, "crop": 8, "seed": 5}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "rain.zarr"
    data = rain(60).where(np.random.default_rng(0).random((60, 24, 20)) > 0.1)
    encoding = {
        "dtype": "int16", "scale_factor": 0.01, "_FillValue": -1, "chunks": (1, 24, 20), "shards": (8, 24, 20),
        "compressors": zarr.codecs.ZstdCodec(checksum=True),
    }  # fmt: skip
    data.to_dataset().to_zarr(path, zarr_format=3, consolidated=True, encoding={"rain": encoding})
    return path


@pytest.fixture
def folder(local: Path) -> Iterator[str]:
    """The store in fsspec's memory filesystem, which is one for the whole process."""
    memory, name = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}.zarr"
    memory.put(str(local), name, recursive=True)
    yield name
    memory.rm(name, recursive=True)


def as_url(folder: str, local: Path) -> Any:
    return f"memory:/{folder}"


def as_fsspec_store(folder: str, local: Path) -> Any:
    return FsspecStore.from_url(f"memory:/{folder}", read_only=True)


def as_memory_store(folder: str, local: Path) -> Any:
    files = {str(f.relative_to(local)): f.read_bytes() for f in local.rglob("*") if f.is_file()}
    buffer = zarr.core.buffer.default_buffer_prototype().buffer
    return MemoryStore({name: buffer.from_bytes(content) for name, content in files.items()}, read_only=True)


def as_opened(folder: str, local: Path) -> Any:
    return xr.open_zarr(f"memory:/{folder}", chunks=None)


@pytest.mark.parametrize("make", [as_url, as_fsspec_store, as_memory_store, as_opened])
def test_a_store_elsewhere_streams_the_batches_of_a_local_one(
    make: Callable[[str, Path], Any], folder: str, local: Path
) -> None:
    remote, here = SequenceDataset(make(folder, local), 4, 3, **SMALL), SequenceDataset(local, 4, 3, **SMALL)
    assert isinstance(remote._reader.blocks[0], ZarrBlocks)  # type: ignore[attr-defined]
    assert len(remote) == len(here) == 54
    for ours, theirs in zip(loader(remote, 8), loader(here, 8), strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()


def test_a_process_that_receives_such_a_dataset_opens_the_store_again(folder: str, local: Path) -> None:
    remote = SequenceDataset(as_url(folder, local), 4, 3, **SMALL)
    sent = pickle.dumps(remote)
    assert len(sent) < 10_000
    again = pickle.loads(sent)  # noqa: S301
    for ours, theirs in zip(batches(again, StepSampler(3, 5)), batches(remote, StepSampler(3, 5)), strict=True):
        assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))


def test_a_damaged_chunk_elsewhere_is_named_with_variable_and_time(folder: str, local: Path) -> None:
    memory, key = fsspec.filesystem("memory"), f"{folder}/rain/c/2/0/0"
    content = bytearray(memory.cat(key))
    content[len(content) // 2] ^= 4
    memory.pipe(key, bytes(content))
    with pytest.raises(DataError, match=r"DATA rain, 2020-06-01T0[12]:\d\d: storage could not give the values"):
        list(loader(SequenceDataset(as_url(folder, local), 4, 3, **SMALL)))


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_object_store_gives_the_batches_of_a_folder_and_each_object_once(
    sharded: bool, shuffle: bool, s3: ObjectServer, tmp_path: Path
) -> None:
    path, data = tmp_path / "rain.zarr", rain(160, 8, 8)
    data += 1  # dry chunks would not be stored
    encoding: dict[str, Any] = {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1, "chunks": (2, 8, 8)}
    encoding |= {"shards": (20, 8, 8) if sharded else None, "compressors": zarr.codecs.ZstdCodec(checksum=True)}
    data.to_dataset().to_zarr(path, zarr_format=3, consolidated=True, encoding={"rain": encoding})
    address, how = s3.put(path, "data", f"{sharded}.zarr"), {"in_memory": False, "cache_bytes": 9000, "seed": 3}
    remote, here = (SequenceDataset(p, 2, 2, stride=4, shuffle=shuffle, **how) for p in (address, path))  # type: ignore[arg-type]
    assert not here.layout.whole
    s3.set(delay=0.02)
    theirs = [b.numpy().tobytes() for b in loader(here, 8)]
    assert [b.numpy().tobytes() for b in loader(remote, 8)] == theirs
    reads = {key: number for key, number in s3.reads().items() if "/rain/c/" in key}
    assert len(reads) == (8 if sharded else 80)
    # A shard larger than a cell is asked for its index, by all threads that come to it at once, and for each cell.
    assert sum(reads.values()) <= (80 + THREADS * len(reads) if sharded else len(reads))
