"""Forecasts that were checked and not computed, from one init time or many, and the parts that are computed at a time.

What forecasts is a `Method`: a trained network (`sa_nowcast.Nowcaster`) or a reference
(`sa_nowcast.verification.Reference`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError, SaNowcastError
from sa_nowcast.forecasts.labels import (
    grid_coords,
    init_position,
    init_positions,
    labelled,
    lead_positions,
    require_history,
    steps_until,
    whole,
)
from sa_nowcast.forecasts.method import (
    AS_ASKED,
    FILLED,
    MEAN,
    NONE_POSSIBLE,
    Data,
    GridCheck,
    Inflow,
    Method,
    Missing,
    Product,
    Statuses,
    Values,
    no_value,
)
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.times import show_step, show_time
from sa_nowcast.windows import Positions

# More positions or samples at once are hardly faster on a CPU or a GPU, and take memory.
_POSITIONS_AT_ONCE: Final = 2**16
LARGEST_BATCH: Final = 16


def plan(
    self: Method,
    data: Data,
    steps: int | None = None,
    *,
    lead_time: str | None = None,
    lead_times: Any = None,
    init_time: Any = None,
    init_times: Any = None,
    stride: int = 1,
    product: Product = MEAN,
    inflow: Inflow = FILLED,
    members: int | None = None,
    seed: int = 0,
    missing: Missing = "refuse",
    batch_size: int | None = None,
    tile: int | None = None,
    grid: GridCheck = "check",
    names: dims.DimNames = dims.UNNAMED,
    device: str = "auto",
    here: bool = True,
) -> Job:
    """Check a forecast, or many, and compute nothing; no value of `data` is read for a trained network.

    Parameters
    ----------
    data : DataArray or Dataset
        Frames as for `sa_nowcast.Nowcaster.forecast`.
    steps : int, optional
        Lead times; by default as many as the model was trained for.
    lead_time : str, optional
        In place of `steps`: the last lead time, such as ``30min``.
    lead_times : sequence of timedelta64 or str, optional
        Which lead times are wanted; by default all up to `steps`.
    init_time : datetime-like, optional
        The one init time; by default the last time of `data`.
    init_times : slice or sequence of times, optional
        Many init times in its place, as for `sa_nowcast.hindcast.hindcast`; ``slice(None)`` is all that have a history.
    stride, product, inflow, members, seed, missing, batch_size, tile, grid, device
        As for `sa_nowcast.hindcast.hindcast`.
    names : DimNames
        Dimension names, where CF attributes and common names do not tell.
    here : bool
        Whether this machine computes, so that `device` is looked for.

    Returns
    -------
    Job

    Raises
    ------
    DataError, ModelError, RecipeError
        Whatever would stop the forecast, but for memory.
    """
    method, frames = self.accept(data, names, grid)
    method = method.making(product, inflow, 0 if members is None else whole("members", members), seed)
    chosen = None
    if lead_times is not None:
        chosen = lead_positions(lead_times, frames.step, steps)
        steps = int(chosen[-1]) + 1
    elif lead_time is not None:
        steps = steps_until(lead_time, frames.step)
    elif steps is None:
        steps = method.usual_steps
        if steps is None:
            raise RecipeError("steps", f"not given for {method.name}", expected="how many lead times")
    steps = whole("steps", steps)
    if init_times is None:
        positions, batch_size = np.array([init_position(frames, init_time)]), 1
        require_history(frames, positions, method.history, one=True)
    else:
        positions = init_positions(frames, method.history, init_times, stride)
    batch, width = method.tiling(frames, steps, batch_size, tile, device if here else None)
    return Job(
        method, frames, positions, steps, batch, missing, device, width, tile is not None, init_times is None, chosen,
        method.attributes(frames, positions, steps),
    )  # fmt: skip


def batch_of(height: int, width: int) -> int:
    """Return how many init times are computed at once on a grid of so many positions."""
    return max(1, min(LARGEST_BATCH, _POSITIONS_AT_ONCE // (height * width)))


@dataclass(frozen=True, eq=False)
class Job:
    """Forecasts that were checked: everything but where they go. Made by `plan`."""

    method: Method
    frames: Frames
    positions: Positions
    """Of the init times in `frames`, ascending."""
    steps: int
    batch: int
    missing: Missing
    device: str
    tile: int
    """Width of tiles; 0 is the whole grid at once."""
    tile_told: bool
    """Whether the user chose `tile`, so that it belongs to what a hindcast is."""
    single: bool = False
    """Whether it is of one init time, which has no dimension."""
    chosen: Positions | None = None
    """Which of the lead times are wanted, where not all are."""
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dims(self) -> tuple[Hashable, ...]:
        """Dimensions of the forecasts: ([axis,] [init_time,] [variable,] lead_time, [channel,] y, x); see `Axis`."""
        return tuple(self._sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes along `dims`."""
        return tuple(self._sizes.values())

    @property
    def _sizes(self) -> dict[Hashable, int]:
        frames = self.frames
        several, (_, channels, height, width) = len(frames.arrays) > 1, frames.shape
        return {
            **({} if self.method.axis is None else {self.method.axis.name: len(self.method.axis.values)}),
            **({} if self.single else {dims.INIT_TIME: len(self.positions)}),
            **({dims.VARIABLE: channels} if several else {}),
            dims.LEAD_TIME: self.steps,
            **({} if several or frames.channel_dim is None else {frames.channel_dim: channels}),
            frames.grid.y: height,
            frames.grid.x: width,
        }

    @property
    def init_axis(self) -> int:
        """Where init_time stands: first, but after the axis of a distribution."""
        return int(self.method.axis is not None)

    @cached_property
    def one(self) -> xr.DataArray:
        """The forecast from the first init time, with its labels and without its values."""
        first = replace(self, positions=self.positions[:1], single=True)
        return first.labelled(np.broadcast_to(np.float32(0), first.shape))

    def labelled(self, values: Any) -> xr.DataArray:
        """Give values with the dimensions `dims` their labels."""
        frames, array = self.frames, self.frames.arrays[0]
        several = len(frames.arrays) > 1
        name = "forecast" if several else (array.name or "forecast")
        result = xr.DataArray(
            values, dims=self.dims, coords=grid_coords(frames), name=name, attrs={} if several else array.attrs
        )
        if (axis := self.method.axis) is not None:
            result = result.assign_coords({axis.name: (axis.name, axis.values, dict(axis.attrs))})
        mapping = [n for n, c in frames.coords.items() if "grid_mapping_name" in c.attrs or "crs_wkt" in c.attrs]
        if mapping:
            result.encoding["grid_mapping"] = mapping[0]
        leads = (np.arange(1, self.steps + 1) * frames.step).astype("timedelta64[ns]")
        init = frames.times[self.positions]
        return labelled(result, init[0] if self.single else init, leads, self.attrs)

    def compute(self) -> xr.DataArray:
        """Return the forecasts, computed here.

        Raises
        ------
        DataError
            Values that cannot be used or read, or a history frame without any value where `missing` is "refuse".
        ModelError
            Memory cannot hold it.
        """
        if self.single:  # without a copy of the frames, and the frame named that has no value
            values, status = self.method.block(self.frames, self.positions, self.steps, self.device, self.tile)
            if self.missing == "refuse" and status[0] == NONE_POSSIBLE:
                history_at(self.frames, int(self.positions[0]), self.method.history)  # which says what is missing
            values = np.ascontiguousarray(values[(slice(None),) * self.init_axis + (0,)])
        else:
            values, _ = Work.of(self, self.positions).compute(self.method)
        result = self.labelled(values)
        return result if self.chosen is None else result.isel({dims.LEAD_TIME: self.chosen})

    def parts(self, size: int) -> list[Positions]:
        """Return the init positions, `size` at a time."""
        return [self.positions[i : i + size] for i in range(0, len(self.positions), size)]

    def identity(self) -> dict[str, str]:
        """Return what tells this hindcast from others, to be shown."""
        times = self.frames.times[self.positions]
        first, last = show_time(times[0]), show_time(times[-1])
        count = f"{len(times)} from {first} to {last}, SHA-256 {sha256(times.tobytes())[:12]}"
        some = np.unique(np.linspace(0, len(times) - 1, 4).astype(int))
        return {
            "model": self.method.identity,
            "steps": f"{self.steps} of {show_step(self.frames.step)}",
            "init_times": count,
            "data": content(self.frames, self.positions[some], self.method.history),
            "missing": self.missing,
            "tile": f"{self.tile} pixels" if self.tile and self.tile_told else "none given",
        }


