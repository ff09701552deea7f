"""Reference forecasts by name, behind the call that a trained nowcaster has."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.computing import quiet
from sa_nowcast.errors import DataError, ForecastWarning, RecipeError
from sa_nowcast.forecasts.defaults import as_nowcaster
from sa_nowcast.forecasts.job import batch_of, content, plan, taken
from sa_nowcast.forecasts.labels import lead_positions, whole
from sa_nowcast.forecasts.method import (
    AS_ASKED,
    FELL_BACK,
    FILLED,
    MEAN,
    NONE_POSSIBLE,
    Axis,
    GridCheck,
    Inflow,
    Product,
    Statuses,
    Values,
    member_axis,
)
from sa_nowcast.frames import Frames, one_grid
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import normalised
from sa_nowcast.times import show_time
from sa_nowcast.verification.optical_flow import (
    FALLBACK_TIMES,
    HISTORY,
    MEMBERS,
    cadence,
    extrapolation,
    smoothed_extrapolation,
    sprog,
    steps,
    steps_mean,
)
from sa_nowcast.verification.pysteps_fields import AUTOREGRESSION
from sa_nowcast.verification.references import climatology, persistence
from sa_nowcast.windows import Positions

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster

REFERENCES: dict[str, Callable[..., xr.DataArray]] = {
    "persistence": persistence,
    "climatology": climatology,
    "extrapolation": extrapolation,
    "smoothed-extrapolation": smoothed_extrapolation,
    "sprog": sprog,
    "sprog-unmatched": partial(sprog, matched=False),
    "steps": steps,
    "steps-mean": steps_mean,
}
BY_PYSTEPS: Final = REFERENCES.keys() - {"persistence", "climatology"}
OF_RAIN: Final = {"sprog", "sprog-unmatched", "steps", "steps-mean"}
"""Those that forecast rain rates alone."""
_GROWTH: Final = re.compile(r"extrapolation\+(\d+(?:\.\d+)?)px")

# What `Reference.forecast` gives each of them; the other parameters are its options.
_GIVEN = {"data", "init_time", "lead_times", "time"}


@dataclass(frozen=True)
class Reference:
    """A forecast method that needs no training, by :func:`reference`.

    Attributes
    ----------
    name : str
    options : dict
        Options of the method, such as ``history`` of "extrapolation".
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def forecast(
        self,
        data: xr.DataArray | xr.Dataset,
        steps: int | None = None,
        *,
        init_time: Any = None,
        lead_times: Any = None,
        time: Hashable | None = None,
    ) -> xr.DataArray:
        """Forecast from `data`, as a nowcaster does.

        Parameters
        ----------
        data : DataArray or Dataset, dims (time, ..., y, x)
            Of a Dataset with several variables on the grid, all are forecast, along a leading ``variable``.
        steps : int, optional
            The number of lead times, at the step of `data`.
        init_time : datetime64 or sequence of them, optional
            By default the last time of `data`; a sequence gives an archive.
        lead_times : sequence of timedelta64 or str, optional
            In place of `steps`, such as ``["10min", "30min"]``; or some of them.
        time : hashable, optional
            The time dimension of `data`; found by its CF attributes, type or name otherwise.

        Returns
        -------
        DataArray, dims ([init_time,] [variable,] lead_time, ..., y, x)

        Raises
        ------
        RecipeError
            If neither `steps` nor `lead_times` is given, or a lead time is beyond `steps`.
        """
        array = as_array(normalised(data), time)
        told = str(dims.find_dim(array, "time", time))
        if steps is None and lead_times is None:
            raise RecipeError(self.name, "neither steps nor lead_times is given", "one of the two")
        if steps is not None and lead_times is None:
            lead_times = cadence(array, told) * np.arange(1, whole("steps", steps) + 1)
        elif steps is not None:
            lead_positions(lead_times, cadence(array, told), steps)
        options = dict(self.options)
        if isinstance(options.get("training"), xr.Dataset):
            options["training"] = as_array(options["training"], time)
        return REFERENCES[self.name](array, init_time=init_time, lead_times=lead_times, time=told, **options)

    plan = plan

    @property
    def identity(self) -> str:
        """What tells it from others, with its options."""
        options = {}
        for key, value in self.options.items():
            if isinstance(value, xr.DataArray | xr.Dataset):
                value = content(Frames.from_xarray(value, gaps="skip"))
            options[key] = value
        shown = ", ".join(f"{k}={v}" for k, v in sorted(options.items()))
        return self.name + (f" ({shown})" if shown else "")

    @property
    def history(self) -> int:
        """Frames up to an init time that a forecast needs."""
        least = AUTOREGRESSION + 1 if self.name in OF_RAIN else HISTORY if self.name in BY_PYSTEPS else 1
        return int(self.options.get("history", least))

    @property
    def usual_steps(self) -> None:
        """None: the number of lead times has to be asked for."""

    @property
    def axis(self) -> Axis | None:
        """The members of an ensemble; None where it gives one forecast."""
        return member_axis(int(self.options.get("members", MEMBERS))) if self.name == "steps" else None

    def accept(
        self, data: xr.DataArray | xr.Dataset, names: dims.DimNames = dims.UNNAMED, grid: GridCheck = "check"
    ) -> tuple[Reference, Frames]:
        """Return `data` as checked frames, on any grid."""
        return self, Frames.from_xarray(data, gaps="skip", **names._asdict())

    def making(self, product: Product, inflow: Inflow = FILLED, members: int = 0, seed: int = 0) -> Reference:
        """Return itself: it has no products, and its own options for members."""
        if members:
            raise RecipeError(
                "members",
                f"{members} of {self.name}",
                expected="a network",
                fix=f'leave members out, or take sa_nowcast.reference("steps", members={members})',
            )
        if inflow != FILLED:
            raise RecipeError("inflow", f"{inflow!r} of {self.name}", expected="a network", fix="leave inflow out")
        if product != MEAN:
            raise RecipeError("product", f"{product!r} of {self.name}", expected="a network", fix="leave product out")
        return self

    def tiling(
        self, frames: Frames, steps: int, batch_size: int | None, tile: int | None, device: str | None
    ) -> tuple[int, int]:
        """Return how many init times are computed at once, and 0: it takes no tiles."""
        if tile is not None:
            raise RecipeError("tile", f"given for {self.name}", expected="a network", fix="leave tile out")
        return batch_size or batch_of(frames.grid.height, frames.grid.width), 0

    def attributes(self, frames: Frames, positions: Positions, steps: int) -> dict[str, Any]:
        """Return the attributes of its forecasts.

        A first forecast shows what is missing (a library, a training period, units) before anything is written.
        """
        first, place = taken(frames, positions[:1], self.history)
        # Only climatology may lack something at later lead times.
        _, attrs, _ = self._values(first.load(), place, steps if self.name == "climatology" else 1)
        return {"sa_nowcast_version": __version__, "model": self.name, **attrs}

    def block(
        self, frames: Frames, positions: Positions, steps: int, device: str, tile: int
    ) -> tuple[Values, Statuses]:
        """Return the forecasts in the layout that a network's have, after the members, and how each was possible."""
        windows = positions[:, None] + np.arange(1 - self.history, 1)
        seen = np.isfinite(frames.read(0, len(frames))).any(axis=(1, 2, 3))
        # The mean of other times needs no history.
        complete = np.asarray(seen)[windows].all(axis=1) | (self.name == "climatology")
        values, _, fallen = self._values(frames, positions, steps)
        values[(slice(None),) * (self.axis is not None) + (~complete,)] = np.nan
        return values, np.where(complete, np.where(fallen, FELL_BACK, AS_ASKED), NONE_POSSIBLE).astype(np.uint8)

    def _values(
        self, frames: Frames, positions: Positions, steps: int
    ) -> tuple[Values, dict[str, Any], npt.NDArray[np.bool_]]:
        """Return values ([member,] init, [variable,] lead, [channel,] y, x), attributes, and where it fell back."""
        leads = (np.arange(1, steps + 1) * frames.step).astype("timedelta64[ns]")
        # pysteps' methods look for y and x by their names, which the user may have told.
        names: dict[Hashable, Hashable] = {frames.grid.y: "y", frames.grid.x: "x"}
        flow = self.name in BY_PYSTEPS
        parts = []
        attrs: dict[str, Any] = {}
        fallen = np.zeros(len(positions), dtype=bool)
        shown = [show_time(t) for t in frames.times[positions]]
        values = frames.field(frames.read(0, len(frames)))
        for i, array in enumerate(frames.arrays):
            # The values as they were read and checked, once.
            stacked = len(frames.arrays) > 1 or frames.channel_dim is None
            array = array.copy(data=values[:, i] if stacked else values)
            # As they were checked: the data may call them otherwise than by their dimension.
            array = array.assign_coords({frames.time_dim: (frames.time_dim, frames.times)})
            told = self
            training = told.options.get("training")
            if isinstance(training, xr.Dataset) and array.name in training:
                told = Reference(told.name, told.options | {"training": training[array.name]})
            known = array.rename({k: v for k, v in names.items() if flow and k != v and v not in array.coords})
            with quiet.warnings_ignored(ForecastWarning):  # told for the whole hindcast
                result = told.forecast(known, lead_times=leads, init_time=frames.times[positions], time=frames.time_dim)
            result = result.rename({v: k for k, v in names.items() if v in result.dims and k not in result.dims})
            for axis in (frames.grid.y, frames.grid.x):
                shared = axis in result.coords and axis in array.coords
                if shared and not dims.same_axis(array[axis].values, result[axis].values):
                    raise DataError(
                        f"reference {told.name}, {axis}",
                        "its grid is another than the data's",
                        fix="give the same grid",
                    )
            space = [d for d in array.dims if d != frames.time_dim]
            order = [*([dims.REALIZATION] if self.axis is not None else []), dims.INIT_TIME, dims.LEAD_TIME, *space]
            parts.append(np.array(result.transpose(*order).values, dtype=np.float32))
            attrs = {str(k): v for k, v in result.attrs.items() if k in ("training_period", "cycle")}
            fallen |= np.isin(shown, result.attrs.get(FALLBACK_TIMES, []))
        return (np.stack(parts, 1 + (self.axis is not None)) if len(parts) > 1 else parts[0]), attrs, fallen


