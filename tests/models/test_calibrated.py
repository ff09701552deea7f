"""Distributions that are learned from forecasts and observations, against laws that are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from sa_nowcast.models.calibrated import Calibrated, Fields, Margin, Table
from sa_nowcast.models.calibrating import Dependence, _falling, margins

GRID = (24, 28)
PROBABILITIES = (np.arange(49) + 0.5) / 49


def field(rng: np.random.Generator, length: float = 2.5) -> np.ndarray:
    """Return a Gaussian field of unit variance whose correlation at the distance d is exp(-(d / 2 length)²)."""
    waves = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.rfftfreq(96)[None])
    shape = np.exp(-0.5 * (2 * np.pi * length * waves) ** 2)
    noise = np.fft.rfft2(rng.standard_normal((96, 96))) * shape
    return np.fft.irfft2(noise, (96, 96))[: GRID[0], : GRID[1]] * (2 * length * math.sqrt(np.pi))


def ar1(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return forecasts and observations, (count, 2, y, x), of a Gaussian field with the correlation 0.8 a step."""
    rng = np.random.default_rng(seed)
    now = np.stack([field(rng) for _ in range(count)])
    seen = []
    for _ in range(2):
        before = seen[-1] if seen else now
        seen.append(0.8 * before + 0.6 * np.stack([field(rng) for _ in range(count)]))
    return np.stack([0.8 * now, 0.64 * now], 1), np.stack(seen, 1)


def learned(forecast: np.ndarray, observed: np.ndarray) -> Table:
    return margins([(forecast[:, s].ravel(), observed[:, s].ravel()) for s in range(forecast.shape[1])])


def with_fields(forecast: np.ndarray, observed: np.ndarray) -> Table:
    dependence = Dependence(learned(forecast, observed), forecast.shape[-2:])
    for one, seen in zip(forecast, observed, strict=True):
        dependence.add(one, seen)
    return dependence.table_of()


def drawn(law: Calibrated, count: int, seed: int = 0) -> np.ndarray:
    result = np.empty((count, *law.mean.shape), np.float32)
    law.members([np.random.default_rng([seed, k]) for k in range(count)], result)
    return result


def score(quantiles: np.ndarray, observed: np.ndarray) -> float:
    """Return the CRPS of quantiles at `PROBABILITIES`: twice the mean of the quantile score."""
    excess = observed - quantiles
    p = PROBABILITIES.reshape(-1, *(1,) * observed.ndim)
    return float(2 * np.where(excess > 0, p * excess, (p - 1) * excess).mean())


def test_a_gaussian_law_is_learned_to_within_two_percent_of_its_score() -> None:
    table = learned(*ar1(100, 0))
    forecast, observed = ar1(30, 1)
    for step, width in enumerate((0.6, math.sqrt(1 - 0.64**2))):
        mean = torch.from_numpy(forecast[:, step].reshape(1, GRID[0], -1)).float()
        one = replace(table, means=table.means[step:], at_bound=table.at_bound[step:], values=table.values[step:])
        quantiles = Calibrated(mean, one).quantiles(list(PROBABILITIES))[:, 0]
        truth = observed[:, step].reshape(GRID[0], -1)
        normal = torch.special.ndtri(torch.from_numpy(PROBABILITIES)).numpy()[:, None, None]
        assert score(quantiles, truth) == pytest.approx(score(mean.numpy() + width * normal, truth), rel=0.02)
        shares = (truth <= quantiles).mean((1, 2))
        np.testing.assert_allclose(shares, PROBABILITIES, atol=0.06)


def rainy(rng: np.random.Generator, forecast: np.ndarray) -> np.ndarray:
    """Return what may be observed: dry with a chance that falls with the forecast, else a gamma distribution."""
    return np.where(rng.random(forecast.shape) < np.exp(-forecast), 0.0, rng.gamma(2.0, forecast))


def counted(rng: np.random.Generator, forecast: np.ndarray) -> np.ndarray:
    return rng.poisson(forecast).astype(float)


