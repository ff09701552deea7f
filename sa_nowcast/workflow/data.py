"""What a recipe's data, split and scaling mean: what is trained on, and what is forecast and scored."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.frames import Frames
from sa_nowcast.hindcast.calibration import require_init_times
from sa_nowcast.metadata.bounds import KEYS
from sa_nowcast.recipe import SAMPLE_PREFIX, Recipe, network_config
from sa_nowcast.sources import MovingMnist
from sa_nowcast.sources.chain import SEQUENCE, chain
from sa_nowcast.sources.mnist_generator import TEST_SEED
from sa_nowcast.sources.opening import open_data, region
from sa_nowcast.sources.synthetic_fields import RealField, SyntheticFields
from sa_nowcast.storage.addresses import is_address
from sa_nowcast.storage.references import files_behind
from sa_nowcast.storage.remote import stamp_of
from sa_nowcast.storage.whole import nearest_to, storage
from sa_nowcast.windows import Positions, Range, Split, split_in_time, window_starts
from sa_nowcast.workflow.outputs import digest, file_digest

if TYPE_CHECKING:
    from sa_nowcast.training.data import TrainingData

DIGITS = "moving_mnist_digits"
SYNTHETIC_FIELDS = ("synthetic_fields", "made_fields")  # and its former name, which older recipes have
_SYNTHETIC_OPTIONS = ("size", "also", "test_sequences")
_SYNTHETIC_TEST_SEQUENCES = 200
_SYNTHETIC_TEST_SEED = 2**32  # added to the recipe's seed
_MOST_MISSING = 0.2  # of a real field that sequences are cut from
_DIGIT_OPTIONS = ("digits", "size", "speed", "check_hash", "test_sequences")
_TEST_SEQUENCES = 10_000
_VALIDATION_SEED = 2**31  # added to the recipe's seed: other sequences of the same training digits
MOST_READ: Final = 2**28
"""Files of together so many bytes are known by their content, larger ones by sizes and times of change."""


@dataclass(frozen=True)
class Experiment:
    """The data of a recipe, opened and checked, and not yet read.

    Attributes
    ----------
    training : callable
        Plans the training and validation windows, and fits a scaling; reads the training period once. Takes the kind
        of the scaling, and the horizon, as `TrainingData.from_frames` does.
    channels : int
    trained_on : str
        One line about the periods.
    test, test_frames : Dataset, Frames
        What the test period is in.
    test_period, train_period : (int, int)
        Positions in `test_frames` of what is forecast and scored, and of the training period; the latter None where
        training has data of its own.
    blocked : ndarray of int
        Positions without any valid value.
    validation : Dataset, optional
        The frames of the validation period; None where training has data of its own.
    """

    training: Callable[[str, int | None], TrainingData]
    channels: int
    trained_on: str
    test: xr.Dataset
    test_frames: Frames
    test_period: Range
    blocked: Positions | Sequence[int]
    train_period: Range | None
    validation: xr.Dataset | None = None


def _scaling(recipe: Recipe) -> str:
    """Return the scaling as far as a recipe tells it; that of a model that it names as its start, it does not."""
    from sa_nowcast.training.start import scaling_for

    if recipe.network is not None:
        return scaling_for(network_config(recipe.network, channels=1), recipe.scaling)
    return "affine" if recipe.scaling == "auto" else recipe.scaling


def open_experiment(recipe: Recipe, *, read: bool = True) -> Experiment:
    """Open what a recipe names, and check that it can be trained on and scored.

    With `read` the test period is read, for frames without any value; else ``blocked`` is empty. Data that are not
    there, cannot be used, or are too short for the split are a `DataError` or `RecipeError`.
    """
    if recipe.data.engine == DIGITS:
        return _digits(recipe)
    if recipe.data.engine in SYNTHETIC_FIELDS:
        return _synthetic(recipe)
    from sa_nowcast.training.data import TrainingData, empty_frames, require_trainable

    train_ds, test_ds = _regions(open_source(recipe), recipe)
    train_frames, test_frames = _frames(train_ds, recipe), _frames(test_ds, recipe)
    split = _split(len(train_frames), recipe)
    skip = recipe.data.gaps == "skip"
    length = recipe.history + recipe.steps
    require_trainable(train_frames, split, length, recipe.least, recipe.training, _scaling(recipe))
    # A frame without any value, which no forecast can start from, is found before any work is done.
    blocked = empty_frames(test_frames, split.test, refuse=not skip) if read else np.empty(0, np.int64)
    require_scorable(test_frames, split.test, length, blocked)
    if recipe.calibrate:
        require_init_times(len(window_starts(train_frames.segments, length, split.validation)), train_frames.name)
    return Experiment(
        training=lambda scaling, horizon: TrainingData.from_frames(
            train_frames,
            split,
            recipe.history,
            recipe.steps,
            scaling,
            recipe.training,
            skip_empty=skip,
            horizon=horizon,
        ),
        channels=len(train_frames.channels),
        trained_on=f"training on {period(train_frames, split.train)}, "
        f"validating on {period(train_frames, split.validation)}",
        test=test_ds,
        test_frames=test_frames,
        test_period=split.test,
        blocked=blocked,
        train_period=split.train,
        validation=train_ds.isel({train_frames.time_dim: slice(*split.validation)}),
    )


def require_scorable(
    frames: Frames, test: Range, length: int, blocked: Positions | Sequence[int], stride: int = 1
) -> Positions:
    """Return the starts of the windows to test on, or refuse a period without any."""
    starts = window_starts(frames.segments, length, test, blocked, stride=stride)
    if not len(starts):
        raise DataError(
            frames.name, f"no window of {length} successive frames to test on", fix="give split.test a larger share"
        )
    return starts


def _digits(recipe: Recipe) -> Experiment:
    """MovingMNIST made while training: no sequence twice, and digits to test on that were never trained on."""
    from sa_nowcast.training.data import TrainingData

    _require_own_sequences(recipe, DIGITS)
    if recipe.scaling not in ("auto", "minmax"):
        raise RecipeError("scaling", f"{recipe.scaling!r} for {DIGITS}", expected="minmax: grey values 0 to 255")
    options = _known_options(recipe, _DIGIT_OPTIONS)
    count = _test_sequences(options, _TEST_SEQUENCES)
    options |= {"length": recipe.history + recipe.steps}
    folder, seed = Path(recipe.data.source).expanduser(), recipe.training.seed
    try:
        train = MovingMnist(folder, "train", seed=seed, **options)
        validation = MovingMnist(folder, "train", seed=seed + _VALIDATION_SEED, **options)
        test = MovingMnist(folder, "test", seed=TEST_SEED, **options)
    except TypeError as error:
        raise RecipeError("data.options", f"cannot be used ({error})") from error
    return _of_own_sequences(
        test.dataset(0, count),
        lambda frames: TrainingData.from_synthetic(
            train, validation, frames, recipe.history, recipe.steps, recipe.training
        ),
        f"training on sequences of {train.digits} training digits made on the fly",
    )


def _synthetic(recipe: Recipe) -> Experiment:
    """Return fields of many kinds made on the fly, some of them cut from real ones, and others to test on."""
    from sa_nowcast.training.data import TrainingData

    engine = str(recipe.data.engine)
    _require_own_sequences(recipe, engine)
    if recipe.scaling != "auto":
        raise RecipeError(
            "scaling", f"{recipe.scaling!r} for {engine}", expected="auto: each sequence has its own scale"
        )
    options = _known_options(recipe, _SYNTHETIC_OPTIONS)
    count = _test_sequences(options, _SYNTHETIC_TEST_SEQUENCES)
    sources = sources_of(recipe)
    real = [_real_field(source, "data.source" if not i else "data.options.also") for i, source in enumerate(sources)]
    seed, shape = recipe.training.seed, (options.get("size", 128), recipe.history, recipe.steps)
    train, validation, test = (
        SyntheticFields(*shape, seed=seed + more, real=real) for more in (0, _VALIDATION_SEED, _SYNTHETIC_TEST_SEED)
    )
    values = test.batch(0, count)
    times = np.datetime64("2000-01-01", "ns") + np.arange(values.shape[1]) * np.timedelta64(5, "m")
    named = ", ".join(Path(source.removeprefix(SAMPLE_PREFIX)).name for source in sources)
    return _of_own_sequences(
        xr.Dataset({"field": ((SEQUENCE, "time", "y", "x"), values)}, {"time": times}),
        lambda frames: TrainingData.from_synthetic(
            train, validation, frames, recipe.history, recipe.steps, recipe.training, named=named
        ),
        f"training on fields made on the fly, some of them cut from {named}",
    )


def _of_own_sequences(test: xr.Dataset, training: Callable[[Frames], TrainingData], trained_on: str) -> Experiment:
    """Return an experiment on sequences that are made, with other ones to test on, (sequence, time, y, x)."""
    ds = chain(test)
    frames = Frames.from_xarray(ds, gaps="skip")
    return Experiment(
        training=lambda *_: training(frames),
        channels=1,
        trained_on=trained_on,
        test=ds,
        test_frames=frames,
        test_period=(0, len(frames)),
        blocked=np.empty(0, np.int64),
        train_period=None,
    )


def _real_field(source: str, key: str) -> RealField:
    """Read a regular sequence with one variable; missing values become its least one."""
    frames = Frames.from_xarray(open_path(source, key))
    if len(frames.channels) != 1:
        raise DataError(source, f"{len(frames.channels)} variables", expected="one")
    values = frames.read(0, len(frames))[:, 0]
    missing = ~np.isfinite(values)
    if missing.mean() > _MOST_MISSING:
        raise DataError(source, f"{missing.mean():.0%} of its values are missing", expected=f"{_MOST_MISSING:.0%}")
    least = np.nanmin(values)
    values = np.where(missing, least, values)
    return RealField(values, rain=bool((values == least).mean() > 0.05))


def _require_own_sequences(recipe: Recipe, engine: str) -> None:
    if recipe.calibrate:
        raise RecipeError("calibrate", f"true for {engine}, which makes its own sequences", expected="false")
    for block, fields in (("split", recipe.split.model_fields_set), ("data", recipe.data.model_fields_set)):
        wrong = sorted(fields - {"source", "engine", "options"})
        if wrong:
            raise RecipeError(
                f"{block}.{wrong[0]}", f"given for {engine}, which makes its own sequences", fix="remove it"
            )


def _test_sequences(options: dict[str, Any], usual: int) -> int:
    """Take ``test_sequences`` out of the options."""
    count = options.pop("test_sequences", usual)
    if type(count) is not int or count < 1:
        raise RecipeError("data.options.test_sequences", f"{count!r}", expected="a whole number of at least 1")
    return count


def _known_options(recipe: Recipe, known: Sequence[str]) -> dict[str, Any]:
    options = dict(recipe.data.options)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise RecipeError(f"data.options.{unknown[0]}", "no such option", expected=f"one of {', '.join(known)}")
    return options


def open_source(recipe: Recipe) -> xr.Dataset:
    """Open what ``data.source`` names, or the store of a conversion, lazily; sequences are put one after another."""
    if recipe.conversion is not None:
        ds = open_data(str(Path(recipe.conversion.to).expanduser()))
    else:
        data = recipe.data
        ds = open_path(data.source, "data.source", engine=data.engine, options=data.options, time=data.time)
    if recipe.data.valid_min is None:
        return ds
    least = {"valid_min": np.float64(recipe.data.valid_min)}
    bare = [n for n, v in ds.data_vars.items() if v.ndim >= 3 and not set(KEYS) & set(v.attrs)]
    return ds.assign({n: ds[n].assign_attrs(least) for n in bare})


def open_path(source: str, key: str, **how: Any) -> xr.Dataset:
    """Open what a recipe names under `key`, as `sa_nowcast.sources.opening.open_data` does with `how`."""
    if is_address(source):
        return open_data(source, **how)
    path = Path(source).expanduser()
    if not source.startswith(SAMPLE_PREFIX) and not any(c in source for c in "*?[") and not path.exists():
        raise _no_such_data(source, path, key)
    return open_data(source if source.startswith(SAMPLE_PREFIX) else str(path), **how)


def _no_such_data(source: str, path: Path, key: str) -> DataError:
    remedy = nearest_to(path) or f"name data that are there in {key}; relative paths start at {Path.cwd()}"
    return DataError(source, "no such file or folder", fix=remedy)


def sources_of(recipe: Recipe) -> list[str]:
    """Return all that a recipe reads data from: ``data.source``, and of synthetic fields also ``data.options.also``.

    Raises
    ------
    RecipeError
        Paths that are none.
    """
    also = recipe.data.options.get("also", []) if recipe.data.engine in SYNTHETIC_FIELDS else []
    if not isinstance(also, list) or not all(isinstance(path, str) for path in also):
        raise RecipeError("data.options.also", f"{also!r}", expected="a list of paths")
    return [recipe.data.source, *also]


def _frames(ds: xr.Dataset, recipe: Recipe) -> Frames:
    told = recipe.data.model_dump(include={"variables", "time", "y", "x", "channel"})
    return Frames.from_xarray(ds, **told, gaps="skip" if SEQUENCE in ds.coords else recipe.data.gaps)


def _regions(ds: xr.Dataset, recipe: Recipe) -> tuple[xr.Dataset, xr.Dataset]:
    return tuple(
        region(ds, bounds or {}, f"split.{name}")
        for name, bounds in (("train_region", recipe.split.train_region), ("test_region", recipe.split.test_region))
    )  # type: ignore[return-value]


def _split(frames: int, recipe: Recipe) -> Split:
    split = recipe.split
    if split.test == 0:
        raise RecipeError("split.test", "0", expected="a share above 0, for a run ends with scores of the test period")
    return split_in_time(
        frames,
        recipe.history + recipe.steps,
        training=split.train,
        validation=split.validation,
        test=split.test,
        guard=recipe.history if split.guard is None else split.guard,
        least=recipe.least,
    )


def period(frames: Frames, part: tuple[int, int]) -> str:
    """Return the first and last time of a period, as lines of progress show it."""
    return f"{frames.label(part[0])} to {frames.label(part[1] - 1)}" if part[1] > part[0] else "nothing"


# --- which data they are: known again after a copy or a touch, and not mistaken after a change


def identity_of_all(sources: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells the data of several sources from others; see `data_identity`."""
    if len(sources) == 1:
        return data_identity(sources[0], known)
    found = [data_identity(source, {}) for source in sources]
    return {key: digest([each[key] for each in found]) for key in ("stamp", "identity")}


