"""Tables of networks: the runs that fill them, one after another, and their figures beside the printed ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from sa_nowcast.computing.installing import require_training
from sa_nowcast.errors import Interrupted, ModelError, RecipeError, SaNowcastError
from sa_nowcast.recipe import ColumnRecipe, Recipe, TableRecipe, TablesRecipe, find_recipe, read_recipe
from sa_nowcast.recipe.tables import COSTS, PERSISTENCE_ROW
from sa_nowcast.storage.whole import storage, write_whole
from sa_nowcast.verification.metrics import plain_name
from sa_nowcast.verification.plan import PERSISTENCE
from sa_nowcast.workflow.costs import costs
from sa_nowcast.workflow.outputs import check_claim
from sa_nowcast.workflow.scoring import metrics_of
from sa_nowcast.workflow.stages import SCORES, run

FIGURES: Final = "tables.csv"


@dataclass(frozen=True)
class Member:
    """One run that fills tables; its name is the recipe, as the tables name it, and the network."""

    name: str
    recipe: Recipe

    def reporting(self, report: Callable[[str], None]) -> Callable[[str], None]:
        """Return `report` with the run's name before each line."""
        return lambda line: report(f"{self.name}: {line}")


@dataclass(frozen=True)
class TablesResult:
    """What there is of the tables.

    `figures` has a row for each table, network and column: ``table``, ``recipe``, ``network``, ``score``, ``lead``,
    ``threshold``, ``printed``, ``ours``, ``why``; ``lead`` is NaN where the score is the mean over all, ``ours`` where
    no run by these settings gives the figure, and ``why`` says where a network cannot do what the table asks.
    `failed` are the runs that could not be made for another reason, by name.
    """

    folder: Path
    figures: pd.DataFrame
    files: list[Path]
    failed: list[tuple[str, SaNowcastError]]


def members(recipe: TablesRecipe) -> tuple[list[Member], dict[str, str]]:
    """Return the runs that fill the tables that are asked for, each once; and of those that cannot be, why.

    Refused are recipes that score no such thing, and those that no network of theirs can be trained by.
    """
    found: dict[Path, Member] = {}
    refused: dict[str, RecipeError] = {}
    for table in recipe.wanted():
        rows = recipe.wanted_rows(table)
        for row in rows:
            folder, name = _folder(recipe, table.recipe, row), f"{table.recipe} {row}"
            if folder not in found and name not in refused:
                own = [*recipe.replaced(table, row), f"output.folder={json.dumps(str(folder))}"]
                try:
                    found[folder] = Member(name, read_recipe(find_recipe(table.recipe), own))
                except RecipeError as error:
                    refused[name] = error
                    continue
            if folder in found:
                _require_columns(table, found[folder].recipe)
        if rows and all(f"{table.recipe} {row}" in refused for row in rows):
            raise refused[f"{table.recipe} {rows[-1]}"]
    return list(found.values()), {name: str(error) for name, error in refused.items()}


def run_tables(
    recipe: TablesRecipe, *, progress: bool = True, report: Callable[[str], None] = lambda line: None
) -> TablesResult:
    """Make the runs that are missing, and return their figures beside the printed ones.

    Finished runs are read from their folders; the same call goes on after an interruption. Where a run cannot be made,
    the others still are; where the network cannot be used on these data, its row says why. A recipe or override that
    cannot be is refused before anything is run. `progress` is that of training; `report` is called with one line for
    each stage of each run, and for each run that cannot be made.
    """
    wanted, why = members(recipe)
    failed: list[tuple[str, SaNowcastError]] = []
    for name, line in why.items():
        report(f"{name}: {line}")
    ours: dict[str, Recipe] = {}  # a folder may hold a run by other settings, as after other overrides
    if recipe.run:
        require_training()
        _require_one_process()
    for number, member in enumerate(wanted, 1):
        say = member.reporting(report)
        if recipe.run:
            report(f"{member.name} ({number} of {len(wanted)})")
        try:
            check_claim(Path(member.recipe.output.folder), member.recipe)
        except RecipeError as error:
            say(str(error))
            if recipe.run:
                failed.append((member.name, error))
            continue
        ours[member.name] = member.recipe
        if not recipe.run:
            continue
        try:
            run(member.recipe, progress=progress, report=say)
        except Interrupted:
            raise
        except SaNowcastError as error:  # the others can still be made
            say(str(error))
            if isinstance(error, RecipeError | ModelError):
                why[member.name] = str(error)
            else:
                failed.append((member.name, error))
    folder = Path(recipe.output.folder).expanduser()
    figures, files = _figures(recipe, ours, why), []
    if recipe.run and folder.is_dir():
        with storage(folder / FIGURES):
            write_whole(folder / FIGURES, figures.to_csv(index=False))
        files = [folder / FIGURES]
    return TablesResult(folder, figures, files, failed)


