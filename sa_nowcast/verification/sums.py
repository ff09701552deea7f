"""Sums over pixels that the scores of forecasts and events are made of; those of ensembles have a room of their own.

Shapes: M members, I init times, V variables, L lead times, C channels, Y, X. The sums are shaped (I, V, L, C, ...), or
(I, V, L) where a frame is all its channels together. Sums of different pixels, times and archives can be added; nothing
here divides a sum by a count.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError
from sa_nowcast.verification.fields import Array, Fields, Sums, limit, over_pixels, single

SSIM_WINDOW: Final = 7


def counts(fields: Fields) -> Sums:
    """Count the pixels present."""
    return {"pixels": over_pixels(fields.mask)}


def errors(fields: Fields) -> Sums:
    """Error, squared error and absolute error over the pixels present."""
    error = np.where(fields.mask, fields.forecast - fields.truth, 0.0)
    return {
        "error": over_pixels(error),
        "squared_error": over_pixels(error * error),
        "absolute_error": over_pixels(np.abs(error)),
    }


def contingency(fields: Fields) -> Sums:
    """Hits, misses, false alarms, correct negatives by threshold, (I, V, L, C, threshold): the mean over members."""
    tables = []
    size, pixels = len(fields.members), over_pixels(fields.mask)
    for threshold in fields.settings.thresholds:
        number, observed = fields.events(threshold)
        hits, yes, seen = over_pixels(number * observed) / size, over_pixels(number) / size, over_pixels(observed)
        tables.append((hits, seen - hits, yes - hits, pixels - yes - seen + hits))
    names = ("hits", "misses", "false_alarms", "correct_negatives")
    return {name: np.stack(values, axis=-1) for name, values in zip(names, zip(*tables, strict=True), strict=True)}


def to_unit_range(fields: Fields) -> tuple[Array, Array]:
    """Return forecast and truth on the scale on which `data_range` is [0, 1]; missing pixels are 0 in both."""
    low, high = fields.settings.data_range
    truth = single(fields.truth)
    inside = (truth >= limit(low)) & (truth <= limit(high, above=True)) | ~fields.mask
    if not inside.all():
        raise DataError(
            "truth",
            f"a value is {float(fields.truth[~inside][0]):g}",
            f"{low:g} to {high:g}, the range that the per-frame metrics take as 0 to 1",
            "give data_range=(lowest, highest) in the data's units",
        )
    scale = 1.0 / (high - low)
    forecast = np.where(fields.mask, (fields.forecast - low) * scale, 0.0)
    if fields.settings.clip:
        forecast = np.clip(forecast, 0.0, 1.0)
    return forecast, np.where(fields.mask, (fields.truth - low) * scale, 0.0)


def frame_errors(fields: Fields) -> Sums:
    """Per-frame sums over C, Y, X on the [0, 1] scale, and the number of frames.

    A frame with missing pixels counts as if they had the mean error of the others; without any it is not counted.
    """
    forecast, truth = to_unit_range(fields)
    error = forecast - truth
    whole = float(np.prod(fields.mask.shape[-3:]))
    there = over_pixels(fields.mask).sum(axis=-1)

    def scaled_up(sums: Array) -> Array:
        total = sums.sum(axis=-1)
        return np.asarray(np.divide(total * whole, there, out=np.zeros_like(total), where=there > 0))

    return {
        "frames": (there > 0).astype(np.float64),
        "frame_squared_error": scaled_up(over_pixels(error * error)),
        "frame_absolute_error": scaled_up(over_pixels(np.abs(error))),
    }


def to_bytes(values: Array) -> npt.NDArray[np.int32]:
    """Return [0, 1] values as 0..255, cut off as ``numpy.uint8`` does, in an integer type that does not wrap."""
    return (np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8).astype(np.int32)


def peak_ratios(fields: Fields) -> Sums:
    """Peak signal-to-noise ratios per frame in dB, summed over frames; on [0, 1] and on 8-bit data."""
    forecast, truth = to_unit_range(fields)
    there = over_pixels(fields.mask).sum(axis=-1)

    def decibels(error: Array, peak: float) -> Array:
        squared = over_pixels(error * error).sum(axis=-1)
        mean = np.divide(squared, there, out=np.ones_like(squared), where=there > 0)
        with np.errstate(divide="ignore"):
            return np.asarray(np.where(there > 0, 10.0 * np.log10(peak**2 / mean), 0.0))

    return {
        "frames": (there > 0).astype(np.float64),
        "psnr": decibels(forecast - truth, 1.0),
        "psnr_uint8": decibels((to_bytes(forecast) - to_bytes(truth)).astype(np.float64), 255.0),
    }


def ssim_library() -> ModuleType:
    """Return scikit-image's metrics, or say what to install."""
    try:
        from skimage import metrics
    except ImportError:
        raise MissingLibraryError("ssim", "scikit-image is not installed", None, install("verify")) from None
    return metrics


