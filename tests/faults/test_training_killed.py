"""A training that is killed goes on from the newest whole checkpoint, and ends with the bits of an unbroken one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nursery import Nursery
from points import Fault, names_of
from trials import COMBINATIONS

FILES = ["last.ckpt", "previous.ckpt", "training.csv"]


@pytest.fixture(scope="module")
def unbroken(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, list[str]]]:
    """What a run of a combination ends with, and its changes of the disk."""
    made: dict[str, tuple[Any, list[str]]] = {}

    def get(name: str) -> tuple[Any, list[str]]:
        if name not in made:
            folder = str(tmp_path_factory.mktemp("unbroken"))
            end = nursery.well("train", folder, name, fault=Fault(folder))
            made[name] = end.value, end.points
        return made[name]

    return get


@pytest.mark.faults(6, 120)
def test_killed_at_any_write_and_rename_also_of_a_checkpoint_it_ends_with_the_same_bits(
    repetitions: int, rng: random.Random, nursery: Nursery, unbroken: Any, tmp_path: Path
) -> None:
    names = ["average", "epochs", "everything"] if repetitions < 50 else list(COMBINATIONS)
    kills, seen = 0, set()
    for i in range(repetitions):
        name = names[i % len(names)]
        expected, points = unbroken(name)
        folder = tmp_path / str(i)
        folder.mkdir()
        # From all over the run; then once more, at another point of what is left.
        at = 1 + (i // len(names) * len(points) * len(names) // repetitions + rng.randrange(6)) % len(points)
        for place in (at, rng.randrange(1, len(points))) if i % 4 == 0 else (at,):
            end = nursery.one("train", str(folder), name, fault=Fault(str(folder), "kill", place))
            assert end.code in (-9, 0), end
            kills += end.code == -9
        seen.add(points[at - 1])
        end = nursery.well("train", str(folder), name)
        assert end.value == expected, (name, at)
        assert names_of(folder) == FILES, (name, at)
    print(f"{kills} kills at {', '.join(sorted(seen))}: weights, optimiser and losses equal")
    assert kills >= repetitions


@pytest.mark.faults(6, 100)
def test_killed_from_outside_at_any_time_also_in_later_epochs_it_ends_with_the_same_bits(
    repetitions: int, rng: random.Random, nursery: Nursery, unbroken: Any, tmp_path: Path
) -> None:
    names = ["epochs", "everything"] if repetitions < 50 else list(COMBINATIONS)
    kills = runs = 0
    while kills < repetitions:
        name = names[runs % len(names)]
        runs += 1
        folder, longest = tmp_path / str(runs), 0.5
        while True:
            end = nursery.one("train", str(folder), name, signals=((rng.uniform(0.05, longest), 9),))
            longest += 0.2
            if end.code != -9:
                break
            kills += 1
        assert end.code == 0, end
        assert end.value == unbroken(name)[0], name
        assert set(names_of(folder)) <= set(FILES)
    print(f"{kills} kills in {runs} runs: weights, optimiser and losses equal")
