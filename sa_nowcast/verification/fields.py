"""The sums over one frame that the metrics are made of, as functions of plain arrays.

Shapes: M members, I init times, V variables, L lead times, C channels, Y, X. A function takes a :class:`Fields`
and returns named sums over the pixels, shaped (I, V, L, C, ...), or (I, V, L, 1, ...) where a frame is all its
channels together. Sums of different pixels, times and archives can be added; nothing here divides a sum by a count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Sums = dict[str, Array]

SSIM_WINDOW = 7


@dataclass(frozen=True)
class Settings:
    """What the sums depend on besides the fields.

    Attributes
    ----------
    thresholds : tuple of float
        Events are values ``>=`` a threshold, both in float32; see :func:`limit`.
    neighbourhoods : tuple of int
        Odd widths of the square windows of the FSS, in pixels.
    data_range : tuple of float
        The physical values that stand for 0 and 1 in the metrics defined on [0, 1].
    clip : bool
        Whether the forecast is clipped to `data_range` for those metrics.
    """

    thresholds: tuple[float, ...] = ()
    neighbourhoods: tuple[int, ...] = (1,)
    data_range: tuple[float, float] = (0.0, 1.0)
    clip: bool = False


@dataclass(frozen=True)
class Fields:
    """One block of forecasts with its truth, and the pixels where both are present.

    Attributes
    ----------
    members : ndarray, (M, I, V, L, C, Y, X)
        The forecast; M is 1 where it is no ensemble.
    truth : ndarray, (I, V, L, C, Y, X)
    mask : ndarray of bool, (I, V, L, C, Y, X)
        True where all members and the truth (and the reference, where there is one) are present.
    """

    members: Array
    truth: Array
    mask: Mask
    settings: Settings = field(default_factory=Settings)

    @property
    def forecast(self) -> Array:
        """The one forecast of the deterministic metrics: the mean of the members, (I, V, L, C, Y, X)."""
        return np.asarray(self.members[0] if self.members.shape[0] == 1 else self.members.mean(axis=0))


def over_pixels(values: Array | Mask) -> Array:
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


def errors(fields: Fields) -> Sums:
    """Error, squared error and absolute error over the pixels present."""
    error = np.where(fields.mask, fields.forecast - fields.truth, 0.0)
    return {
        "error": over_pixels(error),
        "squared_error": over_pixels(error * error),
        "absolute_error": over_pixels(np.abs(error)),
    }


def contingency(fields: Fields) -> Sums:
    """Hits, misses, false alarms and correct negatives per threshold, (I, V, L, C, threshold)."""
    tables: dict[str, list[Array]] = {name: [] for name in ("hits", "misses", "false_alarms", "correct_negatives")}
    forecast, truth = single(fields.forecast), single(fields.truth)
    for threshold in map(limit, fields.settings.thresholds):
        predicted, observed = (forecast >= threshold) & fields.mask, (truth >= threshold) & fields.mask
        hits, yes, seen = over_pixels(predicted & observed), over_pixels(predicted), over_pixels(observed)
        tables["hits"].append(hits)
        tables["misses"].append(seen - hits)
        tables["false_alarms"].append(yes - hits)
        tables["correct_negatives"].append(over_pixels(fields.mask) - yes - seen + hits)
    return {name: np.stack(values, axis=-1) for name, values in tables.items()}


EXTRA_DIMS = {
    **dict.fromkeys(("hits", "misses", "false_alarms", "correct_negatives"), ("threshold",)),
    **dict.fromkeys(("fss_difference", "fss_forecast", "fss_truth"), ("threshold", "neighbourhood")),
    "rank_count": ("rank",),
}
FRAME_SUMS = ("frames", "frame_squared_error", "frame_absolute_error", "psnr", "psnr_uint8")


def to_unit_range(fields: Fields) -> tuple[Array, Array]:
    """Return forecast and truth on the scale on which `data_range` is [0, 1]; missing pixels are 0 in both.

    Raises
    ------
    DataError
        If the truth leaves the range.
    """
    low, high = fields.settings.data_range
    truth = single(fields.truth)
    inside = (truth >= limit(low)) & (truth <= limit(high, above=True)) | ~fields.mask
    if not inside.all():
        outside = float(fields.truth[~inside][0])
        raise DataError(
            "truth",
            f"a value is {outside:g}",
            f"{low:g} to {high:g}, the range that the per-frame metrics take as 0 to 1",
            "give data_range=(lowest, highest) in the data's units",
        )
    scale = 1.0 / (high - low)
    forecast = np.where(fields.mask, (fields.forecast - low) * scale, 0.0)
    if fields.settings.clip:
        forecast = np.clip(forecast, 0.0, 1.0)
    return forecast, np.where(fields.mask, (fields.truth - low) * scale, 0.0)


def _per_frame(sums: Array, mask: Mask) -> tuple[Array, Array, Array]:
    """Sum over channels, scale up what is missing, and say which frames are there: (I, V, L, 1) each."""
    whole = float(np.prod(mask.shape[-3:]))
    there = over_pixels(mask).sum(axis=-1, keepdims=True)
    frames = (there > 0).astype(np.float64)
    total = sums.sum(axis=-1, keepdims=True)
    return np.divide(total * whole, there, out=np.zeros_like(total), where=there > 0), frames, there


def frame_errors(fields: Fields) -> Sums:
    """Per-frame sums over C, Y, X on the [0, 1] scale, and the number of frames.

    A frame with missing pixels counts as if they had the mean error of the others; without any it is not counted.
    """
    forecast, truth = to_unit_range(fields)
    error = forecast - truth
    squared, frames, _ = _per_frame(over_pixels(error * error), fields.mask)
    absolute, _, _ = _per_frame(over_pixels(np.abs(error)), fields.mask)
    return {"frames": frames, "frame_squared_error": squared, "frame_absolute_error": absolute}


def _psnr(squared_error: Array, pixels: Array, peak: float) -> Array:
    mean = np.divide(squared_error, pixels, out=np.ones_like(squared_error), where=pixels > 0)
    with np.errstate(divide="ignore"):
        decibels = 10.0 * np.log10(peak**2 / mean)
    return np.where(pixels > 0, decibels, 0.0)


def to_bytes(values: Array) -> npt.NDArray[np.int32]:
    """Return [0, 1] values as 0..255, cut off as ``numpy.uint8`` does, in an integer type that does not wrap."""
    return (np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8).astype(np.int32)


def peak_ratios(fields: Fields) -> Sums:
    """Peak signal-to-noise ratios per frame in dB, summed over frames; on [0, 1] and on 8-bit data."""
    forecast, truth = to_unit_range(fields)
    there = over_pixels(fields.mask).sum(axis=-1, keepdims=True)
    error = forecast - truth
    bytes_error = (to_bytes(forecast) - to_bytes(truth)).astype(np.float64)
    return {
        "frames": (there > 0).astype(np.float64),
        "psnr": _psnr(over_pixels(error * error).sum(axis=-1, keepdims=True), there, 1.0),
        "psnr_uint8": _psnr(over_pixels(bytes_error * bytes_error).sum(axis=-1, keepdims=True), there, 255.0),
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
    """Sums over square windows around each pixel of a frame, by a summed-area table; outside the frame is 0.

    Parameters
    ----------
    values : ndarray of bool or int, (Y, X)
    widest : int
        The largest window width that will be asked for.
    """

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
    pixel that hold an event; pixels outside the frame and missing pixels hold none.
    """
    settings = fields.settings
    shape = (*fields.truth.shape[:-2], len(settings.thresholds), len(settings.neighbourhoods))
    sums = {name: np.zeros(shape) for name in ("fss_difference", "fss_forecast", "fss_truth")}
    forecast, truth, widest = single(fields.forecast), single(fields.truth), max(settings.neighbourhoods)
    for index in np.ndindex(*fields.truth.shape[:-2]):
        mask = fields.mask[index]
        for t, threshold in enumerate(map(limit, settings.thresholds)):
            yes, seen = (forecast[index] >= threshold) & mask, (truth[index] >= threshold) & mask
            if not (yes.any() or seen.any()):
                continue
            predicted, observed = WindowSums(yes, widest), WindowSums(seen, widest)
            for n, width in enumerate(settings.neighbourhoods):
                # Whole numbers up to 2**53 are exact in float64, so the order of summation cannot matter.
                p = np.multiply(predicted.of(width), mask, dtype=np.float64).ravel()
                o = np.multiply(observed.of(width), mask, dtype=np.float64).ravel()
                at, area = (*index, t, n), float(width) ** 4
                sums["fss_forecast"][at] = p @ p / area
                sums["fss_truth"][at] = o @ o / area
                p -= o
                sums["fss_difference"][at] = p @ p / area
    return sums


