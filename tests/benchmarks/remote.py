"""Streaming from an object store: pace, requests and peak memory, each request delayed by 20 ms.

moto's S3 server runs in a process of its own on this machine and answers for a store of 4.7 GB: 256 x 256 pixels, int16
packed with scale and fill value, a frame a chunk, 60 frames a shard (an object of 6.5 MB), 600 shards, of which eight
are distinct. Windows are 10 frames to 10 with a stride of 20, so that every frame is used once.

The floor: obstore gets the same number of objects one after another and throws them away; and, for comparison, with as
many requests at once as the stream has. Floor time over stream time is the share of the floor's pace. Figures are
ratios of medians of interleaved repetitions, so that all meet the same machine; server and reader share its processors.
Beside other work, where the floor takes more than 1.5 times its delays and processor time, processor time is compared.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from sa_nowcast.stream import SequenceDataset, loader
from sa_nowcast.stream.ahead import THREADS

sys.path.insert(0, str(Path(__file__).parents[1]))
import noise_store
from object_server import ObjectServer

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

HISTORY, STEPS, BATCH = 10, 10, 8
LENGTH = HISTORY + STEPS
SIZE, SHARD, SHARDS, DISTINCT = 256, 60, 600, 8
USED = 64  # objects of the timed runs
DELAY = 0.02
REPETITIONS = int(os.environ.get("REPETITIONS", "5"))
KEY = "rain.zarr/rain/c/{}/0/0"

PEAK = """
import json, re, sys
from sa_nowcast.stream import SequenceDataset, loader
dataset = SequenceDataset(sys.argv[1], 10, 10, stride=20, shuffle=sys.argv[2] == "shuffled")
windows = sum(len(b) for b in loader(dataset, 8))
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"windows": windows, "peak_mb": peak}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    path = tmp_path_factory.mktemp("remote") / "rain.zarr"
    noise_store.write(path, size=SIZE, shard=SHARD, shards=SHARDS, distinct=DISTINCT, consolidated=True)
    found = ObjectServer()
    found.put(path, "data", "rain.zarr")
    os.environ.update(found.environment)
    yield found
    found.kill()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Cost(NamedTuple):
    """Seconds of a run: by the clock, of this process's processor time, and of the server's."""

    wall: float
    reader: float
    server: float


def _medians(server: ObjectServer, repetitions: int, **runs: Callable[[], object]) -> dict[str, Cost]:
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            before = Cost(time.perf_counter(), time.process_time(), _processor_time(server.process.pid))
            run()
            after = Cost(time.perf_counter(), time.process_time(), _processor_time(server.process.pid))
            costs[name].append(Cost(*(b - a for a, b in zip(before, after, strict=True))))
    return {name: Cost(*map(statistics.median, zip(*found, strict=True))) for name, found in costs.items()}


def _processor_time(process: int) -> float:
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_a_stream_reaches_the_pace_of_getting_the_objects_in_order(server: ObjectServer) -> None:
    from obstore.store import S3Store

    server.set(delay=DELAY, distinct=DISTINCT)
    bucket = S3Store("data", client_options={"allow_http": True})

    def get(number: int) -> int:
        return len(memoryview(bucket.get(KEY.format(number)).bytes()))

    def in_order() -> None:
        assert all(get(number) for number in range(USED))

    def at_once() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            assert all(pool.map(get, range(USED)))

    def stream(shuffle: bool) -> Callable[[], None]:
        dataset = SequenceDataset("s3://data/rain.zarr", HISTORY, STEPS, stride=LENGTH, shuffle=shuffle)
        windows = USED * SHARD // LENGTH
        batches = loader(dataset, BATCH, batches=windows // BATCH)
        return lambda: [len(b) for b in batches].count(BATCH)  # type: ignore[return-value]

    runs = {"in order": in_order, "at once": at_once, "shuffled": stream(True), "unshuffled": stream(False)}
    get(0)
    costs = _medians(server, REPETITIONS, **runs)
    floor, megabytes = costs["in order"], USED * get(0) / 1e6
    alone = USED * DELAY + floor.reader + floor.server
    print(f"\nin order, had it the processors for itself: {alone:.2f} s")
    for name, cost in costs.items():
        ratios = ", ".join(f"{costs[other].wall / cost.wall:.2f} of {other}" for other in ("in order", "at once"))
        processor = f"processor {cost.reader:.2f} s, of the server {cost.server:.2f} s"
        print(f"{name}: {cost.wall:.2f} s, {megabytes / cost.wall:.0f} MB/s as stored; {ratios}; {processor}")
    for name in ("shuffled", "unshuffled"):
        # The floor sleeps most of its time, and the stream decodes: beside processes that never rest, the clock says
        # how many those are. Then the processor time says whether one processor would keep the pace.
        busy = floor.wall > 1.5 * alone
        ratio = alone / (costs[name].reader + costs[name].server) if busy else floor.wall / costs[name].wall
        assert ratio >= 0.8, f"{name}: {ratio:.2f}, {'by processor time' if busy else 'by the clock'}"


@pytest.mark.parametrize(("order", "most"), [("shuffled", 1.125), ("unshuffled", 1.0)])
def test_an_epoch_asks_for_each_object_once_in_bounded_memory(server: ObjectServer, order: str, most: float) -> None:
    server.set(delay=DELAY, distinct=DISTINCT)
    command = [sys.executable, "-c", PEAK, "s3://data/rain.zarr", order]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    reads = {key: n for key, n in server.reads().items() if "/rain/c/" in key}
    print(
        f"\n{order}: {found['windows']} windows of {SHARDS * SHARD * SIZE * SIZE * 2 / 1e9:.2f} GB as int16, peak "
        f"{found['peak_mb']:.0f} MB; {len(reads)} objects, {sum(reads.values()) / SHARDS:.3f} requests each"
    )
    assert len(reads) == SHARDS
    assert sum(reads.values()) <= most * SHARDS + 4  # when it is opened, its last frame is read in two ways
    assert found["peak_mb"] < 600
