"""Verification of an archive four times as large as the memory it is allowed: peak memory.

An archive of 2 GB (float32 in memory: init times x 6 lead times x 256 x 256) and its truth are written to Zarr; a
process of its own scores them with MSE, CSI, FSS and a skill interval against persistence. Its peak (VmHWM, so with
Python and all libraries) has to stay below a quarter of the archive. Run with
``pytest -m benchmark -s tests/benchmarks/verification.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1200)]

SIZE, LEADS, INITS = 256, 6, 1360
ALLOWED = SIZE * SIZE * LEADS * INITS * 4 // 4

PEAK = """
import json, re, sys, time
import xarray as xr, sa_nowcast
began = time.perf_counter()
archive = xr.open_zarr(sys.argv[1], decode_timedelta=True)["rain"]
truth = xr.open_zarr(sys.argv[2])["rain"]
scores = archive.sa_nowcast.verify(truth, metrics=["mse", "csi", "fss"], thresholds=[1.0], reference="persistence")
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({"peak": peak, "mse": scores["mse"].values.tolist(), "seconds": time.perf_counter() - began}))
"""


def _field(frames: int, seed: int) -> da.Array:
    def block(block_info: dict[int | None, dict[str, list[tuple[int, int]]]]) -> np.ndarray:
        first, last = block_info[None]["array-location"][0]
        # Noise that repeats, so that the store is small; every frame differs from its neighbours.
        noise = np.random.default_rng(seed).random((SIZE, SIZE), dtype=np.float32)
        return np.stack([np.roll(noise, frame, axis=1) for frame in range(first, last)])

    return da.map_blocks(block, chunks=((8,) * (frames // 8), (SIZE,), (SIZE,)), dtype=np.float32)


def test_an_archive_four_times_the_allowed_memory_is_scored_within_it(tmp_path: Path) -> None:
    attrs = {"units": "mm h-1", "standard_name": "rainfall_rate"}
    step = np.timedelta64(5, "m").astype("timedelta64[ns]")
    frames = INITS + 8
    times = pd.date_range("2020-06-01", periods=frames, freq="5min")
    field = _field(frames, 0)
    truth = xr.DataArray(field, dims=("time", "y", "x"), coords={"time": times}, name="rain", attrs=attrs)
    truth.to_dataset().to_zarr(tmp_path / "truth.zarr")
    late = np.arange(1, LEADS + 1)
    archive = xr.DataArray(
        # The forecast of lead time k is the field k frames after the init time, plus k tenths: the score is known.
        da.stack([field[k : k + INITS] + np.float32(0.1 * k) for k in late], axis=1).rechunk((1, LEADS, -1, -1)),
        dims=("init_time", "lead_time", "y", "x"),
        coords={"init_time": times[:INITS], "lead_time": late * step},
        name="rain",
        attrs=attrs,
    )
    archive.to_dataset().to_zarr(tmp_path / "archive.zarr")
    arguments = [sys.executable, "-c", PEAK, str(tmp_path / "archive.zarr"), str(tmp_path / "truth.zarr")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(
        f"\narchive {archive.nbytes / 2**20:.0f} MiB, allowed {ALLOWED / 2**20:.0f} MiB, "
        f"peak {found['peak'] / 2**20:.0f} MiB, {found['seconds']:.0f} s"
    )
    np.testing.assert_allclose(found["mse"], (0.1 * late) ** 2, rtol=1e-4)
    assert found["peak"] <= ALLOWED
