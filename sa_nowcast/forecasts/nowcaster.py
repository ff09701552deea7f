"""A trained model as users call it: labelled data in, labelled forecasts, probabilities, members and files out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.forecasts.ensembles import Ensemble, exceedance, quantiles
from sa_nowcast.forecasts.job import plan
from sa_nowcast.forecasts.matched import Matched
from sa_nowcast.forecasts.method import FILLED, MEAN, GridCheck, Inflow, Method, Product
from sa_nowcast.forecasts.running import RunningModel
from sa_nowcast.metadata import dims


@dataclass(frozen=True, eq=False, repr=False)
class Nowcaster(RunningModel):
    """A trained network, its scaling, its terms and where it comes from, as what forecasts.

    Made by `sa_nowcast.fit` and `sa_nowcast.load`.

    Attributes
    ----------
    network, scaling, terms, provenance, card, recipe, storage, calibration
        As for `sa_nowcast.forecasts.model.TrainedModel`.
    inflow : {"filled", "missing"}
        Of its forecasts; see `forecast`. Not saved.
    """

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
