"""The package's errors, as one tree.

    SaNowcastError                     exit 70   raised as such: an internal fault, or another process is gone
    ├── RecipeError                    exit 2    the recipe, or an argument
    ├── MissingLibraryError            exit 2    an optional library is not installed
    ├── DataError                      exit 3    frames, times, units, grid, gaps, a damaged chunk
    ├── ModelError                     exit 4    the bundle or checkpoint: damaged, newer, for another grid
    ├── StorageError                   exit 5    full, read-only, locked by another writer
    └── Interrupted                    exit 75   stopped from outside; the run can be resumed

Every message is one line: ``KIND where: what was found, expected what. Fix: the remedy``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like a word; None where none is, by difflib's ratio of 0 to 1."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def one_of(word: str, known: Iterable[str]) -> str:
    """Return known names as an error prints them, the one that is most like a word first."""
    known = sorted(known)
    near, listed = nearest(word, known, 0.5), ", ".join(known)
    return f"{near!r}, the nearest of {listed}" if near else f"one of {listed}"


class SaNowcastError(Exception):
    """Base of every error that this package raises on purpose.

    Parameters
    ----------
    where : str
        The object at fault: a variable and time, a file, a recipe key, an argument.
    found : str
        What was found there, as a clause ("step is 4 min").
    expected : str, optional
        What was expected instead ("2 min").
    fix : str, optional
        What the user can do about it, as an instruction.
    """

    kind: ClassVar[str] = "ERROR"
    exit_code: ClassVar[int] = 70

    def __init__(self, where: str, found: str, expected: str | None = None, fix: str | None = None) -> None:
        self.where, self.found, self.expected, self.fix = where, found, expected, fix
        line = f"{self.kind} {where}: {found}"
        if expected is not None:
            line += f", expected {expected}"
        line = line.rstrip(".") + "."
        if fix is not None:
            line += f" Fix: {fix.rstrip('.')}."
        super().__init__(" ".join(line.split()))

    def as_dict(self) -> dict[str, str | int | None]:
        """Return the error as JSON can hold it: kind, where, found, expected, fix and exit_code."""
        return {
            "kind": self.kind,
            "where": self.where,
            "found": self.found,
            "expected": self.expected,
            "fix": self.fix,
            "exit_code": self.exit_code,
        }

    def __reduce__(self) -> tuple[type[SaNowcastError], tuple[str, str, str | None, str | None]]:
        # The default would re-create the error from its finished message; loader workers pickle errors.
        return type(self), (self.where, self.found, self.expected, self.fix)


class RecipeError(SaNowcastError, ValueError):
    """A recipe, or an argument of a call, is not valid."""

    kind = "RECIPE"
    exit_code = 2


class MissingLibraryError(SaNowcastError, ImportError):
    """An optional library is needed and is not installed; the message holds the install command."""

    kind = "INSTALL"
    exit_code = 2


class DataError(SaNowcastError, ValueError):
    """The data cannot be used as they are: times, units, grid, gaps, missing values, damaged chunks."""

    kind = "DATA"
    exit_code = 3


class ModelError(SaNowcastError, ValueError):
    """A model cannot be built, read or applied to these data."""

    kind = "MODEL"
    exit_code = 4


class StorageError(SaNowcastError):
    """An output cannot be written, or an input cannot be read from storage."""

    kind = "STORAGE"
    exit_code = 5


class Interrupted(SaNowcastError):
    """The run was stopped from outside; it was saved and can be resumed."""

    kind = "INTERRUPTED"
    exit_code = 75


class ForecastWarning(UserWarning):
    """Some forecasts were made by another method than the one that was asked for, or could not be made."""
