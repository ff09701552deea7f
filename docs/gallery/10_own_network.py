"""Train a network of your own.

A few updates of a small network, to show the calls; a useful one takes [more data and minutes](how-to/train.md). The
last frames are not trained on, and are forecast.
"""

import sa_nowcast
from sa_nowcast.plotting import plot_forecast

ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(256, 384), longitude=slice(256, 384))
nowcaster = ds.isel(time=slice(0, 26)).sa_nowcast.fit(
    history=4, steps=4, network={"hidden": (16, 16)}, max_steps=60, crop=64, progress=False
)
nowcaster.save("own.nowcaster")

start = "2019-06-10T01:02"
own = ds.sa_nowcast.forecast(steps=4, model="own.nowcaster", init_time=start)
default = ds.sa_nowcast.forecast(steps=4, init_time=start)
plot_forecast({"own network": own, "default model": default}, truth=ds).savefig("own_network.png")
