from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from sequences import NETWORK, OPTIONS, georeferenced, rain, traffic, weather

import sa_nowcast
from sa_nowcast import cli
from sa_nowcast.errors import DataError, ModelError, RecipeError, SaNowcastError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.hindcast import hindcast
from sa_nowcast.metadata import dims
from sa_nowcast.training.fit import fit


@pytest.fixture(scope="module")
def forecast(nowcaster: Nowcaster, sequence: xr.DataArray) -> xr.DataArray:
    return nowcaster.forecast(sequence)


# --- what the forecast is


def test_labels_are_those_of_the_design(forecast: xr.DataArray, sequence: xr.DataArray) -> None:
    assert forecast.dims == ("lead_time", "y", "x")
    assert forecast.dtype == np.float32
    assert forecast.name == "rain"
    leads = pd.to_timedelta([5, 10, 15], unit="min").to_numpy()
    np.testing.assert_array_equal(forecast["lead_time"], leads)
    assert forecast["init_time"].ndim == 0
    assert forecast["init_time"] == sequence["time"][-1]
    np.testing.assert_array_equal(forecast["valid_time"], sequence["time"].values[-1] + leads)
    assert forecast["valid_time"].dims == ("lead_time",)
    assert forecast["lead_time"].attrs["standard_name"] == "forecast_period"
    assert forecast["init_time"].attrs["standard_name"] == "forecast_reference_time"
    assert forecast["valid_time"].attrs["standard_name"] == "time"
    for name in ("y", "x"):
        xr.testing.assert_identical(forecast[name].drop_vars("init_time"), sequence[name])
    for key in ("units", "standard_name", "long_name"):
        assert forecast.attrs[key] == sequence.attrs[key]


def test_provenance_travels_in_attributes(forecast: xr.DataArray, nowcaster: Nowcaster) -> None:
    assert forecast.attrs["sa_nowcast_version"] == sa_nowcast.__version__
    assert forecast.attrs["sa_nowcast_model"] == nowcaster.digest
    assert forecast.attrs["sa_nowcast_network"] == "sa-convlstm"
    assert forecast.attrs["sa_nowcast_training_period"] == nowcaster.provenance["training_period"]
    assert forecast.attrs["sa_nowcast_recipe"] == "sa_nowcast.fit"


def test_grid_mapping_and_other_coordinates_come_through(nowcaster: Nowcaster) -> None:
    ds = georeferenced().assign_coords(elevation=3.0)
    ds["rain"].attrs["cell_methods"] = "time: mean"
    forecast = nowcaster.forecast(ds)
    assert forecast.encoding["grid_mapping"] == "crs"
    assert "grid_mapping" not in forecast.attrs
    assert forecast["crs"].attrs == ds["crs"].attrs
    assert forecast["elevation"] == 3
    np.testing.assert_array_equal(forecast["latitude"], ds["latitude"])
    assert forecast["longitude"].attrs == ds["longitude"].attrs
    assert forecast.attrs["cell_methods"] == "time: mean"


def test_several_variables_give_a_leading_variable_dimension_with_units(weather_nowcaster: Nowcaster) -> None:
    forecast = weather_nowcaster.forecast(weather())
    assert forecast.dims == ("variable", "lead_time", "y", "x")
    assert forecast["variable"].values.tolist() == ["rain", "temperature"]
    assert forecast["units"].values.tolist() == ["mm h-1", "K"]
    assert forecast["units"].dims == ("variable",)
    assert 250 < float(forecast.sel(variable="temperature").mean()) < 320


def test_a_channel_dimension_comes_back_with_its_labels(traffic_nowcaster: Nowcaster) -> None:
    forecast = traffic_nowcaster.forecast(traffic())
    assert forecast.dims == ("lead_time", "channel", "row", "column")
    assert forecast["channel"].values.tolist() == ["in", "out"]
    turned = traffic_nowcaster.forecast(traffic().transpose("row", "column", "channel", "time"))
    xr.testing.assert_identical(turned, forecast)


