"""Workers that die, all of them too, and schedulers: a call ends as it should, or says that it waits; none hangs."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from sequences import rain
from workers import MiB, hold, workers_of

from sa_nowcast import open_zarr
from sa_nowcast.computing import clusters
from sa_nowcast.conversion import convert
from sa_nowcast.errors import Interrupted, ModelError
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.hindcast import hindcast, memory, shard
from sa_nowcast.hindcast.shard import Shard
from sa_nowcast.storage.shards import write_shard

distributed = pytest.importorskip("distributed", reason="clusters need pip install distributed")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "ANSWER_WITHIN", 1.0)
    monkeypatch.setattr(clusters, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(clusters, "NONE_COME", 0.5)
    monkeypatch.setattr(clusters, "ALL_LOST", 1.0)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A scheduler and a worker in threads of this process, behind an address."""
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        distributed.LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None, silence_logs=50
        ) as local,
    ):
        yield local


def at_shard(number: int, action: Callable[[], Any]) -> Callable[[int, int], None]:
    """A progress that acts once so many shards are done."""

    def progress(done: int, total: int) -> None:
        if done == number:
            action()

    return progress


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards take a while, so that workers are lost amid some."""

    def slowly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            time.sleep(0.2)
            return function(*args)

        return call

    monkeypatch.setattr(Shard, "put", slowly(Shard.put))
    monkeypatch.setattr("sa_nowcast.conversion.run.write_shard", slowly(write_shard))


def archive(place: Path, **options: Any) -> None:
    hindcast(rain(), "persistence", 2, to=place, batch_size=2, shard_size=2, **options)


@pytest.mark.usefixtures("slow")
def test_a_cluster_that_has_lost_its_workers_is_given_up_and_the_same_call_goes_on(
    cluster: Any, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match=r"a\.zarr: the cluster has had no worker for \d+ s, expected at least one"):
        archive(tmp_path / "a.zarr", cluster=cluster, progress=at_shard(2, lambda: cluster.scale(0)))
    assert not (tmp_path / "a.zarr").exists()
    archive(tmp_path / "a.zarr")
    archive(tmp_path / "b.zarr")
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr"), open_zarr(tmp_path / "b.zarr"))


def test_the_default_model_forecasts_on_a_cluster_what_it_does_here(cluster: Any, tmp_path: Path) -> None:
    # Two channels, and counts: the model as it ships has one channel, and forecasts below 0 what is no count.
    t, y, x = np.ogrid[:20, :24, :20]
    mean = 5 + 300 * np.exp(-(((x - 6 - t % 12) / 3.0) ** 2) - ((y - 12) / 4.0) ** 2) * (1 + np.cos(t))
    cars = rain(20).copy(data=np.random.default_rng(0).poisson(mean).astype(np.float32))
    cars.attrs = {"units": "1"}
    data = xr.Dataset({"cars": cars, "bicycles": np.floor(cars / 3).assign_attrs(cars.attrs)})
    here = hindcast(data, steps=6, to=tmp_path / "a.zarr", shard_size=8, batch_size=8)
    there = hindcast(data, steps=6, to=tmp_path / "b.zarr", shard_size=8, batch_size=8, cluster=cluster)
    xr.testing.assert_identical(here.compute(), there.compute())
    assert float(here.min()) == 0
    with pytest.raises(ModelError, match="expected field"):
        hindcast(data, default_model().shipped, 6)


def test_batches_that_were_kept_here_are_not_computed_again_on_a_cluster(
    cluster: Any, nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"batch_size": 2, "shard_size": 18}
    monkeypatch.setattr(shard, "KEEP_EVERY", 0.0)

    def stop(done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stopped after 8 of 17 init times"):
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=stop, **options)
    forecast, batches, calls = Nowcaster.block, [], []

    def noted(*args: Any) -> Any:
        batches.append(args)
        return forecast(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Nowcaster, "block", noted)
        hindcast(
            rain(), nowcaster, to=tmp_path / "a.zarr", cluster=cluster, progress=lambda done, total: calls.append(done)
        )
    assert calls[0] >= 8
    assert len(batches) == 9 - calls[0] // 2
    archive = hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", **options)
    np.testing.assert_array_equal(open_zarr(tmp_path / "a.zarr").rain, archive)


@pytest.mark.usefixtures("slow")
def test_so_is_a_scheduler_whose_workers_are_gone_for_long(cluster: Any, tmp_path: Path) -> None:
    address = cluster.scheduler_address
    with (
        pytest.warns(UserWarning, match=r"out\.zarr\.partial waits for workers: the cluster has had none for 1 s"),
        pytest.raises(Interrupted, match=r"the cluster has had no worker for 1 s"),
    ):
        convert(
            rain(), tmp_path / "out.zarr", frames_per_shard=2, cluster=address,
            progress=at_shard(1, lambda: cluster.scale(0)),
        )  # fmt: skip
    convert(rain(), tmp_path / "out.zarr", frames_per_shard=2)
    np.testing.assert_array_equal(open_zarr(tmp_path / "out.zarr").rain, rain())


def test_workers_that_were_never_there_are_waited_for_and_it_is_said_once(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.scale(0)
    while cluster.scheduler_info["workers"]:
        time.sleep(0.05)

    def start(message: Warning | str, *_: Any, **__: Any) -> None:
        said.append(str(message))
        cluster.scale(1)

    said: list[str] = []
    monkeypatch.setattr(warnings, "warn", start)
    convert(rain(), tmp_path / "out.zarr", frames_per_shard=2, cluster=cluster.scheduler_address)
    assert len([line for line in said if "waits for workers" in line]) == 1
    np.testing.assert_array_equal(open_zarr(tmp_path / "out.zarr").rain, rain())


@pytest.mark.parametrize("job", ["convert", pytest.param("hindcast", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("slow")
def test_a_scheduler_that_ends_is_said_and_the_same_call_goes_on(cluster: Any, job: str, tmp_path: Path) -> None:
    place = tmp_path / "out.zarr"

    def run(**options: Any) -> None:
        if job == "convert":
            convert(rain(), place, frames_per_shard=2, **options)
        else:
            archive(place, **options)

    with pytest.raises(
        Interrupted, match=r"the cluster gave .+ up|the dask scheduler does not answer any more"
    ) as caught:
        run(cluster=cluster.scheduler_address, progress=at_shard(2, cluster.close))
    assert "\n" not in str(caught.value)
    run()
    place.rename(tmp_path / "resumed.zarr")
    run()
    xr.testing.assert_identical(open_zarr(tmp_path / "resumed.zarr"), open_zarr(place))


def test_a_shard_on_which_workers_die_is_named(tmp_path: Path) -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),  # type: ignore[no-untyped-call]
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50, local_directory=tmp_path
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        tasks = clusters.Tasks(client, "a.zarr", "batch_size")
        future = tasks.submit(os._exit, 1)
        (ended,) = tasks.first_of([future])
        with pytest.raises(
            Interrupted, match=r"INTERRUPTED a\.zarr: several workers died on shard 3\..* a smaller batch_size, then"
        ):
            tasks.result(ended, "shard 3")


# --- memory


def limit_of(limit: int | None) -> int:
    """The room on a worker whose process has nothing yet."""
    return limit or 0


def test_tasks_go_to_the_workers_that_can_hold_them_and_what_none_can_hold_is_refused() -> None:
    with workers_of(500 * MiB, 2000 * MiB) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        large = max(client.scheduler_info()["workers"].items(), key=lambda worker: worker[1]["memory_limit"])[0]
        for needed, where in ((600, {large}), (400, None)):
            needs = clusters.Needs(needed * MiB, limit_of, lambda most: "")
            tasks = clusters.Tasks(client, "a.zarr", "batch_size", needs)
            tasks.require_room()
            calls = ((number, f"{number}", hold, (10,)) for number in range(8))
            ran = {address for _, address in clusters.results_of(tasks, calls)}
            assert where is None or ran == where
        needs = clusters.Needs(2100 * MiB, limit_of, lambda most: f"pass size={most // MiB}")
        with pytest.raises(
            ModelError,
            match=r"a\.zarr: each task needs about 2100 MiB of a worker's memory, expected at most the 2000 MiB that "
            r"the largest of 2 workers has beside its process\. Fix: pass size=2000, or start workers with 100 MiB ",
        ) as caught:
            clusters.Tasks(client, "a.zarr", "batch_size", needs).require_room()
        assert "\n" not in str(caught.value)


def test_a_task_that_only_lost_workers_could_hold_ends_the_call() -> None:
    with workers_of(500 * MiB, 2000 * MiB) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        tasks = clusters.Tasks(client, "a.zarr", "batch_size", clusters.Needs(600 * MiB, limit_of, lambda most: ""))
        tasks.require_room()
        large = max(client.scheduler_info()["workers"].items(), key=lambda worker: worker[1]["memory_limit"])[0]
        client.retire_workers([large], close_workers=True, remove=True)
        with pytest.raises(
            Interrupted, match=r"needs about 600 MiB of .* the largest of 1 workers .* 100 MiB more, then"
        ):
            list(clusters.results_of(tasks, [(0, "shard 0", hold, (10,))]))


@pytest.mark.parametrize("begun", [False, True])
def test_smaller_tasks_fit_and_are_no_smaller_than_they_have_to_be(nowcaster: Nowcaster, begun: bool) -> None:
    job = nowcaster.plan(rain(60), init_times=slice(None), batch_size=16)
    whole = memory.task_bytes(job, 48)
    for most in (whole, whole - 1, whole // 2, whole // 8):
        told = memory.smaller_tasks(job, 48, most, begun=begun)
        chosen = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", told)}
        size = chosen.get("shard_size", 48)
        if not chosen:  # not even one init time at once
            assert memory.task_bytes(replace(job, batch=1), 48 if begun else 1) > most
            continue
        assert memory.task_bytes(replace(job, batch=chosen["batch_size"]), size) <= most
        larger = [(chosen["batch_size"], size + chosen["batch_size"])] if size < 48 else []
        larger += [(2 * chosen["batch_size"], 48 if begun else 2 * chosen["batch_size"])] if most < whole else []
        assert all(memory.task_bytes(replace(job, batch=b), s) > most for b, s in larger if b <= 16)


@pytest.mark.slow
def test_a_small_worker_beside_a_large_one_is_not_ended_and_alone_it_is_refused(tmp_path: Path) -> None:
    data = rain(40, 512, 512)
    options: dict[str, Any] = {"steps": 12, "shard_size": 18, "init_times": slice(None, data["time"].values[35])}
    hindcast(data, "persistence", to=tmp_path / "here.zarr", **options)
    with workers_of(550 * MiB, 2000 * MiB, processes=True) as cluster:
        small, large = (cluster.workers[number].pid for number in range(2))
        hindcast(data, "persistence", to=tmp_path / "there.zarr", cluster=cluster, **options)
        assert [cluster.workers[number].pid for number in range(2)] == [small, large]
        with distributed.Client(cluster, set_as_default=False) as client:
            peaks = sorted(client.run(peak).values())
        assert peaks[0] < 550 * MiB < peaks[1]
    xr.testing.assert_identical(open_zarr(tmp_path / "here.zarr"), open_zarr(tmp_path / "there.zarr"))
    with workers_of(550 * MiB, processes=True) as cluster:
        with pytest.raises(
            ModelError, match=r"each task needs about \d+ MiB .* Fix: pass batch_size=1 with shard_size=\d"
        ):
            hindcast(data, "persistence", to=tmp_path / "small.zarr", cluster=cluster, **options)
        assert not list(tmp_path.glob("small*"))


def peak() -> int:
    """The most that this process ever had, in bytes."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
