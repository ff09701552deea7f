"""What is measured on a machine with a CUDA device, by one command of at most eight minutes.

    python tests/benchmarks/gpu.py --output runs/gpu

The output folder then holds report.md and figures.json. Both are written anew after every figure: where the command is
ended early, they say what was measured until then, and which part was not finished. The parts, in their order, each of
which can be run alone by --only and then replaces its own figures:

tests     `pytest -m gpu`.
step      The training step of SA-ConvLSTM (hidden 64 x 4 layers, kernel 5, patch 4, batch 8, 10 to 10 frames of 64 x
          64, Adam): eager in float32 and in bf16, as a CUDA graph, with compiled cells, both, and compiled with
          mode="reduce-overhead". Losses of 100 steps of each from the same weights on the same batches, the median time
          of a step in interleaved rounds, peak memory, and what the kernels of the fastest take (profile.txt).
parity    The losses of 100 steps in float32 (without TF32) on the device and on the CPU, from the same weights on the
          same batches of two.
forecast  The default model's forecast of 12 lead times on 760 x 1226 pixels: the mean alone, and 24 members.
training  Updates of recipes/moving_mnist.yaml, as many as fit; they go on from the checkpoint in the output folder.
          --mnist names the folder of MNIST's files; without it, digits are made up and train in a folder of their own.

Each part runs in a process of its own, which is ended when its share of the time is over, and gives what it leaves to
the next. --device cpu runs the same lines on the CPU, and --tiny at a size of seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import importlib.util
import json
import os
import platform
import resource
import signal
import statistics
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sa_nowcast import models
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.training.checkpoint import load_checkpoint, newest_valid

ROOT = Path(__file__).parents[2]
SHARES = {"tests": 60, "step": 150, "parity": 75, "forecast": 60, "training": 120}
"""Seconds of eight minutes; of more or less in proportion."""
STARTING, ENDING = 15.0, 5.0
"""Seconds that a part may take to start and to write its last checkpoint, and the whole to end."""

# Compiled kernels add in another order; bf16 rounds such differences to 2^-8, and Adam carries them through 100 steps.
LOSS_TOLERANCE = 0.02
BF16_TOLERANCE = 0.05
ROUNDS = 7
STEP_MS, FORECAST_S = 12.0, 1.0
"""To reach, on an H200."""
WAYS = ("eager, float32", "eager", "in a graph", "compiled", "compiled, in a graph", "compiled, reduce-overhead")
"""In bf16 where nothing else is said; a failure in a graph may end a CUDA context, so what may fail comes late."""


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    hidden: tuple[int, ...] = (64, 64, 64, 64)
    frame: int = 64
    batch: int = 8
    history: int = 10
    updates: int = 100
    per_round: int = 10
    parity_batch: int = 2
    grid: tuple[int, int] = (760, 1226)
    leads: int = 12
    members: int = 24
    training: tuple[str, ...] = ()  # for tools/moving_mnist_gpu.py


TINY = Sizes((4, 4), 16, 2, 3, 3, 1, 1, (40, 48), 2, 2, ("--updates", "2", "--test-sequences", "2"))

Step = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]


class Processor:
    """The CPU as a device: the clock in place of events, the process in place of the device's memory, no graphs."""

    device = torch.device("cpu")
    activities = (ProfilerActivity.CPU,)
    capturable = False

    @property
    def name(self) -> str:
        return f"CPU ({platform.processor() or platform.machine()}), {torch.get_num_threads()} threads"

    def synchronise(self) -> None:
        """Wait for what was asked for: nothing is asked for here that is not done at once."""

    def forget_peak(self) -> None:
        """Begin a new account of memory: that of a process cannot be begun anew."""

    def peak_mib(self) -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def graphed(self, step: Step, *_: Any) -> Step:
        return step

    def seconds(self, function: Callable[[], object]) -> float:
        self.synchronise()
        begun = time.perf_counter()
        function()
        self.synchronise()
        return time.perf_counter() - begun


