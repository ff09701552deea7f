"""Attributes and names: read as the text they mean, and written as every file can hold them."""

from __future__ import annotations

import enum
import functools
import json
import logging
import re
from collections.abc import Hashable, Iterable, Mapping
from datetime import date, time, timedelta
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd
import xarray as xr

_LOG = logging.getLogger("sa_nowcast")
_Data = TypeVar("_Data", bound=xr.DataArray | xr.Dataset)

LONGEST_NAME: Final = 200
"""In bytes of UTF-8: file systems hold 255, and NetCDF 256."""
_LONGEST_TEXT: Final = 1000
_LARGEST: Final = 10_000
# Names that NetCDF keeps for itself.
_RESERVED: Final = frozenset(
    {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "DIMENSION_LABELS", "_NCProperties", "_Netcdf4Dimid",
     "_Netcdf4Coordinates", "_nc3_strict", "_IsNetcdf4", "_SuperblockVersion", "_ARRAY_DIMENSIONS"}
)  # fmt: skip
# Written by xarray from what a variable is, and in its way where they stand among the attributes.
_ENCODED: Final = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "coordinates")


def text(value: Any) -> str | None:
    """Return an attribute as the text that it means: bytes, arrays of one text and numbers too; None stays None."""
    value = plain(value)
    if value is None or isinstance(value, str):
        return value
    return str(value)


def plain(value: Any) -> Any:
    """Return an attribute with text as `str`, however a library read it.

    h5py and h5netcdf give bytes or arrays of one text, NumPy gives its own text types, and fixed-length text ends in
    NUL or blanks. What holds no text stays as it is.
    """
    if isinstance(value, str):
        return str(value).rstrip("\0 \t\r\n") if type(value) is not str or value[-1:] in "\0 \t\r\n" else value
    if isinstance(value, bytes):
        try:
            return plain(value.decode())
        except UnicodeDecodeError:
            return plain(value.decode("latin-1"))
    if (isinstance(value, np.ndarray) and value.dtype.kind in "SUOT") or isinstance(value, list | tuple):
        entries = value.ravel().tolist() if isinstance(value, np.ndarray) else list(value)
        if any(isinstance(entry, str | bytes) for entry in entries):
            read = [plain(entry) for entry in entries]
            return read[0] if len(read) == 1 else read
    return value


def normalised(data: _Data) -> _Data:
    """Return `data` with all attributes as `plain` reads them; the same object where they are so already."""
    if not any(plain(v) is not v for each in (data, *_variables(data)) for v in each.attrs.values()):
        return data
    result: Any = data.copy(deep=False)
    for each in (result, *_variables(result)):
        each.attrs = {k: plain(v) for k, v in each.attrs.items()}
    return result  # type: ignore[no-any-return]


def _variables(data: xr.DataArray | xr.Dataset) -> list[xr.Variable]:
    if isinstance(data, xr.Dataset):
        return list(data.variables.values())
    return [data.variable, *(coord.variable for coord in data.coords.values())]


class _LeftOut(Exception):
    """No file can hold it, not even as text."""


