"""Scores of fields small enough to be reckoned by hand, and against formulas written out in loops."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError
from sa_nowcast.verification import METRICS, verify
from sa_nowcast.verification.sums import WindowSums, to_bytes

from .conftest import MINUTE, START, forecast_of, observations


def one_frame(forecast, truth, units="mm h-1"):
    """A forecast of one lead time and its truth, from two lists of rows."""
    forecast, truth = np.asarray(forecast, float), np.asarray(truth, float)
    lead = np.array([5]) * MINUTE
    fc = xr.DataArray(
        forecast[None],
        dims=("lead_time", "y", "x"),
        coords={"lead_time": lead, "init_time": START},
        attrs={"units": units},
        name="rain",
    )
    obs = xr.DataArray(
        truth[None], dims=("time", "y", "x"), coords={"time": [START + lead[0]]}, attrs={"units": units}, name="rain"
    )
    return fc, obs


def test_pixel_errors_are_means_over_pixels_in_physical_units():
    scores = verify(*one_frame([[1, 2], [3, 0]], [[1, 0], [0, 0]]), ["mse", "rmse", "mae", "mean_error"])
    assert scores["mse"].item() == 13 / 4
    assert scores["rmse"].item() == np.sqrt(13 / 4)
    assert scores["mae"].item() == 5 / 4
    assert scores["mean_error"].item() == 5 / 4
    assert scores["mse"].attrs["units"] == "(mm h-1)2"
    assert scores["mae"].attrs["units"] == "mm h-1"
    assert scores["count"].item() == 4


def test_an_event_is_a_value_at_or_above_the_threshold():
    fc, obs = one_frame([[1.0, 1.0, 0.9, 0.0]], [[1.0, 0.0, 1.0, 0.0]])
    scores = verify(fc, obs, ["csi", "pod", "far", "frequency_bias"], thresholds=[1.0])
    assert scores["csi"].item() == 1 / 3
    assert scores["pod"].item() == 1 / 2
    assert scores["far"].item() == 1 / 2
    assert scores["frequency_bias"].item() == 1.0


def test_scores_without_an_event_are_nan_and_not_zero():
    scores = verify(*one_frame([[0, 0]], [[0, 0]]), ["csi", "pod", "far", "frequency_bias", "fss"], thresholds=[1.0])
    for name in ("csi", "pod", "far", "frequency_bias", "fss"):
        assert np.isnan(scores[name]).all(), name


def test_frame_errors_are_sums_over_a_frame_and_its_channels():
    truth = observations(channels=2) / 100
    forecast = forecast_of(truth, noise=0.02)
    scores = verify(forecast, truth, ["frame_mse", "frame_mae"], thresholds=[1])
    squares, sizes = [], []
    for i in range(4):
        for j in range(3):
            error = forecast.values[i, j] - truth.values[i + 1 + j + 1]
            squares.append((i, j, (error**2).sum()))
            sizes.append(np.abs(error).sum())
    for j in range(3):
        mine = [value for _, lead, value in squares if lead == j]
        assert scores["frame_mse"].values[j] == pytest.approx(np.mean(mine), rel=1e-12)
    assert float(scores["frame_mae"].mean()) == pytest.approx(np.mean(sizes), rel=1e-12)
    assert "channel" not in scores["frame_mse"].dims


def test_data_range_sets_the_scale_of_frame_errors():
    fc, obs = one_frame([[50.0, 100.0]], [[0.0, 100.0]])
    assert verify(fc, obs, ["frame_mse"], data_range=(0, 100))["frame_mse"].item() == 0.25


def test_clip_clips_the_forecast_and_only_for_metrics_on_the_unit_range():
    fc, obs = one_frame([[3.0, 0.0]], [[1.0, 0.0]])
    clipped = verify(fc, obs, ["frame_mse", "mse"], clip=True)
    assert clipped["frame_mse"].item() == 0
    assert clipped["mse"].item() == 2
    assert verify(fc, obs, ["frame_mse"])["frame_mse"].item() == 4


def test_truth_outside_the_data_range_is_refused():
    with pytest.raises(DataError, match=r"a value is 7, expected 0 to 1.*data_range"):
        verify(*one_frame([[0.5, 0.5]], [[7.0, 0.0]]), ["frame_mse"])


def test_psnr_of_a_tenth_of_the_range_is_twenty_decibels():
    fc, obs = one_frame(np.full((4, 4), 0.6), np.full((4, 4), 0.5))
    assert verify(fc, obs, ["psnr"])["psnr"].item() == pytest.approx(20.0)


def test_psnr_of_bytes_does_not_wrap_round():
    fc, obs = one_frame(np.zeros((2, 2)), np.full((2, 2), 1.0))
    assert verify(fc, obs, ["psnr"])["psnr_uint8"].item() == pytest.approx(0.0)
    assert to_bytes(np.array([0.999, -1.0, 2.0])).tolist() == [254, 0, 255]


def test_psnr_is_averaged_over_frames_and_not_reckoned_from_the_mean_error():
    truth = observations(frames=4) * 0
    forecast = forecast_of(truth, init=(0, 1), leads=(1,), noise=0.0)
    forecast[0] = 0.1
    forecast[1] = 0.01
    assert verify(forecast, truth, ["psnr"], valid_times="all")["psnr"].item() == pytest.approx(30.0)


def test_ssim_of_equal_frames_is_one_under_every_convention():
    truth = observations(y=12, x=9) / 50
    scores = verify(forecast_of(truth, noise=0.0), truth, ["ssim"])
    for name in ("ssim", "ssim_range2", "ssim_uint8"):
        np.testing.assert_allclose(scores[name], 1.0, rtol=1e-12)


def test_ssim_leaves_out_windows_that_touch_a_missing_pixel():
    truth = observations(y=16, x=16) / 50
    forecast = forecast_of(truth, noise=0.05)
    holed = truth.copy()
    holed[:, :, 8:] = np.nan
    left = verify(forecast[..., :8], truth[..., :8], ["ssim"])
    np.testing.assert_allclose(verify(forecast, holed, ["ssim"])["ssim"], left["ssim"], rtol=1e-12)


def test_frames_smaller_than_the_window_have_no_ssim():
    with pytest.raises(DataError, match="frames are 2 × 2, expected 7 × 7"):
        verify(*one_frame([[0, 0], [0, 0]], [[0, 0], [0, 0]]), ["ssim"])


def test_missing_scikit_image_is_answered_with_the_install_command(monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    truth = observations(y=8, x=8) / 50
    with pytest.raises(MissingLibraryError, match=re.escape(install("verify"))):
        verify(forecast_of(truth), truth, ["ssim"])


@pytest.mark.parametrize("width", [1, 3, 5, 11])
def test_window_sums_equal_the_loop_over_pixels(width):
    values = np.random.default_rng(3).integers(0, 5, (6, 9))
    expected = np.zeros_like(values)
    half = width // 2
    for i in range(6):
        for j in range(9):
            expected[i, j] = values[max(0, i - half) : i + half + 1, max(0, j - half) : j + half + 1].sum()
    np.testing.assert_array_equal(WindowSums(values, 11).of(width), expected)


def test_fss_of_an_event_missed_by_one_pixel_grows_with_the_neighbourhood():
    forecast, truth = np.zeros((21, 21)), np.zeros((21, 21))
    forecast[10, 10], truth[10, 11] = 5.0, 5.0
    scores = verify(*one_frame(forecast, truth), ["fss"], thresholds=[1.0], neighbourhoods=[1, 3, 5])
    # Two n × n squares that overlap in all but one column: 1 - 2 n / (2 n²).
    np.testing.assert_allclose(scores["fss"].squeeze(), [0.0, 1 - 1 / 3, 1 - 1 / 5], atol=1e-14)


def ensemble_frame(members, truth):
    forecasts, obs = [], None
    for member in members:
        fc, obs = one_frame([[member]], [[truth]])
        forecasts.append(fc)
    return xr.concat(forecasts, "realization"), obs


def test_crps_of_three_members_is_the_written_out_double_sum():
    members, truth = [0.0, 2.0, 5.0], 1.0
    scores = verify(*ensemble_frame(members, truth), ["crps", "crps_fair"])
    near = np.mean([abs(m - truth) for m in members])
    pairs = sum(abs(a - b) for a in members for b in members)
    assert scores["crps"].item() == pytest.approx(near - pairs / (2 * 9))
    assert scores["crps_fair"].item() == pytest.approx(near - pairs / (2 * 6))


def test_crps_of_one_member_is_its_absolute_error():
    truth = observations()
    scores = verify(forecast_of(truth), truth, ["crps", "mae"])
    np.testing.assert_allclose(scores["crps"], scores["mae"], rtol=1e-13)


def test_rank_histogram_counts_a_tie_in_one_of_the_ranks_that_it_could_have():
    scores = verify(*ensemble_frame([0.0, 0.0, 3.0], 0.0), ["rank_histogram"])
    assert sorted(scores["rank_histogram"].squeeze()[:3]) == [0.0, 0.0, 1.0]
    scores = verify(*ensemble_frame([1.0, 2.0, 3.0], 2.5), ["rank_histogram"])
    np.testing.assert_array_equal(scores["rank_histogram"].squeeze(), [0.0, 0.0, 1.0, 0.0])


def test_spread_and_spread_skill_of_two_members():
    scores = verify(*ensemble_frame([1.0, 3.0], 5.0), ["spread", "spread_skill"])
    assert scores["spread"].item() == pytest.approx(np.sqrt(2.0))
    assert scores["spread_skill"].item() == pytest.approx(np.sqrt(1.5 * 2.0) / 3.0)


def test_errors_are_those_of_the_mean_of_an_ensemble():
    truth = observations()
    forecast = forecast_of(truth, members=4)
    mean = forecast.mean("realization", keep_attrs=True)
    names = ["mse", "mae", "mean_error"]
    xr.testing.assert_allclose(verify(forecast, truth, names), verify(mean, truth, names))


def test_every_metric_states_its_convention_its_name_and_units():
    truth = observations(y=8, x=8)
    scores = verify(forecast_of(truth, members=3), truth, list(METRICS), data_range=(0, 100))
    assert set(METRICS) <= set(scores.data_vars)
    for name in METRICS:
        assert {"long_name", "convention", "units"} <= set(scores[name].attrs), name


def test_scores_are_written_to_netcdf_and_read_back(tmp_path):
    truth = observations()
    scores = verify(forecast_of(truth), truth, ["mse", "csi", "frame_mse"], reference="persistence", data_range=(0, 99))
    scores.to_netcdf(tmp_path / "scores.nc")
    with xr.open_dataset(tmp_path / "scores.nc", decode_timedelta=True) as back:
        xr.testing.assert_equal(back.load(), scores)
