"""What a nowcaster was trained for, and so what it accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sa_nowcast.errors import ModelError
from sa_nowcast.frames import Frames


@dataclass(frozen=True)
class Terms:
    """What a nowcaster was trained for, and so what it accepts.

    Attributes
    ----------
    history, steps : int
        Frames that a forecast starts from, and lead times seen in training.
    step_ns : int
        Cadence in nanoseconds.
    channels : tuple of (str, str or None)
        Name and units of each channel.
    dy, dx : float or None
        Grid spacing; None where the training data had no coordinates.
    grid_units : str or None
    projection : mapping
        Parameters of the grid mapping; empty where there was none.
    """

    history: int
    steps: int
    step_ns: int
    channels: tuple[tuple[str, str | None], ...]
    dy: float | None
    dx: float | None
    grid_units: str | None
    projection: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, frames: Frames, history: int, steps: int) -> Terms:
        """Return the terms that training on `frames` sets."""
        grid = frames.grid
        return cls(
            history=history,
            steps=steps,
            step_ns=int(frames.step.astype("timedelta64[ns]").astype(np.int64)),
            channels=tuple((c.name, c.units) for c in frames.channels),
            dy=None if grid.dy is None else abs(grid.dy),
            dx=None if grid.dx is None else abs(grid.dx),
            grid_units=grid.units,
            projection=dict(grid.projection),
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Terms:
        """Read the fields as JSON holds them.

        Raises
        ------
        ModelError
            A field is missing, unknown or cannot be what it says.
        """
        try:
            channels = tuple((name, units) for name, units in fields["channels"])
            terms = cls(**{**fields, "channels": channels, "projection": dict(fields["projection"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError("terms", f"unreadable ({error})") from error
        for key in ("history", "steps", "step_ns"):
            value = getattr(terms, key)
            if type(value) is not int or value < 1:
                raise ModelError(f"terms.{key}", f"{value!r}", expected="a whole number of at least 1")
        for key in ("dy", "dx"):
            value = getattr(terms, key)
            if value is not None and not (type(value) in (int, float) and 0 < value < float("inf")):
                raise ModelError(f"terms.{key}", f"{value!r}", expected="a spacing above 0")
        texts = [terms.grid_units, *(text for pair in channels for text in pair), *terms.projection.values()]
        if not channels or not all(isinstance(t, str | None) for t in texts):
            raise ModelError("terms", "names and units that are no text")
        return terms

    @property
    def step(self) -> np.timedelta64:
        """The cadence."""
        return np.timedelta64(self.step_ns, "ns")
