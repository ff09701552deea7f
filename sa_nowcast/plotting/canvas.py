"""What the figures share: the empty figure, the choice of labels, colour scales, panels of a map."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import MissingLibraryError, RecipeError
from sa_nowcast.metadata import attributes
from sa_nowcast.metadata.dims import canonical_units, is_longitude, is_rain, unwrapped
from sa_nowcast.plotting.coast import Line, coastlines, is_geographic, is_projected, is_rotated
from sa_nowcast.plotting.film import Picture
from sa_nowcast.plotting.mesh import Chart, axis_edges, chart_of, edges_of, middle, positions, positions_of, torn_cells
from sa_nowcast.times import nearest, read_time, show_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

RAIN_LEVELS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
RAIN_COLOURS = (
    "#dbe9f6", "#a9cfe8", "#6aaed6", "#2f7ebc", "#1a9850", "#a6d96a", "#fee08b", "#fc8d59", "#d73027", "#8e0152",
)  # fmt: skip
MINUS = "\N{MINUS SIGN}"
DRY, MISSING, OUTSIDE = "#ffffff", "#b3b3b3", "#f0f0f0"
# Millimetres per hour in one of these units, and millimetres of an amount; the levels are divided by it.
_MM_PER_HOUR = {
    "mm h-1": 1.0,
    "kg m-2 h-1": 1.0,
    "kg m-2 s-1": 3600.0,
    "mm s-1": 3600.0,
    "mm min-1": 60.0,
}
_MM = {"mm": 1.0, "kg m-2": 1.0}
# More cells than this along an axis cannot be seen in a panel.
PANEL_CELLS = 400
BAR_WIDTH = 0.19  # inches


def new_figure(width: float, height: float, layout: Literal["constrained", "compressed"]) -> Figure:
    """Return an empty figure of this size in inches, or say how to install matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingLibraryError("plot", "matplotlib is not installed", None, install("plot")) from None
    figure = Figure(figsize=(width, height), layout=layout, dpi=120)
    # A notebook shows figures by itself only after pyplot was imported, which nothing here does.
    figure.__dict__["_repr_png_"] = partial(_png, figure)
    return figure


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def choose(data: xr.DataArray, role: str = "forecast", **labels: object) -> xr.DataArray:
    """Return `data` with one label of each named dimension selected.

    Parameters
    ----------
    data : DataArray
    role : str, default "forecast"
        What `data` is, for errors.
    **labels
        For each dimension the label to take, or None: then a dimension of size 1 is dropped.

    Raises
    ------
    RecipeError
        If a dimension of several labels has none chosen, or the chosen one is not there.
    """
    for dim, label in labels.items():
        if dim not in data.dims:
            continue
        known = data[dim].values
        labelled = [show_time(item) if known.dtype.kind == "M" else str(item) for item in known[:6]]
        shown = ", ".join(labelled) + (f" and {known.size - 6} more" if known.size > 6 else "")
        if label is None:
            if data.sizes[dim] != 1:
                raise RecipeError(
                    f"plot of {role}",
                    f"it has {data.sizes[dim]} of {dim} and none is chosen",
                    f"one of {shown}",
                    f"pass {dim}={labelled[0]!r}",
                )
            data = data.isel({dim: 0})
            continue
        try:
            if data[dim].dtype.kind == "M":
                place, there = nearest(data[dim].values, read_time(label, dim))
                if not there:
                    raise KeyError(label)
                data = data.isel({dim: int(place)})
                continue
            texts = [str(item) for item in known]
            if isinstance(label, str) and known.dtype.kind in "iufb" and texts.count(label) == 1:
                data = data.isel({dim: texts.index(label)})  # a number from the command line
                continue
            data = data.sel({dim: np.asarray(label, data[dim].dtype) if data[dim].dtype.kind == "m" else label})
        except (KeyError, ValueError, TypeError):
            raise RecipeError(f"plot of {role}", f"{dim} {label} is not in it", f"one of {shown}") from None
    return data


