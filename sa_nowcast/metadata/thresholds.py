"""Compare units as they are written in CF files, and know which values a unit can hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata.attributes import text
from sa_nowcast.metadata.dims import canonical_units

RAIN_THRESHOLDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

# The values that a physical quantity in these units can take; outside them a threshold is a slip of units.
_RANGE = {
    "mm h-1": (0.0, 2000.0),
    "mm": (0.0, 5000.0),
    "kg m-2 s-1": (0.0, 1.0),
    "dBZ": (-60.0, 100.0),
    "K": (0.0, 2000.0),
    "%": (0.0, 100.0),
}


def is_rain_rate(units: str | None) -> bool:
    """Return whether `units` are those of a rain rate in millimetres per hour."""
    return canonical_units(units) == "mm h-1"


def units_of(data: xr.DataArray) -> tuple[str | None, ...]:
    """Return the units of `data`, one for each label of ``variable`` where there are several."""
    if "units" in data.coords and "variable" in data.coords["units"].dims:
        return tuple(str(value) for value in data.coords["units"].values)
    if "units" in data.coords and data.coords["units"].ndim == 0:
        return (str(data.coords["units"].item()),)
    return (text(data.attrs.get("units")),)


def require_same_units(data: xr.DataArray, forecast: xr.DataArray, role: str) -> str | None:
    """Return the units that `data` and `forecast` share; None where they have none or differ by variable."""
    theirs, ours = units_of(data), units_of(forecast)
    size = max(len(theirs), len(ours))
    for a, b in zip(theirs * (size // len(theirs)), ours * (size // len(ours)), strict=True):
        if (a is None) != (b is None) or (a is not None and b is not None and canonical_units(a) != canonical_units(b)):
            raise DataError(
                str(data.name) if data.name is not None else role,
                f"{role} is in {a or 'no stated units'}",
                f"the forecast's {b or '(none stated)'}",
                f"convert the {role}, or set attrs['units'] where it is missing",
            )
    return ours[0] if len(set(ours)) == 1 else None


def split_threshold(value: object) -> tuple[float, str | None]:
    """Return number and units of a threshold given as a number or as text such as ``"1 mm h-1"``."""
    number, _, units = value.strip().partition(" ") if isinstance(value, str) else (value, "", "")
    try:
        return float(number), units.strip() or None  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise RecipeError("thresholds", f"{value!r} is not a number", 'such as 1.0 or "1 mm h-1"') from None


def check_thresholds(
    thresholds: Sequence[float | str] | npt.NDArray[np.float64] | xr.DataArray | None, units: str | None
) -> tuple[float, ...]:
    """Return `thresholds` as sorted numbers in `units`; None: 0.1 to 30 mm h-1 of a rain rate, of others none.

    Raises
    ------
    RecipeError
        If a threshold is not finite, there twice, in other units, not above zero where the units hold nothing below,
        or outside the values that the units can hold.
    """
    if thresholds is None:
        return RAIN_THRESHOLDS if is_rain_rate(units) else ()
    stated = thresholds.attrs.get("units") if isinstance(thresholds, xr.DataArray) else None
    low, high = _RANGE.get(canonical_units(units) or "", (-np.inf, np.inf))
    numbers: list[float] = []
    for item in np.atleast_1d(np.asarray(thresholds, dtype=object)).ravel():
        number, own = split_threshold(item)
        own = own or stated
        if own is not None and units is not None and canonical_units(own) != canonical_units(units):
            raise RecipeError("thresholds", f"{number:g} is in {own}", f"the data's units {units}")
        if not np.isfinite(number):
            raise RecipeError("thresholds", f"{number} is not finite", f"numbers in {units or 'the data units'}")
        if low == 0 and number <= 0:
            raise RecipeError(
                "thresholds",
                f"{number:g} {units}",
                "above 0",
                "every value is >= 0, so that no event could be missed: take a positive one",
            )
        if not low <= number <= high:
            found = f"{number:g} is outside what {units} can hold"
            raise RecipeError("thresholds", found, f"{low:g} to {high:g} {units}")
        if number in numbers:
            raise RecipeError("thresholds", f"{number:g} is there twice", "each once")
        numbers.append(number)
    if not numbers:
        raise RecipeError("thresholds", "is empty", "at least one", "leave it out for the default")
    return tuple(sorted(numbers))
