from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from command_line import Here, call, in_process
from sequences import NETWORK, OPTIONS, georeferenced, rain
from typer.testing import CliRunner

import sa_nowcast
from sa_nowcast import cli, workflow
from sa_nowcast.cli.scores_table import scores_table
from sa_nowcast.errors import (
    DataError,
    Interrupted,
    MissingLibraryError,
    ModelError,
    RecipeError,
    SaNowcastError,
    StorageError,
)
from sa_nowcast.recipe import find_recipe
from sa_nowcast.workflow import pictures


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    georeferenced(rain(40)).to_netcdf(tmp_path / "rain.nc")
    tree = {
        "name": "trial",
        "history": 4,
        "steps": 3,
        "data": {"source": str(tmp_path / "rain.nc")},
        "network": {**NETWORK, "hidden": [4]},
        "training": OPTIONS,
        "verification": {"thresholds": [1]},
        "output": {"folder": str(tmp_path / "run")},
    }
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def _ran(out: str, err: str, folder: Path) -> None:
    assert "trial: test period, by lead time" in out
    assert "persistence" in out
    assert "CSI>=1" in out
    # Paths are not folded, whatever the width of the terminal: they are there to be copied.
    for name in ("model.nowcaster", "forecast.nc", "scores.csv", "forecast.png"):
        assert str(folder / name) in out.splitlines()
    assert err.splitlines()[0].startswith("training on 2020-06-01T00:00 to")


