"""Calibration of a model by a hindcast: what it then forecasts, how it is kept, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from sequences import rain, traffic, weather

import sa_nowcast
from sa_nowcast.errors import DataError, ModelError
from sa_nowcast.forecasts.nowcaster import Nowcaster


def showers(frames: int, seed: int) -> xr.DataArray:
    """Return rain that is alike at all times: one field that moves in a circle, and noise on it."""
    data = rain(frames)
    noise = np.random.default_rng(seed).normal(size=data.shape)
    moved = np.stack([np.roll(data.values[10], t, 1) for t in range(frames)])
    return data.copy(data=(moved * np.exp(0.4 * noise)).astype(np.float32))


DATA = showers(40, 3)


@pytest.fixture(scope="module")
def calibrated(nowcaster: Nowcaster) -> Nowcaster:
    return sa_nowcast.calibrate(nowcaster, DATA)


def test_a_calibrated_model_has_members_chances_and_quantiles(calibrated: Nowcaster) -> None:
    data = showers(12, 5)
    members = calibrated.forecast(data, members=40, seed=1)
    assert members.dims == ("realization", "lead_time", "y", "x")
    assert members.attrs["units"] == "mm h-1"
    assert members.attrs["sa_nowcast_calibration"] == calibrated.calibration.digest
    assert (members >= 0).all()
    chances = calibrated.exceedance(data, [0.5])
    assert abs((members > 0.5).mean("realization") - chances[0]).mean() < 0.06
    quantiles = calibrated.quantiles(data, [0.1, 0.9])
    assert (quantiles[0] <= quantiles[1]).all()
    assert float(quantiles[1].mean()) > float(quantiles[0].mean())


def test_the_mean_forecast_and_the_model_stay_what_they_were(calibrated: Nowcaster, nowcaster: Nowcaster) -> None:
    assert calibrated.digest == nowcaster.digest
    xr.testing.assert_identical(calibrated.forecast(DATA), nowcaster.forecast(DATA))
    assert calibrated.calibration.digest in calibrated.making("mean", members=2).identity


def test_a_member_is_the_same_among_more_and_in_any_batch(calibrated: Nowcaster) -> None:
    few, more = (calibrated.forecast(DATA, members=count, seed=5) for count in (2, 4))
    np.testing.assert_array_equal(few.values, more.values[:2])
    inits = DATA["time"].values[-3:]
    asked = {"model": calibrated, "members": 2, "seed": 5, "init_times": inits}
    archives = [DATA.sa_nowcast.hindcast(**asked, batch_size=size) for size in (1, 3)]
    np.testing.assert_array_equal(archives[0].values, archives[1].values)
    np.testing.assert_array_equal(archives[0].isel(init_time=-1).values, few.values)
    assert not np.array_equal(calibrated.forecast(DATA, members=2, seed=6), few)


def test_members_are_better_than_the_mean_alone(calibrated: Nowcaster) -> None:
    later = showers(40, 9)
    inits = later["time"].values[4:36:4]
    members, mean = (later.sa_nowcast.hindcast(model=calibrated, init_times=inits, **k) for k in ({"members": 8}, {}))
    crps = members.sa_nowcast.verify(later, ["crps_fair"])["crps_fair"]
    mae = mean.sa_nowcast.verify(later, ["mae"])["mae"]
    assert float(crps.mean() / mae.mean()) < 0.9


def test_a_saved_model_keeps_its_calibration(calibrated: Nowcaster, tmp_path: Path) -> None:
    loaded = sa_nowcast.load(calibrated.save(tmp_path / "rain.nowcaster"))
    assert loaded.digest == calibrated.digest
    assert loaded.calibration.digest == calibrated.calibration.digest
    assert "## Calibration" in loaded.card
    assert "calibrated on" in loaded._repr_html_()
    np.testing.assert_array_equal(loaded.forecast(DATA, members=2).values, calibrated.forecast(DATA, members=2).values)
    again = sa_nowcast.calibrate(loaded, DATA)
    assert again.calibration.digest == calibrated.calibration.digest
    assert again.card == loaded.card


@pytest.mark.parametrize("damage", ["tensors", "record", "none there"])
def test_a_damaged_calibration_is_refused(damage: str, calibrated: Nowcaster, tmp_path: Path) -> None:
    folder = calibrated.save(tmp_path / "rain.nowcaster")
    file = folder / ("model.json" if damage == "record" else "calibration.safetensors")
    if damage == "none there":
        file.unlink()
    else:
        raw = file.read_bytes()
        file.write_bytes(raw.replace(b'"init_times": 3', b'"init_times": 4') if damage == "record" else raw[:-1] + b"x")
    with pytest.raises(ModelError, match=r"altered|cannot be read"):
        sa_nowcast.load(folder)


def test_an_archive_of_the_model_gives_the_same(calibrated: Nowcaster, nowcaster: Nowcaster, tmp_path: Path) -> None:
    archive = DATA.sa_nowcast.hindcast(model=nowcaster, to=tmp_path / "archive.zarr")
    by_archive = DATA.sa_nowcast.calibrate(nowcaster, archive)
    assert by_archive.calibration.digest == calibrated.calibration.digest


def test_variables_and_channels_have_distributions_each(
    weather_nowcaster: Nowcaster, traffic_nowcaster: Nowcaster
) -> None:
    ds = weather(36)
    model = sa_nowcast.calibrate(weather_nowcaster, ds[["temperature", "rain"]])
    bounds = {name: t.bound for (name, _), t in zip(model.terms.channels, model.calibration.tables, strict=True)}
    assert bounds["rain"] == 0.0
    members = model.forecast(ds, members=3)
    assert float(members.sel(variable="temperature").min()) > 270
    assert float(members.sel(variable="rain").max()) < 100
    flow = traffic(36)
    counts = sa_nowcast.calibrate(traffic_nowcaster, flow).forecast(flow, members=3).values
    assert np.isfinite(counts).all()
    assert (counts >= 0).all()


def test_the_default_model_becomes_one_of_the_data(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(DATA.values).astype(np.int64)
    data = DATA.copy(data=counts).assign_attrs(units="1", standard_name="number_of_things")
    model = sa_nowcast.calibrate(sa_nowcast.get_default_model(), data, steps=2)
    loaded = sa_nowcast.load(model.save(tmp_path / "counts.nowcaster"))
    np.testing.assert_array_equal(loaded.forecast(data, 2).values, data.sa_nowcast.forecast(2).values)
    members = loaded.forecast(data, 2, members=3).values
    np.testing.assert_array_equal(members, np.rint(members))
    with pytest.raises(ModelError, match="units 'mm h-1', expected '1'"):
        loaded.forecast(DATA, 2)


def test_missing_values_and_dry_periods_are_calibrated(nowcaster: Nowcaster) -> None:
    gaps = DATA.where(DATA["x"] > 4000)
    members = sa_nowcast.calibrate(nowcaster, gaps).forecast(DATA, members=2)
    assert np.isfinite(members).all()
    dry = sa_nowcast.calibrate(nowcaster, 0 * DATA.assign_attrs(DATA.attrs)).forecast(DATA, members=2)
    assert np.isfinite(dry).all()
    assert (dry >= 0).all()


def test_what_cannot_calibrate_is_refused(calibrated: Nowcaster, nowcaster: Nowcaster) -> None:
    with pytest.raises(DataError, match="14 init times with observations, expected at least 20"):
        sa_nowcast.calibrate(nowcaster, DATA[:20])
    with pytest.raises(DataError, match="pairs of forecast and observation at a lead time, expected at least 2000"):
        sa_nowcast.calibrate(nowcaster, DATA[:, :6, :6])
    with pytest.raises(ModelError, match="of 3 lead times, 4 are asked for"):
        calibrated.forecast(DATA, 4, members=2)
    for archive, word in (
        (DATA.sa_nowcast.hindcast(3), "by the model"),
        (DATA.sa_nowcast.hindcast(model=nowcaster, product="matched"), "matched"),
        (DATA.sa_nowcast.hindcast(model=calibrated, members=2), "members"),
        (DATA.sa_nowcast.hindcast(model=nowcaster)[:, 1:], "lead times"),
    ):
        with pytest.raises(ModelError, match=word):
            sa_nowcast.calibrate(nowcaster, DATA, archive)
