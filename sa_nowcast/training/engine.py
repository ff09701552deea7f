"""One training run on Lightning: callbacks in their order, resume, the reasons to stop."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import Sampler

from sa_nowcast.computing import quiet
from sa_nowcast.computing.installing import install
from sa_nowcast.computing.threads import look_again, sharing_cores
from sa_nowcast.errors import Interrupted, MissingLibraryError, RecipeError
from sa_nowcast.models import compile_cells
from sa_nowcast.models.rollout import Network
from sa_nowcast.recipe import TrainingRecipe
from sa_nowcast.stream import StepSampler, batches
from sa_nowcast.training.averaging import Average
from sa_nowcast.training.checkpoint import LAST, AtomicCheckpointIO, load_checkpoint, newest_valid
from sa_nowcast.training.data import TrainingData
from sa_nowcast.training.hardware import Hardware
from sa_nowcast.training.log import TrainingLog
from sa_nowcast.training.module import NowcastModule, updates_a_batch
from sa_nowcast.training.progress import ProgressReport
from sa_nowcast.training.run_folder import FINGERPRINT, RunFolder
from sa_nowcast.training.validation import Evaluation, Validation
from sa_nowcast.training.watch import Watch, signals_given_back

_NAMED_WINDOWS = 8
# They change how fast a run gets there, or what it writes on the way, and not where it ends; max_time may be raised to
# let a run go on.
_FREE = {
    "preset",
    "device",
    "workers",
    "checkpoint_every",
    "log_every",
    "pictures",
    "tensorboard",
    "acceleration",
    "max_time",
}
_RAISED = {"training.max_steps", "training.patience"}
"""Of these, more lets a run go on, also one that has ended; less would be another run."""
_CALLBACKS = "callbacks"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    weights : mapping of str to Tensor
        The best ones.
    updates, best_step : int
        How many updates were made, and after how many the weights were best.
    evaluation : Evaluation or None
        Errors of the best weights on the held-back windows.
    ended_by : {"max_steps", "max_time", "patience"}
    seconds : float
        Time spent on updates and validations, all parts of the run together.
    """

    weights: Mapping[str, Tensor]
    updates: int
    best_step: int
    evaluation: Evaluation | None
    ended_by: str
    seconds: float


