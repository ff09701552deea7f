"""What is asked for: one forecast, or the frames that were observed; both as fields over times on one grid."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import sleep
from typing import Any, Final, Generic, Protocol, TypeVar

import netCDF4
import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing import quiet
from sa_nowcast.errors import StorageError
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import normalised
from sa_nowcast.published import FORECAST, FORECASTS, OBSERVED
from sa_nowcast.serving.fields import Layer, layers_of, range_scale
from sa_nowcast.serving.folder import NAME, Published, pauses, version
from sa_nowcast.serving.grid import Grid

Values = npt.NDArray[Any]
Times = npt.NDArray[np.datetime64]
_Kept = TypeVar("_Kept")
FRAMES: Final = 48
"""How many of the newest frames are shown."""
QUANTILES: Final = (0.1, 0.5, 0.9)
"""Those that are made of members."""
_OPEN_AT_ONCE: Final = 4


class Kept(Generic[_Kept]):
    """The values that were asked for last, up to so many bytes; for several threads."""

    def __init__(self, most: int, size: Callable[[_Kept], int]) -> None:
        self._most, self._size, self._total = most, size, 0
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def peek(self, key: Hashable) -> _Kept | None:
        """Return what is kept under a key, None where nothing is."""
        with self._lock:
            return self._kept.get(key)

    def get(self, key: Hashable, make: Callable[[], _Kept]) -> _Kept:
        """Return what is kept under a key, or make it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._total += self._size(made)
            while self._total > self._most and len(self._kept) > 1:
                self._total -= self._size(self._kept.popitem(last=False)[1])
        return made


class Source(Protocol):
    """Fields over times on a grid."""

    id: str
    version: str
    layers: Sequence[Layer]
    grid: Grid

    def times(self, layer: Layer) -> Times:
        """Return the valid times of a layer."""

    def pixel(self, layer: Layer, row: int, column: int) -> Values:
        """Return the values of a pixel at all times."""

    def box(self, layer: Layer, times: slice, rows: slice, columns: slice) -> Values:
        """Return the values (time, row, column) of a part."""


@dataclass
class Forecast:
    """A forecast whose file is open. It is read under the lock of `Sources` only: HDF5 is one for all threads."""

    id: str
    version: str
    ds: xr.Dataset
    layers: Sequence[Layer]
    grid: Grid
    init: np.datetime64
    _pixel: tuple[tuple[str, int, int], xr.DataArray] | None = None

    def leads(self, layer: Layer) -> npt.NDArray[np.timedelta64]:
        """Return the lead times of a layer; of a sum the end of its window, of what has none 0."""
        data = self.ds[layer.variable]
        if layer.lead is not None:
            return np.asarray(data[layer.lead].values, "m8[s]")
        alone = [c for c in data.coords.values() if not c.ndim and c.dtype.kind == "m"]
        return np.asarray([alone[0].values if alone else np.timedelta64(layer.window, "s")], "m8[s]")

    def times(self, layer: Layer) -> Times:
        """Return the valid times of a layer."""
        return np.asarray(self.init + self.leads(layer))

    def pixel(self, layer: Layer, row: int, column: int) -> Values:
        """Return the values of a pixel at all lead times; quantiles are made of members where the file has none."""
        y, x = self._yx(layer)
        key = (layer.variable, row, column)
        if self._pixel is None or self._pixel[0] != key:  # members are read once for all their quantiles
            self._pixel = key, self.ds[layer.variable].isel({y: row, x: column}).load()
        return np.atleast_1d(self._at(layer, self._pixel[1]).values)

    def box(self, layer: Layer, times: slice, rows: slice, columns: slice) -> Values:
        """Return the values (lead time, row, column) of a part."""
        y, x = self._yx(layer)
        data = self.ds[layer.variable].isel({y: rows, x: columns} | ({layer.lead: times} if layer.lead else {}))
        data = self._at(layer, data).transpose(*([layer.lead] if layer.lead else []), y, x)
        return data.values if layer.lead else data.values[np.newaxis][times]

    def _at(self, layer: Layer, data: xr.DataArray) -> xr.DataArray:
        """Return a part of the layer's variable at its threshold, or quantile: made of members where there are some."""
        if dims.REALIZATION not in data.dims:
            return data.isel(dict(layer.at))
        members = data.transpose(dims.REALIZATION, ...)
        found = np.quantile(members.values, QUANTILES[layer.at[dims.QUANTILE]], axis=0)
        return members.isel({dims.REALIZATION: 0}, drop=True).copy(data=found.astype(data.dtype))

    def _yx(self, layer: Layer) -> tuple[Hashable, Hashable]:
        data = self.ds[layer.variable]
        return dims.find_dim(data, "y"), dims.find_dim(data, "x")

    def quantiles(self, variable: str | None) -> list[Layer]:
        """Return the quantiles of the variable: those of the file, else those of its members, else none."""
        for dim in (dims.QUANTILE, dims.REALIZATION):
            for name, data in self.ds.data_vars.items():
                if dim not in data.dims or not str(name).startswith(str(variable)):
                    continue
                shares = data[dim].values if dim == dims.QUANTILE else QUANTILES
                base = next(layer for layer in self.layers if layer.variable == variable)
                return [
                    replace(
                        base, id=f"{variable}_quantile_{float(q):g}", variable=str(name),
                        title=f"Quantile {float(q):g}", at={dims.QUANTILE: i},
                    )
                    for i, q in enumerate(shares)
                ]  # fmt: skip
        return []


