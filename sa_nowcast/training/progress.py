"""The progress bar of a training run."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sa_nowcast.training.validation import Validation
from sa_nowcast.training.watch import Watch

LOSS_EVERY = 10  # updates; reading a loss makes a GPU wait


class ProgressBar(L.Callback):
    """A bar with the loss, the validation loss beside persistence's, and the time left; on standard error."""

    def __init__(self, validation: Validation, watch: Watch) -> None:
        self.validation, self.watch = validation, watch
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._loss = ""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin where the run begins, which after a resume is not 0."""
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.fields[updates]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            # Wanted colours, as notebooks want of what they start, are no terminal that a bar could move on.
            console=Console(stderr=True, force_terminal=sys.stderr.isatty()),
        )
        self._task = self._progress.add_task("", total=1.0, updates="")
        self._progress.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *args: Any) -> None:
        """Show the newest figures."""
        if self._progress is None:
            return
        if not self._loss or trainer.global_step % LOSS_EVERY == 0:
            self._loss = f"loss {float(outputs['mean']):.4f}"
        text = self._loss
        if self.validation.validated:
            text += f", validation {self.validation.latest / max(self.validation.reference, 1e-12):.3f} x persistence"
        done = trainer.global_step / trainer.max_steps
        if self.watch.max_seconds is not None:  # whichever ends the run first
            done = max(done, min(self.watch.elapsed / self.watch.max_seconds, 1.0))
        count = f"{trainer.global_step}/{trainer.max_steps}"
        self._progress.update(self._task, completed=done, updates=count, description=text)

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Leave it so after an error too, which skips the teardown."""
        self.teardown(trainer, module, "fit")
