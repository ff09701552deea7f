"""How a remedy is tried: the error is provoked, what it prints is done, and the same call is made again.

A scenario is a test that yields the call that fails, gets the printed remedy back, and does what it says. It may yield
a second call where the remedy is about the call itself; where it does not, the first is made again.
"""

from __future__ import annotations

import ast
import ctypes
import functools
import importlib.metadata
import inspect
import re
import resource
import shlex
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from packaging.requirements import Requirement

import sa_nowcast
from remedies.collector import PACKAGE, Site, matches, sites
from sa_nowcast import cli
from sa_nowcast.errors import SaNowcastError

Call = Callable[[], Any]
Scenario = Callable[..., Generator[Call, str, Any]]
TRIED: dict[Site, str] = {}
"""The sites that have a scenario, and its name."""
USERS_NAMES = {"np": np, "pd": pd, "xr": xr, "sa_nowcast": sa_nowcast}
PYTHON = re.compile(r"\bds\b|\bda\b|\w\(|\b\w+=(?!\S*\.)|\battrs\b|\.sel\b|\.isel\b|\[['\"]")


class Printed(Exception):
    """A command ended with an error; what it printed."""

    def __init__(self, printed: str, options: set[str]) -> None:
        line = printed.strip().splitlines()[-1]
        super().__init__(line)
        self.printed, self.fix, self.options = printed, remedy_of(line), options


def remedy_of(line: str) -> str:
    """Return what stands after ``Fix:`` in an error's line."""
    return line.partition(" Fix: ")[2].strip().rstrip(".")


def remedy(module: str, *texts: str, goes_on_to: type[SaNowcastError] | None = None) -> Callable[[Scenario], Call]:
    """Make a scenario the test of remedies of `module`; the error's has to be one of `texts` (a parameter chooses).

    Where `goes_on_to` is given, the second call gets past this error and ends with that one.
    """

    def wrap(scenario: Scenario) -> Call:
        for text in texts:
            TRIED[module, text] = scenario.__name__

        @functools.wraps(scenario)
        def test(*args: Any, **fixtures: Any) -> None:
            steps = scenario(*args, **fixtures)
            call = next(steps)
            fix, raised = _refused(call)
            assert any(matches(text, raised) for text in texts), f"{raised!r} is none of {texts}"
            _assert_from({m for text in texts for m in sites().get((module, text), ())}, raised)
            try:
                again = steps.send(fix)
            except StopIteration:
                again = call
            if goes_on_to is None:
                again()
            else:
                with pytest.raises(goes_on_to) as other:
                    again()
                assert other.value.fix != raised
            with pytest.raises(StopIteration):
                next(steps)

        # Without this pytest would look at the generator.
        del test.__wrapped__  # type: ignore[attr-defined]
        test.__signature__ = inspect.signature(scenario)  # type: ignore[attr-defined]
        return test

    return wrap


_made: list[tuple[str, set[str]]] = []


