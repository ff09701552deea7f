"""The state of a service: what it has counted and met, whether it is well, and ``status.json``."""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from sa_nowcast.operations.clock import iso
from sa_nowcast.operations.journal import Journal
from sa_nowcast.operations.site import Site, shown
from sa_nowcast.operations.telling import Log, memory_bytes
from sa_nowcast.published import STATUS
from sa_nowcast.storage.whole import storage, write_whole

_KEPT: Final = ("filled", "replaced")
STOPPED: Final = "stopped"


class State:
    """What is known of a service; the thread that made it changes it, any may write it.

    Attributes
    ----------
    counts : dict
        Frames and forecasts by what became of them, since the service was first started, and latencies in s.
        `filled` are forecasts whose history had a gap, and `replaced` those that were made anew when its frame came.
    durations : dict
        Seconds of the last forecast, by its parts.
    recent : list of str
        What went wrong last.
    skill : mapping
        Of the last day.
    idle : int or None
        Since when there is nothing to do, in ns since 1970.
    status : mapping
        What was written last.
    """

    def __init__(self, site: Site, journal: Journal) -> None:
        self.site, self.journal = site, journal
        self.log, self._file = Log(site.folder), site.folder / STATUS
        self.durations: dict[str, float] = {}
        self.recent: list[str] = []
        self.skill: dict[str, Any] = {"state": "unknown"}
        self.idle: int | None = None
        self.status: dict[str, Any] = {}
        self._started = self._since = site.clock.now()
        self._state = ""
        self._lock, self._thread = threading.Lock(), threading.get_ident()
        self._there: set[int] = set()
        self._newest: tuple[int | None, int | None] = (None, None)
        self._filled: list[str] = []
        self.counts = self._counted()

    def met(self, what: str) -> None:
        """Remember what went wrong."""
        self.recent = [*self.recent, what][-3:]

    def published(self, *, new: bool, filled: bool) -> None:
        """Count a forecast."""
        for kind, counts in (("forecasts", new), ("replaced", not new), ("filled", new and filled)):
            if counts:
                self.counts[kind] += 1
                if kind in _KEPT:
                    self.journal.keep(kind, self.counts[kind])

    def _counted(self) -> dict[str, Any]:
        """Return what was counted before, by the journal."""
        found: dict[str, Any] = dict.fromkeys(("frames", "duplicate", "late", "converted"), 0) | {"refused": {}}
        for (outcome, reason), count in self.journal.outcomes().items():
            if outcome == "refused":
                found["refused"][reason] = found["refused"].get(reason, 0) + count
            else:
                found[outcome] += count
        found["frames"] += found["late"] + found["converted"]
        found["forecasts"], found["expired"] = len(self.journal.forecasts()), len(self.journal.expired())
        found |= {kind: int(self.journal.fact(kind, 0)) for kind in _KEPT}
        found["latencies"] = [v for v in self.journal.latencies() if v is not None and np.isfinite(v)]
        return found

    def found(self) -> tuple[str, list[str]]:
        """Return the state, and why it is not ok."""
        now, site = self.site.clock.now(), self.site
        frame, forecast = self._newest
        if frame is None:
            return "waiting", [f"no frame has arrived in {site.source.name}"]
        reasons = []
        if now - frame > site.max_age:
            return "no data", [f"the newest frame is of {iso(frame)}, older than {shown(site.max_age)}"]
        if now - frame > 2 * site.step:
            reasons.append(f"the frame after {iso(frame)} is late")
        if forecast is None or forecast < frame:
            behind = "there is no forecast yet" if forecast is None else f"the newest forecast is from {iso(forecast)}"
            missing = [t for t in (frame - k * site.step for k in range(site.history)) if t not in self._there]
            if missing:
                reasons.append(f"{behind}: the history of {iso(frame)} lacks {', '.join(str(iso(t)) for t in missing)}")
            elif now - frame > site.step:
                reasons.append(f"{behind}, and the one from {iso(frame)} is being made")
        if reasons:
            return "late", reasons
        if self.skill["state"] == "below":
            reasons.append(f"its skill of the last day is below {site.recipe.verification.bound:g}")
        reasons += self.recent
        return ("degraded", reasons) if reasons else ("ok", [])

    def write(self, state: str | None = None) -> None:
        """Rewrite ``status.json``; after "stopped" nothing else is said."""
        with self._lock:
            state = STOPPED if self._state == STOPPED else state
            if threading.get_ident() == self._thread:
                self._look()
            now = self.site.clock.now()
            found, reasons = self.found() if state is None else (state, [])
            if found != self._state:
                self._state, self._since = found, now
                self.tell("state", state=found, reasons=reasons)
            frame, forecast = self._newest
            latencies = self.counts["latencies"]
            self.status = {
                "state": found,
                "since": iso(self._since),
                "reasons": reasons,
                "newest_frame": iso(frame),
                "newest_init_time": iso(forecast),
                "newest_filled": self._filled,
                "frame_age_seconds": None if frame is None else (now - frame) / 1e9,
                "forecast_age_seconds": None if forecast is None else (now - forecast) / 1e9,
                "durations": {k: round(v, 3) for k, v in self.durations.items()},
                "latency": {
                    "last": round(latencies[-1], 3) if latencies else None,
                    "median": round(statistics.median(latencies), 3) if latencies else None,
                    "worst": round(max(latencies), 3) if latencies else None,
                },
                "counts": {k: v for k, v in self.counts.items() if k != "latencies"},
                "skill": self.skill,
                "memory_bytes": memory_bytes(),
                "pid": os.getpid(),
                "started": iso(self._started),
                "heartbeat": iso(time.time_ns()),
                "idle_since": iso(self.idle),
                "now": iso(now),
            }
            with storage(self.site.folder):
                write_whole(self._file, json.dumps(self.status, allow_nan=False, ensure_ascii=False))

    def _look(self) -> None:
        """Look at what there is, in the thread that changes it."""
        frames = self.journal.frames()
        self._there = set(frames[-4 * self.site.history :])
        self._newest = frames[-1] if frames else None, max(self.journal.forecasts(), default=None)
        gaps = None if self._newest[1] is None else self.journal.gaps().get(self._newest[1])
        self._filled = [] if gaps is None else [str(iso(t)) for t in gaps.filled]
        self.counts["latencies"] = self.counts["latencies"][-2000:]

    def tell(self, event: str, **more: Any) -> None:
        """Write a line of the log; what is None is left out."""
        self.log.tell(iso(self.site.clock.now()), event, **{k: v for k, v in more.items() if v is not None})


def read_status(folder: Path) -> Mapping[str, Any]:
    """Return the status of a service."""
    found: Mapping[str, Any] = json.loads((folder / STATUS).read_text("utf-8"))
    return found
