"""Samples in batches: which ones when, and loaders that read them, in this process or in workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from sa_nowcast.errors import RecipeError
from sa_nowcast.stream.samples import Samples
from sa_nowcast.stream.workers import Workers
from sa_nowcast.windows import require_whole

_AHEAD = 2  # batches that workers make before they are asked for


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
    each : int
        So many successive steps take the same samples.
    """

    def __init__(self, batch_size: int, steps: int, first: int = 0, share: Share = ALL, each: int = 1) -> None:
        self.batch_size, self.steps, self.first = batch_size, steps, first
        self.share, self.each = share.check(), each

    def __len__(self) -> int:
        # The length of the whole run: the trainer counts batches from the run's beginning, also after a resume.
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        return (self.samples(step) for step in range(self.first, self.steps))

    def samples(self, step: int) -> list[int]:
        """Return the samples of one step, this process's share of them."""
        size, step = self.batch_size * self.share.ranks, step // self.each
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


class SequenceLoader(DataLoader[Any], Generic[S]):
    """A torch DataLoader over `Samples`: yields raw batches (B, T, C, H, W), in physical units with NaN.

    Made by `loader` and `batches`. The batches are the same whatever the number of workers.

    Parameters
    ----------
    sequence : SequenceDataset or other Samples
    sampler : BatchSampler
    workers : int
        Processes that read; they start by forkserver, since zarr runs threads and a forked child of a process with
        threads can deadlock. They stay for the next iteration.
    pin_memory : bool, optional
        False: not even where there is a CUDA device and the data are not on one, where batches are pinned by default.
    """

    def __init__(self, sequence: S, sampler: BatchSampler, *, workers: int = 0, pin_memory: bool | None = None) -> None:
        on_device = sequence.device.type != "cpu"
        if workers and on_device:
            raise RecipeError("workers", f"{workers}, with data on {sequence.device}", expected="0")
        self.sequence, self.batches = sequence, sampler
        self._idle: Workers | None = None
        pin = pin_memory is not False and torch.cuda.is_available() and not on_device
        # Nothing but a description: torch's own workers serve all samples, and so would each read every block.
        super().__init__(sequence, batch_size=None, sampler=sampler, num_workers=workers, pin_memory=pin)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return self._helped() if self.num_workers else self._alone()

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

    def close(self) -> None:
        """End the workers that wait for the next iteration, which starts others."""
        if self._idle is not None:
            self._idle.end()
            self._idle = None

    def _alone(self) -> Iterator[Tensor]:
        for samples in self.batches:
            batch = self.sequence.batch(samples)
            yield batch.pin_memory() if self.pin_memory else batch

    def _helped(self) -> Iterator[Tensor]:
        # Taken while they are used: a second iteration that runs meanwhile has workers of its own.
        workers, self._idle = self._idle or Workers(self.sequence, self.num_workers), None
        try:
            workers.finish()
            sizes: dict[int, int] = {}
            for number, samples in enumerate(itertools.chain(self.batches, itertools.repeat(None, _AHEAD))):
                slot, batch = number % _AHEAD, None
                if slot in sizes:
                    made = workers.made(slot)[: sizes.pop(slot)]
                    batch = torch.empty(made.shape, pin_memory=self.pin_memory).copy_(made)
                if samples is not None:
                    workers.ask(slot, samples)
                    sizes[slot] = len(samples)
                if batch is not None:
                    yield batch
        except GeneratorExit:
            raise
        except BaseException:
            workers.end()
            raise
        finally:
            if workers.sound():
                self._idle = workers


def batches(
    dataset: S, sampler: BatchSampler, *, workers: int = 0, pin_memory: bool | None = None
) -> SequenceLoader[S]:
    """Return a loader of the batches that `sampler` yields.

    Parameters
    ----------
    dataset : SequenceDataset, SyntheticSamples or other Samples
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
    dataset : SequenceDataset, SyntheticSamples or other Samples
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
        By default where there is a CUDA device; elsewhere there is nothing to pin memory for.
    """
    require_whole(batch_size=batch_size)
    require_whole(0, workers=workers, first=first)
    current = Share.current()
    share = Share(current.rank if rank is None else rank, current.ranks if ranks is None else ranks)
    sampler: BatchSampler
    if batches is None:
        sampler = EpochSampler(len(dataset), batch_size, epoch, share, drop_last)
    else:
        sampler = StepSampler(batch_size, batches, first, share)
    return SequenceLoader(dataset, sampler, workers=workers, pin_memory=pin_memory)
