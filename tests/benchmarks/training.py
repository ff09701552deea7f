"""An iteration through the trainer, against the bare network step.

The network has two layers of 64 channels on 16 x 16 maps (64 x 64 pixels, patch 4), batches of 8 windows of 10 frames
to 10, float32. The bare step is the least that trains it: forward, loss over the same predictions, backward, clipping,
Adam, all on one batch in memory that never changes. The trainer does the same through `sa_nowcast.training.engine`:
it picks and crops windows, scales and masks them, looks for what is not finite, steps the schedule, looks at the clock
and for signals, adds to the log.

Blocks of both alternate in one process, inside one training run: the callback that ends a block of iterations runs a
block of bare steps. So both meet the same machine, and the figure is the median of the ratios of neighbouring blocks.
Threads: ``THREADS`` (default 1, as for a machine that others use too; then it is processor time that is compared, that
of the training process, so that waiting for a worker shows only in the wall clock, printed beside it).
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import sa_nowcast.training.engine as engine
from sa_nowcast import convert, open_zarr
from sa_nowcast.models import build
from sa_nowcast.stream import IN_MEMORY_BYTES, SequenceDataset
from sa_nowcast.training import data as training_data
from sa_nowcast.training.fit import fit

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

SIZE, BATCH, HISTORY, STEPS = 64, 8, 10, 10
NETWORK: dict[str, Any] = {"hidden": (64, 64), "kernel": 5, "patch": 4, "output": "frame"}
RATE, CLIP = 1e-3, 1.0
THREADS = int(os.environ.get("THREADS", "1"))
BLOCK, BLOCKS, WARM = int(os.environ.get("BLOCK", "3")), int(os.environ.get("BLOCKS", "12")), 3
CACHE = 4 * 2**20
"""What the streamed run may keep in memory: a tenth of its store."""


def frames(count: int) -> xr.DataArray:
    values = np.random.default_rng(0).integers(0, 3000, (count, SIZE, SIZE)).astype(np.int16)
    return xr.DataArray(
        values.astype(np.float32) / 64,  # exact when packed
        dims=("time", "y", "x"),
        coords={
            "time": ("time", pd.date_range("2020-01-01", periods=count, freq="5min"), {"standard_name": "time"}),
            "y": ("y", 1000.0 * np.arange(SIZE)[::-1], {"standard_name": "projection_y_coordinate", "units": "m"}),
            "x": ("x", 1000.0 * np.arange(SIZE), {"standard_name": "projection_x_coordinate", "units": "m"}),
        },
        name="rain",
        attrs={"units": "mm h-1", "standard_name": "rainfall_rate"},
    )


class BareStep:
    """Forward, loss, backward, clip, Adam."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = build("sa-convlstm", **NETWORK, channels=1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), RATE)
        self.x = torch.rand(BATCH, HISTORY + STEPS, 1, SIZE, SIZE)

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        loss = (self.network.predict_all(self.x, HISTORY) - self.x[:, 1:]).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        return loss.item()


class Blocks(L.Callback):
    """Times blocks of iterations, from the end of one to the end of another, and blocks of bare steps between them."""

    def __init__(self) -> None:
        self.bare = BareStep()
        self.wall: list[tuple[float, float]] = []
        self.cpu: list[tuple[float, float]] = []
        self._begun = (0.0, 0.0)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        done = trainer.global_step - WARM
        if done < 0:
            return
        if done == 0:
            self.bare()
        elif done % BLOCK == 0:
            ended = _clocks()
            for _ in range(BLOCK):
                self.bare()
            after = _clocks()
            self.wall.append((ended[0] - self._begun[0], after[0] - ended[0]))
            self.cpu.append((ended[1] - self._begun[1], after[1] - ended[1]))
        if done % BLOCK == 0:
            self._begun = _clocks()


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(one / other for one, other in pairs)


def measured(monkeypatch: pytest.MonkeyPatch, name: str, data: Any, folder: Path, workers: int = 0) -> float:
    """Train, print what an iteration took, and return the ratio that is to be compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    blocks = Blocks()
    trainer = L.Trainer
    with monkeypatch.context() as patch:
        patch.setattr(
            engine.L, "Trainer", lambda **given: trainer(**{**given, "callbacks": [*given["callbacks"], blocks]})
        )
        steps = WARM + BLOCK * BLOCKS
        fit(
            data, history=HISTORY, steps=STEPS, network=NETWORK, validation=0, progress=False, folder=folder,
            max_steps=steps, batch_size=BATCH, crop=None, learning_rate=RATE, clip_norm=CLIP, checkpoint_every=steps,
            precision="fp32", device="cpu", workers=workers,
        )  # fmt: skip
    torch.set_num_threads(before)
    bare = statistics.median(other for _, other in blocks.wall) / BLOCK
    ratios = {"wall clock": _ratio(blocks.wall), "processor time": _ratio(blocks.cpu)}
    print(
        f"\n{name}, {THREADS} threads: a bare step {1e3 * bare:.0f} ms; an iteration "
        + ", ".join(f"{ratio:.3f} x in {clock}" for clock, ratio in ratios.items())
        + f"; {BLOCKS} blocks of {BLOCK}"
    )
    return ratios["processor time" if THREADS == 1 else "wall clock"]


def test_an_iteration_on_data_in_memory_takes_at_most_1_05_bare_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = frames(400)
    assert data.nbytes < IN_MEMORY_BYTES
    assert measured(monkeypatch, "in memory", data, tmp_path) <= 1.05


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iteration_that_streams_from_zarr_takes_at_most_1_10_bare_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: int
) -> None:
    data = frames(2600)
    data.encoding = {"dtype": "int16", "scale_factor": 1 / 64, "_FillValue": -1}
    convert(data, tmp_path / "rain.zarr", window=HISTORY + STEPS)
    assert data.nbytes > 10 * CACHE
    for path in (tmp_path / "rain.zarr").rglob("*"):
        if path.is_file():
            path.read_bytes()  # the page cache is warm, and it is the processor's work that is compared

    def dataset(*given: Any, **options: Any) -> SequenceDataset:
        return SequenceDataset(*given, **options, in_memory=False, cache_bytes=CACHE)

    monkeypatch.setattr(training_data, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(training_data, "SequenceDataset", dataset)
    name = f"streaming with {workers} workers"
    assert measured(monkeypatch, name, open_zarr(tmp_path / "rain.zarr"), tmp_path / "run", workers) <= 1.10
