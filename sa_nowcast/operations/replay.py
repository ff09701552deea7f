"""A past day once more: its frames arrive in a service at their times, faster, with faults; and what came of it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from sa_nowcast.errors import DataError, Interrupted, RecipeError, StorageError
from sa_nowcast.frames import Frames
from sa_nowcast.operations.checks import check
from sa_nowcast.operations.clock import folder_name, iso, moment
from sa_nowcast.operations.faults import Faults, deliver, planned
from sa_nowcast.operations.judging import Report, judge
from sa_nowcast.operations.state import read_status
from sa_nowcast.published import FORECASTS, STATUS
from sa_nowcast.recipe.service import ServiceRecipe, seconds
from sa_nowcast.sources.opening import open_data
from sa_nowcast.sources.paths import expand

_USUAL: Final = Faults()
_STARTS_IN: Final = 60.0
"""Seconds that a service may take to start."""
_IDLE_AFTER: Final = 600.0
_SECOND: Final = 10**9


def replay(
    data: str,
    recipe: ServiceRecipe,
    *,
    speed: float = 60.0,
    faults: Faults = _USUAL,
    frames: int | None = None,
    report: Callable[[str], None] | None = None,
) -> Report:
    """Feed a service the frames of a past day as they came, with faults, and check what it published.

    Parameters
    ----------
    data : str
        Files of one frame each, which are copied as they are, or anything that is opened as frames, such as
        ``sample:mrms``, whose frames are written as NetCDF.
    recipe : ServiceRecipe
        Its ``arrivals.source`` is the folder that is filled, ``output.folder`` what it publishes in: both new.
    speed : float
        How many times as fast as it was.
    faults : Faults
        What goes wrong.
    frames : int, optional
        The first so many only.
    report : callable, optional
        Called with lines of progress.

    Returns
    -------
    Report

    Raises
    ------
    RecipeError, DataError, StorageError
        Whatever `sa_nowcast.operations.watch` refuses; folders that are not empty.
    Interrupted
        Ctrl-C; the service is stopped too.
    """
    say = report or (lambda line: None)
    incoming, output = (Path(p).expanduser().absolute() for p in (recipe.arrivals.source, recipe.output.folder))
    for folder in (incoming, output):
        if folder.exists() and any(folder.iterdir()):
            raise StorageError(
                str(folder), "is not empty", expected="new folders for a replay", fix="remove it, or name another one"
            )
    if not speed > 0:
        raise RecipeError("speed", f"{speed}", expected="above 0")
    work = output.with_name(f"{output.name}.replay")
    work.mkdir(parents=True, exist_ok=True)
    incoming.mkdir(parents=True, exist_ok=True)
    files, times = _files(data, recipe, work, frames)
    rng = np.random.default_rng(faults.seed)
    step = int(seconds(recipe.arrivals.step) * _SECOND)
    plan, whole = planned(times, [f.name for f in files], step, faults, rng)
    began = time.time() + 2
    recipe = recipe.model_copy(
        update={
            "arrivals": recipe.arrivals.model_copy(update={"source": str(incoming), "like": str(files[0])}),
            "output": recipe.output.model_copy(update={"folder": str(output)}),
        }
    )
    check(recipe)
    process: subprocess.Popen[bytes] | None = None
    found = Report(frames=len(times), delivered=len(whole))
    try:
        origin = times[0] - step // 10
        began = time.time() + 1
        told = recipe.model_dump(mode="json") | {
            "clock": {"origin": str(moment(origin)), "began": began, "speed": speed}
        }
        (work / "recipe.yaml").write_text(json.dumps(told, indent=1), encoding="utf-8")
        recipe = ServiceRecipe.model_validate(told)
        process = _started(work, output)
        kills = sorted(rng.choice(np.arange(len(plan) // 6, len(plan) - 1), faults.kills, replace=False).tolist()
                       if len(plan) > 4 else [])  # fmt: skip
        for number, delivery in enumerate(plan):
            wait = began + (delivery.at - origin) / _SECOND / speed - time.time()
            if wait > 0:
                time.sleep(wait)
            deliver(files[delivery.number], incoming, delivery)
            if number in kills:
                _kill_while_it_publishes(process, output)
                found.killed += 1
                say(f"{iso(delivery.at)}: killed, and started again")
                process = _started(work, output)
            if process.poll() is not None:
                raise _ended(work)
        say(f"all {len(plan)} files have arrived; waiting for the last forecasts")
        _wait_until_idle(process, output, work)
        stop = time.time()
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        found.stopped_in = time.time() - stop
    except KeyboardInterrupt:
        raise Interrupted("replay", "stopped by Ctrl-C; its folders stay as they are") from None
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
    say("comparing with a hindcast of the same times")
    judge(recipe, output, whole, found)
    return found


def _files(data: str, recipe: ServiceRecipe, work: Path, most: int | None) -> tuple[list[Path], list[int]]:
    """Return a file for each frame, in order of time, and the times."""
    arrivals = recipe.arrivals
    ds = open_data(data, engine=arrivals.engine if not data.startswith("sample:") else None,
                   options=arrivals.options, time=arrivals.time)  # fmt: skip
    names = None if arrivals.variable is None else [arrivals.variable]
    frames = Frames.from_xarray(ds, variables=names, time=arrivals.time, gaps="skip")
    times = frames.times.astype(np.int64).tolist()[:most]
    if len(times) < 2:
        raise DataError(data, f"{len(times)} frame", expected="at least 2 to replay")
    if not data.startswith("sample:"):
        paths = expand(data, ())
        if len(paths) == len(frames):
            # By name, as all that come in this way are called by their time.
            return sorted(paths)[: len(times)], times
    folder = work / "frames"
    folder.mkdir(exist_ok=True)
    mapping = frames.arrays[0].encoding.get("grid_mapping", frames.arrays[0].attrs.get("grid_mapping"))
    kept = [str(frames.arrays[0].name), *([mapping] if mapping in ds.data_vars else [])]
    files = []
    for number, moment_ in enumerate(times):
        file = folder / f"{folder_name(moment_)}.nc"
        one = ds[kept].isel({frames.time_dim: [number]}).load()
        for variable in one.variables.values():
            variable.encoding = {k: v for k, v in variable.encoding.items() if k in ("units", "grid_mapping")}
        one.to_netcdf(file)
        files.append(file)
    return files, times


def _started(work: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start the service as a process of its own, and wait until it says so."""
    with contextlib.suppress(OSError):
        (output / STATUS).unlink()
    with (work / "service.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from sa_nowcast.cli import main; main()", "watch", str(work / "recipe.yaml")],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    latest = time.time() + _STARTS_IN * 10
    while time.time() < latest and process.poll() is None:
        if (output / STATUS).exists():
            return process
        time.sleep(0.05)
    process.kill()
    raise _ended(work)


def _ended(work: Path) -> StorageError:
    told = (work / "service.txt").read_text(errors="replace").strip().splitlines()
    return StorageError("the service", f"ended: {told[-1] if told else 'it said nothing'}")


def _kill_while_it_publishes(process: subprocess.Popen[bytes], output: Path) -> None:
    """Kill it where a forecast is half written, if one is soon, else wherever it is."""
    latest = time.time() + 5
    folder = output / FORECASTS
    while time.time() < latest:
        with contextlib.suppress(OSError):
            if any(path.name.startswith(".") for path in folder.iterdir()):
                break
        time.sleep(0.002)
    process.kill()
    process.wait()


def _wait_until_idle(process: subprocess.Popen[bytes], output: Path, work: Path) -> None:
    since, latest = time.time_ns(), time.time() + _IDLE_AFTER
    while time.time() < latest:
        if process.poll() is not None:
            raise _ended(work)
        with contextlib.suppress(OSError, ValueError):
            idle = read_status(output).get("idle_since")
            beat = read_status(output).get("heartbeat")
            if idle and pd.Timestamp(str(beat)).value > since + 2 * _SECOND:
                return
        time.sleep(0.2)
    raise StorageError("the service", f"was not idle after {_IDLE_AFTER:g} s")
