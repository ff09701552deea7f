"""The folder of a run: checkpoints and the log, the decision to stop, and what a run goes on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from sa_nowcast.errors import RecipeError
from sa_nowcast.models.rollout import Network
from sa_nowcast.training.checkpoint import LAST, load_checkpoint, newest_valid
from sa_nowcast.training.log import TrainingLog
from sa_nowcast.training.module import NowcastModule
from sa_nowcast.training.validation import Validation

FINGERPRINT = "sa_nowcast_fingerprint"
_RAISED = {"training.max_steps", "training.patience"}
"""Of these, more lets a run go on, also one that has ended; less would be another run."""


class RunFolder(L.Callback):
    """Writes ``last.ckpt`` every so many updates with the log beside it, and stops the run when there is a reason to.

    The last update gets a checkpoint too, and the one after which a signal was seen. Each has the fingerprint, which a
    run that goes on from it must share. The callback comes after those that change what a checkpoint holds.
    """

    def __init__(
        self, folder: Path | None, every: int, validation: Validation, log: TrainingLog, fingerprint: Mapping[str, str]
    ) -> None:
        self.folder, self.every, self.fingerprint = folder, every, dict(fingerprint)
        self.watch, self.validation, self.training_log = validation.watch, validation, log

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
            assert isinstance(module, NowcastModule)
            module.require_finite(step - 1)
            if self.folder is not None:
                # The log first: rows after the checkpoint that a run goes on from are dropped, and none may lack.
                if self.watch.launch.first:
                    self.training_log.write()
                trainer.save_checkpoint(self.folder / LAST)
        if stopping:
            trainer.should_stop = True

    def _stopping(self, trainer: L.Trainer) -> bool:
        return self.watch.stopped_by is not None or self.finished(trainer.global_step, trainer.max_steps)


@dataclass(frozen=True)
class Resume:
    """The checkpoint that a run goes on from, or none."""

    checkpoint: Path | None
    step: int
    content: Mapping[str, Any]
    note: str | None = None

    @classmethod
    def find(cls, folder: Path | None, fingerprint: Mapping[str, str]) -> Resume:
        """Find the newest checkpoint that can be read; one of another run is an error."""
        checkpoint, damage = (None, None) if folder is None else newest_valid(folder)
        if checkpoint is None:
            note = (
                None if damage is None else f"{damage.where}: {damage.found}, and there is no sound one; starting anew"
            )
            return cls(None, 0, {}, note)
        content = load_checkpoint(checkpoint)
        theirs = content.get(FINGERPRINT, {})
        differing = [
            k for k, ours in fingerprint.items() if theirs.get(k, "") != ours and not _more(k, theirs.get(k), ours)
        ]
        if differing:
            key = differing[0]
            change = f"{key} was {theirs.get(key)} and is {fingerprint[key]}" if "." in key else f"{key} differs"
            raise RecipeError(
                str(checkpoint.parent),
                f"the run in this folder was another one: {change}",
                fix="choose another output folder, or remove this one to start anew",
            )
        if checkpoint.name != LAST:
            checkpoint.with_name(LAST).unlink(missing_ok=True)  # damaged; it must not become the one before the next
        step = int(content["global_step"])
        note = None if damage is None else f"{damage.where}: {damage.found}; going on from the one before, step {step}"
        return cls(checkpoint, step, content, note)

    def restore(self, callbacks: Sequence[L.Callback]) -> None:
        """Give callbacks their state already now: whether a run is finished depends on it."""
        states = self.content.get("callbacks", {})
        for callback in callbacks:
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])

    def restore_network(self, network: Network) -> None:
        """Give the network the weights after the last update."""
        prefix = "network."
        weights = self.content["state_dict"]
        network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})


def _more(key: str, before: str | None, now: str) -> bool:
    """Say whether an option is one that may be raised, and was; without a patience, a run waits for ever."""
    if key not in _RAISED or before is None or before == repr(None):
        return False
    return now == repr(None) or int(now) > int(before)
