"""What runs a trained network on checked histories: values in, values out, and where air comes in.

The one place where tensors become labelled data again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.computing.devices import resolve_device
from sa_nowcast.computing.threads import sharing_cores
from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.forecasts.job import batch_of, histories_of
from sa_nowcast.forecasts.labels import whole
from sa_nowcast.forecasts.method import FILLED, MEAN, GridCheck, Inflow, Statuses, Values
from sa_nowcast.forecasts.model import TrainedModel
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.models.calibrated import Calibrated
from sa_nowcast.models.estimate import fitting_tile, require_memory
from sa_nowcast.models.members import Lagrangian
from sa_nowcast.models.repeats import without_gaps
from sa_nowcast.models.tiles import LEAST_TILE, blend
from sa_nowcast.scaling import Scaling
from sa_nowcast.stream import prepare
from sa_nowcast.windows import Positions

if TYPE_CHECKING:
    from torch import Tensor

    from sa_nowcast.models.lagrangian import LagrangianNetwork
    from sa_nowcast.models.members import Distribution


@dataclass(frozen=True, eq=False, repr=False)
class RunningModel(TrainedModel):
    """A trained model that forecasts from checked frames: a `Method`, but for what it makes of a forecast.

    Attributes
    ----------
    network, scaling, terms, provenance, card, recipe, storage, calibration
        As for `sa_nowcast.forecasts.model.TrainedModel`.
    inflow : {"filled", "missing"}
        Of its forecasts; see `sa_nowcast.Nowcaster.forecast`. Not saved.
    """

    inflow: Inflow = FILLED

    @property
    def name(self) -> str:
        """What messages call it: the name of its network."""
        return self.network.config.name

    @property
    def identity(self) -> str:
        """What tells it from others."""
        return f"{self.name} {self.digest}" + ("" if self.inflow == FILLED else ", inflow missing")

    @property
    def history(self) -> int:
        """Frames up to an init time that a forecast needs."""
        return self.terms.history

    @property
    def usual_steps(self) -> int:
        """Lead times that it was trained for."""
        return self.terms.steps

    @property
    def axis(self) -> None:
        """None: it gives one forecast."""

    def accept(
        self, data: xr.DataArray | xr.Dataset, names: dims.DimNames = dims.UNNAMED, grid: GridCheck = "check"
    ) -> tuple[Self, Frames]:
        """Return this model, or the default one as it is for `data`, and the data as checked frames."""
        known = [name for name, _ in self.terms.channels]
        variables = None
        if isinstance(data, xr.Dataset) and all(name in data.data_vars for name in known):
            variables = known  # other variables may stand beside those that the model knows, in any order
        frames = Frames.from_xarray(data, variables=variables, gaps="skip", step=self.terms.step, **names._asdict())
        self.terms.require(frames, grid)
        return self, frames

    def tiling(
        self, frames: Frames, steps: int, batch_size: int | None, tile: int | None, device: str | None
    ) -> tuple[int, int]:
        """Return how many init times are computed at once, and the width of tiles; 0 is the whole grid at once.

        On a cluster (`device` is None) the memory of this process stands for that of the workers.
        """
        if tile is not None and whole("tile", tile) < LEAST_TILE:
            raise RecipeError("tile", f"{tile}", expected=f"at least {LEAST_TILE} pixels")
        where = "cpu" if device is None else resolve_device(device)
        config, grid = self.network.config, (frames.grid.height, frames.grid.width)
        height, width = (-(-min(n, tile or n) // config.patch) for n in grid)
        batch = batch_size or batch_of(height, width)
        if tile is not None:
            return batch, tile if max(grid) > tile else 0
        return batch, fitting_tile(config, grid, batch, history=self.history, steps=steps, device=where) or 0

    def attributes(self, frames: Frames, positions: Positions, steps: int) -> dict[str, Any]:
        """Return the attributes that say which model a forecast of `steps` lead times is by."""
        attrs: dict[str, Any] = {
            "sa_nowcast_version": __version__,
            "sa_nowcast_model": self.digest,
            "sa_nowcast_network": self.name,
            "sa_nowcast_product": MEAN,
            "sa_nowcast_training_period": str(self.provenance.get("training_period", "unknown")),
            "sa_nowcast_recipe": str(self.provenance.get("recipe", "unknown")),
        }
        if self.inflow != FILLED:
            attrs["sa_nowcast_inflow"] = self.inflow
        if steps > self.terms.steps:
            attrs["sa_nowcast_steps_beyond_training"] = steps - self.terms.steps
        return attrs

    def block(
        self, frames: Frames, positions: Positions, steps: int, device: str, tile: int = 0
    ) -> tuple[Values, Statuses]:
        """Forecast from many init times in one call of the network, each from its own history alone.

        Frames that several histories share are read once. A pixel is NaN where its whole history was missing.
        """
        histories = histories_of(frames, positions, self.history)
        if histories.complete.any():
            forecast = self._predict(histories.values, steps, resolve_device(device), tile)
        else:
            forecast = np.empty((len(positions), steps, *frames.shape[1:]), dtype=np.float32)
        return histories.finished(forecast, frames)

    def require_memory(self, grid: tuple[int, int], batch: int, steps: int, device: str | torch.device) -> None:
        """Refuse forecasts from `batch` init times at once, of a whole grid or a tile, that memory cannot hold."""
        require_memory(
            self.network.config, grid, batch, history=self.history, steps=steps, training=False, device=device
        )

    def _predict(
        self, values: npt.NDArray[np.float32], steps: int, device: torch.device, tile: int
    ) -> npt.NDArray[np.float32]:
        """Run the network on histories (B, T, C, H, W), in tiles where there are any; return (B, steps, C, H, W)."""
        height, width = values.shape[-2:]
        self.require_memory((tile, tile) if tile else (height, width), len(values), steps, device)
        if tile:
            return blend(values, tile, lambda part: self._run(part, steps, device), steps)
        return self._run(values, steps, device)

    @property
    def law_identity(self) -> str:
        """What tells its distribution from others."""
        return self.identity + ("" if self.calibration is None else f", calibrated {self.calibration.digest}")

    @property
    def law_scaling(self) -> Scaling:
        """The scaling of what `laws` are in: those of a calibration are in the units of the data."""
        if self.calibration is None:
            return self.scaling
        return Scaling(tuple(replace(c, kind="affine", offset=0.0, scale=1.0) for c in self.scaling.channels))

    def laws(
        self, values: npt.NDArray[np.float32], steps: int, device: str
    ) -> tuple[list[Distribution], Tensor | None]:
        """Return the distributions of forecasts from histories (B, T, C, H, W), one for each sample and channel.

        They are in what the network gives, or in physical units: see `law_scaling`. Beside them stands where air comes
        in from beyond the grid, (B, steps, C, H, W), if that is to be missing.

        Raises
        ------
        ModelError
            The network has no distribution and was not calibrated, or not for so many lead times.
        """
        if self.calibration is not None:
            self.calibration.require(steps)
            physical, beyond = self._forecast(values, steps, resolve_device(device))
            maps = physical.float().cpu().transpose(1, 2).flatten(0, 1)
            tables = self.calibration.tables
            return [Calibrated(mean, tables[i % len(tables)]) for i, mean in enumerate(maps)], beyond
        config = self.network.config
        if config.output != "moving":
            raise ModelError(
                self.name,
                f"a network with output: {config.output}, which forecasts no distribution",
                expected="output: moving, or a calibrated model",
                fix="calibrate it (sa_nowcast.calibrate, sa-nowcast calibrate), take the default model, or train with "
                "network={'output': 'moving'} and distribution=True",
            )
        x = self._given(values, resolve_device(device), by_window=True)
        network = cast("LagrangianNetwork", self.network)
        laws: list[Distribution] = [Lagrangian(law) for law in network.laws(x, steps)]
        return laws, None if self.inflow == FILLED else network.inflow(x, steps)

    def bounded(self, forecast: Values, values: npt.NDArray[np.float32]) -> Values:
        """Return forecasts (..., B, steps, C, H, W) within the bounds that their histories show."""
        return forecast

    def _given(self, values: npt.NDArray[np.float32], device: torch.device, by_window: bool) -> Tensor:
        """Return histories as the network takes them, which is ready to forecast."""
        self.network.to(device).eval()
        given = torch.from_numpy(values).to(device)
        x, observed = prepare(given, self.scaling, self.terms.history, by_window=by_window)
        return without_gaps(x, observed) if self.network.config.output == "moving" else x

    def _forecast(
        self, values: npt.NDArray[np.float32], steps: int, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Return forecasts in physical units, (B, steps, C, H, W), and where air comes in if that is to be missing."""
        with sharing_cores(), torch.inference_mode():
            x = self._given(values, device, not self.network.config.declared.needs_scaling)
            given = self.network(x, steps=steps)
            physical = torch.empty_like(given, memory_format=torch.contiguous_format)
            for step in range(steps):  # one at a time: of a large grid, all would be in memory three times
                physical[:, step] = self.scaling.to_physical(given[:, step], torch)
            beyond = None if self.inflow == FILLED else cast("LagrangianNetwork", self.network).inflow(x, steps)
        return physical, beyond

    def _run(self, values: npt.NDArray[np.float32], steps: int, device: torch.device) -> npt.NDArray[np.float32]:
        physical, beyond = self._forecast(values, steps, device)
        result: npt.NDArray[np.float32] = physical.float().cpu().numpy()
        # One sum meets every NaN and infinite value there is.
        if not np.isfinite(result.sum(dtype=np.float64)):
            raise ModelError(
                ", ".join(name for name, _ in self.terms.channels),
                "the network gives values that are no finite numbers",
                expected="finite values",
                fix="give another model, or train this one again",
            )
        if beyond is not None:
            result[beyond.cpu().numpy()] = np.nan
        return result
