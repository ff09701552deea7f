"""The store that is written: template, shards, journal, end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import dask.array
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from sa_nowcast._version import __version__
from sa_nowcast.computing import quiet
from sa_nowcast.computing.clusters import Tasks, client_of
from sa_nowcast.conversion import COMPLETE, VariablePlan
from sa_nowcast.conversion.shards import ShardRecord, clear_but
from sa_nowcast.errors import ForecastWarning, Interrupted, StorageError
from sa_nowcast.forecasts.cf import to_dataset
from sa_nowcast.forecasts.job import AS_ASKED, FELL_BACK, NONE_POSSIBLE, Job, Opaque, Work, sha256, shortcomings
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.hindcast.shard import Shard, run_shard, same
from sa_nowcast.metadata import dims
from sa_nowcast.sources.manifest import MANIFEST, may_be_replaced, write_manifest
from sa_nowcast.sources.store import LOCK, PARTIAL
from sa_nowcast.storage.whole import locked, put_in_place, remove, require_writable, storage, sync, write_whole
from sa_nowcast.verification.optical_flow import FALLBACK_COUNT

Progress = Callable[[int, int], None]
Existing = Literal["resume", "replace"]

JOURNAL: Final = ".journal"
STATUS: Final = "history_status"
"""The archive's variable that says from which init times no forecast was possible, or only a simpler one."""
NO_FORECAST_COUNT: Final = "no_forecast_count"
_IDENTITY: Final = "sa_nowcast_hindcast"
# In the plan of an archive that is about to get its name: by it, it is known under either name.
_INODE = "inode"
_PLAN, _MODEL = "plan.json", "model.nowcaster"

MiB: Final = 2**20
LARGEST_CHUNK: Final = 32 * MiB
LARGEST_SHARD: Final = 64 * MiB
# A shard that is lost is computed again, and workers share shards out; for small grids size alone gives too few.
MOST_PER_SHARD: Final = 64


