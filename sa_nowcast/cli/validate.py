"""sa-nowcast validate."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sa_nowcast.cli import options, recipes, shipped, terminal
from sa_nowcast.cli.terminal import app
from sa_nowcast.errors import RecipeError

if TYPE_CHECKING:
    from sa_nowcast.survey.findings import Finding

_COLOURS = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red"}


@app.command()
def validate(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            help="A recipe, frames (a file, folder, pattern or store) or the folder of a saved nowcaster.",
            autocompletion=shipped.complete,
        ),
    ],
    full: Annotated[bool, typer.Option("--full", help="Of frames: read every stored chunk, not a few frames.")] = False,
    variable: options.Variables = None,
    engine: options.Engine = None,
    option: options.ReaderOptions = None,
    time_pattern: options.TimePattern = None,
    time: options.TimeDim = None,
    y: options.YDim = None,
    x: options.XDim = None,
    channel: options.ChannelDim = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a recipe, frames or a saved nowcaster: PASS, WARN or FAIL by line, and the exit code of the first failure.

    Example: sa-nowcast validate radar.zarr --full
    """
    from sa_nowcast.cli.remedies import spelled_error
    from sa_nowcast.sources.opening import kind_of
    from sa_nowcast.survey.findings import Finding, exit_code, overall

    kind = "recipe" if shipped.is_shipped(target) else kind_of(target)
    if kind == "model":
        from sa_nowcast.survey.bundles import check_bundle

        found = check_bundle(target)
    elif kind == "recipe":
        found = _recipe(target)
    elif kind == "data":
        from sa_nowcast.metadata.dims import DimNames
        from sa_nowcast.survey.data import check_data

        with terminal.progress(quiet or not full) as bar:
            task = bar.add_task("reading", total=None)
            found = check_data(
                target,
                engine=engine,
                options=options.reader_options(option, time_pattern),
                variables=variable or None,
                told=DimNames(time, y, x, channel),
                full=full,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    else:
        raise RecipeError(
            target, f"is {kind}", expected="a recipe, frames or a saved nowcaster", fix=f"sa-nowcast inspect {target}"
        )
    command, given = context.command, context.params
    found = [f if f.error is None else Finding.failure(f.check, spelled_error(f.error, command, given)) for f in found]
    code = exit_code(found)
    if json:
        document = {"target": target, "kind": kind, "status": overall(found), "exit_code": code}
        terminal.emit({**document, "findings": [f.as_dict() for f in found]})
    else:
        _print(target, kind, found)
    sys.exit(code)


def _recipe(name: str) -> list[Finding]:
    from sa_nowcast.errors import SaNowcastError
    from sa_nowcast.survey.findings import Finding
    from sa_nowcast.survey.recipes import check_recipe

    try:
        parsed = recipes.read(name, None, None)
    except SaNowcastError as error:
        return [Finding.failure("recipe", error)]
    return check_recipe(parsed)


def _print(target: str, kind: str, found: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from sa_nowcast.survey.findings import overall

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title=f"{target}: {kind}", title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in found:
        table.add_row(Text(finding.status, _COLOURS[finding.status]), finding.check, Text(finding.detail))
    terminal.out.print(table)
    counts = ", ".join(f"{sum(f.status == s for f in found)} {s}" for s in _COLOURS)
    terminal.result(f"{overall(found)}: {counts}")
