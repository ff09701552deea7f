from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sequences import rain

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.interop.conventions import from_convention, to_convention
from sa_nowcast.interop.record import CONVENTIONS, RECORD

# pysteps' convention knows one init time and one precipitation variable.
NOT_IN_PYSTEPS = {"archive", "ensemble archive", "several variables", "channels"}


def _convertible(forecasts: dict[str, xr.DataArray], name: str) -> dict[str, xr.DataArray]:
    return {k: f for k, f in forecasts.items() if name != "pysteps" or k not in NOT_IN_PYSTEPS}


def _snapshot(forecast: xr.DataArray) -> tuple[xr.DataArray, dict[Any, Any]]:
    return forecast.copy(deep=True), {n: (dict(c.attrs), dict(c.encoding)) for n, c in forecast.coords.items()}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_there_and_back_is_identical_and_leaves_the_forecast_as_it_was(
    forecasts: dict[str, xr.DataArray], name: str
) -> None:
    for kind, forecast in _convertible(forecasts, name).items():
        before, attrs = _snapshot(forecast)
        there = to_convention(forecast, name)  # type: ignore[arg-type]
        for back in (from_convention(there), from_convention(there, name)):  # type: ignore[arg-type]
            xr.testing.assert_identical(back, forecast)
            assert back.dims == forecast.dims, kind
            assert {n: c.dtype for n, c in back.coords.items()} == {n: c.dtype for n, c in forecast.coords.items()}
            assert back.encoding.get("grid_mapping") == forecast.encoding.get("grid_mapping")
        xr.testing.assert_identical(forecast, before)
        assert {n: (dict(c.attrs), dict(c.encoding)) for n, c in forecast.coords.items()} == attrs, kind


@pytest.mark.parametrize("file_format", ["netcdf", "zarr"])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_there_through_a_file_and_back_keeps_values_coordinates_and_attributes(
    forecasts: dict[str, xr.DataArray], name: str, file_format: str, tmp_path: Path
) -> None:
    for number, forecast in enumerate(_convertible(forecasts, name).values()):
        there = to_convention(forecast, name)  # type: ignore[arg-type]
        ds = there.to_dataset(name="field") if isinstance(there, xr.DataArray) else there
        path = tmp_path / str(number)
        if file_format == "zarr":
            texts = {n: c.astype(object) for n, c in ds.coords.items() if c.dtype.kind == "U"}
            ds.assign_coords(texts).to_zarr(path, zarr_format=3, consolidated=False)
        else:
            ds.to_netcdf(path)
        engine = "netcdf4" if file_format == "netcdf" else "zarr"
        options: dict[str, Any] = {} if file_format == "netcdf" else {"consolidated": False}
        with xr.open_dataset(path, engine=engine, decode_coords="all", decode_timedelta=True, **options) as opened:
            back = from_convention(opened)
            assert (back.name, back.dims) == (forecast.name, forecast.dims)
            np.testing.assert_array_equal(back.values, forecast.values)
            assert set(back.coords) == set(forecast.coords)
            for key, coord in forecast.coords.items():
                assert back[key].dtype == coord.dtype, key
                np.testing.assert_array_equal(back[key].values, coord.values)
                assert back[key].attrs.keys() == coord.attrs.keys(), key
            assert back.attrs.keys() == forecast.attrs.keys()


def test_names_orders_and_types_are_those_of_each_convention(forecasts: dict[str, xr.DataArray]) -> None:
    ensemble = forecasts["geographic ensemble"]
    init, leads = ensemble["init_time"].values, ensemble["lead_time"].values

    ecmwf = to_convention(ensemble, "ecmwf")
    assert ecmwf["rain"].dims == ("number", "step", "latitude", "longitude")
    assert (ecmwf["time"].dtype, ecmwf["step"].dtype) == (np.dtype("M8[ns]"), np.dtype("m8[ns]"))
    assert ecmwf["time"].dims == ()
    np.testing.assert_array_equal(ecmwf["valid_time"], init + leads)
    assert ecmwf["valid_time"].dims == ("step",)
    # Latitudes run from north to south, and longitudes keep the axis that they had.
    assert ecmwf["latitude"].attrs["stored_direction"] == "decreasing"
    assert ecmwf["longitude"].attrs == {
        "standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"
    }  # fmt: skip
    assert ecmwf["step"].attrs["standard_name"] == "forecast_period"

    weatherbench = to_convention(ensemble, "weatherbench")
    assert weatherbench["rain"].dims == ("time", "number", "prediction_timedelta", "latitude", "longitude")
    assert weatherbench["time"].values.tolist() == [init.astype("M8[ns]").astype(np.int64)]
    assert "valid_time" not in weatherbench.coords

    earth2studio = to_convention(ensemble, "earth2studio")
    assert isinstance(earth2studio, xr.DataArray)
    assert earth2studio.dims == ("ensemble", "time", "lead_time", "variable", "lat", "lon")
    assert earth2studio["variable"].values.tolist() == ["rain"]
    np.testing.assert_array_equal(earth2studio.isel(time=0, variable=0).values, ensemble.values)

    pysteps = to_convention(ensemble, "pysteps")
    field = pysteps["precip_intensity"]
    assert field.dims == ("ens_number", "time", "y", "x")
    assert field["ens_number"].values.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(field["time"], init + leads)
    assert field["time"].attrs["stepsize"] == 300
    assert pysteps["forecast_reference_time"].values == init
    described = ("units", "accutime", "threshold", "zerovalue")
    assert [field.attrs[k] for k in described] == ["mm/h", 5.0, 0.1, 0.0]
    assert field["y"].attrs["stepsize"] == pytest.approx(-0.01)
    assert pysteps.attrs["precip_var"] == "precip_intensity"
    assert "+proj=longlat" in pysteps.attrs["projection"]

    cf = to_convention(ensemble, "cf")
    assert cf.attrs["Conventions"] == "CF-1.11"
    assert cf["rain"].dims == ensemble.dims


