"""Radar composites of KNMI in HDF5, by what the file itself says of values, time and place.

KNMI, "HDF5 data format specification", version 3.5 (KNMI publication TR-259).
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources.odim import text
from sa_nowcast.sources.projection import place
from sa_nowcast.sources.reading import require

UNITS: Final = {"ACRR": "mm", "DBZH": "dBZ", "RATE": "mm/h"}
_NUMBER: Final = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORMULA: Final = re.compile(rf"GEO=(?:(?P<gain>{_NUMBER})\*)?PV(?:/(?P<divisor>{_NUMBER}))?(?P<offset>[-+]{_NUMBER})?")
_PIXELS: Final = {"KM": "km", "M": "m", "DEG": "degrees"}


def is_knmi(file: Any) -> bool:
    """Say whether an open HDF5 file is one of KNMI's images."""
    return all(name in file for name in ("overview", "geographic", "image1"))


def knmi_time(path: Path) -> np.datetime64:
    """Return the end of the time that a file is about."""
    with require("h5py", "pysteps").File(path, "r") as file:
        return _moment(file["overview"].attrs["product_datetime_end"])


def read_knmi(
    path: Path, qty: str | None = None, accutime: float | None = None, image: int = 1, undetect: int | None = None
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """Read an image: its formula, its missing values and its times are those of the file.

    Parameters
    ----------
    path : Path
    qty : {"ACRR", "DBZH", "RATE"}, optional
        Amount (mm), reflectivity (dBZ) or rate (mm/h); by default what the file says (``image_geo_parameter``), else
        its name, else an amount.
    accutime : float, optional
        Minutes of an amount, for files that do not say when it began.
    image : int
        Which of the file's images.
    undetect : int, optional
        A code that means no echo, where the file calls it missing: some reflectivities have 0 for both.

    Raises
    ------
    DataError
        A formula that is not linear, no such image, or a quantity that the file says it is not.
    """
    h5py = require("h5py", "pysteps")
    if qty is not None and qty not in UNITS:
        raise RecipeError("qty", f"{qty!r}", expected=f"one of {', '.join(UNITS)}")
    with h5py.File(path, "r") as file:
        name = f"image{image}"
        if name not in file:
            raise DataError(str(path), f"no {name}", expected="an image", fix="leave image out")
        group, overview = file[name], file["overview"].attrs
        raw = group["image_data"][...]
        calibration = group["calibration"].attrs if "calibration" in group else {}
        gain, offset = _formula(path, calibration)
        outside = _codes(calibration)
        stated = _stated(text(group.attrs.get("image_geo_parameter", "")))
        if qty is not None and stated is not None and qty != stated:
            raise DataError(str(path), f"holds {stated}", expected=qty, fix=f"leave qty out, or name qty={stated!r}")
        quantity = qty or stated or "ACRR"
        metadata = {**_place(file["geographic"]), "unit": UNITS[quantity], "zr_a": 200.0, "zr_b": 1.6}
        metadata["institution"] = "KNMI - Royal Netherlands Meteorological Institute"
        if quantity == "ACRR":
            metadata["accutime"] = _minutes(path, overview, accutime)
    values = raw.astype(np.float64) * gain + offset
    values[np.isin(raw, [code for code in outside if code != undetect])] = np.nan
    if quantity == "DBZH":
        metadata["dry_value"] = offset + gain * (undetect or 0)  # the lowest code means no echo
    if raw.dtype.kind in "iu" and outside:
        metadata["packing"] = (raw.dtype.name, gain, offset, int(outside[0]))
    return values, metadata


def _formula(path: Path, calibration: Any) -> tuple[float, float]:
    """Return a and b of ``GEO = a * PV + b``."""
    formula = text(calibration.get("calibration_formulas", ""))
    compact = re.sub(r"\s+", "", formula).upper().replace("+-", "-").replace("(", "").replace(")", "")
    match = _FORMULA.fullmatch(compact)
    if match is None:
        raise DataError(
            str(path),
            f"the formula {formula!r}" if formula else "no calibration_formulas",
            expected="one such as 'GEO = 0.01 * PV + 0.0'",
        )
    gain = float(match["gain"] or 1.0) / float(match["divisor"] or 1.0)
    return gain, float(match["offset"] or 0.0)


def _codes(calibration: Any) -> list[int]:
    """Return the codes without a value: missing, and out of the image."""
    found = [calibration.get(f"calibration_{key}") for key in ("out_of_image", "missing_data")]
    return list(dict.fromkeys(int(np.asarray(v).reshape(-1)[0]) for v in found if v is not None))


def _stated(parameter: str) -> str | None:
    """Return the quantity of ``image_geo_parameter``, such as ``ACCUMULATED_PRECIPITATION_[MM]``."""
    name = parameter.upper()
    if "REFLECTIVITY" in name or "DBZ" in name:
        return "DBZH"
    if "MM/H" in name or "RATE" in name or "INTENSITY" in name:
        return "RATE"
    if "PRECIP" in name or "[MM]" in name or "RAIN" in name:
        return "ACRR"
    return None


def _moment(stamp: Any) -> np.datetime64:
    return np.datetime64(datetime.strptime(text(stamp).partition(".")[0].title(), "%d-%b-%Y;%H:%M:%S"), "ns")


def _minutes(path: Path, overview: Any, told: float | None) -> float:
    span = 0.0
    if "product_datetime_start" in overview:
        begin, end = (_moment(overview[f"product_datetime_{k}"]) for k in ("start", "end"))
        span = float((end - begin) / np.timedelta64(1, "s")) / 60
    if span <= 0 and told is None:
        found = "does not say when its accumulation began"
        raise DataError(str(path), found, expected="minutes", fix="give accutime=5")
    if span > 0 and told is not None and abs(span - told) > 1e-6 * told:
        raise DataError(str(path), f"accumulates {span:g} minutes", expected=f"{told:g}", fix="leave accutime out")
    return span if span > 0 else float(told or 0.0)


def _place(geographic: Any) -> dict[str, Any]:
    def number(name: str) -> float:
        return float(np.asarray(geographic.attrs[name]).reshape(-1)[0])

    projection = text(geographic["map_projection"].attrs["projection_proj4_params"])
    # Files of some years lack this plus sign; what follows is not read then.
    projection = re.sub(r" (?=[xy]_0=)", " +", projection).replace("++", "+")
    width, height = number("geo_pixel_size_x"), number("geo_pixel_size_y")
    left, top = number("geo_column_offset") * width, number("geo_row_offset") * height
    x = (left, left + number("geo_number_columns") * width)
    y = (top, top + number("geo_number_rows") * height)
    unit = _PIXELS.get(text(geographic.attrs.get("geo_dim_pixel", "KM")).split(",")[0].strip(), "km")
    return place(projection, x, y, (abs(width), abs(height)), unit, upper=height < 0)
