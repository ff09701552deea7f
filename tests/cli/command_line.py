"""How the tests of the command line call it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sa_nowcast import cli

PROGRAM = [sys.executable, "-c", "from sa_nowcast.cli import main; main()"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "60", **more}


def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False, env=environment(**more))


def in_process(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line here, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["sa-nowcast", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


class Here:
    """The command line, called in this process; `code`, `out` and `err` of the last call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd
        monkeypatch.setenv("COLUMNS", "200")

    def __call__(self, *arguments: object) -> Here:
        self.capfd.readouterr()
        self.code = in_process(self.monkeypatch, *map(str, arguments))
        self.out, self.err = self.capfd.readouterr()
        return self

    def fails(self, code: int, line: str, *arguments: object) -> None:
        """Call, and expect nothing on standard output and one line on standard error."""
        self(*arguments)
        assert (self.code, self.out) == (code, ""), self.err
        (said,) = self.err.splitlines()
        assert line in said
