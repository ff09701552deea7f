"""Any film as a sequence of grey frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.sources.paths import PathLike, expand
from sa_nowcast.sources.reading import reading, require
from sa_nowcast.windows import require_whole

EXTRA: Final = "kth"
SUFFIXES: Final = (".avi", ".mp4", ".mkv", ".mov", ".webm")
_EPOCH: Final = np.datetime64("2000-01-01", "ns")


def open_film(path: PathLike, *, cells: int = 1, name: str = "brightness") -> xr.Dataset:
    """Read a film as grey frames, all of them into memory.

    Parameters
    ----------
    path : path
        A file that FFmpeg can read.
    cells : int
        So many rows and columns become one by their mean; what is left over at the end is cut off.
    name : str
        What the variable is to be called.

    Returns
    -------
    Dataset, dims (time, y, x)
        float32 grey values, 0 to 255. Films have no date: times begin at 2000-01-01 and follow the film's frame rate,
        to a whole millisecond.

    Raises
    ------
    DataError
        No film, several ones, or one without frames or without a frame rate.
    MissingLibraryError
        PyAV is not installed.
    """
    require_whole(cells=cells)
    av = require("av", EXTRA)
    found = expand(path, SUFFIXES)
    if len(found) > 1:
        raise DataError(str(path), f"{len(found)} films", expected="one", fix="name the file")
    file = Path(found[0])
    frames: list[Any] = []
    with reading(file, "a film"), av.open(str(file)) as container:
        stream = container.streams.video[0]
        if not stream.average_rate:
            raise DataError(str(file), "says no frame rate", fix="write it into the file, as ffmpeg -r does")
        rate = float(stream.average_rate)
        for frame in container.decode(stream):
            grey = frame.to_ndarray(format="gray").astype(np.float32)
            rows, columns = (size // cells for size in grey.shape)
            grey = grey[: rows * cells, : columns * cells]
            frames.append(grey.reshape(rows, cells, columns, cells).mean(axis=(1, 3)))
        if not frames:
            raise DataError(str(file), "a film without frames")
        values = np.stack(frames)  # which refuses frames of several sizes
    step = np.timedelta64(round(1000 / rate), "ms").astype("timedelta64[ns]")
    return xr.Dataset(
        {name: (("time", "y", "x"), values, {"units": "1", "long_name": "grey value"})},
        {
            "time": (
                "time",
                _EPOCH + step * np.arange(len(frames)),
                {"comment": "a film has no date; counted from here"},
            )
        },
    )