def test_an_archive_has_init_times_as_a_dimension_everywhere(forecasts: dict[str, xr.DataArray]) -> None:
    archive = forecasts["ensemble archive"]
    wanted = {
        "ecmwf": ("number", "time", "step", "y", "x"),
        "weatherbench": ("time", "number", "prediction_timedelta", "y", "x"),
        "cf": archive.dims,
    }
    for name, expected in wanted.items():
        assert to_convention(archive, name)["rain"].dims == expected  # type: ignore[arg-type, index]
    converted = to_convention(archive, "earth2studio")
    assert converted.dims == ("ensemble", "time", "lead_time", "variable", "y", "x")
    assert {"lat", "lon"} <= set(converted.coords)
    assert to_convention(archive, "ecmwf")["valid_time"].dims == ("time", "step")


def test_several_variables_become_variables_with_units_of_their_own(forecasts: dict[str, xr.DataArray]) -> None:
    forecast = forecasts["several variables"]
    for name in ("ecmwf", "weatherbench", "cf"):
        ds = to_convention(forecast, name)  # type: ignore[arg-type]
        assert [ds[n].attrs["units"] for n in ("rain", "temperature")] == ["mm h-1", "K"], name
        assert from_convention(ds[["temperature"]])["units"].values.tolist() == ["K"]
    array = to_convention(forecast, "earth2studio")
    assert array.dims == ("time", "lead_time", "variable", "y", "x")
    assert array["variable"].values.tolist() == ["rain", "temperature"]


def test_a_selection_comes_back_as_that_selection(forecasts: dict[str, xr.DataArray]) -> None:
    archive, one = forecasts["ensemble archive"], forecasts["geographic ensemble"]
    first = archive["init_time"].values[1]
    picked = {
        "ecmwf": to_convention(archive, "ecmwf").isel(time=1, step=[0, 2]),
        "weatherbench": to_convention(archive, "weatherbench").isel(time=1, prediction_timedelta=[0, 2]),
        "earth2studio": to_convention(archive, "earth2studio").isel(time=1, lead_time=[0, 2]),
        "cf": to_convention(archive, "cf").isel(init_time=1, lead_time=[0, 2]),
    }
    for data in picked.values():
        expected = archive.sel(init_time=first).isel(lead_time=[0, 2])
        xr.testing.assert_identical(from_convention(data), expected)
        if isinstance(data, xr.Dataset):
            xr.testing.assert_identical(from_convention(data["rain"]), expected)
    members = to_convention(one, "pysteps").sel(ens_number=[3, 1])
    xr.testing.assert_identical(from_convention(members), one.sel(realization=[2, 4]))


def test_a_change_made_under_the_other_names_stays(projected: xr.DataArray) -> None:
    ds = to_convention(projected, "weatherbench")
    ds["rain"] = (ds["rain"] / 3.6).assign_attrs(ds["rain"].attrs | {"units": "mm min-1"})
    back = from_convention(ds)
    assert back.attrs["units"] == "mm min-1"
    np.testing.assert_allclose(back, projected / 3.6, rtol=1e-6)


def test_lazy_forecasts_stay_lazy(archive: xr.DataArray) -> None:
    lazy = archive.chunk(init_time=1)
    for name in CONVENTIONS:
        if name != "pysteps":
            back = from_convention(to_convention(lazy, name))  # type: ignore[arg-type]
            assert back.chunks is not None
            xr.testing.assert_identical(back.compute(), archive)
    assert to_convention(lazy.isel(init_time=[0]), "pysteps")["precip_intensity"].chunks is not None


