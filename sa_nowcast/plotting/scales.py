"""Labels and colour scales of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.metadata import attributes
from sa_nowcast.metadata.dims import canonical_units, is_rain
from sa_nowcast.times import nearest, read_time, show_time

if TYPE_CHECKING:
    from matplotlib.colors import Colormap, Normalize

Array = npt.NDArray[np.float64]

RAIN_LEVELS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
RAIN_COLOURS = (
    "#dbe9f6", "#a9cfe8", "#6aaed6", "#2f7ebc", "#1a9850", "#a6d96a", "#fee08b", "#fc8d59", "#d73027", "#8e0152",
)  # fmt: skip
MINUS = "\N{MINUS SIGN}"
DRY, MISSING = "#ffffff", "#b3b3b3"
# Millimetres per hour in one of these units, and millimetres of an amount; the levels are divided by it.
_MM_PER_HOUR = {
    "mm h-1": 1.0,
    "kg m-2 h-1": 1.0,
    "kg m-2 s-1": 3600.0,
    "mm s-1": 3600.0,
    "mm min-1": 60.0,
}
_MM = {"mm": 1.0, "kg m-2": 1.0}


def choose(data: xr.DataArray, role: str = "forecast", **labels: object) -> xr.DataArray:
    """Return `data` with one label of each named dimension selected; None drops a dimension of size 1.

    `role` says in errors what `data` is. A `RecipeError` is raised where none of several labels is chosen, or one that
    is not there.
    """
    for dim, label in labels.items():
        if dim not in data.dims:
            continue
        known = data[dim].values
        labelled = [show_time(item) if known.dtype.kind == "M" else str(item) for item in known[:6]]
        shown = ", ".join(labelled) + (f" and {known.size - 6} more" if known.size > 6 else "")
        if label is None:
            if data.sizes[dim] != 1:
                raise RecipeError(
                    f"plot of {role}",
                    f"it has {data.sizes[dim]} of {dim} and none is chosen",
                    f"one of {shown}",
                    f"pass {dim}={labelled[0]!r}",
                )
            data = data.isel({dim: 0})
            continue
        try:
            if known.dtype.kind == "M":
                place, there = nearest(data[dim].values, read_time(label, dim))
                if not there:
                    raise KeyError(label)
                data = data.isel({dim: int(place)})
                continue
            texts = [str(item) for item in known]
            if isinstance(label, str) and known.dtype.kind in "iufb" and texts.count(label) == 1:
                data = data.isel({dim: texts.index(label)})  # a number from the command line
                continue
            data = data.sel({dim: np.asarray(label, data[dim].dtype) if data[dim].dtype.kind == "m" else label})
        except (KeyError, ValueError, TypeError):
            raise RecipeError(f"plot of {role}", f"{dim} {label} is not in it", f"one of {shown}") from None
    return data


def choose_variable(data: xr.Dataset, names: Sequence[str], variable: object, role: str) -> xr.DataArray:
    """Return one of the variables `names`, as `choose` does a label; the only one where `variable` is None."""
    shown = (", ".join(names[:6]) or "none") + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    if variable is not None and variable not in names:
        raise RecipeError(f"plot of {role}", f"variable {variable} is not in it", f"one of {shown}")
    if variable is None and len(names) > 1:
        found = f"it has {len(names)} variables and none is chosen"
        raise RecipeError(f"plot of {role}", found, f"one of {shown}", f"pass variable={names[0]!r}")
    return data[names[0] if variable is None else str(variable)]


def require_columns(columns: int) -> None:
    """Refuse a figure without columns."""
    if columns < 1:
        raise RecipeError("columns", f"is {columns}", "at least 1")


def clock(time: Any, day: Any = None) -> str:
    """Return a time as titles show it, to the second at most; without its day where that is `day`."""
    minute = np.datetime64(time, "s")
    text = str(np.datetime_as_string(minute)).replace("T", " ")
    text = text.removesuffix(":00")
    if day is not None and text[:10] == str(np.datetime64(day, "D")):
        return text[11:]
    return text


@dataclass(frozen=True)
class Scale:
    """A colour scale with the label, the ends and the ticks of its colour bar."""

    cmap: Colormap
    norm: Normalize
    label: str
    extend: str
    ticks: tuple[float, ...] | None = None


def name_and_units(data: xr.DataArray) -> tuple[str, str]:
    """Return the name of `data` in words, and its units; both from the attributes where they are there."""
    given = (attributes.text(data.attrs.get(key)) for key in ("long_name", "standard_name"))
    name = next(filter(None, given), None) or str(data.name or "value")
    if "variable" in data.coords and not data.coords["variable"].ndim:  # one that was chosen of several
        known = data.coords["long_name"].item() if "long_name" in data.coords else ""
        name = str(known or data.coords["variable"].item())
    units = data.coords["units"].item() if "units" in data.coords and not data.coords["units"].ndim else None
    return name.replace("_", " "), attributes.text(units if units is not None else data.attrs.get("units")) or ""


def with_units(name: str, units: str) -> str:
    """Return "name (units)", or the name alone where there are none to speak of."""
    return f"{name} ({units})" if units not in ("", "1") else name


def rain_scale(factor: float, text: str) -> Scale:
    """Return discrete colours at levels spaced like a logarithm, for rain in mm h-1 times 1 / `factor`."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    levels = tuple(level / factor for level in RAIN_LEVELS)
    cmap = ListedColormap(RAIN_COLOURS[:-1]).with_extremes(bad=MISSING, under=DRY, over=RAIN_COLOURS[-1])
    return Scale(cmap, BoundaryNorm(levels, len(levels) - 1), text, "both", levels)


