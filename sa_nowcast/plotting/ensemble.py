"""Pictures of forecasts with members: maps of probability, members side by side, and their quantiles at a point."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.metadata.dims import REALIZATION
from sa_nowcast.plotting.canvas import Panel, figure_of, new_figure
from sa_nowcast.plotting.chosen import Chosen, choose_forecast, one_variable, span, unit_of
from sa_nowcast.plotting.forecast import pick, title_of
from sa_nowcast.plotting.maps import map_of, on_axes, panel
from sa_nowcast.plotting.mesh import distances, positions_of
from sa_nowcast.plotting.scales import (
    MISSING,
    Scale,
    clock,
    name_and_units,
    require_columns,
    shared_scale,
    with_units,
)
from sa_nowcast.plotting.scores import COLOURS
from sa_nowcast.times import read_leads, show_step
from sa_nowcast.verification.fields import limit, single
from sa_nowcast.verification.inputs import single_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LEVELS = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def plot_probability(
    forecast: xr.DataArray | xr.Dataset,
    threshold: float,
    truth: xr.DataArray | xr.Dataset | None = None,
    *,
    init_time: object = None,
    variable: object = None,
    channel: object = None,
    columns: int = 6,
    coastlines: bool | None = None,
    time: Hashable | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the share of members at or above a threshold, one map for each lead time.

    Parameters
    ----------
    forecast : DataArray or Dataset, dims (realization, [init_time,] [variable,] lead_time, [channel,] y, x)
    threshold : float
        In the forecast's units. An event is a value at or above it, as in `sa_nowcast.verification.verify`.
    truth : DataArray or Dataset, dims (time, [channel,] y, x), optional
        Where it is at or above the threshold is outlined in each map; a row of its own where the grid is uneven.
    init_time, variable, channel, columns, coastlines, time, title : optional
        As for `plot_forecast`.

    Returns
    -------
    matplotlib.figure.Figure
        A pixel that is missing in one member is grey, probabilities below 1 % are white.

    Raises
    ------
    RecipeError
        If the forecast has no members, or as for `plot_forecast`.
    DataError
        If truth is in other units or on another grid than the forecast.
    """
    require_columns(columns)
    given, one = _members(forecast, init_time, variable, channel, truth, time)
    places = pick(one.leads.size, columns)
    start, unit, leads = one.start, unit_of(one.leads), one.leads[places]
    heads = [span(lead, unit) + ("" if start is None else f"\n{clock(start + lead, start)}") for lead in leads]
    least = limit(threshold)
    share = one.field.copy(data=100.0 * (single(one.field.values) >= least))
    share = share.where(one.field.notnull()).mean(REALIZATION, skipna=False)
    maps = [panel(share.isel(lead_time=i), one.y, one.x) for i in places]
    name, units = name_and_units(one.field)
    scale = _probability_scale(f"probability of ≥ {threshold:g} {units}".rstrip() + " (%)")
    where = map_of(maps[0], one.y, one.x, coastlines)
    rows = [[Panel(scale, frame, head) for head, frame in zip(heads, maps, strict=True)]]
    seen: list[xr.DataArray | None] = [None] * len(places)
    if truth is not None:
        event = single_array(truth, given, time=time)
        event = event.copy(data=(single(event.values) >= least) * 100.0).where(event.notnull())
        seen = one.observed(event, leads)
    if truth is not None and where.mesh is not None:
        rows.append([Panel(scale, frame, "", "no truth") for frame in seen])
    figure, grid, _ = figure_of(
        rows,
        where,
        title if title is not None else title_of(one.field, name, one.start),
        side=2.3,
        margins=(1.4, 1.0),
        gap=0.12,
    )
    if where.mesh is None:
        for axes, frame in zip(grid[0], seen, strict=True):
            if frame is not None and (frame > 50).any():
                axes.contour(frame.values, [50.0], colors="black", linewidths=0.8, extent=where.extent, origin="upper")
    elif truth is not None:
        for axes, text in zip(grid[:, 0], ("forecast", "truth"), strict=True):
            axes.set_ylabel(text, fontsize=11)
    return figure


