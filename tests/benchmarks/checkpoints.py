"""What giving the heap's holes back between checkpoints costs and saves on the CPU, in one run, interleaved.

Run with ``pytest -m benchmark -s tests/benchmarks/checkpoints.py``; about ten minutes on one idle core, ``ROUNDS=3``
takes fewer. Three ways to train: without checkpoints, with them and the holes kept, with them and the holes given back.
Times are medians over rounds of the ratio within a round, peaks are those of processes of their own.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sa_nowcast import models
from sa_nowcast.models import rollout

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("ROUNDS", "7"))
WAYS = ("no checkpoints", "kept", "given back")
# Fields of the network; grid, batch, history and steps.
CASES: dict[str, tuple[dict[str, Any], tuple[tuple[int, int], int, int, int]]] = {
    "sa-convlstm-base, 64 and 128, every step": (
        {"name": "sa-convlstm-base", "channels": 3, "hidden": (64, 128), "kernel": 3, "patch": 1,
         "score_scale": "sqrt", "key_stride": 2, "checkpoint_steps": 1},
        ((33, 29), 6, 7, 6),
    ),
    "faithful, every step": ({"channels": 1, "checkpoint_steps": 1}, ((64, 64), 4, 10, 10)),
    "faithful, every 4 steps": ({"channels": 1, "checkpoint_steps": 4}, ((64, 64), 4, 10, 10)),
    "convlstm-memory, 4 layers, every step": (
        {"name": "convlstm-memory", "channels": 1, "kernel": 3, "patch": 2, "checkpoint_steps": 1},
        ((24, 46), 6, 4, 7),
    ),
    "small, every 4 steps": (
        {"channels": 1, "hidden": (32, 32), "kernel": 3, "score_scale": "sqrt", "checkpoint_steps": 4},
        ((64, 64), 8, 10, 10),
    ),
}  # fmt: skip


def network(case: str, way: str) -> Any:
    fields = CASES[case][0]
    return models.build(models.preset("faithful", **(fields | ({"checkpoint_steps": 0} if way == WAYS[0] else {}))))


def update(case: str, way: str, net: Any) -> float:
    """Return the seconds of one forward and backward pass."""
    (rows, columns), batch, history, steps = CASES[case][1]
    x = torch.rand(batch, history + steps, CASES[case][0]["channels"], rows, columns)
    given = rollout.heap.trim
    if way != "given back":
        rollout.heap.trim = lambda: None
    try:
        began = time.perf_counter()
        net.zero_grad()
        net.predict_all(x, history=history).square().mean().backward()
        return time.perf_counter() - began
    finally:
        rollout.heap.trim = given


def peak(case: str, way: str) -> float:
    """Return the MiB that two updates hold at most, in a process of their own."""
    done = subprocess.run([sys.executable, __file__, case, way], capture_output=True, text=True, check=True)
    return float(done.stdout) / 2**20


@pytest.mark.parametrize("case", CASES)
def test_what_giving_back_costs_and_saves(case: str) -> None:
    torch.set_num_threads(1)
    nets = {way: network(case, way) for way in WAYS}
    rounds = [{way: update(case, way, net) for way, net in nets.items()} for _ in range(ROUNDS + 1)][1:]

    def ratio(way: str, to: str) -> float:
        return statistics.median(times[way] / times[to] for times in rounds)

    held = {way: peak(case, way) for way in WAYS}
    print(
        f"\n{case}: time given back / kept {ratio(WAYS[2], WAYS[1]):.2f}, kept / none {ratio(WAYS[1], WAYS[0]):.2f}, "
        f"given back / none {ratio(WAYS[2], WAYS[0]):.2f}; memory {held[WAYS[0]]:.0f}, {held[WAYS[1]]:.0f}, "
        f"{held[WAYS[2]]:.0f} MiB: given back / kept {held[WAYS[2]] / held[WAYS[1]]:.2f}"
    )
    assert held["given back"] < held["kept"] < held["no checkpoints"]


def main(case: str, way: str) -> None:
    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

    torch.set_num_threads(1)
    models.build(models.preset("small")).predict_all(torch.rand(1, 4, 1, 16, 16), history=2).sum().backward()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, net = status("VmRSS"), network(case, way)
    for _ in range(2):
        update(case, way, net)
    print(status("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