@dataclass
class Observed:
    """The newest frames that the service accepted."""

    id: str
    version: str
    data: xr.DataArray
    layers: Sequence[Layer]
    grid: Grid
    place: Path
    first: int
    kept: Kept[Values]

    def times(self, layer: Layer) -> Times:
        """Return the times of the frames."""
        return np.asarray(self.data[self.data.dims[0]].values, "M8[s]")

    def frame_version(self, position: int) -> str:
        """Return what tells a frame from one that came in its place; "missing" where none arrived."""
        # A chunk gets its name by a rename, which its folder notes.
        with suppress(OSError):
            return version(os.stat(self.place.joinpath(str(self.data.name), "c", str(self.first + position), "0")))
        return "missing"

    def frame(self, position: int) -> tuple[str, Values]:
        """Return the version and the values (row, column) of a frame; missing where it did not arrive."""
        tag = self.frame_version(position)
        return tag, self.kept.get((self.first + position, tag), lambda: self.data[position].values)

    def pixel(self, layer: Layer, row: int, column: int) -> Values:
        """Return the values of a pixel in all frames."""
        return np.array([self.frame(i)[1][row, column] for i in range(self.data.shape[0])])

    def box(self, layer: Layer, times: slice, rows: slice, columns: slice) -> Values:
        """Return the values (time, row, column) of a part."""
        frames = range(self.data.shape[0])[times]
        shape = (len(frames), *self.data[0, rows, columns].shape)
        return np.array([self.frame(i)[1][rows, columns] for i in frames]).reshape(shape)


