"""A nowcaster as one file that runs without this package: an exported program of torch, or ONNX.

What is exported takes histories in physical units and gives forecasts in physical units: the scaling, the filling of
what is missing and the physical bounds are part of it. No code of this package is.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sa_nowcast._version import __version__
from sa_nowcast.computing import quiet
from sa_nowcast.errors import ModelError, RecipeError, StorageError
from sa_nowcast.models.repeats import without_gaps
from sa_nowcast.models.rollout import Network
from sa_nowcast.scaling import Scaling
from sa_nowcast.sources.reading import require
from sa_nowcast.storage.whole import partial_beside, put_in_place, require_place
from sa_nowcast.stream.batch import of_window

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster

SUFFIXES: Final = (".onnx", ".pt2")
METADATA: Final = "sa_nowcast.json"
"""The file in a ``.pt2`` that says what the model is; in an ``.onnx`` each entry is a metadata property."""
TOLERANCE: Final = 1e-5
"""Largest difference from the nowcaster's own forecast, as a share of the largest value of that."""
_OPSET: Final = 20  # of ONNX; what torch's exporter takes by default


class Exported(nn.Module):
    """What is exported: (batch, time, channel, row, column) to (batch, lead, channel, row, column), physical units.

    Missing values, NaN or infinite, are filled as `sa_nowcast.stream.batch.prepare` does. A pixel without any value in
    the history, and a sample with a frame without any, is NaN in the forecast.
    """

    def __init__(self, network: Network, scaling: Scaling, steps: int) -> None:
        super().__init__()
        self.network, self.scaling, self.steps = network, scaling, steps

    def forward(self, history: Tensor) -> Tensor:
        """Forecast."""
        valid = torch.isfinite(history)
        x = self.scaling.to_network(history, torch)
        by_window = not self.network.config.declared.needs_scaling
        rest = of_window(x, valid) if by_window else x.new_zeros(())
        x = _filled(x, valid, rest)
        if self.network.config.output == "moving":
            x = without_gaps(x, valid)
        y = self.network(x, steps=self.steps)
        known = valid.any(1) & valid.flatten(2).any(2).all(1)[:, None, None, None]
        return torch.where(known[:, None], self.scaling.to_physical(y, torch), torch.nan)


def _filled(x: Tensor, valid: Tensor, rest: Tensor) -> Tensor:
    """Return frames whose missing pixels have the latest value before, else the earliest after, else `rest`.

    As `sa_nowcast.stream.batch.prepare` fills a history, without its maps of positions in time: ONNX has no running
    maximum that would give them.
    """
    value = rest.expand(x.shape[0], 1, *x.shape[2:])[:, 0]
    for frame, known in zip(reversed(x.unbind(1)), reversed(valid.unbind(1)), strict=True):
        value = torch.where(known, frame, value)
    frames = []
    for frame, known in zip(x.unbind(1), valid.unbind(1), strict=True):
        value = torch.where(known, frame, value)
        frames.append(value)
    return torch.stack(frames, 1)


def export(
    nowcaster: Nowcaster,
    path: str | Path,
    *,
    grid: Sequence[int] | None = None,
    steps: int | None = None,
    check: bool = True,
    replace: bool = False,
) -> Path:
    """Write a nowcaster as one file; see `sa_nowcast.Nowcaster.export`."""
    target = require_place(path, SUFFIXES, replace)
    onnx = target.suffix.lower() == ".onnx"
    if nowcaster.network.config.output == "moving" and onnx:
        raise ModelError(
            nowcaster.name,
            "with output: moving takes running maxima (cummax), which torch's exporter cannot write as ONNX",
            fix=f"write {str(target.with_suffix('.pt2'))!r}",
        )
    if onnx:
        for library in ("onnx", "onnxscript"):
            require(library, "onnx")
    shape = _shape(nowcaster, grid)
    steps = nowcaster.terms.steps if steps is None else steps
    if type(steps) is not int or steps < 1:
        raise RecipeError("steps", f"{steps!r}", expected="a whole number of at least 1")
    histories = _histories(nowcaster, shape)
    expected = _forecasts(nowcaster, histories, steps)  # also fills caches of constants
    program = _program(nowcaster, torch.from_numpy(histories), steps)
    checked = "" if not check else "torch"
    if check:
        _compare(program.module()(torch.from_numpy(histories)).numpy(), expected, target, "torch.export")
    if onnx and check and _runtime() is not None:
        checked = "onnxruntime"
    about = metadata(nowcaster, shape, steps, checked)
    content = _onnx(nowcaster, program, about) if onnx else _pt2(program, about)
    if checked == "onnxruntime":
        _compare(_run(content, histories), expected, target, "ONNX Runtime")
    try:
        with partial_beside(target) as partial:
            partial.write_bytes(content)
            put_in_place(partial, target)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            str(target), f"the model could not be written ({reason})", fix="choose another folder"
        ) from error
    return target


def metadata(nowcaster: Nowcaster, grid: tuple[int, int], steps: int, checked: str) -> dict[str, str]:
    """Return what an exported file says of itself: texts only, as ONNX holds them."""
    terms = nowcaster.terms
    return {
        "sa_nowcast_version": __version__,
        "sa_nowcast_model": nowcaster.digest,
        "sa_nowcast_network": nowcaster.network.config.name,
        "sa_nowcast_training_period": str(nowcaster.provenance.get("training_period", "unknown")),
        "sa_nowcast_checked": checked or "no",
        "product": "mean",
        "history": str(terms.history),
        "steps": str(steps),
        "step_seconds": f"{terms.step_ns / 1e9:g}",
        "channels": json.dumps([{"name": name, "units": units} for name, units in terms.channels]),
        "grid": json.dumps(list(grid)),
        "batch": "1" if nowcaster.network.config.output == "moving" else "any",
        "history_dims": "batch, time, channel, row, column",
        "forecast_dims": "batch, lead, channel, row, column",
    }


