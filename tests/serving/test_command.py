"""The command says where the page is, and ends when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal(tmp_path: Path, stop: signal.Signals) -> None:
    for name in ("service.json", "status.json"):
        (tmp_path / name).write_text(json.dumps({"name": "trial", "state": "waiting"}))
    command = [sys.executable, "-c", "from sa_nowcast.cli import main; main()", "serve", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        address = running.stderr.readline().strip()
        with urllib.request.urlopen(f"{address}service") as answer:
            assert json.load(answer)["name"] == "trial"
        began = time.monotonic()
        running.send_signal(stop)
        assert running.wait(30) == 0
        assert time.monotonic() - began < 10
        assert running.stderr.read() == ""
