"""sa-nowcast convert."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import typer

from sa_nowcast.cli import options, terminal
from sa_nowcast.cli.terminal import app


@app.command()
@options.reads("engine", "option", "time_pattern", "time", "y", "x", "channel", "variable")
def convert(
    source: Annotated[list[str], typer.Argument(help="A file, folder, pattern or Zarr store, or several.")],
    target: Annotated[str, typer.Argument(help="The Zarr store to make, such as radar.zarr.")],
    *,
    reading: options.Reading,
    window: Annotated[
        int, typer.Option(help="History and steps together; decides how many frames a shard holds.")
    ] = 20,
    irregular: Annotated[str, typer.Option(help="refuse or allow times that are no multiples of one step.")] = "refuse",
    replace: options.Replace = False,
    workers: Annotated[int | None, typer.Option(help="Threads.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Address of a dask scheduler, such as tcp://host:8786.")] = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert any source to a Zarr store that streams fast, whole or not at all.

    Example: sa-nowcast convert "radar/*.nc" radar.zarr --window 8
    """
    from sa_nowcast.conversion import convert as convert_source

    with terminal.progress(quiet or dry_run) as bar:
        task = bar.add_task("converting", total=None)
        plan = convert_source(
            source if len(source) > 1 else source[0],
            target,
            engine=reading.engine,
            options=reading.options,
            variables=reading.variables,
            **reading.dims,
            window=window,
            irregular=cast(Literal["refuse", "allow"], irregular),
            existing="replace" if replace else "refuse",
            workers=workers,
            cluster=cluster,
            dry_run=dry_run,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if json:
        terminal.emit(plan.as_dict())
    else:
        terminal.result(plan)
