"""Maps of one forecast: history, truth, forecast and error; and an animation."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.plotting.animation import FORMATS, write_animation
from sa_nowcast.plotting.canvas import Panel, figure_of, moving_pictures
from sa_nowcast.plotting.chosen import (
    Forecasts,
    Row,
    choose_forecast,
    is_forecast,
    named_forecasts,
    refuse,
    span,
    unit_of,
)
from sa_nowcast.plotting.frames import frames_to_draw
from sa_nowcast.plotting.maps import Map, map_of
from sa_nowcast.plotting.scales import (
    clock,
    name_and_units,
    require_columns,
    shared_scale,
    value_scale,
    with_units,
)
from sa_nowcast.verification.inputs import single_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERROR = "|error|"


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
    several, given = named_forecasts(forecast, variable)
    truth = None if truth is None else single_array(truth, given, time=time)
    labels = (variable, channel, realization)
    one = choose_forecast(given, init_time, *labels, truth, time)
    chosen, unit, start = pick(one.leads.size, columns), unit_of(one.leads), one.start
    rows: dict[str, Row] = {}
    if history is not None:
        history = single_array(history, given, "history", time)
        rows["history"] = one.before(history, max(len(chosen), 4), unit)
    leads = one.leads[chosen]
    heads = [span(lead, unit) + ("" if start is None else f"\n{clock(start + lead, start)}") for lead in leads]
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
        title if title is not None else title_of(one, scale.label, start, by_model),
        side=2.1,
        margins=(2.2, 0.4 * len(headed) + 0.55),
        gap=0.12,
    )
    for axes, name in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(name, fontsize=11)
    return figure


def title_of(one: xr.DataArray, text: str, start: Any, by_model: bool = True) -> str:
    """Return what stands over a picture: what is drawn, of which channel and member, from when, and by which model."""
    extra = [
        f"{dim} {one[dim].item()}" for dim in ("channel", "realization") if dim in one.coords and not one[dim].ndim
    ]
    parts = [text, *extra]
    if start is not None:
        parts.append(f"from {clock(start)}")
    if by_model and one.attrs.get("model"):
        parts.append(str(one.attrs["model"]))
    return ", ".join(parts)


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
    several, given = named_forecasts(forecast, variable)
    truth = None if truth is None else single_array(truth, given, time=time)
    labels = (variable, channel, realization)
    one = choose_forecast(given, init_time, *labels, truth, time)
    leads, start = one.leads, one.start
    shown: dict[str, list[xr.DataArray | None]] = {} if truth is None else {"truth": one.observed(truth, leads)}
    ahead = one.panels(range(leads.size))
    for name, other in several.items():
        shown[name] = list(ahead) if other is given else one.beside(other, name, leads, *labels)
    where = map_of(ahead[0], one.y, one.x, coastlines)
    present = [frame.values for frames in shown.values() for frame in frames if frame is not None]
    scale, unit = shared_scale(one.field, present), unit_of(leads)
    heads = [span(lead, unit) + ("" if start is None else f", valid {clock(start + lead)}") for lead in leads]
    title = title_of(one.field, scale.label, start, len(several) == 1)
    write_animation(moving_pictures(shown, heads, title, scale, where), target, frames_per_second)
    return target
