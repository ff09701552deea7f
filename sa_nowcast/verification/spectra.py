"""Power by wavelength: the sums that spectra of forecasts and truth are made of."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sa_nowcast.verification.fields import Array, Fields, Mask, Sums

WAVELENGTH: Final = "wavelength"
LEAST_PRESENT: Final = 0.5
"""Of the pixels of a frame: one of which fewer are present has no spectrum."""


@dataclass(frozen=True)
class Rings:
    """The wavelengths by which the power of frames of one size is averaged.

    Wavenumber r, from 1 to that of two pixels, is r waves on the longer side, and holds the coefficients of the Fourier
    transform whose distance from the origin rounds to r. `spacing` is that of rows and of columns, in `units`: "km", or
    "1" where it is one pixel.
    """

    shape: tuple[int, int]
    spacing: tuple[float, float] = (1.0, 1.0)
    units: str = "1"

    @property
    def side(self) -> float:
        """The longer side."""
        return max(size * each for size, each in zip(self.shape, self.spacing, strict=True))

    @property
    def wavelengths(self) -> Array:
        """The wavelength of each ring, the longest first."""
        return np.asarray(self.side / np.arange(1, int(self.side / max(self.spacing) / 2 + 1e-6) + 1))

    def of(self, power: Array) -> Array:
        """Return the mean of `power`, as `numpy.fft.rfft2` orders coefficients, in each ring."""
        place, weights, number = _places(self)
        total = np.bincount(place, (power * weights).ravel(), number.size + 1)[1:]
        return np.asarray(total[: number.size] / number)


@functools.lru_cache(maxsize=4)
def _places(rings: Rings) -> tuple[npt.NDArray[np.intp], Array, Array]:
    """Return the ring of each coefficient of `rfft2` (0: none), how often it counts, and how many each ring has."""
    (height, length), (dy, dx) = rings.shape, rings.spacing
    along = np.hypot(np.fft.fftfreq(height, dy)[:, None], np.fft.rfftfreq(length, dx)) * rings.side
    # A half is rounded to the even number, whatever the rounding of its factors.
    place = np.round(along.round(9)).astype(np.intp).ravel()
    place[place > rings.wavelengths.size] = 0
    # The other half of the plane mirrors all columns but the first, and the last of an even number.
    weights = np.full(along.shape, 2.0)
    weights[:, 0] = 1.0
    if length % 2 == 0:
        weights[:, -1] = 1.0
    number = np.bincount(place, weights.ravel(), rings.wavelengths.size + 1)[1:]
    return place, weights, np.maximum(number, 1.0)


def power_terms(fields: Fields) -> Sums:
    """Return the power of the members (their mean) and of the truth by wavelength, and the frames that have some.

    The mean over the pixels present is taken from each field, and a missing pixel is then 0: the same in all.
    """
    rings = fields.settings.rings
    assert rings is not None
    shape = (*fields.truth.shape[:-2], rings.wavelengths.size)
    sums = {name: np.zeros(shape) for name in ("power", "power_truth", "spectra")}
    for index in np.ndindex(*fields.truth.shape[:-2]):
        mask = fields.mask[index]
        if mask.mean() < LEAST_PRESENT:
            continue
        sums["spectra"][index] = 1.0
        sums["power_truth"][index] = rings.of(_power(fields.truth[index], mask))
        for member in fields.members:
            sums["power"][index] += rings.of(_power(member[index], mask)) / len(fields.members)
    return sums


def _power(field: Array, mask: Mask) -> Array:
    """Return the squared modulus of the Fourier transform by the number of pixels, as pysteps' `rapsd` has it."""
    anomaly = np.where(mask, field - field.sum() / mask.sum(), 0.0)
    return np.asarray(np.abs(np.fft.rfft2(anomaly)) ** 2 / anomaly.size)