@dataclass(frozen=True, eq=False)
class Work:
    """The histories that some init times need, on their way to where they are computed."""

    frames: Frames
    positions: Positions
    steps: int
    batch: int
    missing: Missing
    device: str
    tile: int

    @classmethod
    def of(cls, job: Job, positions: Positions) -> Work:
        """Return the work for these init times of `job`; nothing is read."""
        frames, place = taken(job.frames, positions, job.method.history)
        return cls(frames, place, job.steps, job.batch, job.missing, job.device, job.tile)

    def read(self, scheduler: str | None = "synchronous") -> Work:
        """Return the same with all frames in memory."""
        frames = self.frames
        if scheduler is not None and any(a.chunks is not None for a in frames.arrays):
            # This runs within a task: the source's own graph must not start threads or tasks beneath it.
            try:
                frames = replace(frames, arrays=tuple(a.compute(scheduler=scheduler) for a in frames.arrays))
            except SaNowcastError:
                raise
            except (OSError, RuntimeError, ValueError, KeyError, IndexError, EOFError) as error:
                raise DataError(
                    f"{frames.name}, {frames.label(0)} to {frames.label(len(frames) - 1)}",
                    f"storage could not give the values ({type(error).__name__}: {error})",
                    fix="write the file again from its source",
                ) from error
        return replace(self, frames=frames.load())

    def compute(self, method: Method) -> tuple[Values, Statuses]:
        """Return the forecasts, and how each was possible."""
        read = self if self.frames.loaded is not None else self.read()
        parts, statuses = [], []
        for i in range(0, len(self.positions), self.batch):
            positions = self.positions[i : i + self.batch]
            values, status = method.block(read.frames, positions, self.steps, self.device, self.tile)
            none = status == NONE_POSSIBLE
            if self.missing == "refuse" and none.any():
                position = int(self.positions[i + int(np.argmax(none))])
                raise DataError(
                    f"{self.frames.name}, init time {self.frames.label(position)}",
                    no_value(method),
                    expected="some valid values in each frame",
                    fix="leave this init time out, or pass missing='nan'",
                )
            parts.append(values)
            statuses.append(status)
        axis = int(method.axis is not None)
        return (np.concatenate(parts, axis) if len(parts) > 1 else parts[0]), np.concatenate(statuses)


