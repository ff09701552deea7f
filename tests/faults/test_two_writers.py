"""Two processes that write to one place: one is told which other one holds it, and nothing is lost."""

from __future__ import annotations

import random
import re
import socket
from pathlib import Path

import pytest
from nursery import Nursery, Trial
from points import content, names_of
from test_signals import MODEL, Given, given, results

__all__ = ["given"]
TOLD = re.compile(rf"is being written by process \d+ on {re.escape(socket.gethostname())}\.")


@pytest.mark.faults(7, 150)
def test_two_conversions_or_hindcasts_to_one_place_leave_one_whole_store(
    repetitions: int, rng: random.Random, nursery: Nursery, given: Given, tmp_path: Path
) -> None:
    inputs, _ = given
    jobs = {"convert": (), "hindcast": (f"{inputs}/rain.nowcaster",)}
    whole = {}
    for job, first in jobs.items():
        nursery.well(job, *first, str(tmp_path / f"{job}.zarr"))
        whole[job] = content(tmp_path / f"{job}.zarr")
    told = late = 0
    for i in range(repetitions):
        job = list(jobs)[i % 2]
        folder = tmp_path / str(i)
        folder.mkdir()
        target = folder / f"{job}.zarr"
        trials = [
            Trial(job, (*jobs[job], str(target))),
            Trial("later", (rng.uniform(0, 0.3), job, *jobs[job], str(target))),
        ]
        ends = nursery.run(*trials)
        assert any(e.code == 0 for e in ends), ends
        for end in ends:
            if end.code != 0:
                assert end.code == 5, end
                assert TOLD.search(end.error) or "exists already" in end.error, end.error
                told += bool(TOLD.search(end.error))
                late += "exists already" in end.error
        assert content(target) == whole[job]
        assert names_of(folder) == [target.name]
    print(f"{repetitions} races: {told} were told who writes, {late} that it is there; 0 lost")


@pytest.mark.faults(3, 50)
def test_two_runs_in_one_folder_end_with_one_whole_run(
    repetitions: int, rng: random.Random, nursery: Nursery, given: Given, tmp_path: Path
) -> None:
    inputs, unbroken = given
    told = 0
    for i in range(repetitions):
        folder = tmp_path / str(i)
        folder.mkdir()
        command = ("run" if i % 2 else "train", f"{inputs}/trial.yaml", "--quiet")
        ends = nursery.run(
            Trial("cli", (str(folder), *command)),
            Trial("later", (rng.uniform(0, 0.6), "cli", str(folder), *command)),
        )
        assert any(e.code == 0 for e in ends), ends
        for end in ends:
            if end.code != 0:
                assert end.code == 5, end.error
                assert TOLD.search(end.error), end.error
                told += 1
        nursery.well("cli", str(folder), "run", *command[1:])
        assert results(folder) == unbroken["run"][0]
        assert all((folder / name).exists() for name in MODEL)
    print(f"{repetitions} races: {told} were told who writes; 0 lost")
