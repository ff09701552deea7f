"""Dask clusters: their clients, and tasks that survive the loss of workers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sa_nowcast.errors import Interrupted, RecipeError
from sa_nowcast.sources.reading import require

ANSWER_WITHIN: Final = 10.0
"""Seconds in which a scheduler has to answer."""
LOOK_EVERY: Final = 5.0
"""Seconds between two looks at whether there are workers at all."""
NONE_COME: Final = 60.0
"""Seconds without any worker after which a call ends if the cluster starts none itself, and else warns."""
ALL_LOST: Final = 600.0
"""Seconds without any worker after which a call ends where it is not known whether the scheduler will have others."""
_START = "start a scheduler and its workers, then run the same again to go on"


@contextlib.contextmanager
def client_of(cluster: Any) -> Iterator[Any]:
    """Yield a dask client: the one that is given, or one of the cluster or scheduler address that is given.

    Raises
    ------
    RecipeError
        No scheduler answers.
    MissingLibraryError
        dask's distributed is not installed.
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


@dataclass
class Tasks:
    """Tasks on a cluster that write parts of one store.

    Parameters
    ----------
    client : distributed.Client
    store : str
        What errors name.
    smaller : str
        What makes a task smaller, for the remedy where workers die of one.
    """

    client: Any
    store: str
    smaller: str
    _seen: bool = field(default=False, init=False)
    _alone_since: float | None = field(default=None, init=False)
    _warned: bool = field(default=False, init=False)

    def at_once(self) -> int:
        """Return how many to have under way: two a thread, so that none waits for the next."""
        threads = self._threads()
        return max(2, 2 * sum(threads.values()))

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Start one; return its future."""
        return self.client.submit(function, *args, pure=False)

    def first_of(self, running: Collection[Any]) -> list[Any]:
        """Wait until one ends; return all that have.

        Raises
        ------
        Interrupted
            There is no worker left and none to come, or the scheduler is gone.
        """
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
        """Return what a task gave that is called `label`.

        Raises
        ------
        Interrupted
            Several workers died of it, or the cluster gave it up.
        Exception
            What the task raised.
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

    def stop(self, running: Collection[Any]) -> list[Any]:
        """Give up what is under way; return those that had ended."""
        ended = [future for future in running if future.status == "finished"]
        with contextlib.suppress(OSError):  # no scheduler, no tasks
            self.client.cancel([future for future in running if future not in ended], force=True)
        return ended

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
        return threads

    def _met_workers(self) -> None:
        self._seen, self._alone_since, self._warned = True, None, False

    def _look(self) -> None:
        """Return where there is a worker or one may come, with a warning where that takes long."""
        now = time.monotonic()
        if self._threads():
            self._met_workers()
            return
        self._alone_since = self._alone_since or now
        alone = now - self._alone_since
        if alone < NONE_COME:
            return
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
