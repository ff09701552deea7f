"""The loss on the windows of the validation period, and the weights that were best on them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sa_nowcast.models.rollout import Network
from sa_nowcast.recipe import TrainingRecipe
from sa_nowcast.scaling import Scaling
from sa_nowcast.stream import Share, prepare
from sa_nowcast.training.averaging import Average
from sa_nowcast.training.data import TrainingData
from sa_nowcast.training.hardware import Hardware
from sa_nowcast.training.objective import losses, rain_weight
from sa_nowcast.training.watch import Watch

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Sums over the valid pixels of validation windows, by lead time: forecast and persistence.

    Attributes
    ----------
    valid : ndarray, shape (steps, channels)
        Valid pixels.
    error, persistence : ndarray, shape (steps, channels)
        Of the loss that is trained, in network units.
    count : ndarray, shape (steps, channels)
        Of how many pixels these are.
    physical_error, physical_persistence : ndarray, shape (steps, channels)
        Squared errors in the data's units.
    """

    valid: Sums
    error: Sums
    persistence: Sums
    count: Sums
    physical_error: Sums
    physical_persistence: Sums

    @classmethod
    def from_tensor(cls, sums: Tensor) -> Evaluation:
        """Take back what `to_tensor` gave."""
        return cls(*sums.cpu().numpy())

    def to_tensor(self) -> Tensor:
        """Return all sums as one tensor, which a checkpoint can keep."""
        return torch.from_numpy(np.stack([getattr(self, field.name) for field in fields(self)]))

    @property
    def loss(self) -> float:
        """The loss that is trained, of all lead times and pixels."""
        return float(self.error.sum() / max(self.count.sum(), 1.0))

    @property
    def reference(self) -> float:
        """The same of persistence."""
        return float(self.persistence.sum() / max(self.count.sum(), 1.0))

    def ratios(self, other: Evaluation) -> Sums:
        """Return the losses as shares of those of another forecast of the same windows, (steps, channels).

        Lead times and channels that nothing was observed of, or without an error in both, are left out.
        """
        told = (self.count > 0) & ((other.error > 0) | (self.error > 0))
        found: Sums = np.full(told.shape, np.nan)
        with np.errstate(divide="ignore"):
            np.divide(self.error, other.error, out=found, where=told)
        return found

    def against(self, other: Evaluation) -> float:
        """Return the mean of these ratios; infinite where one is above 1, so that no lead time becomes worse."""
        ratios = self.ratios(other)
        if not np.isfinite(ratios).any() or np.nanmax(ratios) > 1:
            return math.inf
        return float(np.nanmean(ratios))

    def by_lead_time(self, channel: int) -> tuple[list[float], list[float]]:
        """Return the mean squared errors of forecast and persistence in the data's units, squared, by lead time.

        Up to the last lead time that anything was observed of.
        """
        observed = np.flatnonzero(self.valid.any(1))
        to = slice(observed[-1] + 1 if observed.size else None)
        count = np.maximum(self.valid[to, channel], 1.0)
        both = (self.physical_error[to, channel] / count, self.physical_persistence[to, channel] / count)
        return both[0].tolist(), both[1].tolist()


