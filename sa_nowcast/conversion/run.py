"""The conversion itself: one task a shard, a journal of what is done, a rename at the end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import dask.array
import dask.base
import numpy as np
import xarray as xr
import zarr

from sa_nowcast._version import __version__
from sa_nowcast.computing import quiet
from sa_nowcast.computing.clusters import Tasks, client_of
from sa_nowcast.conversion.plan import ConversionPlan, VariablePlan
from sa_nowcast.conversion.prepare import Irregular, Prepared, prepare
from sa_nowcast.conversion.shards import ShardRecord, clear_but, write_shard
from sa_nowcast.errors import Interrupted, RecipeError, StorageError
from sa_nowcast.sources.manifest import MANIFEST, may_be_replaced, write_manifest
from sa_nowcast.sources.open import open_source
from sa_nowcast.sources.paths import PathLike, stamp
from sa_nowcast.sources.store import COMPLETE, LOCK, PARTIAL
from sa_nowcast.storage.whole import clear, locked, put_in_place, remove, require_writable, storage, sync, write_whole
from sa_nowcast.times import show_time

Progress = Callable[[int, int], None]
Existing = Literal["refuse", "replace"]

JOURNAL: Final = ".jsonl"
_INODE: Final = "inode"


def convert(
    source: PathLike | Iterable[PathLike] | xr.Dataset | xr.DataArray,
    target: PathLike,
    *,
    engine: str | Any = None,
    options: Mapping[str, Any] | None = None,
    variables: Sequence[str] | None = None,
    time: Hashable | None = None,
    y: Hashable | None = None,
    x: Hashable | None = None,
    channel: Hashable | None = None,
    irregular: Irregular = "refuse",
    window: int = 20,
    frames_per_shard: int | None = None,
    level: int = 3,
    attrs: Mapping[str, Any] | None = None,
    existing: Existing = "refuse",
    workers: int | None = None,
    cluster: Any = None,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> ConversionPlan:
    """Convert a source to a Zarr store of format 3 that is complete or absent.

    One frame is a chunk and many frames are a shard (one file), compressed by Zstandard with a checksum. All-zero
    chunks are written, so that a missing chunk means missing. Packed types stay packed, CF metadata stay, and times
    that the source lacks are listed in ``missing_times``. The store grows beside its final name
    (``<target>.partial``), every shard is read back, and only the whole store is renamed. The same call again goes on
    where the last one stopped.

    Parameters
    ----------
    source : path, iterable of paths, Dataset or DataArray
        What `sa_nowcast.sources.open_source` opens, or what xarray has opened already.
    target : path
        A folder on a local or shared file system.
    engine, options : optional
        For `open_source`, where `source` is a path.
    variables : sequence of str, optional
        All by default.
    time, y, x, channel : hashable, optional
        Dimension names, where CF attributes and common names do not tell. The store's coordinates of `y` and `x` are
        then marked by the CF attribute ``axis``.
    irregular : {"refuse", "allow"}
        What to do with times that are no multiples of one step, such as months.
    window : int
        Frames of the windows that will be read (history and steps together); decides the size of shards.
    frames_per_shard : int, optional
        The size of shards, where `window` should not decide.
    level : int
        Zstandard's, 1 to 22.
    attrs : mapping, optional
        Global attributes to add, such as a ``license``.
    existing : {"refuse", "replace"}
        What to do with a store that is at `target` already, or with the rest of a conversion of other data or settings.
    workers : int, optional
        Threads; by default as many as processors, at most 4. Not with `cluster`.
    cluster : str, dask Client or cluster, optional
        Address of a dask scheduler (``tcp://host:8786``), or what stands for one; its workers must see the same files.
    progress : callable, optional
        Called with the number of shards done and of all shards.
    dry_run : bool
        Plan and check only, the target too: nothing is written.

    Returns
    -------
    ConversionPlan
        Print it: times, chunks, shards and sizes.

    Raises
    ------
    RecipeError
        An argument.
    DataError
        The source: its files, times or values; shards that were written stay for the next call.
    StorageError
        The target: it exists, cannot be written, or is being written by another process.
    Interrupted
        Stopped by Ctrl-C, or the cluster lost its workers; the same call goes on.
    """
    _check(irregular, Irregular, "irregular")
    _check(existing, Existing, "existing")
    for name, value, least, most in (
        ("window", window, 1, 10**6), ("frames_per_shard", frames_per_shard, 1, 10**6), ("level", level, 1, 22),
        ("workers", workers, 1, 10**4),
    ):  # fmt: skip
        if value is not None and not least <= value <= most:
            raise RecipeError(name, str(value), expected=f"{least} to {most}")
    if workers is not None and cluster is not None:
        raise RecipeError(
            "workers",
            f"{workers}, with a cluster",
            expected="threads here, or a cluster's workers",
            fix="give one of them",
        )
    place = _local(target)
    files = None
    if isinstance(source, xr.Dataset | xr.DataArray):
        opened: xr.Dataset | xr.DataArray = source
    else:
        paths = source if isinstance(source, str | os.PathLike) else list(source)
        files = stamp(paths)
        opened = open_source(paths, engine=engine, time=time, **dict(options or {}))
    prepared = prepare(
        opened, place, variables=variables, time=time, y=y, x=x, channel=channel, irregular=irregular, window=window,
        frames=frames_per_shard, level=level, attrs=dict(attrs or {}),
    )  # fmt: skip
    _may_write(place, existing)
    require_writable(place)
    if dry_run:
        return prepared.plan
    with locked(_lock_file(place), place):
        conversion = _Conversion(prepared, place, files)
        stored = conversion.ended_before()
        if stored is None:
            _may_write(place, existing)  # another process may have ended meanwhile
            conversion.begin(existing)
            _write_shards(prepared, conversion, workers, cluster, progress)
            stored = conversion.finish()
        elif progress is not None:
            progress(prepared.plan.shards, prepared.plan.shards)
    return replace(prepared.plan, stored_nbytes=stored)


def _may_write(place: Path, existing: Existing) -> None:
    """Refuse a place where something stands that is not to be replaced."""
    if not place.exists() or (_journal_file(place).exists() and _Conversion.inode_at_end(place) == place.stat().st_ino):
        return
    if existing == "refuse":
        clear(_lock_file(place), place)
        raise StorageError(
            str(place),
            "exists already",
            expected="no store there",
            fix="name another target, or replace it with existing='replace'",
        )
    if not may_be_replaced(place):
        raise StorageError(str(place), "exists and is no Zarr store; it is left alone", fix="name another target")


def _check(value: str, allowed: Any, name: str) -> None:
    if value not in get_args(allowed):
        raise RecipeError(name, repr(value), expected=" or ".join(map(repr, get_args(allowed))))


def _local(target: PathLike) -> Path:
    text = os.path.expanduser(os.fspath(target))
    if "://" in text:
        raise RecipeError(
            "target",
            text,
            expected="a folder of this machine",
            fix="convert to a folder, then copy it; only a rename is atomic",
        )
    return Path(text).absolute()


def _journal_file(place: Path) -> Path:
    """Return the journal's place: beside the store, not within, where Zarr would take it for damage."""
    return place.with_name(place.name + PARTIAL + JOURNAL)


def _lock_file(place: Path) -> Path:
    return place.with_name(place.name + PARTIAL + LOCK)


class _Conversion:
    """The store being written, new or to be gone on with, and the journal of its finished shards.

    The journal's first line says what is converted, and from which files (`sa_nowcast.sources.paths.stamp`); then comes
    one line a shard; the last one, before the store gets its name, holds the inode of its folder, by which the store is
    known under either name.
    """

    def __init__(self, prepared: Prepared, place: Path, files: str | None = None) -> None:
        self.prepared, self.place, self.files = prepared, place, files
        self.partial = place.with_name(place.name + PARTIAL)
        self.journal = _journal_file(place)
        self.done: dict[str, ShardRecord] = {}

    @staticmethod
    def inode_at_end(place: Path) -> int | None:
        """Return the inode of the store that was about to get its name; None where none was."""
        lines = _read_lines(_journal_file(place))
        return int(lines[-1][_INODE]) if lines and _INODE in lines[-1] else None

    def ended_before(self) -> int | None:
        """Do what is left to do for a store that was whole when its process was killed; return its bytes, or None."""
        lines = _read_lines(self.journal)
        if not lines or _INODE not in lines[-1] or lines[0].get("fingerprint") != self.prepared.plan.fingerprint:
            return None
        found = {p: p.stat().st_ino for p in (self.place, self.partial) if p.exists()}
        with storage(self.place):
            if found.get(self.place) == lines[-1][_INODE]:
                remove(self.partial)  # the former store
            elif found.get(self.partial) == lines[-1][_INODE]:
                put_in_place(self.partial, self.place)
            else:
                return None
            self.journal.unlink()
        return sum(int(line["nbytes"]) for line in lines[1:-1])

    def begin(self, existing: Existing) -> None:
        """Lay the store out, or find it as it was left."""
        fingerprint = self.prepared.plan.fingerprint
        lines = _read_lines(self.journal) if self.partial.is_dir() else []
        # The fingerprint knows times, labels and settings; that values may have changed, the files tell, where known.
        files = lines[0].get("files") if lines else None
        changed = files is not None and self.files is not None and files != self.files
        if lines and (changed or lines[0].get("fingerprint") != fingerprint):
            if existing == "refuse":
                raise StorageError(
                    str(self.partial), "holds an unfinished conversion of other data or settings",
                    fix="finish that one, remove the folder, or pass existing='replace'",
                )  # fmt: skip
            lines = []
        records = (ShardRecord(**line) for line in lines[1:] if _INODE not in line)
        self.done = {r.path: r for r in records if r.still_there(self.partial)}
        with storage(self.partial):
            if lines:
                clear_but(self.partial, self.done.values())
            else:
                self.journal.unlink(missing_ok=True)
                remove(self.partial)
                self.partial.mkdir(parents=True)
            _lay_out(self.partial, self.prepared)
            header = {"fingerprint": fingerprint, "version": __version__, "files": self.files}
            entries = (header, *(r.as_dict() for r in self.done.values()))
            write_whole(self.journal, "".join(json.dumps(entry) + "\n" for entry in entries))

    def enter(self, records: Sequence[ShardRecord]) -> None:
        """Note what was written and read back."""
        self.done |= {r.path: r for r in records}
        self._add(*(r.as_dict() for r in records))

    def _add(self, *entries: Mapping[str, Any]) -> None:
        with storage(self.journal), self.journal.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)

    def finish(self) -> int:
        """Make sure that every shard is there, mark the store complete, give it its name; return its bytes."""
        plan = self.prepared.plan
        for variable in plan.variables:
            for index in variable.indices():
                record, file = self.done[variable.path(index)], self.partial / variable.path(index)
                if not file.is_file() or file.stat().st_size != record.nbytes:
                    raise StorageError(
                        str(file), "a shard vanished or changed while others were written", fix="run again"
                    )
        with storage(self.partial):
            for rest in self.partial.rglob("*.partial"):
                rest.unlink()  # what a process left that was killed while it wrote
            remove(self.partial / MANIFEST)  # likewise; the consolidated metadata must not hold it
            zarr.open_group(self.partial, mode="r+").attrs.update(
                {COMPLETE: plan.fingerprint, "sa_nowcast_version": __version__}
            )
            # Format 3 does not specify consolidated metadata yet; without them xarray warns every reader.
            with quiet.warnings_ignored(UserWarning, "Consolidated metadata", threads="all"):
                zarr.consolidate_metadata(self.partial)
            write_manifest(self.partial, {r.path: (r.nbytes, r.sha256) for r in self.done.values()})
            for file in (*self.partial.rglob("*"), self.partial):
                sync(file)
            self._add({_INODE: self.partial.stat().st_ino})
            sync(self.journal)
            put_in_place(self.partial, self.place)
            self.journal.unlink()
        return sum(record.nbytes for record in self.done.values())


