"""Commands that do what a recipe says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sa_nowcast.cli import options, recipes, terminal
from sa_nowcast.cli.scores_table import print_comparison, print_scores, print_tables
from sa_nowcast.cli.terminal import app
from sa_nowcast.errors import RecipeError

if TYPE_CHECKING:
    from sa_nowcast.recipe import ComparisonRecipe, Recipe, TablesRecipe
    from sa_nowcast.survey.findings import Finding

RecipeName = Annotated[
    str,
    typer.Argument(
        help="Path of a recipe YAML, or the name of one that ships, such as quickstart.",
        autocompletion=recipes.complete,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Replaces training.seed.")]
Output = Annotated[str | None, typer.Option(help="Replaces output.folder.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replaces one value, such as training.max_steps=100; repeatable."),
]


@app.command()
def run(
    recipe: RecipeName,
    seed: Seed = None,
    output: Output = None,
    override: Overrides = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train, forecast the test period, score them and draw a picture, as a recipe says.

    A recipe with sets, such as default_model_scores, scores models that are trained already on several datasets; one
    with tables, such as networks or paper_tables, makes the runs that fill them, network by network, and prints them.

    Each stage is skipped where its inputs are unchanged and its output is whole.

    Example: sa-nowcast run quickstart
    """
    from sa_nowcast.recipe import ComparisonRecipe, ServiceRecipe, TablesRecipe
    from sa_nowcast.workflow import run as run_recipe

    parsed = recipes.read_any(recipe, seed, output, override or ())
    if isinstance(parsed, ServiceRecipe):
        raise RecipeError(recipe, "the recipe of a service", "one of an experiment", f"sa-nowcast watch {recipe}")
    if isinstance(parsed, ComparisonRecipe):
        _compare(parsed, dry_run, json)
        return
    if isinstance(parsed, TablesRecipe):
        (_check_tables(parsed, json) if dry_run else _fill_tables(parsed, json, quiet))
        return
    if dry_run:
        _check(parsed, json)
        return
    result = run_recipe(parsed, progress=not quiet, report=terminal.report)
    if not result.files:
        return  # one of several processes, and not the one that writes
    if result.already_done:
        terminal.report(f"{result.folder} holds this run, finished; remove the folder to run it again")
    if json:
        scores = result.scores.to_dict("records")
        files = [str(file) for file in result.files]
        terminal.emit(
            {"folder": str(result.folder), "already_done": result.already_done, "files": files, "scores": scores}
        )
        return
    print_scores(result.scores, parsed.name, "test period, by lead time")
    for file in result.files:
        terminal.result(file)


@app.command()
def train(
    recipe: RecipeName,
    seed: Seed = None,
    output: Output = None,
    override: Overrides = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train as a recipe says, and save the model; run goes on from there.

    Ctrl-C, SIGTERM and SIGUSR1 save the run and exit with 75; the same command goes on. Several GPUs or machines: start
    it with torchrun or srun.

    Example: sa-nowcast train quickstart --set training.max_steps=100
    """
    from sa_nowcast.workflow import train as train_recipe

    parsed = recipes.read(recipe, seed, output, override or ())
    if dry_run:
        _check(parsed, json)
        return
    model = train_recipe(parsed, progress=not quiet, report=terminal.report)
    if json:
        terminal.emit({"model": str(model)})
    else:
        terminal.result(model)


def _compare(recipe: ComparisonRecipe, dry_run: bool, json: bool) -> None:
    from sa_nowcast.workflow.comparing import run_comparison

    result = run_comparison(recipe, report=terminal.report, dry_run=dry_run)
    if json:
        scores = result.scores.astype(object).where(result.scores.notna(), None)
        files = [str(file) for file in result.files]
        terminal.emit({"folder": str(result.folder), "files": files, "scores": scores.to_dict("records")})
    elif not dry_run:
        print_comparison(result.scores, recipe.name)
        for file in result.files:
            terminal.result(file)


def _fill_tables(recipe: TablesRecipe, json: bool, quiet: bool) -> None:
    """Print all tables; runs that could not be made were said, and the first of them gives the exit code."""
    from sa_nowcast.workflow.tables import run_tables

    result = run_tables(recipe, progress=not quiet, report=terminal.report)
    if json:
        failed = [{"run": name, "error": str(error)} for name, error in result.failed]
        files = [str(file) for file in result.files]
        figures = result.figures.to_dict("records")
        terminal.emit({"folder": str(result.folder), "files": files, "figures": figures, "failed": failed})
    else:
        print_tables(result.figures, recipe)
        for file in result.files:
            terminal.result(file)
    if result.failed:
        raise typer.Exit(result.failed[0][1].exit_code)


def _check_tables(recipe: TablesRecipe, json: bool) -> None:
    """Say of every run what would stop it; the first of them gives the exit code, unless a row would say it."""
    from sa_nowcast.errors import ModelError, RecipeError
    from sa_nowcast.survey.findings import exit_code
    from sa_nowcast.survey.recipes import check_recipe
    from sa_nowcast.workflow.tables import members

    found: list[tuple[str, Finding]] = []
    runs, refused = members(recipe)
    for name, line in refused.items():
        terminal.report(f"{name}: {line}")
    for member in runs:
        of_run = check_recipe(member.recipe)
        found += [(member.name, finding) for finding in of_run]
        for finding in of_run:
            terminal.report(f"{member.name}: {finding.check}: {finding.detail}")
    if json:
        findings = [{"run": name, **finding.as_dict()} for name, finding in found]
        terminal.emit({"name": recipe.name, "dry_run": True, "findings": findings})
    of_network = [f for _, f in found if f.check == "memory" and isinstance(f.error, RecipeError | ModelError)]
    if code := exit_code([finding for _, finding in found if finding not in of_network]):
        raise typer.Exit(code)


def _check(recipe: Recipe, json: bool) -> None:
    """Raise the first thing that would stop the run, or say what was looked at."""
    from sa_nowcast.survey.recipes import check_recipe

    found = check_recipe(recipe)
    for error in (f.error for f in found if f.error is not None):
        raise error
    for finding in found:
        terminal.report(f"{finding.check}: {finding.detail}")
    if json:
        terminal.emit({"name": recipe.name, "dry_run": True, "findings": [f.as_dict() for f in found]})
