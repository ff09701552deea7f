"""Streaming from a Zarr store larger than memory: windows a second, and peak memory.

One store of 6 GB is written into a temporary folder: 256 x 256 pixels, int16 packed with scale and fill value, a frame
a chunk, 240 frames a shard, Zstandard with checksum; noise that compresses to about five sixths. Its files are in the
page cache, so that the processor's work is compared and not the disk's day. All figures are ratios of medians of
interleaved repetitions in one process with one thread, unless workers are named.

The floor: every shard is read once, in order, with zarr alone (``array[shard]``), and its packed values are thrown
away. A stream with windows whose stride is their length uses every frame once, and besides unpacks to float32, shuffles
and batches; floor time over its time is the share of the floor's pace that it reaches.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from sa_nowcast.stream import SequenceDataset, loader

sys.path.insert(0, str(Path(__file__).parents[1]))
import noise_store

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

HISTORY, STEPS, BATCH = 10, 10, 8
LENGTH = HISTORY + STEPS
SIZE, SHARD, SHARDS = 256, 240, 230
DISTINCT = 8  # shards that are made; the others are copies of their files
USED = 20 * SHARD  # frames of the timed runs
XBATCHER = 3 * SHARD
REPETITIONS = 7

PEAK = """
import json, re, sys
from sa_nowcast.stream import SequenceDataset, loader
if __name__ == "__main__":
    path, workers, stride, batches = sys.argv[1], *map(int, sys.argv[2:])
    dataset = SequenceDataset(path, 10, 10, stride=stride)
    windows = sum(len(b) for b in loader(dataset, 8, workers=workers, batches=batches or -(-len(dataset) // 8)))
    # not ru_maxrss, which a child inherits from its parent
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
    print(json.dumps({"windows": windows, "peak_mb": peak}))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("streaming")
    if shutil.disk_usage(folder).free < 20e9:
        pytest.skip("less than 20 GB of free disk: free some, or set TMPDIR to a larger one")
    path = folder / "radar.zarr"
    noise_store.write(path, size=SIZE, shard=SHARD, shards=SHARDS, distinct=DISTINCT, consolidated=False)
    for shard in range(DISTINCT, SHARDS):
        target = path / "rain" / "c" / str(shard) / "0" / "0"
        target.parent.mkdir(parents=True)
        shutil.copyfile(path / "rain" / "c" / str(shard % DISTINCT) / "0" / "0", target)
    yield path
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _medians(repetitions: int, **runs: Callable[[], object]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(t) for name, t in times.items()}


def _opened(path: Path, frames: int) -> xr.Dataset:
    return xr.open_zarr(path, chunks=None, consolidated=False).isel(time=slice(0, frames))


def _drain(batches: object) -> int:
    return sum(len(b) for b in batches)  # type: ignore[attr-defined]


def test_a_stream_reaches_the_pace_of_reading_the_raw_chunks_once_in_order(store: Path) -> None:
    array = zarr.open_array(store, path="rain", mode="r")

    def floor() -> None:
        for begin in range(0, USED, SHARD):
            array[begin : begin + SHARD]

    def stream() -> None:
        dataset = SequenceDataset(_opened(store, USED), HISTORY, STEPS, stride=LENGTH, in_memory=False)
        assert _drain(loader(dataset, BATCH)) == USED // LENGTH

    floor()
    times = _medians(REPETITIONS, floor=floor, stream=stream)
    ratio = times["floor"] / times["stream"]
    megabytes = USED * SIZE * SIZE * 2 / 1e6
    print(
        f"\nfloor {megabytes / times['floor']:.0f} MB/s, {USED / LENGTH / times['floor']:.1f} windows/s;"
        f" stream {USED / LENGTH / times['stream']:.1f} windows/s: {ratio:.2f} of the floor's pace"
    )
    assert ratio >= 0.8


def test_windows_a_second_against_xbatcher(store: Path) -> None:
    xbatcher = pytest.importorskip("xbatcher", reason="measures against xbatcher: pip install xbatcher")
    from xbatcher.loaders.torch import MapDataset

    rng = np.random.default_rng(0)

    def through_xbatcher(stride: int, count: int) -> Callable[[], None]:
        generator = xbatcher.BatchGenerator(
            _opened(store, XBATCHER)["rain"],
            {"time": LENGTH, "y": SIZE, "x": SIZE},
            input_overlap={"time": LENGTH - stride} if stride < LENGTH else {},
            preload_batch=False,
        )
        order = rng.permutation(len(generator))[:count].tolist()
        windows = MapDataset(generator)
        batches = torch.utils.data.DataLoader(windows, batch_size=BATCH, sampler=order)
        return lambda: sum(len(b) for b in batches)  # type: ignore[return-value]

    def ours(stride: int, count: int) -> Callable[[], None]:
        dataset = SequenceDataset(_opened(store, USED), HISTORY, STEPS, stride=stride, in_memory=False)
        return lambda: _drain(loader(dataset, BATCH, batches=count // BATCH))  # type: ignore[return-value]

    counts = {"xbatcher overlapping": 16, "overlapping": USED // 4, "xbatcher apart": 16, "apart": USED // LENGTH}
    times = _medians(
        3,
        **{
            "xbatcher overlapping": through_xbatcher(1, 16),
            "overlapping": ours(1, counts["overlapping"]),
            "xbatcher apart": through_xbatcher(LENGTH, 16),
            "apart": ours(LENGTH, counts["apart"]),
        },
    )
    rate = {name: counts[name] / t for name, t in times.items()}
    for kind in ("overlapping", "apart"):
        print(
            f"\nwindows {kind}: xbatcher {rate['xbatcher ' + kind]:.1f}/s, stream {rate[kind]:.1f}/s,"
            f" {rate[kind] / rate['xbatcher ' + kind]:.1f} times"
        )
    assert rate["overlapping"] / rate["xbatcher overlapping"] >= 5


@pytest.mark.parametrize(("workers", "stride", "batches"), [(0, LENGTH, 0), (0, 1, 300), (2, LENGTH, 0)])
def test_peak_memory_while_streaming_six_gigabytes(store: Path, workers: int, stride: int, batches: int) -> None:
    stored = sum(f.stat().st_size for f in (store / "rain").rglob("*") if f.is_file())
    assert stored > 5e9
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(store), str(workers), str(stride), str(batches)]
        if not workers
        else [sys.executable, str(_script(store)), str(store), str(workers), str(stride), str(batches)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"\n{stored / 1e9:.2f} GB stored ({SHARDS * SHARD * SIZE * SIZE * 2 / 1e9:.2f} GB as int16), {workers} workers,"
        f" stride {stride}: {found['windows']} windows, peak {found['peak_mb']:.0f} MB in the reading process"
    )
    assert found["peak_mb"] < 600


def _script(store: Path) -> Path:
    """Workers import the main module again, so that it has to be a file."""
    path = store.parent / "peak.py"
    path.write_text(PEAK)
    return path
