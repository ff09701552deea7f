"""What forecasts, a trained network or a reference: what a `Job` needs of it, and how a forecast was possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.windows import Positions

Missing = Literal["nan", "refuse"]
Product = Literal["mean", "matched"]
"""What a forecast is: of least squared error, or probability-matched; see `sa_nowcast.forecasts.matched`."""
MEAN: Final = "mean"
Inflow = Literal["filled", "missing"]
"""What stands where the motion brings in what lay beyond the grid: an estimate, or NaN."""
FILLED: Final = "filled"
GridCheck = Literal["check", "any"]
Data = xr.DataArray | xr.Dataset
Values = npt.NDArray[np.float32]
Statuses = npt.NDArray[np.uint8]
"""For each init time one of the following."""
AS_ASKED, NONE_POSSIBLE, FELL_BACK = range(3)


@dataclass(frozen=True)
class Axis:
    """The dimension that forecasts of a distribution have before all others: members, thresholds or quantiles."""

    name: str
    values: npt.NDArray[Any]
    attrs: Mapping[str, Any]


def member_axis(members: int) -> Axis:
    """Return the dimension of so many members of an ensemble."""
    return Axis(dims.REALIZATION, np.arange(members), dims.REALIZATION_ATTRS)


class Method(Protocol):
    """What forecasts. `plan` checks by it, and a `Job` computes by it."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def identity(self) -> str:
        """What tells it from others, with its weights or options."""

    @property
    def history(self) -> int:
        """Frames up to an init time that a forecast needs."""

    @property
    def usual_steps(self) -> int | None:
        """Lead times where none are asked for; None where they have to be."""

    @property
    def axis(self) -> Axis | None:
        """The first dimension of its forecasts; None where it gives one forecast from each init time."""

    def accept(self, data: Data, names: dims.DimNames, grid: GridCheck) -> tuple[Method, Frames]:
        """Return `data` as checked frames, and the method that forecasts from them."""

    def making(self, product: Product, inflow: Inflow = FILLED, members: int = 0, seed: int = 0) -> Method:
        """Return the method that gives this product, and this where air comes in; or refuse what it has not.

        With members it is the one that draws so many from the distribution of the forecast, by a seed.
        """

    def tiling(
        self, frames: Frames, steps: int, batch_size: int | None, tile: int | None, device: str | None
    ) -> tuple[int, int]:
        """Return how many init times are computed at once, and the width of tiles; 0 is the whole grid at once.

        `device` is None where another machine computes.
        """

    def attributes(self, frames: Frames, positions: Positions, steps: int) -> Mapping[str, Any]:
        """Return the attributes that say by what a forecast is."""

    def block(
        self, frames: Frames, positions: Positions, steps: int, device: str, tile: int
    ) -> tuple[Values, Statuses]:
        """Return the forecasts ([axis,] init time, [variable,] lead time, [channel,] y, x), and their statuses."""


def shortcomings(method: Method, frames: Frames, positions: Positions, status: Statuses) -> str:
    """Return one line about the init times from which no forecast was possible, or one in a simpler way; else none."""
    said = []
    for kind, what, why in (
        (NONE_POSSIBLE, "no forecast", no_value(method)),
        (FELL_BACK, "only a simpler forecast", "their history has too little rain or variation for it"),
    ):
        found = np.flatnonzero(status == kind)
        if found.size:
            first = frames.label(int(positions[found[0]]))
            said.append(f"{what} from {found.size} of {len(positions)} init times, first {first} ({why})")
    return f"{frames.name}: {method.name} gives {', and '.join(said)}" if said else ""


def no_value(method: Method) -> str:
    """Return why there is no forecast where a frame has no value."""
    return f"a frame of its history of {method.history} has no valid value"
