"""The stage that scores: all forecasts on one sample, against the first reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import xarray as xr

from sa_nowcast.metadata.attributes import storable
from sa_nowcast.recipe import Recipe
from sa_nowcast.storage.whole import partial_beside, put_in_place, storage
from sa_nowcast.verification import Bootstrap, compare, verify
from sa_nowcast.verification.fields import ssim_library
from sa_nowcast.verification.metrics import select_metrics
from sa_nowcast.verification.optical_flow import require_pysteps
from sa_nowcast.workflow.data import Experiment

PERSISTENCE = "persistence"
_BY_PYSTEPS = {"extrapolation", "sprog", "steps"}


def require_scoring(recipe: Recipe) -> None:
    """Raise `MissingLibraryError` where a reference or a metric of `recipe` needs a library that is not installed."""
    if _BY_PYSTEPS.intersection(recipe.verification.references):
        require_pysteps()
    if any(metric.kind == "similarity" for metric in select_metrics(recipe.verification.metrics or ["mse"])):
        ssim_library()


def score(archives: Mapping[str, xr.DataArray], experiment: Experiment, recipe: Recipe) -> dict[str, xr.Dataset]:
    """Return the scores of each forecast by its name.

    Parameters
    ----------
    archives : mapping of str to DataArray
        The network's first, then the references other than persistence, which is made from the truth.
    experiment : Experiment
    recipe : Recipe
    """
    frames, asked = experiment.test_frames, recipe.verification
    truth: xr.DataArray | xr.Dataset = (
        frames.arrays[0] if len(frames.arrays) == 1 else experiment.test[[str(a.name) for a in frames.arrays]]
    )
    metrics = list(asked.metrics) or (["mse", "csi"] if asked.thresholds else ["mse"])
    bootstrap = Bootstrap(**asked.bootstrap.model_dump(exclude_none=True))
    if len(archives) == 1:
        ((name, archive),) = archives.items()
        scores = verify(
            archive,
            truth,
            metrics=metrics,
            thresholds=asked.thresholds or None,
            reference=asked.references[0],
            neighbourhoods=asked.neighbourhoods,
            data_range=asked.data_range,
            clip=asked.clip,
            bootstrap=bootstrap,
            time=str(frames.time_dim),
        )
        return {name: scores}
    return compare(
        archives,
        truth,
        metrics,
        asked.thresholds or None,
        asked.references[0],
        neighbourhoods=asked.neighbourhoods,
        data_range=asked.data_range,
        clip=asked.clip,
        bootstrap=bootstrap,
        time=str(frames.time_dim),
    )


def keep_scores(scores: Mapping[str, xr.Dataset], folder: Path) -> None:
    """Keep scores as they are, for pictures that are drawn later: one NetCDF file each."""
    with storage(folder), partial_beside(folder) as partial:
        partial.mkdir()
        for number, (name, each) in enumerate(scores.items()):
            storable(each.assign_attrs(sa_nowcast_name=name)).to_netcdf(partial / f"{number}.nc", engine="netcdf4")
        put_in_place(partial, folder)


def kept_scores(folder: Path) -> dict[str, xr.Dataset]:
    """Read what `keep_scores` kept."""
    scores = {}
    for path in sorted(folder.glob("*.nc"), key=lambda f: int(f.stem)):
        with xr.open_dataset(path, decode_timedelta=True) as ds:
            each = ds.load()
        scores[str(each.attrs.pop("sa_nowcast_name"))] = each
    return scores
