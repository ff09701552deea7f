"""Whole runs of recipes, scores of files, and what is looked at before work is done."""

from __future__ import annotations

import copy
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from sequences import NETWORK, OPTIONS, georeferenced, rain

from remedies.trial import assert_installs, command, flags, remedy, uninstalled
from remedies.trial import value as evaluated
from sa_nowcast.bundle import files as bundle
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.hindcast import hindcast
from sa_nowcast.recipe import ComparisonRecipe, OutputRecipe, Recipe, SetRecipe, read_any, read_recipe
from sa_nowcast.survey.bundles import check_bundle
from sa_nowcast.survey.data import check_data
from sa_nowcast.survey.findings import Finding
from sa_nowcast.survey.recipes import check_recipe
from sa_nowcast.survey.starter import look
from sa_nowcast.training.fit import fit
from sa_nowcast.workflow import run as run_recipe
from sa_nowcast.workflow.comparing import run_comparison
from sa_nowcast.workflow.data import data_identity as identify
from sa_nowcast.workflow.data import open_experiment
from sa_nowcast.workflow.scoring import plan_scores
from sa_nowcast.workflow.tables import run_tables


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "radar.nc"
    georeferenced(rain(40)).to_netcdf(path)
    return path


@pytest.fixture
def tree(source: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "trial", "history": 4, "steps": 3, "data": {"source": str(source)},
        "split": {"validation": 0.2, "test": 0.3}, "network": {**NETWORK, "hidden": [4]}, "training": OPTIONS,
        "verification": {"metrics": ["mse"]}, "pictures": {"forecast": False, "scores": False},
        "output": {"folder": str(tmp_path / "run")},
    }  # fmt: skip


def changed(tree: dict[str, Any], **changes: Any) -> Recipe:
    result = copy.deepcopy(tree)
    for keys, value in changes.items():
        *blocks, last = keys.split("__")
        inner = result
        for block in blocks:
            inner = inner.setdefault(block, {})
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return Recipe.model_validate(result)


@pytest.fixture
def run(monkeypatch):
    return lambda *arguments: command(monkeypatch, *arguments)


def quietly(recipe: Recipe) -> Any:
    return run_recipe(recipe, progress=False)


def failure(found: list[Finding]) -> list[Finding]:
    """Raise the error of a finding, which `validate` prints."""
    for finding in found:
        if finding.error is not None:
            raise finding.error
    return found


# --- data


