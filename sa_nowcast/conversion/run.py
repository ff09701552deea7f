"""The conversion itself: one task a shard."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import dask.array
import dask.base
import numpy as np
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.computing.clusters import Call, results_of, tasks_on
from sa_nowcast.conversion.plan import ConversionPlan
from sa_nowcast.conversion.prepare import Irregular, prepare
from sa_nowcast.errors import RecipeError, StorageError
from sa_nowcast.metadata.dims import DimNames
from sa_nowcast.sources.open import open_source
from sa_nowcast.sources.paths import PathLike, stamp
from sa_nowcast.storage.growing import Entry, GrowingStore, Part, Progress, folder_here, no_values, require_replaceable
from sa_nowcast.storage.manifest import COMPLETE
from sa_nowcast.storage.repositories import Repository, is_target
from sa_nowcast.storage.shards import VariablePlan, write_shard
from sa_nowcast.storage.whole import remove
from sa_nowcast.times import show_time

Existing = Literal["refuse", "replace"]
_STAGED = ".staged"  # ends the name of a store that is about to be committed


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
        A folder on a local or shared file system. An Icechunk repository, or a path or address (``s3://``) that ends
        in ``.icechunk``, gets one commit of the whole, which is written beside it first.
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
    repository = Repository(target) if is_target(target) else None
    place = folder_here(target if repository is None else f"{repository.staging}{_STAGED}", "target")
    files = None
    if isinstance(source, xr.Dataset | xr.DataArray):
        opened: xr.Dataset | xr.DataArray = source
    else:
        paths = source if isinstance(source, str | os.PathLike) else list(source)
        files = stamp(paths)
        opened = open_source(paths, engine=engine, time=time, **dict(options or {}))
    ds, plan = prepare(
        opened, place, variables=variables, names=DimNames(time, y, x, channel), irregular=irregular, window=window,
        frames=frames_per_shard, level=level, attrs=dict(attrs or {}),
    )  # fmt: skip
    store = _Store(ds, plan, place, files, workers, cluster)
    if repository is not None:
        if existing == "refuse" and repository.head() is not None:
            raise _exists(repository.place)
        existing = "replace"  # of what was not committed
    if dry_run:
        store.check(existing)
        return plan
    store.grow(existing, progress)
    shards = (place / v.path(i) for v in plan.variables for i in v.indices())
    plan = replace(plan, stored_nbytes=sum(file.stat().st_size for file in shards))
    if repository is not None:
        repository.publish(place, f"converted, {plan.fingerprint[:16]}")
        remove(place)
        plan = replace(plan, target=repository.place)
    return plan


def _exists(place: str) -> StorageError:
    fix = "name another target, or replace it with existing='replace'"
    return StorageError(place, "exists already", expected="no store there", fix=fix)


def _check(value: str, allowed: Any, name: str) -> None:
    if value not in get_args(allowed):
        raise RecipeError(name, repr(value), expected=" or ".join(map(repr, get_args(allowed))))


class _Store(GrowingStore[Part]):
    """A conversion under way; `files`: `sa_nowcast.sources.paths.stamp` of the source, where it is files."""

    kind, unit = "store", "shards"

    def __init__(
        self, ds: xr.Dataset, plan: ConversionPlan, place: Path, files: str | None, workers: int | None, cluster: Any
    ) -> None:
        super().__init__(place, {"fingerprint": plan.fingerprint, "files": files}, plan.shards)
        self.ds, self.times, self.workers, self.cluster = ds, plan.times, workers, cluster
        self.shards = [(variable, index) for variable in plan.variables for index in variable.indices()]

    def stands(self, existing: str) -> bool:
        if self.place.exists() and not self.was_ending():
            if existing == "refuse":
                self.tidy(same=False)
                raise _exists(str(self.place))
            require_replaceable(self.place)
        return False

    def other(self, path: Path, theirs: Mapping[str, Any]) -> StorageError | None:
        # The fingerprint knows times, labels and settings; that values may have changed, the files tell, where known.
        files = {self.identity["files"], theirs.get("files")} - {None}
        if theirs.get("fingerprint") == self.identity["fingerprint"] and len(files) < 2:
            return None
        return StorageError(
            str(path),
            "holds an unfinished conversion of other data or settings",
            fix="finish that one, remove the folder, or pass existing='replace'",
        )

    def design(self, before: Mapping[str, Any]) -> tuple[xr.Dataset, Sequence[Part], Mapping[str, Any]]:
        if not before:  # the journal of former versions
            self.place.with_name(f"{self.partial.name}.jsonl").unlink(missing_ok=True)
        gridded = {plan.name: self.ds[plan.name].variable for plan, _ in self.shards}
        template = self.ds.assign({n: v.copy(data=no_values(v.shape, v.dtype)) for n, v in gridded.items()})
        parts = []
        for number, (variable, index) in enumerate(self.shards):
            times = self.times[variable.region(index)[variable.time_axis]]
            first, last = (show_time(t) if np.issubdtype(t.dtype, np.datetime64) else str(t) for t in times[[0, -1]])
            label, files = f"{variable.name}, {first} to {last}", (variable.path(index),)
            parts.append(Part(number, str(self.partial), str(self.journal), self.key, files, 1, label))
        return template, parts, {}

    def run(self, todo: Sequence[Part]) -> Iterator[tuple[Part, Entry | int]]:
        if todo:
            threads = self.workers or min(4, os.cpu_count() or 1)
            with tasks_on(self.cluster, str(self.partial), "frames_per_shard", threads) as tasks:
                yield from results_of(tasks, map(self._call, todo))

    def _call(self, part: Part) -> Call:
        plan, index = self.shards[part.number]
        block = self.ds[plan.name].variable[plan.region(index)]
        if isinstance(block._data, dask.array.Array):
            optimize: Any = dask.base.optimize  # untyped
            # Only the block's own part of the graph goes to a worker.
            block = block.copy(data=optimize(block.data)[0])
        return part, part.label, _write_part, (part, plan, index, block)

    def marks(self, entries: Sequence[Entry]) -> Mapping[str, Any]:
        return {COMPLETE: self.identity["fingerprint"], "sa_nowcast_version": __version__}


def _write_part(part: Part, plan: VariablePlan, index: tuple[int, ...], block: xr.Variable) -> Entry:
    """Do one task; a worker may have done it that died before it could tell."""
    return part.done() or part.enter([write_shard(part.store, plan, index, block, part.label)])
