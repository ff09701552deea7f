"""TaxiBJ: taxi crowd flow on a 32 x 32 grid of Beijing, every half hour, as an xarray backend.

Files as Zhang, Zheng and Qi published them (Deep spatio-temporal residual networks for citywide crowd flows
prediction, AAAI 2017): ``BJ13_M32x32_T30_InOut.h5`` to ``BJ16_...``, with ``data`` (T, 2, 32, 32), inflow first, and
``date``, one byte string ``YYYYMMDDSS`` a frame, SS the half-hour slot 01 to 48 of the day.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from sa_nowcast.errors import DataError, RecipeError, one_of
from sa_nowcast.sources.paths import PathLike, expand, same_time
from sa_nowcast.sources.reading import outer, reading, require
from sa_nowcast.sources.taxibj_split import BENCHMARK, SLOTS, label_benchmark
from sa_nowcast.times import show_time

EXTRA: Final = "taxibj"
VARIABLE: Final = "crowd_flow"
MOST_PACKED: Final = 1100
"""Deflate packs 1032 to 1 at most (zlib, technical details)."""
_WEATHER_TYPES: Final = 17


class TaxiBJBackendEntrypoint(BackendEntrypoint):
    """``xr.open_dataset("BJ16_M32x32_T30_InOut.h5", engine="taxibj")``.

    Several years at once are a list, a pattern or a folder in place of the one file. Options: ``holidays`` and
    ``meteorology`` (paths of ``BJ_Holiday.txt`` and ``BJ_Meteorology.h5``), ``split="taxibj-benchmark"`` with
    ``history`` and ``steps``.
    """

    description = "TaxiBJ crowd flow (BJ13 to BJ16, M32x32, T30, InOut)"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj", "drop_variables", "holidays", "meteorology", "split", "history", "steps",
    )  # fmt: skip

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: PathLike | Iterable[PathLike],
        *,
        drop_variables: str | Iterable[str] | None = None,
        holidays: PathLike | None = None,
        meteorology: PathLike | None = None,
        split: str | None = None,
        history: int = 4,
        steps: int = 4,
    ) -> xr.Dataset:
        """Open the files; see `open_taxibj`."""
        ds = open_taxibj(
            filename_or_obj, holidays=holidays, meteorology=meteorology, split=split, history=history, steps=steps
        )
        return ds if drop_variables is None else ds.drop_vars(drop_variables)

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Say whether the name is one of TaxiBJ's."""
        try:
            return re.fullmatch(r"BJ\d\d_M32x32_T30_InOut\.h5", Path(filename_or_obj).name) is not None
        except TypeError:
            return False


def open_taxibj(
    source: PathLike | Iterable[PathLike],
    *,
    holidays: PathLike | None = None,
    meteorology: PathLike | None = None,
    split: str | None = None,
    history: int = 4,
    steps: int = 4,
) -> xr.Dataset:
    """Open one or several years of TaxiBJ.

    Parameters
    ----------
    source : path or iterable of paths
        Files, a folder or a pattern; sorted in time.
    holidays : path, optional
        ``BJ_Holiday.txt``, one yyyymmdd a line: becomes the coordinate ``holiday`` (time), 0 or 1.
    meteorology : path, optional
        ``BJ_Meteorology.h5``: becomes the coordinates ``temperature`` (degC), ``wind_speed`` (mile h-1) and
        ``weather`` (0 to 16, -1 where not reported), each (time).
    split : {"taxibj-benchmark"}, optional
        Keep whole days only and label the benchmark's windows of `history` + `steps` frames; see
        `sa_nowcast.sources.taxibj_split`.

    Returns
    -------
    Dataset
        ``crowd_flow`` (time, flow=[inflow, outflow], y, x), counts a half hour, read when used; ``time`` is the start
        of the slot, and missing slots are gaps. ``year`` (time) names the file.

    Raises
    ------
    DataError
        A file that is not TaxiBJ's, an impossible date or slot, times out of order, or one time in two files.
    """
    if split is not None and split != BENCHMARK:
        raise RecipeError("split", f"{split!r} is not known", expected=one_of(split, [BENCHMARK]))
    years = [_read_times(path) for path in expand(source, (".h5", ".hdf5")) if path.name != "BJ_Meteorology.h5"]
    years.sort(key=lambda year: year[1][0])
    for (path, before, *_), (next_path, after, *_) in itertools.pairwise(years):
        shared = np.intersect1d(before, after)
        if shared.size:
            raise same_time(path, next_path, shared[0])
    array = _YearsArray(tuple((path, shape) for path, _, shape, _ in years), np.result_type(*(y[3] for y in years)))
    time = np.concatenate([times for _, times, _, _ in years])
    rows, columns = array.shape[2:]
    ds = xr.Dataset(
        {
            VARIABLE: xr.Variable(
                ("time", "flow", "y", "x"),
                indexing.LazilyIndexedArray(array),
                {"long_name": "taxi flow in a half hour", "units": "1", "cell_methods": "time: sum"},
            )
        },
        {
            "time": ("time", time, {"standard_name": "time", "long_name": "start of the half hour", "axis": "T"}),
            "flow": ("flow", np.array(["inflow", "outflow"])),
            "y": ("y", np.arange(rows), {"long_name": "row of the grid", "units": "1", "axis": "Y"}),
            "x": ("x", np.arange(columns), {"long_name": "column of the grid", "units": "1", "axis": "X"}),
            "year": (
                "time",
                np.concatenate([np.full(len(t), _year(p, t), dtype=np.int16) for p, t, _, _ in years]),
                {"long_name": "year in the file's name"},
            ),
        },
        {"Conventions": "CF-1.11", "source": "TaxiBJ", "references": "Zhang, Zheng and Qi, AAAI 2017"},
    )
    if holidays is not None:
        ds = ds.assign_coords(holiday=_holidays(Path(holidays), time))
    if meteorology is not None:
        ds = ds.assign_coords(_meteorology(Path(meteorology), time))
    return ds if split is None else label_benchmark(ds, VARIABLE, history=history, steps=steps)