@remedy("workflow/data.py", "name data that are there in …; relative paths start at …")
@pytest.mark.parametrize("how", ["there", "relative"])
def test_no_data_there(how, source, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    fix = yield lambda: identify("data/radar.nc", {})
    if how == "relative":
        place = Path(fix.rpartition(" ")[2]) / "data"
        place.mkdir()
        shutil.copy(source, place)
    else:
        yield lambda: identify(str(source), {})


@remedy("workflow/data.py", "name data that are there in …; relative paths start at …")
def test_no_data_of_a_recipe_there(tree, source, tmp_path):
    yield lambda: open_experiment(changed(tree, data__source=str(tmp_path / "none" / "a.nc")))
    yield lambda: open_experiment(changed(tree, data__source=str(source)))


@remedy("workflow/data.py", "give split.test a larger share")
def test_a_test_period_without_a_window(tree, source):
    holed = georeferenced(rain(60).isel(time=[t for t in range(60) if t < 40 or t % 5]))
    holed.to_netcdf(source)
    more = {"data__gaps": "skip", "split__validation": 0.0}
    yield lambda: open_experiment(changed(tree, split__test=0.2, **more))
    yield lambda: open_experiment(changed(tree, split__test=0.6, **more))


@remedy("workflow/data.py", "remove it")
def test_a_split_of_sequences_that_are_made(tree):
    made = {
        "data__engine": "synthetic_fields", "data__options": {"size": 32, "test_sequences": 1},
        "data__source": "sample:mrms", "network__output": "moving", "training__crop": None,
    }  # fmt: skip
    yield lambda: open_experiment(changed(tree, **made))
    yield lambda: open_experiment(changed(tree, split=None, **made))


@remedy("workflow/period.py", "leave it out")
def test_the_climatology_of_sequences_that_are_made(tree):
    from sa_nowcast.workflow.period import reference_of

    made = changed(
        tree, data__engine="made_fields", data__options={"size": 32, "test_sequences": 1}, data__source="sample:mrms",
        network__output="moving", training__crop=None, split=None,
        verification__references=["climatology", "persistence"],
    )  # fmt: skip
    experiment = open_experiment(made)
    yield lambda: [reference_of(name, experiment) for name in made.verification.references]
    yield lambda: [reference_of(name, experiment) for name in made.verification.references if name != "climatology"]


@remedy("workflow/data.py", "give split.test a larger share")
def test_a_test_period_whose_frames_are_blocked(source, nowcaster):
    from sa_nowcast.frames import Frames
    from sa_nowcast.workflow.period import forecast_period

    data = xr.open_dataset(source)
    frames = Frames.from_xarray(data, gaps="skip")

    def make(period):
        return forecast_period(nowcaster, data, frames, period, [33], history=4, steps=3)

    yield lambda: make((30, 40))
    yield lambda: make((20, 40))


# --- stages


@remedy("workflow/stages.py", "name another store or remove this one; to read it as it is, name it as data.source")
@pytest.mark.parametrize("how", ["another", "remove", "read"])
def test_a_store_that_a_recipe_did_not_convert(how, tree, source, tmp_path):
    store = tmp_path / "a.zarr"
    georeferenced(rain(40)).to_zarr(store)
    yield lambda: quietly(changed(tree, conversion={"to": str(store)}))
    if how == "remove":
        shutil.rmtree(store)
    if how == "read":
        yield lambda: quietly(changed(tree, data__source=str(store)))
    else:
        yield lambda: quietly(changed(tree, conversion={"to": str(store if how == "remove" else tmp_path / "b.zarr")}))


@remedy("workflow/stages.py", "run the recipe on one process first, and stop it once it trains")
def test_a_conversion_by_several_processes(tree, tmp_path):
    from sa_nowcast.workflow.stages import convert_source

    recipe = changed(tree, conversion={"to": str(tmp_path / "a.zarr")})
    identity = identify(recipe.data.source, {})["identity"]
    yield lambda: convert_source(recipe, identity, print, alone=False)
    quietly(recipe)


@remedy("workflow/outputs.py", "name another folder, or remove this one")
@pytest.mark.parametrize("how", ["another", "remove"])
def test_a_folder_of_another_run(how, tree, tmp_path):
    quietly(changed(tree))
    yield lambda: quietly(changed(tree, history=3))
    if how == "remove":
        shutil.rmtree(tmp_path / "run")
        yield lambda: quietly(changed(tree, history=3))
    else:
        yield lambda: quietly(changed(tree, history=3, output__folder=str(tmp_path / "other")))


@remedy("computing/installing.py", "… …")
def test_pictures_without_matplotlib(tree, monkeypatch):
    from sa_nowcast.workflow.pictures import require_plotting

    def call():
        with uninstalled(monkeypatch, "matplotlib"):
            require_plotting()

    fix = yield call
    assert_installs(fix, "matplotlib")
    yield require_plotting


@remedy("workflow/comparing.py", "shorten history or steps")
@pytest.mark.parametrize("shorter", [{"history": 2, "steps": 2}, {"steps": 1}])
def test_a_comparison_on_too_short_a_sequence(shorter, tmp_path):
    rain(6, 48, 40).to_netcdf(tmp_path / "rain.nc")
    sets = (SetRecipe(name="rain", source=str(tmp_path / "rain.nc")),)

    def compare(**window):
        recipe = ComparisonRecipe(
            name="trial", sets=sets, models=("persistence", "default"),
            output=OutputRecipe(folder=str(tmp_path / "run")), **window,
        )  # fmt: skip
        return run_comparison(recipe, dry_run=True)

    yield lambda: compare(history=4, steps=4)
    yield lambda: compare(**{"history": 4, "steps": 4, **shorter})


@remedy(
    "workflow/tables.py",
    "start the recipes of the tables by themselves, into the same folders, or name networks for each job",
)
def test_tables_by_several_processes(monkeypatch, tmp_path, tree):
    """One process remains, as in a job of its own for each network."""
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(tree))
    tables = {
        "name": "tables", "output": {"folder": str(tmp_path / "runs")},
        "tables": [{"title": "all", "source": "a paper", "recipe": str(path), "columns": [{"score": "mse"}],
                    "printed": {"convlstm": [1.0], "sa-convlstm": [0.5]}}],
    }  # fmt: skip
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(tables))
    with monkeypatch.context() as several:
        for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"):
            several.setenv(name, "0")
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            several.setenv(name, "2")
        yield lambda: run_tables(read_any(tmp_path / "tables.yaml"))
    one = read_any(tmp_path / "tables.yaml", ["networks=[convlstm]"])
    yield lambda: run_tables(one)


