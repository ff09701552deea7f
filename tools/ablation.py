"""Train the five networks alike on MovingMNIST, over several seeds, and print one table.

    python tools/ablation.py --mnist data/mnist --seeds 0 1 2 --output runs/ablation

The recipes are those of recipes/ablation; they differ in the network's name only. Finished runs are not repeated, so
the same command goes on after an interruption. The table goes to standard output, and with the scores of every run
into the output folder.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

from sa_nowcast.errors import SaNowcastError
from sa_nowcast.models import build
from sa_nowcast.recipe import Recipe, network_config, read_recipe
from sa_nowcast.workflow import run

RECIPES = Path(__file__).parent.parent / "recipes" / "ablation"
NETWORKS = ("sa-convlstm", "sa-convlstm-base", "convlstm", "convlstm-memory", "sa-convlstm-no-zm")
METRICS = {"frame_mse": "MSE", "frame_mae": "MAE", "ssim": "SSIM"}
ROUNDS = 7


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", required=True, type=Path, help="folder of MNIST's idx files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--updates", type=int, help="in place of the recipes' number of updates, to try the script")
    parser.add_argument("--test-sequences", type=int, help="in place of the recipes' number")
    parser.add_argument("--other-digits", action="store_true", help="digits that are not MNIST's, in its layout")
    asked = parser.parse_args(arguments)
    try:
        recipes = {name: _recipe(name, asked) for name in asked.networks}
        # Seeds outside, networks inside: whatever else the machine does falls on all networks alike.
        scores = pd.concat(
            [_scores(recipes[name], name, seed, asked.output) for seed in asked.seeds for name in asked.networks]
        )
    except SaNowcastError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    asked.output.mkdir(parents=True, exist_ok=True)
    scores.to_csv(asked.output / "scores.csv", index=False)
    seconds = update_seconds(recipes)
    text = table(scores, seconds)
    (asked.output / "table.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def _recipe(name: str, asked: argparse.Namespace) -> Recipe:
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    options = dict(recipe.data.options)
    if asked.test_sequences is not None:
        options["test_sequences"] = asked.test_sequences
    if asked.other_digits:
        options["check_hash"] = False
    training = recipe.training
    if asked.updates is not None:
        training = training.model_copy(update={"max_steps": asked.updates})
    data = recipe.data.model_copy(update={"source": str(asked.mnist), "options": options})
    return recipe.model_copy(update={"data": data, "training": training})


def _scores(recipe: Recipe, name: str, seed: int, output: Path) -> pd.DataFrame:
    """Run one network with one seed, unless that was done before, and return its scores by lead time."""
    folder = output / name / f"seed-{seed}"
    recipe = recipe.model_copy(
        update={
            "training": recipe.training.model_copy(update={"seed": seed}),
            "output": recipe.output.model_copy(update={"folder": str(folder)}),
        }
    )
    result = run(recipe, progress=False)
    print(f"{name}, seed {seed}: {'was done before' if result.already_done else 'done'}", file=sys.stderr, flush=True)
    return result.scores.assign(network=name, seed=seed)


def update_seconds(recipes: dict[str, Recipe], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median time of one update of each network, taken in turns: of the processor on a CPU.

    The runs themselves are timed too (``training.csv``), but hours apart, and other work may go on meanwhile.
    """
    steps = {name: _update(recipe) for name, recipe in recipes.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            began = clock()
            step()
            taken[name].append(clock() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def _update(recipe: Recipe) -> Callable[[], None]:
    """Return a function that makes one update of a recipe's network: forward, backward, Adam."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build(network_config(recipe.network, channels=1)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), recipe.training.learning_rate)
    size = int(recipe.data.options.get("size", 64))
    x = torch.rand(recipe.training.batch_size, recipe.history + recipe.steps, 1, size, size, device=device)

    def step() -> None:
        optimizer.zero_grad()
        (network.predict_all(x, recipe.history) - x[:, 1:]).square().mean().backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def table(scores: pd.DataFrame, seconds: dict[str, float]) -> str:
    """Return the table in Markdown: means over lead times, then mean and standard deviation over seeds."""
    wanted = scores[scores["metric"].isin(METRICS)]
    by_seed = wanted.groupby(["network", "seed", "metric"])[["value", "reference_value"]].mean()
    lines = [
        f"| network | {' | '.join(METRICS.values())} | MSE / persistence | s an update |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, each in seconds.items():
        own = by_seed.loc[name]
        cells = [name]
        for metric in METRICS:
            values = own.xs(metric, level="metric")["value"]
            digits = 3 if metric == "ssim" else 1
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.{digits}f}{spread}")
        mse = own.xs("frame_mse", level="metric")
        cells += [f"{(mse['value'] / mse['reference_value']).mean():.3f}", f"{each:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
