"""Archives in files against truth in a file: one table of scores, on one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.metadata import dims
from sa_nowcast.metadata.attributes import storable
from sa_nowcast.sources.opening import named_like, open_forecast
from sa_nowcast.storage.whole import partial_beside, put_in_place, storage, write_whole
from sa_nowcast.times import nearest, read_times, show_step, valid_times, with_times
from sa_nowcast.verification import compare, to_table
from sa_nowcast.verification.inputs import pair, single_array
from sa_nowcast.verification.metrics import select_metrics
from sa_nowcast.verification.units import check_thresholds

if TYPE_CHECKING:
    import pandas as pd

    from sa_nowcast.verification import Bootstrap

PERSISTENCE = "persistence"
SCORE_SUFFIXES = (".csv", ".nc")


@dataclass(frozen=True)
class PlannedScores:
    """Archives, truth and reference that were checked against each other; no value was read.

    Attributes
    ----------
    archives : mapping of str to DataArray
        By name; all of the same init and lead times.
    truth : DataArray or Dataset
    reference : "persistence", DataArray or None
    reference_name : str or None
    metrics : tuple of str
    thresholds : tuple of float or str
    left_out : str
        What was left out so that all are scored on the same sample; empty where nothing was.
    """

    archives: Mapping[str, xr.DataArray]
    truth: xr.DataArray | xr.Dataset
    reference: str | xr.DataArray | None
    reference_name: str | None
    metrics: tuple[str, ...]
    thresholds: tuple[float | str, ...]
    left_out: str

    def describe(self) -> str:
        """Return one line for people."""
        first = next(iter(self.archives.values()))
        count, leads = first.sizes[dims.INIT_TIME], first.sizes[dims.LEAD_TIME]
        name = self.reference_name if isinstance(self.reference, xr.DataArray) else self.reference
        return f"{', '.join(self.archives)}: {count} forecasts of {leads} lead times, against {name or 'nothing'}"

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        first = next(iter(self.archives.values()))
        return {
            "archives": {name: dict(archive.sizes) for name, archive in self.archives.items()},
            "init_times": int(first.sizes[dims.INIT_TIME]),
            "lead_times": [show_step(lead) for lead in first[dims.LEAD_TIME].values],
            "metrics": list(self.metrics),
            "thresholds": list(self.thresholds),
            "reference": self.reference_name if isinstance(self.reference, xr.DataArray) else self.reference,
            "left_out": self.left_out,
        }

    def compute(
        self,
        *,
        data_range: tuple[float, float] = (0.0, 1.0),
        clip: bool = False,
        bootstrap: Bootstrap | None = None,
    ) -> dict[str, xr.Dataset]:
        """Return the scores of each archive, all on the same init times, lead times and pixels."""
        forecasts, reference = dict(self.archives), self.reference
        if isinstance(reference, xr.DataArray):
            assert self.reference_name is not None
            forecasts.setdefault(self.reference_name, reference)
            reference = self.reference_name
        scores = compare(
            forecasts,
            self.truth,
            self.metrics,
            self.thresholds or None,
            reference,
            data_range=data_range,
            clip=clip,
            bootstrap=bootstrap,
        )
        # Those of the reference stand beside the others' already.
        return {name: scores[name] for name in self.archives if name in scores}


def plan_scores(
    archives: Sequence[str],
    truth: xr.DataArray | xr.Dataset,
    *,
    reference: str | None = PERSISTENCE,
    metrics: Sequence[str] = (),
    thresholds: Sequence[str] = (),
    time: str | None = None,
    y: str | None = None,
    x: str | None = None,
    channel: str | None = None,
) -> PlannedScores:
    """Open archives and check all of them against truth; no value is read.

    Parameters
    ----------
    archives : sequence of str
        Paths of forecasts or archives, NetCDF or Zarr.
    truth : DataArray or Dataset
    reference : str, optional
        "persistence", or the path of an archive; None: no reference.
    metrics : sequence of str
        By default mse, and csi where there are thresholds.
    thresholds : sequence of str
        In the data's units, or with units of their own such as "1 mm h-1".
    time, y, x, channel : str, optional
        Dimensions of truth, where attributes, common names and the archives' own names do not tell.

    Returns
    -------
    PlannedScores
        Init times whose valid times truth does not hold are left out; of several archives, and of an archive as
        reference, the init and lead times that all of them have are taken.

    Raises
    ------
    DataError
        A file that is no forecast, other units or grids, or no init time left.
    RecipeError
        A metric or threshold that is not known.
    """
    opened = {name: _one_archive(open_forecast(path)) for name, path in zip(_names(archives), archives, strict=True)}
    other: xr.DataArray | str | None = reference
    others = dict(opened)
    if reference not in (None, PERSISTENCE):
        assert reference is not None
        other = _one_archive(open_forecast(reference))
        others["reference"] = other
    truth = named_like(truth, next(iter(opened.values())), dims.DimNames(time, y, x, channel))
    truth_times = _truth_times(truth, next(iter(opened.values())))
    init, lead = _common(others, truth_times, needs_init=reference == PERSISTENCE)
    all_inits = max(a.sizes[dims.INIT_TIME] for a in others.values())
    all_leads = max(a.sizes[dims.LEAD_TIME] for a in others.values())
    chosen = {n: a.sel({dims.INIT_TIME: init, dims.LEAD_TIME: lead}) for n, a in opened.items()}
    if isinstance(other, xr.DataArray):
        other = other.sel({dims.INIT_TIME: init, dims.LEAD_TIME: lead})
    limits = tuple(_threshold(t) for t in thresholds)
    asked = tuple(m.name for m in select_metrics(metrics or (("mse", "csi") if limits else ("mse",))))
    for archive in chosen.values():
        pairing = pair(archive, truth, other)
        known = check_thresholds(limits or None, pairing.units)
        for metric in select_metrics(asked):
            if metric.kind in ("contingency", "fractions") and not known:
                raise RecipeError(
                    "thresholds",
                    f"none are given for {metric.name}",
                    expected=f"at least one in the data's units ({pairing.units or 'none stated'})",
                    fix="give thresholds=",
                )
    parts = [
        f"{count} of {total} {what}"
        for count, total, what in (
            (all_inits - len(init), all_inits, "init times"), (all_leads - len(lead), all_leads, "lead times"),
        )
        if count
    ]  # fmt: skip
    left_out = f"left out: {' and '.join(parts)} that truth or another archive does not have" if parts else ""
    name = None
    if isinstance(other, xr.DataArray):
        same = [n for n, path in zip(opened, archives, strict=True) if Path(path) == Path(str(reference))]
        name = same[0] if same else _names([str(reference)])[0]
        name = str(reference) if name in opened and not same else name
    return PlannedScores(chosen, truth, other, name, asked, limits, left_out)


def table_of(scores: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Return one table: of several archives with a column ``model``, of one without."""
    return to_table(scores) if len(scores) > 1 else to_table(next(iter(scores.values())))


