"""A folder as a service publishes it, made of the sample that ships with the forecasts of the default model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import sa_nowcast
from sa_nowcast.derived import at, over

STEPS, THRESHOLDS, LAST = 6, [1.0, 5.0], 11
VARIABLE = "precip_rate"
POINTS = {"Marquette": (46.54, -87.40), "Munising": (46.41, -86.65)}
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
AREAS: dict[str, Any] = {"type": "FeatureCollection", "features": [
    {"type": "Feature", "properties": {"name": name}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    for name, ring in (
        ("Bay", [[-87.4, 46.2], [-86.9, 46.15], [-86.8, 46.35], [-87.2, 46.45], [-87.4, 46.2]]),
        ("Cape", [[-86.75, 46.5], [-86.45, 46.5], [-86.5, 46.65], [-86.75, 46.6], [-86.75, 46.5]]),
    )
]}  # fmt: skip


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
    write_places(beside, ds)
    replace(beside, place)
    latest = folder / ".latest"
    latest.write_text(name)
    latest.rename(folder / "latest")


def write_places(beside: Path, ds: xr.Dataset) -> None:
    """Write series of points and areas, as a service does, and alerts: Marquette and Cape are raised at 1 mm/h."""
    times = [f"{t}Z" for t in ds["valid_time"].values.astype("M8[s]")]
    init = f"{ds['init_time'].values.astype('M8[s]')}Z"
    chance, members = ds["probability"], ds[f"{VARIABLE}_members"]
    series = []
    for name, pair in POINTS.items():
        there = {name: pair}
        drawn = np.quantile(at(members, there).values[..., 0], QUANTILES, axis=0)
        of = at(chance, there).values[..., 0]
        series.append({
            "name": name, "latitude": pair[0], "longitude": pair[1], "y": pair[0], "x": pair[1], "valid_times": times,
            "mean": at(ds[VARIABLE], there).values[:, 0].tolist(),
            "quantiles": {f"{q:g}": v.tolist() for q, v in zip(QUANTILES, drawn, strict=True)},
            "probability": {f"{t:g}": v.tolist() for t, v in zip(THRESHOLDS, of, strict=True)},
        })  # fmt: skip
    means = over(ds[VARIABLE], AREAS, name="name").values
    drawn = np.quantile(over(members, AREAS, name="name").values, QUANTILES, axis=0)
    shares = over(chance, AREAS, name="name").values
    features = [
        {**feature, "properties": {
            "name": feature["properties"]["name"], "valid_times": times, "mean": means[:, i].tolist(),
            "observed": {"times": [init], "values": [0.75]},
            "quantiles": {f"{q:g}": v[:, i].tolist() for q, v in zip(QUANTILES, drawn, strict=True)},
            "matched": None, "probability": {f"{t:g}": shares[k, :, i].tolist() for k, t in enumerate(THRESHOLDS)},
            "accumulation": {"12min": 0.25}}}
        for i, feature in enumerate(AREAS["features"])
    ]  # fmt: skip
    (beside / "points.json").write_text(json.dumps({"points": series}))
    (beside / "areas.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (beside / "alerts.geojson").write_text(json.dumps(alerts_of(init, ("Marquette", "Cape"))))


def alerts_of(init: str, raised: Sequence[str] = (), unknown: Sequence[str] = ()) -> dict[str, object]:
    """Return alerts: `raised` ones at the lower threshold, `unknown` ones at both, the others clear."""
    features = []
    for name in [*POINTS, *(f["properties"]["name"] for f in AREAS["features"])]:
        for threshold in THRESHOLDS:
            state = "unknown" if name in unknown else "raised" if name in raised and threshold == 1 else "clear"
            features.append({"type": "Feature", "geometry": None, "properties": {
                "name": name, "kind": "point" if name in POINTS else "area", "threshold": threshold,
                "units": "mm h-1", "state": state, "since": "2019-06-10T00:20:00Z", "init_time": init}})  # fmt: skip
    return {"type": "FeatureCollection", "features": features}


def write_alerts(folder: Path, content: dict[str, object]) -> None:
    """Replace the alerts of the folder."""
    beside = folder / ".alerts"
    beside.write_text(json.dumps(content))
    beside.rename(folder / "alerts.geojson")


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
        "thresholds": THRESHOLDS, "max_age_seconds": 1200.0,
        "recipe": {"model": "/somewhere/private", "alerts": {"probability": 0.5}},
    }  # fmt: skip
    (folder / "service.json").write_text(json.dumps(service))
    write_status(folder)
    name = f"{pd.Timestamp(data['time'].values[LAST]):%Y%m%dT%H%M%SZ}"
    write_forecast(folder, ds, name)
    shutil.copy(folder / "forecasts" / name / "alerts.geojson", folder)
    grown = data.to_dataset(name=VARIABLE).drop_encoding()
    grown.to_zarr(folder / "observed.zarr", encoding={VARIABLE: {"chunks": (1, *data.shape[1:])}}, zarr_format=3)
    (folder / "verification.json").write_text("{}")
    (folder / "state").mkdir()
    (folder / "state" / "journal.json").write_text('{"secret": true}')
    return folder


if __name__ == "__main__":
    import sys

    publish(Path(sys.argv[1]))
