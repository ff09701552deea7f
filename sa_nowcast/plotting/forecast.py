"""Maps of one forecast: history, truth, forecast and error; and an animation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata.dims import LEAD_TIME, canonical_units, find_dim, with_positions
from sa_nowcast.plotting.canvas import (
    MINUS,
    Map,
    choose,
    clock,
    colour_bar,
    draw,
    fitted,
    label_corner,
    map_of,
    moving_pictures,
    name_and_units,
    new_figure,
    panel,
    panel_size,
    shared_scale,
    value_scale,
    with_units,
)
from sa_nowcast.plotting.film import FORMATS, write_film
from sa_nowcast.plotting.frames import frames_to_draw
from sa_nowcast.times import Times, nearest, read_times, valid_times
from sa_nowcast.verification.inputs import horizontal, on_grid, single_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = list[tuple[str, xr.DataArray | None]]


def _unit(leads: npt.NDArray[np.timedelta64]) -> tuple[int, str]:
    """Return the largest of day, hour, minute and second that all lead times are whole multiples of, in seconds.

    Fractions of a second, as films have, are seconds.
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
    forecast: xr.DataArray | xr.Dataset,
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
        Of a Dataset the only variable with lead times, or the one that `variable` names.
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
        If the forecast is an archive and no init_time is chosen, or a variable or channel is not chosen.
    DataError
        If truth or history are in other units or on another grid than the forecast.
    MissingLibraryError, StorageError, DataError
        If `coastlines` is True and there is no cartopy, it has none on this computer, or the place is not known.
    """
    if columns < 1:
        raise RecipeError("columns", f"is {columns}", "at least 1")
    forecast = one_variable(forecast, variable)
    truth = None if truth is None else single_array(truth, forecast, time=time)
    one, y, x, name = _one_forecast(forecast, init_time, variable, channel, realization, truth, time)
    start = one["init_time"].values if "init_time" in one.coords else None
    leads = one["lead_time"].values
    chosen, unit = pick(leads.size, columns), _unit(leads)
    rows: dict[str, Row] = {}
    labels = {"variable": variable, name: channel}
    if history is not None:
        history = single_array(history, forecast, "history", time)
        rows["history"] = _history(history, one, max(len(chosen), 4), unit, time, y, x, labels)
    heads = [_span(leads[i], unit) + ("" if start is None else f"\n{clock(start + leads[i], start)}") for i in chosen]
    ahead = [panel(one.isel(lead_time=i), y, x) for i in chosen]
    if truth is not None:
        seen = _observed(truth, one, leads[chosen], time, y, x, labels)
        rows["truth"] = list(zip(heads, seen, strict=True))
    rows["forecast"] = list(zip(heads, ahead, strict=True))
    if truth is not None:
        pairs = zip(ahead, rows["truth"], strict=True)
        gaps = [None if other is None else abs(mine - other.values) for mine, (_, other) in pairs]
        if any(gap is not None for gap in gaps):
            rows["|error|"] = list(zip(heads, gaps, strict=True))
    return grid_of_panels(one, rows, start, map_of(ahead[0], y, x, coastlines), title)


def _one_forecast(
    forecast: xr.DataArray,
    init_time: object,
    variable: object,
    channel: object,
    realization: object,
    truth: xr.DataArray | None,
    time: Hashable | None,
) -> tuple[xr.DataArray, str, str, str]:
    if "lead_time" not in forecast.coords:
        raise DataError("forecast", f"has the coordinates {sorted(map(str, forecast.coords))}", "lead_time among them")
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
    one = choose(forecast, init_time=init_time, variable=variable, channel=channel)
    if "realization" in one.dims:
        attrs, members = dict(one.attrs), one.sizes["realization"]
        if realization is None:
            one = one.mean("realization")
            # For the title: the mean is smoother than any member.
            attrs["model"] = ", ".join([str(attrs["model"])] * ("model" in attrs) + [f"mean of {members} members"])
        else:
            one = choose(one, realization=realization)
        one.attrs = attrs
    return one, y, x, channel_name


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


def _fitting(
    data: xr.DataArray, one: xr.DataArray, role: str, time: Hashable | None, y: str, x: str, labels: dict[str, object]
) -> tuple[xr.DataArray, str, Times]:
    """Return the channel of `data` that `one` is a forecast of, with its place, the time dimension, and the times."""
    told = str(find_dim(data, "time", time))
    times = read_times(data, told, role)
    data = choose(data, role, **labels)
    data = data.squeeze([dim for dim in data.dims if dim not in (told, y, x) and data.sizes[dim] == 1], drop=True)
    data = on_grid(data, one, (y, x), role)
    extra = [str(dim) for dim in data.dims if dim not in (told, y, x)]
    if extra:
        raise DataError(
            f"plot of {role}",
            f"it has {data.sizes[extra[0]]} of {extra[0]}, which the forecast has not",
            "one of them",
            f"{role} = {role}.isel({extra[0]}=0)",
        )
    theirs, ours = name_and_units(data)[1], name_and_units(one)[1]
    if theirs and ours and canonical_units(theirs) != canonical_units(ours):
        raise DataError(f"plot of {role}", f"it is in {theirs}", f"the forecast's {ours}", f"convert the {role}")
    # Its own place, where that is of one time; else that of the forecast, which is on the same grid.
    data = data.drop_vars([name for name, coord in data.coords.items() if told in coord.dims and coord.ndim > 1])
    own = {n: c.variable for n, c in one.coords.items() if c.dims and set(c.dims) <= {y, x} and n not in data.coords}
    return data.assign_coords(own), told, times


def _observed(
    truth: xr.DataArray,
    one: xr.DataArray,
    leads: npt.NDArray[np.timedelta64],
    time: Hashable | None,
    y: str,
    x: str,
    labels: dict[str, object],
) -> list[xr.DataArray | None]:
    """Return the panels of truth at the valid times; None where it has no such time."""
    if "init_time" not in one.coords:
        raise DataError("forecast", "has no init_time, so that truth cannot be chosen", "the coordinate init_time")
    truth, told, times = _fitting(truth, one, "truth", time, y, x, labels)
    places, there = nearest(times, valid_times(one["init_time"].values, leads, "forecast"))
    return [
        panel(truth.isel({told: int(place)}), y, x) if found else None
        for place, found in zip(places, there, strict=True)
    ]


def _history(
    history: xr.DataArray,
    one: xr.DataArray,
    columns: int,
    unit: tuple[int, str],
    time: Hashable | None,
    y: str,
    x: str,
    labels: dict[str, object],
) -> Row:
    start = one["init_time"].values if "init_time" in one.coords else None
    history, told, times = _fitting(history, one, "history", time, y, x, labels)
    before = np.arange(times.size) if start is None else np.flatnonzero(times <= start)
    if not before.size:
        raise DataError("history", f"has no frame up to {clock(start)}", "frames before the forecast's init_time")
    last = before[np.argsort(times[before])][-columns:]
    start = times[last[-1]] if start is None else start
    return [
        (f"{_span(times[i] - start, unit)}\n{clock(times[i], start)}", panel(history.isel({told: int(i)}), y, x))
        for i in last
    ]


def grid_of_panels(
    one: xr.DataArray,
    rows: dict[str, Row],
    start: Any,
    where: Map,
    title: str | None,
) -> Figure:
    """Draw named rows of panels with one colour scale, and one of their own for errors."""
    shown = [frame for name, row in rows.items() if name != "|error|" for _, frame in row if frame is not None]
    wide = max(len(row) for row in rows.values())
    side, height = panel_size(where, 2.1)
    figure = new_figure(
        wide * side + 2.2, len(rows) * (height + 0.12) + 0.4 * (1 + ("history" in rows)) + 0.9, "compressed"
    )
    scale = shared_scale(one, [frame.values for frame in shown])
    units = name_and_units(one)[1]
    errors = [frame.values for _, frame in rows.get("|error|", []) if frame is not None]
    error_scale = value_scale(errors, with_units("|error|", units), "magma_r", from_zero=True)
    grid = figure.subplots(len(rows), wide, squeeze=False)
    images: dict[bool, Any] = {}
    drawn = grid[0, 0]
    for i, (row, panels) in enumerate(rows.items()):
        for axes, (head, frame) in zip(grid[i], panels, strict=False):
            if row == "history" or i == (1 if "history" in rows else 0):
                axes.set_title(head, fontsize=9)
            if frame is None:
                axes.set(xticks=[], yticks=[], facecolor="none")
                axes.spines[:].set_visible(False)
                axes.text(0.5, 0.5, "no truth", ha="center", va="center", transform=axes.transAxes, color="0.4")
                continue
            images[row == "|error|"] = draw(axes, frame, error_scale if row == "|error|" else scale, where)
            drawn = axes if axes is grid[i, 0] else drawn
        for axes in grid[i, len(panels) :]:
            axes.set_axis_off()
        grid[i, 0].set_ylabel(row, fontsize=11)
    label_corner(drawn, where)
    upper = [axes for (row, _), line in zip(rows.items(), grid, strict=True) if row != "|error|" for axes in line]
    bars = [(images[False], scale, upper)]
    if True in images:
        bars.append((images[True], error_scale, list(grid[-1])))
    for image, its, panels_of in bars:
        colour_bar(figure, image, its, panels_of, (wide * side, len(panels_of) // wide * height))
    figure.suptitle(fitted(title if title is not None else _title(one, scale.label, start), figure), fontsize=11)
    return figure


def _title(one: xr.DataArray, text: str, start: Any) -> str:
    extra = [
        f"{dim} {one[dim].item()}" for dim in ("channel", "realization") if dim in one.coords and not one[dim].ndim
    ]
    parts = [text, *extra]
    if start is not None:
        parts.append(f"from {clock(start)}")
    if one.attrs.get("model"):
        parts.append(str(one.attrs["model"]))
    return ", ".join(parts)


def is_forecast(data: xr.DataArray | xr.Dataset) -> bool:
    """Say whether `data` are a forecast, and not frames."""
    return LEAD_TIME in data.dims or LEAD_TIME in data.coords


def one_variable(data: xr.DataArray | xr.Dataset, variable: object = None) -> xr.DataArray:
    """Return the forecast: of a Dataset, such as one that was read back from a file, the variable that was chosen.

    Raises
    ------
    DataError
        If the Dataset holds no forecast.
    RecipeError
        If it holds more than one, and none of them is chosen.
    """
    if isinstance(data, xr.DataArray):
        return data
    names = [str(name) for name, array in data.data_vars.items() if LEAD_TIME in array.dims]
    if not names:
        found = ", ".join(map(str, data.data_vars)) or "none"
        raise DataError("dataset", f"no variable with {LEAD_TIME} (variables: {found})", expected="a forecast")
    if variable is not None and variable not in names:
        raise RecipeError("plot of forecast", f"variable {variable} is not in it", f"one of {', '.join(names)}")
    if variable is None and len(names) > 1:
        raise RecipeError(
            "plot of forecast",
            f"it has {len(names)} variables and none is chosen",
            f"one of {', '.join(names)}",
            f"pass variable={names[0]!r}",
        )
    return data[names[0] if variable is None else str(variable)]


def refuse(role: str, other: str, **given: object) -> None:
    """Refuse what only the other of frames and a forecast can have."""
    for name, value in given.items():
        if value is not None:
            raise RecipeError(name, f"given beside {role}", other, f"leave {name}= out")


def animate(
    forecast: xr.DataArray | xr.Dataset,
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
    """Write a forecast as an animation, beside the truth where it is given; or the last of observed frames.

    Parameters
    ----------
    forecast : DataArray or Dataset
        A forecast, as for :func:`plot_forecast`; or frames, as for :func:`plot_frames`.
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
        If truth is in other units or on another grid than the forecast, or frames cannot be read as such.
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
    if not is_forecast(forecast):
        refuse("frames", "a forecast", truth=truth, realization=realization)
        seen = frames_to_draw(forecast, 24 if last is None else last, init_time, variable, channel, time, y, x)
        write_film(seen.pictures(coastlines), target, frames_per_second)
        return target
    refuse("a forecast", "frames", last=last, y=y, x=x)
    forecast = one_variable(forecast, variable)
    truth = None if truth is None else single_array(truth, forecast, time=time)
    one, rows, columns, name = _one_forecast(forecast, init_time, variable, channel, realization, truth, time)
    start = one["init_time"].values if "init_time" in one.coords else None
    leads = one["lead_time"].values
    films: dict[str, list[xr.DataArray | None]] = {}
    if truth is not None:
        films["truth"] = _observed(truth, one, leads, time, rows, columns, {"variable": variable, name: channel})
    ahead = [panel(one.isel(lead_time=i), rows, columns) for i in range(leads.size)]
    films["forecast"] = list(ahead)
    where = map_of(ahead[0], rows, columns, coastlines)
    scale = shared_scale(one, [frame.values for film in films.values() for frame in film if frame is not None])
    unit = _unit(leads)
    heads = [_span(lead, unit) + ("" if start is None else f", valid {clock(start + lead)}") for lead in leads]
    write_film(moving_pictures(films, heads, _title(one, scale.label, start), scale, where), target, frames_per_second)
    return target
