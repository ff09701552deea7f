"""MovingMNIST: the published test file as an xarray backend (Srivastava, Mansimov and Salakhutdinov 2015).

`sa_nowcast.sources.mnist_generator` makes sequences from the digits themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendEntrypoint
from xarray.core import indexing

from sa_nowcast.errors import DataError
from sa_nowcast.sources.reading import MappedFile

FILE: Final = "mnist_test_seq.npy"
SHA256: Final = "c2a3e8d3939c001ab77bf543f130157424efa486bb4d0974d2cebb773b13f8b3"


class MovingMnistBackendEntrypoint(BackendEntrypoint):
    """``xr.open_dataset("mnist_test_seq.npy", engine="moving_mnist")``, memory-mapped."""

    description = "MovingMNIST test sequences (mnist_test_seq.npy)"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = ("filename_or_obj", "drop_variables")

    def open_dataset(  # type: ignore[override]
        self, filename_or_obj: str | os.PathLike[str], *, drop_variables: str | Iterable[str] | None = None
    ) -> xr.Dataset:
        """Open the file.

        Parameters
        ----------
        filename_or_obj : path
            A NumPy file (time, sequence, y, x) of uint8.

        Returns
        -------
        Dataset
            ``intensity`` (sequence, time, y, x), uint8, read from the file when it is used.

        Raises
        ------
        DataError
            Another file, or one that was cut short.
        """
        ds = sequences(indexing.LazilyIndexedArray(_MappedSequences(Path(filename_or_obj), FILE)), source=FILE)
        return ds if drop_variables is None else ds.drop_vars(drop_variables)

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Say whether the name is the published one."""
        try:
            return Path(filename_or_obj).name == FILE
        except TypeError:
            return False


def sequences(
    values: Any,
    *,
    source: str,
    first: int = 0,
    step: float = 1.0,
    clock: str = "MovingMNIST has no clock: a frame counts as 1 s",
) -> xr.Dataset:
    """Label an array (sequence, time, y, x) of uint8: grey values, and times from 1970-01-01 on, `step` seconds apart.

    `first` is the number of the first sequence, and `clock` a comment on the times.
    """
    count, length, rows, columns = values.shape
    nanoseconds = (np.arange(length) * round(step * 1e9)).astype("timedelta64[ns]")
    time_attrs = {
        "standard_name": "time",
        "long_name": "time since the sequence began, counted from 1970-01-01",
        "axis": "T",
        "comment": clock,
    }
    return xr.Dataset(
        {
            "intensity": xr.Variable(
                ("sequence", "time", "y", "x"),
                values,
                {"long_name": "grey value", "units": "1", "valid_range": [0, 255]},
            )
        },
        {
            "sequence": ("sequence", np.arange(first, first + count)),
            "time": ("time", np.datetime64("1970-01-01", "ns") + nanoseconds, time_attrs),
            "y": ("y", np.arange(rows)[::-1], {"long_name": "row, counted from the bottom", "units": "1", "axis": "Y"}),
            "x": ("x", np.arange(columns), {"long_name": "column", "units": "1", "axis": "X"}),
        },
        {"Conventions": "CF-1.11", "source": source},
    )


class _MappedSequences(MappedFile):
    """The file as (sequence, time, y, x)."""

    def mapped(self) -> npt.NDArray[np.uint8]:
        stored = super().mapped()
        if stored.ndim != 4 or stored.dtype != np.uint8:
            found = f"{stored.dtype} of shape {stored.shape}"
            raise DataError(str(self.path), found, expected="uint8 (time, sequence, y, x)")
        return stored.transpose(1, 0, 2, 3)
