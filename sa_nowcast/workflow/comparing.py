"""Models and references side by side on several datasets, one after another, resumable."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Hashable, Mapping
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
from sa_nowcast.forecasts.method import MEAN, Product
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.hindcast import hindcast
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.thresholds import is_rain_rate
from sa_nowcast.recipe import ComparisonRecipe, SetRecipe
from sa_nowcast.sources.opening import open_forecast
from sa_nowcast.storage.whole import LOCK, locked, remove, writable_folder, write_whole
from sa_nowcast.verification import Statistics, summarise
from sa_nowcast.verification.collect import collect
from sa_nowcast.verification.fields import EVENT_DIMS, SCALE, Settings
from sa_nowcast.verification.metrics import METRICS, select_metrics
from sa_nowcast.verification.named import (
    BY_PYSTEPS,
    OF_RAIN,
    REFERENCES,
    Reference,
    growth_of,
    is_reference,
    method_of,
)
from sa_nowcast.verification.plan import PERSISTENCE, plan
from sa_nowcast.verification.pysteps_fields import require_pysteps, smoothed
from sa_nowcast.verification.scoring import Scoring
from sa_nowcast.windows import window_starts
from sa_nowcast.workflow.data import data_identity, open_path
from sa_nowcast.workflow.outputs import digest

DEFAULT: Final = "default"
MATCHED: Final = ":matched"
MEMBERS: Final = ":members"
EXTRAPOLATION: Final = "extrapolation"
SCORES: Final = "scores.csv"
FORECASTS: Final = "forecasts"
VALUES_AT_ONCE: Final = 2**23
"""Of one model, when scores are computed: all models are in memory for so many."""
_EPOCH: Final = np.datetime64("2000-01-01", "ns")


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison left in its folder.

    `scores` has a row for each dataset, field (with the scale, where there are several), model and lead time: ``set``,
    ``field``, ``model``, ``lead``, ``mse``; the other metrics, by thresholds as in ``csi_1``; against persistence and
    extrapolation ``skill_…`` with ``_lower`` and ``_upper``; the reference of least MSE at this lead time, ``best``,
    and the MSE as a share of its, ``of_best`` with ``_lower`` and ``_upper``; and the ``init_times`` and ``pixels``
    scored. Of references that differ in the growth of width alone, only the one of least MSE / persistence, summed over
    lead times, can be the best.
    """

    folder: Path
    scores: pd.DataFrame
    files: list[Path]


