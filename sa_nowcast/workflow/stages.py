"""One function per command: what a recipe asks for, done and left in one folder.

Nothing is printed here. Progress goes to the `report` callback, results are returned.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from sa_nowcast import dims
from sa_nowcast.card import resolved_recipe
from sa_nowcast.cf import write_forecast
from sa_nowcast.errors import DataError, MissingLibraryError, StorageError
from sa_nowcast.frames import Frames, grid_mapping_name
from sa_nowcast.hindcast import hindcast
from sa_nowcast.recipe import Recipe, network_config
from sa_nowcast.windows import Positions, Range, window_starts
from sa_nowcast.workflow.data import Experiment, open_experiment, period
from sa_nowcast.workflow.outputs import check_claim, claim, finish, finished, write_text

if TYPE_CHECKING:
    import pandas as pd

    from sa_nowcast.nowcaster import Nowcaster

MODEL, SCORES, PICTURE = "model.nowcaster", "scores.csv", "forecast.png"
Report = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    folder : Path
    scores : DataFrame
        One row per lead time, metric and threshold; see `sa_nowcast.verification.to_table`.
    files : tuple of Path
        The results, whole.
    already_done : bool
        Whether the folder held the finished run before, so that nothing was computed.
    """

    folder: Path
    scores: pd.DataFrame
    files: tuple[Path, ...]
    already_done: bool


def train(recipe: Recipe, *, progress: bool = True, report: Report = lambda line: None) -> Path:
    """Train what a recipe describes, and save the model.

    Parameters
    ----------
    recipe : Recipe
    progress : bool
        Whether training shows a progress bar on standard error.
    report : callable
        Called with one line at the start of each stage.

    Returns
    -------
    Path
        The model's folder. `run` goes on from there without training again.

    Raises
    ------
    SaNowcastError
        Whatever is wrong, in one line; the same call goes on where an interrupted one stopped.
    """
    from sa_nowcast.devices import resolve_device

    folder = _folder(recipe)
    resolve_device(recipe.training.device)
    _train(recipe, folder, open_experiment(recipe), progress, report)
    return folder / MODEL


def run(recipe: Recipe, *, progress: bool = True, report: Report = lambda line: None) -> RunResult:
    """Train, save the model, forecast the held-back times, score them, draw the last one.

    Of several processes that train together (``torchrun``, ``srun``), the first one does what comes after training;
    the others return without scores and files.

    Parameters
    ----------
    recipe : Recipe
    progress : bool
        Whether training shows a progress bar on standard error.
    report : callable
        Called with one line at the start of each stage.

    Returns
    -------
    RunResult

    Raises
    ------
    SaNowcastError
        Whatever is wrong, in one line; outputs of finished stages stay, and the same call goes on from there.
    """
    import pandas as pd

    from sa_nowcast.devices import resolve_device
    from sa_nowcast.training.launch import launched

    folder = _folder(recipe)
    done = finished(folder, recipe)
    if done is not None:
        return RunResult(folder, pd.read_csv(folder / SCORES), done, already_done=True)
    # A missing library or device is found out before any work is done.
    _plotting()
    resolve_device(recipe.training.device)
    experiment = open_experiment(recipe)
    nowcaster = _train(recipe, folder, experiment, progress, report)
    if not launched().first:
        return RunResult(folder, pd.DataFrame(), (), already_done=False)
    test, frames = experiment.test, experiment.test_frames
    report(f"forecasting {period(frames, experiment.test_period)}")
    archive = forecast_period(nowcaster, test, frames, experiment.test_period, experiment.blocked)
    suffix = {"netcdf": "nc", "zarr": "zarr"}[recipe.output.format]
    written = write_forecast(archive, folder / f"forecast.{suffix}", recipe.output.format, title=recipe.name)
    report(f"scoring {archive.sizes[dims.INIT_TIME]} forecasts against {recipe.verification.references[0]}")
    table = _score(archive, test, frames, recipe)
    write_text(folder / SCORES, table.to_csv(index=False))
    _draw(archive, test, frames, recipe, folder / PICTURE)
    files = (folder / MODEL, written, folder / SCORES, folder / PICTURE)
    finish(folder, recipe, files)
    return RunResult(folder, table, files, already_done=False)


def _folder(recipe: Recipe) -> Path:
    from sa_nowcast.training.fit import writable_folder

    folder = writable_folder(Path(recipe.output.folder).expanduser())
    check_claim(folder, recipe)
    return folder