def _read_lines(journal: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError), journal.open(encoding="utf-8") as file:
        for line in file:
            try:
                lines.append(json.loads(line))
            except ValueError:
                break  # the line that was being written when the process was killed
    return lines


def _lay_out(partial: Path, prepared: Prepared) -> None:
    """Write metadata and everything but the gridded variables."""
    template = prepared.ds.copy()
    for plan in prepared.plan.variables:
        variable = prepared.ds[plan.name].variable
        blank = dask.array.zeros(variable.shape, dtype=variable.dtype, chunks=plan.shards)
        template[plan.name] = xr.Variable(variable.dims, blank, variable.attrs, variable.encoding)
    # Of folders that hold shards already, and no metadata yet.
    with quiet.warnings_ignored(zarr.errors.ZarrUserWarning, "Object at", threads="all"):
        template.to_zarr(
            partial, mode="a", encoding=dict(prepared.encoding), zarr_format=3, consolidated=False, compute=False,
            write_empty_chunks=True,
        )  # fmt: skip


def _write_shards(
    prepared: Prepared,
    conversion: _Conversion,
    workers: int | None,
    cluster: Any,
    progress: Progress | None,
) -> None:
    total, partial, done = prepared.plan.shards, conversion.partial, conversion.done
    todo = [(p, i) for p in prepared.plan.variables for i in p.indices() if p.path(i) not in done]
    if progress is not None:
        progress(len(done), total)
    if not todo:
        return
    waiting = iter(todo)
    running: dict[Any, str] = {}

    def keep(finished: Iterable[Any]) -> None:
        """Enter what was written into the journal."""
        conversion.enter([f.result() for f in finished if not f.cancelled() and f.exception() is None])

    with _tasks(workers, cluster, partial) as tasks:
        try:
            while True:
                # Few at a time: a source in memory is sent to the workers with its tasks.
                at_once = tasks.at_once()
                while len(running) < at_once and (following := next(waiting, None)) is not None:
                    task = _task(prepared, partial, *following)
                    running[tasks.submit(write_shard, *task)] = task[-1]
                if not running:
                    break
                finished = tasks.first_of(running)
                keep(finished)
                for future in finished:
                    tasks.result(future, running.pop(future))
                if progress is not None:
                    progress(len(done), total)
        except BaseException as stop:
            keep(tasks.stop(running))  # what was being written counts
            if isinstance(stop, KeyboardInterrupt):
                raise Interrupted(
                    str(partial), f"stopped after {len(done)} of {total} shards", fix="run the same again to go on"
                ) from None
            raise