class _YearsArray(BackendArray):
    """The ``data`` of several files, joined along time and read file by file."""

    def __init__(self, files: tuple[tuple[Path, tuple[int, ...]], ...], dtype: np.dtype[Any]) -> None:
        self.files, self.dtype = files, dtype
        for path, shape in files[1:]:
            if shape[1:] != files[0][1][1:]:
                raise DataError(
                    str(path), f"frames {shape[1:]}", expected=f"{files[0][1][1:]} as in {files[0][0].name}"
                )
        self.starts = np.cumsum([0, *(shape[0] for _, shape in files)])
        self.shape = (int(self.starts[-1]), *files[0][1][1:])

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        h5py = require("h5py", EXTRA)
        scalar = isinstance(key[0], int | np.integer)
        wanted = np.atleast_1d(np.arange(self.shape[0])[key[0]])
        out: npt.NDArray[Any] = np.empty((len(wanted), *self.shape[1:]), dtype=self.dtype)
        for number, (path, _) in enumerate(self.files):
            at = np.flatnonzero((wanted >= self.starts[number]) & (wanted < self.starts[number + 1]))
            if not at.size:
                continue
            rows = wanted[at] - self.starts[number]
            low = int(rows.min())
            with reading(path, "taxibj"), h5py.File(path, "r") as file:
                out[at] = file["data"][low : int(rows.max()) + 1][rows - low]
        first = slice(0, 1) if scalar else slice(None)
        part = outer(out, (first, *key[1:]))
        return part[0] if scalar else part


def _read_times(path: Path) -> tuple[Path, npt.NDArray[np.datetime64], tuple[int, ...], np.dtype[Any]]:
    h5py = require("h5py", EXTRA)
    with reading(path, "taxibj"), h5py.File(path, "r") as file:
        stamps, data = _plausible(path, file["date"])[...], _plausible(path, file["data"])
        shape, dtype = tuple(data.shape), data.dtype
    if dtype.kind not in "fiu":
        raise DataError(str(path), f"data of type {dtype}", expected="numbers")
    if len(shape) != 4 or shape[1] != 2 or stamps.shape != shape[:1] or 0 in shape:
        raise DataError(str(path), f"data {shape} with dates {stamps.shape}", expected="(T, 2, 32, 32) with (T,) dates")
    times = parse_slots(stamps, str(path))
    backwards = np.flatnonzero(np.diff(times) <= np.timedelta64(0, "ns"))
    if backwards.size:
        at = int(backwards[0]) + 1
        raise DataError(
            str(path),
            f"{show_time(times[at])} at position {at} follows {show_time(times[at - 1])}",
            expected="dates in increasing order",
        )
    return path, times, shape, dtype


def _plausible(path: Path, dataset: Any) -> Any:
    """Return an HDF5 dataset, unless its shape says more than the file can hold: all of that would be allocated."""
    size, stored = math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if size > MOST_PACKED * stored:
        raise DataError(
            str(path),
            f"{dataset.name} says it holds {size} bytes and has {stored}",
            expected=f"at most {MOST_PACKED} times as many",
            fix="download it again",
        )
    return dataset


