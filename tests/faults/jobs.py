"""What the children of a trial do; each function runs in a process of its own."""

from __future__ import annotations

from typing import Any

from sequences import rain


def convert(target: str, workers: int = 1, **options: Any) -> None:
    """Convert 12 frames in 3 shards."""
    from sa_nowcast.conversion import convert as make

    make(rain(12, 8, 6), target, frames_per_shard=4, workers=workers, **options)


def replace(target: str) -> None:
    """Convert something else to the same place."""
    from sa_nowcast.conversion import convert as make

    make(rain(12, 8, 6, seed=1), target, frames_per_shard=4, workers=1, existing="replace")
