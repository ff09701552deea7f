"""Any field, on any grid.

Temperature in kelvin round the North Pole, with latitude and longitude in two dimensions. Dimensions and place are
found by the attributes of the coordinates; coastlines are drawn where cartopy has them on this computer.
"""

import numpy as np
import xarray as xr

y, x = np.meshgrid(np.linspace(-2200, 2200, 96), np.linspace(-2200, 2200, 96), indexing="ij")  # km from the pole
radius, angle = np.hypot(x, y), np.arctan2(x, -y)
hours = np.arange(10)[:, None, None]
wave = 12 * np.sin(3 * (angle - 0.1 * hours) + radius / 500) * np.exp(-(((radius - 1300) / 700) ** 2))
temperature = (("time", "y", "x"), 250 + radius / 150 + wave, {"units": "K", "long_name": "temperature"})
place = {
    "time": np.datetime64("2026-01-01", "ns") + np.arange(10) * np.timedelta64(1, "h"),
    "latitude": (("y", "x"), 90 - radius / 111.2, {"units": "degrees_north"}),
    "longitude": (("y", "x"), np.degrees(angle), {"units": "degrees_east"}),
}
ds = xr.Dataset({"t": temperature}, place)

forecast = ds.isel(time=slice(6)).sa_nowcast.forecast(steps=4)
forecast.sa_nowcast.plot(truth=ds).savefig("any_field.png")