def run_comparison(
    recipe: ComparisonRecipe, *, report: Callable[[str], None] | None = None, dry_run: bool = False
) -> ComparisonResult:
    """Hindcast every dataset by every model, and score all of them on the same pixels.

    What is finished is read from the folder, the forecasts of each model for themselves: the same call goes on after an
    interruption, and with one model changed the forecasts of the others stay. `report` is called with one line before
    each dataset, and as init times are done; a dry run opens every dataset and model, and computes and writes nothing.
    """
    say = report or (lambda line: None)
    models = {name: _model(name, recipe.members) for name in recipe.models}
    if PERSISTENCE not in models:
        raise RecipeError("models", f"no {PERSISTENCE} among them", expected="what all are compared with")
    for metric in select_metrics(("mse", *recipe.metrics)):
        metric.require(Settings(recipe.thresholds), recipe.members, "mm h-1")
    files = [_file_name(each) for each in recipe.sets]
    for each, name in zip(recipe.sets, files, strict=True):
        if files.count(name) > 1:
            raise RecipeError(
                "sets", f"{each.name!r} is there twice", expected="a name of its own for each, by letters and digits"
            )
    if not dry_run:
        say(f"{recipe.name}: opening {len(files)} datasets")
    # All of them before any work is done.
    for each in recipe.sets:
        frames = Frames.from_xarray(open_set(each), gaps="skip")
        inits = _init_times(frames, recipe, each)
        if dry_run:
            lacking = ", ".join(name for name in models if name in OF_RAIN and not _is_rain(frames))
            said = f"; not in mm h-1, so without {lacking}" if lacking else ""
            say(f"{each.name}: {frames.shape[0]} frames, {len(inits)} init times{said}")
    if dry_run:
        return ComparisonResult(Path(recipe.output.folder), pd.DataFrame(), [])
    folder = writable_folder(Path(recipe.output.folder).expanduser())
    tables = []
    with locked(folder / LOCK, folder):
        for number, each in enumerate(recipe.sets, 1):
            say(f"{each.name} ({number} of {len(recipe.sets)})")
            tables.append(_set_scores(folder, recipe, each, models, say))
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
    folder: Path, recipe: ComparisonRecipe, one: SetRecipe, models: Mapping[str, _Model], say: Callable[[str], None]
) -> pd.DataFrame:
    file = folder / f"{_file_name(one)}.csv"
    known = file.with_suffix(".json")
    found = {name: model.identity for name, model in models.items()}
    data = [one.model_dump(mode="json"), recipe.history, recipe.steps, data_identity(one.source, {})["identity"]]
    identity = digest([data, recipe.metrics, recipe.thresholds, recipe.scales, found, __version__])
    if file.exists() and known.exists() and json.loads(known.read_text()).get("identity") == identity:
        return pd.read_csv(file, dtype={"field": str})
    ds = open_set(one).load()
    frames = Frames.from_xarray(ds, gaps="skip")
    rain = _is_rain(frames)
    names = [name for name in models if rain or name not in OF_RAIN]
    inits = _init_times(frames, recipe, one)
    archives = {}
    home = folder / FORECASTS / _file_name(one)
    # Smoothed extrapolations are made of this one.
    made = dict.fromkeys(EXTRAPOLATION if growth_of(name) is not None else name for name in names)
    models = {name: models.get(name) or _model(name, recipe.members) for name in made}
    places = {name: home / f"{digest([data, models[name].identity, __version__])[:16]}.zarr" for name in made}
    for old in home.glob("*"):  # of another model, finished or not
        if not any(old.name.lstrip(".").startswith(place.stem) for place in places.values()):
            remove(old)
    for name, place in places.items():
        if not place.exists():
            model = models[name]

            def tell(done: int, total: int, name: str = name) -> None:
                say(f"{one.name}: {name}, {done} of {total} init times")

            hindcast(
                ds, model.method, recipe.steps, init_times=inits, product=model.product, members=model.members,
                grid="any", to=place, progress=tell,
            )  # fmt: skip
        archives[name] = open_forecast(str(place))
    say(f"{one.name}: scores of {len(names)} models")
    metrics = [m.name for m in select_metrics(("mse", *recipe.metrics)) if rain or not m.sums.thresholds]
    scoring = Scoring(metrics, recipe.thresholds or None, valid_times="all", scales=recipe.scales or None)
    totals = _totals(archives, names, ds, scoring, (frames.grid.y, frames.grid.x))
    table = _rows(totals)
    table.insert(0, "set", one.name)
    write_whole(file, table.to_csv(index=False))
    write_whole(known, json.dumps({"identity": identity, "models": found}, indent=1))
    return table