class Cuda(Processor):
    """A CUDA device: all that is CUDA's alone."""

    activities = (ProfilerActivity.CPU, ProfilerActivity.CUDA)
    capturable = True

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        torch.cuda.set_device(self.device)

    @property
    def name(self) -> str:
        return f"{torch.cuda.get_device_name(self.device)}, CUDA {torch.version.cuda}"

    def synchronise(self) -> None:
        torch.cuda.synchronize(self.device)

    def forget_peak(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak_mib(self) -> float:
        return torch.cuda.max_memory_allocated(self.device) / 2**20

    def graphed(
        self,
        step: Step,
        net: models.Network,
        optimizer: torch.optim.Optimizer,
        example: Tensor,
        history: int,
        dtype: torch.dtype | None,
    ) -> Step:
        return models.GraphedTrainingStep(net, optimizer, F.mse_loss, example, history, autocast=dtype)


@dataclass
class Part:
    """A part that runs: until when, on what, and where what it finds is kept."""

    name: str
    asked: argparse.Namespace
    machine: Any  # a `Processor`; None before the part runs
    deadline: float
    sizes: Sizes

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def keep(self, lines: Sequence[str], figures: Any, ended: str = "") -> None:
        """Write what was found until now; `ended` says how the part ended, which is nothing before it has."""
        path = self.asked.output / "figures.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        kept[self.name] = {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": f"{self.machine.name if self.machine else ''}; torch {torch.__version__}",
            "ended": ended,
            "lines": list(lines),
            "figures": figures,
        }
        _write(path, json.dumps(kept, indent=1))
        _write(self.asked.output / "report.md", report(kept))


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".partial")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def report(kept: dict[str, Any]) -> str:
    """Return the report in Markdown, of all parts of which there are figures."""
    text = ["# On a GPU", "", "Written by `python tests/benchmarks/gpu.py`.", ""]
    for name in SHARES:
        if (part := kept.get(name)) is None:
            continue
        text += [f"## {name}", "", f"{part['at']}, {part['machine']}", "", *part["lines"]]
        if part["ended"] != "whole":
            text += ["", f"**Not finished: {part['ended'] or 'its time was over, or it was ended'}.**"]
        text.append("")
    return "\n".join(text)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [" | ".join(map(str, row)) for row in (head, ["---"] * len(head), *rows)]
    return [f"| {line} |" for line in lines]


def verdict(value: float, limit: float) -> str:
    return "reached" if value <= limit else "missed"


def batches(sizes: Sizes, count: int, size: int, device: torch.device) -> list[Batch]:
    """Blobs that drift, and sampling masks; the same for every way to run a step."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(sizes.frame) / sizes.frame
    made = []
    for _ in range(count):
        start = torch.rand(size, 1, 1, 2, generator=generator)
        drift = 0.04 * torch.randn(size, 1, 1, 2, generator=generator)
        centre = start + drift * torch.arange(2 * sizes.history)[None, :, None, None]
        row, column = (((axis - centre[..., i, None]) / 0.1).square() for i in (0, 1))
        x = torch.exp(-row[..., :, None] - column[..., None, :])
        mask = torch.rand(size, sizes.history - 1, generator=generator) < 0.5
        made.append((x.to(device), mask.to(device)))
    return made


def network(sizes: Sizes) -> models.Network:
    torch.manual_seed(0)
    return models.build("sa-convlstm", channels=1, hidden=sizes.hidden, kernel=5, patch=4)


def way(part: Part, first: models.Network, kind: str, example: Tensor) -> Step:
    """Return a training step from the same first weights, by one of `WAYS`."""
    net, machine = copy.deepcopy(first), part.machine
    dtype = None if "float32" in kind else torch.bfloat16
    graph = "graph" in kind and machine.capturable
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, capturable=graph, fused=True)
    if "compiled" in kind:
        torch.compiler.reset()
        mode = {"mode": "reduce-overhead"} if "overhead" in kind else {}
        models.compile_cells(net, backend=part.asked.backend, **mode)

    def step(x: Tensor, mask: Tensor) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(machine.device.type, dtype=dtype, enabled=dtype is not None):
            predictions = net.predict_all(x, part.sizes.history, mask)
        loss = F.mse_loss(predictions.float(), x[:, 1:])
        loss.backward()
        optimizer.step()
        return loss.detach()

    if "graph" in kind:
        return machine.graphed(step, net, optimizer, example, part.sizes.history, dtype)
    return step


def losses_of(step: Step, data: Sequence[Batch], until: Callable[[], float]) -> list[float]:
    """Return the losses of steps, at least of one and as many as there is time for."""
    found: list[float] = []
    for x, mask in data:
        if found and until() < 0:
            break
        found.append(float(step(x, mask)))
    return found


def run_on(step: Step, data: Sequence[Batch]) -> None:
    """Run steps without waiting for any of them."""
    for x, mask in data:
        step(x, mask)


def apart(losses: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest relative difference."""
    return max((abs(a - b) / abs(b) for a, b in zip(losses, others, strict=False)), default=float("nan"))


