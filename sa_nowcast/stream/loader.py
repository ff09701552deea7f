"""Samples in batches: which ones when, and loaders that read them, in this process or in workers."""

from __future__ import annotations

import atexit
import multiprocessing.process
import os
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sa_nowcast.errors import RecipeError, SaNowcastError, StorageError

LOOK_EVERY = 10.0
"""Seconds between two looks at whether a worker is stopped."""


class Share(NamedTuple):
    """The part of all samples that this process takes: those whose number is `rank` modulo `ranks`."""

    rank: int = 0
    ranks: int = 1

    def check(self) -> Share:
        """Raise `RecipeError` where there is no such rank."""
        if not 0 <= self.rank < self.ranks:
            raise RecipeError("rank", f"{self.rank} of {self.ranks}", expected="from 0 to below the number of ranks")
        return self

    @classmethod
    def current(cls) -> Share:
        """Return the share of this process in ``torch.distributed``; everything, where that is not running."""
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()


ALL = Share()
"""The share of a process that is alone."""


class Samples(Protocol):
    """What a loader and a trainer need of numbered samples: `SequenceDataset`, `DigitSamples`, or a class of your own.

    Sample k is a function of k alone, for every k >= 0, whatever was asked for before and in whatever process; epochs
    of ``len(samples)`` samples follow each other without end. To be used with workers it can be pickled.
    """

    def __len__(self) -> int:
        """Return how many samples are an epoch."""

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W) of every sample."""

    @property
    def device(self) -> torch.device:
        """Where samples are made; workers can be used where this is the CPU."""

    def batch(self, samples: Sequence[int]) -> Tensor:
        """Return samples as one float32 tensor (B, T, C, H, W), in physical units with NaN where missing."""

    def stripe(self, sample: int) -> int:
        """Return a number that samples share which one worker should make; workers divide samples by it."""

    def describe(self, sample: int) -> str:
        """Return what a sample is, as errors print it."""


S = TypeVar("S", bound=Samples)


class BatchSampler(Protocol):
    """What gives a loader the samples of its batches."""

    def __len__(self) -> int:
        """Return how many batches there are."""

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the sample numbers of each batch."""


class StepSampler(Sampler[list[int]]):
    """The sample numbers of every batch of a run: step s takes samples s·B to (s + 1)·B - 1, whatever came before.

    Parameters
    ----------
    batch_size, steps : int
        Samples a batch, and how many batches there are in all.
    first : int
        Where to begin; a resumed run begins at the step after the last finished one.
    share : Share
        Of several processes, each takes `batch_size` samples of every step, and the step has ranks times as many.
    """

    def __init__(self, batch_size: int, steps: int, first: int = 0, share: Share = ALL) -> None:
        self.batch_size, self.steps, self.first, self.share = batch_size, steps, first, share.check()

    def __len__(self) -> int:
        # The length of the whole run: the trainer counts batches from the run's beginning, also after a resume.
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        return (self.samples(step) for step in range(self.first, self.steps))

    def samples(self, step: int) -> list[int]:
        """Return the samples of one step, this process's share of them."""
        size = self.batch_size * self.share.ranks
        return list(range(step * size + self.share.rank, (step + 1) * size, self.share.ranks))


