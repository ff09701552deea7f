"""What is answered, and what is refused: state, files by ranges, bounds of requests."""

from __future__ import annotations

import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from published import write_status

from sa_nowcast import published as state
from sa_nowcast.errors import RecipeError, StorageError
from sa_nowcast.serving.limits import Limits
from sa_nowcast.serving.running import address_of, bind, is_loopback, serve

NETCDF = "/files/forecasts/20190610T002200Z/forecast.nc"


# --- state


def test_ages_grow_until_the_service_writes_again(copy: Path, serve) -> None:
    with serve(copy) as ask:
        write_status(copy)
        status = ask("/status").json
        assert status["state"] == "ok"
        assert 40.0 <= status["frame_age_seconds"] < 60
        assert ask("/healthz").status == 200
        long_ago = (datetime.now(UTC) - timedelta(seconds=100)).isoformat()
        write_status(copy, heartbeat=long_ago, reasons=["a frame is late"])
        answer = ask("/healthz")
        assert answer.status == 503
        assert answer.json["state"] == "stopped"
        assert answer.json["reasons"][0].startswith("the service has not written its state for 10")
        assert answer.json["reasons"][1] == "a frame is late"
        assert 140 <= ask("/status").json["frame_age_seconds"] < 160


@pytest.mark.parametrize(("named", "code"), [("ok", 200), ("late", 200), ("no data", 503), ("stopped", 503)])
def test_health_is_that_of_the_state(copy: Path, serve, named: str, code: int) -> None:
    with serve(copy) as ask:
        write_status(copy, state=named)
        assert ask("/healthz").status == code
        assert f'sa_nowcast_state{{state="{named}"}} 1' in ask("/metrics").body.decode()


def test_metrics_are_read_by_prometheus_rules() -> None:
    text = state.prometheus({
        "state": "late", "memory_bytes": 7, "counts": {"frames": 3, "refused": {'a "b"\\c\nd': 2}},
        "frame_age_seconds": 1.5, "forecast_age_seconds": None, "durations": {"read": 0.25},
        "heartbeat": "2020-01-01T00:00:00Z", "skill": {"state": "ok", "skill_persistence": 0.5},
    })  # fmt: skip
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples["sa_nowcast_memory_bytes"] == "7"
    assert samples["sa_nowcast_frames_total"] == "3"
    assert samples['sa_nowcast_refused_total{reason="a \\"b\\"\\\\c\\nd"}'] == "2"
    assert samples["sa_nowcast_frame_age_seconds"] == "1.5"
    assert samples['sa_nowcast_duration_seconds{part="read"}'] == "0.25"
    assert samples['sa_nowcast_skill{against="persistence"}'] == "0.5"
    assert not any("forecast" in name or "heartbeat" in name for name in samples)
    assert sum(v == "1" for n, v in samples.items() if n.startswith("sa_nowcast_state")) == 1
    assert text.count("# TYPE sa_nowcast_refused_total counter") == 1


def test_a_state_that_cannot_be_read_is_said_in_one_line(copy: Path, serve) -> None:
    with serve(copy) as ask:
        (copy / "status.json").write_text("{")
        answer = ask("/status")
    assert answer.status == 503
    assert answer.json["description"].startswith("What was published cannot be read: ")
    assert str(copy) not in answer.body.decode()


def test_a_damaged_forecast_is_said_in_one_line_and_others_are_shown(copy: Path, serve) -> None:
    path = copy / "forecasts" / "20190610T002200Z" / "forecast.nc"
    whole = path.read_bytes()
    with serve(copy) as ask:
        path.write_bytes(whole[:5000])
        answer = ask("/forecasts/latest")
        assert answer.status == 503
        assert answer.json["description"] == "What was published cannot be read: forecast.nc is no whole NetCDF file"
        assert ask("/observed").status == 200
        path.write_bytes(whole)
        assert ask("/forecasts/latest").status == 200


def test_paths_of_the_machine_are_not_told(ask) -> None:
    service = ask("/service").json
    assert service["name"] == "Lake Superior"
    assert "recipe" not in service
    for path in ("/files/forecasts/x", "/forecasts/x", "/nowhere", "/edr/collections/x/position?coords=POINT(0%200)"):
        answer = ask(path)
        assert answer.status == 404
        assert set(answer.json) == {"code", "description"}
        assert "/tmp" not in answer.body.decode()


# --- files


