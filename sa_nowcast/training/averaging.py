"""The exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sa_nowcast.models.rollout import Network


class Average(L.Callback):
    """Keeps an exponential moving average of the weights; it travels in the checkpoint.

    After n updates the decay is at most (1 + n) / (10 + n), so that the random start does not weigh on a short run
    (as in TensorFlow's ExponentialMovingAverage; Polyak and Juditsky 1992, doi:10.1137/0330046).

    With decay 0 there is no average, and `applied` changes nothing.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network, self.decay = network, decay
        self.updates = 0
        self.weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin with the weights as they are, or go on with what a checkpoint kept."""
        if self.decay:
            now = dict(self.network.named_parameters())
            self.weights = {k: self.weights.get(k, v).detach().to(v.device, copy=True) for k, v in now.items()}

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Move the average towards the weights."""
        if not self.decay:
            return
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            now = [p.detach() for p in self.network.parameters()]
            torch._foreach_lerp_(list(self.weights.values()), now, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network have the averaged weights for a while."""
        if not self.weights:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        # Contents, not tensors: a captured graph reads from where the weights were.
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                kept = parameter.detach().clone()
                parameter.copy_(self.weights[name])
                self.weights[name].copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what a checkpoint kept."""
        self.updates, self.weights = state_dict["updates"], state_dict["weights"]
