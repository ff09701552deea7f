"""A published folder, and a server of it on a port of the loopback address."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from published import publish

from sa_nowcast.serving.folder import Published
from sa_nowcast.serving.running import bind, server


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks a server; paths are sent as they are, dots and all."""

    port: int

    def __call__(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@contextmanager
def serving(folder: Path, **bounds: float) -> Iterator[Client]:
    running = server(Published(folder), **{"rate": 0, **bounds})
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        while not running.started:
            time.sleep(0.01)
        yield Client(bound.getsockname()[1])
    finally:
        running.should_exit = True
        thread.join(20)
        bound.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a service published; tests that change it take a `copy`."""
    return publish(tmp_path_factory.mktemp("service") / "nowcasts")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="session")
def ask(folder: Path) -> Iterator[Client]:
    with serving(folder) as client:
        yield client


@pytest.fixture(scope="session")
def stored(folder: Path) -> xr.Dataset:
    """The forecast as its file has it."""
    path = next((folder / "forecasts").glob("*/forecast.nc"))
    with xr.open_dataset(path, decode_timedelta=True) as ds:
        return ds.load()


@pytest.fixture
def serve() -> Callable[..., Any]:
    return serving
