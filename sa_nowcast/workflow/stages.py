"""One function per command: what a recipe asks for, done in stages and left in one folder.

Nothing is printed here. Progress goes to the `report` callback, results are returned.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from sa_nowcast.bundle.card import resolved_recipe
from sa_nowcast.bundle.files import require_free
from sa_nowcast.computing.installing import require_training
from sa_nowcast.conversion import convert
from sa_nowcast.errors import RecipeError
from sa_nowcast.forecasts.method import FILLED, MEAN
from sa_nowcast.hindcast import calibrate
from sa_nowcast.metadata import dims
from sa_nowcast.recipe import SAMPLE_PREFIX, Recipe
from sa_nowcast.sources.samples import open_sample
from sa_nowcast.storage.whole import LOCK, locked, remove_partials, storage, writable_folder, write_whole
from sa_nowcast.verification.plan import PERSISTENCE
from sa_nowcast.workflow import pictures
from sa_nowcast.workflow.data import Experiment, identity_of_all, open_experiment, period, sources_of
from sa_nowcast.workflow.outputs import Ledger, check_claim, claim, digest, trained_by
from sa_nowcast.workflow.period import archive_path, dims_of, latest, make_forecasts, read_forecasts, reference_of
from sa_nowcast.workflow.scoring import check_scoring, keep_scores, kept_scores, require_scoring, score, write_scores

if TYPE_CHECKING:
    import pandas as pd

    from sa_nowcast.forecasts.nowcaster import Nowcaster
    from sa_nowcast.verification import Reference

MODEL, FORECAST, SCORES, REFERENCES, LATEST = "model.nowcaster", "forecast", "scores.csv", "references", "latest"
KEPT, TRAINING = ".scores", "training"
NOTE = ".inputs.json"
"""Ends the name of the file beside a store that says what the store was made of."""
Report = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    folder : Path
    scores : DataFrame
        One row per lead time, metric and threshold; see `sa_nowcast.verification.to_table`. With more than one
        reference, a column ``model`` tells the forecasts apart.
    files : tuple of Path
        The results, whole.
    already_done : bool
        Whether the run was finished before, so that nothing was computed.
    """

    folder: Path
    scores: pd.DataFrame
    files: tuple[Path, ...]
    already_done: bool


def train(recipe: Recipe, *, progress: bool = True, report: Report = lambda line: None) -> Path:
    """Train what a recipe describes, and save the model; `run` goes on from there without training again.

    Parameters
    ----------
    recipe, progress, report
        As for `run`.

    Returns
    -------
    Path
        The model's folder.

    Raises
    ------
    SaNowcastError
        Whatever is wrong, in one line; the same call goes on where an interrupted one stopped.
    """
    stages = Stages(recipe, progress, report)
    with stages.alone():
        stages.convert()
        stages.train()
    return stages.folder / MODEL


def run(recipe: Recipe, *, progress: bool = True, report: Report = lambda line: None) -> RunResult:
    """Convert, train, forecast the test period, score them, draw: each where it is not done yet.

    A stage is skipped where its inputs are those that it had, and what it left is whole. Of several processes that
    train together (``torchrun``, ``srun``), the first one does what comes after training; the others return without
    scores and files.

    Parameters
    ----------
    recipe : Recipe
    progress : bool
        Whether training shows a progress bar on standard error.
    report : callable
        Called with one line at the start of each stage, or why it is skipped.

    Returns
    -------
    RunResult

    Raises
    ------
    SaNowcastError
        Whatever is wrong, in one line; outputs of finished stages stay, and the same call goes on from there.
    """
    import pandas as pd

    stages = Stages(recipe, progress, report)

    from sa_nowcast.training.launch import launched  # with Lightning, which was looked for first

    with stages.alone():
        stages.convert()
        stages.train()
        if not launched().first:
            return RunResult(stages.folder, pd.DataFrame(), (), already_done=False)
        stages.hindcast()
        stages.verify()
        stages.plot()
    scores = pd.read_csv(stages.folder / SCORES, dtype={"units": str})
    scores["units"] = scores["units"].fillna("")  # of data that state none
    return RunResult(stages.folder, scores, tuple(stages.results), already_done=not stages.worked)


