"""Blocks of forecasts with their truth, what their sums depend on, and what every sum over pixels is made with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.metadata.bounds import UNIT_RANGE
from sa_nowcast.verification.scales import LEAST_SHARE, Scale
from sa_nowcast.verification.spectra import WAVELENGTH, Rings

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Sums = dict[str, Array]

SCALE: Final = "scale"
EVENT_DIMS: Final = {
    SCALE: {"long_name": "what a value is the mean over: an area, a time, or one pixel"},
    "threshold": {"long_name": "event threshold"},
    "neighbourhood": {"long_name": "width of the square neighbourhood in pixels", "units": "1"},
    "rank": {"long_name": "rank of the truth among the members", "units": "1"},
    "probability": {"long_name": "forecast probability, the share of members with an event", "units": "1"},
    "cost_loss": {"long_name": "ratio of the cost of protection to the loss that it prevents", "units": "1"},
    "spread_bin": {
        "long_name": "pixels by spread: 0 without any, the others of equal numbers, ascending",
        "units": "1",
    },
    WAVELENGTH: {"long_name": "wavelength"},
}
"""The dimensions that sums and scores can have besides those of the forecast, with their attributes."""
DIAGRAM_DIMS: Final = ("rank", "probability", "cost_loss", "spread_bin", WAVELENGTH)
"""Those along which a score is a diagram at each lead time."""
SPREAD_CLASSES: Final = 193
"""Classes of the spread that sums are kept by: none, then four to each doubling from 2^-30 to 2^18 of the units."""


@dataclass(frozen=True)
class Settings:
    """What the sums depend on besides the fields, in numbers of the data's units; see `sa_nowcast.verification.verify`.

    Events are values ``>=`` a threshold, both in float32; see :func:`limit`.
    """

    thresholds: tuple[float, ...] = ()
    neighbourhoods: tuple[int, ...] = (1,)
    data_range: tuple[float, float] = UNIT_RANGE
    clip: bool = False
    scales: tuple[Scale, ...] = ()
    rings: Rings | None = None

    def labels(self, dim: str, members: int) -> npt.NDArray[Any]:
        """Return the coordinate of one of `EVENT_DIMS` that sums have, for an ensemble of so many members."""
        known = {
            "threshold": self.thresholds,
            "neighbourhood": self.neighbourhoods,
            "rank": range(members + 1),
            "probability": np.arange(members + 1) / members,
            "spread_class": range(SPREAD_CLASSES),
            WAVELENGTH: () if self.rings is None else self.rings.wavelengths,
        }
        return np.asarray(known[dim])


@dataclass(frozen=True)
class Fields:
    """One block of forecasts, (M, I, V, L, C, Y, X), with its truth, (I, V, L, C, Y, X).

    `mask` is True where all members and the truth (and the reference, where there is one) are present; elsewhere both
    are 0. `keys` are numbers for the places along each axis of the truth, by which draws at a pixel are seeded: the
    same for the same init time, lead time and pixel however an archive is cut into blocks.
    """

    members: Array
    truth: Array
    mask: Mask
    settings: Settings = field(default_factory=Settings)
    keys: tuple[npt.NDArray[np.uint64], ...] = ()

    @cached_property
    def forecast(self) -> Array:
        """The one forecast of the metrics of errors: the mean of the members, (I, V, L, C, Y, X)."""
        return np.asarray(self.members[0] if len(self.members) == 1 else self.members.mean(axis=0))

    @cached_property
    def ordered(self) -> Array:
        """The members in ascending order at each pixel, (M, I, V, L, C, Y, X)."""
        return self.members if len(self.members) == 1 else np.sort(self.members, axis=0)

    @cached_property
    def _compared(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        return single(self.members), single(self.truth)

    def events(self, threshold: float) -> tuple[npt.NDArray[np.int32], Mask]:
        """Return how many members have an event, and whether the truth has one; none where a pixel is missing."""
        members, truth = self._compared
        least = limit(threshold)
        number = np.zeros(self.mask.shape, dtype=np.int32)
        for member in members:
            number += (member >= least) & self.mask
        return number, (truth >= least) & self.mask

    def over_areas(self, scale: Scale) -> Fields:
        """Return the means over the areas of a scale, from the first row and column on.

        An area is missing where fewer than `LEAST_SHARE` of its pixels are present; the means are over those present.
        What is left at the far edges, narrower than an area, takes no part.
        """
        if not scale.is_area:
            return self
        rows, columns = (size // each for size, each in zip(self.mask.shape[-2:], scale.area, strict=True))

        def sums(values: npt.NDArray[Any]) -> Array:
            cut = values[..., : rows * scale.rows, : columns * scale.columns]
            parts = cut.reshape(*cut.shape[:-2], rows, scale.rows, columns, scale.columns)
            return over_pixels(np.moveaxis(parts, -3, -2))

        number = sums(self.mask)
        mask = number >= max(1.0, LEAST_SHARE * scale.rows * scale.columns)
        divisor = np.where(mask, number, 1.0)
        members = np.stack([np.where(mask, sums(member) / divisor, 0.0) for member in self.members])
        truth = np.where(mask, sums(self.truth) / divisor, 0.0)
        *others, y, x = self.keys or (np.zeros(0, dtype=np.uint64),) * 2
        keys = (*others, y[:: scale.rows][:rows], x[:: scale.columns][:columns])
        return Fields(members, truth, mask, self.settings, keys)


def over_pixels(values: npt.NDArray[Any]) -> Array:
    """Sum over the last two axes, each frame by itself, so that the result does not depend on the blocks."""
    flat = np.ascontiguousarray(values).reshape(*values.shape[:-2], -1)
    return np.asarray(flat.sum(axis=-1, dtype=np.float64))


def single(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return values as float32, in which they are compared with thresholds."""
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float32)


def limit(value: float, *, above: bool = False) -> np.float32:
    """Return what a float32 has to be at least (`above`: at most) to count as at `value` or beyond it.

    It is two units in the last place off: a value that is the threshold in decimals is at it, whether it was stored as
    0.3, unpacked in float64 as 3 * 0.1, or unpacked in float32 as 30 * 0.01, which is below 0.3.
    """
    near = np.float32(value)
    slack = 2 * np.spacing(np.abs(near))
    return np.float32(near + slack if above else near - slack)


def ratio(top: xr.DataArray, bottom: xr.DataArray) -> xr.DataArray:
    """Return the ratio of two totals; NaN where the lower one is not above zero."""
    return top / bottom.where(bottom > 0)
