"""The service: frames in, forecasts out; nothing stops it but a signal, or a disk that cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import SaNowcastError, StorageError
from sa_nowcast.operations.alerts import collection, without_all_clear
from sa_nowcast.operations.arrivals import Arrival, Arrivals, Notice
from sa_nowcast.operations.checks import check
from sa_nowcast.operations.clock import folder_name, iso
from sa_nowcast.operations.histories import history_of, missing, window
from sa_nowcast.operations.journal import Journal
from sa_nowcast.operations.making import make
from sa_nowcast.operations.publishing import FLAGS, Outputs, places_of
from sa_nowcast.operations.scoring import Scores
from sa_nowcast.operations.site import JOURNAL, Refusal, Site, shown
from sa_nowcast.operations.state import STOPPED, State
from sa_nowcast.operations.telling import Server
from sa_nowcast.published import ALERTS, POINTS, SERVICE, VERIFICATION
from sa_nowcast.recipe.service import ServiceRecipe
from sa_nowcast.storage.whole import locked, storage, write_whole

HEARTBEAT: Final = 5.0
"""Seconds between two rewritings of the status, at the most."""
END_WITHIN: Final = 8.0
"""Seconds after which a stop no longer waits for work that is under way: what is half done is done again."""
_MONTH: Final = 31 * 86400 * 10**9
_TRIES: Final = 3
Values = npt.NDArray[np.float32]


def watch(
    recipe: ServiceRecipe,
    *,
    stop: threading.Event | None = None,
    report: Callable[[str], None] | None = None,
    until_idle: bool = False,
) -> Path:
    """Run a service until it is stopped.

    Parameters
    ----------
    recipe : ServiceRecipe
        As `sa_nowcast.recipe.read_service` reads it.
    stop : Event, optional
        Set by another thread, it ends the service after the work that is under way, or 8 s.
    report : callable, optional
        Called with one line for each event that a person wants to see.
    until_idle : bool
        End when all that is there was dealt with; for tests and catching up.

    Returns
    -------
    Path
        The folder of what was published.

    Raises
    ------
    RecipeError, DataError, ModelError, StorageError, MissingLibraryError
        Whatever keeps the service from starting; see `sa_nowcast.operations.checks.check`. Another
        process runs the same.
    """
    site = check(recipe)
    lock = (site.folder / JOURNAL).with_name("lock")
    with storage(site.folder):
        lock.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock, site.folder):
        service = Service(site, report or (lambda line: None))
        try:
            service.run(stop or threading.Event(), until_idle)
        finally:
            service.close()
    return site.folder


class Service:
    """A service whose folder is locked for it."""

    def __init__(self, site: Site, report: Callable[[str], None]) -> None:
        self.site, self.report = site, report
        self.journal = Journal(site.folder / JOURNAL)
        self.identity = str(self.journal.fact("id", str(uuid.uuid4())))
        self.begun = int(self.journal.fact("begun", site.clock.now()))
        self.outputs = Outputs(site, self.identity)
        self.state = State(site, self.journal)
        self.arrivals = Arrivals(site)
        self.frames: dict[int, Values] = {}
        self._failed: dict[int, int] = {}
        self._table_due = True
        self._recover()
        self.scores = Scores(site, self.outputs, self.journal)
        self.server = None if site.recipe.port is None else Server(site.recipe.port, lambda: self.state.status)

    # Beginning and end

    def _recover(self) -> None:
        """Bring the folder and the journal together, where a process was killed between the two."""
        site = self.site
        for store in (self.outputs.observed, self.outputs.archive):
            if store.exists and store.owner().get("service") != self.identity:
                raise StorageError(
                    str(store.place), "was written by another service", fix="name another output.folder, or remove it"
                )
        self.outputs.tidy()
        with storage(site.folder):
            told = json.dumps({"id": self.identity, **site.described()}, allow_nan=False, ensure_ascii=False, indent=1)
            write_whole(site.folder / SERVICE, told)
        known = set(self.journal.forecasts())
        there = self.outputs.published()
        for init in there:
            if init not in known:
                folder = self.outputs.forecasts / folder_name(init)
                points = json.loads((folder / POINTS).read_text("utf-8"))
                flags = json.loads((folder / FLAGS).read_text("utf-8"))
                # No frame has come since it was written.
                gaps = self._gaps(init, missing(site, init, set(self.journal.frames())) or [])
                self.journal.forecast(init, points["as_of"], time.time(), float("nan"), flags, *gaps)
                self.state.tell("recovered", init_time=iso(init))
        if there:
            file = self.outputs.forecasts / folder_name(there[-1]) / ALERTS
            features = json.loads(file.read_text("utf-8"))["features"][:: max(1, len(site.thresholds))]
            places = [{**feature["properties"], "geometry": feature["geometry"]} for feature in features]
            flags = self.journal.flags(there[-1])
            self.outputs.finish(collection(places, site.thresholds, site.units, flags, site.step, iso), there[-1])
        self.state.tell("started", pid=os.getpid(), forecasts=len(there), frames=len(self.journal.frames()))

    def run(self, stop: threading.Event, until_idle: bool) -> None:
        """Work until stopped."""
        notice = Notice(self.site.source, self.site.recipe.arrivals.poll)
        beat = threading.Thread(target=self._beat, args=(stop,), name="heartbeat", daemon=True)
        beat.start()
        self.report(f"{self.site.recipe.name}: watching {self.site.source}, publishing in {self.site.folder}")
        waker = threading.Thread(target=lambda: (stop.wait(), notice.wake()), daemon=True)  # type: ignore[func-returns-value]
        waker.start()
        try:
            while not stop.is_set():
                worked, waiting = self.step()
                self.state.idle = None if worked or waiting else self.state.idle or time.time_ns()
                self.state.write()
                if worked or stop.is_set():
                    continue
                if until_idle and not waiting:
                    break
                notice.wait(max(0.05, min(self.site.recipe.arrivals.settle, 1.0)) if waiting else None)
        finally:
            notice.stop()
            stop.set()

    def close(self) -> None:
        """End: the status says so."""
        with contextlib.suppress(StorageError):
            self.state.write(STOPPED)
        self.state.tell(STOPPED)
        if self.server is not None:
            self.server.stop()
        self.journal.close()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT):
            with contextlib.suppress(StorageError):
                self.state.write()
        # At once: work that is under way may not end before the process does.
        with contextlib.suppress(StorageError):
            self.state.write(STOPPED)

    # One step

    def step(self) -> tuple[bool, bool]:
        """Do what is next: frames that arrived, else a forecast, else a verification.

        Returns
        -------
        worked, waiting : bool
            Whether something was done, and whether a file is being waited for.
        """
        worked, waiting = self._ingest()
        if self._forecast():
            return True, waiting
        if self._verify():
            return True, waiting
        self._expire_alerts()
        return worked, waiting

    def _ingest(self) -> tuple[bool, bool]:
        worked = waiting = False
        for arrival in self.arrivals.listed():
            if self.journal.knows(arrival.key):
                continue
            if not self.arrivals.settled(arrival):
                waiting = True
                continue
            began = time.perf_counter()
            found = self.arrivals.read(arrival)
            if isinstance(found, Refusal):
                if found.reason == "unreadable" and self.arrivals.waited(arrival) < self.site.recipe.arrivals.patience:
                    waiting = True
                    continue
                self._refuse(arrival, found.reason, found.found)
            else:
                self._accept(arrival, found, time.perf_counter() - began)
            self.arrivals.forget(arrival)
            worked = True
        return worked, waiting

    def _accept(self, arrival: Arrival, frames: list[tuple[int, Values, float]], seconds: float) -> None:
        """Take the frames of a file: each once, none that is too old, too new, off the step, or without a value."""
        outcome, reason = "frames", ""
        newest = max(self.journal.frames(), default=None)
        for own, values, factor in frames:
            when, fault = self._slot(own)
            if fault is None and not np.isfinite(values).any():
                fault = ("empty", "no valid value")
            if fault is not None:
                self._refuse(arrival, *fault)
                return
            if self.journal.frames(when)[:1] == [when]:
                outcome, reason = "duplicate", str(iso(when))
                self.state.tell("duplicate", file=arrival.path.name, frame=iso(when))
                continue
            self.outputs.put_frame(when, values)
            self.journal.frame(when, arrival.path.name, arrival.changed, time.time())
            self.frames[when] = values
            late = newest is not None and when < newest
            how: dict[str, Any] = {"late": True} if late else {}
            if factor != 1:
                how |= {"converted": factor}
            outcome = "late" if late else "converted" if factor != 1 else "frames"
            self.state.counts["frames"] += 1
            for kind in ("late", "converted"):
                self.state.counts[kind] += int(kind in how)
            self.state.tell("frame", file=arrival.path.name, frame=iso(when), seconds=round(seconds, 3), **how)
            newest = when if newest is None else max(newest, when)
        self.state.counts["duplicate"] += int(outcome == "duplicate")
        self.state.durations["read"] = seconds
        self.journal.file(arrival.key, outcome, reason, time.time())
        keep = sorted(self.frames)[-(self.site.history + 2) :]
        self.frames = {t: self.frames[t] for t in keep}

    def _slot(self, when: int) -> tuple[int, tuple[str, str] | None]:
        """Return the regular time that a frame is of, or why it is none."""
        now, step = self.site.clock.now(), self.site.step
        if when > now + step:
            return when, ("time", f"{iso(when)} is in the future")
        if when < now - self.site.keep:
            return when, ("old", f"{iso(when)} is older than {shown(self.site.keep)}")
        store = self.outputs.observed
        if not store.exists:
            return when, None
        place = store.position(np.datetime64(when, "ns"))
        slot = int(store.time(place).astype(np.int64))
        if abs(slot - when) > step // 100:
            return when, ("time", f"{iso(when)} is no multiple of {shown(step)} after {iso(slot)}")
        if place < 0:
            return when, ("old", f"{iso(when)} is before the first frame")
        return slot, None

    def _refuse(self, arrival: Arrival, reason: str, found: str) -> None:
        self.journal.file(arrival.key, "refused", reason, time.time())
        self.state.counts["refused"][reason] = self.state.counts["refused"].get(reason, 0) + 1
        self.state.tell("refused", file=arrival.path.name, reason=reason, found=found)
        self.state.met(f"{arrival.path.name} was refused ({reason}: {found})")

    # Forecasts

    def possible(self) -> list[int]:
        """Return the init times to forecast from, the newest first.

        Those that have a history and no forecast; and those whose forecast was made without a frame that is there now.
        """
        site, now = self.site, self.site.clock.now()
        least = max(self.begun - site.max_age, now - site.keep)
        times = self.journal.frames(least - site.reach * site.step)
        there, done = set(times), {*self.journal.forecasts(least), *self.journal.expired()}
        result = [t for t in times if t >= least and t not in done and missing(site, t, there) is not None]
        for t, gaps in self.journal.gaps().items():
            due = now - t <= site.max_age and not there.isdisjoint(gaps.lacking)
            if (gaps.begun or due) and self._failed.get(t, 0) < _TRIES:
                result.append(t)
        return sorted(result, reverse=True)

    def _forecast(self) -> bool:
        """Make the newest forecast that is possible; frames that are too old are noted as such."""
        for init in self.possible():
            former = self.journal.as_of(init)
            if former is None and self.site.clock.now() - init > self.site.max_age:
                self.journal.expire(init)
                self.state.counts["expired"] += 1
                self.state.tell("expired", init_time=iso(init), found=f"older than {shown(self.site.max_age)}")
                continue
            try:
                self._publish(init, former)
            except StorageError:
                raise
            except (SaNowcastError, RuntimeError) as error:
                # Of frames that the model cannot take, or of memory that is short for now, which torch tells so.
                self._failed[init] = self._failed.get(init, 0) + 1
                self.state.tell("failed", init_time=iso(init), found=str(error))
                self.state.met(f"no forecast from {iso(init)} ({error})")
                if self._failed[init] >= _TRIES and former is None:
                    self.journal.expire(init)
                continue
            return True
        return False

    def _gaps(self, init: int, filled: list[int]) -> tuple[list[int], list[int]]:
        """Return what a forecast is made without, as in `sa_nowcast.operations.journal.Gaps`."""
        there = set(self.journal.frames(init - self.site.reach * self.site.step))
        return filled, [t for t in window(self.site, init) if t not in there] if filled else []

    def _frame(self, when: int) -> Values:
        if when not in self.frames:
            found = self.outputs.frame(when)
            if found is None:
                raise StorageError(str(self.outputs.observed.place), f"the frame of {iso(when)} is gone")
            return np.asarray(found, np.float32)
        return self.frames[when]

    def _publish(self, init: int, former: str | None) -> None:
        site, began = self.site, time.perf_counter()
        times = window(site, init)[-site.history :]
        as_of = site.clock.now()
        there = set(self.journal.frames(init - site.reach * site.step))
        filled, lacking = self._gaps(init, missing(site, init, there) or [])
        values = history_of(site, init, self._frame, lacking, site.history)
        assert values is not None  # `_frame` gives a frame, or says that it is gone
        made = make(site, times, values, as_of, filled)
        done = time.perf_counter()
        if former is not None:
            self.journal.begin_anew(init)
            self.scores.begin_anew(init)
        history, places = [*self.journal.flags(init - 1), (init, made.flags)], places_of(site, made)
        alerts = collection(places, site.thresholds, site.units, history, site.step, iso)
        self.outputs.put_archive(made)
        self.outputs.publish(made, alerts)
        published = time.time()
        latency = published - self.journal.arrival(times)
        self.journal.forecast(init, made.as_of, published, latency, made.flags, filled, lacking)
        newest = max(self.journal.forecasts())
        self.state.tell("published" if former is None else "replaced", init_time=iso(init), as_of=made.as_of,
                        replaces=former, filled=made.filled or None, latency=round(latency, 3),
                        late=newest != init or None)  # fmt: skip
        if newest != init:  # what is published late may tell more of those that are newer
            alerts = collection(places, site.thresholds, site.units, self.journal.flags(newest), site.step, iso)
        self.outputs.finish(alerts, newest)
        end = time.perf_counter()
        total = end - began + self.state.durations.get("read", 0.0)
        self.state.durations |= {"forecast": done - began, "publish": end - done, "total": total}
        self.state.published(new=former is None, filled=bool(filled))
        self.state.counts["latencies"].append(latency)
        self.report(f"{iso(init)}: published after {latency:.1f} s")
        self._remove_old(as_of)

    def _remove_old(self, now: int) -> None:
        site = self.site
        oldest = now - site.keep
        for init in self.outputs.remove_before(oldest):
            self.state.tell("removed", init_time=iso(init))
        there = self.outputs.published()
        # What became of files is kept for as long as they may lie there.
        least = oldest - site.reach * site.step
        self.journal.forget(least, min(oldest, *there[-1:]), 0.0, now - _MONTH)
        self.scores.forget(now - _MONTH)

    # Verification

    def _verify(self) -> bool:
        pending = self.scores.pending()
        if not pending:
            if self._table_due:
                self._table_due = False
                self._write_table()
            return False
        init = pending[0][0]
        leads = [lead for i, lead in pending if i == init]
        try:
            self.scores.score(init, leads)
        except StorageError:
            raise
        except SaNowcastError as error:  # such as an extrapolation of frames that show no motion
            self.scores.give_up(init, leads)
            self.state.tell("not verified", init_time=iso(init), found=str(error))
        self._table_due = True
        return True

    def _write_table(self) -> None:
        table = self.scores.table(self.site.clock.now())
        with storage(self.site.folder):
            write_whole(self.site.folder / VERIFICATION, json.dumps(table, allow_nan=False))
        if table["state"] == "below" != self.state.skill["state"]:
            self.state.tell("skill below its bound", **table["windows"]["day"]["overall"])
        self.state.skill = {"state": table["state"], **table["windows"]["day"]["overall"]}

    def _expire_alerts(self) -> None:
        """Let nothing be all clear where the newest forecast is older than allowed."""
        newest = max(self.journal.forecasts(), default=None)
        file = self.site.folder / ALERTS
        if newest is None or self.site.clock.now() - newest <= self.site.max_age or not file.exists():
            return
        alerts = json.loads(file.read_text("utf-8"))
        changed = without_all_clear(alerts, iso(self.site.clock.now()))
        if changed != alerts:
            with storage(file):
                write_whole(file, json.dumps(changed, allow_nan=False, ensure_ascii=False))
            self.state.tell("alerts unknown", newest_init_time=iso(newest))
