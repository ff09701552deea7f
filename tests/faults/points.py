"""Faults within a process: at the k-th change of the disk below a folder it is killed, signalled, or finds it full.

What Python writes, syncs, renames, makes and removes is counted; what a C library writes by itself is not.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

GROWTH = ("open", "write", "mkdir")


@dataclass(frozen=True)
class Fault:
    """What happens at the `at`-th change below `root`, counted from 1; `kind` count: nothing.

    kill: SIGKILL before the change, or in the middle of a write. full: ENOSPC (or `number`), there and at every later
    change that would grow the disk. signal: the signal `number`, before the change.
    """

    root: str
    kind: Literal["count", "kill", "full", "signal"] = "count"
    at: int = 0
    number: int = errno.ENOSPC


class Points:
    """The counter of this process."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.count, self.lock = fault, 0, threading.Lock()
        self.names: list[str] = []
        self.full = False

    def reach(self, name: str, path: Any, half: Callable[[], None] = lambda: None) -> None:
        """Count one change, and let the fault happen where it is its turn."""
        if not self._below(path):
            return
        with self.lock:
            self.count += 1
            turn = self.count == self.fault.at
            self.names.append(name)
        kind = self.fault.kind
        if kind == "full" and ((turn and name not in ("unlink", "rmdir")) or (self.full and name in GROWTH)):
            if not self.full:
                self.full = True
                half()
            raise OSError(self.fault.number, os.strerror(self.fault.number), str(path))
        if turn and kind == "full":
            self.full = True
        if turn and kind == "kill":
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        if turn and kind == "signal":
            os.kill(os.getpid(), self.fault.number)

    def _below(self, path: Any) -> bool:
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.fault.root)


class _Raw(io.FileIO):
    """A file whose writes are counted."""

    points: Points

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.points.reach("write", self.name, lambda: io.FileIO.write(self, view[: len(view) // 2]) and None)
        return super().write(view)

    def truncate(self, size: int | None = None) -> int:
        self.points.reach("truncate", self.name)
        return super().truncate(size)


def install(fault: Fault) -> Points:
    """Let the fault happen in this process; there is no way back."""
    points = Points(fault)
    plain_open = io.open

    def opened(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
        closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        writes = any(c in mode for c in "wax+")
        if not writes or not points._below(file):
            return plain_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        points.reach("open", file)
        raw = _Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        raw.points = points
        if buffering == 0:
            return raw
        buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)

    io.open = builtins.open = opened  # type: ignore[assignment]

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            directory = options.get("dir_fd")  # as shutil.rmtree walks
            points.reach(name, path if directory is None else directory)
            return function(path, *args, **options)

        return call

    for name in ("fsync", "rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link", "symlink"):
        setattr(os, name, counted(name, getattr(os, name)))
    low = os.open

    def os_open(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            points.reach("open", path)
        return low(path, flags, *args, **options)

    os.open = os_open
    return points


def names_of(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(p.name for p in folder.iterdir())


def content(place: Path) -> dict[str, bytes]:
    """Every file of a folder, byte by byte."""
    return {str(f.relative_to(place)): f.read_bytes() for f in sorted(place.rglob("*")) if f.is_file()}


def moments(rng: random.Random, points: int, count: int) -> list[int]:
    """So many points from all over a run, none of them twice before each of them once."""
    return [1 + (i * points // count if count < points else i % points) for i in rng.sample(range(count), count)]
