from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sequences import NETWORK, OPTIONS, georeferenced, rain, traffic, weather

import sa_nowcast
import sa_nowcast.training.engine as engine
from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, Interrupted, MissingLibraryError, RecipeError, StorageError
from sa_nowcast.forecasts import job
from sa_nowcast.hindcast import archive
from sa_nowcast.recipe import Recipe
from sa_nowcast.survey.recipes import check_recipe
from sa_nowcast.workflow import RunResult, period, pictures, run

FILES = {"model.nowcaster", "forecast.nc", "scores.csv", "forecast.png", "scores.png"}


def recipe_for(folder: Path, frames: xr.DataArray | xr.Dataset | None = None, **changes: Any) -> Recipe:
    """A recipe that runs in a second; `changes` name blocks whose fields differ."""
    ds = georeferenced(rain(40)) if frames is None else frames
    ds = ds.to_dataset() if isinstance(ds, xr.DataArray) else ds
    source = folder.parent / f"{folder.name}.source.nc"
    if not source.exists():
        ds.to_netcdf(source)
    tree: dict[str, Any] = {
        "name": "trial",
        "history": 4,
        "steps": 3,
        "data": {"source": str(source)},
        "split": {"validation": 0.2, "test": 0.3},
        "network": {**NETWORK, "hidden": [4]},
        "training": OPTIONS,
        "verification": {"thresholds": [1.0]},
        "output": {"folder": str(folder)},
    }
    for block, value in changes.items():
        tree[block] = {**tree[block], **value} if isinstance(value, dict) and block in tree else value
    return Recipe.model_validate(tree)


def quietly(recipe: Recipe) -> RunResult:
    return run(recipe, progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests take a copy of it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    quietly(recipe_for(folder))
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished.parent, tmp_path / "copy")
    # The recipe that is asked for later must name the same source.
    return tmp_path / "copy" / "run"


def same(folder: Path, finished: Path, **changes: Any) -> Recipe:
    recipe = recipe_for(finished, **changes)
    return recipe.model_copy(update={"output": recipe.output.model_copy(update={"folder": str(folder)})})


