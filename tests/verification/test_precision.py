"""Values that are a threshold in decimals are at it, whatever type they were stored and unpacked in."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sa_nowcast.hindcast import hindcast
from sa_nowcast.verification import collect_statistics, compare, persistence, verify

from .conftest import MINUTE, START

LIMITS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.3, 5.0, 7.1, 10.0)


def steps_of(scale: float, dtype: str, packed: str = "i2") -> tuple[xr.DataArray, np.ndarray]:
    """Frames whose values are multiples of `scale`, unpacked by xarray, and the multiples."""
    multiples = np.random.default_rng(0).integers(0, round(12 / scale), size=(12, 8, 9))
    stored = xr.Dataset(
        {"rain": (("time", "y", "x"), multiples.astype(packed), {"scale_factor": np.dtype(dtype).type(scale)})},
        {"time": START + np.arange(12) * 5 * MINUTE, "y": np.arange(8) * 1000.0, "x": np.arange(9) * 1000.0},
    )
    return xr.decode_cf(stored)["rain"].assign_attrs(units="mm h-1"), multiples


@pytest.mark.parametrize(
    ("scale", "dtype"), [(0.1, "f4"), (0.1, "f8"), (0.01, "f4"), (0.01, "f8"), (0.2, "f8"), (0.2, "f4")]
)
@pytest.mark.parametrize("lazily", [False, True])
def test_persistence_archived_in_float32_is_persistence_at_every_threshold(scale, dtype, lazily):
    """metoppv/improver#1627, cerfacs-globc/icclim#24: float32 forecasts against thresholds and truth in float64."""
    truth, multiples = steps_of(scale, dtype)
    archive = hindcast(truth, "persistence", 2, init_times=slice(None, truth["time"].values[-3]))
    truth = truth.chunk(time=1) if lazily else truth
    archive = archive if lazily else archive.compute()
    asked = ["csi", "pod", "far", "fss", "mse", "mae", "frequency_bias"]
    scores = verify(archive, truth, asked, LIMITS, "persistence", neighbourhoods=[1, 3], valid_times="all")
    for metric in asked:
        np.testing.assert_array_equal(scores[metric], scores[f"{metric}_persistence"])
    for name in ("csi", "fss", "mse"):
        np.testing.assert_array_equal(scores[f"{name}_skill"], 0)
    least = np.ceil(np.array(LIMITS) / scale - 1e-6)
    for j in (1, 2):
        yes, seen = (multiples[:10, ..., None] >= least), (multiples[j : 10 + j, ..., None] >= least)
        own = (yes & seen).sum((0, 1, 2)) / (yes | seen).sum((0, 1, 2))
        np.testing.assert_allclose(scores["csi"][j - 1], own, rtol=1e-12)


@pytest.mark.parametrize("theirs", ["f2", "f4", "f8"])
def test_a_forecast_counts_the_same_in_any_type(theirs):
    truth, multiples = steps_of(0.1, "f8")
    leads = np.array([5, 10]) * MINUTE
    forecast = persistence(truth, init_time=truth["time"].values[:10], lead_times=leads)
    sums = collect_statistics(forecast.astype(theirs), truth, ["csi"], thresholds=[0.5, 1.0]).forecast
    expected = (multiples[:10, ..., None] >= np.array([5, 10])).sum((0, 1, 2))
    # float16 has three digits: 0.5 and 1.0 are themselves, their neighbours in steps of 0.1 stay apart.
    np.testing.assert_array_equal((sums["hits"] + sums["false_alarms"]).sum("init_time").values[0, 0, 0], expected)


def test_a_reference_in_another_type_and_one_of_several_forecasts_are_the_same_forecast():
    truth, _ = steps_of(0.1, "f8")
    single = hindcast(truth, "persistence", 2, init_times=slice(None, truth["time"].values[-3])).compute()
    double = persistence(truth, init_time=single["init_time"].values, lead_times=single["lead_time"].values)
    scores = compare({"single": single, "double": double}, truth, ["csi", "mse"], LIMITS, "double")
    np.testing.assert_array_equal(scores["single"]["csi"], scores["double"]["csi"])
    np.testing.assert_array_equal(scores["single"]["csi_skill"], 0)
    np.testing.assert_array_equal(scores["single"]["mse_skill"], 0)


def test_without_single_precision_errors_keep_all_their_digits():
    truth, _ = steps_of(0.1, "f8")
    truth = truth + 1e5
    forecast = persistence(truth, init_time=truth["time"].values[:10], lead_times=np.array([5]) * MINUTE) * 0
    forecast = forecast + truth.values[1:11, None] + 1e-6
    score = verify(forecast.assign_attrs(units="mm h-1"), truth.assign_attrs(units="mm h-1"), ["mean_error"])
    np.testing.assert_allclose(score["mean_error"], 1e-6, rtol=1e-4)


def test_the_ends_of_data_range_belong_to_it_in_any_type():
    truth, _ = steps_of(0.1, "f4")
    truth = truth.clip(max=np.float32(11.7))  # above 11.7 in float64
    archive = hindcast(truth, "persistence", 1, init_times=slice(None, truth["time"].values[-2]))
    assert float(verify(archive, truth, ["frame_mse"], data_range=(0, 11.7))["frame_mse"][0]) > 0
