from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest
import xarray as xr
from derived_fields import ensemble, frames, lazy
from sequences import georeferenced, rain, traffic

from sa_nowcast.derived import at
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError
from sa_nowcast.forecasts.cf import to_dataset


def _points(count: int = 12) -> dict[str, tuple[float, float]]:
    """Points at random places of the sample's corner, from one outermost centre to the other."""
    rng = np.random.default_rng(3)
    latitude, longitude = frames()["latitude"].values, frames()["longitude"].values
    places = rng.uniform((latitude.min(), longitude.min()), (latitude.max(), longitude.max()), (count, 2))
    return {f"station {i}": (float(a), float(b)) for i, (a, b) in enumerate(places)}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_series_is_that_of_the_nearest_pixel_of_every_member(chunked: bool) -> None:
    forecast = lazy(ensemble()) if chunked else ensemble()
    got = at(forecast, _points())
    assert (got.chunks is not None) == chunked
    assert got.dims == ("realization", "init_time", "lead_time", "point")
    for name, (latitude, longitude) in _points().items():
        row = int(np.argmin(np.abs(frames()["latitude"].values - latitude)))
        column = int(np.argmin(np.abs(frames()["longitude"].values - longitude)))
        np.testing.assert_array_equal(got.sel(point=name), ensemble().values[..., row, column])


@pytest.mark.parametrize("chunked", [False, True])
def test_linear_is_bilinear_between_the_four_centres_around_a_point(chunked: bool) -> None:
    field = lazy(frames()) if chunked else frames()
    got = at(field, _points(), method="linear")
    assert (got.chunks is not None) == chunked
    latitude, longitude = frames()["latitude"].values, frames()["longitude"].values
    values, missing = frames().values.astype(np.float64), 0
    for name, (lat, lon) in _points().items():
        below = max(i for i in range(24) if latitude[i] >= lat)  # rows run southwards
        before = max(i for i in range(28) if longitude[i] <= lon)
        a = (latitude[below] - lat) / (latitude[below] - latitude[below + 1])
        b = (lon - longitude[before]) / (longitude[before + 1] - longitude[before])
        expected = np.zeros(30)
        for row, weight in ((below, 1 - a), (below + 1, a)):
            for column, across in ((before, 1 - b), (before + 1, b)):
                expected += weight * across * values[:, row, column]
        missing += int(np.isnan(expected).sum())
        np.testing.assert_allclose(got.sel(point=name), expected, rtol=1e-5, atol=1e-5)
    assert missing > 0


def test_a_point_at_a_centre_does_not_miss_what_its_neighbours_miss() -> None:
    field = rain(3)
    field[:, 5, 6] = np.nan
    for place in ((5, 7), (5, 5), (4, 6), (6, 6)):
        where = (float(field["y"][place[0]]), float(field["x"][place[1]]))
        got = at(field, {"a": where}, method="linear", coordinates="grid")
        np.testing.assert_array_equal(got[:, 0], field.values[:, place[0], place[1]])
    between = at(field, {"a": (float(field["y"][5]), 6500.0)}, method="linear")
    assert np.isnan(between).all()


def test_pixels_reach_half_a_cell_beyond_their_centres() -> None:
    field = rain(2)  # y from 0 to 23 km, x from 0 to 19 km
    corners = {"a": (-499.0, -499.0), "b": (23499.0, 19499.0)}
    for method in ("nearest", "linear"):
        got = at(field, corners, method=method)
        np.testing.assert_array_equal(got, np.stack([field.values[:, 23, 0], field.values[:, 0, 19]], axis=1))


def test_points_outside_are_refused_by_name_with_the_bounds_of_the_grid() -> None:
    with pytest.raises(DataError) as caught:
        at(rain(2), {"in": (0, 0), "A": (-501, 0), "B": (0, 30000)})
    line = str(caught.value)
    assert "point 'A': (-501, 0) is outside the grid; and so is 'B'" in line
    assert "y from -500 to 23500 and x from -500 to 19500 m" in line
    many = {f"p{i}": (90_000.0 + i, 0.0) for i in range(9)}
    with pytest.raises(DataError, match=r"'p0'.*and so are 'p1', 'p2', 'p3' and 5 more"):
        at(rain(2), many)