def test_a_recipe_runs_prints_a_table_and_its_files_and_a_second_time_says_that_it_is_done(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert in_process(monkeypatch, "run", str(recipe), "--quiet") == 0
    first = capfd.readouterr()
    _ran(first.out, first.err, tmp_path / "run")
    assert in_process(monkeypatch, "run", str(recipe), "--quiet") == 0
    second = capfd.readouterr()
    assert "holds this run, finished" in second.err
    assert second.out == first.out


@pytest.mark.slow
def test_a_recipe_runs_in_a_process_of_its_own(recipe: Path, tmp_path: Path) -> None:
    done = call("run", str(recipe), "--quiet")
    assert done.returncode == 0, done.stderr
    _ran(done.stdout, done.stderr, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_saves_the_run_exits_with_75_and_the_next_call_goes_on(
    recipe: Path, tmp_path: Path, number: signal.Signals
) -> None:
    tree = yaml.safe_load(recipe.read_text())
    tree["training"] |= {"max_steps": 100_000, "checkpoint_every": 5, "validate_every": 100_000}
    recipe.write_text(yaml.safe_dump(tree))
    code = "from sa_nowcast.cli import main; main()"
    arguments = [sys.executable, "-c", code, "run", str(recipe), "--quiet"]
    steps = []
    for _ in range(2):
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        log = tmp_path / "run" / "training" / "training.csv"
        before = log.stat().st_mtime_ns if log.exists() else 0
        while process.poll() is None and not (log.exists() and log.stat().st_mtime_ns > before):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 75
        found = re.search(
            rf"^INTERRUPTED training: {number.name} at step (\d+) of 100000; saved in .*run the same again", err, re.M
        )
        assert found, err
        steps.append(int(found[1]))
    assert steps[0] < steps[1]


def test_seed_and_output_replace_those_of_the_recipe(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "draw", lambda *args: args[-1].write_bytes(b"picture"))
    arguments = ("run", str(recipe), "--quiet", "--seed", "5", "--output", str(tmp_path / "other"))
    assert in_process(monkeypatch, *arguments) == 0
    nowcaster = sa_nowcast.load(str(tmp_path / "other" / "model.nowcaster"))
    assert nowcaster.provenance["options"]["training"]["seed"] == 5
    assert not (tmp_path / "run").exists()


def test_an_error_in_a_process_of_its_own_is_one_line_and_an_exit_code(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("history", "histroy"))
    done = call("run", str(recipe))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"RECIPE .*trial\.yaml, line \d+, histroy: unknown key.* Fix: write 'history'\.", line)


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        (lambda t: t.update(histroy=4), 2, "unknown key"),
        (lambda t: t["data"].update(source="none.nc"), 3, "DATA none.nc: no such file or folder"),
        (lambda t: t["output"].update(folder="/dev/null/run"), 5, "STORAGE /dev/null/run: the output folder cannot be"),
    ],
)
def test_an_error_is_one_line_on_standard_error_and_an_exit_code(
    recipe: Path, change: Any, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = yaml.safe_load(recipe.read_text())
    change(tree)
    recipe.write_text(yaml.safe_dump(tree))
    assert in_process(monkeypatch, "run", str(recipe)) == code
    out, err = capfd.readouterr()
    assert line in err
    assert len(err.splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize(
    "error",
    [
        RecipeError("a", "b"),
        MissingLibraryError("a", "b"),
        DataError("a [b]", "c [/d] :smile:"),
        ModelError("a", "b"),
        StorageError("a", "b" * 500),
        Interrupted("a", "b"),
        SaNowcastError("a", "b"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_every_kind_of_error_has_its_exit_code_and_its_message_whole(
    error: SaNowcastError, recipe: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(workflow, "run", fail)
    assert in_process(monkeypatch, "run", str(recipe)) == error.exit_code
    assert capfd.readouterr() == ("", f"{error}\n")


def test_an_internal_fault_is_one_line_and_exit_code_70_and_a_traceback_when_asked_for(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(workflow, "run", fail)
    assert in_process(monkeypatch, "run", str(recipe)) == 70
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("ERROR internal: ZeroDivisionError: division by zero")
    assert "--traceback" in line
    assert in_process(monkeypatch, "--traceback", "run", str(recipe)) == 70
    assert 'raise ZeroDivisionError("division' in capfd.readouterr().err


def test_a_traceback_of_a_known_error_is_shown_when_asked_for(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert in_process(monkeypatch, "--traceback", "run", "none") == 2
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "RECIPE none: no such file or shipped recipe" in err


def test_a_damaged_model_exits_with_4(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A run meets no model but its own; the commands that will take one share this way out.
    def fail(*args: Any, **options: Any) -> None:
        sa_nowcast.load(str(tmp_path / "none.nowcaster"))

    monkeypatch.setattr(workflow, "run", fail)
    assert in_process(monkeypatch, "run", str(recipe)) == 4


def test_version_and_help() -> None:
    runner = CliRunner()
    shown = runner.invoke(cli.app, ["--version"])
    assert (shown.exit_code, shown.stdout) == (0, f"{sa_nowcast.__version__}\n")
    for arguments in (["--help"], ["-h"], ["run", "--help"]):
        shown = runner.invoke(cli.app, arguments)
        assert shown.exit_code == 0
        assert "Usage" in shown.stdout


@pytest.mark.parametrize(
    "arguments", [["walk"], ["run"], ["run", "a.yaml", "--sede", "1"], ["run", "x", "--seed", "one"]]
)
def test_a_command_line_that_cannot_be_parsed_exits_with_2(arguments: list[str]) -> None:
    shown = CliRunner().invoke(cli.app, arguments)
    assert shown.exit_code == 2
    assert "Traceback" not in shown.output


def test_recipes_that_ship_are_found_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()  # a folder of that name is no recipe
    assert find_recipe("quickstart").name == "quickstart.yaml"
    with pytest.raises(
        RecipeError, match=r"quickstar: no such file or shipped recipe, expected a path.*Fix: write 'quickstart'"
    ):
        find_recipe("quickstar")
    with pytest.raises(RecipeError, match="runs/quickstart: no such file or shipped recipe"):
        find_recipe("runs/quickstart")
    assert find_recipe("runs/other.yaml") == Path("runs/other.yaml")


def test_a_negative_seed_is_refused(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_process(monkeypatch, "run", str(recipe), "--seed", "-1") == 2


def test_shipped_recipes_of_a_folder_are_found_by_their_place_in_it() -> None:
    assert find_recipe("ablation/convlstm").name == "convlstm.yaml"
    with pytest.raises(RecipeError, match=r"one of .*ablation/convlstm.*quickstart"):
        find_recipe("ablation/convlst")


def test_hindcasts_of_a_model_and_of_a_reference_are_archives_and_the_pace_is_said(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source, archive = tmp_path / "rain.nc", tmp_path / "archive.zarr"
    rain().to_netcdf(source)
    arguments = ("hindcast", str(source), str(archive), "--model", str(saved), "--quiet", "--device", "cpu")
    assert in_process(monkeypatch, *arguments) == 0
    shown = capfd.readouterr()
    assert shown.out.strip() == str(archive)
    assert re.search(r"51 frames, \S+ a second", shown.err)
    # 20 frames hold 17 init times with a history of 4; truth at the lead times is not needed.
    made = sa_nowcast.open_zarr(archive)["rain"]
    assert dict(made.sizes) == {"init_time": 17, "lead_time": 3, "y": 24, "x": 20}
    later = (*arguments[:2], str(tmp_path / "still.zarr"), "--model", "persistence", "--steps", "2", "--quiet")
    assert in_process(monkeypatch, *later, "--from", "2020-06-01T01:00", "--to", "2020-06-01T01:10") == 0
    still = sa_nowcast.open_zarr(tmp_path / "still.zarr")["rain"]
    assert dict(still.sizes) == {"init_time": 3, "lead_time": 2, "y": 24, "x": 20}
    assert (still.isel(init_time=0, lead_time=1).values == rain().sel(time="2020-06-01T01:00").values).all()


def test_another_archive_at_the_output_path_is_refused_in_one_line(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source, archive = tmp_path / "rain.nc", tmp_path / "archive.zarr"
    rain().to_netcdf(source)
    arguments = ("hindcast", str(source), str(archive), "--model", "persistence", "--quiet", "--steps")
    assert in_process(monkeypatch, *arguments, "2") == 0
    capfd.readouterr()
    assert in_process(monkeypatch, *arguments, "3") == 5
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("STORAGE")
    assert in_process(monkeypatch, *arguments, "3", "--replace") == 0


def test_a_reference_without_any_error_has_no_ratio() -> None:
    scores = pd.DataFrame(
        {
            "lead_time_minutes": [5.0],
            "metric": ["mse"],
            "threshold": [float("nan")],
            "value": [0.5],
            "units": ["K2"],
            "count": [1],
            "reference": ["persistence"],
            "reference_value": [0.0],
            "skill": [float("-inf")],
        }
    )
    table = scores_table(scores, "still")
    assert [list(column.cells) for column in table.columns] == [["5"], ["0.5"], ["0"], ["-"]]


FAULTS: list[tuple[Any, int, str]] = [
    (lambda t: t["data"].update(source="none.nc"), 3, "DATA none.nc: no such file or folder"),
    (lambda t: t["data"].update(variables=["rian"]), 3, "no variable 'rian'"),
    (lambda t: t["output"].update(folder="/dev/null/run"), 5, "/dev/null/run: the output folder cannot be written"),
    (lambda t: t["training"].update(device="cuda:7"), 2, "cuda:7 was asked for"),
    (lambda t: t.update(history=30), 3, "would be left to train on"),
    (lambda t: t["network"].update(hidden=[40000]) or t["training"].update(batch_size=64), 4, "needs about"),
    (lambda t: t.update(split={"test_region": {"x": [1e6, 2e6]}}), 2, "no grid point from"),
]


@pytest.mark.parametrize(("change", "code", "line"), FAULTS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_dry_run_fails_with_the_line_and_code_of_the_run_and_leaves_nothing(
    change: Any, code: int, line: str, recipe: Path, tmp_path: Path, here: Here
) -> None:
    tree = yaml.safe_load(recipe.read_text())
    change(tree)
    recipe.write_text(yaml.safe_dump(tree))
    before = sorted(tmp_path.rglob("*"))
    here.fails(code, line, "run", recipe, "--dry-run")
    dry = here.err
    assert sorted(tmp_path.rglob("*")) == before
    here("run", recipe, "--quiet")
    assert here.code == code
    # The memory that is free may change from one call to the next.
    said = re.sub(r"[0-9.]+ GiB", "", here.err.splitlines()[-1])
    assert said == re.sub(r"[0-9.]+ GiB", "", dry.rstrip("\n"))


def test_a_dry_run_of_a_conversion_looks_at_the_source_and_makes_no_store(
    recipe: Path, tmp_path: Path, here: Here
) -> None:
    tree = yaml.safe_load(recipe.read_text()) | {"conversion": {"to": str(tmp_path / "new" / "rain.zarr")}}
    recipe.write_text(yaml.safe_dump(tree))
    here("run", recipe, "--dry-run", "--json")
    assert here.code == 0, here.err
    found = json.loads(here.out)["findings"]
    assert [f["check"] for f in found] == ["recipe", "output", "conversion", "libraries", "device", "data", "memory"]
    assert not (tmp_path / "new").exists()


def test_results_as_json(recipe: Path, tmp_path: Path, here: Here) -> None:
    here("run", recipe, "--quiet", "--json")
    document = json.loads(here.out)
    assert document["files"][0] == str(tmp_path / "run" / "model.nowcaster")
    assert {row["metric"] for row in document["scores"]} == {"mse", "csi"}
    here("train", recipe, "--quiet", "--json")
    assert json.loads(here.out) == {"model": str(tmp_path / "run" / "model.nowcaster")}


def test_runs_of_tables_that_cannot_be_made_are_said_and_the_tables_are_still_printed(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAXIBJ", str(tmp_path / "nowhere"))
    asked = ["run", "paper_tables", "--output", tmp_path / "runs", "--set", "only=[taxibj]"]
    here(*asked, "--set", "networks=[convlstm]", "--dry-run")
    assert (here.code, here.out) == (3, "")
    failure = f"DATA {tmp_path / 'nowhere'}: no such file or folder"
    assert f"taxibj convlstm: data: {failure}" in here.err
    assert not (tmp_path / "runs").exists()
    here(*asked, "--set", "networks=[convlstm, sa-convlstm]")
    assert here.code == 3
    assert f"taxibj convlstm: {failure}" in here.err
    assert f"taxibj sa-convlstm: {failure}" in here.err
    assert "Table 3a" in here.out
    assert "0.269" in here.out
    here(*asked, "--set", "run=false", "--json")
    assert here.code == 0
    document = json.loads(here.out)
    assert document["failed"] == []
    first = {"table": "Table 1, TaxiBJ", "recipe": "taxibj", "network": "convlstm", "score": "ssim"}
    empty = {"lead": None, "threshold": None, "ours": None, "why": ""}
    assert document["figures"][0] == {**first, **empty, "printed": 0.979}
    assert len(document["figures"]) == 5 * 3 + 8 * 4


def test_a_network_that_data_do_not_suit_is_a_row_that_says_why_and_no_failure(here: Here, tmp_path: Path) -> None:
    asked = ["run", "networks", "--output", tmp_path / "runs", "--set", "only=[networks/radar]"]
    asked += ["--set", "networks=[fc-lstm, st-resnet]", "--set", "overrides=['network.hidden=[2]']"]
    asked += ["--set", "settings={networks/radar st-resnet: [network.period=1]}"]
    here(*asked, "--dry-run")
    assert here.code == 0
    assert "networks/radar fc-lstm: memory: RECIPE network.grid: 64x64, which the weights of fc-lstm" in here.err
    assert "networks/radar st-resnet: RECIPE" in here.err
    assert "network.frames_a_day: not given, with period: 1" in here.err
    here(*asked, "--set", "run=false")
    assert here.code == 0
    assert "printed" not in here.out
    (default, fc_lstm, st_resnet) = [line for line in here.out.splitlines() if line.startswith("│")][1:]
    assert "default" in default
    assert default.count("missing") == fc_lstm.count("missing") == st_resnet.count("cannot") == 7
    assert "st-resnet: RECIPE" in here.out


@pytest.mark.parametrize("name", ["paper_tables", "networks", "default_model_scores"])
def test_other_commands_refuse_a_recipe_that_is_no_experiment(here: Here, name: str) -> None:
    for command in ("train", "submit"):
        here.fails(2, "expected one of an experiment. Fix: start it by sa-nowcast run", command, name)


@pytest.mark.parametrize("name", ["paper_tables", "networks", "default_model_scores"])
def test_a_seed_is_refused_where_no_network_is_trained(here: Here, name: str) -> None:
    here.fails(2, "--seed: 1 for " + name, "run", name, "--seed", 1, "--dry-run")
