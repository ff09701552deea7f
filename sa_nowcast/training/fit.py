"""`fit`: checked frames in, a trained `Nowcaster` out."""

from __future__ import annotations

import contextlib
import inspect
import json
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.bundle.card import fit_call, gain, model_card
from sa_nowcast.computing.installing import require_training
from sa_nowcast.errors import DataError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.models import NetworkConfig, build
from sa_nowcast.models.estimate import require_memory
from sa_nowcast.recipe import TrainingRecipe, checked, require_together
from sa_nowcast.recipe.model import FINE_TUNING, require_updates
from sa_nowcast.storage.whole import LOCK, locked, writable_folder
from sa_nowcast.times import Gaps
from sa_nowcast.training.data import TrainingData
from sa_nowcast.training.start import Start, network_to_train, scaling_for
from sa_nowcast.windows import Split, require_whole, split_in_time

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from sa_nowcast.training.engine import Outcome

Report = Callable[[str], None]

# torch's generator is the process's: of two trainings in threads one would draw the other's weights.
_seeding = threading.Lock()

_UNSAID = {"data", "folder", "progress", "report", "loggers", "training"}  # by the call on a model's card


def fit(
    data: xr.DataArray | xr.Dataset,
    *,
    history: int,
    steps: int,
    network: Mapping[str, Any] | NetworkConfig | None = None,
    start: str | Path | Nowcaster | None = None,
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
    report: Report | None = None,
    loggers: Sequence[Logger] = (),
    **training: Any,
) -> Nowcaster:
    """Train a network on a gridded sequence and return the nowcaster with the best validation loss.

    Without `network` and `start`, training starts from the weights of the default model. The start is validated before
    the first update, and it is kept where no later state has a lower loss: so on the validation period the result is
    never worse than the default model. Its provenance says by how much it is better (``start``), and so does its card.

    Parameters
    ----------
    data : DataArray or Dataset
        Regularly stepped frames, any order of dimensions. What is to be tested on should not be in it.
    history : int
        Frames that a forecast starts from.
    steps : int
        Lead times to train for. Where training starts from a model, windows at the end of a period may have fewer, so
        that a sequence of a few windows' length is enough; and lead times that the model knows and no window reaches
        are kept as that forecasts them.
    network : mapping or NetworkConfig, optional
        Fields of `sa_nowcast.models.NetworkConfig`, and ``preset`` (default ``"small"``, minutes on two cores). Where
        it is given, training starts from random weights, unless `start` is given too. By default that of the start.
    start : {"default"}, path or Nowcaster, optional
        The model whose weights training starts from: the one that ships, or a saved or trained one. By default the one
        that ships where no network is given, for data of any channels, grid and cadence; else none. With a start,
        the training preset is ``fine-tune``, unless ``preset`` is given.
    scaling : {"auto", "minmax", "standard", "log1p", "db"}
        Between physical and network values; ``auto`` takes log1p for rain rates and amounts, and standard for the rest;
        for networks in Lagrangian coordinates, which scale each window by themselves, a power of two alone. Fitted on
        the training period only.
    validation : float
        Share of the frames, the latest ones, that chooses the best weights; 0 keeps the last weights, better than
        the start's or not.
    guard : int, optional
        Frames left unused between training and validation; by default one history, and none where training starts from
        a model and the frames have room for no whole window in each period.
    variables, time, y, x, channel : optional
        Names, where CF attributes and common names do not tell.
    gaps : {"refuse", "skip"}
        What to do about missing times and frames without a valid value.
    folder : path, optional
        Where checkpoints, the training log and pictures of forecasts go. Given the same folder again, the run goes on
        where it stopped.
    progress : bool
        Whether to show a progress bar on standard error.
    report : callable, optional
        Called with one line on what the training computes on, and how; with one on why there will be no pictures
        of forecasts, where the recipe asks for them and something is lacking; and, where training started from a
        model, with one on how much better than that the result is.
    loggers : sequence of Lightning loggers, optional
        Beside ``training.csv`` in `folder`; they get the same figures, and TensorBoard's the pictures too.
    **training
        Fields of `sa_nowcast.recipe.TrainingRecipe`: ``max_steps``, ``batch_size``, ``crop``, ``learning_rate``,
        ``seed``, ``device`` and so on.

    Returns
    -------
    Nowcaster

    Raises
    ------
    MissingLibraryError
        Lightning, which the extra ``train`` brings, is not installed; found out before anything else.
    DataError
        Times, units or values that cannot be used, or too few frames.
    RecipeError
        An option that is unknown or not allowed.
    ModelError
        A start that cannot be read, or is for other channels.
    StorageError
        The folder cannot be written, or another process trains in it; found out before training.
    Interrupted
        A signal stopped the run; it goes on when `fit` is called again with the same folder.
    """
    arguments = dict(locals())
    require_training()
    require_whole(history=history, steps=steps)
    tuned = {"preset": FINE_TUNING} if start is not None or network is None else {}
    recipe = checked(TrainingRecipe, {**tuned, **training}, "fit")
    frames = Frames.from_xarray(data, variables=variables, time=time, y=y, x=x, channel=channel, gaps=gaps)
    config, begun = network_to_train(network, start, channels=len(frames.channels), history=int(history))
    split = _split(len(frames), int(history), int(steps), validation, guard, shortened=begun is not None)
    fitted = scaling_for(config, scaling)
    prepared = TrainingData.from_frames(
        frames,
        split,
        int(history),
        int(steps),
        fitted,
        recipe,
        skip_empty=gaps == "skip",
        horizon=None if begun is None else begun.horizon(int(steps)),
    )
    arguments |= {"history": int(history), "steps": int(steps)}
    arguments["network"] = network.to_dict() if isinstance(network, NetworkConfig) else network
    arguments["start"] = None if start is None or begun is None else begun.name
    usual = {name: parameter.default for name, parameter in inspect.signature(fit).parameters.items()}
    given = {name: value for name, value in arguments.items() if name not in _UNSAID and value != usual[name]}
    # Logs and pictures need a folder, and change nothing.
    options = recipe.model_dump(mode="json", include=set(training) - {"pictures", "tensorboard"})
    return fit_prepared(
        prepared,
        config,
        scaling,
        recipe,
        start=begun,
        folder=folder,
        progress=progress,
        report=report,
        loggers=loggers,
        call=fit_call(given | options),
    )


