"""SA-ConvLSTM's training step on a CUDA device: eager, compiled cells, and the whole step as a CUDA graph.

Run with ``python tests/benchmarks/networks_gpu.py`` on a machine with a CUDA device; it prints one report. Frames and
patches are those of MovingMNIST (10 to 10 frames of 64×64, patch 4) and TaxiBJ (4 to 4 frames of 2×32×32, patch 1),
batch 8, hidden 64 × 4 layers, kernel 5, bf16 autocast, Adam. For each:

1. the losses of 100 steps of every way to run it, from the same weights on the same batches, against eager float32:
   the ways in bf16 have to agree with each other within LOSS_TOLERANCE, and stay within BF16_TOLERANCE of float32;
2. the median time of a step, in interleaved rounds, and the peak memory;
3. the kernels that take the most time in the fastest way.

``--json FILE`` writes the numbers besides.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sa_nowcast import models

# Compiled kernels add in another order; bf16 rounds such differences to 2^-8, and Adam carries them through 100 steps.
LOSS_TOLERANCE = 0.02
BF16_TOLERANCE = 0.05
STEPS, ROUNDS, PER_ROUND = 100, 7, 10


@dataclass(frozen=True)
class Task:
    name: str
    channels: int
    size: int
    patch: int
    history: int
    steps: int
    target_ms: float
    batch: int = 8


TASKS = (Task("MovingMNIST", 1, 64, 4, 10, 10, 12.0), Task("TaxiBJ", 2, 32, 1, 4, 4, 20.0))
Step = Callable[[Tensor, Tensor], Tensor]


def batches(task: Task, count: int) -> list[tuple[Tensor, Tensor]]:
    """Blobs that drift, and sampling masks; the same for every way to run a step."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(task.size) / task.size
    made = []
    for _ in range(count):
        start = torch.rand(task.batch, 1, task.channels, 2, generator=generator)
        drift = 0.04 * torch.randn(task.batch, 1, task.channels, 2, generator=generator)
        centre = start + drift * torch.arange(task.history + task.steps)[None, :, None, None]
        row, column = (((axis - centre[..., i, None]) / 0.1).square() for i in (0, 1))
        x = torch.exp(-row[..., :, None] - column[..., None, :])
        mask = torch.rand(task.batch, task.steps - 1, generator=generator) < 0.5
        made.append((x.cuda(), mask.cuda()))
    return made


def way(task: Task, first: models.Network, kind: str, example: Tensor) -> Step:
    net = copy.deepcopy(first)
    graphed = kind.endswith("graph")
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, capturable=graphed, fused=True)
    dtype = None if kind == "eager float32" else torch.bfloat16
    if "compiled" in kind:
        models.compile_cells(net)
    if graphed:
        return models.GraphedTrainingStep(net, optimizer, F.mse_loss, example, task.history, autocast=dtype)

    def step(x: Tensor, mask: Tensor) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            predictions = net.predict_all(x, task.history, mask)
        loss = F.mse_loss(predictions.float(), x[:, 1:])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def milliseconds(step: Step, data: list[tuple[Tensor, Tensor]]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for x, mask in data:
        step(x, mask)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / len(data)


def run(task: Task) -> dict[str, object]:
    torch.manual_seed(0)
    first = models.build("sa-convlstm", channels=task.channels, patch=task.patch).cuda()
    data = batches(task, STEPS)
    kinds = ["eager float32", "eager", "compiled", "eager in a graph", "compiled in a graph"]
    ways: dict[str, Step] = {}
    losses: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    for kind in kinds:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        ways[kind] = way(task, first, kind, data[0][0])
        losses[kind] = [float(ways[kind](x, mask)) for x, mask in data]
        memory[kind] = (torch.cuda.max_memory_allocated() - before) / 2**20
    print(f"\n{task.name}: first and last loss of {STEPS} steps, and the largest relative difference to eager bf16")
    for kind in kinds:
        apart = max(abs(a - b) / b for a, b in zip(losses[kind], losses["eager"], strict=True))
        limit = BF16_TOLERANCE if kind == "eager float32" else LOSS_TOLERANCE
        verdict = "within" if apart <= limit else "OUTSIDE"
        print(f"  {kind:22s} {losses[kind][0]:.6f} {losses[kind][-1]:.6f}  {apart:.4f}, {verdict} {limit}")

    rounds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind in kinds:
            rounds[kind].append(milliseconds(ways[kind], data[:PER_ROUND]))
    medians = {kind: statistics.median(times) for kind, times in rounds.items()}
    print(f"  ms a step, median of {ROUNDS} rounds of {PER_ROUND}; peak MiB")
    for kind in kinds:
        print(f"  {kind:22s} {medians[kind]:8.2f} {memory[kind]:8.0f}")
    fastest = min(medians, key=lambda kind: medians[kind])
    verdict = "reached" if medians[fastest] <= task.target_ms else "missed"
    print(f"  target {task.target_ms} ms: {fastest} takes {medians[fastest]:.2f} ms, {verdict}")

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        for x, mask in data[:3]:
            ways[fastest](x, mask)
        torch.cuda.synchronize()
    print(profiled.key_averages().table(sort_by="self_cuda_time_total", row_limit=15, max_name_column_width=70))
    return {"ms": medians, "MiB": memory, "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; this report needs one")
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}")
    report = {task.name: run(task) for task in TASKS}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
