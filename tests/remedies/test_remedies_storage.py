"""Files, locks, conversions, and the clusters that work on them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dask
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from sequences import rain
from workers import MiB, hold, workers_of

from remedies.trial import full, keywords, remedy, value, without_privileges
from sa_nowcast import open_zarr
from sa_nowcast.computing import clusters
from sa_nowcast.conversion import convert
from sa_nowcast.errors import Interrupted
from sa_nowcast.hindcast import hindcast
from sa_nowcast.storage.whole import locked, storage, write_whole


@remedy("storage/whole.py", "make room, give the right to write there, or name another place")
@pytest.mark.parametrize("how", ["room", "right", "place"])
def test_a_place_that_cannot_be_written(how, tmp_path):
    def write(place):
        with storage(place):
            write_whole(place, "x" * 50_000)

    def refused():
        if how == "room":
            with full(20_000):
                write(tmp_path / "a")
        else:
            with without_privileges():
                write(tmp_path / "a")

    if how != "room":
        tmp_path.chmod(0o500)
    yield refused
    tmp_path.chmod(0o700)
    place = tmp_path / "below" / "a" if how == "place" else tmp_path / "a"
    place.parent.mkdir(exist_ok=True)
    yield lambda: write(place)


HOLDER = """
import sys
from pathlib import Path
from sa_nowcast.storage.whole import locked
with locked(Path(sys.argv[1]), Path(sys.argv[2])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@remedy("storage/whole.py", "wait for it, or end it")
@pytest.mark.parametrize("how", ["wait", "end"])
def test_a_place_that_another_process_writes(how, tmp_path):
    lock, place = tmp_path / "lock", tmp_path / "a"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock), str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"locked\n"

    def write():
        with locked(lock, place):
            place.write_text("mine")

    fix = yield write
    assert how in fix
    if how == "wait":
        assert other.stdin is not None
        other.stdin.close()
    else:
        other.kill()
    other.wait()


# --- conversion


@pytest.fixture
def source() -> xr.Dataset:
    return rain(12).to_dataset()


@remedy("conversion/prepare.py", "pass another time= or other variables=")
@pytest.mark.parametrize("how", ["time", "variables"])
def test_no_variable_in_time_and_space(how, source, tmp_path):
    source["mean"] = source["rain"].mean(("y", "x"))
    source["mean"].encoding = {}
    wrong = {"time": {"time": "band"}, "variables": {"variables": ["mean"]}}[how]
    data = source.assign_coords(band=("band", np.arange("2020-01-01", "2020-01-05", dtype="datetime64[D]")))
    data["spectrum"] = ("band", np.arange(4.0))
    yield lambda: convert(data, tmp_path / "a.zarr", **wrong)
    yield lambda: convert(data, tmp_path / "a.zarr", **{"time": {"time": "time"}, "variables": {}}[how])


@remedy("conversion/prepare.py", "ds.drop_duplicates(…)")
def test_a_time_that_is_there_twice(source, tmp_path):
    ds = source.isel(time=[0, 1, 1, 2, 3])
    fix = yield lambda: convert(ds, tmp_path / "a.zarr")
    mended = value(fix, ds=ds)
    yield lambda: convert(mended, tmp_path / "a.zarr")


@remedy("conversion/prepare.py", "ds.sortby(…)")
def test_times_that_are_not_sorted(source, tmp_path):
    ds = source.isel(time=[0, 2, 1, 3])
    fix = yield lambda: convert(ds, tmp_path / "a.zarr")
    mended = value(fix, ds=ds)
    yield lambda: convert(mended, tmp_path / "a.zarr")


@remedy("conversion/prepare.py", "pass irregular='allow', where irregular times are meant")
def test_times_of_no_one_step(source, tmp_path):
    times = np.array(["2020-01-01", "2020-02-01", "2020-03-01"], "datetime64[ns]")
    ds = source.isel(time=slice(3)).assign_coords(time=times)
    fix = yield lambda: convert(ds, tmp_path / "a.zarr")
    yield lambda: convert(ds, tmp_path / "a.zarr", **keywords(fix))


@remedy("conversion/run.py", "give one of them")
def test_threads_and_a_cluster(source, tmp_path):
    yield lambda: convert(source, tmp_path / "a.zarr", workers=2, cluster="tcp://localhost:8786")
    yield lambda: convert(source, tmp_path / "a.zarr", workers=2)


