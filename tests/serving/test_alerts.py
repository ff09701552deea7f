"""Alerts as they stand: nothing is clear where data are missing, and the state known last is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from published import alerts_of, write_alerts, write_status

INIT, BEFORE = "2019-06-10T00:22:00Z", "20190610T002000Z"
NAME = "20190610T002200Z"


def _of(document: dict, name: str) -> dict[float, dict]:
    return {a["threshold"]: a for a in document["alerts"] if a["name"] == name}


def test_an_alert_has_its_state_and_when_the_forecast_reaches_it(copy: Path, serve) -> None:
    path = copy / "forecasts" / NAME / "points.json"
    content = json.loads(path.read_text())
    content["points"][1]["probability"]["1"] = [0.1, 0.2, 0.49, 0.4, 0.3, 0.2]
    path.write_text(json.dumps(content))
    with serve(copy) as ask:
        write_status(copy)
        found = ask("/alerts").json
    assert found["missing"] is None
    assert len(found["alerts"]) == 8
    areas = json.loads((copy / "forecasts" / NAME / "areas.json").read_text())["features"]
    cape = next(f["properties"] for f in areas if f["properties"]["name"] == "Cape")
    assert _of(found, "Cape")[1.0]["state"] == "raised"
    above = [t for t, v in zip(cape["valid_times"], cape["mean"], strict=True) if v >= 1]
    assert _of(found, "Cape")[1.0]["reached"] == {"from": above[0], "until": above[-1], "open": True}
    assert _of(found, "Munising")[1.0]["reached"] is None
    assert _of(found, "Munising")[1.0]["last"] is None


def test_a_point_reaches_a_threshold_where_its_probability_does(copy: Path, serve) -> None:
    path = copy / "forecasts" / NAME / "points.json"
    content = json.loads(path.read_text())
    content["points"][0]["probability"]["5"] = [0.1, 0.5, None, 0.7, 0.49, 0.2]
    path.write_text(json.dumps(content))
    with serve(copy) as ask:
        write_status(copy)
        reached = _of(ask("/alerts").json, "Marquette")[5.0]["reached"]
    assert reached == {"from": "2019-06-10T00:26:00Z", "until": "2019-06-10T00:30:00Z", "open": False}


@pytest.mark.parametrize(
    ("status", "missing"),
    [
        ({"state": "no data", "reasons": ["no frame since 00:22"]}, "no frame since 00:22"),
        ({"state": "stopped", "reasons": []}, "the service is stopped"),
        ({"forecast_age_seconds": 1260.0}, "the newest forecast is 21 min old, and older than the 20 min that are"),
        ({"heartbeat": "2026-01-01T00:00:00Z"}, "the service has not written its state for"),
    ],
)
def test_what_was_clear_is_unknown_where_data_are_missing(copy: Path, serve, status: dict, missing: str) -> None:
    with serve(copy) as ask:
        write_status(copy, **status)
        found = ask("/alerts").json
    assert found["missing"].startswith(missing)
    assert {a["state"] for a in found["alerts"]} == {"raised", "unknown"}
    assert _of(found, "Bay")[5.0]["last"] == {"state": "clear", "since": "2019-06-10T00:20:00Z", "init_time": INIT}


def test_the_last_known_state_is_that_of_the_newest_forecast_that_had_one(copy: Path, serve) -> None:
    shutil.copytree(copy / "forecasts" / NAME, copy / "forecasts" / BEFORE)
    older = alerts_of("2019-06-10T00:20:00Z", ("Bay",))
    (copy / "forecasts" / BEFORE / "alerts.geojson").write_text(json.dumps(older))
    newer = alerts_of(INIT, (), ("Bay", "Cape", "Marquette", "Munising"))
    (copy / "forecasts" / NAME / "alerts.geojson").write_text(json.dumps(newer))
    with serve(copy) as ask:
        write_status(copy)
        write_alerts(copy, newer)
        found = ask("/alerts").json
        assert found["missing"] is None
        assert {a["state"] for a in found["alerts"]} == {"unknown"}
        assert _of(found, "Bay")[1.0]["last"]["state"] == "raised"
        assert _of(found, "Bay")[1.0]["last"]["init_time"] == "2019-06-10T00:20:00Z"
        assert _of(found, "Cape")[1.0]["last"]["state"] == "clear"
        shutil.rmtree(copy / "forecasts" / BEFORE)
        assert _of(ask("/alerts").json, "Cape")[1.0]["last"] is None


def test_a_folder_without_alerts_has_none(copy: Path, serve) -> None:
    (copy / "alerts.geojson").unlink()
    (copy / "forecasts" / NAME / "alerts.geojson").unlink()
    with serve(copy) as ask:
        write_status(copy)
        assert ask("/alerts").json == {"missing": None, "alerts": []}


@pytest.mark.parametrize("content", ["{", "[]", '{"features": [{}]}'])
def test_alerts_that_cannot_be_read_are_an_error_and_not_none(copy: Path, serve, content: str) -> None:
    with serve(copy) as ask:
        (copy / "alerts.geojson").write_text(content)
        answer = ask("/alerts")
    assert answer.status == 503
    assert answer.json["description"] == "What was published cannot be read: is not what a service writes"


def test_a_point_in_the_units_of_the_grid_gets_its_degrees(copy: Path, serve) -> None:
    path = copy / "forecasts" / NAME / "points.json"
    content = json.loads(path.read_text())
    content["points"][0] |= {"latitude": None, "longitude": None, "y": 46.25, "x": -87.0}
    path.write_text(json.dumps(content))
    with serve(copy) as ask:
        points = ask("/forecasts/latest").json["points"]
    assert points == [
        {"name": "Marquette", "latitude": 46.25, "longitude": -87.0},
        {"name": "Munising", "latitude": 46.41, "longitude": -86.65},
    ]