class EpochSampler(Sampler[list[int]]):
    """The batches of one epoch, and of the next one when iterated again; the last batch may be smaller.

    Parameters
    ----------
    samples : int
        Samples an epoch: ``len(dataset)``.
    batch_size : int
    epoch : int
        The epoch to begin with.
    share : Share
        Shares differ by one sample at most; all together are the epoch.
    drop_last : bool
        Whether to leave out a last batch that is smaller.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        epoch: int = 0,
        share: Share = ALL,
        drop_last: bool = False,
    ) -> None:
        self.samples, self.batch_size, self.epoch = samples, batch_size, epoch
        self.share, self.drop_last = share.check(), drop_last

    def __len__(self) -> int:
        mine = len(range(self.share.rank, self.samples, self.share.ranks))
        return mine // self.batch_size if self.drop_last else -(-mine // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        mine = range(epoch * self.samples + self.share.rank, (epoch + 1) * self.samples, self.share.ranks)
        for batch in range(len(self)):
            yield list(mine[batch * self.batch_size : (batch + 1) * self.batch_size])


class _Part(NamedTuple):
    """What one worker reads of a batch: these samples, which go to these places of so many."""

    size: int
    places: list[int]
    samples: list[int]


class _Parts(Sampler[_Part]):
    """Divides every batch among the workers by where its samples are stored, so that nothing is read by two of them.

    A loader hands its indices to the workers in turn; so every batch becomes one part for each of them, some empty.
    """

    def __init__(self, sampler: BatchSampler, dataset: Samples, workers: int) -> None:
        self.sampler, self.dataset, self.workers = sampler, dataset, workers

    def __len__(self) -> int:
        return len(self.sampler) * self.workers

    def __iter__(self) -> Iterator[_Part]:
        for samples in self.sampler:
            stripes = [self.dataset.stripe(s) % self.workers for s in samples]
            for worker in range(self.workers):
                places = [i for i, stripe in enumerate(stripes) if stripe == worker]
                yield _Part(len(samples), places, [samples[i] for i in places])


class _Reads(Dataset[Any]):
    """Reads what a sampler yields: whole batches, or a worker's part of one; errors travel as values.

    torch re-creates an exception of a worker from its traceback's text, and ours have more than a text.
    """

    def __init__(self, dataset: Samples) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, wanted: list[int] | _Part) -> Any:
        if not isinstance(wanted, _Part):
            return self.dataset.batch(wanted)
        try:
            return wanted, self.dataset.batch(wanted.samples)
        except SaNowcastError as error:
            return wanted, error


class SequenceLoader(DataLoader[Any], Generic[S]):
    """A torch DataLoader over `Samples`: yields raw batches (B, T, C, H, W), in physical units with NaN.

    Made by `loader` and `batches`. The batches are the same whatever the number of workers.

    Parameters
    ----------
    sequence : SequenceDataset or other Samples
    sampler : BatchSampler
    workers : int
        Processes that read; they start by forkserver, since zarr runs threads and a forked child of a process with
        threads can deadlock.
    pin_memory : bool, optional
        By default where there is a CUDA device and the data are not on one.
    """

    def __init__(self, sequence: S, sampler: BatchSampler, *, workers: int = 0, pin_memory: bool | None = None) -> None:
        on_device = sequence.device.type != "cpu"
        if workers and on_device:
            raise RecipeError("workers", f"{workers}, with data on {sequence.device}", expected="0")
        pin = torch.cuda.is_available() and not on_device if pin_memory is None else pin_memory
        self._pin = pin
        self.sequence, self.batches = sequence, sampler
        super().__init__(
            _Reads(sequence),
            batch_size=None,
            sampler=_Parts(sampler, sequence, workers) if workers else sampler,
            num_workers=workers,
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=_deaf if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin and not workers,
            generator=torch.Generator(),  # workers draw a seed that nothing here uses; not from the user's generator
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return self._assembled() if self.num_workers else super().__iter__()

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration go through this epoch; without it, epoch follows epoch."""
        if not isinstance(self.batches, EpochSampler):
            raise RecipeError(
                "set_epoch",
                "a loader of steps",
                expected="a loader of epochs",
                fix="make it with first= the batch to begin with",
            )
        self.batches.epoch = epoch

    def _assembled(self) -> Iterator[Tensor]:
        parts = self._guarded(super().__iter__())
        for part, values in parts:
            batch = torch.empty((part.size, *self.sequence.sample_shape), pin_memory=self._pin)
            batch[part.places] = values
            for _ in range(self.num_workers - 1):
                part, values = next(parts)
                batch[part.places] = values
            yield batch

    def _guarded(self, received: Any) -> Iterator[tuple[_Part, Tensor]]:
        _WORKERS.update(received._workers)
        if not isinstance(received._workers_done_event, _Closing):
            received._workers_done_event = _Closing(received._workers_done_event)
        lost = False
        try:
            with _Lookout([w.pid for w in received._workers]) as lookout:
                while True:
                    try:
                        part, values = next(received)
                    except StopIteration:
                        return
                    except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
                        # All but the first: a batch that the worker had announced and did not live to hand over.
                        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                            raise
                        lost = True
                        raise _lost(lookout, error) from error
                    if isinstance(values, SaNowcastError):
                        raise values
                    yield part, values
        finally:
            if lost or not all(w.is_alive() and not _is_stopped(w.pid) for w in received._workers):
                self._end(received)

    def _end(self, received: Any) -> None:
        """End the workers of which one was lost, and forget them, so that the next iteration starts others."""
        received._shutdown = True
        for worker in received._workers:
            worker.kill()
        for worker in received._workers:
            worker.join(timeout=5)
        for queue in received._index_queues:
            queue.cancel_join_thread()
            queue.close()
        if received._worker_pids_set:
            torch.utils.data._utils.signal_handling._remove_worker_pids(id(received))  # type: ignore[attr-defined]
            received._worker_pids_set = False
        self._iterator = None


class _Closing:
    """The event by which workers are told to end, as the process sees it that they read for.

    A worker that is killed while it looks at the event dies with its lock, and whoever looks or sets it then waits for
    ever. Only this process sets it, so it need not look; and it sets it in a thread that may be left waiting.
    """

    def __init__(self, event: Any) -> None:
        self._event, self._is_set = event, False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        thread = threading.Thread(target=self._event.set, name="loader closing", daemon=True)
        thread.start()
        thread.join(timeout=5)


