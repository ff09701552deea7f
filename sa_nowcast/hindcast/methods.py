"""What forecasts: a network, or a reference, behind one face.

Both say how many frames of history they need, what they are, how one forecast is labelled, and forecast a block of
init times.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.computing import quiet
from sa_nowcast.computing.devices import resolve_device
from sa_nowcast.errors import DataError, ForecastWarning
from sa_nowcast.forecasts.defaults import as_nowcaster, get_default_model
from sa_nowcast.forecasts.labels import labelled
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.hindcast.histories import content, taken
from sa_nowcast.metadata import dims
from sa_nowcast.times import show_time
from sa_nowcast.verification.named import REFERENCES, Reference, reference
from sa_nowcast.verification.optical_flow import FALLBACK_TIMES
from sa_nowcast.windows import Positions

Values = npt.NDArray[np.float32]
Statuses = npt.NDArray[np.uint8]
"""For each init time one of the following."""
AS_ASKED, NONE_POSSIBLE, FELL_BACK = range(3)


@dataclass(frozen=True, eq=False)
class ByNetwork:
    """Forecasts by a trained network."""

    nowcaster: Nowcaster

    @property
    def history(self) -> int:
        """Frames up to an init time that a forecast needs."""
        return self.nowcaster.terms.history

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.nowcaster.network.config.name

    @property
    def identity(self) -> str:
        """What tells this method from others."""
        return f"{self.nowcaster.network.config.name} {self.nowcaster.digest}"

    def one(self, frames: Frames, positions: Positions, steps: int) -> xr.DataArray:
        """Return one labelled forecast; only its labels count."""
        nothing = np.zeros((steps, *frames.shape[1:]), dtype=np.float32)
        return labelled(frames, int(positions[0]), nothing, self.nowcaster.provenance_attrs(steps))

    def block(
        self, frames: Frames, positions: Positions, one: xr.DataArray, device: str, tile: int
    ) -> tuple[Values, Statuses]:
        """Return the forecasts ([member,] init time, then the dimensions of `one`), and how each was possible."""
        steps = one.sizes[dims.LEAD_TIME]
        values, complete = self.nowcaster.forecast_batch(frames, positions, steps, resolve_device(device), tile)
        values, status = frames.field(values), np.where(complete, AS_ASKED, NONE_POSSIBLE).astype(np.uint8)
        if frames.channel_dim is None:
            return values[:, :, 0], status
        return values.swapaxes(1, 2) if len(frames.arrays) > 1 else values, status


@dataclass(frozen=True, eq=False)
class ByReference:
    """Forecasts by a reference, in the layout and with the labels that a network's have."""

    reference: Reference

    @property
    def history(self) -> int:
        """Frames up to an init time that a forecast needs."""
        name = self.reference.name
        if name == "extrapolation":
            return int(self.reference.options.get("history", 3))
        return 3 if name in ("sprog", "steps") else 1

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.reference.name

    @property
    def identity(self) -> str:
        """What tells this method from others."""
        options = {}
        for key, value in self.reference.options.items():
            if isinstance(value, xr.DataArray | xr.Dataset):
                value = content(Frames.from_xarray(value, gaps="skip"))
            options[key] = value
        shown = ", ".join(f"{k}={v}" for k, v in sorted(options.items()))
        return self.reference.name + (f" ({shown})" if shown else "")

    def one(self, frames: Frames, positions: Positions, steps: int) -> xr.DataArray:
        """Return one labelled forecast; only its labels count."""
        nothing = np.zeros((steps, *frames.shape[1:]), dtype=np.float32)
        attrs = {"sa_nowcast_version": __version__, "model": self.reference.name}
        one = labelled(frames, int(positions[0]), nothing, attrs)
        # A first forecast shows what is missing (a library, a training period, units) before anything is written.
        first, place = taken(frames, positions[:1], self.history)
        values, extra, _ = self._values(first.load(), place, steps)
        one.attrs |= extra
        if values.ndim > one.ndim + 1:
            members = np.arange(len(values))
            one = one.expand_dims({dims.REALIZATION: members}, axis=0).copy()
            one[dims.REALIZATION].attrs = dict(dims.REALIZATION_ATTRS)
        return one

    def block(
        self, frames: Frames, positions: Positions, one: xr.DataArray, device: str, tile: int
    ) -> tuple[Values, Statuses]:
        """Return the forecasts ([member,] init time, then the dimensions of `one`), and how each was possible."""
        windows = positions[:, None] + np.arange(1 - self.history, 1)
        seen = np.isfinite(frames.read(0, len(frames))).any(axis=(1, 2, 3))
        # The mean of other times needs no history.
        complete = np.asarray(seen)[windows].all(axis=1) | (self.reference.name == "climatology")
        values, _, fallen = self._values(frames, positions, one.sizes[dims.LEAD_TIME])
        axis = int(dims.REALIZATION in one.dims)
        values[(slice(None),) * axis + (~complete,)] = np.nan
        return values, np.where(complete, np.where(fallen, FELL_BACK, AS_ASKED), NONE_POSSIBLE).astype(np.uint8)

    def _values(
        self, frames: Frames, positions: Positions, steps: int
    ) -> tuple[Values, dict[str, Any], npt.NDArray[np.bool_]]:
        """Return the values, what attributes the method gives, and which init times it made in another way.

        Values are ([member,] init, [variable,] lead, [channel,] y, x).
        """
        leads = (np.arange(1, steps + 1) * frames.step).astype("timedelta64[ns]")
        # pysteps' methods look for y and x by their names, which the user may have told.
        names: dict[Hashable, Hashable] = {frames.grid.y: "y", frames.grid.x: "x"}
        flow = self.reference.name not in ("persistence", "climatology")
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
            told = self.reference
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
            order = [d for d in (dims.REALIZATION, dims.INIT_TIME, dims.LEAD_TIME) if d in result.dims]
            space = [d for d in array.dims if d != frames.time_dim]
            parts.append(np.array(result.transpose(*order, *space).values, dtype=np.float32))
            attrs = {str(k): v for k, v in result.attrs.items() if k in ("training_period", "cycle")}
            fallen |= np.isin(shown, result.attrs.get(FALLBACK_TIMES, []))
        axis = 2 if dims.REALIZATION in result.dims else 1
        return (np.stack(parts, axis) if len(parts) > 1 else parts[0]), attrs, fallen


Method = ByNetwork | ByReference


def shortcomings(method: Method, frames: Frames, positions: Positions, status: Statuses) -> str:
    """Return one line about the init times from which no forecast was possible, or one in a simpler way; else none."""
    said = []
    for kind, what, why in (
        (NONE_POSSIBLE, "no forecast", refusal(method)),
        (FELL_BACK, "only a simpler forecast", "their history has too little rain or variation for it"),
    ):
        found = np.flatnonzero(status == kind)
        if found.size:
            first = frames.label(int(positions[found[0]]))
            said.append(f"{what} from {found.size} of {len(positions)} init times, first {first} ({why})")
    return f"{frames.name}: {method.name} gives {', and '.join(said)}" if said else ""


def refusal(method: Method) -> str:
    """Return why there is no forecast from some init time."""
    return f"a frame of its history of {method.history} has no valid value"


def method_of(model: Nowcaster | Reference | str | Path | None) -> Method:
    """Return what forecasts: see `hindcast`."""
    if model is None:
        return ByNetwork(get_default_model())
    if isinstance(model, Reference):
        return ByReference(model)
    if isinstance(model, str) and model in REFERENCES:
        return ByReference(reference(model))
    return ByNetwork(as_nowcaster(model))
