"""How the threads that torch computes with share the cores with what else runs on the machine.

OpenMP's threads wait for each other at the end of every parallel loop. GNU's runtime, which torch's Linux builds bring,
lets them spin for some milliseconds before they sleep. Where other processes want the same cores, a spinning thread
burns the time slice that the thread it waits for needs, and a training step takes 20 times as long instead of 3 to 4.
So threads spin shortly; and while others want the cores, they hardly spin at all and keep to the cores that are left.
Their number does not change with the machine's load, for sums that are split otherwise are rounded otherwise. Figures:
``tests/benchmarks/busy.py`` and docs/log.md.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Collection, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SPINNING: Final = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""Environment variables of GNU's, and of LLVM's and Intel's runtime (milliseconds), where the user set neither.

10,000 turns are some 0.1 ms: idle cores keep the pace of long spinning, which 1,000 do not."""
_POLICY: Final = "OMP_WAIT_POLICY"

_LEAST_LOOK, _LONGEST_LOOK = 1.0, 10.0
"""Seconds between two looks at the machine: counters move by 10 ms, and what was long ago says little."""
_CROWDED, _FREE = 0.5, 0.25
"""Cores that others take from our threads: from so many on it is crowded, and below so many no more."""
_LINGER = 1.0
"""Seconds without work after which all is as it was: forecasts in a row need not begin anew each time."""
_SPLIT = 2**15  # elements for which torch begins another thread
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_told_by_user = False


