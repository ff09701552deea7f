"""Workers of a loader: the batches of one process, errors as they were raised, and nothing that stays behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from sa_nowcast.errors import DataError, StorageError
from sa_nowcast.stream import EpochSampler, Share, StepSampler, batches, loader
from sa_nowcast.stream.samples import NumberedSamples

multiprocessing.set_forkserver_preload(["sa_nowcast.stream"])  # where no other test has started it


class Unsent(Exception):
    """An error that cannot be pickled: it holds a function of its own."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.function = lambda: None


class Refilled(Exception):
    """An error that can be pickled, and not made again from what pickle keeps."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def long_one() -> Exception:
    """More than any pipe holds."""
    return ValueError("a long story " * 100_000)


ERRORS = {
    "ours": lambda: DataError("rain, 2020-06-01", "is gone", expected="rain", fix="bring it back"),
    "another": lambda: ValueError("not so"),
    "of two arguments": lambda: Refilled("first", "second"),
    "not sent": lambda: Unsent("kept here"),
    "long": long_one,
}


class Numbers(NumberedSamples):
    """Sample k is 2 x 3 pixels of k; what `wrong` says is raised in place of sample `at`."""

    device = torch.device("cpu")

    def __init__(self, count: int = 7, at: int = -1, wrong: str = "ours") -> None:
        self.count, self.at, self.wrong = count, at, wrong

    def __len__(self) -> int:
        return self.count

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        return 2, 1, 2, 3

    def batch(self, samples: Sequence[int]) -> Tensor:
        if self.at in samples:
            raise ERRORS[self.wrong]()
        return torch.tensor(samples, dtype=torch.float32).view(-1, 1, 1, 1, 1).expand(-1, *self.sample_shape)

    def stripe(self, sample: int) -> int:
        return sample // 2

    def describe(self, sample: int) -> str:
        return f"number {sample}"


def numbers(batch: Tensor) -> list[int]:
    """Return which samples a batch has, each of which is whole."""
    assert batch.shape[1:] == (2, 1, 2, 3)
    assert torch.equal(batch, batch[:, :1, :, :1, :1].expand_as(batch))
    return [int(k) for k in batch[:, 0, 0, 0, 0]]


def there() -> set[int | None]:
    """Return the workers that there are, of all loaders."""
    return {p.pid for p in multiprocessing.active_children() if p.name.startswith("loader ")}


class Sizes:
    """Batches that shrink and grow."""

    def __len__(self) -> int:
        return 5

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([[3], [4, 5, 6, 7], [1, 0], [9, 8, 7, 6, 5, 4, 3, 2], [2]])


def test_workers_stay_from_epoch_to_epoch_whatever_was_left_unread() -> None:
    source = loader(Numbers(), 3, workers=2)
    first = [numbers(batch) for batch in source]
    assert first == [[0, 1, 2], [3, 4, 5], [6]]
    workers = there()
    assert len(workers) == 2
    stream = iter(source)
    kept = next(stream)
    assert numbers(kept) == [7, 8, 9]
    stream.close()
    assert [numbers(batch) for batch in source] == [[14, 15, 16], [17, 18, 19], [20]]
    assert numbers(kept) == [7, 8, 9]  # what was given away is written no more
    assert there() == workers
    source.set_epoch(0)
    assert [numbers(batch) for batch in source] == first
    source.close()
    assert not there()
    assert [numbers(batch) for batch in source] == [[7, 8, 9], [10, 11, 12], [13]]
    del source, stream
    assert not there()


def test_an_iteration_within_another_has_workers_of_its_own() -> None:
    source = loader(Numbers(), 3, workers=1)
    outer = iter(source)
    assert numbers(next(outer)) == [0, 1, 2]
    assert [numbers(batch) for batch in source] == [[7, 8, 9], [10, 11, 12], [13]]
    assert [numbers(batch) for batch in outer] == [[3, 4, 5], [6]]
    outer.close()
    assert len(there()) == 1  # of both, those that ended last
    source.close()
    assert not there()


def test_more_workers_than_samples_and_batches_that_grow() -> None:
    source = batches(Numbers(3), Sizes(), workers=5)
    assert [numbers(batch) for batch in source] == list(Sizes())
    assert len(source) == 5
    source.batches = EpochSampler(3, 8)
    assert [numbers(batch) for batch in source] == [[0, 1, 2]]
    source.batches = StepSampler(2, 9, first=6, share=Share(1, 2))
    assert [numbers(batch) for batch in source] == [[25, 27], [29, 31], [33, 35]]
    source.batches = EpochSampler(3, 8, drop_last=True)
    assert list(source) == []
    source.close()


@pytest.mark.parametrize("wrong", ERRORS)
def test_an_error_of_a_worker_arrives_with_its_text(wrong: str) -> None:
    source, expected = loader(Numbers(at=4, wrong=wrong), 3, workers=2), ERRORS[wrong]()
    stream = iter(source)
    assert numbers(next(stream)) == [0, 1, 2]
    kind = RuntimeError if wrong in ("not sent", "of two arguments") else type(expected)
    with pytest.raises(kind, match="Traceback" if kind is RuntimeError else None) as caught:
        next(stream)
    if kind is RuntimeError:
        assert f"{type(expected).__name__}: {expected}" in str(caught.value)
    else:
        assert str(caught.value) == str(expected)
    if isinstance(caught.value, DataError):
        assert caught.value.as_dict() == expected.as_dict()  # type: ignore[attr-defined]
    elif type(caught.value) is ValueError:
        (note,) = caught.value.__notes__
        assert "in batch" in note  # where it was raised
    assert not there()
    source.sequence.at = -1
    assert [numbers(batch) for batch in source] == [[7, 8, 9], [10, 11, 12], [13]]  # of new workers
    source.close()


def test_workers_that_died_between_two_epochs_are_an_error_and_then_replaced() -> None:
    source = loader(Numbers(), 3, workers=2)
    list(source)
    for pid in there():
        os.kill(pid or 0, signal.SIGKILL)
    with pytest.raises(StorageError, match=r"a worker process ended unexpectedly \(SIGKILL\)"):
        list(source)
    assert [numbers(batch) for batch in source] == [[14, 15, 16], [17, 18, 19], [20]]
    source.close()


def test_memory_is_pinned_only_where_there_is_a_device_to_copy_to() -> None:
    for workers in (0, 1):
        source = loader(Numbers(), 3, workers=workers, pin_memory=True)
        assert [b.is_pinned() for b in source] == [torch.cuda.is_available()] * 3
        source.close()


def _runs(pid: int) -> bool:
    """Whether a process goes on; one that ended may be waited for late by whoever adopted it."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


