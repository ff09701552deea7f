"""The call: many init times, lazily or to an archive."""

from __future__ import annotations

import math
import os
import threading
import uuid
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import dask
import dask.array
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph

from sa_nowcast.errors import ForecastWarning, RecipeError
from sa_nowcast.forecasts.cf import to_dataset
from sa_nowcast.forecasts.job import Job, Opaque, Sent
from sa_nowcast.forecasts.labels import whole
from sa_nowcast.forecasts.method import FILLED, MEAN, GridCheck, Inflow, Method, Missing, Product, Values, shortcomings
from sa_nowcast.hindcast.archive import LARGEST_CHUNK, MOST_PER_SHARD, NO_FORECAST_COUNT, Archive, Existing
from sa_nowcast.hindcast.committed import CommittedArchive
from sa_nowcast.metadata import dims
from sa_nowcast.storage.growing import Progress, folder_here
from sa_nowcast.storage.repositories import Repository, is_target
from sa_nowcast.verification.named import Reference, method_of
from sa_nowcast.verification.optical_flow import FALLBACK_COUNT

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster


def hindcast(
    data: xr.DataArray | xr.Dataset,
    model: Nowcaster | Reference | str | Path | None = None,
    steps: int | None = None,
    *,
    init_times: Any = None,
    stride: int = 1,
    product: Product = MEAN,
    inflow: Inflow = FILLED,
    members: int | None = None,
    seed: int = 0,
    to: str | os.PathLike[str] | None = None,
    missing: Missing = "nan",
    batch_size: int | None = None,
    tile: int | None = None,
    shard_size: int | None = None,
    cluster: Any = None,
    device: str = "auto",
    grid: GridCheck = "check",
    time: Hashable | None = None,
    y: Hashable | None = None,
    x: Hashable | None = None,
    channel: Hashable | None = None,
    existing: Existing = "resume",
    progress: Progress | None = None,
    dry_run: bool = False,
) -> xr.DataArray:
    """Forecast from many init times.

    Parameters
    ----------
    data : DataArray or Dataset
        Frames as for `sa_nowcast.Nowcaster.forecast`. Truth at the lead times is not needed.
    model : Nowcaster, path, Reference or str, optional
        A nowcaster or the path of a saved one; the name of a reference ("persistence", "extrapolation", "sprog" and
        others of `sa_nowcast.reference`); or a reference with options, from there. By default the default model.
    steps : int, optional
        Lead times; by default as many as the model was trained for. Needed for a reference.
    init_times : slice or sequence of times, optional
        A slice of times (both ends included), or the times themselves. By default, and within a slice, all times that
        have enough frames before them without a gap between.
    stride : int
        Take every so many of them, counted anew after each gap.
    product : {"mean", "matched"}
        As for `sa_nowcast.Nowcaster.forecast`. A reference has none.
    inflow : {"filled", "missing"}
        As for `sa_nowcast.Nowcaster.forecast`. Extrapolations always leave it missing.
    members, seed : int
        As for `sa_nowcast.Nowcaster.forecast`. A reference has options of its own for them.
    to : path, optional
        Where a Zarr archive is written. By default nothing is written, and nothing is computed before it is used.
        An Icechunk repository, or a path or address (``s3://``) that ends in ``.icechunk``, gets a commit for each
        block of init times.
    missing : {"nan", "refuse"}
        What to do where a frame of a history has no valid value at all: give a forecast that is missing (the archive's
        variable ``history_status`` says where), or raise `DataError`.
    batch_size : int, optional
        Init times in one call of the network; by default up to 16, by the size of the grid or tile.
    tile : int, optional
        Width of tiles in pixels, as for `sa_nowcast.Nowcaster.forecast`, and with the same result. By default the
        whole grid at once where the memory of this process can hold that, else the largest tile that it can hold;
        what was chosen is kept for the whole archive, on every machine. A reference takes none.
    shard_size : int, optional
        Init times in one file of the archive, rounded up to whole batches; by default up to 64, at most 64 MiB.
    cluster : str, dask Client or cluster, optional
        Whose workers write the archive; a str is a scheduler's address (``tcp://host:8786``). They must see the same
        files. By default this process does.
    device : str
        ``auto`` (default), ``cpu``, ``cuda`` or ``cuda:N``; on a cluster that of each worker.
    grid, time, y, x, channel
        As for `sa_nowcast.Nowcaster.forecast`.
    existing : {"resume", "replace"}
        What to do where `to` exists, or was begun: go on with it, where it is the same hindcast (a finished one is
        opened), and refuse it otherwise; or replace it, once the new one is whole (of a repository, by the first
        commit: the former archive stays in its history).
    progress : callable, optional
        Called with the number of init times that are in the archive and of all.
    dry_run : bool
        With `to`: check it and all else, write nothing, and return the hindcast as without `to`.

    Returns
    -------
    DataArray, dims ([realization,] init_time, [variable,] lead_time, [channel,] y, x)
        float32, backed by dask. Coordinates as a forecast's, with ``init_time`` along its dimension and
        ``valid_time(init_time, lead_time)``.

    Raises
    ------
    DataError
        Times or frames that cannot be used, an init time that is not there or lacks history (each is named).
    ModelError
        The data are not what the model was trained for, or a batch does not fit into memory.
    RecipeError
        An argument.
    StorageError
        Another hindcast stands at `to`, another process is writing it, or it cannot be written.
    Interrupted
        Stopped by Ctrl-C, or the cluster lost its workers; the same call goes on.
    """
    for name, value, allowed in (("existing", existing, Existing), ("missing", missing, Missing)):
        if value not in get_args(allowed):
            raise RecipeError(name, repr(value), expected=" or ".join(map(repr, get_args(allowed))))
    for name, number in (("stride", stride), ("batch_size", batch_size), ("shard_size", shard_size)):
        if number is not None:
            whole(name, number)
    if to is None and (cluster is not None or shard_size is not None):
        raise RecipeError(
            "cluster" if cluster is not None else "shard_size",
            "given without to=",
            expected="an archive to write",
            fix="to='archive.zarr', or compute the lazy hindcast while a dask client is active",
        )
    repository = Repository(to) if to is not None and is_target(to) else None
    place = None if to is None or repository is not None else folder_here(to, "to")
    job = method_of(model).plan(
        data, steps, init_times=slice(None) if init_times is None else init_times, stride=stride, product=product,
        inflow=inflow, members=members, seed=seed, missing=missing, batch_size=batch_size, tile=tile, grid=grid,
        names=dims.DimNames(time, y, x, channel), device=device, here=cluster is None,
    )  # fmt: skip
    archive: Archive
    if repository is not None:
        archive = CommittedArchive(job, repository, batch_size, shard_size)
    elif place is not None:
        archive = Archive(job, place, batch_size, shard_size)
    else:
        return _lazy(job)
    if dry_run:
        archive.check(existing)
        return _lazy(job)
    archive.write(existing, cluster, progress)
    return _opened(job, archive)