# --- scores of files


@pytest.fixture
def archives(tmp_path: Path) -> tuple[Path, Path]:
    """Archives from early and from late init times of the same data."""
    data = georeferenced(rain(40))
    early, late = tmp_path / "early.zarr", tmp_path / "late.zarr"
    for place, part in ((early, slice(0, 16)), (late, slice(20, 36))):
        hindcast(data.isel(time=part), "persistence", 2, to=place)
    return early, late


@remedy("verification/sample.py", "make them from the same data, with the same steps")
def test_archives_without_a_common_time(archives, source, tmp_path):
    early, late = map(str, archives)
    truth = xr.open_dataset(source)
    yield lambda: plan_scores([early, late], truth)
    hindcast(georeferenced(rain(40)).isel(time=slice(0, 16)), "persistence", 2, to=tmp_path / "same.zarr")
    yield lambda: plan_scores([early, str(tmp_path / "same.zarr")], truth)


@remedy("verification/sample.py", "give truth of the forecasts' period")
def test_a_truth_of_another_period(archives, source):
    truth = xr.open_dataset(source)
    yield lambda: plan_scores([str(archives[1])], truth.isel(time=slice(10)))
    yield lambda: plan_scores([str(archives[1])], truth)


# --- what is looked at before


@remedy("survey/bundles.py", "train it again")
def test_a_model_whose_weights_are_no_numbers(saved):
    weights, content = bundle.read_bundle(saved)
    for weight in weights.values():
        weight.fill_(float("nan"))
    shutil.rmtree(saved)
    kept = {k: v for k, v in content.items() if "sha256" not in k and k != "format"}
    bundle.write_bundle(saved, weights, kept, overwrite=False)
    yield lambda: failure(check_bundle(str(saved)))
    fit(rain(), history=4, steps=3, network=NETWORK, progress=False, **OPTIONS).save(saved, overwrite=True)


@remedy("survey/data.py", "run the same convert or hindcast again to go on")
def test_a_store_that_is_still_being_written(source, tmp_path):
    from sa_nowcast.conversion import convert
    from sa_nowcast.errors import Interrupted

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    target = tmp_path / "a.zarr"
    with pytest.raises(Interrupted):
        convert(source, target, frames_per_shard=4, workers=1, progress=stop)
    yield lambda: failure(check_data(f"{target}.partial"))
    convert(source, target, frames_per_shard=4)
    yield lambda: failure(check_data(str(target)))


@remedy("survey/data.py", "name data with values")
def test_data_without_a_value(source, tmp_path):
    (georeferenced(rain(40)) * np.nan).to_netcdf(tmp_path / "empty.nc")
    yield lambda: failure(check_data(str(tmp_path / "empty.nc")))
    yield lambda: failure(check_data(str(source)))


@remedy("survey/starter.py", "name data with values")
def test_a_first_recipe_for_data_without_a_value(source):
    ds = georeferenced(rain(40))
    yield lambda: look(ds.assign(rain=ds["rain"] * np.nan))
    yield lambda: look(ds)


@remedy("survey/starter.py", "give more frames, or fill the gaps")
@pytest.mark.parametrize("how", ["more", "fill"])
def test_a_first_recipe_for_too_few_frames_in_a_row(how):
    holed = georeferenced(rain(120)).isel(time=[t for t in range(120) if t % 3 != 2])
    yield lambda: look(holed, history=4, steps=3)
    whole = georeferenced(rain(200 if how == "more" else 120))
    yield lambda: look(whole, history=4, steps=3)


@remedy("forecasts/labels.py", "give earlier frames, fill the gap, or choose another init_time")
@pytest.mark.parametrize("how", ["earlier", "fill", "choose"])
def test_a_forecast_without_its_history(how, saved):
    whole = georeferenced(rain())
    times = whole["time"].values
    part = whole.isel(time=slice(6, None)) if how == "earlier" else whole.isel(time=[*range(6), *range(7, 20)])

    def plan(data, at):
        return Nowcaster.load(saved).plan(data, init_time=str(times[at]))

    yield lambda: plan(part, 8)
    yield lambda: plan(part, 15) if how == "choose" else plan(whole, 8)


