"""Nowcasts by pysteps along the motion of the last frames, labelled as the other forecasts are."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError, ForecastWarning, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.times import most_common_step, read_times, show_time, with_times
from sa_nowcast.verification.inputs import describe, positions
from sa_nowcast.verification.pysteps_fields import (
    AUTOREGRESSION,
    LEAST_DECIBELS,
    Array,
    Flow,
    from_pysteps,
    quietly,
    smoothed,
)
from sa_nowcast.verification.references import asked_times, label_forecast, without_times
from sa_nowcast.verification.scales import kilometres_along
from sa_nowcast.verification.units import is_rain_rate, units_of

# Takes frames (history, y, x), lead times in steps, and the init time; returns (members, lead_time, y, x), and how they
# were made where the history did not allow the method as it is.
Method = Callable[[Array, list[float], np.datetime64], tuple[Array, str]]
FALLBACK_COUNT, FALLBACK, FALLBACK_TIMES = "fallback_count", "fallback", "fallback_init_times"

HISTORY, MEMBERS, MEMBERS_OF_MEAN = 3, 20, 10


def extrapolation(
    data: xr.DataArray, *, init_time: Any = None, lead_times: Any, time: Hashable | None = None, history: int = HISTORY
) -> xr.DataArray:
    """Return the last frame moved along the motion of the last few.

    Motion is by the Lucas-Kanade method of pysteps on the last `history` frames (rain rates in dB), and the frame at
    init time follows it by backward semi-Lagrangian extrapolation (Germann and Zawadzki 2002,
    doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2; Pulkkinen et al. 2019, doi:10.5194/gmd-12-4185-2019).

    Parameters
    ----------
    data : DataArray, dims (time, ..., y, x)
        Observations at regular steps.
    init_time, lead_times, time
        As for :func:`~sa_nowcast.verification.persistence`.
    history : int, default 3
        Frames that the motion is found from, the one at init time included; at least 2.

    Returns
    -------
    DataArray, dims ([init_time,] lead_time, ...)
        NaN where the frame was missing, and where the motion brings in what lay outside of it.

    Warns
    -----
    ForecastWarning
        Once, where the history of some init times holds a frame that shows no motion: missing, without rain, or the
        same everywhere. Frames up to it are left out; where the frame at init time is the only one that is left, the
        forecast is persistence. The attributes ``fallback_count``, ``fallback`` and ``fallback_init_times`` say so.

    Raises
    ------
    DataError
        If `data` lacks one of the history frames; the line names it.
    MissingLibraryError
        If pysteps or OpenCV is not installed.
    """
    method = _extrapolating(data, history)
    return _forecast(data, init_time, lead_times, time, history, 0, method, "extrapolation")


def smoothed_extrapolation(
    data: xr.DataArray,
    *,
    init_time: Any = None,
    lead_times: Any,
    time: Hashable | None = None,
    history: int = HISTORY,
    growth: float = 1.0,
) -> xr.DataArray:
    """Return the extrapolation under a Gaussian that widens with lead time, as small scales become unpredictable.

    Parameters
    ----------
    data : DataArray, dims (time, ..., y, x)
        Observations at regular steps.
    init_time, lead_times, time
        As for :func:`~sa_nowcast.verification.persistence`.
    history : int, default 3
        As for :func:`extrapolation`.
    growth : float, default 1.0
        Pixels by which the standard deviation of the Gaussian grows with each step of the data: at the third step it is
        3 `growth`. 0 is the extrapolation itself. The best growth differs by event and spacing; 1 is near it on radar
        composites of 1 km and 5 minutes.

    Returns
    -------
    DataArray, dims ([init_time,] lead_time, ...)
        NaN where the extrapolation is. Missing pixels, and what is beyond the grid, have no weight: each mean is over
        the pixels that are there, up to four standard deviations away.

    Warns
    -----
    ForecastWarning
        As for :func:`extrapolation`.

    Raises
    ------
    RecipeError
        If `growth` is negative.
    DataError, MissingLibraryError
        As for :func:`extrapolation`.
    """
    if not 0 <= growth < np.inf:
        raise RecipeError("growth", f"is {growth}", "pixels per step, 0 or more")
    extrapolate = _extrapolating(data, history)

    def method(frames: Array, multiples: list[float], start: np.datetime64) -> tuple[Array, str]:
        (values,), how = extrapolate(frames, multiples, start)
        return smoothed(values, [growth * steps for steps in multiples])[None], how

    return _forecast(data, init_time, lead_times, time, history, 0, method, "smoothed-extrapolation")


def _extrapolating(data: xr.DataArray, history: int) -> Method:
    if history < 2:
        raise RecipeError("history", f"is {history}", "at least 2 frames, to see motion")
    flow = Flow(is_rain_rate(units_of(data)[0]))

    def method(frames: Array, multiples: list[float], start: np.datetime64) -> tuple[Array, str]:
        varying = flow.varying(frames)
        # A frame without variation keeps its values wherever it moves.
        how = {0: "", 1: "persistence", history: ""}.get(varying, f"the motion of {varying} frames")
        return flow.extrapolate(frames, multiples)[None], how

    return method


def sprog(
    data: xr.DataArray,
    *,
    init_time: Any = None,
    lead_times: Any,
    time: Hashable | None = None,
    matched: bool = True,
) -> xr.DataArray:
    """Return the S-PROG nowcast: extrapolated rain that loses its small scales as they become unpredictable.

    By pysteps with its default six scales and autoregression of order 2 on three frames (Seed 2003,
    doi:10.1175/1520-0450(2003)042<0381:ADASSA>2.0.CO;2).

    Parameters
    ----------
    data : DataArray, dims (time, ..., y, x)
        Rain rates in mm h-1 at regular steps.
    init_time, lead_times, time
        As for :func:`~sa_nowcast.verification.persistence`.
    matched : bool, default True
        Give the forecast the distribution of the last frame (``probmatching_method="cdf"`` of pysteps). False: it has
        a smaller squared error, and too little heavy rain; by name it is "sprog-unmatched".

    Returns
    -------
    DataArray, dims ([init_time,] lead_time, ...)

    Warns
    -----
    ForecastWarning
        Once, where the history of some init times has too little rain to estimate how it develops: a frame without any,
        the same everywhere, missing, or with too few echoes. The forecast then is of autoregression of order 1 on the
        frames after it, else extrapolation, else persistence, as pysteps does since #544. The attributes
        ``fallback_count``, ``fallback`` and ``fallback_init_times`` say which. Where the frame at init time has no
        rain, none is forecast.

    Raises
    ------
    DataError
        If `data` lacks one of the three frames or is not in mm h-1.
    MissingLibraryError
        If pysteps or OpenCV is not installed.
    """
    name = "sprog" if matched else "sprog-unmatched"
    _require_rain(data, name)
    flow, nowcast = Flow(rain=True), from_pysteps("pysteps.nowcasts.sprog", "forecast")

    def run(decibels: Array, velocity: Array, multiples: list[float], order: int) -> Array:
        options: dict[str, Any] = {"ar_order": order, "precip_thr": LEAST_DECIBELS, "norain_thr": 0.0}
        options["probmatching_method"] = "cdf" if matched else None
        return np.asarray(nowcast(decibels, velocity, multiples, **options))[None]

    def method(frames: Array, multiples: list[float], start: np.datetime64) -> tuple[Array, str]:
        return flow.develop(run, frames, multiples)

    return _forecast(data, init_time, lead_times, time, AUTOREGRESSION + 1, 0, method, name)


def steps(
    data: xr.DataArray,
    *,
    init_time: Any = None,
    lead_times: Any,
    time: Hashable | None = None,
    members: int = MEMBERS,
    seed: int = 0,
    kilometres_per_pixel: float | None = None,
) -> xr.DataArray:
    """Return the STEPS ensemble: S-PROG with stochastic small scales and motion.

    By pysteps with its defaults (Bowler et al. 2006, doi:10.1256/qj.04.100; Pulkkinen et al. 2019,
    doi:10.5194/gmd-12-4185-2019).

    Parameters
    ----------
    data : DataArray, dims (time, ..., y, x)
        Rain rates in mm h-1 at regular steps.
    init_time, lead_times, time
        As for :func:`~sa_nowcast.verification.persistence`.
    members : int, default 20
        At least 2.
    seed : int, default 0
        The same seed and init time give the same members.
    kilometres_per_pixel : float, optional
        By default from the coordinates, where they are in metres, kilometres or degrees.

    Returns
    -------
    DataArray, dims (realization, [init_time,] lead_time, ...)

    Warns
    -----
    ForecastWarning
        As for :func:`sprog`; all members are then alike.

    Raises
    ------
    DataError
        As for :func:`sprog`, or `data` does not tell its spacing.
    MissingLibraryError
        If pysteps or OpenCV is not installed.
    """
    method = _stochastic(data, time, members, seed, kilometres_per_pixel, "steps")
    return _forecast(data, init_time, lead_times, time, AUTOREGRESSION + 1, members, method, "steps")


def steps_mean(
    data: xr.DataArray,
    *,
    init_time: Any = None,
    lead_times: Any,
    time: Hashable | None = None,
    members: int = MEMBERS_OF_MEAN,
    seed: int = 0,
    kilometres_per_pixel: float | None = None,
) -> xr.DataArray:
    """Return the mean of a STEPS ensemble: one forecast, whose squared error is smaller than that of its members.

    Parameters
    ----------
    data, init_time, lead_times, time, seed, kilometres_per_pixel
        As for :func:`steps`.
    members : int, default 10
        At least 2. The squared error of a mean of n members exceeds that of very many by 1/n of their variance.

    Returns
    -------
    DataArray, dims ([init_time,] lead_time, ...)
        The mean of rain rates in mm h-1; NaN where a member is.

    Warns
    -----
    ForecastWarning
        As for :func:`sprog`.

    Raises
    ------
    DataError, MissingLibraryError
        As for :func:`steps`.
    """
    ensemble = _stochastic(data, time, members, seed, kilometres_per_pixel, "steps-mean")

    def method(frames: Array, multiples: list[float], start: np.datetime64) -> tuple[Array, str]:
        values, how = ensemble(frames, multiples, start)
        return values.mean(axis=0, keepdims=True), how

    return _forecast(data, init_time, lead_times, time, AUTOREGRESSION + 1, 0, method, "steps-mean")


def _stochastic(
    data: xr.DataArray,
    time: Hashable | None,
    members: int,
    seed: int,
    kilometres_per_pixel: float | None,
    name: str,
) -> Method:
    if isinstance(members, bool) or members < 2:
        raise RecipeError("members", f"is {members}", "at least 2")
    _require_rain(data, name)
    spacing = _spacing(data, name) if kilometres_per_pixel is None else float(kilometres_per_pixel)
    told = str(dims.find_dim(data, "time", time))
    minutes = float(cadence(data, told) / np.timedelta64(1, "s")) / 60.0
    flow, nowcast = Flow(rain=True), from_pysteps("pysteps.nowcasts.steps", "forecast")

    def method(frames: Array, multiples: list[float], start: np.datetime64) -> tuple[Array, str]:
        moment = int(start.astype("datetime64[s]").astype(np.int64))
        state = np.random.SeedSequence([seed, moment % 2**32, moment // 2**32]).generate_state(1)

        def run(decibels: Array, velocity: Array, multiples: list[float], order: int) -> Array:
            result = nowcast(
                decibels,
                velocity,
                multiples,
                n_ens_members=members,
                ar_order=order,
                precip_thr=LEAST_DECIBELS,
                kmperpixel=spacing,
                timestep=minutes,
                seed=int(state[0] >> 1),
            )
            return np.asarray(result)

        values, how = flow.develop(run, frames, multiples)
        return np.broadcast_to(values, (members, *values.shape[1:])), how

    return method


def _forecast(
    data: xr.DataArray,
    init_time: Any,
    lead_times: Any,
    time: Hashable | None,
    history: int,
    members: int,
    method: Method,
    name: str,
) -> xr.DataArray:
    """Run `method` on each field of each init time, and label what comes out; members 0 is no ensemble."""
    told, starts, leads = asked_times(data, init_time, lead_times, time)
    data = with_times(data, told, describe(data, "data"))
    step = cadence(data, told)
    times = data[told].values.astype("datetime64[ns]")
    y, x = (str(dims.find_dim(data, role)) for role in ("y", "x"))
    init = np.atleast_1d(starts)
    wanted = init[:, None] - step * np.arange(history - 1, -1, -1)[None, :]
    found = positions(times, wanted, describe(data, "data"), "history frames")
    ordered = data.transpose(told, *(dim for dim in data.dims if dim not in (told, y, x)), y, x)
    shape = ordered.shape[1:]
    result = np.full((max(members, 1), init.size, leads.size, *shape), np.nan)
    multiples = (leads / step).tolist()
    fallen: dict[int, str] = {}
    blank: list[int] = []
    for i, start in enumerate(init):
        frames = ordered.isel({told: found[i]}).values.astype(np.float64)
        for index in np.ndindex(*shape[:-2]):
            field = frames[(slice(None), *index)]
            if not np.isfinite(field[-1]).any():
                blank.append(i)
                continue
            with quietly():
                result[(slice(None), i, slice(None), *index)], how = method(field, multiples, start)
            if how:
                fallen[i] = how
    template = without_times(ordered.isel({told: found[:, -1]}).rename({told: dims.INIT_TIME}), dims.INIT_TIME)
    template = template.expand_dims({dims.LEAD_TIME: leads}).transpose(dims.INIT_TIME, dims.LEAD_TIME, ...)
    if members:
        template = template.expand_dims({dims.REALIZATION: members})
    forecast = label_forecast(template.copy(data=result if members else result[0]), starts, leads, name)
    where = describe(data, "data")
    if blank:
        count, first = len(set(blank)), show_time(init[blank[0]])
        text = (
            f"{where}: {name} gives no forecast from {count} of {init.size} init times, first {first} (a missing frame)"
        )
        warnings.warn(text, ForecastWarning, stacklevel=3)
    if fallen:
        ways = ", ".join(f"{count} by {how}" for how, count in Counter(fallen.values()).items())
        told_as = f"{len(fallen)} of {init.size} init times: {ways}"
        times_of = [show_time(init[i]) for i in fallen]
        forecast.attrs |= {FALLBACK_COUNT: len(fallen), FALLBACK: told_as, FALLBACK_TIMES: times_of}
        text = f"{where}: {name} finds too little in the history of {told_as}; first {times_of[0]}"
        warnings.warn(text, ForecastWarning, stacklevel=3)
    return forecast


def cadence(data: xr.DataArray, time: str) -> np.timedelta64:
    """Return the step of `data`: the most common difference between its times."""
    times = np.unique(read_times(data, time, describe(data, "data")))
    if times.size < 2:
        raise DataError(describe(data, "data"), f"has {times.size} frame", "at least 2, to tell the step")
    return np.timedelta64(most_common_step(np.diff(times).astype(np.int64)), "ns")


def _require_rain(data: xr.DataArray, name: str) -> None:
    units = units_of(data)
    if not all(is_rain_rate(unit) for unit in units):
        raise DataError(describe(data, "data"), f"is in {units[0] or 'no stated units'}", f"mm h-1, as {name} needs")


def _spacing(data: xr.DataArray, name: str) -> float:
    """Return the kilometres between rows, from the coordinate."""
    y = str(dims.find_dim(data, "y"))
    known = kilometres_along(data, y)
    if known is not None:
        return known
    raise DataError(
        describe(data, "data"),
        f"{y} has no coordinate in m, km or degrees",
        f"the spacing of the grid, as {name} needs",
        f'sa_nowcast.reference("{name}", kilometres_per_pixel=1.0), with the spacing of your grid',
    )
