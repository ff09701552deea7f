"""Archives and converted data in Icechunk repositories: commits of whole blocks, gone on with after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from object_server import ObjectServer
from sequences import rain
from virtual import committed

from sa_nowcast.computing.installing import install
from sa_nowcast.conversion import convert
from sa_nowcast.errors import Interrupted, RecipeError, StorageError
from sa_nowcast.hindcast import hindcast
from sa_nowcast.sources import open_source
from sa_nowcast.sources.opening import kind_of, open_forecast
from sa_nowcast.storage.repositories import Repository

icechunk = pytest.importorskip("icechunk", reason=install("icechunk"))
HOW: dict[str, Any] = {"batch_size": 4, "shard_size": 4}
INIT_TIMES = 14


def messages(place: Path) -> list[str]:
    """What was committed, from the first on."""
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))
    return [s.message for s in repository.ancestry(branch="main")][::-1][1:]


@pytest.fixture
def plain(tmp_path: Path) -> xr.DataArray:
    """The archive of the same hindcast as a folder."""
    return hindcast(rain(INIT_TIMES), "persistence", 3, to=tmp_path / "plain.zarr", **HOW)


def test_an_archive_is_that_of_a_folder_with_a_commit_for_each_block(tmp_path: Path, plain: xr.DataArray) -> None:
    place = tmp_path / "archive.icechunk"
    told: list[tuple[int, int]] = []
    archive = hindcast(rain(INIT_TIMES), "persistence", 3, to=place, progress=lambda *now: told.append(now), **HOW)
    xr.testing.assert_identical(archive, plain)
    assert told[-1] == (INIT_TIMES, INIT_TIMES)
    blocks = messages(place)
    assert len(blocks) == 5
    assert blocks[0] == "init times 2020-06-01T00:00 to 2020-06-01T00:15"
    assert blocks[-1] == "all init times"
    assert kind_of(str(place)) == "forecast"
    xr.testing.assert_equal(open_forecast(str(place)), open_forecast(str(tmp_path / "plain.zarr")))
    status = open_source(place)["history_status"]
    np.testing.assert_array_equal(status, open_source(tmp_path / "plain.zarr")["history_status"])
    assert {p.name for p in tmp_path.iterdir()} == {"archive.icechunk", "plain.zarr"}


def test_a_reader_sees_whole_blocks_while_it_grows(tmp_path: Path, plain: xr.DataArray) -> None:
    place, seen = tmp_path / "archive.icechunk", []

    def look(done: int, total: int) -> None:
        if done and Repository(place).head():
            now = open_forecast(str(place))
            assert now.sizes["init_time"] == done or done == total
            np.testing.assert_array_equal(now.values, plain.isel(init_time=slice(0, now.sizes["init_time"])).values)
            seen.append(now.sizes["init_time"])

    hindcast(rain(INIT_TIMES), "persistence", 3, to=place, progress=look, **HOW)
    assert sorted(set(seen)) == [4, 8, 12, 14]


def test_one_that_was_stopped_goes_on_from_the_last_commit(tmp_path: Path, plain: xr.DataArray) -> None:
    place = tmp_path / "archive.icechunk"

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stopped after 8 of 14 init times"):
        hindcast(rain(INIT_TIMES), "persistence", 3, to=place, progress=stop, **HOW)
    assert len(messages(place)) == 2
    told: list[int] = []
    again = hindcast(
        rain(INIT_TIMES), "persistence", 3, to=place, progress=lambda done, total: told.append(done), **HOW
    )
    assert told[0] == 8
    xr.testing.assert_identical(again, plain)
    before = messages(place)
    assert len(before) == 5
    xr.testing.assert_identical(hindcast(rain(INIT_TIMES), "persistence", 3, to=place, **HOW), plain)
    assert messages(place) == before


def test_another_hindcast_is_refused_and_replaced_with_its_history_kept(tmp_path: Path) -> None:
    place = tmp_path / "archive.icechunk"
    first = hindcast(rain(6), "persistence", 2, to=place).values
    newest = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place))).lookup_branch("main")
    with pytest.raises(StorageError, match="holds another hindcast"):
        hindcast(rain(6), "persistence", 3, to=place)
    replaced = hindcast(rain(6), "persistence", 3, to=place, existing="replace")
    assert replaced.sizes["lead_time"] == 3
    np.testing.assert_array_equal(open_source(place, snapshot=newest)["rain"], first)


def test_what_is_no_place_for_an_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "other.icechunk").mkdir()
    (tmp_path / "other.icechunk/file").touch()
    with pytest.raises(StorageError, match="exists and is no Icechunk repository"):
        hindcast(rain(6), "persistence", 2, to=tmp_path / "other.icechunk")
    committed(tmp_path / "rain", rain(6), "theirs")
    committed(tmp_path / "inner", rain(6), "theirs", group="radar/composite")
    for place in (tmp_path / "rain", tmp_path / "inner"):
        with pytest.raises(StorageError, match="holds something else on branch main"):
            hindcast(rain(6), "persistence", 2, to=place)
        with pytest.raises(StorageError, match="exists already"):
            convert(rain(6), place)
        assert messages(place) == ["theirs"]
    (tmp_path / "new.icechunk.partial").mkdir()
    (tmp_path / "new.icechunk.partial/mine").touch()
    with pytest.raises(StorageError, match="something else stands where the archive would grow"):
        hindcast(rain(6), "persistence", 2, to=tmp_path / "new.icechunk")
    assert (tmp_path / "new.icechunk.partial/mine").is_file()
    with pytest.raises(RecipeError, match="workers write to a folder that they share"):
        hindcast(rain(6), "persistence", 2, to="s3://data/new.icechunk", cluster="tcp://127.0.0.1:9")
    with pytest.raises(RecipeError, match="is no place for an Icechunk repository"):
        hindcast(rain(6), "persistence", 2, to="gs://data/new.icechunk")


def test_a_commit_of_another_process_is_not_overwritten(tmp_path: Path) -> None:
    place = tmp_path / "archive.icechunk"

    def interfere(done: int, total: int) -> None:
        if done == 4:
            repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))
            session = repository.writable_session("main")
            rain(3).to_dataset(name="rain").to_zarr(session.store, mode="w", zarr_format=3, consolidated=False)
            session.commit("theirs")

    with pytest.raises(StorageError, match="another process committed to branch main meanwhile"):
        hindcast(rain(INIT_TIMES), "persistence", 3, to=place, progress=interfere, **HOW)


def test_a_conversion_is_one_commit_and_the_data_are_there_or_not(tmp_path: Path) -> None:
    place, data = tmp_path / "rain.icechunk", rain(12)
    plan = convert(data, place, frames_per_shard=5)
    assert plan.target == str(place)
    assert plan.stored_nbytes
    assert len(messages(place)) == 1
    np.testing.assert_array_equal(open_source(place)["rain"], data)
    assert {p.name for p in tmp_path.iterdir()} == {"rain.icechunk"}
    with pytest.raises(StorageError, match="exists already"):
        convert(data, place)
    convert(data + 1, place, existing="replace")
    np.testing.assert_array_equal(open_source(place)["rain"], data + 1)
    assert len(messages(place)) == 2


def test_archives_and_data_are_committed_to_a_bucket(
    s3: ObjectServer, tmp_path: Path, plain: xr.DataArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    s3.put(Path(__file__), "data", "anything")
    archive = hindcast(rain(INIT_TIMES), "persistence", 3, to="s3://data/archive.icechunk", **HOW)
    xr.testing.assert_identical(archive, plain)
    xr.testing.assert_equal(open_forecast("s3://data/archive.icechunk"), plain)
    convert(rain(12), "s3://data/rain.icechunk")
    np.testing.assert_array_equal(open_source("s3://data/rain.icechunk")["rain"], rain(12))
    assert list((tmp_path / "cache/sa_nowcast").iterdir()) == []


KILLED = """
import sys
from sequences import rain
from sa_nowcast.hindcast import hindcast
print("begun", flush=True)
hindcast(rain(14), "extrapolation", 3, to=sys.argv[1], batch_size=4, shard_size=4)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_from_its_last_commit(tmp_path: Path) -> None:
    place = tmp_path / "archive.icechunk"
    wanted = hindcast(rain(INIT_TIMES), "extrapolation", 3, to=tmp_path / "plain.zarr", **HOW)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    most = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(place)], env=environment)
        while process.poll() is None and not (Repository(place).head() and len(messages(place)) > most):
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not place.exists():
            continue
        assert len(messages(place)) >= most
        most = len(messages(place))
        now = open_forecast(str(place)).values
        np.testing.assert_array_equal(now, wanted.isel(init_time=slice(0, len(now))).values)
    xr.testing.assert_identical(hindcast(rain(INIT_TIMES), "extrapolation", 3, to=place, **HOW), wanted)
    assert len(messages(place)) == 4  # extrapolation needs two frames more
    assert {p.name for p in tmp_path.iterdir()} == {"archive.icechunk", "plain.zarr"}