def evaluate(
    network: Network,
    scaling: Scaling,
    history: int,
    batches: Iterable[Tensor],
    hardware: Hardware,
    recipe: TrainingRecipe,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Forecast the windows of all batches (B, T, C, H, W) and sum the errors; None where `stop` came true."""
    sums: list[Tensor] = []
    with inference(network, hardware):
        for raw in batches:
            if stop():
                return None
            sums.append(_errors(network, scaling, history, raw.to(hardware.device), recipe))
    return Evaluation.from_tensor(torch.stack(sums).sum(0))


@contextlib.contextmanager
def inference(network: Network, hardware: Hardware) -> Iterator[None]:
    """Let a network that is being trained forecast, in the precision that it is trained in."""
    was_training = network.training
    network.to(hardware.device).eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(hardware.device.type, hardware.autocast, enabled=hardware.autocast is not None),
        ):
            yield
    finally:
        network.train(was_training)


def _errors(network: Network, scaling: Scaling, history: int, raw: Tensor, recipe: TrainingRecipe) -> Tensor:
    x, valid = prepare(raw, scaling, history)
    truth, seen = x[:, history:], valid[:, history:]
    forecast = network(x[:, :history], steps=truth.shape[1]).float()
    still = x[:, history - 1 : history].expand_as(truth)
    observed = raw[:, history:].nan_to_num()
    weight = rain_weight(raw[:, history:], recipe.rain_weights) if recipe.loss == "rain-weighted" else None
    (trained, count), (kept, _) = (
        losses(one.double(), truth.double(), seen, recipe.loss, weight) for one in (forecast, still)
    )
    physical = [
        torch.where(seen, (scaling.to_physical(one, torch) - observed).double(), 0).square()
        for one in (forecast, still)
    ]
    sums = (seen, trained, kept, count, *physical)
    return torch.stack([one.sum(dim=(0, 3, 4), dtype=torch.float64) for one in sums])


class Validation(L.Callback):
    """Validates every so many updates and keeps a copy of the best weights; both travel in the checkpoint.

    The best ones have the lowest loss. Where the first weights are those of a trained model, they are validated before
    the first update; later ones are better where no lead time of any channel has a larger loss than that model's,
    and their losses, as shares of its losses, have the lowest mean.

    Without a validation period the last weights are the best that is known. A validation that a signal cut short is
    made up for when the run goes on.

    Parameters
    ----------
    data : TrainingData
    recipe : TrainingRecipe
        Every ``validate_every`` updates, and after the last one, the first ``validation_samples`` windows.
    average : Average
        Whose weights are validated and kept.
    hardware : Hardware
    watch : Watch
    from_start : bool
        Whether the first weights are validated, and later ones measured by them.
    """

    def __init__(
        self,
        data: TrainingData,
        recipe: TrainingRecipe,
        average: Average,
        hardware: Hardware,
        watch: Watch,
        *,
        from_start: bool = False,
    ) -> None:
        self.from_start = from_start
        self.network, self.average, self.hardware, self.watch = average.network, average, hardware, watch
        self.recipe = recipe
        self.samples, self.scaling, self.terms = data.validation, data.scaling, data.terms
        self.history, self.every, self.patience = data.terms.history, recipe.validate_every, recipe.patience
        count, size = recipe.validation_samples, recipe.batch_size
        self._batches = [range(i, min(i + size, count)) for i in range(0, count, size)]
        self.loss = math.inf
        self.reference = math.nan
        self.step = 0
        self.validated = -1
        self.worse = 0
        self.latest = math.nan
        self.weights: dict[str, Tensor] = {}
        self.sums: Tensor | None = None
        self.start_sums: Tensor | None = None
        self.seconds = 0.0

    @property
    def best(self) -> Evaluation | None:
        """The errors of the best weights; None where nothing was validated."""
        return None if self.sums is None else Evaluation.from_tensor(self.sums)

    @property
    def start(self) -> Evaluation | None:
        """The errors of the weights that training started from; None where these were not validated."""
        return None if self.start_sums is None else Evaluation.from_tensor(self.start_sums)

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.worse >= self.patience

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Validate the start, or make up for a validation that the interrupted run did not finish."""
        if self._due(trainer.global_step, trainer.max_steps):
            self._validate(trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Validate when it is time."""
        if self._due(trainer.global_step, trainer.max_steps):
            self._validate(trainer.global_step)

    def conclude(self, step: int, max_steps: int) -> None:
        """Validate the last weights where that is left to do, and take them where nothing was ever validated."""
        if self._due(step, max_steps):
            self._validate(step)
        if not self.weights:
            self.step = step
            with self.average.applied():
                self._copy()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        names = ("loss", "reference", "step", "validated", "worse", "latest", "weights", "sums", "start_sums")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what a checkpoint kept."""
        for name, value in state_dict.items():
            setattr(self, name, value)

    def _due(self, step: int, max_steps: int) -> bool:
        if self.samples is None or step <= self.validated or (step == 0 and not self.from_start):
            return False
        return step % self.every == 0 or step == max_steps or self.watch.time_is_up

    def _validate(self, step: int) -> None:
        began = time.perf_counter()
        with self.average.applied():
            found = self._evaluate()
            if found is not None:
                self.validated, self.latest, self.reference = step, found.loss, found.reference
                if step == 0:
                    self.start_sums = found.to_tensor()
                start = self.start
                loss = found.loss if start is None else found.against(start) if step else 1.0
                if loss < self.loss:
                    self.loss, self.step, self.worse, self.sums = loss, step, 0, found.to_tensor()
                    self._copy()
                else:
                    self.worse += 1
        self.seconds += time.perf_counter() - began

    def _evaluate(self) -> Evaluation | None:
        """Return the errors on all windows, of which each process takes its share; None after a signal."""
        assert self.samples is not None
        samples = self.samples
        # A finished run that is asked for again starts no group of processes: each finds the same by itself.
        share = self.hardware.launch.share if torch.distributed.is_initialized() else Share()
        mine = self._batches[share.rank :: share.ranks]
        raw = (samples.batch(numbers) for numbers in mine)
        if share.ranks == 1:
            return self._sums(raw)
        length, channels = samples.sample_shape[:2]
        sums = torch.zeros(len(fields(Evaluation)), length - self.history, channels, dtype=torch.float64)
        if mine and (found := self._sums(raw)) is not None:
            sums = found.to_tensor()
        # The same bits for all: on them depends which weights are best, and with patience where the run stops.
        sums = sums.to(self.hardware.device)
        torch.distributed.all_reduce(sums)
        self.watch.agree(self.hardware.device)
        return None if self.watch.stopped_by is not None else Evaluation.from_tensor(sums)

    def _sums(self, raw: Iterable[Tensor]) -> Evaluation | None:
        return evaluate(self.network, self.scaling, self.history, raw, self.hardware, self.recipe, self.watch.noticed)

    def _copy(self) -> None:
        self.weights = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
