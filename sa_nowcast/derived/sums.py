"""Sums over windows of lead time or time: amounts of rates, and amounts of longer windows of amounts."""

from __future__ import annotations

import re
from collections.abc import Hashable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from sa_nowcast.derived.fields import (
    derived_attrs,
    has_method,
    label,
    one_field,
    own_attrs,
    require_additive,
    with_method,
)
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import text
from sa_nowcast.metadata.cells import start_name
from sa_nowcast.metadata.units import amount_name, amount_of_rate, is_amount, rain_noun
from sa_nowcast.times import (
    most_common_step,
    read_times,
    show_step,
    stored_as,
    stored_rounding,
    times_name,
    tolerance,
    valid_times,
)

Nanoseconds = npt.NDArray[np.int64]
_PERIOD = "accumulation_minutes"  # as the readers of radar files have it
_MINUTE = 60 * 10**9
_TIME_AXES = (dims.TIME, dims.LEAD_TIME, dims.VALID_TIME)


def accumulate(
    data: xr.DataArray | xr.Dataset,
    window: str | timedelta | np.timedelta64,
    *,
    every: str | timedelta | np.timedelta64 | None = None,
    time: Hashable | None = None,
) -> xr.DataArray:
    """Return sums over windows of lead time, or of time where the data are observed frames.

    Parameters
    ----------
    data : DataArray or Dataset
        A forecast or a hindcast, dims ([realization,] [init_time,] lead_time, y, x) or without a grid, such as series
        at points; or frames, dims (time, y, x). Of a rate (``mm h-1``, ``kg m-2 s-1``, ``W m-2``, ``vehicles h-1``), or
        of amounts of one step each (``mm``, ``kg m-2``, ``count``, or whatever has ``sum`` among its cell methods).
        Of a Dataset the only gridded variable.
    window : str or timedelta
        Length of a window, such as ``"1h"``: a multiple of the step.
    every : str or timedelta, optional
        From one window's end to the next one's, a multiple of the step; by default `window`, so that windows follow
        each other. Less gives running sums: ``every="5min"`` ends an hour at each of such frames, as the truth of a
        hindcast needs whose init times are not on the hour.
    time : hashable, optional
        The dimension of time, where attributes, type and names do not tell; a ``lead_time`` goes before it.

    Raises
    ------
    RecipeError
        `window` or `every` is no duration, or no multiple of the step.
    DataError
        Neither a rate nor an amount by units and standard name; amounts that overlap, such as running sums; several
        variables; lead times or times that are not ascending; no window is complete.

    Returns
    -------
    DataArray
        The same dimensions. ``lead_time`` (``time``) is the end of each window, a multiple of `every`, of times since
        1970 in UTC; ``lead_time_start`` is where it starts, which `to_cf` writes as bounds (CF section 7.1). Units are
        those of the amount, cell_methods ``lead_time: sum`` with the step as interval (section 7.3), the standard name
        that of the amount, or none where CF's table has none. The type of floating-point data stays; sums are made in
        float64.

    Notes
    -----
    A value stands for the step that ends at its time: the window that ends at lead time L has the steps in
    (L - window, L], and a rate adds its value times the step. A window that lacks a step is left out: the last one of
    a forecast whose lead times end within it, the first and last ones of frames, and those with a gap in them. A
    pixel that is missing in one step is missing in the sum.
    """
    field = one_field(data)
    require_additive(field, "sums")
    if dims.VARIABLE in field.dims:
        names = ", ".join(map(str, field[dims.VARIABLE].values))
        first = str(field[dims.VARIABLE].values[0])
        raise DataError(
            label(field),
            f"several variables ({names})",
            expected="one",
            fix=f"choose one with .sel(variable={first!r})",
        )
    dim, ends, origin, rounding = _ends_of_steps(field, time)
    attrs = own_attrs(field)
    step = most_common_step(np.diff(ends), rounding)
    length = _multiple("window", window, step)
    apart = length if every is None else _multiple("every", every, step)
    units, factor, name = _amount(field, attrs, dim, step)
    if factor is None:
        _require_one_step_each(field, attrs, dim, ends, step)
    closed, spans = _complete(ends, step, length, apart, rounding)
    if not spans:
        fitting = next(n for n in range(len(ends), 0, -1) if _complete(ends, step, n * step, n * step, rounding)[1])
        steps = f"{length // step} steps of {_shown(step)}"
        shorter = f"window='{_shown(fitting * step)}'"
        raise DataError(
            f"{label(field)}, {dim}",
            f"no window of {_shown(length)} has all of its {steps} ({len(ends)} in all)",
            expected="a window that the data hold whole",
            fix=f"give more steps, or {shorter}"
            if every is None
            else f"give more steps, or {shorter} with every='{_shown(step)}'",
        )
    variable = _sums(field.variable, dim, spans, factor)
    called = times_name(field, dim) if origin else dim
    coords: dict[Hashable, Any] = {n: c.variable for n, c in field.coords.items() if dim not in c.dims}
    coords = {n: c for n, c in coords.items() if n not in dims.PER_VARIABLE}
    coords |= _windows(field, dim, called, closed, length, origin)
    shown = _shown(length)
    long_name = text(attrs.get("long_name")) or text(attrs.get("standard_name")) or label(field)
    added: dict[Hashable, Any] = {
        dims.UNITS: units,
        "long_name": f"{long_name} accumulated over {shown}",
        "cell_methods": with_method(attrs, f"{called}: sum (interval: {_shown(step)})", (*_TIME_AXES, str(called))),
    }
    attrs = derived_attrs({k: v for k, v in attrs.items() if k != "standard_name"}, added)
    if name is not None:
        attrs["standard_name"] = name
    if _PERIOD in attrs:
        attrs[_PERIOD] = length / _MINUTE
    result = xr.DataArray(variable, coords=coords, name=field.name, attrs=attrs)
    if "grid_mapping" in field.encoding:
        result.encoding["grid_mapping"] = field.encoding["grid_mapping"]
    return result


