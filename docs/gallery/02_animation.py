"""Animate truth and forecasts side by side.

Half an hour in steps of two minutes. The mean has the least squared error, and fades where it is uncertain; matched
has the same pattern with the distribution of observed rain; persistence is the last frame, unchanged.
"""

import sa_nowcast
from sa_nowcast.plotting import animate

ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(128, 384), longitude=slice(192, 448))
start = "2019-06-10T00:26"
mean = ds.sa_nowcast.forecast(steps=15, init_time=start)
matched = ds.sa_nowcast.forecast(steps=15, init_time=start, product="matched")
persistence = sa_nowcast.persistence(ds["precip_rate"], init_time=start, lead_times=mean["lead_time"].values)

forecasts = {"mean": mean, "matched": matched, "persistence": persistence}
animate(forecasts, "nowcast.gif", truth=ds, frames_per_second=3)
