"""The store that is written: its template, its shards, and what is known at its end."""

from __future__ import annotations

import concurrent.futures
import functools
import json
import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from sa_nowcast.computing.clusters import Call, Needs, results_of, tasks_on
from sa_nowcast.conversion import open_zarr
from sa_nowcast.errors import ForecastWarning, StorageError
from sa_nowcast.forecasts.cf import to_dataset
from sa_nowcast.forecasts.job import Job, Opaque, sha256
from sa_nowcast.forecasts.method import AS_ASKED, FELL_BACK, FILLED, NONE_POSSIBLE, Statuses, shortcomings
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.hindcast.memory import room_on_worker, smaller_tasks, task_bytes
from sa_nowcast.hindcast.shard import BATCH, Batch, Shard, index_of, run_shard, same
from sa_nowcast.metadata import dims
from sa_nowcast.storage.growing import Entry, GrowingStore, Progress, no_values, require_replaceable
from sa_nowcast.storage.manifest import ARCHIVE, COMPLETE
from sa_nowcast.storage.shards import VariablePlan
from sa_nowcast.storage.whole import storage
from sa_nowcast.verification.optical_flow import FALLBACK_COUNT

Existing = Literal["resume", "replace"]

STATUS: Final = "history_status"
"""The archive's variable that says from which init times no forecast was possible, or only a simpler one."""
NO_FORECAST_COUNT: Final = "no_forecast_count"
_MODEL: Final = "model.nowcaster"

MiB: Final = 2**20
LARGEST_CHUNK: Final = 32 * MiB
LARGEST_SHARD: Final = 64 * MiB
# A shard that is lost is computed again, and workers share shards out; for small grids size alone gives too few.
MOST_PER_SHARD: Final = 64


def status_of(entry: Entry) -> npt.NDArray[Any]:
    """Return how each forecast of a shard was possible."""
    status = np.where(entry["complete"], AS_ASKED, NONE_POSSIBLE)
    status[np.array(entry.get("fell_back", []), dtype=int)] = FELL_BACK
    return status


