"""Curves of scores by lead time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.plotting.canvas import grid_of_axes, legend_below
from sa_nowcast.plotting.scales import choose
from sa_nowcast.verification.fields import DIAGRAM_DIMS, EVENT_DIMS, SCALE
from sa_nowcast.verification.metrics import METRICS, plain_name
from sa_nowcast.verification.scales import PIXEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by most colour-blind readers; black is the reference's.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MOST_THRESHOLDS = 3


def plot_scores(
    scores: xr.Dataset | Mapping[str, xr.Dataset],
    metrics: Sequence[str] | None = None,
    *,
    thresholds: Sequence[float] | None = None,
    variable: object = None,
    channel: object = None,
    title: str | None = None,
) -> Figure:
    """Draw scores by lead time: a panel for each metric and threshold, a curve for each model.

    Parameters
    ----------
    scores : Dataset, or mapping of names to Datasets
        From :func:`sa_nowcast.verification.verify`; of several models by their names.
    metrics : sequence of str, optional
        What to draw: names of metrics, and of skills such as "mse_skill". By default every metric that varies with
        lead time alone or with threshold, and the first one's skill where there is a reference.
    thresholds : sequence of float, optional
        By default three of those that had an event, evenly spread.
    variable, channel : optional
        What to draw of scores that have these dimensions.
    title : str, optional
        By default what the scores say of themselves.

    Returns
    -------
    matplotlib.figure.Figure
        The reference is dashed and black, whether it is one of the models or stands in their scores; the interval of
        a skill is shaded.

    Raises
    ------
    RecipeError
        If a metric or threshold is not in the scores, or a variable or channel is not chosen.
    """
    labelled = labelled_scores(scores)
    first = next(iter(labelled.values()))
    panels = list(_panels(labelled.values(), metrics, thresholds))
    figure, grid = grid_of_axes(len(panels), 2.9)
    for axes, (name, labels) in zip(grid, panels, strict=True):
        _curves(axes, labelled, name, {**labels, "variable": variable, "channel": channel})
    references = {str(data.attrs.get("reference")) for data in labelled.values()}
    legend_below(figure, grid, references)
    figure.suptitle(title if title is not None else title_of(first))
    return figure


def labelled_scores(scores: xr.Dataset | Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Return the scores of each model by its name, with the channel dimension named ``channel``."""
    several = dict(scores) if isinstance(scores, Mapping) and not isinstance(scores, xr.Dataset) else None
    named = several if several is not None else {"": scores}
    if not named:
        raise RecipeError("scores", "are empty", "at least one Dataset")
    return {
        str(name) or _model_name(data): _plain(data) for name, data in named.items() if isinstance(data, xr.Dataset)
    }


def _model_name(scores: xr.Dataset) -> str:
    return str(scores.attrs.get("model", "forecast"))


def title_of(scores: xr.Dataset) -> str:
    """Return what scores say of themselves."""
    text = str(scores.attrs.get("title", "scores"))
    return text[:1].upper() + text[1:]


def _panels(
    models: Iterable[xr.Dataset], metrics: Sequence[str] | None, thresholds: Sequence[float] | None
) -> Iterator[tuple[str, dict[str, object]]]:
    curves: dict[str, xr.DataArray] = {}
    for scores in models:
        for other, score in scores.data_vars.items():
            if "lead_time" in score.dims and not set(DIAGRAM_DIMS).intersection(score.dims):
                curves.setdefault(str(other), score)
    if metrics is None:
        metrics = [name for name in curves if name in METRICS]
        metrics += [f"{name}_skill" for name in metrics if f"{name}_skill" in curves][:1]
    if not metrics:
        raise RecipeError("plot of scores", "no metric is in them", "scores as verify returns them")
    for name in (told if told in curves else plain_name(told) for told in metrics):
        if name not in curves:
            raise RecipeError("plot of scores", f"{name} is no curve in them", "one of " + ", ".join(curves))
        score = curves[name]
        widths = score["neighbourhood"].values[-1:].tolist() if "neighbourhood" in score.dims else [None]
        scales = score[SCALE].values.tolist() if SCALE in score.dims else [None]
        for width, scale in itertools.product(widths, scales):
            labels: dict[str, object] = {} if width is None else {"neighbourhood": width}
            labels |= {} if scale is None else {SCALE: scale}
            if "threshold" not in score.dims:
                yield name, labels
                continue
            for threshold in thresholds_of(score, thresholds):
                yield name, {**labels, "threshold": threshold}


