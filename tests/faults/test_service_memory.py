"""A service that works for days needs no more memory, files or threads than in its first hours."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from operations.service_files import POINTS, events, frames, service, status

from sa_nowcast.operations import checks
from sa_nowcast.operations.clock import iso
from sa_nowcast.operations.service import Service
from sa_nowcast.operations.telling import memory_bytes
from sa_nowcast.recipe import ServiceRecipe

COUNT, FIRST = 500, 100
"""Frames, and after how many of them all that is loaded once has been."""
GROWTH = 20 * 2**20


class Walking:
    """A clock that stands at the newest frame: the machine's runs slower than the radar's here."""

    def __init__(self, times: np.ndarray) -> None:
        self.times, self.number = times, 0

    def now(self) -> int:
        return int(self.times[self.number])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _used() -> tuple[int, int, int]:
    """Return bytes, open files and threads of this process."""
    return memory_bytes() or 0, len(os.listdir("/proc/self/fd")), threading.active_count()


def _recipe(tmp_path: Path, ds: xr.Dataset, model: Path) -> ServiceRecipe:
    areas = tmp_path / "catchments.geojson"
    ring = [[9.99, 51.99], [10.2, 51.99], [10.2, 52.1], [9.99, 52.1], [9.99, 51.99]]
    areas.write_text(json.dumps({
        "type": "Feature", "properties": {"name": "lower"}, "geometry": {"type": "Polygon", "coordinates": [ring]},
    }))  # fmt: skip
    return service(
        tmp_path, ds, model, now=0, points=POINTS, areas=str(areas), keep="5h", max_age="1h", steps=3,
        arrivals={"settle": 0.0}, port=_free_port(), output={"formats": ["netcdf", "geotiff", "stac"]},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(memory_bytes() is None, reason="the system does not tell the memory of a process")
def test_memory_files_and_threads_do_not_grow_over_500_frames(tmp_path: Path, saved: Path) -> None:
    """Frames come one by one, one of 50 is lost; all that can be published is."""
    ds = frames(24, height=96, width=128)
    times = ds.time.values[0] + np.arange(COUNT) * np.timedelta64(5, "m").astype("m8[ns]")
    folder = tmp_path / "incoming"
    folder.mkdir()

    def arrive(number: int) -> None:
        one = ds.isel(time=[number % 24]).assign_coords(time=times[[number]])
        one.to_netcdf(tmp_path / "writing")
        (tmp_path / "writing").rename(folder / f"{number:04d}.nc")
        # What a radar's archive does: files leave the folder when they are old.
        (folder / f"{number - 60:04d}.nc").unlink(missing_ok=True)

    arrive(0)
    checked = checks.check(_recipe(tmp_path, ds, saved))
    clock = Walking(times.astype("M8[ns]").astype(np.int64))
    object.__setattr__(checked, "clock", clock)
    running, stop = Service(checked, lambda line: None), threading.Event()
    used, began = [], time.time()

    def feed() -> None:
        """Let the next frame arrive when all is done that there is to do with those before."""
        for number in range(COUNT):
            clock.number = number
            if number % 50 != 49:
                arrive(number)
            while not stop.is_set():
                told = running.state.status
                if told.get("idle_since") and (number % 50 == 49 or told["newest_frame"] == iso(clock.now())):
                    break
                time.sleep(0.01)
            used.append(_used())
        stop.set()

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        running.run(stop, until_idle=False)
    finally:
        stop.set()
        feeding.join()
        running.close()
    told = [
        f"{n + 1}: {used[n][0] / 2**20:.0f} MiB, {used[n][1]} files, {used[n][2]} threads" for n in range(49, COUNT, 50)
    ]
    print(*told, f"{time.time() - began:.0f} s", sep="\n")
    done = status(checked.folder)["counts"]
    assert (done["frames"], done["filled"], len(events(checked.folder, "published"))) == (490, 27, 487)
    assert json.loads((checked.folder / "verification.json").read_text())["windows"]["month"]["init_times"] > 400
    first, last = (np.median([u[0] for u in used[at - 20 : at]]) for at in (FIRST, COUNT))
    assert last - first < max(0.05 * first, GROWTH)
    assert max(u[1] for u in used[-20:]) <= max(u[1] for u in used[FIRST - 20 : FIRST])
    assert max(u[2] for u in used[-20:]) <= max(u[2] for u in used[FIRST - 20 : FIRST])
