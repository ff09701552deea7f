"""The fields that a forecast holds, as layers of a map and parameters of a query, with the colours of each."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.cells import is_bounds
from sa_nowcast.plotting.scales import RAIN_LEVELS, name_and_units, rain_in_mm_per_hour
from sa_nowcast.serving.colours import RAIN, SHARE, Scale, even_scale

Kind = Literal["value", "matched", "amount", "probability", "time"]
_AMOUNTS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # mm
_SHARES: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)
_MINUTES: Final = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0)
_MM: Final = ("mm", "kg m-2")


@dataclass(frozen=True)
class Layer:
    """A field (y, x), or one at each lead time: a variable of the file, at one threshold where it has several.

    `lead` is the variable's dimension of lead times, None where it has none.
    """

    id: str
    variable: str
    title: str
    about: str
    units: str
    kind: Kind
    lead: Hashable | None
    at: Mapping[Hashable, int] = field(default_factory=dict)
    scale: Scale | None = None
    window: int = 0
    """Seconds that a sum is over."""


def layers_of(ds: xr.Dataset, variable: str | None) -> list[Layer]:
    """Return the layers of a forecast, those of the service's own `variable` first; members are none."""
    found = []
    for name, data in ds.data_vars.items():
        if not _gridded(data) or dims.REALIZATION in data.dims or dims.QUANTILE in data.dims or is_bounds(ds, name):
            continue
        lead = next((d for d in data.dims if data[d].dtype.kind == "m" and d in data.coords), None)
        y, x = dims.find_dim(data, "y"), dims.find_dim(data, "x")
        others = [d for d in data.dims if d not in (lead, y, x)]
        if others not in ([], [dims.THRESHOLD]):
            continue
        found += [_layer(ds, str(name), lead, i) for i in (range(data.sizes[dims.THRESHOLD]) if others else [None])]
    order = {"value": 0, "matched": 1, "probability": 2, "amount": 3, "time": 4}
    return sorted(found, key=lambda layer: (layer.variable != variable, order[layer.kind]))


def _gridded(data: xr.DataArray) -> bool:
    try:
        return dims.find_dim(data, "y") != dims.find_dim(data, "x")
    except DataError:
        return False


def _layer(ds: xr.Dataset, name: str, lead: Hashable | None, threshold: int | None) -> Layer:
    data = ds[name]
    about, units = name_and_units(data)
    if threshold is not None:
        above = float(data[dims.THRESHOLD].values[threshold])
        of = next((str(a["units"]) for a in (data[dims.THRESHOLD].attrs, *_values(ds)) if "units" in a), "")
        title = f"Probability above {above:g} {of}".strip()
        return Layer(
            f"{name}_{above:g}", name, title, about, "1", "probability", lead, {dims.THRESHOLD: threshold},
            Scale(_SHARES, SHARE),
        )  # fmt: skip
    kind, scale = _kind(data, name, units)
    window = re.search(r"_(\d+)min$", name)
    titles = {"value": "Mean", "matched": "Matched", "amount": f"Sum over {window[1]} min" if window else "Sum"}
    seconds = 60 * int(window[1]) if window else 0
    return Layer(name, name, titles.get(kind, about), about, units, kind, lead, scale=scale, window=seconds)


def _values(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Return the attributes of the variables that thresholds are of: neither probabilities nor sums."""
    names = [str(n) for n in ds.data_vars if not str(n).startswith(("probability", "accumulation"))]
    return [ds[n].attrs for n in names if _gridded(ds[n]) and ds[n].attrs.get("units") not in ("min", "minutes")]


def _kind(data: xr.DataArray, name: str, units: str) -> tuple[Kind, Scale | None]:
    if name.startswith("probability"):
        return "probability", Scale(_SHARES, SHARE)
    if units in ("min", "minutes", "minute"):
        return "time", Scale(_MINUTES, RAIN[::-1], below=True, missing=False)
    if name.startswith("accumulation"):
        return "amount", Scale(_AMOUNTS, RAIN) if units in _MM else None
    factor = rain_in_mm_per_hour(data)
    scale = None if factor is None else Scale(tuple(level / factor for level in RAIN_LEVELS), RAIN)
    return ("matched" if name.endswith("_matched") else "value"), scale


def range_scale(values: Any) -> Scale:
    """Return a scale over the values of a field that has no levels of its own."""
    present = values[np.isfinite(values)]
    return even_scale(float(present.min()), float(present.max())) if present.size else even_scale(0.0, 1.0)
