"""Sums over windows, series at points and means over areas."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from sequences import georeferenced, rain, weather

from remedies.trial import keywords, remedy, value
from sa_nowcast.derived import accumulate, at, over

BOX = {"type": "Polygon", "coordinates": [[[-9, -9], [9, -9], [9, 9], [-9, 9], [-9, -9]]]}
LARGER = "leave it out, or take data of a larger grid"


def _degrees(height: int = 24) -> xr.DataArray:
    return rain(4, height).assign_coords(
        y=("y", np.linspace(-8.5, 8.5, height), {"units": "degrees_north"}),
        x=("x", np.linspace(-8.5, 8.5, 20), {"units": "degrees_east"}),
    )


def _mask(field: xr.DataArray) -> xr.DataArray:
    return (field[0] >= 0).drop_vars("time")


# --- sums


@remedy("derived/sums.py", "choose one with .sel(variable=…)")
def test_several_variables():
    ds = weather().sa_nowcast.hindcast(4, model="persistence")
    fix = yield lambda: accumulate(ds, "10min")
    yield lambda: accumulate(value(fix.replace(" .", " ds."), ds=ds), "10min")


@remedy("derived/sums.py", "give more steps, or …")
@pytest.mark.parametrize("how", ["steps", "window"])
def test_no_window_is_complete(how):
    fix = yield lambda: accumulate(rain(8), "1h")
    yield (lambda: accumulate(rain(20), "1h")) if how == "steps" else lambda: accumulate(rain(8), **keywords(fix))


@remedy("derived/sums.py", "give more steps, or … with every='…'")
def test_no_window_is_complete_of_those_far_apart():
    fix = yield lambda: accumulate(rain(20), "1h", every="1d")
    yield lambda: accumulate(rain(20), **keywords(fix))


@remedy("derived/sums.py", "open it with decode_timedelta=True")
def test_lead_times_that_are_not_decoded(tmp_path):
    rain().sa_nowcast.hindcast(4, model="persistence")[3].sa_nowcast.to_cf().to_netcdf(tmp_path / "a.nc")
    options = {"decode_timedelta": False}
    fix = yield lambda: accumulate(xr.open_dataset(tmp_path / "a.nc", **options), "10min")
    yield lambda: accumulate(xr.open_dataset(tmp_path / "a.nc", **options | keywords(fix)), "10min")


@remedy("derived/sums.py", "give more steps")
def test_one_step():
    forecast = rain().sa_nowcast.hindcast(4, model="persistence")[3]
    yield lambda: accumulate(forecast[:1], "5min")
    yield lambda: accumulate(forecast[:2], "5min")


@remedy("derived/sums.py", "ds.sortby(…)", "ds.drop_duplicates(…).sortby(…)")
@pytest.mark.parametrize("order", [[3, 2, 1, 0], [0, 1, 1, 2, 3]])
def test_steps_that_are_not_in_order(order):
    ds = rain(4)[order]
    fix = yield lambda: accumulate(ds, "10min")
    yield lambda: accumulate(value(fix, ds=ds), "10min")


@remedy("derived/sums.py", "…='…'")
@pytest.mark.parametrize("options", [{"window": "12min"}, {"window": "10min", "every": "2min"}])
def test_a_duration_that_is_no_multiple_of_the_step(options):
    fix = yield lambda: accumulate(rain(), **options)
    yield lambda: accumulate(rain(), **options | keywords(fix))


@remedy("derived/sums.py", "set the units or the standard name that is right, as with ds.assign_attrs(units=…)")
@pytest.mark.parametrize("attrs", [{"units": "mm"}, {"standard_name": "precipitation_amount"}])
def test_units_that_do_not_fit_the_standard_name(attrs):
    ds = rain().assign_attrs(attrs)
    fix = yield lambda: accumulate(ds, "10min")
    yield lambda: accumulate(value(fix, ds=ds), "10min")


@remedy("derived/sums.py", "where a value is the amount of one step, say so: ds.assign_attrs(cell_methods='…: sum')")
@pytest.mark.parametrize("attrs", [{"units": "1"}, {"units": "MJ", "standard_name": "energy"}])
def test_neither_a_rate_nor_an_amount(attrs):
    ds = rain().drop_attrs(deep=False).assign_attrs(attrs)
    fix = yield lambda: accumulate(ds, "10min")
    yield lambda: accumulate(value(fix, ds=ds), "10min")


@remedy("derived/sums.py", "take those that follow each other: ds.isel({…: slice(…, None, …)})")
def test_running_sums():
    ds = accumulate(rain(40), "30min", every="5min")
    fix = yield lambda: accumulate(ds, "1h")
    yield lambda: accumulate(value(fix, ds=ds), "1h")


# --- the field and its grid


@remedy("derived/fields.py", "choose it, as in ds['name'].sa_nowcast")
def test_a_dataset_of_several_fields():
    fix = yield lambda: weather().sa_nowcast.accumulate("10min")
    yield lambda: value(fix.replace("name", "rain"), ds=weather()).accumulate("10min")


@remedy("derived/fields.py", "convert the values of …, and set its attribute units")
def test_a_coordinate_in_another_unit():
    ds = georeferenced()
    place = {"a": (48.0 + 3.2, 10.0)}
    far = {n: ds[n] - float(ds[n].mean()) - (87_000 if n == "y" else 0) for n in ("y", "x")}
    metres = ds.assign_coords({n: (n, v.values, ds[n].attrs) for n, v in far.items()})
    miles = metres.copy()
    for axis in ("y", "x"):
        miles[axis] = (axis, metres[axis].values / 1609.344, {**metres[axis].attrs, "units": "mile"})
    yield lambda: at(miles, place)
    for axis in ("y", "x"):
        miles[axis] = (axis, miles[axis].values * 1609.344, {**miles[axis].attrs, "units": "m"})


# --- points


@remedy("derived/points.py", "coordinates='grid' where it is … and …")
def test_metres_where_degrees_are_expected():
    fix = yield lambda: at(georeferenced(), {"a": (3000, 5000)})
    yield lambda: at(georeferenced(), {"a": (3000, 5000)}, **keywords(fix))


@remedy("derived/points.py", "give points as … and … of the grid, with coordinates='grid'")
def test_degrees_on_a_grid_without_a_map_projection():
    fix = yield lambda: at(rain(), {"a": (50, 5)}, coordinates="geographic")
    yield lambda: at(rain(), {"a": (3000, 5000)}, **keywords(fix))


@remedy("derived/points.py", LARGER)
@pytest.mark.parametrize("how", ["left out", "larger"])
def test_a_point_outside_the_grid(how):
    points = {"a": (0, 0), "b": (0, 21000)}
    yield lambda: at(rain(2), points)
    yield (lambda: at(rain(2, 24, 30), points)) if how == "larger" else lambda: at(rain(2), {"a": points["a"]})


# --- areas


@remedy("derived/areas.py", LARGER)
@pytest.mark.parametrize("how", ["left out", "larger"])
def test_an_area_beyond_the_grid(how):
    ds = _degrees()
    feature = {"type": "Feature", "properties": {"name": "b"}, "geometry": BOX}
    far = ds.assign_coords(y=("y", ds["y"].values + 40, ds["y"].attrs))
    larger = far.assign_coords(y=("y", np.linspace(-20, 60, 24), ds["y"].attrs))
    collection = {"type": "FeatureCollection", "features": [feature]}
    yield lambda: over(far, collection)
    yield (lambda: over(larger, collection)) if how == "larger" else lambda: over(far, {"a": _mask(far)})


@remedy("derived/areas.py", "rename them")
def test_a_name_twice():
    features = [{"type": "Feature", "properties": {"name": "a"}, "geometry": BOX} for _ in range(2)]
    collection = {"type": "FeatureCollection", "features": features}
    yield lambda: over(_degrees(), collection)
    features[1]["properties"] = {"name": "b"}


@remedy("derived/areas.py", "give masks as {'name': mask}")
@pytest.mark.parametrize("kind", ["fractions", "booleans"])
def test_labels_that_are_no_whole_numbers(kind):
    mask = _mask(rain(2))
    labels = mask * 0.5 if kind == "fractions" else mask
    fix = yield lambda: over(rain(2), labels)
    yield lambda: over(rain(2), eval(fix.partition(" as ")[2], {"mask": mask}))


@remedy("derived/areas.py", "mask.astype(bool)")
def test_a_mask_of_numbers():
    mask = _mask(rain(2)).astype(int)
    fix = yield lambda: over(rain(2), {"a": mask})
    yield lambda: over(rain(2), {"a": value(fix, mask=mask)})


@remedy("derived/areas.py", "bring it onto the grid of the data, as with ….reindex…")
@pytest.mark.parametrize("what", ["a mask", "labels"])
@pytest.mark.parametrize("other", ["turned", "shifted", "larger"])
def test_areas_of_another_grid(what, other):
    ds = rain(2, 12, 12)
    mask = {"turned": _mask(ds)[::-1], "larger": _mask(rain(2, 30, 30))}.get(other, _mask(ds))
    mask = mask.assign_coords(x=mask["x"] + 100) if other == "shifted" else mask
    fix = yield lambda: over(ds, {"a": mask} if what == "a mask" else mask.astype(int))
    brought = value(fix.replace("area.", "areas."), ds=ds, areas=mask if what == "a mask" else mask.astype(int))
    yield lambda: over(ds, {"a": brought} if what == "a mask" else brought)


@remedy("derived/areas.py", "give masks on the grid, as {'name': mask}")
def test_geojson_on_a_grid_without_a_map_projection():
    fix = yield lambda: over(rain(2), BOX)
    yield lambda: over(rain(2), eval(fix.partition(" as ")[2], {"mask": _mask(rain(2))}))


@remedy("derived/areas.py", "divide it where its rings cross, as with shapely.make_valid")
def test_a_polygon_that_crosses_itself():
    shapely = pytest.importorskip("shapely", reason="comes with cartopy")
    bow = shapely.Polygon([(-7, -7), (7, 7), (7, -7), (-7, 7)])
    yield lambda: over(_degrees(), bow)
    yield lambda: over(_degrees(), shapely.make_valid(bow))


@remedy("derived/areas.py", "leave it out, or give a mask on the grid")
def test_an_area_that_a_map_projection_does_not_show():
    ds = georeferenced()
    ds["crs"].attrs = {
        "grid_mapping_name": "orthographic",
        "longitude_of_projection_origin": 0.0,
        "latitude_of_projection_origin": 0.0,
        "semi_major_axis": 6378137.0,
        "semi_minor_axis": 6378137.0,
    }
    beyond = {"type": "Polygon", "coordinates": [[[-9, -9], [150, -9], [150, 9], [-9, -9]]]}
    yield lambda: over(ds, beyond)
    yield lambda: over(ds, {"a": _mask(ds["rain"].drop_vars(("latitude", "longitude")))})
