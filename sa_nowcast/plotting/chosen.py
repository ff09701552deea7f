"""The forecast that is drawn, chosen from an archive, and the truth, history and other forecasts that belong to it."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata.dims import LEAD_TIME, canonical_units, find_dim, with_positions
from sa_nowcast.plotting.maps import panel
from sa_nowcast.plotting.scales import MINUS, choose, choose_variable, clock, name_and_units
from sa_nowcast.times import Times, nearest, read_times, valid_times
from sa_nowcast.verification.inputs import horizontal, on_grid

Row = list[tuple[str, xr.DataArray | None]]
Forecasts = xr.DataArray | xr.Dataset | Mapping[str, xr.DataArray | xr.Dataset]
"""A forecast, or several by their names."""


def unit_of(leads: npt.NDArray[np.timedelta64]) -> tuple[int, str]:
    """Return the largest of day, hour, minute and second that all lead times are whole multiples of, in seconds.

    Fractions of a second, as in the frames of a recording, are seconds.
    """
    nanoseconds = leads.astype("timedelta64[ns]").astype(np.int64)
    whole = (
        (size, name)
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"))
        if not (nanoseconds % (size * 10**9)).any()
    )
    return next(whole, (1, "s"))


def span(delta: Any, unit: tuple[int, str]) -> str:
    """Return a time since the init time as text, in a unit that `unit_of` gave."""
    number = float(delta / np.timedelta64(1, "s")) / unit[0]
    if not number:
        return "start"
    return f"{'+' if number > 0 else MINUS}{abs(number):g} {unit[1]}"


@dataclass(frozen=True)
class Chosen:
    """The forecast that is drawn, (lead_time, y, x), with what chooses the same of truth and history."""

    field: xr.DataArray
    y: str
    x: str
    time: Hashable | None
    labels: Mapping[str, object]

    @property
    def start(self) -> Any:
        """The init time; None where it is not told."""
        return self.field["init_time"].values if "init_time" in self.field.coords else None

    @property
    def leads(self) -> npt.NDArray[np.timedelta64]:
        """The lead times."""
        leads: npt.NDArray[np.timedelta64] = self.field["lead_time"].values
        return leads

    def panels(self, places: list[int] | range) -> list[xr.DataArray]:
        """Return the panels of some lead times, by their positions."""
        return [panel(self.field.isel(lead_time=i), self.y, self.x) for i in places]

    def observed(self, truth: xr.DataArray, leads: npt.NDArray[np.timedelta64]) -> list[xr.DataArray | None]:
        """Return the panels of truth at the valid times; None where it has no such time."""
        truth, told, places, there = self._at_valid_times(truth, leads)
        return [
            panel(truth.isel({told: int(place)}), self.y, self.x) if found else None
            for place, found in zip(places, there, strict=True)
        ]

    def observed_at(self, truth: xr.DataArray, row: int, column: int) -> npt.NDArray[np.float64]:
        """Return a pixel of the truth at the valid times, by its place in the field; NaN where there is no frame."""
        truth, told, places, there = self._at_valid_times(truth, self.leads)
        values = truth.isel({self.y: row, self.x: column, told: places}).values.astype(np.float64)
        return np.where(there, values, np.nan)

    def _at_valid_times(
        self, truth: xr.DataArray, leads: npt.NDArray[np.timedelta64]
    ) -> tuple[xr.DataArray, str, npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return the truth on the field's grid, its time dimension, where the valid times stand, and which it has."""
        if self.start is None:
            raise DataError("forecast", "has no init_time, so that truth cannot be chosen", "the coordinate init_time")
        truth, told, times = self._fitting(truth, "truth")
        return truth, told, *nearest(times, valid_times(self.start, leads, "forecast"))

    def before(self, history: xr.DataArray, columns: int, unit: tuple[int, str]) -> Row:
        """Return the last frames of a history that are not after init time."""
        start = self.start
        history, told, times = self._fitting(history, "history")
        known = np.arange(times.size) if start is None else np.flatnonzero(times <= start)
        if not known.size:
            raise DataError("history", f"has no frame up to {clock(start)}", "frames before the forecast's init_time")
        last = known[np.argsort(times[known])][-columns:]
        start = times[last[-1]] if start is None else start
        frames = [panel(history.isel({told: int(i)}), self.y, self.x) for i in last]
        heads = [f"{span(times[i] - start, unit)}\n{clock(times[i], start)}" for i in last]
        return list(zip(heads, frames, strict=True))

    def beside(
        self,
        other: xr.DataArray,
        name: str,
        leads: npt.NDArray[np.timedelta64],
        variable: object,
        channel: object,
        realization: object,
    ) -> list[xr.DataArray | None]:
        """Return the panels of another forecast from the same init time; None where it lacks a lead time."""
        its = choose_forecast(other, self.start, variable, channel, realization, None, None, name)
        field = self._alike(on_grid(its.field, self.field, (self.y, self.x), name), name)
        places = {lead: i for i, lead in enumerate(its.leads.astype("timedelta64[ns]").tolist())}
        found = [places.get(lead) for lead in leads.astype("timedelta64[ns]").tolist()]
        return [None if i is None else panel(field.isel(lead_time=i), self.y, self.x) for i in found]

    def _alike(self, data: xr.DataArray, role: str) -> xr.DataArray:
        """Return `data`, or refuse them in other units."""
        theirs, ours = name_and_units(data)[1], name_and_units(self.field)[1]
        if theirs and ours and canonical_units(theirs) != canonical_units(ours):
            raise DataError(f"plot of {role}", f"it is in {theirs}", f"the forecast's {ours}", f"convert the {role}")
        return data

    def _fitting(self, data: xr.DataArray, role: str) -> tuple[xr.DataArray, str, Times]:
        """Return the channel of `data` that this is a forecast of, with its place; the time dimension; the times."""
        told = str(find_dim(data, "time", self.time))
        kept = (told, self.y, self.x)
        times = read_times(data, told, role)
        data = choose(data, role, **self.labels)
        data = data.squeeze([dim for dim in data.dims if dim not in kept and data.sizes[dim] == 1], drop=True)
        data = on_grid(data, self.field, (self.y, self.x), role)
        extra = [str(dim) for dim in data.dims if dim not in kept]
        if extra:
            raise DataError(
                f"plot of {role}",
                f"it has {data.sizes[extra[0]]} of {extra[0]}, which the forecast has not",
                "one of them",
                f"{role} = {role}.isel({extra[0]}=0)",
            )
        data = self._alike(data, role)
        # Its own place, where that is of one time; else that of the forecast, which is on the same grid.
        data = data.drop_vars([name for name, coord in data.coords.items() if told in coord.dims and coord.ndim > 1])
        place = {n: c.variable for n, c in self.field.coords.items() if c.dims and set(c.dims) <= {self.y, self.x}}
        return data.assign_coords({n: c for n, c in place.items() if n not in data.coords}), told, times


