"""Persistence, climatology and extrapolation as labelled forecasts."""

from __future__ import annotations

import re
import sys
import warnings

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter

from sa_nowcast import open_sample
from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, ForecastWarning, MissingLibraryError, RecipeError
from sa_nowcast.hindcast import hindcast
from sa_nowcast.verification import climatology, extrapolation, persistence, reference, verify

from .conftest import MINUTE, START, observations

LEADS = np.array([5, 10, 15]) * MINUTE


@pytest.fixture
def data():
    return observations().assign_coords(crs=xr.DataArray(0, attrs={"grid_mapping_name": "latitude_longitude"}))


def test_persistence_repeats_the_last_frame_with_the_labels_of_a_forecast(data):
    forecast = persistence(data, lead_times=LEADS)
    assert forecast.dims == ("lead_time", "y", "x")
    assert forecast["init_time"].values == data["time"].values[-1]
    np.testing.assert_array_equal(forecast["valid_time"], data["time"].values[-1] + LEADS)
    for j in range(3):
        np.testing.assert_array_equal(forecast[j], data[-1])
    assert forecast["lead_time"].attrs["standard_name"] == "forecast_period"
    assert forecast["init_time"].attrs["standard_name"] == "forecast_reference_time"
    assert forecast["valid_time"].attrs["standard_name"] == "time"
    assert forecast.attrs["units"] == "mm h-1"
    assert forecast.attrs["model"] == "persistence"
    assert "crs" in forecast.coords
    assert "time" not in forecast.coords


def test_persistence_of_several_init_times_is_an_archive(data):
    starts = data["time"].values[[4, 1]]
    forecast = persistence(data, init_time=starts, lead_times=LEADS)
    assert forecast.dims == ("init_time", "lead_time", "y", "x")
    assert forecast["valid_time"].dims == ("init_time", "lead_time")
    np.testing.assert_array_equal(forecast[0, 2], data[4])
    np.testing.assert_array_equal(forecast[1, 0], data[1])


def test_persistence_is_missing_where_the_last_frame_is(data):
    data[-1, 2, 3] = np.nan
    forecast = persistence(data, lead_times=LEADS)
    np.testing.assert_array_equal(np.isnan(forecast), np.broadcast_to(np.isnan(data[-1]), forecast.shape))


def test_persistence_of_dask_data_is_lazy(data):
    forecast = persistence(data.chunk({"time": 1}), init_time=data["time"].values[:3], lead_times=LEADS)
    assert forecast.chunks is not None
    xr.testing.assert_equal(forecast.compute(), persistence(data, init_time=data["time"].values[:3], lead_times=LEADS))


def test_persistence_does_not_touch_its_input(data):
    before = data.copy(deep=True)
    persistence(data, lead_times=LEADS)
    xr.testing.assert_identical(data, before)


def test_an_init_time_without_a_frame_is_named(data):
    with pytest.raises(DataError, match="lacks the init times 2019-06-10T03:00:00"):
        persistence(data, init_time=START + 180 * MINUTE, lead_times=LEADS)


@pytest.mark.parametrize("leads", [[0], [10, 5], [-5]])
def test_lead_times_must_be_positive_and_ascending(data, leads):
    with pytest.raises(RecipeError, match="positive and ascending"):
        persistence(data, lead_times=np.array(leads) * MINUTE)


def test_plain_numbers_are_no_lead_times(data):
    with pytest.raises(RecipeError, match="timedelta64"):
        persistence(data, lead_times=np.array([1, 2]))


