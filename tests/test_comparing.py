"""Models side by side on several datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sequences import rain, traffic

from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.recipe import ComparisonRecipe, OutputRecipe, SetRecipe
from sa_nowcast.workflow import comparing
from sa_nowcast.workflow.comparing import open_set, run_comparison

pytest.importorskip("pysteps", reason="optical flow is pysteps': pip install pysteps opencv-python-headless")


@pytest.fixture
def recipe(tmp_path: Path) -> ComparisonRecipe:
    rain(14, 48, 40).to_netcdf(tmp_path / "rain.nc")
    traffic(12).to_netcdf(tmp_path / "traffic.nc")
    sets = (
        SetRecipe(name="Rain, coarse", source=str(tmp_path / "rain.nc"), cells=2, stride=2),
        SetRecipe(name="traffic", source=str(tmp_path / "traffic.nc")),
    )
    return ComparisonRecipe(name="trial", steps=2, sets=sets, output=OutputRecipe(folder=str(tmp_path / "run")))


def test_every_model_is_scored_on_every_set_and_field_at_every_lead_time(recipe: ComparisonRecipe) -> None:
    result = run_comparison(recipe)
    scores = result.scores
    assert list(dict.fromkeys(scores["set"])) == ["Rain, coarse", "traffic"]
    for _, rows in scores.fillna({"field": ""}).groupby(["set", "field"]):
        assert sorted(rows["model"].unique()) == ["default", "extrapolation", "persistence"]
        assert rows.groupby("model")["lead"].apply(list).tolist() == [[1, 2]] * 3
    ours = scores[scores["model"] == "default"]
    assert ours[["mse", "skill_persistence", "skill_extrapolation", "skill_lower_persistence"]].notna().all(axis=None)
    assert (result.folder / "scores.csv").is_file()
    assert (result.folder / "rain_coarse.csv").is_file()


def test_the_scores_are_those_of_forecasts_made_one_by_one(recipe: ComparisonRecipe) -> None:
    scores = run_comparison(recipe.model_copy(update={"models": ("default", "persistence")})).scores
    ds = open_set(recipe.sets[0]).load()
    errors = {"default": [], "persistence": []}  # type: dict[str, list[Any]]
    values = ds["rain"].values
    for position in range(3, 12, 2):
        forecast = ds.sa_nowcast.forecast(steps=2, init_time=ds["time"].values[position]).values
        errors["default"].append((forecast - values[position + 1 : position + 3]) ** 2)
        errors["persistence"].append((values[position] - values[position + 1 : position + 3]) ** 2)
    for model, found in errors.items():
        mine = scores[(scores["set"] == "Rain, coarse") & (scores["model"] == model)]["mse"]
        np.testing.assert_allclose(mine, np.mean(found, axis=(0, 2, 3)), rtol=1e-4)


def test_what_is_finished_is_not_computed_again_and_other_data_are(
    recipe: ComparisonRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_comparison(recipe).scores
    computed = []
    real = comparing.hindcast

    def counting(data: Any, model: Any, *args: Any, **options: Any) -> Any:
        computed.append(model)
        return real(data, model, *args, **options)

    monkeypatch.setattr(comparing, "hindcast", counting)
    again = run_comparison(recipe).scores
    assert computed == []
    assert again["mse"].tolist() == pytest.approx(first["mse"].tolist(), rel=1e-12)
    rain(14, 48, 40, seed=3).to_netcdf(tmp_path / "rain.nc")
    changed = run_comparison(recipe).scores
    assert len(computed) == 3
    assert changed["mse"].iloc[0] != first["mse"].iloc[0]


def test_a_saved_model_is_compared_by_its_folder(recipe: ComparisonRecipe, saved: Path, nowcaster: Nowcaster) -> None:
    sets = (recipe.sets[0].model_copy(update={"cells": 1}),)
    told = recipe.model_copy(update={"models": (str(saved), "persistence"), "sets": sets})
    assert set(run_comparison(told).scores["model"]) == {str(saved), "persistence"}


def test_a_dry_run_opens_everything_and_writes_nothing(recipe: ComparisonRecipe) -> None:
    lines: list[str] = []
    result = run_comparison(recipe, report=lines.append, dry_run=True)
    assert lines == ["Rain, coarse: 14 frames, 5 init times", "traffic: 12 frames, 7 init times"]
    assert not result.folder.exists()


def test_times_that_are_irregular_become_a_cadence(tmp_path: Path) -> None:
    months = rain(6).assign_coords(time=np.array([f"2020-0{m}-15" for m in range(1, 7)], "datetime64[ns]"))
    months.to_netcdf(tmp_path / "months.nc")
    one = SetRecipe(name="months", source=str(tmp_path / "months.nc"), cadence="30D", frames=(1, 6))
    ds = open_set(one)
    assert (np.diff(ds["time"].values) == np.timedelta64(30, "D")).all()
    assert ds.sizes["time"] == 5


@pytest.mark.parametrize(
    ("change", "kind", "line"),
    [
        ({"source": "nowhere.nc"}, DataError, "nowhere.nc: no such file or folder.*'Rain, coarse'"),
        ({"variables": ("snow",)}, RecipeError, "no 'snow', expected some of rain"),
        ({"cadence": "often"}, RecipeError, "cadence: 'often'"),
        ({"frames": (0, 4)}, DataError, "Rain, coarse: no 6 successive frames"),
    ],
)
def test_a_set_that_cannot_be_used_is_named_before_anything_is_computed(
    recipe: ComparisonRecipe, change: dict[str, Any], kind: type[Exception], line: str
) -> None:
    sets = (recipe.sets[0].model_copy(update=change), recipe.sets[1])
    with pytest.raises(kind, match=line) as caught:
        run_comparison(recipe.model_copy(update={"sets": sets[::-1]}))
    assert "\n" not in str(caught.value)
    assert not Path(recipe.output.folder).exists()


def test_models_and_names_that_cannot_be_are_refused(recipe: ComparisonRecipe) -> None:
    with pytest.raises(RecipeError, match="'traffic' is there twice"):
        run_comparison(recipe.model_copy(update={"sets": (recipe.sets[1], recipe.sets[1])}))
    with pytest.raises(RecipeError, match="climatology, expected models and references that need no training"):
        run_comparison(recipe.model_copy(update={"models": ("default", "climatology")}))
    with pytest.raises(RecipeError, match="no reference among them"):
        run_comparison(recipe.model_copy(update={"models": ("default", "default")}))


def test_two_comparisons_do_not_write_one_folder(recipe: ComparisonRecipe) -> None:
    from sa_nowcast.storage.whole import locked
    from sa_nowcast.training.fit import LOCK

    folder = Path(recipe.output.folder)
    folder.mkdir()
    with locked(folder / LOCK, folder), pytest.raises(StorageError, match="process"):
        run_comparison(recipe)
