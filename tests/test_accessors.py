from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import xarray as xr
from sequences import NETWORK, OPTIONS, rain, weather

import sa_nowcast
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.forecasts.nowcaster import Nowcaster

matplotlib.use("Agg")


def test_fit_is_the_same_from_dataset_dataarray_and_function(nowcaster: Nowcaster) -> None:
    options: dict[str, Any] = {"history": 4, "steps": 3, "network": NETWORK, "progress": False, **OPTIONS}
    made = [
        rain().sa_nowcast.fit(**options),
        rain().to_dataset().sa_nowcast.fit(**options),
        sa_nowcast.fit(rain(), **options),
    ]
    assert {m.digest for m in made} == {nowcaster.digest}


def test_forecast_is_the_nowcasters_and_takes_all_its_options(nowcaster: Nowcaster, saved: Path) -> None:
    da = rain()
    expected = nowcaster.forecast(da, 2, init_time="2020-06-01T01:00")
    for obj in (da, da.to_dataset()):
        for model in (nowcaster, saved, str(saved)):
            got = obj.sa_nowcast.forecast(2, model=model, init_time="2020-06-01T01:00")
            xr.testing.assert_identical(got, expected)
    ours = set(inspect.signature(Nowcaster.forecast).parameters) - {"self", "data"}
    theirs = set(inspect.signature(type(da.sa_nowcast).forecast).parameters) - {"self", "model"}
    assert ours == theirs
    odd = da.drop_vars(("y", "x")).rename(time="scan", y="azimuth", x="gate")
    got = odd.sa_nowcast.forecast(model=nowcaster, time="scan", y="azimuth", x="gate")
    np.testing.assert_array_equal(got, nowcaster.forecast(da))


def test_a_forecast_verifies_and_plots_itself_also_when_read_back(nowcaster: Nowcaster, tmp_path: Path) -> None:
    da = rain()
    forecast = nowcaster.forecast(da, init_time="2020-06-01T01:00")
    scores = forecast.sa_nowcast.verify(da, metrics=["mse"])
    truth = da.sel(time=forecast["valid_time"].values)
    # float64 means of float32 squares
    np.testing.assert_allclose(scores["mse"], ((forecast.values - truth.values) ** 2).mean((1, 2)), rtol=1e-5)
    figure = forecast.sa_nowcast.plot(da, da[9:13])
    assert figure.axes
    forecast.sa_nowcast.to_cf().to_netcdf(tmp_path / "f.nc")
    with xr.open_dataset(tmp_path / "f.nc", decode_timedelta=True) as ds:
        xr.testing.assert_allclose(ds.sa_nowcast.verify(da, metrics=["mse"])["mse"], scores["mse"], rtol=1e-12)


def test_what_is_no_forecast_says_so(nowcaster: Nowcaster) -> None:
    with pytest.raises(DataError, match="0 variables with lead_time"):
        weather().sa_nowcast.to_cf()
    with pytest.raises(DataError, match="no coordinate lead_time, expected a forecast"):
        rain().sa_nowcast.to_cf()


def test_an_unknown_option_of_fit_is_one_line() -> None:
    with pytest.raises(RecipeError, match=r"fit, max_step: unknown key.*'max_steps'"):
        rain().sa_nowcast.fit(history=4, steps=3, max_step=5)


def test_the_accessor_says_what_it_found_and_what_can_be_done_with_it() -> None:
    shown = repr(rain().sa_nowcast)
    assert "frames: 20 from 2020-06-01T00:00 to 2020-06-01T01:35, every 5 min, no gaps (time)" in shown
    assert "grid: 24 x 20 (y, x), spacing 1000 x 1000 m" in shown
    assert "channels: rain [mm h-1]" in shown
    assert "forecast(steps)" in shown
    assert "rain [mm h-1], temperature [K]" in repr(weather().sa_nowcast)
    assert "1 gap " in repr(rain().isel(time=[0, 1, 2, 3, 6, 7, 8]).sa_nowcast)
    archive = rain().sa_nowcast.hindcast(2, model="persistence")
    assert "a forecast: init_time 20, lead_time 2, y 24, x 20" in repr(archive.sa_nowcast)
    assert "verify(truth)" in repr(archive[0].sa_nowcast)


def test_the_accessor_of_other_data_says_why_and_reads_no_value() -> None:
    for other in (
        xr.Dataset(),
        xr.DataArray(3),
        rain().drop_vars("time"),
        rain()[:1],
        xr.DataArray(["a"], dims="time"),
    ):
        assert "no sequence of frames as it is" in repr(other.sa_nowcast)
    read: list[int] = []

    def reading(block: np.ndarray) -> np.ndarray:
        read.append(1)
        return block

    lazy = rain().chunk(time=1)
    lazy = lazy.copy(data=lazy.data.map_blocks(reading, dtype="f4", meta=np.empty((0, 0, 0), "f4")))
    assert "frames: 20" in repr(lazy.sa_nowcast)
    assert read == []


def test_what_dir_lists_is_what_is_public() -> None:
    assert dir(sa_nowcast) == sorted(sa_nowcast.__all__)
