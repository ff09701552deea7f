"""`Frames`: a checked sequence of gridded frames."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.frames.grid import Grid, grid_mapping_name, grid_of
from sa_nowcast.frames.selection import select
from sa_nowcast.frames.values import Channel, channels_of, require_usable
from sa_nowcast.metadata import attributes, dims
from sa_nowcast.times import Gaps, Times, nearest, read_times, regular_segments, show_time, stored_rounding, times_name


@dataclass(frozen=True, eq=False)
class Frames:
    """A checked, regularly stepped sequence of gridded frames.

    Made by `Frames.from_xarray`. The layout of everything read from it is (time, channel, row, column), rows from
    the largest y to the smallest (north up) and columns from the smallest x to the largest, whatever the order of
    dimensions or axes in the input: so a forecast does not depend on how a file happens to be laid out.

    Attributes
    ----------
    arrays : tuple of DataArray
        The variables, each (time, [channel,] y, x) by the input's own dimension names, lazy where the input was.
    channels : tuple of Channel
        One entry per channel of the tensor: the variables, or the entries of the channel dimension.
    channel_dim : hashable or None
        The input's channel dimension; ``"variable"`` where variables were stacked; None for a single field.
    time_dim : hashable
        The input's time dimension.
    times : ndarray of datetime64[ns], shape (frames,)
    step : timedelta64[ns]
        The cadence.
    segments : tuple of (int, int)
        Half-open ranges of positions without a gap inside.
    grid : Grid
    coords : mapping
        The coordinates that a forecast on this grid keeps (all that do not vary in time).
    loaded : ndarray or None
        All values in memory, where `load` has read them.
    """

    arrays: tuple[xr.DataArray, ...]
    channels: tuple[Channel, ...]
    channel_dim: Hashable | None
    time_dim: Hashable
    times: Times
    step: np.timedelta64
    segments: tuple[tuple[int, int], ...]
    grid: Grid
    coords: Mapping[Hashable, xr.DataArray]
    loaded: npt.NDArray[np.float32] | None = None

    @classmethod
    def from_xarray(
        cls,
        obj: xr.DataArray | xr.Dataset,
        *,
        variables: Sequence[str] | None = None,
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        gaps: Gaps = "refuse",
        step: np.timedelta64 | None = None,
    ) -> Frames:
        """Check `obj` and return it as `Frames`; no data are read, only coordinates.

        Parameters
        ----------
        obj : DataArray or Dataset
            Any order of dimensions; NetCDF, Zarr, dask or in memory; packed integers, decoded or not, or floats.
        variables : sequence of str, optional
            Which variables of a Dataset to use, in this order. By default all that have time and both horizontal
            dimensions, by name.
        time, y, x, channel : hashable, optional
            Dimension names, where CF attributes and common names do not tell.
        gaps : {"refuse", "skip"}
            What to do where times are missing: refuse (default, so that a gap is never met by surprise), or skip the
            windows that a gap would cut.
        step : timedelta64, optional
            The cadence; by default the most common difference between successive times.

        Raises
        ------
        DataError
            Dimensions that cannot be told, no frames, duplicated, unsorted or irregular times, calendars and time
            zones that numpy cannot hold, text instead of numbers, or variables on different grids.
        """
        obj = attributes.normalised(obj) if isinstance(obj, xr.DataArray | xr.Dataset) else obj
        obj = dims.with_positions(obj) if isinstance(obj, xr.Dataset) else obj
        told = dims.DimNames(time, y, x, channel)
        arrays, (t_dim, y_dim, x_dim), channel_dim = select(obj, variables, told)
        name = str(arrays[0].name or "data")
        times = read_times(arrays[0], t_dim, name)
        step_ns, segments = regular_segments(
            times, t_dim, name, gaps, step, stored_rounding(arrays[0], t_dim), times_name(arrays[0], t_dim)
        )
        coords = _kept_coords(obj, arrays[0], t_dim)
        mapping = coords.get(grid_mapping_name(arrays[0]))
        grid = grid_of(arrays[0], y_dim, x_dim, name, mapping)
        return cls(
            arrays=arrays,
            channels=channels_of(arrays, channel_dim),
            channel_dim=channel_dim,
            time_dim=t_dim,
            times=times,
            step=step_ns,
            segments=segments,
            grid=grid,
            coords=coords,
        )

    def __len__(self) -> int:
        return len(self.times)

    @property
    def name(self) -> str:
        """The variable's name, as errors and labels give it."""
        return ", ".join(str(a.name) if a.name is not None else "data" for a in self.arrays)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frames, channels, rows, columns)."""
        return len(self), len(self.channels), self.grid.height, self.grid.width

    @property
    def nbytes(self) -> int:
        """Bytes of the whole sequence as float32."""
        return int(np.prod(self.shape, dtype=np.int64)) * 4

    def read(
        self, start: int, stop: int, rows: slice = slice(None), columns: slice = slice(None)
    ) -> npt.NDArray[np.float32]:
        """Read frames ``start`` to ``stop`` as float32, NaN where missing.

        Parameters
        ----------
        start, stop : int
            Half-open range of positions in time.
        rows, columns : slice
            A part of the grid, in the layout of this class (north up).

        Returns
        -------
        ndarray, shape (stop - start, channels, rows, columns), C-contiguous

        Raises
        ------
        DataError
            A value that is infinite, or a fill value that is not declared (variable and time are named); a chunk that
            storage cannot give.
        """
        if self.loaded is not None:
            return np.ascontiguousarray(self.loaded[start:stop, :, rows, columns])
        y_index = self._axis_slice(rows, self.grid.height, self._flip_y)
        x_index = self._axis_slice(columns, self.grid.width, self._flip_x)
        parts = []
        for array in self.arrays:
            order = [self.time_dim, *([] if self._stacked else [self.channel_dim]), self.grid.y, self.grid.x]
            part = array.isel({self.time_dim: slice(start, stop), self.grid.y: y_index, self.grid.x: x_index})
            values = self._values(part.transpose(*order), start, stop)
            parts.append(values[:, None] if self._stacked else values)
        stacked = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        stacked = np.ascontiguousarray(self.field(stacked))
        require_usable(stacked, self.channels, lambda t: self.label(start + t), self._whole)
        return stacked

    def load(self) -> Frames:
        """Return the same sequence with all values in memory (`nbytes` of them)."""
        return self if self.loaded is not None else replace(self, loaded=self.read(0, len(self)))

    def label(self, position: int) -> str:
        """Return the time at `position` as errors print it (ISO 8601, no trailing zeros)."""
        return show_time(self.times[position])

    def field(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Turn an array (..., row, column) in the layout of this class back to the input's axis directions."""
        return values[..., :: -1 if self._flip_y else 1, :: -1 if self._flip_x else 1]

    def position(self, time: Any) -> int | None:
        """Return the position of a datetime64 `time`, or None where the sequence does not hold it.

        A time is that of a frame where it is within a hundredth of the step (see `sa_nowcast.times.nearest`).
        """
        wanted = np.datetime64(time, "ns")
        after = int(np.searchsorted(self.times, wanted))
        first = max(after - 1, 0)
        place, there = nearest(self.times[first : after + 1], wanted, self.step)
        return first + int(place) if there else None

    def select_positions(self, start: int, stop: int) -> Frames:
        """Return the frames ``start`` to ``stop`` as a sequence of their own."""
        cut = [(max(a, start) - start, min(b, stop) - start) for a, b in self.segments if max(a, start) < min(b, stop)]
        arrays = tuple(a.isel({self.time_dim: slice(start, stop)}) for a in self.arrays)
        loaded = None if self.loaded is None else self.loaded[start:stop]
        return replace(self, arrays=arrays, times=self.times[start:stop], segments=tuple(cut), loaded=loaded)

    @cached_property
    def _whole(self) -> bool:
        return any(a.dtype.kind in "iu" for a in self.arrays)

    @cached_property
    def _flip_y(self) -> bool:
        return self.grid.dy is not None and self.grid.dy > 0

    @cached_property
    def _flip_x(self) -> bool:
        return self.grid.dx is not None and self.grid.dx < 0

    @property
    def _stacked(self) -> bool:
        return self.channel_dim is None or (
            self.channel_dim == dims.VARIABLE and self.channel_dim not in self.arrays[0].dims
        )

    @staticmethod
    def _axis_slice(part: slice, size: int, flip: bool) -> slice:
        start, stop, _ = part.indices(size)
        return slice(size - stop, size - start) if flip else slice(start, stop)

    def _values(self, part: xr.DataArray, start: int, stop: int) -> npt.NDArray[np.float32]:
        try:
            # Through float64 where xarray decoded to it: the cast to float32 is then the only rounding, and packed
            # and unpacked inputs agree to the last bit.
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and `read` refuses that
                return np.asarray(part.values, dtype=np.float32)
        except DataError:
            raise  # by a reader that knows more
        except Exception as error:
            # What lies behind a lazy array may raise almost anything, where the metadata are damaged too.
            raise DataError(
                f"{part.name}, {self.label(start)} to {self.label(stop - 1)}",
                f"storage could not give the values ({type(error).__name__}: {error})",
                fix="write the file again from its source",
            ) from error