def _task(
    prepared: Prepared, partial: Path, plan: VariablePlan, index: tuple[int, ...]
) -> tuple[str, VariablePlan, tuple[int, ...], xr.Variable, str]:
    region = plan.region(index)
    block = prepared.ds[plan.name].variable[region]
    if isinstance(block._data, dask.array.Array):
        optimize: Any = dask.base.optimize  # untyped
        # Only the block's own part of the graph goes to a worker.
        block = block.copy(data=optimize(block.data)[0])
    times = prepared.plan.times[region[plan.time_axis]]
    first, last = (show_time(t) if np.issubdtype(t.dtype, np.datetime64) else str(t) for t in (times[0], times[-1]))
    return str(partial), plan, index, block, f"{plan.name}, {first} to {last}"


@dataclass
class _Threads:
    """Tasks on threads of this process, as `sa_nowcast.computing.clusters.Tasks` are on a cluster."""

    pool: concurrent.futures.Executor
    count: int

    def at_once(self) -> int:
        return 2 * self.count

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.pool.submit(function, *args)

    def first_of(self, running: Collection[Any]) -> list[Any]:
        return list(concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done)

    def result(self, future: Any, label: str) -> Any:
        return future.result()

    def stop(self, running: Collection[Any]) -> list[Any]:
        for future in running:
            future.cancel()
        return list(concurrent.futures.wait(running).done)


@contextlib.contextmanager
def _tasks(workers: int | None, cluster: Any, partial: Path) -> Iterator[_Threads | Tasks]:
    if cluster is None:
        count = workers or min(4, os.cpu_count() or 1)
        with concurrent.futures.ThreadPoolExecutor(count) as threads:
            yield _Threads(threads, count)
        return
    with client_of(cluster) as client:
        yield Tasks(client, str(partial), "frames_per_shard")