def weekly(hours=24 * 21, units="1"):
    times = np.datetime64("2019-01-07T00", "ns") + np.arange(hours) * np.timedelta64(1, "h")  # a Monday
    base = np.arange(hours) % 24 + 100.0 * (np.arange(hours) // 24 % 7)
    values = base[:, None, None] + np.zeros((1, 2, 3))
    return xr.DataArray(values, dims=("time", "y", "x"), coords={"time": times}, name="flow", attrs={"units": units})


def test_climatology_of_a_weekly_cycle_is_exact_by_week_and_a_mean_by_day():
    data = weekly()
    leads = np.array([1, 30]) * np.timedelta64(1, "h")
    start = data["time"].values[24 * 14 + 5]
    by_week = climatology(data, training=data[: 24 * 14], cycle="week", init_time=start, lead_times=leads)
    truth = data.sel(time=by_week["valid_time"]).values
    np.testing.assert_array_equal(by_week, truth)
    by_day = climatology(data, training=data[: 24 * 14], init_time=start, lead_times=leads)
    np.testing.assert_array_equal(by_day[0], 6 + 300.0)
    assert by_day.attrs["training_period"] == "2019-01-07T00:00:00/2019-01-20T23:00:00"
    assert by_day.attrs["units"] == "1"
    assert by_day.dims == ("lead_time", "y", "x")


def test_climatology_averages_what_is_present():
    data = weekly(72)
    data[24:48, 0, 0] = np.nan
    leads = np.array([1]) * np.timedelta64(1, "h")
    forecast = climatology(data, training=data, lead_times=leads)
    assert forecast.values[0, 0, 0] == (0 + 200) / 2
    assert forecast.values[0, 1, 1] == 100


def test_climatology_of_an_archive_equals_that_of_each_init_time():
    data = weekly()
    leads = np.array([1, 2]) * np.timedelta64(1, "h")
    starts = data["time"].values[[400, 77]]
    archive = climatology(data, training=data[:300], init_time=starts, lead_times=leads)
    for i, start in enumerate(starts):
        alone = climatology(data, training=data[:300], init_time=start, lead_times=leads)
        np.testing.assert_array_equal(archive[i], alone)
    np.testing.assert_array_equal(verify(archive, data, ["mse"])["count"], 12)


def test_climatology_without_a_frame_at_that_time_of_day_says_when():
    data = weekly()
    with pytest.raises(DataError, match=r"no frame at the time of the day of 2019-01-27T23:30:00"):
        climatology(data, training=data, lead_times=np.array([30]) * MINUTE)


def moving(shift, frames=6, size=64):
    """A smooth rain field that moves by whole pixels a step."""
    y, x = np.mgrid[:size, : size + 40]
    field = 12 * np.exp(-((y - 30) ** 2 + (x - 50) ** 2) / 60) + 8 * np.exp(-((y - 14) ** 2 + (x - 70) ** 2) / 40)
    field = field + 6 * np.exp(-((y - 48) ** 2 + (x - 65) ** 2) / 50)
    values = np.stack([np.roll(field, shift * i, axis=1)[:, 20 : 20 + size] for i in range(frames)])
    return xr.DataArray(
        values,
        dims=("time", "y", "x"),
        coords={"time": START + np.arange(frames) * 5 * MINUTE, "y": np.arange(size) * 1.0, "x": np.arange(size) * 1.0},
        attrs={"units": "mm h-1"},
        name="rain",
    )


def test_extrapolation_follows_a_moving_field_better_than_persistence():
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    data = moving(2)
    forecast = reference("extrapolation").forecast(data, steps=3, init_time=data["time"].values[2])
    assert forecast.dims == ("lead_time", "y", "x")
    assert forecast.attrs["model"] == "extrapolation"
    scores = verify(forecast, data, ["mse"], reference="persistence")
    assert (scores["mse_skill"] > 0.8).all()


def test_extrapolation_does_not_depend_on_the_order_of_dimensions():
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    data = moving(2)
    leads = np.array([5, 10]) * MINUTE
    straight = extrapolation(data, init_time=data["time"].values[3], lead_times=leads)
    turned = extrapolation(data.transpose("x", "time", "y"), init_time=data["time"].values[3], lead_times=leads)
    np.testing.assert_array_equal(straight, turned.transpose("lead_time", "y", "x"))


def test_extrapolation_of_an_all_missing_frame_is_missing():
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    data = moving(1)
    data[3] = np.nan
    forecast = extrapolation(data, init_time=data["time"].values[3], lead_times=LEADS)
    assert forecast.isnull().all()


def test_extrapolation_names_the_history_frame_that_lacks(data):
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    with pytest.raises(DataError, match="lacks the history frames 2019-06-09T23:55:00"):
        extrapolation(data, init_time=data["time"].values[1], lead_times=LEADS)


def test_sprog_and_steps_forecast_rain_that_is_never_negative():
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    data = moving(2)
    start = data["time"].values[3]
    smooth = reference("sprog").forecast(data, steps=2, init_time=start)
    assert smooth.dims == ("lead_time", "y", "x")
    members = reference("steps", members=3, kilometres_per_pixel=1.0).forecast(data, steps=2, init_time=[start])
    assert members.dims == ("realization", "init_time", "lead_time", "y", "x")
    for forecast in (smooth, members):
        assert float(forecast.min()) >= 0
        assert float(forecast.max()) > 1
    assert members.std("realization").max() > 0.1
    assert float(verify(members, data, ["crps"])["crps"].max()) < float(data.max())


def test_steps_repeats_with_its_seed_and_whatever_else_is_forecast():
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    data = moving(2)
    times = data["time"].values
    options = {"members": 2, "kilometres_per_pixel": 1.0}
    both = reference("steps", **options).forecast(data, steps=1, init_time=times[[2, 3]])
    alone = reference("steps", **options).forecast(data, steps=1, init_time=times[3])
    other = reference("steps", seed=1, **options).forecast(data, steps=1, init_time=times[3])
    np.testing.assert_array_equal(both[:, 1], alone)
    assert (other != alone).any()


def test_sprog_and_steps_of_dry_frames_are_dry():
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    data = moving(1) * 0
    for forecast in (
        reference("sprog").forecast(data, steps=2),
        reference("steps", members=2, kilometres_per_pixel=1.0).forecast(data, steps=2),
    ):
        assert float(forecast.max()) == 0


def rain_in(*kinds: str, size: int = 48) -> xr.DataArray:
    """Frames of these kinds, in successive steps."""
    generator = np.random.default_rng(0)
    base = np.abs(gaussian_filter(generator.normal(size=(len(kinds), size, size)), (0.7, 4, 4)) * 30)
    base[base < 0.5] = 0
    drop = np.zeros((size, size))
    drop[20, 20] = 5
    part = base[-1].copy()
    part[:20] = np.nan
    made = {"dry": drop * 0, "constant": drop * 0 + 5, "drop": drop, "light": drop * 0 + 0.05, "missing": drop * np.nan}
    made |= {"partly": part, "partly and dry": np.where(np.isnan(part), np.nan, 0)}
    values = np.stack([base[i] if kind == "rain" else made[kind] for i, kind in enumerate(kinds)])
    return xr.DataArray(
        values.astype(np.float32),
        dims=("time", "y", "x"),
        coords={
            "time": START + np.arange(len(kinds)) * 5 * MINUTE,
            "y": np.arange(size) * 1000.0,
            "x": np.arange(size),
        },
        attrs={"units": "mm h-1"},
        name="rain",
    )


STOCHASTIC = {"members": 2, "kilometres_per_pixel": 1.0}
BY_PYSTEPS = [
    ("extrapolation", {}),
    ("smoothed-extrapolation", {"growth": 2.0}),
    ("sprog", {}),
    ("sprog-unmatched", {}),
    ("steps", STOCHASTIC),
    ("steps-mean", STOCHASTIC),
]


@pytest.mark.parametrize(("name", "options"), BY_PYSTEPS)
@pytest.mark.parametrize(
    ("history", "way"),
    [
        (("rain", "rain", "rain"), None),
        (("dry", "rain", "rain"), {"extrapolation": "the motion of 2 frames", "": "autoregression of order 1"}),
        (("constant", "rain", "rain"), {"extrapolation": "the motion of 2 frames", "": "autoregression of order 1"}),
        (("missing", "rain", "rain"), {"extrapolation": "the motion of 2 frames", "": "autoregression of order 1"}),
        (("rain", "dry", "rain"), {"": "persistence"}),
        (("rain", "constant", "rain"), {"": "persistence"}),
        (("rain", "missing", "rain"), {"": "persistence"}),
        (("rain", "light", "rain"), {"": "persistence"}),
        (("dry", "dry", "rain"), {"": "persistence"}),
        (("constant", "constant", "drop"), {"": "persistence"}),
        (("rain", "rain", "constant"), {"extrapolation": None, "": "persistence"}),
        (("rain", "partly", "rain"), None),
        (("rain", "rain", "partly"), None),
    ],
)
def test_a_history_with_too_little_rain_gives_a_simpler_forecast_that_is_said(name, options, history, way):
    """pySTEPS/pysteps#468, #543 and #544: one frame without rain made S-PROG missing."""
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    data = rain_in(*history)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forecast = reference(name, **options).forecast(data, 2)
    found = np.isfinite(forecast.values)
    # Some is missing where motion brings in what lay outside, and where a frame is.
    assert found.mean() > (0.3 if "partly" in history else 0.6)
    assert forecast.values[found].min() >= 0
    expected = None if way is None else way.get(name.removeprefix("smoothed-"), way[""])
    if expected is None:
        assert not [w for w in caught if w.category is not ResourceWarning]  # which other tests leave behind
        assert "fallback_count" not in forecast.attrs
        return
    (said,) = caught
    assert issubclass(said.category, ForecastWarning)
    assert f"{name} finds too little in the history of 1 of 1 init times: 1 by {expected}" in str(said.message)
    assert forecast.attrs["fallback_count"] == 1
    assert forecast.attrs["fallback"] == f"1 of 1 init times: 1 by {expected}"
    if expected == "persistence" and not name.startswith("smoothed"):
        np.testing.assert_allclose(forecast.mean([d for d in forecast.dims if d not in "yx"]), data[-1], rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), BY_PYSTEPS)