class Sources:
    """Forecasts and frames, opened when they are asked for, and again when they were replaced."""

    def __init__(self, published: Published) -> None:
        self.published = published
        self._lock = threading.RLock()
        self._open: OrderedDict[str, Forecast] = OrderedDict()
        self._observed: Observed | None = None
        self._kept: Kept[Values] = Kept(256 * 2**20, lambda values: int(values.nbytes))
        self._grids: Kept[Grid] = Kept(4, lambda grid: 1)

    @contextmanager
    def forecast(self, name: str) -> Iterator[Forecast]:
        """Read a forecast inside; `KeyError` where it is not there."""
        if not NAME.fullmatch(name):
            raise KeyError(name)
        for pause in pauses():
            with self._lock:
                if (found := self._current(name)) is not None:
                    yield found
                    return
            sleep(pause)
        raise KeyError(name)

    def observed(self) -> Observed:
        """Return the newest frames; `KeyError` where there are none."""
        place = self.published.root / OBSERVED
        try:
            tag = version(os.stat(place / "zarr.json"))
        except OSError:
            raise KeyError("observed") from None
        with self._lock:
            if self._observed is None or self._observed.version != tag:
                self._observed = self._opened_frames(place, tag)
            return self._observed

    def _current(self, name: str) -> Forecast | None:
        """Return a forecast as it is now; None where it is not there."""
        path = self.published.root / FORECASTS / name / FORECAST
        try:
            known = self._open.get(name)
            if known is None or known.version != version(os.stat(path)):
                known = self._opened(name, path)
                self._close(name)
                self._open[name] = known
        except (FileNotFoundError, NotADirectoryError):
            return None
        self._open.move_to_end(name)
        while len(self._open) > _OPEN_AT_ONCE:
            self._close(next(iter(self._open)))
        return known

    def _close(self, name: str) -> None:
        if former := self._open.pop(name, None):
            former.ds.close()

    def _opened(self, name: str, path: Path) -> Forecast:
        with open(path, "rb") as file:
            # By what was opened and not by its name, so that the version is that of what is read.
            tag = version(os.fstat(file.fileno()))
            try:
                opened = netCDF4.Dataset(f"/proc/self/fd/{file.fileno()}", "r")
            except OSError as error:
                if not os.fstat(
                    file.fileno()
                ).st_nlink:  # removed meanwhile, and HDF5 looks for the name of what is open
                    raise FileNotFoundError(path) from error
                raise StorageError(str(path), "forecast.nc is no whole NetCDF file") from error
        # xarray reopens files by their names when it has many; this one it is given open, and closes.
        of_open: Any = xr.backends.NetCDF4DataStore
        ds = normalised(xr.open_dataset(of_open(opened), decode_timedelta=True, decode_coords="all", cache=False))
        variable = str(self.published.service().get("variable"))
        layers = layers_of(ds, variable)
        init = np.datetime64(ds[dims.INIT_TIME].values.ravel()[0], "s")
        found = Forecast(name, tag, ds, layers, self._grid(ds[layers[0].variable]), init)
        found.layers = [*(_with_scale(found, layer) for layer in layers), *found.quantiles(variable)]
        return found

    def _opened_frames(self, place: Path, tag: str) -> Observed:
        with quiet.warnings_ignored(UserWarning, "Consolidated metadata", threads="all"):
            ds = normalised(xr.open_zarr(place, chunks=None, decode_coords="all"))
        variable = str(self.published.service().get("variable"))
        data = ds[variable if variable in ds.data_vars else next(iter(ds.data_vars))]
        data = data.transpose(dims.find_dim(data, "time"), dims.find_dim(data, "y"), dims.find_dim(data, "x"))
        first = max(0, data.shape[0] - FRAMES)
        layer = replace(layers_of(data[:1].to_dataset().isel({data.dims[0]: 0}), variable)[0], title="Observed")
        frames = Observed("observed", tag, data[first:], [layer], self._grid(data), place, first, self._kept)
        if layer.scale is None:
            scale = range_scale(frames.frame(data.shape[0] - first - 1)[1])
            frames.layers = [replace(layer, scale=scale)]
        return frames

    def _grid(self, field: xr.DataArray) -> Grid:
        y, x = dims.find_dim(field, "y"), dims.find_dim(field, "x")
        mapping = [sorted(map(str, c.attrs.items())) for c in field.coords.values() if "grid_mapping_name" in c.attrs]
        key = (field[y].values.tobytes(), field[x].values.tobytes(), str(mapping))
        return self._grids.get(key, lambda: Grid(field))


def _with_scale(forecast: Forecast, layer: Layer) -> Layer:
    if layer.scale is not None:
        return layer
    return replace(layer, scale=range_scale(forecast.box(layer, slice(None), slice(None), slice(None))))
