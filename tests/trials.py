"""What the tests of training share: a run of a second, and callbacks that look at it or disturb it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from sequences import NETWORK, OPTIONS, rain

import sa_nowcast.training.engine as engine
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.models.rollout import Network
from sa_nowcast.training.fit import fit
from sa_nowcast.training.objective import loss_sums

LONG = {**OPTIONS, "max_steps": 9, "validate_every": 2, "checkpoint_every": 2, "pictures": 0}
"""Nine updates, so that validation, checkpoints and the end fall on different steps as well as on the same."""
COMBINATIONS: dict[str, dict[str, Any]] = {
    "average": {"average": 0.9, "log_every": 2},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine"},
    "reversed": {"reversed_input": True, "truth_start": 0.7, "truth_decay": 0.1, "checkpoint_every": 3},
    "context": {"context_truth_start": 0.25, "context_truth_rise": 0.125, "truth_start": 0.5, "checkpoint_every": 1},
    "l1+l2": {"loss": "l1+l2", "clip_norm": None, "batch_size": 3, "patience": 4},
    "epochs": {"max_steps": 14, "batch_size": 4, "average": 0.5, "validation": 0.2},  # 3 windows an epoch
    "everything": {
        "average": 0.8, "optimizer": "adamw", "weight_decay": 0.05, "reversed_input": True, "truth_start": 0.9,
        "context_truth_start": 0.3, "context_truth_rise": 0.1, "loss": "rain-weighted", "patience": 8,
        "checkpoint_every": 3, "batch_size": 3, "log_every": 5,
    },
}  # fmt: skip
"""Options that must not keep a run from going on with the same bits."""
LOG = "training.csv"


def train(data: Any = None, **options: Any) -> Nowcaster:
    given = {"history": 4, "steps": 3, "network": NETWORK, "progress": False} | LONG | options
    return fit(rain() if data is None else data, **given)


def masked_loss(*batch: Any) -> torch.Tensor:
    """The mean loss over valid pixels, as training has it."""
    total, count = loss_sums(*batch)
    return total / count.clamp(min=1)


def weights(nowcaster: Nowcaster) -> dict[str, torch.Tensor]:
    return nowcaster.network.state_dict()


def same_bits(one: Nowcaster, other: Nowcaster) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def with_callback(monkeypatch: pytest.MonkeyPatch, *more: L.Callback) -> None:
    """Let the next trainings have more callbacks, after all others."""
    trainer = L.Trainer

    def make(**options: Any) -> L.Trainer:
        return trainer(**{**options, "callbacks": [*options["callbacks"], *more]})

    monkeypatch.setattr(engine.L, "Trainer", make)


class Each(L.Callback):
    """Calls functions of (trainer, module, batch or outputs) around every update."""

    def __init__(self, before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None) -> None:
        self.before, self.after = before, after

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.before is not None:
            self.before(trainer, module, batch)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.after is not None:
            self.after(trainer, module, outputs)


class StopAfter(Each):
    """Sends this process a signal in the middle of the batch after `step` updates."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        super().__init__(lambda trainer, *_: os.kill(os.getpid(), number) if trainer.global_step == step else None)


class Call:
    """One call of `Network.predict_all`."""

    def __init__(self, x: torch.Tensor, history: int, mask: torch.Tensor | None, prediction: torch.Tensor) -> None:
        self.x, self.history, self.prediction = x.clone(), history, prediction.detach().clone()
        self.mask = None if mask is None else mask.clone()


def spied(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Return a list that what training asks of the network, and what it gives, are added to."""
    calls: list[Call] = []
    predict = Network.predictions_and_penalty

    def spy(self: Network, x: torch.Tensor, history: int, truth_mask: torch.Tensor | None = None) -> Any:
        prediction, penalty = predict(self, x, history, truth_mask)
        calls.append(Call(x, history, truth_mask, prediction))
        return prediction, penalty

    monkeypatch.setattr(Network, "predictions_and_penalty", spy)
    return calls


def log_of(folder: Path) -> list[dict[str, str]]:
    """The rows of the log, without what depends on the machine and the day."""
    import csv

    with (folder / LOG).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("samples_per_second", "memory_mib")} for row in rows]


# --- several processes

ON_ITS_OWN = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}


def machine(number: int, **more: str) -> None:
    """Let this process be the one of a machine of two, as torchrun says it."""
    os.environ.update(ON_ITS_OWN, RANK=str(number), GROUP_RANK=str(number), **more)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def on_two_machines(function: Callable[[int], Any], timeout: float = 120) -> list[int]:
    """Call a function with 0 and 1 in two forked processes; return how they ended, as `os.waitpid` says it."""
    port, children, ended = free_port(), [], {}
    for number in range(2):
        child = os.fork()
        if not child:
            code = 1
            try:
                machine(number, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
                function(number)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    deadline = time.monotonic() + timeout
    while len(ended) < 2:
        for child in set(children) - set(ended):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                ended[child] = status
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return [ended[child] for child in children]
