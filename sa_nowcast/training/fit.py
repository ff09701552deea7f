"""`fit`: checked frames in, a trained `Nowcaster` out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.devices import resolve_device
from sa_nowcast.errors import DataError, Interrupted, RecipeError, StorageError
from sa_nowcast.frames import Frames
from sa_nowcast.models import NetworkConfig, build
from sa_nowcast.models.estimate import require_memory
from sa_nowcast.nowcaster import Nowcaster
from sa_nowcast.recipe import TrainingRecipe, checked, network_config
from sa_nowcast.scaling import Scaling
from sa_nowcast.stream import IN_MEMORY_BYTES, SequenceDataset, StepSampler, batches
from sa_nowcast.terms import Terms
from sa_nowcast.times import Gaps
from sa_nowcast.training.callbacks import KeepBest, ProgressBar, RunFolder, signals_given_back
from sa_nowcast.training.checkpoint import LAST, AtomicCheckpointIO, load_checkpoint, newest_valid
from sa_nowcast.training.module import NowcastModule
from sa_nowcast.windows import Split, split_in_time, window_starts

_SCAN_FRAMES = 64
_FINGERPRINTED = 32
_CROP_SEED = 7919  # the validation crops; apart from the training ones whatever the seed


def fit(
    data: xr.DataArray | xr.Dataset,
    *,
    history: int,
    steps: int,
    network: Mapping[str, Any] | NetworkConfig | None = None,
    scaling: str = "auto",
    validation: float = 0.2,
    guard: int | None = None,
    variables: Sequence[str] | None = None,
    time: Hashable | None = None,
    y: Hashable | None = None,
    x: Hashable | None = None,
    channel: Hashable | None = None,
    gaps: Gaps = "refuse",
    folder: str | Path | None = None,
    progress: bool = True,
    **training: Any,
) -> Nowcaster:
    """Train a network on a gridded sequence and return the nowcaster with the best validation loss.

    Parameters
    ----------
    data : DataArray or Dataset
        Regularly stepped frames, any order of dimensions. What is to be tested on should not be in it.
    history : int
        Frames that a forecast starts from.
    steps : int
        Lead times to train for.
    network : mapping or NetworkConfig, optional
        Fields of `sa_nowcast.models.NetworkConfig`, and ``preset`` (default ``"small"``, minutes on two cores).
    scaling : {"auto", "minmax", "standard", "log1p", "db"}
        Between physical and network values; ``auto`` takes log1p for rain rates and amounts, standard for the rest.
        Fitted on the training period only.
    validation : float
        Share of the frames, the latest ones, that chooses the best weights; 0 keeps the last weights.
    guard : int, optional
        Frames left unused between training and validation; by default one history.
    variables, time, y, x, channel : optional
        Names, where CF attributes and common names do not tell.
    gaps : {"refuse", "skip"}
        What to do about missing times and frames without a valid value.
    folder : path, optional
        Where checkpoints and the training log go. Given the same folder again, the run goes on where it stopped.
    progress : bool
        Whether to show a progress bar on standard error.
    **training
        Fields of `sa_nowcast.recipe.TrainingRecipe`: ``max_steps``, ``batch_size``, ``crop``, ``learning_rate``,
        ``seed``, ``device`` and so on.

    Returns
    -------
    Nowcaster

    Raises
    ------
    DataError
        Times, units or values that cannot be used, or too few frames.
    RecipeError
        An option that is unknown or not allowed.
    StorageError
        The folder cannot be written; found out before training.
    Interrupted
        A signal stopped the run; it goes on when `fit` is called again with the same folder.
    """
    for name, value in (("history", history), ("steps", steps)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise RecipeError(name, f"{value!r}", expected="a whole number of at least 1")
    recipe = checked(TrainingRecipe, training, "fit")
    frames = Frames.from_xarray(data, variables=variables, time=time, y=y, x=x, channel=channel, gaps=gaps)
    split = split_in_time(
        len(frames), history + steps, validation=validation, test=0.0, guard=history if guard is None else guard
    )
    config = network_config(network, channels=len(frames.channels))
    return fit_frames(
        frames,
        split,
        int(history),
        int(steps),
        config,
        scaling,
        recipe,
        skip_empty=gaps == "skip",
        folder=folder,
        progress=progress,
    )


def fit_frames(
    frames: Frames,
    split: Split,
    history: int,
    steps: int,
    config: NetworkConfig,
    scaling: str,
    recipe: TrainingRecipe,
    *,
    skip_empty: bool,
    folder: str | Path | None,
    progress: bool,
    provenance: Mapping[str, Any] | None = None,
) -> Nowcaster:
    """Train on the split's first period, choose on its second; `fit` and recipes meet here."""
    device = resolve_device(recipe.device)
    run_folder = None if folder is None else writable_folder(folder)
    if frames.nbytes <= IN_MEMORY_BYTES:
        frames = frames.load()
    blocked = empty_frames(frames, (split.train, split.validation), refuse=not skip_empty)
    length = history + steps
    starts = window_starts(frames.segments, length, split.train, blocked)
    if not len(starts):
        raise DataError(
            frames.name,
            f"no window of {length} successive frames in the training period",
            fix="shorten history or steps, or fill the gaps",
        )
    validation_starts = window_starts(frames.segments, length, split.validation, blocked)
    if split.validation[1] > split.validation[0] and not len(validation_starts):
        raise DataError(
            frames.name,
            f"no window of {length} successive frames in the validation period",
            fix="give validation a larger share, or 0 to do without",
        )
    height, width = frames.grid.height, frames.grid.width
    window = (height, width) if recipe.crop is None else (min(recipe.crop, height), min(recipe.crop, width))
    require_memory(config, window, recipe.batch_size, history=history, steps=steps, device=device)
    fitted = Scaling.fit(scaling, frames.channels, _parts(frames, split.train, blocked))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(config)
    module = NowcastModule(network, fitted, history, recipe)
    terms = Terms.of(frames, history, steps)
    module.fingerprint = _fingerprint(frames, split, config, scaling, terms, recipe)

    checkpoint = None if run_folder is None else newest_valid(run_folder)
    first = 0 if checkpoint is None else _resumable_step(checkpoint, module.fingerprint)
    if checkpoint is not None and checkpoint.name != LAST:
        checkpoint.with_name(LAST).unlink(missing_ok=True)  # damaged; it must not become the one before the next
    crop = None if recipe.crop is None else (recipe.crop, recipe.crop)
    train = SequenceDataset(frames, history, steps, starts=starts, crop=crop, seed=recipe.seed)
    loaders: dict[str, Any] = {
        "train_dataloaders": batches(
            train, StepSampler(recipe.batch_size, recipe.max_steps, first), workers=recipe.workers
        )
    }
    if len(validation_starts):
        count = recipe.validation_samples
        chosen = validation_starts[np.linspace(0, len(validation_starts) - 1, count).round().astype(int)]
        # The same windows and crops at every validation: only the weights may change the loss.
        held = SequenceDataset(frames, history, steps, starts=chosen, crop=crop, seed=_CROP_SEED, shuffle=False)
        sampler = StepSampler(min(recipe.batch_size, count), -(-count // min(recipe.batch_size, count)))
        loaders["val_dataloaders"] = batches(held, sampler)
    validate_every = min(recipe.validate_every, recipe.max_steps) if len(validation_starts) else None
    best, keeper = KeepBest(), RunFolder(run_folder, recipe.checkpoint_every, validate_every)
    callbacks: list[L.Callback] = [best, keeper, *([ProgressBar()] if progress else [])]
    # Lightning composes signal handlers, and loaders draw a seed from the global generator; a caller sees neither.
    with _quiet_lightning(), signals_given_back(), torch.random.fork_rng(devices=[]):
        trainer = L.Trainer(
            max_steps=recipe.max_steps,
            accelerator="cpu" if device.type == "cpu" else "gpu",
            devices=1 if device.type == "cpu" else [device.index or 0],
            plugins=[AtomicCheckpointIO()],
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            val_check_interval=validate_every,
            check_val_every_n_epoch=None,
            limit_val_batches=None if len(validation_starts) else 0,
            gradient_clip_val=recipe.clip_norm,
            use_distributed_sampler=False,
            log_every_n_steps=1,
        )
        try:
            trainer.fit(module, **loaders, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:
            # How Lightning ends on a second Ctrl-C; a notebook must not end with it.
            if not keeper.stopped_by:
                raise
    if keeper.stopped_by:
        raise _interrupted(keeper.stopped_by, trainer.global_step, recipe.max_steps, run_folder)
    best.conclude(network, trainer.global_step)
    network.load_state_dict(best.weights)
    return Nowcaster(
        network.cpu().eval(), fitted, terms, _provenance(frames, split, best, config, scaling, recipe, provenance)
    )


def writable_folder(folder: str | Path) -> Path:
    """Make `folder` where it is not there, and prove that a file can be written into it.

    Raises
    ------
    StorageError
        It cannot be made or written; found out before any work is done.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable."):
            pass
    except OSError as error:
        raise StorageError(
            str(path), f"the output folder cannot be written ({error.strerror or error})", fix="choose another folder"
        ) from error
    return path


def _parts(
    frames: Frames, period: tuple[int, int], blocked: npt.NDArray[np.int64]
) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(*period, _SCAN_FRAMES):
        stop = min(start + _SCAN_FRAMES, period[1])
        keep = ~np.isin(np.arange(start, stop), blocked)
        yield frames.read(start, stop)[keep]


def empty_frames(frames: Frames, periods: Sequence[tuple[int, int]], *, refuse: bool) -> npt.NDArray[np.int64]:
    """Return the frames without any valid value, or refuse the first one."""
    empty: list[int] = []
    for begin, end in periods:
        for start in range(begin, end, _SCAN_FRAMES):
            values = frames.read(start, min(start + _SCAN_FRAMES, end))
            empty += (start + np.flatnonzero(~np.isfinite(values).any(axis=(1, 2, 3)))).tolist()
    if empty and refuse:
        more = f" (and {len(empty) - 1} more such frames)" if len(empty) > 1 else ""
        raise DataError(
            f"{frames.name}, {frames.label(empty[0])}",
            f"every value is missing{more}",
            expected="some valid values in each frame",
            fix="drop the frame and pass gaps='skip' (data.gaps: skip), or fill it in",
        )
    return np.asarray(empty, dtype=np.int64)


def _fingerprint(
    frames: Frames, split: Split, config: NetworkConfig, scaling: str, terms: Terms, recipe: TrainingRecipe
) -> dict[str, str]:
    """Return what a resumed run must share with the one that it continues."""
    free = {"device", "workers", "checkpoint_every"}  # they change how fast a run gets there, not where
    data = hashlib.sha256(repr((frames.shape, frames.times.tolist(), split, terms)).encode())
    # Frames from all over the run's periods tell other data apart, without reading all of a large sequence again.
    for position in np.linspace(split.train[0], max(split.train[1], split.validation[1]) - 1, _FINGERPRINTED).astype(
        int
    ):
        data.update(frames.read(int(position), int(position) + 1).tobytes())
    return {
        "data": data.hexdigest(),
        "network": json.dumps(config.to_dict(), sort_keys=True),
        "scaling": scaling,
        **{f"training.{k}": repr(v) for k, v in recipe.model_dump().items() if k not in free},
    }


def _resumable_step(checkpoint: Path, fingerprint: Mapping[str, str]) -> int:
    loaded = load_checkpoint(checkpoint)
    theirs = loaded.get("sa_nowcast_fingerprint", {})
    differing = [k for k in fingerprint if theirs.get(k) != fingerprint[k]]
    if differing:
        key = differing[0]
        change = (
            f"{key} was {theirs.get(key)} and is {fingerprint[key]}"
            if key.startswith("training.")
            else f"{key} differs"
        )
        raise RecipeError(
            str(checkpoint.parent),
            f"the run in this folder was another one: {change}",
            fix="choose another output folder, or remove this one to start anew",
        )
    return int(loaded["global_step"])


def _interrupted(name: str, step: int, total: int, folder: Path | None) -> Interrupted:
    if folder is None:
        return Interrupted("training", f"{name} at step {step} of {total}", fix="pass folder= to be able to resume")
    return Interrupted(
        "training", f"{name} at step {step} of {total}; saved in {folder}", fix="run the same again to go on"
    )


def _provenance(
    frames: Frames,
    split: Split,
    best: KeepBest,
    config: NetworkConfig,
    scaling: str,
    recipe: TrainingRecipe,
    given: Mapping[str, Any] | None,
) -> dict[str, Any]:
    def period(part: tuple[int, int]) -> str | None:
        return f"{frames.label(part[0])}/{frames.label(part[1] - 1)}" if part[1] > part[0] else None

    validated = np.isfinite(best.loss)
    return {
        "sa_nowcast_version": __version__,
        "torch_version": str(torch.__version__),
        "training_period": period(split.train),
        "validation_period": period(split.validation),
        "parameters": int(sum(v.numel() for v in best.weights.values())),
        "best_step": best.step,
        "validation_loss": float(best.loss) if validated else None,
        "validation_persistence": float(best.reference) if validated else None,
        "options": {"scaling": scaling, "network": config.to_dict(), "training": recipe.model_dump(mode="json")},
        "recipe": "sa_nowcast.fit",
        **(given or {}),
    }


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's notes on hardware and loaders off the user's screen while a run is on."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