@remedy("survey/recipes.py", "choose another folder")
def test_a_folder_of_a_recipe_that_cannot_be_written(tree, tmp_path):
    def check(folder):
        path = tmp_path / "a.yaml"
        path.write_text(yaml.safe_dump({**tree, "output": {"folder": str(folder)}}))
        return failure(check_recipe(read_recipe(path)))

    (tmp_path / "file").write_text("no folder")
    yield lambda: check(tmp_path / "file" / "run")
    yield lambda: check(tmp_path / "run")


@remedy("survey/inspection.py", "name one with channel=")
def test_an_inspection_of_a_channel_that_is_not_there(source, run):
    yield run("inspect", source, "--channel", "flow")
    yield run("inspect", source, "--channel", "x")


@remedy("conversion/prepare.py", "name one with …=")
def test_a_conversion_of_a_dimension_that_is_not_there(source, run, tmp_path):
    fix = yield run("convert", source, tmp_path / "a.zarr", "--y", "rows")
    yield run("convert", source, tmp_path / "a.zarr", flags(fix)[0], "y")


@remedy("sources/opening.py", "name one with …=")
def test_a_truth_without_the_dimension_that_is_named(run, archives, source):
    fix = yield run("verify", archives[0], source, "--y", "rows")
    yield run("verify", archives[0], source, flags(fix)[0], "y")


@remedy("sources/opening.py", "ds.rename({…: …})")
def test_a_truth_with_a_dimension_in_the_way(archives, source):
    from sa_nowcast.metadata.dims import DimNames
    from sa_nowcast.sources.opening import named_like, open_forecast

    ds = xr.open_dataset(source).rename(y="row").expand_dims(y=2)
    forecast = open_forecast(str(archives[0]))
    fix = yield lambda: named_like(ds, forecast, DimNames(y="row"))
    yield lambda: named_like(evaluated(fix, ds=ds), forecast, DimNames(y="row"))


@remedy("storage/whole.py", "name another path, or give replace=True")
@pytest.mark.parametrize("how", ["another", "replace"])
def test_a_forecast_stands_there(how, source, run, saved, tmp_path):
    given = ("forecast", source, "--model", saved, "-o")
    run(*given, tmp_path / "a.nc")()
    fix = yield run(*given, tmp_path / "a.nc")
    yield run(*given, tmp_path / "b.nc") if how == "another" else run(*given, tmp_path / "a.nc", *flags(fix))


@remedy("verification/metrics.py", "thresholds=[1.0], with values that matter in your data")
def test_scores_of_events_without_thresholds(run, archives, source, tmp_path):
    kelvin = xr.open_dataset(source)
    kelvin["rain"].attrs["units"] = "K"
    kelvin.to_netcdf(tmp_path / "kelvin.nc")
    hindcast(kelvin, "persistence", 2, to=tmp_path / "kelvin.zarr")
    given = ("verify", tmp_path / "kelvin.zarr", tmp_path / "kelvin.nc", "--metric", "csi")
    fix = yield run(*given)
    assert fix.startswith("--threshold 1.0,")
    yield run(*given, *fix.partition(",")[0].split())


@remedy("workflow/pictures.py", "leave …= out")
def test_a_picture_of_frames_with_a_truth(run, source, tmp_path):
    fix = yield run("plot", source, "-o", tmp_path / "a.png", "--truth", source)
    assert flags(fix) == ["--truth"]
    yield run("plot", source, "-o", tmp_path / "a.png")


@remedy("workflow/pictures.py", "sa-nowcast plot …")
def test_a_picture_of_the_folder_of_a_run(run, tree, tmp_path, monkeypatch):
    quietly(changed(tree))
    monkeypatch.chdir(tmp_path)
    fix = yield run("plot", tmp_path / "run", "-o", tmp_path / "a.png")
    yield run(*shlex.split(fix)[1:])


@remedy("survey/starter.py", "name the dimensions with time=, y= and x=")
def test_a_first_recipe_for_dimensions_of_other_names(run, tmp_path):
    ds = georeferenced(rain(40))
    ds = xr.Dataset({"field": (("a", "b", "c"), ds["rain"].values, ds["rain"].attrs)}, {"a": ds["time"].values})
    ds = ds.assign_coords(y=np.arange(3.0), x=np.arange(4.0)).assign(
        edge=("y", np.arange(3.0)), side=("x", np.arange(4.0))
    )
    ds.to_netcdf(tmp_path / "a.nc")
    given = ("init", tmp_path / "a.nc", "-o", tmp_path / "a.yaml")
    fix = yield run(*given)
    yield run(*given, *(word for pair in zip(flags(fix), "abc", strict=True) for word in pair))
