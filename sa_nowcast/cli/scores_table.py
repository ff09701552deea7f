"""Scores by lead time as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sa_nowcast.cli import terminal

if TYPE_CHECKING:
    import pandas as pd

    from sa_nowcast.recipe import TablesRecipe


_WIDEST = 1000


def _print(table: Table) -> None:
    """Print a table on standard output; the terminal folds it where it is narrower, which hides no score."""
    width = Measurement.get(terminal.out, terminal.out.options.update(width=_WIDEST), table).maximum
    Console(width=max(terminal.out.width, width)).print(table)


def print_scores(scores: pd.DataFrame, title: str, what: str = "by lead time") -> None:
    """Print scores by lead time."""
    _print(scores_table(scores, title, what))


def print_comparison(scores: pd.DataFrame, title: str) -> None:
    """Print the scores of a comparison: a line for each dataset, field and lead time.

    Of models: MSE, skill against each reference that there is, MSE as a share of the best reference's, and the others.
    """
    from sa_nowcast.verification.named import is_reference

    ours = [model for model in dict.fromkeys(scores["model"]) if not is_reference(model)]
    columns = [str(c) for c in scores]
    references = [c.removeprefix("skill_lower_") for c in columns if c.startswith("skill_lower_")]
    others = [c for c in columns[columns.index("mse") + 1 : columns.index("best")] if not c.startswith("skill_")]
    table = Table(title=f"{title}: MSE, skill and share of the best with 90 % intervals", title_justify="left")
    # A matched forecast is not made for a small squared error.
    means = [model for model in ours if not model.endswith(":matched")]
    headings = [f"{model} / {reference}" for model in means for reference in (*references, "best")]
    headings += [f"{model} {other}" for model in ours for other in others]
    for heading in ("data", "lead", *ours, "best", *headings):
        table.add_column(Text(heading), justify="right" if heading != "data" else "left", no_wrap=True)
    for (name, field), rows in scores.fillna({"field": ""}).groupby(["set", "field"], sort=False):
        for lead, of_lead in rows.groupby("lead"):
            row = of_lead.set_index("model")
            cells = [f"{name} {field}".strip() if lead == 1 else "", str(lead)]
            cells += [f"{row.loc[model, 'mse']:.4g}" for model in ours] + [str(row["best"].iloc[0])]
            for model in means:
                for part, sign in (*((f"skill{{}}_{reference}", "+") for reference in references), ("of_best{}", "")):
                    value, low, high = (row.loc[model, part.format(end)] for end in ("", "_lower", "_upper"))
                    interval = f" ({low:{sign}.2f} {high:{sign}.2f})" if low == low else ""
                    cells.append(f"{value:{sign}.2f}{interval}")
            cells += [f"{row.loc[model, other]:.3g}" for model in ours for other in others]
            table.add_row(*cells, end_section=lead == rows["lead"].max())
    _print(table)


def print_tables(figures: pd.DataFrame, recipe: TablesRecipe) -> None:
    """Print tables: for each column the printed figure, where any is, and ours.

    A run that is not there is said to be missing; why a network cannot be used stands below the table.
    """
    for told in recipe.wanted():
        rows = figures[figures["table"] == told.title]
        table = Table(title_justify="left", caption_justify="left")
        table.title = f"{told.title} ({told.source})" if told.source else told.title
        table.add_column("network", no_wrap=True)
        printed = [any(figures[at] is not None for figures in told.printed.values()) for at in range(len(told.columns))]
        for column, has_printed in zip(told.columns, printed, strict=True):
            for heading in (f"{column.label} printed", "ours") if has_printed else (column.label,):
                table.add_column(Text(heading), justify="right", no_wrap=True)
        below = [told.note] if told.note else []
        for network, of_network in rows.groupby("network", sort=False):
            why = str(of_network["why"].iloc[0])
            below += [f"{network}: {why}"] if why else []
            none = "cannot" if why else "missing" if of_network["ours"].isna().all() else "-"
            cells = []
            for there, here, has_printed in zip(of_network["printed"], of_network["ours"], printed, strict=True):
                cells += [("-" if there != there else f"{there:g}")] if has_printed else []
                cells.append(none if here != here else f"{here:.4g}")
            table.add_row(str(network), *cells)
        table.caption = "\n".join(below) or None
        if len(rows):
            _print(table)


def scores_table(scores: pd.DataFrame, title: str, what: str = "by lead time") -> Table:
    """Lay out all scores by lead time, the reference's beside each in brackets; the first one with its ratio."""
    from sa_nowcast.verification.fields import DIAGRAM_DIMS, EVENT_DIMS
    from sa_nowcast.verification.table import NO_LABELS

    # A score of many ranks or probabilities is a diagram, and fills no table by lead time.
    diagrams = scores[[c for c in scores.columns if c in DIAGRAM_DIMS]].notna().any(axis=1)
    untold = [] if diagrams.all() else list(dict.fromkeys(scores.loc[diagrams, "metric"]))
    scores = scores[~diagrams] if untold else scores
    reference = str(scores["reference"].iloc[0]) if "reference" in scores.columns else None
    events = [c for c in scores.columns if c in EVENT_DIMS]
    labels = [c for c in scores.columns if c not in (*events, *NO_LABELS) and scores[c].notna().any()]
    table = Table(title=f"{title}: {what}", title_justify="left", caption_justify="left")
    columns = [
        (metric, event)
        for metric, rows in scores.groupby("metric", sort=False)
        for event in rows[events].drop_duplicates().itertuples(index=False, name=None)
    ]
    columns.sort(key=lambda column: column[0] != "mse")  # the others as they were asked for
    first = str(columns[0][0])
    for heading in (*labels, "lead [min]", first.upper(), *(() if reference is None else (reference, "ratio"))):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for metric, event in columns[1:]:
        table.add_column(_score_name(str(metric), dict(zip(events, event, strict=True))), justify="right", no_wrap=True)
    for place, rows in scores.groupby([*labels, "lead_time_minutes"], sort=False, dropna=False):
        # A score of whole frames has no channel, and the others have one.
        cells = [*("" if label != label else str(label) for label in place[:-1]), f"{place[-1]:.3g}"]
        for number, (metric, event) in enumerate(columns):
            row = rows[rows["metric"] == metric]
            for name, value in zip(events, event, strict=True):
                row = row[(row[name] == value) | (row[name].isna() & (value != value))]
            if row.empty:
                cells += ["-"] * (3 if number == 0 and reference is not None else 1)
                continue
            value = row["value"].iloc[0]
            if reference is None:
                cells.append(f"{value:.4g}")
                continue
            other = row["reference_value"].iloc[0]
            if other != other:  # the reference's own row
                cells += [f"{value:.4g}", *(["-", "-"] if number == 0 else [])]
            elif number == 0:
                # Where nothing moves, persistence is exact, and there is no ratio to it.
                cells += [f"{value:.4g}", f"{other:.4g}", f"{value / other:.3f}" if other else "-"]
            else:
                cells.append(
                    f"{value:.3f} ({other:.3f})" if max(abs(value), abs(other)) < 10 else f"{value:.4g} ({other:.4g})"
                )
        table.add_row(*cells)
    units = str(scores.loc[scores["metric"] == first, "units"].iloc[0]) or "the data's units"
    table.caption = f"{first.upper()} in {units}"
    if reference is not None:
        table.caption += f"; ratio: {first.upper()} / that of {reference}"
        table.caption += f"; the rest: ours ({reference})" if len(columns) > 1 else ""
    if untold:
        table.caption += f"; not shown, by rank or probability: {', '.join(untold)}"
    return table


def _score_name(metric: str, event: dict[str, Any]) -> str:
    name = metric.upper() if len(metric) <= 4 else metric
    words = {
        "scale": " over ",
        "threshold": ">=",
        "neighbourhood": " in ",
        "rank": " of rank ",
        "probability": " at ",
        "cost_loss": " at ",
    }
    for dim, word in words.items():
        if (value := event.get(dim)) is not None and value == value:
            name += f"{word}{value}" if isinstance(value, str) else f"{word}{value:g}"
    return name
