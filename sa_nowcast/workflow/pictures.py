"""Pictures and animations: those that a recipe asks for, each for itself, and those of what a file holds."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.recipe import Recipe
from sa_nowcast.sources.opening import kind_of, named_like, open_data, open_forecast
from sa_nowcast.sources.reading import require
from sa_nowcast.storage.whole import partial_beside, put_in_place, storage
from sa_nowcast.times import nearest, read_time, show_time
from sa_nowcast.verification import persistence
from sa_nowcast.verification.fields import EVENT_DIMS
from sa_nowcast.verification.inputs import single_array
from sa_nowcast.verification.metrics import KINDS
from sa_nowcast.verification.plan import PERSISTENCE
from sa_nowcast.workflow.period import dims_of
from sa_nowcast.workflow.scoring import read_scores, short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sa_nowcast.plotting.chosen import Forecasts
    from sa_nowcast.workflow.stages import Stages

FORECAST, SCORES, ANIMATION, ATTENTION, DIAGRAMS = "forecast", "scores", "animation", "attention", "diagrams"
ANIMATIONS: Final = (".gif", ".mp4")
PICTURES: Final = (".png", ".svg", ".pdf")
OF_SCORES: Final = tuple(KINDS)
OF_MEMBERS: Final = ("probability", "members", "meteogram")
_OWNER: Final = {
    "thresholds": "a file of scores, or the kind probability of a forecast",
    "lead_time": "a kind of diagram of scores, or the kind members of a forecast",
    "scale": "a kind of diagram of scores",
    "point": "the kind meteogram of a forecast",
}


# --- of a recipe


@dataclass(frozen=True)
class Picture:
    """A picture that is asked for: its kind, its channel (number, name), and what of the recipe matters."""

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
        if asked.diagrams:
            wanted[f"diagrams{end}.png"] = Picture(DIAGRAMS, channel, [asked.title or recipe.name, asked.diagrams])
        if asked.film:
            wanted[f"forecast{end}.{asked.film}"] = Picture(ANIMATION, channel, [asked.init_time])
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


def draw(picture: Picture, run: Stages, path: Path) -> None:
    """Draw one picture of `pictures_of` into `path`, from what a run has done."""
    plotting, recipe = require_plotting(), run.recipe
    title = recipe.pictures.title
    if picture.kind in (SCORES, DIAGRAMS):
        scores = run.scores
        several = scores if len(scores) > 1 else next(iter(scores.values()))
        title = title or f"{recipe.name}, {_resting_on(run)}"
        labels = {"title": title, **_labels(scores, picture.channel)}
        if picture.kind == SCORES:
            figure = plotting.plot_scores(several, **labels)
        else:
            figure = plotting.plot_diagrams(several, recipe.pictures.diagrams, **labels)
        _save(figure, path, 100)
        return
    experiment, init_time = run.experiment, _init_time_of_recipe(run.archive, recipe)
    frames = experiment.test_frames
    if picture.kind == ATTENTION:
        figure = plotting.plot_attention(
            run.nowcaster,
            experiment.test,
            recipe.pictures.attention,
            init_time=init_time,
            title=title,
            **dims_of(frames),
        )
        _save(figure, path, 100)
        return
    one, array = _one_channel(run.archive.sel({dims.INIT_TIME: init_time}), frames, picture.channel)
    position = frames.position(init_time)
    assert position is not None
    known = array.isel({frames.time_dim: slice(position - recipe.history + 1, position + 1)})
    leads = one[dims.LEAD_TIME].values
    still = persistence(known, init_time=init_time, lead_times=leads, time=frames.time_dim)
    ahead = {"forecast": one, PERSISTENCE: still}
    if picture.kind == ANIMATION:
        plotting.animate(ahead, path, truth=array, time=frames.time_dim)
        return
    figure = plotting.plot_forecast(ahead, truth=array, history=known, title=title, time=frames.time_dim)
    if title is None:
        figure.suptitle(f"{figure.get_suptitle()}\n{_resting_on(run)}", fontsize=11)
    _save(figure, path, 100)


def _resting_on(run: Stages) -> str:
    """Return in words how many forecasts were scored: with few, scores say little about other weather."""
    number = run.archive.sizes[dims.INIT_TIME]
    return f"scores rest on {number} init time{'s' * (number != 1)}"


def _one_channel(one: xr.DataArray, frames: Frames, channel: tuple[int, str]) -> tuple[xr.DataArray, xr.DataArray]:
    """Return one channel of a forecast, and the frames of that channel."""
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
    known = (dims.LEAD_TIME, *EVENT_DIMS)
    places = {str(dim): _position(each, dim, channel) for dim in each.dims if dim not in known}
    return {
        "variable" if dim == dims.VARIABLE else "channel": each[dim].values[place] if dim in each.coords else place
        for dim, place in places.items()
    }


def _init_time_of_recipe(archive: xr.DataArray, recipe: Recipe) -> Any:
    inits, asked = archive[dims.INIT_TIME].values, recipe.pictures.init_time
    if asked in ("first", "last"):
        return inits[0 if asked == "first" else -1]
    with contextlib.suppress(RecipeError):
        place, there = nearest(inits, read_time(asked, "pictures.init_time"))
        if there:
            return inits[int(place)]
    ends = " to ".join(str(t.astype("datetime64[m]")) for t in (inits[0], inits[-1]))
    raise RecipeError("pictures.init_time", f"{asked!r}", f"last, first, or an init time of the forecasts ({ends})")


# --- of a file


def draw_file(
    source: str,
    target: Path,
    *,
    beside: Sequence[str] = (),
    truth: xr.Dataset | None = None,
    history: xr.Dataset | None = None,
    init_time: str | None = None,
    variable: str | None = None,
    channel: str | None = None,
    last: int | None = None,
    engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    time: str | None = None,
    y: str | None = None,
    x: str | None = None,
    metrics: Sequence[str] = (),
    thresholds: Sequence[float] = (),
    kinds: Sequence[str] = (),
    lead_time: str | None = None,
    scale: str | None = None,
    point: tuple[float, float] | None = None,
    dry_run: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> str:
    """Draw what the file `source` holds into `target`, and say in a line what was drawn.

    A forecast, an archive or frames become one of `PICTURES` or `ANIMATIONS`, scores one of `PICTURES`. Of an archive
    the last init time that has truth is drawn by default, where truth is given, or else the last one; of frames the
    last 6, or 24 in an animation. `beside` are paths of other forecasts that are drawn with the first, from its init
    time, under the names of their files; or "persistence", of the frames in truth or history. `engine`, `options`,
    `time`, `y` and `x` are those of frames and truth, `metrics` and `thresholds` choose among scores. `kinds` are
    diagrams of scores (`OF_SCORES`), with a lead time and a scale; or one picture of a forecast with members
    (`OF_MEMBERS`): probability of one of `thresholds`, members at a lead time, meteogram at a `point`. A dry run checks
    only: no value is read, nothing is drawn. `report` is called with a line about what the picture lacks.

    Raises
    ------
    DataError
        `source` holds no forecast, no scores and no frames.
    RecipeError
        An animation of scores, an option of another kind of file, or something that has to be chosen.
    MissingLibraryError, StorageError
        What draws is not installed, or the picture cannot be written.
    """
    require("matplotlib", "plot")
    kind = kind_of(source)
    owners: dict[str, tuple[str, dict[str, object]]] = {
        "forecast": ("a forecast or an archive", {"truth": truth, "history": history, "beside": beside or None}),
        "data": ("frames", {"last": last}),
        "scores": ("a file of scores", {"metrics": metrics or None}),
    }
    if kind not in owners:
        raise RecipeError(source, f"a {kind}", "a forecast, an archive, scores or frames", _inside(source, kind))
    for owner, (what, given) in owners.items():
        for name, value in given.items():
            if value is not None and owner != kind:
                raise RecipeError(name, f"given for {source}", expected=what, fix=f"leave {name}= out")
    _require_kinds(source, kind, kinds, thresholds=thresholds or None, lead_time=lead_time, scale=scale, point=point)
    labels: dict[str, Any] = {"variable": variable, "channel": channel}
    if kind == "scores":
        chosen_scores: dict[str, Any] = {"thresholds": list(thresholds) or None, **labels}
        if kinds:
            diagrams = {"kinds": list(kinds), "lead_time": lead_time, "scale": scale}
            return _draw_scores(source, target, {**diagrams, **chosen_scores}, dry_run, "plot_diagrams")
        return _draw_scores(source, target, {"metrics": list(metrics) or None, **chosen_scores}, dry_run)
    animated = target.suffix.lower() in ANIMATIONS
    if kind == "data":
        data = open_data(source, engine=engine, options=options)
        count = last if last is not None else 24 if animated else 6
        of_frames = {"last": count, "init_time": init_time, **labels, "time": time, "y": y, "x": x}
        return _draw_frames(data, target, of_frames, dry_run)
    forecast = open_forecast(source)
    truth, history = (
        None if data is None else named_like(data, forecast, dims.DimNames(time, y, x)) for data in (truth, history)
    )
    chosen = _init_time(forecast, init_time, truth)
    labels["init_time"] = chosen
    if truth is not None and chosen is not None:
        _say_what_truth_lacks(forecast, truth, chosen, report)
    if kinds:
        if animated:
            raise RecipeError(f"output {target}", f"an animation of {kinds[0]}", f"one of {', '.join(PICTURES)}")
        told = {"lead_time": lead_time} if kinds[0] == "members" else {}
        first = {"probability": thresholds[:1], "meteogram": (point,)}.get(kinds[0], ())
        if not dry_run:
            from sa_nowcast import plotting

            _save(getattr(plotting, f"plot_{kinds[0]}")(forecast, *first, truth=truth, **told, **labels), target)
        return f"{kinds[0]} of the forecast from {show_time(chosen)}" if chosen is not None else kinds[0]
    frames = truth if truth is not None else history
    several: Forecasts = _with_others(source, forecast, beside, frames, chosen) if beside else forecast
    if not dry_run and animated:
        _animate(several, target, truth, **labels)
    elif not dry_run:
        from sa_nowcast.plotting import plot_forecast

        _save(plot_forecast(several, truth, history, **labels), target)
    return f"forecast from {show_time(chosen)}" if chosen is not None else "forecast"


def _with_others(
    source: str, forecast: xr.DataArray, beside: Sequence[str], frames: xr.Dataset | None, init_time: Any
) -> dict[str, xr.DataArray | xr.Dataset]:
    """Return a forecast and those beside it by names of their files; persistence is made of the frame at init time."""
    names = short_names([source, *beside])
    several: dict[str, xr.DataArray | xr.Dataset] = {names[0]: forecast}
    for name, path in zip(names[1:], beside, strict=True):
        if path == PERSISTENCE:
            if frames is None:
                raise RecipeError("beside", PERSISTENCE, "frames to take it from, by truth or history")
            told = single_array(frames, forecast)
            leads = np.atleast_1d(forecast[dims.LEAD_TIME].values)
            several[name] = persistence(told, init_time=init_time, lead_times=leads)
        else:
            several[name] = open_forecast(path)
    return several


def _inside(source: str, kind: str) -> str | None:
    """Return which file of a folder can be drawn."""
    found = [p for name in ("forecast.nc", "forecast.zarr", "scores.csv") if (p := Path(source) / name).exists()]
    return f"sa-nowcast plot {shlex.quote(str(found[0]))}" if found and kind == "run" else None


def _draw_frames(data: xr.Dataset, target: Path, chosen: Mapping[str, Any], dry_run: bool) -> str:
    from sa_nowcast.plotting import plot_frames
    from sa_nowcast.plotting.frames import frames_to_draw

    drawn = frames_to_draw(data, **chosen)
    if not dry_run and target.suffix.lower() in ANIMATIONS:
        _animate(data, target, **chosen)
    elif not dry_run:
        _save(plot_frames(data, **chosen), target)
    ends = list(dict.fromkeys(show_time(drawn.times[i]) for i in (0, -1)))
    return f"{drawn.times.size} frame{'s' * (drawn.times.size > 1)}, {' to '.join(ends)}"


def _say_what_truth_lacks(
    forecast: xr.DataArray, truth: xr.Dataset, init_time: Any, report: Callable[[str], None]
) -> None:
    from sa_nowcast.plotting.chosen import valid_times_without

    lacking = valid_times_without(forecast, truth, init_time)
    if lacking.size:
        count = np.atleast_1d(forecast[dims.LEAD_TIME].values).size
        report(f"no truth at {lacking.size} of {count} valid times, the first is {show_time(lacking[0])}")


def _init_time(forecast: xr.DataArray, wanted: str | None, truth: xr.Dataset | None) -> Any:
    if dims.INIT_TIME not in forecast.coords:
        return None
    known = forecast[dims.INIT_TIME].values.reshape(-1)
    if wanted is None:
        if truth is None or known.size == 1:
            return known[-1]
        from sa_nowcast.plotting.chosen import init_time_with_truth

        return init_time_with_truth(forecast, truth)
    place, there = nearest(known, read_time(wanted, "init_time", "a time such as 2019-06-10T00:30"))
    if not there:
        raise DataError(
            "init_time",
            f"{wanted} is not among the init times",
            expected=f"one of {len(known)} from {show_time(known.min())} to {show_time(known.max())}",
        )
    return known[int(place)]


def _require_kinds(source: str, kind: str, kinds: Sequence[str], **given: object) -> None:
    """Refuse kinds of pictures of another file, and options of another kind."""
    known = {"scores": OF_SCORES, "forecast": OF_MEMBERS}.get(kind, ())
    for each in kinds:
        if each not in known:
            raise RecipeError("kind", f"{each!r} of {source}", f"one of {', '.join(known)}" if known else "none")
    if kind == "forecast" and len(kinds) > 1:
        raise RecipeError("kind", f"{', '.join(kinds)} of a forecast", "one of them")
    needed = {"probability": "thresholds", "meteogram": "point"}.get(kinds[0] if kinds else "")
    if needed is not None and given[needed] is None:
        raise RecipeError("kind", f"{kinds[0]} without {needed}", f"{needed} too")
    owners = {
        "thresholds": kind == "scores" or "probability" in kinds,
        "lead_time": (kind == "scores" and bool(kinds)) or "members" in kinds,
        "scale": kind == "scores" and bool(kinds),
        "point": "meteogram" in kinds,
    }
    for name, value in given.items():
        if value is not None and not owners[name]:
            raise RecipeError(name, f"given for {source}", _OWNER[name], f"leave {name}= out")


def _draw_scores(
    source: str, target: Path, chosen: Mapping[str, Any], dry_run: bool, function: str = "plot_scores"
) -> str:
    if target.suffix.lower() in ANIMATIONS:
        raise RecipeError(f"output {target}", "an animation of scores", expected=f"one of {', '.join(PICTURES)}")
    scores = read_scores(source)
    if not dry_run:
        from sa_nowcast import plotting

        _save(getattr(plotting, function)(scores.get("", scores), **chosen), target)
    names = ", ".join(n for n in scores if n)
    what = "scores" if function == "plot_scores" else ", ".join(chosen["kinds"])
    return f"{what} of {names}" if names else what


def _animate(data: Forecasts, target: Path, *truth: xr.Dataset | None, **chosen: Any) -> None:
    from sa_nowcast.plotting import animate

    with storage(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    animate(data, target, *truth, **chosen)


def _save(figure: Figure, target: Path, dpi: int = 120) -> None:
    with storage(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial_beside(target) as partial:
            figure.savefig(partial, dpi=dpi, format=target.suffix.removeprefix("."))
            put_in_place(partial, target)
