"""Smoothed extrapolation, S-PROG without probability matching and the mean of STEPS, against formulas and pysteps."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import xarray as xr

from sa_nowcast import open_sample
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.hindcast import hindcast
from sa_nowcast.recipe import REFERENCE_NAMES
from sa_nowcast.verification import extrapolation, reference, smoothed_extrapolation, sprog, steps, steps_mean, verify
from sa_nowcast.verification.named import BY_PYSTEPS, OF_RAIN, REFERENCES, growth_of, is_reference
from sa_nowcast.verification.pysteps_fields import smoothed

pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
pytest.importorskip("pysteps", reason="optical flow is pysteps': pip install pysteps")

SCORES = ["mse", "frequency_bias"]
STEPS = 3
LEADS = [f"{2 * i}min" for i in range(1, STEPS + 1)]


@functools.cache
def real_rain() -> xr.DataArray:
    """A part of the sample in which it rains, with some pixels missing."""
    rain = open_sample("mrms")["precip_rate"].isel(latitude=slice(288, 384), longitude=slice(160, 256)).load()
    rain = rain.copy()
    rain[:, 40:48, 50:60] = np.nan
    return rain


def start(position: int = 6) -> Any:
    return real_rain()["time"].values[position]


def decibels(position: int) -> np.ndarray[Any, Any]:
    """The three frames as pysteps takes them."""
    frames = real_rain().values[position - 2 : position + 1].astype(np.float64)
    return np.where(np.isnan(frames), np.nan, np.where(frames >= 0.1, 10 * np.log10(np.maximum(frames, 0.1)), -15.0))


def motion(position: int) -> Any:
    from pysteps.motion.lucaskanade import dense_lucaskanade

    return dense_lucaskanade(np.nan_to_num(decibels(position), nan=-15.0))


def rates(values: Any) -> Any:
    return np.where(np.isnan(values), np.nan, np.where(values >= -10.0, 10 ** (values / 10), 0.0))


def weighted_mean(field: np.ndarray[Any, Any], row: int, column: int, width: float) -> float:
    """The formula, pixel by pixel."""
    total = weight = 0.0
    reach = int(4 * width + 0.5)
    for y in range(max(0, row - reach), min(field.shape[0], row + reach + 1)):
        for x in range(max(0, column - reach), min(field.shape[1], column + reach + 1)):
            if np.isfinite(field[y, x]):
                own = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
                total, weight = total + own * field[y, x], weight + own
    return total / weight


def test_the_smoothed_extrapolation_is_a_weighted_mean_of_the_pixels_that_are_there() -> None:
    growth = 1.5
    plain = extrapolation(real_rain(), init_time=start(), lead_times=LEADS).values
    forecast = smoothed_extrapolation(real_rain(), init_time=start(), lead_times=LEADS, growth=growth)
    assert forecast.attrs["model"] == "smoothed-extrapolation"
    np.testing.assert_array_equal(np.isnan(forecast.values), np.isnan(plain))
    assert 0.005 < np.isnan(plain).mean() < 0.2
    rng = np.random.default_rng(0)
    for lead, field in enumerate(plain):
        known = np.argwhere(np.isfinite(field))
        for row, column in [*rng.permutation(known)[:8], known[0], known[-1]]:
            expected = weighted_mean(field, row, column, growth * (lead + 1))
            assert forecast.values[lead, row, column] == pytest.approx(expected, rel=1e-6)


def test_the_width_grows_with_lead_time_and_not_with_its_place_in_a_list() -> None:
    some = ["2min", "6min"]
    both = smoothed_extrapolation(real_rain(), init_time=start(), lead_times=some, growth=2.0)
    plain = extrapolation(real_rain(), init_time=start(), lead_times=some).values
    np.testing.assert_array_equal(both, smoothed(plain, [2.0, 6.0]))
    none = smoothed_extrapolation(real_rain(), init_time=start(), lead_times=some, growth=0)
    np.testing.assert_array_equal(none, plain)


def test_a_constant_field_stays_as_it_is_up_to_its_edges() -> None:
    fields = np.full((2, 20, 30), 3.0)
    fields[:, 5:9, 20:] = np.nan
    np.testing.assert_allclose(smoothed(fields, [2.0, 11.0]), fields, rtol=1e-12)


def test_a_growth_that_is_no_width_is_refused() -> None:
    with pytest.raises(RecipeError, match="growth: is -1, expected pixels per step, 0 or more"):
        smoothed_extrapolation(real_rain(), lead_times=LEADS, growth=-1)


@pytest.mark.parametrize("matched", [True, False])
def test_sprog_is_that_of_pysteps_with_and_without_probability_matching(matched: bool) -> None:
    from pysteps.nowcasts.sprog import forecast as nowcast

    method = "cdf" if matched else None
    options: Any = {"precip_thr": -10.0, "norain_thr": 0.0, "probmatching_method": method}
    expected = rates(nowcast(decibels(6), motion(6), [1, 2, 3], **options))
    found = sprog(real_rain(), init_time=start(), lead_times=LEADS, matched=matched)
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    by_name = reference("sprog" if matched else "sprog-unmatched")
    xr.testing.assert_identical(found, by_name.forecast(real_rain(), STEPS, init_time=start()))
    assert found.attrs["model"] == by_name.name


def test_sprog_without_matching_has_a_smaller_error_and_less_heavy_rain() -> None:
    starts = [start(position) for position in (4, 10, 16, 22)]
    matched, without = (
        verify(reference(name).forecast(real_rain(), STEPS, init_time=starts), real_rain(), SCORES, [5.0])
        for name in ("sprog", "sprog-unmatched")
    )
    assert float(without["mse"].sum()) < float(matched["mse"].sum())
    assert (without["frequency_bias"] < matched["frequency_bias"]).all()


def test_the_mean_of_steps_is_of_rain_rates_and_of_the_members_that_pysteps_gives() -> None:
    from pysteps.nowcasts.steps import forecast as nowcast

    moment = int(start().astype("datetime64[s]").astype(int))
    seed = np.random.SeedSequence([0, moment % 2**32, moment // 2**32]).generate_state(1)[0] >> 1
    members = nowcast(
        decibels(6), motion(6), [1, 2, 3], n_ens_members=3, precip_thr=-10.0, kmperpixel=1.112, timestep=2.0,
        seed=int(seed),
    )  # fmt: skip
    found = steps_mean(real_rain(), init_time=start(), lead_times=LEADS, members=3, kilometres_per_pixel=1.112)
    np.testing.assert_allclose(found.values, rates(np.asarray(members)).mean(axis=0), rtol=1e-5)
    assert found.dims == ("lead_time", "latitude", "longitude")


def test_the_mean_of_steps_has_ten_members_by_its_name() -> None:
    ensemble = steps(real_rain(), init_time=start(), lead_times=LEADS[:1], members=10)
    archive = hindcast(real_rain(), "steps-mean", 1, init_times=[start()])
    np.testing.assert_allclose(archive.values[0], ensemble.mean("realization", skipna=False).values, rtol=1e-5)
    assert archive.attrs["model"] == "steps-mean"
    with pytest.raises(DataError, match="is in K, expected mm h-1, as steps-mean needs"):
        reference("steps-mean").forecast(real_rain().assign_attrs(units="K"), 1)


def test_names_of_references_are_the_same_everywhere() -> None:
    assert tuple(REFERENCES) == REFERENCE_NAMES
    assert set(REFERENCES) - {"persistence", "climatology"} == BY_PYSTEPS > OF_RAIN
    assert [growth_of(n) for n in ("extrapolation+0.5px", "extrapolation+12px", "extrapolation")] == [0.5, 12.0, None]
    assert is_reference("extrapolation+1px")
    assert not is_reference("extrapolation+1")
    one = reference("extrapolation+1.5px")
    assert (one.name, one.options, one.history) == ("smoothed-extrapolation", {"growth": 1.5}, 3)
    assert [reference(name).history for name in ("sprog-unmatched", "steps-mean")] == [3, 3]
    archive = hindcast(real_rain(), "extrapolation+1.5px", 2, init_times=[start()])
    direct = one.forecast(real_rain(), 2, init_time=[start()])
    np.testing.assert_allclose(archive.values, direct.values, rtol=1e-6)
