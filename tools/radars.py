"""Train on the early hours of four real radars, hindcast the late ones, and score them beside the references.

    python tools/radars.py --data radar --output runs/radars

`--data` is a folder with the composites of github.com/pySTEPS/pysteps-data, those of each radar in one folder within:
mch/20170131, fmi/20170509, knmi and bom. Each radar is converted to rain rates on a coarser grid, trained by its recipe
in recipes/radars, and hindcast over the recipe's test period by the network, persistence and optical flow. All are
scored on the same init times, valid times and pixels. What is finished is not repeated, so the same command goes on
after an interruption.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import sa_nowcast
from sa_nowcast.conversion import convert
from sa_nowcast.errors import SaNowcastError
from sa_nowcast.plotting import plot_forecast, plot_scores
from sa_nowcast.recipe import Recipe, read_recipe
from sa_nowcast.sources import open_source
from sa_nowcast.workflow import train
from sa_nowcast.workflow.data import open_experiment

RECIPES = Path(__file__).parent.parent / "recipes" / "radars"
REFERENCES = ("persistence", "extrapolation")
EVENT = 1.0
"""mm h-1, the threshold of the page's tables."""


@dataclass(frozen=True)
class Radar:
    """Where a radar's frames lie, and what is taken of them.

    Attributes
    ----------
    title : str
    folder : str
        Within the data folder.
    engine : str
        The reader.
    cells : int
        So many rows and columns become one by their mean; a mean over a missing value is missing.
    frames : int, optional
        So many from the first; by default all.
    """

    title: str
    folder: str
    engine: str
    cells: int
    frames: int | None = None


RADARS = {
    "meteoswiss": Radar("MeteoSwiss, 2017-01-31", "mch/20170131", "mch_gif", 2),
    "fmi": Radar("FMI, 2017-05-09", "fmi/20170509", "fmi_pgm", 2),
    "knmi": Radar("KNMI, 2010-08-26", "knmi", "knmi_hdf5", 2),
    # It rains in the first half of that day only.
    "bom": Radar("BOM Mt Stapylton, 2020-10-31", "bom", "bom_rf3", 2, frames=72),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder with mch, fmi, knmi and bom")
    parser.add_argument("--output", type=Path, default=Path("runs/radars"))
    parser.add_argument("--radars", nargs="+", choices=RADARS, default=list(RADARS))
    parser.add_argument("--updates", type=int, help="in place of the recipes' number of updates, to try the script")
    parser.add_argument("--cells", type=int, help="in place of each radar's own number, likewise")
    asked = parser.parse_args(arguments)
    tables = []
    try:
        for name in asked.radars:
            radar = RADARS[name]
            store = asked.output / f"{name}.zarr"
            if not store.exists():
                convert(coarse_rain(asked.data, radar, asked.cells or radar.cells), store)
            recipe = recipe_of(name, store, asked.output / name, asked.updates)
            tables.append(study(radar, recipe).assign(radar=name))
            print(f"{name}: done", file=sys.stderr, flush=True)
    except SaNowcastError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    scores = pd.concat(tables)
    scores.to_csv(asked.output / "scores.csv", index=False)
    text = "\n".join(f"{RADARS[name].title}\n\n{table(rows)}" for name, rows in scores.groupby("radar", sort=False))
    (asked.output / "table.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def coarse_rain(data: Path, radar: Radar, cells: int) -> xr.Dataset:
    """Return a radar's rain rates in mm h-1 as means over squares of `cells` x `cells`, lazily."""
    ds = open_source(data / radar.folder, engine=radar.engine, to="rain_rate")
    ds = ds.isel(time=slice(radar.frames))
    # Not over the valid pixels alone: at the edge of the radar's sight those would be other squares.
    return ds.coarsen(y=cells, x=cells, boundary="trim").reduce(np.mean, keep_attrs=True)


def recipe_of(name: str, store: Path, folder: Path, updates: int | None) -> Recipe:
    """Return a radar's recipe for these places."""
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    training = recipe.training if updates is None else recipe.training.model_copy(update={"max_steps": updates})
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"source": str(store)}),
            "training": training,
            "output": recipe.output.model_copy(update={"folder": str(folder)}),
        }
    )


def study(radar: Radar, recipe: Recipe) -> pd.DataFrame:
    """Train, hindcast the test period by network and references, score and draw; return the scores as a table."""
    model = train(recipe, progress=False)
    experiment = open_experiment(recipe)
    frames, (first, end) = experiment.test_frames, experiment.test_period
    # Histories lie in the test period too: no frame of it was seen in training, not even as input.
    inits = frames.times[first + recipe.history - 1 : end - recipe.steps]
    ds = experiment.test
    folder = Path(recipe.output.folder)
    archives = {}
    for name in ("network", *REFERENCES):
        archives[name] = ds.sa_nowcast.hindcast(
            recipe.steps,
            model=model if name == "network" else name,
            init_times=inits,
            tile=recipe.forecast.tile if name == "network" else None,
            to=folder / f"{name}.zarr",
        ).compute()
    asked = recipe.verification
    # All pairs: so few init times share hardly a valid time over all lead times. At each lead time the forecasts are
    # compared on the same pairs.
    scores = {
        reference: sa_nowcast.compare(
            archives, ds, list(asked.metrics), list(asked.thresholds), reference, valid_times="all"
        )
        for reference in REFERENCES
    }
    # Beside the skill against persistence, the network's and its interval against extrapolation.
    rows = pd.concat(
        [
            sa_nowcast.to_table(scores["persistence"]),
            sa_nowcast.to_table({"network": scores["extrapolation"]["network"]}),
        ]
    )
    figure = plot_scores(scores["persistence"], ["mse", "mse_skill", "csi"], thresholds=[EVENT], title=radar.title)
    figure.savefig(folder / "scores.png", dpi=80)
    middle = len(inits) // 2
    last_known = first + recipe.history - 1 + middle
    known = ds.isel({frames.time_dim: slice(last_known - recipe.history + 1, last_known + 1)})
    title = f"{radar.title}, init time {frames.label(last_known)}"
    figure = plot_forecast(archives["network"].isel(init_time=middle), ds, known, columns=3, title=title)
    figure.savefig(folder / "forecast.png", dpi=80)
    return rows


def table(rows: pd.DataFrame) -> str:
    """Return MSE and CSI by lead time in Markdown, and the ratios of the network's MSE to those of the references."""
    network = rows[(rows["model"] == "network") & (rows["metric"] == "mse")]
    minutes = sorted(rows["lead_time_minutes"].unique())
    lines = [
        "| lead time, min | " + " | ".join(f"{m:g}" for m in minutes) + " |",
        "| --- |" + " --- |" * len(minutes),
    ]

    def line(name: str, values: pd.DataFrame, column: str) -> None:
        by_lead = values.drop_duplicates("lead_time_minutes").set_index("lead_time_minutes")[column]
        cells = [f"{by_lead[m]:#.3g}" for m in minutes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")

    for metric, label in (("mse", "MSE, mm² h⁻²"), ("csi", f"CSI at {EVENT:g} mm h⁻¹")):
        for model in ("network", *REFERENCES):
            chosen = rows[(rows["model"] == model) & (rows["metric"] == metric)]
            if metric == "csi":
                chosen = chosen[chosen["threshold"] == EVENT]
            line(f"{label}: {model}", chosen, "value")
    for reference in REFERENCES:
        against = network[network["reference"] == reference]
        ratio = against.assign(ratio=against["value"] / against["reference_value"])
        line(f"MSE, network / {reference}", ratio, "ratio")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
