"""Help with names that were not found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(given: str, known: Iterable[str]) -> str:
    """Return the known names as an error prints them, the nearest first."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    listed = ", ".join(names)
    return f"{close[0]!r}, the nearest of {listed}" if close else f"one of {listed}"
