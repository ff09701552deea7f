"""A hindcast that is killed keeps what it has done; the same call again does the rest, and nothing twice."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from nursery import Nursery
from points import Fault, content, moments, names_of

from sa_nowcast import open_zarr
from sa_nowcast.errors import DataError

SHARDS = 9


@pytest.fixture(scope="module")
def model(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "rain.nowcaster"
    nursery.well("model", str(path))
    return str(path)


@pytest.fixture(scope="module")
def whole(nursery: Nursery, model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The bytes of an unbroken archive, and how many changes of the disk it takes."""
    folder = tmp_path_factory.mktemp("whole")
    end = nursery.well("hindcast", model, str(folder / "a.zarr"), fault=Fault(str(folder)))
    return content(folder / "a.zarr"), len(end.points)


def absent_or_whole(target: Path, stored: dict[str, bytes]) -> None:
    if target.exists():
        assert content(target) == stored
    else:
        with pytest.raises(DataError, match=r"did not end|no such store"):
            open_zarr(target)


def each_once(log: Path, kills: int) -> None:
    """No shard that was ended was begun again; a kill costs the shard that it met, at most."""
    ended: set[str] = set()
    begun: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        event, number = line.split()
        if event == "begin":
            assert number not in ended, f"shard {number} twice"
            begun[number] += 1
        else:
            ended.add(number)
    assert len(begun) == SHARDS
    assert sum(begun.values()) <= SHARDS + kills


@pytest.mark.faults(6, 130)
def test_killed_at_any_write_and_rename_it_is_absent_or_whole_and_no_init_time_is_done_twice(
    repetitions: int,
    rng: random.Random,
    nursery: Nursery,
    model: str,
    whole: tuple[dict[str, bytes], int],
    tmp_path: Path,
) -> None:
    stored, points = whole
    for i, at in enumerate(moments(rng, points, repetitions)):
        folder, log = tmp_path / str(i), tmp_path / f"{i}.log"
        folder.mkdir()
        target = folder / "a.zarr"
        end = nursery.one("hindcast", model, str(target), str(log), fault=Fault(str(folder), "kill", at))
        assert end.code == -9, (at, end)
        absent_or_whole(target, stored)
        nursery.well("hindcast", model, str(target), str(log))
        each_once(log, 1)
        assert content(target) == stored, at
        assert names_of(folder) == ["a.zarr"], at
    print(f"{repetitions} kills at {points} points, all archives equal, each init time once")


@pytest.mark.faults(4, 60)
def test_killed_within_shards_it_goes_on_with_the_batches_that_are_kept(
    repetitions: int, rng: random.Random, nursery: Nursery, model: str, tmp_path: Path
) -> None:
    job = "hindcast_by_batches"
    end = nursery.well(job, model, str(tmp_path / "a.zarr"), fault=Fault(str(tmp_path)))
    stored, points, batches = content(tmp_path / "a.zarr"), len(end.points), 9
    for i, at in enumerate(moments(rng, points, repetitions)):
        folder, log = tmp_path / str(i), tmp_path / f"{i}.log"
        folder.mkdir()
        target = folder / "a.zarr"
        kills = 0
        for k in (at, rng.randrange(1, points)):
            end = nursery.one(job, model, str(target), str(log), fault=Fault(str(folder), "kill", k))
            assert end.code in (0, -9), (k, end)
            kills += end.code == -9
            absent_or_whole(target, stored)
        nursery.well(job, model, str(target), str(log))
        assert content(target) == stored, at
        assert names_of(folder) == ["a.zarr"], at
        # A kill costs the batch that is being computed, those that wait to be written, and the last one of a shard.
        assert len(log.read_text().splitlines()) <= batches + 4 * kills, at
    print(f"{repetitions} times two kills at {points} points, all archives equal")


@pytest.mark.faults(4, 70)
def test_killed_from_outside_at_any_time_it_goes_on(
    repetitions: int,
    rng: random.Random,
    nursery: Nursery,
    model: str,
    whole: tuple[dict[str, bytes], int],
    tmp_path: Path,
) -> None:
    stored, _ = whole
    kills = runs = 0
    while kills < repetitions:
        runs += 1
        folder, log, longest, here = tmp_path / str(runs), tmp_path / f"{runs}.log", 0.4, 0
        folder.mkdir()
        target = folder / "a.zarr"
        while True:
            end = nursery.one("hindcast", model, str(target), str(log), signals=((rng.uniform(0.02, longest), 9),))
            absent_or_whole(target, stored)
            longest += 0.2
            if end.code != -9:
                break
            here += 1
        assert end.code == 0, end
        each_once(log, here)
        assert content(target) == stored
        assert names_of(folder) == ["a.zarr"]
        kills += here
    print(f"{kills} kills in {runs} hindcasts")


@pytest.mark.faults(3, 40)
def test_an_archive_that_is_being_replaced_is_the_former_or_the_new_one_at_every_moment(
    repetitions: int,
    rng: random.Random,
    nursery: Nursery,
    model: str,
    whole: tuple[dict[str, bytes], int],
    tmp_path: Path,
) -> None:
    stored, _ = whole
    nursery.well("hindcast", model, str(tmp_path / "a.zarr"))
    job = "replace_hindcast"
    end = nursery.well(job, model, str(tmp_path / "a.zarr"), fault=Fault(str(tmp_path)))
    new, points, late = content(tmp_path / "a.zarr"), len(end.points), 40
    assert new != stored
    for i in range(repetitions):
        folder = tmp_path / str(i)
        folder.mkdir()
        target = folder / "a.zarr"
        nursery.well("hindcast", model, str(target))
        at = points - i * late // repetitions if i % 2 else rng.randrange(1, points)
        end = nursery.one(job, model, str(target), fault=Fault(str(folder), "kill", at))
        assert end.code == -9, (at, end)
        assert content(target) in (stored, new)
        nursery.well(job, model, str(target))
        assert content(target) == new
        assert names_of(folder) == ["a.zarr"]
