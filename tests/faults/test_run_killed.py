"""A whole run that is killed: finished stages stay, the same command ends as an unbroken run, nothing else is left."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from nursery import Nursery
from points import Fault, moments
from test_signals import Given, given, results

__all__ = ["given"]


@pytest.mark.faults(3, 60)
def test_killed_at_any_write_and_rename_a_run_goes_on_to_the_same_results_and_leaves_nothing_else(
    repetitions: int, rng: random.Random, nursery: Nursery, given: Given, tmp_path: Path
) -> None:
    inputs, unbroken = given
    whole, points = unbroken["run"]
    command = ("run", f"{inputs}/trial.yaml", "--quiet")
    nursery.well("cli", str(tmp_path), *command)
    expected = {p.relative_to(tmp_path) for p in tmp_path.rglob("*")}
    for i, at in enumerate(moments(rng, points, repetitions)):
        folder = tmp_path / str(i)
        folder.mkdir()
        end = nursery.one("cli", str(folder), *command, fault=Fault(str(folder), "kill", at))
        assert end.code == -9, (at, end)
        for name, stored in results(folder).items():
            assert stored == whole[name], (at, name)
        nursery.well("cli", str(folder), *command)
        assert results(folder) == whole, at
        left = {p.relative_to(folder) for p in folder.rglob("*")}
        # Two checkpoints where one was written after the run went on.
        assert left - {Path("run/training/previous.ckpt")} == expected - {Path("run/training/previous.ckpt")}, at
    print(f"{repetitions} kills at {points} points, 0 truncated outputs, all results equal")
