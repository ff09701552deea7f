"""``.sa_nowcast`` on Dataset and DataArray: thin delegates to the functions that do the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.forecasts.defaults import as_nowcaster
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import normalised
from sa_nowcast.metadata.bounds import UNIT_RANGE
from sa_nowcast.times import Gaps, show_step, show_time

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from lightning.pytorch.loggers import Logger
    from matplotlib.figure import Figure

    from sa_nowcast.forecasts.nowcaster import Nowcaster
    from sa_nowcast.interop.record import Convention
    from sa_nowcast.models import NetworkConfig
    from sa_nowcast.stream import SequenceDataset, SequenceLoader
    from sa_nowcast.verification import Bootstrap, Reference

# Signatures are written out, so that help() and completion show them before torch or matplotlib are imported; a test
# compares them with those of the functions.


class _Gridded:
    """What Dataset and DataArray share."""

    def __init__(self, obj: Any) -> None:
        self._given = obj

    @property
    def _obj(self) -> Any:
        return normalised(self._given)  # each time: the attributes may have been set since

    def __repr__(self) -> str:
        """Say what was found, and what can be done with it; no value is read."""
        return "\n".join((f"<{type(self).__name__} of sa_nowcast>", *_found(self._obj)))

    def fit(
        self,
        *,
        history: int,
        steps: int,
        network: Mapping[str, Any] | NetworkConfig | None = None,
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
        history : int
            Frames that a forecast starts from.
        steps : int
            Lead times to train for.
        network : mapping or NetworkConfig, optional
            Fields of `sa_nowcast.models.NetworkConfig`, and ``preset`` (default ``"small"``, minutes on two cores).
        scaling : {"auto", "minmax", "standard", "log1p", "db"}
            Between physical and network values; ``auto`` takes log1p for rain rates and amounts, standard for the rest.
        validation : float, default 0.2
            Share of the frames, the latest ones, that chooses the best weights; 0 keeps the last weights.
        guard : int, optional
            Frames left unused between training and validation; by default one history.
        variables : sequence of str, optional
            Of a Dataset, those that are the channels; by default all that are gridded.
        time, y, x, channel : hashable, optional
            Dimension names, where CF attributes and common names do not tell.
        gaps : {"refuse", "skip"}
            What to do about missing times and frames without a valid value.
        folder : path, optional
            Where checkpoints, the training log and pictures go. Given the same folder again, the run goes on.
        progress : bool, default True
            Whether to show a progress bar on standard error.
        report : callable, optional
            Called with one line on what the training computes on, and how.
        loggers : sequence of Lightning loggers, optional
            Beside ``training.csv`` in `folder`.
        **training
            Fields of `sa_nowcast.recipe.TrainingRecipe`, which says what each is: ``acceleration``, ``augment``,
            ``average``, ``batch_size``, ``checkpoint_every``, ``clip_norm``, ``context_truth_rise``,
            ``context_truth_start``, ``crop``, ``device``, ``learning_rate``, ``log_every``, ``loss``, ``max_steps``,
            ``max_time``, ``optimizer``, ``patience``, ``pictures``, ``precision``, ``preset``, ``rain_weights``,
            ``reversed_input``, ``schedule``, ``seed``, ``tensorboard``, ``truth_decay``, ``truth_start``,
            ``validate_every``, ``validation_samples``, ``warm_up``, ``weight_decay``, ``workers``.

        Returns
        -------
        Nowcaster

        Raises
        ------
        DataError
            Times, units or values that cannot be used, or too few frames.
        RecipeError
            An option that is unknown or not allowed.
        StorageError
            The folder cannot be written, or another process trains in it.
        Interrupted
            A signal stopped the run; it goes on when called again with the same folder.
        """
        from sa_nowcast.training.fit import fit

        return fit(
            self._obj, history=history, steps=steps, network=network, scaling=scaling, validation=validation,
            guard=guard, variables=variables, time=time, y=y, x=x, channel=channel, gaps=gaps, folder=folder,
            progress=progress, report=report, loggers=loggers, **training,
        )  # fmt: skip

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
        (batch, time, channel, y, x) in physical units, NaN where missing.

        Parameters
        ----------
        history, steps : int
            Frames given and frames to forecast; a window has ``history + steps`` frames.
        batch_size : int, default 8
            Windows a batch, in this process.
        workers : int, default 0
            Processes that read; 0 reads in this one. The batches are the same with any number.
        variables : sequence of str, optional
            Of a Dataset, those that are the channels; by default all that are gridded.
        time, y, x, channel : hashable, optional
            Dimension names, where CF attributes and common names do not tell.
        gaps : {"refuse", "skip"}
            What to do about missing times.
        stride : int, default 1
            Frames between the starts of successive windows.
        period : {"train", "validation", "test"}, optional
            One of three periods in time order; by default all windows.
        validation, test : float, default 0.2
            Shares of the times, where `period` is given.
        guard : int, optional
            Frames left unused between two periods; by default one history.
        starts : sequence of int, optional
            Windows that were planned, in place of all windows.
        crop : int or (int, int), optional
            Rows and columns of a random crop of each window; by default the whole grid.
        wet_threshold, wet_fraction : float, default 0
            A crop is taken when at least this share of its pixels is at or above the threshold, in the data's units.
        flips, turns : bool, default False
            Whether to mirror windows at random, and to turn them by quarters.
        seed : int, default 0
            Decides order, crops, flips and turns, together with the number of the sample.
        shuffle : bool, default True
            Whether an epoch has an order of its own, or the one in time.
        cache_bytes : int, default 128 MiB
            Bytes that are kept at most when reading from storage.
        in_memory : bool, optional
            Whether all frames are read into memory first; by default up to `sa_nowcast.stream.IN_MEMORY_BYTES`.
        device : str or torch.device, optional
            Keep all frames on this device; loader workers cannot be used then.

        Returns
        -------
        SequenceLoader

        Raises
        ------
        DataError
            Data that cannot be used, or no window at all.
        RecipeError
            An option that is not allowed.
        """
        from sa_nowcast.stream import SequenceDataset, loader

        dataset = SequenceDataset(
            self._obj, history, steps, variables=variables, time=time, y=y, x=x, channel=channel, gaps=gaps,
            stride=stride, period=period, validation=validation, test=test, guard=guard, starts=starts, crop=crop,
            wet_threshold=wet_threshold, wet_fraction=wet_fraction, flips=flips, turns=turns, seed=seed,
            shuffle=shuffle, cache_bytes=cache_bytes, in_memory=in_memory, device=device,
        )  # fmt: skip
        return loader(dataset, batch_size, workers=workers)

    def forecast(
        self,
        steps: int | None = None,
        *,
        model: Nowcaster | str | Path | None = None,
        lead_times: Any = None,
        init_time: Any = None,
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
        steps, lead_times, init_time, grid, time, y, x, channel, tile, device
            As for `sa_nowcast.Nowcaster.forecast`: lead times, the time of the last known frame, dimension names where
            attributes and common names do not tell, and how to compute.

        Returns
        -------
        DataArray, dims (lead_time, [channel,] y, x); (variable, lead_time, y, x) where the model has several variables
            float32, in the input's units, with the coordinates lead_time, init_time (scalar) and valid_time.

        Raises
        ------
        DataError, ModelError, RecipeError
            As for `sa_nowcast.Nowcaster.forecast`.
        """
        return as_nowcaster(model).forecast(
            self._obj, steps, lead_times=lead_times, init_time=init_time, grid=grid, time=time, y=y, x=x,
            channel=channel, tile=tile, device=device,
        )  # fmt: skip

    def hindcast(
        self,
        steps: int | None = None,
        *,
        model: Nowcaster | Reference | str | Path | None = None,
        init_times: Any = None,
        stride: int = 1,
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
        """Forecast from many init times, lazily or to a Zarr archive.

        Parameters
        ----------
        model : Nowcaster, path, Reference or str, optional
            A nowcaster, or a reference such as "persistence"; by default the default model.
        steps, init_times, stride
            Lead times, needed for a reference; and which init times: a slice (both ends included) or a sequence.
        to, missing, batch_size, tile, shard_size, cluster, device, grid, existing, progress, dry_run
            As for `sa_nowcast.hindcast.hindcast`.
        time, y, x, channel : hashable, optional
            Dimension names, where CF attributes and common names do not tell.

        Returns
        -------
        DataArray, dims ([realization,] init_time, [variable,] lead_time, [channel,] y, x)
            float32, backed by dask.

        Raises
        ------
        DataError, ModelError, RecipeError, StorageError, Interrupted
            As for `sa_nowcast.hindcast.hindcast`.
        """
        from sa_nowcast.hindcast import hindcast

        return hindcast(
            self._obj, model, steps, init_times=init_times, stride=stride, to=to, missing=missing,
            batch_size=batch_size, tile=tile, shard_size=shard_size, cluster=cluster, device=device, grid=grid,
            time=time, y=y, x=x, channel=channel, existing=existing, progress=progress, dry_run=dry_run,
        )  # fmt: skip

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
        time: Hashable | None = None,
    ) -> xr.Dataset:
        """Score this forecast against `truth` by lead time; see `sa_nowcast.verify`.

        Parameters
        ----------
        truth : DataArray or Dataset, dims (time, [channel,] y, x)
            The observations, in the forecast's units and on its grid.
        metrics, thresholds, reference, reference_name, neighbourhoods, data_range, clip, valid_times, bootstrap, time
            As for `sa_nowcast.verify`.

        Returns
        -------
        Dataset, dims (lead_time, [variable,] [channel,] and threshold, neighbourhood, rank where a metric has them)

        Raises
        ------
        DataError
            If truth lacks valid times, or the units, grids or labels differ; or this is no forecast.
        RecipeError
            If a metric, threshold or other argument is not valid.
        """
        from sa_nowcast.verification import verify

        return verify(
            self._field(), truth, metrics, thresholds, reference, reference_name=reference_name,
            neighbourhoods=neighbourhoods, data_range=data_range, clip=clip, valid_times=valid_times,
            bootstrap=bootstrap, time=time,
        )  # fmt: skip

    def plot(
        self,
        truth: xr.DataArray | xr.Dataset | None = None,
        history: xr.DataArray | xr.Dataset | None = None,
        *,
        init_time: object = None,
        variable: object = None,
        channel: object = None,
        realization: object = None,
        columns: int = 6,
        coastlines: bool | None = None,
        time: Hashable | None = None,
        title: str | None = None,
        last: int | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
    ) -> Figure:
        """Draw this forecast by lead time, or the last of these frames (data without ``lead_time``).

        See `sa_nowcast.plotting.plot_forecast` and `sa_nowcast.plotting.plot_frames`.

        Parameters
        ----------
        truth : DataArray or Dataset, dims (time, [channel,] y, x), optional
            Its frames at the valid times, and the absolute error.
        history : DataArray or Dataset, dims (time, [channel,] y, x), optional
            The last frames of it that are not after init time.
        init_time, variable, channel : optional
            What to draw of an archive, of several variables and channels; of frames the last one's time. By default of
            an archive beside truth the last forecast that truth covers.
        realization : optional
            The member to draw; by default the mean of an ensemble.
        columns : int, default 6
            At most as many lead times, equally far apart, the last one among them; of frames the panels side by side.
        coastlines : bool, optional
            True: draw them, or say what is missing; by default where they can be drawn.
        time : hashable, optional
            The time dimension of `truth` and `history`; found by its CF attributes otherwise.
        title : str, optional
            In place of variable, units and init time.
        last : int, optional
            Of frames, how many; by default 6.
        y, x : hashable, optional
            Of frames, the horizontal dimensions, where CF attributes and common names do not tell.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        RecipeError
            If a variable or channel is not chosen, or what is given is for frames or forecasts, and this is the other.
        MissingLibraryError, StorageError, DataError
            If `coastlines` is True and they cannot be drawn, or these are neither a forecast nor frames.
        """
        from sa_nowcast.plotting import plot_forecast, plot_frames
        from sa_nowcast.plotting.forecast import is_forecast, refuse

        if not is_forecast(self._obj):
            refuse("frames", "a forecast", truth=truth, history=history, realization=realization)
            return plot_frames(
                self._obj, last=6 if last is None else last, init_time=init_time, variable=variable, channel=channel,
                columns=columns, coastlines=coastlines, time=time, y=y, x=x, title=title,
            )  # fmt: skip
        refuse("a forecast", "frames", last=last, y=y, x=x)
        return plot_forecast(
            self._obj, truth, history, init_time=init_time, variable=variable, channel=channel,
            realization=realization, columns=columns, coastlines=coastlines, time=time, title=title,
        )  # fmt: skip

    def animate(
        self,
        path: str | os.PathLike[str],
        truth: xr.DataArray | xr.Dataset | None = None,
        *,
        init_time: object = None,
        variable: object = None,
        channel: object = None,
        realization: object = None,
        coastlines: bool | None = None,
        time: Hashable | None = None,
        frames_per_second: float = 4.0,
        last: int | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
    ) -> Path:
        """Write this forecast, or the last of these frames, as an animation; see `sa_nowcast.plotting.animate`.

        Parameters
        ----------
        path : path
            Ends with ".gif" or ".mp4".
        truth : DataArray or Dataset, dims (time, [channel,] y, x), optional
            Drawn beside the forecast.
        init_time, variable, channel, realization, coastlines, time : optional
            As for `plot`.
        frames_per_second : float, default 4
        last : int, optional
            Of frames, how many; by default 24.
        y, x : hashable, optional
            Of frames, the horizontal dimensions, where CF attributes and common names do not tell.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        RecipeError
            If the name ends otherwise, or something must be chosen.
        StorageError
            If the file cannot be written.
        MissingLibraryError
            If the file is an MP4 and there is neither ffmpeg nor PyAV.
        """
        from sa_nowcast.plotting import animate

        return animate(
            self._obj, path, truth, init_time=init_time, variable=variable, channel=channel, realization=realization,
            coastlines=coastlines, time=time, frames_per_second=frames_per_second, last=last, y=y, x=x,
        )  # fmt: skip

    def plot_attention(
        self,
        point: tuple[float, float],
        *,
        model: Nowcaster | str | Path | None = None,
        init_time: Any = None,
        layers: Sequence[int | Literal["first", "last"]] = ("first", "last"),
        shown: object = None,
        coastlines: bool | None = None,
        grid: Literal["check", "any"] = "check",
        time: Hashable | None = None,
        y: Hashable | None = None,
        x: Hashable | None = None,
        channel: Hashable | None = None,
        device: str = "auto",
        title: str | None = None,
    ) -> Figure:
        """Draw where a model looks from one point on these frames; see `sa_nowcast.plotting.plot_attention`.

        Parameters
        ----------
        point : (float, float)
            y and x in the units of the grid's coordinates; row and column where it has none.
        model : Nowcaster or path, optional
            One whose network has attention; by default as for `forecast`.
        init_time : datetime-like, optional
            The time of the last known frame; by default the last one.
        layers : sequence of int or {"first", "last"}
            Which layers, counted from 1, the one that reads the frame.
        shown : optional
            The channel or variable that is drawn as the input; by default the first one.
        coastlines : bool, optional
            As for `plot`.
        grid, time, y, x, channel, device
            As for `forecast`.
        title : str, optional
            In place of network, point and init time.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        RecipeError
            The point is outside of the grid, or there is no such layer, channel or time.
        ModelError, DataError
            The network has no attention, or as for `forecast`.
        """
        from sa_nowcast.plotting import plot_attention

        return plot_attention(
            as_nowcaster(model), self._obj, point, init_time=init_time, layers=layers, shown=shown,
            coastlines=coastlines, grid=grid, time=time, y=y, x=x, channel=channel, device=device, title=title,
        )  # fmt: skip

    def to_convention(self, name: Convention) -> xr.Dataset | xr.DataArray:
        """Return this forecast under the names of another convention; see `sa_nowcast.interop.to_convention`.

        Parameters
        ----------
        name : {"cf", "ecmwf", "weatherbench", "earth2studio", "pysteps"}

        Returns
        -------
        DataArray for "earth2studio", else Dataset

        Raises
        ------
        RecipeError
            An unknown convention.
        DataError
            It is no forecast, or the convention cannot hold it.
        """
        from sa_nowcast.interop import to_convention

        return to_convention(self._field(), name)

    def from_convention(self, name: Convention | None = None) -> xr.DataArray:
        """Return data of another convention as a forecast; see `sa_nowcast.interop.from_convention`.

        Parameters
        ----------
        name : {"cf", "ecmwf", "weatherbench", "earth2studio", "pysteps"}, optional
            By default the convention that the data tell.

        Returns
        -------
        DataArray, dims ([realization,] [init_time,] [variable,] lead_time, ..., y, x)

        Raises
        ------
        RecipeError
            An unknown convention.
        DataError
            The data are in none of the conventions, or in another than `name`.
        """
        from sa_nowcast.interop import from_convention

        return from_convention(self._obj, name)

    def to_cf(self, title: str | None = None) -> xr.Dataset:
        """Return this forecast as a Dataset with the global attributes of CF; see `sa_nowcast.forecasts.cf.to_dataset`.

        Parameters
        ----------
        title : str, optional
            Global attribute; by default one made from the variable's name.

        Returns
        -------
        Dataset

        Raises
        ------
        DataError
            It is no forecast.
        """
        from sa_nowcast.forecasts.cf import to_dataset

        return to_dataset(self._field(), title)

    def _field(self) -> xr.DataArray:
        """Return the forecast: of a Dataset, such as one that was read back from a file, its only variable."""
        if isinstance(self._obj, xr.DataArray):
            return self._obj
        names = [str(n) for n, v in self._obj.data_vars.items() if dims.LEAD_TIME in v.dims]
        if len(names) != 1:
            raise DataError(
                "dataset",
                f"{len(names)} variables with {dims.LEAD_TIME} ({', '.join(names) or 'none'})",
                expected="one forecast",
                fix="choose it, as in ds['name'].sa_nowcast",
            )
        field: xr.DataArray = self._obj[names[0]]
        return field