def test_ranges_of_a_file_are_its_bytes(folder: Path, ask) -> None:
    whole = (folder / NETCDF[7:]).read_bytes()
    size = len(whole)
    for asked, begin, end in (
        ("0-99", 0, 100),
        ("100-", 100, size),
        ("-50", size - 50, size),
        (f"5-{size + 9}", 5, size),
    ):
        answer = ask(NETCDF, Range=f"bytes={asked}")
        assert answer.status == 206
        assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{size}"
        assert answer.body == whole[begin:end]
    beyond = ask(NETCDF, Range=f"bytes={size}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for unread in ("bytes=0-1,5-6", "lines=0-1", "bytes=-"):
        assert ask(NETCDF, Range=unread).status == 200
    head = ask(NETCDF, method="HEAD")
    assert (head.headers["content-length"], head.body) == (str(size), b"")


def test_what_is_known_is_not_sent_again(ask) -> None:
    for path in (NETCDF, "/forecasts/latest/map/precip_rate/240.png", "/page/leaflet/leaflet.js"):
        first = ask(path)
        again = ask(path, If_None_Match=first.headers["etag"])
        assert (first.status, again.status, again.body) == (200, 304, b"")
    other = ask(NETCDF, Range="bytes=0-9", If_Range='"older"')
    assert other.status == 200


# --- bounds


def test_nothing_can_be_changed(ask) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = ask("/status", method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_a_client_that_asks_too_often_is_told_when_to_ask_again(copy: Path, serve) -> None:
    with serve(copy, rate=2, burst=5) as ask:
        codes = [ask("/status").status for _ in range(8)]
        refused = ask("/status")
        assert codes[:5] == [200] * 5
        assert codes[-1] == refused.status == 429
        assert refused.headers["retry-after"] == "1"
        time.sleep(1.1)
        assert ask("/status").status == 200


def test_clients_have_buckets_of_their_own_and_few_are_remembered() -> None:
    limits = Limits(None, rate=0.001, burst=1, seconds=1)  # type: ignore[arg-type]
    waits = [limits._waiting(f"10.0.{i // 256}.{i % 256}") for i in range(10_010)]
    assert set(waits) == {0}
    assert len(limits._buckets) == 10_000
    assert limits._waiting("10.0.39.25") > 900


def test_an_answer_that_takes_too_long_is_ended(copy: Path, serve, monkeypatch) -> None:
    from sa_nowcast.serving import edr

    asked = threading.Event()

    def slow(*given):
        asked.set()
        time.sleep(1.0)
        return {}

    monkeypatch.setattr(edr, "position", slow)
    with serve(copy, seconds=0.2) as ask:
        answer = ask("/edr/collections/forecast/position?coords=POINT(0%200)")
        assert asked.is_set()
        assert answer.status == 503
        assert answer.json["description"].startswith("No answer within 0.2 s")
        assert ask("/status").status == 200  # others are answered meanwhile


def test_no_other_page_may_show_this_one_and_it_asks_nobody_else(ask) -> None:
    for path in ("/", "/status", "/nowhere"):
        policy = ask(path).headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy


# --- addresses


def test_a_port_in_use_and_a_wrong_host_are_refused_in_one_line(folder: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            StorageError, match=rf"port {port}: cannot be bound \(Address already in use\), expected a free"
        ):
            serve(str(folder), port=port)
    for host in ("no such host", "192.0.2.1", "x" * 300):
        with pytest.raises(RecipeError, match=r"host.*Fix: pass host='127.0.0.1'"):
            serve(str(folder), host=host, port=0)
    with pytest.raises(RecipeError, match="port: 70000, expected 0 to 65535"):
        serve(str(folder), port=70000)
    with pytest.raises(RecipeError, match="rate: -1, expected 0 or more"):
        serve(str(folder), rate=-1)


def test_only_this_machine_is_answered_unless_told() -> None:
    with bind("127.0.0.1", 0) as bound:
        assert is_loopback(bound)
        assert address_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}/"
    with bind("0.0.0.0", 0) as bound:
        assert not is_loopback(bound)
    if socket.has_ipv6:
        with bind("::1", 0) as bound:
            assert address_of(bound).startswith("http://[::1]:")


def test_a_connection_that_says_nothing_is_ended(copy: Path, serve, monkeypatch) -> None:
    monkeypatch.setattr("sa_nowcast.serving.running._SILENT", 0.2)
    with serve(copy) as ask, socket.create_connection(("127.0.0.1", ask.port), timeout=10) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\n")
        assert silent.recv(100) == b""


def test_what_is_answered_is_json_without_nan(ask) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    for path in ("/status", "/forecasts", "/forecasts/latest", "/observed", "/edr", "/edr/collections"):
        json.loads(ask(path).body, parse_constant=refuse)
