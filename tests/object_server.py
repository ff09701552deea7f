"""An S3 server of its own process: moto's, with a delay, a count and faults that a test asks for.

Run as a program it serves until it is killed, and prints its address first; `ObjectServer` starts it and talks to it.
Buckets named ``private-*`` answer as those do that the caller may not read, and ``frankfurt-*`` as those of another
region than the default one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

CONTROL = "/_control"
_SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"


class Application:
    """What moto answers, after a delay and unless a fault was asked for; it counts reads by key."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.lock = inner, threading.Lock()
        self.counts: Counter[str] = Counter()
        self.asked: Counter[tuple[str, str | None]] = Counter()
        self.faults: dict[str, float] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == CONTROL:
            return self._control(environ, start_response)
        with self.lock:
            self.counts[f"{environ['REQUEST_METHOD']} {path}"] += 1
            # Each part of an object by itself: no order of concurrent requests has one of them refused at every retry.
            asked = path, environ.get("HTTP_RANGE")
            self.asked[asked] += 1
            every = self.faults.get("every", 0)
            throttled = self.faults.get("throttle", 0) > 0 or (every > 0 and self.asked[asked] % every == 1)
            if throttled:
                self.faults["throttle"] = self.faults.get("throttle", 0) - 1
        time.sleep(self.faults.get("delay", 0))
        if throttled:
            return _refusal(start_response, "503 Slow Down", "SlowDown", "Please reduce your request rate.")
        reading = environ["REQUEST_METHOD"] == "GET"
        if self.faults.get("fail"):
            return _refusal(start_response, "500 Internal Server Error", "InternalError", "We failed.")
        if path.startswith("/private-") or self.faults.get("refuse"):
            return _refusal(start_response, "403 Forbidden", "AccessDenied", "Access Denied")
        if reading and path.startswith("/frankfurt-") and "eu-central-1" not in environ.get("HTTP_AUTHORIZATION", ""):
            return _refusal(start_response, "301 Moved Permanently", "PermanentRedirect", "Use another endpoint.")
        if self.faults.get("distinct") and reading:
            distinct = int(self.faults["distinct"])
            kept = re.sub(r"/c/(\d+)/", lambda number: f"/c/{int(number[1]) % distinct}/", path)
            environ |= dict.fromkeys(("PATH_INFO", "RAW_URI", "REQUEST_URI"), kept)
        return self.inner(environ, start_response)

    def _control(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with self.lock:
            asked = urllib.parse.parse_qs(environ["QUERY_STRING"])
            self.faults |= {key: float(value[0]) for key, value in asked.items()}
            content = json.dumps(self.counts).encode()
            if asked:
                self.counts.clear()
                self.asked.clear()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
        return [content]


def _refusal(start_response: Any, status: str, code: str, message: str) -> list[bytes]:
    content = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))])
    return [content.encode()]


class ObjectServer:
    """The server as tests have it: its address, what it holds, what it counted, and its faults."""

    def __init__(self, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    @property
    def environment(self) -> dict[str, str]:
        """What the usual environment of a user of this server is."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "not-to-be-printed",
            "AWS_REGION": "us-east-1",
        }

    def put(self, folder: Path, bucket: str, key: str, *, public: bool = False) -> str:
        """Store a file, or a folder with all that is in it, and return its S3 address."""
        with contextlib.suppress(urllib.error.HTTPError):  # the bucket is there already
            self._send("PUT", bucket)
        files = [folder] if folder.is_file() else [f for f in folder.rglob("*") if f.is_file()]
        for file in files:
            inside = "" if folder.is_file() else f"/{file.relative_to(folder).as_posix()}"
            self._send("PUT", f"{bucket}/{key}{inside}", file.read_bytes(), public)
        return f"s3://{bucket}/{key}"

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""
        self._send("DELETE", f"{bucket}/{key}")

    def set(self, **faults: float) -> None:
        """Set ``delay`` (seconds), ``fail`` or ``refuse`` (1: every request), or what to throttle; counts begin anew.

        ``throttle``: so many requests; ``every``: of those for the same bytes the first, and every so many-th after it.
        ``distinct``: so many chunks of an array were stored, and are given for all others by their number modulo this.
        """
        self._send("GET", f"{CONTROL[1:]}?{urllib.parse.urlencode(faults or {'delay': 0})}")

    def reads(self) -> Counter[str]:
        """Return how often each object was asked for since `set`."""
        counts = json.loads(self._send("GET", CONTROL[1:]))
        return Counter({k.removeprefix("GET "): n for k, n in counts.items() if k.startswith("GET ")})

    def kill(self) -> None:
        """End it as a machine ends that loses power."""
        self.process.kill()
        self.process.wait()

    def _send(self, method: str, path: str, content: bytes | None = None, public: bool = False) -> bytes:
        request = urllib.request.Request(f"{self.url}/{path}", content, method=method)
        request.add_header("Content-Type", "application/octet-stream")
        request.add_header("x-amz-acl", "public-read" if public else "private")
        request.add_header("Authorization", _SIGNED)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: bytes = answer.read()
        return found


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections are kept, as S3 keeps them
    application: Any = Application(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", int(sys.argv[1]), application, threaded=True)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    os.close(1)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    parent = os.getppid()
    while os.getppid() == parent:  # not to outlive a test run that was killed
        time.sleep(1)


if __name__ == "__main__":
    main()
