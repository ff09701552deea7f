"""Remedies name options of the command that was called, and --json prints errors as JSON."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Here
from sequences import georeferenced, rain

from sa_nowcast.cli import app
from sa_nowcast.cli.remedies import spelled, spelled_error
from sa_nowcast.errors import DataError, RecipeError

COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
OPENING = ("validate", "init", "forecast", "hindcast", "verify", "convert", "inspect", "doctor", "plot")
TOLD = ("--engine", "--option", "--time-pattern", "--variable", "--time", "--y", "--x", "--channel")
FLAGS = [
    (name, parameter)
    for name, command in COMMANDS.items()
    for parameter in command.params
    if parameter.param_type_name == "option"
]


@pytest.mark.parametrize("name", OPENING)
def test_dimensions_and_variables_can_be_told_wherever_data_are_opened(name: str) -> None:
    flags = {flag for parameter in COMMANDS[name].params for flag in parameter.opts}
    assert set(TOLD) <= flags


@pytest.mark.parametrize(("name", "parameter"), FLAGS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_every_option_is_what_its_argument_becomes(name: str, parameter: Any) -> None:
    flag = next(o for o in parameter.opts if o.startswith("--"))
    fix = f"do this first, or pass {parameter.name}='a b'"
    wanted = flag if parameter.is_flag else f"{flag} 'a b'"
    assert spelled(fix, COMMANDS[name]) == f"do this first, or pass {wanted}"
    assert spelled(f"name one with {parameter.name}=", COMMANDS[name]) == f"name one with {flag}"


@pytest.mark.parametrize(
    ("command", "python", "shown"),
    [
        ("validate", "name it with y=, or set its CF attributes", "name it with --y, or set its CF attributes"),
        ("forecast", "name it with channel='flow'", "name it with --channel flow"),
        ("convert", "replace it with existing='replace'", "replace it with --replace"),
        ("convert", "pass overwrite=True", "pass --replace"),
        ("convert", "irregular='allow', where they are meant", "--irregular allow, where they are meant"),
        ("forecast", "reproject, or pass grid='any'", "reproject, or pass --grid any"),
        ("init", "time_pattern='%Y%m%dT%H%M', as the name has it", "--time-pattern %Y%m%dT%H%M, as the name has it"),
        ("init", "name one of them, such as qty='DBZH'", "name one of them, such as --option qty=DBZH"),
        ("inspect", "give key='arr_0'", "give --option key=arr_0"),
        ("run", "name it with y='north'", "name it with --set data.y=north"),
        ("train", "time_pattern='%Y%m%d'", "--set data.options.time_pattern=%Y%m%d"),
        ("run", "gaps='skip' in Python", "--set data.gaps=skip in Python"),
        ("validate", "ds.isel(time=0), or y='lat'", "ds.isel(time=0), or --y lat"),
        ("validate", "ds.convert_calendar('standard', dim='time')", "ds.convert_calendar('standard', dim='time')"),
        ("verify", "give thresholds=", "give --threshold"),
    ],
)  # fmt: skip
def test_remedies_are_in_the_words_of_the_command(command: str, python: str, shown: str) -> None:
    assert spelled(python, COMMANDS[command]) == shown


def test_an_argument_that_is_at_fault_is_named_as_the_option() -> None:
    error = spelled_error(RecipeError("lead_time", "7min", expected="a multiple of 5 min"), COMMANDS["forecast"])
    assert (error.where, type(error)) == ("--lead-time", RecipeError)
    same = DataError("rain, 2020-06-01", "1 frame", fix="give more frames")
    assert spelled_error(same, COMMANDS["forecast"]) is same


@pytest.fixture(scope="module")
def mended() -> Callable[[str, str, Path], bytes]:
    """Runs a remedy's program on the file of a folder; the same program on the same file, of another command, once."""
    done: dict[tuple[str, str], bytes] = {}

    def run(kind: str, code: str, folder: Path) -> bytes:
        if (kind, code) not in done:
            subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
            done[kind, code] = (folder / "mended.nc").read_bytes()
        return done[kind, code]

    return run


