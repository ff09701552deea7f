"""submit: a script that bash reads, and that a queue takes and gets back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from command_line import Here


@pytest.fixture
def recipe(radar: Path, tmp_path: Path) -> Path:
    tree = {
        "name": "my radar",
        "history": 4,
        "steps": 3,
        "data": {"source": str(radar)},
        "output": {"folder": str(tmp_path / "run")},
    }
    folder = tmp_path / "with space; and $quote'"
    folder.mkdir()
    (folder / "a.yaml").write_text(yaml.safe_dump(tree))
    return folder / "a.yaml"


def bash(script: str, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ if path is None else {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", *arguments], input=script, capture_output=True, text=True, check=False, env={**environment}
    )


def tool(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def test_the_script_says_what_was_asked_and_bash_reads_it(here: Here, recipe: Path) -> None:
    here("submit", recipe, "--partition", "gpu", "--gpus", "4", "--nodes", "2", "--time", "8:00:00", "--memory", "64G")
    assert here.code == 0
    lines = here.out.splitlines()
    assert lines[0] == "#!/bin/bash"
    for line in ("--job-name=my-radar", "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--partition=gpu",
                 "--time=8:00:00", "--mem=64G", "--signal=USR1@120", "--requeue"):  # fmt: skip
        assert f"#SBATCH {line}" in lines
    assert bash(here.out, "-n").returncode == 0
    # Slurm reads its lines up to the first command.
    command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[command:])


def test_a_run_that_was_interrupted_goes_back_into_the_queue_and_others_do_not(
    here: Here, recipe: Path, tmp_path: Path
) -> None:
    here("submit", recipe, "--folder", tmp_path)
    tools = tmp_path / "bin"
    tool(tools, "scontrol", f'echo "$@" >> {tmp_path}/requeued')
    for code in (75, 3, 0):
        tool(tools, "srun", f'printf "%s\\n" "$@" > {tmp_path}/ran; exit {code}')
        done = bash(f"export SLURM_JOB_ID=7\n{here.out}", path=tools)
        assert done.returncode == code
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    cores, program, *arguments = (tmp_path / "ran").read_text().splitlines()
    assert cores == "--cpus-per-task=8"  # else srun gives each process one
    assert program.endswith("sa-nowcast")
    assert arguments == ["run", str(recipe), "--quiet"]


def test_send_gives_the_script_to_sbatch_and_prints_the_number(
    here: Here, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    tool(tmp_path / "bin", "sbatch", f"cat > {tmp_path}/script; echo 4711")
    assert here("submit", recipe).code == 0
    script = here.out
    here("submit", recipe, "--send")
    assert (here.code, here.out) == (0, "4711\n")
    assert (tmp_path / "script").read_text() == script
    (tmp_path / "script").unlink()
    assert here("submit", recipe, "--send", "--dry-run").out == script
    assert not (tmp_path / "script").exists()
    tool(tmp_path / "bin", "sbatch", "echo 'invalid partition specified: gpu' >&2; exit 1")
    here.fails(2, "RECIPE sbatch: refused the script (invalid partition specified: gpu)", "submit", recipe, "--send")


def test_wrong_turns_are_one_line(here: Here, recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here.fails(2, "--time: 'tomorrow', expected such as 24:00:00", "submit", recipe, "--time", "tomorrow")
    here.fails(2, "--gpus: -1, expected at least 0", "submit", recipe, "--gpus", "-1")
    here.fails(2, "expected a name without spaces", "submit", recipe, "--partition", "a\n#SBATCH --x")
    recipe.write_text(recipe.read_text().replace("history", "histroy"))
    here.fails(2, "Fix: write 'history'", "submit", recipe)
    monkeypatch.setenv("PATH", str(tmp_path))
    here.fails(2, "RECIPE sbatch: is not on this machine's PATH", "submit", "quickstart", "--send")
