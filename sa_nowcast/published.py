"""What a service publishes, as those see it who write it and those who read it: names of files, and its state.

docs/reference/published.md describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

SERVICE, STATUS, LOG, VERIFICATION = "service.json", "status.json", "log.jsonl", "verification.json"
FORECASTS, LATEST, ARCHIVE, OBSERVED = "forecasts", "latest", "archive.zarr", "observed.zarr"
ALERTS, POINTS, AREAS, ITEM, FORECAST = "alerts.geojson", "points.json", "areas.json", "item.json", "forecast.nc"
HEARTBEAT: Final = 30.0
"""A service writes its state at least every 5 seconds; after this many it counts as stopped."""
STATES: Final = ("ok", "waiting", "late", "no data", "degraded", "stopped")
HEALTHY: Final = ("ok", "waiting", "late", "degraded")
AGES: Final = ("frame_age_seconds", "forecast_age_seconds")
_COUNTED: Final = ("frames", "forecasts", "duplicate", "late", "converted", "expired", "filled", "replaced")


def current(status: Mapping[str, Any], now: datetime | None = None) -> dict[str, Any]:
    """Return the state with ages as of now; it is "stopped" where the service has not written it for 30 seconds.

    Ages grow by the time since the service wrote them, by its own clock or that of a replay.
    """
    since = _seconds_since(status.get("heartbeat"), now or datetime.now(UTC))
    result = dict(status)
    if since is None:
        return result
    result["heartbeat_age_seconds"] = round(since, 1)
    for key in AGES:
        if isinstance(age := status.get(key), int | float):
            result[key] = round(age + since, 1)
    if since > HEARTBEAT and status.get("state") != "stopped":
        reasons = [f"the service has not written its state for {since:.0f} s", *(status.get("reasons") or [])]
        result |= {"state": "stopped", "since": status.get("heartbeat"), "reasons": reasons}
    return result


def is_well(status: Mapping[str, Any]) -> bool:
    """Say whether forecasts are made, or need not be."""
    return status.get("state") in HEALTHY


def prometheus(status: Mapping[str, Any]) -> str:
    """Return the state as Prometheus text (exposition format 0.0.4); what is no number is left out."""
    lines: list[str] = []

    def add(name: str, kind: str, about: str, label: str, samples: Any) -> None:
        known = {k: v for k, v in samples.items() if isinstance(v, int | float)} if isinstance(samples, Mapping) else {}
        if known:
            lines.extend((f"# HELP sa_nowcast_{name} {about}", f"# TYPE sa_nowcast_{name} {kind}"))
        for key, value in known.items():
            labels = f'{{{label}="{_escaped(key)}"}}' if label else ""
            lines.append(f"sa_nowcast_{name}{labels} {float(value):.10g}")

    add("frame_age_seconds", "gauge", "Age of the newest frame.", "", {"": status.get(AGES[0])})
    add("forecast_age_seconds", "gauge", "Age of the newest forecast.", "", {"": status.get(AGES[1])})
    add(
        "heartbeat_age_seconds",
        "gauge",
        "Since the service wrote its state.",
        "",
        {"": status.get("heartbeat_age_seconds")},
    )
    add("duration_seconds", "gauge", "Durations of the last forecast.", "part", status.get("durations"))
    add("latency_seconds", "gauge", "From a frame's last byte to its forecast.", "of", status.get("latency"))
    counts = status.get("counts") or {}
    for name in _COUNTED:
        add(f"{name}_total", "counter", f"Number of {name}.", "", {"": counts.get(name)})
    add("refused_total", "counter", "Frames refused.", "reason", counts.get("refused"))
    add("memory_bytes", "gauge", "Resident memory.", "", {"": status.get("memory_bytes")})
    states = {state: int(status.get("state") == state) for state in STATES}
    add("state", "gauge", "1 for the state that it is in.", "state", states)
    skill = {k.removeprefix("skill_"): v for k, v in (status.get("skill") or {}).items() if k.startswith("skill_")}
    add("skill", "gauge", "Skill of the last day.", "against", skill)
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _seconds_since(text: Any, now: datetime) -> float | None:
    try:
        return max(0.0, (now - datetime.fromisoformat(str(text))).total_seconds())
    except (ValueError, TypeError):
        return None
