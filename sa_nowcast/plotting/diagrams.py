"""Diagrams of an ensemble at one lead time: reliability, ROC, economic value and the rank histogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.plotting.canvas import grid_of_axes, legend_below
from sa_nowcast.plotting.scales import choose
from sa_nowcast.plotting.scores import colours, labelled_scores, panel_title, thresholds_of, title_of
from sa_nowcast.times import read_leads, show_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What is drawn of each metric that is in the scores: the diagram's name, and its axes.
_DIAGRAMS: Final = {
    "observed_frequency": ("reliability", "forecast probability", "observed frequency"),
    "roc_hit_rate": ("ROC", "false alarm rate", "hit rate"),
    "economic_value": ("economic value", "cost-loss ratio", "share of a perfect forecast's saving"),
    "rank_histogram": ("rank histogram", "rank of the truth", "share of pixels"),
}
_WITH: Final = {"observed_frequency": "forecast_share", "roc_hit_rate": "roc_false_alarm_rate"}


def plot_diagrams(
    scores: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    lead_time: np.timedelta64 | str | None = None,
    thresholds: Sequence[float] | None = None,
    variable: object = None,
    channel: object = None,
    title: str | None = None,
) -> Figure:
    """Draw what scores hold of reliability, ROC, economic value and ranks: a panel for each threshold, with all models.

    Parameters
    ----------
    scores : Dataset, or mapping of names to Datasets
        From :func:`sa_nowcast.verification.verify` with some of the metrics "reliability", "roc", "economic_value" and
        "rank_histogram"; of several models by their names.
    lead_time : timedelta64 or str, optional
        By default the longest that is scored.
    thresholds : sequence of float, optional
        By default three of those that had an event, evenly spread.
    variable, channel : optional
        What to draw of scores that have these dimensions.
    title : str, optional
        By default what the scores say of themselves, and the lead time.

    Returns
    -------
    matplotlib.figure.Figure
        In the reliability diagram the area of a dot grows with how often its probability was forecast, and the
        dotted line is the frequency of the event.

    Raises
    ------
    RecipeError
        If none of these metrics, or not the lead time or a threshold is in the scores.
    """
    models = labelled_scores(scores)
    first = next(iter(models.values()))
    wanted = first["lead_time"].values[-1] if lead_time is None else read_leads([lead_time])[0]
    known = first["lead_time"].values
    if wanted not in known:
        shown = ", ".join(show_step(lead) for lead in known)
        raise RecipeError("plot of scores", f"lead time {show_step(wanted)} is not in them", f"one of {shown}")
    labels = {"lead_time": wanted, "variable": variable, "channel": channel}
    panels: list[tuple[str, float | None]] = []
    for name in _DIAGRAMS:
        held = next((data[name] for data in models.values() if {name, _WITH.get(name, name)} <= set(data)), None)
        if held is not None:
            held = held.where(held > 0) if name == "observed_frequency" else held  # 0 where there was no event
            panels += [(name, t) for t in (thresholds_of(held, thresholds) if "threshold" in held.dims else [None])]
    if not panels:
        found = "no diagram is in them"
        raise RecipeError("plot of scores", found, 'scores by the metrics "reliability", "roc" or "rank_histogram"')
    figure, grid = grid_of_axes(len(panels), 3.3)
    for axes, (name, threshold) in zip(grid, panels, strict=True):
        _draw(axes, models, name, {**labels, "threshold": threshold})
    legend_below(figure, grid)
    figure.suptitle(title if title is not None else f"{title_of(first)}, {show_step(wanted)} ahead")
    return figure


def _draw(axes: Axes, models: Mapping[str, xr.Dataset], name: str, labels: dict[str, object]) -> None:
    """Draw one diagram of all models that have its scores."""
    heading, across, up = _DIAGRAMS[name]
    cycle = dict(zip(models, colours(len(models)), strict=True))
    having = {model: data for model, data in models.items() if {name, _WITH.get(name, name)} <= set(data)}
    most = 0.0
    for number, (model, data) in enumerate(having.items()):
        colour = cycle[model]
        score = choose(data[name], "scores", **labels)
        # NaN where a probability was never forecast, or is one of an ensemble of another size in one file.
        there = score.notnull().values
        score = score[there]
        beside = choose(data[_WITH[name]], "scores", **labels).values[there] if name in _WITH else np.empty(0)
        if name == "rank_histogram":
            width = 0.8 / len(having)
            axes.bar(score["rank"] + (number - (len(having) - 1) / 2) * width, score, width, color=colour, label=model)
            axes.axhline(1 / score.size, color="black", linewidth=0.8, linestyle="--")
            most = max(most, 2.5 / score.size, 1.05 * float(score.max()))
        elif name == "roc_hit_rate":
            x, y = np.append(beside, 0.0), np.append(score.values, 0.0)
            axes.plot(x, y, color=colour, marker="o", markersize=3, label=model)
        elif name == "economic_value":
            axes.plot(score["cost_loss"], score, color=colour, marker="o", markersize=3, label=model)
        else:
            axes.plot(score["probability"], score, color=colour, label=model)
            axes.scatter(score["probability"], score, s=4 + 120 * beside, color=colour)
            axes.axhline(float(np.sum(score * beside)), color=colour, linewidth=0.8, linestyle=":")
    if name in _WITH:
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
        axes.set_aspect("equal")
    if name == "rank_histogram":
        axes.set_ylim(0, most)
    else:
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    first = next(iter(having.values()))[name]
    axes.set_title(panel_title(first, heading, {"threshold": labels["threshold"]}), fontsize=10)
    axes.set(xlabel=across, ylabel=up)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