def _in_degrees(ds: xr.Dataset, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inverse = pyproj.Transformer.from_crs(pyproj.CRS.from_cf(ds["crs"].attrs), "EPSG:4326", always_xy=True)
    longitude, latitude = inverse.transform(ds["x"].values[columns], ds["y"].values[rows])
    return latitude, longitude


@pytest.mark.parametrize("units", ["m", "km"])
def test_latitudes_and_longitudes_find_their_pixel_on_a_projected_grid(units: str) -> None:
    ds = georeferenced()
    rows, columns = np.array([3, 20, 11]), np.array([2, 7, 19])
    latitude, longitude = _in_degrees(ds, rows, columns)
    if units == "km":
        for axis in ("y", "x"):
            ds[axis] = (axis, ds[axis].values / 1000, {**ds[axis].attrs, "units": "km"})
    points = {n: (latitude[i], longitude[i]) for i, n in enumerate("abc")}
    for method in ("nearest", "linear"):
        got = at(ds, points, method=method)
        np.testing.assert_allclose(got, ds["rain"].values[:, rows, columns], atol=1e-4)
    np.testing.assert_allclose(got["y"], ds["y"].values[rows], atol=1e-6)
    np.testing.assert_array_equal(got["latitude"], latitude)
    # The same in the grid's own units.
    own = {n: (float(ds["y"][r]), float(ds["x"][c])) for n, r, c in zip("abc", rows, columns, strict=True)}
    np.testing.assert_array_equal(at(ds, own, coordinates="grid"), at(ds, points))


def test_longitudes_are_found_however_they_are_counted() -> None:
    latitude, longitude = (float(frames()[n][5]) for n in ("latitude", "longitude"))
    assert longitude < 0
    expected = at(frames(), {"a": (latitude, longitude)})
    np.testing.assert_array_equal(at(frames(), {"a": (latitude, longitude + 360)}), expected)
    east = frames().assign_coords(
        longitude=("longitude", frames()["longitude"].values % 360, frames()["longitude"].attrs)
    )
    np.testing.assert_array_equal(at(east, {"a": (latitude, longitude)}), expected)


def test_tables_of_points_name_them_and_say_which_coordinates_they_have() -> None:
    points = _points(3)
    expected = at(frames(), points)
    latitude, longitude = (list(v) for v in zip(*points.values(), strict=True))
    frame = pd.DataFrame({"Lat": latitude, "lon": longitude, "height": [1, 2, 3]}, index=list(points))
    xr.testing.assert_identical(at(frames(), frame), expected)
    frame = pd.DataFrame({"longitude": longitude, "latitude": latitude, "station": list(points)})
    xr.testing.assert_identical(at(frames(), frame), expected)
    dataset = xr.Dataset(
        {"latitude": ("n", latitude), "longitude": ("n", longitude)}, coords={"name": ("n", list(points))}
    )
    xr.testing.assert_identical(at(frames(), dataset), expected)
    own = pd.DataFrame({"y": [3000.0], "x": [5000.0]}, index=["a"])
    np.testing.assert_array_equal(at(georeferenced(), own)[:, 0], rain().sel(y=3000, x=5000))


def test_a_grid_without_coordinates_is_counted_from_0() -> None:
    flow = traffic(4)
    got = at(flow, {"a": (3, 5), "b": (23, 0)})
    assert got.dims == ("time", "channel", "point")
    np.testing.assert_array_equal(got, flow.values[..., [3, 23], [5, 0]])


def test_a_field_without_times_has_values_at_points_too() -> None:
    field = rain(3).isel(time=1, drop=True)
    assert float(at(field, {"a": (3000, 5000)})[0]) == float(field.sel(y=3000, x=5000))


def test_other_coordinates_stay_and_those_of_the_grid_are_the_points() -> None:
    got = at(ensemble(), _points(2))
    for name in ("realization", "init_time", "lead_time", "valid_time"):
        xr.testing.assert_identical(got[name].variable, ensemble()[name].variable)
    assert got["latitude"].dims == got["longitude"].dims == ("point",)
    np.testing.assert_array_equal(got["latitude"], [p[0] for p in _points(2).values()])
    assert got.attrs == ensemble().attrs


def test_a_file_of_series_is_a_discrete_sampling_geometry(tmp_path: Path) -> None:
    series = at(ensemble().isel(init_time=0, realization=0), _points(2))
    to_dataset(series).to_netcdf(tmp_path / "series.nc")
    with xr.open_dataset(tmp_path / "series.nc", decode_cf=False) as raw:
        assert raw.attrs["featureType"] == "timeSeries"
        assert raw["point_name"].attrs["cf_role"] == "timeseries_id"
        assert {"point_name", "latitude", "longitude"} <= set(raw["precip_rate"].attrs["coordinates"].split())
    with xr.open_dataset(tmp_path / "series.nc", decode_timedelta=True) as ds:
        np.testing.assert_array_equal(ds["precip_rate"], series)
        named = ds.set_xindex("point_name")["precip_rate"].sel(point_name="station 1")
    np.testing.assert_array_equal(named, series.sel(point="station 1"))


@pytest.mark.parametrize(
    ("points", "found"),
    [
        ({}, "points: no point"),
        ([(1, 2)], "points: a list, expected a mapping of names to pairs"),
        ({"a": (1, 2, 3)}, r"point 'a': \(1, 2, 3\), expected two numbers, \(y, x\)"),
        ({"a": "here"}, "point 'a': 'here', expected two numbers"),
        ({"a": (1, [2])}, "point 'a'"),
        ({"a": (1, np.nan)}, "point 'a'"),
        ({1: (1000, 1000), "1": (0, 0)}, "'1' 2 times, expected each name once"),
        (pd.DataFrame({"a": [1]}), "points: columns a, expected latitude and longitude or y and x"),
    ],
)
def test_what_are_no_points_are_refused(points: object, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        at(rain(2), points)


def test_unknown_options_and_grids_that_do_not_say_where_they_are_are_refused() -> None:
    with pytest.raises(RecipeError, match="method: 'cubic', expected 'nearest' or 'linear'"):
        at(rain(2), {"a": (0, 0)}, method="cubic")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="coordinates: 'wgs', expected"):
        at(rain(2), {"a": (0, 0)}, coordinates="wgs")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="says no map projection"):
        at(rain(2), {"a": (50, 5)}, coordinates="geographic")
    with pytest.raises(RecipeError, match=r"\(3000, 5000\) is no latitude and longitude.*coordinates='grid'"):
        at(georeferenced(), {"a": (3000, 5000)})


def test_a_projected_grid_names_the_library_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyproj", None)
    with pytest.raises(MissingLibraryError, match=r"pyproj: is not installed\. Fix: .*pip install"):
        at(georeferenced(), {"a": (50, 5)})
