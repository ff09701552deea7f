"""The service scores itself: as truth arrives, the forecasts of its time are verified, by the sums of `verify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.forecasts.labels import labelled
from sa_nowcast.metadata import dims
from sa_nowcast.operations.clock import iso, moment
from sa_nowcast.operations.histories import history_of
from sa_nowcast.operations.journal import Journal
from sa_nowcast.operations.publishing import Outputs
from sa_nowcast.operations.site import Site
from sa_nowcast.recipe.service import seconds
from sa_nowcast.verification import Bootstrap, Statistics, collect_statistics, reference, summarise

METRICS: Final = ("mse",)
_NAMES: Final = ("pixels", "error", "squared_error", "absolute_error")
_DIMS: Final = ("init_time", "variable", "lead_time", "channel")
WINDOWS: Final = {"day": "1D", "week": "7D", "month": "30D"}
_HISTORY_OF_EXTRAPOLATION: Final = 3


class Scores:
    """Sums by init time and lead time, and the skill of the last day, week and month."""

    def __init__(self, site: Site, outputs: Outputs, journal: Journal) -> None:
        self.site, self.outputs, self.journal = site, outputs, journal
        self.references = site.recipe.verification.references
        self._done: set[tuple[int, int]] = set()
        self._told: dict[str, Any] = {}
        # By init time and reference: sums of (forecast, reference), by name and lead time.
        self._sums: dict[int, dict[str, npt.NDArray[np.float64]]] = {}
        for init, lead, sums in journal.scores(-(2**63)):
            self._add(init, lead, sums)
        self._moved: tuple[int, xr.DataArray] | None = None

    def pending(self) -> list[tuple[int, int]]:
        """Return the pairs of init time and lead time whose forecast and truth are there, by init time."""
        times = set(self.journal.frames())
        return [
            (init, lead)
            for init in self.journal.forecasts()
            for lead in self.site.leads
            if init + lead in times and init in times and (init, lead) not in self._done
        ]

    def score(self, init: int, leads: list[int]) -> None:
        """Verify the forecast from an init time at some lead times."""
        name = str(self.site.like.name)
        values = self.outputs.archive.get(moment(init), name)
        if values is None:
            self._done |= {(init, lead) for lead in leads}
            return
        frames = {t: self.outputs.frame(t) for t in (init, *(init + lead for lead in leads))}
        there = [lead for lead in leads if frames[init] is not None and frames[init + lead] is not None]
        self._done |= {(init, lead) for lead in leads if lead not in there}  # frames that were removed
        if not there:
            return
        numbers, times = [self.site.leads.index(lead) for lead in there], [init, *(init + lead for lead in there)]
        truth = self.site.field(np.stack([frames[t] for t in times]), times)
        forecast = self._labelled(values[numbers], init, there)
        found = {"persistence": collect_statistics(forecast, truth, METRICS, reference="persistence")}
        if "extrapolation" in self.references and (moved := self._extrapolated(init)) is not None:
            other = moved.isel({dims.LEAD_TIME: numbers})
            found["extrapolation"] = collect_statistics(
                forecast, truth, METRICS, reference=other, reference_name="extrapolation"
            )
        for place, lead in enumerate(there):
            sums = {against: _sums(statistics, place) for against, statistics in found.items()}
            self.journal.score(init, lead, sums)
            self._add(init, lead, sums)

    def _add(self, init: int, lead: int, sums: Mapping[str, Any]) -> None:
        self._done.add((init, lead))
        if lead not in self.site.leads:
            return
        own = self._sums.setdefault(init, {})
        for against, parts in sums.items():
            blank = np.zeros((2, len(_NAMES), len(self.site.leads)))
            values = own.setdefault(against, blank)
            for part, name in enumerate(("forecast", "reference")):
                values[part, :, self.site.leads.index(lead)] = [parts[name][n] for n in _NAMES]

    def give_up(self, init: int, leads: list[int]) -> None:
        """Leave pairs out until the next start."""
        self._done |= {(init, lead) for lead in leads}

    def forget(self, before: int) -> None:
        """Forget the sums of init times before one."""
        self._sums = {init: own for init, own in self._sums.items() if init >= before}
        self._done = {pair for pair in self._done if pair[0] >= before}

    def begin_anew(self, init: int) -> None:
        """Forget what was verified of a forecast that is made anew; the journal does likewise."""
        self._sums.pop(init, None)
        self._done = {pair for pair in self._done if pair[0] != init}
        self._moved = None

    def _labelled(self, values: Any, init: int, leads: list[int]) -> xr.DataArray:
        coords = {d: self.site.like.coords[d] for d in self.site.like.dims if d in self.site.like.coords}
        bare = xr.DataArray(
            values, dims=(dims.LEAD_TIME, *self.site.like.dims), coords=coords, name=self.site.like.name
        )
        return labelled(bare.assign_attrs(self.site.like.attrs), np.array(moment(init)), np.array(leads, "m8[ns]"), {})

    def _extrapolated(self, init: int) -> xr.DataArray | None:
        """Return the extrapolation from an init time, made once for all lead times that are verified together."""
        if self._moved is None or self._moved[0] != init:
            times = [init - k * self.site.step for k in range(_HISTORY_OF_EXTRAPOLATION - 1, -1, -1)]
            gaps = self.journal.gaps().get(init)
            lacking = () if gaps is None else gaps.lacking
            frames = history_of(self.site, init, self.outputs.frame, lacking, len(times))
            if frames is None:
                return None
            data = self.site.field(frames, times)
            job = reference("extrapolation").plan(data, self.site.recipe.steps)
            self._moved = init, job.compute()
        return self._moved[1]

    def statistics(self, since: int, against: str) -> Statistics:
        """Return the sums of forecasts from an init time on, beside those of a reference, as `verify` has them."""
        inits = sorted(init for init, by in self._sums.items() if init >= since and against in by)
        if not inits:
            return Statistics.zero()
        values = np.stack([self._sums[init][against] for init in inits])  # (init, part, sum, lead)
        coords = {"init_time": np.array(inits, "M8[ns]"), "lead_time": np.array(self.site.leads, "m8[ns]"),
                  "variable": [0], "channel": [0]}  # fmt: skip
        parts = [
            xr.Dataset({n: (_DIMS, values[:, part, k, :][:, None, :, None]) for k, n in enumerate(_NAMES)}, coords)
            for part in range(2)
        ]
        if against not in self._told:
            self._told[against] = self._labels(against)
        return Statistics(parts[0], parts[1], self._told[against])

    def _labels(self, against: str) -> Any:
        """Return what `verify` would say of these sums: told by it, of an empty pair."""
        init, lead = 0, self.site.leads[0]
        blank = np.zeros((2, *self.site.like.shape), np.float32)
        truth = self.site.field(blank, [init, init + lead])
        forecast = self._labelled(blank[:1], init, [lead])
        if against == "persistence":
            return collect_statistics(forecast, truth, METRICS, reference=against).labels
        return collect_statistics(forecast, truth, METRICS, reference=forecast, reference_name=against).labels

    def table(self, now: int) -> dict[str, Any]:
        """Return the rolling table, as ``verification.json`` holds it."""
        bound = self.site.recipe.verification.bound
        windows = {}
        for name, length in WINDOWS.items():
            since = now - int(seconds(length) * 1e9)
            windows[name] = self._window(since, now)
        day = windows["day"]["overall"].get(f"skill_{self.references[0]}")
        state = "unknown" if day is None else "ok" if day >= bound else "below"
        return {
            "updated": iso(now),
            "reference_names": list(self.references),
            "bound": bound,
            "state": state,
            "windows": windows,
        }

    def _window(self, since: int, now: int) -> dict[str, Any]:
        """Return the scores of the forecasts from init times since a time; all lead times, and each."""
        result: dict[str, Any] = {"from": iso(since), "to": iso(now), "init_times": 0, "overall": {}, "leads": []}
        by_lead: dict[int, dict[str, Any]] = {lead: {"lead_time": lead / 1e9} for lead in self.site.leads}
        for against in self.references:
            sums = self.statistics(since, against)
            if sums.labels is None or sums.reference is None:
                continue
            scores = summarise(sums, valid_times="all", bootstrap=Bootstrap(samples=0))
            result["init_times"] = max(result["init_times"], int((sums.forecast["pixels"].sum(
                ["variable", "lead_time", "channel"]) > 0).sum()))  # fmt: skip
            totals = [float(part["squared_error"].sum()) for part in (sums.forecast, sums.reference)]
            result["overall"][f"skill_{against}"] = 1 - totals[0] / totals[1] if totals[1] > 0 else None
            for number, lead in enumerate(self.site.leads):
                one = scores.isel(lead_time=number)
                own = by_lead[lead]
                if against == self.references[0]:
                    own |= {
                        "pairs": int(one["forecasts"]), "pixels": int(one["count"]), "mse": _number(one["mse"]),
                    }  # fmt: skip
                own |= {
                    f"mse_{against}": _number(one[f"mse_{against}"]),
                    f"skill_{against}": _number(one["mse_skill"]),
                }
        result["leads"] = list(by_lead.values())
        return result


def _sums(statistics: Statistics, place: int) -> Mapping[str, Mapping[str, float]]:
    """Return the sums of one lead time as JSON holds them, exactly."""
    assert statistics.reference is not None
    parts = {"forecast": statistics.forecast, "reference": statistics.reference}
    return {w: {str(n): float(v.values[0, 0, place, 0]) for n, v in ds.data_vars.items()} for w, ds in parts.items()}


def _number(value: Any) -> float | None:
    found = float(value)
    return found if np.isfinite(found) else None
