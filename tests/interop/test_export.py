"""A nowcaster as an exported program or ONNX forecasts what the nowcaster forecasts, from physical units."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from listed import OPTIONS, left_open
from sequences import rain, weather

from sa_nowcast import models
from sa_nowcast.errors import MissingLibraryError, ModelError, RecipeError, StorageError
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.interop import export as exporting
from sa_nowcast.models.registry import NETWORKS

ort = pytest.importorskip("onnxruntime", reason="ONNX needs pip install onnxruntime")
pytest.importorskip("onnxscript", reason="ONNX needs pip install onnxscript")

GRID = (8, 12)
EACH = [(name, output) for name, network in NETWORKS.items() for output in network.outputs if output != "moving"]
"""Every network, by what its head gives."""


def session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_onnx(path: Path, histories: np.ndarray) -> np.ndarray:
    return np.asarray(session(path).run(None, {"history": histories})[0])


def run_pt2(path: Path, histories: np.ndarray) -> np.ndarray:
    return torch.export.load(path).module()(torch.from_numpy(histories)).numpy()


RUN = {".onnx": run_onnx, ".pt2": run_pt2}


def histories_of(data: xr.DataArray | xr.Dataset, inits: list[int], history: int = 4) -> np.ndarray:
    """Frames up to some positions, (batch, time, channel, row, column)."""
    ds = data.to_dataset() if isinstance(data, xr.DataArray) else data
    values = np.stack([ds[name].transpose("time", "y", "x").values for name in ds.data_vars], 1).astype(np.float32)
    return np.stack([values[i + 1 - history : i + 1] for i in inits])


def forecasts_of(nowcaster: Nowcaster, data: Any, inits: list[int], **asked: Any) -> np.ndarray:
    """What the package forecasts from these positions, (batch, lead, channel, row, column)."""
    each = [nowcaster.forecast(data, init_time=data["time"].values[i], **asked) for i in inits]
    arrays = [f.values if "variable" in f.dims else f.values[None] for f in each]
    return np.stack([a.swapaxes(0, 1) for a in arrays])


def other_network(nowcaster: Nowcaster, name: str, output: str, **options: Any) -> Nowcaster:
    """The same nowcaster with another, untrained network in which no parameter is zero."""
    torch.manual_seed(0)
    chosen = left_open(name) if name in OPTIONS else {"hidden": (8, 8), "kernel": 3, "patch": 2}
    channels = len(nowcaster.terms.channels)
    told = {"channels": channels, "output": output, **chosen, **options}
    config = models.NetworkConfig.from_dict({"name": name, **told}).completed(nowcaster.terms.history, GRID)
    network = models.build(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return replace(nowcaster, network=network.eval(), calibration=None)


@pytest.mark.slow
def test_onnx_forecasts_what_the_nowcaster_does_for_any_number_of_histories_with_missing_values(
    weather_nowcaster: Nowcaster, tmp_path: Path
) -> None:
    data = weather()
    first = next(iter(data.data_vars))
    data[first][9, 2:4] = np.nan  # at one time, and at all of them
    data[first][:, 7, 1:3] = np.nan
    grid = (data.sizes["y"], data.sizes["x"])
    nowcaster = replace(weather_nowcaster, network=_changed(weather_nowcaster.network))
    path = nowcaster.export(tmp_path / "weather.onnx", grid=grid)
    for inits in ([9], [9, 10, 14]):
        expected = forecasts_of(nowcaster, data, inits)
        found = run_onnx(path, histories_of(data, inits))
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(np.nanmax(np.abs(expected))))
    assert np.isnan(expected).any()
    assert not np.isnan(expected).all()
    ran = session(path)
    assert [(i.name, i.shape[1:], i.type) for i in ran.get_inputs()] == [
        ("history", [4, len(data.data_vars), *grid], "tensor(float)")
    ]
    told = ran.get_modelmeta().custom_metadata_map
    assert told["sa_nowcast_model"] == nowcaster.digest
    assert json.loads(told["channels"]) == [{"name": n, "units": u} for n, u in nowcaster.terms.channels]
    assert (told["history"], told["step_seconds"], told["sa_nowcast_checked"]) == ("4", "300", "onnxruntime")
    # Nothing of this machine is in it.
    assert str(Path.cwd()).encode() not in path.read_bytes()
    with pytest.raises(Exception, match="history"):
        run_onnx(path, histories_of(data, [9])[:, :, :1])


def _changed(network: models.Network) -> models.Network:
    """The network with every weight away from zero: training for a few updates leaves a change of nothing."""
    torch.manual_seed(1)
    other = models.build(network.config)
    other.load_state_dict({n: w + 0.05 * torch.randn_like(w) for n, w in network.state_dict().items()})
    return other.eval()


@pytest.mark.slow
def test_a_program_of_torch_runs_without_this_package(nowcaster: Nowcaster, tmp_path: Path) -> None:
    data = rain()
    changed = replace(nowcaster, network=_changed(nowcaster.network))
    changed.export(tmp_path / "rain.pt2", grid=(data.sizes["y"], data.sizes["x"]), steps=2)
    np.save(tmp_path / "history.npy", histories_of(data, [9, 19]))
    code = (
        "import json, sys, numpy as np, torch\n"
        "more = {'sa_nowcast.json': ''}\n"
        "program = torch.export.load('rain.pt2', extra_files=more)\n"
        "np.save('forecast.npy', program.module()(torch.from_numpy(np.load('history.npy'))).numpy())\n"
        "assert not any('sa_nowcast' in name for name in sys.modules)\n"
        "print(more['sa_nowcast.json'])\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    told = json.loads(shown.stdout)
    assert (told["sa_nowcast_model"], told["steps"], told["grid"]) == (changed.digest, "2", "[24, 20]")
    expected = forecasts_of(changed, data, [9, 19], steps=2)
    np.testing.assert_allclose(np.load(tmp_path / "forecast.npy"), expected, rtol=0, atol=1e-5 * expected.max())
    assert expected.min() == 0  # within the bounds of rain, which the network itself does not know


@pytest.mark.slow
@pytest.mark.parametrize("suffix", exporting.SUFFIXES)
@pytest.mark.parametrize(("name", "output"), EACH)
def test_every_network_is_exported(
    name: str, output: str, suffix: str, weather_nowcaster: Nowcaster, tmp_path: Path
) -> None:
    nowcaster = other_network(weather_nowcaster, name, output)
    path = nowcaster.export(tmp_path / f"it{suffix}", grid=GRID, steps=2)
    data = weather().isel(y=slice(0, GRID[0]), x=slice(0, GRID[1]))
    expected = forecasts_of(nowcaster, data, [9, 11, 12], steps=2, grid="any")
    found = RUN[suffix](path, histories_of(data, [9, 11, 12]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.slow
def test_the_default_model_is_exported_for_certain_data_as_a_program_of_torch(tmp_path: Path) -> None:
    data = rain(height=72, width=80)
    data[11, :, 20:70] = np.nan  # areas, which the motion fills
    data[12, 5:50, :60] = np.nan
    nowcaster = default_model().of_data(data)
    path = nowcaster.export(tmp_path / "default.pt2", grid=(72, 80), steps=2)
    expected = forecasts_of(nowcaster, data, [12], steps=2)
    np.testing.assert_allclose(run_pt2(path, histories_of(data, [12])), expected, rtol=0, atol=1e-5 * expected.max())
    # What an export left in a cache would be found by the next forecast.
    np.testing.assert_array_equal(forecasts_of(nowcaster, data, [12], steps=2), expected)


def test_the_page_lists_every_network() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "export.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \| yes \| yes \|$", page, re.MULTILINE) == list(NETWORKS)


def test_what_cannot_be_exported_is_said_before_anything_is_written(
    nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rain.onnx"
    with pytest.raises(RecipeError, match=r"grid: not given.*Fix: give grid="):
        nowcaster.export(path)
    with pytest.raises(RecipeError, match="grid: "):
        nowcaster.export(path, grid=(8, 0))
    with pytest.raises(RecipeError, match=r"one of \.onnx, \.pt2"):
        nowcaster.export(tmp_path / "rain.bin", grid=GRID)
    with pytest.raises(RecipeError, match="steps: 0"):
        nowcaster.export(path, grid=GRID, steps=0)
    path.write_text("")
    with pytest.raises(StorageError, match="exists already"):
        nowcaster.export(path, grid=GRID)
    path.unlink()
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(MissingLibraryError, match=r"onnxscript: is not installed\. Fix: .*pip install"):
            nowcaster.export(path, grid=GRID)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_that_forecasts_something_else_gets_no_name(
    nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = exporting.Exported.forward
    monkeypatch.setattr(exporting.Exported, "forward", lambda self, history: 1.001 * forward(self, history))
    small = replace(nowcaster, network=_changed(nowcaster.network))
    with pytest.raises(ModelError, match=r"rain\.pt2: run by torch\.export it forecasts other values"):
        small.export(tmp_path / "rain.pt2", grid=GRID, steps=1)
    assert not list(tmp_path.iterdir())
    assert small.export(tmp_path / "rain.pt2", grid=GRID, steps=1, check=False).is_file()
