"""Tasks on threads of this process, or on a dask cluster whose workers may die, all of them too."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sa_nowcast.errors import Interrupted, ModelError, RecipeError
from sa_nowcast.sources.reading import require

ANSWER_WITHIN: Final = 10.0
"""Seconds in which a scheduler has to answer."""
LOOK_EVERY: Final = 5.0
"""Seconds between two looks at whether there are workers at all."""
NONE_COME: Final = 60.0
"""Seconds without any worker after which a call ends if the cluster starts none itself, and else warns."""
ALL_LOST: Final = 600.0
"""Seconds without any worker after which a call ends where it is not known whether the scheduler will have others."""
MEMORY: Final = "sa_nowcast bytes"
"""The resource of dask's workers that says how much tasks may take."""
_START = "start a scheduler and its workers, then run the same again to go on"


@contextlib.contextmanager
def client_of(cluster: Any) -> Iterator[Any]:
    """Yield a dask client: the one that is given, or one of the cluster or scheduler address that is given.

    `RecipeError` where no scheduler answers, `MissingLibraryError` where dask's distributed is not installed.
    """
    distributed = require("distributed", "cluster")
    if isinstance(cluster, distributed.Client):
        yield cluster
        return
    try:
        client = distributed.Client(cluster, timeout=ANSWER_WITHIN, set_as_default=False)
    except (OSError, ValueError, TypeError, TimeoutError) as error:
        raise RecipeError(
            "cluster", f"no dask scheduler answers at {cluster} ({error})", expected="tcp://host:port"
        ) from error
    with client:
        yield client


def dask_threads() -> int:
    """Return how many threads compute what is lazy: those of the active client's workers, or of this process."""
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        with contextlib.suppress(ValueError):  # no client
            return sum(distributed.Client.current().nthreads().values())
    return os.cpu_count() or 1


async def _declare(room: Callable[[int | None], int], dask_worker: Any) -> int:
    """Declare on a worker how much tasks may take, and return it; its heartbeat goes on while libraries are loaded."""
    found = await asyncio.to_thread(room, dask_worker.memory_manager.memory_limit)
    await dask_worker.set_resources(**{MEMORY: max(found, 0)})
    return found


def _declared(dask_scheduler: Any) -> list[str]:
    return [address for address, worker in dask_scheduler.workers.items() if MEMORY in worker.resources]


def _mib(size: int) -> str:
    return f"{-(-size // 2**20)} MiB"


Call = tuple[Any, str, Callable[..., Any], tuple[Any, ...]]
"""A task: what tells it from others, what errors call it, a function and its arguments."""


@dataclass
class _Threads:
    """Tasks on threads of this process, as `Tasks` are on a cluster."""

    pool: concurrent.futures.Executor
    count: int

    def require_room(self) -> None:
        """Nothing is known of it here."""

    def at_once(self) -> int:
        return 2 * self.count

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.pool.submit(function, *args)

    def first_of(self, running: Collection[Any]) -> list[Any]:
        return list(concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done)

    def result(self, future: Any, label: str) -> Any:
        return future.result()

    def stop(self, running: Collection[Any]) -> None:
        for future in running:
            future.cancel()
        concurrent.futures.wait(running)


@dataclass(frozen=True)
class Needs:
    """What each task takes of a worker's memory."""

    bytes: int
    room: Callable[[int | None], int]
    """Called on a worker, with its limit: the bytes that tasks may take there beside what its process has."""
    smaller: Callable[[int], str]
    """Returns how to make tasks that take at most so many bytes, as an instruction; empty where none is known."""


@contextlib.contextmanager
def tasks_on(
    cluster: Any, store: str, smaller: str, threads: int = 1, needs: Needs | None = None
) -> Iterator[_Threads | Tasks]:
    """Yield tasks on a cluster (see `client_of`), or on so many threads here where it is None."""
    if cluster is None:
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            yield _Threads(pool, threads)
    else:
        with client_of(cluster) as client:
            yield Tasks(client, store, smaller, needs)


def results_of(tasks: _Threads | Tasks, calls: Iterable[Call]) -> Iterator[tuple[Any, Any]]:
    """Do tasks, a few at a time, for their arguments may be large; yield what each is told by, and what it gave."""
    waiting = iter(calls)
    running: dict[Any, tuple[Any, str]] = {}
    try:
        while True:
            at_once = tasks.at_once()
            while len(running) < at_once and (following := next(waiting, None)) is not None:
                key, label, function, args = following
                running[tasks.submit(function, *args)] = key, label
            if not running:
                return
            for future in tasks.first_of(running):
                key, label = running.pop(future)
                yield key, tasks.result(future, label)
    finally:
        tasks.stop(running)