def similarity(fields: Fields) -> Sums:
    """Structural similarity per frame and channel under three conventions, summed over frames.

    A 7×7 uniform window by scikit-image; windows that touch a missing pixel or the edge are left out of the mean.
    """
    if min(fields.truth.shape[-2:]) < SSIM_WINDOW:
        raise DataError("ssim", f"frames are {fields.truth.shape[-2]} × {fields.truth.shape[-1]}", "7 × 7 or larger")
    metrics = ssim_library()
    forecast, truth = to_unit_range(fields)
    shape = truth.shape[:-2]
    names = ("ssim", "ssim_range2", "ssim_uint8")
    sums = {name: np.zeros(shape) for name in ("ssim_frames", *names)}
    pad = SSIM_WINDOW // 2
    for index in np.ndindex(*shape):
        whole = WindowSums(~fields.mask[index], SSIM_WINDOW).of(SSIM_WINDOW)[pad:-pad, pad:-pad] == 0
        if not whole.any():
            continue
        sums["ssim_frames"][index] = 1.0
        bytes_pair = to_bytes(forecast[index]).astype(np.uint8), to_bytes(truth[index]).astype(np.uint8)
        real_pair = forecast[index], truth[index]
        for name, (a, b), data_range in zip(names, (real_pair, real_pair, bytes_pair), (1, 2, 255), strict=True):
            _, full = metrics.structural_similarity(a, b, win_size=SSIM_WINDOW, data_range=data_range, full=True)
            sums[name][index] = float(full[pad:-pad, pad:-pad][whole].mean(dtype=np.float64))
    return sums


class WindowSums:
    """Sums over square windows up to `widest` around each pixel of a frame, by a summed-area table; outside it is 0."""

    def __init__(self, values: npt.NDArray[Any], widest: int) -> None:
        self._shape, self._half = values.shape, widest // 2
        padded = np.pad(values, [(self._half + 1, self._half)] * 2)
        self._table = padded.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)

    def of(self, width: int) -> npt.NDArray[np.int32]:
        """Return the sums over windows of odd `width`, (Y, X)."""
        half = width // 2
        height, length = self._shape
        high, low = self._half + 1 + half, self._half - half
        rows = self._table[high : high + height] - self._table[low : low + height]
        return np.asarray(rows[:, high : high + length] - rows[:, low : low + length])


def fractions(fields: Fields) -> Sums:
    """Return the three terms of the fractions skill score, (I, V, L, C, threshold, neighbourhood).

    Sums over the pixels present of (p - o)², p² and o², where p and o are the fractions of the window around the
    pixel that hold an event, p of all members; pixels outside the frame and missing pixels hold none.
    """
    settings, size = fields.settings, len(fields.members)
    shape = (*fields.truth.shape[:-2], len(settings.thresholds), len(settings.neighbourhoods))
    sums = {name: np.zeros(shape) for name in ("fss_difference", "fss_forecast", "fss_truth")}
    widest = max(settings.neighbourhoods)
    for t, threshold in enumerate(settings.thresholds):
        number, occurred = fields.events(threshold)
        for index in np.ndindex(*fields.truth.shape[:-2]):
            mask, yes, seen = fields.mask[index], number[index], occurred[index]
            if not (yes.any() or seen.any()):
                continue
            predicted, observed = WindowSums(yes, widest), WindowSums(seen, widest)
            for n, width in enumerate(settings.neighbourhoods):
                # Whole numbers up to 2**53 are exact in float64, so the order of summation cannot matter.
                p = np.multiply(predicted.of(width), mask, dtype=np.float64).ravel()
                o = np.multiply(observed.of(width), mask, dtype=np.float64).ravel() * size
                at, area = (*index, t, n), float(width) ** 4 * size**2
                sums["fss_forecast"][at] = p @ p / area
                sums["fss_truth"][at] = o @ o / area
                p -= o
                sums["fss_difference"][at] = p @ p / area
    return sums
