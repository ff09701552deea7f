"""Verify a hindcast by lead time.

Forecasts from eleven init times, scored against what was observed, and against persistence. The shaded interval is from
a block bootstrap over init times: with few of them, on one day, it says little about other weather.
"""

import sa_nowcast
from sa_nowcast.plotting import plot_scores

ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(256, 384), longitude=slice(256, 384))
inits = ds["time"].values[3:24:2]  # with history before and truth after
archive = ds.sa_nowcast.hindcast(12, init_times=inits).compute()

scores = archive.sa_nowcast.verify(ds, metrics=["mse", "mae"], reference="persistence")
print((scores["mse"] / scores["mse_persistence"]).round(2).values)
plot_scores(scores).savefig("hindcast.png")
