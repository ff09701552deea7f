"""The folder of a run: checkpoints and the log, and the decision to stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from sa_nowcast.training.checkpoint import LAST
from sa_nowcast.training.launch import Launch
from sa_nowcast.training.log import TrainingLog
from sa_nowcast.training.module import NowcastModule
from sa_nowcast.training.validation import Validation
from sa_nowcast.training.watch import Watch

FINGERPRINT = "sa_nowcast_fingerprint"


class RunFolder(L.Callback):
    """Writes ``last.ckpt`` every so many updates with the log beside it, and stops the run when there is a reason to.

    It comes after the callbacks that change what a checkpoint holds.

    Parameters
    ----------
    folder : Path or None
        Where to write; None: nowhere.
    every : int
        Updates between two checkpoints; the last update gets one too, and the one after which a signal was seen.
    watch : Watch
    validation : Validation
    log : TrainingLog
    launch : Launch
    fingerprint : mapping
        What a run that goes on from a checkpoint must share with this one; kept in every checkpoint.
    """

    def __init__(
        self,
        folder: Path | None,
        every: int,
        *,
        watch: Watch,
        validation: Validation,
        log: TrainingLog,
        launch: Launch,
        fingerprint: Mapping[str, str],
    ) -> None:
        self.folder, self.every, self.fingerprint = folder, every, dict(fingerprint)
        self.watch, self.validation, self.training_log, self.launch = watch, validation, log, launch

    def finished(self, step: int, max_steps: int) -> bool:
        """Whether nothing is left to do."""
        return step >= max_steps or self.watch.time_is_up or self.validation.exhausted

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store what a resumed run must share with this one."""
        checkpoint[FINGERPRINT] = self.fingerprint

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop at once where the validation that was made up for leaves nothing to do, or was interrupted again."""
        trainer.should_stop = self._stopping(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: object) -> None:
        """Save when it is time, and stop after the last update or a signal."""
        stopping, step = self._stopping(trainer), trainer.global_step
        if stopping or (self.folder is not None and step % self.every == 0):
            # Weights that are not finite would take the place of sound ones. An earlier update would have been noticed
            # by the loss after it.
            if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
                assert isinstance(module, NowcastModule)
                raise module.spoiled(step - 1)
            if self.folder is not None:
                # The log first: rows after the checkpoint that a run goes on from are dropped, and none may lack.
                if self.launch.first:
                    self.training_log.write()
                trainer.save_checkpoint(self.folder / LAST)
        if stopping:
            trainer.should_stop = True

    def _stopping(self, trainer: L.Trainer) -> bool:
        return self.watch.stopped_by is not None or self.finished(trainer.global_step, trainer.max_steps)
