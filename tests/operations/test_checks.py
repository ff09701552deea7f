"""What a recipe is refused for, before anything starts."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from operations.service_files import caught_up, frames, incoming, published, service
from sa_nowcast.errors import DataError, RecipeError, SaNowcastError, StorageError
from sa_nowcast.operations import checks, watch
from sa_nowcast.recipe import ServiceRecipe, read_any, read_recipe, read_service

TEXT = """\
name: a
arrivals: {source: in, step: 5min}
output: {folder: out}
"""


def test_a_recipe_with_arrivals_is_a_services(tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(TEXT)
    recipe = read_service(path, ["max_age=2h"])
    assert isinstance(read_any(path), ServiceRecipe)
    assert (recipe.steps, recipe.max_age, recipe.model) == (12, "2h", "default")
    with pytest.raises(RecipeError, match=r"the recipe of a service, expected one of an experiment.*sa-nowcast watch"):
        read_recipe(path)
    path.write_text("name: a\n")
    with pytest.raises(RecipeError, match="no block arrivals"):
        read_service(path)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("max_age=soon", "a duration such as 5min"),
        ("keep=30min", "at least 65min, by which a forecast is verified"),
        ("arrivals.patern=a", "Fix: write 'pattern'"),
        ("points=[{name: a, latitude: 1}]", "latitude and longitude, or y and x"),
        ("points=[{name: a, y: 1, x: 1}, {name: a, y: 1, x: 1}]", "a name of its own for each"),
        ("quantiles=[0.5, 0.1]", "ascending numbers between 0 and 1"),
        ("products=[matched]", r"\[mean\] or \[mean, matched\]"),
        ("verification.references=[sprog]", "'persistence'"),
    ],
)
def test_a_field_is_refused_with_its_place(override: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(TEXT)
    with pytest.raises(RecipeError, match=expected):
        read_service(path, [override])


def test_each_thing_that_would_stop_it_is_one_line_before_anything_is_written(tmp_path: Path, saved: Path) -> None:
    ds = frames(4)
    folder = incoming(tmp_path, ds, range(4))
    busy = socket.socket()
    busy.bind(("127.0.0.1", 0))
    busy.listen()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    point = {"name": "far", "y": 1e6, "x": 0}
    for more, kind, text in (
        ({"output": {"folder": str(folder / "out")}}, RecipeError, "lies in its input"),
        ({"output": {"folder": str(tmp_path)}}, RecipeError, "holds its input"),
        ({"output": {"folder": str(tmp_path / "file")}}, StorageError, "cannot be written"),
        ({"output": {"folder": str(tmp_path / "full")}}, StorageError, "something else than a service's outputs"),
        ({"port": busy.getsockname()[1]}, RecipeError, "cannot be had"),
        ({"points": [point]}, DataError, "point 'far'.*outside the grid"),
        ({"thresholds": ["3 K"], "model": "default"}, RecipeError, "3 is in K, expected the data's units mm h-1"),
        ({"thresholds": [1.0]}, RecipeError, "which forecasts no distribution"),
        ({"members": 4}, RecipeError, "which forecasts no distribution"),
        ({"arrivals": {"source": str(tmp_path / "none")}}, DataError, "no such folder or store"),
        ({"arrivals": {"source": str(tmp_path / "empty")}}, DataError, "yet, to tell the grid by"),
        ({"arrivals": {"variable": "snow"}}, DataError, "no variable 'snow'"),
        ({"arrivals": {"units": "K"}}, RecipeError, "units that these convert to"),
        ({"arrivals": {"step": "10min"}}, SaNowcastError, "step is 10 min"),
        ({"areas": str(tmp_path / "none.geojson")}, DataError, "cannot be read"),
        ({"model": str(tmp_path / "none")}, SaNowcastError, "none"),
    ):
        recipe = service(tmp_path, ds, **{"model": saved, **more})
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(kind, match=text) as caught:
            watch(recipe, until_idle=True)
        assert "\n" not in str(caught.value)
        assert sorted(tmp_path.rglob("*")) == before, more
    busy.close()


@pytest.mark.slow  # tests/remedies try it too
def test_a_folder_of_another_service_is_refused(tmp_path: Path, saved: Path) -> None:
    ds = frames(4)
    incoming(tmp_path, ds, range(4))
    out = caught_up(service(tmp_path, ds, saved))
    for more in ({"name": "another"}, {"steps": 2}):
        with pytest.raises(
            StorageError, match="was written by another service: " + ("name" if "name" in more else "lead")
        ):
            checks.check(service(tmp_path, ds, saved, **more))
    journal = out / "state" / "journal.sqlite"
    journal.rename(out / "state" / "away")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match=r"observed\.zarr: was written by another service"):
        caught_up(service(tmp_path, ds, saved))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / "state" / "away").rename(journal)
    told = json.loads((out / "service.json").read_text())
    (out / "service.json").write_text(json.dumps({**told, "id": "another"}))
    with pytest.raises(StorageError, match=r"observed\.zarr: was written by another service"):
        checks.check(service(tmp_path, ds, saved))


@pytest.mark.slow
def test_units_of_the_recipe_are_those_of_what_is_published(tmp_path: Path, saved: Path) -> None:
    ds = frames(4)
    ds["rain"] = (ds["rain"] / 3.6e6).astype("float32").assign_attrs(ds["rain"].attrs, units="m s-1")
    incoming(tmp_path, ds, range(4))
    out = caught_up(service(tmp_path, ds, saved, arrivals={"units": "mm h-1"}))
    assert len(published(out)) == 1
