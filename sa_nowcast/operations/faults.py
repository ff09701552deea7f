"""What goes wrong in a replay: which frames arrive when, whole or not, by a seed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sa_nowcast.errors import RecipeError
from sa_nowcast.recipe.service import seconds

_SECOND: Final = 10**9


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a replay, by a seed.

    Attributes
    ----------
    late, lost, doubled, truncated, slow : float
        Shares of the frames that arrive later by up to three steps, never, twice, cut off, or in two parts.
    kills : int
        How many times the service is killed (SIGKILL) while it publishes, and started again.
    outage : str or None
        How long no frame arrives at all, such as ``1h``.
    seed : int
    """

    late: float = 0.2
    lost: float = 0.05
    doubled: float = 0.05
    truncated: float = 0.02
    slow: float = 0.1
    kills: int = 2
    outage: str | None = "1h"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("late", "lost", "doubled", "truncated", "slow"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(name, f"{getattr(self, name)}", expected="a share from 0 to 1")

    @classmethod
    def none(cls) -> Faults:
        """Return no faults."""
        return cls(0, 0, 0, 0, 0, 0, None)


@dataclass(frozen=True)
class Delivery:
    """A file that arrives at a moment of the service's clock."""

    at: int
    number: int
    name: str
    kind: str = ""


def planned(
    times: list[int], names: list[str], step: int, faults: Faults, rng: np.random.Generator
) -> tuple[list[Delivery], list[int]]:
    """Return what arrives when, in order, and the times of the frames that arrive whole."""
    count = len(times)
    kinds = np.full(count, "", dtype=object)
    order = rng.permutation(np.arange(1, count))
    first = 0
    for kind, share in (("lost", faults.lost), ("truncated", faults.truncated), ("late", faults.late)):
        number = round(share * count)
        kinds[order[first : first + number]] = kind
        first += number
    doubled = set(rng.permutation(count)[: round(faults.doubled * count)].tolist())
    slow = set(rng.permutation(count)[: round(faults.slow * count)].tolist())
    away: tuple[int, int] = (0, 0)
    if faults.outage is not None:
        length = int(seconds(faults.outage) * _SECOND)
        begin = times[count // 2]
        away = (begin, begin + length)
    result, whole = [], []
    for number, (when, name) in enumerate(zip(times, names, strict=True)):
        kind = str(kinds[number])
        if kind == "lost" or away[0] <= when < away[1]:
            continue
        at = when + (int(rng.uniform(0.5, 3) * step) if kind == "late" else 0)
        result.append(Delivery(at, number, name, "truncated" if kind == "truncated" else "slow" * (number in slow)))
        if kind != "truncated":
            whole.append(when)
            if number in doubled:
                path = Path(name)
                result.append(Delivery(at + step // 3, number, f"{path.stem}_again{path.suffix}"))
    return sorted(result, key=lambda one: one.at), whole


def deliver(file: Path, folder: Path, delivery: Delivery) -> None:
    """Let a file arrive: renamed into place, in two parts, or cut off."""
    target = folder / delivery.name
    content = file.read_bytes()
    if delivery.kind == "truncated":
        target.write_bytes(content[: len(content) * 2 // 3])
    elif delivery.kind == "slow":
        with target.open("wb") as stream:
            stream.write(content[: len(content) // 2])
            stream.flush()
            time.sleep(0.2)
            stream.write(content[len(content) // 2 :])
    else:
        partial = folder / f".{delivery.name}.writing"
        partial.write_bytes(content)
        os.replace(partial, target)
