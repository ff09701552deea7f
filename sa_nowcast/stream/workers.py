"""Processes that make a loader's batches: each reads its own stripes, into memory that all of them share."""

from __future__ import annotations

import copy
import math
import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path

import torch
from torch import Tensor

from sa_nowcast.errors import SaNowcastError, StorageError
from sa_nowcast.stream.samples import Samples

LOOK_EVERY = 10.0
"""Seconds of waiting for a worker between two looks at whether it is stopped."""

_Memory = tuple[str, tuple[int, ...]]
"""A path to memory that processes share, and the shape of the float32 in it."""


class Workers:
    """Processes that make batches together; each makes the samples of its own stripes, so nothing is read by two.

    A batch is written into memory that all of them share. Each has a pipe of its own, which is closed by its death
    whatever it was at; and there is no lock that it could die with.
    """

    def __init__(self, dataset: Samples, count: int) -> None:
        self.dataset = dataset
        self._slots: dict[int, Tensor] = {}
        self._files: dict[int, tuple[int, str]] = {}
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._unanswered = [0] * count
        # Also when the program ends amid an epoch: before multiprocessing waits for them, who leave SIGTERM to others.
        self.end = Finalize(self, _end, (self._processes, self._files), exitpriority=0)
        context = multiprocessing.get_context("forkserver")
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, dataset), name=f"loader {number}", daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def ask(self, slot: int, samples: list[int]) -> None:
        """Let the workers make a batch in a slot."""
        larger: _Memory | None = None
        if slot not in self._slots or len(self._slots[slot]) < len(samples):
            shape = (len(samples), *self.dataset.sample_shape)
            self._files[slot] = _file(4 * math.prod(shape))
            larger = self._files[slot][1], shape
            self._slots[slot] = _mapped(larger)
        stripes = [self.dataset.stripe(s) % len(self._pipes) for s in samples]
        for worker, pipe in enumerate(self._pipes):
            places = [i for i, stripe in enumerate(stripes) if stripe == worker]
            try:
                pipe.send((slot, larger, places, [samples[i] for i in places]))
            except OSError as error:
                raise self._lost(worker) from error
            self._unanswered[worker] += 1

    def made(self, slot: int) -> Tensor:
        """Return a slot when its batch, the oldest that was asked for, is there."""
        for worker in range(len(self._pipes)):
            error = self._answer(worker)
            if error is not None:
                raise error
        if slot in self._files:  # all have it mapped
            _remove(*self._files.pop(slot))
        return self._slots[slot]

    def finish(self) -> None:
        """Wait until nothing is written any more that an earlier iteration asked for."""
        for worker, unanswered in enumerate(self._unanswered):
            for _ in range(unanswered):
                self._answer(worker)

    def sound(self) -> bool:
        """Whether all can go on."""
        return all(p.is_alive() and not _is_stopped(p.pid) for p in self._processes)

    def _answer(self, worker: int) -> Exception | None:
        """Return what kept a worker from making its part of the oldest batch that it was asked for."""
        pid, stopped = self._processes[worker].pid, False
        try:
            while not self._pipes[worker].poll(LOOK_EVERY):
                # Slow storage is waited for. Seen twice in a row: what was stopped together with this process, by
                # Ctrl-Z or a scheduler, goes on with it.
                before, stopped = stopped, _is_stopped(pid)
                if before and stopped:
                    raise StorageError(
                        "loader",
                        f"worker process {pid} was stopped (SIGSTOP) and did not go on",
                        fix="run the same again, or read with workers=0",
                    )
            error: Exception | None = self._pipes[worker].recv()
        except (EOFError, OSError) as error:
            raise self._lost(worker) from error
        self._unanswered[worker] -= 1
        return error

    def _lost(self, worker: int) -> StorageError:
        process = self._processes[worker]
        process.join(timeout=5)
        code = process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return StorageError(
            "loader",
            f"a worker process ended unexpectedly ({how})",
            fix="if memory ran out, give fewer workers or a smaller cache_bytes, or read with workers=0",
        )


def _end(processes: Sequence[BaseProcess], files: dict[int, tuple[int, str]]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join(timeout=5)
    while files:
        _remove(*files.popitem()[1])


def _file(size: int) -> tuple[int, str]:
    """Return a file in memory, where the system has such files, and a path by which other processes open it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("sa_nowcast")
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
    else:
        descriptor, path = tempfile.mkstemp(prefix="sa_nowcast-")
    os.ftruncate(descriptor, size)
    return descriptor, path


def _remove(descriptor: int, path: str) -> None:
    os.close(descriptor)
    if not path.startswith("/proc/"):
        os.unlink(path)


def _mapped(memory: _Memory) -> Tensor:
    # By its path: torch hands a tensor's memory over in a handshake with a thread, in which a process that is stopped
    # or killed holds all others up.
    path, shape = memory
    with open(path, "r+b") as file:  # of a program that is gone: an OSError, which ends its workers
        return torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=torch.float32).view(shape)


def _serve(pipe: Connection, dataset: Samples) -> None:
    """Make what is asked for until the process that asks is gone."""
    # Slurm and terminals send signals to both; the other one acts on them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    slots: dict[int, Tensor] = {}
    while True:
        try:
            slot, larger, places, samples = pipe.recv()
            if larger is not None:
                slots[slot] = _mapped(larger)
            pipe.send(_made(dataset, samples, slots[slot], places))
        except (EOFError, OSError):
            return


def _made(dataset: Samples, samples: list[int], slot: Tensor, places: list[int]) -> Exception | None:
    """Write samples to their places in a batch, or return what went wrong."""
    try:
        if samples:
            slot[places] = dataset.batch(samples)
    except SaNowcastError as error:
        return error
    except Exception as error:
        error.add_note(f"In a loader worker:\n{traceback.format_exc()}")
        try:  # only what can be sent, and made again from its arguments
            pickle.dumps(error)
            copy.copy(error)
        except Exception:
            return RuntimeError(f"in a loader worker: {traceback.format_exc()}")
        return error
    return None


def _is_stopped(process: int | None) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # gone, or no Linux
        return False
    return state in "Tt"
