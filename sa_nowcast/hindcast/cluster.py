"""The clusters whose workers write an archive."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from sa_nowcast.errors import Interrupted, RecipeError
from sa_nowcast.hindcast.shard import Shard
from sa_nowcast.sources.optional import require


def first_of(client: Any, running: Mapping[Any, Any]) -> list[Any]:
    """Wait until one task ends; return all that have."""
    distributed = require("distributed", "cluster")
    with client.as_current():
        return list(distributed.wait(list(running), return_when="FIRST_COMPLETED").done)


def result_of(future: Any, shard: Shard) -> dict[str, Any]:
    """Return what a task gave, or say in one line what became of its worker."""
    distributed = require("distributed", "cluster")
    try:
        entry: dict[str, Any] = future.result()
    except distributed.KilledWorker as error:
        raise Interrupted(
            shard.store, f"several workers died on {shard.label}",
            fix="give workers more memory or use a smaller batch_size, then run the same again to go on",
        ) from error  # fmt: skip
    except (concurrent.futures.CancelledError, distributed.CancelledError) as error:
        raise Interrupted(
            shard.store,
            f"the cluster gave {shard.label} up",
            fix="see to the cluster, then run the same again to go on",
        ) from error
    return entry


@contextlib.contextmanager
def client_of(cluster: Any) -> Iterator[Any]:
    """Yield a dask client: the one that is given, or one of the cluster or scheduler address that is given."""
    distributed = require("distributed", "cluster")
    if isinstance(cluster, distributed.Client):
        yield cluster
        return
    try:
        client = distributed.Client(cluster, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TypeError, TimeoutError) as error:
        raise RecipeError(
            "cluster", f"no dask scheduler answers at {cluster} ({error})", expected="tcp://host:port"
        ) from error
    with client:
        yield client