def ensemble(fields: Fields) -> Sums:
    """CRPS terms, variance and rank counts of the members over the pixels present.

    The rank of the truth among M members is 0..M; where members equal the truth, its count is shared out evenly over
    the ranks that it could have.
    """
    members, truth, mask = fields.members, fields.truth, fields.mask
    size = members.shape[0]
    ordered = np.sort(np.where(mask, members, 0.0), axis=0)
    observed = np.where(mask, truth, 0.0)
    weights = (2.0 * np.arange(1, size + 1) - size - 1).reshape(-1, *([1] * observed.ndim))
    below = (ordered < observed).sum(axis=0)
    upto = (ordered <= observed).sum(axis=0)
    share = mask / (upto - below + 1.0)
    ranks = [over_pixels(share * ((below <= rank) & (rank <= upto))) for rank in range(size + 1)]
    mean_error = np.where(mask, fields.forecast - observed, 0.0)
    variance = ordered.var(axis=0, ddof=1) if size > 1 else np.zeros_like(observed)
    return {
        "member_error": over_pixels(np.abs(ordered - observed).mean(axis=0)),
        "member_distance": over_pixels((weights * ordered).sum(axis=0) * (2.0 / size)),
        "variance": over_pixels(variance),
        "squared_error": over_pixels(mean_error * mean_error),
        "rank_count": np.stack(ranks, axis=-1),
    }


def counts(fields: Fields) -> Sums:
    """Count the pixels present."""
    return {"pixels": over_pixels(fields.mask)}


KINDS: dict[str, Callable[[Fields], Sums]] = {
    "counts": counts,
    "errors": errors,
    "contingency": contingency,
    "frame_errors": frame_errors,
    "peak_ratios": peak_ratios,
    "similarity": similarity,
    "fractions": fractions,
    "ensemble": ensemble,
}