def run_step(part: Part) -> None:
    """Time a training step in every way, and compare its losses."""
    sizes, machine = part.sizes, part.machine
    data = batches(sizes, sizes.updates, sizes.batch, machine.device)
    first = network(sizes).to(machine.device)
    found: dict[str, dict[str, Any]] = {}
    ways: dict[str, Step] = {}

    def said() -> list[str]:
        fastest = [(one["ms"], kind) for kind, one in found.items() if "ms" in one]
        head = ("way", "ms a step", "peak MiB", "first loss", "last loss", "apart from eager", "s to prepare")
        rows = []
        for kind, one in found.items():
            if "failed" in one:
                rows.append((kind, f"failed: {one['failed']}", "", "", "", "", ""))
                continue
            limit = BF16_TOLERANCE if "float32" in kind else LOSS_TOLERANCE
            near = f"{one['apart']:.4f}, {'within' if one['apart'] <= limit else 'OUTSIDE'} {limit}"
            milliseconds = f"{one['ms']:.2f}" if "ms" in one else "not timed"
            ends = f"{one['losses'][0]:.6f}", f"{one['losses'][-1]:.6f} ({len(one['losses'])})"
            rows.append((kind, milliseconds, f"{one['MiB']:.0f}", *ends, near, f"{one['prepared_s']:.1f}"))
        lines = table(head, rows)
        if fastest:
            value, kind = min(fastest)
            wanted = f"{STEP_MS:g} ms on an H200: {verdict(value, STEP_MS)}"
            lines += ["", f"Fastest: {kind}, {value:.2f} ms; to reach were {wanted}. Kernels: profile.txt."]
        return lines

    until = part.left() / 4  # what is left then is for the rounds
    for kind in WAYS:
        if part.left() < until:
            break
        machine.forget_peak()
        begun = time.perf_counter()
        try:
            ways[kind] = way(part, first, kind, data[0][0])
            losses = losses_of(ways[kind], data[:1], part.left)
            prepared = time.perf_counter() - begun
            losses += losses_of(ways[kind], data[1:], part.left)
        except Exception as error:  # that a way fails is a finding, and others do not
            traceback.print_exc()
            ways.pop(kind, None)
            found[kind] = {"failed": first_line(error)}
        else:
            found[kind] = {"losses": losses, "MiB": machine.peak_mib(), "prepared_s": prepared}
            beside = found.get(WAYS[1], {}).get("losses", losses)
            for other in ways:
                found[other]["apart"] = apart(found[other]["losses"], beside)
        part.keep(said(), found)

    rounds: dict[str, list[float]] = {kind: [] for kind in ways}
    for number in range(ROUNDS):
        for kind, step in ways.items():
            if number and part.left() < 0:
                break
            taken = machine.seconds(partial(run_on, step, data[: sizes.per_round]))
            rounds[kind].append(1e3 * taken / sizes.per_round)
    for kind, taken in rounds.items():
        found[kind] |= {"ms": statistics.median(taken), "rounds_ms": taken}
    part.keep(said(), found)
    fastest = min(ways, key=lambda kind: found[kind]["ms"])
    with profile(activities=list(machine.activities)) as profiled:
        run_on(ways[fastest], data[:3])
        machine.synchronise()
    order = f"self_{machine.device.type}_time_total"
    kernels = profiled.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=70)
    _write(part.asked.output / "profile.txt", f"{fastest}, 3 steps\n{kernels}\n")
    part.keep(said(), found, "whole")