def plot_members(
    forecast: xr.DataArray | xr.Dataset,
    lead_time: np.timedelta64 | str | None = None,
    truth: xr.DataArray | xr.Dataset | None = None,
    *,
    members: int = 12,
    init_time: object = None,
    variable: object = None,
    channel: object = None,
    columns: int = 6,
    coastlines: bool | None = None,
    time: Hashable | None = None,
    title: str | None = None,
) -> Figure:
    """Draw members side by side at one lead time, after the truth and their mean.

    Parameters
    ----------
    forecast : DataArray or Dataset, dims (realization, [init_time,] [variable,] lead_time, [channel,] y, x)
    lead_time : timedelta64 or str, optional
        Such as "30min"; by default the longest.
    truth : DataArray or Dataset, dims (time, [channel,] y, x), optional
        Its frame at the valid time is the first panel, and says where there is none.
    members : int, default 12
        At most as many, the first ones.
    init_time, variable, channel, columns, coastlines, time, title : optional
        As for `plot_forecast`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RecipeError
        If the forecast has no members or not the lead time, or as for `plot_forecast`.
    DataError
        If truth is in other units or on another grid than the forecast.
    """
    require_columns(columns)
    given, one = _members(forecast, init_time, variable, channel, truth, time)
    place = _lead(one, lead_time)
    field = one.field.isel(lead_time=place)
    shown = field.isel({REALIZATION: slice(0, max(1, members))})
    labels = shown[REALIZATION].values if REALIZATION in shown.coords else np.arange(shown.sizes[REALIZATION])
    frames: list[tuple[str, xr.DataArray | None]] = []
    if truth is not None:
        (seen,) = one.observed(single_array(truth, given, time=time), one.leads[[place]])
        frames.append(("truth", seen))
    mean = field.mean(REALIZATION, skipna=False, keep_attrs=True)
    frames.append((f"mean of {field.sizes[REALIZATION]}", panel(mean, one.y, one.x)))
    frames += [(f"member {label}", panel(shown.isel({REALIZATION: i}), one.y, one.x)) for i, label in enumerate(labels)]
    scale = shared_scale(one.field, [frame.values for _, frame in frames if frame is not None])
    panels = [Panel(scale, frame, name, "no truth") for name, frame in frames]
    wide = min(columns, len(panels))
    panels += [Panel(scale)] * (-len(panels) % wide)
    rows = [panels[i : i + wide] for i in range(0, len(panels), wide)]
    first = next(frame for _, frame in frames if frame is not None)
    text = f"{title_of(one.field, scale.label, one.start)}, {show_step(one.leads[place])} ahead"
    where = map_of(first, one.y, one.x, coastlines)
    return figure_of(rows, where, title if title is not None else text, side=1.9, margins=(1.4, 0.9), gap=0.2)[0]


def plot_meteogram(
    forecast: xr.DataArray | xr.Dataset,
    point: tuple[float, float],
    truth: xr.DataArray | xr.Dataset | None = None,
    *,
    quantiles: Sequence[float] = QUANTILES,
    init_time: object = None,
    variable: object = None,
    channel: object = None,
    time: Hashable | None = None,
    title: str | None = None,
) -> Figure:
    """Draw quantiles of the members at a point by valid time, as a fan of bands.

    Parameters
    ----------
    forecast : DataArray or Dataset, dims (realization, [init_time,] [variable,] lead_time, [channel,] y, x)
    point : (float, float)
        y and x in the grid's own coordinates, latitude and longitude where these are two-dimensional, or row and column
        where there are none; the pixel nearest to it is taken.
    truth : DataArray or Dataset, dims (time, [channel,] y, x), optional
        Drawn as a black line, where it has the valid times.
    quantiles : sequence of float, default (0.05, 0.25, 0.5, 0.75, 0.95)
        An odd number of them, symmetric round 0.5: the outer pairs are the ends of the bands.
    init_time, variable, channel, time, title : optional
        As for `plot_forecast`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RecipeError
        If the forecast has no members, the point is outside of the grid, the quantiles are not symmetric, or as for
        `plot_forecast`.
    DataError
        If truth is in other units or on another grid than the forecast.
    """
    shares = np.sort(np.asarray(quantiles, dtype=float))
    if shares.size % 2 == 0 or not np.allclose(shares + shares[::-1], 1.0) or not shares[0] >= 0:
        raise RecipeError("quantiles", f"are {list(quantiles)}", "an odd number, symmetric round 0.5: [0.1, 0.5, 0.9]")
    given, one = _members(forecast, init_time, variable, channel, truth, time)
    row, column = _pixel(one, point)
    series = one.field.isel({one.y: row, one.x: column}).transpose(REALIZATION, "lead_time").values
    start, unit = one.start, unit_of(one.leads)
    x = one.leads / np.timedelta64(1, "s") / unit[0]
    known = np.isfinite(series).all(axis=0)
    values = np.full((shares.size, x.size), np.nan)
    values[:, known] = np.quantile(series[:, known], shares, axis=0)
    figure = new_figure(7.0, 3.6, "constrained")
    axes = figure.subplots()
    middle = shares.size // 2
    for i in range(middle):
        text = f"{shares[i]:.0%} to {shares[-1 - i]:.0%}"
        axes.fill_between(
            x, values[i], values[-1 - i], color=COLOURS[0], alpha=0.18 + 0.12 * i, linewidth=0, label=text
        )
    axes.plot(x, values[middle], color=COLOURS[0], label="median")
    if truth is not None:
        seen = one.observed_at(single_array(truth, given, time=time), row, column)
        axes.plot(x, seen, color="black", marker="o", markersize=3, linestyle="--", label="truth")
    name, units = name_and_units(one.field)
    axes.set(xlabel=f"time ahead ({unit[1]})", ylabel=with_units(name, units), xlim=(x.min(), x.max()))
    if np.nanmin(np.append(series, 0.0)) >= 0:
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    where = map_of(panel(one.field.isel({REALIZATION: 0, "lead_time": 0}), one.y, one.x), one.y, one.x)
    place = where.place((one.y, point[0]), (one.x, point[1]))
    began = "" if start is None else f", from {clock(start)}"
    axes.set_title(title if title is not None else f"{name} at {place}{began}", fontsize=11)
    return figure


