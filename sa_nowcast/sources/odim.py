"""ODIM_H5 composites and images (OPERA), by what the file itself says of values, time and place.

EUMETNET OPERA, "OPERA Data Information Model for HDF5", version 2.4: objects in table 2, quantities in table 17, places
in table 11. An attribute that a ``data`` group lacks is that of its ``dataset`` group, and then of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import DataError
from sa_nowcast.sources.projection import place
from sa_nowcast.sources.reading import reading, require

DRY_REFLECTIVITY: Final = -30.0
"""dBZ that stands for no echo; what a file's own code would be scaled to may be -327 dBZ, or above real echoes."""
_IMAGES: Final = ("COMP", "IMAGE", "CVOL")
_UNITS: Final = {"RATE": "mm/h", "ACRR": "mm"}
_REFLECTIVITIES: Final = ("DBZH", "DBZV", "TH", "TV", "DBZ")
_KNOWN: Final = (*_UNITS, *_REFLECTIVITIES)
_CORNERS: Final = ("LL", "UL", "LR", "UR")


def is_odim(file: Any) -> bool:
    """Say whether an open HDF5 file follows ODIM_H5."""
    if text(file.attrs.get("Conventions", "")).startswith("ODIM_H5"):
        return True
    return "what" in file and "object" in file["what"].attrs and "where" in file


def choose_quantity(path: Path, wanted: str | None) -> str:
    """Return which quantity of a file to read: the wanted one, or a rate, amount or reflectivity, in this order."""
    h5py = require("h5py", "pysteps")
    with reading(path, "odim_hdf5"), h5py.File(path, "r") as file:
        there = sorted({quantity for quantity, _ in _fields(file)})
    known = [q for q in _KNOWN if q in there]
    if wanted is None and known:
        return known[0]
    if wanted in known:
        assert wanted is not None
        return wanted
    found = f"the quantities {', '.join(there) or 'none'}" + (f", no {wanted}" if wanted else "")
    fix = f"name one of them, such as qty={known[0]!r}" if known else "give files of one of these quantities"
    raise DataError(str(path), found, expected=wanted if wanted in _KNOWN else ", ".join(_KNOWN), fix=fix)


def odim_time(path: Path) -> np.datetime64:
    """Nominal time of a file: ``what/date`` and ``what/time``."""
    with require("h5py", "pysteps").File(path, "r") as file:
        return _moment(file["what"].attrs, "")


def read_odim(path: Path, qty: str) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """Read one quantity of a composite or image: values (row, column), and metadata under pysteps' names.

    NaN is where there is no data. Where the radar saw nothing (undetect), a rate or amount is 0 and a reflectivity is
    `DRY_REFLECTIVITY`, which is ``dry_value`` of the metadata. Polar volumes and scans are refused.
    """
    h5py, pyproj = require("h5py", "pysteps"), require("pyproj", "pysteps")
    with h5py.File(path, "r") as file:
        kind = text(_attribute("object", file, default=""))
        if kind not in _IMAGES:
            raise DataError(
                str(path),
                f"an ODIM object {kind or 'without a kind'}, in the radar's own polar coordinates",
                expected=f"a field on a map ({' or '.join(_IMAGES)}), as wradlib and Py-ART make of scans",
            )
        found = [chain for quantity, chain in _fields(file) if quantity == qty]
        if not found:
            expected = "the same quantity in every file"
            raise DataError(str(path), f"no {qty}", expected=expected, fix="leave the file out")
        chain = found[0]
        raw = chain[0]["data"][...]
        gain, offset = (float(_attribute(k, *chain, default=d)) for k, d in (("gain", 1.0), ("offset", 0.0)))
        nodata, undetect = (_attribute(k, *chain, default=None) for k in ("nodata", "undetect"))
        metadata = {
            **_place(pyproj, chain, path),
            "unit": _UNITS.get(qty, "dBZ"),
            "institution": text(_attribute("source", *chain, default="unknown")),
            **{k: float(v) for k in ("zr_a", "zr_b") if (v := _attribute(k, *chain, default=None)) is not None},
        }
        if qty == "ACRR":
            metadata["accutime"] = _minutes(chain, path)
    missing = np.zeros(raw.shape, bool) if nodata is None else raw == np.asarray(nodata)
    dry = np.zeros(raw.shape, bool) if undetect is None else (raw == np.asarray(undetect)) & ~missing
    values = raw.astype(np.float64) * gain + offset
    if raw.dtype.kind == "f":
        missing |= ~np.isfinite(raw)
    if metadata["unit"] == "dBZ":
        metadata["dry_value"] = DRY_REFLECTIVITY
        values[dry] = DRY_REFLECTIVITY
    else:
        values[dry] = 0.0
    values[missing] = np.nan
    return values, metadata


