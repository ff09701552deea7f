"""Maps of one forecast: history, truth, forecast and error; and an animation."""

from __future__ import annotations

import math
from collections.abc import Hashable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.dims import find_dim
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.plotting.canvas import (
    Map,
    choose,
    clock,
    colour_bar,
    draw,
    fitted,
    label_corner,
    map_of,
    name_and_units,
    new_figure,
    panel,
    panel_size,
    shared_scale,
    value_scale,
    with_units,
)
from sa_nowcast.plotting.film import FORMATS, Picture, write_film
from sa_nowcast.times import nearest, read_times, valid_times
from sa_nowcast.verification.inputs import horizontal, single_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MINUS = "\N{MINUS SIGN}"
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


def _pick(number: int, columns: int) -> list[int]:
    """Return at most `columns` positions of `number`, equally far apart, the last one among them."""
    stride = math.ceil(number / columns)
    return list(range((number - 1) % stride, number, stride))


def plot_forecast(
    forecast: xr.DataArray,
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
    forecast : DataArray, dims ([realization,] [init_time,] [variable,] lead_time, [channel,] y, x)
    truth : DataArray or Dataset, dims (time, [channel,] y, x), optional
        Its frames at the valid times; a time that it lacks stays empty.
    history : DataArray or Dataset, dims (time, [channel,] y, x), optional
        The last frames of it that are not after init time.
    init_time, variable, channel : optional
        What to draw of an archive, of several variables and channels.
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
    MissingLibraryError, StorageError, DataError
        If `coastlines` is True and there is no cartopy, it has none on this computer, or the place is not known.
    """
    if columns < 1:
        raise RecipeError("columns", f"is {columns}", "at least 1")
    one, y, x, name = _one_forecast(forecast, init_time, variable, channel, realization)
    start = one["init_time"].values if "init_time" in one.coords else None
    leads = one["lead_time"].values
    chosen, unit = _pick(leads.size, columns), _unit(leads)
    rows: dict[str, Row] = {}
    truth = None if truth is None else single_array(truth, forecast, time=time)
    if history is not None:
        history = single_array(history, forecast, "history", time)
        rows["history"] = _history(
            history, start, max(len(chosen), 4), unit, time, y, x, **{"variable": variable, name: channel}
        )
    heads = [_span(leads[i], unit) + ("" if start is None else f"\n{clock(start + leads[i], start)}") for i in chosen]
    ahead = [panel(one.isel(lead_time=i), y, x) for i in chosen]
    if truth is not None:
        seen = _observed(truth, start, leads[chosen], time, y, x, **{"variable": variable, name: channel})
        rows["truth"] = list(zip(heads, seen, strict=True))
    rows["forecast"] = list(zip(heads, ahead, strict=True))
    if truth is not None:
        pairs = zip(ahead, rows["truth"], strict=True)
        gaps = [None if other is None else abs(mine - other.values) for mine, (_, other) in pairs]
        rows["|error|"] = list(zip(heads, gaps, strict=True))
    return _grid_of_panels(one, rows, start, map_of(panel(one.isel(lead_time=0), y, x), y, x, coastlines), title)


def _one_forecast(
    forecast: xr.DataArray, init_time: object, variable: object, channel: object, realization: object
) -> tuple[xr.DataArray, str, str, str]:
    if "lead_time" not in forecast.coords:
        raise DataError("forecast", f"has the coordinates {sorted(map(str, forecast.coords))}", "lead_time among them")
    if "lead_time" not in forecast.dims:
        forecast = forecast.expand_dims("lead_time")
    forecast, (y, x), channel_name = horizontal(forecast)
    if init_time is not None and "init_time" in forecast.coords and "init_time" not in forecast.dims:
        forecast = forecast.expand_dims("init_time")  # so that another one than its own is refused
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


def _observed(
    truth: xr.DataArray,
    start: Any,
    leads: npt.NDArray[np.timedelta64],
    time: Hashable | None,
    y: str,
    x: str,
    **labels: object,
) -> list[xr.DataArray | None]:
    """Return the panels of truth at the valid times; None where it has no such time."""
    if start is None:
        raise DataError("forecast", "has no init_time, so that truth cannot be chosen", "the coordinate init_time")
    told = str(find_dim(truth, "time", time))
    truth = choose(truth, "truth", **labels)
    places, there = nearest(read_times(truth, told, "truth"), valid_times(np.asarray(start), leads, "forecast"))
    return [
        panel(truth.isel({told: int(place)}), y, x) if found else None
        for place, found in zip(places, there, strict=True)
    ]


def _history(
    history: xr.DataArray,
    start: Any,
    columns: int,
    unit: tuple[int, str],
    time: Hashable | None,
    y: str,
    x: str,
    **labels: object,
) -> Row:
    told = str(find_dim(history, "time", time))
    history = choose(history, "history", **labels)
    times = read_times(history, told, "history")
    before = np.arange(times.size) if start is None else np.flatnonzero(times <= start)
    if not before.size:
        raise DataError("history", f"has no frame up to {clock(start)}", "frames before the forecast's init_time")
    last = before[np.argsort(times[before])][-columns:]
    start = times[last[-1]] if start is None else start
    return [
        (f"{_span(times[i] - start, unit)}\n{clock(times[i], start)}", panel(history.isel({told: int(i)}), y, x))
        for i in last
    ]


def _grid_of_panels(
    one: xr.DataArray,
    rows: dict[str, Row],
    start: Any,
    where: Map,
    title: str | None,
) -> Figure:
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
    for i, (row, panels) in enumerate(rows.items()):
        for axes, (head, frame) in zip(grid[i], panels, strict=False):
            if frame is None:
                axes.set_axis_off()
                axes.text(0.5, 0.5, f"no {row}", ha="center", va="center", transform=axes.transAxes, color="0.4")
                continue
            images[row == "|error|"] = draw(axes, frame, error_scale if row == "|error|" else scale, where)
            if row == "history" or i == (1 if "history" in rows else 0):
                axes.set_title(head, fontsize=9)
        for axes in grid[i, len(panels) :]:
            axes.set_axis_off()
        grid[i, 0].set_ylabel(row, fontsize=11)
    label_corner(grid[-1, 0], where)
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


def animate(
    forecast: xr.DataArray,
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
) -> Path:
    """Write the forecast as a film, beside the truth where it is given.

    Parameters
    ----------
    forecast, truth, init_time, variable, channel, realization, coastlines, time
        As for :func:`plot_forecast`.
    path : path-like
        Ends with ".gif", or with ".mp4": H.264 by ffmpeg where matplotlib finds it, else by PyAV. A file that is there
        is replaced when the new one is complete.
    frames_per_second : float, default 4

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    RecipeError
        If the name ends otherwise, or something must be chosen.
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
    one, y, x, name = _one_forecast(forecast, init_time, variable, channel, realization)
    start = one["init_time"].values if "init_time" in one.coords else None
    leads = one["lead_time"].values
    films: dict[str, list[xr.DataArray | None]] = {}
    if truth is not None:
        truth = single_array(truth, forecast, time=time)
        films["truth"] = _observed(truth, start, leads, time, y, x, **{"variable": variable, name: channel})
    films["forecast"] = [panel(one.isel(lead_time=i), y, x) for i in range(leads.size)]
    where = map_of(panel(one.isel(lead_time=0), y, x), y, x, coastlines)
    write_film(_pictures(one, films, start, where), target, frames_per_second)
    return target


def _pictures(one: xr.DataArray, films: dict[str, list[xr.DataArray | None]], start: Any, where: Map) -> list[Picture]:
    """Return the animation's pictures; the layout is made once, so that nothing moves but the data."""
    shown = [frame for film in films.values() for frame in film if frame is not None]
    scale = shared_scale(one, [frame.values for frame in shown])
    side, height = panel_size(where, 3.6)
    figure = new_figure(len(films) * side + 1.4, height + 1.1, "compressed")
    # Imported behind new_figure, which says how to install matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(films), squeeze=False)[0]
    images = []
    for axes, (name, film) in zip(grid, films.items(), strict=True):
        first = next((frame for frame in film if frame is not None), shown[0])
        images.append(draw(axes, first, scale, where))
        axes.set_title(name, fontsize=10)
    label_corner(grid[0], where)
    colour_bar(figure, images[-1], scale, list(grid), (len(films) * side, height))
    pictures, unit = [], _unit(one["lead_time"].values)
    head = fitted(_title(one, scale.label, start), figure)
    title = figure.suptitle(f"{head}\n ", fontsize=11)
    for i, lead in enumerate(one["lead_time"].values):
        valid = "" if start is None else f", valid {clock(start + lead)}"
        title.set_text(f"{head}\n{_span(lead, unit)}{valid}")
        for image, film in zip(images, films.values(), strict=True):
            frame = film[i]
            values = np.full(shown[0].shape, np.nan) if frame is None else frame.values
            image.set_data(np.ma.masked_invalid(values))
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        pictures.append(pixels[..., :3].copy())
        figure.set_layout_engine("none")
    return pictures