def _lazy(job: Job) -> xr.DataArray:
    array: Any = dask.array  # untyped
    make: Any = dask.delayed  # type: ignore[attr-defined]
    token = uuid.uuid4().hex
    # Behind one key: a dask cluster sends the model once to each worker.
    method = make(job.method, name=f"sa_nowcast-model-{token}", traverse=False)
    name, parts, axis = f"sa_nowcast-hindcast-{token}", job.parts(job.batch), job.init_axis
    before, after = (0,) * axis, (0,) * (len(job.shape) - axis - 1)
    # As a graph of its own: from_delayed and concatenate take milliseconds for each block.
    tasks: dict[Any, Any] = {
        (name, *before, i, *after): (_computed, Opaque(job, positions), method.key, token)
        for i, positions in enumerate(parts)
    }
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[method])
    chunks: list[tuple[int, ...]] = [(size,) for size in job.shape]
    chunks[axis] = tuple(map(len, parts))
    return job.labelled(array.Array(graph, name, tuple(chunks), dtype=np.float32))


# Lazy hindcasts, by the token of each, of which it was said already that something was not as asked for.
_said: set[str] = set()
_said_lock = threading.Lock()


def _computed(opaque: Opaque | Sent, method: Method, token: str) -> Values:
    work = opaque.work
    values, status = work.compute(method)
    text = shortcomings(method, work.frames, work.positions, status)
    if text:
        with _said_lock:
            first = token not in _said
            _said.add(token)
        if first:
            text += "; of the first part that was computed of this hindcast, whose other parts are not told of"
            warnings.warn(text, ForecastWarning, stacklevel=2)
    return values


def _opened(job: Job, archive: Archive) -> xr.DataArray:
    """Return the archive with the labels that a lazy hindcast has."""
    sizes = math.prod(job.one.shape) * 4
    # Whole chunks of the store, in arrays of a size that dask handles well.
    chunks = {dims.INIT_TIME: max(1, min(MOST_PER_SHARD, LARGEST_CHUNK // sizes))}
    stored = archive.opened(chunks)
    several = dims.VARIABLE in job.dims
    names = [str(n) for n in to_dataset(job.one).data_vars]  # as they were written
    array: Any = dask.array  # untyped
    values = [stored[n].data for n in names]
    labelled = job.labelled(array.stack(values, axis=job.dims.index(dims.VARIABLE)) if several else values[0])
    attrs = stored[names[0]].attrs
    return labelled.assign_attrs({k: attrs[k] for k in (NO_FORECAST_COUNT, FALLBACK_COUNT) if k in attrs})
