"""From what a user names (a file, a folder, a pattern, a list) to files and their times."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import DataError, RecipeError

PathLike = str | os.PathLike[str]
Times = npt.NDArray[np.datetime64]

# What strptime's fields look like in a name.
_FIELDS: Final = {
    "%Y": r"\d{4}", "%y": r"\d{2}", "%m": r"\d{2}", "%d": r"\d{2}", "%j": r"\d{3}",
    "%H": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}", "%%": "%",
}  # fmt: skip


def is_zarr(path: PathLike) -> bool:
    """Say whether `path` is the root of a Zarr store of format 2 or 3."""
    root = Path(path)
    return any((root / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata", ".zattrs"))


def stamp(source: PathLike | Iterable[PathLike]) -> str | None:
    """Return a digest of the names, sizes and times of change of the files that `source` names; nothing is read.

    None where it names no local files, as an address does.
    """
    try:
        places = expand(source)
        files = [f for place in places for f in (sorted(place.rglob("*")) if place.is_dir() else [place])]
        stats = [(str(f), f.stat()) for f in files if f.is_file()]
    except (DataError, OSError):
        return None
    told = [(name, s.st_size, s.st_mtime_ns) for name, s in stats]
    return hashlib.sha256(repr(told).encode()).hexdigest() if told else None


def expand(source: PathLike | Iterable[PathLike], suffixes: Sequence[str] = ()) -> list[Path]:
    """Return the files that `source` names, sorted by name.

    Parameters
    ----------
    source : path or iterable of paths
        A file, a Zarr store, a folder (searched in depth), a pattern with ``*``, ``?`` or ``[``, or several of these.
    suffixes : sequence of str
        In a folder, only files that end in one of these; all visible files where empty.

    Raises
    ------
    DataError
        Nothing is there.
    """
    if not isinstance(source, str | os.PathLike):
        return [path for one in source for path in expand(one, suffixes)]
    text = os.path.expanduser(os.fspath(source))
    path = Path(text)
    if path.is_file() or is_zarr(path):
        return [path]
    if path.is_dir():
        found = [p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith(".")]
        if suffixes:
            found = [p for p in found if p.name.lower().endswith(tuple(suffixes))]
        if not found:
            kind = f"no file that ends in {' or '.join(suffixes)}" if suffixes else "no file"
            raise DataError(text, f"the folder holds {kind}")
        return found
    found = [Path(p) for p in sorted(glob.glob(text, recursive=True))]
    if not found:
        pattern = any(c in text for c in "*?[")
        raise DataError(
            text,
            "no file matches the pattern" if pattern else "no such file or folder",
            fix="check the path; relative ones start at the working directory",
        )
    return found


def time_from_name(path: Path, pattern: str) -> np.datetime64:
    """Read the time in a file's name.

    Parameters
    ----------
    path : Path
    pattern : str
        The time's format as ``datetime.strptime`` takes it (``%Y%m%d%H%M``), found anywhere in the name; text around
        it (``AQC%y%j%H%M``) must match literally.

    Raises
    ------
    DataError
        The name holds no such time.
    """
    parts = re.split(r"(%[A-Za-z%])", pattern)
    unknown = [p for p in parts if p.startswith("%") and p not in _FIELDS]
    if unknown:
        raise RecipeError("time_pattern", f"{unknown[0]} in {pattern!r}", expected=f"only {' '.join(_FIELDS)}")
    expression = "".join(_FIELDS[p] if p in _FIELDS else re.escape(p) for p in parts)
    # Digits just outside the match would mean that the time was cut out of a longer number.
    match = re.search(rf"(?<!\d){expression}(?!\d)" if parts[0] == "" else rf"{expression}(?!\d)", path.name)
    if match is None:
        raise DataError(
            path.name, "no time in the file's name", expected=f"one such as {pattern}", fix="give time_pattern"
        )
    try:
        return np.datetime64(datetime.strptime(match.group(), pattern), "ns")
    except ValueError as error:
        raise DataError(path.name, f"{match.group()} in the name is no time", expected=pattern) from error


def sort_by_time(paths: Sequence[Path], times: Sequence[np.datetime64]) -> list[int]:
    """Return the order of the files in time.

    Raises
    ------
    DataError
        Two files have one time; both are named.
    """
    order = sorted(range(len(paths)), key=lambda i: times[i])
    for before, after in itertools.pairwise(order):
        if times[before] == times[after]:
            raise DataError(
                f"{paths[before].name} and {paths[after].name}",
                f"both have the time {times[before].astype('datetime64[s]')!s}",
                expected="one file for each time",
                fix="leave one of them out",
            )
    return order
