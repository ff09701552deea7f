"""What pysteps does with fields as bare arrays: motion, extrapolation and development, as far as the frames allow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sa_nowcast.computing import quiet
from sa_nowcast.computing.installing import install
from sa_nowcast.errors import MissingLibraryError

Array = npt.NDArray[np.float64]

# The values that pysteps' examples take for rain rates in mm h-1: the least rain, and what stands for less, in dB.
_LEAST_RAIN, LEAST_DECIBELS, _DRY_DECIBELS = 0.1, -10.0, -15.0
AUTOREGRESSION = 2


class Flow:
    """Motion, extrapolation and development of fields by pysteps, as far as the frames allow."""

    def __init__(self, rain: bool) -> None:
        self.rain, self.find = rain, _motion()
        self.advect = from_pysteps("pysteps.extrapolation.semilagrangian", "extrapolate")

    def varying(self, frames: Array) -> int:
        """Return how many successive frames up to the last one are there, hold rain where it is rain, and vary."""
        for count, frame in enumerate(frames[::-1]):
            there = frame[np.isfinite(frame)]
            if not there.size or there.min() == there.max() or (self.rain and there.max() < _LEAST_RAIN):
                return count
        return len(frames)

    def motion(self, frames: Array) -> Array:
        """Return the motion (2, y, x) that the frames show, in pixels a step; zero where they show none."""
        count = self.varying(frames)
        if count < 2:
            return np.zeros((2, *frames.shape[1:]))
        filled = np.nan_to_num(frames[-count:], nan=0.0 if self.rain else float(np.nanmin(frames)))
        return np.asarray(self.find(_to_decibels(filled) if self.rain else filled))

    def extrapolate(self, frames: Array, multiples: list[float]) -> Array:
        """Return the last frame moved along the motion, (lead_time, y, x)."""
        last = frames[-1]
        missing = bool(np.isnan(last).any())
        return np.asarray(self.advect(last, self.motion(frames), multiples, allow_nonfinite_values=missing))

    def develop(
        self, run: Callable[[Array, Array, list[float], int], Array], frames: Array, multiples: list[float]
    ) -> tuple[Array, str]:
        """Return `run` (decibels, motion, lead times, order) of the highest order that works, else the extrapolation.

        The result is (members, lead_time, y, x) in mm h-1, and how it was made where not by order 2.
        """
        count, decibels = self.varying(frames), _to_decibels(frames)
        for order in range(min(count - 1, AUTOREGRESSION), 0, -1):
            used = frames[-(order + 1) :]
            # What pysteps raises where a scale has no variance or no echo is left.
            with contextlib.suppress(np.linalg.LinAlgError, IndexError, ValueError):
                result = run(decibels[-(order + 1) :], self.motion(used), multiples, order)
                if self._reaches(result, used, multiples):
                    how = "" if order == AUTOREGRESSION else f"autoregression of order {order}"
                    return _from_decibels(result), how
        dry = not (decibels[-1] >= LEAST_DECIBELS).any()
        how = "" if dry else "extrapolation" if count > 1 else "persistence"
        return _from_decibels(_to_decibels(self.extrapolate(frames, multiples)))[None], how

    def _reaches(self, result: Array, frames: Array, multiples: list[float]) -> bool:
        """Say whether there are values at each lead time to which the motion leaves any."""
        there = np.isfinite(result).any(axis=(-2, -1))
        if there.all():
            return True
        left = np.isfinite(self.extrapolate(frames, multiples)).any(axis=(-2, -1))
        return bool((there | ~left).all())


def smoothed(fields: npt.NDArray[Any], widths: Sequence[float]) -> Array:
    """Return fields (..., lead_time, y, x) under a Gaussian of such a standard deviation in pixels at each lead time.

    What is missing, or beyond the grid, has no weight, and stays missing.
    """
    blur = from_pysteps("scipy.ndimage", "gaussian_filter")
    result = np.array(fields, dtype=np.float64)
    for index in np.ndindex(*result.shape[:-2]):
        if width := widths[index[-1]]:
            field, known = result[index], np.isfinite(result[index])
            total, weight = (
                blur(part, width, mode="constant") for part in (np.where(known, field, 0.0), known.astype(np.float64))
            )
            result[index] = np.divide(total, weight, out=np.full_like(field, np.nan), where=known)
    return result


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what pysteps prints to itself, and its warnings: what is wrong with a forecast is told, or NaN in it."""
    with (
        quiet.pysteps_silent(),
        np.errstate(divide="ignore", invalid="ignore"),
        # Too few features move to judge outliers by, as on a grid of some cells.
        quiet.warnings_ignored(UserWarning, "Singular matrix"),
        quiet.warnings_ignored(RuntimeWarning),
    ):
        yield


def from_pysteps(module: str, name: str) -> Callable[..., Any]:
    """Return what a module of pysteps holds, or of what it needs; a library that is not there is refused."""
    try:
        quiet.load("cv2")
        return getattr(quiet.load(module), name)  # type: ignore[no-any-return]
    except ImportError as error:
        raise MissingLibraryError(
            module.rpartition(".")[2], f"{error.name or error} is not installed", None, install("pysteps")
        ) from None


def require_pysteps() -> None:
    """Raise `MissingLibraryError` where what the forecasts of this file need is not installed."""
    _motion()


def _motion() -> Callable[..., Any]:
    return from_pysteps("pysteps.motion.lucaskanade", "dense_lucaskanade")


def _to_decibels(rain: Array) -> Array:
    decibels = np.where(rain >= _LEAST_RAIN, 10.0 * np.log10(np.maximum(rain, _LEAST_RAIN)), _DRY_DECIBELS)
    return np.where(np.isnan(rain), np.nan, decibels)


def _from_decibels(decibels: Array) -> Array:
    rain = decibels / 10.0
    np.power(10.0, rain, out=rain)  # in place: an ensemble of a large grid takes gigabytes
    rain[decibels < LEAST_DECIBELS] = 0.0
    return rain