def thresholds_of(score: xr.DataArray, wanted: Sequence[float] | None) -> list[float]:
    """Return the thresholds to draw: those wanted, or some of those at which the score is defined."""
    known = score["threshold"].values
    if wanted is None:
        others = [str(dim) for dim in score.dims if dim != "threshold"]
        kept = known[score.notnull().any(others).values]
        if not kept.size:
            return [float(known[0])]
        places = np.linspace(0, kept.size - 1, min(MOST_THRESHOLDS, kept.size)).round().astype(int)
        return [float(kept[place]) for place in places]
    absent = [value for value in wanted if value not in known]
    if absent:
        raise RecipeError(
            "plot of scores", f"threshold {absent[0]:g} is not in them", "one of " + ", ".join(f"{k:g}" for k in known)
        )
    return [float(value) for value in wanted]


def _curves(axes: Axes, models: Mapping[str, xr.Dataset], name: str, labels: dict[str, object]) -> None:
    skill = name.endswith("_skill")
    drawn: set[str] = set()
    minutes = 1.0
    units = "min"
    longest = max(float(data["lead_time"].values.max() / np.timedelta64(1, "m")) for data in models.values())
    if longest > 600:
        minutes, units = 60.0, "h"
    # A reference that is one of the models too, as in a comparison, is drawn once.
    references = {str(data.attrs["reference"]) for data in models.values() if "reference" in data.attrs}
    cycle = iter(colours(len(models)))
    for model, data in models.items():
        colour = "black" if model in references else next(cycle)
        if name not in data:
            continue
        if labels.get(SCALE) is not None:  # of means over a time there are fewer lead times
            there = choose(data[name], "scores", **labels).notnull().values
            data = data.isel(lead_time=there) if there.any() else data
        x = data["lead_time"].values / np.timedelta64(1, "m") / minutes
        marker = "o" if x.size <= 24 else ""
        score = choose(data[name], "scores", **labels)
        style = "--" if model in references else "-"
        size = 2.5 if model in references else 3.5
        axes.plot(x, score.values, color=colour, linestyle=style, marker=marker, markersize=size, label=model)
        if f"{name}_lower" in data:
            low, high = (choose(data[f"{name}_{end}"], "scores", **labels).values for end in ("lower", "upper"))
            if x.size == 1:
                axes.vlines(x, low, high, color=colour, alpha=0.5)
                axes.set_xticks(x)
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        reference = data.attrs.get("reference")
        if reference is not None and f"{name}_{reference}" in data and reference not in {*drawn, *models}:
            other = choose(data[f"{name}_{reference}"], "scores", **labels)
            axes.plot(
                x, other.values, color="black", linestyle="--", marker=marker, markersize=2.5, label=str(reference)
            )
            drawn.add(str(reference))
    if skill:
        axes.axhline(0.0, color="black", linewidth=0.8)
        # Where a resampled reference has next to no error, an interval reaches so far that no curve could be seen.
        curves = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
        present = curves[np.isfinite(curves)]
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, float(present.min()) - 1.0), min(top, float(present.max()) + 1.0))
    first = next(data[name] for data in models.values() if name in data)
    axes.set_title(panel_title(first, name, labels), fontsize=10)
    axes.set_xlabel(f"lead time ({units})")
    shown = str(first.attrs.get("units", "1"))
    axes.set_ylabel(name.replace("_", " ") if shown == "1" else f"{name.replace('_', ' ')}, {_superscript(shown)}")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _plain(scores: xr.Dataset) -> xr.Dataset:
    """Return `scores` with the channel dimension named ``channel``, whatever the data call it."""
    known = ("lead_time", "variable", "channel", *EVENT_DIMS)
    return scores.rename({dim: "channel" for dim in scores.dims if dim not in known})


def colours(number: int) -> list[str]:
    """Return a colour for each of so many curves."""
    return [COLOURS[i % len(COLOURS)] for i in range(number)]


def _superscript(units: str) -> str:
    return f"{units.removesuffix(')2')})²" if units.endswith(")2") else units


def panel_title(score: xr.DataArray, name: str, labels: Mapping[str, object]) -> str:
    """Return what a panel shows: the score, and the threshold and neighbourhood where it has some."""
    parts = [name.replace("_", " ")]
    if labels.get("threshold") is not None:
        units = score["threshold"].attrs.get("units", "")
        parts.append(f"≥ {labels['threshold']:g} {units}".rstrip())
    if labels.get("neighbourhood") is not None:
        parts.append(f"{labels['neighbourhood']} × {labels['neighbourhood']} pixels")
    if labels.get(SCALE) not in (None, PIXEL):
        parts.append(f"over {labels[SCALE]}")
    return ", ".join(parts)
