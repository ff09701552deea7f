"""Figures of panels that share scales, titles and colour bars; and the pictures of an animation."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import MissingLibraryError
from sa_nowcast.plotting.animation import Picture
from sa_nowcast.plotting.maps import Map
from sa_nowcast.plotting.mesh import Array, torn_cells
from sa_nowcast.plotting.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUTSIDE = "#f0f0f0"
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


def grid_of_axes(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes for so many diagrams, each of this height in inches, and the axes."""
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure = new_figure(3.6 * columns + 0.4, height * rows + 0.9, "constrained")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, list(grid[:count])


def legend_below(figure: Figure, grid: Sequence[Axes], last: Collection[str] = ()) -> None:
    """Draw one legend of all axes below them, with the names of `last` at its end."""
    handles: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    handles = dict(sorted(handles.items(), key=lambda item: item[0] in last))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 5), frameon=False
    )


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


@dataclass(frozen=True)
class Panel:
    """One of the panels of a figure: a frame from :func:`sa_nowcast.plotting.maps.panel` under its title.

    Without a frame it says `note`, and is left blank where there is none.
    """

    scale: Scale
    frame: xr.DataArray | None = None
    title: str = ""
    note: str = ""


def figure_of(
    rows: Sequence[Sequence[Panel]],
    where: Map,
    title: str,
    *,
    side: float,
    margins: tuple[float, float],
    gap: float = 0.0,
    font: int = 9,
    bars: Sequence[str] = ("right", "right"),
) -> tuple[Figure, Any, Any]:
    """Return a figure of panels in a grid, all rows of one length, with a colour bar beside the panels of each scale.

    Parameters in inches: the width `side` of a panel at most, `margins` beside and above all panels, the `gap` between
    rows; `font`, the size of the panels' titles, in points. `bars` says where the bars stand, in the order in which the
    panels have their scales. With the figure come its axes and images, both (rows, columns).
    """
    width, height = _panel_size(where, side)
    columns = len(rows[0])
    figure = new_figure(columns * width + margins[0], len(rows) * (height + gap) + margins[1], "compressed")
    grid: Any = figure.subplots(len(rows), columns, squeeze=False)
    images: Any = np.full(grid.shape, None)
    of_scale: dict[int, list[tuple[int, int]]] = {}
    for place in np.ndindex(grid.shape):
        axes, shown = grid[place], rows[place[0]][place[1]]
        of_scale.setdefault(id(shown.scale), []).append(place)
        axes.set_title(shown.title, fontsize=font)
        if shown.frame is not None:
            images[place] = draw(axes, shown.frame, shown.scale, where)
        elif shown.note:
            axes.set(xticks=[], yticks=[], facecolor="none")
            axes.spines[:].set_visible(False)
            axes.text(0.5, 0.5, shown.note, ha="center", va="center", transform=axes.transAxes, color="0.4")
        else:
            axes.set_axis_off()
    _label_corner(grid[-1 if rows[-1][0].frame is not None else 0, 0], where)
    for places, bar in zip(of_scale.values(), bars, strict=False):
        drawn = [place for place in places if images[place] is not None]
        if drawn:
            down, across = (len(set(along)) for along in zip(*places, strict=True))
            scale = rows[drawn[-1][0]][drawn[-1][1]].scale
            of_bar = [grid[place] for place in places]
            _colour_bar(figure, images[drawn[-1]], scale, of_bar, (across * width, down * height), bar)
    figure.suptitle(_fitted(title, figure), fontsize=11)
    return figure, grid, images


def _panel_size(where: Map, side: float) -> tuple[float, float]:
    """Return width and height in inches of a panel at most `side` wide, and not much higher than that."""
    width = min(side, max(1.15 * side / where.shape, 0.55 * side))
    return width, width * min(max(where.shape, 0.4), 3.0)


def _fitted(text: str, figure: Figure) -> str:
    """Return a title with line breaks so that it fits over `figure` in 11 points."""
    return textwrap.fill(text, max(20, int(figure.get_figwidth() / 0.095)))


def draw(axes: Axes, frame: xr.DataArray, scale: Scale, where: Map) -> Any:
    """Draw a frame from :func:`sa_nowcast.plotting.maps.panel` on `axes`, and return the image."""
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
    sequences: Mapping[str, Sequence[xr.DataArray | None]],
    heads: Sequence[str],
    title: str,
    scale: Scale,
    where: Map,
) -> list[Picture]:
    """Return the pictures of an animation; the layout is made once, so that nothing moves but the data.

    `sequences` has a name for each panel and its frames, None where there is none, which the panel then says; `heads`
    the second line of the title, for each picture.
    """
    shown = next(frame for frames in sequences.values() for frame in frames if frame is not None)
    row = [Panel(scale, shown, name) for name in sequences]
    side = min(3.6, max(1.8, 8.4 / len(row)))  # many panels still fit on a page
    figure, (grid,), (images,) = figure_of([row], where, title, side=side, margins=(1.4, 1.1), font=10)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, head = FigureCanvasAgg(figure), figure.get_suptitle()
    text = figure.suptitle(f"{head}\n ", fontsize=11)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    notes = [
        axes.text(0.5, 0.5, f"no {name}", transform=axes.transAxes, ha="center", va="center", color="0.2", bbox=box)
        for axes, name in zip(grid, sequences, strict=True)
    ]
    pictures: list[Picture] = []
    for i, line in enumerate(heads):
        text.set_text(f"{head}\n{line}")
        for image, note, frames in zip(images, notes, sequences.values(), strict=True):
            frame = frames[i]
            _redraw(image, np.full(shown.shape, np.nan) if frame is None else frame.values, where)
            note.set_visible(frame is None)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        pictures.append(pixels[..., :3].copy())
        figure.set_layout_engine("none")
    # A wide grid leaves room below its panels.
    used = max(int(np.flatnonzero((picture < 255).any(axis=(1, 2)))[-1]) for picture in pictures)
    return [picture[: used + 10] for picture in pictures]


def _redraw(image: Any, values: Array, where: Map) -> None:
    """Put other values into an image from :func:`draw`."""
    (image.set_data if where.mesh is None else image.set_array)(_shown(values, where))


def _shown(values: Array, where: Map) -> Any:
    """Return values as matplotlib masks them: without what is missing, and cells torn at the edge of a globe."""
    shown = np.ma.masked_invalid(values)
    if where.mesh is not None and where.extent is not None and where.extent[1] - where.extent[0] > 300.0:
        shown = np.ma.masked_where(torn_cells(where.mesh[0]), shown)
    return shown


def _colour_bar(
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


def _label_corner(axes: Axes, where: Map) -> None:
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