def run_parity(part: Part) -> None:
    """Compare the losses of steps on the device with those on the CPU."""
    sizes, losses = part.sizes, {}
    head = ("on", "first loss", "last loss", "steps", "s a step")
    rows = []
    for machine in (part.machine, Processor()):
        net = network(sizes).to(machine.device)
        own = replace(part, machine=machine)
        step = way(own, net, WAYS[0], torch.empty(0))
        data = batches(sizes, sizes.updates, sizes.parity_batch, machine.device)
        begun = time.perf_counter()
        with torch.backends.cudnn.flags(allow_tf32=False):
            found = losses_of(step, data, part.left)
        losses[f"{machine.device}{' again' if machine.device.type in losses else ''}"] = found
        seconds = (time.perf_counter() - begun) / max(1, len(found))
        rows.append((machine.device, f"{found[0]:.7f}", f"{found[-1]:.7f}", len(found), f"{seconds:.3f}"))
        part.keep(table(head, rows), {"losses": losses})
    largest = apart(*losses.values())
    common = min(map(len, losses.values()))
    lines = [*table(head, rows), "", f"Largest relative difference of the losses of {common} steps: {largest:.2e}."]
    part.keep(lines, {"losses": losses, "largest_relative_difference": largest, "steps": common}, "whole")


def run_forecast(part: Part) -> None:
    """Time the default model's forecast, the mean alone and members."""
    sizes, machine = part.sizes, part.machine
    frames = loaded("tests/benchmarks/forecasts.py").rain(*sizes.grid)
    height, width = sizes.grid
    data = xr.DataArray(
        frames,
        dims=("time", "y", "x"),
        coords={
            "time": pd.date_range("2020-06-01", periods=len(frames), freq="5min"),
            "y": 1000.0 * np.arange(height)[::-1],
            "x": 1000.0 * np.arange(width),
        },
        name="rain",
        attrs={"units": "mm h-1"},
    )
    model = default_model()
    figures: dict[str, Any] = {}
    rows = []
    head = ("forecast", "s, median", "times", "peak MiB of the device", "peak MiB of the process")
    for kind, members in (("mean", None), (f"{sizes.members} members", sizes.members)):

        def forecast(count: int | None = members) -> object:
            return model.forecast(data, steps=sizes.leads, members=count, device=str(machine.device))

        forecast(None if members is None else 1)  # what is loaded, tuned and allocated once
        machine.forget_peak()
        taken = [machine.seconds(forecast)]
        while len(taken) < ROUNDS and part.left() > 2 * taken[-1]:
            taken.append(machine.seconds(forecast))
        figures[kind] = {"s": taken, "MiB": machine.peak_mib(), "process_MiB": Processor().peak_mib()}
        memory = (f"{figures[kind][one]:.0f}" for one in ("MiB", "process_MiB"))
        rows.append((kind, f"{statistics.median(taken):.3f}", len(taken), *memory))
        part.keep(table(head, rows), figures)
    of_members, of_mean = (statistics.median(figures[one]["s"]) for one in (kind, "mean"))
    lines = [
        *(f"{height} x {width} pixels, {len(frames)} frames to {sizes.leads}.", "", *table(head, rows), ""),
        f"To reach were {FORECAST_S:g} s with {sizes.members} members on an H200: {verdict(of_members, FORECAST_S)}. "
        f"Drawing members and turning them into values takes {of_members - of_mean:.3f} s of it.",
    ]
    part.keep(lines, figures, "whole")


