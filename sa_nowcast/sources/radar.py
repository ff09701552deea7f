"""Radar composites in the formats of national services, read here or by pysteps, as one CF Dataset."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.computing import quiet
from sa_nowcast.errors import DataError, RecipeError, one_of
from sa_nowcast.sources.bom import bom_time, read_bom
from sa_nowcast.sources.fmi import fmi_time, read_fmi
from sa_nowcast.sources.knmi import knmi_time, read_knmi
from sa_nowcast.sources.mch import mch_options
from sa_nowcast.sources.odim import choose_quantity, odim_time, read_odim
from sa_nowcast.sources.paths import PathLike, differs, expand, sort_by_time, time_from_name
from sa_nowcast.sources.projection import CRS_NAME, image_coords
from sa_nowcast.sources.reading import reading, require, require_known

Convert = Literal["nothing", "rain_rate"]
Fields = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

# By pysteps' unit: the variable's name and its CF attributes. 1 mm of water is 1 kg m-2, the units that CF has for it.
_VARIABLES: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "mm": (
        "precipitation_amount",
        {"standard_name": "precipitation_amount", "long_name": "precipitation amount", "units": "kg m-2",
         "cell_methods": "time: sum"},
    ),
    "mm/h": (
        "rainfall_rate",
        {"standard_name": "rainfall_rate", "long_name": "rain rate", "units": "mm h-1"},
    ),
    "dBZ": (
        "equivalent_reflectivity_factor",
        {"standard_name": "equivalent_reflectivity_factor", "long_name": "radar reflectivity", "units": "dBZ"},
    ),
}  # fmt: skip


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
        encoding: dict[str, Any] = {"dtype": dtype, "scale_factor": self.scale, "_FillValue": dtype.type(self.fill)}
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
    """A format of radar composites, by the engine's name and the endings of its files.

    Attributes
    ----------
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
        Entered while a file is read, where the format's library takes one thread at a time.
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
    """Convert an amount (mm in ``accutime`` minutes) or a reflectivity (dBZ) to the rain rate in mm h-1.

    The coefficients of Z = a R^b are ``zr_a`` and ``zr_b`` of the metadata: 200 and 1.6 (Marshall and Palmer 1948)
    where the format gives none. The reflectivity `dry`, which stands for no echo, becomes exactly 0.
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
        Importer("bom_rf3", (".nc",), "%Y%m%d_%H%M%S", read_bom, bom_time, lock=threading.Lock()),
        Importer("odim_hdf5", (".h5", ".hdf", ".hdf5"), "%Y%m%d%H%M", read_odim, odim_time, libraries=("h5py",)),
        Importer(
            "mrms_grib", (".grib2", ".grib", ".grb2"), "%Y%m%d-%H%M%S", time_in_file=_grib_time, libraries=("pygrib",),
            arguments=_grib_arguments, lock=threading.Lock(),
        ),
    )
}  # fmt: skip


def open_radar(
    source: PathLike | Iterable[PathLike],
    engine: str,
    *,
    to: Convert = "nothing",
    time_pattern: str | None = None,
    **options: Any,
) -> xr.Dataset:
    """Open radar composites, one file a frame, as one lazy Dataset.

    Parameters
    ----------
    source : path or iterable of paths
        Files, folders or patterns.
    engine : str
        One of pysteps' importers: ``mch_gif``, ``fmi_pgm``, ``knmi_hdf5``, ``bom_rf3``, ``odim_hdf5``, ``mrms_grib``.
    to : {"nothing", "rain_rate"}
        Keep the format's quantity, or convert an amount or reflectivity to the rain rate in mm h-1.
    time_pattern : str, optional
        The time in the files' names, as ``datetime.strptime`` takes it, in place of the format's own rule.
    **options
        Passed to pysteps' importer (``product="RZC"``, ``accutime=60``, ``qty="DBZH"``, ``extent=...``).

    Returns
    -------
    Dataset
        One variable (time, y, x) or (time, latitude, longitude), read when it is used: float32, or float64 with its
        packing in ``encoding`` where the format packs. NaN is where the radar does not see (nodata). Where it sees
        nothing (undetect) an amount or rate is 0 and a reflectivity is the attribute ``dry_value``. Coordinates:
        ``time`` (the end of an accumulation), y and x in metres with ``latitude`` and ``longitude``, and the grid
        mapping ``crs``.

    Raises
    ------
    RecipeError
        An unknown engine.
    DataError
        No files, two files with one time, or a file that cannot be read; while reading, a file whose size, grid or
        units differ from the first one's.
    """
    import dask.array
    from dask.delayed import delayed

    array: Any = dask.array  # untyped

    if engine not in IMPORTERS:
        raise RecipeError("engine", f"{engine!r} is not an importer", expected=one_of(engine, IMPORTERS))
    if to not in get_args(Convert):
        raise RecipeError("to", repr(to), expected=" or ".join(map(repr, get_args(Convert))))
    importer = IMPORTERS[engine]
    paths = expand(source, importer.suffixes)
    options = _options(importer, paths[0], options)
    times = [importer.time(path, time_pattern) for path in paths]
    order = sort_by_time(paths, times)
    paths = [paths[i] for i in order]

    first, metadata = importer.read(paths[0], options)
    expected = _signature(first, metadata)
    convert = to == "rain_rate"
    read = delayed(_frame, pure=True)
    packing = None if convert else metadata["packing"]
    packed = packing is not None and packing.round_trip(first) is not None
    dtype = np.float64 if packed else np.float32
    # The importer goes to workers by name: its functions need not be pickled then.
    frames = [
        array.from_delayed(read(engine, path, options, expected, paths[0], packed, convert), first.shape, dtype)
        for path in paths
    ]
    unit = "mm/h" if convert else str(metadata["unit"])
    name, attrs = _VARIABLES[unit]
    coords = image_coords(metadata, first.shape, str(paths[0]))
    dims = ("latitude", "longitude") if "y" not in coords else ("y", "x")
    attrs = {**attrs, "grid_mapping": CRS_NAME}
    if unit == "dBZ" and metadata["dry_value"] is not None:
        attrs["dry_value"] = np.float32(metadata["dry_value"])
    if unit == "mm":
        attrs["accumulation_minutes"] = float(metadata["accutime"])
    variable = xr.Variable(("time", *dims), array.stack(frames), attrs)
    if packing is not None and packed:
        variable.encoding.update(packing.encoding())
    time = xr.Variable(
        "time",
        np.array([times[i] for i in order], dtype="datetime64[ns]"),
        {"standard_name": "time", "long_name": "time", "axis": "T"},
    )
    return xr.Dataset(
        {name: variable},
        {"time": time, **coords},
        {
            "Conventions": "CF-1.11",
            "institution": str(metadata.get("institution", "unknown")),
            "source": f"{engine} files",
        },
    )


def _options(importer: Importer, path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options, and fill in what a file says itself: which quantity it holds."""
    if importer.reader is not None:
        require_known(options, importer.reader, importer.name)
    if importer.name == "odim_hdf5":
        return {**options, "qty": choose_quantity(path, options.get("qty"))}
    return dict(options)


def _signature(values: Values, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return what all files of a sequence must share, as the error prints it."""
    place = ", ".join(f"{key}={float(metadata[key]):.6g}" for key in ("x1", "x2", "y1", "y2"))
    return {
        "size": f"{values.shape[0]} x {values.shape[1]}",
        "units": str(metadata["unit"]),
        "projection": str(metadata["projection"]),
        "corners": place,
        "accumulation": "none" if metadata["unit"] != "mm" else f"{float(metadata['accutime']):g} minutes",
    }


def _frame(
    engine: str,
    path: Path,
    options: Mapping[str, Any],
    expected: Mapping[str, str],
    first: Path,
    packed: bool,
    convert: bool,
) -> Fields | Values:
    importer = IMPORTERS[engine]
    values, metadata = importer.read(path, options)
    for key, found in _signature(values, metadata).items():
        if found != expected[key]:
            raise differs(path, f"{key} {found}", expected[key], first)
    if convert:
        return rain_rate(values, metadata, metadata["dry_value"])
    if not packed:
        return values.astype(np.float32)
    # Of a file whose own packing is another one, the values are kept as they are.
    packing = metadata["packing"]
    repacked = None if packing is None else packing.round_trip(values)
    return values if repacked is None else repacked
