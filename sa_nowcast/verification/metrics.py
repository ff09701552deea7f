"""Every metric by name: what it needs, the sums over pixels that it is made of, and the formula over them.

The conventions are written out, with their sources, on the documentation page about metrics. A new metric is an entry
of `_ALL`, with a function for its sums where none of the rooms of sums gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from types import ModuleType
from typing import Final

import xarray as xr

from sa_nowcast.errors import RecipeError, nearest
from sa_nowcast.verification import ensembles, spectra
from sa_nowcast.verification import sums as pixels
from sa_nowcast.verification.fields import Fields, Settings, Sums, ratio

COUNTS: Final = {
    "pixels": "pixels scored",
    "frames": "frames scored",
    "ssim_frames": "frames scored by ssim",
    "spectra": "frames with a spectrum",
}
"""The sums that count what a score is a mean over, in words."""


@dataclass(frozen=True, eq=False)
class Reduction:
    """A function from fields to sums over pixels, and what it needs.

    `dims` are the further dimensions, of `EVENT_DIMS`, of those sums that have some: with "threshold" it needs
    thresholds. `data_range` says whether it needs that; `needs` returns an optional library or says what to install.
    `areas` says whether it is taken of means over areas too.
    """

    of: Callable[[Fields], Sums]
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data_range: bool = False
    needs: Callable[[], ModuleType] | None = None
    areas: bool = True

    @property
    def thresholds(self) -> bool:
        """Whether it needs thresholds."""
        return any("threshold" in dims for dims in self.dims.values())


PIXELS: Final = Reduction(pixels.counts)
_ERRORS = Reduction(pixels.errors)
_EVENTS = Reduction(
    pixels.contingency, dict.fromkeys(("hits", "misses", "false_alarms", "correct_negatives"), ("threshold",))
)
_FRACTIONS = Reduction(
    pixels.fractions, dict.fromkeys(("fss_difference", "fss_forecast", "fss_truth"), ("threshold", "neighbourhood"))
)
_FRAME_ERRORS = Reduction(pixels.frame_errors, data_range=True)
_PEAK_RATIOS = Reduction(pixels.peak_ratios, data_range=True)
_SIMILARITY = Reduction(pixels.similarity, data_range=True, needs=pixels.ssim_library)
_CRPS = Reduction(ensembles.crps_terms)
_TAIL = Reduction(ensembles.tail_terms, dict.fromkeys(("tail_error", "tail_distance"), ("threshold",)))
_SPREAD = Reduction(ensembles.spread_terms)
_RANKS = Reduction(ensembles.ranks, {"rank_count": ("rank",)})
_TABLE = Reduction(
    ensembles.probability_table, dict.fromkeys(("with_event", "without_event"), ("threshold", "probability"))
)
_CLASSES = Reduction(
    ensembles.spread_classes,
    dict.fromkeys(("class_pixels", "class_variance", "class_squared_error"), ("spread_class",)),
)
_POWER = Reduction(
    spectra.power_terms, dict.fromkeys(("power", "power_truth", "spectra"), (spectra.WAVELENGTH,)), areas=False
)


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
            raise RecipeError(
                "metrics",
                f"{self.name} of {members} member",
                "a forecast with several realizations",
                "give members along the dimension realization, or leave it out",
            )


def _mean(sums: str, counts: str = "pixels") -> Formula:
    """Return the ratio of two totals, each of the sums of these names, apart by blanks."""

    def total(s: xr.Dataset, names: str) -> xr.DataArray:
        return reduce(add, (s[name] for name in names.split()))

    return lambda s: ratio(total(s, sums), total(s, counts))


def _root_mean(name: str) -> Formula:
    return lambda s: ratio(s[name], s["pixels"]) ** 0.5


_PIXELS = "mean over all pixels and frames present, in the data's units"
_EVENT_ONLY = "event: value >= threshold"
_EVENT = f"{_EVENT_ONLY}; contingency sums pooled over the sample before dividing; of an ensemble, mean sums of members"
_PROBABILITY = f"{_EVENT_ONLY}; probability: i of M members with an event; counts pooled over the sample"
_WINDOW = (
    f"{_EVENT_ONLY}; fractions in a square window, of an ensemble those of all members, events outside the frame are "
    "none; the three terms are summed over the sample before dividing"
)
_FRAME = "summed over the channels and pixels of one frame with data_range scaled to [0, 1], then averaged over frames"
_SPECTRUM = (
    "squared modulus of the Fourier transform of a frame less its mean, by its number of pixels; mean over rings of "
    "equal wavelength, members and frames; a missing pixel is the mean of those present, in all"
)
_BINS = "pixels without spread, then ten bins of equal numbers of pixels by spread, of all frames together"
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
    Metric("fss", _FRACTIONS, lambda s: 1.0 - ratio(s["fss_difference"], s["fss_forecast"] + s["fss_truth"]),
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
    Metric("crps", _CRPS, lambda s: ensembles.crps(s, s["members"]), "continuous ranked probability score",
           "of the ensemble's empirical distribution; mean over all pixels and frames", "{}"),
    Metric("crps_fair", _CRPS, lambda s: ensembles.crps(s, s["members"] - 1),
           "fair continuous ranked probability score",
           "member distances divided by M (M - 1); mean over all pixels and frames", "{}", ensemble=True),
    Metric("twcrps", _TAIL, lambda s: ensembles.crps(s, s["members"], "tail"), "threshold-weighted crps",
           "crps of members and truth raised to the threshold where they are below it", "{}"),
    Metric("twcrps_fair", _TAIL, lambda s: ensembles.crps(s, s["members"] - 1, "tail"), "fair threshold-weighted crps",
           "crps_fair of members and truth raised to the threshold where they are below it", "{}", ensemble=True),
    Metric("spread", _SPREAD, _root_mean("variance"), "ensemble spread",
           "root of the mean variance of the members (M - 1 in the denominator)", "{}", None, ensemble=True),
    Metric("spread_skill", _SPREAD, ensembles.spread_skill, "spread-skill ratio",
           "sqrt((M + 1) / M * mean variance / squared error of the ensemble mean)", "1", None, ensemble=True),
    Metric("spread_error_correlation", _SPREAD, ensembles.spread_error_correlation, "spread-error correlation",
           "Pearson's, over all pixels and frames, of the members' standard deviation with |mean - truth|",
           "1", None, ensemble=True),
    Metric("binned_spread", _CLASSES, ensembles.binned_spread, "spread of pixels of like spread",
           f"{_BINS}; sqrt((M + 1) / M * mean variance)", "{}", None, ensemble=True),
    Metric("binned_rmse", _CLASSES, ensembles.binned_rmse, "root mean squared error of the ensemble mean by spread",
           _BINS, "{}", None, ensemble=True),
    Metric("binned_share", _CLASSES, ensembles.binned_share, "share of pixels by spread", _BINS, "1", None,
           ensemble=True),
    Metric("rank_histogram", _RANKS, _mean("rank_count"), "rank histogram",
           "share of pixels in which the truth has this rank among the members; ties broken at random, by a seed of "
           "init time, lead time and pixel", "1", None, ensemble=True),
    Metric("spectrum", _POWER, _mean("power", "spectra"), "power spectrum of the forecast", _SPECTRUM, "({})2", None,
           "spectra"),
    Metric("spectrum_truth", _POWER, _mean("power_truth", "spectra"), "power spectrum of the truth", _SPECTRUM,
           "({})2", None, "spectra"),
    Metric("spectrum_ratio", _POWER, _mean("power", "power_truth"), "power of the forecast by that of the truth",
           _SPECTRUM, "1", None, "spectra"),
    Metric("brier", _TABLE, ensembles.brier, "Brier score", _PROBABILITY),
    Metric("brier_fair", _TABLE, ensembles.brier_fair, "fair Brier score",
           f"{_PROBABILITY}; less i (M - i) / (M2 (M - 1))", ensemble=True),
    Metric("brier_reliability", _TABLE, ensembles.brier_reliability, "reliability part of the Brier score",
           f"{_PROBABILITY}; mean of (i / M - frequency given i)2: brier = reliability - resolution + uncertainty"),
    Metric("brier_resolution", _TABLE, ensembles.brier_resolution, "resolution part of the Brier score",
           f"{_PROBABILITY}; mean of (frequency given i - frequency)2", "1", None),
    Metric("brier_uncertainty", _TABLE, ensembles.brier_uncertainty, "uncertainty part of the Brier score",
           f"{_EVENT_ONLY}; frequency (1 - frequency)", "1", None),
    Metric("observed_frequency", _TABLE, ensembles.observed_frequency, "frequency of the event given its probability",
           f"{_PROBABILITY}; with forecast_share the reliability diagram", "1", None),
    Metric("forecast_share", _TABLE, ensembles.forecast_share, "share of forecasts of a probability",
           _PROBABILITY, "1", None),
    Metric("roc_area", _TABLE, ensembles.roc_area, "area under the ROC curve",
           f"{_PROBABILITY}; by trapezes between all probabilities", "1", 1.0),
    Metric("roc_hit_rate", _TABLE, ensembles.hit_rate, "hit rate of a probability or a higher one",
           _PROBABILITY, "1", None),
    Metric("roc_false_alarm_rate", _TABLE, ensembles.false_alarm_rate,
           "false alarm rate of a probability or a higher one", _PROBABILITY, "1", None),
    Metric("economic_value", _TABLE, ensembles.economic_value, "relative economic value",
           f"{_PROBABILITY}; the best probability to protect from, always and never among them", "1", None),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}

GROUPS: Final = {
    "ssim": ("ssim", "ssim_range2", "ssim_uint8"),
    "psnr": ("psnr", "psnr_uint8"),
    "reliability": ("observed_frequency", "forecast_share"),
    "binned_spread_skill": ("binned_spread", "binned_rmse", "binned_share"),
    "spectra": ("spectrum", "spectrum_truth", "spectrum_ratio"),
    "roc": ("roc_area", "roc_hit_rate", "roc_false_alarm_rate"),
    **{f"fair_{name}": (f"{name}_fair",) for name in ("crps", "twcrps", "brier")},
}

KINDS: Final = {
    "reliability": "reliability",
    "roc": "roc",
    "value": "economic_value",
    "rank": "rank_histogram",
    "spread-skill": "binned_spread_skill",
    "spectra": "spectra",
}
"""The kinds of diagrams of scores, and the names of the metrics that each is drawn of."""


def default_metrics(events: object) -> tuple[str, ...]:
    """Return the names of the metrics that are taken where none are named: mse, and csi where there are thresholds."""
    return ("mse", "csi") if events else ("mse",)


def plain_name(name: object) -> str:
    """Return a metric's name as :data:`METRICS` spells it: "CSI" is csi, and "frame-MSE" is frame_mse."""
    return "_".join(str(name).strip().lower().replace("-", "_").split())


def select_metrics(names: Iterable[str]) -> tuple[Metric, ...]:
    """Return the metrics of these names in any case, each once; those of `GROUPS` stand for several.

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
        if name not in METRICS and name not in GROUPS:
            near = "mean_error or frequency_bias" if name == "bias" else nearest(name, METRICS)
            raise RecipeError("metrics", f"{told!r} is unknown", near or "one of " + ", ".join(sorted(METRICS)))
        for member in GROUPS.get(name, (name,)):
            chosen[member] = METRICS[member]
    if not chosen:
        raise RecipeError("metrics", "is empty", "at least one name")
    return tuple(chosen.values())
