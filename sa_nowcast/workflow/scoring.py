"""What verifies forecasts in files, and those of a run; scores in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import storable
from sa_nowcast.recipe import Recipe
from sa_nowcast.recipe.blocks import VerificationRecipe
from sa_nowcast.sources.opening import named_like, open_forecast
from sa_nowcast.storage.whole import partial_beside, put_in_place, storage, write_whole
from sa_nowcast.verification import Bootstrap, to_table
from sa_nowcast.verification.metrics import KINDS, default_metrics, select_metrics
from sa_nowcast.verification.named import BY_PYSTEPS
from sa_nowcast.verification.plan import PERSISTENCE, Plan, plan
from sa_nowcast.verification.pysteps_fields import require_pysteps
from sa_nowcast.verification.scales import read_scales
from sa_nowcast.verification.scoring import Scoring
from sa_nowcast.verification.table import from_table
from sa_nowcast.workflow.data import Experiment

SCORE_SUFFIXES: Final = (".csv", ".nc")


def metrics_of(asked: VerificationRecipe) -> tuple[str, ...]:
    """Return the names of the metrics that a recipe asks for."""
    return tuple(metric.name for metric in select_metrics(asked.metrics or default_metrics(asked.thresholds)))


def require_scoring(recipe: Recipe) -> None:
    """Raise `MissingLibraryError` where a reference or a metric of `recipe` needs a library that is not installed."""
    if BY_PYSTEPS.intersection(recipe.verification.references):
        require_pysteps()
    for metric in select_metrics(metrics_of(recipe.verification)):
        if metric.sums.needs is not None:
            metric.sums.needs()


def check_scoring(recipe: Recipe, frames: Frames) -> None:
    """Refuse what the test period cannot be scored by, such as csi without thresholds, before any work is done."""
    metrics = metrics_of(recipe.verification)
    for kind in recipe.pictures.diagrams:
        needed = select_metrics([KINDS[kind]])
        if not {metric.name for metric in needed} <= set(metrics):
            raise RecipeError(
                "pictures.diagrams", f"{kind} of {', '.join(metrics)}", f"{KINDS[kind]} among verification.metrics"
            )
    units = {channel.units for channel in frames.channels}
    members = 2 if "steps" in recipe.verification.references else 1
    smallest = min(frames.grid.height, frames.grid.width)
    asked = _scoring(recipe.verification)
    try:
        asked.resolved(units.pop() if len(units) == 1 else None, members, smallest)
        if asked.scales is not None:
            leads = (np.arange(1, recipe.steps + 1) * frames.step).astype("timedelta64[ns]")
            read_scales(asked.scales, frames.arrays[0], (str(frames.grid.y), str(frames.grid.x)), leads)
    except RecipeError as error:
        raise RecipeError(f"verification.{error.where}", error.found, error.expected, error.fix) from error


def _scoring(asked: VerificationRecipe) -> Scoring:
    bootstrap = Bootstrap(**asked.bootstrap.model_dump(exclude_none=True))
    chosen = (asked.thresholds or None, asked.neighbourhoods, asked.data_range, asked.clip)
    return Scoring(metrics_of(asked), *chosen, "common", bootstrap, asked.scales)


def score(archives: dict[str, xr.DataArray], experiment: Experiment, recipe: Recipe) -> dict[str, xr.Dataset]:
    """Return the scores of a run's forecasts by name: all on one sample, and against the first reference.

    `archives` are the network's first, then the references other than persistence, which is made from the truth.
    """
    frames, asked = experiment.test_frames, recipe.verification
    names = [str(array.name) for array in frames.arrays]
    truth: xr.DataArray | xr.Dataset = frames.arrays[0] if len(names) == 1 else experiment.test[names]
    told = (truth, _scoring(asked), asked.references[0])
    if len(archives) > 1:
        return plan(archives, *told, time=frames.time_dim).compute()
    ((name, forecast),) = archives.items()
    return {name: plan(forecast, *told, time=frames.time_dim).compute()[""]}


def plan_scores(
    archives: Sequence[str],
    truth: xr.DataArray | xr.Dataset,
    scoring: Scoring = Scoring(default_metrics(events=False), valid_times="common"),  # noqa: B008 - frozen
    *,
    reference: str | None = PERSISTENCE,
    time: str | None = None,
    y: str | None = None,
    x: str | None = None,
    channel: str | None = None,
) -> Plan:
    """Open archives and check all of them against truth; no value is read.

    `archives` are paths of forecasts or archives, `reference` is "persistence" or such a path. Init times whose valid
    times truth does not hold are left out; of several archives, and of an archive as reference, the init and lead times
    that all of them have are taken. `time`, `y`, `x` and `channel` are dimensions of truth, where attributes, common
    names and the archives' own names do not tell.
    """
    opened = {name: open_forecast(path) for name, path in zip(short_names(archives), archives, strict=True)}
    against: str | xr.DataArray | None = reference
    name = None
    if reference is not None and reference != PERSISTENCE:
        same = [n for n, path in zip(opened, archives, strict=True) if Path(path) == Path(reference)]
        against = same[0] if same else open_forecast(reference)
        (name,) = short_names([reference])
        name = reference if name in opened else name
    truth = named_like(truth, next(iter(opened.values())), dims.DimNames(time, y, x, channel))
    return plan(opened, truth, scoring, against, reference_name=name, lacking="skip")


def table_of(scores: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Return one table: of several archives with a column ``model``, of one without."""
    return to_table(scores) if len(scores) > 1 else to_table(next(iter(scores.values())))