@pytest.fixture
def quick_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time of a small run goes into its picture; some tests are about other things."""
    monkeypatch.setattr(pictures, "draw", lambda *args: args[-1].write_bytes(b"picture"))


@pytest.fixture
def never_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(engine.L, "Trainer", fail)


def test_a_run_leaves_model_forecast_scores_and_picture(finished: Path) -> None:
    assert {f.name for f in finished.iterdir()} == {*FILES, "training", "run.json", "recipe.json", ".scores"}
    assert (finished / "forecast.png").read_bytes().startswith(b"\x89PNG")
    nowcaster = sa_nowcast.load(str(finished / "model.nowcaster"))
    assert nowcaster.provenance["recipe"] == "trial"
    with xr.open_dataset(finished / "forecast.nc", decode_timedelta=True, decode_coords="all") as ds:
        forecast = ds["rain"].load()
    # The latest 12 of 40 frames hold 6 windows of 7.
    assert forecast.dims == ("init_time", "lead_time", "y", "x")
    assert forecast.sizes["init_time"] == 6
    assert forecast.attrs["sa_nowcast_recipe"] == "trial"
    assert forecast.attrs["sa_nowcast_model"] == nowcaster.digest
    assert {"crs", "latitude", "longitude", "valid_time"} <= set(forecast.coords)
    np.testing.assert_array_equal(forecast["valid_time"].values, (forecast["init_time"] + forecast["lead_time"]).values)
    data = georeferenced(rain(40))
    first = nowcaster.forecast(data, init_time=forecast["init_time"][0])
    # A run forecasts many init times in one batch, which rounds otherwise than one alone.
    np.testing.assert_allclose(forecast[0], first, rtol=1e-5, atol=1e-6)


def test_scores_are_those_of_the_forecast_against_the_truth_by_time(finished: Path) -> None:
    table = pd.read_csv(finished / "scores.csv")
    mse = table[table["metric"] == "mse"].set_index("lead_time_minutes")
    assert list(mse.index) == [5, 10, 15]
    truth = rain(40)
    with xr.open_dataset(finished / "forecast.nc", decode_timedelta=True) as ds:
        valid = [set((ds["init_time"] + lead).values) for lead in ds["lead_time"].values]
        for lead, minutes in zip(ds["lead_time"].values, mse.index, strict=True):
            # Beside a reference, all lead times are scored on the same valid times.
            inits = np.array(sorted(set.intersection(*valid))) - lead
            assert len(inits) == 4
            wanted = truth.sel(time=inits + lead).values.astype(np.float64)
            error = ds["rain"].sel(lead_time=lead, init_time=inits).values - wanted
            still = truth.sel(time=inits).values - wanted
            # Means of 1920 squares of float32 differences.
            assert mse.loc[minutes, "value"] == pytest.approx(np.mean(error**2), rel=1e-5)
            assert mse.loc[minutes, "reference_value"] == pytest.approx(np.mean(still**2), rel=1e-5)
    assert set(table["metric"]) == {"mse", "csi"}


@pytest.mark.usefixtures("quick_picture")
def test_test_times_take_no_part_in_training(finished: Path, tmp_path: Path) -> None:
    data = georeferenced(rain(40))
    data["rain"][28:] = data["rain"][28:] * 5 + 1
    quietly(recipe_for(tmp_path / "run", data))
    one, other = (json.loads((f / "model.nowcaster" / "model.json").read_text()) for f in (finished, tmp_path / "run"))
    assert one["weights_sha256"] == other["weights_sha256"]
    assert one["scaling"] == other["scaling"]


@pytest.mark.usefixtures("never_trains")
def test_a_second_run_says_that_it_is_done_and_gives_the_same(copied: Path, finished: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in copied.rglob("*") if f.is_file()}
    result = quietly(same(copied, finished))
    assert result.already_done
    assert {f.name for f in result.files} == FILES
    pd.testing.assert_frame_equal(result.scores, pd.read_csv(finished / "scores.csv"))
    assert {f: f.stat().st_mtime_ns for f in copied.rglob("*") if f.is_file()} == before


@pytest.mark.usefixtures("never_trains")
def test_what_is_no_model_in_the_place_of_the_model_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "run" / "model.nowcaster").mkdir(parents=True)
    (tmp_path / "run" / "model.nowcaster" / "chapter.tex").write_text("years of work")
    with pytest.raises(StorageError, match=r"model\.nowcaster: something that is no model stands there"):
        quietly(recipe_for(tmp_path / "run"))


@pytest.mark.usefixtures("never_trains")
def test_speed_and_place_are_not_part_of_what_a_run_is(copied: Path, finished: Path) -> None:
    assert quietly(same(copied, finished, training={"workers": 0, "checkpoint_every": 3})).already_done


@pytest.mark.usefixtures("quick_picture")
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("forecast.nc", "altered"),
        ("scores.csv", "removed"),
        ("forecast.png", "altered"),
        ("model.nowcaster/model.json", "altered"),
        ("model.nowcaster", "removed"),
        ("run.json", "altered"),
    ],
)
def test_a_result_that_was_altered_or_removed_is_made_again(copied: Path, finished: Path, name: str, way: str) -> None:
    if way == "removed":
        shutil.rmtree(copied / name) if (copied / name).is_dir() else (copied / name).unlink()
    else:
        (copied / name).write_bytes((copied / name).read_bytes()[:-5])
    result = quietly(same(copied, finished))
    assert not result.already_done
    for result_name in ("scores.csv", "model.nowcaster/model.json", "model.nowcaster/weights.safetensors"):
        assert (copied / result_name).read_bytes() == (finished / result_name).read_bytes()
    assert quietly(same(copied, finished)).already_done


@pytest.mark.usefixtures("never_trains")
def test_another_recipe_in_the_same_folder_is_refused(copied: Path, finished: Path) -> None:
    for changes in ({"history": 3}, {"training": {"seed": 1}}, {"network": {"hidden": [8]}}, {"scaling": "standard"}):
        with pytest.raises(RecipeError, match=r"it holds a run of another recipe.*name another folder"):
            quietly(same(copied, finished, **changes))
    (copied / "recipe.json").write_text("{")
    with pytest.raises(RecipeError, match="it holds a run of another recipe"):
        quietly(same(copied, finished))


@pytest.mark.usefixtures("quick_picture")
def test_an_interrupted_run_goes_on_to_the_same_results(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = L.Trainer
    recipe = same(tmp_path / "run", finished)
    with monkeypatch.context() as patch:
        patch.setattr(engine.L, "Trainer", lambda **o: trainer(**{**o, "callbacks": [*o["callbacks"], Stop()]}))
        with pytest.raises(Interrupted, match="SIGTERM at step 3 of 4"):
            quietly(recipe)
    quietly(recipe)
    for name in ("scores.csv", "model.nowcaster/model.json", "model.nowcaster/weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (weather(40), {}),
        (traffic(40), {"verification": {"thresholds": []}}),
        (weather(40), {"data": {"variables": ["temperature"]}, "verification": {"thresholds": []}}),
        (rain(40), {"output": {"format": "zarr"}}),
        (
            rain(40),
            {"split": {"train_region": {"y": [0, 15000]}, "test_region": {"y": [12000, 23000], "x": [0, 9000]}}},
        ),
        (rain(40).isel(time=[*range(10), *range(12, 40)]), {"data": {"gaps": "skip"}}),
        (rain(40).transpose("x", "time", "y"), {}),
    ],
    ids=["several variables", "channels", "one of several", "zarr", "regions", "gaps", "dimension order"],
)
def test_data_of_all_kinds_run_to_the_end(tmp_path: Path, data: Any, changes: dict[str, Any]) -> None:
    result = quietly(recipe_for(tmp_path / "run", data, **changes))
    assert len(result.scores)
    assert result.scores["units"].notna().all()
    assert np.isfinite(result.scores[result.scores["metric"] == "mse"]["value"]).all()
    assert all(f.exists() for f in result.files)
    assert quietly(recipe_for(tmp_path / "run", data, **changes)).already_done


@pytest.mark.parametrize(
    ("data", "asked", "line"),
    [
        (traffic(40), {"metrics": ["csi"], "thresholds": []}, r"verification\.thresholds: none are given for csi"),
        (rain(40), {"neighbourhoods": [1, 99]}, r"verification\.neighbourhoods: 99 pixels on a grid 20 wide"),
        (rain(40), {"metrics": ["spread"]}, r"verification\.metrics: spread of 1 member"),
    ],
    ids=["thresholds", "neighbourhoods", "members"],
)
@pytest.mark.usefixtures("never_trains")
def test_scores_that_cannot_be_are_refused_before_training(
    tmp_path: Path, data: Any, asked: dict[str, Any], line: str
) -> None:
    recipe = recipe_for(tmp_path / "run", data, verification=asked)
    with pytest.raises(RecipeError, match=line):
        quietly(recipe)
    (found,) = [finding for finding in check_recipe(recipe) if finding.error is not None]
    assert re.search(line, found.detail)


@pytest.mark.usefixtures("never_trains")
def test_scales_and_diagrams_that_cannot_be_are_refused_before_training(tmp_path: Path) -> None:
    wanted = {"pictures": {"diagrams": ["roc", "spectra"]}, "verification": {"metrics": ["mse", "spectra"]}}
    with pytest.raises(
        RecipeError, match=r"pictures.diagrams: roc of mse, spectrum.*, expected roc among verification"
    ):
        quietly(recipe_for(tmp_path / "run", **wanted))
    for scale, line in (("1 h", "'1 h' of lead times 5 min to 15 min"), ("900 km", "900 pixels along y")):
        recipe = recipe_for(tmp_path / "run", verification={"scales": ["pixel", scale]})
        with pytest.raises(RecipeError, match=f"RECIPE verification.scales: .*{line}"):
            quietly(recipe)


@pytest.mark.usefixtures("never_trains")
def test_a_run_scores_at_scales_and_draws_diagrams(copied: Path, finished: Path) -> None:
    asked = {
        "metrics": ["mse", "roc", "spectra"],
        "scales": ["pixel", "3 km 15 min"],
        "bootstrap": {"scores": True, "block": 2},
    }
    pictures = {"diagrams": ["roc", "spectra"], "forecast": False}
    quietly(same(copied, finished, verification=asked, pictures=pictures))
    assert (copied / "diagrams.png").read_bytes().startswith(b"\x89PNG")
    scores = pd.read_csv(copied / "scores.csv")
    own = scores[(scores["metric"] == "mse") & scores["value"].notna()]
    assert own.groupby("scale")["lead_time_minutes"].agg(list).to_dict() == {"pixel": [5, 10, 15], "3 km 15 min": [15]}
    assert (own["lower"] <= own["value"]).all()
    assert (own["value"] <= own["upper"]).all()


def test_a_channel_variable_beside_another_gridded_one_runs(tmp_path: Path) -> None:
    ds = traffic(40).to_dataset()
    ds["weather"] = ds["flow"].isel(channel=0, drop=True)
    changes = {"data": {"variables": ["flow"]}, "verification": {"thresholds": []}}
    assert len(quietly(recipe_for(tmp_path / "run", ds, **changes)).scores)


@pytest.mark.parametrize(
    ("data", "names"),
    [(weather(40), ["rain", "temperature"]), (traffic(40), ["in", "out"])],
    ids=["variables", "channels"],
)
def test_every_variable_and_channel_is_drawn_under_its_name(tmp_path: Path, data: Any, names: list[str]) -> None:
    changes = {"verification": {"thresholds": []}, "pictures": {"film": "gif"}}
    result = quietly(recipe_for(tmp_path / "run", data, **changes))
    wanted = {
        f"{kind}-{name}.{end}"
        for name in names
        for kind, end in (("forecast", "png"), ("scores", "png"), ("forecast", "gif"))
    }
    assert {f.name for f in result.files if f.suffix in (".png", ".gif")} == wanted
    assert len({(tmp_path / "run" / name).read_bytes() for name in wanted}) == len(wanted)
    (tmp_path / "run" / f"forecast-{names[1]}.png").unlink()
    said: list[str] = []
    run(recipe_for(tmp_path / "run", data, **changes), progress=False, report=said.append)
    assert [line for line in said if not line.startswith("skipping")] == [f"drawing forecast-{names[1]}.png"]


def test_names_that_no_file_can_have_are_told_apart() -> None:
    assert pictures._endings(["rain"]) == [""]
    assert pictures._endings(["in/out", "in out", "T", "t", "..", "Über 2.5"]) == [
        "-in_out-1", "-in_out-2", "-T-3", "-t-4", "-channel", "-Über_2.5"
    ]  # fmt: skip


@pytest.mark.usefixtures("quick_picture")
def test_empty_frames_in_the_period_are_skipped_when_gaps_are(tmp_path: Path) -> None:
    data = rain(40)
    data[30] = np.nan
    result = quietly(recipe_for(tmp_path / "run", data, data={"gaps": "skip"}))
    with xr.open_dataset(tmp_path / "run" / "forecast.nc", decode_timedelta=True) as ds:
        # Windows of 7 frames within 28 to 39 that do not hold frame 30: they start at 31, 32, 33.
        np.testing.assert_array_equal(ds["init_time"], data["time"].values[[34, 35, 36]])
    assert len(result.scores)


@pytest.mark.usefixtures("never_trains")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": {"source": "none.nc"}}, DataError, r"none\.nc: no such file or folder.*data\.source"),
        ({"data": {"source": "sample:era5"}}, RecipeError, r"'era5', expected one of mrms"),
        ({"data": {"variables": ["snow"]}}, DataError, r"no variable 'snow', expected one of rain"),
        ({"data": {"y": "lat"}}, DataError, r"no dimension 'lat'"),
        ({"split": {"test": 0}}, RecipeError, r"split\.test: 0, expected a share above 0"),
        ({"split": {"test": 0.6, "validation": 0.5}}, RecipeError, r"shares add up to 1\.1"),
        ({"split": {"guard": 30}}, DataError, r"40 frames, of which 0 would be left"),
        (
            {"split": {"train_region": {"lat": [0, 1]}}},
            RecipeError,
            r"split\.train_region\.lat: no such coordinate.*y, x",
        ),
        ({"split": {"test_region": {"time": [0, 1]}}}, RecipeError, r"split\.test_region\.time: no such coordinate"),
        (
            {"split": {"train_region": {"y": [1, 2]}}},
            RecipeError,
            r"no grid point from 1\.0 to 2\.0, expected within 0 to 23000",
        ),
        ({"training": {"device": "cuda:77"}}, RecipeError, r"cuda:77 was asked for"),
        ({"training": {"device": "abacus"}}, RecipeError, r"device: 'abacus'"),
    ],
)
def test_what_cannot_run_is_said_before_training_and_keeps_no_folder(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        quietly(recipe_for(tmp_path / "run", **changes))
    assert "\n" not in str(caught.value)
    # The mended recipe may use the folder.
    assert not (tmp_path / "run" / "recipe.json").exists()


@pytest.mark.usefixtures("never_trains")
def test_an_empty_frame_in_the_period_is_found_before_training(tmp_path: Path) -> None:
    data = rain(40)
    data[35] = np.nan
    with pytest.raises(DataError, match=r"rain, 2020-06-01T02:55: every value is missing.*gaps: skip"):
        quietly(recipe_for(tmp_path / "run", data))


@pytest.mark.usefixtures("never_trains")
def test_an_output_folder_that_cannot_be_written_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recipe = recipe_for(tmp_path / "run", output={"folder": str(tmp_path / "file" / "run")})
    with pytest.raises(StorageError, match="the output folder cannot be written"):
        quietly(recipe)


@pytest.mark.usefixtures("never_trains")
def test_a_missing_plotting_library_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingLibraryError, match=rf"matplotlib is not installed\. Fix: {re.escape(install('plot'))}"):
        quietly(recipe_for(tmp_path / "run"))


@pytest.mark.usefixtures("never_trains")
@pytest.mark.parametrize(
    ("library", "verification", "message"),
    [
        ("cv2", {"references": ["persistence", "extrapolation"]}, f"cv2 is not installed. Fix: {install('pysteps')}"),
        ("skimage", {"metrics": ["mse", "ssim"]}, f"scikit-image is not installed. Fix: {install('verify')}"),
    ],
)
def test_a_missing_library_that_scores_is_found_before_training_and_by_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, verification: dict[str, object], message: str
) -> None:
    import sys

    from sa_nowcast.survey.recipes import check_recipe

    monkeypatch.setitem(sys.modules, library, None)
    recipe = recipe_for(tmp_path / "run", verification=verification)
    with pytest.raises(MissingLibraryError, match=re.escape(message)):
        quietly(recipe)
    (finding,) = (f for f in check_recipe(recipe) if f.error is not None)
    assert finding.check == "libraries"


@pytest.mark.parametrize("content", [b"", b"no netcdf", b"\x89HDF\r\n\x1a\n" + b"\0" * 50])
def test_a_source_that_cannot_be_opened_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nc").write_bytes(content)
    with pytest.raises(DataError) as caught:
        quietly(recipe_for(tmp_path / "run", data={"source": str(tmp_path / "a.nc")}))
    assert "\n" not in str(caught.value)
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(DataError):
        quietly(recipe_for(tmp_path / "run", data={"source": str(tmp_path / "folder.zarr")}))


@pytest.mark.usefixtures("quick_picture")
def test_each_stage_is_reported_in_one_line(tmp_path: Path) -> None:
    lines: list[str] = []
    run(recipe_for(tmp_path / "run"), progress=False, report=lines.append)
    assert [line.split()[0] for line in lines] == [
        "training", "training", "forecasting", "scoring", "drawing", "drawing",
    ]  # fmt: skip
    assert re.fullmatch(r"training on CPU with \d+ threads, fp32", lines[1])
    assert "2020-06-01T02:20 to 2020-06-01T03:15" in lines[2]
    assert not any("\n" in line for line in lines)


# --- what is done again, and what is not


def said(recipe: Recipe) -> list[str]:
    """What each stage says of itself: "skipping" or what it does, and its name."""
    lines: list[str] = []
    run(recipe, progress=False, report=lines.append)
    return [" ".join(line.split(":")[0].split()[:3]) for line in lines if not line.startswith("skipping")]


@pytest.mark.usefixtures("never_trains", "quick_picture")
@pytest.mark.parametrize(
    ("changes", "done"),
    [
        ({"verification": {"thresholds": [0.5, 2]}}, ["scoring 6 forecasts", "drawing scores.png"]),
        ({"verification": {"bootstrap": {"samples": 10}}}, ["scoring 6 forecasts", "drawing scores.png"]),
        ({"pictures": {"title": "Rain"}}, ["drawing forecast.png", "drawing scores.png"]),
        ({"name": "other", "description": "d"}, ["drawing scores.png"]),
        ({"pictures": {"scores": False, "init_time": "first"}}, ["drawing forecast.png"]),
        ({"output": {"format": "netcdf"}, "training": {"log_every": 7}}, []),
    ],
    ids=lambda value: next(iter(value), "nothing") if isinstance(value, dict) else "",
)
def test_a_change_runs_the_stages_again_that_it_matters_to(
    copied: Path, finished: Path, changes: dict[str, Any], done: list[str]
) -> None:
    assert said(same(copied, finished, **changes)) == done
    assert said(same(copied, finished, **changes)) == []


@pytest.mark.usefixtures("never_trains", "quick_picture")
def test_every_second_init_time_is_forecast_where_the_stride_says_so(copied: Path, finished: Path) -> None:
    recipe = same(copied, finished, forecast={"stride": 2})
    assert [line.split()[0] for line in said(recipe)] == ["forecasting", "scoring", "drawing", "drawing"]
    with xr.open_dataset(copied / "forecast.nc", decode_timedelta=True) as ds:
        assert ds.sizes["init_time"] == 3


@pytest.mark.usefixtures("never_trains", "quick_picture")
@pytest.mark.parametrize("name", ["forecast.png", "scores.png"])
def test_a_picture_that_is_lost_is_drawn_again_alone(copied: Path, finished: Path, name: str) -> None:
    (copied / name).unlink()
    assert said(same(copied, finished)) == [f"drawing {name}"]


@pytest.mark.usefixtures("never_trains")
def test_pictures_have_persistence_beside_the_forecast_and_say_how_few_forecasts_are_scored(
    copied: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {}
    save = pictures._save
    monkeypatch.setattr(
        pictures, "_save", lambda figure, path, dpi: figures.update({path.name: figure}) or save(figure, path, dpi)
    )
    for name in ("forecast.png", "scores.png"):
        (copied / name).unlink()
    quietly(same(copied, finished))
    figure = figures["forecast.png"]
    rows = [axes.get_ylabel() for axes in figure.axes if axes.images and axes.get_ylabel() and axes.axison]
    assert rows[:5] == ["history", "truth", "forecast", "persistence", "|error|, forecast"]
    assert figure.get_suptitle().endswith("\nscores rest on 6 init times")
    assert figures["scores.png"].get_suptitle() == "trial, scores rest on 6 init times"


@pytest.mark.usefixtures("never_trains")
def test_a_source_that_was_touched_is_the_same_and_one_that_was_changed_is_another(
    copied: Path, finished: Path
) -> None:
    source = finished.parent / "run.source.nc"
    os.utime(source, (1, 1))
    assert said(same(copied, finished)) == []
    other = rain(40)
    other[3] += 1
    elsewhere = copied.parent / "run.source.nc"
    georeferenced(other).to_netcdf(elsewhere)
    with pytest.raises(RecipeError, match="the run in this folder was another one"):
        said(same(copied, finished, data={"source": str(elsewhere)}))


@pytest.mark.usefixtures("quick_picture")
def test_references_are_made_beside_the_forecast_and_scored_on_one_sample(copied: Path, finished: Path) -> None:
    recipe = same(copied, finished, verification={"references": ["persistence", "extrapolation"]})
    result = quietly(recipe)
    assert (copied / "references" / "extrapolation.nc").exists()
    table = pd.read_csv(copied / "scores.csv")
    assert set(table["model"]) == {"sa-convlstm", "extrapolation"}
    assert set(table["reference"].dropna()) == {"persistence"}
    counts = table[table["metric"] == "mse"].groupby("lead_time_minutes")["count"].nunique()
    assert (counts == 1).all()
    assert len(result.scores) == len(table)
    # Skill against another one takes no new forecast.
    other = same(copied, finished, verification={"references": ["extrapolation"]})
    assert said(other) == ["scoring 6 forecasts", "drawing scores.png"]
    assert set(pd.read_csv(copied / "scores.csv")["reference"].dropna()) == {"extrapolation"}
    assert quietly(other).already_done


@pytest.mark.usefixtures("quick_picture")
def test_climatology_averages_the_training_period(tmp_path: Path) -> None:
    data = georeferenced(rain(40)).assign_coords(time=pd.date_range("2020-06-01", periods=40, freq="6h"))
    recipe = recipe_for(tmp_path / "run", data, verification={"references": ["climatology"]}, scaling="log1p")
    quietly(recipe)
    with xr.open_dataset(tmp_path / "run" / "references" / "climatology.nc", decode_timedelta=True) as ds:
        one = ds["rain"].isel(init_time=0, lead_time=0).load()
    # 40 frames less 12 to test on, 8 to validate on and twice 4 between.
    training = rain(40)[:12].assign_coords(time=data["time"].values[:12])
    wanted = training[training["time"].dt.hour == one["valid_time"].dt.hour].mean("time")
    np.testing.assert_allclose(one.values, wanted.values, rtol=1e-5)


@pytest.mark.slow
def test_a_forecast_from_the_newest_frames_a_film_and_attention_where_they_are_asked_for(
    copied: Path, finished: Path
) -> None:
    changes = {
        "forecast": {"latest": True},
        "pictures": {"film": "gif", "attention": [5000, 3000], "init_time": "2020-06-01T02:40", "scores": False},
    }
    assert {f.name for f in quietly(same(copied, finished, **changes)).files} >= {"latest.nc", "forecast.gif"}
    with xr.open_dataset(copied / "latest.nc", decode_timedelta=True) as ds:
        assert ds["init_time"].values == rain(40)["time"].values[-1]
    assert (copied / "forecast.gif").read_bytes().startswith(b"GIF")
    assert (copied / "attention.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RecipeError, match=r"pictures\.init_time: '2020-06-02', expected last, first, or an init"):
        quietly(same(copied, finished, pictures={"init_time": "2020-06-02"}))


@pytest.mark.usefixtures("never_trains", "quick_picture")
def test_another_product_is_forecast_and_scored_without_training_again(copied: Path, finished: Path) -> None:
    before = pd.read_csv(copied / "scores.csv")
    matched = same(copied, finished, forecast={"product": "matched"})
    assert "hindcast" not in " ".join(line for line in said(matched) if line.startswith("skipping"))
    with xr.open_dataset(copied / "forecast.nc", decode_timedelta=True) as ds:
        assert ds["rain"].attrs["sa_nowcast_product"] == "matched"
    assert not before.equals(pd.read_csv(copied / "scores.csv"))
    assert quietly(matched).already_done
    quietly(same(copied, finished))
    pd.testing.assert_frame_equal(pd.read_csv(copied / "scores.csv"), before)


@pytest.mark.usefixtures("never_trains", "quick_picture")
def test_forecasts_that_are_too_large_for_one_file_become_an_archive(
    copied: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(period, "LARGEST_NETCDF", 1000)
    (copied / "forecast.nc").unlink()
    before = pd.read_csv(copied / "scores.csv")
    quietly(same(copied, finished))
    assert (copied / "forecast.zarr" / "zarr.json").exists()
    pd.testing.assert_frame_equal(pd.read_csv(copied / "scores.csv"), before, rtol=1e-6)
    assert quietly(same(copied, finished)).already_done
    chunk = next(f for f in (copied / "forecast.zarr" / "rain").rglob("*") if f.is_file() and f.stat().st_size > 500)
    chunk.write_bytes(chunk.read_bytes()[:-20])
    assert said(same(copied, finished))[0].startswith("forecasting")
    assert quietly(same(copied, finished)).already_done


@pytest.mark.usefixtures("never_trains", "quick_picture")
def test_a_hindcast_that_is_stopped_goes_on_where_it_stopped(
    copied: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = same(copied, finished, output={"format": "zarr"})
    made = sa_nowcast.Nowcaster.block
    calls: list[int] = []

    def stopping(self: Any, frames: Any, positions: Any, *args: Any) -> Any:
        calls.extend(positions)
        if len(calls) > 3 and max(calls) < 100:
            calls.append(100)
            raise KeyboardInterrupt
        return made(self, frames, positions, *args)

    monkeypatch.setattr(job, "LARGEST_BATCH", 2)
    monkeypatch.setattr(archive, "MOST_PER_SHARD", 2)
    monkeypatch.setattr(sa_nowcast.Nowcaster, "block", stopping)
    with pytest.raises(Interrupted):
        quietly(recipe)
    assert not (copied / "forecast.zarr").exists()
    quietly(recipe)
    assert quietly(recipe).already_done


@pytest.mark.usefixtures("quick_picture")
def test_a_source_is_converted_first_and_the_store_is_shared(tmp_path: Path) -> None:
    store = tmp_path / "rain.zarr"
    recipe = recipe_for(tmp_path / "run", conversion={"to": str(store)})
    lines: list[str] = []
    run(recipe, progress=False, report=lines.append)
    assert lines[0].startswith("converting ")
    assert sa_nowcast.open_zarr(store).sizes["time"] == 40
    assert quietly(recipe).already_done
    other = same(tmp_path / "other", tmp_path / "run", conversion={"to": str(store)}, training={"seed": 1})
    lines.clear()
    run(other, progress=False, report=lines.append)
    assert lines[0].startswith("skipping convert")
    with pytest.raises(RecipeError, match=r"conversion\.to .*rain\.zarr: it was converted with other settings"):
        quietly(recipe_for(tmp_path / "run", conversion={"to": str(store), "level": 5}))
    shard = next(f for f in (store / "rain").rglob("*") if f.is_file() and f.stat().st_size > 2000)
    shard.write_bytes(b"")
    lines.clear()
    run(recipe, progress=False, report=lines.append)
    assert "is not whole" in lines[0]
    shutil.rmtree(store)
    rain(40).to_dataset().to_zarr(store, zarr_format=3, consolidated=False)
    (tmp_path / "rain.zarr.inputs.json").unlink()
    with pytest.raises(RecipeError, match="it was not made by a recipe"):
        quietly(recipe)


def test_any_network_has_members_once_it_is_calibrated(tmp_path: Path) -> None:
    split = {"validation": 0.4, "test": 0.2}
    asked = {"calibrate": True, "split": split, "forecast": {"members": 3, "stride": 4}}
    with pytest.raises(DataError, match="10 init times with observations, expected at least 20 to calibrate"):
        quietly(recipe_for(tmp_path / "short", georeferenced(rain(40)), **asked))
    assert not (tmp_path / "short" / "model.nowcaster").exists()
    recipe = recipe_for(tmp_path / "run", georeferenced(rain(80)), **asked)
    quietly(recipe)
    model = sa_nowcast.load(tmp_path / "run" / "model.nowcaster")
    assert model.calibration is not None
    assert model.calibration.about["period"].split("/")[0] > model.provenance["training_period"].split("/")[1]
    assert xr.open_dataset(tmp_path / "run" / "forecast.nc").sizes["realization"] == 3
    assert quietly(recipe).already_done
