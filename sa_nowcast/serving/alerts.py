"""Alerts as they stand now: where data are missing nothing is clear, and the last state that was known is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from sa_nowcast.published import ALERTS, AREAS, FORECASTS, POINTS, current
from sa_nowcast.serving.folder import Published, unlike
from sa_nowcast.serving.sources import Kept

Json = dict[str, Any]
Spans = dict[tuple[Any, ...], Json | None]
CLEAR: Final = "clear"
UNKNOWN: Final = "unknown"
LOOKED_BACK: Final = 48
"""Forecasts that are searched for the last state that was known."""


class Alerts:
    """Answers for a folder; what was read of its forecasts, which do not change, is kept."""

    def __init__(self, published: Published) -> None:
        self.published = published
        self._kept: Kept[Any] = Kept(4 * LOOKED_BACK, lambda _: 1)

    def standing(self) -> Json:
        """Return the alerts, and why data are missing where they are.

        Returns
        -------
        dict
            ``missing``: None or a text. ``alerts``: for each place and threshold ``name``, ``kind``, ``threshold``,
            ``units``, ``state``, ``since``, ``init_time``; ``last``, the state that was known last of one that is
            unknown, with its ``since`` and ``init_time``; ``reached``, from which valid time until which the newest
            forecast reaches it (``from``, ``until``, and ``open`` where it still does at the last lead time), or None.
        """
        missing = self._missing()
        names = self.published.names()[::-1]
        found = self._properties(ALERTS)
        if found is None and names:
            found = self._properties(f"{FORECASTS}/{names[0]}/{ALERTS}")
        alerts = []
        for one in found or []:
            init = str(one.get("init_time")).replace("-", "").replace(":", "")
            alert = {**one, "last": None, "reached": self._reached(init).get(_key(one))}
            if missing and one["state"] == CLEAR:
                alert |= {"state": UNKNOWN, "since": None, "last": _last(one)}
            elif one["state"] == UNKNOWN:
                alert["last"] = next(self._before(one, names[:LOOKED_BACK]), None)
            alerts.append(alert)
        return {"missing": missing, "alerts": alerts}

    def _missing(self) -> str | None:
        status, service = current(self.published.status()), self.published.service()
        if status.get("state") in ("no data", "stopped"):
            return "; ".join(map(str, status.get("reasons") or [])) or f"the service is {status['state']}"
        age, most = status.get("forecast_age_seconds"), service.get("max_age_seconds")
        if age is not None and most is not None and age > most:
            return (
                f"the newest forecast is {age / 60:.0f} min old, and older than the {most / 60:g} min that are allowed"
            )
        return None

    def _before(self, alert: Json, names: Sequence[str]) -> Iterator[Json]:
        for name in names:
            for one in self._properties(f"{FORECASTS}/{name}/{ALERTS}") or []:
                if _key(one) == _key(alert) and one["state"] != UNKNOWN:
                    yield _last(one)

    def _properties(self, path: str) -> list[Json] | None:
        """Return the properties of a file's features; None where there is no such file."""
        document = self._read(path, lambda content: [feature["properties"] for feature in content["features"]])
        return None if document is None else list(document)

    def _reached(self, name: str) -> Spans:
        """Return when a forecast reaches each threshold, by place and threshold."""
        recipe = self.published.service().get("recipe") or {}
        share = (recipe.get("alerts") or {}).get("probability", 0.5)
        thresholds = self.published.service().get("thresholds") or []

        def of_points(content: Json) -> Spans:
            return _spans("point", content["points"], thresholds, share)

        def of_areas(content: Json) -> Spans:
            return _spans("area", [f["properties"] for f in content["features"]], thresholds, None)

        found: Spans = {}
        for file, make in ((POINTS, of_points), (AREAS, of_areas)):
            found |= self._read(f"{FORECASTS}/{name}/{file}", make) or {}
        return found

    def _read(self, path: str, make: Any) -> Any:
        with suppress(FileNotFoundError):
            file = self.published.open(path)
            with file.content:
                try:
                    return self._kept.get((path, file.version), lambda: make(json.load(file.content)))
                except (ValueError, KeyError, TypeError) as error:
                    raise unlike(path) from error
        return None


def _key(alert: Mapping[str, Any]) -> tuple[Any, ...]:
    return alert.get("kind"), alert["name"], float(alert["threshold"])


def _last(alert: Mapping[str, Any]) -> Json:
    return {key: alert.get(key) for key in ("state", "since", "init_time")}


def _spans(kind: str, places: Sequence[Json], thresholds: Sequence[float], share: float | None) -> Spans:
    """Return for each place and threshold when it is reached, by the rule of the alerts of such places."""
    found: Spans = {}
    for place in places:
        times = place.get("valid_times") or []
        for threshold in thresholds:
            chance = (place.get("probability") or {}).get(f"{threshold:g}") if share is not None else None
            values, limit = (place.get("mean") or [], threshold) if chance is None else (chance, share)
            at = [i for i, v in enumerate(values) if v is not None and v >= limit]
            found[kind, place["name"], float(threshold)] = (
                {"from": times[at[0]], "until": times[at[-1]], "open": at[-1] == len(times) - 1} if at else None
            )
    return found
