"""Icechunk repositories: opened at a branch, tag or snapshot, from a folder and from a real S3 server."""

from __future__ import annotations

import json
import logging
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from object_server import ObjectServer
from sequences import rain
from virtual import committed, with_references

import sa_nowcast
from sa_nowcast import cli
from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError, SaNowcastError
from sa_nowcast.sources import open_source
from sa_nowcast.sources.opening import kind_of, open_data, zarr_header
from sa_nowcast.stream import SequenceDataset, loader
from sa_nowcast.stream.blocks import ZarrBlocks

icechunk = pytest.importorskip("icechunk", reason=install("icechunk"))
pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
SECRET = "not-to-be-printed"
FRAMES = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two snapshots on main, a tag of the older one, and a branch of it."""
    path = tmp_path_factory.mktemp("repositories") / "rain"
    encoding = {"rain": {"chunks": (2, 24, 20), "dtype": "int16", "scale_factor": 0.01, "_FillValue": -1}}
    older = committed(path, rain(FRAMES), "older", encoding=encoding)
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))
    repository.create_tag("v1", older)
    repository.create_branch("radar", older)
    committed(path, rain(FRAMES) + 1, "newer", encoding=encoding)
    return path


@pytest.fixture
def address(folder: Path, s3: ObjectServer) -> str:
    return s3.put(folder, "data", "repositories/rain")


def test_the_newest_of_main_opens_and_others_by_name(folder: Path) -> None:
    newest, older = rain(FRAMES) + 1, rain(FRAMES)
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))
    snapshot = repository.lookup_tag("v1")
    for options, wanted in (({}, newest), ({"branch": "main"}, newest), ({"branch": "radar"}, older),
                            ({"tag": "v1"}, older), ({"snapshot": snapshot}, older)):  # fmt: skip
        opened = open_source(folder, **options)["rain"]
        np.testing.assert_allclose(opened, wanted, atol=0.006)
        assert opened.attrs["units"] == "mm h-1"


def test_what_is_committed_later_is_not_seen(tmp_path: Path) -> None:
    committed(tmp_path / "rain", rain(6), "first")
    opened = open_source(tmp_path / "rain")
    committed(tmp_path / "rain", rain(6) + 5, "second")
    np.testing.assert_array_equal(opened["rain"], rain(6))
    np.testing.assert_array_equal(open_source(tmp_path / "rain")["rain"], rain(6) + 5)


def test_from_a_bucket_it_is_the_same_and_sends_no_secret(
    folder: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    here, there = open_source(folder), open_source(address)
    assert there.identical(here)
    assert there.encoding["source"] == address
    sent = pickle.dumps(open_source(address))
    assert not any(SECRET in text for text in (sent.decode("latin1"), caplog.text))
    received: xr.Dataset = pickle.loads(sent)  # noqa: S301
    assert received.identical(here)
    np.testing.assert_allclose(open_source(address, tag="v1")["rain"], rain(FRAMES), atol=0.006)
    assert open_source(address, engine="icechunk").identical(here)


def test_batches_are_those_of_a_zarr_store_and_each_chunk_is_asked_for_once(
    folder: Path, address: str, s3: ObjectServer, tmp_path: Path
) -> None:
    data = open_source(folder)
    sa_nowcast.convert(data, tmp_path / "rain.zarr", frames_per_shard=2)
    how: dict[str, Any] = {"in_memory": False, "crop": 8, "seed": 5}
    zarr = SequenceDataset(tmp_path / "rain.zarr", 3, 2, **how)
    wanted = [b.numpy().tobytes() for b in loader(zarr, 4)]
    for place in (folder, address, data):
        ours = SequenceDataset(place, 3, 2, **how)
        assert isinstance(ours._reader.blocks[0], ZarrBlocks)  # type: ignore[attr-defined]
        assert [b.numpy().tobytes() for b in loader(ours, 4)] == wanted
    far = SequenceDataset(address, 3, 2, in_memory=False, shuffle=False)
    assert far._reader.blocks[0].far  # type: ignore[attr-defined]
    s3.set()
    for _ in loader(far, 4):
        pass
    assert {n for key, n in s3.reads().items() if "/chunks/" in key} == {1}


def test_an_unknown_name_is_one_line_with_those_that_there_are(folder: Path) -> None:
    for options, words in (
        ({"branch": "rader"}, "no branch 'rader' (there is main, radar). Fix: write branch='radar'"),
        ({"tag": "v11"}, "no tag 'v11' (there is v1). Fix: write tag='v1'"),
        ({"branch": "q"}, "leave it out, which opens branch main"),
        ({"snapshot": "nope"}, "no snapshot 'nope' (the newest of main are "),
        ({"snapshot": "VY76P925PRY57WFEK410"}, "no snapshot 'VY76P925PRY57WFEK410' (the newest of main are "),
    ):
        with pytest.raises(DataError, match=re.escape(words)) as caught:
            open_source(folder, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="branch and tag: each says what is opened"):
        open_source(folder, branch="main", tag="v1")
    with pytest.raises(RecipeError, match="'branches' is not known to engine icechunk, expected 'branch'"):
        open_source(folder, branches="main")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (
            "s3://data/repositories/rein",
            "looked for zarr.json, .zmetadata, .zgroup. Fix: write s3://data/repositories/r",
        ),
        ("s3://private-data/rain", "with the credentials of the environment (403 AccessDenied)"),
        ("s3://private-data/rain.icechunk", "with the credentials of the environment (403 AccessDenied)"),
        ("s3://data/rain.icechunk", "is no Icechunk repository"),
        ("gs://data/rain.icechunk", "is no place for an Icechunk repository"),
        ("s3://somebody:else@data/rain.icechunk", "the address held a user"),
    ],
)
@pytest.mark.usefixtures("address")
def test_what_is_no_repository_at_an_address_is_one_line(place: str, words: str) -> None:
    with pytest.raises(SaNowcastError, match=re.escape(words)):
        open_source(place)


def test_a_chunk_that_was_lost_is_named(folder: Path, s3: ObjectServer, tmp_path: Path) -> None:
    committed(tmp_path / "rain", rain(6), "first")
    for chunk in (tmp_path / "rain/chunks").iterdir():
        chunk.unlink()
    opened = open_source(tmp_path / "rain")
    with pytest.raises(DataError, match="it lost a part"):
        opened["rain"].load()


def test_without_icechunk_the_install_command_is_named(
    folder: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "icechunk", None)
    for place in (folder, address):
        with pytest.raises(MissingLibraryError, match=re.escape(install("icechunk"))):
            open_source(place)


def test_recipes_and_commands_know_what_it_is(folder: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (str(folder), address):
        assert kind_of(place) == "data"
        assert zarr_header(place) == (3, {})
        assert open_data(place, options={"tag": "v1"}, variables=["rain"])["rain"].sizes["time"] == FRAMES
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["sa-nowcast", "inspect", place, "--option", "branch=radar", "--json"])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        assert not ended.value.code
        assert json.loads(capsys.readouterr().out)["zarr_format"] == 3


def test_references_in_it_are_followed_where_that_is_allowed(tmp_path: Path) -> None:
    encoding = {"rain": {"zlib": True, "chunksizes": (1, 24, 20), "_FillValue": np.float32(-1)}}
    rain(6).to_netcdf(tmp_path / "rain.nc", encoding=encoding)
    prefix = with_references(tmp_path / "virtual", tmp_path / "rain.nc")
    opened = open_source(tmp_path / "virtual", virtual=prefix)["rain"]
    np.testing.assert_array_equal(opened, open_source(tmp_path / "rain.nc")["rain"])
    dataset = SequenceDataset(open_source(tmp_path / "virtual", virtual=prefix), 2, 2, in_memory=False)
    assert isinstance(dataset._reader.blocks[0], ZarrBlocks)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"allow where the chunks lie by virtual="):
        open_source(tmp_path / "virtual")["rain"].load()
