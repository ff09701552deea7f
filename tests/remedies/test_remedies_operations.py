"""What keeps a service from starting, and what is done about it."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from pathlib import Path

import pytest
import yaml
from operations.service_files import drop, frames, incoming, service

from remedies.trial import command, remedy
from sa_nowcast.errors import RecipeError
from sa_nowcast.operations import checks, replay, watch
from sa_nowcast.recipe import read_recipe, read_service


@pytest.fixture
def ds(tmp_path: Path):
    made = frames(4)
    incoming(tmp_path, made, range(4))
    return made


def started(recipe):
    """Return the start of a service, as far as it is checked before."""
    return lambda: checks.check(recipe)


@remedy("operations/checks.py", "write output.folder=…")
def test_an_output_in_its_input(ds, tmp_path, saved):
    recipe = service(tmp_path, ds, saved, output={"folder": str(tmp_path / "incoming" / "out")})
    fix = yield started(recipe)
    folder = fix.removeprefix("write output.folder=").strip("'")
    yield started(service(tmp_path, ds, saved, output={"folder": folder}))


@remedy("operations/checks.py", "name another folder")
def test_an_output_that_is_a_file(ds, tmp_path, saved):
    (tmp_path / "file").write_text("")
    yield started(service(tmp_path, ds, saved, output={"folder": str(tmp_path / "file")}))
    yield started(service(tmp_path, ds, saved))


@remedy("operations/checks.py", "make the folder, or name another one")
@pytest.mark.parametrize("how", ["make", "name"])
def test_no_folder_of_frames(how, ds, tmp_path, saved):
    other = tmp_path / "other"
    recipe = service(tmp_path, ds, saved, arrivals={"source": str(other)})
    yield started(recipe)
    if how == "make":
        shutil.copytree(tmp_path / "incoming", other)
    yield started(recipe if how == "make" else service(tmp_path, ds, saved))


@remedy("operations/checks.py", "name a file with the grid and units of the frames as arrivals.like")
def test_an_empty_folder(ds, tmp_path, saved):
    shutil.move(tmp_path / "incoming", tmp_path / "before")
    (tmp_path / "incoming").mkdir()
    yield started(service(tmp_path, ds, saved))
    like = next((tmp_path / "before").iterdir())
    yield started(service(tmp_path, ds, saved, arrivals={"like": str(like)}))


@remedy("operations/site.py", "name one as arrivals.variable")
def test_several_variables(ds, tmp_path, saved):
    shutil.rmtree(tmp_path / "incoming")
    two = ds.assign(snow=ds["rain"])
    incoming(tmp_path, two, range(4))
    yield started(service(tmp_path, two, saved, arrivals={"variable": None}))
    yield started(service(tmp_path, two, saved, arrivals={"variable": "rain"}))


@remedy("operations/checks.py", "leave … out, or take the default model")
@pytest.mark.parametrize("how", ["leave", "take"])
def test_probabilities_of_a_model_without_a_distribution(how, ds, tmp_path, saved):
    yield lambda: checks.check(service(tmp_path, ds, saved, thresholds=[1.0]))
    given = (saved, {}) if how == "leave" else ("default", {"thresholds": [1.0]})
    yield lambda: checks.check(service(tmp_path, ds, given[0], **given[1]))


@remedy("operations/checks.py", "leave geotiff out of output.formats")
def test_a_geotiff_without_a_projection(ds, tmp_path, saved):
    shutil.rmtree(tmp_path / "incoming")
    bare = ds.drop_vars(["crs", "latitude", "longitude"])
    del bare["rain"].attrs["grid_mapping"]
    incoming(tmp_path, bare, range(4))
    yield started(service(tmp_path, bare, saved, output={"formats": ["netcdf", "geotiff"]}))
    yield started(service(tmp_path, bare, saved, output={"formats": ["netcdf"]}))


@remedy("operations/checks.py", "name another port, or null")
def test_a_port_in_use(ds, tmp_path, saved):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        yield started(service(tmp_path, ds, saved, port=busy.getsockname()[1]))
        yield started(service(tmp_path, ds, saved, port=None))


@remedy("operations/checks.py", "name another output.folder, or remove this one")
@pytest.mark.parametrize("how", ["name", "remove"])
def test_a_folder_of_another_service(how, ds, tmp_path, saved):
    watch(service(tmp_path, ds, saved, name="former"), until_idle=True)
    yield started(service(tmp_path, ds, saved))
    if how == "remove":
        shutil.rmtree(tmp_path / "out")
        yield started(service(tmp_path, ds, saved))
    else:
        yield started(service(tmp_path, ds, saved, output={"folder": str(tmp_path / "new")}))


@remedy("operations/service.py", "name another output.folder, or remove it")
def test_a_store_of_another_service(ds, tmp_path, saved):
    out = watch(service(tmp_path, ds, saved), until_idle=True)
    with sqlite3.connect(out / "state" / "journal.sqlite") as journal:
        journal.execute("delete from facts")
    journal.close()
    yield lambda: watch(service(tmp_path, ds, saved), until_idle=True)
    shutil.rmtree(out)
    yield lambda: watch(service(tmp_path, ds, saved), until_idle=True)


@remedy("operations/replay.py", "remove it, or name another one")
def test_a_replay_into_a_folder_that_is_not_empty(ds, tmp_path, saved):
    # Its data are one frame, which is refused after the folders were looked at.
    shutil.copytree(tmp_path / "incoming", tmp_path / "data")
    drop(ds, 0, tmp_path, "one.nc")
    recipe = service(tmp_path, ds, saved)
    yield lambda: replay(str(tmp_path / "one.nc"), recipe)
    shutil.rmtree(tmp_path / "incoming")

    def again():
        with pytest.raises(Exception, match="1 frame"):
            replay(str(tmp_path / "one.nc"), recipe)

    yield again


def _written(tmp_path: Path, ds, saved: Path) -> Path:
    path = tmp_path / "service.yaml"
    recipe = service(tmp_path, ds, saved)
    told = recipe.model_dump(mode="json")
    path.write_text(yaml.safe_dump(told))
    return path


@remedy("recipe/reading.py", "see sa-nowcast watch --help")
def test_a_recipe_that_is_no_services(ds, tmp_path, saved):
    path = tmp_path / "other.yaml"
    path.write_text("name: other\n")
    yield lambda: read_service(path)
    yield lambda: read_service(_written(tmp_path, ds, saved))


@remedy("cli/run.py", "sa-nowcast watch …")
def test_a_service_that_is_run(ds, tmp_path, saved, monkeypatch):
    path = _written(tmp_path, ds, saved)
    fix = yield command(monkeypatch, "run", path)
    yield command(monkeypatch, *fix.split()[1:], "--dry-run")


def test_an_experiment_is_asked_of_a_service(ds, tmp_path, saved):
    with pytest.raises(RecipeError, match="start it by sa-nowcast watch, with --dry-run to check it"):
        read_recipe(_written(tmp_path, ds, saved))
