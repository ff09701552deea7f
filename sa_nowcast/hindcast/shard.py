"""One task of an archive: the init times of one file of each variable, and its entry in the journal."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sa_nowcast.conversion import VariablePlan
from sa_nowcast.conversion.shards import ShardRecord, write_shard
from sa_nowcast.forecasts.job import FELL_BACK, NONE_POSSIBLE, Method, Opaque, Statuses, Values
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.storage.whole import storage, write_whole


@dataclass(frozen=True)
class Shard:
    """One task: the init times of one shard of each variable."""

    number: int
    store: str
    journal: str
    plans: tuple[VariablePlan, ...]
    variable_axis: int | None
    label: str
    model: str
    """The identity of the model, under which a worker remembers it."""

    @property
    def marker(self) -> Path:
        """The journal's entry."""
        return Path(self.journal) / f"{self.number}.json"

    def done(self) -> dict[str, Any] | None:
        """Return the journal's entry where the shard is there as it was written, else None."""
        try:
            entry: dict[str, Any] = json.loads(self.marker.read_text())
            records = [ShardRecord(**r) for r in entry["files"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        wanted = [p.path(self.index(p)) for p in self.plans]
        if [r.path for r in records] != wanted or not all(r.still_there(Path(self.store)) for r in records):
            return None
        return entry

    def index(self, plan: VariablePlan) -> tuple[int, ...]:
        """Return the shard's place among the shards of a variable."""
        index = [0] * len(plan.shape)
        index[plan.time_axis] = self.number
        return tuple(index)

    def put(self, values: Values, status: Statuses) -> dict[str, Any]:
        """Write the shard, read it back, and enter it into the journal."""
        records = []
        for i, plan in enumerate(self.plans):
            field = values if self.variable_axis is None else np.take(values, i, axis=self.variable_axis)
            block = xr.Variable(plan.dims, field)
            # A shard is written whole; zarr would first read what a damaged one holds, and fail.
            with storage(self.marker):
                (Path(self.store) / plan.path(self.index(plan))).unlink(missing_ok=True)
            records.append(write_shard(self.store, plan, self.index(plan), block, f"{plan.name}, {self.label}"))
        entry = {
            "files": [r.as_dict() for r in records],
            "complete": (status != NONE_POSSIBLE).tolist(),
            "fell_back": np.flatnonzero(status == FELL_BACK).tolist(),
        }
        with storage(self.marker):
            write_whole(self.marker, json.dumps(entry))
        return entry


_models: dict[str, Nowcaster] = {}
_models_lock = threading.Lock()


def run_shard(shard: Shard, work: Opaque, model: Any) -> dict[str, Any]:
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
    return shard.put(*work.work.compute(method))


def same(method: Any) -> Any:
    """Return what came, as a task that a scheduler can run again where a worker that held it died."""
    return method
