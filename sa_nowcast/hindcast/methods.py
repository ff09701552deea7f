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

from sa_nowcast import dims
from sa_nowcast._version import __version__
from sa_nowcast.defaults import as_nowcaster, get_default_model
from sa_nowcast.devices import resolve_device
from sa_nowcast.errors import DataError
from sa_nowcast.frames import Frames
from sa_nowcast.hindcast.histories import content, taken
from sa_nowcast.labels import labelled
from sa_nowcast.nowcaster import Nowcaster
from sa_nowcast.verification.named import REFERENCES, Reference, reference
from sa_nowcast.windows import Positions

Values = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ByNetwork:
    """Forecasts by a trained network."""

    nowcaster: Nowcaster

    @property
    def history(self) -> int:
        """Frames up to an init time that a forecast needs."""
        return self.nowcaster.terms.history

    @property
    def refusal(self) -> str:
        """Why there is no forecast from some init time."""
        return f"a frame of its history of {self.history} has no valid value"

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
    ) -> tuple[Values, Flags]:
        """Return the forecasts ([member,] init time, then the dimensions of `one`), and which had a whole history."""
        steps = one.sizes[dims.LEAD_TIME]
        values, complete = self.nowcaster.forecast_batch(frames, positions, steps, resolve_device(device), tile)
        values = frames.field(values)
        if frames.channel_dim is None:
            return values[:, :, 0], complete
        return values.swapaxes(1, 2) if len(frames.arrays) > 1 else values, complete


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
    def refusal(self) -> str:
        """Why there is no forecast from some init time."""
        more = ", or there is too little rain" if self.reference.name in ("sprog", "steps") else ""
        return f"a frame of its history of {self.history} has no valid value{more}"

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
        values, extra = self._values(first.load(), place, steps)
        one.attrs |= extra
        if values.ndim > one.ndim + 1:
            members = np.arange(len(values))
            one = one.expand_dims({dims.REALIZATION: members}, axis=0).copy()
            one[dims.REALIZATION].attrs = dict(dims.REALIZATION_ATTRS)
        return one

    def block(
        self, frames: Frames, positions: Positions, one: xr.DataArray, device: str, tile: int
    ) -> tuple[Values, Flags]:
        """Return the forecasts ([member,] init time, then the dimensions of `one`), and which had a whole history."""
        windows = positions[:, None] + np.arange(1 - self.history, 1)
        seen = np.isfinite(frames.read(0, len(frames))).any(axis=(1, 2, 3))
        # The mean of other times needs no history.
        complete = np.asarray(seen)[windows].all(axis=1) | (self.reference.name == "climatology")
        values, _ = self._values(frames, positions, one.sizes[dims.LEAD_TIME])
        axis = int(dims.REALIZATION in one.dims)
        # S-PROG and STEPS find no forecast where there is next to no rain.
        there = np.moveaxis(np.isfinite(values), axis, 0).reshape(len(positions), -1).any(axis=1)
        complete = complete & (there | (self.reference.name not in ("sprog", "steps")))
        values[(slice(None),) * axis + (~complete,)] = np.nan
        return values, complete

    def _values(self, frames: Frames, positions: Positions, steps: int) -> tuple[Values, dict[str, Any]]:
        """Return ([member,] init, [variable,] lead, [channel,] y, x) and the attributes that the method gives."""
        leads = (np.arange(1, steps + 1) * frames.step).astype("timedelta64[ns]")
        # pysteps' methods look for y and x by their names, which the user may have told.
        names: dict[Hashable, Hashable] = {frames.grid.y: "y", frames.grid.x: "x"}
        flow = self.reference.name not in ("persistence", "climatology")
        parts = []
        attrs: dict[str, Any] = {}
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
            result = told.forecast(known, lead_times=leads, init_time=frames.times[positions], time=frames.time_dim)
            result = result.rename({v: k for k, v in names.items() if v in result.dims and k not in result.dims})
            for axis in (frames.grid.y, frames.grid.x):
                if axis in result.coords and axis in array.coords and not result[axis].equals(array[axis]):
                    raise DataError(
                        f"reference {told.name}, {axis}",
                        "its grid is another than the data's",
                        fix="give the same grid",
                    )
            order = [d for d in (dims.REALIZATION, dims.INIT_TIME, dims.LEAD_TIME) if d in result.dims]
            space = [d for d in array.dims if d != frames.time_dim]
            parts.append(np.array(result.transpose(*order, *space).values, dtype=np.float32))
            attrs = {str(k): v for k, v in result.attrs.items() if k in ("training_period", "cycle")}
        axis = 2 if dims.REALIZATION in result.dims else 1
        return (np.stack(parts, axis) if len(parts) > 1 else parts[0]), attrs


Method = ByNetwork | ByReference


def method_of(model: Nowcaster | Reference | str | Path | None) -> Method:
    """Return what forecasts: see `hindcast`."""
    if model is None:
        return ByNetwork(get_default_model())
    if isinstance(model, Reference):
        return ByReference(model)
    if isinstance(model, str) and model in REFERENCES:
        return ByReference(reference(model))
    return ByNetwork(as_nowcaster(model))
