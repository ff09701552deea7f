"""The labels of a forecast: which times are meant, and what dimensions, coordinates and attributes it gets."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import text
from sa_nowcast.times import read_leads, read_time, show_step, show_time, stored_as, valid_times

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


def labelled(frames: Frames, last: int, values: npt.NDArray[np.float32], provenance: Mapping[str, Any]) -> xr.DataArray:
    """Give the forecast (lead, channel, row, column) from position `last` its labels, `provenance` among them."""
    grid, array = frames.grid, frames.arrays[0]
    lead = (np.arange(1, len(values) + 1) * frames.step).astype("timedelta64[ns]")
    init = frames.times[last]
    coords: dict[Hashable, Any] = {}
    field = frames.field(values)
    out_dims: tuple[Hashable, ...]
    if frames.channel_dim is None:
        field, out_dims = field[:, 0], (dims.LEAD_TIME, grid.y, grid.x)
    elif len(frames.arrays) > 1:
        field, out_dims = field.swapaxes(0, 1), (dims.VARIABLE, dims.LEAD_TIME, grid.y, grid.x)
        coords[dims.VARIABLE] = [c.name for c in frames.channels]
        for key in dims.PER_VARIABLE:
            texts = [text(c.attrs.get(key)) or "" for c in frames.channels]
            if any(texts) or key == dims.UNITS:
                coords[key] = (dims.VARIABLE, texts, {"long_name": f"{key} of the variable"})
    else:
        out_dims = (dims.LEAD_TIME, frames.channel_dim, grid.y, grid.x)
    coords |= {name: c for name, c in frames.coords.items() if set(c.dims) <= set(out_dims)}
    coords[dims.LEAD_TIME] = (dims.LEAD_TIME, lead, dims.LEAD_TIME_ATTRS)
    coords[dims.INIT_TIME] = ((), init, dims.INIT_TIME_ATTRS)
    coords[dims.VALID_TIME] = (dims.LEAD_TIME, valid_times(init, lead, frames.name), dims.VALID_TIME_ATTRS)
    several = len(frames.arrays) > 1
    attrs = {} if several else {k: v for k, v in array.attrs.items() if k not in DROPPED_ATTRS}
    result = xr.DataArray(
        np.ascontiguousarray(field),
        dims=out_dims,
        coords=coords,
        name="forecast" if several else (array.name or "forecast"),
        attrs=attrs | dict(provenance),
    )
    mapping = next(
        (n for n, c in frames.coords.items() if "grid_mapping_name" in c.attrs or "crs_wkt" in c.attrs), None
    )
    if mapping is not None:
        result.encoding["grid_mapping"] = mapping
    for name in result.coords:
        # So that a plain to_netcdf is CF too: coordinates have no fill value (section 2.5.1).
        result[name].encoding["_FillValue"] = None
    for name in (dims.INIT_TIME, dims.VALID_TIME):
        result[name].encoding |= stored_as(result[name].values)
    return result


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


def lead_positions(lead_times: Any, step: np.timedelta64, steps: int | None = None) -> npt.NDArray[np.int64]:
    """Return the positions of lead times among all multiples of `step`; 0 is the first one.

    Parameters
    ----------
    lead_times : sequence of timedelta64 or str
        Ascending; a str is read as pandas does, such as "10min".
    step : timedelta64
    steps : int, optional
        How many there are at most.

    Raises
    ------
    RecipeError
        No lead times, one that is no multiple of `step`, or one beyond `steps`; the line names it.
    """
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
