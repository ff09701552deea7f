"""A picture shows, pixel by pixel, the class of the value that the store has there."""

from __future__ import annotations

import io

import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread
from published import frames
from sequences import georeferenced, rain

from sa_nowcast.derived import at
from sa_nowcast.derived.fields import one_field
from sa_nowcast.errors import DataError
from sa_nowcast.serving import colours
from sa_nowcast.serving.colours import RAIN, SHARE, VALUES, Scale, even_scale, png
from sa_nowcast.serving.grid import OUTSIDE, Grid

# Machado, Oliveira and Fernandes (2009), DOI 10.1109/TVCG.2009.113: what is seen without one kind of cone.
SEEN = {
    "by most": np.eye(3),
    "without long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "without middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "without short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def pixels(body: bytes) -> np.ndarray:
    return np.round(imread(io.BytesIO(body)) * 255).astype(int)


def expected(values: np.ndarray, levels: list[float], shades: list[str]) -> np.ndarray:
    result = np.zeros((*values.shape, 4), int)
    for level, colour in zip(levels, shades, strict=True):
        result[values >= level] = [*bytes.fromhex(colour[1:]), 255]
    return result


@pytest.mark.parametrize("layer", ["precip_rate", "precip_rate_matched", "probability_5", "accumulation_12min"])
def test_each_pixel_has_the_colour_of_the_value_of_the_store(ask, stored: xr.Dataset, layer: str) -> None:
    known = ask("/forecasts/latest").json
    one = next(item for item in known["layers"] if item["id"] == layer)
    (south, west), (north, east) = known["bounds"]
    lead = 720 if layer.startswith("accumulation") else 480
    picture = pixels(ask(f"/forecasts/latest/map/{layer}/{lead}.png").body)
    values = stored["probability"].sel(threshold=5) if layer == "probability_5" else stored[layer]
    values = values.isel(lead_time=3) if "lead_time" in values.dims else values
    # The centres of the picture's pixels, on a map whose northing is that of Mercator's projection.
    rows = np.linspace(*np.arctanh(np.sin(np.deg2rad([north, south]))), 2 * picture.shape[0] + 1)[1::2]
    latitudes = np.rad2deg(np.arcsin(np.tanh(rows)))
    longitudes = np.linspace(west, east, 2 * picture.shape[1] + 1)[1::2]
    there = values.sel(latitude=latitudes, longitude=longitudes, method="nearest").values
    assert (picture == expected(there, one["scale"]["levels"], one["scale"]["colours"])).all()
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 3


def test_an_observed_frame_is_shown_as_it_was_stored(ask) -> None:
    picture = pixels(ask("/observed/map/20190610T002000Z.png").body)
    scale = ask("/observed").json["layers"][0]["scale"]
    share = (picture[..., 3] == 255).mean()
    wet = (frames().sel(time="2019-06-10T00:20") >= np.float32(scale["levels"][0])).mean()
    assert share == pytest.approx(float(wet), abs=0.01)
    assert ask("/observed/map/20190610T235900Z.png").status == 404


def test_pictures_are_kept_for_ever_by_their_version_only(ask) -> None:
    version = ask("/forecasts/latest").json["version"]
    at_version = ask(f"/forecasts/latest/map/precip_rate/240.png?v={version}")
    assert "immutable" in at_version.headers["cache-control"]
    assert ask("/forecasts/latest/map/precip_rate/240.png?v=1").headers["cache-control"] == "no-cache"
    for wrong in ("precip_rate/241", "precip_rate_quantile_0.5/240", "nothing/240"):
        assert ask(f"/forecasts/latest/map/{wrong}.png").status == 404


def test_missing_values_are_grey_and_what_is_outside_is_clear() -> None:
    values = np.array([[np.nan, 0.0], [1.0, 9.0]], dtype=np.float32)
    index = np.array([[0, 1, OUTSIDE], [2, 3, OUTSIDE]], dtype=np.int32)
    scale = Scale((0.5, 5.0), ("#102030", "#405060"))
    shown = pixels(png(values, index, scale))
    clear = [0, 0, 0, 0]
    assert shown.tolist() == [
        [[110, 110, 110, 90], clear, clear],
        [[16, 32, 48, 255], [64, 80, 96, 255], clear],
    ]
    assert pixels(png(values, index, Scale((0.5,), ("#102030",), below=True, missing=False)))[0].tolist() == [
        clear, [16, 32, 48, 255], clear,
    ]  # fmt: skip


def test_even_scales_have_round_levels_over_the_range() -> None:
    assert even_scale(270.3, 288.9).levels == tuple(270.0 + 2 * i for i in range(10))
    assert even_scale(0.0, 0.9).levels == tuple(round(0.1 * i, 1) for i in range(10))
    assert len(even_scale(5.0, 5.0).levels) == 10


@pytest.mark.parametrize("eyes", SEEN)
@pytest.mark.parametrize("row", [RAIN, SHARE, VALUES])
def test_classes_get_darker_and_differ_for_all_eyes(row: tuple[str, ...], eyes: str) -> None:
    coded = np.array([list(bytes.fromhex(c[1:])) for c in row]) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(SEEN[eyes]).T, 0, 1)
    xyz = seen @ np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]).T
    f = np.cbrt(xyz / [0.9505, 1.0, 1.0888])
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    assert (np.diff(lab[:, 0]) < -3).all()  # CIE L*; 1 is just seen
    assert np.linalg.norm(np.diff(lab, axis=0), axis=1).min() > 5
    assert colours.Scale(tuple(range(len(row))), row).as_dict()["colours"] == list(row)


