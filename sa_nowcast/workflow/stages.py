"""One function per command: what a recipe asks for, done and left in one folder.

Nothing is printed here. Progress goes to the `report` callback, results are returned.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from sa_nowcast import dims
from sa_nowcast._version import __version__
from sa_nowcast.cf import write_forecast
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError, StorageError
from sa_nowcast.frames import Frames, grid_mapping_name
from sa_nowcast.recipe import SAMPLE_PREFIX, Recipe, network_config
from sa_nowcast.samples import open_sample
from sa_nowcast.sources import open_source as open_any
from sa_nowcast.windows import Positions, Range, Split, split_in_time, window_starts

if TYPE_CHECKING:
    import pandas as pd

    from sa_nowcast.nowcaster import Nowcaster

MODEL, SCORES, PICTURE = "model.nowcaster", "scores.csv", "forecast.png"
CLAIM, DONE = "recipe.json", "run.json"
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


def run(recipe: Recipe, *, progress: bool = True, report: Report = lambda line: None) -> RunResult:
    """Train, save the model, forecast the held-back times, score them, draw the last one.

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
    from sa_nowcast.training.data import TrainingData, empty_frames
    from sa_nowcast.training.fit import fit_prepared, writable_folder

    folder = writable_folder(Path(recipe.output.folder).expanduser())
    _check_claim(folder, recipe)
    finished = _finished(folder, recipe)
    if finished is not None:
        return RunResult(folder, pd.read_csv(folder / SCORES), finished, already_done=True)
    # A missing library or device is found out before any work is done.
    _plotting()
    resolve_device(recipe.training.device)

    train_ds, test_ds = _regions(open_source(recipe), recipe)
    train_frames, test_frames = _frames(train_ds, recipe), _frames(test_ds, recipe)
    split = _split(len(train_frames), recipe)
    # Likewise a frame without any value, which no forecast can start from.
    blocked = empty_frames(test_frames, (split.test,), refuse=recipe.data.gaps == "refuse")
    # Only now: a recipe that failed on its data must not keep the folder from the mended one.
    _write_text(folder / CLAIM, json.dumps(recipe.model_dump(mode="json"), indent=2))
    report(f"training on {_period(train_frames, split.train)}, validating on {_period(train_frames, split.validation)}")
    prepared = TrainingData.from_frames(
        train_frames,
        split,
        recipe.history,
        recipe.steps,
        recipe.scaling,
        recipe.training,
        skip_empty=recipe.data.gaps == "skip",
    )
    nowcaster = fit_prepared(
        prepared,
        network_config(recipe.network, channels=len(train_frames.channels)),
        recipe.scaling,
        recipe.training,
        folder=folder / "training",
        progress=progress,
        report=report,
        provenance={"recipe": recipe.name, "source": recipe.data.source},
    )
    nowcaster.save(folder / MODEL, overwrite=True)
    report(f"forecasting {_period(test_frames, split.test)}")
    archive = forecast_period(nowcaster, test_ds, test_frames, split.test, blocked)
    suffix = {"netcdf": "nc", "zarr": "zarr"}[recipe.output.format]
    written = write_forecast(archive, folder / f"forecast.{suffix}", recipe.output.format, title=recipe.name)
    report(f"scoring {archive.sizes[dims.INIT_TIME]} forecasts against {recipe.verification.reference}")
    table = _score(archive, test_ds, test_frames, recipe)
    _write_text(folder / SCORES, table.to_csv(index=False))
    _draw(archive, test_ds, test_frames, recipe, folder / PICTURE)
    files = (folder / MODEL, written, folder / SCORES, folder / PICTURE)
    record = {
        "sa_nowcast_version": __version__,
        "recipe_sha256": _recipe_digest(recipe),
        "files": {f.name: _file_digest(f) for f in files},
    }
    _write_text(folder / DONE, json.dumps(record, indent=2))
    return RunResult(folder, table, files, already_done=False)


