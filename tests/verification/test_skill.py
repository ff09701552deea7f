"""References, common valid times and the interval of the skill."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.verification import Bootstrap, persistence, verify
from sa_nowcast.verification.bootstrap import block_length, block_weights
from sa_nowcast.verification.summary import common_pairs

from .conftest import MINUTE, START, forecast_of, observations


@pytest.fixture(scope="module")
def truth():
    return observations(frames=40, y=5, x=6)


@pytest.fixture(scope="module")
def archive(truth):
    return forecast_of(truth, init=range(2, 34))


def test_persistence_verified_against_persistence_has_no_skill_and_no_interval_width(truth):
    leads = np.arange(1, 4) * 5 * MINUTE
    still = persistence(truth, init_time=truth["time"].values[2:30], lead_times=leads)
    scores = verify(still, truth, ["mse", "csi"], [1.0], reference="persistence")
    np.testing.assert_array_equal(scores["mse"], scores["mse_persistence"])
    for name in ("mse_skill", "mse_skill_lower", "mse_skill_upper", "csi_skill"):
        np.testing.assert_array_equal(scores[name], 0.0)


def test_a_perfect_forecast_has_skill_one(truth):
    scores = verify(
        forecast_of(truth, init=range(30), noise=0.0), truth, ["mse", "csi", "far"], [1.0], reference="persistence"
    )
    for name in ("mse_skill", "csi_skill", "far_skill"):
        np.testing.assert_array_equal(scores[name], 1.0)


def test_named_persistence_equals_the_same_forecast_given_as_an_array(archive, truth):
    still = persistence(truth, init_time=archive["init_time"].values, lead_times=archive["lead_time"].values)
    named = verify(archive, truth, ["mse", "csi"], [1.0], reference="persistence")
    given = verify(archive, truth, ["mse", "csi"], [1.0], reference=still, reference_name="persistence")
    xr.testing.assert_identical(named, given)


def test_a_reference_may_hold_more_init_and_lead_times_in_any_order(archive, truth):
    still = persistence(truth, init_time=truth["time"].values[:36], lead_times=np.arange(1, 9) * 5 * MINUTE)
    mixed = still.isel(init_time=slice(None, None, -1), lead_time=slice(None, None, -1)).transpose(..., "init_time")
    expected = verify(archive, truth, ["mse"], reference="persistence")
    np.testing.assert_array_equal(verify(archive, truth, ["mse"], reference=mixed)["mse_skill"], expected["mse_skill"])


def test_skill_is_one_minus_the_ratio_on_the_same_sample(archive, truth):
    scores = verify(archive, truth, ["mse", "mae"], reference="persistence")
    for name in ("mse", "mae"):
        np.testing.assert_allclose(scores[f"{name}_skill"], 1 - scores[name] / scores[f"{name}_persistence"])


def test_with_a_reference_the_sample_is_the_valid_times_that_all_lead_times_share(archive, truth):
    scores = verify(archive, truth, ["mse"], reference="persistence")
    assert scores.attrs["sample"] == "the valid times that all lead times share"
    # 32 init times and 3 lead times: the first valid time of lead 3 and the last of lead 1 bound 30 of them.
    np.testing.assert_array_equal(scores["forecasts"], 30)
    kept = []
    for i, start in enumerate(archive["init_time"].values):
        valid = start + archive["lead_time"].values[0]
        if valid >= truth["time"].values[5]:
            kept.append((archive.values[i, 0] - truth.sel(time=valid).values) ** 2)
    assert scores["mse"].values[0] == pytest.approx(np.mean(kept), rel=1e-12)


def test_without_a_reference_the_sample_is_all_pairs(archive, truth):
    np.testing.assert_array_equal(verify(archive, truth, ["mse"])["forecasts"], 32)


def test_a_single_forecast_shares_no_valid_time_and_is_scored_on_all(archive, truth):
    scores = verify(archive.isel(init_time=3), truth, ["mse"], reference="persistence")
    assert "share no valid time" in scores.attrs["sample"]
    np.testing.assert_array_equal(scores["forecasts"], 1)
    assert "mse_skill_lower" not in scores


def test_common_pairs_of_a_gap_in_the_init_times():
    init = START + np.array([0, 1, 2, 10, 11, 12]) * MINUTE
    common = common_pairs(init, np.array([1, 2]) * MINUTE)
    assert common.sum(axis=0).tolist() == [4, 4]


def test_the_interval_holds_the_skill_and_repeats_exactly(archive, truth):
    first = verify(archive, truth, ["mse"], reference="persistence")
    again = verify(archive, truth, ["mse"], reference="persistence")
    other = verify(archive, truth, ["mse"], reference="persistence", bootstrap=Bootstrap(seed=1))
    xr.testing.assert_identical(first, again)
    assert (first["mse_skill_lower"] <= first["mse_skill"]).all()
    assert (first["mse_skill"] <= first["mse_skill_upper"]).all()
    assert (first["mse_skill_lower"] != other["mse_skill_lower"]).any()


def test_the_interval_covers_the_true_skill_about_as_often_as_it_says():
    """With errors independent from one init time to the next, a 90 % interval covers in 44 to 59 of 60 trials."""
    covered, trials = 0, 60
    leads = np.array([5]) * MINUTE
    times = START + np.arange(61) * 5 * MINUTE
    space = {"y": [0.0, 1.0], "x": [0.0, 1.0]}
    zero = xr.DataArray(np.zeros((61, 2, 2)), dims=("time", "y", "x"), coords={"time": times, **space})
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        values = generator.normal(size=(2, 60, 1, 2, 2)) * np.array([0.8, 1.0]).reshape(2, 1, 1, 1, 1)
        mine, other = (
            xr.DataArray(
                v,
                dims=("init_time", "lead_time", "y", "x"),
                coords={"init_time": times[:60], "lead_time": leads, **space},
            )
            for v in values
        )
        scores = verify(mine, zero, ["mse"], reference=other, bootstrap=Bootstrap(samples=200))
        covered += bool(scores["mse_skill_lower"].item() <= 1 - 0.64 <= scores["mse_skill_upper"].item())
    assert 44 <= covered <= 59


def test_block_weights_draw_whole_blocks_of_each_sample_size():
    weights = block_weights(10, 3, 500, seed=0)
    assert weights.shape == (500, 10)
    np.testing.assert_array_equal(weights.sum(axis=1), 10)
    np.testing.assert_allclose(weights.mean(axis=0), 1.0, atol=0.2)


def test_a_block_is_as_long_as_the_longest_lead_time():
    init = START + np.arange(30) * 5 * MINUTE
    assert block_length(init, np.array([5, 60]) * MINUTE) == 12
    assert block_length(init, np.array([5]) * MINUTE) == 4
    assert block_length(init[:1], np.array([5]) * MINUTE) == 1


def test_zero_samples_make_no_interval(archive, truth):
    scores = verify(archive, truth, ["mse"], reference="persistence", bootstrap=Bootstrap(samples=0))
    assert "mse_skill" in scores
    assert "mse_skill_lower" not in scores


def test_impossible_bootstrap_and_sample_are_refused(archive, truth):
    with pytest.raises(RecipeError, match="level between 0 and 1"):
        Bootstrap(level=1.5)
    with pytest.raises(RecipeError, match=r'valid_times: is .some., expected "common" or "all"'):
        verify(archive, truth, ["mse"], valid_times="some")


def test_metrics_without_a_direction_have_no_skill(archive, truth):
    scores = verify(archive, truth, ["mean_error", "frequency_bias"], [1.0], reference="persistence")
    assert "mean_error_persistence" in scores
    assert not [name for name in scores if "skill" in str(name)]


def test_the_mean_absolute_error_of_a_deterministic_reference_is_its_crps(truth):
    forecast = forecast_of(truth, init=range(2, 20), members=4)
    scores = verify(forecast, truth, ["crps", "mae", "spread"], reference="persistence")
    np.testing.assert_allclose(scores["crps_persistence"], scores["mae_persistence"], rtol=1e-12)
    assert "spread_persistence" not in scores


def test_common_pairs_of_init_times_that_rounding_moved():
    init = START + np.arange(6) * MINUTE
    jitter = np.array([0, 300, -300, 200, 0, -100], dtype="timedelta64[ns]")
    exact, rounded = (common_pairs(times, np.array([1, 2, 3]) * MINUTE) for times in (init, init + jitter))
    assert exact.sum() == 12
    np.testing.assert_array_equal(rounded, exact)