def write_scores(scores: Mapping[str, xr.Dataset], target: Path) -> None:
    """Write scores as ``.csv`` (the table) or ``.nc`` (along a dimension ``model`` where there are several), whole.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    with storage(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix.lower() == ".csv":
            write_whole(target, table_of(scores).to_csv(index=False))
            return
        with partial_beside(target) as partial:
            storable(_along_models(scores)).to_netcdf(partial, engine="netcdf4")
            put_in_place(partial, target)


def _along_models(scores: Mapping[str, xr.Dataset]) -> xr.Dataset:
    parts = [_storable(one) for one in scores.values()]
    if len(parts) == 1:
        return parts[0]
    joined = xr.concat(parts, dim="model", combine_attrs="drop_conflicts", join="exact")
    return joined.assign_coords(model=list(scores))


def _storable(scores: xr.Dataset) -> xr.Dataset:
    """Return scores with lead times that NetCDF holds as they are, and that are read back as durations."""
    lead = scores[dims.LEAD_TIME]
    if not (lead.values % np.timedelta64(1, "s")).any():
        scores = scores.assign_coords({dims.LEAD_TIME: lead.astype("timedelta64[s]")})
        scores[dims.LEAD_TIME].attrs = lead.attrs
    return scores


def _one_archive(forecast: xr.DataArray) -> xr.DataArray:
    for dim in (dims.INIT_TIME, dims.LEAD_TIME):
        if dim not in forecast.coords:
            raise DataError(str(forecast.name or "forecast"), f"no coordinate {dim}", expected="a forecast")
        if dim not in forecast.dims:
            forecast = forecast.expand_dims(dim)
    if dims.VALID_TIME in forecast.coords:  # it follows from the two, and a scalar's has too few dimensions now
        forecast = forecast.drop_vars(dims.VALID_TIME)
    return with_times(forecast, dims.INIT_TIME, str(forecast.name or "forecast"))


def _truth_times(truth: xr.DataArray | xr.Dataset, forecast: xr.DataArray) -> Any:
    array = single_array(truth, forecast)
    return read_times(array, dims.find_dim(array, "time"), "truth")


def _common(archives: Mapping[str, xr.DataArray], truth_times: Any, *, needs_init: bool) -> tuple[Any, Any]:
    """Return the init and lead times that all archives have, and for which truth has every frame that is needed."""
    first = next(iter(archives.values()))
    init, lead = first[dims.INIT_TIME].values, first[dims.LEAD_TIME].values
    for archive in archives.values():
        init = init[np.isin(init, archive[dims.INIT_TIME].values)]
        lead = lead[np.isin(lead, archive[dims.LEAD_TIME].values)]
    if not len(init) or not len(lead):
        raise DataError(
            ", ".join(archives),
            f"no {'init' if not len(init) else 'lead'} time that all of them have",
            fix="make them from the same data, with the same steps",
        )
    there = nearest(truth_times, valid_times(init, lead, "forecast"))[1].all(axis=1)
    if needs_init:
        there &= nearest(truth_times, init)[1]
    if not there.any():
        raise DataError(
            "truth",
            f"has no init time's frames at all lead times (truth from {_minute(truth_times.min())} to "
            f"{_minute(truth_times.max())}, forecasts for {_minute(init.min() + lead.min())} to "
            f"{_minute(init.max() + lead.max())})",
            expected="frames at init_time + lead_time",
            fix="give truth of the forecasts' period",
        )
    return init[there], lead


def _minute(time: Any) -> str:
    return str(np.datetime64(time, "m"))


def _names(paths: Sequence[str]) -> list[str]:
    """Return short names of files that differ: their stems, or where two are the same, their paths."""
    stems = [Path(p).name.removesuffix(Path(p).suffix) for p in paths]
    return stems if len(set(stems)) == len(stems) else [str(p) for p in paths]


def _threshold(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