@pytest.mark.parametrize("history", [("dry",) * 3, ("rain", "rain", "dry"), ("rain", "dry", "partly and dry")])
def test_no_rain_at_init_time_is_forecast_as_none_and_nothing_is_said(name, options, history):
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    data = rain_in(*history)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forecast = reference(name, **options).forecast(data, 2)
    there = np.broadcast_to(np.isfinite(data[-1].values), forecast.shape)
    np.testing.assert_array_equal(forecast.values[there], 0)


def test_how_many_init_times_have_a_simpler_forecast_or_none_is_said_once_and_counted_in_the_archive(tmp_path):
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    data = rain_in(*["rain"] * 6, "dry", *["rain"] * 6, "missing", *["rain"] * 6)
    with pytest.warns(ForecastWarning) as caught:
        stored = hindcast(data, "sprog", 1, to=tmp_path / "s.zarr", batch_size=4, shard_size=4)
    # Init times 7 and 8 look back on the dry frame, 13, 14 and 15 on the missing one.
    (said,) = [str(w.message) for w in caught]
    assert re.search(
        r"sprog gives no forecast from 3 of 18 init times, first 2019-06-10T01:05 \(a frame of its his", said
    )
    assert "only a simpler forecast from 2 of 18 init times, first 2019-06-10T00:35" in said
    assert (stored.attrs["no_forecast_count"], stored.attrs["fallback_count"]) == (3, 2)
    status = xr.open_zarr(tmp_path / "s.zarr")["history_status"]
    assert status.attrs["flag_meanings"].split()[2] == "too_little_for_the_method_simpler_forecast"
    np.testing.assert_array_equal(np.flatnonzero(status == 2), [5, 6])
    np.testing.assert_array_equal(np.flatnonzero(status == 1), [11, 12, 13])
    lazy = hindcast(data, "sprog", 1)
    with pytest.warns(ForecastWarning, match="of the first part that was computed") as caught:
        values = lazy.values
    assert len(caught) == 1
    np.testing.assert_array_equal(values, stored.values)


