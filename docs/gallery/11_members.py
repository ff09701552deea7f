"""Members beside the truth.

Each member is a forecast as it might be observed: as sharp as a radar picture, and another one where it is uncertain.
Their mean is smooth. [Members and probabilities](how-to/ensembles.md) says what to take them for.
"""

import sa_nowcast
from sa_nowcast.plotting import plot_members

ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(128, 384), longitude=slice(192, 448))
members = ds.sa_nowcast.forecast(steps=12, members=24, seed=0, init_time="2019-06-10T00:26")

plot_members(members, "24min", ds, members=10).savefig("members.png")
