"""Scales that scores are taken at: single values, means over areas and over lead times, and both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.times import show_step

PIXEL: Final = "pixel"
NO_TIME: Final = np.timedelta64(0, "ns")
LEAST_SHARE: Final = 0.5
"""Of the pixels of an area that are present in all: an area with fewer is missing."""

_PER_DEGREE: Final = 111.2
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)")
_KILOMETRES: Final = {"m": 1e-3, "metre": 1e-3, "meter": 1e-3, "metres": 1e-3, "meters": 1e-3, "km": 1.0}
_EXPECTED: Final = '"pixel", or an area, a time or both, such as "20 km", "10 pixels", "1 h" or "20 km 1 h"'


@dataclass(frozen=True)
class Scale:
    """What one value is that is scored: the mean over so many rows and columns, and over a time of lead times.

    `time` is 0 where lead times are scored one by one.
    """

    label: str = PIXEL
    rows: int = 1
    columns: int = 1
    time: np.timedelta64 = NO_TIME

    @property
    def area(self) -> tuple[int, int]:
        """The rows and columns of an area."""
        return self.rows, self.columns

    @property
    def is_area(self) -> bool:
        """Whether areas of several pixels are averaged."""
        return self.rows * self.columns > 1

    def windows(self, leads: npt.NDArray[np.timedelta64]) -> list[slice]:
        """Return the lead times that are averaged, as slices of the ascending `leads`: those that fill the time.

        The times follow each other from the init time on, so that no lead time is in two of them.
        """
        step = np.diff(leads).min() if leads.size > 1 else leads[0]
        each = int(self.time // step) if not self.time % step else 0
        found = []
        for end in np.flatnonzero((leads % self.time == np.timedelta64(0)) & (each > 1)):
            part = leads[max(0, end + 1 - each) : end + 1]
            if part.size == each and (np.diff(part) == step).all():
                found.append(slice(int(end) + 1 - each, int(end) + 1))
        return found


def read_scale(told: str) -> tuple[str, tuple[float, str] | None, np.timedelta64]:
    """Return the label of a scale, its width with "km" or "pixels" (None: one pixel), and its time (0: none).

    Raises
    ------
    RecipeError
        If `told` is not the text of a scale.
    """
    text = " ".join(str(told).replace(",", " ").split())
    if text.lower() in ("pixel", "pixels", "1 pixel"):
        return PIXEL, None, NO_TIME
    wrong = RecipeError("scales", f"{told!r} is none", _EXPECTED)
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text).strip():
        raise wrong
    width: tuple[float, str] | None = None
    time = NO_TIME
    for number, unit in parts:
        if unit.lower() in ("km", "px", "pixel", "pixels"):
            if width is not None:
                raise wrong
            width = float(number), "km" if unit.lower() == "km" else "pixels"
            continue
        try:
            read = pd.Timedelta(f"{number} {unit}").to_timedelta64().astype("timedelta64[ns]")
        except ValueError:
            raise wrong from None
        if time or not read:
            raise wrong
        time = read
    if width is not None and not width[0] > 0:
        raise wrong
    area = "" if width is None else f"{width[0]:g} {width[1]}"
    return " ".join(filter(None, (area, show_step(time) if time else ""))), width, time


def read_scales(
    told: Sequence[str], data: xr.DataArray, spatial: tuple[str, str], leads: npt.NDArray[np.timedelta64]
) -> tuple[Scale, ...]:
    """Return the scales that are told, on the grid of `data` and for these lead times.

    Raises
    ------
    RecipeError
        If one is no scale, is there twice, is narrower than two pixels or wider than the grid, or if no lead times fill
        its time.
    """
    scales: list[Scale] = []
    for each in (told,) if isinstance(told, str) else told:
        label, width, time = read_scale(each)
        rows, columns = (1, 1) if width is None else _pixels(label, width, data, spatial)
        scale = Scale(label, rows, columns, time)
        if time and not scale.windows(np.sort(leads)):
            ends = " to ".join(dict.fromkeys(show_step(leads[np.argsort(leads)[i]]) for i in (0, -1)))
            raise RecipeError(
                "scales",
                f"{label!r} of lead times {ends} in {leads.size} steps",
                "a time that several lead times in equal steps fill, from the init time on",
            )
        scales.append(scale)
    labels = [scale.label for scale in scales]
    if not labels or len(set(labels)) < len(labels):
        raise RecipeError("scales", f"are {labels}", "at least one, each once")
    return tuple(scales)


def _pixels(label: str, width: tuple[float, str], data: xr.DataArray, spatial: tuple[str, str]) -> tuple[int, int]:
    """Return how many rows and columns come nearest to a width."""
    number, unit = width
    sizes = []
    for dim, spacing in zip(spatial, (1.0, 1.0) if unit == "pixels" else _spacings(label, data, spatial), strict=True):
        size, known = max(1, round(number / spacing)), data.sizes[dim]
        if size > known:
            raise RecipeError(
                "scales", f"{label!r} is {size} pixels along {dim}, which has {known}", f"at most {known}"
            )
        sizes.append(size)
    if max(sizes) < 2:
        raise RecipeError("scales", f"{label!r} is one pixel of this grid", "a wider area, or 'pixel'")
    return sizes[0], sizes[1]


def _spacings(label: str, data: xr.DataArray, spatial: tuple[str, str]) -> tuple[float, float]:
    known = kilometres(data, spatial)
    if known is None:
        raise RecipeError(
            "scales",
            f"{label!r} on a grid whose {spatial[0]} and {spatial[1]} are not in m, km or degrees",
            "a width in pixels, such as '10 pixels'",
        )
    return known


def kilometres(data: xr.DataArray, spatial: tuple[str, str]) -> tuple[float, float] | None:
    """Return the kilometres between rows and between columns; None where the coordinates do not tell.

    Along a parallel in degrees they are those in the middle of the grid.
    """
    found = [kilometres_along(data, dim) for dim in spatial]
    if found[0] is None or found[1] is None:
        return None
    turned = _in_degrees(data, spatial[1])
    shrunk = max(float(np.cos(np.deg2rad(data[spatial[0]].values.mean()))), 1e-3) if turned else 1.0
    return found[0], found[1] * shrunk


def kilometres_along(data: xr.DataArray, dim: str) -> float | None:
    """Return the kilometres between the values of a coordinate in m, km or degrees of a great circle; else None."""
    if dim not in data.coords or data.sizes[dim] < 2 or data[dim].dtype.kind not in "iuf":
        return None
    units = str(data[dim].attrs.get("units", ""))
    factor = _PER_DEGREE if _in_degrees(data, dim) else _KILOMETRES.get(units)
    values = dims.unwrapped(data[dim])
    return None if factor is None else float(abs(values[-1] - values[0])) / (values.size - 1) * factor


def _in_degrees(data: xr.DataArray, dim: str) -> bool:
    units = str(data[dim].attrs.get("units", ""))
    return "degree" in units or str(dim).lower() in ("lat", "latitude", "lon", "longitude")
