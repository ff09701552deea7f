"""Say which forecasts take no part in scores, and which of those compared is the reason."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import xarray as xr

from sa_nowcast.errors import ForecastWarning
from sa_nowcast.metadata import dims
from sa_nowcast.times import show_time
from sa_nowcast.verification.statistics import Statistics


def without_pixels(sums: Statistics) -> xr.DataArray:
    """Return the pairs (init_time, lead_time) of which no pixel is scored: True where there is none."""
    pixels = sums.forecast["pixels"]
    return (pixels.sum([dim for dim in pixels.dims if dim not in (dims.INIT_TIME, dims.LEAD_TIME)]) == 0).transpose(
        dims.INIT_TIME, dims.LEAD_TIME
    )


def say_left_out(scores: Mapping[str, xr.Dataset], lost: xr.DataArray, forecasts: Mapping[str, xr.DataArray]) -> None:
    """Warn where forecasts take no part in any score, and write why to the attribute ``left_out`` of `scores`.

    Parameters
    ----------
    scores : mapping of names to Datasets
    lost : DataArray of bool, dims (init_time, lead_time)
        By :func:`without_pixels`.
    forecasts : mapping of names to DataArrays
        What was compared on one sample: forecasts, and a reference that is one. Where none of them explains it, the
        truth does.
    """
    lost = lost[lost.any(dims.LEAD_TIME).values]
    if not lost.size:
        return
    reasons = []
    explained = np.zeros(lost.shape, dtype=bool)
    for name, forecast in forecasts.items():
        blank = lost.values & ~_there(forecast, lost)
        explained |= blank
        if blank.any():
            reasons.append(f"{name} has no value for {int(blank.any(axis=1).sum())}")
    rest = lost.values & ~explained
    if rest.any():
        reasons.append(f"the truth, or no pixel of all at once, for {int(rest.any(axis=1).sum())}")
    count, first = lost.sizes[dims.INIT_TIME], show_time(lost[dims.INIT_TIME].values[0])
    text = f"{count} init times are left out of all scores at some lead time, first {first}: {'; '.join(reasons)}"
    for each in scores.values():
        each.attrs["left_out"] = text
    warnings.warn(text, ForecastWarning, stacklevel=3)


def _there(forecast: xr.DataArray, lost: xr.DataArray) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return where all members of `forecast` have a value at some pixel, at the init times and lead times of `lost`."""
    for dim in (dims.INIT_TIME, dims.LEAD_TIME):
        forecast = forecast if dim in forecast.dims else forecast.expand_dims(dim)
    there = forecast.sel({dim: lost[dim].values for dim in (dims.INIT_TIME, dims.LEAD_TIME)})
    there = there.copy(data=np.isfinite(there.data))
    there = there.all(dims.REALIZATION) if dims.REALIZATION in there.dims else there
    there = there.any([dim for dim in there.dims if dim not in (dims.INIT_TIME, dims.LEAD_TIME)])
    return np.asarray(there.transpose(dims.INIT_TIME, dims.LEAD_TIME).values)