def test_real_rain_that_leaves_the_grid_is_forecast_to_its_end():
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    # At 01:04 no variance is left at some scale.
    fading = open_sample("mrms")["precip_rate"].isel(latitude=slice(96, 224), longitude=slice(0, 128))
    with pytest.warns(ForecastWarning, match="steps finds too little in the history of 1 of 1 init times"):
        forecast = reference("steps", members=2).forecast(fading, 2, init_time=np.datetime64("2019-06-10T01:04", "ns"))
    assert forecast.notnull().any(["latitude", "longitude"]).all()


def test_steps_needs_rain_and_a_spacing():
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    data = moving(1)
    with pytest.raises(DataError, match="is in K, expected mm h-1, as sprog needs"):
        reference("sprog").forecast(data.assign_attrs(units="K"), steps=1)
    with pytest.raises(DataError, match=r"y has no coordinate in m, km or degrees.*kilometres_per_pixel=1.0"):
        reference("steps").forecast(data, steps=1)


def test_missing_opencv_is_answered_with_the_install_command(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingLibraryError, match=rf"cv2 is not installed\. Fix: {re.escape(install('pysteps'))}"):
        extrapolation(data, lead_times=LEADS)


def test_references_by_name_take_steps_or_lead_times(data):
    by_steps = reference("persistence").forecast(data, steps=3)
    xr.testing.assert_identical(by_steps, reference("persistence").forecast(data, lead_times=LEADS))
    xr.testing.assert_identical(by_steps, persistence(data, lead_times=LEADS))
    told_as_text = reference("persistence").forecast(data, 3, lead_times=["5min", "10min", "15min"])
    xr.testing.assert_identical(by_steps, told_as_text)
    for wrong in ({}, {"steps": 2, "lead_times": LEADS}, {"steps": 0}, {"steps": 1.5}):
        with pytest.raises(RecipeError):
            reference("persistence").forecast(data, **wrong)


