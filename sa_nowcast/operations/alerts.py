"""Alerts with hysteresis: two forecasts in a row raise one, two lower it, and a gap in data never says all clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

State = Literal["raised", "clear", "unknown"]
RAISED: Final[State] = "raised"
CLEAR: Final[State] = "clear"
UNKNOWN: Final[State] = "unknown"
Flags = Mapping[str, Sequence[bool | None]]
"""For each name whether each threshold is exceeded at some lead time; None where the forecast has no value there."""


def states(history: Sequence[tuple[int, Flags]], step: int, name: str, number: int) -> tuple[State, int]:
    """Return the state of a name and threshold after some forecasts, and since which init time it holds.

    Parameters
    ----------
    history : sequence of (int, mapping)
        Init times in nanoseconds, ascending, with what was exceeded in them.
    step : int
        Nanoseconds from one init time to the next: others do not follow each other in a row.
    name : str
    number : int
        Of the threshold.

    Notes
    -----
    A function of the forecasts alone: a service that was stopped, or that published one late, comes to the same state.
    What is raised stays so through a gap and through forecasts without a value; what is clear becomes unknown there.
    """
    state, since, run, last, before = UNKNOWN, history[0][0] if history else 0, 0, None, None
    for init, flags in history:
        found = flags.get(name, ())
        flag = found[number] if number < len(found) else None
        in_a_row = before is not None and init - before == step
        run = run + 1 if in_a_row and flag is not None and flag == last else int(flag is not None)
        new = state
        if (not in_a_row or flag is None) and state == CLEAR:
            new = UNKNOWN
        if run >= 2:
            new = RAISED if flag else CLEAR
        if new != state:
            state, since = new, init
        last, before = flag, init
    return state, since


def collection(
    places: Sequence[Mapping[str, Any]],
    thresholds: Sequence[float],
    units: str | None,
    history: Sequence[tuple[int, Flags]],
    step: int,
    told: Any,
) -> dict[str, Any]:
    """Return alerts as GeoJSON: a feature for each place and threshold.

    `places` have ``name``, ``kind`` and ``geometry``; `told` makes text of an init time.
    """
    features = []
    for place in places:
        for number, threshold in enumerate(thresholds):
            state, since = states(history, step, str(place["name"]), number)
            properties = {
                "name": place["name"], "kind": place["kind"], "threshold": threshold, "units": units, "state": state,
                "since": told(since), "init_time": told(history[-1][0]),
            }  # fmt: skip
            features.append({"type": "Feature", "geometry": place["geometry"], "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def without_all_clear(alerts: Mapping[str, Any], now: Any) -> dict[str, Any]:
    """Return alerts as they stand where no forecast is new enough: nothing is clear."""
    features = []
    for feature in alerts["features"]:
        properties = dict(feature["properties"])
        if properties["state"] == CLEAR:
            properties |= {"state": UNKNOWN, "since": now}
        features.append({**feature, "properties": properties})
    return {**alerts, "features": features}
