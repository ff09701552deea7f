"""Forecasts and models in other tools' forms."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import numpy as np
import pyproj
import pytest
import xarray as xr
from sequences import georeferenced, rain, weather

from remedies.trial import assert_installs, full, keywords, quoted, remedy, value
from sa_nowcast.errors import RecipeError
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.interop import export, from_convention, hub, pysteps, to_convention, to_geotiff
from sa_nowcast.models.rollout import Network

RATE = "mm h-1"


@pytest.fixture(scope="session")
def forecast(nowcaster) -> xr.DataArray:
    return nowcaster.forecast(georeferenced())


@pytest.fixture(scope="session")
def several(weather_nowcaster) -> xr.DataArray:
    return weather_nowcaster.forecast(weather())


@pytest.fixture(scope="session")
def archive(nowcaster) -> xr.DataArray:
    from sa_nowcast.hindcast import hindcast

    return hindcast(georeferenced(), nowcaster).compute()


# --- conventions


@remedy("interop/conventions.py", "ds.expand_dims(…)")
def test_one_lead_time_alone(forecast):
    ds = forecast.isel(lead_time=0)
    fix = yield lambda: to_convention(ds, "ecmwf")
    yield lambda: to_convention(value(fix, ds=ds), "ecmwf")


@remedy("interop/conventions.py", "bring it back with from_convention first")
def test_a_forecast_that_was_converted(forecast):
    converted = to_convention(forecast, "cf")
    field = converted if isinstance(converted, xr.DataArray) else next(iter(converted.data_vars.values()))
    yield lambda: to_convention(field, "ecmwf")
    yield lambda: to_convention(from_convention(converted), "ecmwf")


@remedy("interop/record.py", "drop it with .drop_vars(…)")
def test_a_coordinate_with_the_name_that_a_convention_gives(forecast):
    ds = forecast.assign_coords(step=1.0)
    fix = yield lambda: to_convention(ds, "ecmwf")
    yield lambda: to_convention(value(fix.replace(" .", " ds."), ds=ds), "ecmwf")


@remedy("interop/record.py", "remove it to go by the names alone")
def test_an_unreadable_record(forecast):
    converted = to_convention(forecast, "ecmwf")
    name = next(n for n, v in converted.data_vars.items() if any("sa_nowcast" in k for k in v.attrs))
    (record,) = [k for k in converted[name].attrs if "convention" in k or "record" in k]
    converted[name].attrs[record] = "{"
    yield lambda: from_convention(converted)
    del converted[name].attrs[record]


def _plain(forecast, name):
    """What another tool would give: without the record of this package."""
    ds = to_convention(forecast, name)
    for variable in ds.variables.values():
        variable.attrs = {k: v for k, v in variable.attrs.items() if "sa_nowcast" not in k}
    return ds


@remedy("interop/restore.py", "assign the init time as this coordinate")
def test_a_forecast_of_pysteps_without_its_init_time(forecast):
    ds = _plain(forecast, "pysteps").drop_vars("forecast_reference_time")
    yield lambda: from_convention(ds, "pysteps")
    yield lambda: from_convention(ds.assign_coords(forecast_reference_time=forecast["init_time"].values), "pysteps")


@remedy("interop/restore.py", "choose one, as in ds[…]")
def test_variables_of_different_dimensions(forecast):
    ds = _plain(forecast, "ecmwf")
    name = next(n for n, v in ds.data_vars.items() if v.ndim > 2)
    ds["profile"] = ds[name].isel({ds[name].dims[-1]: 0})
    fix = yield lambda: from_convention(ds, "ecmwf")
    yield lambda: from_convention(value(fix, ds=ds), "ecmwf")


@remedy("interop/restore.py", "open it with decode_timedelta=True")
def test_lead_times_that_are_not_decoded(forecast, tmp_path):
    _plain(forecast, "ecmwf").to_netcdf(tmp_path / "a.nc")
    options = {"decode_timedelta": False}
    fix = yield lambda: from_convention(xr.open_dataset(tmp_path / "a.nc", **options), "ecmwf")
    yield lambda: from_convention(xr.open_dataset(tmp_path / "a.nc", **options | keywords(fix)), "ecmwf")


# --- GeoTIFF


@remedy("interop/geotiff.py", "give a folder's path")
def test_several_variables_in_one_file(several, tmp_path):
    several = several.assign_attrs(grid_mapping="crs")
    yield lambda: to_geotiff(several, tmp_path / "a.tif", crs="EPSG:3035")
    yield lambda: to_geotiff(several, tmp_path / "a", crs="EPSG:3035")


@remedy("interop/geotiff.py", "choose an entry with .isel(…=0)")
def test_too_many_dimensions(several, tmp_path):
    ds = several.expand_dims(realization=2)
    fix = yield lambda: to_geotiff(ds, tmp_path / "a", crs="EPSG:3035")
    yield lambda: to_geotiff(value(fix.replace(" .", " ds."), ds=ds), tmp_path / "a", crs="EPSG:3035")


@remedy("interop/geotiff.py", "name it, as in crs='EPSG:3035'")
def test_no_grid_mapping(nowcaster, tmp_path):
    plain = nowcaster.forecast(rain())
    fix = yield lambda: to_geotiff(plain, tmp_path / "a.tif")
    yield lambda: to_geotiff(plain, tmp_path / "a.tif", **keywords(fix))


@remedy("interop/geotiff.py", "give a code, as EPSG:3035")
def test_a_reference_system_that_is_none(forecast, tmp_path):
    fix = yield lambda: to_geotiff(forecast, tmp_path / "a.tif", crs="Mars")
    yield lambda: to_geotiff(forecast, tmp_path / "a.tif", crs=fix.rpartition(" ")[2])


@remedy("interop/geotiff.py", "choose another path", "choose another path, or pass overwrite=True")
@pytest.mark.parametrize("how", ["path", "overwrite", "something else"])
def test_a_file_stands_there(how, forecast, tmp_path):
    if how == "something else":
        (tmp_path / "a.tif").mkdir()
    else:
        to_geotiff(forecast, tmp_path / "a.tif")
    fix = yield lambda: to_geotiff(forecast, tmp_path / "a.tif")
    if how == "overwrite":
        yield lambda: to_geotiff(forecast, tmp_path / "a.tif", **keywords(fix))
    else:
        yield lambda: to_geotiff(forecast, tmp_path / "b.tif")


@remedy("interop/geotiff.py", "choose another folder")
def test_a_forecast_that_cannot_be_written(forecast, tmp_path):
    (tmp_path / "file").write_text("no folder")
    yield lambda: to_geotiff(forecast, tmp_path / "file" / "a.tif")
    yield lambda: to_geotiff(forecast, tmp_path / "a.tif")


@remedy("interop/projection.py", "regrid the forecast")
def test_a_grid_that_is_not_regular(forecast, tmp_path):
    uneven = forecast.isel(x=[0, 1, 2, 4, 8])
    yield lambda: to_geotiff(uneven, tmp_path / "a.tif")
    even = uneven.interp(x=np.linspace(0, 8000, 9))
    even["x"].attrs = forecast["x"].attrs
    even.encoding = forecast.encoding
    yield lambda: to_geotiff(even, tmp_path / "a.tif", crs="EPSG:3035")


@remedy("interop/projection.py", "convert the values of …, and set its attribute units")
def test_a_coordinate_in_another_unit(forecast, tmp_path):
    miles = forecast.copy()
    for axis in ("y", "x"):
        miles[axis] = (axis, forecast[axis].values / 1609.344, {**forecast[axis].attrs, "units": "mile"})
    yield lambda: to_geotiff(miles, tmp_path / "a.tif", crs="EPSG:3035")
    for axis in ("y", "x"):
        miles[axis] = (axis, miles[axis].values * 1609.344, {**miles[axis].attrs, "units": "m"})


@remedy("interop/projection.py", "give the grid mapping variable the attribute crs_wkt")
def test_a_grid_mapping_that_pyproj_cannot_read(forecast, tmp_path):
    broken = forecast.copy()
    broken["crs"].attrs = {"grid_mapping_name": "that of a dream"}
    yield lambda: to_geotiff(broken, tmp_path / "a.tif")
    broken["crs"].attrs["crs_wkt"] = pyproj.CRS.from_epsg(3035).to_wkt()


# --- pysteps


@remedy("computing/installing.py", "… …")
def test_a_pysteps_without_a_table_of_methods(monkeypatch):
    import pysteps.nowcasts.interface as interface

    table = interface._nowcast_methods
    monkeypatch.delattr(interface, "_nowcast_methods")
    fix = yield lambda: pysteps.register("sa_nowcast_remedy")
    assert_installs(fix, "pysteps")
    monkeypatch.setattr(interface, "_nowcast_methods", dict(table), raising=False)


@remedy("interop/pysteps.py", "choose another name")
def test_the_name_of_a_method_of_pysteps(monkeypatch):
    import pysteps.nowcasts.interface as interface

    monkeypatch.setattr(interface, "_nowcast_methods", dict(interface._nowcast_methods))
    yield lambda: pysteps.register("steps")
    yield lambda: pysteps.register("ours")


@remedy("interop/pysteps.py", "add one, CF section 5.6")
def test_metadata_without_a_grid_mapping(nowcaster, forecast):
    plain = nowcaster.forecast(rain())
    yield lambda: pysteps.to_metadata(plain)
    mapped = plain.assign_coords(crs=forecast["crs"])
    mapped.encoding["grid_mapping"] = "crs"
    yield lambda: pysteps.to_metadata(mapped)


@remedy("interop/pysteps.py", "convert the values, and set attrs['units'] = 'mm h-1'")
def test_blending_of_other_units(forecast):
    analysis = georeferenced()["rain"].isel(time=-1)
    other = (forecast / 3600).assign_attrs(forecast.attrs | {"units": "m s-1"})
    fix = yield lambda: pysteps.to_blending(other, analysis)
    ds = (other * 3600).assign_attrs(forecast.attrs)
    exec(fix.partition("set ")[2].replace("attrs", "ds.attrs"), {"ds": ds})
    yield lambda: pysteps.to_blending(ds, analysis)


@remedy("interop/pysteps.py", "choose one with .sel(variable=…)")
def test_blending_of_several_variables(several):
    ds = several.assign_coords(units=("variable", [RATE, RATE]))
    analysis = rain().isel(time=-1)
    fix = yield lambda: pysteps.to_blending(ds, analysis)
    one = value(fix.replace(" .", " ds."), ds=ds)
    yield lambda: pysteps.to_blending(one.assign_attrs(units=RATE), analysis)


def _history(name: str = "rain"):
    return rain()[-4:].values


@remedy("interop/pysteps.py", "give a model of one channel")
def test_a_model_of_several_channels_for_pysteps(nowcaster, weather_nowcaster):
    yield lambda: pysteps.forecast(_history(), None, 2, model=weather_nowcaster)
    yield lambda: pysteps.forecast(_history(), None, 2, model=nowcaster)


@remedy(
    "interop/pysteps.py",
    "undo it first, as with pysteps.utils.transformation.dB_transform(precip, metadata, inverse=True)",
)
def test_decibels_with_their_metadata(nowcaster):
    import pysteps.utils.transformation as transformation

    plain = {"transform": None, "unit": "mm/h", "zerovalue": 0.0, "threshold": 0.1}
    precip, metadata = transformation.dB_transform(_history(), plain)
    fix = yield lambda: pysteps.forecast(precip, None, 2, model=nowcaster, metadata=metadata)
    precip, metadata = value(fix, pysteps=sys.modules["pysteps"], precip=precip, metadata=metadata)
    yield lambda: pysteps.forecast(precip, None, 2, model=nowcaster, metadata=metadata)


@remedy("interop/pysteps.py", "undo the transformation to decibels")
def test_decibels_without_metadata(nowcaster):
    decibels = np.where(_history() > 0.1, 10 * np.log10(np.maximum(_history(), 0.1)), -15.0)
    yield lambda: pysteps.forecast(decibels, None, 2, model=nowcaster)
    yield lambda: pysteps.forecast(np.where(decibels > -10, 10 ** (decibels / 10), 0), None, 2, model=nowcaster)


@remedy("interop/names.py", "choose one with .isel(init_time=0)")
def test_an_archive_for_pysteps(archive):
    fix = yield lambda: to_convention(archive, "pysteps")
    yield lambda: to_convention(value(fix.replace(" .", " ds."), ds=archive), "pysteps")


@remedy("interop/names.py", "choose one with .sel(variable=…)")
def test_several_variables_for_pysteps(several):
    fix = yield lambda: to_convention(several, "pysteps")
    yield lambda: to_convention(value(fix.replace(" .", " ds."), ds=several).assign_attrs(units=RATE), "pysteps")


@remedy("interop/names.py", "convert the values, and set attrs['units']")
def test_other_units_for_pysteps(forecast):
    other = (forecast / 3600).assign_attrs(forecast.attrs | {"units": "m s-1"})
    yield lambda: to_convention(other, "pysteps")
    yield lambda: to_convention((other * 3600).assign_attrs(other.attrs | {"units": RATE}), "pysteps")


# --- the hub


@remedy("interop/hub.py", "choose another folder")
def test_a_folder_for_the_hub_that_cannot_be_written(nowcaster, tmp_path):
    (tmp_path / "file").write_text("no folder")
    yield lambda: hub.prepare_folder(nowcaster, tmp_path / "file" / "a")
    yield lambda: hub.prepare_folder(nowcaster, tmp_path / "a")


# --- export


@remedy("interop/export.py", "give grid=[128, 128], or yours", goes_on_to=RecipeError)
def test_an_export_for_no_grid(nowcaster, tmp_path):
    yield lambda: nowcaster.export(tmp_path / "rain.pt2", steps=0)
    yield lambda: nowcaster.export(tmp_path / "rain.pt2", grid=(8, 12), steps=0)


@pytest.mark.slow
@remedy("interop/export.py", "give check=False if that is good enough")
def test_an_export_that_forecasts_something_else(nowcaster, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    fix = yield lambda: nowcaster.export(tmp_path / "rain.pt2", grid=(8, 12), steps=1)
    yield lambda: nowcaster.export(tmp_path / "rain.pt2", grid=(8, 12), steps=1, **keywords(fix))


@pytest.mark.slow
@remedy("interop/export.py", "choose another folder")
def test_an_export_to_a_full_disk(nowcaster, tmp_path):
    def call():
        with full(1000):
            nowcaster.export(tmp_path / "rain.pt2", grid=(8, 12), steps=1, check=False)

    yield call
    yield lambda: nowcaster.export(tmp_path / "other.pt2", grid=(8, 12), steps=1, check=False)


@remedy("forecasts/default_model.py", "call default_model().of_data(ds).export(…)", goes_on_to=RecipeError)
def test_an_export_of_the_default_model(tmp_path):
    fix = yield lambda: default_model().export(tmp_path / "rain.pt2")
    yield lambda: value(fix, default_model=default_model, ds=georeferenced())


@remedy("interop/export.py", "write …", goes_on_to=RecipeError)
def test_an_export_of_a_network_along_the_motion_as_onnx(tmp_path):
    moving = default_model().of_data(georeferenced())
    fix = yield lambda: moving.export(tmp_path / "rain.onnx")
    yield lambda: moving.export(quoted(fix))


class Choosy(Network):
    """A network of somebody's own, whose way depends on values."""

    def forward(self, x_BTCHW, steps=1):
        return super().forward(x_BTCHW if x_BTCHW.mean() > 0 else 0 * x_BTCHW, steps)


@remedy("interop/export.py", "forecast with this package, which runs every network")
def test_an_export_of_a_network_whose_way_depends_on_values(nowcaster, tmp_path):
    network = copy.deepcopy(nowcaster.network)
    network.__class__ = Choosy
    own = replace(nowcaster, network=network)
    yield lambda: own.export(tmp_path / "rain.pt2", grid=(8, 12), steps=1)
    yield lambda: own.forecast(georeferenced(), steps=1)
