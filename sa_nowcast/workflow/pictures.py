"""A picture or a film of what a file holds: a forecast, one of an archive, or scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import xarray as xr

from sa_nowcast import dims
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.opening import kind_of, named_like, open_forecast
from sa_nowcast.sources.optional import require
from sa_nowcast.storage import partial_beside, put_in_place, storage
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
    metrics: Sequence[str] = (),
    thresholds: Sequence[float] = (),
    dry_run: bool = False,
    time: str | None = None,
    y: str | None = None,
    x: str | None = None,
) -> str:
    """Draw the file `source` into `target`, and say what was drawn.

    Parameters
    ----------
    source : str
        A forecast, an archive, or scores.
    target : Path
        Ends in ``.png``, ``.svg`` or ``.pdf``; a film of a forecast in ``.gif`` or ``.mp4``.
    truth, history : Dataset, optional
        Frames to show beside a forecast.
    init_time, variable, channel : str, optional
        What to draw of what has several; the last init time of an archive by default.
    metrics, thresholds : sequence, optional
        What to draw of scores.
    dry_run : bool
        Check only: no value is read, nothing is drawn.
    time, y, x : str, optional
        Dimensions of truth and history, where attributes, common names and the forecast's own names do not tell.

    Returns
    -------
    str
        A line for people.

    Raises
    ------
    DataError
        `source` holds no forecast and no scores.
    RecipeError
        A film of scores, or something that has to be chosen.
    MissingLibraryError
        What draws is not installed.
    StorageError
        The picture cannot be written.
    """
    require("matplotlib", "plot")
    if kind_of(source) == "scores":
        return _scores(source, target, metrics, thresholds, variable, channel, dry_run)
    if metrics or thresholds:
        raise RecipeError("metrics", f"given for {source}", expected="a file of scores")
    forecast = open_forecast(source)
    truth, history = (
        None if data is None else named_like(data, forecast, time=time, y=y, x=x) for data in (truth, history)
    )
    chosen = _init_time(forecast, init_time)
    options: dict[str, Any] = {"init_time": chosen, "variable": variable, "channel": channel}
    shown = f"forecast from {show_time(chosen)}" if chosen is not None else "forecast"
    if dry_run:
        return shown
    if target.suffix.lower() in FILMS:
        from sa_nowcast.plotting import animate

        with storage(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        animate(forecast, target, truth, **options)
        return shown
    from sa_nowcast.plotting import plot_forecast

    _save(plot_forecast(forecast, truth, history, **options), target)
    return shown


def _init_time(forecast: xr.DataArray, wanted: str | None) -> Any:
    if dims.INIT_TIME not in forecast.coords:
        return None
    known = forecast[dims.INIT_TIME].values.reshape(-1)
    if wanted is None:
        return known[-1]
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
