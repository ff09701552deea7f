"""What the command line prints: its own options, in remedies that are given to the same command."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from sequences import georeferenced, rain

from remedies.trial import Printed, command, flags, remedy, without_privileges


@pytest.fixture
def radar(tmp_path: Path) -> Path:
    path = tmp_path / "radar.nc"
    georeferenced(rain(40)).to_netcdf(path)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    def make(*arguments):
        return command(monkeypatch, *arguments)

    return make


@remedy("cli/init.py", "name another file with -o, or give --force")
@pytest.mark.parametrize("how", ["-o", "--force"])
def test_a_recipe_stands_there(how, run, radar, tmp_path):
    place = tmp_path / "a.yaml"
    place.write_text("mine")
    yield run("init", radar, "-o", place)
    yield run("init", radar, "-o", tmp_path / "b.yaml") if how == "-o" else run("init", radar, "-o", place, how)


@remedy("cli/recipes.py", "leave --seed out")
def test_a_seed_of_a_comparison(run, radar, tmp_path):
    path = tmp_path / "compare.yaml"
    path.write_text(
        f"name: comparison\nhistory: 3\nsteps: 2\nmodels: [default, persistence]\n"
        f"sets: [{{name: rain, source: {radar}}}]\noutput: {{folder: {tmp_path / 'out'}}}\n"
    )
    yield run("run", path, "--dry-run", "--seed", 1)
    yield run("run", path, "--dry-run")


@remedy("cli/validate.py", "sa-nowcast inspect …")
def test_a_forecast_is_inspected(run, radar, saved, tmp_path):
    target = tmp_path / "forecast.nc"
    run("forecast", radar, "--model", saved, "-o", target)()
    fix = yield run("validate", target)
    yield run(*fix.split()[1:])


@remedy(
    "cli/hindcast.py",
    "give --training-until with a time before the first init time, or --training with other frames",
)
@pytest.mark.parametrize("option", ["--training-until", "--training"])
def test_a_climatology_of_no_period(option, run, tmp_path):
    source, target = tmp_path / "long.nc", tmp_path / "a.zarr"
    rain(700, 8, 8).to_netcdf(source)
    given = ("hindcast", source, target, "--model", "climatology", "--steps", 1, "--from", "2020-06-03T08:00")
    fix = yield run(*given)
    assert option in flags(fix)
    yield run(*given, option, "2020-06-03T07:00" if option == "--training-until" else source)


@remedy("cli/hindcast.py", "take a later time")
def test_a_climatology_until_a_time_before_all(run, tmp_path):
    source = tmp_path / "long.nc"
    rain(700, 8, 8).to_netcdf(source)
    given = ("hindcast", source, tmp_path / "a.zarr", "--model", "climatology", "--steps", 1)
    given = (*given, "--from", "2020-06-03T08:00")
    yield run(*given, "--training-until", "2010-01-01")
    yield run(*given, "--training-until", "2020-06-03T07:00")


@remedy("cli/terminal.py", "run the same again; what is finished stays")
def test_a_command_that_was_stopped(run, radar, saved, tmp_path, monkeypatch):
    import sa_nowcast.sources.opening

    opened = sa_nowcast.sources.opening.open_data

    def stopped(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return opened(*arguments, **options)

    given = ("forecast", radar, "--model", saved, "-o", tmp_path / "a.nc")

    def first():
        with monkeypatch.context() as patch:
            patch.setattr(sa_nowcast.sources.opening, "open_data", stopped)
            run(*given)()

    yield first
    yield run(*given)


@remedy("cli/terminal.py", "make room, give the right to read and write it, or name another place")
@pytest.mark.parametrize("how", ["right", "place"])
def test_what_no_room_foresaw_of_storage(how, run, radar, saved, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0)

    def call(place):
        with without_privileges():
            run("init", radar, "-o", place)()

    yield lambda: call(folder / "a.yaml")
    folder.chmod(0o700)
    yield lambda: call((folder if how == "right" else tmp_path) / "a.yaml")


@remedy("cli/terminal.py", "run again with sa-nowcast --traceback, and report what it shows")
def test_an_internal_fault_shows_where_it_arose(run, radar, saved, tmp_path, monkeypatch):
    import sa_nowcast.sources.opening

    def broken(*arguments, **options):
        raise AssertionError("a fault of ours")

    monkeypatch.setattr(sa_nowcast.sources.opening, "open_data", broken)
    given = ("forecast", radar, "--model", saved, "-o", tmp_path / "a.nc")
    fix = yield run(*given)
    assert flags(fix) == ["--traceback"]

    def shown():
        with pytest.raises(Printed) as caught:
            run("--traceback", *given)()
        assert "Traceback" in caught.value.printed
        assert "in broken" in caught.value.printed

    yield shown


@remedy("cli/terminal.py", "… --help")
def test_an_option_that_there_is_not(run, radar):
    fix = yield run("inspect", radar, "--colour", "--json")
    yield run(*fix.split()[1:])
