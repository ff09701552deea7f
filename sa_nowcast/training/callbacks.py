"""What happens around the updates: best weights, checkpoints, the log, signals, progress."""

from __future__ import annotations

import contextlib
import csv
import math
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from sa_nowcast.training.checkpoint import LAST

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
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
            network = module.network
            assert isinstance(network, torch.nn.Module)
            self._copy(network)

    def conclude(self, network: torch.nn.Module, step: int) -> None:
        """Take the last weights where nothing was validated."""
        if not self.weights:
            self.step = step
            self._copy(network)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"loss": self.loss, "reference": self.reference, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what a checkpoint kept."""
        self.loss, self.reference, self.step = state_dict["loss"], state_dict["reference"], state_dict["step"]
        self.weights = state_dict["weights"]

    def _copy(self, network: torch.nn.Module) -> None:
        self.weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}


class RunFolder(L.Callback):
    """Writes ``last.ckpt`` every so many steps and ``training.csv`` beside it, and stops on a signal.

    SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (Slurm's warning) let the update under way finish, and the validation that is
    due after it; then the run is saved and stopped. `stopped_by` says which signal it was.

    Parameters
    ----------
    folder : Path or None
        Where to write; None: nowhere.
    every : int
        Updates between two checkpoints; the last update gets one too.
    validate_every : int or None
        Updates between two validations; None where nothing is validated. The last update is always validated. A
        checkpoint of a step that is validated is written after its validation, so that a resumed run knows of it.
    """

    def __init__(self, folder: Path | None, every: int, validate_every: int | None) -> None:
        self.folder, self.every, self.validate_every = folder, every, validate_every
        self.stopped_by: str | None = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Listen to signals, once the trainer has set its own handlers; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, or when a signal came."""
        if not self._validates(trainer):
            self._save(trainer)
        if self.stopped_by or trainer.global_step == trainer.max_steps:
            trainer.should_stop = True  # which also makes the trainer validate the last weights

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save likewise, with what the validation found."""
        if self._validates(trainer):
            self._save(trainer)
        if self.stopped_by:
            trainer.should_stop = True

    def _validates(self, trainer: L.Trainer) -> bool:
        step = trainer.global_step
        return self.validate_every is not None and (step % self.validate_every == 0 or step == trainer.max_steps)

    def _save(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if self.folder is not None and (step % self.every == 0 or step == trainer.max_steps or self.stopped_by):
            trainer.save_checkpoint(self.folder / LAST)
            self._log(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait; what the last checkpoint holds is safe
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


@contextlib.contextmanager
def signals_given_back() -> Iterator[None]:
    """Put the handlers of `SIGNALS` back at the end, also after an error; the trainer does not."""
    main = threading.current_thread() is threading.main_thread()
    former = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    try:
        yield
    finally:
        for number, handler in former.items():
            if handler is not None:  # one that was not set from Python cannot be set again
                signal.signal(number, handler)


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

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Leave it so after an error too, which skips the teardown."""
        self.teardown(trainer, module, "fit")
