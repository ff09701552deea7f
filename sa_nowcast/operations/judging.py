"""What came of a replay: everything that was published, compared with a hindcast of the same times."""

from __future__ import annotations

import collections
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sa_nowcast.derived import fill_gaps
from sa_nowcast.hindcast import hindcast
from sa_nowcast.metadata import dims
from sa_nowcast.operations.checks import check
from sa_nowcast.operations.clock import iso
from sa_nowcast.operations.histories import missing, window
from sa_nowcast.operations.journal import Journal
from sa_nowcast.operations.publishing import Outputs
from sa_nowcast.operations.scoring import METRICS, Scores
from sa_nowcast.operations.site import JOURNAL
from sa_nowcast.operations.state import read_status
from sa_nowcast.published import ARCHIVE, FORECASTS, LOG, OBSERVED
from sa_nowcast.recipe.service import ServiceRecipe
from sa_nowcast.storage.slots import STATUS as SLOT_STATUS
from sa_nowcast.verification import Bootstrap, summarise, verify


@dataclass
class Report:
    """What came of a replay.

    Attributes
    ----------
    frames, delivered : int
        Of the data, and those that arrived whole.
    possible, published, expired : int
        Init times whose history arrived; those that were published; and those whose frames were older than allowed.
    filled : int
        Forecasts whose history had a gap, at the end.
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
    filled: int = 0
    killed: int = 0
    files: int = 0
    pairs: int = 0
    stopped_in: float = 0.0
    latencies: list[float] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        done = self.latencies or [0.0]
        return [
            f"frames: {self.delivered} of {self.frames} arrived whole; the service counted {self.counts}",
            f"init times: {self.possible} could be forecast, {self.published} were published, each once, and "
            f"{self.expired} had frames older than allowed; the history of {self.filled} was filled",
            f"files: {self.files} published, all of them whole",
            f"self-verification: equal to that of a hindcast, {self.pairs} pairs of init time and lead time"
            if self.pairs
            else "self-verification: nothing was there to compare",
            f"latency: median {statistics.median(done):.1f} s, worst {max(done):.1f} s"
            if self.latencies
            else "latency: nothing was published",
            f"ends: {self.killed} by SIGKILL; SIGTERM took {self.stopped_in:.1f} s",
        ] if not self.faults else [f"wrong: {fault}" for fault in self.faults]  # fmt: skip


def judge(recipe: ServiceRecipe, output: Path, whole: list[int], found: Report) -> None:
    """Compare what was published with what should have been."""
    site = check(recipe)
    journal = Journal(output / JOURNAL)
    try:
        there = set(whole)
        possible = [t for t in whole if missing(site, t, there) is not None]
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
        events = [json.loads(line) for line in (output / LOG).read_text("utf-8").splitlines()]
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
        gaps = scores.journal.gaps()
        found.filled = len(gaps)

        def forecasts_by(model: Any, **how: Any) -> xr.DataArray:
            """Return a hindcast from what each forecast was made from."""
            complete = [init for init in forecasts if init not in gaps]
            parts = [(truth, complete)] if complete else []
            for init in gaps:
                without = truth.where(~truth[dims.TIME].isin(np.array(gaps[init].lacking, "M8[ns]")))
                times = np.array(window(scores.site, init), "M8[ns]")
                parts.append((fill_gaps(without.reindex({dims.TIME: times}), recipe.fill_gaps), [init]))
            made = [hindcast(data, model, recipe.steps, init_times=np.array(own, "M8[ns]"), batch_size=1, **how).load()
                    for data, own in parts]  # fmt: skip
            return xr.concat(made, dims.INIT_TIME).sortby(dims.INIT_TIME)

        expected = forecasts_by(scores.site.nowcaster, tile=recipe.tile, device=recipe.device)
        own = archive[name].sel({dims.INIT_TIME: inits})
        if not (archive[SLOT_STATUS].sel({dims.INIT_TIME: inits}) == 0).all():
            found.faults.append("the archive lacks a forecast")
        if not np.array_equal(own.values, expected.values, equal_nan=True):
            found.faults.append("the archive is another than a hindcast's")
        for against in scores.references:
            other: Any = against
            if against == "extrapolation":
                other = forecasts_by(against)
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