def test_steps_are_as_many_as_asked_for_and_more_than_trained_is_said(
    nowcaster: Nowcaster, sequence: xr.DataArray, forecast: xr.DataArray
) -> None:
    assert "sa_nowcast_steps_beyond_training" not in forecast.attrs
    longer = nowcaster.forecast(sequence, steps=7)
    assert longer.sizes["lead_time"] == 7
    assert longer.attrs["sa_nowcast_steps_beyond_training"] == 4
    assert np.isfinite(longer).all()
    shorter = nowcaster.forecast(sequence, np.int64(1))
    # A rollout of any length takes the same first steps.
    np.testing.assert_array_equal(longer[:3], forecast)
    np.testing.assert_array_equal(shorter, forecast[:1])


@pytest.mark.parametrize(
    "wanted",
    [["10min", "15min"], np.array([10, 15], "timedelta64[m]"), pd.to_timedelta(["10min", "15min"]), ("600s", "900s")],
)
def test_lead_times_are_chosen_from_those_of_all_steps(
    nowcaster: Nowcaster, sequence: xr.DataArray, forecast: xr.DataArray, wanted: Any
) -> None:
    xr.testing.assert_identical(nowcaster.forecast(sequence, lead_times=wanted), forecast.isel(lead_time=[1, 2]))
    got = sequence.sa_nowcast.forecast(3, model=nowcaster, lead_times=wanted)
    xr.testing.assert_identical(got, forecast.isel(lead_time=[1, 2]))
    assert got["valid_time"].encoding == forecast["valid_time"].encoding


def test_lead_times_beyond_training_are_run_up_to_and_one_alone_stays_a_dimension(
    nowcaster: Nowcaster, sequence: xr.DataArray
) -> None:
    one = nowcaster.forecast(sequence, lead_times="25min")
    xr.testing.assert_identical(one, nowcaster.forecast(sequence, 5).isel(lead_time=[4]))
    assert one.attrs["sa_nowcast_steps_beyond_training"] == 2


@pytest.mark.parametrize(
    ("lead_times", "steps", "match"),
    [
        (["7min"], None, "7 min is between the model's steps, expected multiples of 5 min"),
        (["10min", "20min"], 3, r"20 min is step 4, and steps is 3, expected at most 15 min.*leave steps out"),
        (["10min", "5min"], None, "expected positive and ascending"),
        (["0min"], None, "positive and ascending"),
        ([], None, "expected a sequence of timedelta64, or of text such as '10min'"),
        ([10, 15], None, "expected a sequence of timedelta64, or of text such as '10min'"),
        (["10"], None, "expected a sequence of timedelta64, or of text such as '10min'"),
        (["soon"], None, "expected lead times such as '10min'"),
        (4, None, "expected a sequence of timedelta64"),
        (["10min"], 0, "steps: 0"),
    ],
)
def test_lead_times_that_cannot_be_are_refused_in_one_line(
    nowcaster: Nowcaster, sequence: xr.DataArray, lead_times: Any, steps: int | None, match: str
) -> None:
    for method in (nowcaster, sa_nowcast.reference("persistence")):
        if "between the model's steps" in match and method is not nowcaster:
            continue  # the last frame is the same at any time
        with pytest.raises(RecipeError, match=match) as caught:
            method.forecast(sequence, steps, lead_times=lead_times)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "init_time",
    [
        "2020-06-01T00:45",
        np.datetime64("2020-06-01T00:45"),
        pd.Timestamp("2020-06-01T00:45"),
        pd.Timestamp("2020-06-01T00:45").to_pydatetime(),
        rain()["time"][9],
    ],
)
def test_a_forecast_from_an_earlier_time_sees_nothing_later(
    nowcaster: Nowcaster, sequence: xr.DataArray, init_time: Any
) -> None:
    forecast = nowcaster.forecast(sequence, init_time=init_time)
    assert forecast["init_time"] == np.datetime64("2020-06-01T00:45")
    xr.testing.assert_identical(forecast, nowcaster.forecast(sequence[:10]))
    spoiled = sequence.copy()
    spoiled[10:] = np.nan
    xr.testing.assert_identical(forecast, nowcaster.forecast(spoiled, init_time=init_time))


