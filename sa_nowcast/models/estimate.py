"""How much memory a network takes, before any of it is allocated."""

from __future__ import annotations

import bisect
import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

from sa_nowcast.errors import ModelError
from sa_nowcast.models.config import NetworkConfig

BYTES = 4
HOLES = 1.1
"""Allocators hold about so much more than is asked of them."""

SMALLEST_TILE = 64
"""Pixels: what moves crosses a smaller tile within a few lead times."""


def estimate_memory(
    config: NetworkConfig, grid: tuple[int, int], batch: int, *, history: int, steps: int, training: bool = True
) -> int:
    """Estimate the peak memory of a training step or a forecast, weights and optimiser included.

    Counts what the backward pass needs of every layer and step, in float32; `tests/benchmarks/networks.py` prints it
    beside what was measured. Under bf16 autocast the norms, gates and states stay in float32 and the estimate is a
    little high.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    grid : tuple of int
        Rows and columns of a frame.
    batch : int
        Samples at a time.
    history, steps : int
        Frames known and frames predicted.
    training : bool
        True for a training step with Adam, False for a forecast without gradients.

    Returns
    -------
    int
        Bytes.
    """
    patch = config.patch
    positions = batch * -(-grid[0] // patch) * -(-grid[1] // patch)
    pixels = config.channels * patch**2
    inputs = (pixels, *config.hidden[:-1])
    layers = list(zip(inputs, config.hidden, strict=True))
    weights = _weight_bytes(config)
    frames = positions * pixels * (history + steps) * BYTES
    if not training:
        at_once = max(1, min(history, _positions_at_once() // positions))
        widest = max(i * history + h * (history + 8 * at_once) + _kept(config, i, h)[1] for i, h in layers)
        states = sum(3 * h for h in config.hidden)
        return int(HOLES * (2 * weights + 3 * frames + positions * (widest + states) * BYTES))
    per_step = sum(sum(_kept(config, i, h)) for i, h in layers)
    passed_up = sum(config.hidden) * history
    widest = max(config.hidden)
    if config.checkpoint_steps:
        segment = min(config.checkpoint_steps, max(history, steps - 1))
        boundaries = sum(3 * h for h in config.hidden) * (history + steps) / segment
        again = max(segment * per_step if steps > 1 else 0, segment * max(sum(_kept(config, i, h)) for i, h in layers))
        values = 2 * passed_up + boundaries + again
    else:
        values = per_step * (history + steps - 1) + passed_up
    transient = 16 * widest
    return int(HOLES * (5 * weights + 4 * frames + positions * (values + transient) * BYTES))


def require_memory(
    config: NetworkConfig,
    grid: tuple[int, int],
    batch: int,
    *,
    history: int,
    steps: int,
    training: bool = True,
    device: str | torch.device = "cpu",
    available: int | None = None,
) -> int:
    """Refuse, in one line, what would not fit into memory.

    Parameters
    ----------
    config, grid, batch, history, steps, training
        As for `estimate_memory`.
    device : str or torch.device
        Whose free memory counts.
    available : int, optional
        Bytes; measured on the device if not given.

    Returns
    -------
    int
        The estimate, in bytes.

    Raises
    ------
    ModelError
        If the estimate is above what is available; the message says what would fit.
    """

    def needed(batch: int, config: NetworkConfig = config) -> int:
        return estimate_memory(config, grid, batch, history=history, steps=steps, training=training)

    available = available_memory(device) if available is None else available
    if needed(batch) <= available:
        return needed(batch)
    raise ModelError(
        f"{config.name} on {grid[0]}×{grid[1]}, batch {batch}, {history} to {steps} frames",
        f"needs about {_gib(needed(batch))} to {'train' if training else 'forecast'}",
        f"at most the {_gib(available)} that are free on {device}",
        _remedy(config, batch, training, available, needed),
    )


def fitting_tile(
    config: NetworkConfig,
    grid: tuple[int, int],
    batch: int,
    *,
    history: int,
    steps: int,
    device: str | torch.device = "cpu",
    available: int | None = None,
) -> int | None:
    """Return the largest width of square tiles whose forecast fits into memory, or None where the whole grid does.

    Parameters
    ----------
    config, grid, batch, history, steps, device, available
        As for `require_memory`.

    Returns
    -------
    int or None
        No less than `SMALLEST_TILE`, whether that fits or not. Tiles take at most half of what is free: histories
        and results need room too.
    """

    def needed(rows: int, columns: int) -> int:
        return estimate_memory(config, (rows, columns), batch, history=history, steps=steps, training=False)

    available = available_memory(device) if available is None else available
    if needed(*grid) <= available:
        return None
    widths = range(SMALLEST_TILE, max(grid) + 1, config.patch * -(-8 // config.patch))
    fits = bisect.bisect_right(widths, available // 2, key=lambda width: needed(width, width))
    return widths[max(fits - 1, 0)]


def available_memory(device: str | torch.device = "cpu") -> int:
    """Return the bytes that are free on a device, within this process's control group where there is one."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields.get("MemAvailable", f"{free // 1024} kB").split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _kept(config: NetworkConfig, inputs: int, hidden: int) -> tuple[float, float]:
    """Return the values that a layer keeps per position of a frame: of its input's share, and of its step."""
    keys = 1 / config.key_stride**2
    share, step = 4.0 * hidden, 10.0 * hidden
    if config.name == "sa-convlstm-base":
        share += (3 + keys) * inputs
        step += (3 + keys) * hidden
    elif config.name == "convlstm-memory":
        step += 6 * hidden
    elif config.name == "sa-convlstm-no-zm":
        step += (11 + keys) * hidden
    elif config.name == "sa-convlstm":
        step += (13 + 2 * keys) * hidden
    return share, step


@functools.lru_cache(maxsize=16)
def _weight_bytes(config: NetworkConfig) -> int:
    from sa_nowcast.models import build

    with torch.device("meta"):
        return sum(p.numel() for p in build(config).parameters()) * BYTES


def _positions_at_once() -> int:
    from sa_nowcast.models.rollout import MAX_POSITIONS_AT_ONCE

    return MAX_POSITIONS_AT_ONCE


def _remedy(config: NetworkConfig, batch: int, training: bool, available: int, needed: Callable[..., int]) -> str:
    # The estimate grows with the batch; the first one that does not fit is found by bisection.
    fits = bisect.bisect_right(range(1, batch), available, key=needed)
    if fits:
        return f"use a batch of {fits}" + (", or set checkpoint_steps: 1" if training else "")
    if training and config.checkpoint_steps != 1:
        frugal = NetworkConfig.from_dict({**config.to_dict(), "checkpoint_steps": 1})
        if needed(1, frugal) <= available:
            return "use a batch of 1 with checkpoint_steps: 1"
    return f"use a larger patch than {config.patch}, fewer hidden channels, or a smaller grid"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
