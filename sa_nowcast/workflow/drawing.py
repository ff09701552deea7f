"""The stage that draws: each picture for itself, so that one that is lost is drawn again alone."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import MissingLibraryError, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.recipe import Recipe
from sa_nowcast.storage.whole import partial_beside, put_in_place, storage
from sa_nowcast.times import nearest, read_time
from sa_nowcast.workflow.data import Experiment

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster

FORECAST, SCORES, FILM, ATTENTION = "forecast", "scores", "film", "attention"


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


@dataclass(frozen=True)
class Picture:
    """A picture that is asked for.

    Parameters
    ----------
    kind : {"forecast", "scores", "film", "attention"}
    channel : (int, str)
        The variable or channel that it shows: its position among the model's, and its name.
    settings : list
        What of the recipe matters to it.
    """

    kind: str
    channel: tuple[int, str]
    settings: list[Any]


def pictures_of(recipe: Recipe, channels: Sequence[str] = ("",)) -> dict[str, Picture]:
    """Return the pictures that a recipe asks for by the names of their files.

    Of several variables or channels each has its own, with its name in that of the file: ``forecast-rain.png``. What
    the network attends to is the same for all of them, and is drawn once.
    """
    asked = recipe.pictures
    wanted: dict[str, Picture] = {}
    for channel, end in zip(enumerate(channels), _endings(channels), strict=True):
        if asked.forecast:
            settings = [asked.init_time, asked.title, recipe.history]
            wanted[f"forecast{end}.png"] = Picture(FORECAST, channel, settings)
        if asked.scores:
            wanted[f"scores{end}.png"] = Picture(SCORES, channel, [asked.title or recipe.name])
        if asked.film:
            wanted[f"forecast{end}.{asked.film}"] = Picture(FILM, channel, [asked.init_time])
    if asked.attention:
        wanted["attention.png"] = Picture(ATTENTION, (0, ""), [asked.init_time, asked.title, asked.attention])
    return wanted


def _endings(channels: Sequence[str]) -> list[str]:
    """Return what the names of files end with, each once: nothing of one channel, else its name where it can be one."""
    if len(channels) == 1:
        return [""]
    names = [re.sub(r"[^\w.-]+", "_", name).strip("._") or "channel" for name in channels]
    # Names that differ in what a file's name cannot hold, or in case alone, are told apart by number.
    alike = [name.lower() for name in names]
    return [f"-{name}" if alike.count(name.lower()) == 1 else f"-{name}-{i + 1}" for i, name in enumerate(names)]


def require_plotting() -> Any:
    """Return `sa_nowcast.plotting`, or say what to install."""
    try:
        import matplotlib  # noqa: F401

        from sa_nowcast import plotting
    except ImportError as error:
        raise MissingLibraryError("pictures", "matplotlib is not installed", fix=install("plot")) from error
    return plotting


def draw(picture: Picture, drawable: Drawable, path: Path) -> None:
    """Draw one picture of `pictures_of` into `path`."""
    plotting, recipe = require_plotting(), drawable.recipe
    title = recipe.pictures.title
    if picture.kind == SCORES:
        scores = dict(drawable.scores())
        several = scores if len(scores) > 1 else next(iter(scores.values()))
        _save(plotting.plot_scores(several, title=title or recipe.name, **_labels(scores, picture.channel)), path)
        return
    experiment = drawable.experiment()
    frames = experiment.test_frames
    if picture.kind == ATTENTION:
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
    one, array = _one_channel(drawable.archive(), experiment, recipe, picture.channel)
    if picture.kind == FILM:
        plotting.animate(one, path, truth=array)
        return
    position = frames.position(_init_time(drawable.archive(), recipe))
    assert position is not None
    known = array.isel({frames.time_dim: slice(position - recipe.history + 1, position + 1)})
    _save(plotting.plot_forecast(one, truth=array, history=known, title=title), path)


def _one_channel(
    archive: xr.DataArray, experiment: Experiment, recipe: Recipe, channel: tuple[int, str]
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return one forecast of a channel, and the frames of that channel."""
    frames = experiment.test_frames
    one = archive.sel({dims.INIT_TIME: _init_time(archive, recipe)})
    array = frames.arrays[channel[0] if len(frames.arrays) > 1 else 0]
    if frames.channel_dim is not None:
        one = one.isel({frames.channel_dim: _position(one, frames.channel_dim, channel)})
        if frames.channel_dim in array.dims:
            array = array.isel({frames.channel_dim: _position(array, frames.channel_dim, channel)})
        else:
            one = one.assign_attrs(array.attrs).rename(array.name)
    return one.load(), array


def _position(data: xr.DataArray | xr.Dataset, dim: Hashable, channel: tuple[int, str]) -> int:
    """Return where `data` has a channel: by its name, for files may sort them, else by its position."""
    number, name = channel
    labels = [str(label) for label in data[dim].values] if dim in data.coords else []
    return labels.index(name) if labels.count(name) == 1 else number


def _labels(scores: Mapping[str, xr.Dataset], channel: tuple[int, str]) -> dict[str, Any]:
    """Return the label that `channel` has in the scores."""
    each = next(iter(scores.values()))
    known = (dims.LEAD_TIME, "threshold", "neighbourhood", "rank", "sample")
    places = {str(dim): _position(each, dim, channel) for dim in each.dims if dim not in known}
    return {
        "variable" if dim == dims.VARIABLE else "channel": each[dim].values[place] if dim in each.coords else place
        for dim, place in places.items()
    }


def _init_time(archive: xr.DataArray, recipe: Recipe) -> Any:
    inits, asked = archive[dims.INIT_TIME].values, recipe.pictures.init_time
    if asked in ("first", "last"):
        return inits[0 if asked == "first" else -1]
    with contextlib.suppress(RecipeError):
        place, there = nearest(inits, read_time(asked, "pictures.init_time"))
        if there:
            return inits[int(place)]
    ends = " to ".join(str(t.astype("datetime64[m]")) for t in (inits[0], inits[-1]))
    raise RecipeError("pictures.init_time", f"{asked!r}", f"last, first, or an init time of the forecasts ({ends})")


def _save(figure: Any, path: Path) -> None:
    with storage(path), partial_beside(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
        put_in_place(partial, path)