def _members(
    forecast: xr.DataArray | xr.Dataset,
    init_time: object,
    variable: object,
    channel: object,
    truth: xr.DataArray | xr.Dataset | None,
    time: Hashable | None,
) -> tuple[xr.DataArray, Chosen]:
    """Return the variable that is drawn, and one forecast of it, (realization, lead_time, y, x)."""
    given = one_variable(forecast, variable)
    if given.sizes.get(REALIZATION, 1) < 2:
        raise RecipeError("plot of forecast", "it has no members", f"several along {REALIZATION}")
    seen = None if truth is None else single_array(truth, given, time=time)
    return given, choose_forecast(given, init_time, variable, channel, slice(None), seen, time)


def _lead(one: Chosen, lead_time: np.timedelta64 | str | None) -> int:
    if lead_time is None:
        return int(one.leads.argmax())
    wanted = read_leads([lead_time])[0]
    if wanted not in one.leads:
        shown = ", ".join(show_step(lead) for lead in one.leads)
        raise RecipeError("plot of forecast", f"lead time {show_step(wanted)} is not in it", f"one of {shown}")
    return int(np.flatnonzero(one.leads == wanted)[0])


def _pixel(one: Chosen, point: tuple[float, float]) -> tuple[int, int]:
    """Return row and column of the pixel nearest to a point; refuse one outside of the grid."""
    data = one.field
    found = None if on_axes(data, one.y) else positions_of(data, one.y, one.x)
    if found is not None:
        far = np.where(np.isfinite(found[0]), np.nan_to_num(distances(*found, point), nan=1e9), np.inf)
        row, column = (int(i) for i in np.unravel_index(np.argmin(far), far.shape))
        own = float(found[0][row, column]), float(found[1][row, column])
        if far[row, column] <= np.sort(distances(*found, own), axis=None)[:9].max():
            return row, column
        ends = [f"{np.nanmin(part):g} to {np.nanmax(part):g}" for part in found]
        raise RecipeError("point", f"{point} is outside of the grid", f"latitude {ends[0]}, longitude {ends[1]}")
    places = []
    for dim, value in zip((one.y, one.x), point, strict=True):
        known = data[dim].values if dim in data.coords else np.arange(data.sizes[dim])
        known = known.astype(float)
        half = abs(known[-1] - known[0]) / (2 * max(known.size - 1, 1))
        if not known.min() - half <= value <= known.max() + half:
            raise RecipeError("point", f"{dim} {value:g} is outside of the grid", f"{known.min():g} to {known.max():g}")
        places.append(int(np.argmin(np.abs(known - value))))
    return places[0], places[1]


def _probability_scale(text: str) -> Scale:
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap

    shades = colormaps["YlGnBu"](np.linspace(0.12, 1.0, len(_LEVELS) - 1))
    cmap = ListedColormap(shades).with_extremes(bad=MISSING, under="white")
    return Scale(cmap, BoundaryNorm(_LEVELS, len(_LEVELS) - 1), text, "neither", tuple(map(float, _LEVELS)))