def run_training(part: Part) -> None:
    """Go on with the training of recipes/moving_mnist.yaml until the time is over."""
    digits, name = part.asked.mnist, "moving_mnist"
    made_up = not list(digits.glob("train-images*"))
    if made_up:
        digits, name = part.asked.output / "made_up_digits", "moving_mnist_made_up"
        make_up_digits(digits)
    folder = part.asked.output / name
    call = ["--mnist", str(digits), "--output", str(folder), "--presets", "faithful", "--minutes", "100000"]
    call += ["--device", str(part.machine.device), "--call-minutes", str(max(part.left(), 1.0) / 60)]
    call += ["--hidden", *map(str, part.sizes.hidden), *part.sizes.training, *(["--other-digits"] if made_up else [])]
    before, begun = updates_in(folder), time.perf_counter()
    code = loaded("tools/moving_mnist_gpu.py").main(call)
    seconds, after = time.perf_counter() - begun, updates_in(folder)
    if code not in (0, os.EX_TEMPFAIL):
        raise RuntimeError(f"the training ended with exit code {code}")
    figures = {"from": before, "to": after, "seconds": seconds, "made_up_digits": made_up}
    pace = f"{(after - before) / seconds:.2f} a second, all that is beside them counted"
    lines = [f"{after - before} updates in {seconds:.0f} s, from {before} to {after} of 80,000: {pace}."]
    if made_up:
        lines.append(
            f"There is no MNIST in {part.asked.mnist}: the digits are made up, and only the pace means something."
        )
    log = folder / "faithful" / "training" / "training.csv"
    if log.exists() and len(rows := pd.read_csv(log)):
        batch = 8
        figures["updates_per_second"] = float((rows["samples_per_second"] / batch).median())
        lines.append(f"Alone they take {1e3 / figures['updates_per_second']:.1f} ms each, the median of the log.")
        if len(validated := rows.dropna(subset=["validation_loss"])):
            last = validated.iloc[-1]
            figures["frame_mse"] = {int(row["step"]): 4096 * row["validation_loss"] for _, row in validated.iterrows()}
            value, persistence = (4096 * last[f"validation_{one}"] for one in ("loss", "persistence"))
            lines.append(
                f"MSE of held-back sequences, summed over a frame, after {int(last['step'])} updates: {value:.1f}; "
                f"persistence {persistence:.1f}; the paper, after 80,000, on the test sequences: 43.9."
            )
    lines.append("The same command goes on from there." if code else "The training has ended.")
    part.keep(lines, figures, "whole")


def updates_in(folder: Path) -> int:
    """Return how many updates the newest checkpoint has seen."""
    path, _ = newest_valid(folder / "faithful" / "training")
    return 0 if path is None else int(load_checkpoint(path)["global_step"])