def _shape(nowcaster: Nowcaster, grid: Sequence[int] | None) -> tuple[int, int]:
    config = nowcaster.network.config
    told: Any = getattr(config, "grid", None) if grid is None else grid
    if told is None:
        raise RecipeError(
            "grid", "not given", expected="the rows and columns of the frames", fix="give grid=[128, 128], or yours"
        )
    both = tuple(told)
    if len(both) != 2 or not all(type(n) is int and n > 0 for n in both):
        raise RecipeError("grid", f"{told!r}", expected="two whole numbers, rows and columns")
    config.require_grid(both)
    return both


def _histories(nowcaster: Nowcaster, grid: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return made-up histories of values as they were trained on: smooth, some missing at times, some always.

    An export takes each way that frames can ask for, and what is computed once for a size cannot be computed in it, so
    forecasts of these histories have to have taken all of them before.
    """
    terms, random = nowcaster.terms, np.random.default_rng(0)
    # In Lagrangian coordinates the strips that a map is worked on in depend on the number of histories.
    count = 1 if nowcaster.network.config.output == "moving" else 2
    z = random.standard_normal((count, terms.history, len(terms.channels), *grid))
    for axis in (1, 3, 4):
        z = (z + np.roll(z, 1, axis) + np.roll(z, 2, axis)) / np.sqrt(3)
    values: npt.NDArray[np.float32] = nowcaster.scaling.to_physical(z).astype(np.float32)
    values[random.random(values.shape) < 0.05] = np.nan
    values[0, :, :, : max(grid[0] // 8, 1), : max(grid[1] // 8, 1)] = np.nan
    if nowcaster.network.config.output == "moving" and terms.history > 1:  # what `models.repeats` is for
        values[0, 1, ..., : grid[1] // 2] = values[0, 0, ..., : grid[1] // 2]
        values[0, -1, ..., grid[1] // 2 :] = np.nan
    return values


def _forecasts(nowcaster: Nowcaster, histories: npt.NDArray[np.float32], steps: int) -> npt.NDArray[np.float32]:
    """Return what this package forecasts: labelled data in, labelled forecasts out, one init time after the other."""
    import xarray as xr  # torch, which the rest of this file is about, is not needed here

    terms, found = nowcaster.terms, []
    times = np.datetime64("2000-01-01", "ns") + np.arange(terms.history) * terms.step
    for one in histories:
        ds = xr.Dataset(
            {
                name: (("time", "y", "x"), one[:, i], {} if units is None else {"units": units})
                for i, (name, units) in enumerate(terms.channels)
            },
            {"time": times},
        )
        forecast = nowcaster.forecast(ds, steps, grid="any", device="cpu").values
        found.append(forecast[:, None] if len(terms.channels) == 1 else forecast.swapaxes(0, 1))
    return np.stack(found)


def _program(nowcaster: Nowcaster, histories: Tensor, steps: int) -> Any:
    # Whoever runs the program wants no gradients.
    network = copy.deepcopy(nowcaster.network).cpu().requires_grad_(False)
    module = Exported(network, nowcaster.scaling, steps).eval()
    any_batch = None if len(histories) == 1 else {"history": {0: torch.export.Dim("batch", min=1)}}
    try:
        with _quietly():
            return torch.export.export(module, (histories,), dynamic_shapes=any_batch)
    except Exception as error:  # torch raises almost anything for what it cannot trace
        raise _impossible(nowcaster, "an exported program", error) from error


def _onnx(nowcaster: Nowcaster, program: Any, about: Mapping[str, str]) -> bytes:
    try:
        with _quietly():
            made: Any = torch.onnx.export(
                program, dynamo=True, opset_version=_OPSET, input_names=["history"], output_names=["forecast"],
                verbose=False,
            )  # fmt: skip
    except Exception as error:
        raise _impossible(nowcaster, "ONNX", error) from error
    for node in made.model.graph:
        node.metadata_props.clear()  # lines of source, with the paths of this machine
    made.model.metadata_props.update(about)
    content = io.BytesIO()
    made.save(content)
    return content.getvalue()


def _pt2(program: Any, about: Mapping[str, str]) -> bytes:
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA: json.dumps(about, indent=1)})
    return content.getvalue()


def _impossible(nowcaster: Nowcaster, what: str, error: Exception) -> ModelError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ModelError(
        nowcaster.name,
        f"cannot be written as {what}: {type(error).__name__}: {reason:.200}",
        fix="forecast with this package, which runs every network",
    )


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def _run(content: bytes, histories: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    runtime = _runtime()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found: npt.NDArray[np.float32] = session.run(["forecast"], {"history": histories})[0]
    return found


def _compare(found: npt.NDArray[Any], expected: npt.NDArray[Any], target: Path, by: str) -> None:
    """Refuse forecasts that are not the nowcaster's."""
    largest = float(np.nanmax(np.abs(expected)))
    differs = np.abs(found - expected)
    if (np.isnan(found) == np.isnan(expected)).all() and float(np.nanmax(differs)) <= TOLERANCE * largest:
        return
    raise ModelError(
        str(target),
        f"run by {by} it forecasts other values than the nowcaster: the largest difference is "
        f"{float(np.nanmax(differs)):.3g}, of values up to {largest:.3g}",
        expected=f"{TOLERANCE:g} of the largest value, and missing values in the same places",
        fix="give check=False if that is good enough",
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress what torch's exporters say of their own work."""
    names = ("torch", "onnxscript", "onnx_ir")
    with quiet.warnings_ignored(Warning), quiet.logging_from(logging.CRITICAL, names), torch.no_grad():
        yield
