"""Readers see one forecast or the next, never a part of each, while forecasts are replaced and come and go."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from published import VARIABLE, replace, write_forecast, write_status

NAME = "20190610T002200Z"
AFTER = "20190610T002400Z"
POSITION = f"/edr/collections/forecast/instances/{NAME}/position?coords=POINT(-87.2%2046.5)"


def _constant(stored: xr.Dataset, value: float) -> xr.Dataset:
    """The forecast with one number everywhere: in members, probabilities and sums too."""
    return stored.map(lambda v: xr.full_like(v, value) if v.dtype.kind == "f" else v, keep_attrs=True)


def _read(ask, known: dict[str, float], failures: list[str], until: float, worst: list[float]) -> None:
    while time.monotonic() < until and not failures:
        for path in ("/", "/status", "/observed", f"/files/forecasts/{NAME}/forecast.nc", POSITION, "/forecasts/latest",
                     f"/forecasts/{NAME}/map/precip_rate/240.png", "/edr/collections"):  # fmt: skip
            begun = time.monotonic()
            answer = ask(path)
            worst[0] = max(worst[0], time.monotonic() - begun)
            if answer.status != 200:
                failures.append(f"{path}: {answer.status} {answer.body[:200]!r}")
            elif path.endswith(".nc") and hashlib.sha256(answer.body).hexdigest() not in known:
                failures.append(f"{len(answer.body)} bytes of no file")
            elif path == POSITION:
                ranges = [r["values"] for c in answer.json["coverages"] for r in c["ranges"].values()]
                values = {v for r in ranges for v in r}
                if len(values) != 1 or not values <= set(known.values()):
                    failures.append(f"values of several forecasts: {sorted(values)}")


def _trial(folder: Path, serve, stored: xr.Dataset, readers: int, seconds: float) -> tuple[int, float]:
    """Return how often the forecast was replaced, and the longest that an answer took."""
    known: dict[str, float] = {}
    ready = []
    for value in (1.0, 2.0, 4.0):
        write_forecast(folder, _constant(stored, value), NAME)
        made = folder / "forecasts" / f".made{value:g}"
        (folder / "forecasts" / NAME).rename(made)
        known[hashlib.sha256((made / "forecast.nc").read_bytes()).hexdigest()] = value
        ready.append(made)
    failures: list[str] = []
    worst, replaced = [0.0], 0
    _put(folder, ready[0], NAME)
    with serve(folder, seconds=300) as ask:  # a test may wait for cores that others have
        ask("/edr/collections")  # the first answer loads libraries
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=_read, args=(ask, known, failures, until, worst)) for _ in range(readers)]
        for thread in threads:
            thread.start()
        while time.monotonic() < until:
            replaced += 1
            _put(folder, ready[replaced % 3], NAME)
            if replaced % 5 == 0:  # another comes, becomes the latest, and is removed
                _put(folder, ready[0], AFTER)
                (folder / "latest").write_text(AFTER)
                time.sleep(0.02)
                (folder / "latest").write_text(NAME)
                (folder / "forecasts" / AFTER).rename(folder / "forecasts" / ".gone")
                replace(folder / "forecasts" / ".gone", folder / "forecasts" / ".away")
            write_status(folder)
            time.sleep(0.05)
        for thread in threads:
            thread.join()
    assert failures == []
    return replaced, worst[0]


def _put(folder: Path, made: Path, name: str) -> None:
    import shutil

    beside = folder / "forecasts" / f".{name}.partial"
    shutil.copytree(made, beside)
    replace(beside, folder / "forecasts" / name)


def test_readers_see_whole_forecasts_while_they_are_replaced(copy: Path, serve, stored: xr.Dataset) -> None:
    replaced, _ = _trial(copy, serve, stored, readers=4, seconds=1.0)
    assert replaced >= 3


@pytest.mark.slow
def test_fifty_readers_see_whole_forecasts_while_they_are_replaced(copy: Path, serve, stored: xr.Dataset) -> None:
    replaced, worst = _trial(copy, serve, stored, readers=50, seconds=20.0)
    print(f"replaced {replaced} times, the longest answer took {worst:.2f} s")
    assert replaced >= 30
    assert np.isfinite(worst)
    assert VARIABLE in stored