def _train(recipe: Recipe, folder: Path, experiment: Experiment, progress: bool, report: Report) -> Nowcaster:
    from sa_nowcast.training.fit import fit_prepared
    from sa_nowcast.training.launch import launched

    first = launched().first
    # Only now: a recipe that failed on its data must not keep the folder from the mended one.
    if first:
        claim(folder, recipe)
        report(experiment.trained_on)
    nowcaster = fit_prepared(
        experiment.training(),
        network_config(recipe.network, channels=experiment.channels),
        recipe.scaling,
        recipe.training,
        folder=folder / "training",
        progress=progress,
        report=report if first else None,
        provenance={"recipe": recipe.name, "source": recipe.data.source},
        recipe_text=resolved_recipe(recipe),
    )
    if first:
        nowcaster.save(folder / MODEL, overwrite=True)
    return nowcaster


def forecast_period(
    nowcaster: Nowcaster, data: xr.Dataset, frames: Frames, period: Range, blocked: Sequence[int] | Positions = ()
) -> xr.DataArray:
    """Forecast from every init time whose history and lead times lie in `period` and hold no `blocked` frame.

    Returns
    -------
    DataArray, dims (init_time, [variable,] lead_time, [channel,] y, x)
    """
    terms = nowcaster.terms
    starts = window_starts(frames.segments, terms.history + terms.steps, period, blocked)
    if not len(starts):
        raise DataError(
            frames.name,
            f"no window of {terms.history + terms.steps} successive frames to test on",
            fix="give split.test a larger share",
        )
    channel = None if len(frames.arrays) > 1 else frames.channel_dim
    mapping = grid_mapping_name(frames.arrays[0])
    data = data[[str(a.name) for a in frames.arrays] + ([mapping] if mapping in data.data_vars else [])]
    inits: Any = frames.times[starts + terms.history - 1]
    archive = hindcast(
        data,
        nowcaster,
        terms.steps,
        init_times=inits,
        time=frames.time_dim,
        y=frames.grid.y,
        x=frames.grid.x,
        channel=channel,
    )
    result: xr.DataArray = archive.compute()
    return result


def _score(archive: xr.DataArray, truth: xr.Dataset, frames: Frames, recipe: Recipe) -> pd.DataFrame:
    from sa_nowcast.verification import to_table, verify

    asked = recipe.verification
    truth_array: xr.DataArray | xr.Dataset = (
        frames.arrays[0] if len(frames.arrays) == 1 else truth[[str(a.name) for a in frames.arrays]]
    )
    scores = verify(
        archive,
        truth_array,
        metrics=list(asked.metrics) or (["mse", "csi"] if asked.thresholds else ["mse"]),
        thresholds=asked.thresholds or None,
        reference=asked.references[0],
        data_range=asked.data_range,
        clip=asked.clip,
        time=str(frames.time_dim),
    )
    return to_table(scores)


def _plotting() -> Any:
    try:
        import matplotlib  # noqa: F401

        from sa_nowcast import plotting
    except ImportError as error:
        raise MissingLibraryError(
            "pictures", "matplotlib is not installed", fix='pip install "sa-nowcast[plot]"'
        ) from error
    return plotting


def _draw(archive: xr.DataArray, truth: xr.Dataset, frames: Frames, recipe: Recipe, path: Path) -> None:
    last = archive.isel({dims.INIT_TIME: -1})
    array = frames.arrays[0]
    channel = {}
    if frames.channel_dim is not None:
        channel = {frames.channel_dim: 0}
        last = last.isel(channel)
        array = array if frames.channel_dim == dims.VARIABLE else array.isel(channel)
        if frames.channel_dim == dims.VARIABLE:
            last = last.assign_attrs(array.attrs).rename(array.name)
    position = frames.position(last[dims.INIT_TIME].values[()])
    assert position is not None
    known = array.isel({frames.time_dim: slice(position - recipe.history + 1, position + 1)})
    figure = _plotting().plot_forecast(last, truth=array, history=known)
    partial = path.with_name(f".{path.stem}.partial.png")
    try:
        figure.savefig(partial, dpi=100)
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(str(path), f"cannot be written ({error.strerror or error})", fix="free space") from error
    finally:
        partial.unlink(missing_ok=True)
