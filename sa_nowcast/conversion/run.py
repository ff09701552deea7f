"""The conversion itself: one task a shard, a journal of what is done, a rename at the end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final, Literal, get_args

import dask.array
import dask.base
import numpy as np
import xarray as xr
import zarr

from sa_nowcast._version import __version__
from sa_nowcast.conversion.plan import ConversionPlan, VariablePlan
from sa_nowcast.conversion.prepare import Irregular, Prepared, prepare
from sa_nowcast.conversion.shards import ShardRecord, write_shard
from sa_nowcast.conversion.store import COMPLETE, PARTIAL
from sa_nowcast.errors import Interrupted, RecipeError, StorageError
from sa_nowcast.sources.open import open_source
from sa_nowcast.sources.optional import require
from sa_nowcast.sources.paths import PathLike, is_zarr
from sa_nowcast.storage import storage, sync
from sa_nowcast.times import show_time

Progress = Callable[[int, int], None]
Existing = Literal["refuse", "replace"]

JOURNAL: Final = ".jsonl"


def convert(
    source: PathLike | Iterable[PathLike] | xr.Dataset | xr.DataArray,
    target: PathLike,
    *,
    engine: str | Any = None,
    options: Mapping[str, Any] | None = None,
    variables: Sequence[str] | None = None,
    time: Hashable | None = None,
    irregular: Irregular = "refuse",
    window: int = 20,
    frames_per_shard: int | None = None,
    level: int = 3,
    attrs: Mapping[str, Any] | None = None,
    existing: Existing = "refuse",
    workers: int | None = None,
    cluster: str | None = None,
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
    time : hashable, optional
        The time dimension, where CF attributes and common names do not tell.
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
    cluster : str, optional
        Address of a dask scheduler (``tcp://host:8786``) whose workers see the same files.
    progress : callable, optional
        Called with the number of shards done and of all shards.
    dry_run : bool
        Plan only: nothing is written.

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
        Stopped by Ctrl-C; the same call goes on.
    """
    _check(irregular, Irregular, "irregular")
    _check(existing, Existing, "existing")
    for name, value, least, most in (
        ("window", window, 1, 10**6), ("frames_per_shard", frames_per_shard, 1, 10**6), ("level", level, 1, 22),
        ("workers", workers, 1, 10**4),
    ):  # fmt: skip
        if value is not None and not least <= value <= most:
            raise RecipeError(name, str(value), expected=f"{least} to {most}")
    place = _local(target)
    if isinstance(source, xr.Dataset | xr.DataArray):
        opened: xr.Dataset | xr.DataArray = source
    else:
        opened = open_source(source, engine=engine, **dict(options or {}))
    prepared = prepare(
        opened, place, variables=variables, time=time, irregular=irregular, window=window, frames=frames_per_shard,
        level=level, attrs=dict(attrs or {}),
    )  # fmt: skip
    if dry_run:
        return prepared.plan
    if place.exists() and existing == "refuse":
        raise StorageError(
            str(place),
            "exists already",
            expected="no store there",
            fix="name another target, or replace it (existing='replace', or --replace)",
        )
    if place.exists() and not (is_zarr(place) or (place.is_dir() and not any(place.iterdir()))):
        raise StorageError(str(place), "exists and is no Zarr store; it is left alone", fix="name another target")
    partial = place.with_name(place.name + PARTIAL)
    with _journal(partial, prepared, existing) as (journal, done):
        _write_shards(prepared, partial, journal, done, workers, cluster, progress)
        stored = _finish(partial, prepared.plan, done)
        _rename(partial, place)
    return replace(prepared.plan, stored_nbytes=stored)


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


@contextlib.contextmanager
def _journal(partial: Path, prepared: Prepared, existing: Existing) -> Iterator[tuple[IO[str], dict[str, ShardRecord]]]:
    """Open the store being written, new or to be resumed, with the journal of its finished shards, locked."""
    header = {"fingerprint": prepared.plan.fingerprint, "version": __version__}
    file = _journal_file(partial)
    with storage(partial):
        partial.mkdir(parents=True, exist_ok=True)
        journal = file.open("a+", encoding="utf-8")
    with journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                str(partial), "is being written by another process", fix="wait for it, or end it"
            ) from error
        lines = _read_lines(journal) if (partial / "zarr.json").is_file() else []
        if lines and lines[0].get("fingerprint") != prepared.plan.fingerprint:
            if existing == "refuse":
                raise StorageError(
                    str(partial), "holds an unfinished conversion of other data or settings",
                    fix="finish that one, remove the folder, or existing='replace'",
                )  # fmt: skip
            lines = []
        done = {r.path: r for r in (ShardRecord(**line) for line in lines[1:]) if r.still_there(partial)}
        with storage(partial):
            if not lines:
                for child in partial.iterdir():
                    shutil.rmtree(child) if child.is_dir() else child.unlink()
                _lay_out(partial, prepared)
            journal.seek(0)
            journal.truncate()
            for entry in (header, *(r.as_dict() for r in done.values())):
                journal.write(json.dumps(entry) + "\n")
            journal.flush()
        yield journal, done


