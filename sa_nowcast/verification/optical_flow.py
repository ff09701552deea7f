"""Nowcasts by pysteps along the motion of the last frames, labelled as the other forecasts are."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast import dims
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError
from sa_nowcast.times import show_time
from sa_nowcast.verification.inputs import describe, positions
from sa_nowcast.verification.references import label_forecast, plan, without_times
from sa_nowcast.verification.units import is_rain_rate, units_of

Array = npt.NDArray[np.float64]
# Takes frames (history, y, x), lead times in steps, and the init time; returns (members, lead_time, y, x).
Method = Callable[[Array, list[float], np.datetime64], Array]

# The values that pysteps' examples take for rain rates in mm h-1: the least rain, and what stands for less, in dB.
_LEAST_RAIN, _LEAST_DECIBELS, _DRY_DECIBELS = 0.1, -10.0, -15.0
_AUTOREGRESSION = 2
_KILOMETRES_PER_DEGREE = 111.2


def extrapolation(
    data: xr.DataArray,
    *,
    init_time: Any = None,
    lead_times: Any,
    time: Hashable | None = None,
    history: int = 3,
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

    Raises
    ------
    DataError
        If `data` lacks one of the history frames; the line names it.
    MissingLibraryError
        If pysteps or OpenCV is not installed.
    """
    if history < 2:
        raise RecipeError("history", f"is {history}", "at least 2 frames, to see motion")
    motion, advect = _motion(), _from_pysteps("pysteps.extrapolation.semilagrangian", "extrapolate")
    rain = is_rain_rate(units_of(data)[0])

    def method(frames: Array, multiples: list[float], start: np.datetime64) -> Array:
        last = frames[-1]
        filled = np.nan_to_num(frames, nan=0.0 if rain else float(np.nanmin(frames)))
        velocity = motion(_to_decibels(filled) if rain else filled)
        missing = bool(np.isnan(last).any())
        return np.asarray(advect(last, velocity, multiples, allow_nonfinite_values=missing))[None]

    return _forecast(data, init_time, lead_times, time, history, 0, method, "extrapolation")


def sprog(
    data: xr.DataArray,
    *,
    init_time: Any = None,
    lead_times: Any,
    time: Hashable | None = None,
) -> xr.DataArray:
    """Return the S-PROG nowcast: extrapolated rain that loses its small scales as they become unpredictable.

    By pysteps with its default six scales and autoregression of order 2 on three frames (Seed 2003,
    doi:10.1175/1520-0450(2003)042<0381:ADASSS>2.0.CO;2).

    Parameters
    ----------
    data : DataArray, dims (time, ..., y, x)
        Rain rates in mm h-1 at regular steps.
    init_time, lead_times, time
        As for :func:`~sa_nowcast.verification.persistence`.

    Returns
    -------
    DataArray, dims ([init_time,] lead_time, ...)

    Raises
    ------
    DataError
        If `data` lacks one of the three frames, is not in mm h-1, or has too little rain to estimate anything from; the
        line names the time. Of several init times, those with too little rain have a missing forecast (NaN).
    MissingLibraryError
        If pysteps or OpenCV is not installed.
    """
    _require_rain(data, "sprog")
    motion, nowcast = _motion(), _from_pysteps("pysteps.nowcasts.sprog", "forecast")

    def method(frames: Array, multiples: list[float], start: np.datetime64) -> Array:
        decibels = _to_decibels(frames)
        velocity = motion(_to_decibels(np.nan_to_num(frames)))
        with _enough_rain(data, "sprog", frames, start):
            result = nowcast(decibels, velocity, multiples, precip_thr=_LEAST_DECIBELS, norain_thr=0.0)
        return _from_decibels(np.asarray(result))[None]

    return _forecast(data, init_time, lead_times, time, _AUTOREGRESSION + 1, 0, method, "sprog")


