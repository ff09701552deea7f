"""sa-nowcast forecast."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import typer

from sa_nowcast.cli import options, terminal
from sa_nowcast.cli.terminal import app
from sa_nowcast.errors import RecipeError


@app.command()
def forecast(
    data: Annotated[str, typer.Argument(help="The frames: a file, folder, pattern or Zarr store, or sample:mrms.")],
    model: Annotated[
        str | None, typer.Option(help="Folder of a saved nowcaster; else SA_NOWCAST_MODEL, or the default model.")
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="The file to make: .nc, .zarr or .tif.")
    ] = "forecast.nc",
    steps: Annotated[int | None, typer.Option(help="Lead times; by default as the model was trained for.")] = None,
    lead_time: Annotated[
        str | None, typer.Option(help="In place of --steps: the last lead time, such as 30min or 6h.")
    ] = None,
    init_time: Annotated[
        str | None, typer.Option(help="Time of the last known frame, in UTC; by default the last one.")
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Pixels a side of overlapping tiles; by default as memory allows.")
    ] = None,
    grid: Annotated[
        str, typer.Option(help="check or any: whether another grid than the model's is refused.")
    ] = "check",
    engine: options.Engine = None,
    option: options.ReaderOptions = None,
    variable: options.Variables = None,
    time_pattern: options.TimePattern = None,
    time: options.TimeDim = None,
    y: options.YDim = None,
    x: options.XDim = None,
    channel: options.ChannelDim = None,
    device: options.Device = "auto",
    replace: options.Replace = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Forecast the frames after one init time, to a labelled file.

    Example: sa-nowcast forecast radar.zarr --model rain.nowcaster --lead-time 30min -o nowcast.nc
    """
    from sa_nowcast.sources.opening import open_data
    from sa_nowcast.workflow.forecasting import plan_forecast

    if grid not in ("check", "any"):
        raise RecipeError("--grid", f"{grid!r}", expected="check or any")
    if steps is not None and lead_time is not None:
        raise RecipeError("--lead-time", "given beside --steps", expected="one of the two")
    plan = plan_forecast(
        open_data(
            data,
            engine=engine,
            options=options.reader_options(option, time_pattern),
            variables=variable or None,
            time=time,
        ),
        output,
        model=model,
        steps=steps,
        lead_time=lead_time,
        init_time=init_time,
        tile=tile,
        grid=cast(Literal["check", "any"], grid),
        device=device,
        replace=replace,
        time=time,
        y=y,
        x=x,
        channel=channel,
    )
    terminal.report(plan.describe())
    if not dry_run:
        plan.compute()
    if json:
        terminal.emit({**plan.as_dict(), "dry_run": dry_run})
    elif not dry_run:
        terminal.result(plan.target)
