"""Forecasts without training, to compare others with: persistence and climatology, and what they share."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.forecasts.labels import Leads, labelled
from sa_nowcast.metadata import dims
from sa_nowcast.times import Times, nearest, read_leads, read_time, read_times, valid_times, with_times
from sa_nowcast.verification.inputs import describe, positions

Cycle = Literal["day", "week"]

_DAY = np.timedelta64(1, "D").astype("timedelta64[ns]")


def persistence(
    data: xr.DataArray, *, init_time: Any = None, lead_times: Any, time: Hashable | None = None
) -> xr.DataArray:
    """Return the forecast that nothing changes: the frame at init time, for all lead times.

    Parameters
    ----------
    data : DataArray, with a dimension `time`
        Observations.
    init_time : datetime64 or sequence of them, optional
        By default the last time of `data`. One gives a forecast with a scalar init_time, a sequence an archive.
    lead_times : sequence of timedelta64 or str
        Positive, ascending; a str is such as "10min".
    time : hashable, optional
        The time dimension; found by its CF attributes, type or name otherwise.

    Returns
    -------
    DataArray, dims ([init_time,] lead_time, ...)
        With the coordinates lead_time, init_time and valid_time; NaN where the frame at init time is missing. Lazy
        where `data` is.

    Raises
    ------
    DataError
        If `data` has no frame at an init time; the line names it.
    RecipeError
        If a lead time is not positive.
    """
    told, starts, leads = asked_times(data, init_time, lead_times, time)
    data = with_times(data, told, describe(data, "data"))
    found = positions(data[told].values, np.atleast_1d(starts), describe(data, "data"), "init times")
    frames = data.isel({told: found}).rename({told: "init_time"})
    frames = without_times(frames, "init_time")
    return label_forecast(frames.expand_dims(lead_time=leads), starts, leads, "persistence")


def climatology(
    data: xr.DataArray,
    *,
    training: xr.DataArray,
    cycle: Cycle = "day",
    init_time: Any = None,
    lead_times: Any,
    time: Hashable | None = None,
) -> xr.DataArray:
    """Return the forecast that it will be as it is at this time of the day, or of the week, on average.

    Parameters
    ----------
    data : DataArray, with a dimension `time`
        Observations; only its last time is used, and only where `init_time` is None.
    training : DataArray
        The observations that are averaged, pixel by pixel, over those present. It should end before the first forecast;
        its period is written to the attribute ``training_period``.
    cycle : {"day", "week"}
        Average by time of day, or by weekday and time of day.
    init_time, lead_times, time
        As for :func:`persistence`.

    Returns
    -------
    DataArray, dims ([init_time,] lead_time, ...)
        NaN where no training frame was present.

    Raises
    ------
    DataError
        If the training holds no frame at the time of day (and week) of a valid time.
    """
    if cycle not in ("day", "week"):
        raise RecipeError("cycle", f"is {cycle!r}", '"day" or "week"')
    _, starts, leads = asked_times(data, init_time, lead_times, time)
    told = str(dims.find_dim(training, "time", time))
    times = read_times(training, told, describe(training, "training"))
    distinct = np.unique(_phase(times, cycle))
    steps = np.diff(np.unique(times)).astype(np.int64)
    step = np.timedelta64(int(steps.min(initial=_DAY.astype(np.int64))), "ns")
    # Times of day that only rounding tells apart are one.
    phases = distinct[np.diff(distinct, prepend=-int(step.astype(np.int64))) > int(step.astype(np.int64)) // 100]
    member, _ = _same_phase(phases, _phase(times, cycle), step)
    valid = valid_times(np.atleast_1d(starts), leads, describe(data, "data"))
    wanted = _phase(valid, cycle)
    place, known = _same_phase(phases, wanted, step)
    if not known.all():
        first = np.datetime_as_string(valid[~known][0].astype("datetime64[s]"))
        raise DataError(
            "climatology",
            f"the training holds no frame at the time of the {cycle} of {first}",
            "one for every valid time",
            "train on whole cycles at the forecast's steps, or take cycle='day'",
        )
    means = xr.concat(
        [training.isel({told: np.flatnonzero(member == phase)}).mean(told) for phase in np.unique(place)], "phase"
    )
    position = xr.DataArray(np.searchsorted(np.unique(place), place), dims=("init_time", "lead_time"))
    values = means.isel(phase=position).assign_coords(init_time=np.atleast_1d(starts))
    values.attrs.update(training.attrs)
    values.name = training.name
    forecast = label_forecast(values, starts, leads, "climatology")
    ends = (np.datetime_as_string(edge.astype("datetime64[s]")) for edge in (times.min(), times.max()))
    forecast.attrs.update(training_period="/".join(ends), cycle=cycle)
    return forecast


def _phase(times: Times, cycle: Cycle) -> npt.NDArray[np.int64]:
    """Return nanoseconds since the last midnight, or since the last one that began a Monday."""
    origin = np.datetime64("1970-01-05", "ns")  # a Monday
    length = _DAY if cycle == "day" else 7 * _DAY
    return np.asarray((times.astype("datetime64[ns]") - origin) % length).astype(np.int64)


def _same_phase(
    phases: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64], step: np.timedelta64
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    return nearest(phases.astype("datetime64[ns]"), wanted.astype("datetime64[ns]"), step)


def without_times(data: xr.DataArray, dim: str) -> xr.DataArray:
    """Return `data` without the coordinates that vary along `dim` beside its own."""
    return data.drop_vars([name for name in data.coords if name != dim and dim in data[name].dims])


def asked_times(data: xr.DataArray, init_time: Any, lead_times: Any, time: Hashable | None) -> tuple[str, Times, Leads]:
    """Return the time dimension, init times (0-d for one) and lead times of a reference, checked, in nanoseconds."""
    told = str(dims.find_dim(data, "time", time))
    if init_time is None:
        if not data.sizes[told]:
            raise DataError(describe(data, "data"), "has no frame", "at least one")
        init_time = read_times(data, told, describe(data, "data"))[-1]
    given = getattr(init_time, "values", init_time)
    several = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) and np.ndim(given) == 1
    expected = "times in UTC, such as '2019-06-10T00:30'"
    each = [read_time(one, "init_time", expected) for one in (list(given) if several else [given])]
    starts = np.array(each if several else each[0], dtype="datetime64[ns]")
    with contextlib.suppress(DataError):  # climatology needs no times of the data
        times = read_times(data, told, describe(data, "data"))
        place, there = nearest(times, starts)
        starts = np.where(there, times[place], starts) if times.size else starts
    leads = read_leads(lead_times)
    return told, starts, leads


def label_forecast(values: xr.DataArray, starts: Times, leads: Leads, model: str) -> xr.DataArray:
    """Return `values`, with init_time and lead_time among their dims, as the forecast of a reference."""
    values = values if starts.ndim else values.isel(init_time=0, drop=True)
    forecast = labelled(values, starts, leads, {"model": model})
    mapping = values.attrs.get("grid_mapping", values.encoding.get("grid_mapping"))
    # What else the encoding holds describes how the observations were stored.
    forecast.encoding = {"grid_mapping": mapping} if mapping in forecast.coords else {}
    return forecast