def _require_columns(table: TableRecipe, run_by: Recipe) -> None:
    scored, where = metrics_of(run_by.verification), f"{table.title}, columns"
    for column in table.columns:
        if column.score in COSTS:
            continue
        if plain_name(column.score) not in scored:
            raise RecipeError(where, f"{table.recipe} has no {column.score!r}", f"one of {', '.join(scored)}")
        if (column.lead or 1) > run_by.steps:
            raise RecipeError(where, f"lead {column.lead}", expected=f"1 to {run_by.steps}")
        known = run_by.verification.thresholds
        if column.threshold is not None and column.threshold not in known:
            raise RecipeError(
                where, f"threshold {column.threshold:g}", expected=f"one of {', '.join(f'{t:g}' for t in known)}"
            )


def _require_one_process() -> None:
    from sa_nowcast.training.launch import launched

    if not launched().alone:
        raise RecipeError(
            "tables",
            f"started as {launched().share.ranks} processes that train together",
            expected="one process",
            fix="start the recipes of the tables by themselves, into the same folders, or name networks for each job",
        )


def _folder(recipe: TablesRecipe, experiment: str, network: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9-]+", "_", str(Path(experiment).with_suffix(""))).strip("_")
    return Path(recipe.output.folder).expanduser() / name / network


def _figures(recipe: TablesRecipe, runs: Mapping[str, Recipe], why: Mapping[str, str]) -> pd.DataFrame:
    """Return a row for each figure; `runs` are those whose folder may hold it."""
    rows = []
    for table in recipe.wanted():
        persistence = None  # scored in every run; the first that there is
        told: list[tuple[str, list[float | None]]] = []
        for row in recipe.wanted_rows(table):
            name, folder = f"{table.recipe} {row}", _folder(recipe, table.recipe, row)
            told.append((row, [None] * len(table.columns)))
            if name in runs and (folder / SCORES).is_file():
                scores = pd.read_csv(folder / SCORES)
                spent = costs(folder, runs[name]) if any(c.score in COSTS for c in table.columns) else {}
                told[-1] = (row, [_figure(scores, column, spent) for column in table.columns])
                if persistence is None:
                    persistence = [_figure(scores, column, {}, of_reference=True) for column in table.columns]
        if PERSISTENCE_ROW in table.beside:
            told.insert(0, (PERSISTENCE_ROW, persistence or [None] * len(table.columns)))
        for row, figures in told:
            place = {"table": table.title, "recipe": table.recipe, "network": row}
            printed = table.printed.get(row, (None,) * len(table.columns))
            for column, there, ours in zip(table.columns, printed, figures, strict=True):
                reason = why.get(f"{table.recipe} {row}", "")
                rows.append({**place, **column.model_dump(), "printed": there, "ours": ours, "why": reason})
    return pd.DataFrame(rows).astype(dict.fromkeys(("lead", "threshold", "printed", "ours"), float))


def _figure(
    scores: pd.DataFrame, column: ColumnRecipe, spent: Mapping[str, float], *, of_reference: bool = False
) -> float | None:
    """Return a cost, or a score at a lead time or on average over all; None where there is none."""
    if column.score in COSTS:
        return spent.get(column.score)
    rows = scores[scores["metric"] == plain_name(column.score)]
    if "model" in scores:  # references other than the first are scored beside the network, which comes first
        rows = rows[rows["model"] == scores["model"].iloc[0]]
    if column.threshold is not None:
        rows = rows[rows["threshold"] == column.threshold]
    value = "value"
    if of_reference:
        if "reference" not in rows or set(rows["reference"]) != {PERSISTENCE}:
            return None
        value = "reference_value"
    by_lead = rows.sort_values("lead_time_minutes")[value].to_list()
    if column.lead is not None:
        by_lead = by_lead[column.lead - 1 : column.lead]
    return sum(by_lead) / len(by_lead) if by_lead else None
