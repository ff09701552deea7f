"""A past day once more: its frames arrive in a service at their times, faster, with faults; and what came of it."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from sa_nowcast.errors import DataError, Interrupted, RecipeError, StorageError
from sa_nowcast.frames import Frames
from sa_nowcast.hindcast import hindcast
from sa_nowcast.metadata import dims
from sa_nowcast.operations.clock import folder_name, iso, moment
from sa_nowcast.operations.journal import Journal
from sa_nowcast.operations.publishing import ARCHIVE, FORECASTS, OBSERVED, Outputs
from sa_nowcast.operations.scoring import METRICS, Scores
from sa_nowcast.operations.service import STATE, read_status
from sa_nowcast.operations.site import check
from sa_nowcast.recipe.service import ServiceRecipe, seconds
from sa_nowcast.sources.opening import open_data
from sa_nowcast.sources.paths import expand
from sa_nowcast.storage.slots import STATUS as SLOT_STATUS
from sa_nowcast.verification import Bootstrap, summarise, verify

_STARTS_IN: Final = 60.0
"""Seconds that a service may take to start."""
_IDLE_AFTER: Final = 600.0
_SECOND: Final = 10**9


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a replay, by a seed.

    Attributes
    ----------
    late, lost, doubled, truncated, slow : float
        Shares of the frames that arrive later by up to three steps, never, twice, cut off, or in two parts.
    kills : int
        How many times the service is killed (SIGKILL) while it publishes, and started again.
    outage : str or None
        How long no frame arrives at all, such as ``1h``.
    seed : int
    """

    late: float = 0.2
    lost: float = 0.05
    doubled: float = 0.05
    truncated: float = 0.02
    slow: float = 0.1
    kills: int = 2
    outage: str | None = "1h"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("late", "lost", "doubled", "truncated", "slow"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(name, f"{getattr(self, name)}", expected="a share from 0 to 1")

    @classmethod
    def none(cls) -> Faults:
        """Return no faults."""
        return cls(0, 0, 0, 0, 0, 0, None)


@dataclass
class Report:
    """What came of a replay.

    Attributes
    ----------
    frames, delivered : int
        Of the data, and those that arrived whole.
    possible, published, expired : int
        Init times whose history arrived; those that were published; and those whose frames were older than allowed.
    files : int
        Published files, all of which were read.
    latencies : list of float
        Seconds from a frame's last byte to its forecast.
    stopped_in : float
        Seconds from SIGTERM to the end.
    faults : list of str
        What is wrong; empty where all is right.
    """

    frames: int = 0
    delivered: int = 0
    possible: int = 0
    published: int = 0
    expired: int = 0
    killed: int = 0
    files: int = 0
    pairs: int = 0
    stopped_in: float = 0.0
    latencies: list[float] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        done = self.latencies or [float("nan")]
        return [
            f"frames: {self.delivered} of {self.frames} arrived whole; the service counted {self.counts}",
            f"init times: {self.possible} could be forecast, {self.published} were published, each once, and "
            f"{self.expired} had frames older than allowed",
            f"files: {self.files} published, all of them whole",
            f"self-verification: equal to that of a hindcast, {self.pairs} pairs of init time and lead time",
            f"latency: median {statistics.median(done):.1f} s, worst {max(done):.1f} s",
            f"ends: {self.killed} by SIGKILL; SIGTERM took {self.stopped_in:.1f} s",
        ] if not self.faults else [f"wrong: {fault}" for fault in self.faults]  # fmt: skip


@dataclass(frozen=True)
class _Delivery:
    """A file that arrives at a moment of the service's clock."""

    at: int
    number: int
    name: str
    kind: str = ""


def replay(
    data: str,
    recipe: ServiceRecipe,
    *,
    speed: float = 60.0,
    faults: Faults = Faults(),
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
    plan, whole = _planned(times, [f.name for f in files], step, faults, rng)
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
            _deliver(files[delivery.number], incoming, delivery)
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
    _judge(recipe, output, whole, step, found)
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


def _planned(
    times: list[int], names: list[str], step: int, faults: Faults, rng: np.random.Generator
) -> tuple[list[_Delivery], list[int]]:
    """Return what arrives when, in order, and the times of the frames that arrive whole."""
    count = len(times)
    kinds = np.full(count, "", dtype=object)
    order = rng.permutation(np.arange(1, count))
    first = 0
    for kind, share in (("lost", faults.lost), ("truncated", faults.truncated), ("late", faults.late)):
        number = round(share * count)
        kinds[order[first : first + number]] = kind
        first += number
    doubled = set(rng.permutation(count)[: round(faults.doubled * count)].tolist())
    slow = set(rng.permutation(count)[: round(faults.slow * count)].tolist())
    away: tuple[int, int] = (0, 0)
    if faults.outage is not None:
        length = int(seconds(faults.outage) * _SECOND)
        begin = times[count // 2]
        away = (begin, begin + length)
    result, whole = [], []
    for number, (when, name) in enumerate(zip(times, names, strict=True)):
        kind = str(kinds[number])
        if kind == "lost" or away[0] <= when < away[1]:
            continue
        at = when + (int(rng.uniform(0.5, 3) * step) if kind == "late" else 0)
        result.append(_Delivery(at, number, name, "truncated" if kind == "truncated" else "slow" * (number in slow)))
        if kind != "truncated":
            whole.append(when)
            if number in doubled:
                path = Path(name)
                result.append(_Delivery(at + step // 3, number, f"{path.stem}_again{path.suffix}"))
    return sorted(result, key=lambda one: one.at), whole


def _deliver(file: Path, folder: Path, delivery: _Delivery) -> None:
    """Let a file arrive: renamed into place, in two parts, or cut off."""
    target = folder / delivery.name
    content = file.read_bytes()
    if delivery.kind == "truncated":
        target.write_bytes(content[: len(content) * 2 // 3])
    elif delivery.kind == "slow":
        with target.open("wb") as stream:
            stream.write(content[: len(content) // 2])
            stream.flush()
            time.sleep(0.2)
            stream.write(content[len(content) // 2 :])
    else:
        partial = folder / f".{delivery.name}.writing"
        partial.write_bytes(content)
        os.replace(partial, target)


def _started(work: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start the service as a process of its own, and wait until it says so."""
    with contextlib.suppress(OSError):
        (output / "status.json").unlink()
    with (work / "service.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from sa_nowcast.cli import main; main()", "watch", str(work / "recipe.yaml")],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    latest = time.time() + _STARTS_IN * 10
    while time.time() < latest and process.poll() is None:
        if (output / "status.json").exists():
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


def _judge(recipe: ServiceRecipe, output: Path, whole: list[int], step: int, found: Report) -> None:
    """Compare what was published with what should have been."""
    site = check(recipe)
    journal = Journal(output / STATE / "journal.sqlite")
    try:
        there = set(whole)
        possible = [t for t in whole if all(t - k * step in there for k in range(site.history))]
        forecasts, expired = journal.forecasts(), journal.expired()
        found.possible, found.published, found.expired = len(possible), len(forecasts), len(expired)
        found.latencies = [v for v in journal.latencies() if v is not None and np.isfinite(v)]
        found.counts = dict(read_status(output).get("counts", {}))
        if lacking := sorted(there - set(journal.frames())):
            found.faults.append(f"{len(lacking)} frames were not accepted, the first of {iso(lacking[0])}")
        if {*forecasts, *expired} != set(possible) or set(forecasts) & expired:
            odd = sorted({*forecasts, *expired} ^ set(possible)) or sorted(set(forecasts) & expired)
            found.faults.append(
                f"{len(odd)} init times were forecast that could not be, or the other way, first {iso(odd[0])}"
            )
        outputs = Outputs(site, "")
        if outputs.published() != forecasts:
            found.faults.append("the folders of forecasts are others than the journal's")
        events = [json.loads(line) for line in (output / "log.jsonl").read_text("utf-8").splitlines()]
        told = collections.Counter(e["init_time"] for e in events if e["event"] in ("published", "recovered"))
        if twice := [init for init, number in told.items() if number > 1]:
            found.faults.append(f"{twice[0]} was published twice")
        found.files = _read_all(output, found)
        if forecasts:
            _compare(recipe, output, forecasts, found, Scores(site, outputs, journal))
    finally:
        journal.close()


def _read_all(output: Path, found: Report) -> int:
    """Read every file that was published; return how many."""
    count = 0
    for path in sorted((output / FORECASTS).rglob("*")):
        if not path.is_file():
            continue
        count += 1
        try:
            if path.suffix == ".nc":
                with xr.open_dataset(path, decode_timedelta=True) as ds:
                    ds.load()
            elif path.suffix == ".tif":
                import rasterio

                with rasterio.open(path) as file:
                    file.read()
            elif path.suffix in (".json", ".geojson"):
                json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RuntimeError) as error:
            found.faults.append(f"{path} cannot be read ({error})")
    return count


def _compare(recipe: ServiceRecipe, output: Path, forecasts: list[int], found: Report, scores: Scores) -> None:
    """Compare archive and self-verification with a hindcast of the same times."""
    name = str(scores.site.like.name)
    with (
        xr.open_zarr(output / OBSERVED, chunks=None) as observed,
        xr.open_zarr(output / ARCHIVE, chunks=None, decode_timedelta=True) as archive,
    ):
        inits = np.array(forecasts, "M8[ns]")
        last = inits[-1] + np.timedelta64(scores.site.leads[-1], "ns")
        times = np.arange(observed[dims.TIME].values[0], last + 1, np.timedelta64(scores.site.step, "ns"))
        truth = observed.reindex({dims.TIME: times})[name].load()
        expected = hindcast(
            truth, scores.site.nowcaster, recipe.steps, init_times=inits, batch_size=1, tile=recipe.tile,
            device=recipe.device,
        ).load()  # fmt: skip
        own = archive[name].sel({dims.INIT_TIME: inits})
        if not (archive[SLOT_STATUS].sel({dims.INIT_TIME: inits}) == 0).all():
            found.faults.append("the archive lacks a forecast")
        if not np.array_equal(own.values, expected.values, equal_nan=True):
            found.faults.append("the archive is another than a hindcast's")
        for against in scores.references:
            other: Any = against
            if against == "extrapolation":
                other = hindcast(truth, against, recipe.steps, init_times=inits, batch_size=1).load()
            theirs = verify(expected, truth, METRICS, reference=other, reference_name=against, valid_times="all",
                            bootstrap=Bootstrap(samples=0))  # fmt: skip
            sums = scores.statistics(-(2**62), against)
            if sums.labels is None:
                found.faults.append("nothing was verified")
                continue
            ours = summarise(sums, valid_times="all", bootstrap=Bootstrap(samples=0))
            for score in ("mse", f"mse_{against}", "mse_skill", "count", "forecasts"):
                if not np.array_equal(ours[score].values, theirs[score].values, equal_nan=True):
                    found.faults.append(f"{score} against {against} is another than a hindcast's")
            found.pairs = int(ours["forecasts"].sum())
