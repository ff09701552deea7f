"""sa-nowcast plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sa_nowcast.cli import options, terminal
from sa_nowcast.cli.terminal import app


@app.command()
@options.reads("engine", "option", "time_pattern", "time", "y", "x")
def plot(
    file: Annotated[str, typer.Argument(help="A forecast, an archive, scores (.csv, .nc), or frames.")],
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help=".png, .svg or .pdf; an animation in .gif or .mp4. By default FILE's name, .png."
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            help="Another forecast, drawn with FILE; or persistence, of --truth or --history. May be repeated."
        ),
    ] = None,
    truth: Annotated[
        str | None, typer.Option(help="Observed frames, drawn beside the forecast with the error.")
    ] = None,
    history: Annotated[str | None, typer.Option(help="Frames that the forecast started from.")] = None,
    init_time: Annotated[
        str | None,
        typer.Option(
            help="Which forecast of an archive, in UTC; by default the last one, with --truth the last that has truth."
            " Of frames: the last that is drawn."
        ),
    ] = None,
    variable: Annotated[str | None, typer.Option(help="Which variable, where there are several.")] = None,
    channel: Annotated[str | None, typer.Option(help="Which channel, where there are several.")] = None,
    last: Annotated[
        int | None, typer.Option(min=1, help="Of frames: how many, up to the last; by default 6, animated 24.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Of scores: what to draw. May be repeated.")] = None,
    threshold: Annotated[
        list[float] | None, typer.Option(help="Of scores: which thresholds. Of the kind probability: which one.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Of scores, diagrams: reliability, roc, value, rank, spread-skill, spectra; may be repeated. Of a "
            "forecast with members: probability (with --threshold), members, or meteogram (with --point)."
        ),
    ] = None,
    lead_time: Annotated[
        str | None, typer.Option(help="Of a diagram and of members: such as 30min; by default the longest.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Of diagrams of scores at several scales: which; by default the first.")
    ] = None,
    point: Annotated[
        tuple[float, float] | None, typer.Option(help="Of a meteogram: y and x in the grid's coordinates.")
    ] = None,
    reading: options.Reading,
    replace: options.Replace = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Draw forecasts by lead time, an animation of them, the last frames of data, curves of scores, or diagrams.

    Example: sa-nowcast plot archive.zarr --truth radar.zarr --init-time 2019-06-10T00:30 -o forecast.png
    """
    from sa_nowcast.storage.whole import require_place
    from sa_nowcast.workflow.pictures import ANIMATIONS, PICTURES, draw_file

    name = output if output is not None else Path(file.rstrip("/")).with_suffix(".png").name
    place = require_place(name, (*PICTURES, *ANIMATIONS), replace)
    notes: list[str] = []
    drawn = draw_file(
        file,
        place,
        beside=beside or (),
        truth=None if truth is None else reading.open(truth),
        history=None if history is None else reading.open(history),
        init_time=init_time,
        variable=variable,
        channel=channel,
        last=last,
        engine=reading.engine,
        options=reading.options,
        **reading.dims,
        metrics=metric or (),
        thresholds=threshold or (),
        kinds=kind or (),
        lead_time=lead_time,
        scale=scale,
        point=point,
        dry_run=dry_run,
        report=notes.append,
    )
    for line in notes:
        terminal.report(line)
    terminal.report(f"{'would draw' if dry_run else 'drew'} {drawn}")
    if json:
        terminal.emit({"file": file, "drawn": drawn, "output": str(place), "notes": notes, "dry_run": dry_run})
    elif not dry_run:
        terminal.result(place)
