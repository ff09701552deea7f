"""Scores as a tidy table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.verification.fields import EVENT_DIMS, SCALE
from sa_nowcast.verification.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd

# The columns of a table that are no labels of its rows.
NO_LABELS = (
    "lead_time_minutes", "metric", "value", "units", "count",
    "lower", "upper", "consistent_lower", "consistent_upper",
    "reference", "reference_value", "skill", "skill_lower", "skill_upper",
)  # fmt: skip

# Of a score itself, and of an observed frequency where the probability is right; and how their variables end.
_ENDS: Final = {name: f"_{name}" for name in ("lower", "upper", "consistent_lower", "consistent_upper")}


def to_table(
    scores: xr.Dataset | Mapping[str, xr.Dataset], *, layout: Literal["long", "wide"] = "long"
) -> pd.DataFrame:
    """Return `scores` with one row for each metric, lead time, threshold and so on.

    Parameters
    ----------
    scores : Dataset, or mapping of names to Datasets
        From :func:`sa_nowcast.verification.verify`; of several models by their names, which become the first column,
        ``model``.
    layout : {"long", "wide"}
        "long": a row for each model too, with all that is known of its score. "wide": a column of values for each
        model, side by side, for reading; a reference that is none of the models is the last column.

    Returns
    -------
    pandas.DataFrame
        Columns lead_time_minutes, metric, the variable and channel dimensions of the scores, threshold, and scale,
        neighbourhood, rank, probability, cost_loss, spread_bin and wavelength where a metric has them, value, units,
        count; lower and upper where scores have intervals, consistent_lower and consistent_upper beside frequencies
        of a reliability diagram; and with a reference also reference, reference_value, skill, skill_lower,
        skill_upper. What a metric does not have is NaN. Rows are sorted by metric, then by the labels, lead time last.

    Raises
    ------
    DataError
        If `scores` holds no metric.
    RecipeError
        If `layout` is neither.
    """
    import pandas as pd

    if layout not in ("long", "wide"):
        raise RecipeError("layout", f"{layout!r}", "'long' or 'wide'")
    if layout == "wide":
        return _side_by_side({"value": scores} if isinstance(scores, xr.Dataset) else scores)
    if not isinstance(scores, xr.Dataset):
        if not scores:
            raise DataError("scores", "are empty", "those of at least one model")
        tables = [to_table(each) for each in scores.values()]
        for name, table in zip(scores, tables, strict=True):
            table.insert(0, "model", name)
        return pd.concat(tables, ignore_index=True)
    names = [str(name) for name in scores.data_vars if str(name) in METRICS]
    if not names:
        raise DataError("scores", f"hold {sorted(map(str, scores.data_vars))}", "metrics, as verify returns them")
    found = [str(dim) for name in names for dim in scores[name].dims if dim != "lead_time"]
    labels = [dim for dim in dict.fromkeys(found) if dim not in EVENT_DIMS]
    labels += [dim for dim in EVENT_DIMS if dim in found or dim == "threshold"]
    columns = ["lead_time_minutes", "metric", *labels, "value", "units", "count"]
    columns += [column for column, ending in _ENDS.items() if any(f"{name}{ending}" in scores for name in names)]
    if "reference" in scores.attrs:
        columns += ["reference", *_of_reference("")]
    records = [row for name in names for row in _rows(scores, name).to_dict("records")]
    return pd.DataFrame(records, columns=columns)


def _of_reference(reference: object) -> dict[str, str]:
    """Return the columns for a reference, and how the variables of a metric end that fill them."""
    endings = {"skill": "_skill", "skill_lower": "_skill_lower", "skill_upper": "_skill_upper"}
    return {"reference_value": f"_{reference}", **endings}


def _rows(scores: xr.Dataset, name: str) -> pd.DataFrame:
    score, reference = scores[name], scores.attrs.get("reference")
    count = scores.get(METRICS[name].count, scores["count"])
    columns = {"value": score, "count": count.sum([dim for dim in count.dims if dim not in score.dims])}
    for column, ending in {**_ENDS, **_of_reference(reference)}.items():
        if f"{name}{ending}" in scores:
            columns[column] = scores[f"{name}{ending}"]
    order = [*(dim for dim in score.dims if dim != "lead_time"), "lead_time"]
    table = xr.Dataset(columns).reset_coords(drop=True).to_dataframe(dim_order=order).reset_index()
    minutes = table.pop("lead_time").to_numpy() / np.timedelta64(1, "ns") / 6e10
    table = table.assign(lead_time_minutes=minutes, metric=name, units=score.attrs.get("units", ""))
    return table.assign(reference=reference) if "reference_value" in table else table


def _side_by_side(scores: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Return one row for each metric, label and lead time, and a column for each model."""
    table: pd.DataFrame | None = None
    references: dict[str, pd.DataFrame] = {}
    for name, each in scores.items():
        rows = to_table(each)
        keys = ["metric", "units", *(c for c in rows if c not in NO_LABELS), "lead_time_minutes"]
        part = rows[keys].assign(**{name: rows["value"]})
        if "reference" in rows:
            other = str(each.attrs["reference"])
            known = rows.loc[rows["reference"].notna()]
            references.setdefault(other, known[keys].assign(**{other: known["reference_value"]}))
        table = part if table is None else table.merge(part, how="outer", sort=False)
    if table is None:
        raise DataError("scores", "are empty", "those of at least one model")
    for name, part in references.items():
        if name not in scores:
            table = table.merge(part, how="left")
    return table


def from_table(table: pd.DataFrame) -> dict[str, xr.Dataset]:
    """Return what `to_table` was made of, by model ("" where it names none), as far as a table or its CSV holds it."""
    missing = [c for c in ("lead_time_minutes", "metric", "value") if c not in table.columns]
    if missing or not len(table):
        found = f"columns {', '.join(map(str, table.columns))}" if missing else "no rows"
        raise DataError("scores", found, expected=f"a table with {missing[0] if missing else 'scores'}")
    if "model" in table.columns:
        return {str(name): _scores(rows) for name, rows in table.groupby("model", sort=False)}
    return {"": _scores(table)}


def _scores(table: pd.DataFrame) -> xr.Dataset:
    labels = [c for c in table.columns if c not in ("model", *NO_LABELS)]
    reference = str(table["reference"].iloc[0]) if "reference" in table.columns else None
    lead = np.round(table["lead_time_minutes"].to_numpy() * 60e9).astype("timedelta64[ns]")
    table = table.assign(lead_time=lead)
    scores = xr.Dataset()
    for metric, rows in table.groupby("metric", sort=False):
        own = [label for label in labels if rows[label].notna().any()]
        indexed = rows.set_index([*own, "lead_time"])
        for column, ending in {"value": "", **_ENDS, **_of_reference(reference)}.items():
            if column in rows.columns and rows[column].notna().any():
                score = xr.DataArray.from_series(indexed[column].astype(float))
                if SCALE in own:  # in the order of the table, as they were asked for
                    score = score.sel({SCALE: rows[SCALE].unique()})
                units = str(rows["units"].iloc[0]) if "units" in rows.columns else "1"
                score.attrs["units"] = "1" if column.startswith(("skill", "consistent")) else units
                scores[f"{metric}{ending}"] = score
    if reference is not None:
        scores.attrs["reference"] = reference
    return scores