def test_only_the_history_counts(nowcaster: Nowcaster, sequence: xr.DataArray, forecast: xr.DataArray) -> None:
    xr.testing.assert_identical(nowcaster.forecast(sequence[-4:]), forecast)
    # A gap before the history is none of its business.
    xr.testing.assert_identical(nowcaster.forecast(sequence.isel(time=[0, 1, 7, *range(16, 20)])), forecast)


def test_nan_where_the_whole_history_is_missing_and_only_there(nowcaster: Nowcaster, sequence: xr.DataArray) -> None:
    holed = sequence.copy()
    holed[-4:, 2:5, 3:9] = np.nan
    holed[-4:-1, 10:12, :] = np.nan
    holed[-1, 20, 0:5] = np.nan
    expected = np.zeros((24, 20), dtype=bool)
    expected[2:5, 3:9] = True
    forecast = nowcaster.forecast(holed)
    np.testing.assert_array_equal(np.isnan(forecast), np.broadcast_to(expected, forecast.shape))


def test_rain_is_never_negative(forecast: xr.DataArray) -> None:
    assert float(forecast.min()) >= 0


def test_the_size_and_the_place_of_the_grid_are_free(nowcaster: Nowcaster) -> None:
    other = rain(6, 17, 31, seed=5)
    other = other.assign_coords(y=other["y"].copy(data=other["y"] + 5e5), x=other["x"].copy(data=other["x"] - 3e5))
    assert nowcaster.forecast(other).shape == (3, 17, 31)


# --- saved and reloaded


def test_a_saved_and_reloaded_model_forecasts_bit_identically(
    nowcaster: Nowcaster, sequence: xr.DataArray, forecast: xr.DataArray, tmp_path: Path
) -> None:
    again = sa_nowcast.load(str(nowcaster.save(tmp_path / "m")))
    xr.testing.assert_identical(again.forecast(sequence), forecast)
    assert again.digest == nowcaster.digest
    assert repr(again) == repr(nowcaster)
    twice = sa_nowcast.load(str(again.save(tmp_path / "n")))
    xr.testing.assert_identical(twice.forecast(sequence), forecast)
    one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "mn")
    assert one == other


# --- metamorphic: how the data lie does not matter


