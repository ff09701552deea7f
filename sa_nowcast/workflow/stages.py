"""One function per command: what a recipe asks for, done in stages and left in one folder.

Nothing is printed here. Progress goes to the `report` callback, results are returned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from sa_nowcast.bundle.card import resolved_recipe
from sa_nowcast.bundle.files import require_free
from sa_nowcast.metadata import dims
from sa_nowcast.recipe import Recipe, network_config
from sa_nowcast.storage.whole import locked, remove_partials, storage, write_whole
from sa_nowcast.verification.plan import PERSISTENCE
from sa_nowcast.workflow import drawing
from sa_nowcast.workflow.converting import convert_source
from sa_nowcast.workflow.data import Experiment, open_experiment, period, sources_of
from sa_nowcast.workflow.identity import identity_of_all
from sa_nowcast.workflow.outputs import Ledger, check_claim, claim, digest, trained_by
from sa_nowcast.workflow.period import archive_path, latest, made_forecasts, make_forecasts, reference_of
from sa_nowcast.workflow.scoring import keep_scores, kept_scores, require_scoring, score

if TYPE_CHECKING:
    import pandas as pd

    from sa_nowcast.forecasts.nowcaster import Nowcaster
    from sa_nowcast.verification import Reference

MODEL, FORECAST, SCORES, REFERENCES, LATEST = "model.nowcaster", "forecast", "scores.csv", "references", "latest"
KEPT, LOCK = ".scores", ".lock"
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
    stages = _Stages(recipe, progress, report)
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

    from sa_nowcast.training.launch import launched

    stages = _Stages(recipe, progress, report)
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
class _Stages:
    """The stages of one run; what several of them need is opened once, and only where one has something to do."""

    recipe: Recipe
    progress: bool
    report: Report
    worked: bool = False
    results: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        from sa_nowcast.training.fit import writable_folder

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
        # A missing library or device is found out before any work is done.
        from sa_nowcast.computing.devices import resolve_device

        if drawing.pictures_of(self.recipe):
            drawing.require_plotting()
        require_scoring(self.recipe)
        resolve_device(self.recipe.training.device)
        return open_experiment(self.recipe)

    @cached_property
    def nowcaster(self) -> Nowcaster:
        from sa_nowcast.forecasts.nowcaster import Nowcaster

        return Nowcaster.load(self.folder / MODEL)

    @cached_property
    def others(self) -> list[str]:
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

        inputs = digest([trained_by(self.recipe), self.data["identity"]])
        if self._reason("train", inputs) is None:
            return
        recipe, first, experiment = self.recipe, launched().first, self.experiment
        require_free(self.folder / MODEL, overwrite=True)
        # Only now: a recipe that failed on its data must not keep the folder from the mended one.
        if first:
            claim(self.folder, recipe)
            self.report(experiment.trained_on)
        nowcaster = fit_prepared(
            experiment.training(),
            network_config(recipe.network, channels=experiment.channels),
            recipe.scaling,
            recipe.training,
            folder=self.folder / "training",
            progress=self.progress,
            report=self.report if first else None,
            provenance={"recipe": recipe.name, "source": recipe.data.source},
            recipe_text=resolved_recipe(recipe),
        )
        if first:
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
        model = self.ledger.left("train")
        inputs = digest([period_of, recipe.forecast.tile, model])
        if (reason := self._reason("hindcast", inputs)) is not None:
            self.report(f"forecasting {period(self.experiment.test_frames, self.experiment.test_period)}")
            path = archive_path(self.folder, FORECAST, recipe, self.experiment)
            self._forecast("hindcast", inputs, self.nowcaster, path, recipe.name, reason)
        for name in self.others:
            inputs = digest([period_of, name])
            if (reason := self._reason(f"hindcast {name}", inputs)) is not None:
                self.report(f"forecasting the same by {name}")
                path = archive_path(self.folder / REFERENCES, name, recipe, self.experiment)
                self._forecast(
                    f"hindcast {name}",
                    inputs,
                    reference_of(name, self.experiment),
                    path,
                    f"{recipe.name}, {name}",
                    reason,
                )
        if recipe.forecast.latest:
            inputs = digest([period_of, recipe.forecast.tile, model, LATEST])
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
        return made_forecasts(model, self.recipe, self.experiment, path)

    @cached_property
    def archive(self) -> xr.DataArray:
        return self._archive("hindcast", self.nowcaster)

    def verify(self) -> None:
        """Score all forecasts."""
        from sa_nowcast.verification import to_table

        recipe = self.recipe
        made = ["hindcast", *(f"hindcast {name}" for name in self.others)]
        inputs = digest(
            [
                [self.ledger.left(stage) for stage in made],
                recipe.verification.model_dump(mode="json"),
                self.data["identity"],
            ]
        )
        if self._reason("verify", inputs) is None:
            return
        first = recipe.verification.references[0]
        self.report(f"scoring {self.archive.sizes[dims.INIT_TIME]} forecasts against {first}")
        archives: dict[str, xr.DataArray] = {self.nowcaster.network.config.name: self.archive}
        for name in self.others:
            archives[name] = self._archive(f"hindcast {name}", reference_of(name, self.experiment))
        scores = score(archives, self.experiment, recipe)
        table = to_table(scores if len(scores) > 1 else next(iter(scores.values())))
        with storage(self.folder / SCORES):
            write_whole(self.folder / SCORES, table.to_csv(index=False))
        keep_scores(scores, self.folder / KEPT)
        self._done("verify", inputs, self.folder / SCORES, self.folder / KEPT)

    def plot(self) -> None:
        """Draw the pictures that the recipe asks for, each where it is not there."""
        drawable = drawing.Drawable(
            self.recipe,
            experiment=lambda: self.experiment,
            archive=lambda: self.archive,
            nowcaster=lambda: self.nowcaster,
            scores=lambda: kept_scores(self.folder / KEPT),
        )
        if not drawing.pictures_of(self.recipe):
            return
        channels = [name for name, _ in self.nowcaster.terms.channels]
        for name, picture in drawing.pictures_of(self.recipe, channels).items():
            source = "verify" if picture.kind == drawing.SCORES else "hindcast"
            inputs = digest([picture.settings, self.ledger.left(source), self.data["identity"]])
            if self._reason(f"plot {name}", inputs) is not None:
                drawing.require_plotting()
                self.report(f"drawing {name}")
                drawing.draw(picture, drawable, self.folder / name)
                self._done(f"plot {name}", inputs, self.folder / name)
