from __future__ import annotations

import numpy as np
import pytest

from sa_nowcast.derived import polygons

SHAPE = (9, 12)


def _full(parts: list[list[np.ndarray]], shape: tuple[int, int] = SHAPE) -> np.ndarray:
    pixels, share = polygons.shares(parts, shape)
    assert len(np.unique(pixels)) == len(pixels)
    full = np.zeros(shape)
    full.flat[pixels] = share
    return full


def _star(rng: np.random.Generator, radius: float = 4.0) -> np.ndarray:
    """A polygon around a place on or beside the grid, not convex, with vertices on whole numbers now and then."""
    count = int(rng.integers(3, 40))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False) if np.diff(angles).max(initial=7) > 3 else angles
    reach = rng.uniform(0.2, radius, (count, 1))
    star = rng.uniform((-2, -2), (14, 11)) + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return star[::-1] if rng.random() < 0.5 else star


def _even_odd(parts: list[list[np.ndarray]], shape: tuple[int, int], divided: int) -> np.ndarray:
    """Shares by the even-odd rule at the centres of `divided` x `divided` parts of every pixel."""
    height, width = shape
    y = (np.arange(height * divided) + 0.5) / divided
    x = (np.arange(width * divided) + 0.5) / divided
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for ring in (ring for rings in parts for ring in rings):
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            for row in np.flatnonzero((y0 > y) != (y1 > y)):
                inside[row] ^= x < x0 + (y[row] - y0) / (y1 - y0) * (x1 - x0)
    return inside.reshape(height, divided, width, divided).mean((1, 3))


@pytest.mark.parametrize("seed", range(12))
def test_shares_are_those_of_the_even_odd_rule_on_fine_parts_of_pixels(seed: int) -> None:
    parts = [[_star(np.random.default_rng(seed))]]
    np.testing.assert_allclose(_full(parts), _even_odd(parts, SHAPE, 40), atol=0.02)


@pytest.mark.parametrize("seed", range(40))
def test_shares_are_the_areas_that_shapely_cuts_out(seed: int) -> None:
    shapely = pytest.importorskip("shapely", reason="comes with cartopy")
    star = _star(np.random.default_rng(seed))
    polygon = shapely.Polygon(star)
    assert polygon.is_valid
    expected = [[polygon.intersection(shapely.box(c, r, c + 1, r + 1)).area for c in range(12)] for r in range(9)]
    np.testing.assert_allclose(_full([[star]]), expected, atol=1e-9)


@pytest.mark.parametrize("turned", [False, True])
def test_edges_along_pixels_and_whole_grids_are_exact(turned: bool) -> None:
    box = np.array([[2, 1], [5, 1], [5, 4], [2, 4]], dtype=float)[:: -1 if turned else 1]
    expected = np.zeros(SHAPE)
    expected[1:4, 2:5] = 1
    np.testing.assert_array_equal(_full([[box]]), expected)
    np.testing.assert_allclose(_full([[box * 100 - 250]]), np.ones(SHAPE), atol=1e-12)
    quarter = _full([[box / 2]])
    assert quarter[0, 1] == pytest.approx(0.5)
    assert quarter.sum() == pytest.approx(9 / 4)


def test_interior_rings_are_left_out_whichever_way_they_turn() -> None:
    outer = np.array([[1, 1], [10, 1], [10, 8], [1, 8]], dtype=float)
    inner = np.array([[3.25, 2.5], [6.5, 2.5], [6.5, 6.75]])
    for first in (outer, outer[::-1]):
        for second in (inner, inner[::-1]):
            full = _full([[first, second]])
            assert full.sum() == pytest.approx(63 - 3.25 * 4.25 / 2)
            np.testing.assert_allclose(full, _even_odd([[outer, inner]], SHAPE, 40), atol=0.02)


def test_what_lies_beside_the_grid_has_no_pixel() -> None:
    box = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=float)
    for shift in ((-3, 0), (20, 2), (2, -4), (3, 9), (-30, -30)):
        pixels, share = polygons.shares([[box + shift]], SHAPE)
        assert pixels.size == share.size == 0


def test_finer_rings_have_the_same_shape_and_no_long_edge() -> None:
    ring = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 1.0]])
    lengths = np.hypot(*(np.roll(ring, -1, axis=0) - ring).T)
    fine = polygons.finer(ring, lengths, 3.0)
    assert np.hypot(*(np.roll(fine, -1, axis=0) - fine).T).max() <= 3.0
    assert polygons.enclosed(fine) == pytest.approx(polygons.enclosed(ring)) == pytest.approx(5.0)
    for vertex in ring:
        assert (np.abs(fine - vertex).sum(1) == 0).any()
