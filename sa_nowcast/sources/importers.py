"""The radar composites that pysteps reads, and what each format says about time, packing and the dry value."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from sa_nowcast import quiet
from sa_nowcast.sources.damage import reading
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


@dataclass(frozen=True)
class Importer:
    """One of pysteps' importers.

    Attributes
    ----------
    name : str
        The engine's name here; pysteps' function is ``import_<name>``.
    suffixes : tuple of str
        How the format's files end.
    time_pattern : str
        The time in a file's name, as strptime takes it.
    time_in_file : callable, optional
        Reads the time from the file; preferred to the name.
    libraries : tuple of str
        What pysteps itself needs for the format.
    options : mapping
        Arguments that pysteps needs and the format fixes.
    packing : mapping of str to Packing
        By pysteps' unit: how the format packs its values, where they can be packed again without loss.
    dry_reflectivity : float, optional
        The reflectivity (dBZ) that the importer gives where the radar saw nothing.
    lock : context manager
        Held while a file is read, where the format's library takes one thread at a time.
    """

    name: str
    suffixes: tuple[str, ...]
    time_pattern: str
    time_in_file: Callable[[Path], np.datetime64] | None = None
    libraries: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    packing: Mapping[str, Packing] = field(default_factory=dict)
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
        """Read one file: values (row, column), NaN where missing, and pysteps' metadata."""
        for library in self.libraries:
            require(library, "pysteps")
        function = getattr(require("pysteps.io.importers", "pysteps"), f"import_{self.name}")
        with reading(path, self.name), self.lock, quiet.pysteps_silent(), quiet.warnings_ignored(RuntimeWarning):
            # A frame without a single value makes pysteps' nanmin warn.
            values, _, metadata = function(str(path), **{**self.options, **options})
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


def _knmi_time(path: Path) -> np.datetime64:
    with require("h5py", "pysteps").File(path, "r") as file:
        stamp = file["overview"].attrs["product_datetime_end"]
    text = bytes(np.atleast_1d(stamp)[0]).decode().partition(".")[0]
    return np.datetime64(datetime.strptime(text.title(), "%d-%b-%Y;%H:%M:%S"), "ns")


def _bom_time(path: Path) -> np.datetime64:
    with require("netCDF4", "pysteps").Dataset(path) as file:
        variable = file.variables["valid_time"]
        unit, _, epoch = str(variable.units).partition(" since ")
        # The units end in " UTC", which numpy's dates do not take.
        start = np.datetime64(epoch.replace(" UTC", "").replace(" ", "T"), "ns")
        count, code = int(variable[...]), {"seconds": "s", "minutes": "m", "hours": "h"}[unit]
        return start + np.timedelta64(count, code)  # type: ignore[call-overload,no-any-return]


def _odim_time(path: Path) -> np.datetime64:
    """Nominal time of an ODIM_H5 file: what/date and what/time (OPERA data information model, table 1)."""
    with require("h5py", "pysteps").File(path, "r") as file:
        date, time = (_text(file["what"].attrs[key]) for key in ("date", "time"))
    return np.datetime64(datetime.strptime(f"{date}{time[:6]}", "%Y%m%d%H%M%S"), "ns")


def _grib_time(path: Path) -> np.datetime64:
    with require("pygrib", "grib").open(str(path)) as messages:
        return np.datetime64(messages.readline().validDate, "ns")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def odim_quantities(path: Path) -> list[str]:
    """Return the quantities (``RATE``, ``ACRR``, ``DBZH``, ...) that an ODIM_H5 file holds."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if re.fullmatch(r"dataset\d+/(data\d+/)?what", name) and "quantity" in item.attrs:
            found.append(_text(item.attrs["quantity"]))

    h5py = require("h5py", "pysteps")
    with reading(path, "odim_hdf5"), h5py.File(path, "r") as file:
        file.visititems(visit)
    return sorted(set(found))


IMPORTERS: Final[Mapping[str, Importer]] = {
    importer.name: importer
    for importer in (
        Importer(
            "mch_gif", (".gif",), "%y%j%H%M", libraries=("PIL",),
            options={"product": "AQC", "unit": "mm", "accutime": 5.0},
        ),
        Importer(
            "fmi_pgm", (".pgm", ".pgm.gz"), "%Y%m%d%H%M", libraries=("PIL", "pyproj"),
            packing={"dBZ": Packing("uint8", 0.5, -32.0, 255)}, dry_reflectivity=-32.0,
        ),
        Importer(
            "knmi_hdf5", (".h5", ".hdf5"), "%Y%m%d%H%M", time_in_file=_knmi_time, libraries=("h5py",),
            packing={"mm": Packing("uint16", 0.01, 0.0, 65535), "dBZ": Packing("uint8", 0.5, -32.0, 255)},
            dry_reflectivity=-32.0,
        ),
        Importer(
            "bom_rf3", (".nc",), "%Y%m%d_%H%M%S", time_in_file=_bom_time, libraries=("netCDF4",),
            lock=NETCDF4_PYTHON_LOCK,
            packing={"mm": Packing("int16", 0.05, 0.0, -1)},
        ),
        Importer(
            "odim_hdf5", (".h5", ".hdf", ".hdf5"), "%Y%m%d%H%M", time_in_file=_odim_time, libraries=("h5py",),
            dry_reflectivity=-30.0,
        ),
        Importer(
            "mrms_grib", (".grib2", ".grib", ".grb2"), "%Y%m%d-%H%M%S", time_in_file=_grib_time, libraries=("pygrib",),
            options={"window_size": 1}, lock=threading.Lock(),
        ),
    )
}  # fmt: skip