def _transposed(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    return ds.transpose("x", "time", "y")


def _chunked(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    return ds.chunk(time=3, y=5, x=20)


def _netcdf(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds.to_netcdf(folder / "a.nc")
    return xr.open_dataset(folder / "a.nc")


def _h5netcdf(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds.to_netcdf(folder / "h.nc", engine="h5netcdf")
    return xr.open_dataset(folder / "h.nc", engine="h5netcdf")


def _zarr2(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds.to_zarr(folder / "2.zarr", zarr_format=2)
    return xr.open_zarr(folder / "2.zarr")


def _zarr3(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds.chunk(time=4).to_zarr(folder / "3.zarr", zarr_format=3, consolidated=False)
    return xr.open_zarr(folder / "3.zarr", consolidated=False)


def _packed(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    ds.to_netcdf(
        folder / "p.nc",
        encoding={"rain": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 0.0, "_FillValue": -1}},
    )
    return xr.open_dataset(folder / "p.nc")


def _undecoded(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    _packed(ds, folder).close()
    return xr.open_dataset(folder / "p.nc", mask_and_scale=False)


def _double(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    return ds.assign(rain=ds["rain"].astype(np.float64))


def _south_up(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    return ds.isel(y=slice(None, None, -1))


def _east_first(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    return ds.isel(x=slice(None, None, -1))


def _beside_others(ds: xr.Dataset, folder: Path) -> xr.Dataset:
    return ds.assign(snow=2 * ds["rain"])[["snow", "rain", "crs"]]


@pytest.mark.parametrize(
    "lying",
    [
        _transposed, _chunked, _netcdf, _h5netcdf, _zarr2, _zarr3, _packed, _undecoded, _double, _south_up, _east_first,
        _beside_others,
    ],
)  # fmt: skip
def test_a_forecast_does_not_depend_on_how_the_data_lie(
    lying: Callable[[xr.Dataset, Path], xr.Dataset], nowcaster: Nowcaster, tmp_path: Path
) -> None:
    ds = georeferenced(rain().where(rain() < 6))
    expected = nowcaster.forecast(ds)
    with lying(ds, tmp_path) as other:
        got = nowcaster.forecast(other)
    assert got.dims == expected.dims
    # In the direction in which the input has its axes; the values at each place are the same to the last bit.
    xr.testing.assert_equal(got.sortby(["y", "x"]), expected.sortby(["y", "x"]))
    assert got.attrs == expected.attrs


@pytest.mark.parametrize("lying", [_transposed, _netcdf, _zarr3, _packed, _undecoded, _south_up, _double])
def test_a_trained_model_does_not_depend_on_how_the_data_lie(
    lying: Callable[[xr.Dataset, Path], xr.Dataset], nowcaster: Nowcaster, tmp_path: Path
) -> None:
    with lying(rain().to_dataset(), tmp_path) as ds:
        other = fit(ds, history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)
    assert other.digest == nowcaster.digest


# --- bad input: one line, the right class, the right content

CASES: dict[str, tuple[Callable[[xr.DataArray], Any], dict[str, Any], type[SaNowcastError], str]] = {
    "too few frames": (lambda d: d[:3], {}, DataError, r"rain, 2020-06-01T00:10: needs 4 frames, has 3"),
    "one frame": (lambda d: d[:1], {}, DataError, r"needs 4 frames, has 1"),
    "no frame": (lambda d: d[:0], {}, DataError, r"dimension time has no entries"),
    "gap in the history": (
        lambda d: d.isel(time=[*range(10), 12, 13]),
        {},
        DataError,
        r"needs 4 frames, has 2 since the gap after 2020-06-01T00:45",
    ),
    "steps=0": (lambda d: d, {"steps": 0}, RecipeError, r"steps: 0, expected a whole number of at least 1"),
    "steps=-1": (lambda d: d, {"steps": -1}, RecipeError, r"steps: -1, expected"),
    "steps=2.5": (lambda d: d, {"steps": 2.5}, RecipeError, r"steps: 2\.5, expected"),
    "steps=True": (lambda d: d, {"steps": True}, RecipeError, r"steps: True, expected"),
    "all-missing frame": (
        lambda d: d.where(d["time"] != d["time"][-2]),
        {},
        DataError,
        r"rain, 2020-06-01T01:30: every value is missing",
    ),
    "other units": (
        lambda d: d.assign_attrs(units="dBZ"),
        {},
        ModelError,
        r"rain: units 'dBZ', expected 'mm h-1', which the model was trained on",
    ),
    "no units": (
        lambda d: d.drop_attrs(deep=False),
        {},
        ModelError,
        r"rain: no units, expected 'mm h-1'",
    ),
    "other cadence": (
        lambda d: d[::2],
        {},
        ModelError,
        r"rain, 2020-06-01T01:30: step is 10 min, expected 5 min, which the model was trained on",
    ),
    "other spacing": (
        lambda d: d[:, ::2, ::2],
        {},
        ModelError,
        r"rain: grid spacing 2000 x 2000 m, expected 1000 x 1000 m, as in training.*grid='any'",
    ),
    "same numbers in other units": (
        lambda d: d.assign_coords(y=d["y"].assign_attrs(units="km"), x=d["x"].assign_attrs(units="km")),
        {},
        ModelError,
        r"rain: grid spacing 1000 x 1000 km, expected 1000 x 1000 m",
    ),
    "unknown init time": (
        lambda d: d,
        {"init_time": "2020-06-01T00:47"},
        DataError,
        r"rain, 2020-06-01T00:47: the init time is not among the data's times, expected one from 2020-06-01T00:00 to "
        r"2020-06-01T01:35, every 5 min",
    ),
    "init time that is none": (
        lambda d: d,
        {"init_time": "tomorrow"},
        RecipeError,
        r"init_time: 'tomorrow', expected one",
    ),
    "several init times": (
        lambda d: d,
        {"init_time": ["2020-06-01T00:45", "2020-06-01T00:50"]},
        RecipeError,
        r"init_time: .*expected one time",
    ),
    "no init time": (lambda d: d, {"init_time": np.datetime64("NaT")}, RecipeError, r"init_time: .*expected one time"),
    "init time of another time zone": (
        lambda d: d,
        {"init_time": pd.Timestamp("2020-06-01T00:45", tz="Europe/Paris")},
        DataError,
        r"rain, 2020-05-31T22:45: the init time is not among the data's times",
    ),
    "init time beyond nanoseconds": (
        lambda d: d,
        {"init_time": "3000-01-01"},
        RecipeError,
        r"init_time: '3000-01-01', expected a year from 1678 to 2261",
    ),
    "init time before the fourth frame": (
        lambda d: d,
        {"init_time": "2020-06-01T00:10"},
        DataError,
        r"needs 4 frames, has 3",
    ),
    "duplicated time": (
        lambda d: d.isel(time=[0, 1, 2, 3, 3]),
        {},
        DataError,
        r"2020-06-01T00:15: the time occurs 2 times",
    ),
    "unsorted times": (lambda d: d[::-1], {}, DataError, r"times are not sorted"),
    "infinite value": (
        lambda d: d.where(d["time"] != d["time"][-1], np.inf),
        {},
        DataError,
        r"rain, 2020-06-01T01:35: 480 infinite values",
    ),
    "two channels": (
        lambda d: xr.concat([d, d], "channel"),
        {},
        ModelError,
        r"rain: channels 0, 1, expected rain",
    ),
    "no array": (lambda d: d.values, {}, DataError, r"a ndarray, expected an xarray Dataset or DataArray"),
    "unknown device": (lambda d: d, {"device": "tpu"}, RecipeError, r"device: 'tpu', expected auto, cpu"),
    "absent device": (lambda d: d, {"device": "cuda:99"}, RecipeError, r"device: cuda:99 was asked for"),
    "unknown word for grid": (lambda d: d, {"grid": "yes"}, RecipeError, r"grid: 'yes', expected 'check' or 'any'"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_clear_line(case: str, nowcaster: Nowcaster, sequence: xr.DataArray) -> None:
    change, options, error, message = CASES[case]
    with pytest.raises(error, match=message) as caught:
        nowcaster.forecast(change(sequence), **options)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is error


def test_spellings_of_the_same_units_and_grid_are_accepted(
    nowcaster: Nowcaster, sequence: xr.DataArray, forecast: xr.DataArray
) -> None:
    other = sequence.assign_attrs(units="mm/h")
    other = other.assign_coords(y=other["y"].assign_attrs(units="metre"), x=other["x"].assign_attrs(units="metre"))
    np.testing.assert_array_equal(nowcaster.forecast(other), forecast)
    degrees = sequence.assign_coords(y=sequence["y"].assign_attrs(units="degrees_north"))
    model = fit(degrees, history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)
    model.forecast(sequence.assign_coords(y=sequence["y"].assign_attrs(units="degree_N")))


def test_rounded_coordinates_are_the_same_grid(nowcaster: Nowcaster, sequence: xr.DataArray) -> None:
    nudged = sequence.assign_coords(
        y=sequence["y"].copy(data=sequence["y"] + np.random.default_rng(0).normal(0, 2, 24))
    )
    np.testing.assert_array_equal(nowcaster.forecast(nudged), nowcaster.forecast(sequence))


def test_another_grid_is_tried_when_asked_for(nowcaster: Nowcaster, sequence: xr.DataArray) -> None:
    assert nowcaster.forecast(sequence[:, ::2, ::2], grid="any").shape == (3, 12, 10)


def test_another_map_projection_is_refused_with_the_parameter_that_differs() -> None:
    ds = georeferenced()
    model = fit(ds, history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)
    moved = ds.copy(deep=True)
    moved["crs"].attrs["longitude_of_projection_origin"] = 11.0
    with pytest.raises(ModelError, match=r"grid mapping with longitude_of_projection_origin=11\.0, expected .*=10\.0"):
        model.forecast(moved)
    model.forecast(moved, grid="any")
    model.forecast(ds["rain"])  # a DataArray does not carry the mapping: nothing to compare


def test_variables_in_another_order_are_taken_by_name(weather_nowcaster: Nowcaster) -> None:
    ds = weather()
    expected = weather_nowcaster.forecast(ds)
    xr.testing.assert_identical(weather_nowcaster.forecast(ds[["temperature", "rain"]]), expected)
    with pytest.raises(ModelError, match="channels rain, expected rain, temperature"):
        weather_nowcaster.forecast(ds[["rain"]])
    with pytest.raises(ModelError, match=r"temperature: units 'degC', expected 'K'"):
        weather_nowcaster.forecast(ds.assign(temperature=ds["temperature"].assign_attrs(units="degC")))


def test_channels_in_another_order_are_refused(traffic_nowcaster: Nowcaster) -> None:
    with pytest.raises(ModelError, match="channels out, in, expected in, out"):
        traffic_nowcaster.forecast(traffic().isel(channel=[1, 0]))


def test_a_forecast_leaves_its_input_as_it_was(nowcaster: Nowcaster) -> None:
    ds = georeferenced()
    before = ds.copy(deep=True)
    encodings: dict[Hashable, Any] = {n: dict(v.encoding) for n, v in ds.variables.items()}
    forecast = nowcaster.forecast(ds)
    forecast[:] = 0
    forecast["y"].attrs["units"] = "furlong"
    forecast["latitude"][:] = 0
    xr.testing.assert_identical(ds, before)
    assert {n: v.encoding for n, v in ds.variables.items()} == encodings


# --- the model that is taken when none is named


def test_the_default_model_is_the_one_that_was_set(
    nowcaster: Nowcaster, saved: Path, sequence: xr.DataArray, forecast: xr.DataArray
) -> None:
    for model in (nowcaster, saved, str(saved)):
        sa_nowcast.set_default_model(model)
        assert sa_nowcast.get_default_model().digest == nowcaster.digest
        xr.testing.assert_identical(sequence.sa_nowcast.forecast(), forecast)
    sa_nowcast.set_default_model(None)
    assert sa_nowcast.get_default_model().digest != nowcaster.digest  # the one that ships


def test_the_environment_names_the_default_model_unless_one_was_set(
    nowcaster: Nowcaster, weather_nowcaster: Nowcaster, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA_NOWCAST_MODEL", str(saved))
    assert sa_nowcast.get_default_model().digest == nowcaster.digest
    sa_nowcast.set_default_model(weather_nowcaster)
    assert sa_nowcast.get_default_model() is weather_nowcaster
    sa_nowcast.set_default_model(None)
    monkeypatch.setenv("SA_NOWCAST_MODEL", str(saved / "none"))
    with pytest.raises(ModelError, match="no such folder"):
        sa_nowcast.get_default_model()


@pytest.mark.parametrize("model", [3, b"m", {"a": 1}, object()])
def test_what_is_no_model_is_refused_by_type(sequence: xr.DataArray, model: Any) -> None:
    with pytest.raises(ModelError, match=f"model: a {type(model).__name__}, expected a Nowcaster, or the path"):
        sequence.sa_nowcast.forecast(model=model)
    with pytest.raises(ModelError, match="expected a Nowcaster"):
        sa_nowcast.set_default_model(model)


def test_names_of_the_design_are_the_ones_in_use() -> None:
    assert (dims.LEAD_TIME, dims.INIT_TIME, dims.VALID_TIME) == ("lead_time", "init_time", "valid_time")


def test_half_precision_halves_the_file_and_survives_saving_bit_for_bit(nowcaster: Nowcaster, tmp_path: Path) -> None:
    half = nowcaster.half()
    whole_file = nowcaster.save(tmp_path / "whole.nowcaster") / "weights.safetensors"
    path = half.save(tmp_path / "half.nowcaster")
    header = 2000  # names and shapes, the same for both
    assert (path / "weights.safetensors").stat().st_size < whole_file.stat().st_size / 2 + header
    again = Nowcaster.load(path)
    assert (again.storage, again.digest) == ("float16", half.digest)
    assert half.digest != nowcaster.digest
    assert next(again.network.parameters()).dtype == torch.float32
    forecast = again.forecast(rain())
    assert forecast.identical(half.forecast(rain()))
    # Weights are off by up to 2**-11 of themselves.
    np.testing.assert_allclose(forecast, nowcaster.forecast(rain()), rtol=0.02, atol=0.02)


def test_a_weight_that_half_precision_cannot_hold_is_refused(nowcaster: Nowcaster) -> None:
    network = copy.deepcopy(nowcaster.network)
    with torch.no_grad():
        network.head.bias[0] = 1e6
    with pytest.raises(ModelError, match=r"weight head\.bias: is beyond the range of float16"):
        replace(nowcaster, network=network).half()


# One request, one check


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What `Frames.from_xarray` was called with since."""
    calls: list[object] = []
    check = Frames.from_xarray.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Frames], obj: object, **options: Any) -> Frames:
        calls.append(obj)
        frames: Frames = check(cls, obj, **options)
        return frames

    monkeypatch.setattr(Frames, "from_xarray", classmethod(counted))
    return calls


def test_data_are_checked_once_a_request(
    checks: list[object], nowcaster: Nowcaster, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rain().to_netcdf(tmp_path / "rain.nc")

    def command(*options: str) -> None:
        arguments = ["forecast", str(tmp_path / "rain.nc"), "-o", str(tmp_path / "a.nc"), "--replace", *options]
        monkeypatch.setattr(sys, "argv", ["sa-nowcast", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code

    requests: dict[str, Callable[[], object]] = {
        "forecast by a named model": lambda: nowcaster.forecast(rain()),
        "forecast by a saved model": lambda: rain().sa_nowcast.forecast(model=saved),
        "forecast by the default model": lambda: rain().sa_nowcast.forecast(steps=2),
        "hindcast by a named model": lambda: hindcast(rain(), nowcaster).compute(),
        "hindcast by the default model": lambda: hindcast(rain(), steps=2).compute(),
        "hindcast by a reference": lambda: hindcast(rain(), "persistence", 2).compute(),
        "archive": lambda: hindcast(rain(), nowcaster, to=tmp_path / "a.zarr"),
        "command by the default model": command,
        "command by a saved model": lambda: command("--model", str(saved)),
        "dry run of a command": lambda: command("--dry-run"),
    }
    counts = {}
    for name, request in requests.items():
        checks.clear()
        request()
        counts[name] = len(checks)
    assert counts == dict.fromkeys(requests, 1)


def test_a_plan_is_the_forecast_that_it_computes(nowcaster: Nowcaster) -> None:
    one = nowcaster.plan(rain(), 2, init_time="2020-06-01T01:00")
    assert (one.dims, one.shape) == (("lead_time", "y", "x"), (2, 24, 20))
    xr.testing.assert_identical(one.compute(), nowcaster.forecast(rain(), 2, init_time="2020-06-01T01:00"))
    many = nowcaster.plan(rain(), 2, init_times=slice(None), missing="nan")
    assert (many.dims[0], many.shape[0]) == ("init_time", 17)
    xr.testing.assert_identical(many.compute(), hindcast(rain(), nowcaster, 2).compute())
    assert nowcaster.plan(rain(), lead_time="20min").steps == 4
