"""sa-nowcast export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import in_process

from sa_nowcast.forecasts.nowcaster import Nowcaster

GRID = (8, 12)


def test_the_command_exports(nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowcaster.save(tmp_path / "rain.nowcaster")
    monkeypatch.chdir(tmp_path)
    words = ["export", "rain.nowcaster", "rain.pt2", "--steps", "1"]
    assert in_process(monkeypatch, *words) == 2
    assert in_process(monkeypatch, *words, "--grid", "8") == 2
    assert in_process(monkeypatch, *words, "--grid", "8x12", "--no-check") == 0
    program = torch.export.load("rain.pt2")
    assert program.module()(torch.zeros(3, 4, 1, *GRID)).shape == (3, 1, 1, *GRID)
