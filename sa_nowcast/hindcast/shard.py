"""One task of an archive: the init times of one file of each variable, batch by batch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.forecasts.job import FELL_BACK, NONE_POSSIBLE, Method, Opaque, Statuses, Values, Work
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.storage.growing import Entry, Part
from sa_nowcast.storage.shards import VariablePlan, write_shard
from sa_nowcast.storage.whole import storage

BATCH: Final = ".batch"
"""Ends the name of a file in the journal that holds a batch of a shard that is under way."""
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
    model: str
    """The identity of the model, under which a worker remembers it."""

    def index(self, plan: VariablePlan) -> tuple[int, ...]:
        """Return the shard's place among the shards of a variable."""
        index = [0] * len(plan.shape)
        index[plan.time_axis] = self.number
        return tuple(index)

    def forecast(self, work: Work, method: Method) -> Iterator[tuple[Span | None, Batch]]:
        """Yield the batches in their order, computed or as they were kept, and of those to be kept their span.

        The last one is not kept, for the shard is written next.
        """
        for span in self._spans():
            kept = self._kept(span)
            batch = kept or replace(work, positions=work.positions[slice(*span)]).compute(method)
            yield (None if kept or span[1] == self.size else span), batch

    def keep(self, span: Span, batch: Batch) -> int:
        """Write a batch beside the journal; return how many init times of the shard are kept then."""
        values, status = (np.ascontiguousarray(a).data.cast("B") for a in batch)
        digest = hashlib.sha256(values)
        digest.update(status)
        # By its digest half a file is known as such: neither a rename nor a sync is needed.
        with storage(self._file(span)), self._file(span).open("wb") as file:
            file.writelines((digest.digest(), values, status))
        return span[1]

    def begun(self) -> int:
        """Return how many init times are kept of a shard that is not done."""
        return next(first for first, stop in self._spans() if stop == self.size or not self._kept((first, stop)))

    def put(self, values: Values, status: Statuses) -> Entry:
        """Write the shard, read it back, and enter it into the journal."""
        records = []
        for i, plan in enumerate(self.plans):
            field = values if self.variable_axis is None else np.take(values, i, axis=self.variable_axis)
            block = xr.Variable(plan.dims, field)
            records.append(write_shard(self.store, plan, self.index(plan), block, f"{plan.name}, {self.label}"))
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
        if content[:_DIGEST] != hashlib.sha256(content[_DIGEST:]).digest():
            return None
        end = len(content) - (span[1] - span[0])
        values = np.frombuffer(content[_DIGEST:end], np.float32).reshape(self.shape)
        return values, np.frombuffer(content[end:], np.uint8)


_models: dict[str, Nowcaster] = {}
_models_lock = threading.Lock()


def run_shard(shard: Shard, work: Opaque, model: Any) -> Entry:
    """Do one task on a worker; `model` is the path of a saved network, or a reference."""
    entry = shard.done()  # by a worker that died before it could tell
    if entry is not None:
        return entry
    method: Method
    if not isinstance(model, str):
        method = model
    else:
        with _models_lock:
            if shard.model not in _models:
                _models.clear()  # the model of an earlier hindcast is not needed any more
                _models[shard.model] = Nowcaster.load(model)
            method = _models[shard.model]
    batches = []
    for span, batch in shard.forecast(work.work.read(), method):
        if span is not None:
            shard.keep(span, batch)
        batches.append(batch)
    return shard.put(*shard.joined(batches))


def same(method: Any) -> Any:
    """Return what came, as a task that a scheduler can run again where a worker that had it died."""
    return method
