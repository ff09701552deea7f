from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from source_files import write_mrms_grib, write_odim

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources import open_radar
from sa_nowcast.sources.importers import IMPORTERS, rain_rate
from sa_nowcast.sources.paths import time_from_name

pytest.importorskip("pysteps", reason="radar composites are read by pysteps: pip install pysteps")

# folder, engine, frames, first and last time, minutes, a place that the composite's middle is near (lat, lon)
FOLDERS = [
    ("radar/mch/20150515", "mch_gif", 40, "2015-05-15T15:45", "2015-05-15T19:00", 5, (46.6, 7.7)),
    ("radar/mch/20170131", "mch_gif", 40, "2017-01-31T09:45", "2017-01-31T13:00", 5, (46.6, 7.7)),
    ("radar/fmi/20170509", "fmi_pgm", 40, "2017-05-09T10:45", "2017-05-09T14:00", 5, (63.5, 25.0)),
    ("radar/knmi", "knmi_hdf5", 60, "2010-08-26T00:00", "2010-08-26T04:55", 5, (52.5, 5.0)),
    ("radar/bom", "bom_rf3", 144, "2020-10-31T00:00", "2020-10-31T23:50", 10, (-27.7178, 153.24)),
]


@pytest.mark.parametrize(("folder", "engine", "frames", "first", "last", "minutes", "middle"), FOLDERS)
def test_every_radar_folder_opens_with_its_times_place_and_units(
    real_data: Path,
    folder: str,
    engine: str,
    frames: int,
    first: str,
    last: str,
    minutes: int,
    middle: tuple[float, float],
) -> None:
    ds = open_radar(real_data / folder, engine)
    (name,) = ds.data_vars
    assert ds[name].dims == ("time", "y", "x")
    assert ds.sizes["time"] == frames
    assert ds.time.values[[0, -1]].tolist() == np.array([first, last], "datetime64[ns]").tolist()
    assert set(np.diff(ds.time.values)) == {np.timedelta64(minutes, "m")}
    assert ds[name].attrs["units"] in ("kg m-2", "dBZ")
    assert ds[name].attrs["grid_mapping"] == "crs"
    assert {"grid_mapping_name", "crs_wkt", "spatial_ref"} <= set(ds.crs.attrs)
    rows, columns = ds.sizes["y"] // 2, ds.sizes["x"] // 2
    assert abs(ds.latitude[rows, columns].item() - middle[0]) < 1.0
    assert abs(ds.longitude[rows, columns].item() - middle[1]) < 1.5
    # North is up, east is right.
    assert (np.diff(ds.y) < 0).all()
    assert ds.latitude[0, columns] > ds.latitude[-1, columns]
    assert ds.longitude[rows, 0] < ds.longitude[rows, -1]


@pytest.mark.parametrize(
    ("folder", "engine", "dry"),
    [
        ("radar/mch/20170131", "mch_gif", 0.0),
        ("radar/fmi/20170509", "fmi_pgm", -32.0),
        ("radar/knmi", "knmi_hdf5", 0.0),
    ],
)
def test_what_the_radar_does_not_see_is_nan_and_what_it_sees_dry_is_not(
    real_data: Path, folder: str, engine: str, dry: float
) -> None:
    ds = open_radar(real_data / folder, engine).isel(time=[0, 20])
    (name,) = ds.data_vars
    values = ds[name].values
    corner = values[:, 0, 0]
    assert np.isnan(corner).all()  # outside every radar's range
    assert 0.1 < np.isnan(values).mean() < 0.9
    assert np.nanmin(values) == dry
    assert 0.05 < (values == dry).mean() < 0.9
    assert ds[name].attrs.get("dry_value", 0.0) == dry
    if engine == "fmi_pgm":
        rate = open_radar(real_data / folder, engine, to="rain_rate").isel(time=[0, 20]).rainfall_rate
        assert rate.attrs["units"] == "mm h-1"
        np.testing.assert_array_equal(np.isnan(rate.values), np.isnan(values))
        np.testing.assert_array_equal(rate.values == 0, values == dry)


def test_knmi_corners_are_those_that_its_files_state(real_data: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="KNMI's files are HDF5: pip install h5py")
    pyproj = pytest.importorskip("pyproj", reason="pip install pyproj")
    path = sorted((real_data / "radar/knmi").iterdir())[0]
    with h5py.File(path) as file:
        stated = file["geographic"].attrs["geo_product_corners"].reshape(4, 2)
    ds = open_radar(path, "knmi_hdf5")
    to_degrees = pyproj.Transformer.from_crs(pyproj.CRS(ds.crs.attrs["crs_wkt"]), "EPSG:4326", always_xy=True)
    west, east, south, north = ds.x[0] - 500, ds.x[-1] + 500, ds.y[-1] - 500, ds.y[0] + 500
    corners = [
        to_degrees.transform(float(x), float(y))
        for x, y in ((west, south), (west, north), (east, north), (east, south))
    ]
    np.testing.assert_allclose(corners, stated, atol=2e-3)  # the file rounds to 0.001 degrees


def test_bom_through_pysteps_equals_bom_through_xarray(real_data: Path) -> None:
    path = sorted((real_data / "radar/bom").iterdir())[60]
    ours, plain = open_radar(path, "bom_rf3"), xr.open_dataset(path)
    np.testing.assert_array_equal(ours.precipitation_amount.values[0], plain.precipitation.values)
    np.testing.assert_allclose(ours.y, plain.y * 1000)
    np.testing.assert_allclose(ours.x, plain.x * 1000)
    assert ours.time.values[0] == plain.valid_time.values


