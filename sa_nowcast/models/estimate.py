"""How much memory a network takes, before any of it is allocated."""

from __future__ import annotations

import bisect
import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

from sa_nowcast.errors import ModelError
from sa_nowcast.models.candidates import BANDS, CANDIDATES
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.live import live_bytes
from sa_nowcast.models.margins import LEVELS
from sa_nowcast.models.motion import STRIP
from sa_nowcast.models.registry import Memory
from sa_nowcast.models.tiles import plan_tiles

BYTES = 4
WEIGHTS_OF_TRAINING, WEIGHTS_OF_FORECAST = 5, 2
"""Times the weights: with gradients, Adam's two moments and room for an update; and prepared for the steps."""
FRAGMENTATION = 1.1
"""Allocators hold about so much more than is asked of them."""
HEAP, OF_TRAINING, OF_CHECKPOINTS = 2**25, 1.35, 1.15
"""glibc gives smaller tensors (bytes) places in its heap, with more fragmentation; larger ones get pages of their own.
Between checkpoints free pages are returned. What is lost differs from one process to another by a third."""
OF_READING, OF_STEPS = 1.2, 1.48
"""Of forecasts: among weights, and while known frames are read many at a time; and in steps, among states."""
OF_LAGRANGIAN = {True: 1.2, False: 1.4}
"""The same in training and in forecasts of a Lagrangian network, whose tensors are of many sizes."""
LARGE_MAP = 2**21
"""Bytes: where a map of the grid is as large, nearly all of such a forecast is in maps, and `FRAGMENTATION` is lost."""
OF_COUNTED = 1.35
"""Of forecasts of a network that declares no memory."""

SMALLEST_TILE = 64
"""Pixels: what moves crosses a smaller tile within a few lead times."""


def estimate_memory(
    config: NetworkConfig,
    grid: tuple[int, int],
    batch: int,
    *,
    history: int,
    steps: int,
    training: bool = True,
    device: str | torch.device = "cpu",
) -> int:
    """Estimate the peak memory of a training step or a forecast, weights and optimiser included.

    Counts what the backward pass needs of every layer and step, in float32; `tests/faults/test_memory_foreseen.py`
    compares it with what was measured. Under bf16 autocast the norms, gates and states stay in float32 and the estimate
    is a little high.

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
    device : str or torch.device
        Whose memory: a processor's allocator loses more than a GPU's.

    Returns
    -------
    int
        Bytes.
    """
    config = config.completed(history, grid)
    tensors = tensor_bytes(config, grid, batch, history=history, steps=steps, training=training)
    if torch.device(device).type != "cpu":
        return int(FRAGMENTATION * tensors)
    if config.output == "moving":
        large = batch * config.channels * grid[0] * grid[1] * BYTES >= LARGE_MAP and not training
        return int((FRAGMENTATION if large else OF_LAGRANGIAN[training]) * tensors)
    positions = _positions(config, grid, batch)
    if positions * 4 * max(config.hidden) * BYTES >= HEAP:  # the gates
        return int(FRAGMENTATION * tensors)
    if training:
        return int((OF_CHECKPOINTS if config.checkpoint_steps else OF_TRAINING) * tensors)
    if config.declared.memory is None:
        return int(OF_COUNTED * tensors)
    pixels = config.channels * config.patch**2
    values = _values_of_forecast(config, positions, pixels, history, steps, OF_READING, OF_STEPS)
    return int(OF_READING * WEIGHTS_OF_FORECAST * _weight_bytes(config) + positions * values * BYTES)


def tensor_bytes(
    config: NetworkConfig, grid: tuple[int, int], batch: int, *, history: int, steps: int, training: bool = True
) -> int:
    """Estimate what all tensors hold at the peak, and so what an allocator holds that loses nothing.

    As `estimate_memory`, which adds what allocators lose.
    """
    config = config.completed(history, grid)
    weights = (WEIGHTS_OF_TRAINING if training else WEIGHTS_OF_FORECAST) * _weight_bytes(config)
    if config.declared.memory is None:
        others = 4 if training else 1  # gradients are counted
        return others * _weight_bytes(config) + live_bytes(config, grid, batch, history, steps, training)
    if config.output == "moving":
        return int(weights + _values_of_lagrangian(config, grid, batch, history, steps, training) * BYTES)
    positions, pixels = _positions(config, grid, batch), config.channels * config.patch**2
    count = _values_of_training if training else _values_of_forecast
    return int(weights + positions * count(config, positions, pixels, history, steps) * BYTES)


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
        return estimate_memory(config, grid, batch, history=history, steps=steps, training=training, device=device)

    available = available_memory(device) if available is None else available
    if needed(batch) <= available:
        return needed(batch)
    tile = None
    if not training and max(grid) > SMALLEST_TILE:
        tile = fitting_tile(config, grid, batch, history=history, steps=steps, device=device, available=available)
    raise ModelError(
        f"{config.name} on {grid[0]}×{grid[1]}, batch {batch}, {history} to {steps} frames",
        f"needs about {_gib(needed(batch))} to {'train' if training else 'forecast'}",
        f"at most the {_gib(available)} that are free on {device}",
        _remedy(config, batch, available, needed) if training else _remedy_of_forecast(tile),
    )