@dataclass(frozen=True, eq=False)
class Histories:
    """The frames up to some init times, (init time, time, channel, y, x), and where they let forecast."""

    values: Values
    complete: npt.NDArray[np.bool_]
    """(init time,): whether each frame has some value."""
    known: npt.NDArray[np.bool_]
    """(init time, channel, y, x): whether a pixel had one at any time."""

    def finished(self, forecast: Values, frames: Frames) -> tuple[Values, Statuses]:
        """Return forecasts ([axis,] init time, lead time, channel, y, x) in the layout of a `Method`, and statuses."""
        if not self.known.all():
            np.copyto(forecast, np.nan, where=~self.known[:, None])
        values = frames.field(forecast)
        status = np.where(self.complete, AS_ASKED, NONE_POSSIBLE).astype(np.uint8)
        if frames.channel_dim is None:
            return values[..., 0, :, :], status
        return values.swapaxes(-4, -3) if len(frames.arrays) > 1 else values, status


def histories_of(frames: Frames, positions: Positions, history: int) -> Histories:
    """Read the frames up to init times; those that several histories share are read once."""
    needed, place = np.unique(positions[:, None] + np.arange(1 - history, 1), return_inverse=True)
    cuts = [0, *(np.flatnonzero(np.diff(needed) > 1) + 1).tolist(), len(needed)]
    parts = [frames.read(int(needed[a]), int(needed[b - 1]) + 1) for a, b in itertools.pairwise(cuts)]
    values = (np.concatenate(parts) if len(parts) > 1 else parts[0])[place]
    valid = np.isfinite(values)
    complete = np.asarray(np.asarray(valid.any(axis=(2, 3, 4))).all(axis=1))
    return Histories(values, complete, valid.any(axis=1) & complete[:, None, None, None])