def clock(time: Any, day: Any = None) -> str:
    """Return a time for people, to the second at most; without its day where that is `day`."""
    minute = np.datetime64(time, "s")
    text = str(np.datetime_as_string(minute)).replace("T", " ")
    text = text.removesuffix(":00")
    if day is not None and text[:10] == str(np.datetime64(day, "D")):
        return text[11:]
    return text


@dataclass(frozen=True)
class Scale:
    """A colour scale with the label, the ends and the ticks of its colour bar."""

    cmap: Colormap
    norm: Normalize
    label: str
    extend: str
    ticks: tuple[float, ...] | None = None


def name_and_units(data: xr.DataArray) -> tuple[str, str]:
    """Return the name of `data` for people, and its units; both from the attributes where they are there."""
    given = (attributes.text(data.attrs.get(key)) for key in ("long_name", "standard_name"))
    name = next(filter(None, given), None) or str(data.name or "value")
    if "variable" in data.coords and not data.coords["variable"].ndim:  # one that was chosen of several
        known = data.coords["long_name"].item() if "long_name" in data.coords else ""
        name = str(known or data.coords["variable"].item())
    units = data.coords["units"].item() if "units" in data.coords and not data.coords["units"].ndim else None
    return name.replace("_", " "), attributes.text(units if units is not None else data.attrs.get("units")) or ""


def with_units(name: str, units: str) -> str:
    """Return "name (units)", or the name alone where there are none to speak of."""
    return f"{name} ({units})" if units not in ("", "1") else name


def rain_scale(factor: float, text: str) -> Scale:
    """Return discrete colours at levels spaced like a logarithm, for rain in mm h-1 times 1 / `factor`."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    levels = tuple(level / factor for level in RAIN_LEVELS)
    cmap = ListedColormap(RAIN_COLOURS[:-1]).with_extremes(bad=MISSING, under=DRY, over=RAIN_COLOURS[-1])
    return Scale(cmap, BoundaryNorm(levels, len(levels) - 1), text, "both", levels)


def value_scale(frames: Sequence[Array], text: str, name: str = "viridis", *, from_zero: bool = False) -> Scale:
    """Return even colours over all but the outermost hundredth of the values in `frames`."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    present = np.concatenate([frame[np.isfinite(frame)].ravel() for frame in frames]) if frames else np.zeros(0)
    if not present.size:
        present = np.array([0.0, 1.0])
    lowest, highest = float(present.min()), float(present.max())
    low, high = (float(value) for value in np.percentile(present, (0.5, 99.5)))
    if from_zero or (lowest >= 0 and low < 0.25 * high):
        low = 0.0
    if high <= low:
        high = highest if highest > low else low + (abs(low) or 1.0)
    below, above = lowest < low, highest > high
    extend = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}[below, above]
    return Scale(colormaps[name].with_extremes(bad=MISSING), Normalize(low, high), text, extend)


