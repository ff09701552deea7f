from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sequences import NETWORK, rain

from sa_nowcast.errors import Interrupted, ModelError, RecipeError, StorageError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.hindcast import hindcast
from sa_nowcast.models import NetworkConfig, tiles
from sa_nowcast.models.estimate import SMALLEST_TILE, fitting_tile
from sa_nowcast.models.tiles import Tile, blend, plan_tiles
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


def steepest(tiled: np.ndarray, whole: np.ndarray, axis: int) -> float:
    """How much steeper a forecast (lead, y, x) in tiles is than without, along `axis`, at the worst line of pixels."""
    others = tuple(i for i in range(3) if i != axis)
    with_tiles, without = (np.abs(np.diff(field, axis=axis)).mean(others) for field in (tiled, whole))
    return float((with_tiles / without).max())


def test_no_seam_shows_between_tiles(trained: Nowcaster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rain everywhere, so that no line is dry: at none is the step from pixel to pixel larger than without tiles."""
    data = rain(4, 160, 144)
    noise = gaussian_filter(np.random.default_rng(0).normal(size=data.shape), (1, 2, 2), mode="wrap")
    data = data.copy(data=np.exp(noise / noise.std()).astype(np.float32))
    whole = trained.forecast(data).values
    tiled = trained.forecast(data, tile=48).values
    assert not np.array_equal(whole, tiled)

    def abrupt(height: int, width: int, tile: int) -> list[Tile]:
        return [one._replace(weight=(one.weight > 0.5).astype(np.float32)) for one in plan_tiles(height, width, tile)]

    monkeypatch.setattr(tiles, "plan_tiles", abrupt)
    seams = trained.forecast(data, tile=48).values
    for axis in (1, 2):
        # Measured 1.013 and 1.026; where the same tiles change over from one pixel to the next, 1.82 and 1.68.
        assert steepest(tiled, whole, axis) < 1.05
        assert steepest(seams, whole, axis) > 1.5, "the field hides what is measured"


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
    with pytest.raises(RecipeError, match="tile"):
        hindcast(rain(), trained, tile=tile)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="tile: given for persistence, expected a network"):
        hindcast(rain(), "persistence", 2, tile=64)


def test_a_hindcast_in_tiles_is_the_forecasts_in_tiles(trained: Nowcaster, tmp_path: Path) -> None:
    data = rain(8, 90, 70, seed=2)
    archive = hindcast(data, trained, tile=40, batch_size=2, to=tmp_path / "a.zarr")
    lazy = hindcast(data, trained, tile=40, batch_size=2)
    np.testing.assert_array_equal(archive, lazy)
    for one in archive:
        alone = trained.forecast(data, tile=40, init_time=one["init_time"])
        # A batch and a single sample differ by the order of float32 sums; rain is up to some 10 mm h-1.
        np.testing.assert_allclose(one, alone, rtol=1e-5, atol=1e-5)
    assert not np.allclose(archive, hindcast(data, trained, batch_size=2), atol=1e-3)
    with pytest.raises(StorageError, match="tile 40 pixels, expected tile 48 pixels"):
        hindcast(data, trained, tile=48, batch_size=2, to=tmp_path / "a.zarr")


def test_the_tile_of_a_hindcast_is_chosen_by_memory_once_for_the_whole_archive(
    trained: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sa_nowcast.models import estimate

    data = rain(9, 200, 190, seed=2)
    options: dict[str, Any] = {"batch_size": 1, "shard_size": 2}
    in_tiles = hindcast(data, trained, tile=80, **options | {"shard_size": None})
    needed = estimate.estimate_memory(trained.network.config, (80, 80), 1, history=4, steps=3, training=False)

    def stop(done: int, total: int) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(estimate, "available_memory", lambda device="cpu": 2 * needed)
        with pytest.raises(Interrupted):
            hindcast(data, trained, to=tmp_path / "a.zarr", progress=stop, **options)
    # With more memory now: what was begun in tiles goes on in the same tiles.
    archive = hindcast(data, trained, to=tmp_path / "a.zarr", **options)
    np.testing.assert_array_equal(archive, in_tiles)


def test_missing_pixels_stay_missing_in_tiles(trained: Nowcaster) -> None:
    data = rain(4, 100, 90)
    data[:, 10:30, 40:60] = np.nan
    tiled = trained.forecast(data, tile=40)
    np.testing.assert_array_equal(np.isnan(tiled), np.isnan(trained.forecast(data)))
    assert torch.isfinite(torch.from_numpy(tiled.fillna(0).values)).all()
