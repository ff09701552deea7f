"""One training run on Lightning: callbacks in their order, resume, the reasons to stop."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from sa_nowcast.computing import quiet
from sa_nowcast.computing.installing import install
from sa_nowcast.computing.threads import sharing_cores
from sa_nowcast.errors import Interrupted, MissingLibraryError, RecipeError
from sa_nowcast.models import compile_cells
from sa_nowcast.models.rollout import Network
from sa_nowcast.recipe import TrainingRecipe
from sa_nowcast.recipe.training import FREE_FIELDS
from sa_nowcast.stream import StepSampler, batches
from sa_nowcast.training.averaging import Average
from sa_nowcast.training.checkpoint import AtomicCheckpointIO
from sa_nowcast.training.data import TrainingData
from sa_nowcast.training.hardware import Hardware
from sa_nowcast.training.launch import lost, meet
from sa_nowcast.training.log import TrainingLog
from sa_nowcast.training.module import NowcastModule, updates_a_batch
from sa_nowcast.training.pictures import Pictures, hindrance
from sa_nowcast.training.progress import ProgressReport
from sa_nowcast.training.run_folder import Resume, RunFolder
from sa_nowcast.training.validation import Evaluation, Validation
from sa_nowcast.training.watch import Watch, former_signal_handlers


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    weights: Mapping[str, Tensor]  # the best ones
    updates: int
    best_step: int  # after which the weights were best
    evaluation: Evaluation | None  # errors of the best weights on the validation windows
    start: Evaluation | None  # the same of the weights that it started from, where these were validated
    ended_by: str  # max_steps, max_time or patience
    seconds: float  # spent on updates and validations, all parts of the run together


def train(
    network: Network,
    data: TrainingData,
    recipe: TrainingRecipe,
    hardware: Hardware,
    *,
    fingerprint: Mapping[str, str],
    start: Network | None = None,
    folder: Path | None,
    progress: bool,
    loggers: Sequence[Logger] = (),
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
    start : Network, optional
        The trained network whose weights the first ones are: then they are validated too, and kept unless later ones
        are better; and where windows end early, its forecasts stand for what was not observed.
    folder : Path or None
        Where checkpoints and the log go, and where the run goes on from when there is a checkpoint.
    progress, loggers
        As for `fit`.
    report : callable, optional
        Is told why there will be no pictures, where a checkpoint is damaged, and what the run goes on from instead;
        without it a warning says the latter.

    Raises
    ------
    Interrupted
        A signal stopped the run.
    RecipeError
        The folder holds a run of other data or options, or a TensorBoard log is asked for and there is no folder.
    MissingLibraryError
        A TensorBoard log is asked for and TensorBoard is not installed.
    """
    lacking = hindrance(recipe, data.validation, folder, loggers)
    if lacking is not None and report is not None:
        report(lacking)
    # Runs of before had squared errors in validation, whatever they were trained on: none goes on with other sums.
    fingerprint = {**fingerprint, "validation": "by the loss", **_options(recipe)}
    resume = Resume.find(folder, fingerprint)
    loggers = [*loggers, *_tensorboard(recipe, folder, resume.step)]
    launch = hardware.launch
    if resume.note is not None and launch.first:
        if report is not None:
            report(resume.note)
        else:
            warnings.warn(resume.note, stacklevel=2)
    sampler = StepSampler(
        recipe.batch_size // launch.share.ranks, recipe.max_steps, resume.step, launch.share, updates_a_batch(recipe)
    )
    module = NowcastModule(network, data, recipe, hardware, sampler, start)
    average, watch = Average(network, recipe.average), Watch(launch, recipe.max_seconds)
    validation = Validation(data, recipe, average, hardware, watch, from_start=start is not None)
    log = TrainingLog(validation, recipe.batch_size, recipe.log_every, folder)
    keeper = RunFolder(folder, recipe.checkpoint_every, validation, log, fingerprint)
    # In this order: the average before the validation that uses it, pictures before the log that leaves their time
    # out of its account, everything before the checkpoint that keeps it.
    callbacks: list[L.Callback] = [average, watch, validation]
    resume.restore(callbacks)
    if recipe.pictures and lacking is None and launch.first:
        callbacks.append(Pictures(validation, min(recipe.pictures, recipe.validation_samples), folder))
    callbacks += [log, keeper]
    step = resume.step
    with contextlib.ExitStack() as stack:
        if progress and launch.first:
            callbacks.append(stack.enter_context(ProgressReport(step, recipe.max_steps, validation)))
        if not keeper.finished(step, recipe.max_steps):
            step = _run(module, hardware, sampler, callbacks, loggers, folder, resume.checkpoint)
            if watch.stopped_by:
                raise _interrupted(watch.stopped_by, step, recipe.max_steps, folder)
        elif resume.checkpoint is not None:  # None: no update was asked for
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
        validation.start,
        "max_steps" if step >= recipe.max_steps else ended_by,
        watch.elapsed,
    )


def _run(
    module: NowcastModule,
    hardware: Hardware,
    sampler: StepSampler,
    callbacks: list[L.Callback],
    loggers: Sequence[Logger],
    folder: Path | None,
    checkpoint: Path | None,
) -> int:
    launch, recipe = hardware.launch, module.recipe
    strategy = "auto"
    if not launch.alone:
        # With one known frame and one to forecast there is no recurrent step, and so no gradient of its weights.
        lone = module.data.terms.history == module.data.terms.steps == 1
        strategy = "ddp_find_unused_parameters_true" if lone else "ddp"
    cuda = hardware.device.type == "cuda"
    devices: int | list[int] = launch.per_machine
    if cuda and launch.alone:
        devices = [hardware.device.index or 0]
    if hardware.acceleration == "compile":
        compile_cells(module.network)
    loader = batches(module.data.train, sampler, workers=recipe.workers)
    # Lightning composes signal handlers, and may draw from the global generator; a caller sees neither.
    with _quiet_lightning(), former_signal_handlers(), torch.random.fork_rng(devices=[]), sharing_cores():
        trainer = L.Trainer(
            max_steps=recipe.max_steps,
            accelerator="gpu" if cuda else "cpu",
            devices=devices,
            num_nodes=launch.machines,
            strategy=strategy,
            precision="bf16-mixed" if hardware.precision == "bf16" else "32-true",
            plugins=[AtomicCheckpointIO(), launch.environment],
            callbacks=callbacks,
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
            _met = meet(launch, sampler.first, folder)  # kept while the run is on
            trainer.fit(module, train_dataloaders=loader, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:
            # How Lightning ends on a second Ctrl-C; a notebook must not end with it.
            if not watch.stopped_by:
                raise
        except RuntimeError as error:
            if (gone := lost(error, launch, trainer.global_step, folder)) is not None:
                raise gone from error
            raise
        finally:
            loader.close()
        return trainer.global_step


def _options(recipe: TrainingRecipe) -> dict[str, str]:
    free = FREE_FIELDS | {"max_time"}  # more of which lets a run go on
    return {f"training.{k}": repr(v) for k, v in recipe.model_dump().items() if k not in free}


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
