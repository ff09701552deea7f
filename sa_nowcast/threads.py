"""How long the threads that torch computes with spin while they wait for each other, and how many there are at most.

OpenMP's threads wait for each other at the end of every parallel loop. GNU's runtime, which torch's Linux builds bring,
lets them spin for some milliseconds before they sleep. Where other processes want the same cores, a spinning thread
burns the time slice that the thread it waits for needs, and a training step takes 20 times as long instead of 4. So
threads spin shortly, and hardly at all while others want the cores. Their number does not change with the machine's
load, for sums that are split otherwise are rounded otherwise. Figures: ``tests/benchmarks/busy.py`` and docs/log.md.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator, MutableMapping
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
_SPLIT = 2**15  # elements for which torch begins another thread
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_told_by_user = False


def shorten_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set `SPINNING` unless the user said how threads wait; child processes inherit it.

    It has an effect in this process where no OpenMP runtime has been loaded yet: before torch is imported. Where torch
    came first, `sharing_cores` still ends the spinning while others want the cores.
    """
    global _told_by_user
    ours = all(environment.get(name, value) == value for name, value in SPINNING.items())
    _told_by_user = _POLICY in environment or not ours
    if not _told_by_user:
        environment.update(SPINNING)


def cores() -> int:
    """Return how many cores this process may use: by its affinity, and by the quota of its container (cgroup)."""
    return max(1, math.ceil(min(_affinity(), _quota())))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    def now(cls) -> Look | None:
        """Look at the machine; None where it does not tell, as systems other than Linux."""
        try:
            mine = {f"cpu{n}" for n in os.sched_getaffinity(0)}
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
        except (OSError, AttributeError, ValueError, KeyError, IndexError):
            return None
        return cls(time.monotonic(), busy, own, running)


@dataclass
class _Spinning:
    """Ends the spinning while others want the cores that torch's threads compute on, and lets it begin again.

    GNU's runtime has no call for it, but its manual says (libgomp, GOMP_SPINCOUNT) that threads spin a hundred turns at
    most while a process has more of them than cores. So they are made more: by Python threads that have computed with
    torch once, and whose OpenMP threads sleep as long as they live.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    look: Look | None = field(default_factory=lambda: Look.now())
    over: threading.Event | None = None
    """Set to end the threads that make a crowd; None where there are none."""

    def fit(self) -> None:
        """Look at the machine, and crowd or free it where that has changed."""
        import torch

        with self.lock:
            threads = torch.get_num_threads()
            others = self._others() if threads > 1 else None
            if others is None:
                return
            taken = others - (cores() - threads)
            if self.over is None and taken >= _CROWDED:
                self._crowd(threads)
            elif self.over is not None and taken < _FREE:
                self.free()

    def free(self) -> None:
        """Let threads spin as long as they were set to."""
        if self.over is not None:
            self.over.set()
            self.over = None

    def _crowd(self, threads: int) -> None:
        import torch

        over, ready = threading.Event(), threading.Semaphore(0)

        def idle() -> None:
            torch.ones(_SPLIT * threads * 2).add_(1)
            ready.release()
            over.wait()

        count = math.ceil((_affinity() + 1 - threads) / (threads - 1))
        for _ in range(count):
            threading.Thread(target=idle, name="sa_nowcast crowd", daemon=True).start()
        for _ in range(count):
            ready.acquire()
        self.over = over

    def _others(self) -> float | None:
        """Return how many cores other processes want now; None where that is not known, or was just looked at."""
        before = self.look
        if before is None or time.monotonic() - before.time < _LEAST_LOOK or (after := Look.now()) is None:
            return None
        self.look = after
        passed, own = after.time - before.time, after.own - before.own
        if passed <= _LONGEST_LOOK and own > passed / 2:
            return max(after.busy - before.busy - own, 0.0) / passed
        # This process has rested meanwhile, and what others did then says nothing of now.
        time.sleep(0.001)
        again = Look.now() or after
        return max(min(after.running, again.running) - 1, 0.0)


_spinning = _Spinning()


def look_again() -> None:
    """Look whether others want the cores, once a second at most: within `sharing_cores`, in work that takes minutes."""
    if not _told_by_user:
        _spinning.fit()


@contextlib.contextmanager
def sharing_cores() -> Iterator[None]:
    """Compute beside what else runs on the machine: no spinning where others want the cores, no threads without a core.

    Within, the calling thread has as many of torch's threads as before, but no more than the cores that the container
    allows (`cores`), which torch does not know of. Where the user said how threads wait (``OMP_WAIT_POLICY``,
    ``GOMP_SPINCOUNT`` or ``KMP_BLOCKTIME``), that stays.
    """
    import torch

    before, most = torch.get_num_threads(), cores()
    if before > most:
        torch.set_num_threads(most)
    look_again()
    try:
        yield
    finally:
        if before > most:
            torch.set_num_threads(before)
