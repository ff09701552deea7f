"""sa-nowcast export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import Here

from sa_nowcast.forecasts.nowcaster import Nowcaster

GRID = (8, 12)


def test_the_command_exports(here: Here, nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowcaster.save(tmp_path / "rain.nowcaster")
    monkeypatch.chdir(tmp_path)
    words = ["export", "rain.nowcaster", "rain.pt2", "--steps", "1", "--no-check"]
    here.fails(2, "Fix: give --grid '128, 128', or yours.", *words)
    here.fails(2, "RECIPE --grid: '8', expected rows and columns", *words, "--grid", "8")
    assert here(*words, "--grid", "8, 12").code == 0
    assert here.out == "rain.pt2\n"
    program = torch.export.load("rain.pt2")
    assert program.module()(torch.zeros(3, 4, 1, *GRID)).shape == (3, 1, 1, *GRID)
