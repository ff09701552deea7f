"""Pictures of a run while it goes on: what is forecast for the same validation windows every time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import StorageError
from sa_nowcast.metadata import dims
from sa_nowcast.recipe import TrainingRecipe
from sa_nowcast.storage.whole import partial_beside, put_in_place
from sa_nowcast.stream import Samples, SequenceDataset, prepare
from sa_nowcast.times import show_time
from sa_nowcast.training.validation import Validation, inference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "pictures"
Values = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def hindrance(
    recipe: TrainingRecipe, validation: Samples | None, folder: Path | None, loggers: Sequence[Logger]
) -> str | None:
    """Return in one line why a run will have no pictures, or None where it can have those that the recipe asks for.

    Pictures are on by default and never a reason to refuse a run; so what they lack is said and not raised.
    """
    if not recipe.pictures:
        return None
    if validation is None:
        return "no pictures of forecasts: there is no validation period"
    if folder is None and not any(isinstance(logger, TensorBoardLogger) for logger in loggers):
        return "no pictures of forecasts: there is no run folder to put them into"
    if find_spec("matplotlib") is None:
        return f"no pictures of forecasts: matplotlib is not installed; {install('plot')} adds it"
    return None


class Pictures(L.Callback):
    """Draws history, truth, forecast and error of the first validation windows after every validation.

    They go to ``pictures/window-1/step-000100.png`` in the run's folder, each whole or not at all, and to TensorBoard
    where a logger of that kind is there. What is drawn is the forecast of the weights that were validated. Between
    validations nothing is done.

    Parameters
    ----------
    validation : Validation
        It comes earlier among the callbacks. The time that drawing takes is added to its seconds, which do not count
        as time for updates.
    count : int
        How many windows.
    folder : Path or None
        The run's folder; None: no files.
    """

    def __init__(self, validation: Validation, count: int, folder: Path | None) -> None:
        self.validation, self.terms, self.count, self.folder = validation, validation.terms, count, folder

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Make up for what the interrupted run did not draw any more."""
        step = trainer.global_step
        if step and self.validation.validated == step and self.folder is not None:
            missing = [n for n in range(self.count) if not self.path(n, step).exists()]
            self._draw(missing, step, trainer.loggers)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Draw when the weights were validated just now."""
        if self.validation.validated == trainer.global_step:
            self._draw(range(self.count), trainer.global_step, trainer.loggers)

    def path(self, window: int, step: int) -> Path:
        """Return the file of a window, counted from 0, after `step` updates."""
        assert self.folder is not None
        return self.folder / FOLDER / f"window-{window + 1}" / f"step-{step:06d}.png"

    def _draw(self, windows: Sequence[int], step: int, loggers: Sequence[Logger]) -> None:
        began = time.perf_counter()
        boards = [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]
        for window in windows:
            if self.validation.watch.stopped_by is not None:
                break  # a signal asks for a quick end; the resumed run draws the rest
            pixels = rendered(self.figure(window, step))
            if self.folder is not None:
                _write(pixels, self.path(window, step))
            for board in boards:
                # As an image: the writer's way with figures would load pyplot.
                board.experiment.add_image(f"{FOLDER}/window-{window + 1}", pixels, step, dataformats="HWC")
        self.validation.seconds += time.perf_counter() - began

    def figure(self, window: int, step: int) -> Figure:
        """Return the figure of a window, counted from 0, forecast with the validated weights after `step` updates."""
        raw, forecast = self._forecast(window)
        samples, (name, units) = self.validation.samples, self.terms.channels[0]
        windows = samples if isinstance(samples, SequenceDataset) else None
        attrs: dict[Any, Any] = dict(windows.channels[0].attrs) if windows else {}
        attrs |= {} if units is None else {"units": units}
        title = str(attrs.get("long_name", name)).replace("_", " ")
        title += f" ({units})" if units not in (None, "", "1") else ""
        title += f", first of {len(self.terms.channels)} channels" if len(self.terms.channels) > 1 else ""
        title += f" from {show_time(windows.times(window)[self.terms.history - 1])}" if windows else ""
        title += f", after {step} updates; validation window {window + 1}"
        if windows:
            return self._with_times(raw, forecast, windows, window, attrs, title)
        return self._numbered(raw, forecast, attrs, title)

    def _forecast(self, window: int) -> tuple[Values, Values]:
        """Return the first channel of a window (T, H, W) and of its forecast (steps, H, W), in the data's units."""
        validation, history = self.validation, self.terms.history
        network, hardware = validation.network, validation.hardware
        assert validation.samples is not None
        raw = validation.samples.batch([window])
        with validation.average.applied(), inference(network, hardware):
            x, _ = prepare(
                raw.to(hardware.device),
                validation.scaling,
                history,
                by_window=not network.config.declared.needs_scaling,
            )
            z = network(x[:, :history], steps=self.terms.steps).float()
            physical = validation.scaling.to_physical(z, torch)[0, :, 0]
        seen = raw[0, :, 0].cpu().numpy()
        forecast = physical.cpu().numpy()
        forecast[:, ~np.isfinite(seen[:history]).any(axis=0)] = np.nan
        return seen, forecast

    def _with_times(
        self, raw: Values, forecast: Values, samples: SequenceDataset, window: int, attrs: dict[Any, Any], title: str
    ) -> Figure:
        from sa_nowcast.plotting import plot_forecast

        history, times = self.terms.history, samples.times(window)
        init, name = times[history - 1], self.terms.channels[0][0]
        if samples.sample_shape[-2:] != (samples.grid.height, samples.grid.width):
            _, rows, columns = samples.window(window)
            title += f", rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
        # Crops leave the grid's coordinates behind; rows run from north to south in every sample.
        seen = xr.DataArray(raw, {dims.TIME: times}, (dims.TIME, "y", "x"), name, attrs)
        ahead = xr.DataArray(
            forecast,
            {
                dims.LEAD_TIME: (dims.LEAD_TIME, times[history:] - init, dims.LEAD_TIME_ATTRS),
                dims.INIT_TIME: ((), init, dims.INIT_TIME_ATTRS),
                dims.VALID_TIME: (dims.LEAD_TIME, times[history:], dims.VALID_TIME_ATTRS),
            },
            (dims.LEAD_TIME, "y", "x"),
            name,
            attrs,
        )
        return plot_forecast(ahead, truth=seen, history=seen, title=title)

    def _numbered(self, raw: Values, forecast: Values, attrs: dict[Any, Any], title: str) -> Figure:
        """Draw samples that are made, and so have no times: their frames are counted from 1."""
        from sa_nowcast.plotting.forecast import grid_of_panels, pick
        from sa_nowcast.plotting.maps import map_of

        history = self.terms.history
        chosen = pick(len(forecast), 6)

        def row(frames: Values, places: Sequence[int], first: int) -> list[tuple[str, xr.DataArray | None]]:
            return [(f"frame {first + i}", xr.DataArray(frames[i], dims=("y", "x"), attrs=attrs)) for i in places]

        ahead = xr.DataArray(forecast, dims=(dims.LEAD_TIME, "y", "x"), attrs=attrs, name=self.terms.channels[0][0])
        rows = {
            "history": row(raw, range(history)[-max(len(chosen), 4) :], 1),
            "truth": row(raw[history:], chosen, history + 1),
            "forecast": row(forecast, chosen, history + 1),
            "|error|": row(np.abs(forecast - raw[history:]), chosen, history + 1),
        }
        return grid_of_panels(ahead, rows, None, map_of(ahead[0], "y", "x"), title)


def rendered(figure: Figure) -> Pixels:
    """Return the pixels of a figure, (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: Pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return pixels


def _write(pixels: Pixels, path: Path) -> None:
    from PIL import Image  # matplotlib comes with it

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_beside(path) as partial:
            Image.fromarray(pixels).save(partial, "PNG")
            put_in_place(partial, path)
    except OSError as error:
        raise StorageError(
            str(path),
            f"the picture could not be written ({error.strerror or error})",
            fix="free space, or train with pictures=0 (training.pictures: 0)",
        ) from error
