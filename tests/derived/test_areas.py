from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyproj
import pytest
import xarray as xr
from derived_fields import ensemble, frames, lazy
from sequences import georeferenced, rain, traffic

from sa_nowcast.derived import over
from sa_nowcast.errors import DataError, RecipeError


def _labels() -> xr.DataArray:
    """Two areas and none, with a border that cuts rows and columns; most of area 7 is observed."""
    rows, columns = np.mgrid[0:24, 0:28]
    numbers = np.where(rows + columns < 20, 3, np.where(columns > 20, 7, 0))
    return xr.DataArray(
        numbers, dims=("latitude", "longitude"), coords={n: frames()[n] for n in ("latitude", "longitude")}
    )


def _loops(values: np.ndarray, weights: np.ndarray, least: float = 0.5) -> float:
    """The weighted mean of the pixels that are there, pixel by pixel."""
    total = weight = whole = 0.0
    for row, column in np.argwhere(weights > 0):
        whole += weights[row, column]
        if not np.isnan(values[row, column]):
            weight += weights[row, column]
            total += weights[row, column] * float(values[row, column])
    return total / weight if weight >= least * whole and weight else np.nan


def _cosines() -> np.ndarray:
    return np.cos(np.deg2rad(frames()["latitude"].values))[:, np.newaxis] * np.ones(28)


@pytest.mark.parametrize("chunked", [False, True])
def test_means_over_labels_are_the_written_out_ones_of_every_member(chunked: bool) -> None:
    forecast = lazy(ensemble()) if chunked else ensemble()
    got = over(forecast, _labels())
    assert (got.chunks is not None) == chunked
    assert got.dims == ("realization", "init_time", "lead_time", "region")
    assert got.dtype == np.float32
    assert list(got["region"].values) == ["3", "7"]
    for member, init, lead in ((0, 0, 0), (2, 1, 8), (1, 0, 4)):
        for number in (3, 7):
            expected = _loops(ensemble().values[member, init, lead], _cosines() * (_labels().values == number))
            assert float(got[member, init, lead].sel(region=str(number))) == pytest.approx(expected, rel=1e-5)


def test_labels_have_the_names_of_their_meanings_and_missing_ones_are_none() -> None:
    labels = _labels().assign_attrs(flag_values=np.array([3, 7]), flag_meanings="upper lower")
    got = over(frames(), labels)
    assert list(got["region"].values) == ["upper", "lower"]
    missing = labels.astype(float).where(labels > 0)
    np.testing.assert_array_equal(over(frames(), missing), got)
    np.testing.assert_array_equal(over(frames(), labels.transpose().chunk()), got)


def test_masks_are_areas_that_may_overlap() -> None:
    labels = _labels()
    got = over(frames(), {"a": labels == 3, "b": labels.values == 7, "all": labels >= 0})
    np.testing.assert_array_equal(got[:, :2], over(frames(), labels))
    expected = [_loops(frame, _cosines()) for frame in frames().values]
    np.testing.assert_allclose(got.sel(region="all"), expected, rtol=1e-5)


def test_pixels_of_a_projected_grid_count_alike_and_uneven_ones_by_their_size() -> None:
    everywhere = {"all": np.ones((24, 20), dtype=bool)}
    np.testing.assert_allclose(over(rain(4), everywhere)[:, 0], rain(4).mean(("y", "x")), rtol=1e-5)
    edges = np.cumsum(np.r_[0, np.linspace(900, 1100, 20)])
    stretched = rain(4).assign_coords(x=("x", (edges[1:] + edges[:-1]) / 2, rain()["x"].attrs))
    x = stretched["x"].values
    widths = np.diff(np.r_[1.5 * x[0] - x[1] / 2, (x[1:] + x[:-1]) / 2, 1.5 * x[-1] - x[-2] / 2])
    expected = (rain(4).mean("y").values * widths).sum(1) / widths.sum()
    np.testing.assert_allclose(over(stretched, everywhere)[:, 0], expected, rtol=1e-5)


