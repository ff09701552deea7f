"""Pictures of members: what is drawn is what the forecast holds."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from verification.conftest import MINUTE, forecast_of, observations

from sa_nowcast.errors import RecipeError
from sa_nowcast.plotting import plot_members, plot_meteogram, plot_probability

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install matplotlib")


@pytest.fixture(scope="module")
def truth() -> xr.DataArray:
    return observations(frames=10, y=14, x=18)


@pytest.fixture(scope="module")
def forecast(truth) -> xr.DataArray:
    archive = forecast_of(truth, init=(2, 3), leads=(1, 2, 3, 4), members=8, noise=1.0)
    archive[5, 1, 2, 3, 4] = np.nan
    return archive


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def shown(axes):
    """The values of a panel, south in the first row as in the data, NaN where masked."""
    return np.ma.filled(axes.images[0].get_array().astype(float), np.nan)[::-1]


def test_maps_of_probability_hold_the_share_of_members_at_or_above_the_threshold(forecast, truth):
    figure = plot_probability(forecast, 1.0, truth, init_time=forecast["init_time"].values[1])
    maps = panels(figure)
    assert [axes.get_title().partition("\n")[0] for axes in maps] == ["+5 min", "+10 min", "+15 min", "+20 min"]
    for place, axes in enumerate(maps):
        share = 100 * (forecast.values[:, 1, place] >= 1.0).mean(0)
        there = np.isfinite(forecast.values[:, 1, place]).all(0)
        np.testing.assert_allclose(shown(axes), np.where(there, share, np.nan))
        assert len(axes.collections) == 1  # the outline of the truth
    assert np.isnan(shown(maps[2])[3, 4])
    assert "probability of ≥ 1 mm h-1 (%)" in [axes.get_ylabel() for axes in figure.axes]


def test_members_are_drawn_side_by_side_after_truth_and_mean(forecast, truth):
    figure = plot_members(forecast, "10min", truth, members=5, init_time=forecast["init_time"].values[0])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["truth", "mean of 8", *(f"member {i}" for i in range(5))]
    first, mean, *members = panels(figure)
    np.testing.assert_allclose(shown(first), truth.values[4])
    np.testing.assert_allclose(shown(mean), forecast.values[:, 0, 1].mean(0))
    for i, axes in enumerate(members):
        np.testing.assert_allclose(shown(axes), forecast.values[i, 0, 1])
    assert "10 min ahead" in figure.get_suptitle()


def test_a_meteogram_holds_the_quantiles_of_the_members_at_the_nearest_pixel(forecast, truth):
    seen = truth[:6]  # no frame at the last valid time
    figure = plot_meteogram(
        forecast, (3100.0, 6900.0), seen, quantiles=(0.1, 0.5, 0.9), init_time=forecast["init_time"].values[0]
    )
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    values = forecast.values[:, 0, :, 3, 7]
    np.testing.assert_allclose(lines["median"].get_xdata(), [5, 10, 15, 20])
    np.testing.assert_allclose(lines["median"].get_ydata(), np.median(values, 0))
    np.testing.assert_allclose(lines["truth"].get_ydata(), [*truth.values[3:6, 3, 7], np.nan])
    (band,) = axes.collections
    assert band.get_label() == "10% to 90%"
    corners = band.get_paths()[0].vertices
    for k, minutes in enumerate((5, 10, 15, 20)):
        there = corners[corners[:, 0] == minutes][:, 1]
        np.testing.assert_allclose([there.min(), there.max()], np.quantile(values[:, k], [0.1, 0.9]))


def test_a_single_forecast_is_drawn_without_an_init_time_chosen(forecast):
    one = forecast.isel(init_time=0)
    assert len(panels(plot_probability(one, 1.0))) == 4
    assert len(panels(plot_members(one.rename("rain").to_dataset()))) == 9


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda fc: plot_probability(fc[0], 1.0), "it has no members, expected several along realization"),
        (lambda fc: plot_members(fc[:, 0], "7min"), "lead time 7 min is not in it, expected one of 5 min"),
        (lambda fc: plot_meteogram(fc[:, 0], (-5000.0, 0.0)), "y -5000 is outside of the grid, expected 0 to 13000"),
        (lambda fc: plot_meteogram(fc[:, 0], (0.0, 0.0), quantiles=(0.1, 0.9)), "expected an odd number, symmetric"),
        (lambda fc: plot_probability(fc, 1.0), "it has 2 of init_time and none is chosen"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(forecast, draw, words):
    with pytest.raises(RecipeError, match=words):
        draw(forecast)


def test_lead_times_of_hours_are_told_in_hours(truth):
    daily = forecast_of(truth, init=(2,), leads=(1, 2), members=3)
    daily = daily.assign_coords(lead_time=np.array([60, 120]) * MINUTE)
    axes = plot_meteogram(daily.isel(init_time=0), (0.0, 0.0)).axes[0]
    assert axes.get_xlabel() == "time ahead (h)"
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [1, 2])
