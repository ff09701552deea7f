"""A reading worker that is killed or stopped is an error with its name, and nothing waits for ever."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from nursery import Nursery

from sa_nowcast.stream.workers import LOOK_EVERY

PROGRAM = """
import multiprocessing, os, signal, sys
from sequences import rain
from sa_nowcast.stream import SequenceDataset, loader

if __name__ == "__main__":
    source = loader(SequenceDataset(rain(60), 4, 3, crop=8), 2, batches=1_000_000, workers=2)
    stream = iter(source)
    next(stream)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    if sys.argv[1] == "stopped":
        os.kill(workers[0].pid, signal.SIGSTOP)
    print(*(worker.pid for worker in workers))
"""


@pytest.mark.faults(8, 100)
def test_a_worker_that_is_killed_or_stopped_is_named_and_nothing_hangs(
    repetitions: int, rng: random.Random, nursery: Nursery, tmp_path: object
) -> None:
    faults = [signal.SIGSTOP if i % 2 else signal.SIGKILL for i in range(repetitions)]
    end = nursery.one("loaders", str(tmp_path), faults, 0.3, rng.randrange(1000), timeout=60 * repetitions)
    assert end.code == 0, end.error
    assert len(end.value) == repetitions
    for number, (message, seconds) in zip(faults, end.value, strict=True):
        named = "was stopped (SIGSTOP)" if number == signal.SIGSTOP else "a worker process ended unexpectedly"
        assert message.startswith("STORAGE loader: "), message
        assert named in message
        assert "\n" not in message
        assert seconds < 60
    longest = max(seconds for _, seconds in end.value)
    print(f"{repetitions} faults, an error after {longest:.1f} s at most, looking every 0.3 s")


@pytest.mark.slow
def test_a_stopped_worker_is_found_within_a_minute_as_often_as_is_looked(nursery: Nursery, tmp_path: object) -> None:
    end = nursery.one("loaders", str(tmp_path), [signal.SIGSTOP, signal.SIGSTOP], LOOK_EVERY, 0)
    assert [seconds < 60 for _, seconds in end.value] == [True, True]
    print(f"an error after {', '.join(f'{s:.0f} s' for _, s in end.value)}")


@pytest.mark.parametrize("workers", [pytest.param("reading", marks=pytest.mark.slow), "stopped"])
def test_a_program_that_ends_amid_an_epoch_ends_and_leaves_no_worker(workers: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(script), workers]
    end = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert end.returncode == 0, end.stderr
    assert [psutil.pid_exists(int(pid)) for pid in end.stdout.split()] == [False, False]


AMID_ITS_ANSWER = """
import os, signal, struct, sys
from sequences import rain
from sa_nowcast.errors import StorageError
from sa_nowcast.stream import SequenceDataset, loader

class Dying(SequenceDataset):
    dies = True

    def batch(self, samples):
        if 20 in samples and self.dies:
            frame = sys._getframe()
            while "pipe" not in frame.f_locals:
                frame = frame.f_back
            os.write(frame.f_locals["pipe"].fileno(), struct.pack("!i", 1000) + bytes(self.written))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(samples)

if __name__ == "__main__":
    dying = Dying(rain(60), 4, 3, crop=8)
    dying.written = int(sys.argv[1])
    source = loader(dying, 2, batches=100, workers=2)
    try:
        list(source)
    except StorageError as error:
        print(error)
    source.sequence.dies = False
    print(len(list(source)))
"""


@pytest.mark.parametrize("written", [0, pytest.param(10, marks=pytest.mark.slow)])
def test_a_worker_that_dies_amid_its_answer_holds_nobody_up(written: int, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(AMID_ITS_ANSWER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    command = [sys.executable, str(script), str(written)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    error, batches = done.stdout.splitlines()
    assert "a worker process ended unexpectedly" in error
    assert batches == "100"  # of workers that were started anew