def _ends_of_steps(field: xr.DataArray, time: Hashable | None) -> tuple[Hashable, Nanoseconds, bool, int]:
    """Return the dimension of steps, their ends, whether they are times, and by how much storing them is off."""
    if dims.LEAD_TIME not in field.dims:
        dim = dims.find_dim(field, "time", time)
        ends = read_times(field, dim, label(field)).astype(np.int64)
        return dim, _ascending(field, times_name(field, dim), ends), True, stored_rounding(field, dim)
    if dims.LEAD_TIME not in field.coords or field[dims.LEAD_TIME].dtype.kind != "m":
        raise DataError(
            f"{label(field)}, {dims.LEAD_TIME}", "no lead times", "timedelta64", "open it with decode_timedelta=True"
        )
    ends = field[dims.LEAD_TIME].values.astype("timedelta64[ns]").astype(np.int64)
    return dims.LEAD_TIME, _ascending(field, dims.LEAD_TIME, ends), False, 0


def _ascending(field: xr.DataArray, called: Hashable, ends: Nanoseconds) -> Nanoseconds:
    where = f"{label(field)}, {called}"
    if len(ends) < 2:
        raise DataError(where, f"{len(ends)} entry, which has no step", "at least 2", "give more steps")
    if (np.diff(ends) <= 0).any():
        twice = (np.diff(np.sort(ends)) == 0).any()
        fix = f"ds.drop_duplicates({called!r}).sortby({called!r})" if twice else f"ds.sortby({called!r})"
        raise DataError(where, "is not ascending", "each step once, in order", fix)
    return ends


def _duration(where: str, value: Any) -> int:
    """Return a duration that a user gives, in nanoseconds."""
    expected = "a duration such as '1h' or '30min'"
    read: Any = pd.NaT
    if isinstance(value, str | timedelta | np.timedelta64) and str(value).strip(" 0123456789."):
        try:
            # What this package prints as 1 d is 1 D to pandas.
            read = pd.Timedelta(re.sub(r"(?<=[\d ])d$", "D", value) if isinstance(value, str) else value)
        except ValueError as error:
            raise RecipeError(where, f"{value!r}", expected) from error
    if pd.isna(read) or read.value <= 0:
        raise RecipeError(where, f"{value!r}", expected)
    return int(read.as_unit("ns").value)


def _multiple(where: str, value: Any, step: int) -> int:
    length = _duration(where, value)
    if length % step:
        near = max(round(length / step), 1) * step
        raise RecipeError(
            where,
            f"{_shown(length)} is no multiple of the step of the data, {_shown(step)}",
            fix=f"{where}='{_shown(near)}'",
        )
    return length


def _shown(nanoseconds: int) -> str:
    return show_step(np.timedelta64(nanoseconds, "ns"))


def _amount(
    field: xr.DataArray, attrs: dict[Hashable, Any], dim: Hashable, step: int
) -> tuple[str, float | None, str | None]:
    """Return the units of the sums, what values are multiplied by (None: nothing), and the sums' standard name."""
    units, name = text(attrs.get(dims.UNITS)), text(attrs.get("standard_name"))
    noun = rain_noun(name)
    rate = amount_of_rate(attrs)
    declared = has_method(attrs, "sum", (*_TIME_AXES, str(dim)))
    misnamed = noun in ("rate", "flux") and rate is None and is_amount({dims.UNITS: units}) and not declared
    if misnamed or (noun == "amount" and rate is not None):
        right = rate[0] if rate is not None else f"{units} h-1"
        raise DataError(
            label(field),
            f"standard_name {name} in {units}",
            expected="a rate per time, or an amount",
            fix=f"set the units or the standard name that is right, as with ds.assign_attrs(units={right!r})",
        )
    if rate is not None:
        shown, second = rate
        return shown, float(second * Fraction(step, 10**9)), amount_name(name, shown)
    if declared or is_amount(attrs):
        return units or "1", None, name if noun is None else amount_name(name, units or "1")
    raise DataError(
        label(field),
        f"{f'standard_name {name} in' if name else 'units'} {units or 'none'}: no rate and no amount",
        expected="units of a rate (mm h-1, kg m-2 s-1, W m-2) or of an amount (mm, kg m-2, count)",
        fix=f"where a value is the amount of one step, say so: ds.assign_attrs(cell_methods='{dim}: sum')",
    )