def parse_slots(stamps: Iterable[Any], where: str) -> npt.NDArray[np.datetime64]:
    """Return the start of each slot ``b"YYYYMMDDSS"`` as datetime64[ns]; slot 01 starts at 00:00.

    Refused are a stamp of other than ten digits, a slot beyond 48, and a date that nanoseconds cannot hold.
    """
    text = [s.decode("ascii", "replace") if isinstance(s, bytes) else str(s) for s in stamps]
    for position, stamp in enumerate(text):
        if not re.fullmatch(r"[0-9]{10}", stamp) or not 1 <= int(stamp[8:]) <= SLOTS:
            raise DataError(
                where, f"date {stamp!r} at position {position}", expected="YYYYMMDDSS with a slot SS from 01 to 48"
            )
    days = np.array([f"{s[:4]}-{s[4:6]}-{s[6:8]}" for s in text])
    try:
        dates = days.astype("datetime64[D]")
    except ValueError as error:
        raise DataError(where, f"a date that does not exist ({error})", expected="YYYYMMDDSS") from error
    starts = dates.astype("datetime64[ns]")
    if (starts.astype("datetime64[D]") != dates).any():  # the cast wraps around in silence
        raise DataError(where, f"dates from {dates.min()} to {dates.max()}", expected="years from 1678 to 2261")
    slots = np.array([int(s[8:]) - 1 for s in text])
    slots_ns = (slots * 30 * 60 * 10**9).astype("timedelta64[ns]")
    return np.asarray(starts + slots_ns, dtype="datetime64[ns]")


def _year(path: Path, times: npt.NDArray[np.datetime64]) -> int:
    match = re.match(r"BJ(\d\d)_", path.name)
    return 2000 + int(match[1]) if match else int(str(times[0])[:4])


def _holidays(path: Path, time: npt.NDArray[np.datetime64]) -> xr.Variable:
    with reading(path, "BJ_Holiday.txt (one yyyymmdd a line)"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        days = np.array([f"{s[:4]}-{s[4:6]}-{s[6:]}" for s in lines], dtype="datetime64[D]")
    flags = np.isin(time.astype("datetime64[D]"), days).astype(np.int8)
    attrs = {"long_name": "public holiday", "flag_values": np.array([0, 1], np.int8), "flag_meanings": "no yes"}
    return xr.Variable("time", flags, attrs)


def _meteorology(path: Path, time: npt.NDArray[np.datetime64]) -> dict[str, xr.Variable]:
    h5py = require("h5py", EXTRA)
    with reading(path, "BJ_Meteorology.h5"), h5py.File(path, "r") as file:
        stamps, temperature, wind, weather = (
            _plausible(path, file[name])[...] for name in ("date", "Temperature", "WindSpeed", "Weather")
        )
    if weather.ndim != 2 or weather.shape[1] != _WEATHER_TYPES or not len(weather):
        raise DataError(
            str(path),
            f"Weather {weather.shape}",
            expected=f"(T, {_WEATHER_TYPES}), one column a type, at least one row",
        )
    for name, values in {"date": stamps, "Temperature": temperature, "WindSpeed": wind}.items():
        if values.shape != weather.shape[:1]:
            raise DataError(str(path), f"{name} {values.shape}", expected=f"({len(weather)},) as of Weather")
    for name, values in {"Temperature": temperature, "WindSpeed": wind, "Weather": weather}.items():
        if values.dtype.kind not in "fiu":
            raise DataError(str(path), f"{name} of type {values.dtype}", expected="numbers")
    reported = parse_slots(stamps, str(path))
    slots, first = np.unique(reported, return_index=True)
    place = pd.Index(slots).get_indexer(pd.Index(time))
    found, rows = place >= 0, first[place]
    known = found & (weather[rows].sum(axis=1) == 1)
    code = np.where(known, weather[rows].argmax(axis=1), -1).astype(np.int8)
    flags = np.arange(-1, _WEATHER_TYPES, dtype=np.int8)
    meanings = " ".join(["not_reported", *(f"type_{i}" for i in range(_WEATHER_TYPES))])

    def series(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            return np.where(found, values[rows], np.nan).astype(np.float32)

    return {
        "temperature": xr.Variable("time", series(temperature), {"standard_name": "air_temperature", "units": "degC"}),
        "wind_speed": xr.Variable("time", series(wind), {"standard_name": "wind_speed", "units": "mile h-1"}),
        "weather": xr.Variable(
            "time", code, {"long_name": "type of weather", "flag_values": flags, "flag_meanings": meanings}
        ),
    }
