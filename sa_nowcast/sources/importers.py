"""The formats of radar composites: what each file says about values, time and place, read here or by pysteps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing import quiet
from sa_nowcast.errors import DataError
from sa_nowcast.sources.bom import bom_time, read_bom
from sa_nowcast.sources.damage import reading
from sa_nowcast.sources.fmi import fmi_time, read_fmi
from sa_nowcast.sources.knmi import knmi_time, read_knmi
from sa_nowcast.sources.mch import mch_options
from sa_nowcast.sources.odim import odim_time, read_odim
from sa_nowcast.sources.optional import require
from sa_nowcast.sources.paths import time_from_name

Quantity = Literal["amount", "rate", "reflectivity"]
Fields = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Packing:
    """How a format packs its values: ``value = stored * scale + offset``, `fill` where missing."""

    dtype: str
    scale: float
    offset: float
    fill: int

    def encoding(self) -> dict[str, Any]:
        """Return the packing as xarray's encoding."""
        dtype = np.dtype(self.dtype)
        encoding: dict[str, Any] = {
            "dtype": dtype,
            "scale_factor": self.scale,
            "_FillValue": dtype.type(self.fill),
        }
        if self.offset:
            encoding["add_offset"] = self.offset
        return encoding

    def round_trip(self, values: Values) -> Values | None:
        """Return `values` as xarray unpacks them, so that packing them again is exact; None where they do not fit.

        pysteps divides where xarray multiplies, which differs in the last bit here and there.
        """
        missing = np.isnan(values)
        stored = np.rint((values - self.offset) / self.scale)
        limits = np.iinfo(self.dtype)
        # A thousandth of a step is far above float64's rounding and far below a step.
        off_grid = np.abs(stored * self.scale + self.offset - values) > 1e-3 * self.scale
        off_range = (stored < limits.min) | (stored > limits.max) | (stored == self.fill)
        if (~missing & (off_grid | off_range)).any():
            return None
        packed = np.where(missing, self.fill, stored).astype(self.dtype)
        attrs = {k: v for k, v in self.encoding().items() if k != "dtype"}
        decoded = xr.conventions.decode_cf_variable("packed", xr.Variable(("y", "x"), packed, attrs))
        return np.asarray(decoded.values, dtype=np.float64)


Reader = Callable[..., tuple[Values, dict[str, Any]]]


@dataclass(frozen=True)
class Importer:
    """A format of radar composites.

    Attributes
    ----------
    name : str
        The engine's name here.
    suffixes : tuple of str
        How the format's files end.
    time_pattern : str
        The time in a file's name, as strptime takes it.
    reader : callable, optional
        Reads a file by what it says itself; where there is none, pysteps' ``import_<name>`` does.
    time_in_file : callable, optional
        Reads the time from the file; preferred to the name.
    libraries : tuple of str
        What the format needs.
    arguments : callable, optional
        Gives pysteps' arguments for a file, from what the file says and what was asked for.
    dry_reflectivity : float, optional
        The reflectivity (dBZ) that stands for nothing seen, where the reader does not say.
    lock : context manager
        Held while a file is read, where the format's library takes one thread at a time.
    """

    name: str
    suffixes: tuple[str, ...]
    time_pattern: str
    reader: Reader | None = None
    time_in_file: Callable[[Path], np.datetime64] | None = None
    libraries: tuple[str, ...] = ()
    arguments: Callable[[Path, Mapping[str, Any]], Mapping[str, Any]] | None = None
    dry_reflectivity: float | None = None
    lock: AbstractContextManager[Any] = field(default_factory=nullcontext)

    def time(self, path: Path, pattern: str | None) -> np.datetime64:
        """Return the valid time of a file; `pattern` names it in the file's name in place of the format's own rule."""
        if pattern is not None:
            return time_from_name(path, pattern)
        if self.time_in_file is None:
            return time_from_name(path, self.time_pattern)
        with reading(path, self.name), self.lock:
            return self.time_in_file(path)

    def read(self, path: Path, options: Mapping[str, Any]) -> tuple[Values, dict[str, Any]]:
        """Read one file: values (row, column), NaN where missing, and metadata under pysteps' names.

        Beside these: ``dry_value``, the reflectivity where nothing was seen, and ``packing``, a `Packing` or None.
        """
        for library in self.libraries:
            require(library, "pysteps")
        with reading(path, self.name), self.lock:
            if self.reader is not None:
                values, metadata = self.reader(path, **options)
            else:
                values, metadata = self._by_pysteps(path, options)
        packing = metadata.get("packing")
        return values, {
            "accutime": None,
            "dry_value": self.dry_reflectivity,
            **metadata,
            "packing": None if packing is None else Packing(*packing),
        }

    def _by_pysteps(self, path: Path, options: Mapping[str, Any]) -> tuple[Values, dict[str, Any]]:
        function = getattr(require("pysteps.io.importers", "pysteps"), f"import_{self.name}")
        arguments = options if self.arguments is None else self.arguments(path, options)
        # A frame without a single value makes pysteps' nanmin warn.
        with quiet.pysteps_silent(), quiet.warnings_ignored(RuntimeWarning):
            values, _, metadata = function(str(path), **arguments)
        return np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan), dict(metadata)


