"""Compare with optical flow.

References are made, archived and scored by the same calls as a network, on the same pixels: what an extrapolation
brings in from beyond the edge takes no part. `extrapolation` and `sprog` are those of pysteps.
"""

import sa_nowcast
from sa_nowcast.plotting import plot_scores

ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(256, 384), longitude=slice(256, 384))
inits = ds["time"].values[3:24:4]
archives = {
    "default model": ds.sa_nowcast.hindcast(12, init_times=inits).compute(),
    "extrapolation": ds.sa_nowcast.hindcast(12, init_times=inits, model="extrapolation").compute(),
    "S-PROG": ds.sa_nowcast.hindcast(12, init_times=inits, model="sprog").compute(),
}

scores = sa_nowcast.compare(archives, ds, ["mse", "csi", "fss"], thresholds=[1.0], neighbourhoods=[9])
plot_scores(scores, title="Six init times").savefig("optical_flow.png")