@dataclass
class Stages:
    """The stages of one run; what several of them need is opened once, and only where one has something to do."""

    recipe: Recipe
    progress: bool
    report: Report
    worked: bool = False
    results: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_training()
        self.folder = writable_folder(Path(self.recipe.output.folder).expanduser())
        check_claim(self.folder, self.recipe)
        self.ledger = Ledger.read(self.folder)
        self.data = identity_of_all(sources_of(self.recipe), self.ledger.data)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other run write into the folder; the first of several processes writes for all of them."""
        from sa_nowcast.training.launch import launched

        if not launched().first:
            yield
            return
        with locked(self.folder / LOCK, self.folder):
            for folder in (self.folder, self.folder / REFERENCES):
                remove_partials(folder)
            self.ledger = Ledger.read(self.folder)  # another run may have ended meanwhile
            yield

    # --- what stages share

    @cached_property
    def experiment(self) -> Experiment:
        """The data."""
        # A missing library or device, and scores that cannot be, are found out before any work is done.
        from sa_nowcast.computing.devices import resolve_device

        if pictures.pictures_of(self.recipe):
            pictures.require_plotting()
        require_scoring(self.recipe)
        resolve_device(self.recipe.training.device)
        experiment = open_experiment(self.recipe)
        check_scoring(self.recipe, experiment.test_frames)
        return experiment

    @cached_property
    def nowcaster(self) -> Nowcaster:
        """The model."""
        from sa_nowcast.forecasts.nowcaster import Nowcaster

        return Nowcaster.load(self.folder / MODEL)

    @cached_property
    def others(self) -> list[str]:
        """The references of which forecasts are made."""
        return [name for name in self.recipe.verification.references if name != PERSISTENCE]

    def _reason(self, stage: str, inputs: str) -> str | None:
        reason = self.ledger.reason(stage, inputs)
        if reason is None:
            kept = [f for f in self.ledger.files(stage) if not f.name.startswith(".")]
            names = ", ".join(f.relative_to(self.folder).as_posix() for f in kept)
            self.report(
                f"skipping {stage}: {names} {'is' if len(kept) == 1 else 'are'} whole, nothing it needs changed"
            )
            self.results.extend(kept)
        return reason

    def _done(self, stage: str, inputs: str, *files: Path) -> None:
        claim(self.folder, self.recipe)  # first, for after the last note nothing is left to do
        self.ledger.note(stage, inputs, files)
        self.ledger.note_data(self.data)
        self.worked = True
        self.results.extend(f for f in files if not f.name.startswith("."))

    # --- the stages

    def convert(self) -> None:
        """Make the store that the others read, where the recipe names one."""
        from sa_nowcast.training.launch import launched

        if self.recipe.conversion is not None:
            alone = launched().alone
            self.worked |= convert_source(self.recipe, self.data["identity"], self.report, alone=alone)

    def train(self) -> None:
        """Train, and save the model."""
        from sa_nowcast.training.fit import fit_prepared
        from sa_nowcast.training.launch import launched
        from sa_nowcast.training.start import network_to_train, scaling_for

        inputs = digest([trained_by(self.recipe), self.data["identity"], *["calibrate"] * self.recipe.calibrate])
        if self._reason("train", inputs) is None:
            return
        recipe, first, experiment = self.recipe, launched().first, self.experiment
        require_free(self.folder / MODEL, overwrite=True)
        # Only now: a recipe that failed on its data must not keep the folder from the mended one.
        if first:
            claim(self.folder, recipe)
            self.report(experiment.trained_on)
        config, start = network_to_train(
            recipe.network, recipe.start, channels=experiment.channels, history=recipe.history
        )
        nowcaster = fit_prepared(
            experiment.training(
                scaling_for(config, recipe.scaling), None if start is None else start.horizon(recipe.steps)
            ),
            config,
            recipe.scaling,
            recipe.training,
            start=start,
            folder=self.folder / TRAINING,
            progress=self.progress,
            report=self.report if first else None,
            grids=[(experiment.test_frames.grid.height, experiment.test_frames.grid.width)],
            provenance={"recipe": recipe.name, "source": recipe.data.source},
            recipe_text=resolved_recipe(recipe),
        )
        if first:
            if experiment.validation is not None and recipe.calibrate:
                self.report("calibrating by forecasts of the validation period")
                told = dims_of(experiment.test_frames)
                nowcaster = calibrate(nowcaster, experiment.validation, steps=recipe.steps, **told)
            nowcaster.save(self.folder / MODEL, overwrite=True)
            self._done("train", inputs, self.folder / MODEL)
        self.nowcaster = nowcaster

    def hindcast(self) -> None:
        """Forecast the test period, by the network and by each reference."""
        recipe = self.recipe
        period_of = {
            **recipe.model_dump(mode="json", include={"history", "steps", "data", "split"}),
            "stride": recipe.forecast.stride,
            "format": recipe.output.format,
            "identity": self.data["identity"],
        }
        del period_of["data"]["source"]
        # What is usual is not told: what was made before there was a choice stays.
        asked = recipe.forecast
        told: list[Any] = [each for each in (asked.product, asked.inflow) if each not in (MEAN, FILLED)]
        told += [] if asked.members is None else [asked.members, asked.seed]
        model = self.ledger.left("train")
        inputs = digest([period_of, recipe.forecast.tile, model, *told])
        if (reason := self._reason("hindcast", inputs)) is not None:
            self.report(f"forecasting {period(self.experiment.test_frames, self.experiment.test_period)}")
            path = archive_path(self.folder, FORECAST, recipe, self.experiment)
            self._forecast("hindcast", inputs, self.nowcaster, path, recipe.name, reason)
        for name in self.others:
            inputs = digest([period_of, name])
            if (reason := self._reason(f"hindcast {name}", inputs)) is not None:
                self.report(f"forecasting the same by {name}")
                path = archive_path(self.folder / REFERENCES, name, recipe, self.experiment)
                made_by, title = reference_of(name, self.experiment), f"{recipe.name}, {name}"
                self._forecast(f"hindcast {name}", inputs, made_by, path, title, reason)
        if recipe.forecast.latest:
            inputs = digest([period_of, recipe.forecast.tile, model, LATEST, *told])
            if self._reason(LATEST, inputs) is not None:
                self.report("forecasting from the newest frames")
                path = self.folder / f"{LATEST}.{'zarr' if recipe.output.format == 'zarr' else 'nc'}"
                latest(self.nowcaster, recipe, self.experiment, path)
                self._done(LATEST, inputs, path)

    def _forecast(
        self, stage: str, inputs: str, model: Nowcaster | Reference, path: Path, title: str, reason: str
    ) -> None:
        # An archive that was begun is gone on with; one that is whole and of another, or damaged, is replaced.
        replace = reason != "not done yet"
        make_forecasts(model, self.recipe, self.experiment, path, replace=replace, title=title)
        self._done(stage, inputs, path)

    def _archive(self, stage: str, model: Nowcaster | Reference) -> xr.DataArray:
        """Return the forecasts that a finished stage left."""
        (path,) = self.ledger.files(stage)
        return read_forecasts(model, self.recipe, self.experiment, path)

    @cached_property
    def archive(self) -> xr.DataArray:
        """The network's forecasts of the test period."""
        return self._archive("hindcast", self.nowcaster)

    @cached_property
    def scores(self) -> Mapping[str, xr.Dataset]:
        """Scores by the names of forecasts."""
        return kept_scores(self.folder / KEPT)

    def verify(self) -> None:
        """Score all forecasts."""
        recipe = self.recipe
        made = ["hindcast", *(f"hindcast {name}" for name in self.others)]
        left = [self.ledger.left(stage) for stage in made]
        inputs = digest([left, recipe.verification.model_dump(mode="json"), self.data["identity"]])
        if self._reason("verify", inputs) is None:
            return
        first = recipe.verification.references[0]
        self.report(f"scoring {self.archive.sizes[dims.INIT_TIME]} forecasts against {first}")
        archives: dict[str, xr.DataArray] = {self.nowcaster.network.config.name: self.archive}
        for name in self.others:
            archives[name] = self._archive(f"hindcast {name}", reference_of(name, self.experiment))
        scores = score(archives, self.experiment, recipe)
        write_scores(scores, self.folder / SCORES)
        keep_scores(scores, self.folder / KEPT)
        self._done("verify", inputs, self.folder / SCORES, self.folder / KEPT)

    def plot(self) -> None:
        """Draw the pictures that the recipe asks for, each where it is not there."""
        if not pictures.pictures_of(self.recipe):
            return
        channels = [name for name, _ in self.nowcaster.terms.channels]
        for name, picture in pictures.pictures_of(self.recipe, channels).items():
            source = "verify" if picture.kind in (pictures.SCORES, pictures.DIAGRAMS) else "hindcast"
            inputs = digest([picture.settings, self.ledger.left(source), self.data["identity"]])
            if self._reason(f"plot {name}", inputs) is not None:
                pictures.require_plotting()
                self.report(f"drawing {name}")
                pictures.draw(picture, self, self.folder / name)
                self._done(f"plot {name}", inputs, self.folder / name)