def _fields(file: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield every field's quantity, with the groups that describe it, from the innermost."""
    for name in sorted((n for n in file if re.fullmatch(r"dataset\d+", n)), key=_number):
        dataset = file[name]
        for inner in sorted((n for n in dataset if re.fullmatch(r"data\d+", n)), key=_number):
            chain = (dataset[inner], dataset, file)
            quantity = text(_attribute("quantity", *chain, default=""))
            if quantity and "data" in dataset[inner]:
                yield quantity, chain


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))


def _attribute(key: str, *groups: Any, default: Any, within: tuple[str, ...] = ("what", "how", "where")) -> Any:
    for group in groups:
        for name in within:
            if name in group and key in group[name].attrs:
                value = group[name].attrs[key]
                return value if isinstance(value, str | bytes) else np.asarray(value).reshape(-1)[0]
    return default


def _moment(attrs: Any, prefix: str) -> np.datetime64:
    date, time = (text(attrs[f"{prefix}{key}"]) for key in ("date", "time"))
    return np.datetime64(datetime.strptime(f"{date}{time[:6]:0<6}", "%Y%m%d%H%M%S"), "ns")


def _minutes(chain: tuple[Any, ...], path: Path) -> float:
    """Return the minutes of an accumulation, from its own start and end."""
    for group in chain:
        if "what" in group and {"startdate", "starttime", "enddate", "endtime"} <= set(group["what"].attrs):
            attrs = group["what"].attrs
            span = float((_moment(attrs, "end") - _moment(attrs, "start")) / np.timedelta64(1, "s")) / 60
            if span > 0:
                return span
    raise DataError(
        str(path),
        "an amount (ACRR) without startdate, starttime, enddate and endtime",
        expected="the time in which it fell",
        fix="add them to the file's dataset1/what",
    )


def _place(pyproj: Any, chain: tuple[Any, ...], path: Path) -> dict[str, Any]:
    def where(key: str) -> Any:
        return _attribute(key, *chain, default=None, within=("where",))

    definition = where("projdef")
    # Corners are degrees and scales metres, whatever the projection counts in; PROJ has x_0 and y_0 in metres always.
    definition = None if definition is None else text(definition).replace("+units=km", "+units=m")
    lower = [where(f"{corner}_{axis}") for corner in ("LL", "UR") for axis in ("lon", "lat")]
    if definition is None or any(v is None for v in lower):
        raise DataError(
            str(path), "no projdef or no corners", expected="where/projdef, LL_lon, LL_lat, UR_lon and UR_lat"
        )
    try:
        crs = pyproj.CRS(definition)
    except pyproj.exceptions.CRSError as error:
        raise DataError(str(path), f"projdef {definition!r} is no projection") from error
    corners = {c: (where(f"{c}_lon"), where(f"{c}_lat")) for c in _CORNERS}
    known = [(float(lon), float(lat)) for lon, lat in corners.values() if lon is not None and lat is not None]
    unit, points = "degrees", known
    if not crs.is_geographic:
        project = pyproj.Proj(crs)
        unit, points = "m", [project(*corner) for corner in known]
    x, y = ([float(point[i]) for point in points] for i in (0, 1))
    pixel = [None if scale is None else float(scale) for scale in (where("xscale"), where("yscale"))]
    return place(definition, x, y, pixel, unit, upper=True)


def text(value: Any) -> str:
    """Return an attribute of HDF5 as text: bytes, str, or an array of one of them."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    return value.decode("utf-8", "replace").rstrip("\x00") if isinstance(value, bytes) else str(value)
