"""A conversion that is killed is absent or whole, and the same call again ends with the bytes of an unbroken one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from nursery import Nursery
from points import Fault, content, moments, names_of

from sa_nowcast.conversion import open_zarr, verify
from sa_nowcast.errors import DataError


@pytest.fixture(scope="module")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The bytes of an unbroken conversion, and how many changes of the disk it takes."""
    folder = tmp_path_factory.mktemp("whole")
    end = nursery.well("convert", str(folder / "out.zarr"), fault=Fault(str(folder)))
    return content(folder / "out.zarr"), len(end.points)


def absent_or_whole(target: Path, whole: dict[str, bytes]) -> None:
    if target.exists():
        verify(target)
        assert content(target) == whole
    else:
        with pytest.raises(DataError, match=r"did not end|no such store"):
            open_zarr(target)


@pytest.mark.faults(8, 160)
def test_killed_at_any_write_and_rename_it_is_absent_or_whole_and_goes_on(
    repetitions: int, rng: random.Random, nursery: Nursery, whole: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    stored, points = whole
    kills = again = 0
    for i, at in enumerate(moments(rng, points, repetitions)):
        folder = tmp_path / str(i)
        folder.mkdir()
        target = folder / "out.zarr"
        end = nursery.one("convert", str(target), fault=Fault(str(folder), "kill", at))
        assert end.code == -9, (at, end)
        absent_or_whole(target, stored)
        kills += 1
        if i % 3 == 0:  # and once more, in the run that goes on
            end = nursery.one("convert", str(target), fault=Fault(str(folder), "kill", rng.randrange(1, points)))
            absent_or_whole(target, stored)
            again += end.code == -9
        end = nursery.one("convert", str(target))
        assert end.code == 0 or "exists already" in end.error, (at, end)
        assert names_of(folder) == ["out.zarr"], at
        assert content(target) == stored, at
    print(f"{kills + again} kills at {points} points, 0 partial stores readable, all results equal")


@pytest.mark.faults(4, 60)
def test_killed_from_outside_at_any_time_it_is_absent_or_whole_and_goes_on(
    repetitions: int, rng: random.Random, nursery: Nursery, whole: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    stored, _ = whole
    kills = runs = 0
    while kills < repetitions:
        runs += 1
        folder = tmp_path / str(runs)
        folder.mkdir()
        target, longest = folder / "out.zarr", 0.3
        while True:
            end = nursery.one("convert", str(target), 2, signals=((rng.uniform(0.02, longest), 9),))
            longest += 0.1
            absent_or_whole(target, stored)
            if end.code != -9:
                break
            kills += 1
        assert end.code == 0 or "exists already" in end.error, end
        assert names_of(folder) == ["out.zarr"]
        assert content(target) == stored
    print(f"{kills} kills in {runs} conversions by 2 threads")


@pytest.mark.faults(4, 60)
def test_a_store_that_is_being_replaced_is_the_former_or_the_new_one_at_every_moment(
    repetitions: int, rng: random.Random, nursery: Nursery, whole: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    stored, _ = whole
    nursery.well("convert", str(tmp_path / "out.zarr"))
    end = nursery.well("replace", str(tmp_path / "out.zarr"), fault=Fault(str(tmp_path)))
    new, points, late = content(tmp_path / "out.zarr"), len(end.points), 40
    assert new != stored
    for i in range(repetitions):
        folder = tmp_path / str(i)
        folder.mkdir()
        target = folder / "out.zarr"
        nursery.well("convert", str(target))
        # The end, where one takes the other's place, more often than the rest.
        at = points - i * late // repetitions if i % 2 else rng.randrange(1, points)
        end = nursery.one("replace", str(target), fault=Fault(str(folder), "kill", at))
        assert end.code == -9, (at, end)
        verify(target)
        assert content(target) in (stored, new)
        nursery.well("replace", str(target))
        assert content(target) == new
        assert names_of(folder) == ["out.zarr"]
