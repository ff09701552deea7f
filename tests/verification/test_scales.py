"""Scores of means over areas and over lead times, on real rain with missing pixels: against written-out means."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr

from sa_nowcast.errors import ForecastWarning, RecipeError
from sa_nowcast.sources.samples import open_sample
from sa_nowcast.verification import (
    Bootstrap,
    Statistics,
    collect,
    collect_statistics,
    compare,
    summarise,
    to_table,
    verify,
)
from sa_nowcast.verification.scales import kilometres, read_scale
from sa_nowcast.verification.table import from_table

from .conftest import MINUTE, forecast_of, observations

MEMBERS = 4
SCALES = ["pixel", "7 pixels", "6 min", "7 pixels 6 min"]
NAMES = ["mse", "crps_fair", "spread_skill", "rank_histogram", "brier", "csi", "fss"]
OPTIONS = {"thresholds": [0.5], "neighbourhoods": [3]}


@pytest.fixture(scope="module")
def truth():
    rain = open_sample()["precip_rate"][:12, 64:164:4, ::9].load()
    rain[5, 10:20, 15:] = np.nan
    return rain


@pytest.fixture(scope="module")
def forecast(truth):
    archive = forecast_of(truth.fillna(0), init=(0, 1, 2), leads=range(1, 7), members=MEMBERS, noise=0.7)
    archive[2, 1, 1, :9, 5:30] = np.nan
    return archive


@pytest.fixture(scope="module")
def scores(forecast, truth):
    return verify(forecast, truth, NAMES, scales=SCALES, **OPTIONS)


def means(forecast, truth, width, frames):
    """Members and truth as means of areas and times by loops, and where they are: (M, I, L, y, x)."""
    members = forecast.values
    observed = np.stack([truth.sel(time=forecast["init_time"] + lead).values for lead in forecast["lead_time"]], 1)
    there = np.isfinite(observed) & np.isfinite(members).all(0)
    inits, leads, height, length = there.shape
    shape = (inits, leads // frames, height // width, length // width)
    m, o, mask = np.full((MEMBERS, *shape), np.nan), np.full(shape, np.nan), np.zeros(shape, bool)
    for i, k, y, x in np.ndindex(shape):
        rows, columns = slice(y * width, y * width + width), slice(x * width, x * width + width)
        window = slice(k * frames, k * frames + frames)
        whole = there[i, window, rows, columns].all(0)
        if whole.sum() >= whole.size / 2:
            mask[i, k, y, x] = True
            o[i, k, y, x] = observed[i, window, rows, columns][:, whole].mean()
            m[:, i, k, y, x] = members[:, i, window, rows, columns][..., whole].mean((1, 2))
    return m, o, mask


@pytest.mark.parametrize(("scale", "width", "frames"), [("7 pixels", 7, 1), ("6 min", 1, 3), ("7 pixels 6 min", 7, 3)])
def test_scores_at_a_scale_are_those_of_written_out_means(forecast, truth, scores, scale, width, frames):
    m, o, mask = means(forecast, truth, width, frames)
    assert 0 < (~mask).sum() < mask.sum()
    own = scores.sel(scale=scale)
    for place, lead in enumerate(range(frames - 1, 6, frames)):
        there = mask[:, place]
        x, y = m[:, :, place][:, there], o[:, place][there]
        pairs = sum(np.abs(a - b) for a, b in itertools.combinations(x, 2)) / (MEMBERS * (MEMBERS - 1))
        variance, error = x.var(0, ddof=1).mean(), ((x.mean(0) - y) ** 2).mean()
        p = (x >= 0.5).mean(0)
        expected = {
            "count": there.sum(),
            "mse": error,
            "crps_fair": (np.abs(x - y).mean(0) - pairs).mean(),
            "spread_skill": np.sqrt((MEMBERS + 1) / MEMBERS * variance / error),
            "brier": ((p - (y >= 0.5)) ** 2).mean(),
        }
        for name, value in expected.items():
            assert own[name].isel(lead_time=lead).item() == pytest.approx(value, rel=1e-5), name
    others = [lead for lead in range(6) if (lead + 1) % frames]
    assert np.isnan(own["crps_fair"].isel(lead_time=others)).all()
    assert (own["count"].isel(lead_time=others) == 0).all()


def test_scores_at_the_scale_of_pixels_are_those_without_scales(forecast, truth, scores):
    plain = verify(forecast, truth, NAMES, **OPTIONS)
    xr.testing.assert_equal(scores.sel(scale="pixel", drop=True), plain)


def test_an_area_of_the_same_pixels_as_coarsening_has_the_scores_of_the_coarse_fields(forecast, truth):
    y, x = truth.dims[1:]
    whole = truth.fillna(0.0)
    coarse = [data.fillna(0.0).coarsen({y: 5, x: 5}, boundary="trim").mean() for data in (forecast, whole)]
    names = ["mse", "crps", "fss", "frequency_bias"]
    mine = verify(forecast.fillna(0.0), whole, names, scales=["5 pixels"], **OPTIONS).squeeze("scale", drop=True)
    other = verify(*coarse, names, **OPTIONS)
    for name in names:
        np.testing.assert_allclose(mine[name], other[name], rtol=1e-5)


def test_one_forecast_is_scored_at_scales_with_skill_and_intervals_against_persistence():
    truth = observations(frames=30, y=12, x=12)
    forecast = forecast_of(truth, init=range(1, 22), leads=(1, 2, 3, 4), noise=0.5)
    s = verify(
        forecast, truth, ["mse", "mae"], scales=["pixel", "4 pixels 10 min"], reference="persistence",
        bootstrap=Bootstrap(100), valid_times="all",
    )  # fmt: skip
    own = s.sel(scale="4 pixels 10 min")
    two = forecast.coarsen(lead_time=2, y=4, x=4).mean().values
    ahead = [[truth.values[i + k + 1 : i + k + 3].mean(0) for k in (0, 2)] for i in range(1, 22)]
    seen, still = (each.reshape(21, -1, 3, 4, 3, 4).mean((3, 5)) for each in (np.array(ahead), truth.values[1:22]))
    np.testing.assert_allclose(own["mse"][[1, 3]], ((two - seen) ** 2).mean((0, 2, 3)), rtol=1e-10)
    np.testing.assert_allclose(own["mse_persistence"][[1, 3]], ((still - seen) ** 2).mean((0, 2, 3)), rtol=1e-10)
    ends = own[[f"mse_skill{end}" for end in ("_lower", "", "_upper")]].isel(lead_time=[1, 3])
    assert (ends["mse_skill_lower"] < ends["mse_skill"]).all()
    assert (ends["mse_skill"] < ends["mse_skill_upper"]).all()


def test_forecasts_with_and_without_members_are_compared_at_scales_on_one_sample(forecast, truth):
    scales = ["6 min", "pixel", "7 pixels"]  # in the order asked for, whatever order they are computed in
    one = forecast.isel(realization=0).where(forecast["init_time"] > forecast["init_time"][0])
    options = {"scales": scales, "valid_times": "all", "bootstrap": Bootstrap(50, block=1)}
    with pytest.warns(ForecastWarning, match="one has no value for 1"):
        s = compare({"all": forecast, "one": one}, truth, ["crps", "crps_fair"], reference="one", **options)
    assert s["all"]["scale"].values.tolist() == scales
    alone = verify(forecast[:, 1:], truth, ["crps", "crps_fair"], scales=scales)
    np.testing.assert_allclose(s["all"]["crps"], alone["crps"], rtol=1e-12)
    np.testing.assert_allclose(s["all"]["crps_one"], s["one"]["crps"], rtol=1e-12)
    skill = 1 - s["all"]["crps"] / s["one"]["crps"]
    np.testing.assert_allclose(s["all"]["crps_skill"], skill, rtol=1e-10)
    assert (s["all"]["crps_skill"].dropna("lead_time") > 0).all()


def test_areas_are_those_of_scores_on_coarse_fields(forecast, truth):
    probability = pytest.importorskip("scores.probability", reason="compares with scores: pip install scores")
    y, x = truth.dims[1:]
    dry = truth.fillna(0.0)
    made = forecast.fillna(0.0).coarsen({y: 5, x: 5}, boundary="trim").mean()
    seen = xr.concat(
        [dry.sel(time=made["init_time"] + lead).drop_vars("time") for lead in made["lead_time"]], "lead_time"
    )
    seen = seen.coarsen({y: 5, x: 5}, boundary="trim").mean()
    mine = verify(forecast.fillna(0.0), dry, ["crps_fair", "twcrps", "brier_fair"], [0.5], scales=["5 pixels"])
    given = {"preserve_dims": "lead_time"}
    fair = probability.crps_for_ensemble(made, seen, "realization", method="fair", **given)
    np.testing.assert_allclose(mine["crps_fair"].squeeze(), fair, rtol=1e-5)
    tail = probability.tail_tw_crps_for_ensemble(made, seen, "realization", 0.5, tail="upper", method="ecdf", **given)
    np.testing.assert_allclose(mine["twcrps"].squeeze(), tail, rtol=1e-4)
    brier = probability.brier_score_for_ensemble(made, seen, "realization", [0.5], fair_correction=True, **given)
    np.testing.assert_allclose(mine["brier_fair"].squeeze(), brier.squeeze(), rtol=1e-5)


@pytest.mark.parametrize("chunks", [{"init_time": 1}, {"realization": 2, "lead_time": 1}])
def test_scores_at_scales_are_the_same_in_any_chunks(forecast, truth, scores, chunks, monkeypatch):
    monkeypatch.setattr(collect, "BLOCK_BYTES", forecast[:, 0, 0].nbytes)
    xr.testing.assert_identical(verify(forecast.chunk(chunks), truth, NAMES, scales=SCALES, **OPTIONS), scores)


def test_statistics_at_scales_add_up_over_init_times(forecast, truth, scores):
    parts = [collect_statistics(forecast[:, i], truth, NAMES, scales=SCALES, **OPTIONS) for i in ([2], [0, 1])]
    xr.testing.assert_identical(summarise(Statistics.total(parts)), scores)


def test_of_means_over_a_time_one_lead_time_of_members_is_added_at_a_time(forecast, truth, monkeypatch):
    each = forecast[:, 0, 0].nbytes
    monkeypatch.setattr(collect, "BLOCK_BYTES", each)
    seen = []
    add = collect._added
    monkeypatch.setattr(collect, "_added", lambda *parts: seen.append(parts[2].nbytes) or add(*parts))
    verify(forecast.chunk(init_time=1, lead_time=1).compute(), truth, ["crps"], scales=["12 min"])
    del seen[:]
    stored = forecast.copy()
    stored.encoding["preferred_chunks"] = {"lead_time": 1}
    verify(stored, truth, ["crps"], scales=["12 min"])
    assert seen == [each] * 18


def test_tables_keep_scales_in_their_order(scores):
    back = from_table(to_table(scores))[""]
    assert back["scale"].values.tolist() == SCALES
    np.testing.assert_allclose(back["crps_fair"].transpose(*scores["crps_fair"].dims), scores["crps_fair"])


# --- widths and times


def test_kilometres_are_told_by_the_coordinates(truth):
    km = observations()
    assert kilometres(km, ("y", "x")) is None
    for units, factor in (("m", 1.0), ("km", 1000.0)):
        given = km.assign_coords({d: (d, km[d].values, {"units": units}) for d in ("y", "x")})
        np.testing.assert_allclose(kilometres(given, ("y", "x")), factor)
    spatial = truth.dims[1:]
    dy, dx = kilometres(truth, spatial)
    latitude, step = float(truth[spatial[0]].mean()), float(abs(truth[spatial[1]][1] - truth[spatial[1]][0]))
    assert dx == pytest.approx(111.2 * step * np.cos(np.deg2rad(latitude)), rel=1e-4)
    assert dy == pytest.approx(111.2 * float(abs(truth[spatial[0]][1] - truth[spatial[0]][0])), rel=1e-4)


@pytest.mark.parametrize(
    ("told", "label", "width", "minutes"),
    [
        ("20km", "20 km", (20.0, "km"), 0),
        ("5 px, 90 min", "5 pixels 90 min", (5.0, "pixels"), 90),
        ("1h", "1 h", None, 60),
        ("Pixel", "pixel", None, 0),
    ],
)
def test_a_scale_is_read_as_it_is_written(told, label, width, minutes):
    assert read_scale(told) == (label, width, minutes * MINUTE)


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        (["20 knots"], "'20 knots' is none, expected"),
        (["20"], "'20' is none"),
        (["2 km 3 km"], "'2 km 3 km' is none"),
        (["1 h"], "'1 h' of lead times 5 min to 15 min in 3 steps, expected a time that"),
        (["12 min"], "'12 min' of lead times"),
        (["5 min"], "'5 min' of lead times"),
        (["9 pixels"], "'9 pixels' is 9 pixels along y, which has 6"),
        (["1 km"], "'1 km' is one pixel of this grid"),
        (["pixel", "pixels"], "each once"),
        ([], "at least one"),
    ],
)
def test_a_scale_that_is_none_of_the_data_is_refused(scales, words):
    truth = observations().assign_coords({d: (d, np.arange(n) * 1.0, {"units": "km"}) for d, n in (("y", 6), ("x", 7))})
    with pytest.raises(RecipeError, match=words):
        verify(forecast_of(truth), truth, ["mse"], scales=scales)


def test_kilometres_on_a_grid_that_tells_none_are_refused():
    truth = observations()
    with pytest.raises(RecipeError, match="not in m, km or degrees, expected a width in pixels"):
        verify(forecast_of(truth), truth, ["mse"], scales=["3 km"])
