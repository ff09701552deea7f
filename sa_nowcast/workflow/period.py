"""The stage that forecasts the test period: by the network, and by each reference, with bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.forecasts.cf import write_forecast
from sa_nowcast.forecasts.method import FILLED, MEAN, Inflow, Product
from sa_nowcast.frames import Frames, grid_mapping_name
from sa_nowcast.hindcast import hindcast
from sa_nowcast.metadata import dims
from sa_nowcast.recipe import Recipe
from sa_nowcast.storage.whole import storage
from sa_nowcast.verification import Reference, reference
from sa_nowcast.windows import Positions, Range
from sa_nowcast.workflow.data import Experiment, require_scorable

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster

LARGEST_NETCDF: Final = 2**29
"""Bytes of forecasts that are made in memory and written as one NetCDF file; more become a Zarr archive."""


def forecast_period(
    model: Nowcaster | Reference,
    data: xr.Dataset,
    frames: Frames,
    period: Range,
    blocked: Sequence[int] | Positions = (),
    *,
    history: int,
    steps: int,
    stride: int = 1,
    tile: int | None = None,
    product: Product = MEAN,
    inflow: Inflow = FILLED,
    members: int | None = None,
    seed: int = 0,
    to: Path | None = None,
    existing: Literal["resume", "replace"] = "resume",
) -> xr.DataArray:
    """Forecast from every init time whose history and lead times lie in `period` and hold no `blocked` frame.

    Returns
    -------
    DataArray, dims ([realization,] init_time, [variable,] lead_time, [channel,] y, x)
        Lazy; from the archive where `to` is given.

    Raises
    ------
    DataError
        There is no such init time.
    """
    starts = require_scorable(frames, period, history + steps, blocked, stride)
    mapping = grid_mapping_name(frames.arrays[0])
    data = data[[str(a.name) for a in frames.arrays] + ([mapping] if mapping in data.data_vars else [])]
    inits: Any = frames.times[starts + history - 1]
    return hindcast(
        data,
        model,
        steps,
        init_times=inits,
        tile=tile,
        product=product,
        inflow=inflow,
        members=members,
        seed=seed,
        to=to,
        existing=existing,
        **dims_of(frames),
    )


def dims_of(frames: Frames) -> dict[str, Any]:
    """Return the names of the dimensions, as a hindcast and a forecast take them."""
    channel = None if len(frames.arrays) > 1 else frames.channel_dim
    return {"time": frames.time_dim, "y": frames.grid.y, "x": frames.grid.x, "channel": channel}


def archive_path(folder: Path, name: str, recipe: Recipe, experiment: Experiment) -> Path:
    """Return where forecasts are kept: as the recipe says, and in Zarr where they are too large for one file."""
    first, stop = experiment.test_period
    inits = (stop - first) // recipe.forecast.stride
    size = inits * (recipe.forecast.members or 1) * recipe.steps * int(np.prod(experiment.test_frames.shape[1:])) * 4
    return folder / f"{name}.{'zarr' if recipe.output.format == 'zarr' or size > LARGEST_NETCDF else 'nc'}"


def archive_named(folder: Path, name: str) -> Path | None:
    """Return where a finished run keeps its forecasts; None where there are none."""
    return next((path for kind in ("nc", "zarr") if (path := folder / f"{name}.{kind}").exists()), None)


def make_forecasts(
    model: Nowcaster | Reference, recipe: Recipe, experiment: Experiment, path: Path, *, replace: bool, title: str
) -> None:
    """Forecast the test period and write the forecasts to `path`, ``.nc`` or ``.zarr``.

    A Zarr archive that was begun is gone on with, unless it is to be replaced; a NetCDF file has a title.
    """
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zarr":
        _hindcast(model, recipe, experiment, path, replace)
    else:
        write_forecast(_hindcast(model, recipe, experiment).compute(), path, title=title)


def read_forecasts(model: Nowcaster | Reference, recipe: Recipe, experiment: Experiment, path: Path) -> xr.DataArray:
    """Return what `make_forecasts` wrote; the arguments are its."""
    if path.suffix == ".zarr":
        return _hindcast(model, recipe, experiment, path)  # a finished archive is opened
    lazy = _hindcast(model, recipe, experiment)
    return lazy.copy(data=_read(path, lazy))


def _hindcast(
    model: Nowcaster | Reference, recipe: Recipe, experiment: Experiment, to: Path | None = None, replace: bool = False
) -> xr.DataArray:
    tested = (experiment.test, experiment.test_frames, experiment.test_period, experiment.blocked)
    own: dict[str, Any] = recipe.forecast.model_dump(include={"tile", "product", "inflow", "members", "seed"})
    return forecast_period(
        model, *tested, history=recipe.history, steps=recipe.steps, stride=recipe.forecast.stride, to=to,
        existing="replace" if replace else "resume", **({} if isinstance(model, Reference) else own),
    )  # fmt: skip


def _read(path: Path, like: xr.DataArray) -> Any:
    """Return the values of a file that `write_forecast` wrote, in the layout of `like`."""
    with xr.open_dataset(path, decode_coords="all", decode_timedelta=True) as ds:
        if dims.VARIABLE not in like.dims:
            return ds[str(like.name or "forecast")].transpose(*like.dims).values
        order = [d for d in like.dims if d != dims.VARIABLE]
        parts = [ds[str(n)].transpose(*order).values for n in like[dims.VARIABLE].values]
    return np.stack(parts, axis=like.dims.index(dims.VARIABLE))


def reference_of(name: str, experiment: Experiment) -> Reference:
    """Return the reference of that name, with the training period where it needs one."""
    if name != "climatology":
        return reference(name)
    if experiment.train_period is None:
        raise RecipeError(
            "verification.references", "climatology for sequences that are made while training", fix="leave it out"
        )
    frames = experiment.test_frames
    names = [str(a.name) for a in frames.arrays]
    training = experiment.test[names].isel({frames.time_dim: slice(*experiment.train_period)})
    return reference(name, training=training if len(names) > 1 else training[names[0]])


def latest(nowcaster: Nowcaster, recipe: Recipe, experiment: Experiment, path: Path) -> None:
    """Forecast from the newest frames, for which there is no truth yet."""
    own: dict[str, Any] = recipe.forecast.model_dump(include={"tile", "product", "inflow", "members", "seed"})
    told = dims_of(experiment.test_frames)
    forecast = nowcaster.forecast(experiment.test, recipe.steps, **own, **told)
    write_forecast(forecast, path, "zarr" if path.suffix == ".zarr" else "netcdf", title=f"{recipe.name}, latest")