def _kept_coords(obj: xr.DataArray | xr.Dataset, array: xr.DataArray, time: Hashable) -> dict[Hashable, xr.DataArray]:
    kept: dict[Hashable, xr.Variable] = {}
    for n, c in array.coords.items():
        variable: xr.Variable | None = c.variable
        if time in c.dims:
            variable = _constant(c.variable, time) if dims.is_position(str(n), c.variable) else None
        # A forecast has times of its own.
        others = c.attrs.get("standard_name") in ("time", "forecast_reference_time") and not c.dims
        if variable is not None and not others and n not in (dims.INIT_TIME, dims.LEAD_TIME, dims.VALID_TIME):
            kept[n] = variable
    mapping = grid_mapping_name(array)
    if mapping is not None and isinstance(obj, xr.Dataset) and mapping in obj.variables:
        kept[mapping] = obj[mapping].variable
    clean: dict[Hashable, xr.DataArray] = {}
    for name, variable in kept.items():
        attrs = dict(variable.attrs)
        if attrs.get("bounds") not in kept:
            attrs.pop("bounds", None)  # the bounds variable has a dimension that a DataArray cannot carry
        clean[name] = xr.DataArray(variable.data, dims=variable.dims, attrs=attrs)
    return clean


def _constant(variable: xr.Variable, time: Hashable) -> xr.Variable | None:
    """Return latitude or longitude that is given for every time without its time, or None where the grid moves."""
    first, last = variable.isel({time: 0}), variable.isel({time: -1})
    return first if np.array_equal(first.values, last.values, equal_nan=True) else None
