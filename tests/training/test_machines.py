"""Two machines that train together, each with one process, here on one: a machine that is lost, or that never comes.

Quick cases fork this process and set the variables that torchrun sets on each machine; slow ones start a torchrun for
each, and the script for Slurm with an ``srun`` that starts what Slurm would.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sequences import NETWORK, rain
from test_distributed import TOGETHER, _alike, _numpy, together, uneven
from trials import ON_ITS_OWN, Each, free_port, machine, on_two_machines, train, with_callback

from sa_nowcast.computing.slurm import Job
from sa_nowcast.errors import RecipeError, SaNowcastError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.training import launch
from sa_nowcast.training.checkpoint import load_checkpoint


@pytest.fixture
def first_of_two(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function that lets this process be one of two machines'."""

    def become(number: int) -> None:
        told = {"RANK": str(number), "GROUP_RANK": str(number), "MASTER_ADDR": "127.0.0.1"}
        for name, value in (ON_ITS_OWN | told | {"MASTER_PORT": str(free_port())}).items():
            monkeypatch.setenv(name, value)

    return become


@pytest.mark.parametrize("number", [0, 1])
def test_a_machine_that_never_comes_is_told_of_in_a_line_after_a_bounded_time(
    number: int, first_of_two: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_of_two(number)
    monkeypatch.setattr(launch, "MEET_WITHIN", 1.0)
    began = time.monotonic()
    with pytest.raises(RecipeError, match=r"not all of 2 processes came to 127\.0\.0\.1:\d+ within 1 s\. Fix") as e:
        train(batch_size=4)
    assert "\n" not in str(e.value)
    assert time.monotonic() - began < 30


def test_a_machine_that_is_killed_is_told_of_by_the_other_and_both_go_on_to_the_weights_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "two"

    def killed(number: int) -> None:
        def before(trainer: Any, *_: Any) -> None:
            if number == 1 and trainer.global_step == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        with_callback(monkeypatch, Each(before=before))
        try:
            train(uneven(), folder=folder, **TOGETHER)
        except SaNowcastError as error:
            (tmp_path / "told").write_text(str(error))

    def resumed(number: int) -> Any:
        machine(number)
        return _numpy(train(uneven(), folder=folder, **TOGETHER))

    assert on_two_machines(killed) == [0, signal.SIGKILL]
    told = (tmp_path / "told").read_text()
    assert told.startswith("ERROR training: another of 2 processes is gone, at update 3. Fix: ")
    assert str(folder) in told
    assert load_checkpoint(folder / "last.ckpt")["global_step"] == 2
    first, second = together(resumed)
    assert all(np.array_equal(first[k], second[k]) for k in first)
    _alike(first, _numpy(train(uneven(), **TOGETHER)))


def test_machines_whose_folders_are_not_one_are_refused(tmp_path: Path) -> None:
    train(uneven(), folder=tmp_path / "0", **TOGETHER | {"max_steps": 2})

    def run(number: int) -> str:
        machine(number)
        try:
            train(uneven(), folder=tmp_path / str(number), **TOGETHER)
        except RecipeError as error:
            return str(error)
        return ""

    for number, told in enumerate(together(run)):
        assert f"go on from different updates: 2, 0, expected the same checkpoints in {tmp_path / str(number)}" in told


# --- started as users start them


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rain(40).to_dataset().to_zarr(tmp_path / "rain.zarr", zarr_format=2)
    tree = {
        "name": "machines",
        "history": 4,
        "steps": 3,
        "data": {"source": str(tmp_path / "rain.zarr")},
        "network": {**NETWORK, "hidden": [4]},
        "training": {
            "max_steps": 40, "batch_size": 4, "crop": 12, "validate_every": 20, "validation_samples": 4,
            "checkpoint_every": 2, "pictures": 0, "device": "cpu",
        },
        "output": {"folder": str(tmp_path / "run")},
    }  # fmt: skip
    (tmp_path / "machines.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "machines.yaml"


def alone(recipe: Path) -> tuple[Nowcaster, set[str]]:
    """Run the recipe in one process; return the model and the names of all files of its folder."""
    folder = recipe.with_name("alone")
    subprocess.run([_PROGRAM, "run", str(recipe), "--quiet", "--output", str(folder)], check=True, env=_environment())
    return Nowcaster.load(folder / "model.nowcaster"), files(folder)


def files(folder: Path) -> set[str]:
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*")}


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **more}


_PROGRAM = str(Path(sys.executable).with_name("sa-nowcast"))


def start(recipe: Path, number: int, port: int) -> subprocess.Popen[str]:
    """Start the torchrun of a machine."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(number),
        "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port),
        _PROGRAM, "run", str(recipe), "--quiet",
    ]  # fmt: skip
    return subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def both(recipe: Path) -> Iterator[list[subprocess.Popen[str]]]:
    port = free_port()
    machines = [start(recipe, number, port) for number in range(2)]
    try:
        yield machines
    finally:
        for each in machines:
            if each.poll() is None:
                kill(each)


def kill(machine: subprocess.Popen[str]) -> None:
    """Kill a torchrun and what it started, which has a session of its own, as when the power fails."""
    for pid in (*Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text().split(), machine.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def until(there: Callable[[], bool], timeout: float = 240) -> None:
    deadline = time.monotonic() + timeout
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_torchrun_on_two_machines_of_which_one_is_killed_ends_as_one_process_does(recipe: Path) -> None:
    run = recipe.with_name("run")
    with both(recipe) as (first, second):
        until(lambda: (run / "training" / "last.ckpt").exists())
        kill(second)
        _, told = first.communicate(timeout=240)
        assert first.returncode == 1
        assert "ERROR training: another of 2 processes is gone, at update " in told
    assert not (run / "model.nowcaster").exists()
    with both(recipe) as machines:
        (printed, told), (other, _) = (each.communicate(timeout=240) for each in machines)
        assert [each.returncode for each in machines] == [0, 0], told
    assert "2 processes on 2 machines" in told
    assert "scores.csv" in printed
    assert other == ""  # the second one writes and prints nothing
    one, names = alone(recipe)
    _alike(_numpy(Nowcaster.load(run / "model.nowcaster")), _numpy(one))
    assert files(run) == names | {"training/previous.ckpt"}


SRUN = """#!/bin/bash
# Starts the command as srun does on two nodes; here both are this machine.
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=2 SLURM_NNODES=2 SLURM_NTASKS_PER_NODE=1 SLURM_LOCALID=0
for number in 0 1; do
  SLURM_PROCID=$number SLURM_NODEID=$number "$@" &
  tasks[number]=$!
done
echo "${tasks[@]}" > tasks
code=0
for task in "${tasks[@]}"; do
  wait "$task"; ended=$?
  (( ended > code )) && code=$ended
done
exit "$code"
"""
SCONTROL = """#!/bin/bash
case "$*" in
  "show hostnames node[1-2]") printf '%s\\n' 127.0.0.1 127.0.0.2 ;;
  *) echo "$@" >> told ;;
