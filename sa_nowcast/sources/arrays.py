"""NumPy files without labels: an array in .npy or .npz becomes a Dataset, by what its user knows about it.

Flows and other benchmark data are often published so: the values alone, times and units in an article.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from xarray.core import indexing

from sa_nowcast.errors import DataError, RecipeError, one_of
from sa_nowcast.sources.paths import PathLike, expand
from sa_nowcast.sources.reading import MappedFile, reading_numpy

SUFFIXES: Final = (".npy", ".npz")
_EITHER: Final = " or ".join(SUFFIXES)
DIMS: Final = ("time", "y", "x", "channel")

_REQUIRED: Final = ("time", "y", "x")
_LAST_NS: Final = 2**63 - 1  # of datetime64[ns], in the year 2262


def open_array(
    path: PathLike,
    *,
    start: str | date | np.datetime64,
    step: str | timedelta | np.timedelta64,
    dims: Sequence[str] = DIMS,
    key: str | None = None,
    name: str = "flow",
    units: str | None = None,
    channels: Sequence[str] | None = None,
    valid_min: float | None = None,
) -> xr.Dataset:
    """Open an array in a NumPy file and label it.

    Parameters
    ----------
    path : path
        A ``.npy`` file, which is memory-mapped, or a ``.npz`` file, whose array is read into memory.
    start : str, datetime or datetime64
        Time of the first frame, as ISO 8601 (``2015-01-01``, ``2015-01-01T06:30``), in UTC.
    step : str, timedelta or timedelta64
        From one frame to the next: ``30min``, ``1h``.
    dims : sequence of str
        What the array's axes are, in its order: ``time``, ``y``, ``x``, and others by any name.
    key : str, optional
        Which array of a ``.npz`` file; it can be left out where there is only one.
    name : str
        What the variable is to be called.
    units : str, optional
        Units of the values, as CF spells them.
    channels : sequence of str, optional
        Labels along the dimension beside ``time``, ``y`` and ``x``.
    valid_min : float, optional
        The least value that there can be, such as 0 for counts: forecasts do not go below it (CF section 2.5.1).

    Returns
    -------
    Dataset
        The variable, with dimensions in the order of the file, times from `start` on, and rows and columns counted
        as in the file.

    Raises
    ------
    DataError
        Not a NumPy file, one that was cut short, several arrays and no `key`, Python objects or text in place of
        numbers, or another number of dimensions than `dims`.
    RecipeError
        A `start`, `step`, `dims`, `key`, `channels` or `valid_min` that cannot be used.
    """
    files = expand(path, SUFFIXES)
    if len(files) != 1:
        raise DataError(str(path), f"{len(files)} files", expected="one array in one file", fix="open each on its own")
    labels = _dims(dims)
    first, spacing = _start(start), _step(step)
    values = _open(files[0], key)
    if len(labels) != len(values.shape):
        raise DataError(
            str(files[0]),
            f"an array of {len(values.shape)} dimensions {tuple(values.shape)}",
            expected=f"{len(labels)}: {', '.join(labels)}",
            fix="give dims=, one name for each axis",
        )
    if values.dtype.kind not in "fiub":
        raise DataError(str(files[0]), f"values of type {values.dtype}", expected="numbers")
    if 0 in values.shape:
        raise DataError(str(files[0]), f"an array without values {tuple(values.shape)}", expected="frames")
    sizes = dict(zip(labels, values.shape, strict=True))
    coords = {
        "time": xr.Variable("time", _times(first, spacing, sizes["time"]), {"standard_name": "time", "axis": "T"}),
        "y": xr.Variable("y", np.arange(sizes["y"]), {"long_name": "row of the grid", "units": "1", "axis": "Y"}),
        "x": xr.Variable("x", np.arange(sizes["x"]), {"long_name": "column of the grid", "units": "1", "axis": "X"}),
        **_channels(channels, sizes),
    }
    attrs: dict[str, Any] = {} if units is None else {"units": units}
    if valid_min is not None:
        attrs["valid_min"] = _number("valid_min", valid_min)
    ds = xr.Dataset(
        {name: xr.Variable(labels, values, attrs)}, coords, {"Conventions": "CF-1.11", "source": files[0].name}
    )
    ds.encoding["source"] = str(files[0])
    return ds


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecipeError(name, f"{value!r}", expected="a finite number")
    return float(value)


def _open(path: Path, key: str | None) -> Any:
    with reading_numpy(path, _EITHER):
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            if key is not None:
                raise RecipeError("key", f"{key!r} for {path.name}, which is one array", expected="no key")
            return indexing.LazilyIndexedArray(MappedFile(path, _EITHER))
        with stored:
            return stored[_key(path, stored.files, key)]


def _key(path: Path, names: Sequence[str], key: str | None) -> str:
    if not names:
        raise DataError(str(path), "the file holds no array", expected="one")
    if key is None and len(names) > 1:
        found = f"the arrays {', '.join(names)}"
        raise DataError(str(path), found, expected="one, or key=", fix=f"give key={names[0]!r}")
    if key is not None and key not in names:
        raise RecipeError("key", f"no array {key!r} in {path.name}", expected=one_of(key, names))
    return names[0] if key is None else key


def _dims(given: Sequence[str]) -> tuple[str, ...]:
    named = () if isinstance(given, str) else tuple(given)
    missing = [d for d in _REQUIRED if d not in named]
    if missing or len(set(named)) < len(named) or not all(isinstance(d, str) and d for d in named):
        raise RecipeError(
            "dims", f"{given!r}", expected=f"different names, with {', '.join(_REQUIRED)} among them, such as {DIMS}"
        )
    return named


def _start(given: Any) -> int:
    """Return a time as nanoseconds since 1970."""
    expected = "a date and time such as '2015-01-01T00:30'"
    try:
        # Read strictly: other parsers take '10:30' for today, and a number for nanoseconds since 1970.
        moment = datetime.fromisoformat(given) if isinstance(given, str) else given
        if not isinstance(moment, date | np.datetime64):
            raise ValueError
        stamp = pd.Timestamp(moment)
        if pd.isna(stamp):
            raise ValueError
        if stamp.tzinfo is not None:
            stamp = stamp.tz_convert(UTC).tz_localize(None)
        return int(stamp.as_unit("ns").value)
    except (ValueError, TypeError, OverflowError) as error:
        raise RecipeError("start", f"{given!r} is no time", expected=expected) from error


def _step(given: Any) -> int:
    """Return a time step in nanoseconds."""
    try:
        # A bare number would be read as nanoseconds.
        if isinstance(given, str):
            if not any(c.isalpha() for c in given) and ":" not in given:
                raise ValueError
        elif not isinstance(given, timedelta) and np.datetime_data(np.asarray(given).dtype)[0] == "generic":
            raise ValueError
        length = int(pd.Timedelta(given).as_unit("ns").value)
    except (ValueError, TypeError, OverflowError) as error:
        raise RecipeError("step", f"{given!r} is no length of time", expected="one such as '30min' or '1h'") from error
    if not 0 < length <= _LAST_NS:
        raise RecipeError("step", f"{given!r}", expected="longer than nothing, such as '30min' or '1h'")
    return length


def _times(first: int, step: int, frames: int) -> npt.NDArray[np.datetime64]:
    if first + (frames - 1) * step > _LAST_NS:
        raise RecipeError(
            "start, step", f"{frames} frames reach beyond the year 2262", expected="times that datetime64[ns] holds"
        )
    return (first + np.arange(frames, dtype=np.int64) * step).astype("datetime64[ns]")


def _channels(labels: Sequence[str] | None, sizes: dict[str, int]) -> dict[str, xr.Variable]:
    if labels is None:
        return {}
    others = [d for d in sizes if d not in (*_REQUIRED, "sequence")]
    if isinstance(labels, str) or len(others) != 1:
        what = f"{len(others)} dimensions beside {', '.join(_REQUIRED)}" if len(others) != 1 else repr(labels)
        raise RecipeError("channels", what, expected="a list of labels for one dimension of channels")
    dim = others[0]
    if len(labels) != sizes[dim]:
        raise DataError(
            "channels", f"{len(labels)} labels: {', '.join(labels)}", expected=f"{sizes[dim]}, the size of {dim}"
        )
    return {dim: xr.Variable(dim, np.array([str(label) for label in labels]))}
