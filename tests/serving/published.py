"""A folder as a service publishes it, made of the sample that ships with the forecasts of the default model."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import sa_nowcast

STEPS, THRESHOLDS, LAST = 6, [1.0, 5.0], 11
VARIABLE = "precip_rate"
POINTS = {"Marquette": (46.54, -87.40), "Munising": (46.41, -86.65)}


def frames(count: int = 14) -> xr.DataArray:
    return sa_nowcast.open_sample("mrms")[VARIABLE].isel(
        time=slice(0, count), latitude=slice(320, 416), longitude=slice(128, 256)
    ).astype("float32")  # fmt: skip


def forecast_of(data: xr.DataArray) -> xr.Dataset:
    """The file of a forecast: the mean, the matched forecast, members, probabilities, sums, begin and end of rain."""
    asked = {"steps": STEPS}
    mean = data.sa_nowcast.forecast(**asked)
    ds = mean.sa_nowcast.to_cf()
    members = data.sa_nowcast.forecast(**asked, members=5, seed=0)
    others = {
        f"{VARIABLE}_matched": data.sa_nowcast.forecast(**asked, product="matched"),
        f"{VARIABLE}_members": members,
        "probability": data.sa_nowcast.exceedance(THRESHOLDS, **asked),
    }
    for name, one in others.items():
        ds = ds.assign({name: (one.dims, one.values, {k: one.attrs[k] for k in ("units", "long_name")})})
    ds = ds.assign_coords(threshold=("threshold", THRESHOLDS, {"units": "mm h-1"}))
    total = mean.sa_nowcast.accumulate("12min")[0]
    ds["accumulation_12min"] = (total.dims, total.values, {"units": "mm", "long_name": total.attrs["long_name"]})
    wet = mean > 0.1
    minutes = (mean["lead_time"] / np.timedelta64(1, "m")).astype("float32")
    attrs = {"units": "min", "long_name": "time to the first rain"}
    ds["onset"] = minutes.where(wet).min("lead_time").drop_vars(["init_time"]).assign_attrs(attrs)
    ds.attrs["as_of"] = "2019-06-10T00:23:30Z"
    return ds


def write_forecast(folder: Path, ds: xr.Dataset, name: str) -> None:
    """Put a forecast under its name, whole: where one stands there already, it is moved out of the way."""
    place, beside = folder / "forecasts" / name, folder / "forecasts" / f".{name}.partial"
    beside.mkdir(parents=True)
    ds.to_netcdf(beside / "forecast.nc", encoding={n: {"zlib": True, "complevel": 1} for n in ds.data_vars})
    series = [{"name": n, "latitude": lat, "longitude": lon} for n, (lat, lon) in POINTS.items()]
    (beside / "points.json").write_text(json.dumps({"points": series}))
    replace(beside, place)
    latest = folder / ".latest"
    latest.write_text(name)
    latest.rename(folder / "latest")


def replace(beside: Path, place: Path) -> None:
    away = place.with_name(f".{place.name}.old")
    if place.exists():
        place.rename(away)
    beside.rename(place)
    shutil.rmtree(away, ignore_errors=True)


def write_status(folder: Path, **changed: object) -> None:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    status = {
        "state": "ok", "since": now, "reasons": [], "newest_frame": "2019-06-10T00:26:00Z",
        "newest_init_time": "2019-06-10T00:22:00Z", "heartbeat": now, "pid": 1, "memory_bytes": 512 * 2**20,
        "frame_age_seconds": 40.0, "forecast_age_seconds": 95.0,
        "durations": {"read": 0.1, "forecast": 2.5, "publish": 0.4, "total": 3.0},
        "counts": {"frames": 12, "duplicate": 1, "late": 0, "refused": {"truncated": 2}, "forecasts": 1, "skipped": 0},
    }  # fmt: skip
    beside = folder / ".status.json"
    beside.write_text(json.dumps(status | changed))
    beside.rename(folder / "status.json")


def publish(folder: Path, data: xr.DataArray | None = None) -> Path:
    """Make the folder of a service with one forecast and the frames before and after it."""
    data = frames() if data is None else data
    folder.mkdir(parents=True)
    ds = forecast_of(data[: LAST + 1])
    service = {
        "name": "Lake Superior", "id": "0", "variable": VARIABLE, "units": "mm h-1",
        "long_name": data.attrs["long_name"], "step": 120, "lead_times": [120 * (i + 1) for i in range(STEPS)],
        "thresholds": THRESHOLDS, "recipe": {"model": "/somewhere/private"},
    }  # fmt: skip
    (folder / "service.json").write_text(json.dumps(service))
    write_status(folder)
    name = f"{pd.Timestamp(data['time'].values[LAST]):%Y%m%dT%H%M%SZ}"
    write_forecast(folder, ds, name)
    grown = data.to_dataset(name=VARIABLE).drop_encoding()
    grown.to_zarr(folder / "observed.zarr", encoding={VARIABLE: {"chunks": (1, *data.shape[1:])}}, zarr_format=3)
    (folder / "verification.json").write_text("{}")
    (folder / "state").mkdir()
    (folder / "state" / "journal.json").write_text('{"secret": true}')
    return folder


if __name__ == "__main__":
    import sys

    publish(Path(sys.argv[1]))
