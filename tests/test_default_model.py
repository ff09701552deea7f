"""The model that ships, on data that it has never seen."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from sequences import NETWORK, OPTIONS, georeferenced, rain, traffic, weather

import sa_nowcast
from sa_nowcast.bundle.files import MODEL, WEIGHTS
from sa_nowcast.errors import DataError
from sa_nowcast.forecasts import default_model as room
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.scaling import ChannelScaling, Scaling, are_counts
from sa_nowcast.stream import prepare

AS_IT_IS = Scaling((ChannelScaling("affine", None, 0.0, 1.0),))


def field(values: np.ndarray, step: str = "10min", units: str | None = "K") -> xr.DataArray:
    times = pd.date_range("2021-03-01", periods=len(values), freq=step)
    attrs = {} if units is None else {"units": units}
    return xr.DataArray(
        values.astype(np.float32), dims=("time", "y", "x"), coords={"time": times}, name="f", attrs=attrs
    )


def mse(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean(np.square(one - other)))


@pytest.mark.parametrize("step", ["5min", "6h", "30D"])
def test_rain_of_any_cadence_is_forecast_without_a_model(step: str) -> None:
    da = rain(8, step=step)
    forecast = da.sa_nowcast.forecast(steps=4)
    assert forecast.dims == ("lead_time", "y", "x")
    assert forecast.attrs["units"] == "mm h-1"
    assert (forecast["lead_time"].diff("lead_time") == pd.Timedelta(step)).all()
    assert float(forecast.min()) >= 0
    assert forecast.attrs["sa_nowcast_provenance"] == room.PROVENANCE


def test_showers_that_drift_are_followed_far_better_than_by_persistence() -> None:
    da = rain(12, 96, 96)
    forecast = da.isel(time=slice(8)).sa_nowcast.forecast(steps=4)
    # What drifts in over the western edge nobody can know.
    truth, last = da.values[8:, :, 16:], da.values[7, :, 16:]
    for step in range(4):
        assert mse(forecast.values[step, :, 16:], truth[step]) < 0.5 * mse(last, truth[step])


def test_several_variables_and_channels_are_forecast_each_alone() -> None:
    ds = weather(8)
    both = ds.sa_nowcast.forecast(steps=3)
    assert list(both["variable"].values) == ["rain", "temperature"]
    alone = ds["temperature"].sa_nowcast.forecast(steps=3)
    np.testing.assert_allclose(both.sel(variable="temperature"), alone, atol=1e-3)
    flows = traffic(8).sa_nowcast.forecast(steps=2)
    assert flows.sizes["lead_time"] == 2


def test_units_do_not_matter() -> None:
    kelvin = field(280 + 5 * rain(8, 40, 40).values)
    celsius = field(kelvin.values - 273.15, units="degC")
    np.testing.assert_allclose(
        celsius.sa_nowcast.forecast(steps=3) + 273.15, kelvin.sa_nowcast.forecast(steps=3), atol=5e-3
    )


def test_noise_falls_back_to_the_mean_and_nothing_is_invented() -> None:
    noise = field(np.random.default_rng(0).normal(10, 2, (8, 48, 48)))
    forecast = noise.isel(time=slice(4)).sa_nowcast.forecast(steps=4).values
    # The mean has an error of 1 (in variances), persistence of 2.
    for step in range(4):
        assert mse(forecast[step], noise.values[4 + step]) < 1.35 * 4
    assert forecast.var() < 0.4 * 4


def test_a_constant_and_an_empty_sky_stay_what_they_are() -> None:
    for value in (0.0, 273.15):
        forecast = field(np.full((6, 20, 30), value)).sa_nowcast.forecast(steps=3)
        np.testing.assert_allclose(forecast, value, rtol=1e-6)


def test_missing_places_are_filled_for_the_network_and_missing_where_nothing_is_known() -> None:
    da = rain(8, 40, 40)
    da[3:6, 10:14, 10:14] = np.nan
    da[:, :, :5] = np.nan
    forecast = da.sa_nowcast.forecast(steps=2)
    assert forecast.isel(x=slice(5)).isnull().all()
    assert forecast.isel(x=slice(5, None)).notnull().all()


@pytest.mark.parametrize("rest", ["least", "mean"])
def test_a_pixel_that_was_never_seen_counts_as_the_least_or_the_mean(rest: str) -> None:
    values = np.random.default_rng(0).normal(50, 1, (1, 3, 1, 6, 6)).astype(np.float32)
    if rest == "least":
        values = np.maximum(values, 50)
    values[0, 1, 0, 0, 0] = np.nan
    values[0, 0, 0, 0, 1] = np.nan
    values[..., 5, 5] = np.nan
    wanted = 50 if rest == "least" else np.nanmean(values)
    later = np.concatenate([values, values + 100], 1)  # which no history is filled from
    for seen in (values, later):
        got = prepare(torch.from_numpy(seen), AS_IT_IS, 3, by_window=True).x_BTCHW[:, :3]
        np.testing.assert_allclose(got[..., 5, 5], wanted, rtol=2e-3)
        assert (got[0, :, 0, 0, 0] != wanted).all()  # that pixel is filled from its own history
    nothing = torch.full((1, 2, 1, 3, 3), torch.nan)
    assert not prepare(nothing, AS_IT_IS, 2, by_window=True).x_BTCHW.any()


def test_rain_is_never_negative_and_bounds_that_the_data_state_are_kept() -> None:
    everywhere = rain(8, 40, 40) + 2  # no pixel at a bound that the values alone would tell
    everywhere[:] = 3 - 0.4 * np.arange(8)[:, None, None] + 0.01 * everywhere
    everywhere.attrs = {"units": "mm h-1"}
    assert float(everywhere.sa_nowcast.forecast(steps=12).min()) >= 0
    bounded = field(np.linspace(0.9, 0.99, 8)[:, None, None] + 0.001 * rain(8, 40, 40).values, units="1")
    bounded.attrs |= {"valid_min": 0.0, "valid_max": 1.0}
    assert float(bounded.sa_nowcast.forecast(steps=12).max()) <= 1


def _counts(dtype: str, **attrs: object) -> xr.DataArray:
    """Return counts of a crowd that leaves, of which a forecast in other units is below 0."""
    mean = np.maximum(80 - 6 * np.arange(20.0), 4)[:, None, None]
    values = np.random.default_rng(0).poisson(mean, (20, 24, 20)).astype(dtype)
    return rain(20).copy(data=values).assign_attrs(units=None, standard_name=None).assign_attrs(attrs)


@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("attrs", [{}, {"units": "1"}, {"units": "vehicles/30min"}, {"units": "count"}])
def test_counts_are_never_negative(dtype: str, attrs: dict[str, str]) -> None:
    data = _counts(dtype, **attrs)
    times = data.time.values[[8, 10, 12]]
    other = data.astype("f4").assign_attrs(units="K")
    assert float(other.sa_nowcast.forecast(steps=6, init_time=times[-1]).min()) < 0
    assert float(data.sa_nowcast.forecast(steps=6, init_time=times[-1]).min()) == 0
    assert float(data.sa_nowcast.hindcast(6, init_times=times).min()) == 0
    model = data.sa_nowcast.fit(history=4, steps=2, network=NETWORK, **OPTIONS)
    assert model.scaling.channels[0].lower == 0


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_counts("i2", units="degC"), "units of something else"),
        (_counts("f4", standard_name="air_temperature_anomaly"), "a name of something else"),
        (_counts("i4") - 60, "negative values in the history"),
        (_counts("f4") + 0.5, "no whole numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_be_negative_is_not_cut_at_zero(data: xr.DataArray, why: str) -> None:
    channel = Frames.from_xarray(data).channels[0]
    history = data.values[-8:]
    assert not (channel.counts and are_counts(history)), why
    model = data.sa_nowcast.fit(history=4, steps=2, network=NETWORK, **OPTIONS)
    assert model.scaling.channels[0].lower is None


def test_packed_temperature_below_zero_stays_below_zero(tmp_path: Path) -> None:
    data = (rain(12) - 4).assign_attrs(units="degC", standard_name="air_temperature")
    packing = {"dtype": "u2", "scale_factor": 0.01, "add_offset": -100.0, "_FillValue": 65535}
    data.to_dataset(name="t").to_netcdf(tmp_path / "t.nc", encoding={"t": packing})
    with xr.open_dataset(tmp_path / "t.nc") as ds:
        assert float(ds.sa_nowcast.forecast(steps=2).min()) < -3.5


def test_a_hindcast_takes_it_and_gives_what_forecasts_give(tmp_path: Path) -> None:
    ds = georeferenced(rain(9))
    archive = ds.sa_nowcast.hindcast(steps=2, to=tmp_path / "archive.zarr")
    assert archive.sizes["init_time"] == 6
    one = ds.sa_nowcast.forecast(steps=2, init_time=archive["init_time"].values[3])
    np.testing.assert_allclose(archive.isel(init_time=3), one, atol=1e-4)
    assert archive.attrs["sa_nowcast_provenance"] == room.PROVENANCE


def test_it_is_one_model_whatever_the_data_and_lead_times_are_told_in_their_cadence(tmp_path: Path) -> None:
    model = sa_nowcast.get_default_model()
    hourly = rain(8, step="1h")
    forecast = model.forecast(hourly, lead_times=["2h", "3h"])
    assert forecast.sizes["lead_time"] == 2
    assert forecast.attrs["sa_nowcast_model"] == model.digest == model.accept(weather(8))[0].digest
    saved = model.save(tmp_path / "mine.nowcaster")
    assert Nowcaster.load(saved).digest == model.digest


def test_data_that_cannot_be_used_are_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="needs 4 frames, has 3"):
        rain(3).sa_nowcast.forecast()
    with pytest.raises(DataError) as caught:
        rain(8).drop_vars("time").sa_nowcast.forecast()
    assert "\n" not in str(caught.value)


def test_the_first_use_in_a_process_says_so_in_one_line_and_the_second_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    room.warn_of_default_model.cache_clear()
    with caplog.at_level(logging.WARNING, "sa_nowcast"):
        rain(8).sa_nowcast.forecast()
        rain(8).sa_nowcast.forecast()
    (line,) = caplog.messages
    assert "\n" not in line
    assert "ds.sa_nowcast.fit(" in line


def test_a_plain_script_sees_that_line_on_stderr_and_nothing_on_stdout(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sa_nowcast\nds = sa_nowcast.open_sample('mrms').isel(time=slice(4))\nds.sa_nowcast.forecast(steps=1)\n"
    )
    end = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert end.returncode == 0, end.stderr
    assert end.stdout == ""
    assert end.stderr.startswith("no model was named")
    assert end.stderr.count("\n") == 1


def test_what_ships_is_small_and_says_how_it_was_made_and_how_good_it_is() -> None:
    files = [path for path in room.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8 * 2**20
    assert {MODEL, WEIGHTS} <= {path.name for path in files}
    card = (room.FOLDER / "README.md").read_text()
    for name in (
        "MeteoSwiss 2015",
        "FMI 2017",
        "KNMI 2010",
        "BOM 2020",
        "MSG HRV",
        "NYC taxi",
        "navy winds",
        "pedestrians",
    ):
        assert name in card
    assert "recipes/default_model.yaml" in card
    assert sa_nowcast.get_default_model().network.config.name == "sa-convlstm"
