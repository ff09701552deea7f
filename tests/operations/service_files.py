"""A small service for tests: frames as files, and its recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from sequences import georeferenced, rain

from sa_nowcast.operations import watch
from sa_nowcast.recipe import ServiceRecipe

STEP = 5 * 60 * 10**9
# Beside the middle of the grid of `georeferenced`, whose projection is centred on 52 N, 10 E.
POINTS = [{"name": "mill", "y": 12000, "x": 9000}, {"name": "bridge", "y": 3000, "x": 16000}]


def frames(count: int = 12, **asked: Any) -> xr.Dataset:
    return georeferenced(rain(count, **asked))


def times_of(ds: xr.Dataset) -> list[int]:
    return ds["time"].values.astype("M8[ns]").astype("int64").tolist()


def drop(ds: xr.Dataset, number: int, folder: Path, name: str | None = None) -> Path:
    """Let a frame arrive: written beside, renamed, with a time of change long ago."""
    path = folder / (name or f"rain_{pd.Timestamp(ds['time'].values[number]):%Y%m%d%H%M}.nc")
    partial = folder.parent / f"{path.name}.writing"
    ds.isel(time=[number]).to_netcdf(partial)
    os.utime(partial, (1e9, 1e9 + number))
    partial.rename(path)
    return path


def incoming(tmp_path: Path, ds: xr.Dataset, numbers: Iterable[int]) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir(exist_ok=True)
    for number in numbers:
        drop(ds, number, folder)
    return folder


def service(tmp_path: Path, ds: xr.Dataset, model: Path | str, now: int | None = None, **more: Any) -> ServiceRecipe:
    """Return the recipe of a service whose clock stands at the frame `now`, the last by default."""
    import time

    origin = str(ds["time"].values[-1 if now is None else now])
    told = {
        "name": "showers",
        "arrivals": {"source": str(tmp_path / "incoming"), "pattern": "*.nc", "step": "5min", "settle": 0.2,
                     "variable": "rain", "patience": 1.0, "poll": 0.2},
        "model": str(model),
        "steps": 3,
        "max_age": "6h",
        "keep": "2d",
        "output": {"folder": str(tmp_path / "out")},
        "clock": {"origin": origin, "began": time.time(), "speed": 1.0},
    }  # fmt: skip
    for key, value in more.items():
        told[key] = {**told[key], **value} if isinstance(value, dict) and isinstance(told.get(key), dict) else value
    return ServiceRecipe.model_validate(told)


def caught_up(recipe: ServiceRecipe) -> Path:
    """Let a service deal with all that is there; return its folder."""
    return watch(recipe, until_idle=True)


def events(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if kind is None or line["event"] == kind]


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return found


def published(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "forecasts").iterdir())


def values_of(path: Path, name: str) -> np.ndarray:
    with xr.open_dataset(path, decode_timedelta=True) as ds:
        return np.asarray(ds[name].values)
