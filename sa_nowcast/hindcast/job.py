"""A hindcast that was checked, and the parts of it that are computed at a time."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal

import dask.array
import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError, SaNowcastError
from sa_nowcast.frames import Frames
from sa_nowcast.hindcast.histories import content, sha256, taken
from sa_nowcast.hindcast.methods import NONE_POSSIBLE, Method, Statuses, Values, refusal
from sa_nowcast.metadata import dims
from sa_nowcast.times import show_step, show_time, stored_as, valid_times
from sa_nowcast.windows import Positions

Missing = Literal["nan", "refuse"]


@dataclass(frozen=True, eq=False)
class Job:
    """A hindcast that was checked: everything but where it goes."""

    method: Method
    frames: Frames
    positions: Positions
    steps: int
    one: xr.DataArray
    batch: int
    missing: Missing
    device: str
    tile: int
    """Width of tiles; 0 is the whole grid at once."""
    tile_told: bool
    """Whether the user chose `tile`, so that it belongs to what the hindcast is."""

    @property
    def dims(self) -> tuple[Hashable, ...]:
        """Dimensions of the archive."""
        members = self.one.dims[: self.init_axis]
        return (*members, dims.INIT_TIME, *self.one.dims[self.init_axis :])

    @property
    def init_axis(self) -> int:
        """Where init_time stands: first, but after members."""
        return int(dims.REALIZATION in self.one.dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the archive."""
        sizes = {**self.one.sizes, dims.INIT_TIME: len(self.positions)}
        return tuple(int(sizes[d]) for d in self.dims)

    def labelled(self, values: Any) -> xr.DataArray:
        """Give values with the archive's dimensions its labels."""
        one, init = self.one, self.frames.times[self.positions]
        coords: dict[Hashable, Any] = {
            n: c.variable for n, c in one.coords.items() if n not in (dims.INIT_TIME, dims.VALID_TIME)
        }
        valid = valid_times(init, one[dims.LEAD_TIME].values, self.frames.name)
        coords[dims.INIT_TIME] = (dims.INIT_TIME, init, dims.INIT_TIME_ATTRS)
        coords[dims.VALID_TIME] = ((dims.INIT_TIME, dims.LEAD_TIME), valid, dims.VALID_TIME_ATTRS)
        archive = xr.DataArray(values, dims=self.dims, coords=coords, name=one.name, attrs=one.attrs)
        archive.encoding = dict(one.encoding)
        for name in archive.coords:
            archive[name].encoding["_FillValue"] = None
        for name in (dims.INIT_TIME, dims.VALID_TIME):
            archive[name].encoding |= stored_as(archive[name].values)
        return archive

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
    one: xr.DataArray
    batch: int
    missing: Missing
    device: str
    tile: int

    @classmethod
    def of(cls, job: Job, positions: Positions) -> Work:
        """Return the work for these init times of `job`; nothing is read."""
        frames, place = taken(job.frames, positions, job.method.history)
        # Of the labels only dimensions and sizes are needed.
        shape = xr.DataArray(np.broadcast_to(np.float32(0), job.one.shape), dims=job.one.dims)
        return cls(frames, place, shape, job.batch, job.missing, job.device, job.tile)

    def read(self, scheduler: str | None = "synchronous") -> Work:
        """Return the same with all frames in memory."""
        frames = self.frames
        if scheduler is not None and any(isinstance(a.variable._data, dask.array.Array) for a in frames.arrays):
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
            values, status = method.block(read.frames, positions, self.one, self.device, self.tile)
            none = status == NONE_POSSIBLE
            if self.missing == "refuse" and none.any():
                position = int(self.positions[i + int(np.argmax(none))])
                raise DataError(
                    f"{self.frames.name}, init time {self.frames.label(position)}",
                    refusal(method),
                    expected="some valid values in each frame",
                    fix="leave this init time out, or pass missing='nan'",
                )
            parts.append(values)
            statuses.append(status)
        axis = int(dims.REALIZATION in self.one.dims)
        return (np.concatenate(parts, axis) if len(parts) > 1 else parts[0]), np.concatenate(statuses)


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


class Sent:
    """Work that came from another process."""

    def __init__(self, work: Work) -> None:
        self.work = work
