"""A publication's tables: the runs that fill them, one after another, and their figures beside the printed ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from sa_nowcast.errors import Interrupted, RecipeError, SaNowcastError
from sa_nowcast.recipe import ColumnRecipe, Recipe, TableRecipe, TablesRecipe, find_recipe, read_recipe
from sa_nowcast.storage.whole import storage, write_whole
from sa_nowcast.verification.metrics import plain_name
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
    ``printed``, ``ours``; ``lead`` is NaN where the score is the mean over all, ``ours`` where no run by these settings
    gives the figure. `failed` are the runs that could not be made, by name.
    """

    folder: Path
    figures: pd.DataFrame
    files: list[Path]
    failed: list[tuple[str, SaNowcastError]]


def members(recipe: TablesRecipe) -> list[Member]:
    """Return the runs that fill the tables that are asked for, each once; refuse recipes that score no such thing."""
    found: dict[Path, Member] = {}
    for table in recipe.wanted():
        for network in recipe.wanted_networks(table):
            folder = _folder(recipe, table.recipe, network)
            if folder not in found:
                own = [f"network.name={network}", f"output.folder={json.dumps(str(folder))}"]
                read = read_recipe(find_recipe(table.recipe), [*recipe.overrides, *own])
                found[folder] = Member(f"{table.recipe} {network}", read)
            _require_columns(table, found[folder].recipe)
    return list(found.values())


def run_tables(
    recipe: TablesRecipe, *, progress: bool = True, report: Callable[[str], None] = lambda line: None
) -> TablesResult:
    """Make the runs that are missing, and put their figures beside the printed ones.

    Finished runs are read from their folders; the same call goes on after an interruption. Where a run cannot be made,
    the others still are. A recipe or override that cannot be is refused before anything is run. `progress` is that of
    training; `report` is called with one line for each stage of each run, and for each run that cannot be made.
    """
    wanted = members(recipe)
    failed: list[tuple[str, SaNowcastError]] = []
    if recipe.run:
        _require_one_process()
        for number, member in enumerate(wanted, 1):
            report(f"{member.name} ({number} of {len(wanted)})")
            try:
                run(member.recipe, progress=progress, report=member.reporting(report))
            except Interrupted:
                raise
            except SaNowcastError as error:  # the others can still be made
                member.reporting(report)(str(error))
                failed.append((member.name, error))
    folder = Path(recipe.output.folder).expanduser()
    others = set()  # whose folder holds a run by other settings, as after other overrides: its figures are not theirs
    for member in wanted:
        try:
            check_claim(Path(member.recipe.output.folder), member.recipe)
        except RecipeError as error:
            others.add(member.name)
            if not recipe.run:  # else it was said when it was to be run
                member.reporting(report)(str(error))
    figures, files = _figures(recipe, others), []
    if recipe.run and folder.is_dir():
        with storage(folder / FIGURES):
            write_whole(folder / FIGURES, figures.to_csv(index=False))
        files = [folder / FIGURES]
    return TablesResult(folder, figures, files, failed)


def _require_columns(table: TableRecipe, run_by: Recipe) -> None:
    scored = metrics_of(run_by.verification)
    for column in table.columns:
        if plain_name(column.score) not in scored:
            raise RecipeError(
                f"{table.title}, columns", f"{table.recipe} has no {column.score!r}", f"one of {', '.join(scored)}"
            )
        if (column.lead or 1) > run_by.steps:
            raise RecipeError(f"{table.title}, columns", f"lead {column.lead}", expected=f"1 to {run_by.steps}")


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


def _figures(recipe: TablesRecipe, without: Container[str]) -> pd.DataFrame:
    rows = []
    for table in recipe.wanted():
        for network in recipe.wanted_networks(table):
            path = _folder(recipe, table.recipe, network) / SCORES
            known = f"{table.recipe} {network}" not in without and path.is_file()
            scores = pd.read_csv(path) if known else None
            told = {"table": table.title, "recipe": table.recipe, "network": network}
            for column, printed in zip(table.columns, table.printed[network], strict=True):
                ours = None if scores is None else _mean(scores, network, column)
                rows.append({**told, **column.model_dump(), "printed": printed, "ours": ours})
    return pd.DataFrame(rows).astype({"lead": float, "ours": float})


def _mean(scores: pd.DataFrame, network: str, column: ColumnRecipe) -> float | None:
    """Return a score at a lead time or on average over all; None where it was not made."""
    rows = scores[scores["metric"] == plain_name(column.score)]
    if "model" in scores:  # references are scored beside the network
        rows = rows[rows["model"] == network]
    by_lead = rows.sort_values("lead_time_minutes")["value"].to_list()
    if column.lead is not None:
        by_lead = by_lead[column.lead - 1 : column.lead]
    return sum(by_lead) / len(by_lead) if by_lead else None
