"""Mean, matched and persistence beside the truth.

One column for each lead time, a row for each forecast; the last row is the absolute error of the first forecast.
[Mean or matched](how-to/products.md) says which to take for what.
"""

import sa_nowcast
from sa_nowcast.plotting import plot_forecast

ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(128, 384), longitude=slice(192, 448))
start = "2019-06-10T00:26"
mean = ds.sa_nowcast.forecast(steps=12, init_time=start)
matched = ds.sa_nowcast.forecast(steps=12, init_time=start, product="matched")
persistence = sa_nowcast.persistence(ds["precip_rate"], init_time=start, lead_times=mean["lead_time"].values)

forecasts = {"mean": mean, "matched": matched, "persistence": persistence}
plot_forecast(forecasts, truth=ds, columns=4).savefig("products.png")
