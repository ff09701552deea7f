"""Commands that do what a recipe says."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.measure import Measurement

from sa_nowcast.cli import recipes, terminal
from sa_nowcast.cli.scores_table import scores_table
from sa_nowcast.cli.terminal import app

_WIDEST = 1000


@app.command()
def run(
    recipe: Annotated[
        str, typer.Argument(help="Path of a recipe YAML, or the name of one that ships, such as quickstart.")
    ],
    seed: Annotated[int | None, typer.Option(help="Replaces training.seed.")] = None,
    output: Annotated[str | None, typer.Option(help="Replaces output.folder.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replaces one value, such as training.max_steps=100; repeatable."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train, forecast the held-back times, score them and draw a picture, as a recipe says.

    Example: sa-nowcast run recipes/quickstart.yaml
    """
    from sa_nowcast.workflow import run as run_recipe

    parsed = recipes.read(recipe, seed, output, override or ())
    result = run_recipe(parsed, progress=not quiet, report=terminal.report)
    if not result.files:
        return  # one of several processes, and not the one that writes
    if result.already_done:
        terminal.err.print(f"{result.folder} holds this run, finished; remove the folder to run it again")
    table = scores_table(result.scores, parsed.name)
    # Folded by the terminal where it is narrower: cut off, a table would hide scores.
    width = Measurement.get(terminal.out, terminal.out.options.update(width=_WIDEST), table).maximum
    Console(width=max(terminal.out.width, width)).print(table)
    for file in result.files:
        terminal.out.print(str(file), soft_wrap=True)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="Path of a recipe YAML, or the name of one that ships, such as quickstart.")
    ],
    seed: Annotated[int | None, typer.Option(help="Replaces training.seed.")] = None,
    output: Annotated[str | None, typer.Option(help="Replaces output.folder.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replaces one value, such as training.max_steps=100; repeatable."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train as a recipe says, and save the model; run goes on from there.

    Ctrl-C, SIGTERM and SIGUSR1 save the run and exit with 75; the same command goes on. Several GPUs or machines: start
    it with torchrun or srun.

    Example: sa-nowcast train recipes/quickstart.yaml
    """
    from sa_nowcast.workflow import train as train_recipe

    model = train_recipe(recipes.read(recipe, seed, output, override or ()), progress=not quiet, report=terminal.report)
    terminal.out.print(str(model), soft_wrap=True)
