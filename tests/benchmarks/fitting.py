"""What `fit` from the default model gains: MSE on the later part of each dataset, after training on its first part.

Needs the folder that `SA_NOWCAST_DATA` names. The first 60 % of the frames are given to ``fit(history=4, steps=12)``,
with its defaults and at most ten minutes; forecasts of later frames are scored against
the default model's.
``-k losses`` compares the losses for rain instead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import sa_nowcast
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.workflow.data import open_path

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        "SA_NOWCAST_DATA" not in os.environ, reason="real data: set SA_NOWCAST_DATA to the folder that holds them"
    ),
]

HISTORY, STEPS, FIRST = 4, 12, 0.6
INIT_TIMES = 8
MAX_TIME = os.environ.get("MAX_TIME", "10 min")
RAIN = {"to": "rain_rate"}
SETS: dict[str, dict[str, Any]] = {
    "MeteoSwiss 2015": {"path": "radar/mch/20150515", "engine": "mch_gif", "options": RAIN},
    "MeteoSwiss 2017": {"path": "radar/mch/20170131", "engine": "mch_gif", "options": RAIN},
    "FMI 2017": {"path": "radar/fmi/20170509", "engine": "fmi_pgm", "options": RAIN},
    "KNMI 2010": {"path": "radar/knmi", "engine": "knmi_hdf5", "options": RAIN},
    "BOM 2020": {"path": "radar/bom", "engine": "bom_rf3", "options": RAIN, "frames": 72},
    "NYC taxi": {
        "path": "traffic/nyc_taxi_30min_1008x10x20x1.npz", "engine": "array",
        "options": {
            "start": "2015-01-01", "step": "30min", "name": "pickups", "units": "1", "channels": ["pickups"],
            "valid_min": 0,
        },
    },
    "ERA5 temperature": {"path": "era5/era5_t2m_uk_2019-03-01_2019-03-20.nc"},
}  # fmt: skip


def opened(name: str) -> xr.Dataset:
    given = dict(SETS[name])
    frames = given.pop("frames", None)
    ds = open_path(str(Path(os.environ["SA_NOWCAST_DATA"]) / given.pop("path")), name, **given)
    return ds.isel(time=slice(0, frames))


def parts(ds: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the first part, and all frames with as many missing ones after them as forecasts have lead times."""
    times = ds.indexes["time"]
    beyond = times[-1] + (times[1] - times[0]) * np.arange(1, STEPS + 1)
    whole = ds.load().reindex(time=times.append(pd.DatetimeIndex(beyond)))
    return ds.isel(time=slice(0, int(FIRST * times.size))), whole


def archives(ds: xr.Dataset, first: xr.Dataset, models: Mapping[str, Nowcaster | None]) -> dict[str, xr.DataArray]:
    """Return forecasts from the last frame of the first part to the last but one, whose valid times are all later."""
    positions = np.arange(first.sizes["time"] - 1, ds.sizes["time"] - STEPS - 1)
    chosen = np.unique(np.linspace(0, len(positions) - 1, INIT_TIMES).astype(int))
    init_times = ds.indexes["time"][positions[chosen]]
    seen = ds.isel(time=slice(None, -STEPS))
    return {
        name: seen.sa_nowcast.hindcast(STEPS, model=model, init_times=init_times).compute()
        for name, model in models.items()
    }


def by_lead_time(scores: Mapping[str, xr.Dataset], metric: str, forecast: str, **chosen: Any) -> Any:
    values = scores[forecast][metric].sel(**chosen)
    return values.mean([d for d in values.dims if d != "lead_time"]).values


def fitted(ds: xr.Dataset, **options: Any) -> tuple[Nowcaster, float]:
    began = time.perf_counter()
    given = {"history": HISTORY, "steps": STEPS, "max_time": MAX_TIME, "progress": False} | options
    return ds.sa_nowcast.fit(**given), time.perf_counter() - began


@pytest.mark.parametrize("name", SETS)
def test_training_further_makes_no_lead_time_worse(name: str) -> None:
    torch.set_num_threads(2)
    first, whole = parts(opened(name))
    nowcaster, seconds = fitted(first)
    found = archives(whole, first, {"fit": nowcaster, "default": None})
    scores = sa_nowcast.compare(found, whole, metrics=["mse"], reference="persistence")
    ratio = by_lead_time(scores, "mse", "fit") / by_lead_time(scores, "mse", "default")
    start = nowcaster.provenance["start"]
    print(
        f"\n{name}: {first.sizes['time']} frames, {seconds:.0f} s, {start['updates']} updates kept\n"
        f"  validation {' '.join(f'{r:.3f}' for r in start['validation_ratio'] or [])}\n"
        f"  later part {' '.join(f'{r:.3f}' for r in ratio)}, mean {ratio.mean():.3f}"
    )
    assert ratio.max() <= 1.0


@pytest.mark.parametrize("name", ["MeteoSwiss 2015", "BOM 2020"])
def test_losses_for_rain_compared_on_heavy_rain(name: str) -> None:
    """Of the mean and the matched product, at 5 and 10 mm/h: CSI and frequency bias over lead times 1 to 12."""
    torch.set_num_threads(2)
    first, whole = parts(opened(name))
    models: dict[str, Nowcaster | None] = {"default": None}
    for loss in ("l2", "rain-weighted", "accumulation"):
        # Without a validation period, whose rule may keep the start: what the losses teach is compared here.
        models[loss], _ = fitted(first, loss=loss, validation=0, balanced_leads=False)
    found = archives(whole, first, models)
    scores = sa_nowcast.compare(
        found, whole, metrics=["mse", "csi", "frequency_bias"], thresholds=[5, 10], reference="persistence"
    )
    for loss in models:
        print(f"\n{name}, {loss}\n  MSE {shown(by_lead_time(scores, 'mse', loss))}")
        for metric in ("csi", "frequency_bias"):
            for threshold in (5, 10):
                print(f"  {metric} {threshold} {shown(by_lead_time(scores, metric, loss, threshold=threshold))}")
        print(f"  mean of the lead times: {of_the_mean(found[loss], whole)}")
    assert all(np.isfinite(by_lead_time(scores, "mse", loss)).all() for loss in models)


def shown(values: Any) -> str:
    return " ".join(f"{v:.3f}" for v in values)


def of_the_mean(archive: xr.DataArray, ds: xr.Dataset) -> str:
    """Return scores of the mean over all lead times (the next hour, of five-minute frames), where it was observed."""
    (rain,) = (ds[name] for name in ds.data_vars if ds[name].ndim == 3)
    forecast, observed = [], []
    for init_time in archive["init_time"].values:
        one = archive.sel(init_time=init_time).transpose("lead_time", ...)
        valid = init_time + one["lead_time"].values
        if valid[-1] <= ds.indexes["time"][-1]:
            forecast.append(one.values.mean(0).squeeze())
            observed.append(rain.sel(time=valid).values.mean(0))
    x, y = np.stack(forecast), np.stack(observed)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    text = f"MSE {np.square(x - y).mean():.4f}"
    for threshold in (5, 10):
        hits, asked, seen = ((x >= threshold) & (y >= threshold)).sum(), (x >= threshold).sum(), (y >= threshold).sum()
        text += f"; {threshold} mm/h: CSI {hits / max(asked + seen - hits, 1):.3f}, bias {asked / max(seen, 1):.3f}"
    return text