def _require_one_step_each(
    field: xr.DataArray, attrs: dict[Hashable, Any], dim: Hashable, ends: Nanoseconds, step: int
) -> None:
    """Refuse amounts that overlap, such as running sums, or that leave time out, where the data say of how long."""
    start = field.coords.get(start_name(times_name(field, dim) if dim != dims.LEAD_TIME else dim))
    if start is not None and start.dims == (dim,) and start.dtype.kind in "mM":
        periods = ends - start.values.astype(f"{start.dtype.kind}8[ns]").astype(np.int64)
        period = int(periods[np.argmax(np.abs(periods - step))])
    elif isinstance(attrs.get(_PERIOD), int | float | np.number):
        period = round(float(attrs[_PERIOD]) * _MINUTE)
    else:
        return
    if abs(period - step) > tolerance(step):
        apart, rest = divmod(period, step)
        raise DataError(
            f"{label(field)}, {dim}",
            f"amounts of {_shown(period)} every {_shown(step)}",
            expected="amounts of one step each",
            fix=f"take those that follow each other: ds.isel({{{dim!r}: slice({apart - 1}, None, {apart})}})"
            if apart > 1 and not rest
            else None,
        )


def _complete(
    ends: Nanoseconds, step: int, length: int, apart: int, rounding: int
) -> tuple[Nanoseconds, list[tuple[int, int]]]:
    """Return the ends of the windows that lack no step, and the positions of their steps."""
    near = tolerance(step, rounding)
    closed = np.arange((ends[0] - near) // apart * apart, ends[-1] + length, apart)
    first = np.searchsorted(ends, closed - length + near, side="right")
    stop = np.searchsorted(ends, closed + near, side="right")
    count = length // step
    # As many steps as there should be, and one step apart all of them.
    whole = stop - first == count
    regular = np.concatenate([[0], np.cumsum(np.abs(np.diff(ends) - step) > near)])
    whole &= regular[np.minimum(stop, len(ends)) - 1] == regular[np.minimum(first, len(ends) - 1)]
    return closed[whole], [(int(a), int(b)) for a, b in zip(first[whole], stop[whole], strict=True)]


def _sums(variable: xr.Variable, dim: Any, spans: list[tuple[int, int]], factor: float | None) -> xr.Variable:
    kind: Any = np.float64 if variable.dtype.kind == "f" or factor is not None else None
    parts = []
    for first, stop in spans:
        part = variable.isel({dim: slice(first, stop)}).sum(dim, skipna=False, dtype=kind)
        part = part if factor is None else part * factor
        parts.append(part.astype(variable.dtype) if variable.dtype.kind == "f" else part)
    whole: xr.Variable = xr.Variable.concat(parts, dim)  # type: ignore[no-untyped-call]
    return whole.transpose(*variable.dims)


def _windows(
    field: xr.DataArray, dim: Hashable, called: Hashable, closed: Nanoseconds, length: int, origin: bool
) -> dict[Hashable, xr.Variable]:
    """Return the coordinates of windows: where they end and start, and of forecasts their valid times."""
    kind = "datetime64[ns]" if origin else "timedelta64[ns]"
    attrs = {k: v for k, v in field[called].attrs.items() if k != "bounds"}
    start = {"long_name": f"start of the window of {str(called).replace('_', ' ')}"}
    encoding: dict[str, Any] = {"_FillValue": None}
    own, begins = closed.astype(kind), (closed - length).astype(kind)
    stored = stored_as(begins) if origin else {}
    coords = {
        called: xr.Variable((dim,), own, attrs, encoding | stored),
        start_name(called): xr.Variable((dim,), begins, start, encoding | stored),
    }
    if not origin and dims.INIT_TIME in field.coords:
        init = field[dims.INIT_TIME]
        valid = valid_times(init.values.astype("datetime64[ns]"), own, label(field))
        told = field[dims.VALID_TIME].attrs if dims.VALID_TIME in field.coords else dims.VALID_TIME_ATTRS
        coords[dims.VALID_TIME] = xr.Variable((*init.dims, dim), valid, told, encoding | stored_as(valid))
    return coords
