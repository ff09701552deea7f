"""Every metric by name: what it needs, the sums over pixels that it is made of, and the formula over them.

The conventions are written out, with their sources, on the documentation page about metrics. A new metric is an entry
of `_ALL`, with a function for its sums where none of those here gives them.

Shapes: M members, I init times, V variables, L lead times, C channels, Y, X. The sums are shaped (I, V, L, C, ...), or
(I, V, L) where a frame is all its channels together. Sums of different pixels, times and archives can be added; nothing
in the first part divides a sum by a count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError, nearest
from sa_nowcast.metadata.bounds import UNIT_RANGE

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Sums = dict[str, Array]

SSIM_WINDOW: Final = 7
EVENT_DIMS: Final = {
    "threshold": {"long_name": "event threshold"},
    "neighbourhood": {"long_name": "width of the square neighbourhood in pixels", "units": "1"},
    "rank": {"long_name": "rank of the truth among the members", "units": "1"},
}
"""The dimensions that sums and scores can have besides those of the forecast, with their attributes."""
COUNTS: Final = {"pixels": "pixels scored", "frames": "frames scored", "ssim_frames": "frames scored by ssim"}
"""The sums that count what a score is a mean over, in words."""


@dataclass(frozen=True)
class Settings:
    """What the sums depend on besides the fields, in numbers of the data's units; see `sa_nowcast.verification.verify`.

    Events are values ``>=`` a threshold, both in float32; see :func:`limit`.
    """

    thresholds: tuple[float, ...] = ()
    neighbourhoods: tuple[int, ...] = (1,)
    data_range: tuple[float, float] = UNIT_RANGE
    clip: bool = False

    def labels(self, dim: str, members: int) -> npt.NDArray[Any]:
        """Return the coordinate of one of `EVENT_DIMS`, for an ensemble of so many members."""
        known = {"threshold": self.thresholds, "neighbourhood": self.neighbourhoods, "rank": range(members + 1)}
        return np.asarray(known[dim])


@dataclass(frozen=True)
class Fields:
    """One block of forecasts, (M, I, V, L, C, Y, X), with its truth, (I, V, L, C, Y, X).

    `mask` is True where all members and the truth (and the reference, where there is one) are present.
    """

    members: Array
    truth: Array
    mask: Mask
    settings: Settings = field(default_factory=Settings)

    @property
    def forecast(self) -> Array:
        """The one forecast of the deterministic metrics: the mean of the members, (I, V, L, C, Y, X)."""
        return np.asarray(self.members[0] if self.members.shape[0] == 1 else self.members.mean(axis=0))


# --- the sums


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
    """Hits, misses, false alarms and correct negatives per threshold, (I, V, L, C, threshold)."""
    tables = []
    forecast, truth = single(fields.forecast), single(fields.truth)
    for threshold in map(limit, fields.settings.thresholds):
        predicted, observed = (forecast >= threshold) & fields.mask, (truth >= threshold) & fields.mask
        hits, yes, seen = over_pixels(predicted & observed), over_pixels(predicted), over_pixels(observed)
        tables.append((hits, seen - hits, yes - hits, over_pixels(fields.mask) - yes - seen + hits))
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


@dataclass(frozen=True, eq=False)
class Reduction:
    """A function from fields to sums over pixels, and what it needs.

    `dims` are the further dimensions, of `EVENT_DIMS`, of those sums that have some: with "threshold" it needs
    thresholds. `data_range` says whether it needs that; `needs` returns an optional library or says what to install.
    """

    of: Callable[[Fields], Sums]
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data_range: bool = False
    needs: Callable[[], ModuleType] | None = None

    @property
    def thresholds(self) -> bool:
        """Whether it needs thresholds."""
        return any("threshold" in dims for dims in self.dims.values())


PIXELS: Final = Reduction(counts)
_ERRORS = Reduction(errors)
_EVENTS = Reduction(contingency, dict.fromkeys(("hits", "misses", "false_alarms", "correct_negatives"), ("threshold",)))
_FRACTIONS = Reduction(
    fractions, dict.fromkeys(("fss_difference", "fss_forecast", "fss_truth"), ("threshold", "neighbourhood"))
)
_FRAME_ERRORS = Reduction(frame_errors, data_range=True)
_PEAK_RATIOS = Reduction(peak_ratios, data_range=True)
_SIMILARITY = Reduction(similarity, data_range=True, needs=ssim_library)
_MEMBERS = Reduction(ensemble, {"rank_count": ("rank",)})


# --- the formulas

Formula = Callable[[xr.Dataset], xr.DataArray]


@dataclass(frozen=True)
class Metric:
    """A score as a formula over additive sums.

    Attributes
    ----------
    name : str
        The name of the variable in the scores.
    sums : Reduction
        The sums that it needs; they say whether it needs thresholds, a data range or a library.
    formula : callable
        Takes a Dataset of sums over a sample, and returns the score; NaN where the sample is empty.
    long_name, convention : str
        What it is, and how exactly it is computed.
    units : str
        Units as a function of the data's: "{}" stands for them.
    perfect : float or None
        The value of a perfect forecast; None where no skill is defined.
    count : str
        The sum that counts what the score is a mean over, of :data:`COUNTS`.
    ensemble : bool
        Whether it needs several members to say something.
    """

    name: str
    sums: Reduction
    formula: Formula
    long_name: str
    convention: str
    units: str = "1"
    perfect: float | None = 0.0
    count: str = "pixels"
    ensemble: bool = False

    def require(self, settings: Settings, members: int, units: str | None) -> None:
        """Raise RecipeError where thresholds or members that it needs are not there."""
        if self.sums.thresholds and not settings.thresholds:
            raise RecipeError(
                "thresholds",
                f"none are given for {self.name}",
                f"at least one in the data's units ({units or 'none stated'})",
                "thresholds=[1.0], with values that matter in your data",
            )
        if self.ensemble and members < 2:
            raise RecipeError("metrics", f"{self.name} of {members} member", "a forecast with several realizations")


def _ratio(top: xr.DataArray, bottom: xr.DataArray) -> xr.DataArray:
    return top / bottom.where(bottom > 0)


def _mean(sums: str, counts: str = "pixels") -> Formula:
    """Return the ratio of two totals, each of the sums of these names, apart by blanks."""

    def total(s: xr.Dataset, names: str) -> xr.DataArray:
        return reduce(add, (s[name] for name in names.split()))

    return lambda s: _ratio(total(s, sums), total(s, counts))


def _root_mean(name: str) -> Formula:
    return lambda s: _ratio(s[name], s["pixels"]) ** 0.5


def _crps(s: xr.Dataset, pairs: xr.DataArray) -> xr.DataArray:
    return _ratio(s["member_error"] - 0.5 * s["member_distance"] / pairs, s["pixels"])


def _spread_skill(s: xr.Dataset) -> xr.DataArray:
    return ((s["members"] + 1) / s["members"] * _ratio(s["variance"], s["squared_error"])) ** 0.5


_PIXELS = "mean over all pixels and frames present, in the data's units"
_EVENT = "event: value >= threshold; contingency sums pooled over the sample before dividing"
_WINDOW = (
    "event: value >= threshold; fractions in a square window, events outside the frame are none; the three terms are "
    "summed over the sample before dividing"
)
_FRAME = "summed over the channels and pixels of one frame with data_range scaled to [0, 1], then averaged over frames"
_SSIM = "7x7 uniform window, per frame and channel with data_range scaled to [0, 1], then averaged"
_PSNR = "per frame with data_range scaled to [0, 1], then averaged; infinite where a frame has no error"

_ALL: Final = (
    Metric("mse", _ERRORS, _mean("squared_error"), "mean squared error", _PIXELS, "({})2"),
    Metric("rmse", _ERRORS, _root_mean("squared_error"), "root mean squared error", "root of mse", "{}"),
    Metric("mae", _ERRORS, _mean("absolute_error"), "mean absolute error", _PIXELS, "{}"),
    Metric("mean_error", _ERRORS, _mean("error"), "mean error, forecast minus truth", _PIXELS, "{}", None),
    Metric("csi", _EVENTS, _mean("hits", "hits misses false_alarms"), "critical success index", _EVENT, "1", 1.0),
    Metric("pod", _EVENTS, _mean("hits", "hits misses"), "probability of detection", _EVENT, "1", 1.0),
    Metric("far", _EVENTS, _mean("false_alarms", "hits false_alarms"), "false alarm ratio", _EVENT),
    Metric("frequency_bias", _EVENTS, _mean("hits false_alarms", "hits misses"),
           "frequency bias, events forecast per event observed", _EVENT, "1", None),
    Metric("fss", _FRACTIONS, lambda s: 1.0 - _ratio(s["fss_difference"], s["fss_forecast"] + s["fss_truth"]),
           "fractions skill score", _WINDOW, "1", 1.0),
    Metric("frame_mse", _FRAME_ERRORS, _mean("frame_squared_error", "frames"),
           "squared error of a frame", _FRAME, count="frames"),
    Metric("frame_mae", _FRAME_ERRORS, _mean("frame_absolute_error", "frames"),
           "absolute error of a frame", _FRAME, count="frames"),
    Metric("ssim", _SIMILARITY, _mean("ssim", "ssim_frames"),
           "structural similarity", f"{_SSIM}; L = 1", "1", 1.0, "ssim_frames"),
    Metric("ssim_range2", _SIMILARITY, _mean("ssim_range2", "ssim_frames"), "structural similarity, L = 2",
           f"{_SSIM}; L = 2, which older scikit-image took for float frames", "1", 1.0, "ssim_frames"),
    Metric("ssim_uint8", _SIMILARITY, _mean("ssim_uint8", "ssim_frames"), "structural similarity of 8-bit frames",
           f"{_SSIM}; clipped, cut to 8 bits, L = 255", "1", 1.0, "ssim_frames"),
    Metric("psnr", _PEAK_RATIOS, _mean("psnr", "frames"), "peak signal-to-noise ratio", _PSNR, "dB", None, "frames"),
    Metric("psnr_uint8", _PEAK_RATIOS, _mean("psnr_uint8", "frames"), "peak signal-to-noise ratio of 8-bit frames",
           f"{_PSNR}; clipped, cut to 8 bits, subtracted as int32", "dB", None, "frames"),
    Metric("crps", _MEMBERS, lambda s: _crps(s, s["members"]), "continuous ranked probability score",
           "of the ensemble's empirical distribution; mean over all pixels and frames", "{}"),
    Metric("crps_fair", _MEMBERS, lambda s: _crps(s, s["members"] - 1), "fair continuous ranked probability score",
           "member distances divided by M (M - 1); mean over all pixels and frames", "{}", ensemble=True),
    Metric("spread", _MEMBERS, _root_mean("variance"), "ensemble spread",
           "root of the mean variance of the members (M - 1 in the denominator)", "{}", None, ensemble=True),
    Metric("spread_skill", _MEMBERS, _spread_skill, "spread-skill ratio",
           "sqrt((M + 1) / M * mean variance / squared error of the ensemble mean)", "1", None, ensemble=True),
    Metric("rank_histogram", _MEMBERS, _mean("rank_count"), "rank histogram",
           "share of pixels in which the truth has this rank among the members; ties shared out evenly",
           "1", None, ensemble=True),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}

GROUPS = {"ssim": ("ssim", "ssim_range2", "ssim_uint8"), "psnr": ("psnr", "psnr_uint8")}


def default_metrics(events: object) -> tuple[str, ...]:
    """Return the names of the metrics that are taken where none are named: mse, and csi where there are thresholds."""
    return ("mse", "csi") if events else ("mse",)


def plain_name(name: object) -> str:
    """Return a metric's name as :data:`METRICS` spells it: "CSI" is csi, and "frame-MSE" is frame_mse."""
    return "_".join(str(name).strip().lower().replace("-", "_").split())


def select_metrics(names: Iterable[str]) -> tuple[Metric, ...]:
    """Return the metrics of these names in any case, each once; "ssim" and "psnr" stand for all of their conventions.

    Raises
    ------
    RecipeError
        If a name is unknown; the line says the nearest known one.
    """
    if isinstance(names, str):
        names = (names,)
    chosen: dict[str, Metric] = {}
    for told in names:
        name = plain_name(told)
        if name not in METRICS:
            near = "mean_error or frequency_bias" if name == "bias" else nearest(name, METRICS)
            raise RecipeError("metrics", f"{told!r} is unknown", near or "one of " + ", ".join(sorted(METRICS)))
        for member in GROUPS.get(name, (name,)):
            chosen[member] = METRICS[member]
    if not chosen:
        raise RecipeError("metrics", "is empty", "at least one name")
    return tuple(chosen.values())
