"""A full disk, a quota, a folder that may not be written: one line, and what was there stays whole.

Full disks and quotas are met at every kind of output; an output that has its name is never a part of one.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from nursery import End, Nursery
from points import Fault, names_of
from test_signals import STAGES, Given, given, results

__all__ = ["given"]
NOBODY = 65534


def refused(end: End, stage: str, folder: Path, unbroken: dict[str, bytes]) -> None:
    """One line about storage, and no output but whole ones."""
    lines = end.error.strip().splitlines()
    assert end.code == 5, (stage, end.code, end.error)
    assert lines[-1].startswith("STORAGE "), end.error
    assert "Traceback" not in end.error
    made = results(folder)
    for name, whole in unbroken.items():
        # Of a folder each file is whole; and a folder that has its name has all of them.
        place = folder / name.split("/", 2)[0] if name.split("/")[0] != "run" else folder / name
        if place.exists():
            assert made[name] == whole, (stage, name)


@pytest.mark.faults(10, 100)
def test_a_disk_that_is_full_at_any_write_is_said_and_the_same_command_goes_on_when_there_is_room(
    repetitions: int, rng: random.Random, nursery: Nursery, given: Given, tmp_path: Path
) -> None:
    inputs, unbroken = given
    hits = 0
    for i in range(repetitions):
        stage = list(STAGES)[i % len(STAGES)]
        folder = tmp_path / str(i)
        folder.mkdir()
        arguments = tuple(a.format(inputs) for a in STAGES[stage])
        number = errno.EDQUOT if i % 2 else errno.ENOSPC
        fault = Fault(str(folder), "full", rng.randrange(1, unbroken[stage][1]), number)
        end = nursery.one("cli", str(folder), *arguments, fault=fault)
        if end.code != 0:  # where nothing that grows came after the fault
            refused(end, stage, folder, unbroken[stage][0])
            hits += 1
        again = nursery.one("cli", str(folder), *arguments)
        assert again.code == 0 or "exists already" in again.error, (stage, again.error)
        assert results(folder) == unbroken[stage][0], stage
        assert not [n for n in names_of(folder) if "partial" in n], names_of(folder)
    print(f"{repetitions} points, {hits} errors of storage, 0 truncated outputs")
    assert hits > repetitions // 2


@pytest.mark.faults(3, 25)
def test_a_limit_of_the_kernel_on_the_size_of_files_is_said_and_leaves_no_truncated_output(
    repetitions: int, rng: random.Random, nursery: Nursery, given: Given, tmp_path: Path
) -> None:
    inputs, unbroken = given
    hits = 0
    for i in range(repetitions):
        stage = list(STAGES)[i % len(STAGES)]
        folder = tmp_path / str(i)
        folder.mkdir()
        arguments = tuple(a.format(inputs) for a in STAGES[stage])
        largest = max(len(v) for v in unbroken[stage][0].values())
        end = nursery.one("cli", str(folder), *arguments, limit=rng.randrange(100, largest))
        assert end.code != -signal.SIGXFSZ
        if end.code != 0:
            refused(end, stage, folder, unbroken[stage][0])
            hits += 1
        again = nursery.one("cli", str(folder), *arguments)
        assert again.code == 0 or "exists already" in again.error, (stage, again.error)
        assert results(folder) == unbroken[stage][0], stage
    print(f"{repetitions} limits, {hits} errors of storage, 0 truncated outputs")


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_that_may_not_be_written_is_said_before_any_work(stage: str, nursery: Nursery, given: Given) -> None:
    with tempfile.TemporaryDirectory() as place:  # where another user may read, too
        inputs, folder = Path(place) / "inputs", Path(place) / "locked"
        shutil.copytree(given[0], inputs)
        recipe = inputs / "trial.yaml"
        recipe.write_text(recipe.read_text().replace(given[0], str(inputs)))
        folder.mkdir(mode=0o555)
        for path in (Path(place), inputs):
            path.chmod(0o755)
        end = nursery.one(
            "cli", str(folder), *(a.format(inputs) for a in STAGES[stage]), user=NOBODY if os.geteuid() == 0 else None
        )
        assert names_of(folder) == []
    assert end.code == 5, end.error
    lines = end.error.strip().splitlines()
    assert lines[-1].startswith("STORAGE "), end.error
    assert "Permission denied" in lines[-1]
    assert not [line for line in lines if line.startswith(("training", "forecasting", "scoring"))], end.error