def method_of(model: Nowcaster | Reference | str | Path | None) -> Nowcaster | Reference:
    """Return what forecasts: see `sa_nowcast.hindcast.hindcast`."""
    if isinstance(model, Reference):
        return model
    return reference(model) if isinstance(model, str) and is_reference(model) else as_nowcaster(model)


def is_reference(name: str) -> bool:
    """Say whether `name` is that of a reference."""
    return name in REFERENCES or growth_of(name) is not None


def growth_of(name: str) -> float | None:
    """Return the growth of width of "extrapolation+2px" and the like, in pixels per step; None of other names."""
    found = _GROWTH.fullmatch(name)
    return None if found is None else float(found[1])


def reference(name: str, **options: Any) -> Reference:
    """Return the reference forecast called `name`.

    Parameters
    ----------
    name : {"persistence", "climatology", "extrapolation", "smoothed-extrapolation", "sprog", "sprog-unmatched", \
"steps", "steps-mean"}
        "extrapolation+2px" is short for "smoothed-extrapolation" with ``growth=2``; any number may stand there.
    **options
        Those of :func:`climatology` (``training``, ``cycle``), :func:`extrapolation` (``history``),
        :func:`smoothed_extrapolation` (``history``, ``growth``), and of :func:`steps` and :func:`steps_mean`
        (``members``, ``seed``, ``kilometres_per_pixel``).

    Raises
    ------
    RecipeError
        If the name is unknown, or climatology has no training.
    """
    if (growth := growth_of(name)) is not None:
        name, options = "smoothed-extrapolation", {"growth": growth, **options}
    if name not in REFERENCES:
        raise RecipeError("reference", f"{name!r} is unknown", "one of " + ", ".join(REFERENCES))
    known = inspect.signature(REFERENCES[name]).parameters.keys() - _GIVEN
    unknown = sorted(set(options) - known)
    if unknown:
        raise RecipeError(f"reference {name}", f"option {unknown[0]!r} is unknown", ", ".join(sorted(known)) or "none")
    if name == "climatology" and "training" not in options:
        raise RecipeError(
            "reference climatology",
            "training is missing",
            "the observations that it averages",
            'sa_nowcast.reference("climatology", training=ds), with ds the frames to average',
        )
    return Reference(name, options)


def as_array(data: xr.DataArray | xr.Dataset, time: Hashable | None = None) -> xr.DataArray:
    """Return `data` as one array: of several variables with a leading ``variable`` and their units as coordinate."""
    if isinstance(data, xr.DataArray):
        return data
    data = dims.with_positions(data)
    found = dims.grids(data, {"time": time})
    if found:
        names = found[one_grid(data, found)]
    else:
        told = dims.find_dim(data, "time", time)
        names = [str(name) for name, array in data.data_vars.items() if told in array.dims and array.ndim >= 3]
    if not names:
        raise RecipeError(
            "data", f"the variables {list(map(str, data.data_vars))} are no sequence of frames", "(time, y, x)"
        )
    if len(names) == 1:
        array = data[names[0]]
        mapping = array.attrs.get("grid_mapping", array.encoding.get("grid_mapping"))
        return array.assign_coords({mapping: data[mapping]}) if mapping in data.data_vars else array
    array = data[names].to_array(dims.VARIABLE)
    units = [str(data[name].attrs.get("units", "")) for name in names]
    return array.assign_coords({dims.UNITS: (dims.VARIABLE, units)})
