"""The script for a machine with a GPU runs on the CPU, at a tiny size: all but what is CUDA's alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_tools import ROOT, load

SCRIPT = ROOT / "tests" / "benchmarks" / "gpu.py"
QUICK = ("step", "parity", "forecast", "training")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load("../tests/benchmarks/gpu")


def figures(folder: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return kept


def here(tool: ModuleType, part: str, folder: Path) -> int:
    call = ["--here", "--only", part, "--device", "cpu", "--tiny", "--backend", "eager", "--output", str(folder)]
    return int(tool.main([*call, "--minutes", "10", "--mnist", str(folder / "nowhere")]))


def test_each_part_writes_its_figures_and_keeps_those_of_others(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The slow test compiles and graphs at once, too.
    monkeypatch.setattr(tool, "WAYS", [way for way in tool.WAYS if way != "compiled, in a graph"])
    for number, part in enumerate(QUICK, start=1):
        assert here(tool, part, tmp_path) == 0
        kept = figures(tmp_path)
        assert list(kept) == list(QUICK[:number])
        assert kept[part]["ended"] == "whole"
        text = (tmp_path / "report.md").read_text(encoding="utf-8")
        assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(QUICK[:number])
        assert "Not finished" not in text
    ways = kept["step"]["figures"]
    assert list(ways) == list(tool.WAYS)
    assert ways["in a graph"]["losses"] == ways["eager"]["losses"]  # which on the CPU is the step itself
    for kind in tool.WAYS:
        assert ways[kind]["losses"] == pytest.approx(ways["eager"]["losses"], rel=tool.LOSS_TOLERANCE)
    assert ways["eager, float32"]["losses"] != ways["eager"]["losses"]
    assert kept["parity"]["figures"]["largest_relative_difference"] == 0.0
    assert kept["parity"]["figures"]["steps"] == tool.TINY.updates
    assert set(kept["forecast"]["figures"]) == {"mean", "2 members"}
    training = kept["training"]["figures"]
    assert (training["from"], training["to"], training["made_up_digits"]) == (0, 2, True)
    # A second call goes on from there, which is where this one ends.
    assert here(tool, "training", tmp_path) == 0
    assert figures(tmp_path)["training"]["figures"]["from"] == 2


def test_the_losses_are_those_of_a_plain_loop(tool: ModuleType) -> None:
    sizes = tool.TINY
    net, data = tool.network(sizes), tool.batches(sizes, sizes.updates, sizes.parity_batch, torch.device("cpu"))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for x, mask in data:
        loss = (net.predict_all(x, sizes.history, mask) - x[:, 1:]).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    part = tool.Part("parity", None, tool.Processor(), time.monotonic() + 600, sizes)
    step = tool.way(part, tool.network(sizes), "eager, float32", data[0][0])
    assert tool.losses_of(step, data, part.left) == pytest.approx(losses, rel=1e-5)


def test_a_way_that_fails_is_a_finding_and_a_part_that_fails_keeps_what_it_found(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, *given: object) -> None:
        raise RuntimeError("no graph today\nand more")

    monkeypatch.setattr(tool.Processor, "graphed", broken)
    monkeypatch.setattr(tool, "WAYS", tool.WAYS[:3])
    monkeypatch.setattr(tool, "profile", broken)
    assert here(tool, "step", tmp_path) == 1
    part = figures(tmp_path)["step"]
    assert part["figures"]["in a graph"] == {"failed": "RuntimeError: no graph today"}
    assert part["figures"]["eager"]["ms"] > 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| in a graph | failed: RuntimeError: no graph today |" in text


def test_without_a_cuda_device_it_says_what_can_be_done(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert tool.main(["--output", str(tmp_path)]) == 2
    assert "--device cpu --tiny" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_ends_a_part_whose_time_is_over(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--device", "cpu", "--tiny", "--output", str(tmp_path), "--only", "parity", "--minutes"]
    begun = time.monotonic()
    assert tool.main([*call, "0.12"]) == 1  # to import torch takes longer
    assert time.monotonic() - begun < 60 * 0.12 + 5
    kept = figures(tmp_path)
    assert kept["parity"]["ended"] == ""
    assert "**Not finished: its time was over, or it was ended.**" in (tmp_path / "report.md").read_text("utf-8")
    capsys.readouterr()
    assert tool.main([*call, "0.09"]) == 1
    assert "no time is left for parity" in capsys.readouterr().out
    assert figures(tmp_path) == kept


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_runs_every_part_with_the_real_compiler(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--output", str(tmp_path)]
    done = subprocess.run([*command, "--minutes", "12"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = figures(tmp_path)
    assert {name: part["ended"] for name, part in kept.items()} == dict.fromkeys(["tests", *QUICK], "whole")
    assert "skipped" in kept["tests"]["figures"]["said"] or torch.cuda.is_available()
