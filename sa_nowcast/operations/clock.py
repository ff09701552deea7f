"""The clock of a service, and times as its files have them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from sa_nowcast.recipe.service import ClockRecipe

FOLDER: Final = "%Y%m%dT%H%M%SZ"
_SECOND: Final = 10**9


@dataclass(frozen=True)
class Clock:
    """A clock: the machine's, or of a replay one that began elsewhere and runs faster."""

    told: ClockRecipe | None = None

    def now(self) -> int:
        """Return the time in nanoseconds since 1970, UTC."""
        if self.told is None:
            return time.time_ns()
        began = pd.Timestamp(self.told.origin).as_unit("ns").value
        return int(began + (time.time() - self.told.began) * self.told.speed * _SECOND)


def moment(nanoseconds: int) -> np.datetime64:
    """Return a time as NumPy has it."""
    return np.datetime64(nanoseconds, "ns")


def ns(time: np.datetime64) -> int:
    """Return a time, or a duration, in nanoseconds."""
    kind = "M8[ns]" if isinstance(time, np.datetime64) else "m8[ns]"
    return int(time.astype(kind).astype(np.int64))


def iso(nanoseconds: int | None) -> str | None:
    """Return a time as ISO 8601 in UTC, in whole seconds where it has no fraction."""
    if nanoseconds is None:
        return None
    text = pd.Timestamp(nanoseconds, unit="ns").isoformat(timespec="milliseconds")
    return text.removesuffix(".000") + "Z"


def folder_name(init: int) -> str:
    """Return the name of the folder of a forecast."""
    return pd.Timestamp(init, unit="ns").strftime(FOLDER)


def init_of(name: str) -> int | None:
    """Return the init time that a folder is named by; None where the name is of another kind."""
    try:
        return int(pd.to_datetime(name, format=FOLDER).as_unit("ns").value)
    except ValueError:
        return None
