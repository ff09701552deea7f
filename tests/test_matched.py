"""Probability matching: the order of the mean forecast, the distribution of the last frame as it grows or decays."""

from __future__ import annotations

from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sequences import georeferenced, rain, traffic, weather

import sa_nowcast
from sa_nowcast.errors import RecipeError, StorageError
from sa_nowcast.forecasts.matched import DAMPING, STEEPEST, matched
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.hindcast import hindcast


def showers(frames: int = 4, *, east: int = 0, factor: float = 1.0, size: int = 48) -> np.ndarray:
    """Return (time, 1, y, x): a quarter of the grid wet, exponential amounts, moving by `east` a step, and growing."""
    rng = np.random.default_rng(1)
    field = np.zeros((size, size))
    field[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = rng.exponential(2.0, (size // 2, size // 2))
    steps = [np.roll(field, east * t, axis=1) * factor ** (t - frames + 1) for t in range(frames)]
    return np.stack(steps)[:, None].astype(np.float32)


def pattern(leads: int = 3, size: int = 48) -> np.ndarray:
    """Return (lead time, 1, y, x) without two equal values."""
    return np.random.default_rng(2).gamma(0.5, 1.0, (leads, 1, size, size)).astype(np.float32)


def test_the_order_is_that_of_the_mean_and_the_distribution_that_of_the_last_frame() -> None:
    mean, history = pattern(), showers()
    result = matched(mean, history)
    assert result.dtype == np.float32
    for lead in range(3):
        np.testing.assert_array_equal(np.sort(result[lead], axis=None), np.sort(history[-1], axis=None))
        assert (np.diff(result[lead].ravel()[np.argsort(mean[lead], axis=None)]) >= 0).all()
        assert (result[lead] > 0).mean() == 0.25


def test_what_left_the_domain_does_not_count_and_what_entered_follows_the_same_order() -> None:
    history = showers(east=3)
    for t in range(4):  # it leaves within two steps, 3 columns each
        history[t, 0, :, 33 + 3 * t : 39 + 3 * t] = 7.0
    mean = pattern(2)
    result = matched(mean, history)
    for lead, moved in enumerate((3, 6)):
        there = np.sort(result[lead, 0, :, moved:], axis=None)
        np.testing.assert_array_equal(there, np.sort(history[-1, 0, :, :-moved], axis=None))
        assert (np.diff(result[lead].ravel()[np.argsort(mean[lead], axis=None)]) >= 0).all()
    assert (result[0] == 7).any()
    assert (result[1] != 7).all()


@given(arrays(np.float32, (2, 1, 6, 7), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, np.nan])))
def test_equal_pixels_stay_equal_and_none_is_given_or_taken(mean: np.ndarray) -> None:
    history = showers(size=12)[..., :6, :7] + np.float32(0.25)
    result = matched(mean, history)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(mean))
    for one, other in zip(result, mean, strict=True):
        for value in np.unique(other[np.isfinite(other)]):
            assert len(np.unique(one[other == value])) == 1


def test_missing_pixels_take_no_part() -> None:
    mean, history = pattern(1), showers()
    whole = np.sort(history[-1], axis=None)
    mean[0, 0, :5] = np.nan
    history[-1, 0, 40:] = np.nan  # forecast from earlier frames, and given values by the same order
    result = matched(mean, history)
    assert np.isnan(result[0, 0, :5]).all()
    assert np.isfinite(result[0, 0, 5:]).all()
    np.testing.assert_array_equal(np.sort(result[0, 0, 5:40], axis=None), np.sort(history[-1, 0, 5:40], axis=None))
    assert result[np.isfinite(result)].max() <= whole[-1]
    history[-1] = np.nan
    np.testing.assert_array_equal(matched(mean, history), mean)