def open_source(recipe: Recipe) -> xr.Dataset:
    """Open what ``data.source`` names, lazily.

    Raises
    ------
    DataError
        No such file, or one that cannot be opened.
    """
    source = recipe.data.source
    if source.startswith(SAMPLE_PREFIX):
        return open_sample(source.removeprefix(SAMPLE_PREFIX))
    path = Path(source).expanduser()
    if not any(c in source for c in "*?[") and not path.exists():
        raise DataError(
            source, "no such file or folder", fix="check data.source; relative paths start at the working directory"
        )
    return open_any(str(path), engine=recipe.data.engine, **recipe.data.options)


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
    forecasts = []
    for start in starts:
        # History and nothing after it: a forecast must not be able to see what it is scored on.
        known = data.isel({frames.time_dim: slice(int(start), int(start) + terms.history)})
        forecasts.append(
            nowcaster.forecast(known, time=frames.time_dim, y=frames.grid.y, x=frames.grid.x, channel=channel)
        )
    encoding = forecasts[0].encoding
    archive: xr.DataArray = xr.concat(
        forecasts, dims.INIT_TIME, coords="minimal", compat="override", combine_attrs="override"
    )
    archive = archive.assign_coords({dims.VALID_TIME: archive[dims.INIT_TIME] + archive[dims.LEAD_TIME]})
    archive[dims.VALID_TIME].attrs = dict(dims.VALID_TIME_ATTRS)
    archive.encoding = encoding
    return archive


def _frames(ds: xr.Dataset, recipe: Recipe) -> Frames:
    data = recipe.data
    return Frames.from_xarray(
        ds, variables=data.variables, time=data.time, y=data.y, x=data.x, channel=data.channel, gaps=data.gaps
    )


def _regions(ds: xr.Dataset, recipe: Recipe) -> tuple[xr.Dataset, xr.Dataset]:
    return tuple(
        _region(ds, bounds or {}, f"split.{name}")
        for name, bounds in (("train_region", recipe.split.train_region), ("test_region", recipe.split.test_region))
    )  # type: ignore[return-value]


def _region(ds: xr.Dataset, bounds: Mapping[str, tuple[float, float]], key: str) -> xr.Dataset:
    for name, (low, high) in bounds.items():
        known = ", ".join(str(n) for n, index in ds.indexes.items() if index.dtype.kind in "fiu")
        if name not in known.split(", "):
            raise RecipeError(f"{key}.{name}", "no such coordinate in the data", expected=f"one of {known}")
        values = ds.indexes[name]
        selected = ds.isel({name: (values >= min(low, high)) & (values <= max(low, high))})
        if not selected.sizes[name]:
            raise RecipeError(
                f"{key}.{name}",
                f"no grid point from {low} to {high}",
                expected=f"within {values.min():g} to {values.max():g}",
            )
        ds = selected
    return ds


def _split(frames: int, recipe: Recipe) -> Split:
    split = recipe.split
    if split.test == 0:
        raise RecipeError("split.test", "0", expected="a share above 0, for a run ends with scores on held-back times")
    return split_in_time(
        frames,
        recipe.history + recipe.steps,
        training=split.train,
        validation=split.validation,
        test=split.test,
        guard=recipe.history if split.guard is None else split.guard,
    )


def _score(archive: xr.DataArray, truth: xr.Dataset, frames: Frames, recipe: Recipe) -> pd.DataFrame:
    from sa_nowcast.verification import to_table, verify

    thresholds = recipe.verification.thresholds
    truth_array: xr.DataArray | xr.Dataset = (
        frames.arrays[0] if len(frames.arrays) == 1 else truth[[str(a.name) for a in frames.arrays]]
    )
    scores = verify(
        archive,
        truth_array,
        metrics=["mse", "csi"] if thresholds else ["mse"],
        thresholds=thresholds or None,
        reference=recipe.verification.reference,
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


def _period(frames: Frames, part: tuple[int, int]) -> str:
    return f"{frames.label(part[0])} to {frames.label(part[1] - 1)}" if part[1] > part[0] else "nothing"


def _recipe_digest(recipe: Recipe) -> str:
    # Where a result is written, and how fast it is computed, does not change it.
    content = recipe.model_dump(
        mode="json", exclude={"output": {"folder"}, "training": {"device", "workers", "checkpoint_every"}}
    )
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_claim(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds another run."""
    path = folder / CLAIM
    if not path.exists():
        return
    try:
        theirs = Recipe.model_validate_json(path.read_text())
    except (OSError, ValueError):
        theirs = None
    if theirs is None or _recipe_digest(theirs) != _recipe_digest(recipe):
        raise RecipeError(
            f"output.folder {folder}",
            "it holds a run of another recipe",
            expected="a folder of its own for each run",
            fix="name another folder, or remove this one",
        )


def _finished(folder: Path, recipe: Recipe) -> tuple[Path, ...] | None:
    """Return the results of a finished run that are all still whole, or None."""
    try:
        record = json.loads((folder / DONE).read_text())
        if record["recipe_sha256"] != _recipe_digest(recipe):
            return None
        files = {folder / name: digest for name, digest in record["files"].items()}
        return tuple(files) if all(_file_digest(f) == digest for f, digest in files.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file_digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.relative_to(path.parent).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(str(path), f"cannot be written ({error.strerror or error})", fix="free space") from error
