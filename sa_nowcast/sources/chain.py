"""Sequences one after another on one time axis: films and MovingMNIST as what training and forecasting take.

A Dataset of films has the dimensions (sequence, time, y, x), and everything else in this package works on one time
axis. `chain` lays the sequences behind each other, one missing frame apart, so that no window crosses from one to the
next where gaps are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.metadata import dims
from sa_nowcast.times import Times, read_times, regular_segments

SEQUENCE: Final = "sequence"
OWN_TIME: Final = "sequence_time"

# What a variable's encoding says of its former shape; the rest (packing, units, compression) still holds.
_LAYOUT: Final = ("chunks", "shards", "chunksizes", "preferred_chunks", "original_shape", "contiguous")
# What is read in one go of an array that is not in memory: large enough for few tasks, small enough to hold several.
_READ_BYTES: Final = 2**22


def chain(ds: xr.Dataset) -> xr.Dataset:
    """Put the sequences of a Dataset one after another on one time axis.

    Parameters
    ----------
    ds : Dataset
        With a dimension ``sequence`` and a time dimension, such as `sa_nowcast.sources.open_kth` and the engine
        ``moving_mnist`` give. The times of all sequences have one step.

    Returns
    -------
    Dataset
        Variables (time, [channel,] y, x), with their attributes and encoding. Sequence s of T frames begins s (T + 1)
        steps after the first time: one frame is missing between two sequences, so ``gaps="skip"`` keeps windows
        within a sequence. The coordinate ``sequence`` and all others of a sequence (film, person, ...) are repeated
        along time; where each sequence had times of its own, ``sequence_time`` keeps them. Arrays in memory are
        reshaped, without a copy where sequence and time are their first dimensions; others stay lazy, on dask. A
        Dataset without a dimension ``sequence`` is returned as it is.

    Raises
    ------
    DataError
        No time dimension, no sequence, sequences of one frame, or times that are irregular or differ in step.

    Examples
    --------
    >>> import xarray as xr, sa_nowcast
    >>> ds = chain(xr.open_dataset("mnist_test_seq.npy", engine="moving_mnist"))  # doctest: +SKIP
    >>> windows = sa_nowcast.SequenceDataset(ds, history=10, steps=10, gaps="skip")  # doctest: +SKIP
    """
    if not isinstance(ds, xr.Dataset):
        fix = f"da.to_dataset(name={str(ds.name or 'data')!r})" if isinstance(ds, xr.DataArray) else None
        raise DataError("data", f"a {type(ds).__name__}", expected="a Dataset", fix=fix)
    if SEQUENCE not in ds.dims:
        return ds
    time = dims.find_dim(ds, "time")
    count, length = ds.sizes[SEQUENCE], ds.sizes[time]
    if not count:
        raise DataError("data", f"dimension {SEQUENCE} has no entries", expected="at least one")
    own = _own_times(ds, time)
    step = _one_step(own, time)
    frame = (np.arange(count)[:, np.newaxis] * (length + 1) + np.arange(length)).ravel()
    attrs = {
        **ds[time].attrs,
        "long_name": "time along the chain of sequences",
        "comment": f"sequences of {length} frames follow each other, one missing frame apart",
    }
    joined = {
        name: _joined(variable.to_base_variable(), time, count, length)
        for name, variable in ds.variables.items()
        if name != time
    }
    if len(own) > 1:
        joined[OWN_TIME] = xr.Variable(time, own.ravel(), {k: v for k, v in ds[time].attrs.items() if k != "axis"})
    joined.setdefault(SEQUENCE, xr.Variable(time, np.repeat(np.arange(count), length)))
    joined[time] = xr.Variable(time, own[0, 0] + frame * step, attrs, _encoding(ds[time].variable))
    chained = xr.Dataset(
        {name: joined[name] for name in ds.data_vars},
        {name: variable for name, variable in joined.items() if name not in ds.data_vars},
        ds.attrs,
    )
    chained.encoding = {k: v for k, v in ds.encoding.items() if k != "unlimited_dims"}
    return chained


def _own_times(ds: xr.Dataset, time: Hashable) -> Times:
    """Return the times within each sequence, (sequence, frame); one row where all have the same."""
    films = [n for n, v in ds.data_vars.items() if {SEQUENCE, time} <= set(v.dims)]
    if not films:
        raise DataError("data", f"no variable has the dimensions {SEQUENCE} and {time}", expected="one with both")
    times = read_times(ds[films[0]], time, str(films[0]))
    if times.ndim == 1:
        return times[np.newaxis]
    return times if ds[time].dims[0] == SEQUENCE else np.ascontiguousarray(times.T)


def _one_step(own: Times, time: Hashable) -> np.timedelta64:
    step, _ = regular_segments(own[0], time, f"{SEQUENCE} 0", "refuse", None)
    for number in np.flatnonzero((np.diff(own, axis=1) != step).any(axis=1)).tolist():
        regular_segments(own[number], time, f"{SEQUENCE} {number}", "refuse", step)  # which says what is wrong
    return step


def _joined(variable: xr.Variable, time: Hashable, count: int, length: int) -> xr.Variable:
    """Return a variable on the one time axis; what varies only by sequence, or only in time, is repeated."""
    attrs, encoding = variable.attrs, _encoding(variable)
    if SEQUENCE not in variable.dims and time not in variable.dims:
        return variable
    if time not in variable.dims:
        repeated = variable.isel({SEQUENCE: np.repeat(np.arange(count), length)})
        return xr.Variable([time if d == SEQUENCE else d for d in variable.dims], repeated.data, attrs, encoding)
    if SEQUENCE not in variable.dims:
        tiled = variable.isel({time: np.tile(np.arange(length), count)})
        return xr.Variable(variable.dims, tiled.data, attrs, encoding)
    rest = [d for d in variable.dims if d not in (SEQUENCE, time)]
    data = _array(variable, time).transpose(SEQUENCE, time, *rest).data
    return xr.Variable((time, *rest), data.reshape(count * length, *data.shape[2:]), attrs, encoding)


def _array(variable: xr.Variable, time: Hashable) -> xr.Variable:
    """Return a variable that can be reshaped: as it is, or, where it is still in a file, on dask."""
    if variable.chunks is not None or variable._in_memory:
        return variable
    stored = (variable.encoding.get("preferred_chunks") or {}).get(SEQUENCE, 1)
    each = math.prod(variable.sizes[d] for d in variable.dims if d != SEQUENCE) * variable.dtype.itemsize
    together = max(1, _READ_BYTES // max(1, each * stored)) * stored
    return variable.chunk({**dict.fromkeys(variable.dims, -1), SEQUENCE: together})


def _encoding(variable: xr.Variable) -> dict[Any, Any]:
    return {k: v for k, v in variable.encoding.items() if k not in _LAYOUT}
