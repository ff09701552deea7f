"""The command that installs an optional library, however this package itself was installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

from sa_nowcast.errors import MissingLibraryError

PACKAGE = "sa-nowcast"


def install(extra: str) -> str:
    """Return the command that installs what `extra` of this package needs.

    It names the libraries and not the extra: they are on the package index, while this package may have come from a
    checkout or a wheel that is no longer there.

    Parameters
    ----------
    extra : str
        Such as ``"plot"``, as in ``pyproject.toml``.

    Returns
    -------
    str
        Such as ``python -m pip install "matplotlib>=3.9"``, for the interpreter that runs.
    """
    return pip_install(*requirements(extra))


def require_training() -> None:
    """Raise a MissingLibraryError where the extra ``train`` is not installed; nothing is imported for it."""
    if importlib.util.find_spec("lightning") is None:
        raise MissingLibraryError("lightning", "is not installed, and training runs on it", fix=install("train"))


def pip_install(*wanted: str) -> str:
    """Return the command that installs the requirements `wanted` (PEP 508), for the interpreter that runs."""
    # In quotes where a shell would read a redirection or a pattern.
    quoted = " ".join(line if re.fullmatch(r"[\w.-]+", line) else f'"{line}"' for line in wanted)
    return f"{_installer()} {quoted}"


def requirements(extra: str) -> tuple[str, ...]:
    """Return the requirements of an extra, without those that this package always has.

    Returns
    -------
    tuple of str
        Such as ``("matplotlib>=3.9",)``; empty for an extra that is not known.
    """
    # Comes with xarray; not needed until something is missing.
    from packaging.requirements import Requirement

    found: dict[str, None] = {}
    for line in _declared().get(extra, []):
        one = Requirement(line)
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        one.marker = None
        if one.name == PACKAGE:  # an extra of extras
            found.update(dict.fromkeys(part for name in sorted(one.extras) for part in requirements(name)))
        else:
            found[str(one)] = None
    return tuple(found)


def extras() -> tuple[str, ...]:
    """Return the names of all extras."""
    return tuple(sorted(_declared()))


def _declared() -> dict[str, list[str]]:
    """Return the requirements by extra: of the package as it was installed, else of the checkout that is imported."""
    try:
        of_package = importlib.metadata.metadata(PACKAGE)
        needs = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        if not project.is_file():
            return {}
        declared: dict[str, list[str]] = tomllib.loads(project.read_text("utf-8"))["project"]["optional-dependencies"]
        return declared
    names = of_package.get_all("Provides-Extra") or []
    return {name: [line for line in needs if "extra" in line.partition(";")[2]] for name in names}


def _installer() -> str:
    """Return pip of the interpreter that runs; of an environment without pip, uv where it is there."""
    found = shutil.which("python")
    # By folder: the interpreters of several virtual environments may be links to one file.
    same = found is not None and Path(found).absolute().parent == Path(sys.executable).absolute().parent
    python = "python" if same or not sys.executable else shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is None and shutil.which("uv") is not None:
        return f"uv pip install --python {python}"
    return f"{python} -m pip install"