def _journal_file(partial: Path) -> Path:
    """Return the journal's place: beside the store, not within, where Zarr would take it for damage."""
    return partial.with_name(partial.name + JOURNAL)


def _read_lines(journal: IO[str]) -> list[dict[str, Any]]:
    journal.seek(0)
    lines: list[dict[str, Any]] = []
    for line in journal:
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
    template.to_zarr(
        partial, mode="a", encoding=dict(prepared.encoding), zarr_format=3, consolidated=False, compute=False,
        write_empty_chunks=True,
    )  # fmt: skip


def _write_shards(
    prepared: Prepared,
    partial: Path,
    journal: IO[str],
    done: dict[str, ShardRecord],
    workers: int | None,
    cluster: str | None,
    progress: Progress | None,
) -> None:
    total = prepared.plan.shards
    todo = [(p, i) for p in prepared.plan.variables for i in p.indices() if p.path(i) not in done]
    if progress is not None:
        progress(len(done), total)
    if not todo:
        return
    count = workers or min(4, os.cpu_count() or 1)
    waiting = iter(todo)
    running: set[concurrent.futures.Future[ShardRecord]] = set()

    def keep(finished: Iterable[concurrent.futures.Future[ShardRecord]]) -> BaseException | None:
        """Enter what was written into the journal; return the first error."""
        first: BaseException | None = None
        for future in finished:
            if future.cancelled():
                continue
            error = future.exception()
            if error is not None:
                first = first or error
                continue
            record = future.result()
            done[record.path] = record
            journal.write(json.dumps(record.as_dict()) + "\n")
            journal.flush()
        return first

    with _executor(count, cluster) as executor:
        try:
            while True:
                # Few at a time: a source in memory is sent to the workers with its tasks.
                for plan, index in waiting:
                    running.add(executor.submit(write_shard, *_task(prepared, partial, plan, index)))
                    if len(running) >= 2 * count:
                        break
                if not running:
                    break
                finished, running = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
                error = keep(finished)
                if error is not None:
                    raise error
                if progress is not None:
                    progress(len(done), total)
        except BaseException as stop:
            for future in running:
                future.cancel()
            keep(concurrent.futures.wait(running).done)  # what was being written counts
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


@contextlib.contextmanager
def _executor(count: int, cluster: str | None) -> Iterator[concurrent.futures.Executor]:
    if cluster is None:
        with concurrent.futures.ThreadPoolExecutor(count) as threads:
            yield threads
        return
    distributed = require("distributed", "cluster")
    try:
        client = distributed.Client(cluster, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise RecipeError(
            "cluster", f"no dask scheduler answers at {cluster} ({error})", expected="tcp://host:port"
        ) from error
    with client, client.get_executor() as executor:
        yield executor


def _finish(partial: Path, plan: ConversionPlan, done: Mapping[str, ShardRecord]) -> int:
    """Make sure that every shard is there, and mark the store complete; return its bytes."""
    for variable in plan.variables:
        for index in variable.indices():
            record, file = done[variable.path(index)], partial / variable.path(index)
            if not file.is_file() or file.stat().st_size != record.nbytes:
                raise StorageError(str(file), "a shard vanished or changed while others were written", fix="run again")
    with storage(partial):
        zarr.open_group(partial, mode="r+").attrs.update(
            {COMPLETE: plan.fingerprint, "sa_nowcast_version": __version__}
        )
        with warnings.catch_warnings():
            # Format 3 does not specify consolidated metadata yet; without them xarray warns every reader.
            warnings.simplefilter("ignore", UserWarning)
            zarr.consolidate_metadata(partial)
        for file in partial.rglob("*"):
            if file.is_file():
                sync(file)
        sync(partial)
    return sum(record.nbytes for record in done.values())


def _rename(partial: Path, place: Path) -> None:
    with storage(place):
        old = place.with_name(place.name + ".replaced")
        if old.exists():
            shutil.rmtree(old)
        if place.exists():
            place.rename(old)
        partial.rename(place)
        _journal_file(partial).unlink()
        sync(place.parent)
        if old.exists():
            shutil.rmtree(old)
