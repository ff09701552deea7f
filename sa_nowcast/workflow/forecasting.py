"""One forecast from a file to a file, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
import xarray as xr

from sa_nowcast.computing.devices import resolve_device
from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.forecasts.cf import write_forecast
from sa_nowcast.forecasts.defaults import as_nowcaster, get_default_model
from sa_nowcast.forecasts.labels import init_position, whole
from sa_nowcast.frames import Frames
from sa_nowcast.storage.whole import require_writable
from sa_nowcast.times import show_step

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster

_WRITERS: Final = (".nc", ".zarr", ".tif", ".tiff")


@dataclass(frozen=True)
class PlannedForecast:
    """A forecast that was checked, and not computed.

    Attributes
    ----------
    nowcaster : Nowcaster
    data : Dataset or DataArray
    frames : Frames
    position : int
        Of the init time in `frames`.
    steps : int
    tile : int or None
    grid : {"check", "any"}
    device : str
    target : Path
    memory : int
        Bytes that the whole grid at once would take.
    names : mapping of str to hashable
        Dimensions that were told: ``time``, ``y``, ``x`` and ``channel``.
    """

    nowcaster: Nowcaster
    data: xr.Dataset | xr.DataArray
    frames: Frames
    position: int
    steps: int
    tile: int | None
    grid: Literal["check", "any"]
    device: str
    target: Path
    memory: int
    names: Mapping[str, Hashable | None] = field(default_factory=dict)

    def describe(self) -> str:
        """Return one line for people."""
        ahead = show_step(self.steps * self.frames.step)
        tiles = "" if self.tile is None else f", in tiles of {self.tile} pixels"
        return (
            f"{self.frames.name} from {self.frames.label(self.position)}, {self.steps} lead times up to {ahead}, about "
            f"{self.memory / 2**30:.2f} GiB for the whole grid{tiles}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        beyond = max(0, self.steps - self.nowcaster.terms.steps)
        return {
            "output": str(self.target),
            "model": self.nowcaster.digest,
            "variables": [c.name for c in self.frames.channels],
            "units": [c.units for c in self.frames.channels],
            "init_time": self.frames.label(self.position),
            "lead_times": [show_step((i + 1) * self.frames.step) for i in range(self.steps)],
            "steps_beyond_training": beyond,
            "grid": [self.frames.grid.height, self.frames.grid.width],
            "tile": self.tile,
            "device": self.device,
            "memory": self.memory,
        }

    def compute(self) -> xr.DataArray:
        """Forecast, and write the file."""
        forecast = self.nowcaster.forecast(
            self.data,
            self.steps,
            init_time=self.frames.times[self.position],
            grid=self.grid,
            tile=self.tile,
            device=self.device,
            **self.names,
        )
        if self.target.suffix in (".tif", ".tiff"):
            from sa_nowcast.interop.geotiff import to_geotiff

            to_geotiff(forecast, self.target, overwrite=True)
        else:
            write_forecast(forecast, self.target, "zarr" if self.target.suffix == ".zarr" else "netcdf")
        return forecast


def plan_forecast(
    data: xr.Dataset | xr.DataArray,
    target: str | Path,
    *,
    model: str | None = None,
    steps: int | None = None,
    lead_time: str | None = None,
    init_time: str | None = None,
    tile: int | None = None,
    grid: Literal["check", "any"] = "check",
    device: str = "auto",
    replace: bool = False,
    time: Hashable | None = None,
    y: Hashable | None = None,
    x: Hashable | None = None,
    channel: Hashable | None = None,
) -> PlannedForecast:
    """Check a forecast: model, units, cadence, grid, history, memory and output; no value of `data` is read.

    Parameters
    ----------
    data : Dataset or DataArray
    target : path
        Ends in ``.nc``, ``.zarr`` or ``.tif``.
    model : str, optional
        Folder of a saved nowcaster; by default the default model.
    steps : int, optional
        Lead times; by default as the model was trained for.
    lead_time : str, optional
        In place of `steps`: the last lead time, such as ``30min``, a multiple of the cadence.
    init_time, tile, grid, device, time, y, x, channel
        As for `sa_nowcast.Nowcaster.forecast`.
    replace : bool
        Whether a file that stands at `target` is replaced.

    Raises
    ------
    RecipeError, DataError, ModelError, StorageError
        Whatever would stop the forecast.
    """
    from sa_nowcast.forecasts.nowcaster import checked_tile
    from sa_nowcast.models.estimate import estimate_memory, fitting_tile, require_memory

    place = require_place(target, _WRITERS, replace)
    if place.suffix in (".tif", ".tiff"):
        from sa_nowcast.sources.reading import require

        require("rasterio", "geotiff")
    if steps is not None and lead_time is not None:
        raise RecipeError("lead_time", "given beside steps", expected="one of the two")
    nowcaster = get_default_model() if model is None else as_nowcaster(model)
    tile = checked_tile(tile)
    where = resolve_device(device)
    names = {"time": time, "y": y, "x": x, "channel": channel}
    nowcaster = nowcaster.for_data(data, **names)
    frames = nowcaster.accept(data, grid=grid, **names)
    if lead_time is not None:
        steps = steps_until(lead_time, nowcaster.terms.step)
    steps = nowcaster.terms.steps if steps is None else whole("steps", steps)
    position = init_position(frames, init_time)
    history = nowcaster.terms.history
    begin = next(a for a, b in frames.segments if a <= position < b)
    if position - begin + 1 < history:
        gap = f" since the gap after {frames.label(begin - 1)}" if begin else ""
        raise DataError(
            f"{frames.name}, {frames.label(position)}",
            f"needs {history} frames, has {position - begin + 1}{gap}",
            fix="give earlier frames, fill the gap, or choose another init_time",
        )
    config, shape = nowcaster.network.config, (frames.grid.height, frames.grid.width)
    width = tile or fitting_tile(config, shape, 1, history=history, steps=steps, device=where)
    part = shape if width is None else (min(width, shape[0]), min(width, shape[1]))
    require_memory(config, part, 1, history=history, steps=steps, training=False, device=where)
    memory = estimate_memory(config, shape, 1, history=history, steps=steps, training=False, device=where)
    return PlannedForecast(nowcaster, data, frames, position, steps, width, grid, device, place, memory, names)


def steps_until(lead_time: str, step: np.timedelta64) -> int:
    """Return how many steps lead to `lead_time`, such as ``30min`` or ``PT2H``.

    Raises
    ------
    RecipeError
        No duration, or none that is a multiple of the step.
    """
    wanted: Any = pd.NaT
    try:
        wanted = pd.Timedelta(lead_time)
    except ValueError as error:
        raise RecipeError("lead_time", f"{lead_time!r}", expected="a duration such as 30min or 6h") from error
    nanoseconds, each = int(wanted.value), int(step.astype("timedelta64[ns]").astype(np.int64))
    if nanoseconds <= 0 or nanoseconds % each:
        raise RecipeError("lead_time", f"{lead_time}", expected=f"a multiple of the cadence, {show_step(step)}")
    return nanoseconds // each


def require_place(target: str | Path, suffixes: tuple[str, ...], replace: bool) -> Path:
    """Return `target` as a path that can be written: by its ending, by what stands there, and by a trial.

    Nothing is left behind; missing folders are made by the writer.

    Raises
    ------
    RecipeError
        Another ending.
    StorageError
        Something stands there and is not to be replaced, or nothing can be written there.
    """
    place = Path(target).expanduser()
    if place.suffix.lower() not in suffixes:
        raise RecipeError(f"output {place}", f"ends in {place.suffix!r}", expected=f"one of {', '.join(suffixes)}")
    if place.exists() and not replace:
        raise StorageError(str(place), "exists already", fix="name another path, or give replace=True")
    require_writable(place)
    return place
