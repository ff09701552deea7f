"""sa-nowcast hindcast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from sa_nowcast.cli import options, terminal
from sa_nowcast.cli.terminal import app
from sa_nowcast.errors import DataError, RecipeError

if TYPE_CHECKING:
    import xarray as xr

    from sa_nowcast.forecasts.method import Inflow, Product
    from sa_nowcast.verification.named import Reference

_CLIMATOLOGY = "climatology"


@app.command()
@options.reads()
def hindcast(
    source: Annotated[str, typer.Argument(help="The frames: a file, folder, pattern or Zarr store.")],
    target: Annotated[str, typer.Argument(help="The Zarr archive to make, such as archive.zarr.")],
    *,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder of a saved nowcaster, or persistence, climatology, extrapolation, extrapolation+2px, sprog, "
            "sprog-unmatched, steps or steps-mean; else the default model."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Lead times; by default as the model was trained for. Needed for a reference.")
    ] = None,
    training: Annotated[
        str | None, typer.Option(help="Of climatology: the frames that it averages; by default those of SOURCE.")
    ] = None,
    training_until: Annotated[
        str | None, typer.Option(help="Of climatology: the last time that it averages, such as 2019-03-14.")
    ] = None,
    cycle: Annotated[str | None, typer.Option(help="Of climatology: day (default) or week.")] = None,
    reading: options.Reading,
    start: Annotated[str | None, typer.Option("--from", help="First init time, such as 2019-06-10T00:30.")] = None,
    stop: Annotated[str | None, typer.Option("--to", help="Last init time.")] = None,
    stride: Annotated[int, typer.Option(help="Take every so many init times.")] = 1,
    product: options.Product = "mean",
    inflow: options.Inflow = "filled",
    members: options.Members = None,
    seed: options.Seed = 0,
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
    from time import perf_counter

    from sa_nowcast.hindcast import hindcast as make

    began = perf_counter()
    data = reading.open(source)
    method: str | Reference | None = model
    if model == _CLIMATOLOGY:
        averaged = data if training is None else reading.open(training)
        method = _climatology(averaged, training, training_until, cycle, reading.dims["time"])
    else:
        for name, value in (("training", training), ("training-until", training_until), ("cycle", cycle)):
            if value is not None:
                raise RecipeError(f"--{name}", f"given for {model or 'the default model'}", "--model climatology")
    with terminal.progress(quiet or dry_run) as bar:
        task = bar.add_task("forecasting", total=None)
        archive = make(
            data,
            method,
            steps,
            init_times=None if start is stop is None else slice(start, stop),
            stride=stride,
            product=cast("Product", product),
            inflow=cast("Inflow", inflow),
            members=members,
            seed=seed,
            to=target,
            tile=tile,
            cluster=cluster,
            device=device,
            **reading.dims,
            existing="replace" if replace else "resume",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            dry_run=dry_run,
        )
    frames = archive.sizes["init_time"] * archive.sizes["lead_time"]
    seconds = perf_counter() - began
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


def _climatology(
    data: xr.Dataset, training: str | None, until: str | None, cycle: str | None, told: str | None
) -> Reference:
    """Return the mean over `data` until a time, which must not be the times that are forecast."""
    import numpy as np

    from sa_nowcast.metadata import dims
    from sa_nowcast.times import read_period, with_times
    from sa_nowcast.verification import reference

    if training is None and until is None:
        raise RecipeError(
            "--model climatology",
            "no training period is given",
            fix="give --training-until with a time before the first init time, or --training with other frames",
        )
    if until is not None:
        last = read_period(slice(None, until), "--training-until")[1]
        data = dims.with_positions(data)
        time = dims.find_dim(data, "time", told)
        data = with_times(data, time, "training")
        data = data.isel({time: np.flatnonzero(data[time].values <= last)})
        if not data.sizes[time]:
            raise DataError("--training-until", f"no frame until {until}", fix="take a later time")
    return reference(_CLIMATOLOGY, training=data, **({} if cycle is None else {"cycle": cycle}))
