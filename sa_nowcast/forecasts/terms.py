"""What a nowcaster was trained for, and so what it accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.frames import Frames, Grid
from sa_nowcast.metadata import dims
from sa_nowcast.times import show_step, tolerance

GRID_TOLERANCE = 0.01
"""Relative difference of grid spacing that still counts as the same grid (rounded coordinates differ by less)."""


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
        """Read the fields as JSON holds them; refuse what is missing, unknown or cannot be what it says."""
        try:
            channels = tuple((name, units) for name, units in fields["channels"])
            terms = cls(**{**fields, "channels": channels, "projection": dict(fields["projection"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError("terms", f"unreadable ({error})") from error
        for key in ("history", "steps", "step_ns"):
            value = getattr(terms, key)
            if type(value) is not int or not 1 <= value < 2**63:
                raise ModelError(f"terms.{key}", f"{value!r:.60}", expected="a whole number from 1 to 2**63 - 1")
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

    def require(self, frames: Frames, grid: str = "check") -> None:
        """Refuse frames of other channels, units, cadence or grid; `grid` is "any" where another grid is tried."""
        if grid not in ("check", "any"):
            raise RecipeError("grid", f"{grid!r}", expected="'check' or 'any'")
        found = [(c.name, c.units) for c in frames.channels]
        known = [name for name, _ in self.channels]
        if len(found) != len(known) or (len(found) > 1 and [n for n, _ in found] != known):
            raise ModelError(
                frames.name,
                f"channels {', '.join(n for n, _ in found)}",
                expected=", ".join(known),
                # Variables of a Dataset are selected by themselves.
                fix=f"ds.sel({frames.channel_dim}={known!r})"
                if {*known} <= {c.name for c in frames.channels}
                else "give the channels of training, by the same names",
            )
        for (name, units), (_, wanted) in zip(found, self.channels, strict=True):
            if wanted is not None and dims.canonical_units(units) != dims.canonical_units(wanted):
                shown = "no units" if units is None else f"units {units!r}"
                raise ModelError(
                    name,
                    shown,
                    expected=f"{wanted!r}, which the model was trained on",
                    fix=f"convert the values, and set the attribute units of {name} to {wanted!r}",
                )
        differences = np.diff(frames.times)
        if len(differences) and (abs(differences - self.step).astype(np.int64) > tolerance(self.step)).all():
            raise ModelError(
                f"{frames.name}, {frames.label(len(frames) - 1)}",
                f"step is {show_step(differences[-1])}",
                expected=f"{show_step(self.step)}, which the model was trained on",
                fix="resample in time, or train a model at this step",
            )
        if grid == "check":
            self._check_grid(frames)

    def _check_grid(self, frames: Frames) -> None:
        found = frames.grid
        units = [dims.canonical_units(u) for u in (found.units, self.grid_units) if u is not None]
        for ours, theirs in ((found.dy, self.dy), (found.dx, self.dx)):
            if ours is None or theirs is None:
                continue
            if len(set(units)) > 1 or abs(abs(ours) - theirs) > GRID_TOLERANCE * theirs:
                expected = Grid("y", "x", 0, 0, self.dy, self.dx, self.grid_units, {}).spacing()
                raise ModelError(
                    frames.name,
                    f"grid spacing {found.spacing()}",
                    expected=f"{expected}, as in training",
                    fix="regrid, train a model for this grid, or pass grid='any' to try it all the same",
                )
        if self.projection and found.projection and dict(self.projection) != dict(found.projection):
            keys = {*self.projection, *found.projection}
            key = sorted(k for k in keys if self.projection.get(k) != found.projection.get(k))[0]
            raise ModelError(
                frames.name,
                f"grid mapping with {key}={found.projection.get(key)}",
                expected=f"{key}={self.projection.get(key)}, as in training",
                fix="reproject, or pass grid='any'",
            )
