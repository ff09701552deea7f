"""CSI and frequency bias by threshold.

Where thresholds matter, `matched` keeps heavy rain as frequent as it was; a frequency bias of 1 is as often as
observed.
"""

import sa_nowcast
from sa_nowcast.plotting import plot_scores

ds = sa_nowcast.open_sample("mrms").isel(latitude=slice(256, 384), longitude=slice(256, 384))
inits = ds["time"].values[3:24:4]
archives = {
    "mean": ds.sa_nowcast.hindcast(12, init_times=inits).compute(),
    "matched": ds.sa_nowcast.hindcast(12, init_times=inits, product="matched").compute(),
    "persistence": ds.sa_nowcast.hindcast(12, init_times=inits, model="persistence").compute(),
}

scores = sa_nowcast.compare(archives, ds, ["csi", "frequency_bias"], thresholds=[0.1, 1, 5])
plot_scores(scores, title="Six init times").savefig("thresholds.png")
