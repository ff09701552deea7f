"""The Lightning module: one network, its loss and its schedules."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from sa_nowcast.errors import ModelError
from sa_nowcast.models.rollout import Network
from sa_nowcast.recipe import TrainingRecipe
from sa_nowcast.scaling import Scaling
from sa_nowcast.stream import prepare
from sa_nowcast.training.losses import masked_loss
from sa_nowcast.training.schedules import learning_rate_factor, truth_mask, truth_probability


class NowcastModule(L.LightningModule):
    """Trains a network on raw windows (B, T, C, H, W), in physical units with NaN where missing.

    Parameters
    ----------
    network : Network
    scaling : Scaling
        Applied on the device, so that batches travel as they were read.
    history : int
        Frames of a window that are given; the rest is forecast.
    recipe : TrainingRecipe
    """

    def __init__(self, network: Network, scaling: Scaling, history: int, recipe: TrainingRecipe) -> None:
        super().__init__()
        self.network, self.scaling, self.history, self.recipe = network, scaling, history, recipe
        self.fingerprint: dict[str, str] = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what a resumed run must share with this one."""
        checkpoint["sa_nowcast_fingerprint"] = self.fingerprint

    def training_step(self, raw_BTCHW: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of one batch: all T - 1 predictions, context included, as in the paper's lineage."""
        step = self.global_step
        x, valid = prepare(raw_BTCHW, self.scaling, self.history)
        recipe = self.recipe
        probability = truth_probability(step, recipe.truth_start, recipe.truth_decay)
        drawn = truth_mask(recipe.seed, step, x.shape[0], x.shape[1] - self.history, probability)
        mask = None if drawn is None else torch.from_numpy(drawn).to(x.device)
        prediction = self.network.predict_all(x, self.history, mask)
        loss = masked_loss(prediction, x[:, 1:], valid[:, 1:], recipe.loss)
        if not bool(torch.isfinite(loss)):
            raise ModelError(
                f"training, step {step}",
                f"the loss is {loss.item()}",
                expected="a finite loss",
                fix="lower training.learning_rate, or look at the data for extreme values",
            )
        self.log("loss", loss.detach(), prog_bar=False)
        self.log("learning_rate", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def validation_step(self, raw_BTCHW: Tensor, batch_idx: int) -> None:
        """Log the mean squared error of the forecast steps in network units, and persistence's beside it."""
        x, valid = prepare(raw_BTCHW, self.scaling, self.history)
        steps = x.shape[1] - self.history
        target, seen = x[:, self.history :], valid[:, self.history :]
        forecast = self.network(x[:, : self.history], steps=steps)
        still = x[:, self.history - 1 : self.history].expand_as(target)
        weight = float(seen.sum())
        for name, frames in (("validation_loss", forecast), ("validation_persistence", still)):
            value = masked_loss(frames, target, seen, "l2")
            self.log(name, value, batch_size=max(int(weight), 1), on_epoch=True)

    def configure_optimizers(self) -> Any:
        """Adam with the recipe's learning rate and schedule."""
        recipe = self.recipe
        optimizer = torch.optim.Adam(self.network.parameters(), lr=recipe.learning_rate)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, recipe.max_steps, recipe.schedule)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
