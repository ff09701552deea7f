"""Whatever happens to one file of a store, its readers say so and name the variable, the file and the times."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from mutations import KINDS, Mutation, mutated
from sequences import rain

import sa_nowcast
from sa_nowcast.conversion import convert, open_zarr, verify
from sa_nowcast.errors import DataError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.hindcast import hindcast

FRAMES, SHARD = 12, 4


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "rain.zarr"
    convert(rain(FRAMES, 8, 8), target, frames_per_shard=SHARD, workers=1)
    return target


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, nowcaster: Nowcaster) -> Path:
    target = tmp_path_factory.mktemp("archive") / "archive.zarr"
    hindcast(rain(FRAMES, 8, 8), nowcaster, to=target, batch_size=2, shard_size=2, device="cpu")
    return target


def files_of(store: Path) -> list[Path]:
    return sorted(p for p in store.rglob("*") if p.is_file())


def refused(read: object, store: Path, mutation: Mutation) -> None:
    """Make sure that a reading function raises the error that names what is damaged."""
    assert callable(read)
    with pytest.raises(DataError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text, mutation
    damaged = [f for f in (mutation.file, mutation.other) if f is not None]
    assert any(f.relative_to(store).as_posix() in text for f in damaged) or "is no Zarr store" in text, (mutation, text)
    for file in damaged:
        name = file.relative_to(store).parts[0]
        if name == "rain" and "/c/" in str(file) and "rain/c/" in text:
            assert text.startswith("DATA rain, 2020-06-01T00:"), (mutation, text)


def plain(store: Path, whole: xr.Dataset) -> str:
    """What xarray alone makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = xr.open_zarr(store, chunks=None).load()
        except Exception as error:
            # Whatever it raises, it was noticed.
            return f"plain xarray: {type(error).__name__}"
        return "plain xarray: nothing, the same values" if found.identical(whole) else "plain xarray: WRONG in silence"


def damage(repetitions: int, rng: random.Random, store: Path, kinds: tuple[str, ...] = KINDS) -> Counter[str]:
    """Mutate one file after another; every one is noticed by `open_zarr` with a read, and by `verify`."""
    files, counts = files_of(store), Counter[str]()
    whole = xr.open_zarr(store, chunks=None).load()
    for i in range(repetitions):
        with mutated(rng, files, kinds[i % len(kinds)]) as mutation:
            refused(lambda: open_zarr(store).load(), store, mutation)
            refused(lambda: verify(store), store, mutation)
            counts[mutation.kind] += 1
            counts[f"{mutation.kind}, {plain(store, whole)}"] += 1
    verify(store)
    for what, count in sorted(counts.items()):
        print(f"{count} {what}")
    return counts


@pytest.mark.faults(20, 1500)
def test_any_damage_to_a_converted_store_is_named(repetitions: int, rng: random.Random, converted: Path) -> None:
    counts = damage(repetitions, rng, converted)
    assert sum(counts[kind] for kind in KINDS) == repetitions


@pytest.mark.faults(20, 1000)
def test_any_damage_to_an_archive_is_named(repetitions: int, rng: random.Random, archive: Path) -> None:
    counts = damage(repetitions, rng, archive)
    assert sum(counts[kind] for kind in KINDS) == repetitions


@pytest.mark.faults(5, 500)
def test_damaged_frames_are_neither_forecast_from_nor_streamed_nor_scored(
    repetitions: int, rng: random.Random, converted: Path, archive: Path, nowcaster: Nowcaster
) -> None:
    sources = [f for f in files_of(converted) if f.relative_to(converted).as_posix().startswith("rain/c/")]
    results = [f for f in files_of(archive) if f.relative_to(archive).as_posix().startswith("rain/c/")]
    truth = rain(FRAMES + 3, 8, 8)
    for i in range(repetitions):
        with mutated(rng, sources, KINDS[i % len(KINDS)]) as mutation:
            shard = int(mutation.file.relative_to(converted).parts[2])
            init_time = truth.time.values[shard * SHARD + SHARD - 1]  # its history is the shard

            def forecast(init_time: np.datetime64 = init_time) -> None:
                nowcaster.forecast(open_zarr(converted), init_time=init_time, device="cpu")

            def stream() -> None:
                dataset = sa_nowcast.SequenceDataset(str(converted), 4, 2, in_memory=False)
                for number in range(len(dataset)):
                    dataset[number]

            refused(forecast, converted, mutation)
            refused(stream, converted, mutation)
        with mutated(rng, results, KINDS[i % len(KINDS)]) as mutation:
            refused(lambda: sa_nowcast.verify(open_zarr(archive)["rain"], truth), archive, mutation)


def test_a_store_without_the_list_of_its_files_is_refused_and_can_be_read_unchecked(converted: Path) -> None:
    manifest = converted / "sa_nowcast_files" / "zarr.json"
    whole = manifest.read_bytes()
    manifest.unlink()
    try:
        with pytest.raises(DataError, match=r"the list of its files is missing.*check='mark'"):
            open_zarr(converted)
        np.testing.assert_array_equal(open_zarr(converted, check="mark").rain, rain(FRAMES, 8, 8))
    finally:
        manifest.write_bytes(whole)


def test_other_readers_pass_over_the_list_without_a_warning(converted: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for consolidated in (True, False):
            ds = xr.open_zarr(converted, consolidated=consolidated)
            assert sorted(map(str, ds.variables)) == ["rain", "time", "x", "y"]
            assert not any("files" in str(key) for key in ds.attrs)


def test_a_file_is_read_whole_once_and_again_where_it_changed(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sa_nowcast.storage import manifest

    ds, seen, digest = open_zarr(converted), [], manifest.sha256_of

    def counted(file: Path) -> str:
        seen.append(file.name)
        return digest(file)

    monkeypatch.setattr(manifest, "sha256_of", counted)
    for frame in (0, 1, 2, 3, 1):
        ds.rain[frame].load()
    assert len(seen) == 1
    file = converted / "rain" / "c" / "0" / "0" / "0"
    whole = file.read_bytes()
    file.write_bytes((converted / "rain" / "c" / "1" / "0" / "0").read_bytes())
    try:
        with pytest.raises(DataError, match=r"rain/c/0/0/0"):
            open_zarr(converted).rain[2].load()
    finally:
        file.write_bytes(whole)