def shorten_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set `SPINNING` unless the user said how threads wait; child processes inherit it.

    It has an effect in this process where no OpenMP runtime has been loaded yet: before torch is imported. Where torch
    came first, `sharing_cores` ends the spinning all the same while others want the cores.
    """
    global _told_by_user
    ours = all(environment.get(name, value) == value for name, value in SPINNING.items())
    _told_by_user = _POLICY in environment or not ours
    if not _told_by_user:
        environment.update(SPINNING)


def cores() -> int:
    """Return how many cores this process may use: by its affinity, and by the quota of its container (cgroup)."""
    return max(1, math.ceil(min(len(_sharing.mask()), _quota())))


def _quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the cores that the cgroup's quota allows, of version 2 or 1; infinity where there is none."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (float(v) for name in names for v in (root / name).read_text().split())
            if quota > 0 and period > 0:
                return quota / period
    return math.inf


@dataclass(frozen=True)
class Look:
    """The machine at a moment.

    Attributes
    ----------
    time : float
    busy, own : float
        Processor seconds up to now: of all processes on this process's cores; of this process and its children.
    running : float
        Threads that run or wait for a core now, this one among them, as this process's cores' share.
    """

    time: float
    busy: float
    own: float
    running: float

    @classmethod
    def now(cls, cpus: Collection[int]) -> Look | None:
        """Look at these cores; None where the machine does not tell, as systems other than Linux."""
        try:
            mine = {f"cpu{n}" for n in cpus}
            rows = {row.split()[0]: row.split()[1:] for row in Path("/proc/stat").read_text().splitlines()}
            own = time.process_time()
            for child in Path("/proc/self/task").glob("*/children"):
                for number in child.read_text().split():
                    with contextlib.suppress(OSError):
                        after_name = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
                        own += sum(map(int, after_name[11:13])) / _TICKS
            # user, nice, system, then irq, softirq and steal; idle and iowait are left out.
            busy = sum(int(n) for cpu in mine for n in (*rows[cpu][:3], *rows[cpu][5:8])) / _TICKS
            running = int(rows["procs_running"][0]) * len(mine) / (os.cpu_count() or 1)
        except (OSError, ValueError, KeyError, IndexError):
            return None
        return cls(time.monotonic(), busy, own, running)


@dataclass
class _Sharing:
    """Ends the spinning while others want the cores, and keeps torch's threads to those that are left.

    GNU's runtime has no call for it, but its manual says (libgomp, GOMP_SPINCOUNT) that threads spin a hundred turns at
    most while a process has more of them than cores. So they are made more: by Python threads that have computed with
    torch once, and whose OpenMP threads sleep as long as they live.

    Threads on fewer cores than there are threads wait for each other no longer than for a change of turns; spread over
    cores that others want too, each waits for the slowest.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    inside: dict[int, int] = field(default_factory=dict)
    """How often each Python thread, by its number in the system, has entered."""
    look: Look | None = None
    crowd: threading.Event | None = None
    """Set to end the threads that make more; None where there are none."""
    kept_to: set[int] | None = None
    """The cores that threads are kept to while there is a crowd."""
    all_cores: set[int] = field(default_factory=set)
    left: float | None = None
    """Cores that others left at the last look, where these were too few."""
    rested: float = 0.0
    """When the last thread left."""

    def mask(self) -> set[int]:
        """Return the cores of this process, as they were before any thread was kept to some of them."""
        if self.kept_to is not None:
            return self.all_cores
        if hasattr(os, "sched_getaffinity"):
            return os.sched_getaffinity(0)
        return set(range(os.cpu_count() or 1))

    def enter(self) -> None:
        """Let the calling thread take part."""
        with self.lock:
            me = threading.get_native_id()
            self.inside[me] = self.inside.get(me, 0) + 1
            self.fit()
            if len(self.inside) > 1:
                self._spread()  # what several threads compute does not wait for each other
            elif self.kept_to is not None:
                _keep_to(self.kept_to, me)

    def leave(self) -> None:
        """Let it go; some time after the last one, all is as it was."""
        with self.lock:
            me = threading.get_native_id()
            self.inside[me] -= 1
            if self.inside[me]:
                return
            del self.inside[me]
            if self.kept_to is not None:
                _keep_to(self.all_cores, me)
            self.rested = time.monotonic()

    def fit(self) -> None:
        """Look at the machine, and make a crowd or end it where that has changed."""
        import torch

        with self.lock:
            threads = torch.get_num_threads()
            if threads < 2:
                return
            others = self._others()
            if others is None:
                if self.left is None or self.crowd is not None:
                    return
                free = self.left
            else:
                free = cores() - others
                if free >= threads - (_CROWDED if self.crowd is None else _FREE):
                    self.left = None
                    self.free()
                    return
                self.left = free
            if self.crowd is None:
                self._crowd(threads)
                self._keep(max(1, min(threads - 1, math.floor(free + 0.5))))

    def free(self) -> None:
        """Let threads spin as long as they were set to, on all cores."""
        if self.crowd is not None:
            self.crowd.set()
            self.crowd = None
        self._spread()

    def _spread(self) -> None:
        if self.kept_to is not None:
            for thread in _threads():
                with contextlib.suppress(OSError):
                    if os.sched_getaffinity(thread) == self.kept_to:
                        os.sched_setaffinity(thread, self.all_cores)
            self.kept_to = None

    def in_child(self) -> None:
        """Begin anew in a process that was forked meanwhile, such as a loader's worker."""
        if self.kept_to is not None:
            _keep_to(self.all_cores, 0)
        self.__init__()  # type: ignore[misc]

    def _keep(self, count: int) -> None:
        if not hasattr(os, "sched_setaffinity") or len(self.inside) > 1:
            return
        mask = sorted(self.mask())
        first = os.getpid() % len(mask)  # so that several processes do not choose the same
        self.all_cores, self.kept_to = set(mask), {mask[(first + i) % len(mask)] for i in range(count)}
        python = {thread.native_id for thread in threading.enumerate()} - self.inside.keys()
        for thread in _threads():
            if thread not in python:
                _keep_to(self.kept_to, thread)

    def _crowd(self, threads: int) -> None:
        import torch

        over, ready = threading.Event(), threading.Semaphore(0)

        def idle() -> None:
            torch.ones(_SPLIT * threads * 2).add_(1)
            ready.release()
            while not over.wait(_LINGER):
                with self.lock:
                    if self.crowd is over and not self.inside and time.monotonic() - self.rested >= _LINGER:
                        self.free()

        count = math.ceil((len(self.mask()) + 1 - threads) / (threads - 1))
        for _ in range(count):
            threading.Thread(target=idle, name="sa_nowcast crowd", daemon=True).start()
        for _ in range(count):
            ready.acquire()
        self.crowd = over

    def _others(self) -> float | None:
        """Return how many cores other processes want now; None where that is not known, or was just looked at."""
        before = self.look
        if before is not None and time.monotonic() - before.time < _LEAST_LOOK:
            return None
        mask = self.mask()
        self.look = after = Look.now(mask)
        if before is None or after is None:
            return None
        passed, own = after.time - before.time, after.own - before.own
        if passed <= _LONGEST_LOOK and own > passed / 2:
            return max(after.busy - before.busy - own, 0.0) / passed
        # This process has rested meanwhile, and what others did then says nothing of now.
        time.sleep(0.001)
        again = Look.now(mask) or after
        return max(min(after.running, again.running) - 1, 0.0)


def _threads() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc/self/task")]
    return []


def _keep_to(cpus: set[int], thread: int) -> None:
    with contextlib.suppress(OSError):  # the thread has ended, or the cores are not this process's any more
        os.sched_setaffinity(thread, cpus)


_sharing = _Sharing()
_sharing.look = Look.now(_sharing.mask())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_sharing.in_child)


def look_again() -> None:
    """Look whether others want the cores, once a second at most: within `sharing_cores`, in work that takes minutes."""
    if not _told_by_user:
        _sharing.fit()


@contextlib.contextmanager
def sharing_cores() -> Iterator[None]:
    """Compute beside what else runs on the machine; a second or two afterwards all of the process is as it was.

    While others want the cores, torch's threads hardly spin and keep to the cores that are left. The calling thread
    has as many of torch's threads as before, but no more than the cores that the container allows (`cores`), which
    torch does not know of. Where the user said how threads wait (``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT`` or
    ``KMP_BLOCKTIME``), nothing of this is done but the last.
    """
    import torch

    before, most = torch.get_num_threads(), cores()
    if before > most:
        torch.set_num_threads(most)
    if not _told_by_user:
        _sharing.enter()
    try:
        yield
    finally:
        if not _told_by_user:
            _sharing.leave()
        if before > most:
            torch.set_num_threads(before)
