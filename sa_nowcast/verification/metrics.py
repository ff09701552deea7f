"""Every metric by name: the sums that it needs and the formula over them.

The conventions are written out, with their sources, on the documentation page about metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import xarray as xr

from sa_nowcast.errors import RecipeError, nearest

Formula = Callable[[xr.Dataset], xr.DataArray]


@dataclass(frozen=True)
class Metric:
    """A score as a formula over additive sums.

    Attributes
    ----------
    name : str
        The name of the variable in the scores.
    kind : str
        The sums that it needs, a key of ``fields.KINDS``.
    formula : callable
        Takes a Dataset of sums over a sample, and returns the score; NaN where the sample is empty.
    long_name, convention : str
        What it is, and how exactly it is reckoned.
    units : str
        Units as a function of the data's: "{}" stands for them.
    perfect : float or None
        The value of a perfect forecast; None where no skill is defined.
    count : str
        The sum that counts what the score is reckoned over.
    ensemble : bool
        Whether it needs several members to say something.
    """

    name: str
    kind: str
    formula: Formula
    long_name: str
    convention: str
    units: str = "1"
    perfect: float | None = 0.0
    count: str = "pixels"
    ensemble: bool = False


def _ratio(top: xr.DataArray, bottom: xr.DataArray) -> xr.DataArray:
    return top / bottom.where(bottom > 0)


def _csi(s: xr.Dataset) -> xr.DataArray:
    return _ratio(s["hits"], s["hits"] + s["misses"] + s["false_alarms"])


def _fss(s: xr.Dataset) -> xr.DataArray:
    return 1.0 - _ratio(s["fss_difference"], s["fss_forecast"] + s["fss_truth"])


def _crps(s: xr.Dataset) -> xr.DataArray:
    return _ratio(s["member_error"] - 0.5 * s["member_distance"] / s["members"], s["pixels"])


def _crps_fair(s: xr.Dataset) -> xr.DataArray:
    return _ratio(s["member_error"] - 0.5 * s["member_distance"] / (s["members"] - 1), s["pixels"])


def _spread_skill(s: xr.Dataset) -> xr.DataArray:
    return ((s["members"] + 1) / s["members"] * _ratio(s["variance"], s["squared_error"])) ** 0.5


def _mean(name: str, count: str = "pixels") -> Formula:
    return lambda s: _ratio(s[name], s[count])


def _root_mean(name: str) -> Formula:
    return lambda s: _ratio(s[name], s["pixels"]) ** 0.5


_PIXELS = "mean over all pixels and frames present, in the data's units"
_EVENT = "event: value >= threshold; contingency sums pooled over the sample before dividing"
_FRAME = "summed over the channels and pixels of one frame with data_range scaled to [0, 1], then averaged over frames"
_SSIM = "7x7 uniform window, per frame and channel with data_range scaled to [0, 1], then averaged"
_PSNR = "per frame with data_range scaled to [0, 1], then averaged; infinite where a frame has no error"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("mse", "errors", _mean("squared_error"), "mean squared error", _PIXELS, "({})2"),
        Metric("rmse", "errors", _root_mean("squared_error"), "root mean squared error", "root of mse", "{}"),
        Metric("mae", "errors", _mean("absolute_error"), "mean absolute error", _PIXELS, "{}"),
        Metric("mean_error", "errors", _mean("error"), "mean error, forecast minus truth", _PIXELS, "{}", None),
        Metric("csi", "contingency", _csi, "critical success index", _EVENT, perfect=1.0),
        Metric(
            "pod",
            "contingency",
            lambda s: _ratio(s["hits"], s["hits"] + s["misses"]),
            "probability of detection",
            _EVENT,
            perfect=1.0,
        ),
        Metric(
            "far",
            "contingency",
            lambda s: _ratio(s["false_alarms"], s["hits"] + s["false_alarms"]),
            "false alarm ratio",
            _EVENT,
        ),
        Metric(
            "frequency_bias",
            "contingency",
            lambda s: _ratio(s["hits"] + s["false_alarms"], s["hits"] + s["misses"]),
            "frequency bias, events forecast per event observed",
            _EVENT,
            perfect=None,
        ),
        Metric(
            "fss",
            "fractions",
            _fss,
            "fractions skill score",
            "event: value >= threshold; fractions in a square window, events outside the frame are none; the three "
            "terms are summed over the sample before dividing",
            perfect=1.0,
        ),
        Metric(
            "frame_mse",
            "frame_errors",
            _mean("frame_squared_error", "frames"),
            "squared error of a frame",
            _FRAME,
            count="frames",
        ),
        Metric(
            "frame_mae",
            "frame_errors",
            _mean("frame_absolute_error", "frames"),
            "absolute error of a frame",
            _FRAME,
            count="frames",
        ),
        Metric(
            "ssim",
            "similarity",
            _mean("ssim", "ssim_frames"),
            "structural similarity",
            f"{_SSIM}; L = 1",
            perfect=1.0,
            count="ssim_frames",
        ),
        Metric(
            "ssim_range2",
            "similarity",
            _mean("ssim_range2", "ssim_frames"),
            "structural similarity, L = 2",
            f"{_SSIM}; L = 2, which older scikit-image took for float frames",
            perfect=1.0,
            count="ssim_frames",
        ),
        Metric(
            "ssim_uint8",
            "similarity",
            _mean("ssim_uint8", "ssim_frames"),
            "structural similarity of 8-bit frames",
            f"{_SSIM}; clipped, cut to 8 bits, L = 255",
            perfect=1.0,
            count="ssim_frames",
        ),
        Metric(
            "psnr", "peak_ratios", _mean("psnr", "frames"), "peak signal-to-noise ratio", _PSNR, "dB", None, "frames"
        ),
        Metric(
            "psnr_uint8",
            "peak_ratios",
            _mean("psnr_uint8", "frames"),
            "peak signal-to-noise ratio of 8-bit frames",
            f"{_PSNR}; clipped, cut to 8 bits, subtracted as int32",
            "dB",
            None,
            "frames",
        ),
        Metric(
            "crps",
            "ensemble",
            _crps,
            "continuous ranked probability score",
            "of the ensemble's empirical distribution; mean over all pixels and frames",
            "{}",
        ),
        Metric(
            "crps_fair",
            "ensemble",
            _crps_fair,
            "fair continuous ranked probability score",
            "member distances divided by M (M - 1); mean over all pixels and frames",
            "{}",
            ensemble=True,
        ),
        Metric(
            "spread",
            "ensemble",
            _root_mean("variance"),
            "ensemble spread",
            "root of the mean variance of the members (M - 1 in the denominator)",
            "{}",
            None,
            ensemble=True,
        ),
        Metric(
            "spread_skill",
            "ensemble",
            _spread_skill,
            "spread-skill ratio",
            "sqrt((M + 1) / M * mean variance / squared error of the ensemble mean)",
            "1",
            None,
            ensemble=True,
        ),
        Metric(
            "rank_histogram",
            "ensemble",
            lambda s: _ratio(s["rank_count"], s["pixels"]),
            "rank histogram",
            "share of pixels in which the truth has this rank among the members; ties shared out evenly",
            "1",
            None,
            ensemble=True,
        ),
    )
}

GROUPS = {"ssim": ("ssim", "ssim_range2", "ssim_uint8"), "psnr": ("psnr", "psnr_uint8")}


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
