"""Train the faithful and then the tuned preset on MovingMNIST within a given time each, and score them like the paper.

    python tools/moving_mnist_gpu.py --mnist data/mnist --minutes 60 --output runs/moving_mnist

Start it again after an interruption and it goes on. Where a job may last only a few minutes, --call-minutes ends it in
time with exit code 75; the same command continues, until each preset has had its --minutes of training in all. Those
stay the same from call to call: the tuned preset plans its learning rate over them.

For each preset the output folder holds: training/ (checkpoints and training.csv), curve.csv and curve.png (error of
held-back sequences over the updates), model.nowcaster (the best weights; model-half.nowcaster: in half
precision, where they stay under 8 MB) and scores.csv (10,000 test sequences, by
lead time). summary.md puts both beside the paper.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

import sa_nowcast
from sa_nowcast.computing.devices import resolve_device
from sa_nowcast.computing.installing import install
from sa_nowcast.errors import MissingLibraryError, SaNowcastError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.recipe import Recipe, read_recipe
from sa_nowcast.sources import MovingMnist, chain
from sa_nowcast.sources.mnist_generator import TEST_SEED
from sa_nowcast.stream import prepare
from sa_nowcast.verification import Statistics, collect_statistics, summarise, to_table
from sa_nowcast.workflow import train

RECIPE = Path(__file__).parent.parent / "recipes" / "moving_mnist.yaml"
PRESETS = ("faithful", "tuned")
# Lin et al. 2020, table 1; the pace is that of the paper's GTX 1080 Ti. The paper does not say which SSIM it took.
PAPER = {"frame_mse": 43.9, "frame_mae": 94.7, "ssim": 0.913}
PAPER_PACE = 1.4
TEST_SEQUENCES = 10_000
HALF_BYTES = 8_000_000
CHUNK = 500  # sequences forecast and scored at once


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", required=True, type=Path, help="folder of MNIST's idx files")
    parser.add_argument("--output", type=Path, default=Path("runs/moving_mnist"))
    parser.add_argument("--minutes", type=float, required=True, help="training of each preset, all calls together")
    parser.add_argument("--call-minutes", type=float, help="end this call after so long, to be continued")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--batch", type=int, default=64, help="test sequences in one call of the network")
    parser.add_argument("--updates", type=int, help="in place of 80,000, to try the script")
    parser.add_argument("--hidden", type=int, nargs="+", help="in place of the presets' layers, to try the script")
    parser.add_argument("--test-sequences", type=int, default=TEST_SEQUENCES)
    parser.add_argument("--other-digits", action="store_true", help="digits that are not MNIST's, in its layout")
    asked = parser.parse_args(arguments)
    try:
        with _ended_after(asked.call_minutes):
            results = [_one(name, asked) for name in asked.presets]
    except SaNowcastError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    text = summary(results, asked.test_sequences)
    (asked.output / "summary.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


@dataclass(frozen=True)
class Result:
    """What became of one preset: a row of the summary, with scores averaged over lead times."""

    name: str
    updates: int
    best_step: int
    pace: float
    hardware: str
    scores: dict[str, float]
    persistence: dict[str, float]


@contextlib.contextmanager
def _ended_after(minutes: float | None) -> Iterator[None]:
    """Send this process the signal that saves a run and stops it, as Slurm does before a limit."""
    if minutes is None:
        yield
        return
    # Outside of training nothing else would catch it; then it only means that no further stage is begun.
    before = signal.signal(signal.SIGUSR1, lambda *_: _out_of_time())
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, before)


def _out_of_time() -> None:
    raise sa_nowcast.errors.Interrupted("moving_mnist_gpu", "the call's minutes are over", fix="run it again to go on")


def _one(name: str, asked: argparse.Namespace) -> Result:
    recipe = _recipe(name, asked)
    folder = Path(recipe.output.folder)
    model = train(recipe, progress=False, report=_say)
    nowcaster = Nowcaster.load(model)
    _keep_half(nowcaster, folder / "model-half.nowcaster")
    curve = _curve(folder, recipe)
    done = folder / f"scores-{asked.test_sequences}-{nowcaster.digest[:16]}.csv"
    if not done.exists():
        _say(f"{name}: scoring {asked.test_sequences} test sequences")
        part = done.with_suffix(".partial")
        to_table(_score(nowcaster, recipe, asked)).to_csv(part, index=False)
        part.replace(done)
    scores = pd.read_csv(done)
    scores.to_csv(folder / "scores.csv", index=False)
    means = scores.groupby("metric", sort=False)[["value", "reference_value"]].mean()
    return Result(
        name,
        int(nowcaster.provenance["updates"]),
        int(nowcaster.provenance["best_step"]),
        statistics.median(curve["iterations_per_second"]),
        _hardware(recipe),
        means["value"].to_dict(),
        means["reference_value"].to_dict(),
    )


def _keep_half(nowcaster: Nowcaster, path: Path) -> None:
    """Save the model in half precision too, where that is small enough to be handed on."""
    nowcaster.half().save(path, overwrite=True)
    size = sum(file.stat().st_size for file in path.iterdir())
    if size > HALF_BYTES:
        shutil.rmtree(path)
    _say(f"{path}: {size / 1e6:.2f} MB in half precision, {'not kept' if size > HALF_BYTES else 'kept'}")


def _recipe(name: str, asked: argparse.Namespace) -> Recipe:
    """Return the shipped recipe with the preset's network and training, and what the command line replaces."""
    fields = read_recipe(RECIPE).model_dump(exclude_unset=True, mode="json")
    fields["name"] = f"moving_mnist_{name}"
    fields["data"] = {
        **fields["data"],
        "source": str(asked.mnist),
        # Training only looks at what they are like; scoring makes its own, part by part.
        "options": {"test_sequences": 1} | ({"check_hash": False} if asked.other_digits else {}),
    }
    fields["network"] = {"preset": name} | ({"hidden": asked.hidden} if asked.hidden else {})
    training = {**fields["training"], "preset": name, "device": asked.device, "max_time": f"{asked.minutes:g} min"}
    if asked.updates is not None:
        every = max(1, asked.updates // 4)
        training |= {"max_steps": asked.updates, "validate_every": every, "checkpoint_every": every, "log_every": every}
        training |= {"validation_samples": 8}
    return Recipe.model_validate(fields | {"training": training, "output": {"folder": str(asked.output / name)}})


def _curve(folder: Path, recipe: Recipe) -> dict[str, list[float]]:
    """Write the error of held-back sequences over the updates, as a table and a picture, and return its columns."""
    with (folder / "training" / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pixels = 64 * 64  # the log has means over pixels on [0, 1]; papers print sums over a frame
    validated = [row for row in rows if row["validation_loss"]]
    curve = {
        "update": [float(row["step"]) for row in validated],
        "frame_mse": [pixels * float(row["validation_loss"]) for row in validated],
        "frame_mse_persistence": [pixels * float(row["validation_persistence"]) for row in validated],
    }
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    _draw(curve, folder / "curve.png", recipe.name)
    curve["iterations_per_second"] = [float(row["samples_per_second"]) / recipe.training.batch_size for row in rows]
    return curve


def _draw(curve: dict[str, list[float]], path: Path, title: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingLibraryError("pictures", "matplotlib is not installed", fix=install("plot")) from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve["update"], curve["frame_mse"], label="held-back sequences of training digits")
    axes.axhline(PAPER["frame_mse"], color="0.4", linestyle="--", label="the paper, after 80,000 updates")
    axes.set(xlabel="updates", ylabel="MSE, sum over a frame", title=title, yscale="log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _score(nowcaster: Nowcaster, recipe: Recipe, asked: argparse.Namespace) -> xr.Dataset:
    """Score the test sequences part by part; the sums of all parts make the scores."""
    options = recipe.verification
    sums = Statistics.zero()
    length = recipe.history + recipe.steps
    test = MovingMnist(asked.mnist, "test", seed=TEST_SEED, length=length, check_hash=not asked.other_digits)
    for start in range(0, asked.test_sequences, CHUNK):
        truth = chain(test.dataset(start, min(CHUNK, asked.test_sequences - start)))["intensity"]
        sums += collect_statistics(
            _forecasts(nowcaster, truth, recipe, asked),
            truth,
            options.metrics,
            reference=options.references[0],
            data_range=options.data_range,
            clip=options.clip,
        )
    return summarise(sums, valid_times="all")


def _forecasts(nowcaster: Nowcaster, truth: xr.DataArray, recipe: Recipe, asked: argparse.Namespace) -> xr.DataArray:
    """Forecast every sequence of a part, in batches."""
    device = resolve_device(asked.device)
    length, history = recipe.history + recipe.steps, recipe.history
    frames = truth.values.reshape(-1, length, 1, *truth.shape[1:])
    network = nowcaster.network.to(device).eval()
    parts = []
    with torch.inference_mode():
        for known in np.array_split(frames[:, :history], max(1, -(-len(frames) // asked.batch))):
            x, _ = prepare(torch.from_numpy(known.astype(np.float32)).to(device), nowcaster.scaling, history)
            parts.append(nowcaster.scaling.to_physical(network(x, steps=recipe.steps), torch).float().cpu())
    times = truth["time"].values.reshape(-1, length)
    return xr.DataArray(
        torch.cat(parts)[:, :, 0].numpy(),
        dims=("init_time", "lead_time", "y", "x"),
        coords={
            "init_time": times[:, history - 1],
            "lead_time": times[0, history:] - times[0, history - 1],
            "y": truth["y"],
            "x": truth["x"],
        },
        name=truth.name,
        attrs=truth.attrs,
    )


def _hardware(recipe: Recipe) -> str:
    device = resolve_device(recipe.training.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def summary(results: Sequence[Result], sequences: int) -> str:
    """Return the table in Markdown: the presets, persistence and the paper."""
    names = list(results[0].scores)
    lines = [
        f"{sequences} test sequences, 10 to 10 frames, means over lead times, forecasts within 0 to 255.",
        "",
        f"| | updates | best after | {' | '.join(names)} | iterations a second |",
        f"|{' --- |' * (len(names) + 4)}",
    ]
    for r in results:
        values = " | ".join(f"{r.scores[n]:.4g}" for n in names)
        lines.append(f"| {r.name} | {r.updates} | {r.best_step} | {values} | {r.pace:.3g} ({r.hardware}) |")
    values = " | ".join(f"{results[0].persistence[n]:.4g}" for n in names)
    lines.append(f"| persistence | | | {values} | |")
    values = " | ".join(f"{PAPER[n]:g}" if n in PAPER else "" for n in names)
    lines.append(f"| Lin et al. 2020 | 80000 | | {values} | {PAPER_PACE} (GTX 1080 Ti) |")
    return "\n".join(lines) + "\n"


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