class Archive:
    """The store being written, and its journal."""

    def __init__(self, job: Job, place: Path, batch_size: int | None, shard_size: int | None) -> None:
        self.job, self.place, self.batch_size, self.wanted_shard = job, place, batch_size, shard_size
        self.partial = place.with_name(place.name + PARTIAL)
        self.journal = place.with_name(place.name + PARTIAL + JOURNAL)
        self.lock = place.with_name(place.name + PARTIAL + LOCK)
        self.identity = job.identity()
        self.fingerprint = sha256(json.dumps(self.identity, sort_keys=True).encode())

    def check(self, existing: Existing) -> None:
        """Raise what would keep `write` from beginning; nothing is written."""
        if self._finished(existing):
            return
        require_writable(self.place)
        plan = self._plan()
        if plan and existing == "resume":
            self._require_same(self.partial, plan["identity"])

    def write(self, existing: Existing, cluster: Any, progress: Progress | None) -> None:
        """Write what is not there yet, here or on a cluster; see `hindcast`."""
        total = len(self.job.positions)
        # Looked at before the lock too: a finished archive may stand in a folder that cannot be written.
        if self._finished(existing):
            if self.journal.exists() or self.lock.exists():  # of a process that was killed just before its end
                with contextlib.suppress(StorageError), self._locked():
                    self._ended_before()
            if progress is not None:
                progress(total, total)
            return
        with self._locked():
            if self._ended_before() or self._finished(existing):  # the latter by another process, meanwhile
                if progress is not None:
                    progress(total, total)
                return
            shards, entries = self._begin(existing)
            todo = [s for s in shards if s.number not in entries]
            run = self._run_here if cluster is None else partial(self._run_on, cluster)

            def count() -> int:
                return sum(len(entry["complete"]) for entry in entries.values())

            if progress is not None:
                progress(count(), total)
            try:
                for number, entry in run(todo):
                    entries[number] = entry
                    if progress is not None:
                        progress(count(), total)
            except KeyboardInterrupt:
                raise Interrupted(
                    str(self.partial),
                    f"stopped after {count()} of {total} init times",
                    fix="run the same again to go on",
                ) from None
            self._finish(shards, entries)

    # Whose it is

    def _finished(self, existing: Existing) -> bool:
        """Say whether the same hindcast stands there whole; refuse what is another."""
        if not self.place.exists():
            return False
        if existing == "replace":
            if not may_be_replaced(self.place):
                raise StorageError(
                    str(self.place), "exists and is no Zarr store; it is left alone", fix="name another path"
                )
            return False
        try:
            attrs = dict(zarr.open_group(self.place, mode="r").attrs)
            theirs = json.loads(str(attrs[_IDENTITY]))
        except (OSError, ValueError, KeyError):
            raise StorageError(
                str(self.place), "exists and is no hindcast", expected="a new path", fix="name another path"
            ) from None
        self._require_same(self.place, theirs)
        if COMPLETE not in attrs:
            raise StorageError(
                str(self.place), "a hindcast without its completion mark", fix="write it again (existing='replace')"
            )
        return True

    def _require_same(self, path: Path, theirs: Mapping[str, Any]) -> None:
        differing = [k for k in self.identity if theirs.get(k) != self.identity[k]]
        if differing:
            raise StorageError(
                str(path),
                "holds another hindcast: " + "; ".join(f"{k} {theirs.get(k)}" for k in differing),
                expected="; ".join(f"{k} {self.identity[k]}" for k in differing),
                fix="name another path, or replace it (existing='replace')",
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process write the same archive; remove the journal where the archive is not under way."""
        with locked(self.lock, self.place):
            try:
                yield
            finally:
                if not self.partial.exists():
                    shutil.rmtree(self.journal, ignore_errors=True)

    def _ended_before(self) -> bool:
        """Do what is left to do for an archive that was whole when its process was killed; say whether there is one."""
        plan = self._plan()
        if plan.get("identity") != self.identity or _INODE not in plan:
            return False
        found = {p: p.stat().st_ino for p in (self.place, self.partial) if p.exists()}
        with storage(self.place):
            if found.get(self.place) == plan[_INODE]:
                remove(self.partial)  # the former archive
            elif found.get(self.partial) == plan[_INODE]:
                put_in_place(self.partial, self.place)
            else:
                return False
        return True

    def _plan(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            plan: dict[str, Any] = json.loads((self.journal / _PLAN).read_text())
            return plan
        return {}

    # Template

    def _begin(self, existing: Existing) -> tuple[list[Shard], dict[int, dict[str, Any]]]:
        """Lay the store out, also where it was left unfinished; return its shards, and the entries of those done."""
        file = self.journal / _PLAN
        plan = self._plan()
        if not plan and self.partial.exists() and any(self.partial.iterdir()):
            raise StorageError(
                str(self.partial),
                "something else stands where the archive would grow",
                fix="finish or remove it, or name another path",
            )
        if plan and existing == "resume":
            self._require_same(self.partial, plan["identity"])
        if not plan.get("laid_out") or plan["identity"] != self.identity or not self.partial.is_dir():
            plan = {}
        if plan:
            # Another batch rounds differently in the last bit, and other tiles forecast differently near their edges.
            batch = int(plan["batch"]) if self.batch_size is None else self.job.batch
            self.job = replace(self.job, batch=batch, tile=int(plan["tile"]))
        job = self.job
        size = int(plan["shard"]) if plan else self._shard_size()
        template = to_dataset(job.labelled(dask.array.zeros(job.shape, dtype=np.float32, chunks=-1)))
        plans = tuple(self._variable_plan(str(n), v.variable, size) for n, v in template.data_vars.items())
        axis = job.dims.index(dims.VARIABLE) if dims.VARIABLE in job.dims else None
        shards = [
            Shard(
                i, str(self.partial), str(self.journal), plans, axis,
                f"init times {job.frames.label(int(p[0]))} to {job.frames.label(int(p[-1]))}", job.method.identity,
            )
            for i, p in enumerate(job.parts(size))
        ]  # fmt: skip
        if plan:
            entries = {s.number: entry for s in shards if (entry := s.done()) is not None}
            with storage(self.partial):
                clear_but(self.partial, (ShardRecord(**r) for e in entries.values() for r in e["files"]))
                self._lay_out(template, plans)
            return shards, entries
        plan = {"identity": self.identity, "shard": size, "batch": job.batch, "tile": job.tile,
                "version": __version__}  # fmt: skip
        with storage(self.partial):
            # In this order: killed at any point, what is there is known as the beginning of an archive.
            self.journal.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(plan))
            for child in self.journal.iterdir():
                if child.name != _PLAN:
                    remove(child)
            remove(self.partial)
            self._lay_out(template, plans)
            write_whole(file, json.dumps(plan | {"laid_out": True}))
        return shards, {}

    def _shard_size(self) -> int:
        job = self.job
        one = math.prod(job.one.shape) * 4
        most = min(MOST_PER_SHARD, max(1, LARGEST_SHARD // one))
        wanted = self.wanted_shard or most
        size = job.batch * max(1, wanted // job.batch if self.wanted_shard is None else -(-wanted // job.batch))
        return min(size, -(-len(job.positions) // job.batch) * job.batch)

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

    def _lay_out(self, template: xr.Dataset, plans: Sequence[VariablePlan]) -> None:
        # Zarr 3 has a specification for text of any length, and none for text of a fixed one.
        template = template.assign_coords(
            {n: c.astype(object) for n, c in template.coords.items() if c.dtype.kind == "U"}
        )
        # Of float32 forecasts level 3 stores one per cent less than level 1, in twice the time.
        compressors = (ZstdCodec(level=1, checksum=True),)
        encoding: dict[Hashable, dict[str, Any]] = {}
        for plan in plans:
            variable = template[plan.name]
            variable.attrs["ancillary_variables"] = STATUS
            blank = dask.array.zeros(plan.shape, dtype=np.float32, chunks=plan.shards)
            template[plan.name] = variable.copy(data=blank)
            template[plan.name].encoding = {
                **variable.encoding, "chunks": plan.chunks, "shards": plan.shards, "compressors": compressors,
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
            if name not in encoding and name not in {p.name for p in plans}:
                template[name].encoding["compressors"] = compressors
        template.attrs[_IDENTITY] = json.dumps(self.identity, sort_keys=True)
        # Of folders that hold shards already, and no metadata yet.
        with quiet.warnings_ignored(zarr.errors.ZarrUserWarning, "Object at", threads="all"):
            template.to_zarr(
                self.partial, mode="a", zarr_format=3, consolidated=False, compute=False, write_empty_chunks=True
            )

    # Work

    def _work(self, shard: Shard) -> Opaque:
        size = shard.plans[0].shards[shard.plans[0].time_axis]
        return Opaque(self.job, self.job.positions[shard.number * size : (shard.number + 1) * size])

    def _run_here(self, todo: Sequence[Shard]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Compute here; meanwhile one thread reads the next shard's histories and one writes the last shard."""
        with (
            concurrent.futures.ThreadPoolExecutor(1) as reader,
            concurrent.futures.ThreadPoolExecutor(1) as writer,
        ):
            reading: list[concurrent.futures.Future[Work]] = []
            writing: tuple[int, concurrent.futures.Future[dict[str, Any]]] | None = None
            try:
                for i, shard in enumerate(todo):
                    if not reading:
                        reading.append(reader.submit(self._work(shard).work.read, None))
                    if i + 1 < len(todo):
                        reading.append(reader.submit(self._work(todo[i + 1]).work.read, None))
                    values, status = reading.pop(0).result().compute(self.job.method)
                    if writing is not None:
                        last, writing = writing, None
                        yield last[0], last[1].result()
                    writing = shard.number, writer.submit(shard.put, values, status)
                    del values
            except BaseException:
                for future in reading:
                    future.cancel()
                if writing is not None:
                    concurrent.futures.wait([writing[1]])  # what was being written counts
                raise
            if writing is not None:
                yield writing[0], writing[1].result()

    def _run_on(self, cluster: Any, todo: Sequence[Shard]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Compute on the workers of a cluster, a few shards a worker at a time."""
        if not todo:
            return
        method = self.job.method
        with client_of(cluster) as client:
            tasks = Tasks(client, str(self.place), "batch_size")
            if not isinstance(method, Nowcaster):
                model: Any = tasks.submit(same, method)
            else:
                # A file beside the archive, which every worker can read: sent once, checked, and not lost with a
                # worker that dies.
                model = str(self.journal / _MODEL)
                with storage(self.journal):
                    method.save(model, overwrite=True)
            waiting = iter(todo)
            running: dict[Any, Shard] = {}
            try:
                while True:
                    at_once = tasks.at_once()
                    while len(running) < at_once and (shard := next(waiting, None)) is not None:
                        running[tasks.submit(run_shard, shard, self._work(shard), model)] = shard
                    if not running:
                        break
                    for future in tasks.first_of(running):
                        shard = running.pop(future)
                        yield shard.number, tasks.result(future, shard.label)
            finally:
                tasks.stop(running)

    # End

    def _finish(self, shards: Sequence[Shard], entries: Mapping[int, Mapping[str, Any]]) -> None:
        """Make sure that every shard is there, mark the store complete, and give it its name."""
        for shard in shards:
            for record in entries[shard.number]["files"]:
                file = self.partial / record["path"]
                if not file.is_file() or file.stat().st_size != record["nbytes"]:
                    raise StorageError(
                        str(file), "a shard vanished or changed while others were written", fix="run again"
                    )
        with storage(self.partial):
            for rest in self.partial.rglob("*.partial"):
                rest.unlink()  # what a process left that was killed while it wrote
            remove(self.partial / MANIFEST)  # likewise; the consolidated metadata must not hold it
            status = np.concatenate([_status_of(entries[s.number]) for s in shards])
            stored: Any = zarr.open_array(self.partial, path=STATUS, mode="r+", config={"write_empty_chunks": True})
            stored[:] = status
            counts = {
                name: int((status == kind).sum())
                for name, kind in ((NO_FORECAST_COUNT, NONE_POSSIBLE), (FALLBACK_COUNT, FELL_BACK))
                if (status == kind).any()
            }
            for plan_of in shards[0].plans if counts else ():
                zarr.open_array(self.partial, path=plan_of.name, mode="r+").attrs.update(counts)
            zarr.open_group(self.partial, mode="r+").attrs.update({COMPLETE: self.fingerprint})
            # Format 3 does not specify consolidated metadata yet; without them xarray warns every reader.
            with quiet.warnings_ignored(UserWarning, "Consolidated metadata", threads="all"):
                zarr.consolidate_metadata(self.partial)
            records = [r for s in shards for r in entries[s.number]["files"]]
            write_manifest(self.partial, {r["path"]: (r["nbytes"], r["sha256"]) for r in records})
            for path in (*self.partial.rglob("*"), self.partial):
                sync(path)
            plan = json.dumps(self._plan() | {_INODE: self.partial.stat().st_ino})
            write_whole(self.journal / _PLAN, plan)
            put_in_place(self.partial, self.place)
        text = shortcomings(self.job.method, self.job.frames, self.job.positions, status.astype(np.uint8))
        if text:
            warnings.warn(f"{text}; {STATUS} in {self.place} says which", ForecastWarning, stacklevel=4)


def _status_of(entry: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return the status of a shard's init times from its entry in the journal."""
    status = np.where(entry["complete"], AS_ASKED, NONE_POSSIBLE).astype(np.int64)
    status[entry.get("fell_back", [])] = FELL_BACK
    return status
