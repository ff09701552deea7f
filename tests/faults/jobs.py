"""What the children of a trial do; each function runs in a process of its own."""

from __future__ import annotations

import os
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


def hindcast(model: str, target: str, log: str = "", steps: int | None = None, **options: Any) -> None:
    """Forecast from 17 init times in 9 shards; what is begun and ended is noted in `log`."""
    from sa_nowcast.hindcast import hindcast as make
    from sa_nowcast.hindcast.shard import Shard

    put = Shard.put

    def noted(self: Shard, values: Any, complete: Any) -> dict[str, Any]:
        _note(log, f"begin {self.number}")
        entry = put(self, values, complete)
        _note(log, f"end {self.number}")
        return entry

    if log:
        Shard.put = noted  # type: ignore[method-assign]
    make(rain(), model, steps, to=target, batch_size=2, shard_size=2, device="cpu", **options)


def replace_hindcast(model: str, target: str) -> None:
    """Another archive in its place."""
    hindcast(model, target, steps=2, existing="replace")


def _note(log: str, line: str) -> None:
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def model(target: str) -> None:
    """Train a small network and save it."""
    from trials import train as make

    make(max_steps=2).save(target)
