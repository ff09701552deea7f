"""What does not fit together is refused in one clear line; what only looks different is not."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from sequences import rounded

from sa_nowcast.errors import DataError, RecipeError, SaNowcastError
from sa_nowcast.metadata.thresholds import check_thresholds
from sa_nowcast.plotting import plot_scores
from sa_nowcast.verification import reference, verify

from .conftest import MINUTE, START, forecast_of, observations


@pytest.fixture
def truth():
    return observations()


@pytest.fixture
def forecast(truth):
    return forecast_of(truth)


def line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_truth_that_lacks_valid_times_is_told_which(forecast, truth):
    with pytest.raises(DataError) as error:
        verify(forecast, truth.isel(time=slice(0, 5)))
    assert "lacks the valid times 2019-06-10T00:25:00, 2019-06-10T00:30:00, 2019-06-10T00:35:00" in line(error)


def test_truth_that_lacks_the_init_times_has_no_persistence(forecast, truth):
    with pytest.raises(DataError) as error:
        verify(forecast, truth.isel(time=slice(2, None)), reference="persistence")
    assert "lacks the init times that persistence starts from, 2019-06-10T00:05:00" in line(error)


def test_other_units_are_shown_both(forecast, truth):
    with pytest.raises(DataError) as error:
        verify(forecast, truth.assign_attrs(units="dBZ"))
    assert "truth is in dBZ, expected the forecast's mm h-1" in line(error)


def test_units_missing_on_one_side_are_refused_and_on_both_accepted(forecast, truth):
    with pytest.raises(DataError, match="no stated units"):
        verify(forecast, truth.drop_attrs())
    verify(forecast.drop_attrs(), truth.drop_attrs())


def test_other_spellings_of_the_same_units_are_the_same_units(forecast, truth):
    verify(forecast, truth.assign_attrs(units="mm/hr"))


def test_another_grid_is_shown_beside_the_forecasts(forecast, truth):
    with pytest.raises(DataError) as error:
        verify(forecast, truth.assign_coords(x=truth["x"] + 250.0))
    assert "y 6 (0 to 5000) × x 7 (250 to 6250)" in line(error)
    assert "the forecast's y 6 (0 to 5000) × x 7 (0 to 6000)" in line(error)
    with pytest.raises(DataError, match="x 6"):
        verify(forecast, truth.isel(x=slice(0, 6)))
    with pytest.raises(DataError, match="y and x among them"):
        verify(forecast, truth.rename(x="longitude"))


def test_truth_with_flipped_axes_is_matched_by_coordinate(forecast, truth):
    expected = verify(forecast, truth, ["mse"])
    xr.testing.assert_identical(verify(forecast, truth[:, ::-1, ::-1], ["mse"]), expected)


def test_coordinates_rounded_to_float32_are_the_same_grid(forecast, truth):
    rounded = truth.assign_coords(x=truth["x"].astype("f4"), y=(truth["y"] + 1e-4).astype("f4"))
    verify(forecast, rounded, ["mse"])


def test_truth_in_another_order_of_times_is_chosen_by_coordinate(forecast, truth):
    expected = verify(forecast, truth, ["mse"])
    shuffled = truth.isel(time=np.random.default_rng(0).permutation(truth.sizes["time"]))
    xr.testing.assert_identical(verify(forecast, shuffled, ["mse"]), expected)


def test_a_repeated_time_is_refused(forecast, truth):
    with pytest.raises(DataError, match="a time is there twice"):
        verify(forecast, truth.isel(time=[0, 0, 1, 2, 3, 4, 5, 6, 7]))
    with pytest.raises(DataError, match="init_time: a value is there twice"):
        verify(forecast.isel(init_time=[0, 0]), truth)


def test_lead_times_read_as_numbers_name_the_remedy(forecast, truth):
    numbers = forecast.assign_coords(lead_time=[1, 2, 3])
    with pytest.raises(DataError, match=r"lead_time: dtype is int64, expected timedelta64.*decode_timedelta=True"):
        verify(numbers, truth)


def test_a_dataset_of_truth_gives_the_variable_of_the_forecasts_name(forecast, truth):
    expected = verify(forecast, truth, ["mse"])
    both = xr.Dataset({"other": truth * 2, "rain": truth})
    xr.testing.assert_identical(verify(forecast, both, ["mse"]), expected)
    xr.testing.assert_identical(verify(forecast.rename("fc"), truth.to_dataset(), ["mse"])["mse"], expected["mse"])
    with pytest.raises(DataError, match="none named as the forecast"):
        verify(forecast.rename("fc"), both)


def test_several_variables_are_scored_each_in_its_units():
    rain, warmth = observations(), observations(seed=5, units="K")
    truth = xr.Dataset({"rain": rain, "warmth": warmth})
    forecasts = {"rain": forecast_of(rain), "warmth": forecast_of(warmth)}
    both = xr.concat(
        [f.drop_attrs() for f in forecasts.values()], xr.Variable("variable", list(forecasts)), combine_attrs="drop"
    ).assign_coords(units=("variable", ["mm h-1", "K"]))
    scores = verify(both, truth, ["mse"], reference="persistence")
    assert scores["mse"].dims == ("lead_time", "variable")
    for name, forecast in forecasts.items():
        alone = verify(forecast, truth[name], ["mse"], reference="persistence")
        np.testing.assert_array_equal(scores["mse"].sel(variable=name), alone["mse"])
    with pytest.raises(DataError, match=r"\['warmth'\] too"):
        verify(both, truth[["rain"]].assign(x2=rain))
    with pytest.raises(DataError, match="expected the forecast's K"):
        verify(both, truth.assign(warmth=warmth.assign_attrs(units="degC")))


def test_a_channel_dimension_of_any_name_is_kept_and_matched_by_label():
    truth = observations(channels=3)
    forecast = forecast_of(truth)
    expected = verify(forecast, truth, ["mse", "csi"], [1.0])
    assert expected["csi"].dims == ("lead_time", "channel", "threshold")
    renamed = verify(forecast.rename(channel="band"), truth.rename(channel="band"), ["mse", "csi"], [1.0])
    np.testing.assert_array_equal(renamed["mse"], expected["mse"])
    assert "band" in renamed.dims
    swapped = truth.isel(channel=[2, 0, 1])
    xr.testing.assert_identical(verify(forecast, swapped, ["mse", "csi"], [1.0]), expected)
    with pytest.raises(DataError, match=r"lacks the channel \['c2'\]"):
        verify(forecast, truth.isel(channel=slice(0, 2)))
    with pytest.raises(DataError, match="has a dimension channel"):
        verify(forecast.isel(channel=0, drop=True), truth)


def test_forecast_with_a_dimension_too_many_is_refused(forecast, truth):
    with pytest.raises(SaNowcastError):
        verify(forecast.expand_dims("height").expand_dims("pressure"), truth)


def test_time_may_have_any_name_and_be_told(forecast, truth):
    expected = verify(forecast, truth, ["mse"])
    xr.testing.assert_identical(verify(forecast, truth.rename(time="when"), ["mse"]), expected)
    xr.testing.assert_identical(verify(forecast, truth.rename(time="when"), ["mse"], time="when"), expected)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([0.0, 1.0], r"thresholds: 0 mm h-1, expected above 0"),
        ([-1.0], r"thresholds: -1 mm h-1, expected above 0"),
        ([1.0, 1.0], r"1 is there twice"),
        ([np.nan], r"nan is not finite"),
        ([5000.0], r"5000 is outside what mm h-1 can hold, expected 0 to 2000 mm h-1"),
        (["30 dBZ"], r"30 is in dBZ, expected the data's units mm h-1"),
        (["much"], r"'much' is not a number"),
        ([], r"is empty"),
    ],
)
def test_thresholds_that_cannot_be_meant_are_refused(forecast, truth, thresholds, message):
    with pytest.raises(RecipeError, match=message) as error:
        verify(forecast, truth, ["csi"], thresholds)
    line(error)


def test_thresholds_may_say_their_units_and_come_sorted(forecast, truth):
    plain = verify(forecast, truth, ["csi"], [0.5, 2.0])
    xr.testing.assert_identical(verify(forecast, truth, ["csi"], ["2 mm/h", 0.5]), plain)
    labelled = xr.DataArray([0.5, 2.0], dims="threshold", attrs={"units": "mm h-1"})
    xr.testing.assert_identical(verify(forecast, truth, ["csi"], labelled), plain)
    with pytest.raises(RecipeError, match=r"0\.5 is in dBZ"):
        check_thresholds(labelled.assign_attrs(units="dBZ"), "mm h-1")


def test_default_metrics_score_events_only_where_thresholds_are_known(forecast, truth):
    assert {"mse", "csi"} <= set(verify(forecast, truth).data_vars)
    plain = verify(forecast.assign_attrs(units="1"), truth.assign_attrs(units="1"))
    assert "csi" not in plain
    with pytest.raises(RecipeError, match=r"thresholds: none are given for csi, expected .* \(1\)"):
        verify(forecast.assign_attrs(units="1"), truth.assign_attrs(units="1"), ["csi"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["mes"]}, r"'mes' is unknown, expected mse"),
        ({"metrics": ["bias"]}, r"expected mean_error or frequency_bias"),
        ({"metrics": []}, r"metrics: is empty"),
        ({"metrics": ["rank_histogram"]}, r"rank_histogram of 1 member"),
        ({"metrics": ["fss"], "neighbourhoods": [4]}, r"4 is given, expected odd"),
        ({"metrics": ["fss"], "neighbourhoods": [99]}, r"99 pixels on a grid 6 wide"),
        ({"metrics": ["frame_mse"], "data_range": (1, 1)}, r"data_range: is 1 to 1"),
        ({"reference": "climatology"}, r"'climatology' is unknown.*reference\('climatology', training=truth\)"),
    ],
)
def test_wrong_arguments_are_told_with_the_right_ones(forecast, truth, options, message):
    with pytest.raises(RecipeError, match=message) as error:
        verify(forecast, truth, **options)
    line(error)


def test_a_reference_without_the_forecasts_times_is_refused(forecast, truth):
    with pytest.raises(DataError, match="reference lacks 1 of the forecast's lead_times"):
        verify(forecast, truth, reference=forecast.isel(lead_time=slice(0, 2)))
    with pytest.raises(DataError, match="reference is in K"):
        verify(forecast, truth, reference=forecast.assign_attrs(units="K"))


def test_one_metric_may_be_named_by_plain_text(forecast, truth):
    assert "mae" in verify(forecast, truth, "mae")


def test_a_single_forecast_of_one_lead_time_without_its_dimension_is_scored(truth):
    one = forecast_of(truth).isel(init_time=0, lead_time=0)
    assert verify(one, truth, ["mse"])["mse"].shape == (1,)
    assert one["init_time"].values + one["lead_time"].values == START + 2 * 5 * MINUTE


def test_what_is_no_data_is_said_in_one_line(forecast, truth):
    for kind, message, call in (
        (RecipeError, "truth: a str, expected a DataArray or Dataset", lambda: verify(forecast, "truth.nc")),
        (DataError, "truth: has a dimension lead_time, so it is a forecast", lambda: verify(forecast, forecast)),
        (
            RecipeError,
            "init_time: 'soon', expected times",
            lambda: reference("persistence").forecast(truth, 2, init_time="soon"),
        ),
        (RecipeError, "no metric is in them", lambda: plot_scores(xr.Dataset())),
    ):
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("units", ["days since 1970-01-01", "days since 0001-01-01"])
def test_times_that_a_file_rounds_are_the_exact_ones(truth, units):
    # pydata/xarray#8468, xcube-dev/xcube#159
    forecast, jittered = forecast_of(truth), rounded(truth, units)
    options = {"metrics": ["mse"], "reference": "persistence"}
    wanted = verify(forecast, truth, **options).mse.values
    np.testing.assert_array_equal(verify(forecast, jittered, **options).mse.values, wanted)
    inits = jittered.time.values[[1, 2, 3, 4]] + np.array([0, 900, -900, 300], dtype="timedelta64[ns]")
    np.testing.assert_array_equal(verify(forecast.assign_coords(init_time=inits), truth, **options).mse.values, wanted)
    ours = reference("persistence").forecast(jittered, 2, init_time=inits)
    np.testing.assert_array_equal(ours.init_time.values, truth.time.values[[1, 2, 3, 4]])


def test_truth_may_have_its_times_under_another_name(truth):
    forecast = forecast_of(truth)
    wanted = verify(forecast, truth, metrics=["mse"]).mse.values
    other = truth.rename(time="Time").assign_coords(XTIME=("Time", truth.time.values)).drop_vars("Time")
    np.testing.assert_array_equal(verify(forecast, other, metrics=["mse"]).mse.values, wanted)
    zoned = truth.assign_coords(time=truth.indexes["time"].tz_localize("UTC"))
    np.testing.assert_array_equal(verify(forecast, zoned, metrics=["mse"]).mse.values, wanted)


def test_of_a_truth_with_several_grids_the_variable_of_the_forecast_counts(truth):
    forecast = forecast_of(truth)
    both = xr.Dataset({truth.name: truth, "model": truth[::2].rename(time="time_model").rename("model")})
    wanted = verify(forecast, truth, metrics=["mse"]).mse.values
    np.testing.assert_array_equal(verify(forecast, both, metrics=["mse"]).mse.values, wanted)
    with pytest.raises(DataError, match=r"variables of different dimensions.*Fix: ds\[\["):
        reference("persistence").forecast(both, 2)


def test_the_time_of_the_day_of_rounded_times_is_the_same_on_every_day():
    frames = observations(3 * 288, 2, 2)
    wanted = reference("climatology", training=frames).forecast(frames, 2)
    ours = reference("climatology", training=rounded(frames)).forecast(rounded(frames), 2)
    np.testing.assert_array_equal(ours.values, wanted.values)
    np.testing.assert_array_equal(ours.valid_time.values, wanted.valid_time.values)


def test_reference_times_are_read_with_their_offset(truth):
    one = reference("persistence").forecast(truth, 1, init_time="2019-06-10T02:10+02:00")
    assert one.init_time.values == np.datetime64("2019-06-10T00:10")
    two = reference("persistence").forecast(truth, 1, init_time=["2019-06-10T00:10Z", "2019-06-10T00:15Z"])
    assert two.sizes["init_time"] == 2
