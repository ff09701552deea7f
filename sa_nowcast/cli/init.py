"""sa-nowcast init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sa_nowcast.cli import options, terminal
from sa_nowcast.cli.terminal import app
from sa_nowcast.errors import StorageError


@app.command()
@options.reads()
def init(
    source: Annotated[str, typer.Argument(help="Your frames: a file, folder, pattern or Zarr store.")],
    *,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The recipe to write; by default FILE's name, .yaml.")
    ] = None,
    variable: options.Variables = None,
    history: Annotated[int | None, typer.Option(min=1, help="Frames that a forecast starts from.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Frames that are forecast.")] = None,
    reading: options.Reading,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a recipe that stands there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe, write nothing.")] = False,
) -> None:
    """Look at a file and write a commented recipe for it, which runs as it is.

    Example: sa-nowcast init radar.zarr -o radar.yaml
    """
    from sa_nowcast.recipe import parse_recipe
    from sa_nowcast.storage.whole import require_writable, storage, write_whole
    from sa_nowcast.survey.starter import recipe_name, starter_recipe

    place = Path(output if output is not None else f"{recipe_name(source)}.yaml").expanduser()
    if place.exists() and not force:
        raise StorageError(str(place), "exists already", fix="name another file with -o, or give --force")
    require_writable(place)
    frames = reading.open(source)
    text = starter_recipe(frames, source, history=history, steps=steps, name=place.stem, **reading.all)
    parse_recipe(text, str(place))
    if dry_run:
        typer.echo(text, nl=False)
        return
    with storage(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, text)
    terminal.report(f"read it, change what you like, then: sa-nowcast run {place}")
    terminal.result(place)
