"""Loaded by dask workers before their work: a shard takes a while, and its beginning and end are noted in $LOG."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from sa_nowcast.hindcast.shard import Shard

torch.set_num_threads(1)  # a forked worker's torch was loaded before its environment was set


def _note(line: str) -> None:
    descriptor = os.open(os.environ["LOG"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


if not hasattr(Shard, "quickly"):  # dask may load this twice
    Shard.quickly = Shard.put  # type: ignore[attr-defined]

    def slowly(self: Shard, values: Any, complete: Any) -> dict[str, Any]:
        _note(f"begin {self.number}")
        time.sleep(0.2)
        entry: dict[str, Any] = self.quickly(values, complete)  # type: ignore[attr-defined]
        _note(f"end {self.number}")
        return entry

    Shard.put = slowly  # type: ignore[method-assign]
