"""A recipe, checked as its run would check it, without reading bulk data or using a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sa_nowcast.errors import SaNowcastError
from sa_nowcast.recipe import Recipe, network_config
from sa_nowcast.sources.optional import require
from sa_nowcast.storage import require_writable
from sa_nowcast.survey.findings import Finding
from sa_nowcast.workflow.data import Experiment, open_experiment
from sa_nowcast.workflow.outputs import check_claim


def check_recipe(recipe: Recipe) -> list[Finding]:
    """Check what a recipe asks for, in the order in which its run meets it.

    Returns
    -------
    list of Finding
        ``recipe``, ``output``, ``libraries``, ``device``, ``data``, ``memory``.
    """
    found = [Finding("recipe", "PASS", f"{recipe.name}: {recipe.history} to {recipe.steps} frames")]
    experiment: Experiment | None = None
    for name, check in (("output", _output), ("libraries", _libraries), ("device", _device), ("data", _data)):
        try:
            line, opened = check(recipe)
        except SaNowcastError as error:
            found.append(Finding.failure(name, error))
            continue
        experiment = opened or experiment
        found.append(Finding(name, "PASS", line))
    if experiment is not None:
        try:
            found.append(Finding("memory", "PASS", _memory(recipe, experiment)))
        except SaNowcastError as error:
            found.append(Finding.failure("memory", error))
    return found


def _output(recipe: Recipe) -> tuple[str, None]:
    folder = Path(recipe.output.folder).expanduser()
    require_writable(folder / "x")
    if folder.is_dir():
        check_claim(folder, recipe)
    return f"{folder} can be written", None


def _libraries(recipe: Recipe) -> tuple[str, None]:
    require("matplotlib", "plot")
    return "what the run draws with is installed", None


def _device(recipe: Recipe) -> tuple[str, None]:
    from sa_nowcast.devices import resolve_device

    return f"training on {resolve_device(recipe.training.device)}", None


def _data(recipe: Recipe) -> tuple[str, Experiment]:
    experiment = open_experiment(recipe)
    frames = experiment.test_frames
    channels = ", ".join(f"{c.name} [{c.units}]" if c.units else c.name for c in frames.channels)
    return f"{channels}; {experiment.trained_on}", experiment


def _memory(recipe: Recipe, experiment: Experiment) -> str:
    from sa_nowcast.devices import resolve_device
    from sa_nowcast.models.estimate import require_memory

    device: Any = resolve_device(recipe.training.device)
    needed = require_memory(
        network_config(recipe.network, channels=experiment.channels),
        training_grid(recipe, experiment),
        recipe.training.batch_size,
        history=recipe.history,
        steps=recipe.steps,
        device=device,
    )
    return f"training takes about {needed / 2**30:.2f} GiB on {device}"


def training_grid(recipe: Recipe, experiment: Experiment) -> tuple[int, int]:
    """Return rows and columns of what is trained on: the crop, or the grid where it is smaller."""
    grid, crop = experiment.test_frames.grid, recipe.training.crop
    if recipe.split.train_region is not None and crop is not None:
        return crop, crop
    return (grid.height, grid.width) if crop is None else (min(crop, grid.height), min(crop, grid.width))