@pytest.mark.parametrize("command", ["validate", "forecast", "hindcast", "init", "convert"])
@pytest.mark.parametrize("kind", ["unsorted rows", "undeclared fill values", "times twice"])
def test_a_remedy_in_python_is_a_command_that_mends_a_copy_of_the_file(
    command: str,
    kind: str,
    here: Here,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mended: Callable[[str, str, Path], bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    ds = rain(12).to_dataset()
    if kind == "unsorted rows":
        ds = ds.isel(y=[1, 0, *range(2, ds.sizes["y"])])
    elif kind == "times twice":
        ds = ds.isel(time=[0, 0, *range(1, 12)])
    else:
        ds["rain"] = ds["rain"].where(ds["rain"] > 0, 9.96921e36)
    ds.to_netcdf("own rain.nc")
    rest = {
        "validate": [], "forecast": ["--steps", 1, "-o", "out.nc"], "init": ["-o", "out.yaml"], "convert": ["out.zarr"],
        "hindcast": ["out.zarr", "--model", "persistence", "--steps", 1],
    }[command]  # fmt: skip
    here(command, "own rain.nc", *rest)
    if here.code == 0:
        assert command == "convert"  # which keeps values and coordinates as they are
        return
    assert here.code == 3, here.err
    said = " ".join((here.err or here.out).split())
    fix = said.partition(" Fix: ")[2]
    assert fix.startswith("python -c "), said
    assert "mended.nc in place of own rain.nc" in fix
    _, _, code, *_ = shlex.split(fix)
    (tmp_path / "mended.nc").write_bytes(mended(kind, code, tmp_path))
    here(command, "mended.nc", *rest)
    assert here.code == 0, here.err + here.out


def test_variables_of_one_grid_are_chosen_by_an_option(here: Here, tmp_path: Path) -> None:
    rain(12).to_dataset().assign(coarse=rain(12, 6, 5).rename(y="y2", x="x2")).to_netcdf(tmp_path / "two.nc")
    here("forecast", tmp_path / "two.nc", "--steps", 1, "-o", tmp_path / "out.nc")
    assert "Fix: --variable rain." in here.err
    assert (
        here("forecast", tmp_path / "two.nc", "--steps", 1, "-o", tmp_path / "out.nc", "--variable", "rain").code == 0
    )


@pytest.fixture
def unnamed(tmp_path: Path) -> Path:
    """Frames whose dimensions nothing names."""
    ds = georeferenced(rain(40)).drop_vars(["y", "x", "latitude", "longitude", "crs"])
    ds.rename(y="north_up", x="east_up", time="slot").drop_attrs().to_netcdf(tmp_path / "unnamed.nc")
    return tmp_path / "unnamed.nc"


NAMES = ("--y", "north_up", "--x", "east_up", "--time", "slot")


def test_dimensions_that_nothing_names_are_told_on_every_command(here: Here, unnamed: Path, tmp_path: Path) -> None:
    here("validate", unnamed)
    assert here.code == 3
    assert "--y" in here.out
    assert here("validate", unnamed, *NAMES).code == 0
    assert here("inspect", unnamed, *NAMES).code == 0
    recipe = tmp_path / "r.yaml"
    assert here("init", unnamed, *NAMES, "--variable", "rain", "-o", recipe).code == 0, here.err
    assert "y: north_up" in recipe.read_text()
    assert here("run", recipe, "--dry-run").code == 0, here.err
    forecast = tmp_path / "f.nc"
    assert here("forecast", unnamed, *NAMES, "--steps", 2, "-o", forecast).code == 0, here.err
    archive = tmp_path / "a.zarr"
    assert here("hindcast", unnamed, archive, "--model", "persistence", "--steps", 2, "--stride", 8, *NAMES).code == 0
    assert here("verify", archive, unnamed, *NAMES, "--json").code == 0, here.err
    assert here("convert", unnamed, tmp_path / "s.zarr", *NAMES).code == 0, here.err


def test_truth_with_other_names_is_matched_by_the_names_that_are_told(here: Here, radar: Path, tmp_path: Path) -> None:
    archive, truth = tmp_path / "a.zarr", tmp_path / "truth.nc"
    here("hindcast", radar, archive, "--model", "persistence", "--steps", 2, "--stride", 8)
    georeferenced(rain(40)).rename(y="rows_up", x="cols_up", time="slot").drop_attrs().to_netcdf(truth)
    assert here("verify", archive, radar, "--json").code == 0
    expected = json.loads(here.out)["scores"]
    told = ("--y", "rows_up", "--x", "cols_up", "--time", "slot", "--variable", "rain")
    named = xr_units(truth)
    assert here("verify", archive, named, *told, "--json").code == 0, here.err
    assert json.loads(here.out)["scores"] == expected
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib: pip install matplotlib")
    picture = tmp_path / "p.png"
    assert here("plot", archive, "--truth", named, *told[:6], "-o", picture).code == 0, here.err


def xr_units(path: Path) -> Path:
    """The same file with units again."""
    import xarray as xr

    ds = xr.load_dataset(path)
    ds.rain.attrs["units"] = "mm h-1"
    ds.to_netcdf(path)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("validate", "none.nc", "--bogus"), ("inspect", "none.nc"), ("convert", "none.nc", "s.zarr"),
        ("forecast", "none.nc"), ("hindcast", "none.nc", "a.zarr"), ("verify", "none.zarr", "none.nc"),
        ("plot", "none.nc"), ("run", "none.yaml"), ("train",), ("doctor", "none.yaml"), ("bogus",),
    ],
)  # fmt: skip
def test_errors_are_one_json_document(here: Here, arguments: tuple[str, ...]) -> None:
    here(*arguments, "--json")
    document = json.loads(here.out)
    assert set(document) == {"kind", "where", "found", "expected", "fix", "exit_code"}
    assert document["exit_code"] == here.code > 0
    (line,) = here.err.splitlines()
    assert line.startswith(f"{document['kind']} {document['where']}: {document['found']}")


def test_json_after_two_dashes_is_no_option(here: Here) -> None:
    here("inspect", "--", "--json")
    assert (here.code, here.out) == (3, "")


def test_help_and_success_with_json_still_end_well(here: Here, radar: Path) -> None:
    assert here("inspect", "--json", "--help").code == 0
    assert here("inspect", radar, "--json").code == 0
    assert json.loads(here.out)["kind"] == "data"


def test_findings_hold_their_error_as_json(here: Here, radar: Path) -> None:
    here("validate", radar, "--y", "north", "--json")
    (error,) = [f["error"] for f in json.loads(here.out)["findings"] if f["error"]]
    assert error["fix"] == "name one with --y"
    assert error["exit_code"] == here.code == 3


def test_a_warning_is_one_line(here: Here, tmp_path: Path) -> None:
    ds = georeferenced(rain(40))
    for name, part in (("a", slice(0, 20)), ("b", slice(20, 20)), ("c", slice(20, 40))):
        ds.isel(time=part).to_netcdf(tmp_path / f"{name}.nc", unlimited_dims=["time"])
    here("inspect", tmp_path)
    assert here.code == 0
    assert here.err.splitlines() == [f"warning: left out 1 file that holds no time step: {tmp_path}/b.nc"]
