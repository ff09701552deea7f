"""The additive state of a verification: sums by init time and lead time, with a zero and a plus."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add

import numpy as np
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.verification.fields import Settings


@dataclass(frozen=True)
class Labels:
    """What the scores will say about themselves; the same in all states that are added.

    `units` are None where unknown or different by variable; `present` are the named dimensions of the forecast,
    `reference` and `label` the names of the reference and of the forecast variable, `members` the ensemble sizes (1:
    no ensemble), `channel_name` what the data call their channel dimension.
    """

    metrics: tuple[str, ...]
    units: str | None
    present: tuple[str, ...]
    reference: str | None
    label: str
    settings: Settings
    members: int = 1
    reference_members: int = 1
    channel_name: str = "channel"


@dataclass(frozen=True)
class Statistics:
    """Sums over pixels, kept by init time and lead time.

    States are added with ``+``: sums of the same init time, lead time, variable and channel are added, others are put
    side by side. So an archive can be split along init time or lead time, and verified in any order and on any
    machine; sums over pixels alone (not the FSS, SSIM and per-frame ones) can also be split in space.

    Attributes
    ----------
    forecast : Dataset
        The sums of the forecast, dims (init_time, variable, lead_time, channel, ...).
    reference : Dataset or None
        Those of the reference, on the same pixels.
    labels : Labels or None
        None for the zero.
    """

    forecast: xr.Dataset = field(default_factory=xr.Dataset)
    reference: xr.Dataset | None = None
    labels: Labels | None = None

    @classmethod
    def zero(cls) -> Statistics:
        """Return the state of nothing: adding it changes nothing."""
        return cls()

    @classmethod
    def total(cls, parts: Iterable[Statistics]) -> Statistics:
        """Return the sum of `parts`.

        Raises
        ------
        RecipeError
            If they are of different metrics, thresholds, units or references.
        """
        kept = [part for part in parts if part.labels is not None]
        if not kept:
            return cls.zero()
        first = kept[0]
        for part in kept[1:]:
            if part.labels != first.labels:
                raise RecipeError("statistics", f"made with {part.labels}", f"the same as the first, {first.labels}")
        forecast = _add_all([part.forecast for part in kept])
        references = [part.reference for part in kept if part.reference is not None]
        return replace(first, forecast=forecast, reference=_add_all(references) if references else None)

    def against(self, name: str, reference: Statistics, metrics: tuple[str, ...]) -> Statistics:
        """Return these sums beside those of another forecast, on the same pixels, for skills in some of the metrics.

        Raises
        ------
        RecipeError
            If one of the two is the zero.
        """
        if self.labels is None or reference.labels is None:
            raise RecipeError("statistics", "hold nothing", "those of at least one forecast")
        members = reference.labels.members
        labels = replace(self.labels, metrics=metrics, reference=name, reference_members=members)
        return replace(self, reference=reference.forecast, labels=labels)

    def __add__(self, other: Statistics) -> Statistics:
        if not isinstance(other, Statistics):
            return NotImplemented
        return self.total((self, other))


def _add_all(parts: list[xr.Dataset]) -> xr.Dataset:
    times = np.concatenate([part["init_time"].values for part in parts])
    alike = all(
        part.coords[dim].equals(parts[0].coords[dim]) for part in parts for dim in part.coords if dim != "init_time"
    )
    if alike and np.unique(times).size == times.size:
        joined = xr.concat(parts, dim="init_time", join="override", coords="minimal", compat="override")
        return joined.sortby("init_time")
    return reduce(add, xr.align(*parts, join="outer", fill_value=0.0))