@remedy("conversion/run.py", "name another target, or replace it with existing='replace'")
@pytest.mark.parametrize("how", ["name", "replace"])
def test_a_store_that_is_there(how, source, tmp_path):
    convert(source, tmp_path / "a.zarr")
    other = rain(12, seed=1).to_dataset()
    fix = yield lambda: convert(other, tmp_path / "a.zarr")
    if how == "name":
        yield lambda: convert(other, tmp_path / "b.zarr")
    else:
        yield lambda: convert(other, tmp_path / "a.zarr", **keywords(fix))


@remedy("storage/growing.py", "name another path")
def test_something_else_at_the_target(source, tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "notes").write_text("mine")
    yield lambda: convert(source, tmp_path / "a.zarr", existing="replace")
    yield lambda: convert(source, tmp_path / "b.zarr", existing="replace")


@remedy("storage/growing.py", "write a folder, then copy it; only a rename is atomic")
def test_a_target_on_another_machine(source, tmp_path):
    yield lambda: convert(source, f"file://{tmp_path}/a.zarr")
    convert(source, tmp_path / "here.zarr")
    shutil.copytree(tmp_path / "here.zarr", tmp_path / "a.zarr")
    yield lambda: open_zarr(tmp_path / "a.zarr").load()


def _stopped(source, target, **options):
    def progress(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    convert(source, target, frames_per_shard=2, workers=1, progress=progress, **options)


@remedy("conversion/run.py", "finish that one, remove the folder, or pass existing='replace'")
@pytest.mark.parametrize("how", ["finish", "remove", "replace"])
def test_an_unfinished_conversion_of_other_data(how, source, tmp_path):
    target, other = tmp_path / "a.zarr", rain(14).to_dataset()
    with pytest.raises(Interrupted):
        _stopped(source, target)
    fix = yield lambda: convert(other, target)
    if how == "finish":
        convert(source, target, frames_per_shard=2)
        target.rename(tmp_path / "b.zarr")
    elif how == "remove":
        shutil.rmtree(f"{target}.partial")
    yield lambda: convert(other, target, **(keywords(fix) if how == "replace" else {}))


@remedy("storage/growing.py", "run the same again to go on")
def test_a_conversion_that_was_stopped(source, tmp_path):
    yield lambda: _stopped(source, tmp_path / "a.zarr")
    yield lambda: convert(source, tmp_path / "a.zarr", frames_per_shard=2)


@remedy("storage/growing.py", "run again")
def test_a_shard_that_vanished(source, tmp_path):
    target = tmp_path / "a.zarr"

    def progress(done: int, total: int) -> None:
        if done == total:
            shards = target.with_name("a.zarr.partial") / "rain" / "c"
            next(file for file in shards.rglob("*") if file.is_file()).unlink()

    yield lambda: convert(source, target, frames_per_shard=2, progress=progress)
    yield lambda: convert(source, target, frames_per_shard=2)


@remedy("storage/shards.py", "repair or leave out its file, and pass existing='replace'")
@pytest.mark.parametrize("how", ["repair", "leave out"])
def test_a_source_that_cannot_be_read(how, source, tmp_path):
    files = [tmp_path / f"{i}.nc" for i in range(3)]
    for i, file in enumerate(files):
        source.isel(time=slice(4 * i, 4 * i + 4)).to_netcdf(file, encoding={"rain": {"fletcher32": True}})
    whole = files[2].read_bytes()
    with h5py.File(files[2]) as opened:
        at = opened["rain"].id.get_chunk_info(0).byte_offset
    files[2].write_bytes(whole[:at] + b"damaged" + whole[at + 7 :])
    fix = yield lambda: convert(files, tmp_path / "a.zarr", engine="netcdf4")
    if how == "repair":
        files[2].write_bytes(whole)
    several = files[: None if how == "repair" else 2]
    yield lambda: convert(several, tmp_path / "a.zarr", engine="netcdf4", **keywords(fix))


@remedy("storage/shards.py", "make room and run again to resume, or name another target")
@pytest.mark.parametrize("how", ["room", "target"])
def test_a_shard_on_a_full_disk(how, tmp_path):
    noise = rain(40, 64, 64)
    noise.values[:] = np.random.default_rng(0).random(noise.shape)

    def refused():
        with full(40_000):
            convert(noise, tmp_path / "a.zarr", frames_per_shard=20)

    yield refused
    yield lambda: convert(noise, tmp_path / ("a.zarr" if how == "room" else "b.zarr"), frames_per_shard=20)


@remedy("storage/shards.py", "name a target on another disk")
def test_a_disk_that_gives_back_something_else(source, tmp_path, monkeypatch):
    """The folder `bad` stands for such a disk: a byte in the middle of what is read from its shards is another."""
    read = zarr.storage._local._get

    def wrong(path, prototype, byte_range):
        found = read(path, prototype, byte_range)
        if "bad" not in path.parts or "c" not in path.parts:
            return found
        damaged = bytearray(found.to_bytes())
        damaged[len(damaged) // 2] ^= 255
        return prototype.buffer.from_bytes(bytes(damaged))

    monkeypatch.setattr(zarr.storage._local, "_get", wrong)
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
    yield lambda: convert(source, tmp_path / "bad" / "a.zarr")
    yield lambda: convert(source, tmp_path / "good" / "a.zarr")


@remedy("storage/shards.py", "store them as they are, by ds[…].encoding.clear(), and pass existing='replace'")
def test_values_that_the_packing_of_the_source_does_not_hold(source, tmp_path):
    source["rain"].encoding = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}
    fix = yield lambda: convert(source, tmp_path / "a.zarr")
    value(fix, ds=source)
    yield lambda: convert(source, tmp_path / "a.zarr", **keywords(fix))


# --- clusters

distributed = pytest.importorskip("distributed", reason="clusters need pip install distributed")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(clusters, "ANSWER_WITHIN", 1.0)
    monkeypatch.setattr(clusters, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(clusters, "NONE_COME", 0.2)
    monkeypatch.setattr(clusters, "ALL_LOST", 0.4)
    from sa_nowcast.hindcast.shard import Shard

    put = Shard.put

    def slowly(*args):
        import time

        time.sleep(0.1)
        return put(*args)

    monkeypatch.setattr(Shard, "put", slowly)


@pytest.fixture
def cluster():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None, silence_logs=50
        ) as local,
    ):
        yield local


