"""Scores of members and probabilities on real rain with made members: against scores, loops and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr

from sa_nowcast.errors import RecipeError
from sa_nowcast.sources.samples import open_sample
from sa_nowcast.verification import (
    METRICS,
    Bootstrap,
    Statistics,
    collect,
    collect_statistics,
    compare,
    summarise,
    to_table,
)
from sa_nowcast.verification import verify as verify_any
from sa_nowcast.verification.bootstrap import block_weights
from sa_nowcast.verification.ensembles import COST_LOSS
from sa_nowcast.verification.table import from_table

from .conftest import MINUTE, forecast_of, observations

MEMBERS = 5
THRESHOLDS = [0.5, 2.0]
PROBABILITIES = np.arange(MEMBERS + 1) / MEMBERS
OF_PROBABILITIES = [name for name, metric in METRICS.items() if "with_event" in metric.sums.dims]
OF_MEMBERS = [name for name in METRICS if name.startswith(("crps", "twcrps", "spread", "rank"))]


def verify(forecast, truth, metrics, thresholds=THRESHOLDS, **options):
    return verify_any(forecast, truth, metrics, thresholds, **options)


def shifted(truth, init=(1, 2, 3, 4), leads=(1, 3), members=MEMBERS, seed=0):
    """Lagged frames, each member moved by so many pixels and times a factor by pixel: dry pixels remain ties."""
    generator = np.random.default_rng(seed)
    parts = []
    for member in range(members):
        moved = truth.fillna(0).roll({truth.dims[1]: member - 2, truth.dims[2]: 2 * member - 3})
        frames = [moved.isel(time=list(init)) * generator.gamma(8, 1 / 8, (len(init), *truth.shape[1:])) for _ in leads]
        ahead = np.asarray(leads) * (truth["time"].values[1] - truth["time"].values[0])
        parts.append(xr.concat(frames, xr.DataArray(ahead, dims="lead_time", name="lead_time")))
    return xr.concat(parts, "realization").rename(time="init_time").assign_attrs(truth.attrs)


def paired(forecast, truth):
    """Members (M, pairs of init time and lead time, y, x), truth, and where all are there, as NumPy arrays."""
    members = forecast.transpose("realization", "init_time", "lead_time", ...)
    observed = np.stack(
        [truth.sel(time=members["init_time"] + lead).values for lead in members["lead_time"].values], axis=1
    )
    return members.values, observed, np.isfinite(observed) & np.isfinite(members.values).all(0)


@pytest.fixture(scope="module")
def truth():
    """Eight frames of real rain, a twelfth of the pixels, of which some are missing."""
    rain = open_sample()["precip_rate"][:16:2, 64:320:4, ::6].load()
    rain[5, 10:20, 30:] = np.nan
    return rain


@pytest.fixture(scope="module")
def forecast(truth):
    archive = shifted(truth)
    archive[2, 1, 1, :9, 5:30] = np.nan
    return archive.transpose("realization", "init_time", "lead_time", ...)


@pytest.fixture(scope="module")
def theirs(forecast, truth):
    """Forecast and truth as scores takes them: on the same pixels."""
    observed = xr.concat(
        [truth.sel(time=forecast["init_time"] + lead).drop_vars("time") for lead in forecast["lead_time"]], "lead_time"
    )
    there = forecast.notnull().all("realization") & observed.notnull()
    return forecast.where(there), observed.where(there)


def test_the_made_members_hold_ties_events_and_missing_pixels(forecast, truth):
    members, observed, there = paired(forecast, truth)
    assert 0.005 < 1 - there.mean() < 0.2
    assert ((members == observed).any(0) & there).mean() > 0.3
    for threshold in THRESHOLDS:
        number = (members >= threshold).sum(0)[there]
        assert set(number) == set(range(MEMBERS + 1))


def test_crps_and_its_threshold_weighted_form_equal_those_of_scores(forecast, truth, theirs):
    probability = pytest.importorskip("scores.probability", reason="compares with scores: pip install scores")
    mine = verify(forecast, truth, ["crps", "crps_fair", "twcrps", "twcrps_fair"])
    for ending, method in (("", "ecdf"), ("_fair", "fair")):
        options = {"method": method, "preserve_dims": "lead_time"}
        whole = probability.crps_for_ensemble(*theirs, "realization", **options)
        np.testing.assert_allclose(mine[f"crps{ending}"], whole, rtol=1e-10)
        for threshold in THRESHOLDS:
            tail = probability.tail_tw_crps_for_ensemble(*theirs, "realization", threshold, tail="upper", **options)
            np.testing.assert_allclose(mine[f"twcrps{ending}"].sel(threshold=threshold), tail, rtol=1e-10)


def test_brier_scores_equal_those_of_scores(forecast, truth, theirs):
    probability = pytest.importorskip("scores.probability", reason="compares with scores: pip install scores")
    mine = verify(forecast, truth, ["brier", "brier_fair"])
    for name, fair in (("brier", False), ("brier_fair", True)):
        expected = probability.brier_score_for_ensemble(
            *theirs, "realization", THRESHOLDS, preserve_dims="lead_time", fair_correction=fair
        )
        np.testing.assert_allclose(mine[name], expected.transpose(*mine[name].dims), rtol=1e-10)


def test_roc_curve_its_area_and_economic_value_equal_those_of_scores(forecast, truth, theirs):
    probability = pytest.importorskip("scores.probability", reason="compares with scores: pip install scores")
    mine = verify(forecast, truth, ["roc", "economic_value"])
    members, observed = theirs
    for threshold in THRESHOLDS:
        p = (members >= threshold).where(members.notnull()).mean("realization", skipna=False)
        event = (observed >= threshold).where(observed.notnull())
        own = mine.sel(threshold=threshold)
        options = {"preserve_dims": "lead_time"}
        curve = probability.roc_curve_data(p, event, PROBABILITIES, **options)
        np.testing.assert_allclose(own["roc_area"], curve["AUC"], rtol=1e-10)
        curve = curve.sel(threshold=PROBABILITIES).transpose("lead_time", ...)
        np.testing.assert_allclose(own["roc_hit_rate"], curve["POD"], rtol=1e-10)
        np.testing.assert_allclose(own["roc_false_alarm_rate"], curve["POFD"], rtol=1e-10)
        value = probability.relative_economic_value(
            p, event, cost_loss_ratios=list(COST_LOSS), probability_thresholds=[*PROBABILITIES], **options
        )
        best = np.maximum(value.max("probability_threshold"), 0.0)  # never to protect, where that is best
        np.testing.assert_allclose(own["economic_value"], best.transpose("lead_time", ...), rtol=1e-9, atol=1e-12)


def test_scores_of_members_equal_the_loop_over_pixels(forecast, truth):
    members, observed, there = paired(forecast, truth)
    mine = verify(forecast, truth, [*OF_MEMBERS, "mse", "mae", "mean_error"])
    for lead in range(2):
        error, pairs, variances, errors = [], [], [], []
        for i, y, x in zip(*np.nonzero(there[:, lead]), strict=True):
            values, seen = members[:, i, lead, y, x], observed[i, lead, y, x]
            error.append(np.abs(values - seen).mean())
            pairs.append(sum(abs(a - b) for a in values for b in values))
            variances.append(((values - values.mean()) ** 2).sum() / (MEMBERS - 1))
            errors.append(values.mean() - seen)
        e, v = np.asarray(errors), np.asarray(variances)
        own = mine.isel(lead_time=lead)
        expected = {
            "crps": np.mean(error) - np.mean(pairs) / (2 * MEMBERS**2),
            "crps_fair": np.mean(error) - np.mean(pairs) / (2 * MEMBERS * (MEMBERS - 1)),
            "spread": np.sqrt(v.mean()),
            "spread_skill": np.sqrt((MEMBERS + 1) / MEMBERS * v.mean() / (e**2).mean()),
            "spread_error_correlation": np.corrcoef(np.sqrt(v), np.abs(e))[0, 1],
            "mse": (e**2).mean(),
            "mae": np.abs(e).mean(),
            "mean_error": e.mean(),
        }
        for name, value in expected.items():
            assert own[name].item() == pytest.approx(value, rel=1e-10), name
        assert own["count"] == there[:, lead].sum()


def test_scores_of_probabilities_equal_the_loop_over_bins(forecast, truth):
    members, observed, there = paired(forecast, truth)
    mine = verify(forecast, truth, OF_PROBABILITIES)
    for lead, (place, threshold) in itertools.product(range(2), enumerate(THRESHOLDS)):
        own = mine.isel(lead_time=lead, threshold=place)
        mask = there[:, lead]
        p = (members[:, :, lead] >= threshold).mean(0)[mask]
        o = (observed[:, lead] >= threshold)[mask]
        n = np.array([(p == q).sum() for q in PROBABILITIES])
        f = np.array([o[p == q].mean() for q in PROBABILITIES])
        reliability = sum(n * (PROBABILITIES - f) ** 2) / n.sum()
        resolution = sum(n * (f - o.mean()) ** 2) / n.sum()
        np.testing.assert_allclose(own["observed_frequency"], f, rtol=1e-12)
        np.testing.assert_allclose(own["forecast_share"], n / n.sum(), rtol=1e-12)
        np.testing.assert_allclose(own["roc_hit_rate"], [(p[o] >= q).mean() for q in PROBABILITIES], rtol=1e-12)
        assert own["brier"].item() == pytest.approx(((p - o) ** 2).mean(), rel=1e-11)
        assert own["brier_reliability"].item() == pytest.approx(reliability, rel=1e-11)
        assert own["brier_resolution"].item() == pytest.approx(resolution, rel=1e-11)
        assert own["brier_uncertainty"].item() == pytest.approx(o.mean() * (1 - o.mean()), rel=1e-11)
        for cost in COST_LOSS:
            expenses = [(cost * (p >= q) + (o & (p < q))).mean() for q in [*PROBABILITIES, 2.0]]
            climate = min(cost, o.mean())
            value = (climate - min(expenses)) / (climate - cost * o.mean())
            assert own["economic_value"].sel(cost_loss=cost).item() == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_brier_score_is_reliability_less_resolution_plus_uncertainty(forecast, truth):
    s = verify(forecast, truth, OF_PROBABILITIES)
    parts = s["brier_reliability"] - s["brier_resolution"] + s["brier_uncertainty"]
    np.testing.assert_allclose(parts, s["brier"], rtol=0, atol=1e-15)


def test_an_average_over_thresholds_of_the_brier_score_is_the_crps():
    truth = (observations(seed=2) * 4).round() / 4
    forecast = (forecast_of(truth, members=4, noise=2.0) * 4).round() / 4
    top = float(max(forecast.max(), truth.max()))
    steps = np.arange(0.25, top + 0.25, 0.25)  # an integral over values that are quarters
    s = verify(forecast, truth, ["crps", "crps_fair", "brier", "brier_fair"], list(steps))
    for ending in ("", "_fair"):
        np.testing.assert_allclose(s[f"brier{ending}"].sum("threshold") * 0.25, s[f"crps{ending}"], rtol=1e-10)


def test_event_scores_of_an_ensemble_are_of_the_sums_of_its_members(forecast, truth):
    names = ["csi", "pod", "far", "frequency_bias"]
    mine = verify(forecast, truth, names)
    members, observed, there = paired(forecast, truth)
    for lead, (place, threshold) in itertools.product(range(2), enumerate(THRESHOLDS)):
        yes = (members[:, :, lead] >= threshold) & there[:, lead]
        seen = np.broadcast_to((observed[:, lead] >= threshold) & there[:, lead], yes.shape)
        hits, either = (yes & seen).sum(), (yes | seen).sum()
        own = mine.isel(lead_time=lead, threshold=place)
        expected = [hits / either, hits / seen.sum(), 1 - hits / yes.sum(), yes.sum() / seen.sum()]
        np.testing.assert_allclose([own[name].item() for name in names], expected, rtol=1e-12)


def test_fss_of_an_ensemble_is_that_of_its_probabilities(forecast, truth):
    ndimage = pytest.importorskip("scipy.ndimage", reason="window means by SciPy: pip install scipy")
    mine = verify(forecast, truth, ["fss"], neighbourhoods=[1, 7])["fss"]
    members, observed, there = paired(forecast, truth)
    for lead, (place, threshold), (n, width) in itertools.product(range(2), enumerate(THRESHOLDS), enumerate([1, 7])):
        mask = there[:, lead]
        probability = (members[:, :, lead] >= threshold).mean(0) * mask
        event = ((observed[:, lead] >= threshold) & mask).astype(float)
        p, o = (
            ndimage.uniform_filter(each, (0, width, width), mode="constant") * mask for each in (probability, event)
        )
        expected = 1 - ((p - o) ** 2).sum() / ((p**2).sum() + (o**2).sum())
        assert mine.values[lead, place, n] == pytest.approx(expected, rel=1e-10)


def test_one_member_has_the_scores_of_one_forecast(forecast, truth):
    one = forecast.isel(realization=[1])
    names = ["crps", "mae", "twcrps", "brier", "roc_area", "pod", "csi", "fss", "frequency_bias"]
    s = verify(one, truth, names)
    xr.testing.assert_identical(s, verify(one.isel(realization=0), truth, names))
    np.testing.assert_allclose(s["crps"], s["mae"], rtol=1e-13)
    members, observed, there = paired(one, truth)
    for lead, (place, threshold) in itertools.product(range(2), enumerate(THRESHOLDS)):
        wrong = (members[0, :, lead] >= threshold) != (observed[:, lead] >= threshold)
        assert s["brier"].values[lead, place] == pytest.approx(wrong[there[:, lead]].mean(), rel=1e-12)
        above = np.maximum(members[0, :, lead], threshold) - np.maximum(observed[:, lead], threshold)
        assert s["twcrps"].values[lead, place] == pytest.approx(np.abs(above[there[:, lead]]).mean(), rel=1e-12)
        false = (members[0, :, lead] >= threshold)[there[:, lead] & (observed[:, lead] < threshold)].mean()
        assert s["roc_area"].values[lead, place] == pytest.approx((1 + s["pod"].values[lead, place] - false) / 2)


def test_means_of_areas_and_sums_over_lead_times_are_scored_as_fields(forecast, truth):
    y, x = truth.dims[1:]
    coarse, seen = (data.coarsen({y: 16, x: 10}, boundary="trim").reduce(np.mean) for data in (forecast, truth))
    members, observed, there = paired(forecast, truth)
    blocks = there[..., :64, :80].reshape(4, 2, 4, 16, 8, 10).all((3, 5))
    m = members[..., :64, :80].reshape(MEMBERS, 4, 2, 4, 16, 8, 10).mean((4, 6))
    o = observed[..., :64, :80].reshape(4, 2, 4, 16, 8, 10).mean((3, 5))
    pairs = sum(np.abs(a - b) for a, b in itertools.combinations(m, 2))
    crps = np.abs(m - o).mean(0) - pairs / (MEMBERS * (MEMBERS - 1))
    expected = [crps[:, lead][blocks[:, lead]].mean() for lead in range(2)]
    np.testing.assert_allclose(verify(coarse, seen, ["crps_fair"])["crps_fair"], expected, rtol=1e-10)
    lead = [1, 2]
    hour = forecast_of(truth.fillna(0), init=(1, 2, 3), leads=lead, members=4)
    total = hour.sum("lead_time", keep_attrs=True).expand_dims(lead_time=hour["lead_time"][-1:])
    s = verify(total, truth.fillna(0).rolling(time=2).sum().assign_attrs(truth.attrs), ["crps"])
    sums = hour.sum("lead_time").values
    o = np.stack([truth.fillna(0).values[i + 1] + truth.fillna(0).values[i + 2] for i in (1, 2, 3)])
    pairs = sum(np.abs(a - b) for a, b in itertools.combinations(sums, 2)) / 16
    assert s["crps"].item() == pytest.approx((np.abs(sums - o).mean(0) - pairs).mean(), rel=1e-10)


# --- draws from one distribution


@pytest.fixture(scope="module")
def exchangeable():
    """Truth and nine members drawn from one distribution at each pixel, with a spread that varies and many zeros."""
    generator = np.random.default_rng(4)
    truth = observations(frames=12, y=60, x=50)
    scale = generator.gamma(2.0, 1.0, (60, 50))
    truth[:] = np.maximum(generator.normal(0, scale, truth.shape), 0)
    archive = forecast_of(truth, init=range(8), leads=(1, 2), members=9)
    archive[:] = np.maximum(generator.normal(0, scale, archive.shape), 0)
    return archive, truth


def test_exchangeable_draws_have_a_flat_rank_histogram_in_spite_of_ties(exchangeable):
    s = verify(*exchangeable, ["rank_histogram"])
    counts = s["rank_histogram"] * s["count"]
    np.testing.assert_allclose(counts, counts.round(), atol=1e-8)
    expected = s["count"] / 10
    chi_square = ((counts - expected) ** 2 / expected).sum("rank")
    # 99.9 % point of nine degrees of freedom; shared out evenly, the ties would give far less than nine.
    assert (chi_square < 27.9).all()
    assert (chi_square > 1.0).all()


def test_exchangeable_draws_have_a_spread_skill_of_one_and_a_spread_that_tells_of_the_error(exchangeable):
    s = verify(*exchangeable, ["spread_skill", "spread_error_correlation"])
    np.testing.assert_allclose(s["spread_skill"], 1.0, atol=0.02)
    assert (s["spread_error_correlation"] > 0.3).all()


def test_scores_of_draws_from_the_climate_are_those_of_the_normal_distribution():
    truth = observations(frames=12, y=90, x=80)
    archive = forecast_of(truth, init=range(8), leads=(1, 2), members=7)
    generator = np.random.default_rng(11)
    truth[:] = generator.normal(size=truth.shape)
    archive[:] = generator.normal(size=archive.shape)
    truth, archive = (data.assign_attrs(units="1") for data in (truth, archive))
    s = verify(archive, truth, [*OF_MEMBERS, *OF_PROBABILITIES], [-1.0, 0.5])
    # Of X and X' from N(0, 1), E|X - X'| is 2 / sqrt(pi).
    np.testing.assert_allclose(s["crps_fair"], 1 / np.sqrt(np.pi), rtol=0.01)
    np.testing.assert_allclose(s["crps"], (1 + 1 / 7) / np.sqrt(np.pi), rtol=0.01)
    np.testing.assert_allclose(s["spread"], 1.0, rtol=0.005)
    np.testing.assert_allclose(s["spread_error_correlation"], 0.0, atol=0.01)
    p = np.array([0.841345, 0.308538])  # of a value above -1 and 0.5
    np.testing.assert_allclose(s["brier_fair"], [p * (1 - p)] * 2, rtol=0.02)
    np.testing.assert_allclose(s["brier_uncertainty"], [p * (1 - p)] * 2, rtol=0.02)
    # The frequency is the same whatever was forecast: resolution is none, and reliability the error of drawing seven.
    np.testing.assert_allclose(s["brier_reliability"], [p * (1 - p) / 7] * 2, rtol=0.06)
    np.testing.assert_allclose(s["brier_resolution"], 0.0, atol=1e-3)
    np.testing.assert_allclose(s["roc_area"], 0.5, atol=0.01)
    np.testing.assert_allclose(s["economic_value"], 0.0, atol=0.02)


def test_fair_scores_do_not_depend_on_the_number_of_exchangeable_members(exchangeable):
    archive, truth = exchangeable
    few, many = (verify(archive[:m], truth, ["crps", "crps_fair", "brier", "brier_fair"], [0.5]) for m in (2, 9))
    for name in ("crps_fair", "brier_fair"):
        np.testing.assert_allclose(few[name], many[name], rtol=0.02)
    for name in ("crps", "brier"):
        assert (few[name] > 1.2 * many[name]).all()


# --- fields without rain, and without variation


def test_scores_of_dry_fields_are_zero_or_undefined_and_ranks_are_drawn(exchangeable):
    archive, truth = exchangeable
    s = verify(archive * 0, truth * 0, [*OF_MEMBERS, *OF_PROBABILITIES])
    for name in ("crps", "crps_fair", "twcrps", "spread", "brier", "brier_fair", "brier_reliability"):
        np.testing.assert_array_equal(s[name], 0.0)
    for name in ("spread_skill", "spread_error_correlation", "roc_area", "roc_hit_rate", "economic_value"):
        assert np.isnan(s[name]).all(), name
    np.testing.assert_allclose(s["rank_histogram"], 0.1, atol=0.01)
    np.testing.assert_array_equal(s["observed_frequency"].isel(probability=0), 0.0)
    assert np.isnan(s["observed_frequency"].isel(probability=slice(1, None))).all()


def test_the_correlation_of_a_spread_that_is_the_same_everywhere_is_undefined(exchangeable):
    archive, truth = exchangeable
    constant = archive * 0 + xr.DataArray(np.linspace(0.1, 0.7, 9), dims="realization")
    s = verify(constant, truth, ["spread", "spread_error_correlation"])
    np.testing.assert_allclose(s["spread"], np.linspace(0.1, 0.7, 9).std(ddof=1))
    assert np.isnan(s["spread_error_correlation"]).all()


def test_an_event_that_always_comes_and_is_foreseen_is_scored_without_error(exchangeable):
    archive, truth = exchangeable
    s = verify(archive + 9, truth + 9, OF_PROBABILITIES, [1.0])
    np.testing.assert_array_equal(s["brier"], 0.0)
    np.testing.assert_array_equal(s["brier_uncertainty"], 0.0)
    assert np.isnan(s["roc_area"]).all()
    np.testing.assert_array_equal(s["observed_frequency"].isel(probability=-1), 1.0)


# --- blocks, order, parts


@pytest.mark.parametrize("chunks", [{"init_time": 1}, {"realization": 2, "lead_time": 1}, {"init_time": 3, "x": 7}])
def test_scores_of_members_are_the_same_in_any_chunks(forecast, truth, chunks):
    chunks = {{"x": forecast.dims[-1]}.get(dim, dim): size for dim, size in chunks.items()}
    names = [*OF_MEMBERS, *OF_PROBABILITIES, "csi", "fss"]
    whole = verify(forecast, truth, names, reference="persistence")
    xr.testing.assert_identical(verify(forecast.chunk(chunks), truth, names, reference="persistence"), whole)


@pytest.mark.parametrize("opened", ["{}", "None"], ids=["dask", "lazily opened"])
def test_an_init_time_larger_than_a_block_is_read_by_its_stored_lead_times(
    forecast, truth, tmp_path, monkeypatch, opened
):
    plain = forecast.drop_encoding()
    plain.to_dataset(name="rain").to_zarr(
        tmp_path / "a.zarr", encoding={"rain": {"chunks": (MEMBERS, 1, 1, *forecast.shape[-2:])}}, consolidated=False
    )
    lazy = xr.open_zarr(
        tmp_path / "a.zarr", chunks=None if opened == "None" else {}, decode_timedelta=True, consolidated=False
    )["rain"].rename(truth.name)
    names = [*OF_MEMBERS, *OF_PROBABILITIES, "csi", "fss", "mse"]
    whole = verify(forecast, truth, names, reference="persistence")
    each = forecast[:, 0, 0].nbytes
    monkeypatch.setattr(collect, "BLOCK_BYTES", each)
    seen = []
    reduce = collect._reduce
    monkeypatch.setattr(collect, "_reduce", lambda *parts: seen.append(parts[1].nbytes) or reduce(*parts))
    xr.testing.assert_identical(verify(lazy, truth, names, reference="persistence"), whole)
    assert seen == [each] * 8


def test_ties_are_broken_alike_whatever_the_order_of_axes_and_the_crop(forecast, truth):
    y, x = truth.dims[1:]
    ranks = collect_statistics(forecast, truth, ["rank_histogram"]).forecast["rank_count"]
    turned = forecast.transpose(x, "lead_time", y, "init_time", "realization")[:, :, ::-1]
    turned = collect_statistics(turned, truth, ["rank_histogram"]).forecast["rank_count"]
    np.testing.assert_array_equal(turned, ranks)
    halves = [{x: slice(0, 40)}, {x: slice(40, None)}]
    parts = [collect_statistics(forecast[half], truth[half], ["rank_histogram"]) for half in halves]
    np.testing.assert_array_equal((parts[0] + parts[1]).forecast["rank_count"], ranks)
    # And otherwise at another time: all dry, no two frames have the same counts.
    dry = collect_statistics(forecast * 0, truth * 0, ["rank_histogram"]).forecast["rank_count"]
    frames = dry.values.reshape(-1, MEMBERS + 1)
    assert len({tuple(frame) for frame in frames}) == len(frames)


def test_statistics_of_members_add_up_over_init_times(forecast, truth):
    names = [*OF_MEMBERS, *OF_PROBABILITIES, "csi", "fss"]
    options = {"thresholds": THRESHOLDS, "reference": "persistence"}
    parts = [collect_statistics(forecast[:, part], truth, names, **options) for part in ([3], [0, 1], [2])]
    expected = verify(forecast, truth, names, reference="persistence")
    xr.testing.assert_identical(summarise(Statistics.total(parts)), expected)


# --- references, intervals, tables, refusals


def test_skills_of_probabilities_have_intervals_against_an_ensemble_of_another_size():
    truth = observations(frames=40)
    forecast = forecast_of(truth, init=range(1, 30), members=6, noise=1.0)
    other = forecast_of(truth, init=range(1, 30), members=4, noise=3.0, seed=8)
    names = ["crps_fair", "twcrps", "brier_fair", "roc_area", "rank_histogram", "observed_frequency"]
    s = verify(forecast, truth, names, [1.0], reference=other, reference_name="other", bootstrap=Bootstrap(200))
    alone = verify(other, truth, names, [1.0], valid_times="common")
    for name in ("crps_fair", "twcrps", "brier_fair", "roc_area"):
        np.testing.assert_allclose(s[f"{name}_other"], alone[name])
        lower, skill, upper = (s[f"{name}_skill{end}"] for end in ("_lower", "", "_upper"))
        assert ((lower > 0) & (lower < skill) & (skill < upper) & (upper < 1)).all(), name
    # Ranks and probabilities of five steps have no place among those of seven.
    assert not {"rank_histogram_other", "observed_frequency_other"} & set(s)


def test_a_deterministic_forecast_is_compared_with_members_in_the_scores_that_both_have(forecast, truth):
    archives = {"one": forecast.isel(realization=0), "all": forecast}
    names = ["crps", "crps_fair", "brier", "brier_fair", "rank_histogram", "roc_area"]
    scores = compare(archives, truth, names, THRESHOLDS)
    assert {"crps", "brier", "roc_area"} <= set(scores["one"])
    assert not {"crps_fair", "brier_fair", "rank_histogram"} & set(scores["one"])
    assert (scores["all"]["crps"] < scores["one"]["crps"]).all()
    assert (scores["all"]["brier"] < scores["one"]["brier"]).all()


def test_tables_hold_probabilities_and_cost_loss_ratios_and_give_them_back(forecast, truth):
    s = verify(forecast, truth, ["brier", "reliability", "economic_value", "rank_histogram"])
    back = from_table(to_table(s))[""]
    for name in ("brier", "observed_frequency", "forecast_share", "economic_value", "rank_histogram"):
        np.testing.assert_allclose(back[name].transpose(*s[name].dims), s[name])


def test_the_names_of_the_literature_stand_for_ours(forecast, truth):
    names = ["Fair CRPS", "fair-brier", "fair_twcrps", "ROC", "reliability"]
    assert {"crps_fair", "brier_fair", "twcrps_fair", "roc_area", "roc_hit_rate", "observed_frequency"} <= set(
        verify(forecast, truth, names)
    )


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.ensemble])
@pytest.mark.parametrize("size", [None, 1])
def test_a_metric_of_members_is_refused_of_one_forecast(forecast, truth, name, size):
    one = forecast.isel(realization=0 if size is None else [0])
    with pytest.raises(RecipeError, match=rf"metrics: {name} of 1 member, expected .* Fix: .*realization"):
        verify(one, truth, [name])


def test_metrics_of_probabilities_need_thresholds(forecast, truth):
    plain = {"units": "K"}
    with pytest.raises(RecipeError, match="none are given for brier"):
        verify_any(forecast.assign_attrs(plain), truth.assign_attrs(plain), ["brier"])


def test_lead_times_are_in_the_seed_of_ties():
    truth = observations(frames=6) * 0
    forecast = forecast_of(truth, init=(1,), leads=(1, 2), members=3, noise=0.0)
    counts = collect_statistics(forecast, truth, ["rank_histogram"]).forecast["rank_count"]
    later = forecast.assign_coords(lead_time=forecast["lead_time"] + MINUTE * 5)
    moved = collect_statistics(later, truth, ["rank_histogram"]).forecast["rank_count"]
    np.testing.assert_array_equal(counts.isel(lead_time=1), moved.isel(lead_time=0))
    assert not np.array_equal(counts.isel(lead_time=0), moved.isel(lead_time=0))


# --- errors by spread


def test_bins_of_spread_hold_equal_numbers_and_what_sorted_pixels_give(exchangeable):
    archive, truth = exchangeable
    s = verify(archive, truth, ["binned_spread_skill", "spread", "rmse"])
    members, observed, _ = paired(archive, truth)
    for lead in range(2):
        own = s.isel(lead_time=lead)
        x, y = members[:, :, lead].reshape(9, -1), observed[:, lead].ravel()
        variance, error = x.var(0, ddof=1), (x.mean(0) - y) ** 2
        none = variance == 0
        assert own["binned_share"][0].item() == pytest.approx(none.mean())
        np.testing.assert_allclose(own["binned_share"][1:], (1 - none.mean()) / 10, rtol=1e-10)
        order = np.argsort(variance[~none])
        for number, part in enumerate(np.array_split(order, 10), start=1):
            spread = np.sqrt(10 / 9 * variance[~none][part].mean())
            # A class is a fifth wide: within it the pixels of two bins are not told apart.
            assert own["binned_spread"][number].item() == pytest.approx(spread, rel=0.05)
            assert own["binned_rmse"][number].item() == pytest.approx(np.sqrt(error[~none][part].mean()), rel=0.08)
        total = (own["binned_rmse"] ** 2 * own["binned_share"]).sum().item()
        assert total == pytest.approx(own["rmse"].item() ** 2, rel=1e-10)
        total = (own["binned_spread"] ** 2 * own["binned_share"]).sum().item()
        assert total == pytest.approx(10 / 9 * own["spread"].item() ** 2, rel=1e-10)


def test_members_that_are_drawn_as_the_truth_have_the_error_of_their_spread_in_every_bin():
    truth, archive = (
        data.copy() for data in (observations(12, 60, 50), forecast_of(observations(12, 60, 50), range(8), members=40))
    )
    generator = np.random.default_rng(4)
    scale = generator.gamma(2.0, 1.0, (60, 50))
    truth[:], archive[:] = (generator.normal(0, scale, data.shape) for data in (truth, archive))
    s = verify(archive, truth, ["binned_spread_skill"])
    np.testing.assert_allclose((s["binned_rmse"] / s["binned_spread"])[..., 2:], 1.0, atol=0.08)


# --- intervals of scores, and bars of consistency


def test_scores_of_ensembles_have_intervals_of_the_block_bootstrap_by_hand():
    truth = observations(frames=40)
    forecast = forecast_of(truth, init=range(1, 30), leads=(1, 2), members=5)
    names = ["crps_fair", "spread_skill", "brier_fair", "roc_area", "rank_histogram", "spread"]
    how = Bootstrap(samples=60, level=0.8, block=3, seed=5, scores=True)
    s = verify(forecast, truth, names, [1.0], bootstrap=how)
    parts = [verify(forecast[:, [i]], truth, ["crps_fair", "spread"], [1.0]) for i in range(29)]
    weights = block_weights(29, 3, 60, 5)
    for lead in range(2):
        crps, variance, count = (
            np.array([part[name].values[lead] for part in parts]) for name in ("crps_fair", "spread", "count")
        )
        drawn = {"crps_fair": weights @ (crps * count), "spread": weights @ (variance**2 * count)}
        drawn = {name: each / (weights @ count) for name, each in drawn.items()}
        drawn["spread"] = np.sqrt(drawn["spread"])
        for name, share in itertools.product(drawn, (("lower", 0.1), ("upper", 0.9))):
            expected = np.quantile(drawn[name], share[1])
            assert s[f"{name}_{share[0]}"].values[lead] == pytest.approx(expected, rel=1e-10)
    for name in names:
        assert (s[f"{name}_lower"] <= s[name]).mean() > 0.9
        assert (s[name] <= s[f"{name}_upper"]).mean() > 0.9
    assert s["crps_fair_lower"].attrs["units"] == "mm h-1"
    back = from_table(to_table(s))[""]
    np.testing.assert_allclose(back["roc_area_upper"].transpose(*s["roc_area"].dims), s["roc_area_upper"])
    plain = verify(forecast, truth, names, [1.0])
    assert not [name for name in plain if str(name).endswith("_lower")]


def calibrated(inits, y, x, alike, seed=3):
    """Members and truth of an event of probability p at each init time and pixel; the same in all pixels, or not."""
    generator = np.random.default_rng(seed)
    truth = observations(frames=inits + 1, y=y, x=x)
    archive = forecast_of(truth, init=range(inits), leads=(1,), members=4)
    p = generator.integers(0, 5, (inits, 1, 1) if alike else (inits, y, x)) / 4
    archive[:] = (np.arange(4).reshape(4, 1, 1, 1, 1) < np.broadcast_to(4 * p, (inits, y, x))[None, :, None]) * 1.0
    truth[1:] = np.broadcast_to(generator.random(p.shape) < p, (inits, y, x))
    return archive, truth


def test_bars_of_independent_pixels_are_those_of_the_binomial_distribution():
    binomial = pytest.importorskip("scipy.stats", reason="quantiles by SciPy: pip install scipy").binom
    archive, truth = calibrated(40, 20, 20, alike=False)
    s = verify(archive, truth, ["reliability"], [0.5], bootstrap=Bootstrap(2000)).isel(lead_time=0, threshold=0)
    number = (s["forecast_share"] * s["count"]).values
    for i, p in enumerate((0.25, 0.5, 0.75), start=1):
        ends = binomial.ppf([0.05, 0.95], number[i], p) / number[i]
        mine = [s[f"observed_frequency_consistent_{end}"].values[i] for end in ("lower", "upper")]
        np.testing.assert_allclose(np.array(mine) - p, ends - p, rtol=0.35)
    assert s["observed_frequency_consistent_upper"].values[0] == 0
    assert s["observed_frequency_consistent_lower"].values[4] == 1


def test_bars_of_pixels_that_are_alike_are_as_wide_as_those_of_their_init_times():
    archive, truth = calibrated(400, 8, 8, alike=True)
    s = verify(archive, truth, ["reliability"], [0.5], bootstrap=Bootstrap(1000)).isel(lead_time=0, threshold=0)
    number = (s["forecast_share"] * s["count"]).values / 64
    lower, upper = (s[f"observed_frequency_consistent_{end}"].values for end in ("lower", "upper"))
    p = np.array([0.25, 0.5, 0.75])
    wide = 2 * 1.645 * np.sqrt(p * (1 - p) / number[1:4])
    np.testing.assert_allclose((upper - lower)[1:4], wide, rtol=0.4)


def test_frequencies_of_a_calibrated_ensemble_lie_within_the_bars_as_often_as_they_say():
    inside = []
    for seed in range(40):
        archive, truth = calibrated(40, 5, 5, alike=seed % 2 == 0, seed=seed)
        s = verify(archive, truth, ["reliability"], [0.5], bootstrap=Bootstrap(200)).isel(lead_time=0, threshold=0)
        f, lower, upper = (
            s[f"observed_frequency{end}"].values for end in ("", "_consistent_lower", "_consistent_upper")
        )
        inside += list((f >= lower)[1:4] & (f <= upper)[1:4])
    assert 0.78 < np.mean(inside) < 0.98


def test_bars_are_seeded_and_absent_of_too_few_init_times(forecast, truth):
    archive, seen = calibrated(40, 5, 5, alike=False)
    name = "observed_frequency_consistent_lower"
    one, other, third = (
        verify(archive, seen, ["reliability"], [0.5], bootstrap=Bootstrap(50, seed=seed))[name] for seed in (1, 1, 2)
    )
    xr.testing.assert_identical(one, other)
    assert not one.equals(third)
    assert name not in verify(forecast, truth, ["reliability"])
