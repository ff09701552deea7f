"""Scores as one row for each metric, lead time and label."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.verification import to_table, verify

from .conftest import forecast_of, observations


@pytest.fixture(scope="module")
def scores():
    truth = observations(frames=20)
    return verify(
        forecast_of(truth, init=range(1, 14)),
        truth,
        ["mse", "csi", "fss", "frame_mse"],
        [0.5, 2.0],
        neighbourhoods=[1, 3],
        reference="persistence",
        data_range=(0, 100),
    )


def test_columns_and_one_row_for_each_combination(scores):
    table = to_table(scores)
    assert list(table.columns) == [
        "lead_time_minutes",
        "metric",
        "threshold",
        "neighbourhood",
        "value",
        "units",
        "count",
        "reference",
        "reference_value",
        "skill",
        "skill_lower",
        "skill_upper",
    ]
    assert table.groupby("metric").size().to_dict() == {"csi": 6, "frame_mse": 3, "fss": 12, "mse": 3}
    assert not table.duplicated(["lead_time_minutes", "metric", "threshold", "neighbourhood"]).any()


def test_every_row_holds_the_value_at_its_labels(scores):
    for row in to_table(scores).itertuples():
        lead = np.timedelta64(round(row.lead_time_minutes * 60), "s")
        labels = {"lead_time": lead}
        if not np.isnan(row.threshold):
            labels["threshold"] = row.threshold
        if not np.isnan(row.neighbourhood):
            labels["neighbourhood"] = row.neighbourhood
        for column, name in (
            ("value", row.metric),
            ("reference_value", f"{row.metric}_persistence"),
            ("skill", f"{row.metric}_skill"),
            ("skill_lower", f"{row.metric}_skill_lower"),
        ):
            expected = scores[name].sel(labels).item()
            np.testing.assert_equal(getattr(row, column), expected)
        assert row.count == scores["frames" if row.metric == "frame_mse" else "count"].sel(lead_time=lead).item()


def test_the_table_survives_csv(scores):
    table = to_table(scores)
    back = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    pd.testing.assert_frame_equal(back, table, check_dtype=False)


def test_without_a_reference_there_are_no_columns_for_it():
    truth = observations()
    table = to_table(verify(forecast_of(truth), truth, ["mse"]))
    assert list(table.columns) == ["lead_time_minutes", "metric", "threshold", "value", "units", "count"]
    assert table["lead_time_minutes"].tolist() == [5.0, 10.0, 15.0]


def test_several_models_are_told_apart_by_the_first_column(scores):
    table = to_table({"one": scores, "two": scores})
    assert table.columns[0] == "model"
    for name in ("one", "two"):
        part = table[table["model"] == name].drop(columns="model").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, to_table(scores))


def test_channels_of_any_name_are_a_column():
    truth = observations(channels=2).rename(channel="band")
    table = to_table(verify(forecast_of(truth), truth, ["mse", "frame_mse"], data_range=(0, 100)))
    assert table["band"].dropna().unique().tolist() == ["c0", "c1"]
    assert table.groupby("metric").size().to_dict() == {"frame_mse": 3, "mse": 6}


def test_what_holds_no_scores_is_refused():
    with pytest.raises(DataError, match="expected metrics, as verify returns them"):
        to_table(xr.Dataset({"rain": 1.0}))
