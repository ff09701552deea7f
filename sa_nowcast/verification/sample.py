"""One sample for forecasts that are compared: the times, grid and pixels that all have, and what is left out."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.metadata import dims
from sa_nowcast.times import nearest, read_times, show_time, valid_times
from sa_nowcast.verification.inputs import as_archive, check_labels, check_lead_time, horizontal, on_grid, single_array

Truth = xr.DataArray | xr.Dataset
PAIR: Final = (dims.INIT_TIME, dims.LEAD_TIME)


def on_common_times(
    forecasts: Mapping[str, xr.DataArray], truth: Truth | None, needs_init: bool, time: Hashable | None
) -> tuple[dict[str, xr.DataArray], str]:
    """Return forecasts at the times that all have, and `truth` where given, in one order; and what is left out."""
    archives = {}
    for name, forecast in forecasts.items():
        check_lead_time(forecast, name)
        archives[name] = as_archive(forecast, name)
    shared: dict[str, npt.NDArray[Any]] = {}
    for dim, word in zip(PAIR, ("init time", "lead time"), strict=True):
        shared[dim] = functools.reduce(np.intersect1d, (each[dim].values for each in archives.values()))
        if not shared[dim].size:
            shown = "; ".join(f"{name} {_span(each[dim].values)}" for name, each in archives.items())
            raise DataError(
                "forecasts",
                f"share no {word}: {shown}",
                f"some {word}s that all have",
                "make them from the same data, with the same steps",
            )
    if truth is not None:
        observed = single_array(truth, next(iter(archives.values())))
        times = read_times(observed, dims.find_dim(observed, "time", time), "truth")
        shared[dims.INIT_TIME] = _with_truth(shared[dims.INIT_TIME], shared[dims.LEAD_TIME], times, needs_init)
    parts = []
    for dim, word in zip(PAIR, ("init times", "lead times"), strict=True):
        total = max(each.sizes[dim] for each in archives.values())
        if total > shared[dim].size:
            parts.append(f"{total - shared[dim].size} of {total} {word}")
    left_out = f"left out: {' and '.join(parts)} that truth or another archive does not have" if parts else ""
    return {name: each.sel(shared) for name, each in archives.items()}, left_out


def _with_truth(init: Any, lead: Any, times: Any, needs_init: bool) -> Any:
    """Return the init times for which truth, with frames at `times`, has every frame that is needed."""
    there = nearest(times, valid_times(init, lead, "forecast"))[1].all(axis=1)
    if needs_init:
        there &= nearest(times, init)[1]
    if not there.any():
        ends = (times.min(), times.max(), init.min() + lead.min(), init.max() + lead.max())
        first, last, begin, end = (np.datetime64(one, "m") for one in ends)
        periods = f"truth from {first} to {last}, forecasts for {begin} to {end}"
        raise DataError(
            "truth",
            f"has no init time's frames at all lead times ({periods})",
            expected="frames at init_time + lead_time",
            fix="give truth of the forecasts' period",
        )
    return init[there]


def _span(values: npt.NDArray[Any]) -> str:
    if not values.size:
        return "has none"
    ends = values.min(), values.max()
    if values.dtype.kind == "M":
        return " to ".join(show_time(end) for end in ends)
    return " to ".join(f"{end / np.timedelta64(1, 'm'):g} min" for end in ends)


def on_one_grid(forecasts: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """Return the forecasts with their spatial axes in the direction of the first one's."""
    first, *others = forecasts
    model, spatial, _ = horizontal(forecasts[first])
    aligned = {first: forecasts[first]}
    for name in others:
        found, theirs, channel = horizontal(forecasts[name])
        if set(theirs) != set(spatial):
            raise DataError(name, f"has the spatial dims {theirs}", f"{spatial}, as {first} has", "rename them")
        found = on_grid(found, model, spatial, name)
        for dim in (dims.VARIABLE, "channel"):
            found = check_labels(found, model, dim, name)
        aligned[name] = found.rename(channel=channel) if "channel" in found.dims else found
    return aligned


def present_in(forecast: xr.DataArray) -> xr.DataArray:
    """Return where all members are finite, without labels: axes that nearly agree are one grid."""
    there = forecast.copy(data=np.isfinite(forecast.data)).drop_vars(list(forecast.coords))
    return there.all(dims.REALIZATION) if dims.REALIZATION in there.dims else there


def why_left_out(lost: xr.DataArray, compared: Mapping[str, xr.DataArray]) -> str:
    """Say of which init times no pixel is scored, and which of `compared`, or the truth, is the reason; "" of none.

    `lost` is True where no pixel of an init time and lead time is scored.
    """
    lost = lost[lost.any(dims.LEAD_TIME).values]
    if not lost.size:
        return ""
    reasons = []
    explained = np.zeros(lost.shape, dtype=bool)
    for name, forecast in compared.items():
        there = present_in(forecast.sel({dim: lost[dim].values for dim in PAIR}))
        there = there.any([dim for dim in there.dims if dim not in PAIR]).transpose(*PAIR)
        blank = lost.values & ~there.values
        explained |= blank
        if blank.any():
            reasons.append(f"{name} has no value for {int(blank.any(axis=1).sum())}")
    rest = lost.values & ~explained
    if rest.any():
        reasons.append(f"the truth, or no pixel of all at once, for {int(rest.any(axis=1).sum())}")
    count, first = lost.sizes[dims.INIT_TIME], show_time(lost[dims.INIT_TIME].values[0])
    return f"{count} init times are left out of all scores at some lead time, first {first}: {'; '.join(reasons)}"
