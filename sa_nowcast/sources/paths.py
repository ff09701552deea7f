"""From what a user names (a file, a folder, a pattern, a list) to files and their times."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.storage.addresses import is_address, plain
from sa_nowcast.storage.manifest import is_store
from sa_nowcast.storage.references import files_behind
from sa_nowcast.storage.remote import stamp_of
from sa_nowcast.storage.whole import nearest_to

PathLike = str | os.PathLike[str]

# What strptime's fields look like in a name.
_FIELDS: Final = {
    "%Y": r"\d{4}", "%y": r"\d{2}", "%m": r"\d{2}", "%d": r"\d{2}", "%j": r"\d{3}",
    "%H": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}", "%f": r"\d{1,6}", "%%": "%",
}  # fmt: skip
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_HOUR, _SIXTY, _NUMBERED = r"(?:[01]\d|2[0-3])", r"[0-5]\d", r"(?:[0-2]\d\d|3[0-6]\d)"
_DATE = rf"{_YEAR}([-_.]?){_MONTH}\1{_DAY}"
# Times as names commonly hold them, from the finest: groups are the separators within the date, between date and
# clock, and within the clock.
_RECOGNISED: Final = (
    (
        (rf"{_DATE}([T_. -]?){_HOUR}([-_.:]?){_SIXTY}\3{_SIXTY}", "%Y{0}%m{0}%d{1}%H{2}%M{2}%S"),
        (rf"{_DATE}([T_. -]?){_HOUR}([-_.:]?){_SIXTY}", "%Y{0}%m{0}%d{1}%H{2}%M"),
        (rf"{_YEAR}{_NUMBERED}([T_.-]?){_HOUR}{_SIXTY}{_SIXTY}", "%Y%j{0}%H%M%S"),
        (rf"{_YEAR}{_NUMBERED}([T_.-]?){_HOUR}{_SIXTY}", "%Y%j{0}%H%M"),
    ),
    ((rf"{_DATE}(T?){_HOUR}", "%Y{0}%m{0}%d{1}%H"),),
    # Seconds since 1970, from 2001 to 2029: no date begins so.
    ((r"1[0-8]\d{8}", "unix"),),
    ((_DATE, "%Y{0}%m{0}%d"), (rf"{_YEAR}{_NUMBERED}", "%Y%j")),
)
UNIX: Final = "unix"
"""In place of a pattern: seconds since 1970-01-01."""


def stamp(source: PathLike | Iterable[PathLike]) -> str | None:
    """Return a digest of the names, sizes and times of change of the files that `source` names; nothing is read.

    Of a store at an address, it is of its objects. None where it names nothing.
    """
    try:
        if is_address(source):
            return hashlib.sha256(repr(stamp_of(source)).encode()).hexdigest()
        places = expand(source)
        files = [f for place in places for f in (sorted(place.rglob("*")) if place.is_dir() else [place])]
        files += [f for place in places for f in files_behind(place)]
        stats = [(str(f), f.stat()) for f in files if f.is_file()]
    except (DataError, OSError):
        return None
    told = [(name, s.st_size, s.st_mtime_ns) for name, s in stats]
    return hashlib.sha256(repr(told).encode()).hexdigest() if told else None


def expand(source: PathLike | Iterable[PathLike], suffixes: Sequence[str] = ()) -> list[Path]:
    """Return the files that `source` names, sorted by name, or refuse a source that names none.

    Each is a file, a Zarr store, a folder (searched in depth) or a pattern with ``*``, ``?`` or ``[``. In a folder,
    only files that end in one of `suffixes` count; all visible files where it is empty.
    """
    if not isinstance(source, str | os.PathLike):
        return [path for one in source for path in expand(one, suffixes)]
    if is_address(source):
        raise DataError(plain(source), "an address, among files", expected="paths, or the address of one Zarr store")
    text = os.path.expanduser(os.fspath(source))
    path = Path(text)
    if path.is_file() or is_store(path):
        return [path]
    if path.is_dir():
        found = [p for p in _walk(path) if is_store(p) or not suffixes or p.name.lower().endswith(tuple(suffixes))]
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
            fix=nearest_to(path) or f"name files that are there; relative paths start at {Path.cwd()}",
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the visible files and Zarr stores below a folder, sorted; what lies in a store is its own."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not is_store(path):
            yield from _walk(path)
        else:
            yield path


def time_from_name(path: Path, pattern: str) -> np.datetime64:
    """Read the time in a file's name, or refuse a name without one.

    `pattern` is the time's format as ``datetime.strptime`` takes it (``%Y%m%d%H%M``), found anywhere in the name; text
    around it (``AQC%y%j%H%M``) must match literally. With a ``/`` in it, the folders' names count too
    (``%Y/%m/%d/rain_%H%M``). ``unix``: seconds since 1970-01-01.
    """
    if pattern == UNIX:
        match = re.search(r"(?<!\d)\d{9,10}(?!\d)", path.name)
        if match is None:
            raise _no_time(path, pattern)
        return np.datetime64(int(match.group()) * 10**9, "ns")
    parts = re.split(r"(%[A-Za-z%])", pattern)
    unknown = [p for p in parts if p.startswith("%") and p not in _FIELDS]
    if unknown:
        raise RecipeError("time_pattern", f"{unknown[0]} in {pattern!r}", expected=f"only {' '.join(_FIELDS)}")
    if "%Y" not in parts and "%y" not in parts:
        raise RecipeError("time_pattern", f"no year in {pattern!r}", expected="one such as '%Y%m%d%H%M'")
    expression = "".join(_FIELDS[p] if p in _FIELDS else re.escape(p) for p in parts)
    name = path.as_posix() if "/" in pattern else path.name
    # Digits just outside the match would mean that the time was cut out of a longer number.
    match = re.search(rf"(?<!\d){expression}(?!\d)" if parts[0] == "" else rf"{expression}(?!\d)", name)
    if match is None:
        raise _no_time(path, pattern)
    try:
        return np.datetime64(datetime.strptime(match.group(), pattern), "ns")
    except ValueError as error:
        raise DataError(path.name, f"{match.group()} in the name is no time", expected=pattern) from error


def _no_time(path: Path, pattern: str) -> DataError:
    fix = pattern_remedy(path.name)
    return DataError(path.name, "no time in the file's name", expected=f"one such as {pattern}", fix=fix)


def recognised_pattern(name: str) -> str | None:
    """Return the pattern of the one date and time in a file's name; None where there is none, or more than one.

    Known are year, month, day or year and day of the year, then hour, minute and second, together or separated by
    ``-``, ``_``, ``.`` or ``T``; the date with the hour; seconds since 1970; and the date alone.
    """
    found, alone = _times_in(name)
    if not found:
        return None
    (pattern, text), *others = found
    # Beside a date alone, other numbers may well be the time of day.
    clock = alone and re.search(r"\d{4}", name.replace(text, ""))
    return None if others or clock else pattern


def pattern_remedy(name: str, *, asked: bool = False) -> str:
    """Return what to do about a name whose time was not recognised, or where a pattern has to be `asked` for."""
    found, _ = _times_in(name)
    if found:
        return f"time_pattern={found[0][0]!r} takes the first that the name holds"
    if asked:
        return "name the files by their times, as in rain_20240501_0005.nc, and give time_pattern='%Y%m%d_%H%M'"
    how = "as in rain_20240501_0005.tif, or give time_pattern= where they are named otherwise"
    return f"name the files by their times, {how}"


def _times_in(name: str) -> tuple[list[tuple[str, str]], bool]:
    """Return the times in a name, as patterns and texts, of the finest kind; and whether these are dates alone."""
    for rules in _RECOGNISED:
        found: dict[int, tuple[str, str]] = {}
        for expression, shape in rules:
            for match in re.finditer(rf"(?<!\d){expression}(?!\d)", name):
                pattern = shape.format(*match.groups())
                try:
                    time_from_name(Path(match.group()), pattern)
                except DataError:
                    continue  # a day that the month does not have
                found.setdefault(match.start(), (pattern, match.group()))
        if found:
            return list(dict.fromkeys(found[at] for at in sorted(found))), rules is _RECOGNISED[-1]
    return [], False


def times_from_names(paths: Sequence[Path]) -> list[np.datetime64] | None:
    """Return the times in the files' names, where all hold one by one recognised pattern; None elsewhere."""
    patterns = {recognised_pattern(path.name) for path in paths}
    pattern = patterns.pop()
    return None if patterns or pattern is None else [time_from_name(path, pattern) for path in paths]


def differs(path: Path, found: str, expected: str, first: Path) -> DataError:
    """Return the error about a file that lacks what all files of a sequence share."""
    fix = "open the files of each grid on their own"
    return DataError(str(path), found, expected=f"{expected} as in {first.name}", fix=fix)


def same_time(one: Path, other: Path, time: np.datetime64) -> DataError:
    """Return the error about a time that stands in two files."""
    found, where = f"both have the time {time.astype('datetime64[s]')!s}", f"{one.name} and {other.name}"
    return DataError(where, found, expected="each time in one file", fix="leave one of them out")


def sort_by_time(paths: Sequence[Path], times: Sequence[np.datetime64]) -> list[int]:
    """Return the order of the files in time, or refuse two files of one time."""
    order = sorted(range(len(paths)), key=lambda i: times[i])
    for before, after in itertools.pairwise(order):
        if times[before] == times[after]:
            raise same_time(paths[before], paths[after], times[before])
    return order
