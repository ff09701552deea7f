"""What glibc's heap keeps between tensors goes back to the system when asked; large tensors have large pages."""

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


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="this machine has no large pages"
)
def test_a_large_tensor_costs_few_faults() -> None:
    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    like, before = torch.empty(0), faults()
    made = heap.room(like, 16, MiB).zero_()
    assert faults() - before < 8192  # of 16384 pages
    assert made.shape == (16, MiB)
    assert made.dtype == torch.float32


def test_room_is_of_the_type_and_on_the_device_of_what_it_is_for() -> None:
    assert heap.room(torch.empty(0, dtype=torch.float64), 2, 3).dtype == torch.float64
    assert heap.room(torch.empty(0, device="meta"), 16, MiB).is_meta


@pytest.mark.usefixtures("without_glibc")
def test_where_there_is_no_such_heap_training_with_checkpoints_goes_on() -> None:
    net = build(preset("small", hidden=(4,), checkpoint_steps=1))
    net.predict_all(torch.rand(1, 4, 1, 16, 16), history=2).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