def test_missing_pixels_are_left_out_until_less_than_half_is_there() -> None:
    field, mask = rain(3), np.zeros((24, 20), dtype=bool)
    mask[4:8, 2:12] = True  # 40 pixels
    field.values[0, 4:6, 2:12] = np.nan  # half of them
    field.values[1, 4:6, 2:12] = np.nan
    field.values[1, 7, 5] = np.nan
    field.values[2, 4:8, 2:12] = np.nan
    got = over(field, {"a": mask})
    assert float(got[0, 0]) == pytest.approx(float(field[0].values[6:8, 2:12].mean()), rel=1e-5)
    assert np.isnan(got[1:]).all()
    lower = over(field, {"a": mask}, least=0.3)
    assert float(lower[1, 0]) == pytest.approx(float(np.nanmean(field[1].values[4:8, 2:12])), rel=1e-5)
    assert np.isnan(over(field, {"a": mask}, least=0)[2]).all()


# --- polygons


def _divided(rings: list[list[tuple[float, float]]], latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Whether places lie in a polygon in degrees, by the even-odd rule."""
    inside = np.zeros(latitude.shape, dtype=bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
            crosses = (y0 > latitude) != (y1 > latitude)
            with np.errstate(divide="ignore", invalid="ignore"):
                inside ^= crosses & (longitude < x0 + (latitude - y0) / (y1 - y0) * (x1 - x0))
    return inside


def _fine(line: np.ndarray, parts: int) -> np.ndarray:
    """The centres of equal parts of cells."""
    step = (line[-1] - line[0]) / (len(line) - 1)
    return (line[:, np.newaxis] + ((np.arange(parts) + 0.5) / parts - 0.5) * step).ravel()


def _catchment(left: float, bottom: float, width: float, height: float) -> dict[str, Any]:
    """A polygon that is not convex, with an interior ring."""
    outer = [(0.1, 0.1), (0.8, 0.05), (0.6, 0.4), (0.95, 0.9), (0.5, 0.7), (0.2, 0.95), (0.1, 0.1)]
    inner = [(0.3, 0.3), (0.5, 0.3), (0.4, 0.6), (0.3, 0.3)]
    rings = [[(left + a * width, bottom + b * height) for a, b in ring] for ring in (outer, inner)]
    return {"type": "Polygon", "coordinates": rings}


def test_means_over_polygons_are_those_of_fine_parts_of_pixels_on_latitude_and_longitude() -> None:
    latitude, longitude = frames()["latitude"].values, frames()["longitude"].values
    polygon = _catchment(longitude[3], latitude[20], longitude[25] - longitude[3], latitude[2] - latitude[20])
    y, x = np.meshgrid(_fine(latitude, 20), _fine(longitude, 20), indexing="ij")
    inside = _divided(polygon["coordinates"], y, x).reshape(24, 20, 28, 20)
    share = (inside * np.cos(np.deg2rad(y)).reshape(24, 20, 28, 20)).mean((1, 3))
    got = over(frames(), polygon)
    expected = [_loops(frame, share) for frame in frames().values]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(got[:, 0], expected, rtol=2e-3)
    assert float(got["covered"][0]) == 1.0
    flipped = frames().isel(latitude=slice(None, None, -1))
    np.testing.assert_allclose(over(flipped, polygon), got, rtol=1e-6)


@pytest.mark.parametrize("units", ["m", "km"])
def test_polygons_are_brought_into_the_map_projection_of_the_grid(units: str) -> None:
    ds = georeferenced()
    inverse = pyproj.Transformer.from_crs(pyproj.CRS.from_cf(ds["crs"].attrs), "EPSG:4326", always_xy=True)
    x, y = np.meshgrid(_fine(ds["x"].values, 20), _fine(ds["y"].values, 20))
    longitude, latitude = inverse.transform(x, y)
    corners = np.array(inverse.transform([2000, 17000], [3000, 21000]))
    polygon = _catchment(corners[0, 0], corners[1, 0], *(corners[:, 1] - corners[:, 0]))
    share = _divided(polygon["coordinates"], latitude, longitude).reshape(24, 20, 20, 20).mean((1, 3))
    if units == "km":
        for axis in ("y", "x"):
            ds[axis] = (axis, ds[axis].values / 1000, {**ds[axis].attrs, "units": "km"})
    got = over(ds, polygon)
    expected = [_loops(frame, share) for frame in ds["rain"].values]
    np.testing.assert_allclose(got[:, 0], expected, rtol=5e-3, atol=1e-3)
    assert "crs" not in got.coords


def test_long_edges_are_as_straight_as_they_are_in_degrees() -> None:
    x = 10_000.0 * np.arange(100)
    field = xr.DataArray(
        np.ones((100, 100)),
        dims=("y", "x"),
        coords={
            "y": ("y", x, {"units": "m", "standard_name": "projection_y_coordinate"}),
            "x": ("x", x, {"units": "m", "standard_name": "projection_x_coordinate"}),
            "crs": georeferenced()["crs"],
        },
        attrs={"grid_mapping": "crs"},
    )
    inverse = pyproj.Transformer.from_crs(pyproj.CRS.from_cf(field["crs"].attrs), "EPSG:4326", always_xy=True)
    longitude, latitude = inverse.transform(*np.meshgrid(x, x))
    box = {"type": "Polygon", "coordinates": [[[11, 52.5], [22, 52.5], [22, 60], [11, 60], [11, 52.5]]]}
    within = (latitude > 52.5) & (latitude < 60) & (longitude > 11) & (longitude < 22)
    got = over(field.copy(data=longitude), box)
    assert float(got[0]) == pytest.approx(longitude[within].mean(), abs=0.01)


def _box(left: float, bottom: float, right: float, top: float) -> list[list[list[float]]]:
    return [[[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]]


def _feature(geometry: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def _collection(*features: dict[str, Any]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def _here() -> tuple[float, float, float, float]:
    """The edges of the corner of the sample: west, south, east, north."""
    latitude, longitude = frames()["latitude"].values, frames()["longitude"].values
    half = abs(latitude[1] - latitude[0]) / 2
    return longitude[0] - half, latitude[-1] - half, longitude[-1] + half, latitude[0] + half


def test_parts_of_a_multipolygon_are_one_area_and_pixels_that_they_share_count_once() -> None:
    west, south, east, north = _here()
    middle = west + 0.503 * (east - west)
    two = {"type": "MultiPolygon", "coordinates": [_box(west, south, middle, north), _box(middle, south, east, north)]}
    one = {"type": "Polygon", "coordinates": _box(west, south, east, north)}
    collected = {"type": "GeometryCollection", "geometries": [one]}
    got = over(
        frames(), _collection(_feature(two, name="two"), _feature(one, name="one"), _feature(collected, name="c"))
    )
    np.testing.assert_allclose(got[:, 0], got[:, 1], rtol=1e-6)
    np.testing.assert_allclose(got[:, 2], got[:, 1], rtol=1e-6)
    expected = [_loops(frame, _cosines()) for frame in frames().values]
    np.testing.assert_allclose(got[:, 1], expected, rtol=1e-5)
    np.testing.assert_allclose(got["covered"], 1.0)


def test_of_an_area_partly_beyond_the_grid_the_share_that_is_covered_is_said_and_counts() -> None:
    west, south, east, north = _here()
    most = {"type": "Polygon", "coordinates": _box(west - 0.5 * (east - west), south, east, north)}
    least = {"type": "Polygon", "coordinates": _box(west - 3 * (east - west), south, east, north)}
    field = frames().fillna(0)
    got = over(field, _collection(_feature(most, name="most"), _feature(least, name="least")))
    np.testing.assert_allclose(got["covered"], [1 / 1.5, 1 / 4], rtol=1e-6)
    assert np.isfinite(got.sel(region="most")).all()
    assert np.isnan(got.sel(region="least")).all()
    accepted = over(field, least, least=0.25)
    np.testing.assert_allclose(accepted[:, 0], got.sel(region="most"), rtol=1e-6)


def test_an_area_beyond_the_grid_is_refused_by_name() -> None:
    west, south, east, north = _here()
    far = [_feature({"type": "Polygon", "coordinates": _box(i, 0, i + 1, 1)}, name=f"far {i}") for i in range(6)]
    here = _feature({"type": "Polygon", "coordinates": _box(west, south, east, north)}, name="here")
    with pytest.raises(DataError) as caught:
        over(frames(), _collection(here, *far))
    line = str(caught.value)
    assert "area 'far 0': no pixel of the grid is in it, nor in 'far 1', 'far 2', 'far 3' and 2 more" in line
    assert "latitude from" in line
    with pytest.raises(DataError, match="area 'none': no pixel of the grid"):
        over(frames(), {"none": _labels() > 9})


def test_polygons_are_found_on_grids_that_count_longitudes_to_360_or_go_round_the_earth() -> None:
    west, south, east, north = _here()
    polygon = _catchment(west, south, east - west, north - south)
    turned = frames().assign_coords(
        longitude=("longitude", frames()["longitude"].values + 360, frames()["longitude"].attrs)
    )
    np.testing.assert_allclose(over(turned, polygon), over(frames(), polygon), rtol=1e-5)
    longitude = np.arange(0.0, 360.0, 2.0)
    globe = xr.DataArray(
        np.broadcast_to(((longitude + 180) % 360) - 180, (5, 180)),
        dims=("latitude", "longitude"),
        coords={
            "latitude": ("latitude", np.arange(-4.0, 5.0, 2.0), {"units": "degrees_north"}),
            "longitude": ("longitude", longitude, {"units": "degrees_east"}),
        },
    )
    over_greenwich = over(globe, {"type": "Polygon", "coordinates": _box(-7, -3, 3, 3)})
    assert float(over_greenwich[0]) == pytest.approx(-2.0)
    assert float(over_greenwich["covered"][0]) == pytest.approx(1.0)


def test_geojson_is_read_from_a_file_and_from_what_has_its_interface(tmp_path: Path) -> None:
    west, south, east, north = _here()
    polygon = _catchment(west, south, east - west, north - south)
    collection = _collection(_feature(polygon, NAME="Rhine", basin=12))
    expected = over(frames(), collection)
    assert list(expected["region"].values) == ["Rhine"]
    (tmp_path / "basins.geojson").write_text("\ufeff" + json.dumps(collection), encoding="utf-8")
    xr.testing.assert_identical(over(frames(), tmp_path / "basins.geojson"), expected)
    xr.testing.assert_identical(over(frames(), str(tmp_path / "basins.geojson")), expected)
    xr.testing.assert_identical(over(frames(), SimpleNamespace(__geo_interface__=collection)), expected)
    assert list(over(frames(), collection, name="basin")["region"].values) == ["12"]
    assert list(over(frames(), polygon)["region"].values) == ["1"]
    assert list(over(frames(), {**_feature(polygon), "id": "a7"})["region"].values) == ["a7"]


def test_attributes_say_mean_over_an_area_and_times_stay() -> None:
    got = over(ensemble(), _labels())
    assert got.attrs["cell_methods"].endswith("area: mean")
    assert got.attrs["units"] == "mm h-1"
    for name in ("realization", "init_time", "lead_time", "valid_time"):
        xr.testing.assert_identical(got[name].variable, ensemble()[name].variable)
    assert not {"latitude", "longitude"} & set(got.coords)


@pytest.mark.parametrize(
    ("areas", "found"),
    [
        ({}, "areas: no area"),
        (7, "areas: a int, expected a DataArray of labels"),
        ({"a": np.ones((24, 20))}, "area 'a': a mask of type float64, expected booleans"),
        ({"type": "Point", "coordinates": [5, 50]}, "area '1': a geometry of type Point, expected Polygon or"),
        ({"type": "FeatureCollection", "features": []}, "no area"),
        ({"type": "Polygon", "coordinates": []}, "a Polygon without coordinates"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "a ring that is no list of positions"),
        ({"type": "Polygon", "coordinates": [["a", "b", "c"]]}, "a ring that is no list of positions"),
        (
            _collection(*[_feature({"type": "Polygon", "coordinates": _box(5, 50, 6, 51)}, name="x")] * 2),
            "2 are called 'x', expected each name once",
        ),
    ],
)
def test_what_are_no_areas_is_refused(areas: object, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        over(georeferenced(), areas)


def test_areas_of_another_grid_and_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"area 'a': an array of shape \(3, 4\), expected \(24, 20\)"):
        over(rain(2), {"a": np.ones((3, 4), dtype=bool)})
    mask = (rain(1)[0] > 0).drop_vars("time")
    with pytest.raises(DataError, match="its x is not that of the data, expected one grid"):
        over(rain(2), {"a": mask.assign_coords(x=mask["x"] + 300)})
    with pytest.raises(DataError, match="areas: dimensions y, expected y and x"):
        over(rain(2), (rain(1)[0, :, 0] > 0).astype(int))
    with pytest.raises(RecipeError, match=r"the label 0\.5, expected whole numbers"):
        over(rain(2), mask * 0.5)
    with pytest.raises(RecipeError, match="least: 2, expected a share from 0 to 1"):
        over(rain(2), {"a": mask}, least=2)
    with pytest.raises(RecipeError, match="name: 'id', expected GeoJSON"):
        over(rain(2), {"a": mask}, name="id")


def test_polygons_that_cannot_be_placed_are_refused(tmp_path: Path) -> None:
    box = {"type": "Polygon", "coordinates": _box(5, 50, 6, 51)}
    with pytest.raises(DataError, match="GeoJSON on a grid that says no map projection"):
        over(rain(2), box)
    with pytest.raises(DataError, match="GeoJSON on a grid that says no map projection"):
        over(traffic(3), box)
    metres = {"type": "Polygon", "coordinates": _box(4.3e6, 3.1e6, 4.4e6, 3.2e6)}
    with pytest.raises(DataError, match=r"\(4\.3e\+06, 3\.1e\+06\) is no longitude and latitude"):
        over(georeferenced(), metres)
    west, south, east, north = _here()
    bow = {"type": "Polygon", "coordinates": [[[west, south], [east, north], [east, south], [west, north]]]}
    with pytest.raises(DataError, match="polygons that cross themselves"):
        over(frames(), bow)
    twice = {"type": "MultiPolygon", "coordinates": [_box(west, south, east, north)] * 2}
    with pytest.raises(DataError, match="polygons that cross themselves or each other"):
        over(frames(), twice)
    with pytest.raises(DataError, match=r"nothing\.geojson: cannot be read"):
        over(frames(), tmp_path / "nothing.geojson")
    (tmp_path / "no.geojson").write_text("{")
    with pytest.raises(DataError, match=r"no\.geojson: is no JSON"):
        over(frames(), tmp_path / "no.geojson")
    (tmp_path / "list.geojson").write_text("[1]")
    with pytest.raises(DataError, match="holds a list, expected GeoJSON"):
        over(frames(), tmp_path / "list.geojson")
    with pytest.raises(RecipeError, match=r"feature 1: no property 'nam', expected 'name'"):
        over(frames(), _collection(_feature(box, name="a")), name="nam")
