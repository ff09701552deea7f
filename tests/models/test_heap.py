"""What glibc's heap keeps between tensors goes back to the system when asked."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sa_nowcast.models import build, heap, preset

MiB = 2**20


@pytest.fixture
def without_glibc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    heap._malloc_trim.cache_clear()
    yield
    heap._malloc_trim.cache_clear()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(
    sys.platform != "linux" or heap._malloc_trim() is None, reason="asks glibc's heap: run it on Linux with glibc"
)
def test_free_pages_between_tensors_that_stay_are_returned() -> None:
    # Below 32 MiB once larger ones were freed (mallopt(3), M_MMAP_THRESHOLD): these lie in the heap.
    large = torch.empty(31 * MiB, dtype=torch.uint8)
    del large
    tensors = [torch.ones(MiB, dtype=torch.uint8) for _ in range(200)]
    kept = tensors[::2]
    del tensors
    before = resident()
    heap.trim()
    assert resident() <= before - 50 * MiB
    assert all(int(t.sum(dtype=torch.int64)) == MiB for t in kept)


@pytest.mark.usefixtures("without_glibc")
def test_where_there_is_no_such_heap_training_with_checkpoints_goes_on() -> None:
    net = build(preset("small", hidden=(4,), checkpoint_steps=1))
    net.predict_all(torch.rand(1, 4, 1, 16, 16), history=2).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