def panel(data: xr.DataArray, y: str, x: str) -> xr.DataArray:
    """Return a frame as (y, x) with x ascending and north up (first row at the top), thinned to what can be seen."""
    data = whole_globe(data, x)
    steps = {dim: -(-data.sizes[dim] // PANEL_CELLS) for dim in (y, x)}
    if max(steps.values()) > 1:
        thinned = {str(name): middle if coord.ndim > 1 else "mean" for name, coord in data.coords.items()}
        data = data.coarsen(steps, boundary="trim", coord_func=thinned).mean()
    data = north_up(data.transpose(y, x), y, x)
    if data.dtype.kind not in "f":
        data = data.astype(np.float32)  # truth values, and integers without a missing value
    return data.load() if data.chunks is None else data.compute()


def whole_globe(data: xr.DataArray, x: str) -> xr.DataArray:
    """Return `data` with its longitudes ascending or descending throughout, where they cross the antimeridian."""
    if x not in data.coords or data[x].dtype.kind not in "iuf":
        return data
    turned = unwrapped(data[x])
    steps = np.diff(turned)
    # Sorted longitudes: the western end of the grid is in the east.
    if is_longitude(data[x]) and steps.size > 1 and (steps > 0).all() and steps.max() > 180.0:
        first = int(np.argmax(steps)) + 1
        data = data.roll({x: -first}, roll_coords=True)
        turned = np.roll(turned, -first)
        turned[turned.size - first :] += 360.0
    if np.array_equal(turned, data[x]):
        return data
    return data.assign_coords({x: data[x].copy(data=turned)})


def north_up(data: xr.DataArray, y: str, x: str) -> xr.DataArray:
    """Return `data` with its first row in the north and its first column in the west, as its coordinates tell."""
    places = {dim: data[dim].values for dim in (y, x) if dim in data.coords and data[dim].dtype.kind in "iuf"}
    names = positions(data, y, x)
    if names is not None and not on_axes(data, y):
        found = positions_of(data, y, x)
        if found is not None:
            east, north = chart_of(*found).project(found[1], found[0])
            with np.errstate(invalid="ignore"):
                places = {y: _means(north, 1), x: _means(east, 0)}
    for dim, rises in ((y, False), (x, True)):
        values = places.get(dim, np.empty(0))
        if values.size > 1 and values[0] != values[-1] and bool(values[0] < values[-1]) != rises:
            data = data.isel({dim: slice(None, None, -1)})
    return data


def _means(values: Array, axis: int) -> Array:
    """Return the first and the last of the means along `axis` that are known."""
    known = np.isfinite(values)
    counts = known.sum(axis=axis)
    means = np.where(known, values, 0.0).sum(axis=axis)[counts > 0] / counts[counts > 0]
    return np.array([means[0], means[-1]], dtype=float)


def on_axes(data: xr.DataArray, y: str) -> bool:
    """Say whether the grid's own axes are its place: latitude and longitude, or coordinates in a projection."""
    return is_geographic(data, y) or is_projected(data, y)


def shared_scale(one: xr.DataArray, frames: Sequence[Array], step: np.timedelta64 | None = None) -> Scale:
    """Return the scale of all the panels that show values: discrete for rain rates, else over what is there."""
    name, units = name_and_units(one)
    text = with_units(name, units)
    factor = rain_in_mm_per_hour(one, step)
    return value_scale(frames, text) if factor is None else rain_scale(factor, text)


def rain_in_mm_per_hour(one: xr.DataArray, step: np.timedelta64 | None = None) -> float | None:
    """Return how many mm h-1 one of the units of `one` is; None where it is not rain.

    An amount fell within one step, as `step` or the lead times tell it; where there are none it is taken as that of an
    hour.
    """
    units = name_and_units(one)[1]
    if not is_rain({**one.attrs, "units": units}):
        return None
    known = canonical_units(units) or ""
    if known in _MM and step is not None:
        return _MM[known] / float(step / np.timedelta64(1, "h"))
    if known in _MM and "lead_time" in one.coords:
        leads = np.sort(np.atleast_1d(one["lead_time"].values)) / np.timedelta64(1, "h")
        steps = np.diff(leads, prepend=0.0)
        return _MM[known] / float(steps[steps > 0].min()) if (steps > 0).any() else _MM[known]
    return _MM_PER_HOUR.get(known, _MM.get(known))


@dataclass(frozen=True)
class Map:
    """Where panels lie.

    Attributes
    ----------
    extent : tuple of float or None
        Outer edges: left, right, bottom, top; None without numeric coordinates.
    aspect : float
        The drawn length of a unit of y over that of x.
    shape : float
        Height over width of a panel.
    labels : tuple of str
        The axis labels of y and x; empty where the ticks say it.
    ticks : tuple of callable
        The text of a tick of y and of x.
    coast : sequence of ndarray, (points, 2)
        Coastlines within the extent.
    mesh : tuple of ndarray or None
        x and y of the corners of all cells, (rows + 1, columns + 1), of a grid that is not even in x and y.
    graticule : sequence of (ndarray, str)
        Parallels and meridians with their names, where ticks cannot tell them.
    """

    extent: tuple[float, float, float, float] | None
    aspect: float
    shape: float
    labels: tuple[str, str] = ("", "")
    ticks: tuple[Callable[[float], str], Callable[[float], str]] = ("{:g}".format, "{:g}".format)
    coast: Sequence[Line] = ()
    mesh: tuple[Array, Array] | None = None
    graticule: Sequence[tuple[Line, str]] = ()

    def place(self, row: tuple[str, float], column: tuple[str, float]) -> str:
        """Return a place for people, from the name of each dimension and the label on it."""
        texts = [tick(value) for tick, (_, value) in zip(self.ticks, (row, column), strict=True)]
        if self.extent is not None and not any(self.labels):
            return ", ".join(texts)
        units = [label.partition(" (")[2].rstrip(")") for label in self.labels]
        names = row[0], column[0]
        return ", ".join(f"{n} {t} {u}".rstrip() for n, t, u in zip(names, texts, units, strict=True))


def _degrees(positive: str, negative: str) -> Callable[[float], str]:
    def text(value: float) -> str:
        turned = (value + 180) % 360 - 180  # longitudes may run from 0 to 360, or across the antimeridian
        return f"{abs(turned):g}°{'' if turned in (0, -180) else positive if turned > 0 else negative}"

    return text


def _axis_label(data: xr.DataArray, dim: str, thousands: bool) -> str:
    units = str(data[dim].attrs.get("units", ""))
    units = "km" if thousands else units
    return f"{dim} ({units})" if units else dim


def map_of(data: xr.DataArray, y: str, x: str, coast: bool | None = False) -> Map:
    """Return where the panels of `data`, whose dims are y, x and any others, lie; `coast` as in `coastlines`."""
    rows, columns = data.sizes[y], data.sizes[x]
    numeric = all(dim in data.coords and data[dim].dtype.kind in "iuf" for dim in (y, x))
    if min(rows, columns) > 1 and not (numeric and on_axes(data, y)):
        found = positions_of(data, y, x)
        if found is not None:
            return _map_of_mesh(data, y, x, found, coast)
    if not numeric or min(rows, columns) < 2:
        coastlines(data, y, x, None, coast)
        return Map(None, 1.0, rows / columns)
    ys, xs = data[y].values.astype(float), data[x].values.astype(float)
    mesh = None
    if _even(ys) and _even(xs):
        dy, dx = abs(ys[-1] - ys[0]) / (rows - 1), abs(xs[-1] - xs[0]) / (columns - 1)
        extent = (xs.min() - dx / 2, xs.max() + dx / 2, ys.min() - dy / 2, ys.max() + dy / 2)
    else:
        across, along = np.meshgrid(axis_edges(xs), axis_edges(ys))
        mesh, extent = (across, along), (across.min(), across.max(), along.min(), along.max())
    geographic, turned = is_geographic(data, y), is_rotated(data, y)
    lines = coastlines(data, y, x, extent, coast)
    aspect = 1.0 / max(0.2, float(np.cos(np.deg2rad(ys.mean())))) if geographic or turned else 1.0
    aspect, shape = _shape(extent, aspect, rows, columns)
    if geographic:
        return Map(extent, aspect, shape, ticks=(_degrees("N", "S"), _degrees("E", "W")), coast=lines, mesh=mesh)
    metres = data[y].attrs.get("units") in ("m", "metre", "meter") and float(np.abs(ys).max()) >= 1e4
    labels = (_axis_label(data, y, metres), _axis_label(data, x, metres))
    text = (lambda value: f"{value / 1000:g}") if metres else "{:g}".format
    return Map(extent, aspect, shape, labels, (text, text), lines, mesh)


def _map_of_mesh(data: xr.DataArray, y: str, x: str, found: tuple[Array, Array], coast: bool | None) -> Map:
    """Return where panels on two-dimensional latitude and longitude lie: cell by cell."""
    chart = chart_of(*found)
    mesh = edges_of(*found, chart)
    extent = tuple(float(end(part)) for part in mesh for end in (np.min, np.max))
    assert len(extent) == 4
    lines = coastlines(data, y, x, extent, coast, chart)
    aspect = 1.0 if chart.pole else 1.0 / max(0.2, float(np.cos(np.deg2rad(np.nanmean(found[0])))))
    aspect, shape = _shape(extent, aspect, data.sizes[y], data.sizes[x])
    ticks = (_degrees("N", "S"), _degrees("E", "W"))
    around = graticule(chart, extent) if chart.pole else ()
    return Map(extent, aspect, shape, ticks=ticks, coast=lines, mesh=mesh, graticule=around)


def graticule(chart: Chart, extent: tuple[float, float, float, float]) -> list[tuple[Line, str]]:
    """Return parallels and meridians of a map round a pole, with their names."""
    furthest = max(np.hypot(px, py) for px in extent[:2] for py in extent[2:])
    step = next((s for s in (1, 2, 5, 10, 20) if furthest / s <= 6), 30)
    north, east = _degrees("N", "S"), _degrees("E", "W")
    lines = []
    for distance in np.arange(step, min(furthest, 90) + step, step):
        turn, level = np.linspace(-180, 180, 181), chart.pole * (90.0 - distance)
        lines.append((np.stack(chart.project(turn, np.full(181, level)), axis=1), north(level)))
    for meridian in range(-180, 180, 45):
        level = chart.pole * np.linspace(90.0 - step, 90.0 - furthest, 100)
        lines.append((np.stack(chart.project(np.full(100, float(meridian)), level), axis=1), east(meridian)))
    return lines


def _even(values: Array) -> bool:
    """Say whether the cells along an axis are of one size, to a quarter of one."""
    even = np.linspace(values[0], values[-1], values.size)
    return bool(abs(values - even).max() <= 0.25 * abs(values[-1] - values[0]) / (values.size - 1))


def _shape(extent: tuple[float, float, float, float], aspect: float, rows: int, columns: int) -> tuple[float, float]:
    """Return the aspect and the shape of a panel; those of its cells where it would be a strip."""
    shape = (extent[3] - extent[2]) / (extent[1] - extent[0]) * aspect
    return (aspect, shape) if 0.2 < shape < 5 else (aspect * (rows / columns) / shape, rows / columns)


def fitted(text: str, figure: Figure) -> str:
    """Return a title with line breaks so that it fits over `figure` in 11 points."""
    return textwrap.fill(text, max(20, int(figure.get_figwidth() / 0.095)))


def panel_size(where: Map, side: float) -> tuple[float, float]:
    """Return width and height in inches of a panel at most `side` wide, and not much higher than that."""
    width = min(side, max(1.15 * side / where.shape, 0.55 * side))
    return width, width * min(max(where.shape, 0.4), 3.0)


def draw(axes: Axes, frame: xr.DataArray, scale: Scale, where: Map) -> Any:
    """Draw a frame from :func:`panel` on `axes`, and return the image."""
    image: Any
    if where.mesh is not None:
        image = axes.pcolormesh(
            *where.mesh, _shown(frame.values, where), cmap=scale.cmap, norm=scale.norm, rasterized=True, linewidth=0
        )
        axes.set_aspect(where.aspect)
        axes.set_facecolor(OUTSIDE)
    else:
        image = axes.imshow(
            _shown(frame.values, where),
            cmap=scale.cmap,
            norm=scale.norm,
            extent=where.extent,
            aspect=where.aspect,
            interpolation="nearest",
            origin="upper",
        )
    from matplotlib.collections import LineCollection

    if where.extent is not None:
        axes.set(xlim=where.extent[:2], ylim=where.extent[2:])
    if where.coast:
        from matplotlib.patheffects import Normal, Stroke

        # Dark on light and light on dark: it is seen over every colour.
        halo = [Stroke(linewidth=1.6, foreground="white", alpha=0.6), Normal()]
        axes.add_collection(
            LineCollection(where.coast, colors="0.15", linewidths=0.7, path_effects=halo), autolim=False
        )
    if where.graticule:
        lines = [line for line, _ in where.graticule]
        axes.add_collection(LineCollection(lines, colors="0.4", linewidths=0.4, linestyles=":"), autolim=False)
    axes.set_xticks([])
    axes.set_yticks([])
    return image


def moving_pictures(
    films: Mapping[str, Sequence[xr.DataArray | None]], heads: Sequence[str], title: str, scale: Scale, where: Map
) -> list[Picture]:
    """Return the pictures of an animation; the layout is made once, so that nothing moves but the data.

    Parameters
    ----------
    films : mapping
        A name for each panel (none above one that has none), and its frames, from :func:`panel`; None where there is
        none, which the panel then says.
    heads : sequence of str
        The second line of the title, for each picture.
    title : str
        Its first line.
    scale : Scale
    where : Map
    """
    side, height = panel_size(where, 3.6)
    figure = new_figure(len(films) * side + 1.4, height + 1.1, "compressed")
    # Imported behind new_figure, which says how to install matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(films), squeeze=False)[0]
    shown = next(frame for film in films.values() for frame in film if frame is not None)
    images, notes = [], []
    for axes, name in zip(grid, films, strict=True):
        images.append(draw(axes, shown, scale, where))
        axes.set_title(name, fontsize=10)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        notes.append(
            axes.text(0.5, 0.5, f"no {name}", transform=axes.transAxes, ha="center", va="center", color="0.2", bbox=box)
        )
    label_corner(grid[0], where)
    colour_bar(figure, images[-1], scale, list(grid), (len(films) * side, height))
    head = fitted(title, figure)
    text = figure.suptitle(f"{head}\n ", fontsize=11)
    pictures: list[Picture] = []
    for i, line in enumerate(heads):
        text.set_text(f"{head}\n{line}")
        for image, note, film in zip(images, notes, films.values(), strict=True):
            frame = film[i]
            redraw(image, np.full(shown.shape, np.nan) if frame is None else frame.values, where)
            note.set_visible(frame is None)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        pictures.append(pixels[..., :3].copy())
        figure.set_layout_engine("none")
    return pictures


def redraw(image: Any, values: Array, where: Map) -> None:
    """Put other values into an image from :func:`draw`."""
    (image.set_data if where.mesh is None else image.set_array)(_shown(values, where))


def _shown(values: Array, where: Map) -> Any:
    """Return values as matplotlib masks them: without what is missing, and cells torn at the edge of a globe."""
    shown = np.ma.masked_invalid(values)
    if where.mesh is not None and where.extent is not None and where.extent[1] - where.extent[0] > 300.0:
        shown = np.ma.masked_where(torn_cells(where.mesh[0]), shown)
    return shown


def colour_bar(
    figure: Figure, image: Any, scale: Scale, panels: list[Axes], size: tuple[float, float], side: str = "right"
) -> None:
    """Put a bar beside `panels`, which together are `size` inches wide and high, over their whole height."""
    width, height = size
    bar = figure.colorbar(
        image,
        ax=panels,
        location=side,
        extend=scale.extend,
        extendfrac=0.03,
        ticks=scale.ticks,
        fraction=BAR_WIDTH / width,
        pad=0.02,
        aspect=height / BAR_WIDTH,
    )
    bar.set_label(scale.label)
    if scale.ticks is not None:
        bar.ax.set_yticklabels([f"{tick:.3g}" for tick in scale.ticks])
        bar.minorticks_off()


def label_corner(axes: Axes, where: Map) -> None:
    """Put ticks on the panel in the lower left corner, which stand for all panels."""
    if where.extent is None:
        return
    left, right, bottom, top = where.extent
    for line, name in where.graticule:
        x, y = line.T
        inside = line[(x > left) & (x < right) & (y > bottom) & (y < top)]
        # Of a parallel beside the meridian that points down, of a meridian where it leaves the panel.
        away = inside @ ((-0.38, -0.92) if name.endswith(("N", "S")) else inside[-1:].sum(axis=0))
        if len(inside):
            px, py = 0.86 * inside[away.argmax()]
            axes.text(px, py, name, fontsize=5, color="0.25", ha="center", va="center", clip_on=True)
    if where.graticule:
        return
    for low, high, text, axis in ((bottom, top, where.ticks[0], axes.yaxis), (left, right, where.ticks[1], axes.xaxis)):
        places = _round_ticks(low, high)
        axis.set_ticks(places, [text(place) for place in places])
    axes.tick_params(labelsize=7, length=2, pad=2)
    if where.labels[1]:
        axes.set_xlabel(where.labels[1], fontsize=8)
        axes.annotate(
            where.labels[0],
            (0, 1),
            (-4, 2),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )


def _round_ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]
