"""Members, probabilities and quantiles as labelled forecasts, by the default model."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sequences import rain, weather

import sa_nowcast
from sa_nowcast.errors import DataError, ModelError, RecipeError
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.hindcast import hindcast


def moving(frames: int = 8, size: int = 64) -> xr.DataArray:
    """Return rain in patches that move, (time, y, x)."""
    rng = np.random.default_rng(1)
    wave = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.rfftfreq(96)[None])
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((96, 96))) * np.exp(-((9 * wave) ** 2)), (96, 96))
    field = 4 * np.maximum(field / field.std() - 0.2, 0)
    values = np.stack([np.roll(field, 2 * t, 1)[:size, :size] for t in range(frames)]).astype(np.float32)
    return frames_of(values)


def frames_of(values: np.ndarray, units: str = "mm h-1") -> xr.DataArray:
    time = pd.date_range("2020-06-01", periods=len(values), freq="5min")
    y, x = (1000.0 * np.arange(size) for size in values.shape[1:])
    attrs = {"units": units, "standard_name": "rainfall_rate", "long_name": "rain"}
    return xr.DataArray(values, {"time": time, "y": y, "x": x}, ("time", "y", "x"), "rain", attrs)


def test_members_are_labelled_as_cf_has_it() -> None:
    data = moving()
    members = data.sa_nowcast.forecast(steps=3, members=4, seed=2)
    assert members.dims == ("realization", "lead_time", "y", "x")
    assert members.dtype == np.float32
    assert members["realization"].values.tolist() == [0, 1, 2, 3]
    assert members["realization"].attrs["standard_name"] == "realization"
    assert members.attrs["units"] == "mm h-1"
    assert members.attrs["sa_nowcast_product"] == "members"
    assert members.attrs["sa_nowcast_seed"] == 2
    assert np.isfinite(members).all()
    assert (members >= 0).all()
    assert float(members.std("realization").mean()) > 0.01


def test_a_member_depends_on_seed_init_time_and_number_alone() -> None:
    data = moving()
    few, more = (data.sa_nowcast.forecast(steps=2, members=count, seed=5) for count in (3, 6))
    np.testing.assert_array_equal(more.values[:3], few.values)
    assert not np.array_equal(data.sa_nowcast.forecast(steps=2, members=3, seed=6), few)
    many = hindcast(data, default_model(), 2, members=3, seed=5, batch_size=3)
    np.testing.assert_array_equal(many.isel(init_time=-1).values, few.values)
    later = data.assign_coords(time=data["time"] + np.timedelta64(1, "h"))
    assert not np.array_equal(later.sa_nowcast.forecast(steps=2, members=3, seed=5), few)


def test_the_mean_of_many_members_is_near_the_mean_forecast() -> None:
    data = moving()
    mean, members = (data.sa_nowcast.forecast(steps=4, **k).values for k in ({}, {"members": 150}))
    wet = mean > 0.5
    assert members.mean(0)[wet].mean() == pytest.approx(mean[wet].mean(), rel=0.05)


def test_probabilities_and_quantiles_are_those_of_members() -> None:
    data = moving()
    members = data.sa_nowcast.forecast(steps=3, members=300)
    chances = data.sa_nowcast.exceedance([1.0, 3.0], steps=3)
    assert chances.dims == ("threshold", "lead_time", "y", "x")
    assert chances.name == "probability_of_rain_above_threshold"
    assert chances.attrs["units"] == "1"
    assert "standard_name" not in chances.attrs
    assert chances["threshold"].attrs["units"] == "mm h-1"
    seen = xr.concat([(members > t).mean("realization") for t in (1.0, 3.0)], "threshold")
    assert float(abs(seen - chances).mean()) < 0.02
    assert float((seen - chances).mean()) == pytest.approx(0, abs=0.005)
    quantiles = data.sa_nowcast.quantiles([0.9, 0.5], steps=3)
    assert quantiles["quantile"].values.tolist() == [0.5, 0.9]
    assert quantiles.attrs["units"] == "mm h-1"
    drawn = members.quantile([0.5, 0.9], "realization")
    assert float(abs(drawn.values - quantiles.values).mean()) < 0.05 * float(data.mean())


def test_members_start_as_the_observed_field_and_part_from_it() -> None:
    data = moving()
    members = data.sa_nowcast.forecast(steps=6, members=8)
    spread = members.std("realization").mean(("y", "x")).values
    assert spread[0] < spread[-1]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda v: 0 * v, id="dry"),
        pytest.param(lambda v: 0 * v + 3, id="constant"),
        pytest.param(lambda v: v + 1, id="wet everywhere"),
        pytest.param(lambda v: np.where(np.arange(v.size).reshape(v.shape) == v[:7].size + 2000, 5.0, 0.0), id="one"),
        pytest.param(lambda v: np.where(np.arange(64) < 32, np.nan, v), id="half missing"),
        pytest.param(lambda v: v[:, :9, :11], id="small"),
    ],
)
def test_any_field_has_members(make) -> None:
    values = make(moving().values).astype(np.float32)
    data = frames_of(values)
    members = data.sa_nowcast.forecast(steps=3, members=3)
    known = np.isfinite(values).any(0)
    assert np.isfinite(members.values[..., known]).all()
    assert np.isnan(members.values[..., ~known]).all()
    assert (members.values[..., known] >= 0).all()
    chances = data.sa_nowcast.exceedance([1.0], steps=3).values[..., known]
    assert ((chances >= 0) & (chances <= 1)).all()
    assert np.isfinite(data.sa_nowcast.quantiles(0.5, steps=3).values[..., known]).all()


def test_constant_fields_stay_what_they_are() -> None:
    for value in (0.0, 3.0):
        data = frames_of(np.full((4, 40, 40), value, np.float32))
        np.testing.assert_allclose(data.sa_nowcast.forecast(steps=3, members=3), value, atol=1e-4)


def test_several_variables_have_members_each() -> None:
    data = weather()
    members = data.sa_nowcast.forecast(steps=2, members=3)
    assert members.dims[:3] == ("realization", "variable", "lead_time")
    first = str(members["variable"].values[0])
    alone = data[first].sa_nowcast.forecast(steps=2, members=3)
    np.testing.assert_allclose(members.sel(variable=first).values, alone.values, rtol=1e-4, atol=1e-4)


def test_counts_have_no_negative_members() -> None:
    counts = np.random.default_rng(0).poisson(3, (6, 40, 40)).astype(np.int64)
    members = frames_of(counts, "1").sa_nowcast.forecast(steps=3, members=20)
    assert (members >= 0).all()


def test_archives_hold_members_and_are_scored(tmp_path: Path) -> None:
    data = moving(10)
    archive = hindcast(data, default_model(), 3, members=5, to=tmp_path / "members.zarr", init_times=data["time"][4:7])
    assert archive.dims == ("realization", "init_time", "lead_time", "y", "x")
    again = data.sa_nowcast.hindcast(3, members=5, init_times=data["time"].values[5:6])
    np.testing.assert_array_equal(archive.isel(init_time=1).values, again.isel(init_time=0).values)
    scores = archive.sa_nowcast.verify(data, metrics=["crps", "spread_skill", "mse"])
    assert np.isfinite(scores["crps"]).all()
    mean = data.sa_nowcast.hindcast(3, init_times=data["time"].values[4:7]).sa_nowcast.verify(data, metrics=["mae"])
    assert float(scores["crps"][-1]) < float(mean["mae"][-1])


def test_inflow_can_be_missing_in_members() -> None:
    data = moving()
    missing = data.sa_nowcast.forecast(steps=4, inflow="missing")
    members = data.sa_nowcast.forecast(steps=4, inflow="missing", members=2)
    np.testing.assert_array_equal(np.isnan(members[1]), np.isnan(missing))


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"members": 0}, "members"),
        ({"members": 2.5}, "members"),
        ({"members": 2, "seed": -1}, "seed"),
        ({"members": 2, "product": "matched"}, "members"),
        ({"members": 2, "tile": 64}, "tile"),
    ],
)
def test_what_cannot_be_drawn_is_refused(asked, word) -> None:
    with pytest.raises(RecipeError, match=word):
        moving().sa_nowcast.forecast(steps=2, **asked)


def test_two_frames_of_history_are_refused() -> None:
    with pytest.raises(DataError, match="needs 4 frames, has 2"):
        moving(2).sa_nowcast.forecast(steps=2, members=2)


def test_thresholds_and_probabilities_are_checked() -> None:
    data = moving()
    with pytest.raises(RecipeError, match="thresholds"):
        data.sa_nowcast.exceedance(["1 K"], steps=2)
    with pytest.raises(RecipeError, match="thresholds"):
        data.sa_nowcast.exceedance([], steps=2)
    for wrong in ([0.5, 1.5], [0.5, 0.5], [], None, "half", [0.5, np.nan]):
        with pytest.raises(RecipeError, match="probabilities"):
            data.sa_nowcast.quantiles(wrong, steps=2)
    with pytest.raises(RecipeError, match="variables"):
        weather().sa_nowcast.exceedance([1.0], steps=2)


def test_members_are_drawn_as_other_forecasts_are() -> None:
    members = moving().sa_nowcast.forecast(steps=2, members=3)
    figure = members.sa_nowcast.plot()
    assert "mean of 3 members" in figure.get_suptitle()
    assert "realization 1" in members.sa_nowcast.plot(realization=1).get_suptitle()


def test_sums_and_means_of_quantiles_are_refused() -> None:
    data = moving()
    quantiles = data.sa_nowcast.quantiles([0.1, 0.9], steps=2)
    with pytest.raises(DataError, match="quantiles, of which sums are no quantiles"):
        quantiles.sa_nowcast.accumulate("10min")
    with pytest.raises(DataError, match="quantiles, of which means over areas are no quantiles"):
        quantiles.sa_nowcast.over({"all": np.ones((64, 64), bool)})


def test_a_network_without_a_distribution_says_so(nowcaster) -> None:
    with pytest.raises(ModelError, match="no distribution"):
        nowcaster.forecast(rain(), 2, members=2)


def test_pysteps_gets_members() -> None:
    from sa_nowcast.interop.pysteps import forecast

    values = moving().values
    members = forecast(values, None, 2, n_ens_members=3, timestep=5.0, metadata={"unit": "mm/h", "transform": None})
    assert members.shape == (3, 2, 64, 64)


def test_memory_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sa_nowcast.forecasts.ensembles.available_memory", lambda device: 2**20)
    with pytest.raises(ModelError, match="2 realizations, 3 lead times: needs about"):
        moving().sa_nowcast.forecast(steps=3, members=2)


def test_members_that_memory_cannot_hold_are_refused_before_any_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sa_nowcast.forecasts.ensembles.available_memory", lambda device: 2**28)
    data = moving()
    tracemalloc.start()
    with pytest.raises(ModelError, match="10000 realizations, 3 lead times: needs about"):
        data.sa_nowcast.forecast(steps=3, members=10_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**26  # of 2**29


def test_fit_trains_the_distribution_and_the_forecast_becomes_the_same() -> None:
    data = frames_of(moving(16).values + 5 + np.random.default_rng(0).normal(size=(16, 64, 64)).astype(np.float32))
    network = {"hidden": [8], "kernel": 3, "patch": 8, "output": "moving"}  # from random weights: the last are taken
    asked: dict[str, Any] = {
        "network": network,
        "history": 4,
        "steps": 2,
        "max_steps": 2,
        "device": "cpu",
        "seed": 1,
        "workers": 0,
    }
    made = [sa_nowcast.fit(data, **asked, distribution=told) for told in (False, True)]
    plain, with_it = (dict(m.network.named_parameters()) for m in made)
    differ = [name for name, value in plain.items() if not np.array_equal(value.detach(), with_it[name].detach())]
    assert differ
    assert all(name.startswith("margins.") for name in differ)


def test_distributions_of_other_networks_are_not_trained() -> None:
    with pytest.raises(RecipeError, match="distribution"):
        sa_nowcast.fit(
            moving(20), history=4, steps=2, network={"name": "convlstm", "hidden": [4]}, max_steps=1, distribution=True
        )