@contextmanager
def _watched() -> Iterator[None]:
    """Note where in the package each error is made."""
    made = SaNowcastError.__init__

    def note(self: SaNowcastError, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        if self.fix is not None:
            _made.append((remedy_of(str(self)), {frame.filename for frame in traceback.extract_stack(limit=12)}))

    _made.clear()
    SaNowcastError.__init__ = note  # type: ignore[method-assign]
    try:
        yield
    finally:
        SaNowcastError.__init__ = made  # type: ignore[method-assign]


def _refused(call: Call) -> tuple[str, str]:
    """Return the remedy as the user reads it, and as it was raised."""
    with _watched(), pytest.raises((SaNowcastError, Printed)) as caught:
        call()
    error = caught.value
    if isinstance(error, Printed):
        assert error.fix, error
        unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", error.fix)) - error.options
        assert not unknown, f"{unknown} is no option of this command: {error}"
        assert not PYTHON.search(error.fix), f"Python on the command line: {error}"
        # The command line makes the error again, with options in place of arguments.
        spelled = any(file.endswith("cli/remedies.py") for file in _made[-1][1])
        return error.fix, _made[-2 if spelled else -1][0]
    assert error.fix is not None, error
    fix = remedy_of(str(error))
    assert "--" not in fix or re.match("rio |.*sa-nowcast ", fix) or "sbatch" in fix, (
        f"an option of the command line in Python: {error}"
    )
    return fix, fix


def _assert_from(modules: set[str], fix: str) -> None:
    # An error from another process is made there, and only unpickled here.
    files = [f for found, f in _made if found == fix]
    assert not files or any(str(PACKAGE / m) in f for f in files for m in modules), f"not from {modules}"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Call:
    """Return a call of the command line in this process; it raises what the command prints, and returns its output."""

    def call() -> str:
        out, err = StringIO(), StringIO()
        with monkeypatch.context() as patch:
            patch.setenv("COLUMNS", "200")
            patch.setattr(sys, "argv", ["sa-nowcast", *map(str, arguments)])
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as ended:
                cli.main()
        if ended.value.code:
            raise Printed(err.getvalue(), _options(*map(str, arguments)))
        return out.getvalue()

    return call


def _options(*arguments: str) -> set[str]:
    import typer.main

    known: Any = typer.main.get_command(cli.app)
    commands = [known]
    for word in arguments:
        if word in getattr(known, "commands", {}):
            known = known.commands[word]
            commands.append(known)
    return {"--help"} | {o for each in commands for p in each.params for o in (*p.opts, *p.secondary_opts)}


@contextmanager
def full(size: int) -> Iterator[None]:
    """Let no file that this process writes grow beyond `size` bytes, as a quota does."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def without_privileges() -> Iterator[None]:
    """Take from this thread the superuser's right to read and write whatever the permissions say."""
    libc, header, data = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    effective = data[0]
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc.capset(header, data)
    try:
        yield
    finally:
        data[0] = effective
        libc.capset(header, data)


@contextmanager
def uninstalled(monkeypatch: pytest.MonkeyPatch, *libraries: str) -> Iterator[None]:
    """Let imports of `libraries` fail, as where they are not installed."""
    with monkeypatch.context() as patch:
        for name in [n for n in sys.modules if n.partition(".")[0] in libraries]:
            patch.delitem(sys.modules, name)
        for name in libraries:
            patch.setitem(sys.modules, name, None)
        yield


def assert_installs(fix: str, library: str) -> None:
    """Make sure that the command of a remedy would install `library`, in a version that this package asks for."""
    words = shlex.split(fix)
    assert words[words.index("install") - 1] == "pip", fix
    named = [Requirement(word) for word in words[words.index("install") + 1 :]]
    declared = {Requirement(r.partition(";")[0].strip()).name for r in importlib.metadata.requires("sa-nowcast") or ()}
    assert library in {one.name for one in named} <= declared, fix


def expression(fix: str) -> str:
    """Return the Python expression that a remedy begins with, or that follows a word such as `as` or `with`."""
    lead_in = re.finditer(r"(?:\b(?:in|as|with|by|use|pass|call)|:) ", fix)
    for start in (0, *(m.end() for m in lead_in)):
        for end in (len(fix), *(m.start() for m in reversed(list(re.finditer(r",? ", fix))))):
            if end > start:
                try:
                    tree = ast.parse(fix[start:end].strip(), mode="eval")
                except SyntaxError:
                    continue
                # A tuple is an expression and the words after it.
                if not isinstance(tree.body, ast.Tuple) and any(
                    isinstance(n, ast.Call | ast.Subscript) for n in ast.walk(tree)
                ):
                    return fix[start:end].strip()
    raise AssertionError(f"no Python in {fix!r}")


def value(fix: str, **names: Any) -> Any:
    """Evaluate the Python expression of a remedy, as a user would who has `names` in a session."""
    return eval(expression(fix), USERS_NAMES | names)


def keywords(fix: str) -> dict[str, Any]:
    """Return the arguments that a remedy names with their values, such as ``replace=True``."""
    found = re.findall(r"(?<![\w.])([a-z_]+)=('[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)|[\w.+-]*\w)", fix)
    return {name: ast.literal_eval(text) for name, text in found}


def flags(fix: str) -> list[str]:
    """Return the options of the command line that a remedy names, with the values it gives them."""
    return re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", fix)


def quoted(fix: str) -> str:
    """Return the word that a remedy quotes, such as in ``write 'l2'``."""
    found = re.search(r"'([^']*)'", fix)
    assert found, fix
    return found[1]


def as_path(text: str) -> Path:
    return Path(text.strip().strip("'"))
