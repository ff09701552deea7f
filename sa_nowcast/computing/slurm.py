"""A batch script for Slurm that runs a recipe, and goes on after preemption."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sa_nowcast.errors import RecipeError

WARNING_SECONDS: Final = 120
_TIME: Final = re.compile(r"(\d+-)?\d{1,3}(:\d{2}){0,2}|UNLIMITED", re.IGNORECASE)
_NAME: Final = re.compile(r"[\w.,@+:/=-]+")


@dataclass(frozen=True)
class Job:
    """What is asked of Slurm.

    Attributes
    ----------
    recipe : str
        A path, or the name of a recipe that ships.
    name : str
    folder : Path
        Where the job starts; relative paths of the recipe begin there.
    time : str
        The longest time, in Slurm's own spelling: ``24:00:00`` or ``2-00:00:00``.
    nodes, gpus, cpus : int
        Machines; GPUs of each, one process for each (0: one process a machine, on its CPU); cores of each process.
    partition, account, memory : str or None
        As Slurm takes them; None leaves its own default.
    arguments : sequence of str
        For ``sa-nowcast run``, such as ``--set training.max_steps=1000``.
    """

    recipe: str
    name: str
    folder: Path
    time: str = "24:00:00"
    nodes: int = 1
    gpus: int = 1
    cpus: int = 8
    partition: str | None = None
    account: str | None = None
    memory: str | None = None
    arguments: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field, number, least in (("nodes", self.nodes, 1), ("gpus", self.gpus, 0), ("cpus", self.cpus, 1)):
            if number < least:
                raise RecipeError(f"--{field}", f"{number}", expected=f"at least {least}")
        if not _TIME.fullmatch(self.time):
            raise RecipeError("--time", f"{self.time!r}", expected="such as 24:00:00 or 2-00:00:00")
        for option, text in (("partition", self.partition), ("account", self.account), ("memory", self.memory)):
            # Such a line is Slurm's to read, and no shell quotes it.
            if text is not None and not _NAME.fullmatch(text):
                raise RecipeError(f"--{option}", f"{text!r}", expected="a name without spaces or quotes")
        if "\n" in str(self.folder) or "\n" in self.recipe:
            raise RecipeError("recipe", "a line break in its path", expected="none")

    def script(self) -> str:
        """Return the batch script; its exit code is the run's, and 75 puts the job back into the queue."""
        per_node = max(1, self.gpus)
        asked = {
            "job-name": re.sub(r"[^\w.-]+", "-", self.name),
            "nodes": str(self.nodes),
            "ntasks-per-node": str(per_node),
            "cpus-per-task": str(self.cpus),
            "gpus-per-node": str(self.gpus) if self.gpus else None,
            "mem": self.memory,
            "partition": self.partition,
            "account": self.account,
            "time": self.time,
            "output": f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.name)}-%j.log",
            "open-mode": "append",
            "signal": f"USR1@{WARNING_SECONDS}",
        }
        lines = [f"#SBATCH --{option}={value}" for option, value in asked.items() if value is not None]
        # srun starts each process itself: torchrun would end at USR1, and with a code of its own. Since Slurm 22.05 it
        # does not take --cpus-per-task from sbatch.
        command = shlex.join([program(), "run", self.recipe, "--quiet", *self.arguments])
        meeting = [
            "# Where the processes of all machines meet: at a port of the first one.",
            'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            "MASTER_PORT=$((15000 + SLURM_JOB_ID % 10000))",
            "export MASTER_ADDR MASTER_PORT",
        ]
        return "\n".join(
            [
                "#!/bin/bash",
                *lines,
                "#SBATCH --requeue",
                "",
                f"# {WARNING_SECONDS} s before the end Slurm sends USR1: the run saves itself and exits with 75.",
                f"cd {shlex.quote(str(self.folder))} || exit 5",
                f"export OMP_NUM_THREADS={self.cpus}",
                *(meeting if self.nodes > 1 else []),
                f"srun --cpus-per-task={self.cpus} {command}",
                "code=$?",
                'if [ "$code" -eq 75 ]; then',
                '  echo "job $SLURM_JOB_ID was interrupted and saved; back into the queue" >&2',
                '  scontrol requeue "$SLURM_JOB_ID"',
                "fi",
                'exit "$code"',
                "",
            ]
        )


def program() -> str:
    """Return the command line's program: that of this Python, so that the job has the same packages."""
    beside = Path(sys.executable).with_name("sa-nowcast")
    return str(beside) if beside.is_file() else "sa-nowcast"


def send(script: str) -> str:
    """Give the script to ``sbatch`` and return the number of the job.

    Raises
    ------
    RecipeError
        There is no sbatch here, or it refuses the script; its own words are in the message.
    """
    if shutil.which("sbatch") is None:
        raise RecipeError(
            "sbatch",
            "is not on this machine's PATH",
            fix="print the script without --send, and send it from a login node",
        )
    done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())[:300] or f"exit code {done.returncode}"
        raise RecipeError(
            "sbatch", f"refused the script ({said})", fix="give another --partition, --account, --gpus or --time"
        )
    return done.stdout.strip().split(";")[0]
