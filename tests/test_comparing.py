"""Models side by side on several datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sequences import rain, traffic

from sa_nowcast import open_sample
from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.hindcast import hindcast
from sa_nowcast.recipe import ComparisonRecipe, OutputRecipe, SetRecipe
from sa_nowcast.verification import compare
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
    assert set(ours["best"]) <= {"extrapolation", "persistence"}
    for row in ours.itertuples():
        assert row.of_best == pytest.approx(1 - min(row.skill_persistence, row.skill_extrapolation))


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


RAIN_MODELS = (
    "default", "default:matched", "persistence", "extrapolation", "extrapolation+0.5px", "extrapolation+4px", "sprog",
    "sprog-unmatched", "steps-mean",
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[ComparisonRecipe, pd.DataFrame]:
    """Real rain beside counts, by all references, scored at thresholds too."""
    folder = tmp_path_factory.mktemp("comparison")
    part = {"latitude": slice(288, 352), "longitude": slice(160, 224), "time": slice(6, 26)}
    open_sample("mrms").isel(part).to_netcdf(folder / "rain.nc")
    traffic(14).to_netcdf(folder / "traffic.nc")
    sets = tuple(SetRecipe(name=name, source=str(folder / f"{name}.nc"), stride=3) for name in ("rain", "traffic"))
    told = ComparisonRecipe(
        name="trial", steps=3, sets=sets, models=RAIN_MODELS, metrics=("csi", "frequency_bias", "mae"),
        thresholds=(0.1, 1.0), output=OutputRecipe(folder=str(folder / "run")),
    )  # fmt: skip
    return told, run_comparison(told).scores.fillna({"field": ""})


def test_references_and_scores_of_rain_are_of_rain_alone(shared: tuple[ComparisonRecipe, pd.DataFrame]) -> None:
    told, scores = shared
    of_rain, of_counts = (scores[scores["set"] == name] for name in ("rain", "traffic"))
    assert set(of_rain["model"]) == set(RAIN_MODELS)
    assert set(RAIN_MODELS) - set(of_counts["model"]) == {"sprog", "sprog-unmatched", "steps-mean"}
    events = ["csi_0.1", "csi_1", "frequency_bias_0.1", "frequency_bias_1"]
    assert of_rain[[*events, "mae"]].notna().all(axis=None)
    assert of_counts[events].isna().all(axis=None)
    assert of_counts["mae"].notna().all()
    lines: list[str] = []
    run_comparison(told, report=lines.append, dry_run=True)
    assert lines[1] == "traffic: 14 frames, 3 init times; not in mm h-1, so without sprog, sprog-unmatched, steps-mean"


def test_all_scores_are_those_of_the_pixels_that_all_models_have(shared: tuple[ComparisonRecipe, pd.DataFrame]) -> None:
    told, scores = shared
    ds = open_set(told.sets[0]).load()
    inits = ds["time"].values[3:16:3]
    archives = {
        name: hindcast(ds, name, 3, init_times=inits).compute() for name in RAIN_MODELS if not name.startswith("def")
    }
    archives["default"] = hindcast(ds, None, 3, init_times=inits).compute()
    archives["default:matched"] = hindcast(ds, None, 3, init_times=inits, product="matched").compute()
    expected = compare(archives, ds, ["mse", "csi", "frequency_bias"], [0.1, 1.0], valid_times="all")
    for name, one in expected.items():
        mine = scores[(scores["set"] == "rain") & (scores["model"] == name)]
        np.testing.assert_allclose(mine["mse"], one["mse"], rtol=1e-5)
        np.testing.assert_allclose(mine["csi_1"], one["csi"].sel(threshold=1.0), atol=1e-4)
        np.testing.assert_allclose(mine["frequency_bias_0.1"], one["frequency_bias"].sel(threshold=0.1), atol=1e-4)
        np.testing.assert_array_equal(mine["pixels"], one["count"])
        np.testing.assert_array_equal(mine["init_times"], one["forecasts"])


def test_one_growth_of_width_is_chosen_for_a_set_and_the_best_reference_for_a_lead_time(
    shared: tuple[ComparisonRecipe, pd.DataFrame],
) -> None:
    _, scores = shared
    for _, rows in scores.groupby(["set", "field"]):
        mse = rows.pivot(index="lead", columns="model", values="mse")
        grown = ["extrapolation+0.5px", "extrapolation+4px"]
        worse = (mse[grown].div(mse["persistence"], axis=0)).sum().idxmax()
        left = mse.drop(columns=[worse, "default", "default:matched"], errors="ignore")
        best = rows.set_index(["lead", "model"])["best"].unstack("model")
        assert (best.eq(left.idxmin(axis=1), axis=0)).all(axis=None)
        of_best = rows.pivot(index="lead", columns="model", values="of_best")
        np.testing.assert_allclose(of_best, mse.div(left.min(axis=1), axis=0), rtol=1e-9)
    rain = scores[(scores["set"] == "rain") & (scores["model"] == "default")]
    assert (rain["of_best_lower"] <= rain["of_best"]).all()
    assert (rain["of_best"] <= rain["of_best_upper"]).all()


def test_forecasts_of_other_models_stay_where_one_is_changed(
    shared: tuple[ComparisonRecipe, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, scores = shared
    computed: list[Any] = []
    real = comparing.hindcast

    def counting(data: Any, model: Any, *args: Any, **options: Any) -> Any:
        computed.append(model)
        return real(data, model, *args, **options)

    monkeypatch.setattr(comparing, "hindcast", counting)
    lines: list[str] = []
    kept = ("persistence", "extrapolation+4px", "steps-mean", "sprog")
    fewer = told.model_copy(update={"models": kept, "sets": told.sets[:1]})
    again = run_comparison(fewer, report=lines.append).scores
    assert computed == []
    assert lines == ["trial: opening 1 datasets", "rain (1 of 1)", "rain: scores of 4 models"]
    assert set(again["model"]) == set(kept)
    # What no model is asked for any more is gone.
    run_comparison(told.model_copy(update={"sets": told.sets[:1]}), report=lines.append)
    assert len(computed) == 3
    assert any(line == "rain: default:matched, 5 of 5 init times" for line in lines)
    assert scores["model"].nunique() == len(RAIN_MODELS)


def test_a_saved_model_is_compared_by_its_folder(recipe: ComparisonRecipe, saved: Path, nowcaster: Nowcaster) -> None:
    sets = (recipe.sets[0].model_copy(update={"cells": 1}),)
    told = recipe.model_copy(update={"models": (str(saved), "persistence"), "sets": sets})
    assert set(run_comparison(told).scores["model"]) == {str(saved), "persistence"}


def test_members_are_scored_beside_forecasts_at_several_scales(recipe: ComparisonRecipe) -> None:
    changed = {
        "models": ("default:members", "default", "persistence"),
        "members": 3,
        "metrics": ("crps_fair", "brier_fair", "spread_skill"),
        "thresholds": (0.5,),
        "scales": ("pixel", "10 min"),
        "sets": recipe.sets[:1],
    }
    scores = run_comparison(recipe.model_copy(update=changed)).scores
    ds = open_set(recipe.sets[0]).load()
    times = ds["time"].values[3:12:2]
    members = hindcast(ds, None, 2, init_times=times, members=3).compute()
    expected = members.sa_nowcast.verify(ds, ["crps_fair", "brier_fair"], [0.5], valid_times="all")
    mine = scores[(scores["model"] == "default:members") & (scores["field"] == "pixel")]
    np.testing.assert_allclose(mine["crps_fair"], expected["crps_fair"], rtol=1e-6)
    np.testing.assert_allclose(mine["brier_fair_0.5"], expected["brier_fair"].squeeze("threshold"), rtol=1e-6)
    assert scores[scores["field"] == "10 min"].groupby("model")["mse"].count().tolist() == [1, 1, 1]


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
    with pytest.raises(RecipeError, match="models: no persistence among them"):
        run_comparison(recipe.model_copy(update={"models": ("default", "extrapolation")}))
    with pytest.raises(RecipeError, match="thresholds: none are given for csi"):
        run_comparison(recipe.model_copy(update={"metrics": ("csi",)}))
    with pytest.raises(RecipeError, match="product: 'matched' of sprog"):
        run_comparison(recipe.model_copy(update={"models": ("persistence", "sprog:matched")}))


def test_two_comparisons_do_not_write_one_folder(recipe: ComparisonRecipe) -> None:
    from sa_nowcast.storage.whole import LOCK, locked

    folder = Path(recipe.output.folder)
    folder.mkdir()
    with locked(folder / LOCK, folder), pytest.raises(StorageError, match="process"):
        run_comparison(recipe)
