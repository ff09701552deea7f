"""sa-nowcast inspect, and schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sa_nowcast.cli import options, recipes, terminal
from sa_nowcast.cli.terminal import app
from sa_nowcast.errors import RecipeError


@app.command()
@options.reads()
def inspect(
    target: Annotated[
        str,
        typer.Argument(
            help="A saved nowcaster, a store, an archive, a run's folder, a recipe, scores, or any file of frames.",
            autocompletion=recipes.complete,
        ),
    ],
    *,
    reading: options.Reading,
    json: options.Json = False,
) -> None:
    """Say what a file is: labels, provenance, sizes, chunks. No values are read.

    Example: sa-nowcast inspect rain.nowcaster --json
    """
    from sa_nowcast.recipe import find_recipe
    from sa_nowcast.survey.inspection import inspect_path

    place = str(find_recipe(target)) if recipes.is_shipped(target) else target
    found = inspect_path(place, **reading.all)
    if json:
        terminal.emit(found)
    else:
        terminal.print_table(_flat(found))


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            rows += _flat(inner, f"{name}.")
        elif key == "bytes" and isinstance(inner, int):
            rows.append((name, f"{inner:,}"))
        elif inner is not None:
            rows.append((name, ", ".join(map(str, inner)) if isinstance(inner, list | tuple) else str(inner)))
    return rows


@app.command()
def schema(
    kind: Annotated[
        str, typer.Argument(help="What the recipe is for: experiment, comparison (of several datasets) or tables.")
    ] = "experiment",
) -> None:
    """Print the JSON Schema of recipes, which editors complete and check YAML with.

    Example: sa-nowcast schema > recipe.schema.json
    """
    from sa_nowcast.recipe import comparison_schema, recipe_schema, tables_schema

    schemas = {"experiment": recipe_schema, "comparison": comparison_schema, "tables": tables_schema}
    if kind not in schemas:
        raise RecipeError("schema", f"{kind!r}", expected=f"one of {', '.join(schemas)}")
    terminal.emit(schemas[kind]())