def write_scores(scores: Mapping[str, xr.Dataset], target: Path) -> None:
    """Write scores as ``.csv`` (the table) or ``.nc`` (along a dimension ``model`` where there are several), whole."""
    with storage(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix.lower() == ".csv":
            write_whole(target, table_of(scores).to_csv(index=False))
            return
        parts = [_storable(one) for one in scores.values()]
        joined = parts[0]
        if len(parts) > 1:  # of one sample; only ranks differ, by the number of members
            joined = xr.concat(parts, dim="model", combine_attrs="drop_conflicts", join="outer")
            joined = joined.assign_coords(model=list(scores))
        with partial_beside(target) as partial:
            storable(joined).to_netcdf(partial, engine="netcdf4")
            put_in_place(partial, target)


def read_scores(source: str) -> dict[str, xr.Dataset]:
    """Read scores from ``.csv`` or NetCDF; by model, under "" where there is one only."""
    path = Path(source).expanduser()
    try:
        if path.suffix.lower() == ".csv":
            return from_table(pd.read_csv(path))
        with xr.open_dataset(path, decode_timedelta=True) as opened:
            scores = opened.load()
    except FileNotFoundError as error:
        raise DataError(source, "no such file", expected="scores, as sa-nowcast verify writes them") from error
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(source, f"cannot be read ({error})", expected="a table of scores") from error
    if "model" not in scores.dims:
        return {"": scores}
    return {str(name): scores.sel(model=name, drop=True) for name in scores["model"].values}


def keep_scores(scores: Mapping[str, xr.Dataset], folder: Path) -> None:
    """Keep scores as they are, for pictures that are drawn later: one NetCDF file each."""
    with storage(folder), partial_beside(folder) as partial:
        for number, (name, each) in enumerate(scores.items()):
            write_scores({name: each.assign_attrs(sa_nowcast_name=name)}, partial / f"{number}.nc")
        put_in_place(partial, folder)


def kept_scores(folder: Path) -> dict[str, xr.Dataset]:
    """Read what `keep_scores` kept."""
    scores = {}
    for path in sorted(folder.glob("*.nc"), key=lambda f: int(f.stem)):
        with xr.open_dataset(path, decode_timedelta=True) as ds:
            each = ds.load()
        scores[str(each.attrs.pop("sa_nowcast_name"))] = each
    return scores


def _storable(scores: xr.Dataset) -> xr.Dataset:
    """Return scores with lead times that NetCDF holds as they are, and that are read back as durations."""
    lead = scores[dims.LEAD_TIME]
    if not (lead.values % np.timedelta64(1, "s")).any():
        scores = scores.assign_coords({dims.LEAD_TIME: lead.astype("timedelta64[s]")})
        scores[dims.LEAD_TIME].attrs = lead.attrs
    return scores


def short_names(paths: Sequence[str]) -> list[str]:
    """Return short names of files that differ: their stems, or where two are the same, their paths."""
    stems = [Path(p).name.removesuffix(Path(p).suffix) for p in paths]
    return stems if len(set(stems)) == len(stems) else [str(p) for p in paths]
