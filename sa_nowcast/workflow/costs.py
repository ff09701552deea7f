"""What the network of a finished run costs: its parameters, the operations of a forecast, the time of an update."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.models.live import forecast_flop
from sa_nowcast.recipe import Recipe
from sa_nowcast.sources.opening import open_forecast
from sa_nowcast.training import LOG
from sa_nowcast.workflow.period import archive_named
from sa_nowcast.workflow.stages import FORECAST, MODEL, TRAINING


def costs(folder: Path, recipe: Recipe) -> dict[str, float]:
    """Return the costs that there are, by the names of `sa_nowcast.recipe.tables.COSTS`.

    The time of an update is the median over the rows of the training log, so that what else the machine did now and
    then weighs little. A run without updates has none.
    """
    found: dict[str, float] = {}
    if (folder / MODEL).is_dir():
        network = Nowcaster.load(folder / MODEL).network
        found["parameters"] = sum(p.numel() for p in network.parameters()) / 1e6
        if (path := archive_named(folder, FORECAST)) is not None:
            rows, columns = open_forecast(str(path)).shape[-2:]
            flop = forecast_flop(network.config, (rows, columns), recipe.history, recipe.steps)
            found["gflop"] = flop / 1e9
    log = folder / TRAINING / LOG
    if log.is_file() and recipe.training.max_steps:
        found["seconds"] = recipe.training.batch_size / float(pd.read_csv(log)["samples_per_second"].median())
    return found
