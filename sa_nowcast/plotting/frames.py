"""Pictures of frames as they were observed, before any forecast."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.metadata.dims import Role, find_dim, grids, with_positions
from sa_nowcast.plotting.animation import Picture
from sa_nowcast.plotting.canvas import Panel, figure_of, moving_pictures
from sa_nowcast.plotting.maps import Map, map_of, panel
from sa_nowcast.plotting.scales import Scale, choose, choose_variable, clock, require_columns, shared_scale
from sa_nowcast.times import Times, read_time, show_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_frames(
    data: xr.DataArray | xr.Dataset,
    *,
    last: int = 6,
    init_time: object = None,
    variable: object = None,
    channel: object = None,
    columns: int = 6,
    coastlines: bool | None = None,
    time: Hashable | None = None,
    y: Hashable | None = None,
    x: Hashable | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the last frames of a sequence, each under its time.

    Parameters
    ----------
    data : DataArray or Dataset, dims (time, [channel,] y, x)
        Of any step, gaps too.
    last : int, default 6
        How many frames.
    init_time : datetime-like, optional
        The time of the last frame that is drawn; by default the last one of `data`.
    columns : int, default 6
        At most as many panels side by side.
    time, y, x : hashable, optional
        The names of these dimensions, where CF attributes and common names do not tell.
    variable, channel, coastlines, title : optional
        As for :func:`sa_nowcast.plotting.plot_forecast`.

    Returns
    -------
    matplotlib.figure.Figure
        As that of :func:`sa_nowcast.plotting.plot_forecast`: one colour scale, missing pixels grey, north up.

    Raises
    ------
    RecipeError
        If `last` or `columns` is below 1, a variable or channel is not chosen, or there is no frame at `init_time`.
    DataError
        If `data` hold no frames, or their dimensions or times cannot be told.
    """
    require_columns(columns)
    return frames_to_draw(data, last, init_time, variable, channel, time, y, x).figure(columns, coastlines, title)


@dataclass(frozen=True)
class FramesToDraw:
    """Frames that were chosen: one field (time, y, x), its times and step, and what it is called."""

    field: xr.DataArray
    dims: tuple[str, str, str]
    times: Times
    step: np.timedelta64 | None
    name: str

    def figure(self, columns: int, coastlines: bool | None, title: str | None) -> Figure:
        """Return the panels."""
        panels, scale, where = self._drawn(coastlines)
        befores = [None, *self.times[:-1]]
        heads = [clock(moment, before) for moment, before in zip(self.times, befores, strict=True)]
        drawn = [Panel(scale, frame, head) for frame, head in zip(panels, heads, strict=True)]
        wide = min(len(panels), columns)
        drawn += [Panel(scale)] * (-len(drawn) % wide)
        rows = [drawn[i : i + wide] for i in range(0, len(drawn), wide)]
        text = title if title is not None else self._title(scale)
        return figure_of(rows, where, text, side=2.1, margins=(2.2, 0.7), gap=0.4)[0]

    def pictures(self, coastlines: bool | None) -> list[Picture]:
        """Return the pictures of an animation."""
        panels, scale, where = self._drawn(coastlines)
        return moving_pictures({"": panels}, [clock(moment) for moment in self.times], self._title(scale), scale, where)

    def _drawn(self, coastlines: bool | None) -> tuple[list[xr.DataArray], Scale, Map]:
        time, y, x = self.dims
        panels = [panel(self.field.isel({time: i}), y, x) for i in range(self.times.size)]
        scale = shared_scale(self.field, [frame.values for frame in panels], self.step)
        return panels, scale, map_of(panels[0], y, x, coastlines)

    def _title(self, scale: Scale) -> str:
        ends = [clock(self.times[0]), clock(self.times[-1], self.times[0])]
        return ", ".join([scale.label, *([self.name] if self.name else []), " to ".join(dict.fromkeys(ends))])


def frames_to_draw(
    data: xr.DataArray | xr.Dataset,
    last: int,
    init_time: object,
    variable: object,
    channel: object,
    time: Hashable | None,
    y: Hashable | None,
    x: Hashable | None,
) -> FramesToDraw:
    """Return what `plot_frames` draws, or raise what it raises; no value is read."""
    if last < 1:
        raise RecipeError("last", f"is {last}", "at least 1")
    array = _one_variable(data, variable, {"time": time, "y": y, "x": x})
    t_dim, y_dim, x_dim = (
        str(find_dim(array, "time", time)), str(find_dim(array, "y", y)), str(find_dim(array, "x", x))
    )  # fmt: skip
    array = array.squeeze([d for d in array.dims if d not in (t_dim, y_dim, x_dim) and array.sizes[d] == 1], drop=True)
    extra = [dim for dim in array.dims if dim not in (t_dim, y_dim, x_dim)]
    frames = Frames.from_xarray(
        array,
        time=t_dim,
        y=y_dim,
        x=x_dim,
        channel=extra[0] if len(extra) == 1 else None,
        gaps="skip",
        # One frame has no step, and can be drawn all the same.
        step=np.timedelta64(1, "s") if array.sizes[t_dim] == 1 else None,
    )
    stop = len(frames) if init_time is None else _position(frames, init_time) + 1
    chosen = slice(max(0, stop - last), stop)
    field = frames.arrays[0].isel({t_dim: chosen})
    # Latitude and longitude that are given for every time, as those of WRF, are kept once; a grid that moves has none.
    field = field.drop_vars([name for name, coord in field.coords.items() if coord.ndim > 1 and t_dim in coord.dims])
    field = field.assign_coords(frames.coords)
    label = ""
    if extra:
        field = choose(field.rename({extra[0]: "channel"}), "frames", channel=channel)
        label = f"channel {field['channel'].item()}" if "channel" in field.coords else ""
    elif channel is not None:
        raise RecipeError("plot of frames", f"channel {channel} is not in it", "no channel, for there are none")
    step = frames.step if len(frames) > 1 else None
    return FramesToDraw(field, (t_dim, y_dim, x_dim), frames.times[chosen], step, label)


def _one_variable(
    data: xr.DataArray | xr.Dataset, variable: object, told: Mapping[Role, Hashable | None]
) -> xr.DataArray:
    if isinstance(data, xr.DataArray):
        return data
    if not isinstance(data, xr.Dataset):
        raise DataError("data", f"a {type(data).__name__}", expected="an xarray Dataset or DataArray")
    data = with_positions(data)
    if variable is not None and variable in data.data_vars:
        return data[variable]
    known = sorted(name for names in grids(data, told).values() for name in names)
    if known or variable is not None:
        return choose_variable(data, known, variable, "frames")
    for role, name in told.items():
        find_dim(data, role, name)  # which says what is missing
    raise DataError("data", "no variable has time and two horizontal dimensions", expected="one with all three")


def _position(frames: Frames, init_time: object) -> int:
    moment = read_time(init_time, "init_time")
    found = frames.position(moment)
    if found is None:
        ends = f"{show_time(frames.times[0])} to {show_time(frames.times[-1])}"
        raise RecipeError("init_time", f"no frame at {show_time(moment)}", f"one of {len(frames)} times from {ends}")
    return found
