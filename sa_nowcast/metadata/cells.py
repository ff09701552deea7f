"""Windows of time and places of stations as CF files have them, made from coordinates that a DataArray can carry."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import numpy as np
import xarray as xr

START: Final = "_start"
BOUNDS: Final = "_bnds"
STATION: Final = {"cf_role": "timeseries_id", "long_name": "name of the point"}
"""Attributes of the names of points (CF section 9.5)."""
AREA: Final = {"long_name": "name of the area"}
"""Attributes of the names of areas."""


def start_name(label: Hashable) -> str:
    """Return the name of the coordinate that says where each window of the coordinate `label` starts."""
    return f"{label}{START}"


def described(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose windows have bounds, and whose series at points say that they are.

    Parameters
    ----------
    ds : Dataset
        With what `sa_nowcast.derived` returns as a variable, such as ``sums.to_dataset()``.

    Returns
    -------
    Dataset
        A coordinate ``time_start`` beside ``time`` (of lead times alike) becomes the variable ``time_bnds``, (time, 2),
        which the attribute ``bounds`` names (CF section 7.1; a DataArray has no place for its second dimension). Where
        points have names of the role ``timeseries_id``, the global attribute ``featureType`` is ``timeSeries``
        (section 9). The names of points and areas become ``point_name`` and ``region_name``, because a coordinate with
        the name of its dimension has to be numeric (section 1.3).
    """
    for name in [str(n) for n in ds.coords if str(n).endswith(START)]:
        label = name.removesuffix(START)
        if label not in ds.coords or ds[label].ndim != 1 or ds[label].dims != ds[name].dims:
            continue
        own, start = ds[label], ds[name]
        edges = np.stack([start.values.astype(own.dtype), own.values], axis=1)
        if edges.dtype.kind == "m" and not (edges % np.timedelta64(1, "s")).any():
            edges = edges.astype("timedelta64[s]")  # written in the units of the coordinate itself
        bounds = xr.Variable((*own.dims, "bnds"), edges, encoding={"_FillValue": None, "coordinates": None})
        # As a variable: xarray lists coordinates of further dimensions in a global attribute, which CF does not know.
        ds = ds.drop_vars(name).assign({f"{label}{BOUNDS}": bounds})
        ds[label].attrs["bounds"] = f"{label}{BOUNDS}"
    for name in [str(n) for n, c in ds.coords.items() if c.dims == (n,) and dict(c.attrs) in (STATION, AREA)]:
        labels = ds[name].variable.to_base_variable()
        ds = ds.drop_vars(name).assign_coords({f"{name}_name": labels})
    if any(c.attrs.get("cf_role") == STATION["cf_role"] for c in ds.coords.values()):
        ds = ds.assign_attrs(featureType="timeSeries")
    return ds


def is_bounds(ds: xr.Dataset, name: Hashable) -> bool:
    """Say whether a variable holds the bounds of another one."""
    return any(v.attrs.get("bounds") == name for v in ds.variables.values())