@xr.register_dataset_accessor("sa_nowcast")  # type: ignore[no-untyped-call]
class DatasetAccessor(_Gridded):
    """``ds.sa_nowcast``: train and forecast on a Dataset of gridded frames; score and plot a forecast read back."""


@xr.register_dataarray_accessor("sa_nowcast")  # type: ignore[no-untyped-call]
class DataArrayAccessor(_Gridded):
    """``da.sa_nowcast``: the same on a DataArray."""


def _found(obj: xr.DataArray | xr.Dataset) -> list[str]:
    """Return what data hold, in some lines; what is not told by them is said, and nothing is raised or read."""
    if dims.LEAD_TIME in obj.dims or {dims.LEAD_TIME, dims.INIT_TIME} <= set(obj.coords):
        sizes = ", ".join(f"{name} {size}" for name, size in obj.sizes.items())
        return [f"  a forecast: {sizes}", "  use: verify(truth), plot(), animate(path), to_cf(), to_convention(name)"]
    from sa_nowcast.frames import Frames

    try:
        frames = Frames.from_xarray(obj, gaps="skip")
    except Exception as error:  # a repr has no way to fail
        return ["  no sequence of frames as it is:", f"  {error}"]
    count, grid, gaps = len(frames), frames.grid, len(frames.segments) - 1
    spacing = ""
    if grid.dy is not None and grid.dx is not None:
        spacing = f", spacing {abs(grid.dy):.6g} x {abs(grid.dx):.6g} {grid.units or ''}".rstrip()
    shown = ", ".join(f"{c.name} [{c.units}]" if c.units else c.name for c in frames.channels[:6])
    more = f" and {len(frames.channels) - 6} more" if len(frames.channels) > 6 else ""
    return [
        f"  frames: {count} from {show_time(frames.times[0])} to {show_time(frames.times[-1])},"
        f" every {show_step(frames.step)}, {gaps or 'no'} gap{'' if gaps == 1 else 's'} ({frames.time_dim})",
        f"  grid: {grid.height} x {grid.width} ({grid.y}, {grid.x}){spacing}",
        f"  channels: {shown}{more}",
        "  use: forecast(steps), hindcast(steps), fit(history=, steps=), loader(history=, steps=)",
    ]
