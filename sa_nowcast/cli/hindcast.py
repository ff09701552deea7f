"""sa-nowcast hindcast."""

from __future__ import annotations

from typing import Annotated

import typer

from sa_nowcast.cli import options, terminal
from sa_nowcast.cli.terminal import app


@app.command()
def hindcast(
    source: Annotated[str, typer.Argument(help="The frames: a file, folder, pattern or Zarr store.")],
    target: Annotated[str, typer.Argument(help="The Zarr archive to make, such as archive.zarr.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder of a saved nowcaster, or persistence, extrapolation, sprog or steps; else the default model."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Lead times; by default as the model was trained for. Needed for a reference.")
    ] = None,
    engine: options.Engine = None,
    option: options.ReaderOptions = None,
    start: Annotated[str | None, typer.Option("--from", help="First init time, such as 2019-06-10T00:30.")] = None,
    stop: Annotated[str | None, typer.Option("--to", help="Last init time.")] = None,
    stride: Annotated[int, typer.Option(help="Take every so many init times.")] = 1,
    tile: Annotated[
        int | None, typer.Option(help="Pixels a side of overlapping tiles; by default as memory allows.")
    ] = None,
    device: options.Device = "auto",
    cluster: Annotated[str | None, typer.Option(help="Address of a dask scheduler, such as tcp://host:8786.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another archive that is there already.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Forecast from every init time to a Zarr archive; what an interrupted run finished is not done again.

    Example: sa-nowcast hindcast radar.zarr archive.zarr --model rain.nowcaster
    """
    import time

    from sa_nowcast.hindcast import hindcast as make
    from sa_nowcast.opening import open_data

    began = time.perf_counter()
    with terminal.progress(quiet or dry_run) as bar:
        task = bar.add_task("forecasting", total=None)
        archive = make(
            open_data(source, engine=engine, options=options.reader_options(option)),
            model,
            steps,
            init_times=None if start is stop is None else slice(start, stop),
            stride=stride,
            to=target,
            tile=tile,
            cluster=cluster,
            device=device,
            existing="replace" if replace else "resume",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            dry_run=dry_run,
        )
    frames = archive.sizes["init_time"] * archive.sizes["lead_time"]
    seconds = time.perf_counter() - began
    if dry_run:
        terminal.report(f"would forecast {archive.sizes['init_time']} init times, {archive.nbytes / 1e6:.3g} MB")
    else:
        terminal.report(f"{frames} frames, {frames / seconds:.3g} a second with reading and writing")
    if json:
        document = {
            "target": target,
            "dry_run": dry_run,
            "dims": dict(archive.sizes),
            "units": archive.attrs.get("units"),
        }
        terminal.emit(document)
    elif not dry_run:
        terminal.result(target)
