"""See what a position attends to.

The weights that one point (the cross) gives to all others while the last frame is read, in the first and the last layer
of a network. White is as if all were alike, warmer is more; after so short a training most are near white.
"""

import sa_nowcast

ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(256, 384), longitude=slice(256, 384))
nowcaster = ds.sa_nowcast.fit(history=4, steps=4, network={"hidden": (16, 16)}, max_steps=20, crop=64, progress=False)
ds.sa_nowcast.plot_attention((46.9, -85.8), model=nowcaster).savefig("attention.png")
