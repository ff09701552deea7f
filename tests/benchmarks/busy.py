"""A training step and a forecast on idle cores, and beside four processes that never rest.

SA-ConvLSTM of (32, 32) channels on 16 x 16 maps (64 x 64 pixels, patch 4), batches of 8 windows of 4 frames to 4. One
process a setting: as the package sets things, the same where torch was imported before it, and for comparison GNU's own
spinning, none at all, and one thread. They take turns, first idle, then beside the busy processes, so that all meet the
same machine. Printed are medians of wall clock and processor time, and their ratios; asserted, what fair sharing and
some waiting at barriers explain: two threads beside four processes on two cores get a third of them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("ROUNDS", "9"))
BUSY = int(os.environ.get("BUSY", "4"))
OURS, LATE = "as it is", "torch imported first"
SETTINGS: dict[str, dict[str, str]] = {
    OURS: {},
    LATE: {},
    "GNU's own spinning": {"GOMP_SPINCOUNT": "300000"},
    "no spinning": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
SET_BY_USERS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "KMP_BLOCKTIME")

CHILD = """
import sys, time, json
if "torch imported first" in sys.argv:
    import torch
import sa_nowcast
import torch
from sa_nowcast.computing.threads import sharing_cores
from sa_nowcast.models import build
torch.manual_seed(0)
network = build("sa-convlstm", hidden=(32, 32), kernel=3, patch=4, channels=1)
optimizer = torch.optim.Adam(network.parameters(), 1e-3)
x = torch.rand(8, 8, 1, 64, 64)
def step():
    optimizer.zero_grad()
    (network.predict_all(x, 4) - x[:, 1:]).square().mean().backward()
    optimizer.step()
def forecast():
    with torch.inference_mode():
        network(x[:1, :4], 4)
work = {"step": (step, 1), "forecast": (forecast, 8)}
for line in sys.stdin:
    run, count = work[line.strip()]
    with sharing_cores():
        run()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        with sharing_cores():
            run()
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
"""


@dataclass
class Worker:
    """A process under one setting, which runs what it is told and says how long it took."""

    process: subprocess.Popen[str]

    def __call__(self, work: str) -> tuple[float, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        wall, cpu = json.loads(self.process.stdout.readline())
        return wall, cpu


@contextmanager
def started(code: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    plain = {k: v for k, v in os.environ.items() if k not in SET_BY_USERS}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=plain | environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def measured(workers: dict[str, Worker], work: str) -> dict[str, tuple[float, float]]:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for _ in range(ROUNDS):
        for name, worker in workers.items():
            times[name].append(worker(work))
    return {
        name: (statistics.median(t[0] for t in several), statistics.median(t[1] for t in several))
        for name, several in times.items()
    }


def test_beside_four_busy_processes_work_takes_little_more_than_its_share_of_the_cores() -> None:
    with ExitStack() as stack:
        workers = {name: Worker(stack.enter_context(started(CHILD, name, **given))) for name, given in SETTINGS.items()}
        works = ("step", "forecast")
        idle = {work: measured(workers, work) for work in works}
        for _ in range(BUSY):
            stack.enter_context(started("while True: pass"))
        busy = {work: measured(workers, work) for work in works}
    ratios = {}
    for work in works:
        print(f"\n{work}: milliseconds of wall clock (of processor), idle, then beside {BUSY} busy processes")
        for name in workers:
            (wall, cpu), (wall_busy, cpu_busy) = idle[work][name], busy[work][name]
            print(
                f"  {name:20s} {1e3 * wall:7.1f} ({1e3 * cpu:7.1f})   {1e3 * wall_busy:8.1f} ({1e3 * cpu_busy:8.1f})"
                f"   busy / idle {wall_busy / wall:6.2f} ({cpu_busy / cpu:5.2f})"
            )
        fastest = min(wall for wall, _ in idle[work].values())
        (wall, cpu), (wall_busy, cpu_busy) = idle[work][OURS], busy[work][OURS]
        ratios[work] = (wall_busy / wall, cpu_busy / cpu, wall / fastest)
        print(
            "  busy / idle {:.2f} in wall clock, {:.2f} in processor time; idle {:.3f} of the fastest".format(
                *ratios[work]
            )
        )
    for in_wall, in_cpu, idle_of_fastest in ratios.values():
        assert in_wall <= 4.5
        assert in_cpu <= 1.4
        assert idle_of_fastest <= 1.05
