"""SIGTERM, SIGUSR1 and Ctrl-C in each stage: saved, exit code 75 within 30 seconds, and the same command goes on."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from nursery import End, Nursery
from points import Fault, content, names_of

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
STAGES = {
    "convert": ("convert", "{0}/rain.nc", "out.zarr", "--quiet"),
    "train": ("train", "{0}/trial.yaml", "--quiet"),
    "hindcast": ("hindcast", "{0}/rain.nc", "a.zarr", "--model", "{0}/rain.nowcaster", "--quiet", "--device", "cpu"),
    "verify": ("verify", "{0}/archive.zarr", "{0}/rain.nc", "--threshold", "1", "-o", "scores.csv", "--replace"),
    "run": ("run", "{0}/trial.yaml", "--quiet"),
}
# What else a run leaves says how long it took.
RESULTS = ("out.zarr", "a.zarr", "scores.csv", "run/scores.csv", "run/forecast.nc")
MODEL = ("run/model.nowcaster/model.json", "run/model.nowcaster/weights.safetensors")

Given = tuple[str, dict[str, tuple[dict[str, bytes], int]]]


def results(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in (*RESULTS, *MODEL):
        path = folder / name
        if path.is_dir():
            found |= {f"{name}/{k}": v for k, v in content(path).items()}
        elif path.exists():
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def given(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Given:
    """The folder of the inputs; of each stage, what it leaves and how many changes of the disk it takes."""
    inputs = str(tmp_path_factory.mktemp("inputs"))
    nursery.well("recipe", inputs)
    unbroken = {}
    for stage, arguments in STAGES.items():
        folder = tmp_path_factory.mktemp(stage)
        end = nursery.well("cli", str(folder), *(a.format(inputs) for a in arguments), fault=Fault(str(folder)))
        unbroken[stage] = results(folder), len(end.points)
        assert unbroken[stage][0]
    return inputs, unbroken


def stopped(
    nursery: Nursery, given: Given, stage: str, folder: Path, run: Callable[[tuple[str, ...]], End], number: int
) -> int:
    """Run a stage that gets a signal; check how it ends, and that the same command then ends as an unbroken one."""
    inputs, unbroken = given
    arguments = tuple(a.format(inputs) for a in STAGES[stage])
    end = run(arguments)
    said = end.error.strip().splitlines()
    assert end.seconds < 30
    if end.code == -number:  # before the command listened, or after it was done
        assert not names_of(folder) or results(folder) == unbroken[stage][0]
    elif end.code == 75:
        assert said[-1].startswith("INTERRUPTED "), end.error
        assert "Traceback" not in end.error
    else:
        assert end.code == 0, (stage, end.code, end.error)
    again = nursery.one("cli", str(folder), *arguments)
    assert again.code == 0 or "exists already" in again.error, (stage, again.error)
    assert results(folder) == unbroken[stage][0], stage
    assert not [n for n in names_of(folder) if "partial" in n], names_of(folder)
    return int(end.code == 75)


@pytest.mark.faults(10, 150)
def test_a_signal_at_any_change_of_the_disk_is_75_and_the_same_command_goes_on(
    repetitions: int, rng: random.Random, nursery: Nursery, given: Given, tmp_path: Path
) -> None:
    seen = 0
    for i in range(repetitions):
        stage, number = list(STAGES)[i % len(STAGES)], NUMBERS[i // len(STAGES) % len(NUMBERS)]
        folder = tmp_path / str(i)
        folder.mkdir()
        fault = Fault(str(folder), "signal", rng.randrange(1, given[1][stage][1]), number)

        def run(arguments: tuple[str, ...], folder: Path = folder, fault: Fault = fault) -> End:
            return nursery.one("cli", str(folder), *arguments, fault=fault)

        seen += stopped(nursery, given, stage, folder, run, number)
    print(f"{repetitions} signals, {seen} times 75, the others in what finished all the same; all results equal")


@pytest.mark.faults(5, 50)
def test_a_signal_at_any_time_is_75_and_the_same_command_goes_on(
    repetitions: int, rng: random.Random, nursery: Nursery, given: Given, tmp_path: Path
) -> None:
    seen = 0
    for i in range(repetitions):
        stage, number = list(STAGES)[i % len(STAGES)], NUMBERS[i % len(NUMBERS)]
        folder = tmp_path / str(i)
        folder.mkdir()
        at = rng.uniform(0.05, {"run": 2.0, "train": 1.0}.get(stage, 0.5))

        def run(arguments: tuple[str, ...], folder: Path = folder, at: float = at, number: int = number) -> End:
            return nursery.one("cli", str(folder), *arguments, signals=((at, number),), group=True)

        seen += stopped(nursery, given, stage, folder, run, number)
    print(f"{repetitions} signals, {seen} times 75; all results equal")
