"""What a task of an archive takes of a worker's memory, how much a worker has, and how tasks are made smaller."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from sa_nowcast.computing.devices import resolve_device
from sa_nowcast.errors import SaNowcastError
from sa_nowcast.forecasts.job import Job
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.forecasts.of_nowcaster import OfNowcaster
from sa_nowcast.models.estimate import SMALLEST_TILE, available_memory, distribution_bytes, estimate_memory

COPIES: Final = 3
"""Of a shard's forecasts: the batches, all as one, and one variable of them as it is written and read back."""


def task_bytes(job: Job, size: int) -> int:
    """Estimate what a shard of `size` init times takes at its peak, beside the process itself: the worker is a CPU's.

    The network with one batch (`estimate_memory`), the frames of all histories, and the forecasts.
    """
    batch, (_, channels, height, width) = min(job.batch, size), job.frames.shape
    history, frame = job.method.history, channels * height * width * 4
    frames = np.unique(job.positions[:size, None] + np.arange(history)).size
    host = (frames + 2 * batch * history) * frame + COPIES * size * math.prod(job.one.shape) * 4
    return host + _network_bytes(job, batch)


def _network_bytes(job: Job, batch: int) -> int:
    nowcaster = job.method.nowcaster if isinstance(job.method, OfNowcaster) else job.method
    if not isinstance(nowcaster, Nowcaster):
        return 0  # a reference, of which only the forecasts count
    whole = (job.frames.grid.height, job.frames.grid.width)
    grid = (min(job.tile, whole[0]), min(job.tile, whole[1])) if job.tile else whole
    axis = job.method.axis
    needed = estimate_memory(
        nowcaster.network.config,
        grid,
        batch if axis is None else 1,
        history=job.method.history,
        steps=job.steps,
        training=False,
    )
    return needed if axis is None else needed + distribution_bytes(whole, len(axis.values), job.steps)


def smaller_tasks(job: Job, size: int, most: int, *, begun: bool) -> str:
    """Return the arguments of `hindcast` by which a task takes at most `most` bytes; or nothing.

    The largest batch is taken, then the most init times a shard up to `size`; of an archive that was `begun` the shards
    are as they are. Tiles are the last resort.
    """
    for batch in (2**k for k in range(job.batch.bit_length() - 1, -1, -1)):
        trial = replace(job, batch=batch)
        for number in (size,) if begun else range(size // batch * batch, 0, -batch):
            if task_bytes(trial, number) <= most:
                return f"pass batch_size={batch}" + ("" if begun else f" with shard_size={number}")
    if not begun and isinstance(job.method, Nowcaster) and job.method.network.config.declared.tiles:
        for tile in range(max(job.frames.shape[-2:]) // SMALLEST_TILE * SMALLEST_TILE, 0, -SMALLEST_TILE):
            if task_bytes(replace(job, batch=1, tile=tile), 1) <= most:
                return f"pass batch_size=1 with shard_size=1 and tile={tile}"
    return ""


def room_on_worker(device: str, limit: int | None) -> int:
    """Return, on a worker of dask, the bytes that tasks may take beside its process and the code that it has loaded.

    dask ends a worker at a share of its limit (``distributed.worker.memory.terminate``). The memory of a GPU that
    computes is added, for a task takes of both.
    """
    import dask
    import psutil

    free = available_memory("cpu")
    if limit:
        share = dask.config.get("distributed.worker.memory.terminate") or 1.0
        free = min(free, int(limit * share) - psutil.Process().memory_info().rss)
    try:
        where = resolve_device(device)
    except SaNowcastError:
        return free  # the task will say what is wrong with the device
    return free if where.type == "cpu" else free + available_memory(where)