def storable(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose names, attributes and coordinates every file can hold; `ds` itself is not changed.

    Names that NetCDF or Zarr cannot hold (with a slash, empty, longer than a file's name may be, no text) are replaced
    by safe ones, and stay as ``long_name`` where there is none. Times become ISO 8601, dictionaries and nested lists
    JSON, and what is left its text; what has no text worth keeping is left out, with one warning.
    """
    ds = renamed(ds)
    lost: list[str] = []
    variables: dict[Hashable, xr.Variable] = {}
    for name, variable in ds.variables.items():
        attrs = dict(variable.attrs)
        for key in (*_ENCODED, *(("units", "calendar") if variable.dtype.kind in "mM" else ())):
            attrs.pop(key, None)
        held = held_values(variable)
        if held is None and name not in ds.dims:
            lost.append(str(name))
            continue
        variables[name] = (variable if held is None else held).copy(deep=False)
        variables[name].attrs = storable_attrs(attrs, str(name), lost)
    attrs = storable_attrs(ds.attrs, "", lost)
    say_left_out(lost)
    coords = {n: v for n, v in variables.items() if n in ds.coords}
    result = xr.Dataset({n: v for n, v in variables.items() if n not in coords}, coords, attrs)
    result.encoding = dict(ds.encoding)
    return result


def say_left_out(lost: Iterable[str]) -> None:
    """Warn of what is left out, once in a process."""
    if names := ", ".join(lost):
        _say_left_out(names)


@functools.cache
def _say_left_out(names: str) -> None:
    _LOG.warning("left out of what is written, because no file can hold it: %s", names)


def storable_attrs(attrs: Mapping[Any, Any], of: str, lost: list[str], *, zarr: bool = False) -> dict[str, Any]:
    """Return attributes that NetCDF and Zarr can both hold, or Zarr alone.

    `lost` gets the names of those that are left out, as ``variable.attribute`` where `of` names a variable. With
    `zarr`, dictionaries, nested lists, None and true stay what they are.
    """
    result: dict[str, Any] = {}
    for key, value in attrs.items():
        name = str(plain(key) if isinstance(key, str | bytes) else key)
        if name in _RESERVED:
            continue
        try:
            held = _held_by_zarr(value) if zarr else _held(value)
        except _LeftOut:
            lost.append(f"{of}.{name}" if of else name)
            continue
        result[unused(safe_name(name, "attribute"), result)] = held
    return result


def _held_by_zarr(value: Any) -> Any:
    if value is None or isinstance(value, bool | np.bool_ | Mapping):
        return _json(value)
    if isinstance(value, list | tuple | np.ndarray) and not isinstance(plain(value), str):
        return _json(plain(value))
    held = _held(value)
    return held.item() if isinstance(held, np.generic) else held.tolist() if isinstance(held, np.ndarray) else held


def _held(value: Any) -> Any:
    value = plain(value)
    if value is None or value is pd.NaT or value is pd.NA:
        raise _LeftOut
    if isinstance(value, enum.Enum):
        return _held(value.value)
    if isinstance(value, str):
        return str(value).replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, np.datetime64 | np.timedelta64 | date | time | timedelta):
        return _moment(value)
    if isinstance(value, np.number):
        return _number(value)
    if isinstance(value, xr.DataArray | xr.Variable | pd.Series | pd.Index):
        value = np.asarray(value)
    if isinstance(value, np.ndarray | list | tuple):
        return _held_list(value)
    if isinstance(value, Mapping | set | frozenset):
        return json.dumps(_json(value), ensure_ascii=False)
    to_wkt = getattr(value, "to_wkt", None)
    if callable(to_wkt):
        return str(to_wkt())
    try:
        written = str(value)
    except Exception:  # whatever a stranger's object raises
        raise _LeftOut from None
    if " at 0x" in written or len(written) > _LONGEST_TEXT or not written:
        raise _LeftOut
    return _held(written)


def _moment(value: Any) -> str:
    if isinstance(value, time):
        return value.isoformat()
    try:
        stamp: Any = pd.Timedelta(value) if isinstance(value, np.timedelta64 | timedelta) else pd.Timestamp(value)
    except (ValueError, OverflowError):
        return str(value)
    if pd.isna(stamp):
        raise _LeftOut
    return stamp.isoformat()  # type: ignore[no-any-return]


def _number(value: Any) -> Any:
    if value.dtype.kind == "c":
        return str(value)
    if value.dtype.kind == "f" and value.dtype.itemsize not in (4, 8):
        return float(value)
    return value


def _held_list(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.size > _LARGEST:
            raise _LeftOut
        if value.ndim == 0:
            return _held(value[()])
        if value.ndim == 1 and value.size and value.dtype.kind in "iuf" and value.dtype.itemsize <= 8:
            return value.astype(np.float32) if value.dtype == np.float16 else value
    entries = list(value)
    if not entries or len(entries) > _LARGEST:
        raise _LeftOut
    if all(isinstance(e, str | bytes) for e in entries):
        return [_held(e) for e in entries]
    if all(isinstance(e, int | float | np.integer | np.floating) and not isinstance(e, bool) for e in entries):
        numbers = np.asarray(entries)
        if numbers.dtype.kind in "iuf" and numbers.dtype.itemsize <= 8:
            return numbers.tolist()
    if len(entries) == 1:
        return _held(entries[0])
    nested = (list, tuple, Mapping, set, np.ndarray)
    if not isinstance(value, np.ndarray) or value.ndim == 1:
        held = [_held(e) for e in entries if e is not None] if not any(isinstance(e, nested) for e in entries) else []
        if held and len(held) == len(entries) and all(isinstance(h, str) for h in held):
            return held
    return json.dumps(_json(value), ensure_ascii=False)


def _json(value: Any) -> Any:
    """Return what JSON can hold, the same in every process."""
    if isinstance(value, Mapping):
        return {str(plain(k)): _json(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_json(v) for v in value), key=str)
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.dtype.kind not in "mM" else list(value.ravel())
    if isinstance(value, list | tuple):
        return [_json(v) for v in value]
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    try:
        held = _held(value)
    except _LeftOut:
        return None
    return held.tolist() if isinstance(held, np.ndarray | np.generic) else held


def held_values(variable: xr.Variable) -> xr.Variable | None:
    """Return a variable whose values files can hold; None where there is none."""
    kind = variable.dtype.kind if isinstance(variable.dtype, np.dtype) else "extension"
    if kind == "S":
        return xr.Variable(variable.dims, np.vectorize(text, otypes=[object])(variable.values), variable.attrs)
    if kind in "biuMmUT" or (kind == "f" and variable.dtype.itemsize in (4, 8)):
        return variable
    if kind == "f":
        return xr.Variable(
            variable.dims, variable.data.astype(np.float32 if variable.dtype.itemsize == 2 else np.float64),
            variable.attrs,
        )  # fmt: skip
    if kind in "cV":
        return None
    values = np.asarray(variable.values, dtype=object)
    if all(isinstance(v, str) or hasattr(v, "calendar") for v in values.ravel()):
        return variable
    texts = np.empty(values.shape, dtype=object)
    for index in np.ndindex(*values.shape):
        try:
            held = _held(values[index])
        except _LeftOut:
            held = ""
        texts[index] = held if isinstance(held, str) else str(held)
    return xr.Variable(variable.dims, texts, variable.attrs)


# What NetCDF allows in a name and Zarr in a folder's; a backslash is a slash to Zarr.
_SAFE: Final = re.compile(r"[^\W_][^/\\\x00-\x1f\x7f]*|_(?!_)[^/\\\x00-\x1f\x7f]*|_")
_FILES: Final = frozenset({"zarr.json", "manifest.json"})


def safe_name(name: Hashable, default: str = "data") -> str:
    """Return a name that NetCDF and Zarr can both hold: the same where they can, else letters, digits and ``_``."""
    called = "" if name is None else str(name)
    size = len(called.encode("utf-8", "replace"))
    if _SAFE.fullmatch(called) and called == called.strip() and size <= LONGEST_NAME and called not in _FILES:
        return called if called.isprintable() else re.sub(r"\W+", "_", called)
    cleaned = re.sub(r"_+", "_", re.sub(r"\W+", "_", called.encode("utf-8", "replace").decode())).strip("_")
    while len(cleaned.encode()) > LONGEST_NAME:
        cleaned = cleaned[:-1]
    return cleaned or default


def unused(name: str, taken: Iterable[Hashable]) -> str:
    """Return `name`, with a number behind it where it is taken."""
    taken = set(taken)
    return next(n for i in range(1, len(taken) + 2) if (n := name if i == 1 else f"{name}_{i}") not in taken)


def safe_names(names: Iterable[Hashable]) -> dict[Hashable, str]:
    """Return a safe name for each, all different; those that are safe keep theirs."""
    names = list(dict.fromkeys(names))
    result: dict[Hashable, str] = {n: n for n in names if isinstance(n, str) and safe_name(n) == n}
    for name in names:
        if name not in result:
            result[name] = unused(safe_name(name), result.values())
    return {name: result[name] for name in names}


def renamed(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset under safe names; a name that is replaced becomes ``long_name`` where there is none."""
    names = safe_names([*ds.variables, *ds.dims])
    changed = {old: new for old, new in names.items() if old != new}
    if not changed:
        return ds
    ds = ds.rename(changed)
    for old, new in changed.items():
        if new in ds.variables and str(old).strip():
            ds[new].attrs = {**ds[new].attrs, "long_name": ds[new].attrs.get("long_name") or str(old)}
    for variable in ds.variables.values():
        for labels in (variable.attrs, variable.encoding):
            for key in ("grid_mapping", "ancillary_variables", "bounds"):
                if labels.get(key) in changed:
                    labels[key] = changed[labels[key]]
    return ds


def match_names(wanted: Iterable[Hashable], there: Iterable[Hashable]) -> dict[Hashable, Hashable]:
    """Return for each wanted name the one that is there: the same, or one that was stored as it; absent ones lack."""
    there = list(there)
    stored = {new: old for old, new in safe_names(there).items()}
    result = {}
    for name in wanted:
        if name in there:
            result[name] = name
        elif name in stored:
            result[name] = stored[name]
        else:
            alike = [t for t in there if str(t) == str(name)] or [t for t in there if safe_name(name) == t]
            if len(alike) == 1:
                result[name] = alike[0]
    return result
