"""The recipe that init writes runs as it is, and says why it says what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from command_line import Here
from sequences import rain, weather

from sa_nowcast.errors import DataError
from sa_nowcast.recipe import Recipe, parse_recipe, read_recipe
from sa_nowcast.survey.starter import look, starter_recipe
from sa_nowcast.workflow import run
from sa_nowcast.workflow.data import open_experiment


def shrunken(path: Path, folder: Path) -> Recipe:
    """The same recipe with three updates of a tiny network."""
    tree = yaml.safe_load(path.read_text())
    del tree["start"]
    tree["network"] = {"preset": "small", "hidden": [4]}
    tree["training"] |= {"max_steps": 3, "validation_samples": 2, "pictures": 0, "device": "cpu"}
    tree["output"]["folder"] = str(folder)
    return parse_recipe(yaml.safe_dump(tree))


def test_the_recipe_runs_as_it_is(here: Here, radar: Path, tmp_path: Path) -> None:
    place = tmp_path / "first.yaml"
    here("init", radar, "-o", place)
    assert (here.code, here.out) == (0, f"{place}\n")
    result = run(shrunken(place, tmp_path / "run"), progress=False)
    assert set(result.scores["metric"]) == {"mse", "csi"}
    assert all(file.exists() for file in result.files)


def test_the_comments_say_what_was_seen(here: Here, radar: Path, tmp_path: Path) -> None:
    here("init", radar, "-o", tmp_path / "a.yaml", "--dry-run")
    assert here.code == 0
    assert not (tmp_path / "a.yaml").exists()
    assert "# Seen: rain [mm h-1]; 40 frames every 5 min, 2020-06-01T00:00 to 2020-06-01T03:15;" in here.out
    assert "24 x 20 pixels, 1000 x 1000 m" in here.out
    recipe = parse_recipe(here.out)
    assert (recipe.name, recipe.start, recipe.training.preset) == ("a", "default", "fine-tune")


def test_a_recipe_that_stands_there_is_kept_unless_forced(here: Here, radar: Path, tmp_path: Path) -> None:
    place = tmp_path / "mine.yaml"
    place.write_text("my work")
    here.fails(5, f"STORAGE {place}: exists already. Fix: name another file with -o, or give --force.",
               "init", radar, "-o", place)  # fmt: skip
    assert place.read_text() == "my work"
    assert here("init", radar, "-o", place, "--force").code == 0
    assert read_recipe(place).name == "mine"


def test_a_folder_that_cannot_be_written_is_one_line(here: Here, radar: Path, no_folder: Path) -> None:
    here.fails(5, "cannot be written (Not a directory)", "init", radar, "-o", no_folder / "a.yaml")


def test_a_wrong_path_and_a_wrong_variable_are_one_line(here: Here, radar: Path, tmp_path: Path) -> None:
    here.fails(3, "DATA none.nc: no such file or folder", "init", "none.nc", "-o", tmp_path / "a.yaml")
    here.fails(3, "no variable 'rian', expected one of rain",
               "init", radar, "-o", tmp_path / "a.yaml", "--variable", "rian")  # fmt: skip


def test_what_is_given_replaces_what_would_be_chosen(here: Here, radar: Path, tmp_path: Path) -> None:
    here("init", radar, "-o", tmp_path / "a.yaml", "--history", "3", "--steps", "2")
    recipe = read_recipe(tmp_path / "a.yaml")
    assert (recipe.history, recipe.steps) == (3, 2)


def test_gaps_are_skipped_and_counted() -> None:
    ds = rain(60).isel(time=[t for t in range(60) if t not in (20, 21, 40)]).to_dataset()
    text = starter_recipe(ds, "rain.nc")
    assert "gaps: skip # 3 stretches without a gap, the longest of 20 frames" in text
    assert parse_recipe(text).data.gaps == "skip"


def test_two_variables_become_channels_and_have_no_thresholds() -> None:
    recipe = parse_recipe(starter_recipe(weather(), "weather.nc"))
    assert recipe.data.variables is None
    assert recipe.verification.thresholds == ()
    assert len(look(weather()).frames.channels) == 2


def test_a_variable_with_another_dimension_is_left_out_and_named() -> None:
    ds = rain(40).to_dataset()
    ds["level"] = ds["rain"].expand_dims(height=2).transpose("time", "height", "y", "x")
    text = starter_recipe(ds, "rain.nc")
    assert "# left out: level" in text
    assert parse_recipe(text).data.variables == ("rain",)


@pytest.mark.parametrize("frames", [6, 9, 14, 25, 60, 200])
def test_windows_fit_however_few_frames_there_are(frames: int) -> None:
    recipe = parse_recipe(starter_recipe(rain(frames).to_dataset(), "rain.nc"))
    assert recipe.history + recipe.steps <= frames // 3
    # One frame shows no motion.
    assert recipe.start == (None if recipe.history == 1 else "default")


def test_too_few_frames_and_calendar_months_are_refused() -> None:
    with pytest.raises(DataError, match="would be left to train on"):
        starter_recipe(rain(4).to_dataset(), "rain.nc")
    months = rain(30).assign_coords(time=pd.date_range("2000-01-01", periods=30, freq="MS")).to_dataset()
    with pytest.raises(DataError, match="step is 29 d"):
        starter_recipe(months, "rain.nc")
    with pytest.raises(DataError, match="no valid value in a sample of frames"):
        starter_recipe((rain(20) * np.nan).to_dataset(), "rain.nc")


@pytest.mark.parametrize(
    "source", ["a b.nc", "2019:rain.nc", "null", "true", "-x.nc", "radar/*.nc", "a#b.nc", 'q"q.nc']
)
def test_a_name_is_read_back_whatever_it_holds(source: str) -> None:
    assert parse_recipe(starter_recipe(rain(40).to_dataset(), source)).data.source == source


def taxis(days: int, dtype: str = "int64") -> xr.Dataset:
    """Counts with a daily cycle, every half hour."""
    times = pd.date_range("2015-01-01", periods=48 * days, freq="30min")
    mean = 3 + 2 * np.sin(2 * np.pi * np.arange(len(times)) / 48)
    values = np.random.default_rng(0).poisson(mean[:, None, None], (len(times), 10, 20)).astype(dtype)
    coords = {"time": times, "y": np.arange(10), "x": np.arange(20)}
    return xr.Dataset({"pickups": (("time", "y", "x"), values, {"units": "1"})}, coords)


@pytest.mark.parametrize(("days", "references"), [(13, ("persistence",)), (14, ("persistence", "climatology"))])
def test_counts_are_bounded_by_zero_and_two_weeks_of_them_have_a_climatology(
    days: int, references: tuple[str, ...], tmp_path: Path
) -> None:
    taxis(days).to_netcdf(tmp_path / "taxi.nc")
    with xr.open_dataset(tmp_path / "taxi.nc") as ds:
        text = starter_recipe(ds, str(tmp_path / "taxi.nc"))
    assert "  valid_min: 0 #" in text
    recipe = parse_recipe(text)
    assert recipe.data.valid_min == 0
    assert recipe.verification.references == references


def test_a_recipe_for_counts_runs_with_its_climatology(here: Here, tmp_path: Path) -> None:
    taxis(14).isel(y=slice(6), x=slice(6)).to_netcdf(tmp_path / "taxi.nc")
    assert here("init", tmp_path / "taxi.nc", "-o", tmp_path / "taxi.yaml").code == 0
    result = run(shrunken(tmp_path / "taxi.yaml", tmp_path / "run"), progress=False)
    assert {"sa-convlstm", "climatology"} == set(result.scores["model"])
    assert set(result.scores["reference"]) == {"persistence"}


def test_what_is_no_count_and_bad_bounds_have_no_such_line() -> None:
    ds = taxis(14)
    ds["pickups"] = ds["pickups"] - 1
    assert "valid_min" not in starter_recipe(ds, "a.nc")
    ds["pickups"].attrs["valid_range"] = [3, 1]
    with pytest.raises(DataError, match="expected two numbers, the smaller first"):
        look(ds)


def test_a_least_value_of_a_recipe_bounds_what_is_trained(tmp_path: Path) -> None:
    ds = taxis(5, "float32")
    ds["pickups"] = (ds["pickups"] * 1.5).assign_attrs(units="K")
    ds.to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as opened:
        tree = yaml.safe_load(starter_recipe(opened, str(tmp_path / "a.nc")))
    tree["data"]["valid_min"] = 1.5
    recipe = parse_recipe(yaml.safe_dump(tree))
    assert open_experiment(recipe, read=False).training("auto", None).scaling.channels[0].lower == 1.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["era5/*.nc", "mrms/*.nc", "satellite/*.zarr"])
def test_recipes_for_real_files_run(real_data: Path, name: str, here: Here, tmp_path: Path) -> None:
    (source,) = real_data.glob(name)
    assert here("init", source, "-o", tmp_path / "real.yaml").code == 0
    recipe = shrunken(tmp_path / "real.yaml", tmp_path / "run")
    # Of the large grids a corner, which takes a small part of the time.
    ds = xr.open_dataset(source, engine="zarr" if source.suffix == ".zarr" else None)
    y, x = recipe.data.y or list(ds.dims)[-2], recipe.data.x or list(ds.dims)[-1]
    if max(ds.sizes.values()) > 500:
        bounds = {d: tuple(sorted(map(float, ds[d].values[[0, 127]]))) for d in (y, x)}
        recipe = recipe.model_copy(update={"split": recipe.split.model_copy(update={"test_region": bounds})})
    assert len(run(recipe, progress=False).scores)


def test_options_of_the_reader_come_into_the_recipe(here: Here, tmp_path: Path) -> None:
    np.savez(tmp_path / "taxi.npz", np.random.default_rng(0).poisson(5.0, (60, 10, 20, 1)))
    given = {"start": "2015-01-01", "step": "30min", "name": "pickups", "units": '"1"', "channels": "[pickups]"}
    options = [word for key, value in given.items() for word in ("--option", f"{key}={value}")]
    here("init", tmp_path / "taxi.npz", "--engine", "array", *options, "-o", tmp_path / "taxi.yaml")
    assert here.code == 0, here.err
    recipe = read_recipe(tmp_path / "taxi.yaml")
    assert recipe.data.options["channels"] == ["pickups"]
    assert recipe.start == "default"