class Archive(GrowingStore[Shard]):
    """An archive under way."""

    kind, unit = "archive", "init times"

    def __init__(self, job: Job, place: Path, batch_size: int | None, shard_size: int | None) -> None:
        super().__init__(place, job.identity(), len(job.positions))
        self.job, self.batch_size, self.wanted_shard, self.cluster = job, batch_size, shard_size, None
        self.status: Statuses | None = None
        self.name = str(place)

    def write(self, existing: Existing, cluster: Any, progress: Progress | None) -> None:
        """Write what is not there yet, here or on a cluster; see `hindcast`."""
        self.cluster = cluster
        self.grow(existing, progress)
        if self.status is not None:
            text = shortcomings(self.job.method, self.job.frames, self.job.positions, self.status)
            if text:
                warnings.warn(f"{text}; {STATUS} in {self.name} says which", ForecastWarning, stacklevel=3)

    def stands(self, existing: str) -> bool:
        """Say whether the same hindcast stands there whole; refuse what is another."""
        if not self.place.exists():
            return False
        if existing == "replace":
            require_replaceable(self.place)
            return False
        try:
            attrs = dict(zarr.open_group(self.place, mode="r").attrs)
            theirs = json.loads(str(attrs[ARCHIVE]))
        except (OSError, ValueError, KeyError):
            raise StorageError(
                str(self.place), "exists and is no hindcast", expected="a new path", fix="name another path"
            ) from None
        if (other := self.other(self.place, theirs)) is not None:
            raise other
        if COMPLETE not in attrs:
            raise StorageError(
                str(self.place), "a hindcast without its completion mark", fix="write it again (existing='replace')"
            )
        return True

    def other(self, path: Path, theirs: Mapping[str, Any]) -> StorageError | None:
        """Return the error about another hindcast at `path`: both are shown."""
        differing = [k for k in self.identity if theirs.get(k) != self.identity[k]]
        if not differing:
            return None
        return StorageError(
            str(path),
            "holds another hindcast: " + "; ".join(f"{k} {theirs.get(k)}" for k in differing),
            expected="; ".join(f"{k} {self.identity[k]}" for k in differing),
            fix="name another path, or replace it (existing='replace')",
        )

    def opened(self, chunks: Mapping[str, int]) -> xr.Dataset:
        """Open the finished archive."""
        return open_zarr(self.place, chunks=chunks)

    # Template

    def design(self, before: Mapping[str, Any]) -> tuple[xr.Dataset, Sequence[Shard], Mapping[str, Any]]:
        """Return the template, the shards, and the sizes that their bytes depend on; those of one begun are kept."""
        if before:
            # Another batch rounds differently in the last bit, and other tiles forecast differently near their edges.
            batch = int(before["batch"]) if self.batch_size is None else self.job.batch
            self.job = replace(self.job, batch=batch, tile=int(before["tile"]))
        job = self.job
        size = int(before["shard"]) if before else self._shard_size()
        template = to_dataset(job.labelled(no_values(job.shape, np.float32)))
        plans = tuple(self._variable_plan(str(n), v.variable, size) for n, v in template.data_vars.items())
        variable_axis = job.dims.index(dims.VARIABLE) if dims.VARIABLE in job.dims else None
        any_number = tuple(-1 if i == job.init_axis else n for i, n in enumerate(job.shape))
        shards = []
        for i, positions in enumerate(job.parts(size)):
            files = tuple(p.path(index_of(p, i)) for p in plans)
            first, last = (job.frames.label(int(p)) for p in positions[[0, -1]])
            shards.append(
                Shard(
                    i, str(self.partial), str(self.journal), self.key, files, len(positions),
                    f"init times {first} to {last}", plans, variable_axis, job.init_axis, any_number, job.batch,
                )
            )  # fmt: skip
        if self.cluster is not None and shards:
            with tasks_on(
                self.cluster, str(self.place), "batch_size", needs=self._needs(size, begun=bool(before))
            ) as tasks:
                tasks.require_room()
        return self._labelled(template, plans), shards, {"shard": size, "batch": job.batch, "tile": job.tile}

    def _shard_size(self) -> int:
        """Return so many init times of whole batches as fit, or at least as many as the user told."""
        batch = self.job.batch
        most = min(MOST_PER_SHARD, max(1, LARGEST_SHARD // (math.prod(self.job.one.shape) * 4)))
        batches = -(-self.wanted_shard // batch) if self.wanted_shard else max(1, most // batch)
        return batch * min(batches, -(-len(self.job.positions) // batch))

    def _variable_plan(self, name: str, variable: xr.Variable, size: int) -> VariablePlan:
        axis = variable.dims.index(dims.INIT_TIME)
        chunks = list(variable.shape)
        chunks[axis] = 1
        y = len(chunks) - 2
        for i in (k for k in range(y) if k != axis):  # members, lead times, channels: one at a time
            if math.prod(chunks) * 4 > LARGEST_CHUNK:
                chunks[i] = 1
        while math.prod(chunks) * 4 > LARGEST_CHUNK and chunks[y] > 1:
            chunks[y] = -(-chunks[y] // 2)
        shards = [c * -(-n // c) for c, n in zip(chunks, variable.shape, strict=True)]
        shards[axis] = size
        names = tuple(map(str, variable.dims))
        return VariablePlan(name, names, variable.shape, np.dtype(np.float32), tuple(chunks), tuple(shards), axis)

    def _labelled(self, template: xr.Dataset, plans: Sequence[VariablePlan]) -> xr.Dataset:
        """Return the template with its encodings and its status."""
        # Zarr 3 has a specification for text of any length, and none for text of a fixed one.
        template = template.assign_coords(
            {n: c.astype(object) for n, c in template.coords.items() if c.dtype.kind == "U"}
        )
        for plan in plans:
            variable = template[plan.name]
            variable.attrs["ancillary_variables"] = STATUS
            variable.encoding |= {
                "chunks": plan.chunks, "shards": plan.shards,
                "_FillValue": np.float32(np.nan), "fill_value": np.float32(np.nan),
            }  # fmt: skip
        template[STATUS] = (
            dims.INIT_TIME,
            # CF section 3.5 wants one type for values and flags; flags are kept as JSON, and read back as int64.
            np.zeros(len(self.job.positions), dtype=np.int64),
            {
                "standard_name": "status_flag",
                "long_name": "status of the history that the forecast starts from",
                "flag_values": [AS_ASKED, NONE_POSSIBLE, FELL_BACK],
                "flag_meanings": "complete no_forecast_possible too_little_for_the_method_simpler_forecast",
            },
        )
        # No flag: what is not written yet, and so that a flag of 0 is written too.
        template[STATUS].encoding["fill_value"] = -1
        for name in template.variables:
            # Of float32 forecasts level 3 stores one per cent less than level 1, in twice the time.
            template[name].encoding["compressors"] = (ZstdCodec(level=1, checksum=True),)
        template.attrs[ARCHIVE] = json.dumps(self.identity, sort_keys=True)
        return template

    # Work

    def run(self, todo: Sequence[Shard]) -> Iterator[tuple[Shard, Entry | int]]:
        """Compute and write shards, here or on a cluster; here what is kept of a shard is told of."""
        numbers = {str(shard.number) for shard in todo}
        with storage(self.journal):
            for file in self.journal.glob(f"*{BATCH}"):
                if file.name.partition(".")[0] not in numbers:
                    file.unlink()  # of a shard that was entered just before its process was killed
        if todo:
            yield from self._run_here(todo) if self.cluster is None else self._run_on(self.cluster, todo)

    def _work(self, shard: Shard) -> Opaque:
        first = shard.number * shard.plans[0].shards[shard.plans[0].time_axis]
        return Opaque(self.job, self.job.positions[first : first + shard.size])

    def _run_here(self, todo: Sequence[Shard]) -> Iterator[tuple[Shard, Entry | int]]:
        """Compute here; meanwhile one thread reads the next shard's histories, and one writes what is computed."""
        with (
            concurrent.futures.ThreadPoolExecutor(1) as reader,
            concurrent.futures.ThreadPoolExecutor(1) as writer,  # what it was given counts, whatever ends this
        ):
            writing: deque[tuple[Shard, concurrent.futures.Future[Any]]] = deque()

            def written(*, all_of_it: bool) -> Iterator[tuple[Shard, Entry | int]]:
                while writing and (all_of_it or writing[0][1].done()):
                    shard, future = writing.popleft()
                    yield shard, future.result()

            reading = reader.submit(self._work(todo[0]).work.read, None)
            try:
                for shard, following in zip(todo, (*todo[1:], None), strict=True):
                    work = reading.result()
                    if following is not None:
                        reading = reader.submit(self._work(following).work.read, None)
                    batches: list[Batch] = []
                    for batch, new in shard.forecast(work, self.job.method):
                        batches.append(batch)
                        if new:
                            writing.append((shard, writer.submit(shard.keep, new)))
                        yield from written(all_of_it=False)
                    yield from written(all_of_it=True)  # two shards are in memory, and no more
                    writing.append((shard, writer.submit(shard.put, *shard.joined(batches))))
                yield from written(all_of_it=True)
            except BaseException:
                reading.cancel()
                raise

    def _run_on(self, cluster: Any, todo: Sequence[Shard]) -> Iterator[tuple[Shard, Entry | int]]:
        """Compute on the workers of a cluster, a few shards a worker at a time."""
        method = self.job.method
        needs = self._needs(max(shard.size for shard in todo), begun=True)
        with tasks_on(cluster, str(self.place), "batch_size", needs=needs) as tasks:
            if type(method) is Nowcaster and method.inflow == FILLED:
                # A file beside the archive, which every worker can read: sent once, checked, and not lost with a
                # worker that dies.
                model: Any = str(self.journal / _MODEL)
                with storage(self.journal):
                    method.save(model, overwrite=True)
            else:  # a reference, or what a file does not hold: the default model's terms of these data, missing inflow
                model = tasks.submit(same, method)
            calls: Iterator[Call] = ((s, s.label, run_shard, (s, self._work(s), model)) for s in todo)
            yield from results_of(tasks, calls)

    def _needs(self, size: int, *, begun: bool) -> Needs:
        """Return what shards of so many init times take; of an archive that was `begun`, their size is given."""
        return Needs(
            task_bytes(self.job, size),
            functools.partial(room_on_worker, self.job.device),
            functools.partial(smaller_tasks, self.job, size, begun=begun),
        )

    # End

    def marks(self, entries: Sequence[Entry]) -> Mapping[str, Any]:
        """Write how each forecast was possible; return the mark of completion."""
        status = np.concatenate([status_of(entry) for entry in entries])
        stored: Any = zarr.open_array(self.partial, path=STATUS, mode="r+", config={"write_empty_chunks": True})
        stored[:] = status.astype(np.int64)
        return self.end(status, self.partial)

    def end(self, status: npt.NDArray[Any], store: Any) -> Mapping[str, Any]:
        """Note how many forecasts were not as asked for; return the mark of completion."""
        self.status = status.astype(np.uint8)
        counts = {
            name: int((status == kind).sum())
            for name, kind in ((NO_FORECAST_COUNT, NONE_POSSIBLE), (FALLBACK_COUNT, FELL_BACK))
            if (status == kind).any()
        }
        for name in to_dataset(self.job.one).data_vars if counts else ():
            zarr.open_array(store, path=str(name), mode="r+").attrs.update(counts)
        return {COMPLETE: sha256(json.dumps(self.identity, sort_keys=True).encode())}
