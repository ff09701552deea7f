"""Forecast in one line.

The model that ships forecasts any regularly stepped field. What comes back is labelled: lead times, init time, valid
times, coordinates, units.
"""

import sa_nowcast

ds = sa_nowcast.open_sample("mrms")  # or your own: xr.open_dataset("radar.nc")
forecast = ds.sa_nowcast.forecast(steps=6, init_time="2019-06-10T00:26")

print(forecast.sizes, forecast.units)
forecast.sa_nowcast.plot(truth=ds).savefig("one_line.png")
