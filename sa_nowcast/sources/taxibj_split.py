"""The benchmark split of TaxiBJ, by name and as numbers.

The lineage (Zhang et al. 2017 and the video networks after it) keeps whole days only, builds windows year by year over
consecutive half hours, tests on the last 48 * 28 = 1,344 windows, and scales by the least and the greatest value of
the rest. Here "the rest" is every frame that no test window touches: the last training windows share up to
``history + steps - 1`` frames with the first test window, and the published code lets its scaling see none of the
test targets either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.windows import Positions

BENCHMARK: Final = "taxibj-benchmark"
TEST_WINDOWS: Final = 48 * 28
SLOTS: Final = 48
"""Half hours a day."""
_HALF_HOUR: Final = np.timedelta64(30 * 60 * 10**9, "ns")


@dataclass(frozen=True)
class TaxiBJSplit:
    """Which windows train and which test, as positions of their first frame in time.

    Attributes
    ----------
    kept : ndarray of int64
        Positions of the frames of whole days in the series as it was given; all other positions count in these.
    train, test : ndarray of int64
        First frames of the windows, as positions in ``kept``.
    fit : ndarray of int64
        Frames of training windows that no test window touches, as positions in ``kept``; scaling is fitted on these.
    history, steps : int
        Frames of a window that are given, and that are forecast.
    """

    kept: Positions
    train: Positions
    test: Positions
    fit: Positions
    history: int
    steps: int

    def indices(self, part: str) -> Positions:
        """Return the frames of each window of ``"train"`` or ``"test"``: (windows, history + steps)."""
        starts = {"train": self.train, "test": self.test}[part]
        return starts[:, np.newaxis] + np.arange(self.history + self.steps)


def benchmark_split(
    time: npt.NDArray[np.datetime64],
    year: npt.NDArray[np.integer],
    *,
    history: int = 4,
    steps: int = 4,
    test_windows: int = TEST_WINDOWS,
) -> TaxiBJSplit:
    """Plan the benchmark's windows.

    Parameters
    ----------
    time : ndarray of datetime64, shape (frames,)
        Starts of half-hour slots, increasing.
    year : ndarray of int, shape (frames,)
        The file of each frame; no window crosses from one to the next.
    history, steps : int
    test_windows : int
        How many of the last windows test.

    Raises
    ------
    DataError
        No window is left to train on.
    """
    days = time.astype("datetime64[D]")
    names, counts = np.unique(days, return_counts=True)
    kept = np.flatnonzero(np.isin(days, names[counts == SLOTS])).astype(np.int64)
    length = history + steps
    joined = (np.diff(time[kept]) == _HALF_HOUR) & (np.diff(np.asarray(year)[kept]) == 0)
    # A window starts wherever the next length - 1 joints are all whole: differences of the running count of joints.
    running = np.concatenate([[0], np.cumsum(joined)])
    starts = np.arange(max(len(kept) - length + 1, 0))
    starts = starts[running[starts + length - 1] - running[starts] == length - 1].astype(np.int64)
    if len(starts) <= test_windows:
        raise DataError(
            "TaxiBJ",
            f"{len(starts)} windows of {length} frames in whole days",
            expected=f"more than the {test_windows} that test",
            fix="open more years, or use a split of your own",
        )
    train, test = starts[:-test_windows], starts[-test_windows:]
    offsets = np.arange(length)
    fit = np.setdiff1d(train[:, np.newaxis] + offsets, test[:, np.newaxis] + offsets)
    return TaxiBJSplit(kept=kept, train=train, test=test, fit=fit, history=history, steps=steps)


def label_benchmark(ds: xr.Dataset, variable: str, *, history: int, steps: int) -> xr.Dataset:
    """Return the whole days of `ds` with the benchmark's split as labels.

    Returns
    -------
    Dataset
        With the coordinate ``split`` (time): 0 where no window starts, 1 where a training window does, 2 where a test
        window does; and the attributes ``split``, ``split_history``, ``split_steps``, ``split_train_windows``,
        ``split_test_windows``, ``split_scale_min`` and ``split_scale_max``.
    """
    split = benchmark_split(ds["time"].values, ds["year"].values, history=history, steps=steps)
    whole = ds.isel(time=split.kept)
    label = np.zeros(len(split.kept), dtype=np.int8)
    label[split.train], label[split.test] = 1, 2
    attrs = {
        "long_name": "what a window that starts here is for",
        "flag_values": np.array([0, 1, 2], np.int8),
        "flag_meanings": "none train test",
    }
    low, high = np.inf, -np.inf
    for block in np.array_split(split.fit, max(1, len(split.fit) // 2048)):
        values = whole[variable].isel(time=block).values
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return whole.assign_coords(split=("time", label, attrs)).assign_attrs(
        split=BENCHMARK,
        split_history=history,
        split_steps=steps,
        split_train_windows=len(split.train),
        split_test_windows=len(split.test),
        split_scale_min=low,
        split_scale_max=high,
    )
