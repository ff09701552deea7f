"""Maps of one forecast: history, truth, forecast and error; and an animation."""

from __future__ import annotations

import io
import math
from collections.abc import Hashable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.dims import find_dim
from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.plotting.canvas import (
    Scale,
    choose,
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
from sa_nowcast.verification.inputs import horizontal, single_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MINUS = "\N{MINUS SIGN}"
BAR_WIDTH = 0.19  # inches
Row = list[tuple[str, xr.DataArray | None]]


def _clock(time: Any, day: Any = None) -> str:
    minute = np.datetime64(time, "s")
    text = str(np.datetime_as_string(minute)).replace("T", " ")
    text = text.removesuffix(":00")
    if day is not None and text[:10] == str(np.datetime64(day, "D")):
        return text[11:]
    return text


def _unit(leads: npt.NDArray[np.timedelta64]) -> tuple[int, str]:
    """Return the largest of hour, minute and second that all lead times are whole multiples of, in seconds."""
    seconds = leads.astype("timedelta64[s]").astype(np.int64)
    return next((size, name) for size, name in ((3600, "h"), (60, "min"), (1, "s")) if not (seconds % size).any())


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
    heads = [_span(leads[i], unit) + ("" if start is None else f"\n{_clock(start + leads[i], start)}") for i in chosen]
    ahead = [panel(one.isel(lead_time=i), y, x) for i in chosen]
    if truth is not None:
        seen = _observed(truth, start, leads[chosen], time, y, x, **{"variable": variable, name: channel})
        rows["truth"] = list(zip(heads, seen, strict=True))
    rows["forecast"] = list(zip(heads, ahead, strict=True))
    if truth is not None:
        pairs = zip(ahead, rows["truth"], strict=True)
        gaps = [None if other is None else abs(mine - other.values) for mine, (_, other) in pairs]
        rows["|error|"] = list(zip(heads, gaps, strict=True))
    return _grid_of_panels(one, rows, start, y, x, title)


def _one_forecast(
    forecast: xr.DataArray, init_time: object, variable: object, channel: object, realization: object
) -> tuple[xr.DataArray, str, str, str]:
    if "lead_time" not in forecast.coords:
        raise DataError("forecast", f"has the coordinates {sorted(map(str, forecast.coords))}", "lead_time among them")
    if "lead_time" not in forecast.dims:
        forecast = forecast.expand_dims("lead_time")
    forecast, (y, x), channel_name = horizontal(forecast)
    one = choose(forecast, init_time=init_time, variable=variable, channel=channel)
    if "realization" in one.dims:
        attrs = one.attrs
        one = one.mean("realization") if realization is None else choose(one, realization=realization)
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
    places = [np.flatnonzero(truth[told].values == start + lead) for lead in leads]
    return [panel(truth.isel({told: int(place[0])}), y, x) if place.size else None for place in places]


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
    times = history[told].values
    before = np.arange(times.size) if start is None else np.flatnonzero(times <= start)
    if not before.size:
        raise DataError("history", f"has no frame up to {_clock(start)}", "frames before the forecast's init_time")
    last = before[np.argsort(times[before])][-columns:]
    start = times[last[-1]] if start is None else start
    return [
        (f"{_span(times[i] - start, unit)}\n{_clock(times[i], start)}", panel(history.isel({told: int(i)}), y, x))
        for i in last
    ]


def _grid_of_panels(
    one: xr.DataArray,
    rows: dict[str, Row],
    start: Any,
    y: str,
    x: str,
    title: str | None,
) -> Figure:
    shown = [frame for name, row in rows.items() if name != "|error|" for _, frame in row if frame is not None]
    wide = max(len(row) for row in rows.values())
    where = map_of(shown[0], y, x)
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
        _colorbar(figure, image, its, panels_of, (wide * side, len(panels_of) // wide * height))
    figure.suptitle(fitted(title if title is not None else _title(one, scale.label, start), figure), fontsize=11)
    return figure


def _colorbar(figure: Figure, image: Any, scale: Scale, panels: list[Axes], size: tuple[float, float]) -> None:
    """Put a bar beside `panels`, which together are `size` inches wide and high, over their whole height."""
    width, height = size
    bar = figure.colorbar(
        image,
        ax=panels,
        extend=scale.extend,
        extendfrac=0.03,
        ticks=scale.ticks,
        fraction=BAR_WIDTH / width,
        pad=0.02,
        aspect=height / BAR_WIDTH,
    )
    bar.set_label(scale.label)
    if scale.ticks is not None:
        bar.ax.set_yticklabels([f"{tick:g}" for tick in scale.ticks])


def _title(one: xr.DataArray, text: str, start: Any) -> str:
    extra = [
        f"{dim} {one[dim].item()}"
        for dim in ("variable", "channel", "realization")
        if dim in one.coords and not one[dim].ndim
    ]
    parts = [text, *extra]
    if start is not None:
        parts.append(f"from {_clock(start)}")
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
    time: Hashable | None = None,
    frames_per_second: float = 4.0,
) -> Path:
    """Write the forecast as an animated GIF, beside the truth where it is given.

    Parameters
    ----------
    forecast, truth, init_time, variable, channel, realization, time
        As for :func:`plot_forecast`.
    path : path-like
        Ends with ".gif". A file that is there is replaced when the new one is complete.
    frames_per_second : float, default 4

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    RecipeError
        If the name does not end with ".gif", or something must be chosen.
    StorageError
        If the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".gif":
        raise RecipeError("animate", f"the file is {target.name}", "a name that ends with .gif")
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
    pictures = _pictures(one, films, start, y, x)
    stream = io.BytesIO()
    pictures[0].save(
        stream,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / frames_per_second),
        loop=0,
    )
    partial = target.with_name(f".{target.name}.part")
    try:
        partial.write_bytes(stream.getvalue())
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(str(target), f"cannot be written: {error.strerror or error}") from error
    return target


def _pictures(one: xr.DataArray, films: dict[str, list[xr.DataArray | None]], start: Any, y: str, x: str) -> list[Any]:
    """Return the animation's pictures; the layout is made once, so that nothing moves but the data."""
    shown = [frame for film in films.values() for frame in film if frame is not None]
    where = map_of(shown[0], y, x)
    scale = shared_scale(one, [frame.values for frame in shown])
    side, height = panel_size(where, 3.6)
    figure = new_figure(len(films) * side + 1.4, height + 1.1, "compressed")
    # Imported behind new_figure, which says how to install matplotlib; both come with it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(films), squeeze=False)[0]
    images = []
    for axes, (name, film) in zip(grid, films.items(), strict=True):
        first = next((frame for frame in film if frame is not None), shown[0])
        images.append(draw(axes, first, scale, where))
        axes.set_title(name, fontsize=10)
    label_corner(grid[0], where)
    _colorbar(figure, images[-1], scale, list(grid), (len(films) * side, height))
    pictures, unit = [], _unit(one["lead_time"].values)
    head = fitted(_title(one, scale.label, start), figure)
    title = figure.suptitle(f"{head}\n ", fontsize=11)
    for i, lead in enumerate(one["lead_time"].values):
        valid = "" if start is None else f", valid {_clock(start + lead)}"
        title.set_text(f"{head}\n{_span(lead, unit)}{valid}")
        for image, film in zip(images, films.values(), strict=True):
            frame = film[i]
            values = np.full(shown[0].shape, np.nan) if frame is None else frame.values
            image.set_data(np.ma.masked_invalid(values))
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        pictures.append(Image.fromarray(pixels).convert("RGB"))
        figure.set_layout_engine("none")
    return pictures
