"""What several rooms' tests share. The grids are small and one thread is enough for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, settings
from object_server import ObjectServer
from sequences import NETWORK, OPTIONS, rain, traffic, weather

from sa_nowcast.forecasts.defaults import ENVIRONMENT, set_default_model
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.storage import remote
from sa_nowcast.training.fit import fit

# The width of the runner's terminal is not that of the commands.
os.environ.pop("COLUMNS", None)
# Derandomised, so that a failure is one everywhere; no deadline, for the machine may be busy.
settings.register_profile("tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_default_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    yield
    set_default_model(None)


@pytest.fixture(scope="session")
def sequence() -> xr.DataArray:
    return rain()


@pytest.fixture(scope="session")
def nowcaster() -> Nowcaster:
    """Trained on `rain`: 4 frames to 3."""
    return fit(rain(), history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)


@pytest.fixture(scope="session")
def weather_nowcaster() -> Nowcaster:
    return fit(weather(), history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)


@pytest.fixture(scope="session")
def traffic_nowcaster() -> Nowcaster:
    return fit(traffic(), history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)


@pytest.fixture(scope="module")
def object_server() -> Iterator[ObjectServer]:
    """An S3 server, one a module."""
    found = ObjectServer()
    yield found
    found.kill()


@pytest.fixture
def s3(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """The same, named by the environment, without a fault so far, and with waits as short as it is near."""
    for name in [n for n in os.environ if n.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "RETRIES", 3)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    object_server.set(delay=0, throttle=0, every=0, fail=0, refuse=0)
    return object_server


@pytest.fixture
def saved(nowcaster: Nowcaster, tmp_path: Path) -> Path:
    return nowcaster.save(tmp_path / "rain.nowcaster")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the downloaded real data."""
    folder = os.environ.get("SA_NOWCAST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data: set SA_NOWCAST_DATA to the folder that holds them")
    return Path(folder)