def data_identity(source: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``stamp`` (names, sizes and times of files) and the ``identity`` of what a recipe reads from `source`.

    `known` is what this function returned before: files of the same sizes and times are not read again.
    """
    if source.startswith(SAMPLE_PREFIX):
        return {"stamp": source, "identity": digest([source, __version__])}
    if is_address(source):
        objects = stamp_of(source)
        return {"stamp": digest([source, objects]), "identity": digest(objects)}
    found = glob.glob(str(Path(source).expanduser())) if any(c in source for c in "*?[") else []
    roots = sorted(Path(f) for f in found) or [Path(source).expanduser()]
    with storage(roots[0]):
        listed = [
            (f.relative_to(root.parent).as_posix(), f)
            for root in roots
            for f in (sorted(root.rglob("*")) if root.is_dir() else [root])
            if f.is_file()
        ]
        listed += [(str(f), f) for root in roots for f in files_behind(root) if f.is_file()]
        stats = [(name, f.stat()) for name, f in listed]
    if not listed:
        raise _no_such_data(source, roots[0], "data.source")
    stamp = digest([source, [(name, s.st_size, s.st_mtime_ns) for name, s in stats]])
    if known.get("stamp") == stamp:
        return dict(known)
    if sum(s.st_size for _, s in stats) <= MOST_READ:
        content: Any = [(name, file_digest(f)) for name, f in listed]
    else:
        content = [(name, s.st_size, s.st_mtime_ns) for name, s in stats]
    return {"stamp": stamp, "identity": digest(content)}
