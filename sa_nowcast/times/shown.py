"""Times and steps as text."""

from __future__ import annotations

import numpy as np


def show_time(time: np.datetime64) -> str:
    """Return a time as ISO 8601, to the minute where the seconds are zero."""
    text = str(time.astype("datetime64[ns]")).rstrip("0").rstrip(".")
    whole = str(time.astype("datetime64[s]"))
    if text.startswith(whole) and len(text) > len(whole):
        return text
    return whole[:-3] if whole.endswith(":00") else whole


def show_step(step: np.timedelta64) -> str:
    """Return a time step in the largest unit that holds it without a fraction: ``2 min``, ``3 h``, ``1 d``.

    What is no whole number of milliseconds is given in seconds with a fraction.
    """
    ns = int(step.astype("timedelta64[ns]").astype(np.int64))
    for unit, size in (("d", 86400 * 10**9), ("h", 3600 * 10**9), ("min", 60 * 10**9), ("s", 10**9), ("ms", 10**6)):
        if ns % size == 0 and ns != 0:
            return f"{ns // size} {unit}"
    return f"{ns / 10**9:.12g} s" if abs(ns) > 10**6 else f"{ns} ns"