def test_constant_fields_stay_as_they_are() -> None:
    history = np.full((4, 1, 8, 8), 3.5, dtype=np.float32)
    np.testing.assert_array_equal(matched(np.full((2, 1, 8, 8), 3.5, dtype=np.float32), history), 3.5)
    dry = np.zeros((4, 1, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(matched(dry[:2], dry), 0)
    np.testing.assert_array_equal(matched(pattern(2, 8), dry), 0)  # drizzle that nothing was seen of
    np.testing.assert_array_equal(matched(np.zeros((2, 1, 48, 48), np.float32), showers()), 0)  # no order to go by


@pytest.mark.parametrize("factor", [0.95, 1.04])
def test_intensity_goes_on_as_over_the_history_and_ever_less(factor: float) -> None:
    history = showers(factor=factor)
    history[:, 0, 0, 0] = 60.0  # the most that was seen, so that nothing is cut
    history[:, 0, 0, 0] *= factor ** np.arange(-3, 1)
    result = matched(pattern(12), history).astype(np.float64)
    ratio = result.sum((1, 2, 3)) / history[-1].sum(dtype=np.float64)
    expected = factor ** np.cumsum(DAMPING ** np.arange(1, 13))
    # Growth stops at the most that was seen.
    np.testing.assert_allclose(ratio, expected, rtol=1e-4 if factor < 1 else 0.02)
    assert (result > 0).mean() == pytest.approx((history[-1] > 0).mean())


@pytest.mark.parametrize("rows", [-1, 1])
def test_the_wet_area_goes_on_as_over_the_history(rows: int) -> None:
    history = np.zeros((4, 1, 64, 64), dtype=np.float32)
    for t in range(4):
        height = 26 + 2 * rows * t
        history[t, 0, 32 - height // 2 : 32 + height // 2] = 1.0
    history[:, 0, 32] = 1.5  # what grows on both sides of it does not move
    wet = (matched(pattern(12, 64), history) > 0).mean((1, 2, 3))
    area = (history > 0).sum((1, 2, 3))
    lags = np.array([1, 2, 3])
    slope = (lags * np.log(area[-1] / area[-1 - lags])).sum() / (lags**2).sum()
    expected = np.exp(slope * np.cumsum(DAMPING ** np.arange(1, 13)))
    np.testing.assert_allclose(wet / (history[-1] > 0).mean(), expected, rtol=1e-3)
    assert slope * rows > 0.05


def test_no_trend_is_steeper_than_the_steepest() -> None:
    result = matched(pattern(12), showers(factor=0.3))
    most = STEEPEST * DAMPING / (1 - DAMPING)
    assert result[-1].sum() / showers()[-1].sum() >= np.exp(-2 * most)


def test_a_field_without_a_minimum_of_its_own_keeps_its_deviations_and_the_mean_of_the_forecast() -> None:
    rng = np.random.default_rng(3)
    history = rng.normal(280, 5, (4, 1, 40, 40)).astype(np.float32)
    mean = (282 + 0.2 * rng.normal(0, 5, (3, 1, 40, 40))).astype(np.float32)
    result = matched(mean, history).astype(np.float64)
    np.testing.assert_allclose(result.mean((1, 2, 3)), mean.astype(np.float64).mean((1, 2, 3)), rtol=2e-4)
    np.testing.assert_allclose(result.std((1, 2, 3)), history[-1].astype(np.float64).std(), rtol=0.02)
    assert result.min() >= history.min()
    assert result.max() <= history.max()


def test_units_do_not_matter() -> None:
    mean, history = pattern(4), showers(factor=1.02, east=2)
    once = matched(mean, history)
    np.testing.assert_allclose(matched(mean * 1000, history * 1000), once * 1000, rtol=1e-5)
    other = matched(mean * 1.8 + 32, history * 1.8 + 32)
    np.testing.assert_allclose(np.sort(other, axis=None), np.sort(once * 1.8 + 32, axis=None), rtol=1e-3)
    # An offset costs digits, and so may swap neighbours in the order.
    assert (np.abs(other - (once * 1.8 + 32)) < 1e-3).mean() > 0.999


def test_channels_do_not_mix() -> None:
    mean, history = pattern(), showers()
    both = matched(np.concatenate([mean, 5 * mean], 1), np.concatenate([history, history[..., ::-1] * 3], 1))
    np.testing.assert_array_equal(both[:, :1], matched(mean, history))
    np.testing.assert_array_equal(both[:, 1:], matched(5 * mean, history[..., ::-1] * 3))


# The product


def test_a_forecast_is_the_function_of_the_mean_forecast_and_its_history(nowcaster: Nowcaster) -> None:
    for data in (rain(), georeferenced()["rain"].isel(y=slice(None, None, -1))):
        mean, product = (nowcaster.forecast(data, product=name) for name in ("mean", "matched"))
        history = data.transpose("time", "y", "x").values[-4:, None]
        np.testing.assert_array_equal(product.values, matched(mean.values[:, None], history)[:, 0])
        assert product.attrs["sa_nowcast_product"] == "matched"
        assert mean.attrs["sa_nowcast_product"] == "mean"
        assert "comment" not in mean.attrs
        assert product.attrs["comment"].startswith("probability-matched")
        assert product.attrs["sa_nowcast_model"] == mean.attrs["sa_nowcast_model"]
        assert product.coords.keys() == mean.coords.keys()


def test_several_variables_and_channels_are_matched_each_alone(
    weather_nowcaster: Nowcaster, traffic_nowcaster: Nowcaster
) -> None:
    ds = weather()
    mean, product = (weather_nowcaster.forecast(ds, product=name) for name in ("mean", "matched"))
    for i, name in enumerate(mean["variable"].values):
        history = ds[str(name)].transpose("time", "y", "x").values[-4:, None]
        np.testing.assert_array_equal(product.values[i], matched(mean.values[i][:, None], history)[:, 0])
    da = traffic()
    mean, product = (traffic_nowcaster.forecast(da, product=name) for name in ("mean", "matched"))
    np.testing.assert_array_equal(product.values, matched(mean.values, da.transpose(*da.dims).values[-4:]))


def test_a_comment_of_the_data_is_kept(nowcaster: Nowcaster) -> None:
    told = rain().assign_attrs(comment="of two radars")
    assert nowcaster.forecast(told, product="matched").attrs["comment"].startswith("of two radars; probability-matched")
    assert nowcaster.forecast(told).attrs["comment"] == "of two radars"


def test_batches_and_lazy_data_change_nothing(nowcaster: Nowcaster) -> None:
    alone = hindcast(rain(), nowcaster, product="matched", batch_size=1).compute()
    lazy = rain().copy(data=dask.array.from_array(rain().values, chunks=(3, 24, 20)))
    np.testing.assert_array_equal(hindcast(lazy, nowcaster, product="matched", batch_size=1), alone)
    together = hindcast(rain(), nowcaster, product="matched", batch_size=7)
    # Another batch rounds the mean forecast differently in its last bit, and so may swap neighbours in the order.
    np.testing.assert_allclose(np.sort(together, axis=None), np.sort(alone, axis=None), atol=1e-4)
    assert (np.abs(together.values - alone.values) < 0.02).mean() > 0.999
    for i in (0, 9):
        one = nowcaster.forecast(rain(), init_time=alone["init_time"].values[i], product="matched")
        np.testing.assert_array_equal(one, alone[i])


def test_tiles_are_blended_before_they_are_matched(nowcaster: Nowcaster) -> None:
    data = rain(8, 60, 70)
    mean, product = (nowcaster.forecast(data, product=name, tile=32) for name in ("mean", "matched"))
    np.testing.assert_array_equal(product.values, matched(mean.values[:, None], data.values[-4:, None])[:, 0])


def test_an_archive_of_another_product_is_another_hindcast(nowcaster: Nowcaster, tmp_path: Path) -> None:
    last = rain()["time"].values[-4]
    given: dict[str, object] = {"init_times": slice(None, last), "to": tmp_path / "a.zarr"}
    archive = rain().sa_nowcast.hindcast(3, model=nowcaster, product="matched", **given)
    xr.testing.assert_identical(
        archive.compute(), hindcast(rain(), nowcaster, 3, product="matched", init_times=slice(None, last)).compute()
    )
    with pytest.raises(StorageError, match=r"holds another hindcast: model .* [0-9a-f]+, matched, expected"):
        hindcast(rain(), nowcaster, 3, **given)
    with sa_nowcast.open_zarr(tmp_path / "a.zarr") as opened:
        assert opened["rain"].attrs["sa_nowcast_product"] == "matched"
        assert set(sa_nowcast.verify(opened["rain"], rain(), metrics=["frequency_bias"], thresholds=[1.0]).data_vars)


def test_a_missing_history_is_missing_in_the_matched_forecast(nowcaster: Nowcaster) -> None:
    holed = rain().where(rain()["time"] != rain()["time"][9])
    archive = hindcast(holed, nowcaster, product="matched").compute()
    missing = np.isnan(archive).all(("lead_time", "y", "x"))
    np.testing.assert_array_equal(missing, np.isin(np.arange(17), range(6, 10)))


def test_the_default_model_gives_it_for_any_field_within_its_bounds() -> None:
    for ds in (rain(8, 40, 48), weather(8)):
        forecast = ds.sa_nowcast.forecast(steps=6, product="matched")
        assert np.isfinite(forecast).all()
        assert forecast.attrs["sa_nowcast_product"] == "matched"
    forecast = rain(8, 96, 96).sa_nowcast.forecast(steps=6, product="matched")
    mean = rain(8, 96, 96).sa_nowcast.forecast(steps=6)
    assert float(forecast.min()) == 0
    last = rain(8, 96, 96)[-1]
    assert abs(float((forecast[-1] >= 1).sum() / (last >= 1).sum()) - 1) < 0.25
    assert not np.array_equal(forecast, mean)


def test_what_has_no_such_product_says_so(nowcaster: Nowcaster) -> None:
    with pytest.raises(RecipeError, match="product: 'median', expected 'mean' or 'matched'"):
        nowcaster.forecast(rain(), product="median")  # type: ignore[arg-type]
    with pytest.raises(
        RecipeError, match=r"product: 'matched' of persistence, expected a network\. Fix: leave product out"
    ):
        hindcast(rain(), "persistence", 3, product="matched")
    assert hindcast(rain(), "persistence", 3, product="mean").sizes["lead_time"] == 3
