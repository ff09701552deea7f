"""MovingMNIST: the vectorised generator against a plain loop, in one run.

Run with ``pytest -m benchmark -s tests/benchmarks/moving_mnist.py``; SA_NOWCAST_DATA names the data folder.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from sa_nowcast.sources.mnist_generator import MovingMnist

pytestmark = pytest.mark.benchmark

SEQUENCES = 64
BATCHES = 16
ROUNDS = 7


def plain_loop(digits: np.ndarray, rng: np.random.Generator, count: int, dtype: type) -> np.ndarray:
    """Make sequences as the public data loaders of MovingMNIST do: digit by digit, frame by frame.

    They draw on float32; `dtype` uint8 spares them that.
    """
    out = []
    for _ in range(count):
        data = np.zeros((20, 64, 64), dtype)
        for _ in range(2):
            tops, lefts = trajectory(rng)
            image = digits[rng.integers(len(digits))]
            for frame in range(20):
                top, left = tops[frame], lefts[frame]
                bottom, right = top + 28, left + 28
                data[frame, top:bottom, left:right] = np.maximum(data[frame, top:bottom, left:right], image)
        out.append(data)
    return np.stack(out)


def trajectory(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y, x, angle = rng.random(), rng.random(), rng.random() * 2 * np.pi
    v_y, v_x = np.sin(angle), np.cos(angle)
    rows, columns = np.zeros(20), np.zeros(20)
    for frame in range(20):
        y, x = y + v_y * 0.1, x + v_x * 0.1
        if y <= 0:
            y, v_y = 0.0, -v_y
        if y >= 1:
            y, v_y = 1.0, -v_y
        if x <= 0:
            x, v_x = 0.0, -v_x
        if x >= 1:
            x, v_x = 1.0, -v_x
        rows[frame], columns[frame] = y, x
    return (36 * rows).astype(np.int32), (36 * columns).astype(np.int32)


def test_moving_mnist_is_made_at_least_twenty_times_as_fast_as_by_a_plain_loop() -> None:
    data = os.environ.get("SA_NOWCAST_DATA")
    if not data:
        pytest.skip("real data: set SA_NOWCAST_DATA to the folder that holds mnist/")
    source = MovingMnist(Path(data) / "mnist", "train", seed=1)
    buffer = np.empty((SEQUENCES, 20, 64, 64), np.uint8)
    rates: dict[str, list[float]] = {"here": [], "loop on float32": [], "loop on uint8": []}
    for round_ in range(ROUNDS):  # in turns, so that all see the same machine
        begin = time.perf_counter()
        for batch in range(BATCHES):
            source.batch((round_ * BATCHES + batch) * SEQUENCES, SEQUENCES, out=buffer)
        rates["here"].append(BATCHES * SEQUENCES / (time.perf_counter() - begin))
        for name, dtype in (("loop on float32", np.float32), ("loop on uint8", np.uint8)):
            begin = time.perf_counter()
            plain_loop(source._images, np.random.default_rng(round_), SEQUENCES, dtype)
            rates[name].append(SEQUENCES / (time.perf_counter() - begin))
    rate = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {name: rate["here"] / rate[name] for name in rate if name != "here"}
    shown = "; ".join(f"{name} {rate[name]:,.0f}/s, ratio {ratio:.1f}" for name, ratio in ratios.items())
    print(f"\nMovingMNIST: {rate['here']:,.0f} sequences/s; {shown}")
    assert ratios["loop on float32"] >= 20