esac
"""


@pytest.mark.slow
def test_the_script_for_two_machines_goes_back_into_the_queue_and_ends_as_one_process_does(
    recipe: Path, tmp_path: Path
) -> None:
    """Slurm is not here: ``srun`` and ``scontrol`` are scripts that start and answer as it would."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    script = Job(str(recipe), "machines", tmp_path, nodes=2, gpus=0, cpus=1).script()
    environment = _environment(
        PATH=f"{tools}:{os.environ['PATH']}", SLURM_JOB_NODELIST="node[1-2]", SLURM_JOB_NAME="machines",
        SLURM_JOB_ID=str(4_710_000 + free_port() % 10_000),
    )  # fmt: skip
    job = subprocess.Popen(["bash"], stdin=subprocess.PIPE, env=environment, text=True, start_new_session=True)
    assert job.stdin is not None
    job.stdin.write(script)
    job.stdin.close()
    until(lambda: (tmp_path / "run" / "training" / "last.ckpt").exists())
    for task in (tmp_path / "tasks").read_text().split():
        os.kill(int(task), signal.SIGUSR1)  # what Slurm does before the end
    assert job.wait(timeout=240) == 75
    assert (tmp_path / "told").read_text() == f"requeue {environment['SLURM_JOB_ID']}\n"
    assert not (tmp_path / "run" / "model.nowcaster").exists()
    assert subprocess.run(["bash"], input=script, env=environment, text=True, timeout=240, check=False).returncode == 0
    one, names = alone(recipe)
    _alike(_numpy(Nowcaster.load(tmp_path / "run" / "model.nowcaster")), _numpy(one))
    assert files(tmp_path / "run") == names | {"training/previous.ckpt"}
