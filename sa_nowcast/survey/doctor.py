"""The machine and what is installed on it; and for given data, a plan of chunks and workers, measured."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from packaging.requirements import Requirement

from sa_nowcast._version import __version__
from sa_nowcast.computing.installing import extras, install, requirements
from sa_nowcast.computing.threads import cores
from sa_nowcast.errors import ModelError
from sa_nowcast.forecasts import defaults
from sa_nowcast.frames import Frames
from sa_nowcast.models import NetworkConfig
from sa_nowcast.models.estimate import available_memory, estimate_memory, fitting_tile
from sa_nowcast.stream import IN_MEMORY_BYTES, SequenceDataset, loader
from sa_nowcast.times import show_step

CORE: Final = ("numpy", "xarray", "zarr", "dask", "netCDF4", "torch", "pydantic", "typer")
# How a library is imported where that is not its name.
_MODULES: Final = {"opencv-python-headless": "cv2", "scikit-image": "skimage", "pillow": "PIL"}
_NOT_FOR_USERS: Final = ("all", "test", "lint", "docs")
SECONDS: Final = 2.0
"""How long each number of workers is measured."""


def environment() -> dict[str, Any]:
    """Return versions, extras with their install commands, devices, threads and free memory, as plain data."""
    return {
        "sa_nowcast": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in CORE},
        "extras": _extras(),
        "devices": _devices(),
        "cores": cores(),
        "threads": min(torch.get_num_threads(), cores()),
        **{name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")},
        "free_memory": available_memory("cpu"),
        "default_model": os.environ.get(defaults.ENVIRONMENT),
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras() -> dict[str, Any]:
    """Return what each extra needs, what of it is missing, and the command that installs it."""
    report = {}
    for extra in (name for name in extras() if name not in _NOT_FOR_USERS):
        libraries = [Requirement(line).name for line in requirements(extra)]
        missing = [name for name in libraries if _version(name) is None and not _importable(name)]
        report[extra] = {"libraries": libraries, "missing": missing, "install": install(extra) if missing else None}
    return report


def _importable(library: str) -> bool:
    return importlib.util.find_spec(_MODULES.get(library.lower(), library.replace("-", "_"))) is not None


def _devices() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"device": "cpu", "name": platform.processor() or platform.machine()}]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        free = int(torch.cuda.mem_get_info(number)[0])
        memory = {"memory": int(properties.total_memory), "free_memory": free}
        found.append({"device": f"cuda:{number}", "name": properties.name, **memory})
    return found


def plan(
    frames: Frames,
    *,
    history: int,
    steps: int,
    config: NetworkConfig,
    batch_size: int,
    crop: int | None,
    device: torch.device,
    workers: Sequence[int] | None = None,
    seconds: float = SECONDS,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Return how these frames would be read and trained on: chunks, measured windows a second, memory.

    Parameters
    ----------
    frames : Frames
    history, steps, batch_size, crop
        As in a recipe.
    config : NetworkConfig
    device : torch.device
        Where training would run; nothing is put there.
    workers : sequence of int, optional
        Numbers of loader processes to measure: by default 0, 1, 2 and so on by doubling, up to the cores.
    seconds : float
        How long each is measured, from its first batch on.
    report : callable
        Called with a line before each measurement.

    Returns
    -------
    dict
        ``frames``, ``streaming``, ``workers`` (each with ``windows_per_second``), ``best_workers``, ``memory``.
    """
    grid = (frames.grid.height, frames.grid.width)
    trained = grid if crop is None else (min(crop, grid[0]), min(crop, grid[1]))
    in_memory = frames.nbytes <= IN_MEMORY_BYTES
    if workers is None:
        workers = [0, *(2**n for n in range(10) if 2**n <= cores())]
    measured = []
    dataset = SequenceDataset(frames, history, steps, crop=crop, gaps="skip", in_memory=in_memory)
    for number in workers:
        report(f"measuring {number} workers")
        measured.append({"workers": number, "windows_per_second": _pace(dataset, batch_size, number, seconds)})
    best = max(measured, key=lambda m: m["windows_per_second"])
    # A worker more has to be worth its memory.
    enough = next(m for m in measured if m["windows_per_second"] >= 0.9 * best["windows_per_second"])
    array = frames.arrays[0]
    return {
        "frames": {
            "count": len(frames),
            "step": show_step(frames.step),
            "shape": list(frames.shape),
            "nbytes": frames.nbytes,
            "chunks": _plain(array.encoding.get("chunksizes") or array.encoding.get("chunks")),
            "shards": _plain(array.encoding.get("shards")),
        },
        "history": history,
        "steps": steps,
        "windows": len(dataset),
        "streaming": "in memory, read once" if in_memory else "from storage, in blocks of whole chunks",
        "workers": measured,
        "best_workers": enough["workers"],
        "memory": {
            "device": str(device),
            "free": available_memory(device),
            "training": estimate_memory(config, trained, batch_size, history=history, steps=steps, device=device),
            "forecasting": estimate_memory(
                config, grid, 1, history=history, steps=steps, training=False, device=device
            ),
            "tile": _tile(config, grid, history, steps, device),
        },
    }


def _tile(config: NetworkConfig, grid: tuple[int, int], history: int, steps: int, device: torch.device) -> int | None:
    try:
        return fitting_tile(config, grid, 1, history=history, steps=steps, device=device)
    except ModelError:
        return None


def _pace(dataset: SequenceDataset, batch_size: int, workers: int, seconds: float) -> float:
    """Return windows a second, counted from the first batch on: starting workers takes seconds, and happens once."""
    batches = iter(loader(dataset, batch_size, batches=100_000, workers=workers))
    next(batches)
    began = time.perf_counter()
    count = 0
    while (took := time.perf_counter() - began) < seconds or not count:
        next(batches)
        count += batch_size
    return count / took


def _plain(chunks: Any) -> list[int] | None:
    return None if not chunks else [int(c) for c in chunks]