@dataclass
class Tasks:
    """Tasks on a cluster that write parts of one store."""

    client: Any  # distributed.Client
    store: str
    """What errors name."""
    smaller: str
    """What makes a task smaller, for the remedy where workers die of one."""
    needs: Needs | None = None
    """Given, a task goes to workers that can hold it, and as many to each as it can hold."""
    _rooms: dict[str, int] = field(default_factory=dict, init=False)
    _seen: bool = field(default=False, init=False)
    _alone_since: float | None = field(default=None, init=False)
    _warned: bool = field(default=False, init=False)

    def at_once(self) -> int:
        """Return how many to have under way: two a thread, so that none waits for the next."""
        threads = self._threads()
        return max(2, 2 * sum(threads.values()))

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Start one; return its future."""
        resources = None if self.needs is None else {MEMORY: self.needs.bytes}
        return self.client.submit(function, *args, pure=False, resources=resources)

    def require_room(self) -> None:
        """Raise `ModelError` where there are workers, and none of them can hold a task."""
        if self._threads() and self.needs is not None and (lacking := self._lacking()) > 0:
            smaller = self.needs.smaller(self.needs.bytes - lacking)
            raise ModelError(
                self.store,
                self._needed(),
                expected=self._largest(),
                fix=(f"{smaller}, or " if smaller else "") + f"start workers with {_mib(lacking)} more",
            )

    def _lacking(self) -> int:
        """Return the bytes that the largest worker has too few to hold a task; 0 where none is known."""
        return self.needs.bytes - max(self._rooms.values()) if self.needs is not None and self._rooms else 0

    def _needed(self) -> str:
        assert self.needs is not None
        return f"each task needs about {_mib(self.needs.bytes)} of a worker's memory"

    def _largest(self) -> str:
        most = max(0, *self._rooms.values())
        return f"at most the {_mib(most)} that the largest of {len(self._rooms)} workers has beside its process"

    def first_of(self, running: Collection[Any]) -> list[Any]:
        """Wait until one ends; return all that have. `Interrupted`: no worker is there or to come, or no scheduler."""
        distributed = require("distributed", "cluster")
        while True:
            try:
                with self.client.as_current():
                    ended = list(distributed.wait(list(running), LOOK_EVERY, return_when="FIRST_COMPLETED").done)
            except TimeoutError:
                self._look()
            except (concurrent.futures.CancelledError, distributed.CancelledError) as error:
                raise self._gone() from error
            else:
                self._met_workers()
                return ended

    def result(self, future: Any, label: str) -> Any:
        """Return what the task `label` gave, or raise what it raised.

        `Interrupted` where several workers died of it, or the cluster gave it up.
        """
        distributed = require("distributed", "cluster")
        try:
            return future.result()
        except distributed.KilledWorker as error:
            raise Interrupted(
                self.store,
                f"several workers died on {label}",
                fix=f"give workers more memory or use a smaller {self.smaller}, then run the same again to go on",
            ) from error
        except (concurrent.futures.CancelledError, distributed.CancelledError) as error:
            raise self._gone(label) from error

    def stop(self, running: Collection[Any]) -> None:
        """Give up what is under way."""
        with contextlib.suppress(OSError):  # no scheduler, no tasks
            self.client.cancel([future for future in running if future.status != "finished"], force=True)

    def _gone(self, label: str = "its tasks") -> Interrupted:
        return Interrupted(self.store, f"the cluster gave {label} up", fix=_START)

    def _threads(self) -> dict[str, int]:
        """Return how many threads each worker has."""
        try:
            threads: dict[str, int] = self.client.nthreads()
        except OSError as error:
            raise Interrupted(
                self.store,
                "the dask scheduler does not answer any more",
                fix=_START,
            ) from error
        if self.needs is not None:
            # A worker that was started again at the same address has declared nothing.
            declared = self.client.run_on_scheduler(_declared)
            self._rooms = {worker: room for worker, room in self._rooms.items() if worker in declared}
            if new := [worker for worker in threads if worker not in self._rooms]:
                told = self.client.run(_declare, self.needs.room, workers=new, on_error="ignore")
                self._rooms |= {worker: room for worker, room in told.items() if isinstance(room, int)}
        return threads

    def _met_workers(self) -> None:
        self._seen, self._alone_since, self._warned = True, None, False

    def _look(self) -> None:
        """Return where there is a worker or one may come, with a warning where that takes long."""
        now = time.monotonic()
        if self._threads() and self._lacking() <= 0:
            self._met_workers()
            return
        self._alone_since = self._alone_since or now
        alone = now - self._alone_since
        if alone < NONE_COME:
            return
        if (lacking := self._lacking()) > 0:  # those that could are gone, and nobody started them again
            fix = f"start workers with {_mib(lacking)} more, then run the same again to go on"
            raise Interrupted(self.store, self._needed(), expected=self._largest(), fix=fix)
        cluster = self.client.cluster
        known = getattr(cluster, "workers", None)
        adaptive = getattr(cluster, "_adaptive", None) is not None
        # Of an address, or a cluster of another make, it is not known whether others come.
        if (self._seen and alone >= ALL_LOST) if known is None else (not known and not adaptive):
            raise Interrupted(
                self.store,
                f"the cluster has had no worker for {alone:.0f} s",
                expected="at least one",
                fix="start workers, such as by cluster.scale(2), then run the same again to go on",
            )
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self.store} waits for workers: the cluster has had none for {alone:.0f} s", stacklevel=2)
