"""The state of a service as others read it: ``status.json``, Prometheus text, and a small server on the loopback."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from sa_nowcast.operations.site import LOOPBACK

STATUS: Final = "status.json"
LOG: Final = "log.jsonl"
STATES: Final = ("ok", "waiting", "late", "no data", "degraded", "stopped")
HEALTHY: Final = ("ok", "waiting", "late", "degraded")
_LARGEST_LOG: Final = 16 * 2**20


def memory_bytes() -> int | None:
    """Return the memory that this process has now; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return None


class Log:
    """One JSON line an event; a file that grows large gets the name of the former one."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._lock = threading.Lock()

    def tell(self, time: str | None, event: str, **more: Any) -> None:
        """Write a line."""
        line = json.dumps({"time": time, "event": event, **more}, ensure_ascii=False)
        with self._lock, contextlib.suppress(OSError):  # a full disk stops no service
            if self._path.exists() and self._path.stat().st_size > _LARGEST_LOG:
                self._path.replace(self._path.with_name("log.1.jsonl"))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def metrics_text(status: Mapping[str, Any]) -> str:
    """Return a status as Prometheus text (exposition format 0.0.4).

    Parameters
    ----------
    status : mapping
        What ``status.json`` holds.
    """
    lines: list[str] = []

    def add(name: str, kind: str, about: str, samples: Mapping[str, Any]) -> None:
        known = {labels: value for labels, value in samples.items() if isinstance(value, int | float)}
        if known:
            lines.extend((f"# HELP sa_nowcast_{name} {about}", f"# TYPE sa_nowcast_{name} {kind}"))
            lines.extend(f"sa_nowcast_{name}{labels} {float(value):.10g}" for labels, value in known.items())

    counts = status.get("counts", {})
    add("frame_age_seconds", "gauge", "Age of the newest frame.", {"": status.get("frame_age_seconds")})
    add("forecast_age_seconds", "gauge", "Age of the newest forecast.", {"": status.get("forecast_age_seconds")})
    durations = status.get("durations") or {}
    add(
        "duration_seconds",
        "gauge",
        "Durations of the last forecast.",
        {f'{{part="{k}"}}': v for k, v in durations.items()},
    )
    latency = status.get("latency") or {}
    add("latency_seconds", "gauge", "From a frame's last byte to its forecast.", {
        f'{{of="{k}"}}': v for k, v in latency.items()})  # fmt: skip
    for name in ("frames", "forecasts", "duplicate", "late", "converted", "expired"):
        add(f"{name}_total", "counter", f"Number of {name}.", {"": counts.get(name)})
    refused = counts.get("refused") or {}
    add("refused_total", "counter", "Frames refused.", {f'{{reason="{k}"}}': v for k, v in refused.items()})
    add("memory_bytes", "gauge", "Resident memory.", {"": status.get("memory_bytes")})
    add("state", "gauge", "1 for the state that it is in.", {
        f'{{state="{state}"}}': int(status.get("state") == state) for state in STATES})  # fmt: skip
    skill = {k: v for k, v in (status.get("skill") or {}).items() if k.startswith("skill_")}
    add(
        "skill",
        "gauge",
        "Skill of the last day.",
        {f'{{against="{k.removeprefix("skill_")}"}}': v for k, v in skill.items()},
    )
    return "\n".join(lines) + "\n"


class Server:
    """``/healthz`` and ``/metrics`` on the loopback address, in a thread of their own."""

    def __init__(self, port: int, status: Callable[[], Mapping[str, Any]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told = status()
                if self.path.split("?")[0] == "/healthz":
                    code = 200 if told.get("state") in HEALTHY else 503
                    self._send(code, "application/json", json.dumps(told))
                elif self.path.split("?")[0] == "/metrics":
                    self._send(200, "text/plain; version=0.0.4; charset=utf-8", metrics_text(told))
                else:
                    self._send(404, "text/plain; charset=utf-8", "see /healthz and /metrics\n")

            def _send(self, code: int, kind: str, text: str) -> None:
                content = text.encode()
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: requests are no events of the service."""

        self._server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
