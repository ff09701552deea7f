"""sa-nowcast export."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from sa_nowcast.cli import options, terminal
from sa_nowcast.cli.terminal import app
from sa_nowcast.errors import RecipeError


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Folder of a saved nowcaster.")],
    output: Annotated[str, typer.Argument(help="The file to make: .onnx or .pt2.")],
    *,
    grid: Annotated[
        str | None, typer.Option(help="Rows and columns of the frames, such as 128x128; the file is for these alone.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Lead times; by default as the model was trained for.")] = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not compare the file's forecasts with the nowcaster's.")
    ] = False,
    replace: options.Replace = False,
    json: options.Json = False,
) -> None:
    """Write a nowcaster as one file that ONNX Runtime or torch runs, without this package.

    Example: sa-nowcast export rain.nowcaster rain.onnx --grid 128x128
    """
    from sa_nowcast.forecasts.nowcaster import Nowcaster

    sides = None
    if grid is not None:
        found = re.fullmatch(r"(\d+)(?:x|, ?)(\d+)", grid)
        if found is None:
            raise RecipeError("--grid", f"{grid!r}", expected="rows and columns, such as 128x128")
        sides = [int(side) for side in found.groups()]
    path = Nowcaster.load(model).export(output, grid=sides, steps=steps, check=not no_check, replace=replace)
    if json:
        terminal.emit({"output": str(path), "bytes": path.stat().st_size})
    else:
        terminal.result(path)
