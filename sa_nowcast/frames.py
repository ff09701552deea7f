"""A checked sequence of gridded frames: regular step, units, grid, gaps, mask.

`Frames` is the trusted type of the package: whoever holds one knows that its times are unique, sorted and regular
but for known gaps, that its dimensions are found, and that `Frames.read` gives float32 values in one fixed layout
with NaN where the input had nothing. Only `Frames.from_xarray` makes one.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast import attributes, dims
from sa_nowcast.bounds import KEYS as BOUNDS
from sa_nowcast.bounds import physical_bounds, signed_as
from sa_nowcast.errors import DataError
from sa_nowcast.times import Gaps, Times, nearest, read_times, regular_segments, show_time, stored_rounding, times_name

_LOG = logging.getLogger("sa_nowcast")
# Of the usual spacing: what is farther apart is no neighbour. Stretched grids have uneven spacings throughout.
LARGEST_JUMP = 10.0
_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")

LARGEST = 1e20
"""Values from here on, of either sign, are fill values that nobody declared, or overflow in a network."""
# What netCDF fills 32- and 64-bit integers with, and what NaN becomes in them, as float32 holds these.
_INTEGER_FILLS = np.array([-(2**31), 2**32, -(2**63), 2**64], dtype=np.float32)
# Below zero and no whole number, and all the same common for "missing".
_ODD_FILLS = np.array([-99.9, -999.9, -9999.9, -99.99, -999.99, -9999.99], dtype=np.float32)


@dataclass(frozen=True)
class Channel:
    """One channel of the sequence.

    Attributes
    ----------
    name : str
    units : str or None
        None where the input gave none.
    attrs : mapping
        CF attributes; ``valid_min`` and ``valid_max`` in physical units.
    counts : bool
        Whether its values, where all are whole and none is below 0, are counts: it is not packed, and has no units or
        those of a number.
    """

    name: str
    units: str | None
    attrs: Mapping[Hashable, Any]
    counts: bool = False

    @property
    def non_negative(self) -> bool:
        """Whether a value below 0 can mean nothing but missing, by its attributes: rain, and what is called a count."""
        named = bool(self.attrs.get("standard_name")) or dims.canonical_units(self.units) not in (None, "1")
        return dims.is_rain(self.attrs) or (self.counts and named)


@dataclass(frozen=True)
class Grid:
    """The horizontal grid: dimension names, sizes, spacings in the coordinates' own units, and grid mapping.

    Spacings are medians and None where a dimension has no numeric coordinate or fewer than two points.
    `projection` holds what tells one map projection from another (``grid_mapping_name`` and its parameters).
    """

    y: Hashable
    x: Hashable
    height: int
    width: int
    dy: float | None
    dx: float | None
    units: str | None
    projection: Mapping[str, str]

    def spacing(self) -> str:
        """Return the spacing as a user reads it: ``0.01 x 0.01 degrees_north``."""
        if self.dy is None or self.dx is None:
            return "no coordinates"
        return f"{abs(self.dy):.6g} x {abs(self.dx):.6g} {self.units or ''}".rstrip()


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
        arrays, found_dims, channel_dim = _select(obj, variables, time, y, x, channel)
        t_dim, y_dim, x_dim = found_dims
        name = str(arrays[0].name or "data")
        times = read_times(arrays[0], t_dim, name)
        step_ns, segments = regular_segments(
            times, t_dim, name, gaps, step, stored_rounding(arrays[0], t_dim), times_name(arrays[0], t_dim)
        )
        coords = _kept_coords(obj, arrays[0], t_dim)
        mapping = coords.get(grid_mapping_name(arrays[0]))
        grid = _grid(arrays[0], y_dim, x_dim, name, mapping)
        return cls(
            arrays=arrays,
            channels=_channels(arrays, channel_dim),
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
        stacked = stacked[:, :, :: -1 if self._flip_y else 1, :: -1 if self._flip_x else 1]
        stacked = np.ascontiguousarray(stacked)
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


def require_usable(
    values: npt.NDArray[np.float32], channels: Sequence[Channel], label: Callable[[int], str], whole: bool = False
) -> None:
    """Refuse values that are infinite, and fill values that nobody declared; NaN is missing, and passes.

    Parameters
    ----------
    values : ndarray, (time, channel, row, column)
    channels : sequence of Channel
    label : callable
        The time of a position, as errors print it.
    whole : bool
        Whether some are stored as integers without packing.

    Raises
    ------
    DataError
        Infinite values; values of at least 1e20; what netCDF fills integers with; and, of rain and counts, a least
        value of -1 or below that is whole and occurs at least twice. Variable, time and value are named.
    """
    low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    limit = 2.0**31 if whole else LARGEST
    below = low <= -1 and any(c.non_negative for c in channels)
    if not (low <= -limit or high >= limit or below):  # also where all are NaN
        return
    for c, channel in enumerate(channels):
        part = values[:, c]
        infinite = np.isinf(part)
        if infinite.any():
            raise infinite_values(channel.name, _first(infinite, label), int(infinite.sum()))
        fills = np.abs(part) >= LARGEST
        if whole:
            fills |= np.isin(part, _INTEGER_FILLS)
        if fills.any():
            value, count = float(part[fills][0]), int(fills.sum())
            # The least integer has no absolute value in its own type.
            condition = "abs(ds) < 1e20" if abs(value) >= LARGEST else "ds > -2e9" if value < 0 else "ds < 4e9"
            raise fill_values(channel.name, _first(fills, label), value, count, condition)
        if below and channel.non_negative and (least := np.fmin.reduce(part, axis=None)) <= -1:
            fills = part == least
            if fills.sum() > 1 and (least == np.round(least) or least in _ODD_FILLS):
                raise fill_values(channel.name, _first(fills, label), float(least), int(fills.sum()), "ds >= 0")


def _first(found: npt.NDArray[np.bool_], label: Callable[[int], str]) -> str:
    return label(int(np.argwhere(found)[0][0]))


def fill_values(name: str, time: str, value: float, count: int, condition: str) -> DataError:
    """Return the error about values that mean missing and do not say so."""
    return DataError(
        f"{name}, {time}",
        f"{count} values such as {value:.6g}, which mean missing and are not declared as fill value",
        expected="NaN where missing, or a _FillValue attribute in the file",
        fix=f"ds.where({condition}) turns them into missing values",
    )


def infinite_values(name: str, time: str, count: int) -> DataError:
    """Return the error about infinite values."""
    return DataError(
        f"{name}, {time}",
        f"{count} infinite values",
        expected="finite values, or NaN where missing",
        fix="ds.where(abs(ds) < float('inf')) turns them into missing values",
    )


def _select(
    obj: xr.DataArray | xr.Dataset,
    variables: Sequence[str] | None,
    time: Hashable | None,
    y: Hashable | None,
    x: Hashable | None,
    channel: Hashable | None,
) -> tuple[tuple[xr.DataArray, ...], tuple[Hashable, Hashable, Hashable], Hashable | None]:
    if not isinstance(obj, xr.DataArray | xr.Dataset):
        raise DataError("data", f"a {type(obj).__name__}", expected="an xarray Dataset or DataArray")
    if isinstance(obj, xr.DataArray):
        t_dim, y_dim, x_dim = (
            dims.find_dim(obj, "time", time), dims.find_dim(obj, "y", y), dims.find_dim(obj, "x", x)
        )  # fmt: skip
        if variables is not None:
            raise DataError(str(obj.name or "data"), "variables= was given for a DataArray", expected="a Dataset")
        chosen = [obj]
    else:
        (t_dim, y_dim, x_dim), names = _variables(obj, variables, {"time": time, "y": y, "x": x})
        keys = {str(n): n for n in obj.data_vars}  # names need not be text
        chosen = [obj[keys[n]] for n in names]
    if len({t_dim, y_dim, x_dim}) < 3:
        raise DataError("data", f"time={t_dim!r}, y={y_dim!r}, x={x_dim!r}", expected="three different dimensions")
    chosen = [_decoded(a) for a in chosen]
    channel_dim: Hashable | None
    known = (t_dim, y_dim, x_dim)
    if len(chosen) == 1:
        channel_dim = dims.find_channel(chosen[0], known, channel)
    else:
        plain = [str(a.name) for a in chosen if set(a.dims) == set(known)]
        for array in chosen:
            if set(array.dims) != set(known):
                raise DataError(
                    str(array.name),
                    f"dimensions {', '.join(map(str, array.dims))} beside other variables",
                    expected=", ".join(map(str, known)),
                    fix=f"ds[{plain or [str(chosen[0].name)]!r}]",
                )
        channel_dim = dims.VARIABLE
    order = [t_dim, *([channel_dim] if channel_dim is not None and len(chosen) == 1 else []), y_dim, x_dim]
    for array in chosen:
        if array.dtype.kind not in "fiub":
            raise DataError(str(array.name or "data"), f"values of type {array.dtype}", expected="numbers")
        empty = [str(d) for d in array.dims if array.sizes[d] == 0]
        if empty:
            raise DataError(str(array.name or "data"), f"dimension {empty[0]} has no entries", expected="at least one")
    return tuple(a.transpose(*order) for a in chosen), known, channel_dim


def _variables(
    ds: xr.Dataset, wanted: Sequence[str] | None, told: Mapping[dims.Role, Hashable | None]
) -> tuple[dims.Roles, list[str]]:
    """Return the dimensions of time, y and x, looked for on the chosen variables alone, and the variables."""
    if wanted is not None:
        unknown = [n for n in wanted if n not in map(str, ds.data_vars)]
        if unknown:
            known = ", ".join(n for names in dims.grids(ds, told).values() for n in names)
            raise DataError("data", f"no variable {unknown[0]!r}", expected=f"one of {known or 'none'}")
        if not wanted:
            known = ", ".join(n for names in dims.grids(ds, told).values() for n in names)
            raise DataError("data", "an empty list of variables", expected=f"some of {known}")
        ds = ds[[n for n in ds.data_vars if str(n) in wanted]]
    found = dims.grids(ds, told)
    gridded = [n for names in found.values() for n in names]
    wrong = next((n for n in wanted or () if n not in gridded), None)
    if wrong is not None or not found:
        if wrong is not None and ds[wrong].ndim < 3:
            have = ", ".join(map(str, ds[wrong].dims))
            raise DataError(wrong, f"dimensions {have}", expected=f"at least {', '.join(_dims_of(found))}")
        one = ds if wrong is None else ds[wrong]
        roles = [dims.find_dim(one, role, dim) for role, dim in told.items()]  # which says what is missing
        raise DataError("data", f"no variable has the dimensions {', '.join(map(str, roles))}", expected="one with all")
    roles_found = one_grid(ds, found)
    return roles_found, list(wanted) if wanted is not None else gridded


def one_grid(ds: xr.Dataset, found: Mapping[dims.Roles, list[str]]) -> dims.Roles:
    """Return the only grid that `sa_nowcast.dims.grids` found, or refuse several: one variable has to be chosen."""
    if len(found) == 1:
        return next(iter(found))
    shown = "; ".join(f"{_some(names)} ({', '.join(map(str, roles))})" for roles, names in found.items())
    name = found[dims.likeliest(ds, found)][0]
    mapping = grid_mapping_name(ds[name])
    raise DataError(
        "data",
        f"variables of different dimensions: {shown}",
        expected="one grid",
        fix=f"ds[{[name, *([mapping] if mapping in ds.data_vars else [])]!r}]",
    )


def _dims_of(found: Mapping[dims.Roles, Sequence[str]]) -> tuple[str, ...]:
    return tuple(map(str, next(iter(found)))) if len(found) == 1 else ("time", "y", "x")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _decoded(array: xr.DataArray) -> xr.DataArray:
    """Unpack what was opened with ``mask_and_scale=False``, so that packed values are never taken for physical ones."""
    keys = _PACKING if array.dtype.kind in "iu" else _PACKING[:-1]
    if not any(k in array.attrs for k in keys):
        return array
    variable = array.variable
    if array.dtype.kind in "iu" and any(k in array.attrs for k in BOUNDS):
        variable = variable.copy(deep=False)
        variable.attrs = {k: _typed(v, array.dtype) if k in BOUNDS else v for k, v in array.attrs.items()}
    # Alone: xarray cannot decode beside times with a time zone, which `read_times` refuses by name.
    bare = xr.Dataset({"packed": variable})
    try:
        for key in ("scale_factor", "add_offset"):
            np.asarray(array.attrs.get(key, 0)).astype(np.float64).item()  # which xarray asks only when values are read
        decoded = xr.decode_cf(bare, decode_times=False, decode_coords=False)["packed"]
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{k}={array.attrs[k]!r:.40}" for k in _PACKING if k in array.attrs)
        raise DataError(
            str(array.name or "data"), f"cannot be unpacked by {shown} ({error})", fix="correct or remove the attribute"
        ) from error
    return decoded.assign_coords(array.coords).rename(array.name)


def _typed(bounds: Any, dtype: np.dtype[Any]) -> Any:
    """Give whole numbers without a type, as JSON and people write them beside packed values, that of the values."""
    if isinstance(bounds, list | tuple):
        return [_typed(b, dtype) for b in bounds]
    if isinstance(bounds, int) and not isinstance(bounds, bool):
        same = signed_as(bounds, dtype)
        return bounds if same is None else dtype.type(same)
    return bounds


def _grid(array: xr.DataArray, y: Hashable, x: Hashable, name: str, mapping: xr.DataArray | None) -> Grid:
    spacings: list[float | None] = []
    for dim in (y, x):
        if dim not in array.coords or array.coords[dim].dtype.kind not in "fiu" or array.sizes[dim] < 2:
            spacings.append(None)
            continue
        values = dims.unwrapped(array.coords[dim])
        differences = np.diff(values)
        if not np.isfinite(differences).all() or not ((differences > 0).all() or (differences < 0).all()):
            raise _unordered(f"{name}, {dim}", dim, array.coords[dim])
        torn = jump(array.coords[dim])
        if torn is not None:
            _say(f"{name}: {torn}")
        spacings.append(float(np.median(differences)))
    units = array.coords[y].attrs.get("units") if y in array.coords else None
    return Grid(
        y=y,
        x=x,
        height=array.sizes[y],
        width=array.sizes[x],
        dy=spacings[0],
        dx=spacings[1],
        units=None if units is None else str(units),
        projection=_projection(mapping),
    )


def _unordered(where: str, dim: Hashable, coord: xr.DataArray) -> DataError:
    values = coord.values.astype(np.float64)
    found = "coordinate is neither increasing nor decreasing"
    if not np.isfinite(values).all():
        at = int(np.argmin(np.isfinite(values)))
        return DataError(
            where, f"{found}: no number at position {at}", "a number for every row or column", f"ds.drop_vars({dim!r})"
        )
    known, counts = np.unique(values, return_counts=True)
    if (counts > 1).any():
        twice = f"{found}: {known[np.argmax(counts)]:g} occurs {counts.max()} times"
        # Many are labels that were rounded: without their rows or columns the picture would be another.
        few = (counts - 1).sum() * 10 <= len(values)
        fix = f"ds.drop_duplicates({dim!r}).sortby({dim!r})" if few else f"ds.drop_vars({dim!r})"
        return DataError(where, twice, "each once", fix)
    turned = coord.copy(data=np.sort(values % 360))
    if dims.is_longitude(coord) and _torn(np.diff(turned.values)) is None:
        return DataError(where, found, fix=f"{_modulo(dim)}.sortby({dim!r})")
    return DataError(where, found, fix=f"ds.sortby({dim!r})")


def _modulo(dim: Hashable) -> str:
    return f"ds.assign_coords({{{dim!r}: ds[{dim!r}] % 360}})"


def _torn(differences: npt.NDArray[np.float64]) -> int | None:
    """Return the place of a jump between parts of a regular grid; uneven spacings, as of latitudes, are no jumps."""
    sizes = np.abs(differences)
    usual = float(np.median(sizes))
    jumps = sizes > LARGEST_JUMP * usual
    if not jumps.any() or len(sizes) < 3 or np.abs(sizes[~jumps] / usual - 1).max() > 0.01:
        return None
    return int(np.argmax(sizes))


def jump(coord: xr.DataArray) -> DataError | None:
    """Return what is wrong with a regular grid that has a hole, as one line, or None.

    Sorting longitudes that cross the antimeridian makes such holes; networks see pixels, and so no hole.
    """
    values = dims.unwrapped(coord)
    sizes = np.abs(np.diff(values))
    at = _torn(sizes)
    if at is None:
        return None
    name = coord.name
    if dims.is_longitude(coord) and _torn(np.diff(np.sort(values % 360))) is None:
        fix = f"{_modulo(name)}.sortby({name!r})"
    else:
        cuts = np.flatnonzero(sizes > LARGEST_JUMP * np.median(sizes)) + 1
        parts = itertools.pairwise([0, *cuts.tolist(), len(values)])
        start, stop = max(parts, key=lambda part: part[1] - part[0])
        fix = f"ds.isel({{{name!r}: slice({start}, {stop})}})"
    found = f"a jump from {coord.values[at]:g} to {coord.values[at + 1]:g} between cells of {np.median(sizes):g}"
    return DataError(str(name), found, expected="one whole grid", fix=fix)


@functools.cache
def _say(line: str) -> None:
    """Log a line as a warning, once in a process."""
    _LOG.warning(line)


def grid_mapping_name(array: xr.DataArray) -> str | None:
    """Return the name of the grid mapping variable (CF section 5.6), from encoding or attributes."""
    text = array.encoding.get("grid_mapping") or array.attrs.get("grid_mapping")
    return re.split(r"[\s:]", str(text).strip())[0] if text else None


def _projection(mapping: xr.DataArray | None) -> dict[str, str]:
    if mapping is None:
        return {}
    # WKT strings differ between writers of the same projection; the CF parameters do not.
    skip = ("crs_wkt", "spatial_ref", "long_name", "GeoTransform")
    return {str(k): str(v) for k, v in sorted(mapping.attrs.items(), key=lambda i: str(i[0])) if k not in skip}


def _channels(arrays: tuple[xr.DataArray, ...], channel_dim: Hashable | None) -> tuple[Channel, ...]:
    if len(arrays) > 1 or channel_dim is None:
        return tuple(_channel(str(a.name or "data"), a) for a in arrays)
    array = arrays[0]
    labels = array.coords[channel_dim].values if channel_dim in array.coords else range(array.sizes[channel_dim])
    per_channel = array.coords.get(dims.UNITS)
    if per_channel is None or per_channel.dims != (channel_dim,):
        shared = _channel("", array)
        return tuple(replace(shared, name=str(label)) for label in labels)
    each = [attributes.text(units) for units in per_channel.values.tolist()]
    return tuple(_channel(str(label), array, {"units": u}) for label, u in zip(labels, each, strict=True))


def _channel(name: str, array: xr.DataArray, more: Mapping[Hashable, Any] | None = None) -> Channel:
    attrs = physical_bounds(array.attrs, array.encoding, array.dtype) | dict(more or {})
    packed = any(array.encoding.get(k) is not None for k in ("scale_factor", "add_offset"))
    units = attributes.text(attrs.get("units"))
    return Channel(name, units, attrs, counts=not packed and array.dtype.kind in "fiu" and dims.is_count(attrs))


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
