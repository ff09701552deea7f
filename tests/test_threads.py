"""How long torch's threads spin, and that nothing but the pace depends on it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import sa_nowcast.computing.threads as threads
from sa_nowcast.computing.threads import SPINNING, Look, shorten_spinning

UNSET = {name: value for name, value in os.environ.items() if name not in (*SPINNING, "OMP_WAIT_POLICY")}


def child(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=UNSET | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_shortens_spinning_before_torch_is_loaded_and_children_inherit_it() -> None:
    code = """
import os, subprocess, sys, sa_nowcast
assert "torch" not in sys.modules
inner = "import os; print(os.environ['GOMP_SPINCOUNT'], os.environ['KMP_BLOCKTIME'])"
print(subprocess.run([sys.executable, "-c", inner], capture_output=True, text=True).stdout)
"""
    assert child(code) == " ".join(SPINNING.values())


@pytest.mark.parametrize(
    "told", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"KMP_BLOCKTIME": "infinite"}], ids=str
)
def test_what_the_user_said_about_waiting_stays(told: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_told_by_user", False)
    environment = dict(told)
    shorten_spinning(environment)
    assert environment == told
    assert threads._told_by_user
    looks: list[int] = []
    monkeypatch.setattr(threads._sharing, "fit", lambda: looks.append(1))
    threads.look_again()
    with threads.sharing_cores():
        pass
    assert not looks


def test_a_process_that_inherited_the_setting_does_not_take_it_for_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_told_by_user", True)
    environment = dict(SPINNING)
    shorten_spinning(environment)
    assert not threads._told_by_user


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_a_containers_quota_is_read_from_its_cgroup(files: dict[str, str], cores: float, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads._quota(tmp_path) == cores


def test_no_more_threads_than_the_containers_cores_and_as_many_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "cores", lambda: 1)
    with threads.sharing_cores():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


class Machine:
    """Looks at a machine of `cores` cores on which others keep some busy, and this process has computed or rested."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int, threads_of_torch: int) -> None:
        import torch

        self.look = Look(0.0, 0.0, 0.0, 1.0)
        self.crowds: list[int] = []
        self.kept: list[int] = []
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads_of_torch)
        monkeypatch.setattr(threads, "cores", lambda: cores)
        monkeypatch.setattr(threads.Look, "now", lambda cpus: self.look)
        monkeypatch.setattr(threads.time, "monotonic", lambda: self.look.time)
        self.sharing = threads._Sharing(look=self.look)
        monkeypatch.setattr(self.sharing, "_crowd", self._crowd)
        monkeypatch.setattr(self.sharing, "_keep", self.kept.append)

    def _crowd(self, count: int) -> None:
        self.crowds.append(count)
        self.sharing.crowd = threading.Event()

    def crowded_after(self, seconds: float, others: float, own: float, running: int = 1) -> bool:
        before = self.look
        self.look = Look(
            before.time + seconds, before.busy + seconds * (others + own), before.own + seconds * own, running
        )
        self.sharing.fit()
        return self.sharing.crowd is not None


def test_spinning_ends_while_others_take_half_a_core_and_begins_again_when_they_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch, 2, 2)
    assert not machine.crowded_after(2, others=0.4, own=1.6)
    assert machine.crowded_after(2, others=1.3, own=0.6)
    over = machine.sharing.crowd
    assert over is not None
    assert machine.crowded_after(2, others=0.3, own=1.7)
    assert not machine.crowded_after(2, others=0.1, own=1.9)
    assert over.is_set()
    assert machine.crowds == [2]
    assert machine.kept == [1]


def test_one_look_a_second_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2, 2)
    assert not machine.crowded_after(0.9, others=1.0, own=1.0)
    assert machine.crowded_after(0.2, others=1.0, own=1.0)


@pytest.mark.parametrize(("seconds", "own"), [(2.0, 0.1), (60.0, 2.0)])
def test_after_a_rest_what_runs_now_counts_and_not_what_ran_meanwhile(
    seconds: float, own: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, 2, 2)
    assert not machine.crowded_after(seconds, others=1.5, own=own, running=1)
    assert machine.crowded_after(seconds, others=0.0, own=own, running=5)


@pytest.mark.parametrize(("others", "kept"), [(5.9, None), (6.7, 1), (10.0, 1)])
def test_cores_beyond_the_threads_are_there_for_others(
    others: float, kept: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, 8, 2)
    assert machine.crowded_after(2, others=others, own=2) == (kept is not None)
    assert machine.kept == ([] if kept is None else [kept])


def test_threads_keep_to_as_many_cores_as_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 8, 8)
    assert machine.crowded_after(2, others=2.6, own=5)
    assert machine.kept == [5]


@pytest.mark.skipif(len(threads._sharing.mask()) < 2, reason="one core: run it where there are two")
def test_threads_that_compute_apart_from_each_other_have_all_cores() -> None:
    """As the threads of a dask scheduler do."""
    everything, sharing = os.sched_getaffinity(0), threads._Sharing(look=Look(1e12, 0, 0, 0))
    sharing.crowd, sharing.left = threading.Event(), 0.5
    sharing.enter()
    sharing._keep(1)
    alone, beside = os.sched_getaffinity(0), []
    other = threading.Thread(target=lambda: (sharing.enter(), beside.append(os.sched_getaffinity(0)), sharing.leave()))
    other.start()
    other.join()
    assert len(alone) == 1
    assert beside == [everything]
    assert os.sched_getaffinity(0) == everything
    sharing.leave()
    sharing.free()
    assert sharing.kept_to is None
    assert os.sched_getaffinity(0) == everything


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: run it where there are two")
def test_beside_busy_processes_threads_keep_to_free_cores_and_neither_their_number_nor_results_change() -> None:
    code = """
import multiprocessing, os, sys, threading, time
import sa_nowcast, torch
from sa_nowcast.computing import threads
from sa_nowcast.models import build
torch.manual_seed(0)
network, x = build("sa-convlstm", hidden=(8, 8), kernel=3, patch=4, channels=1), torch.rand(2, 4, 1, 64, 64)
everything = os.sched_getaffinity(0)
def forecast():
    with threads.sharing_cores(), torch.inference_mode():
        return network(x, 3), len(os.sched_getaffinity(0)), forked_mask()
def forked_mask():
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, bytes([len(os.sched_getaffinity(0))]))
        os._exit(0)
    os.wait()
    return os.read(reader, 1)[0]
def masks():
    return {len(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")}
first, mask, _ = forecast()
print("ready", mask == len(everything), flush=True)
sys.stdin.readline()
end = time.monotonic() + 60
mask = len(everything)
while mask == len(everything):
    time.sleep(1.1)
    beside, mask, forked = forecast()
    assert time.monotonic() < end, threads._sharing
assert mask < len(everything) == threads.cores(), (mask, threads.cores())
assert forked == len(everything), "a child of the thread that was kept to some cores"
assert os.sched_getaffinity(0) == everything
assert torch.get_num_threads() == 2
assert torch.equal(first, beside)
while masks() != {len(everything)} or any(t.name == "sa_nowcast crowd" for t in threading.enumerate()):
    time.sleep(0.1)
    assert time.monotonic() < end, (masks(), threads._sharing)
print("well")
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], env=UNSET | {"OMP_NUM_THREADS": "2"}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = process.stdout.readline()
        # Not its own children, which would count as its own work.
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
        try:
            rest = process.communicate("go\n")[0]
        finally:
            for other in busy:
                other.kill()
                other.wait()
    assert process.returncode == 0
    assert first.split()[0] == "ready"
    assert rest.split() == ["well"]
