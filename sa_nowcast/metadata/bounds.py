"""Physical bounds of a variable: ``valid_min``, ``valid_max`` and ``valid_range``, whichever units they are in.

CF section 2.5.1 gives them the type and units of the packed values. Many files give them in physical units all the
same, and the rule for those is Unidata's (NetCDF best practices, packed data values): a bound of the packed type is
packed, one of another, wider type is not.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, Final

import numpy as np

KEYS: Final = ("valid_min", "valid_max", "valid_range")
UNIT_RANGE: Final = (0.0, 1.0)
"""The range of values that scores of pictures take where none is given."""


def physical_bounds(
    attrs: Mapping[Hashable, Any], encoding: Mapping[Any, Any], dtype: np.dtype[Any]
) -> dict[Hashable, Any]:
    """Return the attributes with those of `KEYS` in physical units; attributes and encoding are those after decoding.

    Attributes that are no bounds stay as they are, for `read_bounds` to refuse. Whole numbers that are stored without
    sign and without packing are at least 0. `dtype` is that of the decoded values.
    """
    attrs = dict(attrs)
    factor, offset = (encoding.get(key) for key in ("scale_factor", "add_offset"))
    stored = _stored_type(encoding, dtype)
    is_packed = factor is not None or offset is not None
    pair = _pair(attrs)
    if pair is None:
        return attrs
    each = [(None, True) if b is None else _one(b, stored, is_packed, "chunks" in encoding) for b in pair]
    scale, shift = (1.0 if factor is None else float(factor)), (0.0 if offset is None else float(offset))
    low, high = (value if value is None or not packed else value * scale + shift for value, packed in each)
    if scale < 0 and all(packed for _, packed in each):
        in_order = "valid_range" in attrs and _ordered(low, high)
        low, high = (low, high) if in_order else (high, low)
    if not _ordered(low, high):
        return attrs
    if stored.kind == "u" and not is_packed and dtype.kind in "fiu" and _ordered(0.0, high):
        low = max(low or 0.0, 0.0)
    if "valid_range" in attrs:
        attrs["valid_range"] = np.array([low, high], dtype=np.float64)
        return attrs
    rest = {k: v for k, v in attrs.items() if k not in KEYS}
    return rest | {k: v for k, v in (("valid_min", low), ("valid_max", high)) if v is not None}


def read_bounds(attrs: Mapping[Hashable, Any]) -> tuple[float | None, float | None] | None:
    """Return the lower and upper bound in physical units, None where there is none; None alone where they are wrong."""
    pair = _pair(attrs)
    if pair is None:
        return None
    lower, upper = (None if b is None else float(b) for b in pair)
    if not _ordered(lower, upper):
        return None
    low, high = (None if b is None or math.isinf(b) else b for b in (lower, upper))
    return low, high


def _pair(attrs: Mapping[Hashable, Any]) -> tuple[Any, Any] | None:
    """Return both bounds as numbers with the types that they have, or None where there are none such."""
    if "valid_range" in attrs:
        value = attrs["valid_range"]
        if isinstance(value, str):
            value = value.replace(",", " ").strip("[]() ").split()
        found = _numbers(value)
        return None if found is None or len(found) != 2 else (found[0], found[1])
    bounds = []
    for key in ("valid_min", "valid_max"):
        value = attrs.get(key)
        found = [None] if value is None else _numbers(value)
        if found is None or len(found) != 1:
            return None
        bounds.append(found[0])
    return bounds[0], bounds[1]


def _numbers(value: Any) -> list[Any] | None:
    entries = list(value.ravel()) if isinstance(value, np.ndarray) else value
    entries = list(entries) if isinstance(entries, list | tuple) else [entries]
    numbers = []
    for entry in entries:
        if isinstance(entry, str):
            try:
                entry = float(entry)
            except ValueError:
                return None
        if isinstance(entry, bool | np.bool_) or not isinstance(entry, int | float | np.integer | np.floating):
            return None
        try:
            if math.isnan(float(entry)):
                return None
        except OverflowError:
            return None
        numbers.append(entry)
    return numbers


def _ordered(low: Any, high: Any) -> bool:
    return low is None or high is None or bool(low <= high)


def _stored_type(encoding: Mapping[Any, Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of the packed values, signed as ``_Unsigned`` says."""
    try:
        stored = np.dtype(encoding.get("dtype", dtype))
    except TypeError:
        return dtype
    told = encoding.get("_Unsigned")
    if told == "true" and stored.kind == "i":
        return np.dtype(f"u{stored.itemsize}")
    return np.dtype(f"i{stored.itemsize}") if told == "false" and stored.kind == "u" else stored


def _one(bound: Any, stored: np.dtype[Any], is_packed: bool, zarr: bool) -> tuple[float, bool]:
    """Return a bound as a number, and whether it is in packed units."""
    whole = isinstance(bound, int | np.integer)
    if stored.kind in "iu":
        if not whole:
            return float(bound), not is_packed
        if not isinstance(bound, np.integer):
            # JSON, and so Zarr, knows no types: there CF holds for a number that the packed type can hold. One that a
            # user has set is in the units of the values that the user sees.
            same = signed_as(int(bound), stored)
            return (float(bound), False) if same is None or not (zarr or not is_packed) else (float(same), True)
        if bound.dtype.itemsize > stored.itemsize:
            return float(bound), not is_packed
        same = signed_as(int(bound), stored) if bound.dtype.itemsize == stored.itemsize else int(bound)
        return float(bound if same is None else same), True
    if stored.kind == "f" and is_packed:
        if isinstance(bound, np.floating):
            return float(bound), bound.dtype.itemsize <= stored.itemsize
        return float(bound), isinstance(bound, np.integer) or zarr
    return float(bound), True


def signed_as(value: int, stored: np.dtype[Any]) -> int | None:
    """Return a whole number as an integer type holds its bits; None where it is too large for the type."""
    bits = 8 * int(stored.itemsize)
    if not -(1 << (bits - 1)) <= value < 1 << bits:
        return None
    value %= 1 << bits
    return value - (1 << bits) if stored.kind == "i" and value >= 1 << (bits - 1) else value
