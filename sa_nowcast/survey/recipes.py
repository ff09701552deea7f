"""A recipe, checked as its run would check it, without reading bulk data or using a GPU."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from sa_nowcast.computing.installing import require_training
from sa_nowcast.errors import SaNowcastError, StorageError
from sa_nowcast.recipe import Recipe, ServiceRecipe
from sa_nowcast.storage.whole import require_writable
from sa_nowcast.survey.findings import Finding
from sa_nowcast.workflow.data import Experiment, open_experiment
from sa_nowcast.workflow.outputs import check_claim
from sa_nowcast.workflow.pictures import pictures_of, require_plotting
from sa_nowcast.workflow.scoring import check_scoring, require_scoring
from sa_nowcast.workflow.stages import convert_source


def check_recipe(recipe: Recipe) -> list[Finding]:
    """Check what a recipe asks for, in the order in which its run meets it.

    These are ``recipe``, ``output``, ``conversion`` where there is one, ``libraries``, ``device``, ``data`` and
    ``memory``; what depends on a check that failed is left out.
    """
    found = [Finding("recipe", "PASS", f"{recipe.name}: {recipe.history} to {recipe.steps} frames")]
    opened: list[Experiment] = []

    def data() -> str:
        opened.append(_experiment(recipe))
        channels = ", ".join(f"{c.name} [{c.units}]" if c.units else c.name for c in opened[0].test_frames.channels)
        return f"{channels}; {opened[0].trained_on}"

    checks: dict[str, Callable[[], str]] = {"output": lambda: _output(recipe)}
    if recipe.conversion is not None:
        checks["conversion"] = lambda: _conversion(recipe)
    checks |= {"libraries": lambda: _libraries(recipe), "device": lambda: _device(recipe), "data": data}
    checks["memory"] = lambda: _memory(recipe, opened[0])
    for name, check in checks.items():
        if name == "memory" and (not opened or any(f.check == "device" and f.error for f in found)):
            continue
        try:
            found.append(Finding(name, "PASS", check()))
        except SaNowcastError as error:
            found.append(Finding.failure(name, error))
    return found


def check_service(recipe: ServiceRecipe) -> list[Finding]:
    """Check what the recipe of a service asks for, as the service does before it starts."""
    from sa_nowcast.operations.checks import check

    found = [Finding("recipe", "PASS", f"{recipe.name}: {recipe.steps} lead times of {recipe.arrivals.step}")]
    try:
        site = check(recipe)
    except SaNowcastError as error:
        return [*found, Finding.failure("service", error)]
    told = f"{site.source} to {site.folder}, {site.like.name} [{site.units}]"
    return [*found, Finding("service", "PASS", told)]


def _output(recipe: Recipe) -> str:
    folder = Path(recipe.output.folder).expanduser()
    try:
        if folder.exists() and not folder.is_dir():
            raise StorageError(str(folder), f"cannot be written ({os.strerror(errno.EEXIST)})")
        require_writable(folder, folder=True)
    except StorageError as error:  # in the words of the run, which makes the folder
        raise StorageError(str(folder), f"the output folder {error.found}", fix="choose another folder") from error
    if folder.is_dir():
        check_claim(folder, recipe)
    return f"{folder} can be written"


def _conversion(recipe: Recipe) -> str:
    assert recipe.conversion is not None
    convert_source(recipe, "", lambda line: None, dry_run=True)
    return f"{recipe.data.source} to {recipe.conversion.to}"


def _libraries(recipe: Recipe) -> str:
    require_training()
    require_scoring(recipe)
    if not pictures_of(recipe):
        return "what trains and scores is installed; no pictures are asked for"
    require_plotting()
    return "what trains, scores and draws is installed"


def _device(recipe: Recipe) -> str:
    from sa_nowcast.computing.devices import resolve_device

    return f"training on {resolve_device(recipe.training.device)}"


def _experiment(recipe: Recipe) -> Experiment:
    block = recipe.conversion
    if block is not None and not Path(block.to).expanduser().exists():
        recipe = recipe.model_copy(update={"conversion": None})  # the store will hold what the source holds
    experiment = open_experiment(recipe, read=False)
    check_scoring(recipe, experiment.test_frames)
    return experiment


def _memory(recipe: Recipe, experiment: Experiment) -> str:
    from sa_nowcast.computing.devices import resolve_device
    from sa_nowcast.forecasts.terms import Terms
    from sa_nowcast.models.estimate import require_memory
    from sa_nowcast.training.start import network_to_train

    device = resolve_device(recipe.training.device)
    config, _ = network_to_train(recipe.network, recipe.start, channels=experiment.channels, history=recipe.history)
    grid = _training_grid(recipe, experiment)
    config = config.completed(recipe.history, grid)
    config.require_data(recipe.history, Terms.of(experiment.test_frames, recipe.history, recipe.steps).step_ns)
    tested = experiment.test_frames.grid
    for each in (grid, (tested.height, tested.width)):
        config.require_grid(each)
    needed = require_memory(
        config,
        grid,
        recipe.training.batch_size,
        history=recipe.history,
        steps=recipe.steps,
        device=device,
    )
    return f"training takes about {needed / 2**30:.2f} GiB on {device}"


def _training_grid(recipe: Recipe, experiment: Experiment) -> tuple[int, int]:
    grid, crop = experiment.test_frames.grid, recipe.training.crop
    if recipe.split.train_region is not None and crop is not None:
        return crop, crop
    return (grid.height, grid.width) if crop is None else (min(crop, grid.height), min(crop, grid.width))
