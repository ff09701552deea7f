"""A process that has imported everything and runs no thread: it forks a child for each trial, in milliseconds.

A child that is forked from the process of the tests could wait for ever on a lock that one of its threads held.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from points import Fault, install

HERE = Path(__file__).parent
IMPORTS = (
    "sa_nowcast.conversion",
    "sa_nowcast.hindcast",
    "sa_nowcast.training.fit",
    "sa_nowcast.cli",
    "netCDF4",
    "trials",
)


@dataclass(frozen=True)
class Trial:
    """One child: a function of this folder's ``jobs.py`` and its arguments, and what happens to it.

    Parameters
    ----------
    job : str
    args : tuple
    fault : Fault, optional
    signals : tuple of (float, int)
        Seconds after the fork, and the signal that the child is sent then.
    group : bool
        Whether signals go to the children of the child too, as a terminal's and a scheduler's do.
    user : int, optional
        The user that the child becomes; only the superuser may.
    limit : int, optional
        The most bytes of a file, as a quota: RLIMIT_FSIZE.
    """

    job: str
    args: tuple[Any, ...] = ()
    fault: Fault | None = None
    signals: tuple[tuple[float, int], ...] = ()
    group: bool = False
    user: int | None = None
    limit: int | None = None


@dataclass
class End:
    """How a child ended.

    Attributes
    ----------
    code : int
        Its exit code; minus the signal that ended it.
    seconds : float
        From its last signal, or its beginning, to its end.
    value : object
        What the function returned.
    error : str
        What it wrote on standard error, or the one line of its error.
    points : list of str
        The changes of the disk that were counted.
    """

    code: int
    seconds: float
    value: Any = None
    error: str = ""
    points: list[str] = field(default_factory=list)


class Nursery:
    """The process, as the tests see it; `environment` goes over this one's."""

    def __init__(self, **environment: str) -> None:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
        # A dask cluster that a test started leaves settings of the allocator in this one's environment.
        plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"import nursery; nursery.main({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            env={**plain, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
        )
        theirs.close()
        self.connection = Connection(ours.detach())

    def run(self, *trials: Trial, timeout: float = 120) -> list[End]:
        """Run children at the same time; the ends in their order. One that takes longer than `timeout` is a failure."""
        self.connection.send((trials, timeout))
        ends: list[End] | str = self.connection.recv()
        assert not isinstance(ends, str), ends
        return ends

    def one(self, job: str, *args: Any, timeout: float = 120, **options: Any) -> End:
        """Run one child."""
        return self.run(Trial(job, args, **options), timeout=timeout)[0]

    def well(self, job: str, *args: Any, **options: Any) -> End:
        """Run one child that must end well."""
        end = self.one(job, *args, **options)
        assert end.code == 0, end.error
        return end

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.wait(30)


def _child(trial: Trial, folder: Path) -> None:
    from sa_nowcast.errors import SaNowcastError

    os.setpgid(0, 0)
    descriptor = os.open(folder / "error", os.O_CREAT | os.O_WRONLY, 0o666)
    os.dup2(descriptor, 2)
    os.dup2(os.open(folder / "out", os.O_CREAT | os.O_WRONLY, 0o666), 1)
    result = os.open(folder / "result", os.O_CREAT | os.O_WRONLY, 0o666)
    if trial.user is not None:
        os.setgid(trial.user)
        os.setuid(trial.user)
    if trial.limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (trial.limit, resource.RLIM_INFINITY))
    points = None if trial.fault is None else install(trial.fault)
    value, error, code = None, "", 0
    try:
        value = getattr(importlib.import_module("jobs"), trial.job)(*trial.args)
    except SaNowcastError as caught:
        error, code = str(caught), caught.exit_code
    except SystemExit as caught:
        code = int(caught.code or 0)
    except BaseException:
        error, code = traceback.format_exc(), 99
    if trial.limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sys.stderr.flush()
    sys.stdout.flush()
    os.write(result, pickle.dumps((value, error, [] if points is None else points.names)))
    os._exit(code)


def _serve(connection: Connection) -> None:
    while True:
        try:
            trials, timeout = connection.recv()
        except EOFError:
            return
        try:
            with tempfile.TemporaryDirectory() as folder:
                connection.send(_run(trials, timeout, Path(folder)))
        except Exception:
            connection.send(traceback.format_exc())


def _run(trials: tuple[Trial, ...], timeout: float, folder: Path) -> list[End]:
    began, children, ends = [], [], {}
    os.chmod(folder, 0o755)
    for number, trial in enumerate(trials):
        place = folder / str(number)
        place.mkdir()
        began.append(time.monotonic())
        child = os.fork()
        if not child:
            try:
                _child(trial, place)
            finally:
                os._exit(98)
        children.append(child)
    waiting = {i: sorted(t.signals) for i, t in enumerate(trials)}
    marks = list(began)
    while len(ends) < len(trials):
        for i, child in enumerate(children):
            if i in ends:
                continue
            ended, status = os.waitpid(child, os.WNOHANG)
            now = time.monotonic()
            if ended:
                ends[i] = _end(folder / str(i), os.waitstatus_to_exitcode(status), now - marks[i])
                continue
            while waiting[i] and now - began[i] >= waiting[i][0][0]:
                number = waiting[i].pop(0)[1]
                marks[i] = now
                try:
                    os.killpg(child, number) if trials[i].group else os.kill(child, number)
                except ProcessLookupError:  # it has not made its group yet
                    os.kill(child, number)
            if now - began[i] > timeout:
                os.kill(child, signal.SIGABRT)
                os.waitpid(child, 0)
                ends[i] = End(-signal.SIGABRT, now - marks[i], error=f"did not end within {timeout} s")
        time.sleep(0.001)
    return [ends[i] for i in range(len(trials))]


def _end(folder: Path, code: int, seconds: float) -> End:
    value, error, points = None, "", []
    raw = (folder / "result").read_bytes() if (folder / "result").exists() else b""
    if raw:
        try:
            value, error, points = pickle.loads(raw)  # noqa: S301  (of our own child)
        except (pickle.UnpicklingError, EOFError):
            if code != -signal.SIGKILL:  # which can come while it is written
                raise
    if not error and (folder / "error").exists():
        error = (folder / "error").read_text()
    return End(code, seconds, value, error, points)


def _no_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what leaves this machine: an audit hook."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        raise ConnectionRefusedError(f"{event} {arguments}")
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        unix = arguments[0].family == socket.AF_UNIX
        if not unix:
            raise ConnectionRefusedError(f"{event} {arguments[1:]}")


def main(descriptor: int) -> None:
    """Be the process; it and all its children may not use the network."""
    sys.addaudithook(_no_network)
    import faulthandler

    import torch

    torch.set_num_threads(1)
    faulthandler.enable()
    for name in (*IMPORTS, "jobs"):
        importlib.import_module(name)
    _serve(Connection(descriptor))
    os._exit(0)