def convert_source(
    recipe: Recipe, identity: str, report: Callable[[str], None], *, alone: bool = True, dry_run: bool = False
) -> bool:
    """Convert what `recipe` names, where the store is not there, not whole, or was made of other data.

    Return whether anything was done. `identity` is that of the source; `alone` tells whether no other process may be
    about to do the same; a dry run checks only. A store that holds a conversion with other settings, or one that no
    recipe made, is a `RecipeError`.
    """
    block = recipe.conversion
    assert block is not None
    store = Path(block.to).expanduser()
    note = store.with_name(store.name + NOTE)
    settings = {
        **block.model_dump(mode="json", exclude={"to"}),
        "data": recipe.data.model_dump(mode="json", include={"engine", "options", "variables", "time"}),
    }
    told = recipe.data.model_dump(mode="json", include={"y", "x", "channel"}, exclude_none=True)
    settings["data"] |= told
    if block.frames_per_shard is None:
        settings["window"] = recipe.history + recipe.steps
    known = _read(note)
    if store.exists() and (known is None or known.get("settings") != settings):
        raise RecipeError(
            f"conversion.to {block.to}",
            "it was not made by a recipe" if known is None else "it was converted with other settings",
            expected="a store of its own for each conversion",
            fix="name another store or remove this one; to read it as it is, name it as data.source",
        )
    reason = "not done yet"
    if store.exists() and known is not None:
        if known.get("identity") == identity and known.get("files") == _listing(store):
            report(f"skipping convert: {store} is whole, and the source is the same")
            return False
        reason = "the source has changed" if known.get("identity") != identity else f"{store} is not whole"
    if not alone:
        raise RecipeError(
            f"conversion.to {block.to}",
            f"{reason}, and several processes are to train on it",
            fix="run the recipe on one process first, and stop it once it trains",
        )
    report(f"converting {recipe.data.source} to {store} ({reason})")
    source: Any = recipe.data.source
    if source.startswith(SAMPLE_PREFIX):
        source = open_sample(source.removeprefix(SAMPLE_PREFIX))
    given = block.model_dump(exclude={"to"}, exclude_none=True)
    if not dry_run:
        with storage(store):
            store.parent.mkdir(parents=True, exist_ok=True)
    convert(
        str(Path(source).expanduser()) if isinstance(source, str) else source,
        store,
        options=recipe.data.options or None,
        **recipe.data.model_dump(include={"engine", "variables", "time", "y", "x", "channel"}),
        window=recipe.history + recipe.steps,
        existing="replace" if store.exists() else "refuse",
        dry_run=dry_run,
        **given,
    )
    if dry_run:
        return True
    with storage(note):
        made = {"settings": settings, "identity": identity, "files": _listing(store)}
        write_whole(note, json.dumps(made, indent=2))
    return True


def _read(note: Path) -> Mapping[str, Any] | None:
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def _listing(store: Path) -> str:
    # Every chunk has a checksum that is looked at when it is read; here it is enough that none is missing or cut.
    files = sorted(f for f in store.rglob("*") if f.is_file())
    return digest([(f.relative_to(store).as_posix(), f.stat().st_size) for f in files])
