"""The stage that draws: each picture for itself, so that one that is lost is drawn again alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sa_nowcast import dims
from sa_nowcast.errors import MissingLibraryError, RecipeError
from sa_nowcast.installing import install
from sa_nowcast.recipe import Recipe
from sa_nowcast.storage import partial_beside, put_in_place, storage
from sa_nowcast.workflow.data import Experiment

if TYPE_CHECKING:
    from sa_nowcast.nowcaster import Nowcaster

FORECAST, SCORES, ATTENTION = "forecast.png", "scores.png", "attention.png"


@dataclass(frozen=True)
class Drawable:
    """What pictures are made of, each opened when it is needed.

    Parameters
    ----------
    recipe : Recipe
    experiment, archive, nowcaster, scores : callable
        Return the data, the forecasts, the model, and scores by the names of forecasts.
    """

    recipe: Recipe
    experiment: Callable[[], Experiment]
    archive: Callable[[], xr.DataArray]
    nowcaster: Callable[[], Nowcaster]
    scores: Callable[[], Mapping[str, xr.Dataset]]


def pictures_of(recipe: Recipe) -> dict[str, list[Any]]:
    """Return the names of the pictures that a recipe asks for, each with the settings that matter to it."""
    asked = recipe.pictures
    wanted: dict[str, list[Any]] = {}
    if asked.forecast:
        wanted[FORECAST] = [asked.init_time, asked.title, recipe.history]
    if asked.scores:
        wanted[SCORES] = [asked.title or recipe.name]
    if asked.film:
        wanted[f"forecast.{asked.film}"] = [asked.init_time]
    if asked.attention:
        wanted[ATTENTION] = [asked.init_time, asked.title, asked.attention]
    return wanted


def require_plotting() -> Any:
    """Return `sa_nowcast.plotting`, or say what to install."""
    try:
        import matplotlib  # noqa: F401

        from sa_nowcast import plotting
    except ImportError as error:
        raise MissingLibraryError("pictures", "matplotlib is not installed", fix=install("plot")) from error
    return plotting


def draw(name: str, drawable: Drawable, path: Path) -> None:
    """Draw one picture of `pictures_of` into `path`."""
    plotting, recipe = require_plotting(), drawable.recipe
    title = recipe.pictures.title
    if name == SCORES:
        scores = dict(drawable.scores())
        several = scores if len(scores) > 1 else next(iter(scores.values()))
        _save(plotting.plot_scores(several, title=title or recipe.name, **_first_labels(scores)), path)
        return
    experiment = drawable.experiment()
    frames = experiment.test_frames
    if name == ATTENTION:
        figure = plotting.plot_attention(
            drawable.nowcaster(),
            experiment.test,
            recipe.pictures.attention,
            init_time=_init_time(drawable.archive(), recipe),
            time=frames.time_dim,
            y=frames.grid.y,
            x=frames.grid.x,
            channel=None if len(frames.arrays) > 1 else frames.channel_dim,
            title=title,
        )
        _save(figure, path)
        return
    one, array = _one_channel(drawable.archive(), experiment, recipe)
    if name != FORECAST:
        plotting.animate(one, path, truth=array)
        return
    position = frames.position(_init_time(drawable.archive(), recipe))
    assert position is not None
    known = array.isel({frames.time_dim: slice(position - recipe.history + 1, position + 1)})
    _save(plotting.plot_forecast(one, truth=array, history=known, title=title), path)


def _one_channel(archive: xr.DataArray, experiment: Experiment, recipe: Recipe) -> tuple[xr.DataArray, xr.DataArray]:
    """Return one forecast of the first channel, and the frames of that channel."""
    frames = experiment.test_frames
    one = archive.sel({dims.INIT_TIME: _init_time(archive, recipe)})
    array = frames.arrays[0]
    if frames.channel_dim is not None:
        channel = {frames.channel_dim: 0}
        one = one.isel(channel)
        array = array if frames.channel_dim == dims.VARIABLE else array.isel(channel)
        if frames.channel_dim == dims.VARIABLE:
            one = one.assign_attrs(array.attrs).rename(array.name)
    return one.load(), array


def _first_labels(scores: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """Return the first variable or channel, which is the one that pictures show."""
    each = next(iter(scores.values()))
    known = (dims.LEAD_TIME, "threshold", "neighbourhood", "rank", "sample")
    extra = [str(dim) for dim in each.dims if dim not in known]
    return {
        "variable" if dim == dims.VARIABLE else "channel": each[dim].values[0] if dim in each.coords else 0
        for dim in extra
    }


def _init_time(archive: xr.DataArray, recipe: Recipe) -> Any:
    inits, asked = archive[dims.INIT_TIME].values, recipe.pictures.init_time
    if asked in ("first", "last"):
        return inits[0 if asked == "first" else -1]
    try:
        wanted = np.datetime64(asked)
    except ValueError:
        wanted = np.datetime64("NaT")
    if wanted not in inits:
        ends = " to ".join(str(t.astype("datetime64[m]")) for t in (inits[0], inits[-1]))
        raise RecipeError("pictures.init_time", f"{asked!r}", f"last, first, or an init time of the forecasts ({ends})")
    return wanted.astype(inits.dtype)


def _save(figure: Any, path: Path) -> None:
    with storage(path), partial_beside(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
        put_in_place(partial, path)
