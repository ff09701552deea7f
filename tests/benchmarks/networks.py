"""Time and memory of every network on the CPU, in one run with interleaved repetitions.

Run with ``pytest -m benchmark -s tests/benchmarks/networks.py``; about two hours on two idle cores. ``MAPS=16`` (or
a list such as ``16,64``) and ``ROUNDS=5`` choose less or more. Two threads, float32, hidden 64 × 4 layers, kernel 5,
patch 4: maps of 16×16 are MovingMNIST's frames of 64×64. A ratio is the median over rounds of the ratio within a round,
so that what else the machine does weighs on both sides; what other processes took is printed. Where they keep the cores
busy, threads wait for each other and wall-clock times mean little: ``THREADS=1`` then takes the time on the core.

Compared are every network, SA-ConvLSTM with its attention written out as N × N, and the floors: the convolutions and
projections of ConvLSTM and of SA-ConvLSTM alone, forward and backward on fixed tensors in the shapes in which the
networks run them, with no attention, norm, gate, recurrence or optimiser.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest
import torch
import torch.nn.functional as F

from sa_nowcast import models
from sa_nowcast.models import attention

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(7200)]

HIDDEN, KERNEL, LAYERS, PATCH = 64, 5, 4, 4
THREADS = int(os.environ.get("THREADS", "2"))
CLOCK = time.process_time if THREADS == 1 else time.perf_counter


@dataclass(frozen=True)
class Task:
    size: int
    batch: int
    history: int
    steps: int


# Fewer and shorter samples on larger maps keep the written-out attention within 16 GiB.
TASKS = {16: Task(16, 8, 10, 10), 32: Task(32, 2, 6, 6), 64: Task(64, 1, 3, 3)}
WRITTEN_OUT = "sa-convlstm, written out"
CASES = (*models.NAMES, WRITTEN_OUT)
TARGETS = [
    ("training", 16, "sa-convlstm", "convlstm", 1.30),
    ("training", 16, "sa-convlstm", "floor of sa-convlstm", 1.25),
    ("training", 16, "convlstm", "floor of convlstm", 1.10),
    ("training", 64, "sa-convlstm", WRITTEN_OUT, 0.45),
    ("peak memory, training", 64, "sa-convlstm", WRITTEN_OUT, 0.35),
]


@contextlib.contextmanager
def attention_written_out(on: bool) -> Iterator[None]:
    """Replace the fused attention by softmax(Q Kᵀ) K; all else stays."""
    fused = attention.attend
    if on:
        attention.attend = lambda q, k: (q @ k.mT).softmax(-1) @ k
    try:
        yield
    finally:
        attention.attend = fused


def config_of(name: str, task: Task) -> models.NetworkConfig:
    config = models.preset(name=name, channels=1, hidden=(HIDDEN,) * LAYERS, kernel=KERNEL, patch=PATCH)
    return config.completed(task.history, (PATCH * task.size, PATCH * task.size))


def prepare(case: str, task: Task) -> tuple[Callable[[], float], Callable[[], float]]:
    """A training step and a forecast of one case; each returns a number that has to be the same for equal networks."""
    torch.manual_seed(0)
    name = case.partition(",")[0]
    net = models.build(config_of(name, task))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    x = torch.rand(task.batch, task.history + task.steps, 1, PATCH * task.size, PATCH * task.size)

    def train() -> float:
        with attention_written_out(case == WRITTEN_OUT):
            optimizer.zero_grad()
            predictions, penalty = net.predictions_and_penalty(x, history=task.history)
            loss = (predictions - x[:, 1:]).square().mean()
            (loss if penalty is None else loss + penalty).backward()
            optimizer.step()
            return loss.item()

    def forecast() -> float:
        with attention_written_out(case == WRITTEN_OUT), torch.no_grad():
            return net(x[:, : task.history], steps=task.steps).mean().item()

    return train, forecast


def floor(task: Task, memory: bool) -> tuple[Callable[[], float], Callable[[], float]]:
    """The convolutions of a training step and of a forecast, each alone on fixed tensors."""
    jobs: list[tuple[int, Callable[[], object], Callable[[], object]]] = []

    def add(
        count: int, frames: int, inputs: int, outputs: int, kernel: int, groups: int = 1, leaf: bool = False
    ) -> None:
        shape = (frames * task.batch, inputs, task.size, task.size)
        last = {"memory_format": torch.channels_last}
        x = torch.randn(shape).contiguous(**last).requires_grad_(not leaf)
        weight = torch.randn(outputs, inputs // groups, kernel, kernel).contiguous(**last).requires_grad_()
        grad = torch.randn(shape[0], outputs, task.size, task.size).contiguous(**last)
        wanted = [weight] if leaf else [x, weight]

        def run() -> torch.Tensor:
            return F.conv2d(x, weight, padding=kernel // 2, groups=groups)

        def no_grad() -> torch.Tensor:
            with torch.no_grad():
                return run()

        jobs.append((count, lambda: torch.autograd.grad(run(), wanted, grad), no_grad))

    later, C = task.steps - 1, HIDDEN
    for layer in range(LAYERS):
        inputs = C if layer else PATCH**2
        add(1, task.history, inputs, 4 * C, KERNEL, leaf=layer == 0)
        add(later, 1, inputs, 4 * C, KERNEL)
        add(task.history + later - 1, 1, C, 4 * C, KERNEL)
        if memory:
            for i, o, k, g in ((C, 2 * C, 1, 1), (2 * C, C, 1, 1), (2 * C, 2 * C, 3, 2 * C), (2 * C, 3 * C, 1, 1)):
                add(task.history + later, 1, i, o, k, g)
    add(1, task.history, C, PATCH**2, 1)
    add(later, 1, C, PATCH**2, 1)

    def run(which: int) -> float:
        for job in jobs:
            for _ in range(job[0]):
                job[which]()
        return 0.0

    return lambda: run(1), lambda: run(2)


def timed(function: Callable[[], float]) -> tuple[float, float, float]:
    """Seconds, the value, and the share of all cores that other processes took meanwhile."""
    start, others = CLOCK(), time_of_others()
    wall = time.perf_counter()
    value = function()
    share = (time_of_others() - others) / (time.perf_counter() - wall) / psutil.cpu_count()
    return CLOCK() - start, value, share


def time_of_others() -> float:
    spent, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return spent.user + spent.system - own.user - own.system


def measure_times(task: Task, rounds: int) -> dict[str, dict[str, list[float]]]:
    torch.set_num_threads(THREADS)
    pairs = {case: prepare(case, task) for case in CASES}
    pairs["floor of convlstm"] = floor(task, memory=False)
    pairs["floor of sa-convlstm"] = floor(task, memory=True)
    seconds: dict[str, dict[str, list[float]]] = {"training": {}, "forecast": {}}
    shares: list[float] = []
    for kind, index in (("training", 0), ("forecast", 1)):
        values: dict[str, list[float]] = {case: [] for case in pairs}
        seconds[kind] = {case: [] for case in pairs}
        for repetition in range(rounds + 1):
            for case, pair in pairs.items():
                duration, value, share = timed(pair[index])
                values[case].append(value)
                if repetition:
                    seconds[kind][case].append(duration)
                    shares.append(share)
        # The same arithmetic in another order: float32 roundings, through as many updates as there were rounds.
        assert values["sa-convlstm"] == pytest.approx(values[WRITTEN_OUT], rel=1e-3), "not the same network"
    print(f"other processes took {statistics.mean(shares):.0%} of the cores on average, {max(shares):.0%} at most")
    return seconds


def measure_memory(case: str, task: Task, kind: str) -> float:
    """Peak resident memory above what the process held before, in MiB, in a process of its own."""
    request = json.dumps([case, task.size, task.batch, task.history, task.steps, kind])
    out = subprocess.run([sys.executable, __file__, request], capture_output=True, text=True, check=True)
    return float(out.stdout)


def peak_of_this_process(case: str, task: Task, kind: str) -> float:
    torch.set_num_threads(THREADS)
    index = ("training", "forecast").index(kind)
    prepare(case, Task(8, 1, 2, 2))[index]()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the first step gave back would else be taken again unseen
    process, peak, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    prepare(case, task)[index]()
    done.set()
    watcher.join()
    return (max(peak[0], process.memory_info().rss) - before) / 2**20


def estimate(case: str, task: Task, kind: str) -> float:
    options = {"history": task.history, "steps": task.steps, "training": kind == "training"}
    return (
        models.estimate_memory(config_of(case, task), (PATCH * task.size, PATCH * task.size), task.batch, **options)
        / 2**20
    )


def ratio(seconds: dict[str, list[float]], case: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(seconds[case], seconds[other], strict=True))


def test_networks() -> None:
    sizes = [int(size) for size in os.environ.get("MAPS", "16,32,64").split(",")]
    rounds = int(os.environ.get("ROUNDS", "3"))
    print(f"\ntorch {torch.__version__}, {THREADS} threads, float32, {rounds} rounds")
    found = {}
    for size in sizes:
        task = TASKS[size]
        seconds = measure_times(task, rounds)
        print(f"\n{size}×{size} maps, batch {task.batch}, {task.history} to {task.steps} frames")
        for kind in ("training", "forecast"):
            print(f"  {kind:26s} median s    MiB  estimate  / convlstm  / written out  / own floor")
            memory = {case: measure_memory(case, task, kind) for case in CASES}
            for case, taken in seconds[kind].items():
                own = "floor of sa-convlstm" if case.startswith("sa-convlstm") else "floor of convlstm"
                ratios = [ratio(seconds[kind], case, other) for other in ("convlstm", WRITTEN_OUT, own)]
                sizes_of_case = (
                    f"{memory[case]:6.0f} {estimate(case, task, kind) if case in models.NAMES else 0:9.0f}"
                    if case in memory
                    else " " * 16
                )
                print(
                    f"  {case:26s} {statistics.median(taken):8.3f} {sizes_of_case} {ratios[0]:11.2f} "
                    f"{ratios[1]:14.2f} {ratios[2]:12.2f}"
                )
                found |= {(kind, size, case, o): r for o, r in zip(("convlstm", WRITTEN_OUT, own), ratios, strict=True)}
            for case in models.NAMES:
                found[f"peak memory, {kind}", size, case, WRITTEN_OUT] = memory[case] / memory[WRITTEN_OUT]
                assert estimate(case, task, kind) == pytest.approx(memory[case], rel=0.25), f"{case}, {kind}: estimate"
    print("\ntargets")
    for kind, size, case, other, limit in TARGETS:
        if (kind, size, case, other) in found:
            value = found[kind, size, case, other]
            verdict = "reached" if value <= limit else "missed"
            print(f"  {kind}, {size}×{size}: {case} / {other} = {value:.2f}, at most {limit}: {verdict}")


if __name__ == "__main__":
    case, size, batch, history, steps, kind = json.loads(sys.argv[1])
    print(peak_of_this_process(case, Task(size, batch, history, steps), kind))
