"""What a conversion will write: arrays, chunks, shards and sizes, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sa_nowcast.storage.shards import VariablePlan, size_text
from sa_nowcast.times import show_step, show_time


@dataclass(frozen=True)
class ConversionPlan:
    """What `convert` writes, or has written.

    Attributes
    ----------
    target : str
    variables : tuple of VariablePlan
        The variables that are written shard by shard; coordinates are written whole.
    times : ndarray
        The time axis.
    step : timedelta64 or None
        The cadence; None where times are irregular or there is one only.
    missing_times : ndarray
        Times of the cadence that the source does not have.
    fingerprint : str
        SHA-256 of everything but the data; a conversion is resumed where it is the same.
    stored_nbytes : int or None
        Bytes on disk; None before the conversion.
    """

    target: str
    variables: tuple[VariablePlan, ...]
    times: npt.NDArray[Any]
    step: np.timedelta64 | None
    missing_times: npt.NDArray[Any]
    fingerprint: str
    stored_nbytes: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all variables, not compressed."""
        return sum(v.nbytes for v in self.variables)

    @property
    def shards(self) -> int:
        """How many shards are written."""
        return sum(math.prod(v.grid) for v in self.variables)

    def as_dict(self) -> Mapping[str, Any]:
        """Return the plan as JSON can hold it."""
        return {
            "target": self.target,
            "fingerprint": self.fingerprint,
            "frames": len(self.times),
            "missing_times": len(self.missing_times),
            "nbytes": self.nbytes,
            "stored_nbytes": self.stored_nbytes,
            "variables": [
                {
                    "name": v.name, "dims": list(v.dims), "shape": list(v.shape), "dtype": str(v.dtype),
                    "chunks": list(v.chunks), "shards": list(v.shards), "nbytes": v.nbytes,
                }
                for v in self.variables
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        every = "" if self.step is None else f" every {show_step(self.step)}"
        line = f"{self.target}: {len(self.times)} frames{every}"
        if np.issubdtype(self.times.dtype, np.datetime64) and len(self.times):
            line += f", {show_time(self.times[0])} to {show_time(self.times[-1])}"
        line += f", {len(self.missing_times)} missing times"
        if self.stored_nbytes is not None:
            ratio = self.stored_nbytes / max(self.nbytes, 1)
            line += f"; {size_text(self.stored_nbytes)} on disk, {ratio:.2f} of the raw size"
        return "\n".join([line, *(f"  {v}" for v in self.variables)])