def value_scale(frames: Sequence[Array], text: str, name: str = "viridis", *, from_zero: bool = False) -> Scale:
    """Return even colours over all but the outermost hundredth of the values in `frames`."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    present = np.concatenate([frame[np.isfinite(frame)].ravel() for frame in frames]) if frames else np.zeros(0)
    if not present.size:
        present = np.array([0.0, 1.0])
    lowest, highest = float(present.min()), float(present.max())
    low, high = (float(value) for value in np.percentile(present, (0.5, 99.5)))
    if from_zero or (lowest >= 0 and low < 0.25 * high):
        low = 0.0
    if high <= low:
        high = highest if highest > low else low + (abs(low) or 1.0)
    below, above = lowest < low, highest > high
    extend = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}[below, above]
    return Scale(colormaps[name].with_extremes(bad=MISSING), Normalize(low, high), text, extend)


def shared_scale(one: xr.DataArray, frames: Sequence[Array], step: np.timedelta64 | None = None) -> Scale:
    """Return the scale of all the panels that show values: discrete for rain rates, else over what is there."""
    name, units = name_and_units(one)
    text = with_units(name, units)
    factor = rain_in_mm_per_hour(one, step)
    return value_scale(frames, text) if factor is None else rain_scale(factor, text)


def rain_in_mm_per_hour(one: xr.DataArray, step: np.timedelta64 | None = None) -> float | None:
    """Return how many mm h-1 one of the units of `one` is; None where it is not rain.

    An amount fell within one step, as `step` or the lead times tell it; where there are none it is taken as that of an
    hour.
    """
    units = name_and_units(one)[1]
    if not is_rain({**one.attrs, "units": units}):
        return None
    known = canonical_units(units) or ""
    if known in _MM and step is not None:
        return _MM[known] / float(step / np.timedelta64(1, "h"))
    if known in _MM and "lead_time" in one.coords:
        leads = np.sort(np.atleast_1d(one["lead_time"].values)) / np.timedelta64(1, "h")
        steps = np.diff(leads, prepend=0.0)
        return _MM[known] / float(steps[steps > 0].min()) if (steps > 0).any() else _MM[known]
    return _MM_PER_HOUR.get(known, _MM.get(known))
