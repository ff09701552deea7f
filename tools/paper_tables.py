#!/usr/bin/env python
"""The paper's tables with our figures beside the printed ones: run what fills them, and print them.

    python tools/paper_tables.py                          # prints what the runs so far give; what is missing is said
    python tools/paper_tables.py --run                    # makes the missing runs first, for days on a GPU
    python tools/paper_tables.py --run --only taxibj --networks sa-convlstm --set training.max_steps=2000

Printed figures are those of Lin et al., Self-Attention ConvLSTM for Spatiotemporal Prediction, AAAI 2020, tables 1
and 3, for its own models; docs/explanation/metrics.md says what our scores mean. Each run is one of the recipes
moving_mnist, taxibj and kth with another network.name, in a folder of its own; a finished one is not repeated, and an
interrupted one goes on. Figures are of one run and seed, as the paper's are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sa_nowcast.errors import Interrupted, SaNowcastError
from sa_nowcast.recipe import Recipe, find_recipe, read_recipe
from sa_nowcast.workflow import run

NETWORKS = ("convlstm", "sa-convlstm-base", "convlstm-memory", "sa-convlstm-no-zm", "sa-convlstm")


@dataclass(frozen=True)
class Table:
    """One table of the paper, as far as its own models fill it.

    Attributes
    ----------
    title : str
    recipe : str
        Whose runs fill it.
    columns : tuple of (str, int or None)
        Our score's name, and the lead time counted from 1; None: the mean over all.
    printed : dict
        Network to the printed figures, in the order of the columns.
    note : str
        What keeps the two apart.
    """

    title: str
    recipe: str
    columns: tuple[tuple[str, int | None], ...]
    printed: dict[str, tuple[float, ...]]
    note: str


TABLES = (
    Table(
        "Table 1, MovingMNIST",
        "moving_mnist",
        (("ssim", None), ("frame_mse", None), ("frame_mae", None)),
        {
            "convlstm": (0.852, 63.98, 133.34),
            "sa-convlstm-base": (0.869, 58.25, 118.08),
            "convlstm-memory": (0.872, 56.17, 114.02),
            "sa-convlstm-no-zm": (0.884, 55.60, 113.19),
            "sa-convlstm": (0.913, 43.92, 94.73),
        },
        "test sequences are made from MNIST's test digits here, and are not the published file",
    ),
    Table(
        "Table 1, TaxiBJ",
        "taxibj",
        (("ssim", None), ("frame_mse", None), ("frame_mae", None)),
        {
            "convlstm": (0.979, 0.527, 4.253),
            "sa-convlstm-base": (0.982, 0.410, 3.881),
            "convlstm-memory": (0.982, 0.431, 3.948),
            "sa-convlstm-no-zm": (0.982, 0.408, 3.872),
            "sa-convlstm": (0.984, 0.390, 3.822),
        },
        "the paper's MAE is on a scale of its own, about a quarter of what others print: not comparable",
    ),
    Table(
        "Table 3a, TaxiBJ, MSE by frame",
        "taxibj",
        (("frame_mse", 1), ("frame_mse", 2), ("frame_mse", 3), ("frame_mse", 4)),
        {"sa-convlstm-base": (0.291, 0.367, 0.460, 0.524), "sa-convlstm": (0.269, 0.356, 0.426, 0.507)},
        "the last four weeks by share of the frames, not the benchmark's very windows",
    ),
    Table(
        "Table 3b, KTH",
        "kth",
        (("psnr", None), ("ssim", None)),
        {"sa-convlstm-base": (27.25, 0.837), "sa-convlstm": (29.33, 0.891)},
        "trained on the next 20 frames here, on the next 10 in the paper",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, and print all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--run", action="store_true", help="make the runs that are missing")
    parser.add_argument("--only", nargs="+", choices=sorted({t.recipe for t in TABLES}), help="recipes")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    parser.add_argument("--output", type=Path, default=Path("runs/paper_tables"))
    asked = parser.parse_args(arguments)
    tables = [t for t in TABLES if asked.only is None or t.recipe in asked.only]
    failed = 0
    if asked.run:
        wanted = dict.fromkeys((t.recipe, n) for t in tables for n in t.printed if n in asked.networks)
        for name, network in wanted:
            try:
                run(_recipe(name, network, asked), report=lambda line, who=f"{name} {network}": _say(f"{who}: {line}"))
            except Interrupted as error:
                _say(f"{name} {network}: {error}")
                return error.exit_code
            except SaNowcastError as error:  # the others can still be made
                _say(f"{name} {network}: {error}")
                failed = failed or error.exit_code
    for table in tables:
        print(f"{_shown(table, asked.output)}\n")
    return failed


def _recipe(name: str, network: str, asked: argparse.Namespace) -> Recipe:
    own = [f"network.name={network}", f"output.folder='{asked.output / name / network}'"]
    return read_recipe(find_recipe(name), [*asked.overrides, *own])


def _shown(table: Table, folder: Path) -> str:
    """Return a table as text: for each score the printed figure, then ours, or a word that there is none."""
    rows = []
    for network, printed in table.printed.items():
        ours = _ours(folder / table.recipe / network / "scores.csv", network, table.columns)
        row = {"network": network}
        for (metric, lead), there, here in zip(table.columns, printed, ours, strict=True):
            name = metric if lead is None else f"{metric} {lead}"
            row |= {f"{name} printed": f"{there:g}", f"{name} ours": "missing" if here is None else f"{here:.4g}"}
        rows.append(row)
    return f"{table.title} ({table.note})\n{pd.DataFrame(rows).to_string(index=False)}"


def _ours(path: Path, network: str, columns: Sequence[tuple[str, int | None]]) -> list[float | None]:
    if not path.is_file():
        return [None] * len(columns)
    scores = pd.read_csv(path)
    if "model" in scores.columns:
        scores = scores[scores["model"] == network]
    found: list[float | None] = []
    for metric, lead in columns:
        by_lead = scores[scores["metric"] == metric].sort_values("lead_time_minutes")["value"].to_list()
        if lead is not None:
            by_lead = by_lead[lead - 1 : lead]
        found.append(sum(by_lead) / len(by_lead) if by_lead else None)
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