def make_up_digits(folder: Path) -> None:
    """Write bars of random length and place in the layout of MNIST's files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        images = np.zeros((64, 28, 28), np.uint8)
        for image in images:
            top, left = rng.integers(3, 14, 2)
            image[top : top + rng.integers(3, 12), left : left + rng.integers(3, 12)] = 255
        (folder / name).write_bytes(b"\x00\x00\x08\x03" + struct.pack(">3I", *images.shape) + images.tobytes())


def run_tests(part: Part) -> None:
    """Run the tests that need a CUDA device."""
    files = [f for f in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in f.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    command += [str(file.relative_to(ROOT)) for file in files]  # to collect all others takes long
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(part.left(), 1.0))
    except subprocess.TimeoutExpired:
        part.keep([], {}, "the tests took too long")
        return
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    last = (done.stdout.splitlines() or done.stderr.splitlines() or ["nothing was said"])[-1].strip("= ")
    lines = [f"`{' '.join(['pytest', *command[3:]])}`: {last} (exit code {done.returncode})", *told]
    part.keep(lines, {"exit_code": done.returncode, "said": last}, "whole")


RUNS: dict[str, Callable[[Part], None]] = {
    "tests": run_tests,
    "step": run_step,
    "parity": run_parity,
    "forecast": run_forecast,
    "training": run_training,
}


def loaded(path: str) -> ModuleType:
    """Return another script of this repository as a module."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def run_here(name: str, asked: argparse.Namespace) -> int:
    """Run one part in this process; return the exit code."""
    machine = Processor() if asked.device == "cpu" else Cuda(asked.device)
    sizes = TINY if asked.tiny else Sizes()
    part = Part(name, asked, machine, time.monotonic() + 60 * asked.minutes, sizes)
    torch._dynamo.config.recompile_limit = 64  # of the ways together
    part.keep([], {})
    try:
        RUNS[name](part)
    except Exception as error:
        traceback.print_exc()
        kept = json.loads((asked.output / "figures.json").read_text(encoding="utf-8"))[name]
        part.keep(kept["lines"], kept["figures"], first_line(error))
        return 1
    return 0


def run_all(asked: argparse.Namespace, begun: float) -> int:
    """Run parts in processes of their own, each until its share of what is left is over; return the exit code."""
    end, code = begun + 60 * asked.minutes - ENDING, 0
    for i, name in enumerate(asked.only):
        left = end - time.monotonic()
        share = left * SHARES[name] / sum(SHARES[other] for other in asked.only[i:])
        if share < 1:
            print(f"no time is left for {name}", flush=True)
            code = 1
            continue
        minutes = max(share - STARTING, share / 2) / 60
        print(f"{time.strftime('%H:%M:%S')} {name}, at most {share:.0f} s", flush=True)
        command = [sys.executable, __file__, "--here", "--only", name, "--minutes", str(minutes)]
        command += ["--output", str(asked.output), "--device", asked.device, "--mnist", str(asked.mnist)]
        command += ["--backend", asked.backend, *(["--tiny"] if asked.tiny else [])]
        Part(name, asked, None, end, Sizes()).keep([], {})
        child = subprocess.Popen(command, start_new_session=True)
        try:
            code = max(code, abs(child.wait(share)))
        except subprocess.TimeoutExpired:
            code = max(code, 1)
        finally:
            with contextlib.suppress(ProcessLookupError):  # with its tests and loaders, which are in its group
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if (written := asked.output / "report.md").exists():
        print(written.read_text(encoding="utf-8"))
    return min(code, 1)


def main(arguments: Sequence[str] | None = None, begun: float | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("SA_NOWCAST_DATA", "data"))
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--minutes", type=float, default=8.0, help="after which the command has ended")
    parser.add_argument("--only", nargs="+", choices=list(SHARES), default=list(SHARES), help="parts to run")
    parser.add_argument("--mnist", type=Path, default=data / "mnist", help="folder of MNIST's idx files")
    parser.add_argument("--device", default="cuda:0", help="cpu, or cuda:N")
    parser.add_argument("--tiny", action="store_true", help="a size of seconds, to try the script")
    parser.add_argument("--backend", default="inductor", help="of torch.compile; eager compiles nothing")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # one part, in this process
    asked = parser.parse_args(arguments)
    if asked.device != "cpu" and not torch.cuda.is_available():
        print("there is no CUDA device; --device cpu --tiny tries the script without", file=sys.stderr)
        return 2
    if asked.here:
        return run_here(asked.only[0], asked)
    return run_all(asked, time.monotonic() if begun is None else begun)


if __name__ == "__main__":
    # What was imported took its time, too.
    sys.exit(main(begun=time.monotonic() - (time.time() - psutil.Process().create_time())))