# --- grids


def test_a_projected_grid_is_laid_into_the_picture_by_its_projection() -> None:
    far = rain(4)  # from the origin of the projection, where north is not up
    data = one_field(georeferenced(far.assign_coords(x=far["x"] + 1.5e6, y=far["y"] + 1e6)))[0]
    grid = Grid(data)
    picture = grid.picture
    south, west, north, east = picture.bounds
    height, width = picture.index.shape
    rows = np.linspace(*np.arctanh(np.sin(np.deg2rad([north, south]))), 2 * height + 1)[1::2]
    latitudes, longitudes = np.rad2deg(np.arcsin(np.tanh(rows))), np.linspace(west, east, 2 * width + 1)[1::2]
    flat = data.transpose("y", "x").values.ravel()
    chosen = [(i, j) for i in range(3, height, 9) for j in range(2, width, 7) if picture.index[i, j] != OUTSIDE]
    points = {f"{i} {j}": (latitudes[i], longitudes[j]) for i, j in chosen}
    assert len(points) > 10
    assert at(data, points).values.tolist() == [flat[picture.index[i, j]] for i, j in chosen]
    assert set(range(flat.size)) <= set(picture.index.ravel().tolist())  # every pixel of the grid is shown
    assert (picture.index == OUTSIDE).any()


def test_a_grid_across_the_antimeridian_is_one_piece() -> None:
    longitude = (np.arange(175.5, 186.5) + 180) % 360 - 180
    data = xr.DataArray(
        np.arange(44.0).reshape(4, 11),
        dims=("latitude", "longitude"),
        coords={
            "latitude": [-10.5, -11.5, -12.5, -13.5],
            "longitude": ("longitude", longitude, {"units": "degrees_east"}),
        },
    )
    grid = Grid(data)
    assert grid.bounds == (-14.0, 175.0, -10.0, 186.0)
    for lon in (-179.4, 180.6, 540.6):
        assert [int(p[0]) for p in grid.pixels(np.array([-11.4]), np.array([lon]))] == [1, 5]
    assert [int(p[0]) for p in grid.pixels(np.array([-11.4]), np.array([170.0]))] == [OUTSIDE, OUTSIDE]


def test_a_grid_that_says_no_place_is_refused() -> None:
    with pytest.raises(
        DataError, match="says no place on the earth, expected latitude and longitude, or a grid mapping"
    ):
        Grid(rain(4)[0])
