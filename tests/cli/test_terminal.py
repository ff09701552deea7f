"""What all commands share: help, streams, pipes, colours, narrow terminals, completion."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import PROGRAM, Here, call, environment
from typer.testing import CliRunner

from sa_nowcast import cli
from sa_nowcast.cli import hindcast, recipes, terminal

COMMANDS = (
    "init", "validate", "convert", "run", "train", "forecast", "hindcast", "verify", "plot", "inspect", "schema",
    "doctor", "submit", "calibrate", "watch", "replay", "serve", "export",
)  # fmt: skip


def test_these_are_the_commands() -> None:
    assert {c.callback.__name__ for c in cli.app.registered_commands if c.callback} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(cli.app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: sa-nowcast {command}" in " ".join(shown.stdout.split())


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("schema", "doctor")])
def test_a_missing_argument_and_an_unknown_option_exit_with_2(command: str) -> None:
    for arguments in ([command], [command, "a", "b", "--no-such-option"]):
        shown = CliRunner().invoke(cli.app, arguments)
        assert shown.exit_code == 2
        assert shown.stdout == ""
        assert "Traceback" not in shown.output


def test_nobody_who_reads_on_is_no_error() -> None:
    # More than a pipe holds, so that writing meets the closed end.
    command = [sys.executable, "-c", "from sa_nowcast.cli import terminal, main; import sys\n"
               "@terminal.app.command()\ndef many(rich: bool = False) -> None:\n"
               "    for i in range(100_000):\n        terminal.result(i) if rich else terminal.typer.echo(i)\n"
               "main()", "many"]  # fmt: skip
    for option in ([], ["--rich"]):
        process = subprocess.Popen(
            [*command, *option], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(20) == terminal.BROKEN_PIPE


def test_a_pipe_that_is_closed_before_the_last_flush_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "_", *PROGRAM, "schema"],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode in (0, terminal.BROKEN_PIPE)


def test_a_stop_anywhere_is_one_line_and_75(here: Here, radar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sa_nowcast.sources.opening.open_data", stop)
    here.fails(75, "INTERRUPTED hindcast: stopped by Ctrl-C. Fix: run the same again",
               "hindcast", radar, "a.zarr", "--model", "persistence")  # fmt: skip
    assert hindcast is not None


def test_json_has_null_for_what_it_has_no_number_for(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.emit({"a": float("nan"), "b": [np.float32("inf"), np.int64(3), (1.5,)], 2: {"c": np.datetime64("2020")}})
    document = json.loads(capsys.readouterr().out)
    assert document == {"a": None, "b": [None, 3, [1.5]], "2": {"c": "2020-01-01"}}


def test_without_colour_there_are_no_escapes_and_a_narrow_terminal_loses_nothing(radar: Path) -> None:
    done = call("validate", str(radar), COLUMNS="40", NO_COLOR="1", TERM="xterm-256color")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    words = " ".join(done.stdout.split())
    assert "sorted, without a gap" in words
    assert "2020-06-01T03:15" in words


def complete(*words: str) -> list[str]:
    done = call(
        _SA_NOWCAST_COMPLETE="complete_bash", COMP_WORDS=" ".join(("sa-nowcast", *words)), COMP_CWORD=str(len(words))
    )
    return done.stdout.split()


@pytest.mark.slow
def test_a_log_with_colours_holds_no_moving_bar(radar: Path, tmp_path: Path) -> None:
    cut = [word for value in ("max_steps=2", "crop=16", "batch_size=1") for word in ("--set", f"training.{value}")]
    trained = call("train", "quickstart", *cut, "--output", str(tmp_path / "run"), FORCE_COLOR="1")
    assert trained.returncode == 0, trained.stderr
    assert "training" in trained.stderr
    converted = call("convert", str(radar), "-o", str(tmp_path / "fast.zarr"), FORCE_COLOR="1")
    assert converted.returncode == 0, converted.stderr
    for control in ("\x1b[?25l", "\x1b[2K", "\x1b[1A"):  # hide the cursor, erase a line, go up one
        assert control not in trained.stderr + converted.stderr


def test_shells_complete_commands_options_and_recipes_that_ship() -> None:
    assert complete("sub") == ["submit"]
    assert "quickstart" in complete("validate", "quick")
    assert complete("submit", "ablation/convlstm-") == ["ablation/convlstm-memory"]
    assert complete("hindcast", "--mod") == ["--model"]
    script = call("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_SA_NOWCAST_COMPLETE=complete_bash" in script.stdout, script.stderr


def test_names_and_files_complete_one_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quack.yaml").touch()
    (tmp_path / "folder").mkdir()
    assert recipes.complete("qu") == ["quack.yaml", "quickstart"]
    assert recipes.complete("fol") == ["folder/"]
    assert "traffic_nyc" in recipes.complete("")
    assert recipes.is_shipped("quickstart")
    (tmp_path / "quickstart").touch()
    assert not recipes.is_shipped("quickstart")


def test_usage_errors_and_versions_are_on_their_own_streams() -> None:
    shown = CliRunner().invoke(cli.app, ["--version"])
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", shown.stdout)
