"""What happens around the updates: best weights, checkpoints, the log, signals, progress."""

from __future__ import annotations

import csv
import math
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from sa_nowcast.training.checkpoint import LAST

LOG_FIELDS = ("step", "loss", "validation_loss", "validation_persistence", "learning_rate")


class KeepBest(L.Callback):
    """Keeps a copy of the weights with the lowest validation loss; it travels in the checkpoint.

    Without a validation period the last weights are the best that is known.
    """

    def __init__(self) -> None:
        self.loss = math.inf
        self.reference = math.nan
        self.step = 0
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Compare the loss just measured with the best one so far."""
        loss = float(trainer.callback_metrics["validation_loss"])
        if loss < self.loss:
            self.loss, self.step = loss, trainer.global_step
            self.reference = float(trainer.callback_metrics["validation_persistence"])
            self._copy(module)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take the last weights where nothing was validated."""
        if not self.weights:
            self.step = trainer.global_step
            self._copy(module)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"loss": self.loss, "reference": self.reference, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what a checkpoint kept."""
        self.loss, self.reference, self.step = state_dict["loss"], state_dict["reference"], state_dict["step"]
        self.weights = state_dict["weights"]

    def _copy(self, module: L.LightningModule) -> None:
        network = module.network
        assert isinstance(network, torch.nn.Module)
        self.weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}


class RunFolder(L.Callback):
    """Writes ``last.ckpt`` every so many steps and ``training.csv`` beside it, and stops on a signal.

    SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (Slurm's warning) let the update under way finish, then the run is saved and
    stopped; `stopped_by` says which signal it was.
    """

    def __init__(self, folder: Path | None, every: int) -> None:
        self.folder, self.every = folder, every
        self.stopped_by: str | None = None
        self._former: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Listen to signals; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self._former[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, or when a signal came."""
        due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
        if self.folder is not None and (due or self.stopped_by):
            trainer.save_checkpoint(self.folder / LAST)
            self._log(trainer)
        if self.stopped_by:
            trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Give signals back to whoever had them."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = signal.Signals(number).name

    def _log(self, trainer: L.Trainer) -> None:
        assert self.folder is not None
        path = self.folder / "training.csv"
        rows = []
        if path.exists():
            # Steps that a killed run had logged after its last checkpoint are done again; they stand once.
            with path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["step"]) < trainer.global_step]
        metrics = trainer.callback_metrics
        row = {name: f"{float(metrics[name]):.6g}" for name in LOG_FIELDS if name in metrics}
        partial = path.with_name(".training.csv.partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, LOG_FIELDS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*rows, {"step": str(trainer.global_step), **row}])
        partial.replace(path)


class ProgressBar(L.Callback):
    """A bar with the loss, the validation loss beside persistence's, and the time left; on standard error."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin where the run begins, which after a resume is not 0."""
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=trainer.max_steps, completed=trainer.global_step)
        self._progress.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the newest figures."""
        if self._progress is not None:
            metrics = trainer.callback_metrics
            text = f"loss {float(metrics['loss']):.4f}" if "loss" in metrics else ""
            if "validation_loss" in metrics and "validation_persistence" in metrics:
                ratio = float(metrics["validation_loss"]) / max(float(metrics["validation_persistence"]), 1e-12)
                text += f", validation {ratio:.3f} x persistence"
            self._progress.update(self._task, completed=trainer.global_step, description=text)

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
