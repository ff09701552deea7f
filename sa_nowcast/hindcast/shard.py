"""One task of an archive: the init times of one file of each variable, batch by batch."""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.forecasts.job import Opaque, Work
from sa_nowcast.forecasts.method import FELL_BACK, NONE_POSSIBLE, Method, Statuses, Values
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.storage.growing import Entry, Part
from sa_nowcast.storage.shards import VariablePlan, write_shard
from sa_nowcast.storage.whole import storage

BATCH: Final = ".batch"
"""Ends the name of a file in the journal that holds a batch of a shard that is under way."""
KEEP_EVERY: Final = 0.5
"""Seconds of work from which on what was computed of a shard is kept: less is sooner computed again than written."""
_DIGEST: Final = 32

Span = tuple[int, int]
Batch = tuple[Values, Statuses]


@dataclass(frozen=True)
class Shard(Part):
    """One task: the init times of one shard of each variable."""

    plans: tuple[VariablePlan, ...]
    variable_axis: int | None
    init_axis: int
    shape: tuple[int, ...]
    """Of any number of its forecasts; -1 along init_time."""
    batch: int

    def forecast(self, work: Work, method: Method) -> Iterator[tuple[Batch, Mapping[Span, Batch]]]:
        """Yield the batches in their order, computed or as they were kept, each with those to be kept by now.

        The last ones are not kept, for the shard is written next.
        """
        new: dict[Span, Batch] = {}
        since = time.monotonic()
        for span in self._spans():
            batch = self._kept(span)
            if batch is None:
                batch = new[span] = replace(work, positions=work.positions[slice(*span)]).compute(method)
            if span[1] == self.size or time.monotonic() - since < KEEP_EVERY:
                yield batch, {}
            else:
                yield batch, new
                new, since = {}, time.monotonic()

    def keep(self, batches: Mapping[Span, Batch]) -> int:
        """Write batches beside the journal; return how many init times of the shard are kept then."""
        for span, batch in batches.items():
            values, status = (np.ascontiguousarray(a).data.cast("B") for a in batch)
            # By its digest half a file is known as such: neither a rename nor a sync is needed.
            with storage(self._file(span)), self._file(span).open("wb") as file:
                file.writelines((self._digest(values, status), values, status))
        return max(stop for _, stop in batches)

    def begun(self) -> int:
        """Return how many init times are kept of a shard that is not done."""
        return next(first for first, stop in self._spans() if stop == self.size or not self._kept((first, stop)))

    def put(self, values: Values, status: Statuses) -> Entry:
        """Write the shard, read it back, and enter it into the journal."""
        records = []
        for i, plan in enumerate(self.plans):
            field = values if self.variable_axis is None else np.take(values, i, axis=self.variable_axis)
            block, index = xr.Variable(plan.dims, field), index_of(plan, self.number)
            records.append(write_shard(self.store, plan, index, block, f"{plan.name}, {self.label}"))
        entry = self.enter(
            records, complete=(status != NONE_POSSIBLE).tolist(), fell_back=np.flatnonzero(status == FELL_BACK).tolist()
        )
        with storage(Path(self.journal)):
            for span in self._spans()[:-1]:
                self._file(span).unlink(missing_ok=True)
        return entry

    def joined(self, batches: Sequence[Batch]) -> Batch:
        """Return all batches as one."""
        if len(batches) == 1:
            return batches[0]
        values, statuses = zip(*batches, strict=True)
        return np.concatenate(values, self.init_axis), np.concatenate(statuses)

    def _spans(self) -> list[Span]:
        return [(i, min(i + self.batch, self.size)) for i in range(0, self.size, self.batch)]

    def _file(self, span: Span) -> Path:
        # By its span, so that a batch of another size is never taken for it.
        return Path(self.journal) / f"{self.number}.{span[0]}-{span[1]}{BATCH}"

    def _kept(self, span: Span) -> Batch | None:
        """Return a batch as it was kept, or None."""
        try:
            content = memoryview(self._file(span).read_bytes())
        except OSError:
            return None
        if content[:_DIGEST] != self._digest(content[_DIGEST:]):
            return None
        end = len(content) - (span[1] - span[0])
        values = np.frombuffer(content[_DIGEST:end], np.float32).reshape(self.shape)
        return values, np.frombuffer(content[end:], np.uint8)

    def _digest(self, *parts: memoryview) -> bytes:
        digest = hashlib.sha256(self.key.encode())
        for part in parts:
            digest.update(part)
        return digest.digest()


def index_of(plan: VariablePlan, number: int) -> tuple[int, ...]:
    """Return the place of a shard among the shards of a variable: they lie along init_time."""
    return tuple(number if axis == plan.time_axis else 0 for axis in range(len(plan.shape)))


_loading = threading.Lock()


@functools.lru_cache(maxsize=1)  # the model of an earlier hindcast is not needed any more
def _loaded(path: str, key: str) -> Nowcaster:
    return Nowcaster.load(path)


def run_shard(shard: Shard, work: Opaque, model: Any) -> Entry:
    """Do one task on a worker; `model` is the path of a saved one, or the method itself."""
    entry = shard.done()  # by a worker that died before it could tell
    if entry is not None:
        return entry
    if isinstance(model, str):
        with _loading:
            model = _loaded(model, shard.key)
    batches = []
    for batch, new in shard.forecast(work.work.read(), model):
        batches.append(batch)
        if new:
            shard.keep(new)
    return shard.put(*shard.joined(batches))


def same(method: Any) -> Any:
    """Return what came, as a task that a scheduler can run again where a worker that had it died."""
    return method
