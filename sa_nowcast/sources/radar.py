"""Radar composites in the formats of national services, through pysteps' importers, as one CF Dataset."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources.importers import IMPORTERS, Fields, Importer, Values, rain_rate
from sa_nowcast.sources.names import nearest
from sa_nowcast.sources.odim import choose_quantity
from sa_nowcast.sources.paths import PathLike, expand, sort_by_time
from sa_nowcast.sources.projection import CRS_NAME, image_coords

Convert = Literal["nothing", "rain_rate"]

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
        raise RecipeError("engine", f"{engine!r} is not an importer", expected=nearest(engine, IMPORTERS))
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
        array.from_delayed(read(engine, path, options, expected, paths[0].name, packed, convert), first.shape, dtype)
        for path in paths
    ]
    unit = "mm/h" if convert else str(metadata["unit"])
    name, attrs = _VARIABLES[unit]
    coords = image_coords(
        metadata["projection"],
        first.shape,
        (metadata["x1"], metadata["x2"]),
        (metadata["y1"], metadata["y2"]),
        (metadata.get("xpixelsize"), metadata.get("ypixelsize")),
        metadata.get("cartesian_unit", "m"),
        metadata["yorigin"],
        str(paths[0]),
    )
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
        _, *known = inspect.signature(importer.reader).parameters
        for name in options:
            if name not in known:
                raise RecipeError("options", f"{name!r} is not known to engine {importer.name}", nearest(name, known))
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
    first: str,
    packed: bool,
    convert: bool,
) -> Fields | Values:
    importer = IMPORTERS[engine]
    values, metadata = importer.read(path, options)
    for key, found in _signature(values, metadata).items():
        if found != expected[key]:
            raise DataError(
                str(path),
                f"{key} {found}",
                expected=f"{expected[key]} as in {first}",
                fix="open the files of each grid on their own",
            )
    if convert:
        return rain_rate(values, metadata, metadata["dry_value"])
    if not packed:
        return values.astype(np.float32)
    # Of a file whose own packing is another one, the values are kept as they are.
    packing = metadata["packing"]
    repacked = None if packing is None else packing.round_trip(values)
    return values if repacked is None else repacked
