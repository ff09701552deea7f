"""To NetCDF and back.

A forecast is written as a CF file, whole or not at all, and is the same when it is read.
"""

import xarray as xr

import sa_nowcast
from sa_nowcast.forecasts.cf import write_forecast

ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(256, 384), longitude=slice(256, 384))
forecast = ds.sa_nowcast.forecast(steps=4, init_time="2019-06-10T01:06")

write_forecast(forecast, "forecast.nc")
again = xr.open_dataset("forecast.nc", decode_timedelta=True, decode_coords="all")
print(again)
assert again["precip_rate"].equals(forecast)
again.sa_nowcast.plot(history=ds).savefig("netcdf.png")
