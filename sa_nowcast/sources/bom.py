"""Rainfields composites of the Bureau of Meteorology in CF netCDF: units, packing, times and place from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.metadata import dims
from sa_nowcast.sources.projection import place
from sa_nowcast.sources.reading import require

_NAMES: Final = ("precipitation", "rain_amount", "rain_rate", "rainfall_rate", "rainfall", "reflectivity")
_UNITS: Final = {"mm": "mm", "kg m-2": "mm", "mm h-1": "mm/h", "kg m-2 h-1": "mm/h", "dBZ": "dBZ"}
_LENGTHS: Final = {"m": "m", "km": "km"}


def bom_time(path: Path) -> np.datetime64:
    """Return ``valid_time``, the end of an accumulation."""
    with xr.open_dataset(path, engine="netcdf4") as ds:
        return np.datetime64(ds["valid_time"].values.reshape(-1)[0], "ns")


def read_bom(path: Path) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """Read the field, NaN where it is missing; metadata under pysteps' names."""
    pyproj = require("pyproj", "pysteps")
    with xr.open_dataset(path, engine="netcdf4") as ds:
        names = [n for n in _NAMES if n in ds] or [str(n) for n, v in ds.data_vars.items() if v.dims[-2:] == ("y", "x")]
        if not names:
            raise DataError(str(path), f"no field (variables: {', '.join(map(str, ds))})", expected=_NAMES[0])
        field = ds[names[0]].squeeze(drop=True)
        units = field.attrs.get("units")
        unit = _UNITS.get(dims.canonical_units(None if units is None else str(units)) or "")
        if unit is None:
            raise DataError(
                str(path),
                f"{names[0]} in {units or 'no units'}",
                expected="kg m-2, mm, mm h-1 or dBZ",
                fix="open it with engine='netcdf4', which keeps units as they are",
            )
        values = np.asarray(field.transpose("y", "x").values, dtype=np.float64)
        encoding = field.encoding
        metadata: dict[str, Any] = {"unit": unit, "institution": str(ds.attrs.get("institution", "unknown"))}
        if {"dtype", "scale_factor", "_FillValue"} <= set(encoding) and np.dtype(encoding["dtype"]).kind in "iu":
            scale, offset = (float(encoding.get(k, d)) for k, d in (("scale_factor", 1), ("add_offset", 0)))
            metadata["packing"] = (np.dtype(encoding["dtype"]).name, scale, offset, int(encoding["_FillValue"]))
        if unit == "mm":
            metadata["accutime"] = _minutes(ds, path)
        metadata |= _place(pyproj, ds, field, path)
    return values, metadata


def _minutes(ds: xr.Dataset, path: Path) -> float:
    if not {"start_time", "valid_time"} <= set(ds.variables):
        raise DataError(str(path), "no start_time or valid_time", expected="when the amount began and ended")
    begin, end = (ds[name].values.reshape(-1)[0] for name in ("start_time", "valid_time"))
    minutes = float((end - begin) / np.timedelta64(1, "s")) / 60
    if not minutes > 0:
        raise DataError(str(path), f"accumulates {minutes:g} minutes", expected="a start_time before valid_time")
    return minutes


def _place(pyproj: Any, ds: xr.Dataset, field: xr.DataArray, path: Path) -> dict[str, Any]:
    name = field.attrs.get("grid_mapping", field.encoding.get("grid_mapping", "proj"))
    if name not in ds.variables:
        raise DataError(str(path), f"no grid mapping {name}", expected="one, CF section 5.6")
    try:
        crs = pyproj.CRS.from_cf(dict(ds[name].attrs))
    except (KeyError, ValueError, pyproj.exceptions.CRSError) as error:
        raise DataError(str(path), f"the grid mapping {name} is no projection ({error})") from error
    units = {str(ds[axis].attrs.get("units", "m")) for axis in ("y", "x")}
    unit = _LENGTHS.get(dims.canonical_units(units.pop()) or "") if len(units) == 1 else None
    if unit is None:
        raise DataError(str(path), "x and y in other units than m or km", expected="m or km")
    scale = 1000.0 if unit == "km" else 1.0
    x, y = (ds[axis].values.astype(np.float64) * scale for axis in ("x", "y"))
    pixel = [abs(float(v[-1] - v[0])) / (len(v) - 1) for v in (x, y)]
    return place(crs.to_wkt(), x, y, pixel, "m", upper=bool(y[0] > y[-1]))
