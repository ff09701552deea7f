"""A picture or a film of what a file holds: a forecast, one of an archive, frames, or scores."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.sources.opening import kind_of, named_like, open_data, open_forecast
from sa_nowcast.sources.reading import require
from sa_nowcast.storage.whole import partial_beside, put_in_place, storage
from sa_nowcast.times import nearest, read_time, show_time
from sa_nowcast.verification.table import from_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILMS: Final = (".gif", ".mp4")
PICTURES: Final = (".png", ".svg", ".pdf")


def draw(
    source: str,
    target: Path,
    *,
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
    dry_run: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> str:
    """Draw the file `source` into `target`, and say what was drawn.

    Parameters
    ----------
    source : str
        A forecast, an archive, scores, or frames.
    target : Path
        Ends in ``.png``, ``.svg`` or ``.pdf``; a film of a forecast or of frames in ``.gif`` or ``.mp4``.
    truth, history : Dataset, optional
        Frames to show beside a forecast.
    init_time, variable, channel : str, optional
        What to draw of what has several. By default of an archive the last init time that has truth, where truth is
        given, or else the last one. Of frames the last one that is drawn.
    last : int, optional
        Of frames, how many: by default 6, and 24 in a film.
    engine, options : optional
        Of frames, as for `sa_nowcast.sources.opening.open_data`.
    time, y, x : str, optional
        Dimensions of frames and of truth, where they cannot be found.
    metrics, thresholds : sequence, optional
        What to draw of scores.
    dry_run : bool
        Check only: no value is read, nothing is drawn.
    report : callable
        Called with a line about what the picture lacks, such as truth.

    Returns
    -------
    str
        A line for people.

    Raises
    ------
    DataError
        `source` holds no forecast, no scores and no frames.
    RecipeError
        A film of scores, an option of another kind of file, or something that has to be chosen.
    MissingLibraryError
        What draws is not installed.
    StorageError
        The picture cannot be written.
    """
    require("matplotlib", "plot")
    kind = kind_of(source)
    of_forecasts = {"truth": truth is not None, "history": history is not None}
    of_frames = {"last": last is not None}
    of_scores = {"metrics": bool(metrics), "thresholds": bool(thresholds)}
    owners = {"forecast": "a forecast or an archive", "data": "frames", "scores": "a file of scores"}
    given = {"forecast": of_forecasts, "data": of_frames, "scores": of_scores}
    if kind not in owners:
        raise RecipeError(source, f"a {kind}", "a forecast, an archive, scores or frames", _inside(source, kind))
    for owner, names in given.items():
        for name, is_given in names.items():
            if is_given and owner != kind:
                raise RecipeError(name, f"given for {source}", expected=owners[owner], fix=f"leave {name}= out")
    chosen_labels: dict[str, Any] = {"variable": variable, "channel": channel}
    if kind == "scores":
        return _scores(source, target, metrics, thresholds, variable, channel, dry_run)
    if kind == "data":
        where = {"time": time, "y": y, "x": x}
        return _frames(source, target, last, init_time, engine, options, {**chosen_labels, **where}, dry_run)
    forecast = open_forecast(source)
    truth, history = (
        None if data is None else named_like(data, forecast, dims.DimNames(time, y, x)) for data in (truth, history)
    )
    chosen = _init_time(forecast, init_time, truth)
    options_of: dict[str, Any] = {"init_time": chosen, **chosen_labels}
    shown = f"forecast from {show_time(chosen)}" if chosen is not None else "forecast"
    if truth is not None and chosen is not None:
        _say_what_truth_lacks(forecast, truth, chosen, report)
    if dry_run:
        return shown
    if target.suffix.lower() in FILMS:
        from sa_nowcast.plotting import animate

        with storage(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        animate(forecast, target, truth, **options_of)
        return shown
    from sa_nowcast.plotting import plot_forecast

    _save(plot_forecast(forecast, truth, history, **options_of), target)
    return shown


def _inside(source: str, kind: str) -> str | None:
    """Return which file of a folder can be drawn."""
    found = [p for name in ("forecast.nc", "forecast.zarr", "scores.csv") if (p := Path(source) / name).exists()]
    return f"sa-nowcast plot {shlex.quote(str(found[0]))}" if found and kind == "run" else None


def _frames(
    source: str,
    target: Path,
    last: int | None,
    init_time: str | None,
    engine: str | None,
    options: Mapping[str, Any] | None,
    chosen: Mapping[str, Any],
    dry_run: bool,
) -> str:
    from sa_nowcast.plotting import animate, plot_frames
    from sa_nowcast.plotting.frames import frames_to_draw

    data = open_data(source, engine=engine, options=options)
    film = target.suffix.lower() in FILMS
    count = last if last is not None else 24 if film else 6
    drawn = frames_to_draw(data, count, init_time, **chosen)
    if not dry_run and film:
        with storage(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        animate(data, target, last=count, init_time=init_time, **chosen)
    elif not dry_run:
        _save(plot_frames(data, last=count, init_time=init_time, **chosen), target)
    ends = list(dict.fromkeys(show_time(drawn.times[i]) for i in (0, -1)))
    return f"{drawn.times.size} frame{'s' * (drawn.times.size > 1)}, {' to '.join(ends)}"


def _say_what_truth_lacks(
    forecast: xr.DataArray, truth: xr.Dataset, init_time: Any, report: Callable[[str], None]
) -> None:
    from sa_nowcast.plotting.forecast import valid_times_without

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
        from sa_nowcast.plotting.forecast import init_time_with_truth

        return init_time_with_truth(forecast, truth)
    place, there = nearest(known, read_time(wanted, "init_time", "a time such as 2019-06-10T00:30"))
    if not there:
        raise DataError(
            "init_time",
            f"{wanted} is not among the init times",
            expected=f"one of {len(known)} from {show_time(known.min())} to {show_time(known.max())}",
        )
    return known[int(place)]


def _scores(
    source: str,
    target: Path,
    metrics: Sequence[str],
    thresholds: Sequence[float],
    variable: str | None,
    channel: str | None,
    dry_run: bool,
) -> str:
    if target.suffix.lower() in FILMS:
        raise RecipeError(f"output {target}", "a film of scores", expected=f"one of {', '.join(PICTURES)}")
    scores = read_scores(source)
    if not dry_run:
        from sa_nowcast.plotting import plot_scores

        one = scores.get("")
        figure = plot_scores(
            scores if one is None else one,
            list(metrics) or None,
            thresholds=list(thresholds) or None,
            variable=variable,
            channel=channel,
        )
        _save(figure, target)
    names = ", ".join(n for n in scores if n)
    return f"scores of {names}" if names else "scores"


def read_scores(source: str) -> dict[str, xr.Dataset]:
    """Read scores from ``.csv`` or NetCDF; by model, under "" where there is one only.

    Raises
    ------
    DataError
        No such file, or no scores in it.
    """
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


def _save(figure: Figure, target: Path) -> None:
    with storage(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial_beside(target) as partial:
            figure.savefig(partial, dpi=120, format=target.suffix.removeprefix("."))
            put_in_place(partial, target)
