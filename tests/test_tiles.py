from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sequences import NETWORK, rain

from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models import NetworkConfig
from sa_nowcast.models.estimate import SMALLEST_TILE, fitting_tile
from sa_nowcast.nowcaster import Nowcaster
from sa_nowcast.tiles import blend, plan_tiles
from sa_nowcast.training.fit import fit


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 128))
def test_weights_add_up_to_1_and_every_tile_lies_in_the_grid(height: int, width: int, tile: int) -> None:
    total = np.zeros((height, width))
    for rows, columns, weight in plan_tiles(height, width, tile):
        assert 0 <= rows.start < rows.stop <= height
        assert (rows.stop - rows.start, columns.stop - columns.start) == (min(tile, height), min(tile, width))
        assert weight.shape == (rows.stop - rows.start, columns.stop - columns.start)
        assert (weight >= 0).all()
        total[rows, columns] += weight
    # Sums of up to 4 products of float32 shares.
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(st.integers(20, 300), st.integers(16, 128))
def test_neighbours_overlap_by_a_quarter_and_count_for_nothing_at_their_edges(size: int, tile: int) -> None:
    for one, other in itertools.pairwise(plan_tiles(size, 1, tile)):
        assert one.rows.stop - other.rows.start >= tile // 4
        assert one.weight[-1, 0] == 0
        assert other.weight[0, 0] == 0


def test_a_forecast_that_is_the_last_frame_blends_to_the_last_frame() -> None:
    values = np.random.default_rng(0).random((2, 3, 1, 70, 50), dtype=np.float32)
    result = blend(values, 32, lambda part: np.repeat(part[:, -1:], 4, axis=1), 4)
    np.testing.assert_allclose(result, np.repeat(values[:, -1:], 4, axis=1), rtol=1e-6)


@pytest.fixture(scope="module")
def trained() -> Nowcaster:
    return fit(
        rain(40, 64, 64),
        history=4,
        steps=3,
        network={**NETWORK, "hidden": (8,), "output": "change"},
        max_steps=60,
        batch_size=2,
        crop=32,
        validation=0,
        learning_rate=5e-3,
        progress=False,
        device="cpu",
    )


def test_no_seam_shows_between_tiles(trained: Nowcaster) -> None:
    """The step from pixel to pixel across the middle of an overlap is as large as elsewhere, and as without tiles."""
    data = rain(4, 160, 144, seed=3)
    whole = trained.forecast(data).values
    tiled = trained.forecast(data, tile=48).values
    assert not np.array_equal(whole, tiled)
    middles = [(one.rows.stop + other.rows.start) // 2 for one, other in itertools.pairwise(plan_tiles(160, 1, 48))]
    assert len(middles) >= 3
    steps = {name: np.abs(np.diff(field, axis=-2)).mean(axis=(0, 2)) for name, field in (("w", whole), ("t", tiled))}
    rows = [m - 1 for m in middles]
    # The same rows of the forecast without tiles say how steep the field is there; a seam would make it steeper.
    assert steps["t"][rows].mean() <= 1.1 * steps["w"][rows].mean()
    # And what tiles change, they change no more abruptly at seams than elsewhere.
    added = np.abs(np.diff(tiled - whole, axis=-2)).mean(axis=(0, 2))
    assert added[rows].mean() <= 2 * added.mean()


def test_one_tile_is_the_whole_forecast(trained: Nowcaster) -> None:
    data = rain(4, 40, 30)
    np.testing.assert_array_equal(trained.forecast(data, tile=64), trained.forecast(data))


def test_the_tile_is_the_largest_that_memory_can_hold() -> None:
    config = NetworkConfig(hidden=(64,) * 4)
    told = {"history": 10, "steps": 10, "available": 2**30}
    assert fitting_tile(config, (64, 64), 1, **told) is None  # type: ignore[arg-type]
    tile = fitting_tile(config, (20_000, 20_000), 1, **told)  # type: ignore[arg-type]
    assert tile is not None
    assert fitting_tile(config, (tile, tile), 1, **told) is None  # type: ignore[arg-type]
    assert fitting_tile(config, (20_000, 20_000), 1, **{**told, "available": 1}) == SMALLEST_TILE  # type: ignore[arg-type]


def test_a_grid_that_memory_cannot_hold_is_forecast_in_tiles(
    trained: Nowcaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sa_nowcast.models import estimate

    data = rain(4, 200, 190, seed=2)
    tiled = trained.forecast(data, tile=80)
    needed = estimate.estimate_memory(trained.network.config, (80, 80), 1, history=4, steps=3, training=False)
    monkeypatch.setattr(estimate, "available_memory", lambda device="cpu": 2 * needed)
    np.testing.assert_array_equal(trained.forecast(data), tiled)
    monkeypatch.setattr(estimate, "available_memory", lambda device="cpu": 1000)
    with pytest.raises(ModelError, match=r"64×64.* to forecast"):
        trained.forecast(data)


@pytest.mark.parametrize("tile", [0, 15, 1.5, True])
def test_a_tile_that_cannot_be_is_refused(trained: Nowcaster, tile: object) -> None:
    with pytest.raises(RecipeError, match="tile"):
        trained.forecast(rain(), tile=tile)  # type: ignore[arg-type]


def test_missing_pixels_stay_missing_in_tiles(trained: Nowcaster) -> None:
    data = rain(4, 100, 90)
    data[:, 10:30, 40:60] = np.nan
    tiled = trained.forecast(data, tile=40)
    np.testing.assert_array_equal(np.isnan(tiled), np.isnan(trained.forecast(data)))
    assert torch.isfinite(torch.from_numpy(tiled.fillna(0).values)).all()