def train(
    network: Network,
    data: TrainingData,
    recipe: TrainingRecipe,
    hardware: Hardware,
    *,
    fingerprint: Mapping[str, str],
    folder: Path | None,
    progress: bool,
    loggers: Sequence[Logger] = (),
    pictures: Callable[[Validation], L.Callback] | None = None,
    report: Callable[[str], None] | None = None,
) -> Outcome:
    """Train `network` on `data` until the recipe's last update, its time, or its patience is reached.

    Parameters
    ----------
    network : Network
        With its first weights; holds the last ones afterwards.
    data : TrainingData
    recipe : TrainingRecipe
    hardware : Hardware
    fingerprint : mapping
        What besides the recipe a resumed run must share with the one that it continues.
    folder : Path or None
        Where checkpoints and the log go, and where the run goes on from when there is a checkpoint.
    progress : bool
    loggers : sequence of Lightning loggers
        They get what the log gets.
    pictures : callable, optional
        Makes the callback that draws forecasts of the held-back windows.
    report : callable, optional
        Is told where a checkpoint is damaged, and what the run goes on from instead; by default a warning says so.

    Raises
    ------
    Interrupted
        A signal stopped the run.
    RecipeError
        The folder holds a run of other data or options, or a TensorBoard log is asked for and there is no folder.
    MissingLibraryError
        A TensorBoard log is asked for and TensorBoard is not installed.
    """
    fingerprint = {**fingerprint, **_options(recipe)}
    resume = _Resume.find(folder, fingerprint)
    loggers = [*loggers, *_tensorboard(recipe, folder, resume.step)]
    launch = hardware.launch
    if resume.note is not None and launch.first:
        if report is not None:
            report(resume.note)
        else:
            warnings.warn(resume.note, stacklevel=2)
    updates = updates_a_batch(recipe)
    sampler = StepSampler(recipe.batch_size // launch.share.ranks, recipe.max_steps, share=launch.share)

    def windows(step: int) -> str:
        numbers = sampler.samples(step // updates)
        more = f" and {len(numbers) - _NAMED_WINDOWS} more" if len(numbers) > _NAMED_WINDOWS else ""
        return "; ".join(data.train.describe(n) for n in numbers[:_NAMED_WINDOWS]) + more

    module = NowcastModule(
        network,
        data.scaling,
        data.terms.history,
        recipe,
        share=launch.share,
        windows=windows,
        graph=hardware.acceleration == "graph",
        autocast=hardware.autocast,
    )
    average = Average(network, recipe.average)
    watch = Watch(launch, recipe.max_seconds)
    validation = Validation(
        network,
        data.scaling,
        data.terms.history,
        data.held,
        count=data.held_count,
        batch_size=recipe.batch_size,
        every=recipe.validate_every,
        patience=recipe.patience,
        average=average,
        hardware=hardware,
        watch=watch,
    )
    log = TrainingLog(validation, recipe.batch_size, recipe.log_every, folder)
    keeper = RunFolder(
        folder,
        recipe.checkpoint_every,
        watch=watch,
        validation=validation,
        log=log,
        launch=launch,
        fingerprint=fingerprint,
    )
    # In this order: the average before the validation that uses it, pictures before the log that leaves their time
    # out of its account, everything before the checkpoint that keeps it.
    callbacks: list[L.Callback] = [average, watch, validation]
    if pictures is not None and launch.first:
        callbacks.append(pictures(validation))
    callbacks += [log, keeper]
    step = resume.step
    if resume.checkpoint is not None:
        resume.restore([average, watch, validation])
    with contextlib.ExitStack() as stack:
        if progress and launch.first:
            shown = ProgressReport(step, recipe.max_steps, validation, watch)
            callbacks.append(stack.enter_context(shown))
        if not keeper.finished(step, recipe.max_steps):
            step = _run(module, data, recipe, hardware, sampler, callbacks, loggers, folder, resume)
            if watch.stopped_by:
                raise _interrupted(watch.stopped_by, step, recipe.max_steps, folder)
        else:
            resume.restore_network(network)
        validation.conclude(step, recipe.max_steps)
    if launch.first:
        log.conclude(step)
    ended_by = "max_time" if watch.time_is_up else "patience" if validation.exhausted else "max_steps"
    return Outcome(
        validation.weights,
        step,
        validation.step,
        validation.best,
        "max_steps" if step >= recipe.max_steps else ended_by,
        watch.elapsed,
    )


def _run(
    module: NowcastModule,
    data: TrainingData,
    recipe: TrainingRecipe,
    hardware: Hardware,
    sampler: StepSampler,
    callbacks: list[L.Callback],
    loggers: Sequence[Logger],
    folder: Path | None,
    resume: _Resume,
) -> int:
    launch = hardware.launch
    strategy = "auto"
    if not launch.alone:
        # With one known frame and one to forecast there is no recurrent step, and so no gradient of its weights.
        lone = data.terms.history == 1 and data.terms.steps == 1
        strategy = "ddp_find_unused_parameters_true" if lone else "ddp"
    cuda = hardware.device.type == "cuda"
    devices: int | list[int] = launch.per_machine
    if cuda and launch.alone:
        devices = [hardware.device.index or 0]
    if hardware.acceleration == "compile":
        compile_cells(module.network)
    loader = batches(data.train, _Updates(sampler, updates_a_batch(recipe), resume.step), workers=recipe.workers)
    # Lightning composes signal handlers, and loaders draw a seed from the global generator; a caller sees neither.
    with _quiet_lightning(), signals_given_back(), torch.random.fork_rng(devices=[]), sharing_cores():
        trainer = L.Trainer(
            max_steps=recipe.max_steps,
            accelerator="gpu" if cuda else "cpu",
            devices=devices,
            num_nodes=launch.machines,
            strategy=strategy,
            precision="bf16-mixed" if hardware.precision == "bf16" else "32-true",
            plugins=[AtomicCheckpointIO(), launch.environment],
            callbacks=[*callbacks, _Looks()],
            logger=list(loggers) or False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            gradient_clip_val=recipe.clip_norm,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        watch = next(c for c in callbacks if isinstance(c, Watch))
        try:
            trainer.fit(module, train_dataloaders=loader, ckpt_path=resume.checkpoint, weights_only=True)
        except SystemExit:
            # How Lightning ends on a second Ctrl-C; a notebook must not end with it.
            if not watch.stopped_by:
                raise
        return trainer.global_step


class _Looks(L.Callback):
    """Looks between updates whether others want the cores."""

    def on_train_batch_end(self, *args: Any) -> None:
        look_again()


class _Updates(Sampler[list[int]]):
    """The samples of every update: each batch once, or twice where it is trained on in both directions of time."""

    def __init__(self, sampler: StepSampler, updates: int, first: int) -> None:
        self.sampler, self.updates, self.first = sampler, updates, first

    def __len__(self) -> int:
        # The length of the whole run: the trainer counts batches from the run's beginning, also after a resume.
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, len(self)):
            yield self.sampler.samples(step // self.updates)


@dataclass(frozen=True)
class _Resume:
    """The checkpoint that a run goes on from, or none."""

    checkpoint: Path | None
    step: int
    content: Mapping[str, Any]
    note: str | None = None

    @classmethod
    def find(cls, folder: Path | None, fingerprint: Mapping[str, str]) -> _Resume:
        checkpoint, damage = (None, None) if folder is None else newest_valid(folder)
        if checkpoint is None:
            note = (
                None if damage is None else f"{damage.where}: {damage.found}, and there is no sound one; starting anew"
            )
            return cls(None, 0, {}, note)
        content = load_checkpoint(checkpoint)
        theirs = content.get(FINGERPRINT, {})
        differing = [
            k for k, ours in fingerprint.items() if theirs.get(k) != ours and not _more(k, theirs.get(k), ours)
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
        states = self.content.get(_CALLBACKS, {})
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


def _options(recipe: TrainingRecipe) -> dict[str, str]:
    return {f"training.{k}": repr(v) for k, v in recipe.model_dump().items() if k not in _FREE}


def _tensorboard(recipe: TrainingRecipe, folder: Path | None, step: int) -> list[Logger]:
    """Return the logger that the recipe asks for; it takes back what an interrupted run wrote after `step`."""
    if not recipe.tensorboard:
        return []
    if folder is None:
        raise RecipeError(
            "training.tensorboard",
            "true, and there is no folder",
            expected="a run folder to write the log into",
            fix="pass folder=, or a TensorBoardLogger of your own in loggers=",
        )
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return [TensorBoardLogger(folder, name=None, version="tensorboard", purge_step=step + 1 if step else None)]
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            "training.tensorboard", "tensorboard is not installed", fix=install("tensorboard")
        ) from error


def _interrupted(name: str, step: int, total: int, folder: Path | None) -> Interrupted:
    if folder is None:
        return Interrupted("training", f"{name} at step {step} of {total}", fix="pass folder= to be able to resume")
    return Interrupted(
        "training", f"{name} at step {step} of {total}; saved in {folder}", fix="run the same again to go on"
    )


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's notes on hardware and loaders off the user's screen while a run is on."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    with (
        quiet.logging_from(logging.ERROR, names),
        quiet.warnings_ignored(Warning, module=r"lightning\..*"),
        # Of several processes: about the memory layout of 3x3 kernels, which nothing depends on.
        quiet.warnings_ignored(Warning, "Grad strides do not match bucket view strides"),
    ):
        yield
