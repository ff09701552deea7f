"""The scores equal those of scores, scikit-image and pysteps on real rain, pooled as those libraries pool."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import xarray as xr

from sa_nowcast.verification import persistence, verify

THRESHOLDS = [0.1, 1.0, 5.0]


@pytest.fixture(scope="module")
def pairs(mrms):
    """Persistence from five init times, and its truth by the same coordinates."""
    leads = np.array([4, 8, 16]) * np.timedelta64(1, "m")
    forecast = persistence(mrms, init_time=mrms["time"].values[1:6], lead_times=leads)
    truth = mrms.sel(time=forecast["valid_time"]).drop_vars("time")
    return forecast, truth


@pytest.fixture(scope="module")
def ensemble(pairs, mrms):
    """Six lagged and noisy members without ties."""
    forecast, truth = pairs
    noise = np.random.default_rng(0).normal(0, 0.3, (6, *forecast.shape))
    return (forecast + xr.DataArray(noise, dims=("realization", *forecast.dims))).assign_attrs(forecast.attrs), truth


def quietly(name):
    with contextlib.redirect_stdout(io.StringIO()):
        return pytest.importorskip(name, reason=f"compares with {name}: pip install pysteps opencv-python-headless")


def test_the_real_fields_hold_missing_pixels_and_all_events(pairs):
    truth = pairs[1]
    assert 0 < float(truth.isnull().mean()) < 0.1
    assert all((truth >= threshold).sum() > 10 for threshold in THRESHOLDS)


def test_pixel_errors_equal_those_of_scores(pairs, mrms):
    continuous = pytest.importorskip("scores.continuous", reason="compares with scores: pip install scores")
    forecast, truth = pairs
    mine = verify(forecast, mrms, ["mse", "rmse", "mae", "mean_error"])
    for name, function in {
        "mse": continuous.mse,
        "rmse": continuous.rmse,
        "mae": continuous.mae,
        "mean_error": continuous.additive_bias,
    }.items():
        theirs = function(forecast, truth, preserve_dims="lead_time")
        np.testing.assert_allclose(mine[name], theirs, rtol=1e-10, err_msg=name)


def test_contingency_scores_equal_those_of_scores(pairs, mrms):
    categorical = pytest.importorskip("scores.categorical", reason="compares with scores: pip install scores")
    forecast, truth = pairs
    mine = verify(forecast, mrms, ["csi", "pod", "far", "frequency_bias"], THRESHOLDS)
    for i, threshold in enumerate(THRESHOLDS):
        events = categorical.ThresholdEventOperator(default_event_threshold=threshold)
        table = events.make_contingency_manager(forecast, truth).transform(preserve_dims="lead_time")
        for name, theirs in {
            "csi": table.critical_success_index(),
            "pod": table.probability_of_detection(),
            "far": table.false_alarm_ratio(),
            "frequency_bias": table.frequency_bias(),
        }.items():
            np.testing.assert_allclose(mine[name][:, i], theirs, rtol=1e-12, err_msg=f"{name} at {threshold}")


def test_contingency_scores_equal_those_of_pysteps(pairs, mrms):
    quietly("pysteps")
    from pysteps.verification.detcatscores import det_cat_fct

    forecast, truth = pairs
    mine = verify(forecast, mrms, ["csi", "pod", "far", "frequency_bias"], THRESHOLDS)
    for j in range(3):
        predicted, observed = forecast.values[:, j].ravel(), truth.values[:, j].ravel()
        there = np.isfinite(predicted) & np.isfinite(observed)
        for i, threshold in enumerate(THRESHOLDS):
            # pysteps takes values above a threshold as events: the next smaller number makes that >=.
            theirs = det_cat_fct(
                predicted[there], observed[there], np.nextafter(threshold, 0), scores=["CSI", "POD", "FAR", "BIAS"]
            )
            for name, key in {"csi": "CSI", "pod": "POD", "far": "FAR", "frequency_bias": "BIAS"}.items():
                assert mine[name].values[j, i] == pytest.approx(theirs[key], rel=1e-12)


def test_pixel_errors_equal_those_of_pysteps(pairs, mrms):
    quietly("pysteps")
    from pysteps.verification.detcontscores import det_cont_fct

    forecast, truth = pairs
    mine = verify(forecast, mrms, ["mse", "mae", "mean_error"])
    for j in range(3):
        theirs = det_cont_fct(forecast.values[:, j].ravel(), truth.values[:, j].ravel(), scores=["MSE", "MAE", "ME"])
        for name, key in {"mse": "MSE", "mae": "MAE", "mean_error": "ME"}.items():
            assert mine[name].values[j] == pytest.approx(theirs[key], rel=1e-10)


def test_fss_equals_that_of_pysteps_where_nothing_is_missing(pairs, mrms):
    quietly("pysteps")
    from pysteps.verification.spatialscores import fss_accum, fss_compute, fss_init

    filled = mrms.fillna(0.0)
    leads = pairs[0]["lead_time"].values
    forecast = persistence(filled, init_time=mrms["time"].values[1:6], lead_times=leads)
    mine = verify(forecast, filled, ["fss"], THRESHOLDS, neighbourhoods=[1, 5, 11])["fss"]
    for j, k, n in np.ndindex(mine.shape):
        lead, threshold, width = leads[j], THRESHOLDS[k], (1, 5, 11)[n]
        state = fss_init(threshold, width)
        for frame in forecast.sel(lead_time=lead):
            fss_accum(state, frame.values, filled.sel(time=frame["valid_time"]).values)
        assert mine.values[j, k, n] == pytest.approx(fss_compute(state), rel=1e-10)


def test_fss_equals_that_of_scores_where_events_keep_off_the_edge(pairs, mrms):
    spatial = pytest.importorskip("scores.spatial", reason="compares with scores: pip install scores")
    dry = mrms.fillna(0.0).pad(latitude=12, longitude=12, constant_values=0.0)
    dry = dry.assign_coords(latitude=np.arange(dry.sizes["latitude"]), longitude=np.arange(dry.sizes["longitude"]))
    forecast = persistence(dry, init_time=mrms["time"].values[1:4], lead_times=pairs[0]["lead_time"].values)
    truth = dry.sel(time=forecast["valid_time"]).drop_vars("time")
    mine = verify(forecast, dry, ["fss"], [1.0], neighbourhoods=[11])["fss"].squeeze()
    theirs = spatial.fss_2d(
        forecast,
        truth,
        event_threshold=1.0,
        window_size=(11, 11),
        spatial_dims=("latitude", "longitude"),
        preserve_dims=["lead_time"],
        threshold_operator=np.greater_equal,
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-10)


def test_ssim_equals_that_of_scikit_image_under_each_convention(pairs, mrms):
    metrics = pytest.importorskip("skimage.metrics", reason="compares with scikit-image: pip install scikit-image")
    top = float(mrms.max())
    filled = (mrms / top).fillna(0.0).clip(0, 1)
    forecast = persistence(filled, init_time=mrms["time"].values[1:4], lead_times=pairs[0]["lead_time"].values)
    mine = verify(forecast, filled, ["ssim"])
    for j in range(3):
        frames = [(f.values, filled.sel(time=f["valid_time"]).values) for f in forecast[:, j]]
        as_bytes = [(np.uint8(a * 255), np.uint8(b * 255)) for a, b in frames]
        for name, these, data_range in (("ssim", frames, 1), ("ssim_range2", frames, 2), ("ssim_uint8", as_bytes, 255)):
            theirs = [metrics.structural_similarity(a, b, data_range=data_range) for a, b in these]
            assert mine[name].values[j] == pytest.approx(np.mean(theirs), rel=1e-12), name


def test_psnr_equals_that_of_scikit_image(pairs, mrms):
    metrics = pytest.importorskip("skimage.metrics", reason="compares with scikit-image: pip install scikit-image")
    filled = (mrms / float(mrms.max())).fillna(0.0)
    forecast = persistence(filled, init_time=mrms["time"].values[1:4], lead_times=pairs[0]["lead_time"].values)
    mine = verify(forecast, filled, ["psnr"])
    for j in range(3):
        frames = [(filled.sel(time=f["valid_time"]).values, f.values) for f in forecast[:, j]]
        theirs = [metrics.peak_signal_noise_ratio(a, b, data_range=1) for a, b in frames]
        bytes_too = [metrics.peak_signal_noise_ratio(np.uint8(a * 255), np.uint8(b * 255)) for a, b in frames]
        assert mine["psnr"].values[j] == pytest.approx(np.mean(theirs), rel=1e-12)
        assert mine["psnr_uint8"].values[j] == pytest.approx(np.mean(bytes_too), rel=1e-12)


def test_crps_equals_that_of_scores(ensemble, mrms):
    probability = pytest.importorskip("scores.probability", reason="compares with scores: pip install scores")
    forecast, truth = ensemble
    mine = verify(forecast, mrms, ["crps", "crps_fair"])
    there = forecast.notnull().all("realization")
    for name, method in (("crps", "ecdf"), ("crps_fair", "fair")):
        theirs = probability.crps_for_ensemble(
            forecast, truth.where(there), "realization", method=method, preserve_dims="lead_time"
        )
        np.testing.assert_allclose(mine[name], theirs, rtol=1e-10)


def test_crps_and_rank_histogram_equal_those_of_pysteps(ensemble, mrms):
    quietly("pysteps")
    from pysteps.verification.ensscores import rankhist
    from pysteps.verification.probscores import CRPS

    forecast, truth = ensemble
    mine = verify(forecast, mrms, ["crps", "rank_histogram"])
    for j in range(3):
        members = forecast.transpose("realization", "lead_time", ...).values[:, j]
        assert mine["crps"].values[j] == pytest.approx(CRPS(members, truth.values[:, j]), rel=1e-10)
        np.testing.assert_allclose(mine["rank_histogram"].values[j], rankhist(members, truth.values[:, j]), rtol=1e-10)
