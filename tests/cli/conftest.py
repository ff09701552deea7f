from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Here
from sequences import georeferenced, rain


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    return Here(monkeypatch, capfd)


@pytest.fixture
def radar(tmp_path: Path) -> Path:
    """Forty frames of rain with a grid mapping, every 5 minutes."""
    path = tmp_path / "radar.nc"
    georeferenced(rain(40)).to_netcdf(path)
    return path


@pytest.fixture
def no_folder(tmp_path: Path) -> Path:
    """A place below a file, where nobody can write, not even root."""
    (tmp_path / "file").write_text("no folder")
    return tmp_path / "file" / "below"
