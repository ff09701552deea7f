"""What a run says about itself while it goes on: rows for ``training.csv`` and for any Lightning logger."""

from __future__ import annotations

import csv
import resource
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sa_nowcast.training.module import NowcastModule
from sa_nowcast.training.validation import Validation

FILE = "training.csv"
FIELDS = (
    "step",
    "loss",
    "validation_loss",
    "validation_persistence",
    "learning_rate",
    "truth_probability",
    "samples_per_second",
    "memory_mib",
)


class TrainingLog(L.Callback):
    """Makes a row every so many updates, and after every validation.

    A row has the mean loss since the last row, the learning rate of the next update, the probability that a forecast
    step reads the true frame, the pace (without validations) and the peak memory of this process or of its GPU.

    Parameters
    ----------
    validation : Validation
    batch_size : int
        Windows an update, of all processes together.
    every : int
    folder : Path or None
        Where `write` writes; None: nowhere.
    """

    def __init__(self, validation: Validation, batch_size: int, every: int, folder: Path | None) -> None:
        self.validation, self.batch_size, self.every, self.folder = validation, batch_size, every, folder
        self.rows: list[dict[str, float]] = []
        self._loss: Tensor | None = None
        self._count = 0
        self._mark = 0.0
        self._validating = 0.0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take up the rows that an earlier part of the run wrote, up to the checkpoint that it goes on from."""
        self.rows = [row for row in self._written() if row["step"] <= trainer.global_step]
        self._begin()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *args: Any) -> None:
        """Add a row when it is time."""
        loss = outputs["loss"].detach()
        # On its device: asking for the number would make a GPU wait.
        self._loss = loss if self._loss is None else self._loss + loss
        self._count += 1
        step = trainer.global_step
        validated = self.validation.validated == step
        if not (validated or step % self.every == 0 or step == trainer.max_steps):
            return
        assert isinstance(module, NowcastModule)
        busy = time.perf_counter() - self._mark - (self.validation.seconds - self._validating)
        row: dict[str, float] = {"loss": float(self._loss) / self._count}
        if validated:
            row["validation_loss"] = self.validation.latest
            row["validation_persistence"] = self.validation.reference
        row["learning_rate"] = module.learning_rate()
        row["truth_probability"] = module.truth_probability()
        row["samples_per_second"] = self._count * self.batch_size / max(busy, 1e-9)
        row["memory_mib"] = peak_memory(module.device) / 2**20
        for logger in trainer.loggers:
            logger.log_metrics(row, step)
        self.rows.append({"step": step, **row})
        self._begin()

    def write(self) -> None:
        """Write all rows, whole or not at all."""
        if self.folder is None:
            return
        path = self.folder / FILE
        partial = path.with_name(f".{FILE}.partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            for row in self.rows:
                writer.writerow({k: str(int(v)) if k == "step" else f"{v:.6g}" for k, v in row.items()})
        partial.replace(path)

    def _written(self) -> list[dict[str, float]]:
        if self.folder is None or not (self.folder / FILE).exists():
            return []
        with (self.folder / FILE).open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

    def _begin(self) -> None:
        self._loss, self._count = None, 0
        self._mark, self._validating = time.perf_counter(), self.validation.seconds


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held: of the GPU's memory where it trains on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
