"""A Zarr store that grows in time while others read it, one entry at a time, each of them whole or not there.

Times are regular, from the first one on: entry i is ``first + i * step``. What was not written reads as missing, so an
entry may come late, and a former one may be removed. One chunk of a variable is one entry: Zarr writes a chunk beside
its name and renames it, so a reader has all of it or none. The size is in the consolidated metadata, one file, which is
rewritten last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from sa_nowcast.computing import quiet
from sa_nowcast.errors import StorageError
from sa_nowcast.storage.manifest import METADATA
from sa_nowcast.storage.whole import partial_beside, storage, write_whole

IDENTITY: Final = "sa_nowcast_slots"
STATUS: Final = "history_status"
ABSENT: Final = -1
_TIMES_AT_ONCE: Final = 4096  # of one chunk of the coordinate: its values are known before they are needed
Field = npt.NDArray[Any]


class SlotStore:
    """A store that grows along one time dimension.

    Parameters
    ----------
    place : Path
        The store; made by `create` where it is not there.
    dim : str
        The dimension of time.
    step : timedelta64
        From one entry to the next.
    """

    def __init__(self, place: Path, dim: str, step: np.timedelta64) -> None:
        self.place, self.dim, self.step = place, dim, step.astype("timedelta64[ns]")
        self._first: np.datetime64 | None = None
        self._size = 0
        self._ranks: dict[str, int] = {}
        if place.is_dir():
            group = zarr.open_group(place, mode="r")
            known = json.loads(str(group.attrs[IDENTITY]))
            sizes: Any = group[dim]  # by the consolidated metadata, which are written last
            self._first, self._size = np.datetime64(known["first"], "ns"), int(sizes.shape[0])

    @property
    def size(self) -> int:
        """How many entries there are, those that were not written among them."""
        return self._size

    @property
    def exists(self) -> bool:
        """Whether it was made."""
        return self._first is not None

    def create(self, first: np.datetime64, template: xr.Dataset, identity: Mapping[str, Any]) -> None:
        """Make the store, with no entry: variables of `template` whose first dimension is `dim` will grow.

        Parameters
        ----------
        first : datetime64
            The first time.
        template : Dataset
            Of any size along `dim`; its other values are written as they are.
        identity : mapping
            Who it belongs to, as JSON.
        """
        growing = [str(n) for n, v in template.data_vars.items() if v.dims[:1] == (self.dim,)]
        ds = template.isel({self.dim: slice(0, 0)})
        attrs = dict(ds[self.dim].attrs)
        encoding: dict[str, Any] = {"units": "nanoseconds since 1970-01-01", "dtype": "int64"}
        if not any(int(t.astype(np.int64)) % 10**9 for t in (self.step, first.astype("M8[ns]"))):
            encoding["units"] = "seconds since 1970-01-01"
        encoding |= {"calendar": "proleptic_gregorian", "chunks": (_TIMES_AT_ONCE,), "_FillValue": None}
        ds = ds.assign_coords({self.dim: (self.dim, np.empty(0, "M8[ns]"), attrs)})
        ds[self.dim].encoding = encoding
        for name in growing:
            variable = ds[name]
            fill: Any = np.float32(np.nan) if variable.dtype.kind == "f" else variable.dtype.type(ABSENT)
            variable.encoding = {
                **{k: v for k, v in variable.encoding.items() if k == "grid_mapping"},
                "chunks": (1, *variable.shape[1:]),
                "fill_value": fill,
                "compressors": (ZstdCodec(level=1, checksum=True),),
            }
            if variable.dtype.kind == "f":
                variable.encoding["_FillValue"] = fill
        text_names = [n for n, c in ds.variables.items() if c.dtype.kind == "U"]
        ds = ds.assign({n: ds[n].astype(object) for n in text_names if n in ds.data_vars})
        ds = ds.assign_coords({n: ds[n].astype(object) for n in text_names if n in ds.coords})
        moment = first.astype("M8[ns]")
        ds.attrs = {**template.attrs, IDENTITY: json.dumps({**identity, "first": str(moment)}, sort_keys=True)}
        with storage(self.place), partial_beside(self.place) as partial:
            with quiet.warnings_ignored(UserWarning, "Consolidated metadata", threads="all"):
                ds.to_zarr(partial, zarr_format=3, consolidated=True)
            os.rename(partial, self.place)
        self._first, self._size = moment, 0

    def owner(self) -> Mapping[str, Any]:
        """Return who it belongs to."""
        known: Mapping[str, Any] = json.loads(str(zarr.open_group(self.place, mode="r").attrs[IDENTITY]))
        return known

    def position(self, time: np.datetime64) -> int:
        """Return the entry of a time, below 0 for one before the first."""
        assert self._first is not None
        return round(int((time.astype("M8[ns]") - self._first).astype(np.int64)) / int(self.step.astype(np.int64)))

    def time(self, position: int) -> np.datetime64:
        """Return the time of an entry."""
        assert self._first is not None
        return np.datetime64(self._first + position * self.step)

    def put(self, time: np.datetime64, values: Mapping[str, Field]) -> None:
        """Write an entry; the last variable of `values` is written last."""
        place = self.position(time)
        if place < 0:
            raise StorageError(str(self.place), f"{time} is before its first time {self.time(0)}")
        with storage(self.place):
            if place >= self._size:
                self._grow(place + 1)
            for name, value in values.items():
                array = zarr.open_array(self.place, path=name, mode="r+", config={"write_empty_chunks": True})
                array[place] = value

    def get(self, time: np.datetime64, name: str) -> Field | None:
        """Return a variable's entry; None where it was not written."""
        place = self.position(time)
        if not 0 <= place < self._size or not self._chunk(name, place).is_file():
            return None
        return np.asarray(zarr.open_array(self.place, path=name, mode="r")[place])

    def has(self, time: np.datetime64, name: str) -> bool:
        """Say whether an entry was written."""
        place = self.position(time)
        return 0 <= place < self._size and self._chunk(name, place).is_file()

    def written(self, name: str) -> list[np.datetime64]:
        """Return the times of the entries of a variable, ascending."""
        folder = self.place / name / "c"
        found = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
        return [self.time(i) for i in found if i < self._size]

    def remove(self, time: np.datetime64, names: tuple[str, ...]) -> None:
        """Remove an entry, the first of `names` first; it reads as missing then."""
        place = self.position(time)
        with storage(self.place):
            for name in names:
                self._chunk(name, place).unlink(missing_ok=True)

    def _chunk(self, name: str, place: int) -> Path:
        if name not in self._ranks:
            self._ranks[name] = len(json.loads((self.place / name / METADATA).read_text())["shape"])
        return self.place.joinpath(name, "c", str(place), *("0" for _ in range(1, self._ranks[name])))

    def _grow(self, size: int) -> None:
        """Make room up to `size` entries: times that are known first, metadata of arrays, and the consolidated last."""
        assert self._first is not None
        root = json.loads((self.place / METADATA).read_text())
        known = root["consolidated_metadata"]["metadata"]
        ahead = -(-size // _TIMES_AT_ONCE) * _TIMES_AT_ONCE
        begun = self._size // _TIMES_AT_ONCE * _TIMES_AT_ONCE if self._size else 0
        if self._size == 0 or -(-self._size // _TIMES_AT_ONCE) * _TIMES_AT_ONCE < ahead:
            self._resize(known, self.dim, ahead)
            times = (self._first + np.arange(begun, ahead) * self.step).astype(np.int64)
            unit = 1 if str(known[self.dim]["attributes"]["units"]).startswith("nano") else 10**9
            zarr.open_array(self.place, path=self.dim, mode="r+")[begun:ahead] = times // unit
        for name, entry in known.items():
            if entry["node_type"] == "array" and (entry.get("dimension_names") or [None])[0] == self.dim:
                self._resize(known, name, size)
        write_whole(self.place / METADATA, json.dumps(root))
        self._size = size

    def _resize(self, known: dict[str, Any], name: str, size: int) -> None:
        file = self.place / name / METADATA
        own = json.loads(file.read_text())
        own["shape"][0] = known[name]["shape"][0] = size
        write_whole(file, json.dumps(own))
