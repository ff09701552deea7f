"""A trained network with its scaling and its terms: labelled data in, labelled forecasts out.

The one place where tensors become labelled data again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.computing.devices import resolve_device
from sa_nowcast.computing.threads import sharing_cores
from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.forecasts.ensembles import Ensemble, exceedance, quantiles
from sa_nowcast.forecasts.job import batch_of, histories_of, plan
from sa_nowcast.forecasts.labels import whole
from sa_nowcast.forecasts.matched import Matched
from sa_nowcast.forecasts.method import (
    FILLED,
    MEAN,
    GridCheck,
    Inflow,
    Method,
    Product,
    Statuses,
    Values,
)
from sa_nowcast.forecasts.model import TrainedModel
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.models.calibrated import Calibrated
from sa_nowcast.models.estimate import fitting_tile, require_memory
from sa_nowcast.models.members import Lagrangian
from sa_nowcast.models.tiles import LEAST_TILE, blend
from sa_nowcast.scaling import Scaling
from sa_nowcast.stream import prepare
from sa_nowcast.windows import Positions

if TYPE_CHECKING:
    from torch import Tensor

    from sa_nowcast.models.lagrangian import LagrangianNetwork
    from sa_nowcast.models.members import Distribution


@dataclass(frozen=True, eq=False, repr=False)
class Nowcaster(TrainedModel):
    """A trained network, its scaling, its terms and where it comes from, as what forecasts.

    Made by `sa_nowcast.fit` and `sa_nowcast.load`.

    Attributes
    ----------
    network, scaling, terms, provenance, card, recipe, storage, calibration
        As for `sa_nowcast.forecasts.model.TrainedModel`.
    inflow : {"filled", "missing"}
        Of its forecasts; see `forecast`. Not saved.
    """

    inflow: Inflow = FILLED

    def forecast(
        self,
        data: xr.DataArray | xr.Dataset,
        steps: int | None = None,
        *,
        lead_times: Any = None,
        init_time: Any = None,
        product: Product = MEAN,
        inflow: Inflow = FILLED,
        members: int | None = None,
        seed: int = 0,
        grid: GridCheck = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        tile: int | None = None,
        device: str = "auto",
    ) -> xr.DataArray:
        """Forecast the frames after `init_time`.

        Parameters
        ----------
        data : DataArray or Dataset
            At least `history` frames up to and including `init_time`, at the model's cadence, in its units.
        steps : int, optional
            Lead times; by default as many as the model was trained for. More are allowed, and the attribute
            ``sa_nowcast_steps_beyond_training`` counts them: a network then runs on from its own output, or in
            Lagrangian coordinates from what it learned of shorter lead times.
        lead_times : sequence of timedelta64 or str, optional
            Which lead times are wanted, such as ``["10min", "30min"]``: multiples of the model's step, ascending. By
            default all up to `steps`; where both are given, none may be beyond `steps`.
        init_time : datetime-like, optional
            The time of the last known frame; by default the last one of `data`.
        product : {"mean", "matched"}
            The forecast of least squared error, which is smoother than what is observed, the more so at longer lead
            times; or the same pattern with the distribution of the last frame, as it grows or decays, so that
            heavy rain stays heavy and light rain does not spread. See `sa_nowcast.forecasts.matched`.
        inflow : {"filled", "missing"}
            What stands where the motion brings in what lay beyond the grid: an estimate from the values along the edge
            (default), or NaN, as an extrapolation has it. Networks with ``output="moving"`` know where that is, the
            default model among them.
        members : int, optional
            Draw so many members from the distribution of the forecast, coherent in space and time: each is a forecast
            as it might be observed. By default none: one forecast, of least squared error. Networks with
            ``output="moving"`` have a distribution, the default model among them; others by `sa_nowcast.calibrate`.
        seed : int, default 0
            Of the members: each is a function of seed, init time and its number, so it is the same among more members.
        grid : {"check", "any"}
            Whether a grid of another spacing or projection than the model's is refused (default) or allowed. Size and
            position of the grid are always free.
        time, y, x, channel : hashable, optional
            Dimension names, where CF attributes and common names do not tell.
        tile : int, optional
            Forecast a larger grid in overlapping square tiles of so many pixels, blended so that no seam shows: time
            and memory of self-attention then grow with the grid's area and not its square. By default the whole grid
            at once where memory can hold that, else the largest tile that it can hold.
        device : str
            ``auto`` (default), ``cpu``, ``cuda`` or ``cuda:N``.

        Returns
        -------
        DataArray, dims ([realization,] lead_time, [channel,] y, x), with variable first where there are several
            float32, in the input's units. Coordinates: lead_time, init_time (scalar), valid_time, and all of the
            input's that do not vary in time. NaN where the whole history was missing.

        Raises
        ------
        DataError
            Too few frames, a gap or an all-missing frame in the history, a time that is not there.
        ModelError
            Other units, cadence, channels or grid than the model was trained for, or a grid that memory cannot hold.
        RecipeError
            No such product, `steps` below 1, lead times that are no multiples of the step or beyond `steps`, or a tile
            below 16 pixels.
        """
        job = self.plan(
            data, steps, lead_times=lead_times, init_time=init_time, product=product, inflow=inflow, members=members,
            seed=seed, tile=tile, grid=grid, device=device, names=dims.DimNames(time, y, x, channel),
        )  # fmt: skip
        return job.compute()

    def exceedance(
        self,
        data: xr.DataArray | xr.Dataset,
        thresholds: Sequence[float | str],
        steps: int | None = None,
        *,
        lead_times: Any = None,
        init_time: Any = None,
        inflow: Inflow = FILLED,
        grid: GridCheck = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        device: str = "auto",
    ) -> xr.DataArray:
        """Return how likely the value is to be above thresholds, at each pixel and lead time.

        Those of the distribution whose members `forecast` draws; nothing is drawn for them. Where a field has a bound,
        it is known at twenty values and interpolated between them.

        Parameters
        ----------
        data : DataArray or Dataset
            As for `forecast`, of one variable.
        thresholds : float, or sequence of float or str
            In the units of the data, such as ``[1, 5]`` or ``["1 mm h-1"]``.
        steps, lead_times, init_time, inflow, grid, time, y, x, channel, device
            As for `forecast`.

        Returns
        -------
        DataArray, dims (threshold, lead_time, [channel,] y, x)
            float32 from 0 to 1, named ``probability_of_NAME_above_threshold``, with a coordinate ``threshold``.

        Raises
        ------
        DataError, ModelError, RecipeError
            As for `forecast`; thresholds in other units, or of several variables at once.
        """
        return exceedance(
            self, data, thresholds, steps=steps, lead_times=lead_times, init_time=init_time, inflow=inflow,
            grid=grid, device=device, names=dims.DimNames(time, y, x, channel),
        )  # fmt: skip

    def quantiles(
        self,
        data: xr.DataArray | xr.Dataset,
        probabilities: Sequence[float],
        steps: int | None = None,
        *,
        lead_times: Any = None,
        init_time: Any = None,
        inflow: Inflow = FILLED,
        grid: GridCheck = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        device: str = "auto",
    ) -> xr.DataArray:
        """Return quantiles of the distribution at each pixel and lead time.

        Parameters
        ----------
        data : DataArray or Dataset
            As for `forecast`.
        probabilities : float or sequence of float
            Between 0 and 1: how likely the value is to be at most the quantile.
        steps, lead_times, init_time, inflow, grid, time, y, x, channel, device
            As for `forecast`.

        Returns
        -------
        DataArray, dims (quantile, lead_time, [channel,] y, x)
            float32, in the input's units, with a coordinate ``quantile``.

        Raises
        ------
        DataError, ModelError, RecipeError
            As for `forecast`.
        """
        return quantiles(
            self, data, probabilities, steps=steps, lead_times=lead_times, init_time=init_time, inflow=inflow,
            grid=grid, device=device, names=dims.DimNames(time, y, x, channel),
        )  # fmt: skip

    plan = plan

    def export(
        self,
        path: str | Path,
        *,
        grid: Sequence[int] | None = None,
        steps: int | None = None,
        check: bool = True,
        replace: bool = False,
    ) -> Path:
        """Write this nowcaster as one file that ONNX Runtime or torch runs, without this package.

        The input ``history`` is float32 of shape (batch, time, channel, row, column), in the units of training, rows
        from north to south and columns from west to east, NaN where missing. The output ``forecast`` is (batch, lead,
        channel, row, column), in the same units and within the same bounds as this package's forecasts. Any batch size
        will do; the numbers of frames, rows and columns are those of the export. Of a calibrated model the mean is
        exported.

        Parameters
        ----------
        path : path
            Ends in ``.onnx`` (ONNX, opset 20; needs the extra ``onnx``) or ``.pt2`` (`torch.export`). Written whole or
            not at all.
        grid : (int, int), optional
            Rows and columns of the frames that will be forecast from. By default those that the network is bound to;
            where it is bound to none they have to be given.
        steps : int, optional
            Lead times; by default as many as the model was trained for.
        check : bool, default True
            Whether the file is compared with the nowcaster before it gets its name: both forecast from the same made-up
            histories, some values missing, and may differ by 1e-5 of the largest value. An ``.onnx`` is run by ONNX
            Runtime where that is installed; else the program that it is made of is compared.
        replace : bool, default False
            Whether a file that stands there is replaced.

        Returns
        -------
        Path

        Raises
        ------
        RecipeError
            Another ending, no grid, or one that the network cannot have.
        ModelError
            A network that cannot be exported, which is said with the reason; or the file gives another forecast.
        MissingLibraryError
            ONNX's libraries are not installed.
        StorageError
            Something stands there, or nothing can be written there.
        """
        from sa_nowcast.interop.export import export

        return export(self, path, grid=grid, steps=steps, check=check, replace=replace)

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
    ) -> tuple[Nowcaster, Frames]:
        """Return this nowcaster, or the default model as it is for `data`, and the data as checked frames."""
        known = [name for name, _ in self.terms.channels]
        variables = None
        if isinstance(data, xr.Dataset) and all(name in data.data_vars for name in known):
            variables = known  # other variables may stand beside those that the model knows, in any order
        frames = Frames.from_xarray(data, variables=variables, gaps="skip", step=self.terms.step, **names._asdict())
        self.terms.require(frames, grid)
        return self, frames

    def making(self, product: Product, inflow: Inflow = FILLED, members: int = 0, seed: int = 0) -> Method:
        """Return what gives this product: the model itself, `Matched` or an `Ensemble`; and this where air comes in."""
        if inflow not in get_args(Inflow):
            raise RecipeError("inflow", repr(inflow), expected=" or ".join(map(repr, get_args(Inflow))))
        if inflow != FILLED and self.network.config.output != "moving":
            raise RecipeError(
                "inflow",
                f"{inflow!r} of a network with output: {self.network.config.output}, which knows no motion",
                expected="output: moving",
                fix="leave inflow out, or take the default model",
            )
        if product not in get_args(Product):
            raise RecipeError("product", repr(product), expected=" or ".join(map(repr, get_args(Product))))
        # A copy would reckon its digest anew.
        chosen = self if inflow == self.inflow else replace(self, inflow=inflow)
        if members:
            if product != MEAN:
                raise RecipeError(
                    "members",
                    f"{members} of the product {product!r}",
                    expected="product='mean'",
                    fix="leave product out: members have the distribution of the observed values",
                )
            return Ensemble(chosen, members, seed)
        return chosen if product == MEAN else Matched(chosen)

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
        return prepare(torch.from_numpy(values).to(device), self.scaling, self.terms.history, by_window=by_window)[0]

    def _forecast(
        self, values: npt.NDArray[np.float32], steps: int, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Return forecasts in physical units, (B, steps, C, H, W), and where air comes in if that is to be missing."""
        with sharing_cores(), torch.inference_mode():
            x = self._given(values, device, not self.network.config.declared.needs_scaling)
            physical = self.scaling.to_physical(self.network(x, steps=steps), torch)
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
