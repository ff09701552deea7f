"""Diagrams of ensembles: what is drawn is what the scores hold."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from verification.conftest import forecast_of, observations

from sa_nowcast.errors import RecipeError
from sa_nowcast.plotting import plot_diagrams, plot_scores
from sa_nowcast.verification import compare, verify

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install matplotlib")

NAMES = ["mse", "reliability", "roc", "economic_value", "rank_histogram"]


@pytest.fixture(scope="module")
def truth() -> xr.DataArray:
    return observations(frames=20, y=24, x=30)


@pytest.fixture(scope="module")
def scores(truth) -> dict[str, xr.Dataset]:
    wide = forecast_of(truth, init=range(1, 16), members=9, noise=3.0)
    near = forecast_of(truth, init=range(1, 16), members=4, seed=2)
    return compare({"wide": wide, "near": near, "one": near[0]}, truth, NAMES, [1.0, 5.0, 500.0])


def test_the_diagrams_hold_the_scores_of_each_model_at_the_longest_lead_time(scores):
    figure = plot_diagrams(scores)
    titles = [axes.get_title() for axes in figure.axes[:7]]
    events = [f"{name}, ≥ {t} mm h-1" for name in ("reliability", "ROC", "economic value") for t in (1, 5)]
    assert titles == [*events, "rank histogram"]  # nowhere were 500 mm/h
    assert figure.get_suptitle() == "Verification of rain, 15 min ahead"
    reliability, roc, value, ranks = (figure.axes[i] for i in (0, 2, 4, 6))
    last = {name: each.isel(lead_time=-1) for name, each in scores.items()}
    for axes, name in ((reliability, "observed_frequency"), (value, "economic_value")):
        lines = {line.get_label(): line for line in axes.lines}
        for model in ("wide", "near", "one"):
            expected = last[model][name].sel(threshold=1.0)
            np.testing.assert_array_equal(lines[model].get_ydata(), expected)
    curve = next(line for line in roc.lines if line.get_label() == "wide")
    assert (curve.get_xdata()[0], curve.get_ydata()[0], curve.get_xdata()[-1], curve.get_ydata()[-1]) == (1, 1, 0, 0)
    area = -np.trapezoid(curve.get_ydata(), curve.get_xdata())
    assert area == pytest.approx(float(last["wide"]["roc_area"].sel(threshold=1.0)), rel=1e-12)
    bars = {each.get_label(): [bar.get_height() for bar in each] for each in ranks.containers}
    assert set(bars) == {"wide", "near"}
    np.testing.assert_array_equal(bars["wide"], last["wide"]["rank_histogram"])
    assert ranks.containers[0][0].get_facecolor() == ranks.containers[0][-1].get_facecolor()


def test_a_dot_of_the_reliability_diagram_grows_with_its_share_of_forecasts(scores):
    axes = plot_diagrams(scores["wide"], thresholds=[1.0], lead_time="5min").axes[0]
    sizes = axes.collections[0].get_sizes()
    share = scores["wide"]["forecast_share"].isel(lead_time=0).sel(threshold=1.0)
    np.testing.assert_array_equal(np.argsort(sizes), np.argsort(share.values))


def test_scores_by_lead_time_are_drawn_without_those_of_probabilities_and_ranks(scores):
    titles = [axes.get_title() for axes in plot_scores(scores).axes]
    assert titles[:3] == ["mse", "roc area, ≥ 1 mm h-1", "roc area, ≥ 5 mm h-1"]


def test_what_is_not_in_the_scores_is_not_drawn_in_silence(scores, truth):
    with pytest.raises(RecipeError, match=r"lead time .* is not in them, expected one of"):
        plot_diagrams(scores, lead_time="7min")
    with pytest.raises(RecipeError, match=r"threshold 2 is not in them"):
        plot_diagrams(scores, thresholds=[2.0])
    with pytest.raises(RecipeError, match="no diagram is in them"):
        plot_diagrams(verify(forecast_of(truth), truth, ["mse"]))


# --- spread, spectra, bars, kinds and scales


@pytest.fixture(scope="module")
def more(truth) -> xr.Dataset:
    wide = forecast_of(truth, init=range(1, 16), members=9, noise=3.0)
    names = ["reliability", "binned_spread_skill", "spectra", "rank_histogram"]
    return verify(wide, truth, names, [1.0], scales=["pixel", "10 min"])


def test_chosen_kinds_are_drawn_of_the_first_scale(more):
    figure = plot_diagrams(more, ["spread-skill", "spectra"], lead_time="10min")
    spread, power, ratio = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["spread-skill", "power spectrum", "ratio of power"]
    own = more.sel(scale="pixel").isel(lead_time=1)
    there = own["binned_rmse"].notnull()
    np.testing.assert_array_equal(spread.lines[0].get_ydata(), own["binned_rmse"][there])
    np.testing.assert_array_equal(spread.lines[0].get_xdata(), own["binned_spread"][there])
    lines = {line.get_label(): line.get_ydata() for line in power.lines}
    np.testing.assert_array_equal(lines["truth"], own["spectrum_truth"])
    np.testing.assert_array_equal(lines["forecast"], own["spectrum"])
    np.testing.assert_array_equal(ratio.lines[0].get_ydata(), own["spectrum_ratio"])
    assert ratio.get_xlabel() == "wavelength (pixels)"
    left, right = ratio.get_xlim()
    assert left > right  # long waves on the left


def test_another_scale_is_drawn_where_it_is_asked_for(more):
    figure = plot_diagrams(more, ["rank"], lead_time="10min", scale="10 min")
    assert figure.axes[0].get_title() == "rank histogram, over 10 min"
    heights = [bar.get_height() for bar in figure.axes[0].containers[0]]
    np.testing.assert_array_equal(heights, more["rank_histogram"].sel(scale="10 min").isel(lead_time=1))


def test_bars_of_consistency_are_drawn_where_the_scores_have_them(more):
    axes = plot_diagrams(more, ["reliability"], lead_time="5min").axes[0]
    bars = next(each for each in axes.collections if hasattr(each, "get_segments"))
    own = more.sel(scale="pixel", threshold=1.0).isel(lead_time=0)
    for segment, p in zip(bars.get_segments(), own["probability"].values, strict=True):
        ends = [own[f"observed_frequency_consistent_{end}"].sel(probability=p) for end in ("lower", "upper")]
        np.testing.assert_array_equal(segment, [[p, ends[0]], [p, ends[1]]])


def test_a_kind_that_is_not_in_the_scores_is_refused(scores):
    with pytest.raises(RecipeError, match="no spectra is in them, expected scores by the metrics spectra"):
        plot_diagrams(scores, ["roc", "spectra"])


def test_curves_of_scores_have_a_panel_for_each_scale(truth):
    wide = forecast_of(truth, init=range(1, 16), members=9, noise=3.0)
    figure = plot_scores(verify(wide, truth, ["mse"], scales=["pixel", "10 min"]))
    assert [axes.get_title() for axes in figure.axes] == ["mse", "mse, over 10 min"]
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_xdata(), [10])
