"""sa-nowcast validate."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sa_nowcast.cli import options, recipes, terminal
from sa_nowcast.cli.terminal import app
from sa_nowcast.errors import RecipeError

if TYPE_CHECKING:
    from sa_nowcast.survey.findings import Finding

_COLOURS = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red"}


@app.command()
@options.reads("variable", "engine", "option", "time_pattern", "time", "y", "x", "channel")
def validate(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            help="A recipe, frames (a file, folder, pattern or store) or the folder of a saved nowcaster.",
            autocompletion=recipes.complete,
        ),
    ],
    *,
    full: Annotated[bool, typer.Option("--full", help="Of frames: read every stored chunk, not a few frames.")] = False,
    reading: options.Reading,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a recipe, frames or a saved nowcaster: PASS, WARN or FAIL by line, and the exit code of the first failure.

    Example: sa-nowcast validate radar.zarr --full
    """
    from sa_nowcast.cli.remedies import spelled_error
    from sa_nowcast.sources.opening import kind_of
    from sa_nowcast.survey.findings import Finding, exit_code, overall

    kind = "recipe" if recipes.is_shipped(target) else kind_of(target)
    if kind == "model":
        from sa_nowcast.survey.bundles import check_bundle

        found = check_bundle(target)
    elif kind == "recipe":
        found = _recipe(target)
    elif kind == "data":
        from sa_nowcast.survey.data import check_data

        with terminal.progress(quiet or not full) as bar:
            task = bar.add_task("reading", total=None)
            found = check_data(
                target,
                **reading.all,
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
        rows = [(finding.status, finding.check, finding.detail) for finding in found]
        terminal.print_table(rows, _COLOURS.__getitem__, f"{target}: {kind}")
        counts = ", ".join(f"{sum(f.status == s for f in found)} {s}" for s in _COLOURS)
        terminal.result(f"{overall(found)}: {counts}")
    sys.exit(code)


def _recipe(name: str) -> list[Finding]:
    from sa_nowcast.errors import SaNowcastError
    from sa_nowcast.recipe import ServiceRecipe
    from sa_nowcast.survey.findings import Finding
    from sa_nowcast.survey.recipes import check_recipe, check_service

    try:
        parsed = recipes.read_any(name, None, None)
        if isinstance(parsed, ServiceRecipe):
            return check_service(parsed)
        return check_recipe(recipes.read(name, None, None))
    except SaNowcastError as error:
        return [Finding.failure("recipe", error)]
