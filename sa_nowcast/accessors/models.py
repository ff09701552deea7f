"""Methods of ``.sa_nowcast`` that train, forecast and score."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from sa_nowcast.accessors.gridded import Gridded
from sa_nowcast.forecasts.defaults import as_nowcaster
from sa_nowcast.metadata.bounds import UNIT_RANGE
from sa_nowcast.shown import described_by
from sa_nowcast.times import Gaps

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from lightning.pytorch.loggers import Logger

    from sa_nowcast.forecasts.nowcaster import Nowcaster
    from sa_nowcast.models import NetworkConfig
    from sa_nowcast.stream import SequenceDataset, SequenceLoader
    from sa_nowcast.verification import Bootstrap, Reference


class OfModels(Gridded):
    """Train, forecast and score."""

    @described_by("training.fit.fit")
    def fit(
        self,
        *,
        history: int,
        steps: int,
        network: Mapping[str, Any] | NetworkConfig | None = None,
        start: str | Path | Nowcaster | None = None,
        scaling: str = "auto",
        validation: float = 0.2,
        guard: int | None = None,
        variables: Sequence[str] | None = None,
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        gaps: Gaps = "refuse",
        folder: str | Path | None = None,
        progress: bool = True,
        report: Callable[[str], None] | None = None,
        loggers: Sequence[Logger] = (),
        **training: Any,
    ) -> Nowcaster:
        """Train a network on these frames and return the nowcaster with the best validation loss; see `sa_nowcast.fit`.

        Parameters
        ----------
        **training
            Fields of `sa_nowcast.recipe.TrainingRecipe`, which says what each is: ``acceleration``, ``augment``,
            ``average``, ``balanced_leads``, ``batch_size``, ``checkpoint_every``, ``clip_norm``,
            ``context_truth_rise``, ``context_truth_start``, ``crop``, ``device``, ``distribution``, ``learning_rate``,
            ``log_every``, ``loss``, ``max_steps``, ``max_time``, ``optimizer``, ``patience``, ``pictures``,
            ``precision``, ``preset``, ``rain_weights``, ``reversed_input``, ``schedule``, ``seed``, ``tensorboard``,
            ``train_core``, ``truth_decay``, ``truth_start``, ``validate_every``, ``validation_samples``, ``warm_up``,
            ``weight_decay``, ``workers``.
        """
        from sa_nowcast.training.fit import fit

        return fit(
            self._obj, history=history, steps=steps, network=network, start=start, scaling=scaling,
            validation=validation, guard=guard, variables=variables, time=time, y=y, x=x, channel=channel, gaps=gaps,
            folder=folder, progress=progress, report=report, loggers=loggers, **training,
        )  # fmt: skip

    @described_by("stream.dataset.SequenceDataset")
    def loader(
        self,
        *,
        history: int,
        steps: int,
        batch_size: int = 8,
        workers: int = 0,
        variables: Sequence[str] | None = None,
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        gaps: Gaps = "refuse",
        stride: int = 1,
        period: Literal["train", "validation", "test"] | None = None,
        validation: float = 0.2,
        test: float = 0.2,
        guard: int | None = None,
        starts: Sequence[int] | npt.NDArray[np.int64] | None = None,
        ends: Sequence[int] | npt.NDArray[np.int64] | None = None,
        crop: int | tuple[int, int] | None = None,
        wet_threshold: float = 0.0,
        wet_fraction: float = 0.0,
        flips: bool = False,
        turns: bool = False,
        seed: int = 0,
        shuffle: bool = True,
        cache_bytes: int = 128 * 2**20,
        in_memory: bool | None = None,
        device: str | torch.device | None = None,
    ) -> SequenceLoader[SequenceDataset]:
        """Return a torch DataLoader over the windows of these data, an epoch an iteration.

        It is `sa_nowcast.stream.loader`, which has more ways to go on, over a `sa_nowcast.SequenceDataset`. A batch is
        (batch, time, channel, y, x) in physical units, NaN where missing. Other parameters as for the dataset.

        Parameters
        ----------
        batch_size : int, default 8
            Windows a batch, in this process.
        workers : int, default 0
            Processes that read; 0 reads in this one. The batches are the same with any number.

        Returns
        -------
        SequenceLoader
        """
        from sa_nowcast.stream import SequenceDataset, loader

        dataset = SequenceDataset(
            self._obj, history, steps, variables=variables, time=time, y=y, x=x, channel=channel, gaps=gaps,
            stride=stride, period=period, validation=validation, test=test, guard=guard, starts=starts, ends=ends,
            crop=crop,
            wet_threshold=wet_threshold, wet_fraction=wet_fraction, flips=flips, turns=turns, seed=seed,
            shuffle=shuffle, cache_bytes=cache_bytes, in_memory=in_memory, device=device,
        )  # fmt: skip
        return loader(dataset, batch_size, workers=workers)

    @described_by("forecasts.nowcaster.forecast")
    def forecast(
        self,
        steps: int | None = None,
        *,
        model: Nowcaster | str | Path | None = None,
        lead_times: Any = None,
        init_time: Any = None,
        product: Literal["mean", "matched"] = "mean",
        inflow: Literal["filled", "missing"] = "filled",
        members: int | None = None,
        seed: int = 0,
        grid: Literal["check", "any"] = "check",
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
        model : Nowcaster or path, optional
            By default the one set with `sa_nowcast.set_default_model`, or the one that the environment variable
            ``SA_NOWCAST_MODEL`` names, or else the model that ships, which forecasts any field.
        """
        return as_nowcaster(model).forecast(
            self._obj, steps, lead_times=lead_times, init_time=init_time, product=product, inflow=inflow,
            members=members, seed=seed, grid=grid, time=time, y=y, x=x, channel=channel, tile=tile, device=device,
        )  # fmt: skip

    @described_by("forecasts.nowcaster.exceedance")
    def exceedance(
        self,
        thresholds: Sequence[float | str],
        steps: int | None = None,
        *,
        model: Nowcaster | str | Path | None = None,
        lead_times: Any = None,
        init_time: Any = None,
        inflow: Literal["filled", "missing"] = "filled",
        grid: Literal["check", "any"] = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        device: str = "auto",
    ) -> xr.DataArray:
        """Forecast how likely the value is to be above thresholds.

        Parameters
        ----------
        model : Nowcaster or path, optional
            As for `forecast`.
        """
        return as_nowcaster(model).exceedance(
            self._obj, thresholds, steps, lead_times=lead_times, init_time=init_time, inflow=inflow, grid=grid,
            time=time, y=y, x=x, channel=channel, device=device,
        )  # fmt: skip

    @described_by("forecasts.nowcaster.quantiles")
    def quantiles(
        self,
        probabilities: Sequence[float],
        steps: int | None = None,
        *,
        model: Nowcaster | str | Path | None = None,
        lead_times: Any = None,
        init_time: Any = None,
        inflow: Literal["filled", "missing"] = "filled",
        grid: Literal["check", "any"] = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        device: str = "auto",
    ) -> xr.DataArray:
        """Forecast quantiles of the value.

        Parameters
        ----------
        model : Nowcaster or path, optional
            As for `forecast`.
        """
        return as_nowcaster(model).quantiles(
            self._obj, probabilities, steps, lead_times=lead_times, init_time=init_time, inflow=inflow, grid=grid,
            time=time, y=y, x=x, channel=channel, device=device,
        )  # fmt: skip

    @described_by("hindcast.call.hindcast")
    def hindcast(
        self,
        steps: int | None = None,
        *,
        model: Nowcaster | Reference | str | Path | None = None,
        init_times: Any = None,
        stride: int = 1,
        product: Literal["mean", "matched"] = "mean",
        inflow: Literal["filled", "missing"] = "filled",
        members: int | None = None,
        seed: int = 0,
        to: str | os.PathLike[str] | None = None,
        missing: Literal["nan", "refuse"] = "nan",
        batch_size: int | None = None,
        tile: int | None = None,
        shard_size: int | None = None,
        cluster: Any = None,
        device: str = "auto",
        grid: Literal["check", "any"] = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        existing: Literal["resume", "replace"] = "resume",
        progress: Callable[[int, int], None] | None = None,
        dry_run: bool = False,
    ) -> xr.DataArray:
        """Forecast from many init times, lazily or to a Zarr archive; see `sa_nowcast.hindcast.hindcast`."""
        from sa_nowcast.hindcast import hindcast

        return hindcast(
            self._obj, model, steps, init_times=init_times, stride=stride, product=product, inflow=inflow,
            members=members, seed=seed, to=to, missing=missing, batch_size=batch_size, tile=tile,
            shard_size=shard_size, cluster=cluster, device=device, grid=grid, time=time, y=y, x=x, channel=channel,
            existing=existing, progress=progress, dry_run=dry_run,
        )  # fmt: skip

    @described_by("hindcast.calibration.calibrate")
    def calibrate(
        self,
        model: Nowcaster | str | Path,
        archive: xr.DataArray | None = None,
        *,
        steps: int | None = None,
        init_times: Any = None,
        stride: int = 1,
        tile: int | None = None,
        device: str = "auto",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        progress: Callable[[int, int], None] | None = None,
        dry_run: bool = False,
    ) -> Nowcaster:
        """Return a model with the distribution that its forecasts of these frames had; see `sa_nowcast.calibrate`."""
        from sa_nowcast.hindcast import calibrate

        return calibrate(
            model, self._obj, archive, steps=steps, init_times=init_times, stride=stride, tile=tile, device=device,
            time=time, y=y, x=x, channel=channel, progress=progress, dry_run=dry_run,
        )  # fmt: skip

    @described_by("verification.plan.verify")
    def verify(
        self,
        truth: xr.DataArray | xr.Dataset,
        metrics: Sequence[str] | None = None,
        thresholds: Sequence[float | str] | xr.DataArray | None = None,
        reference: str | xr.DataArray | None = None,
        *,
        reference_name: str | None = None,
        neighbourhoods: Sequence[int] | None = None,
        data_range: tuple[float, float] = UNIT_RANGE,
        clip: bool = False,
        valid_times: str | None = None,
        bootstrap: Bootstrap | None = None,
        scales: Sequence[str] | None = None,
        time: Hashable | None = None,
    ) -> xr.Dataset:
        """Score this forecast against `truth` by lead time; see `sa_nowcast.verify`."""
        from sa_nowcast.verification import verify

        return verify(
            self._field(), truth, metrics, thresholds, reference, reference_name=reference_name,
            neighbourhoods=neighbourhoods, data_range=data_range, clip=clip, valid_times=valid_times,
            bootstrap=bootstrap, scales=scales, time=time,
        )  # fmt: skip
