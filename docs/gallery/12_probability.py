"""Probability of a threshold, and quantiles at a point.

The share of members at or above 5 mm/h at each lead time, with the outline of where the truth was; and the range that
half and nine tenths of the members are in, at one place.
"""

import sa_nowcast
from sa_nowcast.plotting import plot_meteogram, plot_probability

ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(128, 384), longitude=slice(192, 448))
members = ds.sa_nowcast.forecast(steps=12, members=24, seed=0, init_time="2019-06-10T00:26")

plot_probability(members, 5.0, ds).savefig("probability.png")
plot_meteogram(members, (46.6, -85.9), ds).savefig("meteogram.png")
