"""Where a network looks from one point (figure 6 of the paper)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.forecasts.job import history_at
from sa_nowcast.forecasts.labels import init_position
from sa_nowcast.frames import Frames
from sa_nowcast.metadata.dims import DimNames
from sa_nowcast.plotting.canvas import Panel, figure_of
from sa_nowcast.plotting.maps import PANEL_CELLS, Map, map_of, north_up, on_axes, panel, whole_globe
from sa_nowcast.plotting.mesh import Array, distances, positions_of
from sa_nowcast.plotting.scales import MINUS, Scale, clock, name_and_units, rain_in_mm_per_hour, shared_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sa_nowcast.forecasts.nowcaster import Nowcaster

# The maps that attention_map names, in the paper's letters: of the memory module H_t and M_{t-1}, of the base model
# X_t and H_{t-1}.
MAPS = {"H": "hidden state h", "M": "memory m", "X": "input x"}
# Outlines of more detail than so many cells along an axis would hide the weights.
CONTOUR_CELLS = 64


@dataclass(frozen=True)
class _Attention:
    """The frame that is read, (y, x); what each layer and map gives to each of its pixels; the queried cell."""

    frame: xr.DataArray
    rows: dict[str, dict[str, xr.DataArray]]
    point: tuple[int, int]
    cell: tuple[int, int, int, int]
    title: str


def plot_attention(
    nowcaster: Nowcaster,
    data: xr.DataArray | xr.Dataset,
    point: tuple[float, float],
    *,
    init_time: Any = None,
    layers: Sequence[int | Literal["first", "last"]] = ("first", "last"),
    shown: object = None,
    coastlines: bool | None = None,
    grid: Literal["check", "any"] = "check",
    time: Hashable | None = None,
    y: Hashable | None = None,
    x: Hashable | None = None,
    channel: Hashable | None = None,
    device: str = "auto",
    title: str | None = None,
) -> Figure:
    """Draw how one point weighs all others while the last known frame is read: a row for each layer.

    The weights are relative: 1 is what every place would have if all were weighed alike. One row of the N × N weights
    is computed, so this takes about the memory of a forecast of one step.

    Parameters
    ----------
    nowcaster : Nowcaster
        One whose network has attention.
    data : DataArray or Dataset, dims (time, [channel,] y, x)
        As for `Nowcaster.forecast`.
    point : (float, float)
        Where the query stands: y and x in the units of the grid's coordinates, the nearest pixel is taken; row and
        column where the grid has no coordinates.
    init_time : datetime-like, optional
        The time of the last known frame; by default the last one of `data`.
    layers : sequence of int or {"first", "last"}
        Which layers, counted from 1, the one that reads the frame.
    shown : optional
        The channel or variable that is drawn as the input; by default the first one.
    coastlines : bool, optional
        As for `plot_forecast`.
    grid, time, y, x, channel, device
        As for `Nowcaster.forecast`.
    title : str, optional
        In place of network, point and init time.

    Returns
    -------
    matplotlib.figure.Figure
        The frame with the query as a cross and its patch as a square; then for each layer what it looks at: the hidden
        state h and the memory m (of ``sa-convlstm-base`` the input x and the hidden state h), with the frame's
        outlines. All weights share one logarithmic colour scale: warmer is more, white is as if all were alike.

    Raises
    ------
    RecipeError
        The point is outside of the grid, or there is no such layer, channel or time.
    ModelError
        The network has no attention, or as for `Nowcaster.forecast`.
    DataError
        As for `Nowcaster.forecast`.

    References
    ----------
    Lin et al., "Self-Attention ConvLSTM for Spatiotemporal Prediction", AAAI 2020, figure 6, DOI
    10.1609/aaai.v34i07.6819.
    """
    numbers = _layer_numbers(layers, len(nowcaster.network.config.hidden))
    nowcaster, frames = nowcaster.accept(data, DimNames(time, y, x, channel), grid)
    found = _attention(nowcaster, frames, init_position(frames, init_time), point, numbers, shown, device)
    return _draw(found, coastlines, title)


def _layer_numbers(layers: Sequence[int | str], count: int) -> list[int]:
    if isinstance(layers, int | str):
        layers = [layers]
    numbers = []
    for layer in layers:
        number = {"first": 1, "last": count}.get(layer) if isinstance(layer, str) else layer
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 1 <= number <= count:
            raise RecipeError("layers", f"{layer!r} is not in the network", f"'first', 'last' or 1 to {count}")
        numbers.append(int(number))
    if not numbers:
        raise RecipeError("layers", "none is named", f"'first', 'last' or some of 1 to {count}")
    return list(dict.fromkeys(numbers))  # of a network with one layer, the first is the last


def _nearest(frames: Frames, dim: Hashable, value: Any) -> int:
    """Return the position in the data's own order of the pixel that holds `value`."""
    array = frames.arrays[0]
    size = array.sizes[dim]
    labels = array[dim].values if dim in array.coords else np.arange(size)
    labels = labels.astype(float) if labels.dtype.kind in "iuf" else np.arange(size, dtype=float)
    half = abs(labels[-1] - labels[0]) / (2 * max(size - 1, 1))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not labels.min() - half <= number <= labels.max() + half:
        units = str(array[dim].attrs.get("units", "")) if dim in array.coords else "row or column"
        extent = f"{dim} from {labels.min():g} to {labels.max():g} {units}".rstrip()
        raise RecipeError("point", f"{dim} {value} is outside of the grid", extent, f"pass point={_middle(frames)}")
    return int(np.argmin(abs(labels - number)))