def _odim(folder: Path, count: int = 3, quantity: str = "RATE") -> np.ndarray:
    raw = np.random.default_rng(0).integers(0, 256, (count, 30, 40)).astype(np.uint8)
    for number in range(count):
        write_odim(folder / f"comp_{number}.h5", raw[number], quantity, "20240105", f"10{number * 15:02d}00")
    return raw


def test_odim_nodata_is_nan_undetect_is_zero_and_the_rest_is_scaled(tmp_path: Path) -> None:
    raw = _odim(tmp_path)
    ds = open_radar(tmp_path, "odim_hdf5")
    expected = np.where(raw == 255, np.nan, raw * 0.5).astype(np.float32)
    np.testing.assert_array_equal(ds.rainfall_rate.values, expected)
    assert (
        ds.time.values.tolist()
        == np.array(["2024-01-05T10:00", "2024-01-05T10:15", "2024-01-05T10:30"], "datetime64[ns]").tolist()
    )
    # Corners are stored in degrees: metres come back to a millimetre.
    assert ds.y.values[0] == pytest.approx(-3_000_000 + 30 * 2000 - 1000, abs=1e-3)
    assert ds.crs.attrs["grid_mapping_name"] == "lambert_azimuthal_equal_area"


def test_odim_reflectivity_keeps_undetect_apart_and_becomes_no_rain(tmp_path: Path) -> None:
    raw = _odim(tmp_path, 1, "DBZH")
    ds = open_radar(tmp_path, "odim_hdf5")
    assert (
        ds.equivalent_reflectivity_factor.values[0][raw[0] == 0] == ds.equivalent_reflectivity_factor.dry_value
    ).all()
    rate = open_radar(tmp_path, "odim_hdf5", to="rain_rate").rainfall_rate.values[0]
    assert (rate[raw[0] == 0] == 0).all()
    assert np.isnan(rate[raw[0] == 255]).all()


def test_mrms_grib_opens_on_its_own_grid_with_missing_apart_from_dry(tmp_path: Path) -> None:
    pytest.importorskip("pygrib", reason="MRMS files are GRIB: pip install pygrib")
    values = np.random.default_rng(0).choice([-3.0, 0.0, 0.1, 12.5], (2, 20, 30))
    for number in range(2):
        name = f"MRMS_PrecipRate_00.00_20190610-0{number}0000.grib2"
        write_mrms_grib(tmp_path / name, values[number], (2019, 6, 10, number, 0, 0))
    ds = open_radar(tmp_path, "mrms_grib")
    assert ds.rainfall_rate.dims == ("time", "latitude", "longitude")
    expected = np.where(values == -3, np.nan, values)
    np.testing.assert_allclose(ds.rainfall_rate.values, expected, atol=1e-5)
    np.testing.assert_allclose(ds.latitude, 50 - 0.01 * np.arange(20), atol=1e-9)
    np.testing.assert_allclose(ds.longitude % 360, 265 + 0.01 * np.arange(30), atol=1e-9)
    assert ds.time.values[1] == np.datetime64("2019-06-10T01:00")


def test_z_r_and_accumulations_become_mm_an_hour() -> None:
    marshall_palmer = {"unit": "dBZ", "zr_a": 200.0, "zr_b": 1.6}
    # 23 dBZ is 1 mm/h where Z = 200 R^1.6: 10 log10(200) = 23.0103.
    rate = rain_rate(np.array([23.0103, -32.0, np.nan]), marshall_palmer, -32.0)
    np.testing.assert_allclose(rate, [1.0, 0.0, np.nan], rtol=1e-5)
    np.testing.assert_allclose(rain_rate(np.array([0.5]), {"unit": "mm", "accutime": 5.0}, None), [6.0])


@pytest.mark.parametrize(
    ("name", "pattern", "time"),
    [
        ("AQC151351545F_00005.801.gif", IMPORTERS["mch_gif"].time_pattern, "2015-05-15T15:45"),
        ("201705091045_fmi.pgm.gz", IMPORTERS["fmi_pgm"].time_pattern, "2017-05-09T10:45"),
        ("66_20201031_001000.prcp-c10.nc", IMPORTERS["bom_rf3"].time_pattern, "2020-10-31T00:10"),
        ("MRMS_PrecipRate_00.00_20190610-010200.grib2", IMPORTERS["mrms_grib"].time_pattern, "2019-06-10T01:02"),
    ],
)
def test_times_are_read_from_names(name: str, pattern: str, time: str) -> None:
    assert time_from_name(Path(name), pattern) == np.datetime64(time)


def test_bad_radar_files_give_one_clear_line(tmp_path: Path) -> None:
    _odim(tmp_path)
    with pytest.raises(RecipeError, match="'odim_hdf5', the nearest"):
        open_radar(tmp_path, "odim_hdf")
    with pytest.raises(DataError, match="no time in the file's name"):
        open_radar(tmp_path, "odim_hdf5", time_pattern="%Y%m%d%H%M")
    with pytest.raises(DataError, match=r"the folder holds no file that ends in \.gif"):
        open_radar(tmp_path, "mch_gif")
    shutil.copy(tmp_path / "comp_1.h5", tmp_path / "again.h5")
    with pytest.raises(
        DataError, match=r"(comp_1.h5 and again.h5|again.h5 and comp_1.h5): both have the time 2024-01-05T10:15:00"
    ):
        open_radar(tmp_path, "odim_hdf5")
    (tmp_path / "again.h5").unlink()
    write_odim(tmp_path / "comp_1.h5", np.zeros((20, 40), np.uint8), "RATE", "20240105", "101500")
    with pytest.raises(DataError, match=r"comp_1.h5: size 20 x 40, expected 30 x 40 as in comp_0.h5"):
        open_radar(tmp_path, "odim_hdf5").load()
    (tmp_path / "comp_1.h5").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"comp_1.h5: cannot be read as odim_hdf5"):
        open_radar(tmp_path, "odim_hdf5")
