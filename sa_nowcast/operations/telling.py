"""What a service tells of itself while it runs: a log, and its state on a port of the loopback address."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from sa_nowcast.operations.checks import LOOPBACK
from sa_nowcast.published import LOG, is_well, prometheus

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


class Server:
    """``/healthz`` and ``/metrics`` on the loopback address, in a thread of their own."""

    def __init__(self, port: int, status: Callable[[], Mapping[str, Any]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told = status()
                if self.path.split("?")[0] == "/healthz":
                    code = 200 if is_well(told) else 503
                    self._send(code, "application/json", json.dumps(told))
                elif self.path.split("?")[0] == "/metrics":
                    self._send(200, "text/plain; version=0.0.4; charset=utf-8", prometheus(told))
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
