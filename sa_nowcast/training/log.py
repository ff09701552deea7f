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

from sa_nowcast.errors import StorageError
from sa_nowcast.storage.whole import partial_beside, put_in_place
from sa_nowcast.training import LOG
from sa_nowcast.training.module import NowcastModule
from sa_nowcast.training.validation import Validation

FIELDS = (
    *("step", "loss", "validation_loss", "validation_persistence", "learning_rate", "truth_probability"),
    *("samples_per_second", "memory_mib"),
)


class TrainingLog(L.Callback):
    """Makes a row every so many updates, and after every validation.

    A row has the mean loss since the last row, the learning rate of the next update, the probability that a forecast
    step reads the true frame, the pace (without validations and pictures) and the peak memory of this process or of
    its GPU.
    """

    def __init__(self, validation: Validation, batch_size: int, every: int, folder: Path | None) -> None:
        self.validation, self.batch_size, self.every, self.folder = validation, batch_size, every, folder
        self.rows: list[dict[str, float]] = []
        self._loss: Tensor | None = None
        self._count = 0
        self._mark = 0.0
        self._validating = 0.0
        self._before = 0.0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take up the rows that an earlier part of the run wrote, up to the checkpoint that it goes on from."""
        step = trainer.global_step
        self.rows = [row for row in self._written() if row["step"] <= step]
        self._mark, self._validating = time.perf_counter(), self.validation.seconds
        if not step or self.validation.validated != step:
            return
        # The validation of this step may have been made up for just now.
        if self.rows and self.rows[-1]["step"] == step:
            if "validation_loss" not in self.rows[-1]:
                self.rows[-1] |= self._validated()
                for logger in trainer.loggers:
                    logger.log_metrics(self._validated(), step)
        elif self._count:
            assert isinstance(module, NowcastModule)
            self._add(trainer, module, validated=True)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *args: Any) -> None:
        """Add a row when it is time."""
        loss = outputs["mean"]
        # On its device: asking for the number would make a GPU wait.
        self._loss = loss if self._loss is None else self._loss.to(loss.device) + loss
        self._count += 1
        step = trainer.global_step
        validated = self.validation.validated == step
        if not (validated or step % self.every == 0 or step == trainer.max_steps):
            return
        assert isinstance(module, NowcastModule)
        self._add(trainer, module, validated=validated)

    def conclude(self, step: int) -> None:
        """Write the validation of the last update where that was made up for after training."""
        self.rows = self.rows or self._written()
        late = self.rows and self.rows[-1]["step"] == step and "validation_loss" not in self.rows[-1]
        if late and self.validation.validated == step:
            self.rows[-1] |= self._validated()
            self.write()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the row that is under way."""
        return {"loss": self._loss, "count": self._count, "seconds": self._busy()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what a checkpoint kept."""
        self._loss, self._count, self._before = state_dict["loss"], state_dict["count"], state_dict["seconds"]

    def _add(self, trainer: L.Trainer, module: NowcastModule, *, validated: bool) -> None:
        assert self._loss is not None
        step = trainer.global_step
        row: dict[str, float] = {"loss": float(self._loss) / self._count}
        if validated:
            row |= self._validated()
        row["learning_rate"] = module.learning_rate()
        row["truth_probability"] = module.truth_probability()
        row["samples_per_second"] = self._count * self.batch_size / max(self._busy(), 1e-9)
        row["memory_mib"] = peak_memory(module.device) / 2**20
        for logger in trainer.loggers:
            logger.log_metrics(row, step)
        self.rows.append({"step": step, **row})
        self._loss, self._count, self._before = None, 0, 0.0
        self._mark, self._validating = time.perf_counter(), self.validation.seconds

    def _validated(self) -> dict[str, float]:
        return {"validation_loss": self.validation.latest, "validation_persistence": self.validation.reference}

    def _busy(self) -> float:
        """Seconds spent on the updates of the row that is under way."""
        return self._before + time.perf_counter() - self._mark - (self.validation.seconds - self._validating)

    def write(self) -> None:
        """Write all rows, whole or not at all.

        Raises
        ------
        StorageError
            The file cannot be written.
        """
        if self.folder is None:
            return
        path = self.folder / LOG
        try:
            with partial_beside(path) as partial:
                with partial.open("w", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS)
                    writer.writeheader()
                    for row in self.rows:
                        writer.writerow({k: str(int(v)) if k == "step" else f"{v:.6g}" for k, v in row.items()})
                put_in_place(partial, path)
        except OSError as error:
            raise StorageError(
                str(path), f"the log could not be written ({error})", fix="free space or choose another folder"
            ) from error

    def _written(self) -> list[dict[str, float]]:
        if self.folder is None or not (self.folder / LOG).exists():
            return []
        path = self.folder / LOG
        try:
            with path.open(newline="") as file:
                rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
            if not all("step" in row and row.keys() <= set(FIELDS) for row in rows):
                raise ValueError("other columns")
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise StorageError(
                str(path), f"not the log of a run ({error})", fix="move it away; the run itself can go on without"
            ) from error
        return rows


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held: of the GPU's memory where it trains on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
