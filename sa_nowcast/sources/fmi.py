"""Radar composites of FMI: PGM images of reflectivity codes, gzipped or not, with a header of comments.

The codes are ``dBZ = (code - 64) / 2`` (Finnish Meteorological Institute, open data); the header has no formula, so a
file of another quantity is refused. False easting, northing and the earth's radius are not in the header either.
"""

from __future__ import annotations

import gzip
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import DataError
from sa_nowcast.sources.projection import place
from sa_nowcast.sources.reading import require

REFLECTIVITY: Final = ("correctedreflectivity", "reflectivity", "dbz", "dbzh")
GAIN, OFFSET = 0.5, -32.0
_EARTH: Final = "+a=6371288 +x_0=380886.310 +y_0=3395677.920 +no_defs"
_MOST: Final = 2**28


def read_header(path: Path) -> tuple[dict[str, str], bytes, int]:
    """Return the header's comments, the whole file, and where its numbers begin."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as file:
        content = file.read(_MOST)
    if not content.startswith(b"P5"):
        raise DataError(str(path), "is no binary PGM image", expected="P5, as FMI writes")
    header: dict[str, str] = {}
    at = content.index(b"\n") + 1
    while content[at : at + 1] == b"#":
        end = content.index(b"\n", at)
        key, _, value = content[at + 1 : end].decode("latin-1").strip().partition(" ")
        header.setdefault(key.lower(), value.strip())
        at = end + 1
    return header, content, at


def is_fmi(path: Path) -> bool:
    """Say whether a PGM image has FMI's header."""
    try:
        header, _, _ = read_header(path)
    except (DataError, OSError, ValueError, EOFError):
        return False
    return {"obstime", "metersperpixel_x", "bottomleft", "topright"} <= set(header)


def fmi_time(path: Path) -> np.datetime64:
    """Return the header's ``obstime``."""
    header, _, _ = read_header(path)
    stamp = header.get("obstime", "")
    if not re.fullmatch(r"\d{12}(\d\d)?", stamp):
        raise DataError(str(path), f"obstime {stamp!r}", expected="one such as 201705091045", fix=_NAME)
    return np.datetime64(datetime.strptime(f"{stamp:0<14}", "%Y%m%d%H%M%S"), "ns")


_NAME: Final = "take the time from the names: time_pattern='%Y%m%d%H%M'"


def read_fmi(path: Path) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """Read an image, NaN where it is missing; metadata under pysteps' names."""
    pyproj = require("pyproj", "pysteps")
    header, content, at = read_header(path)
    match = re.match(rb"\s*(\d+)\s+(\d+)\s+(\d+)\s", content[at:])
    if match is None:
        raise DataError(str(path), "a header without width, height and largest code", expected="those of PGM")
    width, height, largest = (int(number) for number in match.groups())
    dtype = np.dtype("u1" if largest < 256 else ">u2")
    body = content[at + match.end() :]
    if len(body) < width * height * dtype.itemsize:
        raise DataError(str(path), "is cut short", expected=f"{width} x {height} pixels", fix="download it again")
    quantity = header.get("param", "")
    if largest != 255 or re.sub(r"[^a-z]", "", quantity.lower()) not in REFLECTIVITY:
        found = f"param {quantity or 'missing'} with codes up to {largest}"
        raise DataError(str(path), found, expected="CorrectedReflectivity with codes up to 255")
    raw = np.frombuffer(body, dtype, width * height).reshape(height, width)
    missing = {int(header[k].split()[0]) for k in ("missingval", "missing", "nodata") if header.get(k)} or {largest}
    values = raw.astype(np.float64) * GAIN + OFFSET
    values[np.isin(raw, list(missing))] = np.nan
    metadata = {
        **_place(pyproj, header, path),
        "unit": "dBZ",
        "institution": "Finnish Meteorological Institute",
        "zr_a": 223.0,
        "zr_b": 1.53,
        "dry_value": OFFSET,
        "packing": ("uint8", GAIN, OFFSET, max(missing)),
    }
    return values, metadata


def _place(pyproj: Any, header: dict[str, str], path: Path) -> dict[str, Any]:
    if header.get("type", "") != "stereographic":
        raise DataError(str(path), f"projection {header.get('type') or 'missing'}", expected="stereographic")
    lon_0, lat_0, lat_ts = (float(header[k]) for k in ("centrallongitude", "centrallatitude", "truelatitude"))
    definition = f"+proj=stere +lon_0={lon_0:g}E +lat_0={lat_0:g}N +lat_ts={lat_ts:g} {_EARTH}"
    project = pyproj.Proj(definition)
    x, y = zip(*(project(*map(float, header[corner].split())) for corner in ("bottomleft", "topright")), strict=True)
    pixel = (float(header["metersperpixel_x"]), float(header["metersperpixel_y"]))
    return place(definition, x, y, pixel, "m", upper=True)
