"""Models and references side by side on several datasets, one after another, resumable."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.forecasts.defaults import as_nowcaster
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.hindcast import hindcast
from sa_nowcast.metadata import dims
from sa_nowcast.recipe import ComparisonRecipe, SetRecipe
from sa_nowcast.storage.whole import locked, write_whole
from sa_nowcast.training.fit import LOCK, writable_folder
from sa_nowcast.verification import compare, to_table
from sa_nowcast.verification.named import REFERENCES
from sa_nowcast.verification.optical_flow import require_pysteps
from sa_nowcast.windows import window_starts
from sa_nowcast.workflow.data import data_identity, open_path
from sa_nowcast.workflow.outputs import digest
from sa_nowcast.workflow.scoring import BY_PYSTEPS

DEFAULT: Final = "default"
SCORES: Final = "scores.csv"
_EPOCH: Final = np.datetime64("2000-01-01", "ns")


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison left in its folder.

    `scores` has a row for each dataset, field, model and lead time: ``set``, ``field``, ``model``, ``lead``, ``mse``,
    ``init_times``, and against persistence and extrapolation ``skill_…`` with ``_lower`` and ``_upper``.
    """

    folder: Path
    scores: pd.DataFrame
    files: list[Path]


def run_comparison(
    recipe: ComparisonRecipe, *, report: Callable[[str], None] | None = None, dry_run: bool = False
) -> ComparisonResult:
    """Hindcast every dataset by every model, and score all of them on the same pixels.

    What is finished is read from the folder: the same call goes on after an interruption. `report` is called with one
    line before each dataset; a dry run opens every dataset and model, and computes and writes nothing.
    """
    say = report or (lambda line: None)
    models = {name: _model(name) for name in recipe.models}
    if not set(models) & set(REFERENCES):
        raise RecipeError("models", "no reference among them", expected=f"one of {', '.join(REFERENCES)}, at least")
    files = [_file_name(each) for each in recipe.sets]
    for each, name in zip(recipe.sets, files, strict=True):
        if files.count(name) > 1:
            raise RecipeError(
                "sets", f"{each.name!r} is there twice", expected="a name of its own for each, by letters and digits"
            )
    # All of them before any work is done.
    for each in recipe.sets:
        frames = Frames.from_xarray(open_set(each), gaps="skip")
        inits = _init_times(frames, recipe, each)
        if dry_run:
            say(f"{each.name}: {frames.shape[0]} frames, {len(inits)} init times")
    if dry_run:
        return ComparisonResult(Path(recipe.output.folder), pd.DataFrame(), [])
    folder = writable_folder(Path(recipe.output.folder).expanduser())
    tables = []
    with locked(folder / LOCK, folder):
        for number, each in enumerate(recipe.sets, 1):
            say(f"{each.name} ({number} of {len(recipe.sets)})")
            tables.append(_set_scores(folder, recipe, each, models))
        scores = pd.concat(tables, ignore_index=True)
        write_whole(folder / SCORES, scores.to_csv(index=False))
    return ComparisonResult(folder, scores, [folder / SCORES])


def open_set(recipe: SetRecipe) -> xr.Dataset:
    """Open a dataset of a comparison as its recipe says, lazily where its reader can."""
    ds = open_path(recipe.source, f"the source of {recipe.name!r}", engine=recipe.engine, options=recipe.options)
    if recipe.variables is not None:
        lacking = [name for name in recipe.variables if name not in ds.data_vars]
        if lacking:
            found = ", ".join(map(str, ds.data_vars))
            raise RecipeError(f"{recipe.name}, variables", f"no {lacking[0]!r}", expected=f"some of {found}")
        ds = ds[list(recipe.variables)]
    time = dims.find_dim(ds, "time")
    if recipe.frames is not None:
        ds = ds.isel({time: slice(*recipe.frames)})
    if recipe.cadence is not None:
        try:
            step = np.timedelta64(int(pd.Timedelta(recipe.cadence).value), "ns")
        except ValueError as error:
            raise RecipeError("cadence", f"{recipe.cadence!r}", expected="a duration such as 30D") from error
        ds = ds.assign_coords({time: (time, _EPOCH + step * np.arange(ds.sizes[time]))})
    if recipe.cells > 1:
        space: dict[Hashable, int] = {dims.find_dim(ds, axis): recipe.cells for axis in ("y", "x")}
        # A mean over some of a square's pixels would be that of another square.
        ds = ds.coarsen(space, boundary="trim").reduce(np.mean, keep_attrs=True)
    return ds


def _set_scores(
    folder: Path, recipe: ComparisonRecipe, one: SetRecipe, models: dict[str, Nowcaster | str]
) -> pd.DataFrame:
    file = folder / f"{_file_name(one)}.csv"
    known = file.with_suffix(".json")
    found = {name: getattr(model, "digest", name) for name, model in models.items()}
    told = [one.model_dump(mode="json"), recipe.history, recipe.steps, found, __version__]
    identity = digest([told, data_identity(one.source, {})["identity"]])
    if file.exists() and known.exists() and json.loads(known.read_text()).get("identity") == identity:
        return pd.read_csv(file, dtype={"field": str})
    ds = open_set(one).load()
    frames = Frames.from_xarray(ds, gaps="skip")
    inits = _init_times(frames, recipe, one)
    archives = {}
    for name, model in models.items():
        lazy = hindcast(ds, model, recipe.steps, init_times=inits, grid="any")
        # pysteps is compiled code under Python's lock: threads would only wait for each other.
        archives[name] = lazy.compute(scheduler="synchronous")
    table = _rows(archives, ds).assign(init_times=len(inits))
    table.insert(0, "set", one.name)
    write_whole(file, table.to_csv(index=False))
    write_whole(known, json.dumps({"identity": identity, "models": found}, indent=1))
    return table


def _rows(archives: dict[str, xr.DataArray], ds: xr.Dataset) -> pd.DataFrame:
    """Return the mean squared errors, and the skills against each reference that is among the models."""
    table = pd.DataFrame()
    for reference in [name for name in archives if name in REFERENCES]:
        # All pairs at each lead time: short sequences share hardly a valid time over all lead times.
        rows = to_table(compare(archives, ds, ["mse"], reference=reference, valid_times="all"))
        labels = [name for name in (dims.VARIABLE, "channel") if name in rows]
        rows["field"] = rows[labels[0]].astype(str) if labels else ""
        rows["lead"] = rows.groupby(["model", "field"]).cumcount() + 1
        skills = {name: f"{name}_{reference}" for name in ("skill", "skill_lower", "skill_upper")}
        rows = rows.rename(columns={"value": "mse", **skills}).set_index(["field", "model", "lead"])
        table = rows[["mse", *skills.values()]] if table.empty else table.join(rows[list(skills.values())])
    return table.reset_index()


def _file_name(one: SetRecipe) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", one.name).strip("_").lower()


def _init_times(frames: Frames, recipe: ComparisonRecipe, one: SetRecipe) -> Any:
    length = recipe.history + recipe.steps
    starts = window_starts(frames.segments, length, (0, len(frames)), stride=one.stride)
    if not len(starts):
        raise DataError(one.name, f"no {length} successive frames", fix="shorten history or steps")
    return frames.times[starts + recipe.history - 1]


def _model(name: str) -> Nowcaster | str:
    if name == DEFAULT:
        return default_model()
    if name not in REFERENCES:
        return as_nowcaster(name)
    if name == "climatology":
        raise RecipeError("models", name, expected="models and references that need no training period")
    if name in BY_PYSTEPS:
        require_pysteps()
    return name
