"""Maps of one forecast: history, truth, forecast and error; and an animation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata.dims import LEAD_TIME, canonical_units, find_dim, with_positions
from sa_nowcast.plotting.animation import FORMATS, write_animation
from sa_nowcast.plotting.canvas import Panel, figure_of, moving_pictures
from sa_nowcast.plotting.frames import frames_to_draw
from sa_nowcast.plotting.maps import Map, map_of, panel
from sa_nowcast.plotting.scales import (
    MINUS,
    choose,
    choose_variable,
    clock,
    name_and_units,
    require_columns,
    shared_scale,
    value_scale,
    with_units,
)
from sa_nowcast.times import Times, nearest, read_times, valid_times
from sa_nowcast.verification.inputs import horizontal, on_grid, single_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = list[tuple[str, xr.DataArray | None]]
Forecasts = xr.DataArray | xr.Dataset | Mapping[str, xr.DataArray | xr.Dataset]
"""A forecast, or several by their names."""
ERROR = "|error|"


def _unit(leads: npt.NDArray[np.timedelta64]) -> tuple[int, str]:
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


def _span(delta: Any, unit: tuple[int, str]) -> str:
    number = float(delta / np.timedelta64(1, "s")) / unit[0]
    if not number:
        return "start"
    return f"{'+' if number > 0 else MINUS}{abs(number):g} {unit[1]}"


def pick(number: int, columns: int) -> list[int]:
    """Return at most `columns` positions of `number`, equally far apart, the last one among them."""
    stride = math.ceil(number / columns)
    return list(range((number - 1) % stride, number, stride))


def plot_forecast(
    forecast: Forecasts,
    truth: xr.DataArray | xr.Dataset | None = None,
    history: xr.DataArray | xr.Dataset | None = None,
    *,
    init_time: object = None,
    variable: object = None,
    channel: object = None,
    realization: object = None,
    columns: int = 6,
    coastlines: bool | None = None,
    time: Hashable | None = None,
    title: str | None = None,
) -> Figure:
    """Draw history, truth, forecast and absolute error, one column for each lead time.

    Parameters
    ----------
    forecast : DataArray or Dataset, dims ([realization,] [init_time,] [variable,] lead_time, [channel,] y, x)
        Of a Dataset the only variable with lead times, or the one that `variable` names. Several forecasts from one
        init time, as a mapping of their names, have a row each: lead times and the error are those of the first. The
        others are in its units and on its grid; a panel says where one has no such lead time.
    truth : DataArray or Dataset, dims (time, [channel,] y, x), optional
        Its frames at the valid times, in the forecast's units and on its grid; a panel says where it has none.
    history : DataArray or Dataset, dims (time, [channel,] y, x), optional
        The last frames of it that are not after init time.
    init_time : datetime-like, optional
        Which forecast of an archive. By default, where there is truth, the last one whose valid times are all in it,
        or else the one with most of them in it.
    variable, channel : optional
        What to draw of several variables and channels.
    realization : optional
        The member to draw; by default the mean of an ensemble.
    columns : int, default 6
        At most as many lead times, equally far apart, the last one among them.
    coastlines : bool, optional
        True: draw them, or say what is missing. By default they are drawn where cartopy is installed and has them on
        this computer, and the forecast has latitude and longitude or a grid mapping. Nothing is ever downloaded.
    time : hashable, optional
        The time dimension of `truth` and `history`; found by its CF attributes otherwise.
    title : str, optional
        In place of variable, units and init time.

    Returns
    -------
    matplotlib.figure.Figure
        History, truth and forecast share one colour scale, the error has its own. Rain rates have discrete levels
        spaced like a logarithm. Missing pixels are grey. North is up.

    Raises
    ------
    RecipeError
        If the forecast is an archive and no init_time is chosen, or a variable or channel is not chosen; or if there is
        none among several, or one is called as another row is.
    DataError
        If truth, history or another forecast are in other units or on another grid than the forecast.
    MissingLibraryError, StorageError, DataError
        If `coastlines` is True and there is no cartopy, it has none on this computer, or the place is not known.
    """
    require_columns(columns)
    several, given = _named(forecast, variable)
    truth = None if truth is None else single_array(truth, given, time=time)
    labels = (variable, channel, realization)
    one = _chosen(given, init_time, *labels, truth, time)
    chosen, unit, start = pick(one.leads.size, columns), _unit(one.leads), one.start
    rows: dict[str, Row] = {}
    if history is not None:
        history = single_array(history, given, "history", time)
        rows["history"] = one.before(history, max(len(chosen), 4), unit)
    leads = one.leads[chosen]
    heads = [_span(lead, unit) + ("" if start is None else f"\n{clock(start + lead, start)}") for lead in leads]
    seen = None if truth is None else one.observed(truth, leads)
    if seen is not None:
        rows["truth"] = list(zip(heads, seen, strict=True))
    ahead = one.panels(chosen)
    for name, other in several.items():
        its = ahead if other is given else one.beside(other, name, leads, *labels)
        rows[name] = list(zip(heads, its, strict=True))
    if seen is not None and any(frame is not None for frame in seen):
        pairs = zip(ahead, seen, strict=True)
        errors = [None if other is None else abs(mine - other.values) for mine, other in pairs]
        first = next(iter(several))
        rows[ERROR if len(several) == 1 else f"{ERROR}, {first}"] = list(zip(heads, errors, strict=True))
    return grid_of_panels(
        one.field, rows, start, map_of(ahead[0], one.y, one.x, coastlines), title, by_model=len(several) == 1
    )


@dataclass(frozen=True)
class _Chosen:
    """The forecast that is drawn, (lead_time, y, x), with what chooses the same of truth and history."""

    field: xr.DataArray
    y: str
    x: str
    time: Hashable | None
    labels: Mapping[str, object]

    @property
    def start(self) -> Any:
        return self.field["init_time"].values if "init_time" in self.field.coords else None

    @property
    def leads(self) -> npt.NDArray[np.timedelta64]:
        leads: npt.NDArray[np.timedelta64] = self.field["lead_time"].values
        return leads

    def panels(self, places: list[int] | range) -> list[xr.DataArray]:
        return [panel(self.field.isel(lead_time=i), self.y, self.x) for i in places]

    def observed(self, truth: xr.DataArray, leads: npt.NDArray[np.timedelta64]) -> list[xr.DataArray | None]:
        """Return the panels of truth at the valid times; None where it has no such time."""
        if self.start is None:
            raise DataError("forecast", "has no init_time, so that truth cannot be chosen", "the coordinate init_time")
        truth, told, times = self._fitting(truth, "truth")
        places, there = nearest(times, valid_times(self.start, leads, "forecast"))
        return [
            panel(truth.isel({told: int(place)}), self.y, self.x) if found else None
            for place, found in zip(places, there, strict=True)
        ]

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
        heads = [f"{_span(times[i] - start, unit)}\n{clock(times[i], start)}" for i in last]
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
        its = _chosen(other, self.start, variable, channel, realization, None, None, name)
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


def _chosen(
    forecast: xr.DataArray,
    init_time: object,
    variable: object,
    channel: object,
    realization: object,
    truth: xr.DataArray | None,
    time: Hashable | None,
    role: str = "forecast",
) -> _Chosen:
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
            attrs["model"] = ", ".join([str(attrs["model"])] * ("model" in attrs) + [f"mean of {members} members"])
        else:
            one = choose(one, role, realization=realization)
        one.attrs = attrs
    return _Chosen(one, y, x, time, {"variable": variable, channel_name: channel})


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


def grid_of_panels(
    one: xr.DataArray, rows: Mapping[str, Row], start: Any, where: Map, title: str | None, *, by_model: bool = True
) -> Figure:
    """Draw rows of frames by name; that of errors has a scale of its own, the others share the one of `one`.

    A title of its own says whose forecast `one` is where it is `by_model`.
    """
    values = {name: [frame.values for _, frame in row if frame is not None] for name, row in rows.items()}
    wrong = [frame for name, frames in values.items() if name.startswith(ERROR) for frame in frames]
    scale = shared_scale(
        one, [frame for name, frames in values.items() if not name.startswith(ERROR) for frame in frames]
    )
    label = with_units(ERROR, name_and_units(one)[1])
    errors = value_scale(wrong, label, "magma_r", from_zero=True)
    wide = max(len(row) for row in rows.values())
    headed = list(rows)[: 1 + ("history" in rows)]
    panels = []
    for name, row in rows.items():
        its = errors if name.startswith(ERROR) else scale
        note = "no truth" if its is errors else f"no {name}"
        drawn = [Panel(its, frame, head if name in headed else "", note) for head, frame in row]
        panels.append(drawn + [Panel(its)] * (wide - len(row)))
    figure, grid, _ = figure_of(
        panels,
        where,
        title if title is not None else _title(one, scale.label, start, by_model),
        side=2.1,
        margins=(2.2, 0.4 * len(headed) + 0.55),
        gap=0.12,
    )
    for axes, name in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(name, fontsize=11)
    return figure


def _title(one: xr.DataArray, text: str, start: Any, by_model: bool = True) -> str:
    extra = [
        f"{dim} {one[dim].item()}" for dim in ("channel", "realization") if dim in one.coords and not one[dim].ndim
    ]
    parts = [text, *extra]
    if start is not None:
        parts.append(f"from {clock(start)}")
    if by_model and one.attrs.get("model"):
        parts.append(str(one.attrs["model"]))
    return ", ".join(parts)


def is_forecast(data: xr.DataArray | xr.Dataset) -> bool:
    """Say whether `data` are a forecast, and not frames."""
    return LEAD_TIME in data.dims or LEAD_TIME in data.coords


def _named(forecast: Forecasts, variable: object) -> tuple[dict[str, xr.DataArray], xr.DataArray]:
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


def animate(
    forecast: Forecasts,
    path: str | PathLike[str],
    truth: xr.DataArray | xr.Dataset | None = None,
    *,
    init_time: object = None,
    variable: object = None,
    channel: object = None,
    realization: object = None,
    coastlines: bool | None = None,
    time: Hashable | None = None,
    frames_per_second: float = 4.0,
    last: int | None = None,
    y: Hashable | None = None,
    x: Hashable | None = None,
) -> Path:
    """Write forecasts as an animation, beside the truth where it is given; or the last of observed frames.

    Parameters
    ----------
    forecast : DataArray, Dataset, or mapping of names to them
        A forecast, or several side by side, as for :func:`plot_forecast`; or frames, as for :func:`plot_frames`.
    truth, init_time, variable, channel, realization, coastlines, time
        As for :func:`plot_forecast`, or for :func:`plot_frames`. At a valid time that truth lacks its panel says so.
    path : path-like
        Ends with ".gif", or with ".mp4": H.264 by ffmpeg where matplotlib finds it, else by PyAV. A file that is there
        is replaced when the new one is complete.
    frames_per_second : float, default 4
    last : int, optional
        Of frames, how many; by default 24.
    y, x : hashable, optional
        Of frames, the horizontal dimensions, where they cannot be found.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    RecipeError
        If the name ends otherwise, or something must be chosen.
    DataError
        If truth or another forecast is in other units or on another grid than the forecast, or frames cannot be read as
        such.
    StorageError
        If the file cannot be written.
    MissingLibraryError
        If the file is an MP4 and there is neither ffmpeg nor PyAV.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise RecipeError("animate", f"the file is {target.name}", f"a name that ends with {' or '.join(FORMATS)}")
    if not frames_per_second > 0:
        raise RecipeError("animate", f"frames_per_second is {frames_per_second:g}", "above 0")
    if isinstance(forecast, xr.DataArray | xr.Dataset) and not is_forecast(forecast):
        refuse("frames", "a forecast", truth=truth, realization=realization)
        seen = frames_to_draw(forecast, 24 if last is None else last, init_time, variable, channel, time, y, x)
        write_animation(seen.pictures(coastlines), target, frames_per_second)
        return target
    refuse("a forecast", "frames", last=last, y=y, x=x)
    several, given = _named(forecast, variable)
    truth = None if truth is None else single_array(truth, given, time=time)
    labels = (variable, channel, realization)
    one = _chosen(given, init_time, *labels, truth, time)
    leads, start = one.leads, one.start
    shown: dict[str, list[xr.DataArray | None]] = {} if truth is None else {"truth": one.observed(truth, leads)}
    ahead = one.panels(range(leads.size))
    for name, other in several.items():
        shown[name] = list(ahead) if other is given else one.beside(other, name, leads, *labels)
    where = map_of(ahead[0], one.y, one.x, coastlines)
    present = [frame.values for frames in shown.values() for frame in frames if frame is not None]
    scale, unit = shared_scale(one.field, present), _unit(leads)
    heads = [_span(lead, unit) + ("" if start is None else f", valid {clock(start + lead)}") for lead in leads]
    title = _title(one.field, scale.label, start, len(several) == 1)
    write_animation(moving_pictures(shown, heads, title, scale, where), target, frames_per_second)
    return target