def fit_prepared(
    data: TrainingData,
    config: NetworkConfig,
    scaling: str,
    recipe: TrainingRecipe,
    *,
    start: Start | None = None,
    folder: str | Path | None,
    progress: bool,
    report: Report | None = None,
    loggers: Sequence[Logger] = (),
    grids: Sequence[tuple[int, int]] = (),
    provenance: Mapping[str, Any] | None = None,
    recipe_text: str = "",
    call: str | None = None,
) -> Nowcaster:
    """Train on what was prepared; `fit` and recipes meet here, and the other parameters are those of `fit`.

    Parameters
    ----------
    scaling : str
        The name of the scaling that was asked for, for provenance; `data` holds the fitted one.
    start : Start, optional
        The weights to begin with, in place of random ones.
    grids : sequence of (int, int)
        Rows and columns of what will be forecast, where they are known: a network that cannot is refused at once.
    provenance : mapping, optional
        What the nowcaster will say besides.
    recipe_text : str
        The whole recipe as YAML, where there is one, as `card.resolved_recipe` gives it. It goes with the model.
    call : str, optional
        Otherwise the Python that does the same, for the model card.
    """
    # Lightning comes with these: not at the top, so that `fit` itself can say that it is missing.
    from sa_nowcast.training.engine import train
    from sa_nowcast.training.hardware import choose_hardware

    require_together(config, recipe)
    require_updates(recipe, start=start is not None)
    rows, columns = data.train.sample_shape[-2:]
    config = config.completed(data.terms.history, (rows, columns))
    config.require_data(data.terms.history, data.terms.step_ns)
    for each in ((rows, columns), *grids):
        config.require_grid(each)
    hardware = choose_hardware(recipe, graph=config.declared.graphs)
    if report is not None:
        report(f"training on {hardware}")
    run_folder = None if folder is None else writable_folder(folder)
    require_memory(
        config,
        data.train.sample_shape[-2:],
        recipe.batch_size // hardware.launch.share.ranks,
        history=data.terms.history,
        steps=data.train.sample_shape[0] - data.terms.history,
        device=hardware.device,
    )
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(config)
    if start is not None:
        network.load_state_dict(start.network.state_dict())
    if not recipe.train_core:
        network.layers.requires_grad_(False)
    margins = getattr(network, "margins", None)
    if margins is not None:
        margins.requires_grad_(recipe.distribution)
    # The first of several processes writes for all of them.
    with contextlib.ExitStack() as stack:
        if run_folder is not None and hardware.launch.first:
            stack.enter_context(locked(run_folder / LOCK, run_folder))
        outcome = train(
            network,
            data,
            recipe,
            hardware,
            fingerprint={
                "data": data.identity,
                "network": json.dumps(config.to_dict(), sort_keys=True),
                "scaling": scaling,
                "start": "" if start is None else start.digest,
            },
            start=None if start is None else start.network,
            folder=run_folder,
            progress=progress,
            loggers=loggers,
            report=report,
        )
    with torch.device("meta"):
        best = build(config)  # without what training may have compiled or captured
    best.load_state_dict(outcome.weights, assign=True)
    nowcaster = Nowcaster(
        best.eval(),
        data.scaling,
        data.terms,
        _provenance(data, outcome, config, scaling, recipe, start, provenance or {}),
        recipe=recipe_text,
    )
    if report is not None and "start" in nowcaster.provenance:
        report(gain(nowcaster.provenance["start"]))
    # On the card alone, for they are no part of the model: a run that was interrupted takes other seconds.
    card = model_card(nowcaster, hardware=str(hardware), seconds=outcome.seconds, call=call)
    return replace(nowcaster, card=card)