def choose_forecast(
    forecast: xr.DataArray,
    init_time: object,
    variable: object,
    channel: object,
    realization: object,
    truth: xr.DataArray | None,
    time: Hashable | None,
    role: str = "forecast",
) -> Chosen:
    """Return one field of a forecast by lead time; of several init times by default that which has most truth."""
    if "lead_time" not in forecast.coords:
        raise DataError(role, f"has the coordinates {sorted(map(str, forecast.coords))}", "lead_time among them")
    if "lead_time" not in forecast.dims:
        forecast = forecast.expand_dims("lead_time")
    forecast, (y, x), channel_name = horizontal(forecast)
    # (row, column) is their order in most files, and not in all.
    with contextlib.suppress(DataError):
        if (str(find_dim(forecast, "y")), str(find_dim(forecast, "x"))) == (x, y):
            y, x = x, y
    if init_time is not None and "init_time" in forecast.coords and "init_time" not in forecast.dims:
        forecast = forecast.expand_dims("init_time")  # so that another one than its own is refused
    if init_time is None and truth is not None and forecast.sizes.get("init_time", 1) > 1:
        init_time = init_time_with_truth(forecast, truth, time)
    one = choose(forecast, role, init_time=init_time, variable=variable, channel=channel)
    if "realization" in one.dims:
        attrs, members = dict(one.attrs), one.sizes["realization"]
        if realization is None:
            one = one.mean("realization")
            # For the title: the mean is smoother than any member.
            by = [str(attrs["model"])] if "model" in attrs else []
            attrs["model"] = ", ".join([*by, f"mean of {members} members"])
        else:
            one = choose(one, role, realization=realization)
        one.attrs = attrs
    return Chosen(one, y, x, time, {"variable": variable, channel_name: channel})


