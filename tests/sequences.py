"""Small sequences that the tests train and forecast on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

START = "2020-06-01T00:00"
# Small enough that training takes a tenth of a second; every option that the small preset leaves is one.
NETWORK: dict[str, Any] = {"hidden": (4,), "kernel": 3, "patch": 4, "output": "frame"}
OPTIONS: dict[str, Any] = {
    "max_steps": 4,
    "batch_size": 2,
    "crop": 12,
    "validate_every": 2,
    "validation_samples": 2,
    "pictures": 0,
    "device": "cpu",
}


def rain(frames: int = 20, height: int = 24, width: int = 20, *, seed: int = 0, step: str = "5min") -> xr.DataArray:
    """Return showers that drift to the east, mm h-1, north up, on a projected grid, values as float32."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform((0, -width), (height, width), (6, 2))
    rows, columns = np.mgrid[0:height, 0:width]
    field = np.zeros((frames, height, width), dtype=np.float32)
    for t in range(frames):
        for row, column in centres:
            field[t] += 8 * np.exp(-((rows - row) ** 2 + (columns - column - t) ** 2) / 9)
    # Hundredths below 128 are exact neither in float32 nor float64, but pack into int16 and back to the same float32.
    field = np.round(field, 2)
    return xr.DataArray(
        field,
        dims=("time", "y", "x"),
        coords={
            "time": ("time", pd.date_range(START, periods=frames, freq=step), {"standard_name": "time"}),
            "y": ("y", 1000.0 * np.arange(height)[::-1], {"standard_name": "projection_y_coordinate", "units": "m"}),
            "x": ("x", 1000.0 * np.arange(width), {"standard_name": "projection_x_coordinate", "units": "m"}),
        },
        name="rain",
        attrs={"units": "mm h-1", "standard_name": "rainfall_rate", "long_name": "rain rate"},
    )


def georeferenced(da: xr.DataArray | None = None) -> xr.Dataset:
    """Return `da` with a grid mapping variable and two-dimensional latitude and longitude, as radar files have them."""
    da = rain() if da is None else da
    height, width = da.sizes["y"], da.sizes["x"]
    latitude = 50 + 0.01 * np.arange(height)[::-1][:, None] + 0.0001 * np.arange(width)
    longitude = 5 + 0.01 * np.arange(width) + 0.0001 * np.arange(height)[:, None]
    ds = da.assign_coords(
        latitude=(("y", "x"), latitude, {"standard_name": "latitude", "units": "degrees_north"}),
        longitude=(("y", "x"), longitude, {"standard_name": "longitude", "units": "degrees_east"}),
    ).to_dataset()
    ds["crs"] = xr.DataArray(
        np.int32(0),
        attrs={
            "grid_mapping_name": "lambert_azimuthal_equal_area",
            "longitude_of_projection_origin": 10.0,
            "latitude_of_projection_origin": 52.0,
            "false_easting": 0.0,
            "false_northing": 0.0,
            "semi_major_axis": 6378137.0,
            "inverse_flattening": 298.257223563,
        },
    )
    ds[da.name].attrs["grid_mapping"] = "crs"
    return ds


def weather(frames: int = 20) -> xr.Dataset:
    """Return two variables on one grid."""
    temperature = rain(frames, seed=1) + 280
    temperature.attrs = {"units": "K", "standard_name": "air_temperature"}
    return xr.Dataset({"rain": rain(frames), "temperature": temperature.rename("temperature")})


def traffic(frames: int = 20) -> xr.DataArray:
    """Return flows in and out of a city's cells: a channel dimension, no coordinates in space."""
    values = np.stack([rain(frames, seed=s).values for s in (2, 3)], axis=1)
    return xr.DataArray(
        values,
        dims=("time", "channel", "row", "column"),
        coords={"time": pd.date_range(START, periods=frames, freq="30min"), "channel": ["in", "out"]},
        name="flow",
        attrs={"units": "1"},
    )


def wrf(frames: int = 20, height: int = 24, width: int = 20) -> xr.Dataset:
    """Return what xarray makes of a file of WRF: times under another name, 2-D latitude and longitude, two grids."""
    times = pd.date_range(START, periods=frames, freq="5min")
    rows, columns = np.mgrid[0:height, 0:width]
    places = {"XLAT": 50 + 0.1 * rows + 0.01 * columns, "XLONG": 5 + 0.1 * columns + 0.02 * rows}
    units = {"XLAT": {"units": "degree_north"}, "XLONG": {"units": "degree_east"}}
    grid = ("Time", "south_north", "west_east")
    return xr.Dataset(
        {
            "T2": (grid, rain(frames, height, width).values, {"units": "K", "description": "TEMP at 2 M"}),
            "U": (("Time", "bottom_top", "south_north", "west_east_stag"), np.zeros((frames, 2, height, width + 1))),
            "Times": ("Time", np.array([f"{t:%Y-%m-%d_%H:%M:%S}" for t in times], dtype="S19")),
        },
        {
            "XTIME": ("Time", times, {"description": "minutes since the start"}),
            **{n: (grid, np.broadcast_to(p, (frames, height, width)), units[n]) for n, p in places.items()},
        },
    )


def of_two_grids(da: xr.DataArray) -> xr.Dataset:
    """Return rain beside a field on a grid of its own, both with CF attributes, and one with times of its own."""
    other = da[:, ::2, ::2].rename(y="ys", x="xs").rename("satellite")
    return xr.Dataset({"rain": da, "satellite": other, "model": da[::6].rename(time="time_model")})


def rounded(da: xr.DataArray, units: str = "days since 1970-01-01", dtype: str = "float64") -> xr.DataArray:
    """Return `da` with its times as xarray reads them from a file that stores them as numbers of `units`."""
    exact = xr.Variable("time", da["time"].values, encoding={"units": units, "dtype": np.dtype(dtype)})
    times = xr.conventions.decode_cf_variable("time", xr.conventions.encode_cf_variable(exact))
    assert (np.diff(times.values) != np.diff(da["time"].values)).any()
    return da.assign_coords(time=xr.Variable("time", times.values, da["time"].attrs, times.encoding))