def test_forecasts_of_other_sources_get_our_names() -> None:
    field = rain(4).values
    times, steps = pd.date_range("2020-01-01", periods=2, freq="6h"), pd.to_timedelta([6, 12], unit="h")
    lat, lon = 50 - 0.25 * np.arange(24), 0.25 * np.arange(20)
    values = field.reshape(2, 2, 24, 20)
    cfgrib = xr.Dataset(
        {"tp": (("time", "step", "latitude", "longitude"), values, {"units": "m", "GRIB_shortName": "tp"})},
        {"time": times, "step": steps, "latitude": lat, "longitude": lon, "surface": 0.0},
    )
    weatherbench = xr.Dataset(
        {"t2m": (("time", "prediction_timedelta", "longitude", "latitude"), values.swapaxes(2, 3), {"units": "K"})},
        {"time": times, "prediction_timedelta": steps, "latitude": lat, "longitude": lon},
    )
    weatherbench["msl"] = weatherbench["t2m"].assign_attrs(units="Pa")
    earth2studio = xr.DataArray(
        values[:, :, None],
        dims=("time", "lead_time", "variable", "lat", "lon"),
        coords={"time": times, "lead_time": steps, "variable": ["t2m"], "lat": lat, "lon": lon},
    )
    for data in (cfgrib, weatherbench["t2m"], earth2studio):
        forecast = from_convention(data)
        assert forecast.dims[:2] == ("init_time", "lead_time")
        np.testing.assert_array_equal(
            forecast["valid_time"], times.values[:, None] + steps.values.astype("m8[ns]")[None, :]
        )
        assert forecast["lead_time"].attrs["standard_name"] == "forecast_period"
        np.testing.assert_array_equal(forecast.transpose(..., *forecast.dims[2:]).values.sum(), values.sum())
    several = from_convention(weatherbench)
    assert several["variable"].values.tolist() == ["t2m", "msl"]
    assert several["units"].values.tolist() == ["K", "Pa"]
    pysteps = xr.Dataset(
        {"precip_intensity": (("time", "y", "x"), field, {"units": "mm/h"})},
        {"time": pd.date_range("2020-01-01T00:05", periods=4, freq="5min"), "y": lat, "x": lon},
        {"precip_var": "precip_intensity"},
    )
    with pytest.raises(DataError, match="no coordinate forecast_reference_time"):
        from_convention(pysteps)
    forecast = from_convention(pysteps.assign_coords(forecast_reference_time=times[0]))
    assert forecast["lead_time"].values.astype("m8[s]").astype(int).tolist() == [300, 600, 900, 1200]


def test_what_a_convention_cannot_hold_is_refused_in_one_line(
    forecasts: dict[str, xr.DataArray], projected: xr.DataArray
) -> None:
    for kind, expected in {
        "archive": "6 init times, expected one, as pysteps knows no archive",
        "several variables": "several variables, expected one",
        "channels": "units '1', expected mm h-1, mm or dBZ",
    }.items():
        with pytest.raises(DataError, match=expected):
            to_convention(forecasts[kind], "pysteps")
    with pytest.raises(RecipeError, match="convention: 'grib', expected one of cf, ecmwf"):
        to_convention(projected, "grib")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="rain: no coordinate init_time, expected a forecast"):
        to_convention(rain(), "ecmwf")
    with pytest.raises(DataError, match="lead_time is no dimension"):
        to_convention(projected.isel(lead_time=0), "ecmwf")
    with pytest.raises(DataError, match="its coordinate 'time' has a name that the convention needs"):
        to_convention(projected.assign_coords(time=1), "ecmwf")
    with pytest.raises(DataError, match="already converted"):
        to_convention(to_convention(projected, "cf")["rain"], "ecmwf")
    marked = projected.assign_coords(x=("x", projected["x"].values, {"made": datetime.datetime(2020, 1, 1)}))
    with pytest.raises(DataError, match="an attribute of type datetime, expected text"):
        to_convention(marked, "ecmwf")
    with pytest.raises(DataError, match="in the convention 'ecmwf', expected 'cf'"):
        from_convention(to_convention(projected, "ecmwf"), "cf")
    with pytest.raises(DataError, match="dimensions time, y, x, expected one of cf"):
        from_convention(rain())
    with pytest.raises(DataError, match="in none of the known conventions, expected 'cf'"):
        from_convention(rain(), "cf")
    damaged = to_convention(projected, "ecmwf")
    damaged["rain"].attrs[RECORD] = "{"
    with pytest.raises(DataError, match=f"attribute {RECORD}: unreadable"):
        from_convention(damaged)
