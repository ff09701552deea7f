"""The module of a network that adds to the loss itself, as PredRNN-V2 adds the likeness of its two memories."""

from __future__ import annotations

from torch import Tensor

from sa_nowcast.training.module import NowcastModule


class PenalisedModule(NowcastModule):
    """Trains a network on its loss and its penalty; what is logged, and what must be finite, is the loss alone."""

    _penalty: Tensor | None = None

    def training_step(self, raw_BTCHW: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return as `NowcastModule.training_step`, with the penalty in ``loss``, whose gradient this process gives.

        Processes average their gradients, and so the penalties of their samples.
        """
        result = super().training_step(raw_BTCHW, batch_idx)
        penalty, self._penalty = self._penalty, None
        return result if penalty is None else {**result, "loss": result["loss"] + penalty}

    def _predict(self, x: Tensor) -> Tensor:
        prediction, self._penalty = self.network.predictions_and_penalty(x, *self._sampling(x))
        return prediction
