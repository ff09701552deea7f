"""What bounds training on several GPUs and hindcasts on many workers: a model, checked against two processes here.

One process is measured with the whole batch and with half of it, which gives an update's fixed and per-window costs;
the sum of the gradients over gloo is measured alone. From these the cost of an update of two processes is predicted,
and then measured. All are seconds of the processor and not of the clock: this machine's cores are shared. Run with
``pytest -m benchmark -s tests/benchmarks/scaling.py``.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sequences import rain
from trials import Each, on_two_machines, train, with_callback

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3000)]

HISTORY, STEPS, CROP, BATCH, UPDATES, SKIPPED = 4, 3, 32, 8, 24, 4
NETWORK = {"hidden": (16, 16), "kernel": 3, "patch": 2, "output": "frame"}


@dataclass(frozen=True)
class Training:
    """What an update takes.

    Attributes
    ----------
    fixed, per_window : float
        Seconds of an update on one device: whatever the batch, and for each window of it.
    gradients : float
        Bytes that are summed over all processes: four for each parameter.
    window : float
        Bytes of a window as it is stored.
    """

    fixed: float
    per_window: float
    gradients: float
    window: float

    def update(self, batch: int, processes: int, bandwidth: float) -> float:
        """Return the seconds of an update; `bandwidth` in bytes a second is that between two processes.

        A ring sends 2 (n - 1) / n of the gradients from each process (Patarasuk and Yuan 2009,
        doi:10.1016/j.jpdc.2008.09.002). That it goes on during the backward pass is left out, so this is a bound.
        """
        summed = 2 * (processes - 1) / processes * self.gradients / bandwidth
        return self.fixed + self.per_window * batch / processes + summed

    def read(self, batch: int, processes: int, bandwidth: float) -> float:
        """Return the bytes a second that the store has to give."""
        return self.window * batch / self.update(batch, processes, bandwidth)


@dataclass(frozen=True)
class Hindcast:
    """What an init time takes of a worker (seconds), of the store (bytes read and written), and how many there are."""

    seconds: float
    read: float
    written: float
    inits: int
    a_shard: int

    def pace(self, workers: int, rate: float) -> tuple[float, str]:
        """Return init times a second of so many workers, and what bounds them; `rate`: bytes a second of the store."""
        shards = -(-self.inits // self.a_shard)
        rounds = -(-shards // workers)  # the last of which not all workers have a shard in
        bounds = {
            "the workers": shards / rounds / self.seconds,
            "the store": rate / (self.read + self.written),
        }
        name = min(bounds, key=lambda each: bounds[each])
        return bounds[name], "the number of shards" if name == "the workers" and workers > shards else name


def table(training: Training, slow: Hindcast, fast: Hindcast, batch: int, bandwidth: float, rate: float) -> list[str]:
    """Return the lines that the page shows."""
    lines = []
    for processes in (1, 2, 4, 8):
        ether, slower = (training.update(batch, processes, speed) for speed in (bandwidth, bandwidth / 10))
        alone, need = training.update(batch, 1, bandwidth), training.read(batch, processes, bandwidth) / 1e6
        lines.append(
            f"| {processes} | {1e3 * ether:.1f} ms, {alone / ether:.1f} "
            f"| {1e3 * slower:.1f} ms, {alone / slower:.1f} | {need:.0f} MB/s |"
        )
    for workers in (1, 8, 64):
        told = [each.pace(workers, rate) for each in (slow, fast)]
        lines.append(f"| {workers} | " + " | ".join(f"{pace:.1f} a second, {by}" for pace, by in told) + " |")
    return lines


def cpu_of_updates(monkeypatch: pytest.MonkeyPatch, batch: int, file: Path) -> None:
    """Train, and write the processor's seconds of each update after the first ones."""
    marks: list[float] = []
    with monkeypatch.context() as patch:
        with_callback(patch, Each(before=lambda *_: marks.append(time.process_time())))
        nowcaster = train(
            rain(60, 64, 64), history=HISTORY, steps=STEPS, network=NETWORK, crop=CROP, batch_size=batch,
            max_steps=UPDATES, validation=0, checkpoint_every=1000, log_every=1000,
        )  # fmt: skip
    spent = [after - before for before, after in itertools.pairwise(marks)][SKIPPED:]
    parameters = sum(p.numel() for p in nowcaster.network.parameters())
    file.write_text(json.dumps({"seconds": statistics.median(spent), "parameters": parameters}))


def cpu_of_a_sum(size: int, file: Path) -> None:
    """Sum so many values over two processes, and write the processor's seconds of one sum."""
    torch.distributed.init_process_group("gloo")
    values = torch.ones(size)
    for _ in range(3):
        torch.distributed.all_reduce(values)
    began = time.process_time()
    for _ in range(20):
        torch.distributed.all_reduce(values)
    file.write_text(json.dumps({"seconds": (time.process_time() - began) / 20}))


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_the_cost_of_two_processes_follows_from_that_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for batch in (BATCH // 2, BATCH):
        child = os.fork()
        if not child:
            try:
                cpu_of_updates(monkeypatch, batch, tmp_path / f"one{batch}")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    half, whole = (read(tmp_path / f"one{batch}") for batch in (BATCH // 2, BATCH))
    size = whole["parameters"]
    on_two_machines(lambda number: cpu_of_a_sum(size, tmp_path / f"sum{number}"), timeout=600)
    on_two_machines(lambda number: cpu_of_updates(monkeypatch, BATCH, tmp_path / f"two{number}"), timeout=1200)
    summed, two = (statistics.mean(read(tmp_path / f"{name}{i}")["seconds"] for i in (0, 1)) for name in ("sum", "two"))
    per_window = (whole["seconds"] - half["seconds"]) / (BATCH / 2)
    fixed = half["seconds"] - per_window * BATCH / 2
    predicted = fixed + per_window * BATCH / 2 + summed
    window = (HISTORY + STEPS) * CROP * CROP * 4
    print(
        f"\nupdate of one process, batch {BATCH // 2} and {BATCH}: {1e3 * half['seconds']:.1f} and "
        f"{1e3 * whole['seconds']:.1f} ms of CPU; {1e3 * fixed:.1f} ms fixed, {1e3 * per_window:.2f} ms a window\n"
        f"gradients: {4 * size / 1e6:.2f} MB summed an update, {1e3 * summed:.2f} ms of CPU in each process\n"
        f"windows: {window / 1e3:.0f} kB each in float32, {BATCH * window / 1e3:.0f} kB an update\n"
        f"update of two processes, batch {BATCH // 2} in each: predicted {1e3 * predicted:.1f}, "
        f"measured {1e3 * two:.1f} ms of CPU in each; error {100 * (predicted / two - 1):.0f} %, "
        f"{whole['seconds'] / two:.2f} times fewer in each than one process needs"
    )
    assert 0.5 < predicted / two < 2


def test_the_page_holds_the_table() -> None:
    """For a network of 10.47 million parameters (Lin et al. 2020, table 1), and the default model on 1226 x 760."""
    gpu = Training(fixed=0.0, per_window=0.0015, gradients=4 * 10.47e6, window=20 * 64 * 64 * 4)
    store = Hindcast(seconds=4.1, read=4 * 1226 * 760, written=4 * 12 * 1226 * 760, inits=8760, a_shard=1)
    fast = Hindcast(seconds=1.0, read=store.read, written=store.written, inits=8760, a_shard=1)
    lines = table(gpu, store, fast, 64, bandwidth=12.5e9, rate=1e9)
    print("\n" + "\n".join(lines))
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "several-machines.md").read_text(encoding="utf-8")
    assert all(line in page for line in lines)
