"""The install commands that are printed name what the extras need, and can be executed as they stand."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sa_nowcast
from sa_nowcast.computing import installing
from sa_nowcast.computing.installing import extras, install, pip_install, requirements
from sa_nowcast.errors import MissingLibraryError
from sa_nowcast.sources.reading import require

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FOR_USERS = sorted(set(DECLARED) - {"test", "lint", "docs"})


def named(lines: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Versions by normalised name."""
    found = [Requirement(line) for line in lines]
    return {re.sub("[-_.]+", "-", r.name).lower(): str(r.specifier) for r in found}


@pytest.mark.parametrize("extra", FOR_USERS)
def test_the_command_of_an_extra_names_its_libraries_and_not_this_package(extra: str) -> None:
    python, dash, pip, verb, *wanted = shlex.split(install(extra))
    assert (dash, pip, verb) == ("-m", "pip", "install")
    assert Path(python).name.startswith("python")
    assert wanted
    expected = DECLARED[extra]
    if extra == "all":
        (inner,) = (Requirement(line) for line in expected)
        expected = [line for name in inner.extras for line in DECLARED[name]]
    assert named(wanted) == named(expected)


def test_the_command_is_for_the_interpreter_that_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert install("plot").startswith("python -m pip install ")
    (tmp_path / "python").symlink_to(sys.executable)  # another environment's
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "python").chmod(0o755)
    assert shlex.split(install("plot"))[0] == sys.executable
    monkeypatch.setattr(sys, "executable", "/home/a b/bin/python")
    assert install("plot").startswith("'/home/a b/bin/python' -m pip install ")


def test_an_environment_without_pip_is_served_by_uv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "uv").write_text("#!/bin/sh\n")
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(installing.importlib.util, "find_spec", lambda name: None)
    assert shlex.split(install("maps"))[:5] == ["uv", "pip", "install", "--python", sys.executable]


def test_a_checkout_that_is_not_installed_gives_the_same_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {extra: named(requirements(extra)) for extra in FOR_USERS}

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", absent)
    assert {extra: named(requirements(extra)) for extra in FOR_USERS} == before
    assert set(extras()) == set(DECLARED)


def test_a_library_that_is_broken_is_installed_again_and_one_that_lacks_another_gets_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, body in {
        "broken_library": "raise ImportError('undefined symbol')",
        "lacking_library": "import library_that_is_absent",
    }.items():
        (tmp_path / f"{name}.py").write_text(body)
    with pytest.raises(MissingLibraryError) as broken:
        require("broken_library", "pysteps")
    assert broken.value.fix == pip_install("broken_library", "--force-reinstall", "--no-deps")
    with pytest.raises(MissingLibraryError, match="library_that_is_absent") as lacking:
        require("lacking_library", "pysteps")
    assert lacking.value.fix == install("pysteps")


def test_nothing_tells_people_to_install_this_package_from_an_index() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.yaml")]
    source = [*Path(sa_nowcast.__file__).parent.rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    # Of a folder of wheels and of a wheel by its path, the name of this package is right.
    wrong = re.compile(r"pip install(?![^\n]*(--no-index|sa-nowcast\[\w+\] @))[^\n]*\bsa-nowcast\b")
    assert [p.name for p in (*pages, *source) if wrong.search(p.read_text(encoding="utf-8"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("extra", FOR_USERS)
def test_pip_resolves_the_command_as_it_is_printed(extra: str) -> None:
    command = f"{install(extra)} --dry-run --quiet --disable-pip-version-check -c {ROOT / 'constraints.txt'}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    if done.returncode and re.search("connection|Could not find a version.*from versions: none", done.stderr, re.I):
        pytest.skip(f"no package index is reached from {socket.gethostname()!r}")
    assert done.returncode == 0, done.stderr