def _lost(lookout: _Lookout, error: Exception) -> StorageError:
    if lookout.stopped is not None:
        return StorageError(
            "loader",
            f"worker process {lookout.stopped} was stopped (SIGSTOP) and did not go on",
            fix="run the same again, or read with workers=0",
        )
    return StorageError(
        "loader",
        f"a worker process ended unexpectedly ({(str(error) or type(error).__name__).splitlines()[0]})",
        fix="if memory ran out, give fewer workers or a smaller cache_bytes, or read with workers=0",
    )


class _Lookout:
    """A thread that ends a worker which is stopped, for nothing else would: its batch would be waited for for ever.

    Slow storage is waited for. A worker must be found stopped twice in a row: one that was stopped together with this
    process, by Ctrl-Z or a scheduler, goes on with it.

    Attributes
    ----------
    stopped : int or None
        The first worker that was ended.
    """

    def __init__(self, workers: Sequence[int]) -> None:
        self.workers = workers
        self.stopped: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="loader lookout", daemon=True)

    def __enter__(self) -> _Lookout:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _look(self) -> None:
        before: set[int] = set()
        while not self._over.wait(LOOK_EVERY):
            now = {w for w in self.workers if _is_stopped(w)}
            for worker in sorted(before & now):
                self.stopped = self.stopped or worker
                os.kill(worker, signal.SIGKILL)
            before = now - before


def _deaf(worker: int) -> None:
    """Let a worker leave signals to the process that it reads for: Slurm and terminals send them to both.

    It ends when that process tells it to, ends (`_end_workers`), or is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


_WORKERS: weakref.WeakSet[multiprocessing.process.BaseProcess] = weakref.WeakSet()
os.register_at_fork(after_in_child=_WORKERS.clear)  # a child's end is not the end of its parent's workers


@atexit.register
def _end_workers() -> None:
    """End the workers that are left when the program ends: those of a loader that it has not read to its end.

    multiprocessing, whose own function runs after this one, sends them SIGTERM, to which they are deaf, and then waits
    for them for ever.
    """
    for worker in list(_WORKERS):
        if worker.is_alive():
            worker.kill()


def _is_stopped(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # gone, or no Linux
        return False
    return state in "Tt"


def batches(
    dataset: S, sampler: BatchSampler, *, workers: int = 0, pin_memory: bool | None = None
) -> SequenceLoader[S]:
    """Return a loader of the batches that `sampler` yields.

    Parameters
    ----------
    dataset : SequenceDataset, DigitSamples or other Samples
    sampler : BatchSampler
        Gives the numbers of each batch's samples.
    workers, pin_memory
        As for `loader`.
    """
    return SequenceLoader(dataset, sampler, workers=workers, pin_memory=pin_memory)


def loader(
    dataset: S,
    batch_size: int = 8,
    *,
    batches: int | None = None,
    first: int = 0,
    epoch: int = 0,
    drop_last: bool = False,
    rank: int | None = None,
    ranks: int | None = None,
    workers: int = 0,
    pin_memory: bool | None = None,
) -> SequenceLoader[S]:
    """Return a torch DataLoader over a dataset's windows.

    Parameters
    ----------
    dataset : SequenceDataset, DigitSamples or other Samples
    batch_size : int
        Windows a batch, in this process.
    batches : int, optional
        Go through so many batches in one iteration, epochs following each other without a seam. By default an
        iteration is an epoch, and the next iteration the next epoch.
    first : int
        With `batches`: the batch to begin with; a loop that stopped after batch n goes on with ``first=n``.
    epoch : int
        Without `batches`: the epoch that the first iteration goes through.
    drop_last : bool
        Without `batches`: whether to leave out an epoch's last batch where it is smaller.
    rank, ranks : int, optional
        Which share of all windows this process takes, of how many; by default what ``torch.distributed`` says.
    workers : int
        Processes that read; 0 reads in this one. The batches are the same with any number.
    pin_memory : bool, optional
        By default where there is a CUDA device.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0), ("first", first, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise RecipeError(name, f"{value!r}", expected=f"a whole number of at least {least}")
    current = Share.current()
    share = Share(current.rank if rank is None else rank, current.ranks if ranks is None else ranks)
    sampler: BatchSampler
    if batches is None:
        sampler = EpochSampler(len(dataset), batch_size, epoch, share, drop_last)
    else:
        sampler = StepSampler(batch_size, batches, first, share)
    return SequenceLoader(dataset, sampler, workers=workers, pin_memory=pin_memory)
