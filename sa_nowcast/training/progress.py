"""The progress of a training run on standard error: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sa_nowcast.training.validation import Validation

LOSS_EVERY = 10  # updates; reading a loss makes a GPU wait
LINE_EVERY = 30.0
"""Seconds between two lines in a log, however long an update takes."""


class ProgressReport(L.Callback):
    """Says how far the run is, with the loss, the validation loss beside persistence's, and the time left.

    As a context it begins at once, before the first update is made, and ends with the run: complete where the run came
    to an end of its own, and as far as it was where it was stopped.
    """

    def __init__(self, step: int, max_steps: int, validation: Validation) -> None:
        self.step, self.max_steps, self.validation, self.watch = step, max_steps, validation, validation.watch
        self._first, self._loss = step, ""
        # Wanted colours, as notebooks want of what they start, are no terminal that a bar could move on.
        self._bar = _bar() if sys.stderr.isatty() else None
        self._over = threading.Event()

    def __enter__(self) -> ProgressReport:
        self._begun = time.monotonic()
        if self._bar is not None:
            self._task = self._bar.add_task("", total=1.0, updates="")
            self._show(self._done())
            self._bar.start()
        else:
            self._say()
            self._lines = threading.Thread(target=self._say_now_and_then, name="sa_nowcast progress", daemon=True)
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._show(1.0 if kind is None else self._done())
            self._bar.stop()
        else:
            self._over.set()
            self._lines.join()
            self._say()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *args: Any) -> None:
        """Take the newest figures."""
        self.step = trainer.global_step
        if not self._loss or self.step % LOSS_EVERY == 0:
            self._loss = f"loss {float(outputs['mean']):.4f}"
        self._show(self._done())

    def _show(self, done: float) -> None:
        if self._bar is not None:
            count = f"{self.step}/{self.max_steps}"
            self._bar.update(self._task, completed=done, updates=count, description=self._text())

    def _done(self) -> float:
        done = self.step / max(self.max_steps, 1)
        if self.watch.max_seconds is not None:  # whichever ends the run first
            done = max(done, min(self.watch.elapsed / self.watch.max_seconds, 1.0))
        return done

    def _text(self) -> str:
        figures = [self._loss] if self._loss else []
        if self.validation.validated >= 0:
            ratio = self.validation.latest / max(self.validation.reference, 1e-12)
            figures.append(f"validation {ratio:.3f} x persistence")
            if self.validation.start is not None:
                figures.append(f"best {self.validation.loss:.3f} x the start")
        return ", ".join(figures)

    def _say_now_and_then(self) -> None:
        while not self._over.wait(LINE_EVERY):
            self._say()

    def _say(self) -> None:
        made, left = self.step - self._first, self.max_steps - self.step
        parts = [f"update {self.step} of {self.max_steps}", self._text()]
        if made and left:
            parts.append(f"at most {_duration((time.monotonic() - self._begun) / made * left)} left")
        sys.stderr.write(f"training: {', '.join(filter(None, parts))}\n")
        sys.stderr.flush()


def _bar() -> Progress:
    return Progress(
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.fields[updates]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True, force_terminal=True),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
