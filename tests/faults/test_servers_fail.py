"""An object server that throttles, stalls or dies: what was read is right, or refused in one line in bounded time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_server import ObjectServer
from sequences import rain

from sa_nowcast.conversion import convert
from sa_nowcast.errors import StorageError
from sa_nowcast.sources import open_source
from sa_nowcast.storage import remote
from sa_nowcast.stream import SequenceDataset, loader

SMALL: dict[str, Any] = {"in_memory": False, "cache_bytes": 10_000}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "rain.zarr"
    convert(rain(60), path, frames_per_shard=6)
    return path


def _batches(source: object) -> list[np.ndarray[Any, Any]]:
    return [b.numpy() for b in loader(SequenceDataset(source, 4, 3, **SMALL), 8)]  # type: ignore[arg-type]


def test_a_throttled_read_is_right_after_retries_and_refused_when_they_do_not_help(
    s3: ObjectServer, store: Path
) -> None:
    address = s3.put(store, "data", "rain.zarr")
    s3.set(every=3)
    for ours, theirs in zip(_batches(address), _batches(store), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    dataset = SequenceDataset(address, 4, 3, **SMALL)
    s3.set(every=0, throttle=10_000)
    begin = time.monotonic()
    with pytest.raises(StorageError, match=r"throttles the requests \(503 SlowDown\) after 3 retries"):
        list(loader(dataset, 8))
    assert time.monotonic() - begin < 30


def test_a_server_that_is_killed_amid_an_epoch_is_told_of_in_one_line(s3: ObjectServer, store: Path) -> None:
    own = ObjectServer()
    address = own.put(store, "data", "rain.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", own.url)
        batches = iter(loader(SequenceDataset(address, 4, 3, **SMALL), 8))
        expected = _batches(store)
        np.testing.assert_array_equal(next(batches).numpy(), expected[0])
        own.kill()
        begin = time.monotonic()
        read: list[Any] = []
        with pytest.raises(StorageError, match="cannot be reached after 3 retries"):
            read.extend(batches)
    for batch, right in zip(read, expected[1:], strict=False):
        np.testing.assert_array_equal(batch.numpy(), right)
    assert time.monotonic() - begin < 30


@pytest.mark.slow
def test_a_server_that_stalls_is_given_up_in_bounded_time(
    s3: ObjectServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = s3.put(store, "data", "rain.zarr")
    monkeypatch.setattr(remote, "REQUEST_SECONDS", 2.0)
    monkeypatch.setattr(remote, "RETRY_SECONDS", 5.0)
    opened = open_source(address)
    s3.set(delay=30)
    begin = time.monotonic()
    with pytest.raises(StorageError, match="does not answer in time"):
        opened["rain"].load()
    assert time.monotonic() - begin < 25


@pytest.mark.slow
def test_loader_workers_tell_of_a_server_that_was_killed(s3: ObjectServer, store: Path) -> None:
    own = ObjectServer()
    address = own.put(store, "data", "rain.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", own.url)
        ours = loader(SequenceDataset(address, 4, 3, **SMALL), 8, workers=2)
        batches = iter(ours)
        next(batches)
        own.kill()
        with pytest.raises(StorageError, match="cannot be reached"):
            list(batches)
        ours.close()