def _archive(place: Path, cluster, after_two=None) -> None:
    def progress(done: int, total: int) -> None:
        if done == 2 and after_two is not None:
            after_two()

    hindcast(rain(), "persistence", 2, to=place, batch_size=2, shard_size=2, cluster=cluster, progress=progress)


@remedy("computing/clusters.py", "start workers, such as by cluster.scale(2), then run the same again to go on")
@pytest.mark.usefixtures("impatient")
def test_a_cluster_without_workers(cluster, tmp_path):
    fix = yield lambda: _archive(tmp_path / "a.zarr", cluster, lambda: cluster.scale(0))
    value(fix.split(", then")[0], cluster=cluster)
    cluster.wait_for_workers(2)
    yield lambda: _archive(tmp_path / "a.zarr", cluster)


@remedy("computing/clusters.py", "start a scheduler and its workers, then run the same again to go on")
@pytest.mark.usefixtures("impatient")
def test_a_scheduler_that_ended(cluster, tmp_path, monkeypatch):
    def run(address, progress=None):
        convert(rain(), tmp_path / "a.zarr", frames_per_shard=2, cluster=address, progress=progress)

    yield lambda: run(cluster.scheduler_address, lambda done, total: cluster.close() if done == 2 else None)
    with distributed.LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address=None) as other:
        run(other.scheduler_address)
    yield lambda: open_zarr(tmp_path / "a.zarr").load()


@remedy("computing/clusters.py", "start workers with … more, then run the same again to go on")
def test_workers_that_could_hold_a_task_and_are_gone(monkeypatch):
    monkeypatch.setattr(clusters, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(clusters, "NONE_COME", 0.5)
    needs = clusters.Needs(60 * MiB, int, lambda most: "")

    def call(*limits, lost=()):
        with workers_of(*limits) as cluster, distributed.Client(cluster, set_as_default=False) as client:
            tasks = clusters.Tasks(client, "a.zarr", "batch_size", needs)
            tasks.require_room()
            client.retire_workers([cluster.workers[number].address for number in lost], remove=True)
            list(clusters.results_of(tasks, [(0, "shard 0", hold, (1,))]))

    fix = yield lambda: call(50 * MiB, 100 * MiB, lost=[1])
    more = int(fix.partition("with ")[2].partition(" MiB")[0])
    yield lambda: call((50 + more) * MiB)


@remedy("computing/clusters.py", "give workers more memory or use a smaller …, then run the same again to go on")
def test_workers_that_die_of_a_shard(tmp_path):
    """A worker that ends stands for one that the system ended when memory ran out."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50, local_directory=tmp_path
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        tasks = clusters.Tasks(client, "a.zarr", "batch_size")

        def call(function, *args):
            future = tasks.submit(function, *args)
            (ended,) = tasks.first_of([future])
            return tasks.result(ended, "shard 3")

        fix = yield lambda: call(os._exit, 1)
        assert "a smaller batch_size" in fix
        yield lambda: call(abs, -1)