def _split(frames: int, history: int, steps: int, validation: float, guard: int | None, *, shortened: bool) -> Split:
    """Return the two periods; with `shortened`, of as many lead times as the frames have room for."""
    usual = history if guard is None else guard
    ways = [(steps, usual)]
    if shortened:
        # The history of the first window to validate on lies between the targets of both periods anyway.
        ways += [(fewer, 0 if guard is None else guard) for fewer in range(steps, 0, -1)]
    for number, (ahead, between) in enumerate(ways, start=1):
        try:
            return split_in_time(frames, history + ahead, validation=validation, test=0.0, guard=between)
        except DataError:
            if number == len(ways):
                raise
    raise AssertionError


def _provenance(
    data: TrainingData,
    outcome: Outcome,
    config: NetworkConfig,
    scaling: str,
    recipe: TrainingRecipe,
    start: Start | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    found = outcome.evaluation
    scores = {}
    for number, (name, _) in enumerate(data.terms.channels):
        if found is not None:
            forecast, persistence = found.by_lead_time(number)
            scores[name] = {"forecast": forecast, "persistence": persistence}
    return {
        "sa_nowcast_version": __version__,
        "torch_version": str(torch.__version__),
        **data.provenance,
        "parameters": int(sum(v.numel() for v in outcome.weights.values())),
        "updates": outcome.updates,
        "ended_by": outcome.ended_by,
        "best_step": outcome.best_step,
        "validation_loss": None if found is None else found.loss,
        "validation_persistence": None if found is None else found.reference,
        "validation_mse": scores,
        **({} if start is None else {"start": _of_start(start, outcome)}),
        "options": {"scaling": scaling, "network": config.to_dict(), "training": recipe.model_dump(mode="json")},
        "recipe": "sa_nowcast.fit",
        **given,
    }


def _of_start(start: Start, outcome: Outcome) -> dict[str, Any]:
    """Return what a model says of the one that it started from: which, and its errors on the same windows."""
    found, ratios = outcome.start, None
    if found is not None and outcome.evaluation is not None:
        by_lead = outcome.evaluation.ratios(found)
        ratios = [float(np.nanmean(r)) for r in by_lead if np.isfinite(r).any()]
    return {
        "model": start.name,
        "digest": start.digest,
        "validation_loss": None if found is None else found.loss,
        "validation_ratio": ratios,
        "updates": outcome.best_step,
    }