def distribution_bytes(grid: tuple[int, int], count: int, steps: int) -> int:
    """Estimate what `count` members, probabilities or quantiles of one channel take beside a forecast of it.

    The result and what is made of it at a time; the maps of all levels at half precision; and the chances of each level
    at one lead time, with what they are made of.
    """
    maps = 1.2 * count * steps + (LEVELS + 1) * (0.5 * (CANDIDATES - BANDS + 1) + 8)
    return int(maps * grid[0] * grid[1] * BYTES)


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
        return estimate_memory(
            config, (rows, columns), batch, history=history, steps=steps, training=False, device=device
        )

    available = available_memory(device) if available is None else available
    if not config.declared.tiles or needed(*grid) <= available:
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


def _positions(config: NetworkConfig, grid: tuple[int, int], batch: int) -> int:
    """Return in how many places of a batch's maps a value stands."""
    return batch * -(-grid[0] // config.patch) * -(-grid[1] // config.patch)


def _layers(config: NetworkConfig, pixels: int) -> list[tuple[int, int]]:
    """Return the channels that each layer reads, and those that it has."""
    return list(zip((pixels, *config.hidden[:-1]), config.hidden, strict=True))


def _memory(config: NetworkConfig) -> Memory:
    assert config.declared.memory is not None  # else its tensors are counted
    return config.declared.memory


def _values_of_forecast(
    config: NetworkConfig,
    positions: int,
    pixels: int,
    history: int,
    steps: int,
    reading_loss: float = 1.0,
    step_loss: float = 1.0,
) -> float:
    """Return the values per position at the peak: in one of the layers over the known frames, or in a later step."""
    states = _memory(config).state * sum(config.hidden)
    reading, stepping = _values_of_known(config, _layers(config, pixels), positions, history)
    later = pixels * (steps + 2) + 2 * states + _values_of_step(config)
    peaks = (reading_loss * (reading + states), step_loss * (stepping + states), step_loss * later)
    return 2 * pixels * (history + steps) + max(peaks)


def _values_of_known(
    config: NetworkConfig, layers: list[tuple[int, int]], positions: int, history: int
) -> tuple[float, float]:
    """Return the values per position of the layer that needs most: while it reads known frames, and while it steps."""
    at_once = max(1, min(history, _positions_at_once() // positions))

    def known(inputs: int, hidden: int) -> tuple[float, float]:
        reading = 8.0 * hidden * at_once  # gate pre-activations from the input, before and after their norm
        if _memory(config).attends_below:
            reading = max(reading, (2 + 1 / config.key_stride**2) * inputs * at_once)
        stepping = (5 * at_once + 10) * hidden
        done = (history - at_once) * hidden
        joined = 2 * hidden * history if at_once < history else 0
        return inputs * history + max(done + reading, joined), inputs * history + done + stepping

    each = [known(inputs, hidden) for inputs, hidden in layers]
    return max(reading for reading, _ in each), max(stepping for _, stepping in each)


def _values_of_step(config: NetworkConfig) -> int:
    """Return the values per position that the widest layer needs for one step, without gradients."""
    return _memory(config).step * max(config.hidden)


def _values_of_training(config: NetworkConfig, positions: int, pixels: int, history: int, steps: int) -> float:
    """Return the values per position at the peak, at the beginning of the backward pass or of that of a segment."""
    per_step = [sum(_kept(config, i, h)) for i, h in _layers(config, pixels)]
    width, widest = sum(config.hidden), max(config.hidden)
    passed_up = width * history
    if config.checkpoint_steps:
        segment = config.checkpoint_steps
        states = _memory(config).state * width
        known = passed_up + states * -(-history // segment) - width  # before the first frame H is not there
        boundaries = (states + 2 * pixels) * -(-(steps - 1) // segment)
        later = boundaries + min(segment, steps - 1) * sum(per_step)
        earlier = widest * history + min(segment, history) * max(per_step)
        values = known + max(later, earlier)
    else:
        values = passed_up + sum(per_step) * (history + steps - 1) - 4 * width
    return 5 * pixels * (history + steps) + values + 12 * widest


def _values_of_lagrangian(
    config: NetworkConfig, grid: tuple[int, int], batch: int, history: int, steps: int, training: bool
) -> float:
    """Return the values at the peak in `sa_nowcast.models.lagrangian`: maps of the grid, layers of overlapping tiles.

    The factors of the maps of trainings were fitted to counts (`live_bytes`) of 14: 0.85 to 1.3 of them. In forecasts
    there are five times at which most is held; of six counts and four processes on up to 7000 x 3500 pixels this is 0.8
    to 1.2.
    """
    from sa_nowcast.models import lagrangian

    patch = config.patch
    least = max(lagrangian.LEAST_SIDE, lagrangian.LEAST_POSITIONS * patch)
    repeat = -(-least // min(grid)) if min(grid) < least else 1
    rows, columns = (-(-side * repeat // patch) for side in grid)
    tiles: list[int] = [
        (r.stop - r.start) * (c.stop - c.start) for r, c, _ in plan_tiles(rows, columns, lagrangian.CORE_TILE)
    ]
    windows = batch * config.channels
    positions = windows * rows * columns
    pixels, told = positions * patch**2, lagrangian.POSITION_SCALARS
    read = lagrangian.maps_read(patch)
    layers = list(zip((read, *config.hidden[:-1]), config.hidden, strict=True))
    if training:
        seen = windows * sum(tiles)
        per_step = sum(sum(_kept(config, i, h)) + i for i, h in layers)
        maps = pixels * (30 + 3 * history + 20 * steps) + positions * (4 * told + 200 * steps)
        return maps + seen * (per_step + read) * history
    at_once = min(len(tiles), max(1, lagrangian.WINDOWS_AT_ONCE // windows))
    seen = windows * at_once * max(tiles)
    known = max(_values_of_known(config, layers, seen, history)) + _memory(config).state * sum(config.hidden)
    in_core = seen * (1.05 * known + read * history)
    peaks = {
        "motion": pixels * (4.4 * history + 18),
        "trials": pixels * (2 * history + 28) + min(pixels, STRIP) * 70,
        "core": pixels * (3 * history + 14) + in_core,
        "mixing": pixels * (2 * history + steps + 23),
        "units": pixels * (history + 2 * steps),
    }
    return positions * 2 * told + max(peaks.values())


def _kept(config: NetworkConfig, inputs: int, hidden: int) -> tuple[float, float]:
    """Return the values that a layer keeps per position of a frame: of what its input gives, and of its step."""
    memory, keys = _memory(config), 1 / config.key_stride**2
    attended = (3 + keys) * inputs if memory.attends_below else 0.0
    return 4.0 * hidden + attended, (memory.kept + memory.kept_keys * keys) * hidden


@functools.lru_cache(maxsize=16)
def _weight_bytes(config: NetworkConfig) -> int:
    from sa_nowcast.models import build

    with torch.device("meta"):
        return sum(p.numel() for p in build(config).parameters()) * BYTES


def _positions_at_once() -> int:
    from sa_nowcast.models.cores import MAX_POSITIONS_AT_ONCE

    return MAX_POSITIONS_AT_ONCE


def _remedy(config: NetworkConfig, batch: int, available: int, needed: Callable[..., int]) -> str:
    # The estimate grows with the batch; the first one that does not fit is found by bisection.
    fits = bisect.bisect_right(range(1, batch), available, key=needed)
    frugal_can = config.checkpoint_steps != 1 and config.declared.checkpoints
    if fits:
        return f"use a batch of {fits}" + (", or set checkpoint_steps: 1" if frugal_can else "")
    if frugal_can:
        frugal = NetworkConfig.from_dict({**config.to_dict(), "checkpoint_steps": 1})
        if needed(1, frugal) <= available:
            return "use a batch of 1 with checkpoint_steps: 1"
    return f"use a larger patch than {config.patch}, fewer hidden channels, or a smaller grid"


def _remedy_of_forecast(tile: int | None) -> str:
    return "take a smaller grid" if tile is None else f"take a smaller grid, or tile={tile}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
