"""sa-nowcast calibrate."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sa_nowcast.cli import options, terminal
from sa_nowcast.cli.terminal import app
from sa_nowcast.errors import RecipeError


@app.command()
@options.reads()
def calibrate(
    model: Annotated[str, typer.Argument(help="Folder of a saved nowcaster, which gets the calibration; or default.")],
    truth: Annotated[str, typer.Argument(help="The observed frames: a file, folder, pattern or Zarr store.")],
    *,
    archive: Annotated[
        str | None, typer.Option(help="A hindcast by this model; by default one is made of the frames, and not kept.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Save the calibrated model there, and leave the other as it is."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Lead times of the hindcast; by default as the model was trained for.")
    ] = None,
    reading: options.Reading,
    start: Annotated[str | None, typer.Option("--from", help="First init time, such as 2019-06-10T00:30.")] = None,
    stop: Annotated[str | None, typer.Option("--to", help="Last init time.")] = None,
    stride: Annotated[int, typer.Option(help="Take every so many init times.")] = 1,
    tile: Annotated[
        int | None, typer.Option(help="Pixels a side of overlapping tiles; by default as memory allows.")
    ] = None,
    device: options.Device = "auto",
    replace: options.Replace = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn from a hindcast how forecasts are distributed, for members, probabilities and quantiles by any model.

    Example: sa-nowcast calibrate rain.nowcaster radar.zarr --from 2019-06-01 --to 2019-06-30
    """
    from pathlib import Path

    from sa_nowcast.bundle.files import require_free
    from sa_nowcast.forecasts.default_model import default_model
    from sa_nowcast.forecasts.nowcaster import Nowcaster
    from sa_nowcast.hindcast import calibrate as learn
    from sa_nowcast.metadata.dims import DimNames
    from sa_nowcast.sources.opening import named_like, open_forecast

    if archive is not None:
        for name, value in (("steps", steps), ("from", start), ("to", stop), ("tile", tile)):
            if value is not None:
                raise RecipeError(f"--{name}", "given beside --archive, which has its own", fix="leave it out")
    if model == "default" and output is None:
        raise RecipeError("--output", "not given for the default model", expected="where it is saved")
    nowcaster = default_model() if model == "default" else Nowcaster.load(model)
    target = Path(model if output is None else output)
    require_free(target, overwrite=output is None or replace)
    frames, told = reading.open(truth), reading.dims
    asked: dict[str, Any] = {"steps": steps, "stride": stride, "tile": tile, "device": device}
    if start is not None or stop is not None:
        asked["init_times"] = slice(start, stop)
    made = None
    if archive is not None:
        made = open_forecast(archive)
        frames = named_like(frames, made, DimNames(**told))
        told = {}
    with terminal.progress(quiet or dry_run) as bar:
        task = bar.add_task("forecasting", total=None)
        calibrated = learn(
            nowcaster, frames, made, **asked, **told, dry_run=dry_run,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    if not dry_run:
        calibrated.save(target, overwrite=output is None or replace)
    about = None if calibrated.calibration is None else dict(calibrated.calibration.about)
    if json:
        terminal.emit({"target": str(target), "dry_run": dry_run, "calibration": about})
    elif not dry_run:
        terminal.result(target)