@pytest.mark.parametrize("law", [rainy, counted])
def test_laws_with_a_bound_are_learned(law: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(2)
    forecast = rng.gamma(1.0, 2.0, 60_000)
    table = margins([(forecast, law(rng, forecast))])
    assert table.bound == 0.0
    assert table.whole == (law is counted)
    mean = rng.gamma(1.0, 2.0, (1, 60, 50))
    truth = law(rng, mean[0])
    quantiles = Calibrated(torch.from_numpy(mean).float(), table).quantiles(list(PROBABILITIES))[:, 0]
    ideal = np.quantile(np.stack([law(rng, mean[0]) for _ in range(400)]), PROBABILITIES, axis=0)
    assert score(quantiles, truth) == pytest.approx(score(ideal, truth), rel=0.03)
    (chances,) = Calibrated(torch.from_numpy(mean).float(), table).chances(torch.tensor([-1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(chances[0], 1.0)
    np.testing.assert_allclose(chances[1], 1 - np.exp(-mean[0]), atol=0.12)
    assert abs(chances[1].numpy() - (1 - np.exp(-mean[0]))).mean() < 0.02
    assert float(chances[2].mean()) == pytest.approx((truth > 2).mean(), abs=0.02)
    if law is counted:
        np.testing.assert_array_equal(quantiles, np.rint(quantiles))


@pytest.mark.parametrize("seen", [lambda y: y, lambda y: np.maximum(y, 0), lambda y: np.floor(2 * np.exp(y))])
def test_correlations_are_those_of_the_fields_whatever_the_margins(seen: Callable[..., np.ndarray]) -> None:
    forecast, observed = ar1(80, 3)
    table = with_fields(forecast, seen(observed))
    wanted = np.exp(-((table.radii.numpy() / 5) ** 2))
    np.testing.assert_allclose(table.alike[0], wanted, atol=0.07)
    np.testing.assert_allclose(table.alike[1], wanted, atol=0.07)
    np.testing.assert_allclose(table.follows[1], wanted * 0.8 * 0.6 / math.sqrt(1 - 0.64**2), atol=0.06)


def test_sums_over_area_and_time_have_the_right_spread() -> None:
    table = with_fields(*ar1(80, 4))
    forecast, observed = ar1(50, 5)
    errors, spreads, wide = [], [], []
    for k, (one, truth) in enumerate(zip(forecast, observed, strict=True)):
        members = drawn(Calibrated(torch.from_numpy(one).float(), table), 12, k)
        sums = members.sum(1)[:, ::6, ::6]
        errors.append((truth.sum(0)[::6, ::6] - sums.mean(0)) ** 2)
        spreads.append(sums.var(0, ddof=1))
        wide.append(members.mean((1, 2, 3)).var(ddof=1))
    assert math.sqrt(np.mean(spreads) / np.mean(errors) * 13 / 12) == pytest.approx(1, abs=0.06)
    error = np.std(observed.mean((1, 2, 3)) - forecast.mean((1, 2, 3)))
    assert math.sqrt(np.mean(wide)) == pytest.approx(error, rel=0.25)


def test_members_have_the_chances_and_quantiles_of_the_distribution() -> None:
    rng = np.random.default_rng(6)
    forecast = rng.gamma(1.0, 2.0, (20, 2, *GRID))
    law = Calibrated(torch.from_numpy(forecast[0]).float(), with_fields(forecast, rainy(rng, forecast)))
    many = drawn(law, 400)
    for step, chances in enumerate(law.chances(torch.tensor([0.0, 3.0]))):
        shares = np.stack([(many[:, step] > level).mean(0) for level in (0.0, 3.0)])
        assert abs(shares - chances.numpy()).max() < 5 * math.sqrt(0.25 / 400)
        assert abs((shares - chances.numpy()).mean()) < 0.01
    median = law.quantiles([0.5])[0]
    assert abs(np.median(many, 0) - median).mean() < 0.15
    np.testing.assert_array_equal(drawn(law, 3), many[:3])


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_what_was_always_the_same_stays_the_same(value: float) -> None:
    forecast = np.random.default_rng(7).random((10, 2, *GRID))
    table = with_fields(forecast, np.full(forecast.shape, value))
    law = Calibrated(torch.from_numpy(forecast[0]).float(), table)
    np.testing.assert_array_equal(drawn(law, 2), np.float32(value))
    (first, _) = law.chances(torch.tensor([value - 0.1, value]))
    np.testing.assert_array_equal(first[0], 1.0)
    np.testing.assert_array_equal(first[1], 0.0)


def test_missing_pixels_count_nothing() -> None:
    forecast, observed = ar1(30, 8)
    gaps = observed.copy()
    gaps[:, :, :, ::3] = np.nan
    dependence = Dependence(learned(forecast, observed), GRID)
    for one, seen in zip(forecast, gaps, strict=True):
        dependence.add(one, seen)
    np.testing.assert_allclose(dependence.table_of().alike, with_fields(forecast, observed).alike, atol=0.03)


def test_beyond_what_was_seen_the_distribution_is_moved_along() -> None:
    rng = np.random.default_rng(9)
    forecast = rng.uniform(0, 10, 20_000)
    table = margins([(forecast, forecast + rng.normal(size=forecast.size))])
    last = float(table.means[0][torch.isfinite(table.means[0])].max())
    known, beyond = (Margin(table, 0, torch.tensor([x])).at(torch.tensor([[-1.0], [9.0]])) for x in (last, last + 7))
    np.testing.assert_allclose(beyond, known + 7, rtol=1e-5)
    assert float(known[1]) < last + 4.5  # the tail ends where observations do


def test_shares_that_rise_are_pooled_by_their_weights() -> None:
    shares = np.array([[0.9, 1.0], [0.4, 0.5], [0.7, 0.5], [0.1, 0.2]])
    fitted = _falling(shares, np.array([1.0, 2.0, 1.0, 1.0]))
    np.testing.assert_allclose(fitted, [[0.9, 1.0], [0.5, 0.5], [0.5, 0.5], [0.1, 0.2]])


def test_fields_have_unit_variance_and_the_correlations_of_the_table() -> None:
    table = with_fields(*ar1(40, 10))
    fields = Fields(table, 2, GRID)
    draws = np.stack([[f.numpy() for f in fields.draw(np.random.default_rng(k))] for k in range(300)])
    np.testing.assert_allclose(draws.var((0, 2, 3)), 1, rtol=0.06)
    shifted = (draws[:, 0, :, 3:] * draws[:, 0, :, :-3]).mean()
    assert shifted == pytest.approx(float(np.interp(3, table.radii, table.alike[0])), abs=0.06)
    assert (draws[:, 0] * draws[:, 1]).mean() == pytest.approx(float(table.follows[1, 0]), abs=0.06)
