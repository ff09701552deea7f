"""Sums along the motion, and when rain begins and ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from sequences import rain

from sa_nowcast.derived import accumulate, accumulate_passing, rain_spell
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.forecasts.labels import labelled
from sa_nowcast.models.passage import motion_of, parts_of, passed


def blob(column: float, height: int = 40, width: int = 80) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return 10 * np.exp(-((rows - 20) ** 2 + (columns - column) ** 2) / 8).astype(np.float32)


def as_forecast(fields: np.ndarray, like: xr.DataArray, attrs=None) -> xr.DataArray:
    leads = np.arange(1, len(fields) + 1) * np.timedelta64(300, "s").astype("m8[ns]")
    own = xr.DataArray(fields, dims=("lead_time", "y", "x"), coords={"y": like.y, "x": like.x}, name="rain")
    return labelled(own.assign_attrs(attrs or like.attrs), like.time.values[-1], leads, {})


def test_the_sum_along_the_motion_is_that_of_what_passed() -> None:
    speed, steps = 8.0, 3
    maps = torch.from_numpy(np.stack([blob(16 + speed * k) for k in range(steps + 1)]))
    flow = torch.zeros(1, 2, 40, 80)
    flow[:, 1] = speed
    (found,) = passed(maps, flow, [steps])
    fine = np.mean([blob(16 + speed * s) for s in np.linspace(0, steps, 601)], 0) * steps
    jumps = np.mean([blob(16 + speed * k) for k in range(1, steps + 1)], 0) * steps
    inner = np.s_[10:30, 10:46]
    assert np.abs(found.numpy() - fine)[inner].max() < 0.02 * fine.max()
    assert np.abs(jumps - fine)[inner].max() > 0.3 * fine.max()
    assert parts_of(flow) == 8


def test_the_motion_of_frames_is_found_and_missing_values_count_as_dry() -> None:
    frames = np.stack([blob(20 + 4 * k) for k in range(4)])
    frames[:, :4] = np.nan
    flow = motion_of(torch.from_numpy(frames))
    assert abs(float(flow[0, 1, 20, 32]) - 4) < 0.3
    assert float(motion_of(torch.full((3, 8, 8), torch.nan)).abs().max()) == 0


def test_sums_of_a_forecast_have_the_units_and_name_of_the_amount() -> None:
    like = rain(4, 40, 80)
    observed = like.copy(data=np.stack([blob(4 + 8 * k) for k in range(4)]))
    forecast = as_forecast(np.stack([blob(28 + 8 * k) for k in range(1, 5)]), observed)
    found = accumulate_passing(forecast, observed, ["10min", "20min", "30min"])
    assert list(found) == ["10min", "20min"]
    assert found["20min"].attrs["units"] == "mm"
    assert found["20min"].attrs["standard_name"] == "thickness_of_rainfall_amount"
    assert found["20min"].attrs["cell_methods"] == "lead_time: sum (interval: 5 min)"
    along, jumps = found["20min"].values[20, 34:50], accumulate(forecast, "20min").values[0, 20, 34:50]
    assert along.min() > 0.75 * along.max()
    assert jumps.min() < 0.3 * jumps.max()
    with pytest.raises(DataError, match="its last time is"):
        accumulate_passing(forecast, observed.isel(time=slice(0, 3)), ["10min"])


def test_amounts_are_summed_as_they_are_and_a_still_field_as_by_successive_lead_times() -> None:
    like = rain(4, 20, 20)
    still = np.full((4, 20, 20), 6.0, np.float32)
    amounts = as_forecast(still, like, {"units": "mm", "standard_name": "rainfall_amount", "cell_methods": "time: sum"})
    found = accumulate_passing(amounts, like, ["10min"])["10min"]
    np.testing.assert_array_equal(found, accumulate(amounts, "10min").isel(lead_time=0))
    rates = as_forecast(still, like)
    of_rates = accumulate_passing(rates, like.copy(data=still), ["20min"])["20min"]
    np.testing.assert_allclose(of_rates, 2.0, rtol=1e-6)


def test_onset_and_end_lie_between_lead_times_where_the_value_passes_the_threshold() -> None:
    like = rain(4, 1, 5)
    fields = np.array([[0, 0, 2, 2, np.nan], [2, 0, 2, 2, 3], [2, 0, 0, 2, 0]], np.float32)[:, None]
    observed = like.isel(time=-1).copy(data=np.array([[0, 0, 0, 2, np.nan]], np.float32))
    onset, end = rain_spell(as_forecast(fields, like), 1.0, observed)
    np.testing.assert_allclose(onset.values[0], [7.5, np.nan, 2.5, 0, 10])
    np.testing.assert_allclose(end.values[0, :3], [np.nan, np.nan, 12.5])
    assert onset.attrs["units"] == "min"
    alone, _ = rain_spell(as_forecast(fields, like), 1.0)
    np.testing.assert_allclose(alone.values[0], [7.5, np.nan, 5, 5, 10])
    with pytest.raises(RecipeError, match="above 0"):
        rain_spell(as_forecast(fields, like), 0.0)