def _middle(frames: Frames) -> tuple[float, float]:
    """Return a point that is on the grid, as `plot_attention` takes it."""
    frame, dims = frames.arrays[0], (frames.grid.y, frames.grid.x)
    row, column = (_label(frame, dim, frame.sizes[dim] // 2) for dim in dims)
    return row, column


def _nearest_cell(frames: Frames, wanted_y: Any, wanted_x: Any) -> tuple[int, int]:
    """Return the row and column in the data's own order of the cell that holds a point."""
    y, x = frames.grid.y, frames.grid.x
    frame = _on_grid(frames, np.zeros((frames.grid.height, frames.grid.width), np.float32), own=True)
    found = None if on_axes(frame, str(y)) else positions_of(frame, str(y), str(x))
    if found is None:
        return _nearest(frames, y, wanted_y), _nearest(frames, x, wanted_x)
    try:
        wanted = float(wanted_y), float(wanted_x)
    except (TypeError, ValueError):
        wanted = (np.nan, np.nan)
    known = np.isfinite(found[0])
    far = np.where(known, np.nan_to_num(distances(*found, wanted), nan=1e9), np.inf)
    row, column = np.unravel_index(np.argmin(far), far.shape)
    own = float(found[0][row, column]), float(found[1][row, column])
    # As far as the middles of the cells round it are from that of the nearest one.
    if far[row, column] <= np.sort(distances(*found, own)[known])[:9].max():
        return int(row), int(column)
    (south, north), (west, east) = ((np.nanmin(part), np.nanmax(part)) for part in found)
    raise RecipeError(
        "point",
        f"{wanted_y}, {wanted_x} is outside of the grid",
        f"latitude from {south:g} to {north:g}, longitude from {west:g} to {east:g}",
        f"pass point=({own[0]:.6g}, {own[1]:.6g})",
    )


def _attention(
    nowcaster: Nowcaster,
    frames: Frames,
    last: int,
    point: tuple[float, float],
    numbers: Sequence[int],
    shown: object,
    device: str,
) -> _Attention:
    import torch

    from sa_nowcast.computing.devices import resolve_device
    from sa_nowcast.models.estimate import require_memory
    from sa_nowcast.models.inspection import attention_map
    from sa_nowcast.stream import prepare

    try:
        wanted_y, wanted_x = point
    except (TypeError, ValueError):
        raise RecipeError("point", f"{point!r}", "two numbers, (y, x)") from None
    place = _nearest_cell(frames, wanted_y, wanted_x)
    names = [c.name for c in frames.channels]
    if shown is not None and str(shown) not in names:
        raise RecipeError("shown", f"{shown} is not in the data", f"one of {', '.join(names)}")
    number = 0 if shown is None else names.index(str(shown))

    values = history_at(frames, last, nowcaster.history)
    size = values.shape[-2:]
    row, column = (int(i) for i in frames.field(np.indices(size, dtype=np.float32))[:, *place])
    network, history, where = nowcaster.network, nowcaster.terms.history, resolve_device(device)
    require_memory(network.config, size, 1, history=history, steps=1, training=False, device=where)
    network.to(where).eval()
    with torch.inference_mode():
        x, _ = prepare(torch.from_numpy(values)[None].to(where), nowcaster.scaling, history)
    rows: dict[str, dict[str, xr.DataArray]] = {}
    for layer in numbers:
        ends = [end for end, its in (("first", 1), ("last", len(network.config.hidden))) if layer == its]
        name = f"layer {layer}" + (f" ({' and '.join(ends)})" if ends else "")
        weights = attention_map(network, x, (row, column), layer=layer - 1)
        rows[name] = {
            MAPS[key]: _on_grid(frames, _at_pixels(weight[0].float().cpu().numpy(), network.config, size))
            for key, weight in weights.items()
        }
    patch, chosen = network.config.patch, frames.channels[number]
    attrs = dict(chosen.attrs) | ({} if chosen.units is None else {"units": chosen.units})
    if len(names) > 1 and "long_name" not in attrs:
        attrs["long_name"] = chosen.name
    frame = _on_grid(frames, values[-1, number]).assign_attrs(attrs)
    if len(names) > 1 and frames.channel_dim not in (None, "variable"):
        frame.attrs["long_name"] = f"{name_and_units(frame)[0]}, {frames.channel_dim} {chosen.name}"
    top, left = row // patch * patch, column // patch * patch
    cell = top, min(top + patch, size[0]), left, min(left + patch, size[1])
    # Where the network reads rows from the south, they are drawn from the north.
    drawn = _on_grid(frames, np.indices(size, dtype=np.float32)).values
    if drawn[0, 0, 0] > drawn[0, -1, 0]:
        row, cell = size[0] - 1 - row, (size[0] - cell[1], size[0] - cell[0], *cell[2:])
    if drawn[1, 0, 0] > drawn[1, 0, -1]:
        column, cell = size[1] - 1 - column, (*cell[:2], size[1] - cell[3], size[1] - cell[2])
    at = _place_of(frame, row, column)
    text = f"attention of {network.config.name} at {at}, from {clock(frames.times[last])}"
    return _Attention(frame, rows, (row, column), cell, text)


def _at_pixels(weights: npt.NDArray[np.float32], config: Any, size: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return (H', W') weights at the pixels that each one stands for, over what equal weights would be."""
    side = config.patch * config.key_stride
    relative = weights * np.float32(weights.size)
    return relative.repeat(side, axis=0).repeat(side, axis=1)[: size[0], : size[1]]


def _on_grid(frames: Frames, values: npt.NDArray[np.float32], *, own: bool = False) -> xr.DataArray:
    """Give values ([index,] row, column), in the layout of Frames, the data's own axes and coordinates back.

    North up and west to the left, as the panels show it; `own`: in the data's own order.
    """
    y, x = str(frames.grid.y), str(frames.grid.x)
    coords = {name: c for name, c in frames.coords.items() if set(c.dims) <= {y, x}}
    order = ["index", y, x][-values.ndim :]
    result = xr.DataArray(frames.field(values), dims=order, coords=coords, name=str(frames.arrays[0].name or "value"))
    return result if own else north_up(whole_globe(result, x), y, x)


def _place_of(frame: xr.DataArray, row: int, column: int) -> str:
    """Return a place on the frame, as titles show it."""
    y, x = (str(dim) for dim in frame.dims)
    where = map_of(frame, y, x)
    found = None if on_axes(frame, y) else positions_of(frame, y, x)
    if found is not None and where.mesh is not None:
        return f"{found[0][row, column]:.2f}°N, {found[1][row, column]:.2f}°E".replace("-", MINUS)
    return where.place((y, _label(frame, y, row)), (x, _label(frame, x, column)))


def _label(frame: xr.DataArray, dim: Hashable, index: int) -> float:
    labels = frame[dim].values if dim in frame.coords else np.empty(0)
    return float(labels[index]) if labels.dtype.kind in "iuf" and labels.size else float(index)


def _draw(found: _Attention, coastlines: bool | None, title: str | None) -> Figure:
    y, x = (str(dim) for dim in found.frame.dims)
    frame = panel(found.frame, y, x)
    where = map_of(frame, y, x, coastlines)
    scale = shared_scale(found.frame, [frame.values])
    maps = {layer: {name: panel(weight, y, x) for name, weight in row.items()} for layer, row in found.rows.items()}
    weights = _weight_scale([weight.values for row in maps.values() for weight in row.values()])
    rows = [
        [Panel(scale, frame, "last input"), *(Panel(weights, w, f"{layer}\n{name}") for name, w in row.items())]
        for layer, row in maps.items()
    ]
    text = title if title is not None else found.title
    figure, grid, _ = figure_of(
        rows, where, text, side=3.0, margins=(2.9, 1.0), gap=0.3, font=10, bars=("left", "right")
    )
    for axes in grid[:, 1:].ravel():
        _outlines(axes, found.frame, where)
    for axes in grid.ravel():
        _mark(axes, found, where)
    return figure


def _weight_scale(maps: Sequence[Array]) -> Scale:
    """Return the one scale of all weights: logarithmic, blue below what equal weights would be and red above."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    values = np.concatenate([weights.ravel() for weights in maps])
    low, high = float(values.min()), max(float(values.max()), 1.001)
    # As far as the highest weight; the lowest, which may be next to nothing, stretches it no further than by a square.
    end = max(high, min(1 / max(low, 1e-30), high**2, 10.0))
    ticks = [float(end**power) for power in (-1, -0.5, 0, 0.5, 1)]
    if end >= 10:
        decades = int(np.log10(end))
        ticks = [10.0**power for power in range(-decades, decades + 1)]
    extend = "min" if low < 1 / end * (1 - 1e-6) else "neither"
    return Scale(colormaps["RdBu_r"], LogNorm(1 / end, end), "weight (1: all places alike)", extend, tuple(ticks))


def _mark(axes: Axes, found: _Attention, where: Map) -> None:
    """Put a cross on the query and a square round the patch that is asked for it."""
    from matplotlib.patches import Polygon, Rectangle

    first, after, west, east = found.cell
    rows, columns = np.array([first, first, after, after, first]), np.array([west, east, east, west, west])
    x, y = _edge(found.frame, where, rows, columns)
    square = (
        Rectangle((x[0], y[0]), x[1] - x[0], y[2] - y[1]) if where.mesh is None else Polygon(np.stack([x, y], axis=1))
    )
    square.set(fill=False, linewidth=0.8)
    axes.add_patch(square)
    row, column = found.point
    for width, colour in ((3.2, "white"), (1.4, "black")):
        axes.plot(
            *_edge(found.frame, where, np.array([row + 0.5]), np.array([column + 0.5])),
            marker="+",
            markersize=11,
            markeredgewidth=width,
            color=colour,
            scalex=False,
            scaley=False,
        )


def _edge(frame: xr.DataArray, where: Map, rows: Array, columns: Array) -> tuple[Array, Array]:
    """Return x and y on a panel of places of the whole frame, in rows and columns counted at the edges of cells."""
    height, width = frame.shape
    if where.mesh is None:
        left, right, bottom, top = _extent(frame, frame.shape)
        return left + columns * (right - left) / width, top + rows * (bottom - top) / height
    # A thinned panel has a row and a column of its own for several of the frame's.
    steps = [-(-size // PANEL_CELLS) for size in (height, width)]
    down, across = (
        np.clip(places / step, 0, size)
        for places, step, size in zip((rows, columns), steps, np.array(where.mesh[0].shape) - 1, strict=True)
    )
    i, j = (
        np.minimum(down.astype(int), where.mesh[0].shape[0] - 2),
        np.minimum(across.astype(int), where.mesh[0].shape[1] - 2),
    )
    u, v = down - i, across - j
    x, y = (
        (1 - u) * ((1 - v) * c[i, j] + v * c[i, j + 1]) + u * ((1 - v) * c[i + 1, j] + v * c[i + 1, j + 1])
        for c in where.mesh
    )
    return x, y


def _outlines(axes: Axes, frame: xr.DataArray, where: Map) -> None:
    """Draw the frame's outlines over a map of weights: of rain its edge, of other fields three levels."""
    steps = {dim: -(-size // CONTOUR_CELLS) for dim, size in frame.sizes.items()}
    values = xr.DataArray(frame.values, dims=frame.dims).coarsen(steps, boundary="trim").mean().values
    present = values[np.isfinite(values)]
    if min(values.shape) < 2 or not present.size:
        return
    factor = rain_in_mm_per_hour(frame)
    levels = [0.1 / factor] if factor is not None else np.unique(np.percentile(present, (25, 50, 75))).tolist()
    levels = [level for level in levels if present.min() < level < present.max()]
    if levels:
        limits = axes.get_xlim(), axes.get_ylim()
        down, across = ((np.arange(size) + 0.5) * step for size, step in zip(values.shape, steps.values(), strict=True))
        x, y = _edge(frame, where, *np.meshgrid(down, across, indexing="ij"))
        axes.contour(x, y, np.ma.masked_invalid(values), levels, colors="#1f4e79", linewidths=0.6, alpha=0.7)
        axes.set(xlim=limits[0], ylim=limits[1])


def _extent(data: xr.DataArray, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return the outer edges of `data` on a panel of the whole frame, which has this shape."""
    y, x = (str(dim) for dim in data.dims)
    extent = map_of(data, y, x).extent
    if extent is not None:
        return extent
    # Without coordinates a panel counts its own cells; in a thinned one each stands for several of the frame's.
    rows, columns = (
        cells * (size // cells) / -(-size // PANEL_CELLS) for cells, size in zip(data.shape, shape, strict=True)
    )
    return -0.5, columns - 0.5, rows - 0.5, -0.5
