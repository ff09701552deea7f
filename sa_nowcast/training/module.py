"""The Lightning module: one network, its loss and its schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from torch import Tensor

from sa_nowcast.computing.threads import look_again
from sa_nowcast.errors import ModelError
from sa_nowcast.models import graphed_predictions
from sa_nowcast.models.rollout import Network
from sa_nowcast.recipe import TrainingRecipe
from sa_nowcast.stream import StepSampler, prepare
from sa_nowcast.training.data import TrainingData
from sa_nowcast.training.hardware import Hardware
from sa_nowcast.training.objective import (
    context_mask,
    context_truth_probability,
    lead_weight,
    learning_rate_factor,
    loss_sums,
    rain_weight,
    truth_mask,
    truth_probability,
)

if TYPE_CHECKING:
    from sa_nowcast.models.lagrangian import LagrangianNetwork

_NAMED_WINDOWS = 8
_DISTRIBUTIONS = 4  # one of so many windows of a batch trains the distribution, whose few weights need no more
# A training that goes on in the same folder has to have the same settings.
_LOWER = "lower training.learning_rate, and take another output folder"


class NowcastModule(L.LightningModule):
    """Trains a network on raw windows (B, T, C, H, W), in physical units with NaN where missing.

    Parameters
    ----------
    network : Network
    data : TrainingData
        Its scaling is applied on the device, so that batches travel as they were read.
    recipe : TrainingRecipe
    hardware : Hardware
        With acceleration ``graph`` the network's forward and backward pass are captured as CUDA graphs at the first
        step.
    sampler : StepSampler
        Which windows this process sees at which step.
    start : Network, optional
        Whose forecasts are the target where a window has no frame, after the end of its period: at lead times that few
        windows reach, a network that was trained before is to stay what it is.

    Attributes
    ----------
    elapsed : float
        Seconds spent on updates, which the learning rate follows where the run is limited by time.
    """

    def __init__(
        self,
        network: Network,
        data: TrainingData,
        recipe: TrainingRecipe,
        hardware: Hardware,
        sampler: StepSampler,
        start: Network | None = None,
    ) -> None:
        super().__init__()
        self.network, self.data, self.recipe = network, data, recipe
        self.scaling, self.history = data.scaling, data.terms.history
        self.elapsed = 0.0
        self._share, self._sampler = hardware.launch.share, sampler
        self._graph, self._autocast = hardware.acceleration == "graph", hardware.autocast
        # In a list: as an attribute its parameters would count twice, for it is a module around the network.
        self._graphed: list[Callable[[Tensor, Tensor], Tensor]] = []
        self._start = [] if start is None else [start]

    @property
    def iteration(self) -> int:
        """How many batches were finished: with `reversed_input`, each is two updates."""
        return self.global_step // updates_a_batch(self.recipe)

    def training_step(self, raw_BTCHW: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return the loss of one batch: all T - 1 predictions, context included, as in the paper's lineage.

        A network that predicts no known frames (``output: moving``) has the loss of its forecast alone.

        Returns
        -------
        dict
            ``loss``, whose gradient this process gives, with what the network itself adds to it; and ``mean``, the loss
            of all processes' pixels, which is logged.
        """
        recipe = self.recipe
        if recipe.reversed_input and self.global_step % 2:
            raw_BTCHW = raw_BTCHW.flip(1)
        by_window = not self.network.config.declared.needs_scaling
        x, valid = prepare(raw_BTCHW, self.scaling, self.history, by_window=by_window)
        if self._start:
            x, valid = self._completed(x, valid)
        first = self.network.first_predicted(self.history)
        prediction, penalty = self._predict(x)
        if recipe.distribution:
            penalty = self._of_distribution(x, valid)
        prediction = prediction[:, first - 1 :]
        weight = rain_weight(raw_BTCHW[:, first:], recipe.rain_weights) if recipe.loss == "rain-weighted" else None
        if recipe.balanced_leads:
            later = None if weight is None else weight[:, self.history - first :]
            leads = lead_weight(x, valid, self.history, recipe.loss, later)
            leads = torch.cat([leads.new_ones(1, self.history - first, 1, 1, 1), leads], 1)
            weight = leads if weight is None else weight * leads
        total, count = loss_sums(prediction, x[:, first:], valid[:, first:], recipe.loss, weight, self.history - first)
        mine = bool(torch.isfinite(total))
        if self._share.ranks > 1:
            # Processes average their gradients. So each divides by the pixels of all, and the average is the gradient
            # of the mean over all pixels, wherever they are missing. A sum that is not finite reaches all of them.
            sums = torch.stack([total.detach(), count])
            torch.distributed.all_reduce(sums)
            finite, pixels = bool(torch.isfinite(sums[0])), sums[1].clamp(min=1)
            mean, loss = sums[0] / pixels, total / (pixels / self._share.ranks)
        else:
            finite, loss = mine, total / count.clamp(min=1)
            mean = loss.detach()
        if not finite:
            raise ModelError(
                f"training, step {self.global_step}",
                f"the loss is {total.item()}; "
                + (f"windows: {self._windows(self.global_step)}" if not mine else "in another process"),
                expected="a finite loss",
                fix=_LOWER,
            )
        # Processes average their gradients, and so the penalties of their samples.
        return {"loss": loss if penalty is None else loss + penalty, "mean": mean}

    def _of_distribution(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of the distributions that are forecast from some of the windows.

        With several processes, from those that one process would take of the same batch: each gives its part of the
        share that all of them have, times their number, as gradients are averaged.
        """
        network, ranks = cast("LagrangianNetwork", self.network), self._share.ranks
        if ranks == 1:
            count = -(-len(x) // _DISTRIBUTIONS)
            return network.margins_loss(x[:count], valid[:count], self.history)
        count = len(range(self._share.rank, -(-len(x) * ranks // _DISTRIBUTIONS), ranks))
        # A process without one gives zeros: its weights need gradients like those of the others.
        some = slice(max(count, 1))
        its = valid[some] if count else torch.zeros_like(valid[some])

        def everywhere(still: Tensor) -> Tensor:
            torch.distributed.all_reduce(still)
            return still

        return ranks * network.margins_loss(x[some], its, self.history, everywhere)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of what forecasts, and of what tells its distribution, each by themselves.

        So a network is the same whether its distribution is trained or not.
        """
        if gradient_clip_val is not None:
            margins = getattr(self.network, "margins", None)
            apart = {id(p) for p in margins.parameters()} if isinstance(margins, torch.nn.Module) else set()
            for own in (True, False):
                chosen = [p for p in self.network.parameters() if (id(p) not in apart) is own]
                if chosen:
                    torch.nn.utils.clip_grad_norm_(chosen, gradient_clip_val)

    def _completed(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return windows with the start's forecasts for the frames after their end."""
        absent = ~valid[:, self.history :].any(4).any(3).any(2)
        ends_early = absent.any(1)
        if not bool(ends_early.any()):
            return x, valid
        with torch.no_grad():
            start = self._start[0].to(x.device).eval()
            expected = start(x[ends_early, : self.history], absent.shape[1]).to(x.dtype)
        x, valid = x.clone(), valid.clone()
        lacking = absent[ends_early][:, :, None, None, None]
        x[ends_early, self.history :] = torch.where(lacking, expected, x[ends_early, self.history :])
        valid[ends_early, self.history :] |= lacking
        return x, valid

    def on_train_batch_end(self, *args: Any) -> None:
        """Look between updates whether others want the cores."""
        look_again()

    def require_finite(self, step: int) -> None:
        """Raise `ModelError` where the update at `step` left weights that are not finite."""
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters()):
            raise ModelError(
                f"training, step {step}",
                f"the weights are not finite after this update; windows: {self._windows(step)}",
                expected="finite weights",
                fix=_LOWER,
            )

    def _windows(self, step: int) -> str:
        """Name the windows that this process saw at a step."""
        numbers = self._sampler.samples(step)
        more = f" and {len(numbers) - _NAMED_WINDOWS} more" if len(numbers) > _NAMED_WINDOWS else ""
        return "; ".join(self.data.train.describe(n) for n in numbers[:_NAMED_WINDOWS]) + more

    def learning_rate(self) -> float:
        """Return the learning rate of the next update."""
        rate: float = self.trainer.optimizers[0].param_groups[0]["lr"]
        return rate

    def truth_probability(self) -> float:
        """Return the probability that a forecast step reads the true frame (the paper's lineage calls it eta)."""
        return truth_probability(self.iteration, self.recipe.truth_start, self.recipe.truth_decay)

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        history, mask = self._sampling(x)
        if not self._graph:
            return self.network.predictions_and_penalty(x, history, mask)
        if mask is None:
            mask = torch.zeros(x.shape[0], x.shape[1] - history - 1, dtype=torch.bool, device=x.device)
        if not self._graphed:
            self._graphed.append(graphed_predictions(self.network, x, mask, history, autocast=self._autocast))
        return self._graphed[0](x, mask), None

    def _sampling(self, x: Tensor) -> tuple[int, Tensor | None]:
        """Return how many frames are read as they are, and which of the later inputs are (scheduled sampling)."""
        recipe, step, ranks = self.recipe, self.iteration, self._share.ranks
        batch, steps = x.shape[0] * ranks, x.shape[1] - self.history
        drawn = truth_mask(recipe.seed, step, batch, steps, self.truth_probability())
        context = context_truth_probability(step, recipe.context_truth_start, recipe.context_truth_rise)
        history = self.history
        # A graph has one shape for the whole run.
        if history > 1 and (context < 1 or (self._graph and recipe.context_truth_start < 1)):
            within = context_mask(recipe.seed, step, batch, history, context)
            later = torch.zeros(batch, steps - 1, dtype=torch.bool) if drawn is None else torch.from_numpy(drawn)
            mask, history = torch.cat([torch.from_numpy(within), later], dim=1), 1
        elif drawn is None:
            return history, None
        else:
            mask = torch.from_numpy(drawn)
        return history, mask[self._share.rank :: ranks].to(x.device)

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimiser and learning rate."""
        recipe = self.recipe
        trained = [p for p in self.network.parameters() if p.requires_grad]
        # One kernel for all parameters where there is one; on the CPU it is no faster.
        options: dict[str, Any] = {"lr": recipe.learning_rate, "fused": True if self.device.type == "cuda" else None}
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "adamw":
            optimizer = torch.optim.AdamW(trained, weight_decay=recipe.weight_decay, **options)
        else:
            optimizer = torch.optim.Adam(trained, **options)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate_factor(self, step: int) -> float:
        recipe, limit = self.recipe, self.recipe.max_seconds
        reached = float(step)
        if limit is not None:
            reached = max(reached, recipe.max_steps * min(self.elapsed / limit, 1.0))
        return learning_rate_factor(reached, recipe.max_steps, recipe.schedule, recipe.warm_up)


def updates_a_batch(recipe: TrainingRecipe) -> int:
    """Return how many updates a batch makes."""
    return 2 if recipe.reversed_input else 1