PROGRAM = """
import multiprocessing, os, signal, sys
from test_stream_workers import Numbers
from sa_nowcast.stream import loader

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    source = loader(Numbers(1000), 3, batches=10**9, workers=2)
    stream = iter(source)
    next(stream)
    print(os.getpid(), *(w.pid for w in multiprocessing.active_children()), flush=True)
    for batch in stream:
        pass
"""


@pytest.mark.parametrize("how", ["killed", "terminated", "Ctrl-C", "a worker is killed"])
def test_nothing_stays_of_a_program_that_is_ended_amid_its_batches(how: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    program = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert program.stdout is not None
    own, *workers = map(int, program.stdout.readline().split())
    assert len(workers) == 2
    if how == "Ctrl-C":
        os.killpg(own, signal.SIGINT)  # which a terminal sends to all of them
    else:
        number = signal.SIGTERM if how == "terminated" else signal.SIGKILL
        os.kill(workers[0] if how == "a worker is killed" else own, number)
    _, error = program.communicate(timeout=60)
    assert program.returncode == {"killed": -9, "terminated": -15, "Ctrl-C": -2}.get(how, 1)
    if how == "Ctrl-C":
        assert error.count("Traceback") == 1  # the program's own
    elif how == "a worker is killed":
        assert "STORAGE loader: a worker process ended unexpectedly (SIGKILL)" in error
    else:
        assert error == ""
    end = time.monotonic() + 20
    while any(map(_runs, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert [_runs(pid) for pid in workers] == [False, False]
    shared = Path("/dev/shm")
    if shared.is_dir():
        assert [f.name for f in shared.glob("torch_*") if f.name.split("_")[1] in map(str, (own, *workers))] == []