def init_time_with_truth(
    forecast: xr.DataArray, truth: xr.DataArray | xr.Dataset, time: Hashable | None = None
) -> np.datetime64:
    """Return the last init time of an archive whose valid times are all in `truth`, or else that with most of them."""
    init, leads = forecast["init_time"].values, np.atleast_1d(forecast["lead_time"].values)
    counts = nearest(_times(truth, time), valid_times(init, leads, "forecast"))[1].sum(axis=1)
    best = np.flatnonzero(counts == counts.max())
    found: np.datetime64 = init[best[np.argmax(init[best])]]
    return found


def valid_times_without(
    forecast: xr.DataArray, truth: xr.DataArray | xr.Dataset, init_time: Any, time: Hashable | None = None
) -> Times:
    """Return the valid times of the forecast from `init_time` that `truth` lacks."""
    leads = np.atleast_1d(forecast["lead_time"].values)
    valid = valid_times(np.asarray(init_time, dtype="datetime64[ns]"), leads, "forecast")
    return valid[~nearest(_times(truth, time), valid)[1]]


def _times(truth: xr.DataArray | xr.Dataset, time: Hashable | None) -> Times:
    told = find_dim(truth, "time", time)
    if isinstance(truth, xr.Dataset):
        truth = next(variable for variable in with_positions(truth).data_vars.values() if told in variable.dims)
    return read_times(truth, told, "truth")


def is_forecast(data: xr.DataArray | xr.Dataset) -> bool:
    """Say whether `data` are a forecast, and not frames."""
    return LEAD_TIME in data.dims or LEAD_TIME in data.coords


def named_forecasts(forecast: Forecasts, variable: object) -> tuple[dict[str, xr.DataArray], xr.DataArray]:
    """Return forecasts by their names, and the first of them; one that is alone is called forecast."""
    named: Mapping[str, Any]
    named = {"forecast": forecast} if isinstance(forecast, xr.DataArray | xr.Dataset) else dict(forecast)
    if not named:
        raise RecipeError("forecasts", "are empty", "at least one")
    if taken := {"truth", "history"} & set(named):
        raise RecipeError("forecasts", f"one is called {min(taken)}, as another row is", "another name")
    several = {name: one_variable(each, variable) for name, each in named.items()}
    return several, next(iter(several.values()))


def one_variable(data: xr.DataArray | xr.Dataset, variable: object = None) -> xr.DataArray:
    """Return the forecast: of a Dataset, such as one that was read back from a file, the variable that was chosen."""
    if isinstance(data, xr.DataArray):
        return data
    names = [str(name) for name, array in data.data_vars.items() if LEAD_TIME in array.dims]
    if not names:
        found = ", ".join(map(str, data.data_vars)) or "none"
        raise DataError("dataset", f"no variable with {LEAD_TIME} (variables: {found})", expected="a forecast")
    return choose_variable(data, names, variable, "forecast")


def refuse(role: str, other: str, **given: object) -> None:
    """Refuse what only the other of frames and a forecast can have."""
    for name, value in given.items():
        if value is not None:
            raise RecipeError(name, f"given beside {role}", other, f"leave {name}= out")
