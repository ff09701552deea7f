"""Several forecasts on one sample, in one table and one figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sa_nowcast.errors import DataError, ForecastWarning, RecipeError
from sa_nowcast.plotting import plot_scores
from sa_nowcast.verification import compare, persistence, to_table, verify

from .conftest import forecast_of, observations


def test_without_anything_missing_each_gets_the_scores_that_verify_gives():
    truth = observations(frames=20)
    archives = {"one": forecast_of(truth, init=range(1, 14)), "two": forecast_of(truth, init=range(1, 14), seed=5)}
    scores = compare(archives, truth, ["mse", "csi"], [1.0], "persistence")
    for name, archive in archives.items():
        alone = verify(archive, truth, ["mse", "csi"], [1.0], "persistence")
        xr.testing.assert_identical(scores[name].drop_attrs(deep=False), alone.drop_attrs(deep=False))


def test_the_sample_is_what_all_have_by_slow_counting():
    truth = observations(frames=20, seed=3)
    one = forecast_of(truth, init=range(1, 14), leads=(1, 2, 3))
    two = forecast_of(truth, init=range(3, 16), leads=(2, 3, 4), seed=5, members=3)
    one[4, 1, 2, 2] = np.nan
    two[1, 6, 0, 4, 5] = np.inf
    scores = compare(
        {"one": one, "two": two.mean("realization"), "all": two}, truth, ["mse", "crps"], valid_times="all"
    )
    total, count = np.zeros(2), np.zeros(2)
    mean = two.mean("realization")
    for init in np.intersect1d(one["init_time"], two["init_time"]):
        for j, lead in enumerate(np.intersect1d(one["lead_time"], two["lead_time"])):
            a, b = (d.sel(init_time=init, lead_time=lead).values for d in (one, mean))
            seen = truth.sel(time=init + lead).values
            there = np.isfinite(a) & np.isfinite(b)
            total[j] += ((b - seen)[there] ** 2).sum()
            count[j] += there.sum()
    for name in ("two", "all"):
        np.testing.assert_allclose(scores[name]["mse"], total / count, rtol=1e-12)
    for each in scores.values():
        np.testing.assert_array_equal(each["count"], count)
    assert (scores["all"]["crps"] < scores["two"]["crps"]).all()
    assert scores["one"].attrs["compared_with"] == "two, all"


def test_a_forecast_upside_down_or_with_its_variables_in_another_order_is_the_same_forecast():
    truth = observations(frames=12, channels=2)
    one = forecast_of(truth)
    one[1, 1, 0, 2, 3] = np.nan
    other = one.isel(y=slice(None, None, -1), channel=[1, 0]).transpose("lead_time", "x", ...)
    scores = compare({"one": one, "other": other}, truth, ["mse"])
    np.testing.assert_allclose(scores["one"]["mse"], scores["other"]["mse"].sel(channel=["c0", "c1"]), rtol=1e-12)


def test_lazy_archives_give_the_same_scores_as_loaded_ones():
    truth = observations(frames=20)
    archives = {"one": forecast_of(truth, init=range(1, 14)), "two": forecast_of(truth, init=range(2, 15), seed=2)}
    archives["one"][3, 1, 2] = np.nan
    lazy = {name: a.chunk(init_time=3 + i) for i, (name, a) in enumerate(archives.items())}
    for loaded, later in zip(compare(archives, truth).values(), compare(lazy, truth).values(), strict=True):
        xr.testing.assert_allclose(loaded, later, rtol=1e-12)


def test_single_forecasts_from_one_init_time_are_compared_too():
    truth = observations(frames=12)
    archive = forecast_of(truth)
    still = persistence(truth, init_time=archive["init_time"].values[2], lead_times=archive["lead_time"].values)
    scores = compare({"one": archive, "persistence": still}, truth, ["mse"])
    np.testing.assert_allclose(scores["one"]["mse"], verify(archive[2], truth, ["mse"])["mse"], rtol=1e-12)


def test_the_reference_may_be_one_of_the_forecasts_and_is_drawn_once():
    truth = observations(frames=20)
    archive = forecast_of(truth, init=range(1, 14))
    still = persistence(truth, init_time=archive["init_time"].values, lead_times=archive["lead_time"].values)
    scores = compare({"persistence": still, "network": archive}, truth, ["mse"], reference="persistence")
    made = compare({"network": archive}, truth, ["mse"], reference="persistence")
    np.testing.assert_allclose(scores["network"]["mse_skill"], made["network"]["mse_skill"], rtol=1e-12)
    np.testing.assert_allclose(scores["network"]["mse_skill_lower"], made["network"]["mse_skill_lower"], rtol=1e-12)
    figure = plot_scores(scores)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["network", "persistence"]
    mse, skill = figure.axes
    assert [line.get_linestyle() for line in mse.lines] == ["--", "-"]
    assert skill.get_title() == "mse skill"
    assert len(skill.collections) == 1  # the interval


def test_the_wide_table_has_a_column_for_each_model_and_a_row_for_each_label_and_lead_time():
    truth = observations(frames=20)
    archives = {
        "one": forecast_of(truth, init=range(1, 14)),
        "members": forecast_of(truth, init=range(1, 14), members=3),
    }
    scores = compare(archives, truth, ["mse", "csi", "crps_fair"], [0.5, 2.0], "persistence")
    table = to_table(scores, layout="wide")
    assert list(table.columns) == [
        "metric", "units", "threshold", "lead_time_minutes", "one", "members", "persistence",
    ]  # fmt: skip
    assert table.groupby("metric").size().to_dict() == {"crps_fair": 3, "csi": 6, "mse": 3}
    row = table[(table["metric"] == "csi") & (table["threshold"] == 2.0) & (table["lead_time_minutes"] == 10)]
    assert len(row) == 1
    for name in archives:
        assert row[name].item() == scores[name]["csi"].sel(threshold=2.0).values[1]
    assert row["persistence"].item() == scores["one"]["csi_persistence"].sel(threshold=2.0).values[1]
    assert table.loc[table["metric"] == "crps_fair", "one"].isna().all()
    long = to_table(scores)
    assert set(long["model"]) == set(archives)
    pd.testing.assert_frame_equal(
        table.loc[table["metric"] == "mse", "one"].reset_index(drop=True).to_frame("value"),
        long.loc[(long["metric"] == "mse") & (long["model"] == "one"), ["value"]].reset_index(drop=True),
    )
    assert list(to_table(scores["one"], layout="wide").columns)[-2:] == ["value", "persistence"]


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"forecasts": {}}, RecipeError, "none are given, expected a mapping"),
        ({"reference": "network"}, RecipeError, "'network' is unknown, expected one of one, two, persistence"),
        ({"two": "late"}, DataError, r"share no init time: one 2019-06-10T00:05 to .*; two 2019-06-10T00:30 to"),
        ({"two": "far"}, DataError, "share no lead time: one 5 min to 15 min; two 20 min to 25 min"),
        ({"two": "small"}, DataError, r"two is on the grid y 5 .*expected the forecast's y 6"),
        ({"two": "units"}, DataError, "truth is in mm h-1, expected the forecast's dBZ"),
        ({"metrics": ["rank_histogram"]}, RecipeError, "rank_histogram of 1 member"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(change, kind, match):
    truth = observations(frames=20)
    other = {
        "late": forecast_of(truth, init=(6, 7)),
        "far": forecast_of(truth, leads=(4, 5)),
        "small": forecast_of(truth).isel(y=slice(1, None)),
        "units": forecast_of(truth).assign_attrs(units="dBZ"),
        None: forecast_of(truth),
    }[change.pop("two", None)]
    told = {"forecasts": {"one": forecast_of(truth), "two": other}, "metrics": ["mse"], **change}
    with pytest.raises(kind, match=match) as caught:
        compare(truth=truth, **told)
    assert "\n" not in str(caught.value)


def test_a_forecast_that_takes_pairs_from_all_is_named():
    truth = observations(frames=20)
    good, gappy = forecast_of(truth, init=range(1, 14)), forecast_of(truth, init=range(1, 14), seed=5)
    gappy[3:5] = np.nan
    gappy[8, 2] = np.nan
    with pytest.warns(
        ForecastWarning, match=r"^3 init times are left out .* 2019-06-10T00:20: gappy has no value for 3$"
    ):
        scores = compare({"good": good, "gappy": gappy}, truth, ["mse"])
    for each in scores.values():
        assert "gappy has no value for 3" in each.attrs["left_out"]
    with pytest.warns(ForecastWarning, match="sprog has no value for 3"):
        alone = verify(good, truth, ["mse"], reference=gappy, reference_name="sprog")
    assert "sprog has no value for 3" in alone.attrs["left_out"]
    with pytest.warns(ForecastWarning, match="rain has no value for 3"):
        verify(gappy, truth, ["mse"], reference="persistence")


def test_truth_without_values_is_named_and_nothing_is_said_where_only_pixels_are_missing():
    truth = observations(frames=20)
    archive = forecast_of(truth, init=range(1, 14))
    archive[:, :, 0] = np.nan
    assert "left_out" not in verify(archive, truth, ["mse"]).attrs
    with pytest.warns(
        ForecastWarning, match="1 init times are left out .*: the truth, or no pixel of all at once, for 1$"
    ):
        verify(archive[:1], truth.where(truth["time"] != truth["time"][2]), ["mse"])


def test_metrics_are_known_in_any_case_and_unknown_ones_name_the_nearest():
    truth = observations(frames=12)
    archive = forecast_of(truth, members=3)
    told = ["CSI", "Mse", "CRPS", "Frame-MSE", "crps fair", " PSNR "]
    scores = verify(archive, truth, told, [1.0], data_range=(0, 100))
    plain = verify(archive, truth, ["csi", "mse", "crps", "frame_mse", "crps_fair", "psnr"], [1.0], data_range=(0, 100))
    xr.testing.assert_identical(scores, plain)
    with pytest.raises(RecipeError, match=r"^RECIPE metrics: 'CSJ' is unknown, expected csi\.$"):
        verify(archive, truth, ["CSJ"], [1.0])
    with pytest.raises(RecipeError, match=r"'RSME' is unknown, expected rmse"):
        compare({"a": archive}, truth, ["RSME"])
    assert plot_scores(scores, metrics=["MSE"]).axes