class Opaque:
    """Work that dask does not look into, made when it is done or sent away: a long hindcast has thousands."""

    def __init__(self, job: Job, positions: Positions) -> None:
        self.job, self.positions = job, positions

    @property
    def work(self) -> Work:
        """The work for these init times; nothing is read."""
        return Work.of(self.job, self.positions)

    def __reduce__(self) -> tuple[Any, ...]:
        # Only the frames that it needs go to a worker.
        return Sent, (self.work,)


@dataclass(frozen=True, eq=False)
class Sent:
    """Work that came from another process."""

    work: Work


def history_at(frames: Frames, last: int, history: int) -> Values:
    """Return the frames up to position `last`, (time, channel, row, column); refuse a gap, and one without a value."""
    require_history(frames, np.array([last]), history, one=True)
    begin = last - history + 1
    values = frames.read(begin, last + 1)
    missing = np.flatnonzero(~np.isfinite(values).any(axis=(1, 2, 3)))
    if missing.size:
        # Zarr 2 says a fill value of 0 where nothing was asked for; in a NetCDF file somebody declared it.
        fills = [a.encoding.get("_FillValue") for a in frames.arrays if "chunks" in a.encoding]
        zero = any(f is not None and np.ndim(f) == 0 and bool(f == 0) for f in fills)
        raise DataError(
            f"{frames.name}, {frames.label(begin + int(missing[0]))}",
            "every value is missing" + (" (the fill value is 0, which xarray takes for missing)" if zero else ""),
            expected="some valid values in each frame of the history",
            fix="choose another init_time"
            + (", or open with sa_nowcast.sources.open_source(path), which keeps 0" if zero else ""),
        )
    return values


def sha256(content: bytes) -> str:
    """Return the digest as text."""
    return hashlib.sha256(content).hexdigest()


def content(frames: Frames, positions: Positions | None = None, history: int = 1) -> str:
    """Name the data: channels, grid, step, and a digest of coordinates and of some frames (all would take long)."""
    if positions is None:
        positions = np.unique(np.linspace(0, len(frames) - 1, 4).astype(np.int64))
    some, _ = taken(frames, positions, history)
    digest = hashlib.sha256()
    for axis in (frames.grid.y, frames.grid.x):
        if axis in frames.arrays[0].coords:
            digest.update(np.ascontiguousarray(frames.arrays[0][axis].values.astype(np.float64)).tobytes())
    digest.update(some.times.tobytes())
    digest.update(some.read(0, len(some)).tobytes())
    units = ", ".join(f"{c.name} [{c.units}]" if c.units else c.name for c in frames.channels)
    size = f"{frames.grid.height} x {frames.grid.width}"
    return f"{units} on {size}, every {show_step(frames.step)}, SHA-256 of samples {digest.hexdigest()[:12]}"


def taken(frames: Frames, positions: Positions, history: int) -> tuple[Frames, Positions]:
    """Return the frames that the histories need and nothing else, and the init positions among them."""
    needed, place = np.unique(positions[:, None] + np.arange(1 - history, 1), return_inverse=True)
    contiguous = int(needed[-1]) - int(needed[0]) + 1 == len(needed)
    chosen: Any = slice(int(needed[0]), int(needed[-1]) + 1) if contiguous else needed
    arrays = []
    for array in frames.arrays:
        part = array.reset_coords(drop=True).isel({frames.time_dim: chosen})
        if part.chunks is not None:
            import dask.base

            optimize: Any = dask.base.optimize  # untyped
            part = part.copy(data=optimize(part.data)[0])  # only the part's own graph goes to a worker
        arrays.append(part)
    breaks = [0, *(np.flatnonzero(np.diff(needed) > 1) + 1).tolist(), len(needed)]
    found = replace(
        frames,
        arrays=tuple(arrays),
        times=frames.times[needed],
        segments=tuple(itertools.pairwise(breaks)),
        coords={},
        loaded=None if frames.loaded is None else frames.loaded[chosen],
    )
    return found, place.reshape(len(positions), history)[:, -1].astype(np.int64)