def rain_rate(values: Values, metadata: Mapping[str, Any], dry: float | None) -> Fields:
    """Convert an amount or a reflectivity to the rain rate in mm h-1.

    Parameters
    ----------
    values : ndarray
        mm in `accutime` minutes, mm/h, or dBZ, as ``metadata["unit"]`` says.
    metadata : mapping
        pysteps' metadata; the coefficients of Z = a R^b are ``zr_a`` and ``zr_b`` (200 and 1.6, Marshall and Palmer
        1948, where the format gives none).
    dry : float or None
        The reflectivity that stands for no echo; it becomes exactly 0.
    """
    unit = metadata["unit"]
    if unit == "mm":
        return (values * (60.0 / float(metadata["accutime"]))).astype(np.float32)
    if unit == "dBZ":
        a, b = float(metadata.get("zr_a") or 200.0), float(metadata.get("zr_b") or 1.6)
        rate = (10.0 ** (values / 10.0) / a) ** (1.0 / b)
        return np.where(values <= (-np.inf if dry is None else dry), 0.0, rate).astype(np.float32)
    return values.astype(np.float32)


def _grib_time(path: Path) -> np.datetime64:
    with require("pygrib", "grib").open(str(path)) as messages:
        return np.datetime64(messages.readline().validDate, "ns")


def _grib_arguments(path: Path, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse a message that is no rate of precipitation, which pysteps would take for one."""
    with require("pygrib", "grib").open(str(path)) as messages:
        message = messages.readline()
        found = tuple(int(message[k]) for k in ("discipline", "parameterCategory", "parameterNumber"))
    if found not in _RATES:
        shown = " ".join(map(str, found))
        raise DataError(
            str(path),
            f"a message of another quantity (discipline, category, number {shown})",
            expected="a rate of precipitation (0 1 7, 0 1 52 or 209 6 1)",
            fix="open it with engine='cfgrib'",
        )
    return {"window_size": 1, **options}


# WMO FM 92 GRIB2, table 4.2: rain rate, total precipitation rate; and MRMS's own PrecipRate.
_RATES: Final = ((0, 1, 7), (0, 1, 52), (209, 6, 1))


IMPORTERS: Final[Mapping[str, Importer]] = {
    importer.name: importer
    for importer in (
        Importer("mch_gif", (".gif",), "%y%j%H%M", libraries=("PIL",), arguments=mch_options),
        Importer("fmi_pgm", (".pgm", ".pgm.gz"), "%Y%m%d%H%M", read_fmi, fmi_time, libraries=("pyproj",)),
        Importer("knmi_hdf5", (".h5", ".hdf5", ".hdf"), "%Y%m%d%H%M", read_knmi, knmi_time, libraries=("h5py",)),
        Importer("bom_rf3", (".nc",), "%Y%m%d_%H%M%S", read_bom, bom_time),
        Importer("odim_hdf5", (".h5", ".hdf", ".hdf5"), "%Y%m%d%H%M", read_odim, odim_time, libraries=("h5py",)),
        Importer(
            "mrms_grib", (".grib2", ".grib", ".grb2"), "%Y%m%d-%H%M%S", time_in_file=_grib_time, libraries=("pygrib",),
            arguments=_grib_arguments, lock=threading.Lock(),
        ),
    )
}  # fmt: skip
