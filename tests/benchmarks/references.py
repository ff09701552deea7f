"""Streaming a NetCDF file by references to its chunks, beside the file, an Icechunk repository and a Zarr store.

The data are showers of 256 x 256 pixels as int16, a frame a chunk; NetCDF by zlib and shuffle, as it usually is.
Windows are 10 frames to 10, each frame in one of them, so that reading counts most. Figures are ratios of medians of
processor time of interleaved epochs in one process, so that all meet the same machine.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import sa_nowcast
from sa_nowcast.stream import SequenceDataset, loader

sys.path.insert(0, str(Path(__file__).parents[1]))
from sequences import rain
from virtual import by_kerchunk, committed

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
FRAMES, SIZE, BATCH, EPOCHS = 240, 256, 8, 3
REPETITIONS = int(os.environ.get("REPETITIONS", "5"))


@pytest.mark.parametrize("shuffle", [False, True])
def test_references_cost_less_than_three_times_their_file(tmp_path: Path, shuffle: bool) -> None:
    torch.set_num_threads(1)
    packing: dict[str, Any] = {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1}
    chunks = (1, SIZE, SIZE)
    data = rain(FRAMES, SIZE, SIZE)
    data.to_netcdf(tmp_path / "rain.nc", encoding={"rain": {**packing, "zlib": True, "chunksizes": chunks}})
    committed(tmp_path / "rain", data, "all", encoding={"rain": {**packing, "chunks": chunks}})
    sa_nowcast.convert(tmp_path / "rain.nc", tmp_path / "rain.zarr")
    places = {
        "NetCDF": tmp_path / "rain.nc",
        "references": by_kerchunk(tmp_path / "rain.nc"),
        "Icechunk": tmp_path / "rain",
        "Zarr": tmp_path / "rain.zarr",
    }
    how: dict[str, Any] = {"in_memory": False, "cache_bytes": 2**23, "shuffle": shuffle, "seed": 1}
    # So little that nothing is kept from one epoch to the next.
    datasets = {name: SequenceDataset(place, 10, 10, stride=20, **how) for name, place in places.items()}
    assert not any(dataset.layout.whole for dataset in datasets.values())
    seconds: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(REPETITIONS):
        for name, dataset in datasets.items():
            began = time.process_time()
            windows = sum(len(batch) for _ in range(EPOCHS) for batch in loader(dataset, BATCH))
            seconds[name].append((time.process_time() - began) / EPOCHS)
            assert windows == EPOCHS * FRAMES // 20
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    for name, median in medians.items():
        print(f"{'shuffled' if shuffle else 'in order'}, {name}: {median:.3f} s, {medians['NetCDF'] / median:.2f}")
    assert medians["references"] < 3 * medians["NetCDF"]
