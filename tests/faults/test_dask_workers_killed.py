"""Dask workers that are killed while they write an archive: its bytes are those of one process, no init time twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from points import content, names_of
from sequences import rain
from test_hindcast_killed import each_once

from sa_nowcast.computing import clusters
from sa_nowcast.errors import Interrupted
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.hindcast import hindcast

OPTIONS: dict[str, Any] = {"batch_size": 2, "shard_size": 2}
HERE = Path(__file__).parent


def kill_some(cluster: Any, rng: random.Random, over: threading.Event, killed: list[int]) -> None:
    """Kill one of the two workers now and then."""
    while not over.wait(rng.uniform(0.1, 1.2)):
        nannies = list(cluster.workers.values())
        process = rng.choice(nannies).pid if nannies else None
        if process is not None and process not in killed:
            os.kill(process, signal.SIGKILL)
            killed.append(process)


@pytest.mark.faults(2, 40)
def test_killed_dask_workers_cost_the_shard_that_they_were_at(
    repetitions: int, rng: random.Random, nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="clusters need pip install distributed")
    import dask

    # Workers are forked from a process that has imported what they need, not started from nothing each time.
    forked = {"distributed.worker.multiprocessing-method": "forkserver"}
    with dask.config.set(forked):  # type: ignore[no-untyped-call]
        distributed.utils.get_mp_context()
    multiprocessing.set_forkserver_preload(["distributed", "sa_nowcast.forecasts.nowcaster", "sa_nowcast.hindcast"])
    log, kills, runs, lost = tmp_path / "log", 0, 0, 0
    monkeypatch.setattr(clusters, "LOOK_EVERY", 0.5)
    monkeypatch.setattr(clusters, "NONE_COME", 5.0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), *sys.path]))
    environment = {"LOG": str(log), "OMP_NUM_THREADS": "1"}
    hindcast(rain(), nowcaster, to=tmp_path / "one.zarr", **OPTIONS)
    with (
        dask.config.set(  # type: ignore[no-untyped-call]
            {**forked, "distributed.worker.preload": [str(HERE / "slowly.py")]}
        ),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=50,
            local_directory=tmp_path / "dask",
            env=environment,
        ) as cluster,
    ):
        while kills < repetitions:
            runs += 1
            log.unlink(missing_ok=True)
            folder = tmp_path / str(runs)
            folder.mkdir()
            over, killed = threading.Event(), []
            killer = threading.Thread(target=kill_some, args=(cluster, rng, over, killed))
            killer.start()
            try:
                for _ in range(10):
                    try:
                        hindcast(rain(), nowcaster, to=folder / "a.zarr", cluster=cluster, **OPTIONS)
                        break
                    except Interrupted:
                        # The scheduler gives a task up that lost its worker four times; and a worker that is killed
                        # while it starts is not started again, until none is left.
                        lost += 1
                        cluster.scale(2)
            finally:
                over.set()
                killer.join()
            kills += len(killed)
            each_once(log, len(killed))
            assert content(folder / "a.zarr") == content(tmp_path / "one.zarr")
            assert names_of(folder) == ["a.zarr"]
    print(
        f"{kills} workers killed in {runs} hindcasts, {lost} calls interrupted: all archives equal, each init time once"
    )
