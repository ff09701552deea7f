"""Diagrams of forecasts at one lead time: reliability, ROC, value, ranks, spread and error, and spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.plotting.canvas import grid_of_axes, legend_below
from sa_nowcast.plotting.scales import choose, with_units
from sa_nowcast.plotting.scores import colours, labelled_scores, panel_title, thresholds_of, title_of
from sa_nowcast.times import read_leads, show_step
from sa_nowcast.verification.fields import SCALE
from sa_nowcast.verification.metrics import KINDS
from sa_nowcast.verification.spectra import WAVELENGTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal["reliability", "roc", "value", "rank", "spread-skill", "spectra"]


@dataclass(frozen=True)
class Diagram:
    """How a metric is drawn: its kind, the other metric that it needs, the heading and the axes."""

    kind: Kind
    heading: str
    across: str
    up: str
    beside: str | None = None

    def held_by(self, name: str, scores: xr.Dataset) -> bool:
        """Say whether scores hold what is drawn."""
        return {name, self.beside or name} <= set(scores)


DIAGRAMS: Final = {
    "observed_frequency": Diagram(
        "reliability", "reliability", "forecast probability", "observed frequency", "forecast_share"
    ),
    "roc_hit_rate": Diagram("roc", "ROC", "false alarm rate", "hit rate", "roc_false_alarm_rate"),
    "economic_value": Diagram("value", "economic value", "cost-loss ratio", "share of a perfect forecast's saving"),
    "rank_histogram": Diagram("rank", "rank histogram", "rank of the truth", "share of pixels"),
    "binned_rmse": Diagram("spread-skill", "spread-skill", "spread", "RMSE of the mean", "binned_spread"),
    "spectrum": Diagram("spectra", "power spectrum", "wavelength", "power", "spectrum_truth"),
    "spectrum_ratio": Diagram("spectra", "ratio of power", "wavelength", "forecast / truth"),
}


def plot_diagrams(
    scores: xr.Dataset | Mapping[str, xr.Dataset],
    kinds: Sequence[Kind] | None = None,
    *,
    lead_time: np.timedelta64 | str | None = None,
    thresholds: Sequence[float] | None = None,
    variable: object = None,
    channel: object = None,
    scale: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw what scores hold of reliability, ROC, value, ranks, spread and spectra: panels with all models.

    Parameters
    ----------
    scores : Dataset, or mapping of names to Datasets
        From :func:`sa_nowcast.verification.verify` with some of the metrics "reliability", "roc", "economic_value",
        "rank_histogram", "binned_spread_skill" and "spectra"; of several models by their names.
    kinds : sequence of {"reliability", "roc", "value", "rank", "spread-skill", "spectra"}, optional
        Which diagrams; by default all that the scores hold.
    lead_time : timedelta64 or str, optional
        By default the longest that is scored.
    thresholds : sequence of float, optional
        By default three of those that had an event, evenly spread.
    variable, channel : optional
        What to draw of scores that have these dimensions.
    scale : str, optional
        Of scores at several scales, by default the first.
    title : str, optional
        By default what the scores say of themselves, and the lead time.

    Returns
    -------
    matplotlib.figure.Figure
        In the reliability diagram the area of a dot grows with how often its probability was forecast, the dotted line
        is the frequency of the event, and the broad bars are where frequencies lie if the probabilities are right.

    Raises
    ------
    RecipeError
        If none of these metrics, or not a kind, the lead time or a threshold is in the scores.
    """
    models = labelled_scores(scores)
    first = next(iter(models.values()))
    wanted = first["lead_time"].values[-1] if lead_time is None else read_leads([lead_time])[0]
    known = first["lead_time"].values
    if wanted not in known:
        shown = ", ".join(show_step(lead) for lead in known)
        raise RecipeError("plot of scores", f"lead time {show_step(wanted)} is not in them", f"one of {shown}")
    if scale is None and SCALE in first.coords:
        scale = str(first[SCALE].values.ravel()[0])
    labels = {"lead_time": wanted, "variable": variable, "channel": channel, SCALE: scale}
    panels: list[tuple[str, float | None]] = []
    for name, diagram in DIAGRAMS.items():
        held = next((data[name] for data in models.values() if diagram.held_by(name, data)), None)
        if held is None or (kinds is not None and diagram.kind not in kinds):
            continue
        if name == "observed_frequency":
            held = held.where(held > 0)  # 0 where there was no event
        panels += [(name, t) for t in (thresholds_of(held, thresholds) if "threshold" in held.dims else [None])]
    missing = [kind for kind in kinds or () if all(DIAGRAMS[name].kind != kind for name, _ in panels)]
    if not panels or missing:
        found = f"no {missing[0]} is in them" if missing else "no diagram is in them"
        metrics = [KINDS[kind] for kind in missing if kind in KINDS] or KINDS.values()
        raise RecipeError("plot of scores", found, f"scores by the metrics {', '.join(metrics)}")
    figure, grid = grid_of_axes(len(panels), 3.3)
    for axes, (name, threshold) in zip(grid, panels, strict=True):
        _draw(axes, models, name, {**labels, "threshold": threshold})
    legend_below(figure, grid)
    figure.suptitle(title if title is not None else f"{title_of(first)}, {show_step(wanted)} ahead")
    return figure


