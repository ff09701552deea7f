"""The labels of a forecast: which times are meant, and what dimensions, coordinates and attributes it gets."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import text
from sa_nowcast.times import (
    Times,
    nearest,
    read_leads,
    read_moments,
    read_period,
    read_time,
    show_step,
    show_time,
    stored_as,
    valid_times,
)
from sa_nowcast.windows import Positions, window_starts

Leads = npt.NDArray[np.timedelta64]

# They describe the values of the input, or refer to variables that a forecast does not carry along.
DROPPED_ATTRS = (
    "actual_range",
    "valid_range",
    "valid_min",
    "valid_max",
    "grid_mapping",
    "ancillary_variables",
    "coordinates",
    "scale_factor",
    "add_offset",
    "_FillValue",
    "missing_value",
    "cell_measures",
)


# The order of a forecast's dimensions; what is not named here comes after them.
_ORDER = (dims.REALIZATION, dims.THRESHOLD, dims.QUANTILE, dims.INIT_TIME, dims.VARIABLE, dims.LEAD_TIME)


def labelled(values: xr.DataArray, init: Times, leads: Leads, attrs: Mapping[str, Any]) -> xr.DataArray:
    """Give `values` with lead_time, and maybe realization and init_time, the order, times and attributes of a forecast.

    `init` is 0-d where it has no dimension; `values` have the coordinates of their grid and the attributes of what is
    forecast, to which `attrs` are added. Dimensions: ([realization,] [init_time,] [variable,] lead_time, ...).
    """
    each = (dims.INIT_TIME,) if init.ndim else ()
    valid = valid_times(init, leads, str(values.name or "forecast"))
    coords = {
        dims.LEAD_TIME: _coord((dims.LEAD_TIME,), leads, dims.LEAD_TIME_ATTRS),
        dims.INIT_TIME: _coord(each, init, dims.INIT_TIME_ATTRS, stored_as(init)),
        dims.VALID_TIME: _coord((*each, dims.LEAD_TIME), valid, dims.VALID_TIME_ATTRS, stored_as(valid)),
    }
    if dims.REALIZATION in values.dims:
        members = np.arange(values.sizes[dims.REALIZATION])
        coords[dims.REALIZATION] = _coord((dims.REALIZATION,), members, dims.REALIZATION_ATTRS)
    first = tuple(d for d in _ORDER if d in values.dims)
    if values.dims[: len(first)] != first:
        values = values.transpose(*first, ...)
    result = values.assign_coords(coords)
    result.attrs = {k: v for k, v in values.attrs.items() if k not in DROPPED_ATTRS} | dict(attrs)
    return result


def _coord(
    names: tuple[Hashable, ...],
    values: Any,
    attrs: Mapping[Any, Any] | None = None,
    encoding: Mapping[str, Any] | None = None,
) -> xr.Variable:
    # So that a plain to_netcdf is CF too: coordinates have no fill value (section 2.5.1).
    return xr.Variable(names, values, attrs, {"_FillValue": None, **(encoding or {})})


def grid_coords(frames: Frames) -> dict[Hashable, xr.Variable]:
    """Return the coordinates of a forecast from `frames` that are not its times: of the grid, and of variables."""
    coords: dict[Hashable, xr.Variable] = {}
    known = {frames.grid.y, frames.grid.x, frames.channel_dim}
    if len(frames.arrays) > 1:
        coords[dims.VARIABLE] = _coord((dims.VARIABLE,), [c.name for c in frames.channels])
        for key in dims.PER_VARIABLE:
            texts = [text(c.attrs.get(key)) or "" for c in frames.channels]
            if any(texts) or key == dims.UNITS:
                coords[key] = _coord((dims.VARIABLE,), texts, {"long_name": f"{key} of the variable"})
    own = {name: c.variable for name, c in frames.coords.items() if set(c.dims) <= known}
    return coords | {name: _coord(c.dims, c.data, c.attrs) for name, c in own.items()}


def init_position(frames: Frames, init_time: Any) -> int:
    """Return the position of one init time, given as anything that names a time; None is the last one."""
    if init_time is None:
        return len(frames) - 1
    wanted = read_time(init_time, "init_time")
    position = frames.position(wanted)
    if position is None:
        raise DataError(
            f"{frames.name}, {show_time(wanted)}",
            "the init time is not among the data's times",
            expected=f"one from {frames.label(0)} to {frames.label(len(frames) - 1)}, every {show_step(frames.step)}",
        )
    return position


def init_positions(frames: Frames, history: int, init_times: Any = None, stride: int = 1) -> Positions:
    """Return the positions of the init times that are asked for, ascending.

    Parameters
    ----------
    frames : Frames
    history : int
        Frames that a forecast starts from.
    init_times, stride
        As for `hindcast`.

    Raises
    ------
    DataError
        None is possible, one is not among the times, or one lacks history; the line says which and why.
    RecipeError
        A time that is none, or that is given twice.
    """
    if init_times is None or isinstance(init_times, slice):
        wanted = slice(None) if init_times is None else init_times
        first, stop = _bounds(frames, wanted)
        starts = window_starts(frames.segments, history, (max(0, first - history + 1), stop), stride=stride)
        if not len(starts):
            longest = max((min(b, stop) - a for a, b in frames.segments if a < stop), default=0)
            ends = ("the start" if wanted.start is None else wanted.start, wanted.stop or "the end")
            where = "" if wanted == slice(None) else " in {} to {}".format(*ends)
            raise DataError(
                frames.name,
                f"no init time{where} has {history} frames up to it without a gap"
                f" ({stop - first} times{where}, at most {max(longest, 0)} frames in a row up to one)",
                fix="give earlier frames, or choose other init times",
            )
        return starts + history - 1
    given = getattr(init_times, "values", init_times)
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray) or np.ndim(given) != 1:
        shown = " ".join(repr(init_times).split())
        raise RecipeError("init_times", f"{shown:.80}", expected="a slice of times, or a sequence of times")
    moments = given[::stride]
    if not len(moments) or any(t is None for t in moments):
        raise RecipeError("init_times", "None among the times" if len(moments) else "no time", expected="times")
    moments = read_moments(moments, "init_time")
    places, there = nearest(frames.times, moments, frames.step)
    if not there.all():
        init_position(frames, moments[int(np.argmin(there))])  # which says that it is not there
    positions = np.sort(places.astype(np.int64))
    twice = positions[1:][np.diff(positions) == 0]
    if len(twice):
        raise RecipeError("init_times", f"{frames.label(int(twice[0]))} is given twice", expected="each time once")
    require_history(frames, positions, history)
    return positions


def require_history(frames: Frames, positions: Positions, history: int, *, one: bool = False) -> None:
    """Refuse init times without `history` frames up to them in one segment; `one` that was asked for by itself."""
    begins = np.array([a for a, _ in frames.segments])
    have = positions - begins[np.searchsorted(begins, positions, side="right") - 1] + 1
    lacking = np.flatnonzero(have < history)
    if not lacking.size:
        return
    position, count = int(positions[lacking[0]]), int(have[lacking[0]])
    begin = position - count + 1
    gap = f" since the gap after {frames.label(begin - 1)}" if begin else ""
    more = f"; and {lacking.size - 1} more such init times" if lacking.size > 1 else ""
    raise DataError(
        f"{frames.name}, {frames.label(position)}",
        f"needs {history} frames, has {count}{gap}{more}",
        fix="give earlier frames, fill the gap, or choose another init_time"
        if one
        else "give earlier frames, fill the gap, or pass a slice of init times, which leaves such ones out",
    )


def _bounds(frames: Frames, wanted: slice) -> tuple[int, int]:
    if wanted.step is not None:
        raise RecipeError(
            "init_times",
            f"a slice with step {wanted.step!r}",
            expected="no step",
            fix=f"stride={wanted.step!r} beside the slice"
            if isinstance(wanted.step, int)
            else "stride=2 beside the slice",
        )
    first, last = read_period(wanted, "init_times")
    # As `Frames.position` finds single times.
    near = frames.step // 100
    start = 0 if first is None else int(np.searchsorted(frames.times, first - near))
    stop = len(frames) if last is None else int(np.searchsorted(frames.times, last + near, side="right"))
    return start, max(start, stop)


def lead_positions(lead_times: Any, step: np.timedelta64, steps: int | None = None) -> npt.NDArray[np.int64]:
    """Return the positions of lead times among all multiples of `step`; 0 is the first one, `steps` is the most."""
    leads = read_leads(lead_times)
    multiples, rest = np.divmod(leads, step.astype("timedelta64[ns]"))
    if rest.astype(np.int64).any():
        odd = leads[np.argmax(rest != np.timedelta64(0))]
        raise RecipeError(
            "lead_times", f"{show_step(odd)} is between the model's steps", f"multiples of {show_step(step)}"
        )
    if steps is not None and int(multiples[-1]) > whole("steps", steps):
        raise RecipeError(
            "lead_times",
            f"{show_step(leads[-1])} is step {int(multiples[-1])}, and steps is {steps}",
            f"at most {show_step(step * steps)}",
            "leave steps out, or choose earlier lead times",
        )
    return np.asarray(multiples, dtype=np.int64) - 1


def steps_until(lead_time: str, step: np.timedelta64) -> int:
    """Return how many steps lead to `lead_time`, such as ``30min`` or ``PT2H``."""
    wanted: Any = pd.NaT
    try:
        wanted = pd.Timedelta(lead_time)
    except ValueError as error:
        raise RecipeError("lead_time", f"{lead_time!r}", expected="a duration such as 30min or 6h") from error
    nanoseconds, each = int(wanted.value), int(step.astype("timedelta64[ns]").astype(np.int64))
    if nanoseconds <= 0 or nanoseconds % each:
        raise RecipeError("lead_time", f"{lead_time}", expected=f"a multiple of the cadence, {show_step(step)}")
    return nanoseconds // each


def whole(name: str, value: Any) -> int:
    """Return `value` as a whole number of at least 1, or refuse it by the argument's `name`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise RecipeError(name, f"{value!r}", expected="a whole number of at least 1")
    return number


def require_one(forecast: xr.DataArray, label: str) -> None:
    """Refuse what is no forecast, or has several init times; `label` is what errors call it."""
    for name in (dims.LEAD_TIME, dims.INIT_TIME):
        if name not in forecast.coords:
            raise DataError(label, f"no coordinate {name}", expected="a forecast")
    if forecast.sizes.get(dims.INIT_TIME, 1) != 1:
        found = f"{forecast.sizes[dims.INIT_TIME]} init times"
        raise DataError(label, found, expected="one", fix="choose one with .isel(init_time=0)")
