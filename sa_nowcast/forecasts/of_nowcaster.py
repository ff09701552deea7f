"""What is made of a nowcaster's forecasts beside the mean itself: the parts of a `Method` that are the nowcaster's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import xarray as xr

from sa_nowcast.forecasts.method import FILLED, Axis, GridCheck, Inflow, Method, Product
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.windows import Positions

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster


@dataclass(frozen=True, eq=False)
class OfNowcaster:
    """A `Method` whose checks and data are those of a nowcaster; what it computes is for a subclass to say."""

    nowcaster: Nowcaster

    @property
    def name(self) -> str:
        """What messages call it: the name of the network."""
        return self.nowcaster.name

    @property
    def history(self) -> int:
        """Frames up to an init time that a forecast needs."""
        return self.nowcaster.history

    @property
    def usual_steps(self) -> int:
        """Lead times that the model was trained for."""
        return self.nowcaster.usual_steps

    @property
    def axis(self) -> Axis | None:
        """None: it gives one forecast."""
        return None

    def accept(
        self, data: xr.DataArray | xr.Dataset, names: dims.DimNames = dims.UNNAMED, grid: GridCheck = "check"
    ) -> tuple[Self, Frames]:
        """Return this for the nowcaster as it is for `data`, and the data as checked frames."""
        nowcaster, frames = self.nowcaster.accept(data, names, grid)
        return replace(self, nowcaster=nowcaster), frames

    def making(self, product: Product, inflow: Inflow = FILLED, members: int = 0, seed: int = 0) -> Method:
        """Return what gives a product of the same model."""
        return self.nowcaster.making(product, inflow, members, seed)

    def tiling(
        self, frames: Frames, steps: int, batch_size: int | None, tile: int | None, device: str | None
    ) -> tuple[int, int]:
        """Return how many init times are computed at once, and the width of tiles, as for the mean forecast."""
        return self.nowcaster.tiling(frames, steps, batch_size, tile, device)

    def attributes(self, frames: Frames, positions: Positions, steps: int) -> dict[str, Any]:
        """Return the attributes that say which model a forecast is by."""
        return dict(self.nowcaster.attributes(frames, positions, steps))
