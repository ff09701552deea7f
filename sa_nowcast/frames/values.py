"""The channels of a sequence, and which of their values can be used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.metadata import attributes, dims
from sa_nowcast.metadata.bounds import physical_bounds

LARGEST = 1e20
"""Values from here on, of either sign, are fill values that nobody declared, or overflow in a network."""
# What netCDF fills 32- and 64-bit integers with, and what NaN becomes in them, as float32 holds these.
_INTEGER_FILLS = np.array([-(2**31), 2**32, -(2**63), 2**64], dtype=np.float32)
# Below zero and no whole number, and all the same common for "missing".
_ODD_FILLS = np.array([-99.9, -999.9, -9999.9, -99.99, -999.99, -9999.99], dtype=np.float32)


@dataclass(frozen=True)
class Channel:
    """One channel of the sequence.

    Attributes
    ----------
    name : str
    units : str or None
        None where the input gave none.
    attrs : mapping
        CF attributes; ``valid_min`` and ``valid_max`` in physical units.
    counts : bool
        Whether its values, where all are whole and none is below 0, are counts: it is not packed, and has no units or
        those of a number.
    """

    name: str
    units: str | None
    attrs: Mapping[Hashable, Any]
    counts: bool = False

    @property
    def non_negative(self) -> bool:
        """Whether a value below 0 can mean nothing but missing, by its attributes: rain, and what is called a count."""
        named = bool(self.attrs.get("standard_name")) or dims.canonical_units(self.units) not in (None, "1")
        return dims.is_rain(self.attrs) or (self.counts and named)


def channels_of(arrays: tuple[xr.DataArray, ...], channel_dim: Hashable | None) -> tuple[Channel, ...]:
    """Return a channel for each variable, or for each entry of the channel dimension."""
    if len(arrays) > 1 or channel_dim is None:
        return tuple(_channel(str(a.name or "data"), a) for a in arrays)
    array = arrays[0]
    labels = array.coords[channel_dim].values if channel_dim in array.coords else range(array.sizes[channel_dim])
    per_channel = array.coords.get(dims.UNITS)
    if per_channel is None or per_channel.dims != (channel_dim,):
        shared = _channel("", array)
        return tuple(replace(shared, name=str(label)) for label in labels)
    each = [attributes.text(units) for units in per_channel.values.tolist()]
    return tuple(_channel(str(label), array, {"units": u}) for label, u in zip(labels, each, strict=True))


def _channel(name: str, array: xr.DataArray, more: Mapping[Hashable, Any] | None = None) -> Channel:
    attrs = physical_bounds(array.attrs, array.encoding, array.dtype) | dict(more or {})
    packed = any(array.encoding.get(k) is not None for k in ("scale_factor", "add_offset"))
    units = attributes.text(attrs.get("units"))
    return Channel(name, units, attrs, counts=not packed and array.dtype.kind in "fiu" and dims.is_count(attrs))


def require_usable(
    values: npt.NDArray[np.float32], channels: Sequence[Channel], label: Callable[[int], str], whole: bool = False
) -> None:
    """Refuse values (time, channel, row, column) that are infinite or fill values that nobody declared; NaN passes.

    Fill values are those of at least 1e20; what netCDF fills integers with, where some values are stored as integers
    without packing (`whole`); and, of rain and counts, repeated whole numbers of -1 or below that are codes, no noise.
    The error names variable, time (which `label` returns for a position) and value.
    """
    low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    limit = 2.0**31 if whole else LARGEST
    below = low <= -1 and any(c.non_negative for c in channels)
    if not (low <= -limit or high >= limit or below):  # also where all are NaN
        return
    for c, channel in enumerate(channels):
        part = values[:, c]
        infinite = np.isinf(part)
        if infinite.any():
            raise infinite_values(channel.name, _first(infinite, label), int(infinite.sum()))
        fills = np.abs(part) >= LARGEST
        if whole:
            fills |= np.isin(part, _INTEGER_FILLS)
        if fills.any():
            value, count = float(part[fills][0]), int(fills.sum())
            # The least integer has no absolute value in its own type.
            condition = "abs(ds) < 1e20" if abs(value) >= LARGEST else "ds > -2e9" if value < 0 else "ds < 4e9"
            raise fill_values(channel.name, _first(fills, label), value, count, condition)
        if below and channel.non_negative and (fills := _codes(part)).any():
            value = float(part[fills].min())
            raise fill_values(channel.name, _first(fills, label), value, int(fills.sum()), "ds >= 0")


def _codes(part: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return which values of a quantity that is never negative mean missing: none, all below -1, or the least."""
    low: npt.NDArray[np.bool_] = part <= -1
    values, counts = np.unique(part[low], return_counts=True)
    if not values.size:
        return low
    coded = (values == np.round(values)) | np.isin(values, _ODD_FILLS)
    if counts.sum() > 1 and coded.all():
        return low
    apart = values.size == 1 or values[1] > values[0] / 2
    least: npt.NDArray[np.bool_] = (part == values[0]) & bool(counts[0] > 1 and coded[0] and apart)
    return least


def _first(found: npt.NDArray[np.bool_], label: Callable[[int], str]) -> str:
    return label(int(np.argwhere(found)[0][0]))


def fill_values(name: str, time: str, value: float, count: int, condition: str) -> DataError:
    """Return the error about values that mean missing and do not say so."""
    return DataError(
        f"{name}, {time}",
        f"{count} values such as {value:.6g}, which mean missing and are not declared as fill value",
        expected="NaN where missing, or a _FillValue attribute in the file",
        fix=f"ds.where({condition}) turns them into missing values",
    )


def infinite_values(name: str, time: str, count: int) -> DataError:
    """Return the error about infinite values."""
    return DataError(
        f"{name}, {time}",
        f"{count} infinite values",
        expected="finite values, or NaN where missing",
        fix="ds.where(abs(ds) < float('inf')) turns them into missing values",
    )
