"""One plan for one forecast, several, and archives: checked without reading, and scored once."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.verification import METRICS, Metric, compare, to_table, verify
from sa_nowcast.verification.fields import Fields, over_pixels
from sa_nowcast.verification.metrics import Reduction
from sa_nowcast.verification.plan import plan
from sa_nowcast.verification.scoring import Scoring

from .conftest import forecast_of, observations


def unreadable(data: xr.DataArray) -> xr.DataArray:
    """The same data on dask, whose values cannot be computed."""

    def refuse(block: np.ndarray) -> np.ndarray:
        raise AssertionError("a value was read")

    chunked = data.chunk({data.dims[0]: 1})
    return chunked.copy(data=dask.array.map_blocks(refuse, chunked.data, dtype=data.dtype, meta=np.empty((0,) * 0)))


@pytest.mark.parametrize("several", [False, True])
def test_a_plan_checks_everything_and_reads_no_value(several):
    truth = observations(frames=20)
    forecast = forecast_of(truth, init=range(1, 14))
    lazy = {"one": unreadable(forecast), "two": unreadable(forecast)} if several else unreadable(forecast)
    made = plan(lazy, unreadable(truth), Scoring(["mse"]), "persistence")
    assert made.as_dict()["init_times"] == 13
    with pytest.raises(DataError, match="truth is in dBZ"):
        plan(lazy, unreadable(truth.assign_attrs(units="dBZ")), Scoring(["mse"]))
    with pytest.raises(AssertionError, match="a value was read"):
        made.compute()


def test_the_scores_of_a_plan_are_those_of_verify_and_compare():
    truth = observations(frames=20)
    one, two = forecast_of(truth, init=range(1, 14)), forecast_of(truth, init=range(2, 15), seed=5)
    scoring = Scoring(["mse", "csi"], [1.0])
    alone = verify(one, truth, ["mse", "csi"], [1.0], "persistence")
    xr.testing.assert_identical(plan(one, truth, scoring, "persistence").compute()[""], alone)
    together = compare({"one": one, "two": two}, truth, ["mse", "csi"], [1.0], "two", valid_times="all")
    made = plan({"one": one, "two": two}, truth, Scoring(["mse", "csi"], [1.0], valid_times="all"), "two").compute()
    for name, scores in together.items():
        xr.testing.assert_identical(made[name], scores)
    # A forecast as the reference of several is one of the sample, and its scores stand beside theirs.
    beside = plan({"one": one}, truth, Scoring(["mse", "csi"], [1.0], valid_times="all"), two, reference_name="two")
    assert list(beside.pairings) == ["one"]
    xr.testing.assert_identical(beside.compute()["one"], together["one"])


def test_init_times_that_truth_lacks_are_refused_or_left_out_and_counted():
    truth = observations(frames=20)
    archives = {"one": forecast_of(truth, init=range(1, 14))}
    with pytest.raises(DataError, match="lacks the valid times"):
        plan(archives, truth[:12], Scoring(["mse"]))
    made = plan(archives, truth[:12], Scoring(["mse"]), lacking="skip")
    assert made.left_out == "left out: 5 of 13 init times that truth or another archive does not have"
    assert made.as_dict()["init_times"] == 8
    expected = compare({"one": archives["one"][:8]}, truth, ["mse"], valid_times="all")
    xr.testing.assert_identical(made.compute()["one"]["mse"], expected["one"]["mse"])


def test_a_metric_of_members_is_refused_where_only_the_reference_has_some():
    truth = observations(frames=20)
    members = forecast_of(truth, members=3)
    made = plan({"one": forecast_of(truth)}, truth, Scoring(["mse", "spread"]), members, reference_name="members")
    assert made.as_dict()["metrics"] == ["mse"]
    with pytest.raises(RecipeError, match="spread of 1 member"):
        plan({"one": forecast_of(truth)}, truth, Scoring(["spread"]), members, reference_name="members")


def test_a_new_metric_is_one_entry_that_says_what_it_needs(monkeypatch):
    def exceeded(fields: Fields) -> dict[str, np.ndarray]:
        over = [(fields.forecast >= limit) & (fields.truth >= limit) for limit in fields.settings.thresholds]
        return {"both": np.stack([over_pixels(each & fields.mask) for each in over], axis=-1)}

    sums = Reduction(exceeded, {"both": ("threshold",)})
    joint = Metric("joint", sums, lambda s: s["both"] / s["pixels"], "joint frequency", "share of pixels", perfect=None)
    monkeypatch.setitem(METRICS, "joint", joint)
    truth = observations(frames=12)
    forecast = forecast_of(truth)
    scores = verify(forecast, truth, ["joint"], [1.0, 2.0], "persistence", valid_times="all")
    seen = np.stack([truth.sel(time=forecast["init_time"] + lead).values for lead in forecast["lead_time"]], 1)
    expected = ((forecast.values >= 1.0) & (seen >= 1.0)).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(scores["joint"].sel(threshold=1.0), expected, rtol=1e-12)
    assert to_table(compare({"a": forecast}, truth, ["joint"], [1.0]))["metric"].unique().tolist() == ["joint"]
    with pytest.raises(RecipeError, match="none are given for joint"):
        verify(forecast.assign_attrs(units="K"), truth.assign_attrs(units="K"), ["joint"])
