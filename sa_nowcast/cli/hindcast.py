"""sa-nowcast hindcast."""

from __future__ import annotations

from typing import Annotated

import typer

from sa_nowcast.cli import terminal
from sa_nowcast.cli.terminal import app


@app.command()
def hindcast(
    source: Annotated[str, typer.Argument(help="The frames: a file, folder, pattern or Zarr store.")],
    target: Annotated[str, typer.Argument(help="The Zarr archive to make, such as archive.zarr.")],
    model: Annotated[
        str, typer.Option(help="Folder of a saved nowcaster, or persistence, extrapolation, sprog or steps.")
    ],
    steps: Annotated[
        int | None, typer.Option(help="Lead times; by default as the model was trained for. Needed for a reference.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="As for convert.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="First init time, such as 2019-06-10T00:30.")] = None,
    stop: Annotated[str | None, typer.Option("--to", help="Last init time.")] = None,
    stride: Annotated[int, typer.Option(help="Take every so many init times.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    cluster: Annotated[str | None, typer.Option(help="Address of a dask scheduler, such as tcp://host:8786.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another archive that is there already.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Forecast from every init time to a Zarr archive; what an interrupted run finished is not done again.

    Example: sa-nowcast hindcast radar.zarr archive.zarr --model rain.nowcaster
    """
    import time

    from rich.progress import Progress

    from sa_nowcast.hindcast import hindcast as make
    from sa_nowcast.sources import chain, open_source

    began = time.perf_counter()
    with Progress(console=terminal.err, disable=quiet) as bar:
        task = bar.add_task("forecasting", total=None)
        archive = make(
            chain(open_source(source, engine=engine)),
            model,
            steps,
            init_times=None if start is stop is None else slice(start, stop),
            stride=stride,
            to=target,
            cluster=cluster,
            device=device,
            existing="replace" if replace else "resume",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    frames = archive.sizes["init_time"] * archive.sizes["lead_time"]
    seconds = time.perf_counter() - began
    terminal.err.print(f"{frames} frames, {frames / seconds:.3g} a second with reading and writing", soft_wrap=True)
    typer.echo(target)
