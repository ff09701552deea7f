"""Dask workers with limits of memory, in threads of this process or as processes of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import dask

MiB = 2**20


@contextlib.contextmanager
def workers_of(*limits: int, processes: bool = False) -> Iterator[Any]:
    """A cluster with a worker for each limit in bytes; those in threads do not look at it, for they share a process."""
    import distributed

    watches = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause", "terminate")}
    options = {"nthreads": 1, "silence_logs": 50}
    spec = {
        number: {
            "cls": distributed.Nanny if processes else distributed.Worker,
            "options": {**options, "memory_limit": limit},
        }
        for number, limit in enumerate(limits)
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard": False, "dashboard_address": ":0"}}
    with (
        dask.config.set({} if processes else watches),  # type: ignore[no-untyped-call]
        distributed.SpecCluster(workers=spec, scheduler=scheduler, silence_logs=50) as cluster,
    ):
        yield cluster


def hold(size: int) -> str:
    """Take memory; return the address of the worker that this runs on."""
    from distributed import get_worker

    taken = bytearray(size)
    taken[::4096] = b"1" * len(taken[::4096])
    address: str = get_worker().address
    return address