def steps(
    data: xr.DataArray,
    *,
    init_time: Any = None,
    lead_times: Any,
    time: Hashable | None = None,
    members: int = 20,
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

    Raises
    ------
    DataError
        If `data` lacks one of the three frames, is not in mm h-1, does not tell its spacing, or has too little rain to
        estimate anything from; the line names the time. Of several init times, those with too little rain have a
        missing forecast (NaN).
    MissingLibraryError
        If pysteps or OpenCV is not installed.
    """
    if isinstance(members, bool) or members < 2:
        raise RecipeError("members", f"is {members}", "at least 2")
    _require_rain(data, "steps")
    spacing = _spacing(data) if kilometres_per_pixel is None else float(kilometres_per_pixel)
    told = str(dims.find_dim(data, "time", time))
    minutes = float(cadence(data, told) / np.timedelta64(1, "s")) / 60.0
    motion, nowcast = _motion(), _from_pysteps("pysteps.nowcasts.steps", "forecast")

    def method(frames: Array, multiples: list[float], start: np.datetime64) -> Array:
        moment = int(start.astype("datetime64[s]").astype(np.int64))
        state = np.random.SeedSequence([seed, moment % 2**32, moment // 2**32]).generate_state(1)
        decibels, velocity = _to_decibels(frames), motion(_to_decibels(np.nan_to_num(frames)))
        with _enough_rain(data, "steps", frames, start):
            result = nowcast(
                decibels,
                velocity,
                multiples,
                n_ens_members=members,
                precip_thr=_LEAST_DECIBELS,
                kmperpixel=spacing,
                timestep=minutes,
                seed=int(state[0] >> 1),
            )
        return _from_decibels(np.asarray(result))

    return _forecast(data, init_time, lead_times, time, _AUTOREGRESSION + 1, members, method, "steps")


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
    told, starts, leads = plan(data, init_time, lead_times, time)
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
    for i, start in enumerate(init):
        frames = ordered.isel({told: found[i]}).values.astype(np.float64)
        for index in np.ndindex(*shape[:-2]):
            field = frames[(slice(None), *index)]
            if np.isfinite(field[-1]).any():
                try:
                    with _quietly():
                        result[(slice(None), i, slice(None), *index)] = method(field, multiples, start)
                except DataError:
                    if starts.ndim == 0:
                        raise
    template = without_times(ordered.isel({told: found[:, -1]}).rename({told: dims.INIT_TIME}), dims.INIT_TIME)
    template = template.expand_dims({dims.LEAD_TIME: leads}).transpose(dims.INIT_TIME, dims.LEAD_TIME, ...)
    if not members:
        return label_forecast(template.copy(data=result[0]), starts, leads, name)
    template = template.expand_dims({dims.REALIZATION: np.arange(members)})
    forecast = label_forecast(template.copy(data=result), starts, leads, name)
    forecast[dims.REALIZATION].attrs.update(dims.REALIZATION_ATTRS)
    return forecast


def cadence(data: xr.DataArray, time: str) -> np.timedelta64:
    """Return the step of `data`: the most common difference between its times.

    Raises
    ------
    DataError
        If there are fewer than two frames.
    """
    times = np.sort(data[time].values.astype("datetime64[ns]"))
    if times.size < 2:
        raise DataError(describe(data, "data"), f"has {times.size} frame", "at least 2, to tell the step")
    steps, number = np.unique(np.diff(times), return_counts=True)
    return np.timedelta64(steps[np.argmax(number)], "ns")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what pysteps prints to itself, and its warnings: what is wrong with a forecast is an error or NaN in it."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # Too few features move to judge outliers by, as on a grid of some cells.
        warnings.filterwarnings("ignore", "Singular matrix", UserWarning)
        warnings.filterwarnings("ignore", "Degrees of freedom", RuntimeWarning, r"pysteps\.")
        warnings.filterwarnings("ignore", "(divide by zero|invalid value) encountered", RuntimeWarning, r"numpy\.lib\.")
        # A scale without variance: what follows from it is told by _enough_rain.
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning, r"pysteps\.")
        yield


@contextlib.contextmanager
def _enough_rain(data: xr.DataArray, name: str, frames: Array, start: np.datetime64) -> Iterator[None]:
    """Say in one line where pysteps finds too little rain to estimate how it develops."""
    try:
        yield
    except (np.linalg.LinAlgError, IndexError, ValueError) as error:
        share = float((frames[-1] >= _LEAST_RAIN).mean())
        raise DataError(
            f"{describe(data, 'data')}, {show_time(start)}",
            f"{name} by pysteps finds no way from its history ({error}), with rain on {share:.2%} of the pixels",
            "more rain",
            "choose another init time, or take extrapolation",
        ) from error


def _from_pysteps(module: str, name: str) -> Callable[..., Any]:
    try:
        with _quietly():
            importlib.import_module("cv2")
            return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except ImportError as error:
        raise MissingLibraryError(
            module.rpartition(".")[2],
            f"{error.name or error} is not installed",
            None,
            'pip install "sa-nowcast[pysteps]"',
        ) from None


def require_pysteps() -> None:
    """Raise `MissingLibraryError` where what extrapolation, sprog and steps need is not installed."""
    _motion()


def _motion() -> Callable[..., Any]:
    return _from_pysteps("pysteps.motion.lucaskanade", "dense_lucaskanade")


def _require_rain(data: xr.DataArray, name: str) -> None:
    units = units_of(data)
    if not all(is_rain_rate(unit) for unit in units):
        raise DataError(describe(data, "data"), f"is in {units[0] or 'no stated units'}", f"mm h-1, as {name} needs")


def _to_decibels(rain: Array) -> Array:
    decibels = np.where(rain >= _LEAST_RAIN, 10.0 * np.log10(np.maximum(rain, _LEAST_RAIN)), _DRY_DECIBELS)
    return np.where(np.isnan(rain), np.nan, decibels)


def _from_decibels(decibels: Array) -> Array:
    rain = np.where(decibels >= _LEAST_DECIBELS, 10.0 ** (decibels / 10.0), 0.0)
    return np.where(np.isnan(decibels), np.nan, rain)


def _spacing(data: xr.DataArray) -> float:
    """Return the kilometres between rows, from the coordinate."""
    y = dims.find_dim(data, "y")
    if y in data.coords and data.sizes[y] > 1:
        units = str(data[y].attrs.get("units", ""))
        degrees = "degree" in units or str(y).lower() in ("lat", "latitude")
        factor = _KILOMETRES_PER_DEGREE if degrees else {"m": 1e-3, "metre": 1e-3, "meter": 1e-3, "km": 1.0}.get(units)
        if factor is not None:
            return float(abs(data[y].values[-1] - data[y].values[0]) / (data.sizes[y] - 1) * factor)
    raise DataError(
        describe(data, "data"),
        f"{y} has no coordinate in m, km or degrees",
        "the spacing of the grid, as steps needs",
        "pass kilometres_per_pixel=",
    )
