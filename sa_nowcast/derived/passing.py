"""Sums along the motion, and when rain begins and ends: what a forecast says between its lead times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sa_nowcast.derived.fields import derived_attrs, label, one_field, own_attrs, with_method
from sa_nowcast.derived.sums import accumulate
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import text
from sa_nowcast.metadata.units import amount_name, amount_of_rate
from sa_nowcast.times import read_times, show_step

ONSET, END = "rain_onset", "rain_end"


def accumulate_passing(forecast: xr.DataArray, frames: xr.DataArray, windows: Sequence[str]) -> dict[str, xr.DataArray]:
    """Return sums from the init time on, along the motion where the forecast is of a rate.

    A shower that moves by several pixels from one lead time to the next leaves none out: sums of successive lead times
    would show it as separate spots.

    Parameters
    ----------
    forecast : DataArray, dims (lead_time, y, x)
        Of one init time: of a rate, or of amounts of one step each, which are summed as they are.
    frames : DataArray, dims (time, y, x)
        Observed up to the init time, at the step of the forecast; the motion is that of them all.
    windows : sequence of str
        Lengths from the init time on, such as ``["30min", "1h"]``; those that the lead times do not cover are left out.

    Raises
    ------
    DataError
        Neither a rate nor an amount, or the last of `frames` is not of the init time.

    Returns
    -------
    dict of str to DataArray, dims (y, x)
        By the window as it was given; in the units of the amount, with the coordinates of the forecast.

    Notes
    -----
    See `sa_nowcast.models.passage.passed` for the sub-steps; the first map is the last of `frames`.
    """
    field = one_field(forecast)
    leads = field[dims.LEAD_TIME].values.astype("timedelta64[ns]")
    step = leads[0]
    counts = {w: pd.Timedelta(w) / pd.Timedelta(step) for w in windows}
    whole = {w: round(n) for w, n in counts.items() if abs(n - round(n)) < 1e-9 and 1 <= round(n) <= len(leads)}
    attrs = own_attrs(field)
    rate = amount_of_rate(attrs)
    if rate is None or not whole:
        sums = {w: accumulate(field, np.timedelta64(n * step)) for w, n in whole.items() if n > 0}
        return {w: s.isel({dims.LEAD_TIME: 0}).rename(f"accumulation_{w}") for w, s in sums.items()}
    import torch

    from sa_nowcast.models import passage

    y, x = (dims.find_dim(field, role) for role in ("y", "x"))
    observed = frames.transpose(dims.find_dim(frames, "time"), y, x)
    times = read_times(observed, observed.dims[0], label(observed))
    init = field[dims.INIT_TIME].values.astype("datetime64[ns]")
    if times[-1] != init:
        raise DataError(label(observed), f"its last time is {times[-1]}", expected=f"the init time {init}")
    values = field.transpose(dims.LEAD_TIME, y, x)
    history = torch.from_numpy(np.ascontiguousarray(observed.values, dtype=np.float32))
    maps = torch.cat([history[-1:], torch.from_numpy(np.ascontiguousarray(values.values, dtype=np.float32))])
    units, per_second = rate
    ends = sorted(set(whole.values()))
    with torch.inference_mode():
        sums_by_end = dict(zip(ends, passage.passed(maps, passage.motion_of(history), ends), strict=True))
    factor = float(per_second) * float(step / np.timedelta64(1, "s"))
    about = text(attrs.get("long_name")) or text(attrs.get("standard_name")) or label(field)
    kept = {k: v for k, v in attrs.items() if k not in ("standard_name", "comment")}
    named = amount_name(text(attrs.get("standard_name")), units)
    result = {}
    for window, count in whole.items():
        one = values.isel({dims.LEAD_TIME: count - 1}).copy(data=(sums_by_end[count] * factor).numpy())
        method = with_method(attrs, f"{dims.LEAD_TIME}: sum (interval: {show_step(step)})", (dims.TIME, dims.LEAD_TIME))
        length = show_step(np.timedelta64(count * step))
        added: dict[Any, Any] = {
            dims.UNITS: units,
            "long_name": f"{about} accumulated over {length}",
            "cell_methods": method,
            "comment": "summed along the motion, from the init time on",
        }
        one.attrs = derived_attrs(kept, added) | ({} if named is None else {"standard_name": named})
        one.encoding = {k: v for k, v in field.encoding.items() if k == "grid_mapping"}
        result[window] = one.rename(f"accumulation_{window}")
    return result


def rain_spell(
    forecast: xr.DataArray, threshold: float, observed: xr.DataArray | None = None
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the time to the first exceedance of a threshold, and the time to the end of that exceedance.

    Parameters
    ----------
    forecast : DataArray, with a dimension lead_time
        Of one init time, on a grid or as series.
    threshold : float
        In the units of the forecast; above 0.
    observed : DataArray, optional
        What was observed at the init time, with the other dimensions of the forecast.

    Raises
    ------
    RecipeError
        A threshold that is not above 0.

    Returns
    -------
    onset, end : DataArray
        Minutes after the init time at which the value first reaches the threshold, and then first falls below it; NaN
        where that is not within the lead times. Between lead times linear in the value. Where the threshold is reached
        at the init time already, the onset is 0.
    """
    if not threshold > 0:
        raise RecipeError("threshold", f"{threshold!r}", expected="a number above 0")
    values = forecast.transpose(dims.LEAD_TIME, ...)
    leads = values[dims.LEAD_TIME].values / np.timedelta64(1, "m")
    fields = np.asarray(values.values, dtype=np.float64)
    before = (
        fields[0] if observed is None else np.asarray(observed.transpose(*values.dims[1:]).values, dtype=np.float64)
    )
    onset = np.where(before >= threshold, 0.0, np.nan)
    if observed is None:  # then the first lead time is the first that is known
        onset = np.where(before >= threshold, leads[0], np.nan)
    end = np.full_like(onset, np.nan)
    last = leads[0] if observed is None else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        for lead, now in zip(leads[int(observed is None) :], fields[int(observed is None) :], strict=True):
            share = np.clip((threshold - before) / (now - before), 0, 1)
            when = last + np.where(np.isfinite(share), share, 1.0) * (lead - last)
            begins = np.isnan(onset) & (now >= threshold)
            ends = ~np.isnan(onset) & np.isnan(end) & (now < threshold)
            onset = np.where(begins, when, onset)
            end = np.where(ends, when, end)
            before, last = now, lead
    like = values.isel({dims.LEAD_TIME: 0}, drop=True).drop_vars(dims.VALID_TIME, errors="ignore")
    result = []
    for name, found, what in ((ONSET, onset, "first exceedance"), (END, end, "end of the first exceedance")):
        one = like.copy(data=found.astype(np.float32)).rename(name)
        units = text(forecast.attrs.get("units")) or ""
        one.attrs = {"long_name": f"time to the {what} of {threshold:g} {units}".rstrip(), "units": "min"}
        one.encoding = {k: v for k, v in forecast.encoding.items() if k == "grid_mapping"}
        result.append(one)
    return result[0], result[1]