def test_a_dataset_of_several_variables_is_forecast_along_variable(data):
    both = xr.Dataset({"rain": data, "warmth": (data + 1).assign_attrs(units="K")})
    forecast = reference("persistence").forecast(both, steps=2)
    assert forecast.dims == ("variable", "lead_time", "y", "x")
    assert forecast["units"].values.tolist() == ["mm h-1", "K"]
    archive = reference("persistence").forecast(both, steps=2, init_time=data["time"].values[:4])
    scores = verify(archive, both, ["mse"], reference="persistence")
    np.testing.assert_array_equal(scores["mse_skill"], 0)
    day = reference("climatology", training=both).forecast(both, steps=1, init_time=data["time"].values[2])
    np.testing.assert_allclose(day.sel(variable="warmth")[0], data[3] + 1)


def test_references_take_datasets_and_keep_their_grid_mapping(data):
    pytest.importorskip("cv2", reason="optical flow needs OpenCV: pip install opencv-python-headless")
    moved = moving(2).rename("rain").assign_attrs(grid_mapping="crs")
    ds = moved.to_dataset().assign(crs=xr.DataArray(0, attrs={"grid_mapping_name": "latitude_longitude"}))
    for name in ("persistence", "extrapolation", "extrapolation+2px"):
        of_dataset = reference(name).forecast(ds, steps=4)
        assert of_dataset.sizes["lead_time"] == 4
        np.testing.assert_array_equal(of_dataset, reference(name).forecast(ds["rain"], steps=4))
        assert of_dataset["crs"].attrs == ds["crs"].attrs


def test_unknown_references_and_options_are_refused():
    with pytest.raises(RecipeError, match="'flow' is unknown, expected one of persistence, climatology"):
        reference("flow")
    with pytest.raises(RecipeError, match="option 'cycle' is unknown"):
        reference("persistence", cycle="day")
    with pytest.raises(RecipeError, match="'extrapolation\\+px' is unknown"):
        reference("extrapolation+px")
    with pytest.raises(RecipeError, match="training is missing"):
        reference("climatology")