def _totals(
    archives: Mapping[str, xr.DataArray],
    names: list[str],
    truth: xr.Dataset,
    scoring: Scoring,
    grid: tuple[Hashable, Hashable],
) -> dict[str, Statistics]:
    """Return the sums of each model, over the pixels that all have; some init times at a time are in memory."""
    first = next(iter(archives.values()))
    number = first.sizes[dims.INIT_TIME]
    size = max(1, VALUES_AT_ONCE // (first.size // number))
    parts: dict[str, list[Statistics]] = {name: [] for name in names}
    for at in range(0, number, size):
        some = {
            name: archive.isel(init_time=slice(at, at + size)).compute(scheduler="synchronous")
            for name, archive in archives.items()
        }
        for name in names:
            if (growth := growth_of(name)) is not None:
                plain = some[EXTRAPOLATION].transpose(..., dims.LEAD_TIME, *grid)
                widths = [growth * lead for lead in range(1, plain.sizes[dims.LEAD_TIME] + 1)]
                some[name] = plain.copy(data=smoothed(plain.values, widths).astype(np.float32))
        for name, pairing in plan({name: some[name] for name in names}, truth, scoring).pairings.items():
            parts[name].append(collect(pairing))
    return {name: Statistics.total(each) for name, each in parts.items()}


def _rows(totals: Mapping[str, Statistics]) -> pd.DataFrame:
    """Return the scores, and the MSE against that of references, of persistence and the best one at each lead time."""
    table = pd.concat([_scores(name, total) for name, total in totals.items()])
    references = [name for name in totals if is_reference(name)]
    best = _best(table["mse"].unstack("model")[references])
    table = table.join(best, on=["field", "lead"])
    shown = [name for name in (PERSISTENCE, EXTRAPOLATION) if name in totals]
    for reference in dict.fromkeys([*shown, *best]):
        skills = pd.concat([_scores(name, total, (reference, totals[reference])) for name, total in totals.items()])
        if reference in shown:
            table = table.join(skills.add_suffix(f"_{reference}"))
        here = table["best"] == reference
        for share, skill in (("", "skill"), ("_lower", "skill_upper"), ("_upper", "skill_lower")):
            table.loc[here, f"of_best{share}"] = 1.0 - skills.loc[here, skill]
    last = ["best", "of_best", "of_best_lower", "of_best_upper", "init_times", "pixels"]
    return table[[*(c for c in table if c not in last), *last]].reset_index()


def _best(mse: pd.DataFrame) -> pd.Series[str]:
    """Return the name of the reference of least error, by field and lead time; of growths of width one by field."""
    grown = [name for name in mse if growth_of(str(name)) is not None]
    parts = []
    for _, rows in mse.groupby("field"):
        ratios = rows[grown].div(rows[PERSISTENCE], axis=0).replace(np.inf, np.nan).sum()
        others = [name for name in grown if name != ratios.idxmin()]
        parts.append(rows.drop(columns=others).fillna(np.inf).idxmin(axis=1).astype(str))
    return pd.concat(parts).rename("best")


def _scores(name: str, total: Statistics, reference: tuple[str, Statistics] | None = None) -> pd.DataFrame:
    """Return the scores of a model by field, model and lead time; or its skill against a reference."""
    columns: dict[str, xr.DataArray] = {}
    if reference is None:
        scores = summarise(total, valid_times="all")
        for metric in (name for name in METRICS if name in scores):
            events = [dim for dim in scores[metric].dims if dim in EVENT_DIMS and dim != SCALE]
            for event in itertools.product(*(scores[dim].values for dim in events)):
                one = scores[metric].sel(dict(zip(events, event, strict=True)))
                columns["_".join([metric, *(f"{value:g}" for value in event)])] = one.drop_vars(events)
        columns |= {"init_times": scores["forecasts"], "pixels": scores["count"]}
    else:
        scores = summarise(total.against(*reference, metrics=("mse",)), valid_times="all")
        for part in ("skill", "skill_lower", "skill_upper"):
            columns[part] = scores.get(f"mse_{part}", scores["mse_skill"] * np.nan)
    labels = [str(dim) for dim in scores["mse"].dims if dim != dims.LEAD_TIME]
    rows = xr.Dataset(columns).reset_coords(drop=True).to_dataframe([*labels, dims.LEAD_TIME]).reset_index()
    place = [rows.pop(dim).astype(str) for dim in labels]
    rows["field"] = [" ".join(each) for each in zip(*place, strict=True)] if labels else ""
    rows["lead"] = rows.groupby("field").cumcount() + 1
    return rows.drop(columns=dims.LEAD_TIME).assign(model=name).set_index(["field", "model", "lead"])


def _file_name(one: SetRecipe) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", one.name).strip("_").lower()


def _init_times(frames: Frames, recipe: ComparisonRecipe, one: SetRecipe) -> Any:
    length = recipe.history + recipe.steps
    starts = window_starts(frames.segments, length, (0, len(frames)), stride=one.stride)
    if not len(starts):
        raise DataError(one.name, f"no {length} successive frames", fix="shorten history or steps")
    return frames.times[starts + recipe.history - 1]


def _is_rain(frames: Frames) -> bool:
    return all(is_rain_rate(channel.units) for channel in frames.channels)


@dataclass(frozen=True)
class _Model:
    """What a name of a recipe stands for."""

    method: Nowcaster | Reference | str
    product: Product = MEAN
    members: int | None = None

    @property
    def identity(self) -> str:
        """What tells its forecasts from those of others."""
        return method_of(self.method).making(self.product, members=self.members or 0).identity


def _model(name: str, members: int) -> _Model:
    told = name.removesuffix(MEMBERS)
    drawn = None if told == name else members
    told, name = told.removesuffix(MATCHED), told
    product: Product = MEAN if told == name else "matched"
    if not is_reference(told):
        return _Model(default_model() if told == DEFAULT else as_nowcaster(told), product, drawn)
    if told == "climatology":
        raise RecipeError("models", told, expected="models and references that need no training period")
    if told not in REFERENCES or told in BY_PYSTEPS:
        require_pysteps()
    if told == "steps":
        return _Model(Reference(told, {"members": members}), product)
    method_of(told).making(product, members=drawn or 0)
    return _Model(told, product)
