"""Forecasts of every shape that other tools are given."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from sequences import NETWORK, OPTIONS, georeferenced, rain, traffic, weather

from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.training.fit import fit


def geographic_rain() -> xr.DataArray:
    """Rain on latitude and longitude, without a grid mapping."""
    da = rain().rename(y="latitude", x="longitude")
    return da.assign_coords(
        latitude=("latitude", 50 - 0.01 * np.arange(24), {"units": "degrees_north", "standard_name": "latitude"}),
        longitude=(
            "longitude",
            0.01 * np.arange(20),
            {"units": "degrees_east", "standard_name": "longitude", "axis": "X", "valid_min": np.float64(-180)},
        ),
    )


def members(forecast: xr.DataArray, number: int = 3) -> xr.DataArray:
    """An ensemble of which each member differs."""
    ensemble = xr.concat([forecast * (1 + 0.25 * i) for i in range(number)], "realization").assign_attrs(forecast.attrs)
    ensemble = ensemble.assign_coords(realization=np.arange(number))
    ensemble["realization"].attrs = {"standard_name": "realization", "units": "1", "long_name": "ensemble member"}
    ensemble.encoding = dict(forecast.encoding)
    return ensemble.transpose("realization", *forecast.dims)


@pytest.fixture(scope="session")
def projected(nowcaster: Nowcaster) -> xr.DataArray:
    """One forecast of rain, on a projection in metres, with 2-D latitude and longitude."""
    return nowcaster.forecast(georeferenced())


@pytest.fixture(scope="session")
def geographic() -> xr.DataArray:
    data = geographic_rain()
    return fit(data, history=4, steps=3, network=NETWORK, progress=False, **OPTIONS).forecast(data)


@pytest.fixture(scope="session")
def archive(nowcaster: Nowcaster) -> xr.DataArray:
    """Forecasts from six init times, (init_time, lead_time, y, x)."""
    ds = georeferenced()
    each = [nowcaster.forecast(ds, init_time=time) for time in ds["time"].values[6:12]]
    result = xr.concat(each, "init_time", coords="minimal", compat="override", combine_attrs="override")
    valid = (result["init_time"] + result["lead_time"]).values
    result = result.assign_coords(valid_time=(("init_time", "lead_time"), valid, each[0]["valid_time"].attrs))
    result.encoding = dict(each[0].encoding)
    return result


@pytest.fixture(scope="session")
def forecasts(
    nowcaster: Nowcaster,
    weather_nowcaster: Nowcaster,
    traffic_nowcaster: Nowcaster,
    projected: xr.DataArray,
    geographic: xr.DataArray,
    archive: xr.DataArray,
) -> dict[str, xr.DataArray]:
    return {
        "one": nowcaster.forecast(rain()),
        "projected": projected,
        "geographic": geographic,
        "archive": archive,
        "archive of one": archive.isel(init_time=[1]),
        "ensemble": members(projected),
        "ensemble archive": members(archive),
        "geographic ensemble": members(geographic).assign_coords(realization=[4, 9, 2]),
        "several variables": weather_nowcaster.forecast(weather()),
        "channels": traffic_nowcaster.forecast(traffic()),
        "missing": nowcaster.forecast(rain().where(rain()["x"] > 2000)),
    }