def _draw(axes: Axes, models: Mapping[str, xr.Dataset], name: str, labels: dict[str, object]) -> None:
    """Draw one diagram of all models that have its scores."""
    from matplotlib.ticker import LogLocator, NullFormatter

    diagram = DIAGRAMS[name]
    cycle = dict(zip(models, colours(len(models)), strict=True))
    having = {model: data for model, data in models.items() if diagram.held_by(name, data)}
    first = next(iter(having.values()))[name]
    for number, (model, data) in enumerate(having.items()):
        score = choose(data[name], "scores", **labels)
        # NaN where a probability was never forecast, or is one of an ensemble of another size in one file.
        there = score.notnull().values
        score = score[there]
        beside = score if diagram.beside is None else choose(data[diagram.beside], "scores", **labels)[there]
        style: dict[str, Any] = {"color": cycle[model], "label": model}
        if name == "rank_histogram":
            width = 0.8 / len(having)
            axes.bar(score["rank"] + (number - (len(having) - 1) / 2) * width, score, width, **style)
            axes.axhline(1 / score.size, color="black", linewidth=0.8, linestyle="--")
            axes.set_ylim(0, max(axes.get_ylim()[1], 2.5 / score.size))
        elif name == "observed_frequency":
            axes.plot(score["probability"], score, **style)
            axes.scatter(score["probability"], score, s=4 + 120 * beside, color=cycle[model])
            axes.axhline(float(np.sum(score * beside)), color=cycle[model], linewidth=0.8, linestyle=":")
            _bars(axes, data, labels, cycle[model])
        elif name == "roc_hit_rate":
            axes.plot(np.append(beside, 0.0), np.append(score, 0.0), marker="o", markersize=3, **style)
        elif name == "economic_value":
            axes.plot(score["cost_loss"], score, marker="o", markersize=3, **style)
        elif name == "binned_rmse":
            axes.plot(beside, score, marker="o", markersize=3, **style)
        else:
            if diagram.beside is not None and not number:  # of the same pixels for all
                axes.plot(score[WAVELENGTH], beside, color="black", linestyle="--", label="truth")
            axes.plot(score[WAVELENGTH], score, **style)
    if diagram.kind in ("reliability", "roc"):
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
        axes.set_aspect("equal")
    if diagram.kind in ("reliability", "roc", "value"):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    across, up = diagram.across, diagram.up
    if name == "binned_rmse":
        end = 1.05 * max(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.plot([0, end], [0, end], color="black", linewidth=0.8, linestyle="--")
        axes.set(xlim=(0, end), ylim=(0, end), aspect="equal")
        across, up = (with_units(text, str(first.attrs.get("units", ""))) for text in (across, up))
    elif diagram.kind == "spectra":
        axes.set(xscale="log", yscale="log")
        if name == "spectrum_ratio":
            axes.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, 0.3), max(high, 3.0))
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.invert_xaxis()
        units = {"1": "pixels"}.get(known := str(first[WAVELENGTH].attrs.get("units", "")), known)
        across = with_units(across, units)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(panel_title(first, diagram.heading, {key: labels[key] for key in ("threshold", SCALE)}), fontsize=10)
    axes.set(xlabel=across, ylabel=up)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _bars(axes: Axes, data: xr.Dataset, labels: dict[str, object], colour: str) -> None:
    """Draw where the frequencies of a calibrated forecast would lie, at each probability that was forecast."""
    names = [f"observed_frequency_consistent_{end}" for end in ("lower", "upper")]
    if not set(names) <= set(data):
        return
    low, high = (choose(data[name], "scores", **labels) for name in names)
    axes.vlines(low["probability"], low, high, color=colour, alpha=0.25, linewidth=6, zorder=1)
