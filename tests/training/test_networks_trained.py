"""Networks that are no core of a rollout go through `fit`, bundles and forecasts as all others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from listed import OPTIONS, left_open
from sequences import rain
from trials import same_bits, train, weights

import sa_nowcast
from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models.config import NETWORKS

every_network = pytest.mark.parametrize("name", OPTIONS)


def trained(name: str, **options: Any) -> sa_nowcast.Nowcaster:
    sampling = {"truth_start": 0.5} if NETWORKS[name].feeds_back else {}
    given = {"network": {"name": name, **left_open(name)}, "max_steps": 3, "crop": None} | sampling | options
    return train(rain(), **given)


@every_network
def test_a_network_is_trained_saved_and_forecasts_the_same_when_loaded(name: str, tmp_path: Path) -> None:
    data, nowcaster = rain(), trained(name, folder=tmp_path / "run", average=0.5, reversed_input=True)
    nowcaster.save(tmp_path / "model")
    loaded = sa_nowcast.load(tmp_path / "model")
    assert loaded.network.config == nowcaster.network.config
    assert same_bits(loaded, nowcaster)
    one, other = nowcaster.forecast(data), loaded.forecast(data)
    xr.testing.assert_equal(one, other)
    assert bool(np.isfinite(one.to_dataarray() if isinstance(one, xr.Dataset) else one).all())
    assert nowcaster.forecast(data, steps=7).sizes["lead_time"] == 7


@every_network
def test_training_goes_on_from_its_weights_with_the_read_out_alone(name: str) -> None:
    first = trained(name)
    second = trained(name, network=None, start=first, train_core=False, truth_start=0.0, max_steps=2)
    before, after = weights(first), weights(second)
    assert all(before[key].equal(after[key]) for key in before if key.startswith("layers."))
    assert second.network.config == first.network.config


def test_a_model_that_is_bound_to_its_grid_refuses_another_in_one_line() -> None:
    nowcaster = trained("fc-lstm")
    assert nowcaster.network.config.to_dict()["grid"] == [24, 20]
    with pytest.raises(ModelError, match=r"30 rows and 20 columns, expected 24 and 20, the grid .* bound to") as told:
        nowcaster.forecast(rain(height=30))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["unet", "simvp-gsta"])
def test_a_history_is_that_of_the_data_unless_the_network_names_a_shorter_one(name: str) -> None:
    assert trained(name, max_steps=1).network.config.to_dict()["history"] == 4
    shorter = {"name": name, **left_open(name), "history": 2}
    assert trained(name, network=shorter, max_steps=1).network.config.to_dict()["history"] == 2
    with pytest.raises(ModelError, match=f"4 known ones, expected at least 6, which {name} reads as channels"):
        trained(name, network={**shorter, "history": 6})


@pytest.mark.parametrize("name", [name for name in OPTIONS if not NETWORKS[name].graphs])
def test_a_cuda_graph_is_refused_in_one_line_where_the_network_cannot_be_captured(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"training\.acceleration: graph, with network\.name: {name}"):
        trained(name, acceleration="graph")
