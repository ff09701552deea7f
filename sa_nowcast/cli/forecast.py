"""sa-nowcast forecast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from sa_nowcast.cli import options, terminal
from sa_nowcast.cli.terminal import app
from sa_nowcast.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from sa_nowcast.forecasts.job import Job
    from sa_nowcast.forecasts.method import Product
    from sa_nowcast.forecasts.nowcaster import Nowcaster

_GEOTIFF: Final = (".tif", ".tiff")


@app.command()
@options.reads()
def forecast(
    data: Annotated[str, typer.Argument(help="The frames: a file, folder, pattern or Zarr store, or sample:mrms.")],
    *,
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
    product: options.Product = "mean",
    inflow: options.Inflow = "filled",
    members: options.Members = None,
    seed: options.Seed = 0,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="In place of a forecast, how likely values above it are, such as 1. May be repeated."),
    ] = None,
    quantile: Annotated[
        list[float] | None,
        typer.Option(help="In place of a forecast, the value that is not exceeded with this probability. Likewise."),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Pixels a side of overlapping tiles; by default as memory allows.")
    ] = None,
    grid: Annotated[
        str, typer.Option(help="check or any: whether another grid than the model's is refused.")
    ] = "check",
    reading: options.Reading,
    device: options.Device = "auto",
    replace: options.Replace = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Forecast the frames after one init time, to a labelled file.

    Example: sa-nowcast forecast radar.zarr --model rain.nowcaster --lead-time 30min -o nowcast.nc
    """
    from sa_nowcast.forecasts.defaults import as_nowcaster
    from sa_nowcast.forecasts.ensembles import exceedance, quantiles
    from sa_nowcast.metadata.dims import DimNames
    from sa_nowcast.sources.reading import require
    from sa_nowcast.storage.whole import require_place

    if grid not in ("check", "any"):
        raise RecipeError("--grid", f"{grid!r}", expected="check or any")
    if steps is not None and lead_time is not None:
        raise RecipeError("--lead-time", "given beside --steps", expected="one of the two")
    other = None if product == "mean" else product
    _require_one(threshold=threshold, quantile=quantile, members=members, product=other)
    frames = reading.open(data)
    target = require_place(output, (".nc", ".zarr", *_GEOTIFF), replace)
    if target.suffix in _GEOTIFF:
        require("rasterio", "geotiff")
    nowcaster = as_nowcaster(model)
    asked: dict[str, Any] = {
        "steps": steps, "lead_time": lead_time, "init_time": init_time, "inflow": inflow, "tile": tile, "grid": grid,
        "names": DimNames(**reading.dims), "device": device,
    }  # fmt: skip
    job = nowcaster.plan(frames, **asked, product=cast("Product", product), members=members, seed=seed)
    found = _found(job, tile)
    tiles = "" if found["tile"] is None else f", in tiles of {found['tile']} pixels"
    terminal.report(
        f"{job.frames.name} from {found['init_time']}, {job.steps} lead times up to {found['lead_times'][-1]}, about "
        f"{found['memory'] / 2**30:.2f} GiB for the whole grid{tiles}"
    )
    if not dry_run:
        if threshold:
            _write(exceedance(nowcaster, frames, threshold, **asked), target)
        elif quantile:
            _write(quantiles(nowcaster, frames, quantile, **asked), target)
        else:
            _write(job.compute(), target)
    if json:
        terminal.emit({"output": str(target), **found, "dry_run": dry_run})
    elif not dry_run:
        terminal.result(target)


def _require_one(**told: Any) -> None:
    """Refuse options of which each asks for something else."""
    given = [name for name, value in told.items() if value]
    if len(given) > 1:
        raise RecipeError(f"--{given[1]}", f"given beside --{given[0]}", expected="one of the two")


def _found(job: Job, tile: int | None) -> dict[str, Any]:
    """Return what the forecast would be, as JSON can hold it; refuse one that memory cannot hold."""
    from sa_nowcast.computing.devices import resolve_device
    from sa_nowcast.forecasts.of_nowcaster import OfNowcaster
    from sa_nowcast.models.estimate import estimate_memory
    from sa_nowcast.times import show_step

    method = job.method
    model = method.nowcaster if isinstance(method, OfNowcaster) else cast("Nowcaster", method)
    frames, grid, where = job.frames, (job.frames.grid.height, job.frames.grid.width), resolve_device(job.device)
    model.require_memory((job.tile, job.tile) if job.tile else grid, 1, job.steps, where)
    return {
        "model": model.digest,
        "variables": [c.name for c in frames.channels],
        "units": [c.units for c in frames.channels],
        "product": job.attrs["sa_nowcast_product"],
        "members": job.shape[0] if method.axis is not None else None,
        "init_time": frames.label(int(job.positions[0])),
        "lead_times": [show_step((i + 1) * frames.step) for i in range(job.steps)],
        "steps_beyond_training": max(0, job.steps - model.terms.steps),
        "grid": list(grid),
        "tile": tile or job.tile or None,
        "device": job.device,
        "memory": estimate_memory(
            model.network.config, grid, 1, history=model.history, steps=job.steps, training=False, device=where
        ),
    }


def _write(forecast: xr.DataArray, target: Path) -> None:
    if target.suffix in _GEOTIFF:
        from sa_nowcast.interop.geotiff import to_geotiff

        to_geotiff(forecast, target, overwrite=True)
    else:
        from sa_nowcast.forecasts.cf import write_forecast

        write_forecast(forecast, target, "zarr" if target.suffix == ".zarr" else "netcdf")
