from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from source_files import write_fmi, write_knmi, write_mrms_grib, write_odim

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources import open_radar, open_source
from sa_nowcast.sources.paths import time_from_name
from sa_nowcast.sources.radar import IMPORTERS, rain_rate

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


@pytest.mark.parametrize(
    ("formula", "dtype", "quantity", "expected"),
    [
        ("GEO = 0.010000 * PV + 0.000000", np.uint16, None, 1.0),
        ("GEO=0.1*PV+0.0", np.uint16, "ACRR", 10.0),
        ("GEO = 0.500000 * PV + -31.500000", np.uint8, "DBZH", 18.5),
        ("GEO = 0.5 * PV - 32", np.uint8, "DBZH", 18.0),
        ("GEO=1e-2*PV", np.uint16, "ACRR", 1.0),
        ("geo = pv / 100", np.uint16, "ACRR", 1.0),
        ("GEO = PV", np.uint16, "RATE", 100.0),
    ],
)
def test_knmi_values_follow_the_formula_in_the_file(
    tmp_path: Path, formula: str, dtype: type, quantity: str | None, expected: float
) -> None:
    """The formula differs between products and years, as in pySTEPS/pysteps#111 and #562."""
    codes = np.full((7, 6), 100, dtype)
    codes[0, 0] = np.iinfo(dtype).max
    write_knmi(tmp_path / "a.h5", codes, formula)
    ds = open_source(tmp_path, **({} if quantity is None else {"qty": quantity}))
    (name,) = ds.data_vars
    assert float(ds[name][0, 3, 3]) == pytest.approx(expected)
    assert np.isnan(ds[name].values[0, 0, 0])


def test_knmi_missing_codes_accumulation_and_quantity_are_those_of_the_file(tmp_path: Path) -> None:
    codes = np.array([[0, 7, 200], [100, 65535, 65534]], np.uint16)
    write_knmi(tmp_path / "a.h5", codes, minutes=60, missing=7, outside=200, parameter="ACCUMULATED_PRECIPITATION_[MM]")
    ds = open_source(tmp_path)
    values = ds.precipitation_amount.values[0]
    assert np.isnan(values).tolist() == [[False, True, True], [False, False, False]]
    assert ds.precipitation_amount.attrs["accumulation_minutes"] == 60
    assert open_source(tmp_path, to="rain_rate").rainfall_rate.values[0, 1, 0] == pytest.approx(1.0)
    assert ds.time.values[0] == np.datetime64("2024-05-01T01:00")
    with pytest.raises(DataError, match="holds ACRR, expected DBZH"):
        open_source(tmp_path, qty="DBZH")
    with pytest.raises(DataError, match="accumulates 60 minutes, expected 5"):
        open_source(tmp_path, accutime=5)


def test_knmi_codes_without_a_known_formula_or_period_are_refused(tmp_path: Path) -> None:
    codes = np.full((7, 6), 100, np.uint16)
    write_knmi(tmp_path / "a.h5", codes, "GEO = 10 ^ (PV / 20)")
    with pytest.raises(DataError, match=r"the formula 'GEO = 10 \^ \(PV / 20\)'"):
        open_source(tmp_path)
    write_knmi(tmp_path / "a.h5", codes, minutes=None)
    with pytest.raises(DataError, match="does not say when its accumulation began"):
        open_source(tmp_path)
    assert open_source(tmp_path, accutime=10).precipitation_amount.attrs["accumulation_minutes"] == 10


def test_knmi_reflectivity_of_which_the_missing_code_means_no_echo_can_say_so(tmp_path: Path) -> None:
    codes = np.array([[0, 100], [255, 64]], np.uint8)
    write_knmi(tmp_path / "a.h5", codes, "GEO = 0.5 * PV + -31.5", missing=0, parameter="REFLECTIVITY_[DBZ]")
    assert np.isnan(open_source(tmp_path).equivalent_reflectivity_factor.values[0, 0, 0])
    ds = open_source(tmp_path, undetect=0)
    assert ds.equivalent_reflectivity_factor.values[0, 0, 0] == ds.equivalent_reflectivity_factor.dry_value == -31.5


def test_files_of_one_folder_with_other_formulas_keep_their_own_values(tmp_path: Path) -> None:
    for number, formula in enumerate(("GEO = 0.01 * PV + 0", "GEO = 0.1 * PV + 0")):
        start = f"2024-05-01T00:{5 * number:02d}"
        write_knmi(tmp_path / f"{number}.h5", np.full((4, 5), 100, np.uint16), formula, start=start)
    np.testing.assert_allclose(open_source(tmp_path).precipitation_amount.values[:, 0, 0], [1.0, 10.0])


def test_odim_takes_gain_offset_codes_and_accumulation_from_the_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="ODIM is HDF5: pip install h5py")
    raw = np.array([[9, 1, 20], [0, 255, 7]], np.uint8)
    for number in range(2):
        path = tmp_path / f"comp_{number}.hdf"
        write_odim(path, raw, "ACRR", "20240105", f"1{number}0000")
        with h5py.File(path, "a") as file:
            attrs = file["dataset1/data1/what"].attrs
            attrs.update(gain=0.2, offset=-1.0, nodata=9.0, undetect=1.0)
            file["dataset1"].create_group("what").attrs.update(
                startdate=np.bytes_(f"202401{4 + number:02d}"), starttime=np.bytes_("230000"),
                enddate=np.bytes_(f"202401{5 + number:02d}"), endtime=np.bytes_("110000"),
            )  # fmt: skip
    ds = open_source(tmp_path)
    expected = np.array([[np.nan, 0, 3.0], [-1.0, 50.0, 0.4]], np.float32)
    np.testing.assert_allclose(ds.precipitation_amount.values[0], expected, rtol=1e-6)
    assert ds.precipitation_amount.attrs["accumulation_minutes"] == 720
    with h5py.File(tmp_path / "comp_1.hdf", "a") as file:
        file["dataset1/what"].attrs["endtime"] = np.bytes_("100000")
    with pytest.raises(DataError, match=r"comp_1.hdf: accumulation 660 minutes, expected 720 minutes as in comp_0.hdf"):
        open_source(tmp_path).isel(time=1).load()
    with h5py.File(tmp_path / "comp_0.hdf", "a") as file:
        del file["dataset1/what"]
    with pytest.raises(DataError, match="without startdate, starttime, enddate and endtime"):
        open_source(tmp_path)


def test_odim_attributes_of_a_dataset_hold_for_its_data_and_without_undetect_nothing_is_dry(
    tmp_path: Path,
) -> None:
    h5py = pytest.importorskip("h5py", reason="ODIM is HDF5: pip install h5py")
    raw = np.array([[0, 1], [2, 255]], np.uint8)
    write_odim(tmp_path / "a.h5", raw, "RATE", "20240105", "100000")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["dataset1/data1/what"]
        file["dataset1"].create_group("what").attrs.update(quantity=np.bytes_("RATE"), gain=2.0, offset=1.0)
    np.testing.assert_allclose(open_source(tmp_path).rainfall_rate.values[0], raw * 2.0 + 1.0)


def test_polar_volumes_and_unknown_quantities_are_refused_in_one_line(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="ODIM is HDF5: pip install h5py")
    write_odim(tmp_path / "a.h5", np.zeros((3, 4), np.uint8), "DBZH", "20240105", "100000")
    with pytest.raises(DataError, match=r"the quantities DBZH, no RATE.* Fix: name one of them, such as qty='DBZH'"):
        open_source(tmp_path, qty="RATE")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["what"].attrs["object"] = np.bytes_("PVOL")
    with pytest.raises(DataError, match=r"an ODIM object PVOL, in the radar's own polar coordinates"):
        open_source(tmp_path)
    write_odim(tmp_path / "a.h5", np.zeros((3, 4), np.uint8), "VRAD", "20240105", "100000")
    with pytest.raises(DataError, match="the quantities VRAD, expected RATE, ACRR"):
        open_source(tmp_path)


def test_fmi_takes_time_missing_codes_and_place_from_the_header_and_refuses_other_quantities(tmp_path: Path) -> None:
    codes = np.full((1226, 760), 100, np.uint8)
    codes[0, :3] = 255, 250, 0
    write_fmi(tmp_path / "a.pgm.gz", codes, "201705091045")
    write_fmi(tmp_path / "b.pgm", codes, "201705091050", more="# missingval 250\n")
    ds = open_source(tmp_path)
    values = ds.equivalent_reflectivity_factor.values
    assert values[:, 5, 5].tolist() == [18.0, 18.0]
    assert np.isnan(values[:, 0, :3]).tolist() == [[True, False, False], [False, True, False]]
    assert ds.time.values[1] == np.datetime64("2017-05-09T10:50")
    write_fmi(tmp_path / "b.pgm", codes, "201705091050", param="RainRate")
    with pytest.raises(DataError, match=r"b.pgm: param RainRate with codes up to 255"):
        open_source(tmp_path).load()
    write_fmi(tmp_path / "b.pgm", codes, "201705091050", projection="gnomonic")
    with pytest.raises(DataError, match="projection gnomonic, expected stereographic"):
        open_source(tmp_path / "b.pgm")
    write_fmi(tmp_path / "b.pgm", codes[:9], "201705091050")
    with pytest.raises(DataError, match=r"b.pgm: is cut short"):
        open_source(tmp_path / "b.pgm")


def write_bom(path: Path, minutes: int, units: str, scale: float = 0.05) -> None:
    end = np.datetime64("2024-05-02T00:00", "ns")
    ds = xr.Dataset(
        {
            "precipitation": (("y", "x"), np.full((4, 5), 3.0), {"units": units, "grid_mapping": "proj"}),
            "valid_time": end,
            "start_time": end - np.timedelta64(minutes, "m"),
            "proj": (
                (), np.int8(0),
                {"grid_mapping_name": "albers_conical_equal_area", "standard_parallel": [-26.2, -29.3],
                 "longitude_of_central_meridian": 153.24, "latitude_of_projection_origin": -27.7178,
                 "false_easting": 1000.0, "false_northing": 0.0, "semi_major_axis": 6378137.0,
                 "semi_minor_axis": 6356752.31414},
            ),
        },
        {"y": ("y", np.arange(4.0)[::-1], {"units": "km"}), "x": ("x", np.arange(5.0), {"units": "km"})},
    )  # fmt: skip
    ds.precipitation.encoding.update(dtype="int16", scale_factor=scale, add_offset=0.0, _FillValue=-1)
    ds.to_netcdf(path)


def test_a_library_that_is_not_safe_among_threads_reads_one_file_at_a_time(tmp_path: Path) -> None:
    """netCDF's C library ends the process where two threads open files at once."""
    for minutes in range(5, 65, 5):
        write_bom(tmp_path / f"{minutes}.nc", minutes, "mm")
    bom, at_once, most = IMPORTERS["bom_rf3"], 0, 0
    assert bom.reader is not None

    def counted(path: Path, **options: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.002)  # another thread takes over here
        try:
            return bom.reader(path, **options)  # type: ignore[misc]
        finally:
            at_once -= 1

    with ThreadPoolExecutor(8) as pool:
        read = [*pool.map(lambda path: replace(bom, reader=counted).read(path, {}), sorted(tmp_path.iterdir()))]
    assert len(read) == 12
    assert most == 1


def test_bom_takes_units_scale_projection_and_accumulation_from_the_file(tmp_path: Path) -> None:
    write_bom(tmp_path / "a.nc", 1440, "kg m-2", 0.1)
    ds = open_radar(tmp_path, "bom_rf3")
    assert ds.precipitation_amount.values[0, 0, 0] == pytest.approx(3.0)
    assert ds.precipitation_amount.attrs["accumulation_minutes"] == 1440
    assert ds.precipitation_amount.encoding["scale_factor"] == 0.1
    assert ds.crs.attrs["false_easting"] == 1000.0
    assert ds.crs.attrs["latitude_of_projection_origin"] == pytest.approx(-27.7178)
    rate = open_radar(tmp_path, "bom_rf3", to="rain_rate")
    assert rate.rainfall_rate.values[0, 0, 0] == pytest.approx(3.0 / 24)
    write_bom(tmp_path / "a.nc", 10, "mm h-1")
    assert open_radar(tmp_path, "bom_rf3").rainfall_rate.attrs["units"] == "mm h-1"
    write_bom(tmp_path / "a.nc", 10, "K")
    with pytest.raises(DataError, match="precipitation in K, expected kg m-2, mm, mm h-1 or dBZ"):
        open_radar(tmp_path, "bom_rf3")
    write_bom(tmp_path / "a.nc", 0, "mm")
    with pytest.raises(DataError, match="accumulates 0 minutes"):
        open_radar(tmp_path, "bom_rf3")


def write_mch(path: Path, codes: np.ndarray, comment: str, palette: list[int]) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="MeteoSwiss's files are GIF: pip install pillow")
    image = image_module.fromarray(codes, mode="P")
    image.putpalette(palette)
    image.save(path, comment=comment.encode(), optimize=False)


REDDISH = [part for i in range(255) for part in (255, 255 - i, 255 - i)] + [0, 0, 0]


def test_meteoswiss_product_accumulation_scale_and_palette_are_checked_against_the_table(tmp_path: Path) -> None:
    codes = np.full((640, 710), 120, np.uint8)
    codes[0, 0] = 255
    said = "generated by Meteoswiss\nPRDT=AQC151351545 SCALE=mmh2LASSEN8bitmm_mn COLOR=reddish ACCUm={:06d} \n"
    path = tmp_path / "AQC151351545F_00010.801.gif"
    write_mch(path, codes, said.format(10), REDDISH)
    ds = open_source(tmp_path)
    assert ds.precipitation_amount.attrs["accumulation_minutes"] == 10
    with pytest.raises(DataError, match="holds AQC, expected CPC"):
        open_source(tmp_path, product="CPC")
    write_mch(path, codes, said.replace("mmh2LASSEN8bitmm_mn", "dbz").format(5), REDDISH)
    with pytest.raises(DataError, match="the scale dbz, expected mmh2LASSEN8bitmm_mn"):
        open_source(tmp_path)
    write_mch(path, codes, said.format(5), REDDISH[::-1])
    with pytest.raises(DataError, match="for code 120"):
        open_source(tmp_path)


@pytest.mark.parametrize("ending", [".h5", ".hdf", ".hdf5"])
def test_hdf5_of_a_radar_service_is_told_by_what_is_in_it(tmp_path: Path, ending: str) -> None:
    (tmp_path / "odim").mkdir()
    (tmp_path / "knmi").mkdir()
    write_odim(tmp_path / "odim" / f"x{ending}", np.zeros((3, 4), np.uint8), "RATE", "20240105", "100000")
    write_knmi(tmp_path / "knmi" / f"x{ending}", np.zeros((3, 4), np.uint16))
    (tmp_path / "odim" / "README.txt").write_text("about")
    assert list(open_source(tmp_path / "odim").data_vars) == ["rainfall_rate"]
    assert list(open_source(tmp_path / "knmi").data_vars) == ["precipitation_amount"]
    assert list(open_source(str(tmp_path / "odim" / "x*")).data_vars) == ["rainfall_rate"]
    netcdf = tmp_path / "netcdf" / f"x{ending}"
    netcdf.parent.mkdir()
    xr.Dataset({"a": ("time", [1.0])}, {"time": np.array(["2024-01-01"], "datetime64[ns]")}).to_netcdf(netcdf)
    assert list(open_source(netcdf).data_vars) == ["a"]


def test_a_folder_of_several_kinds_is_refused_with_a_pattern_that_works(tmp_path: Path) -> None:
    write_odim(tmp_path / "x.h5", np.zeros((3, 4), np.uint8), "RATE", "20240105", "100000")
    (tmp_path / "look.gif").write_bytes(b"GIF89a")
    assert list(open_source(tmp_path).data_vars) == ["rainfall_rate"]  # pictures beside the data
    (tmp_path / "x.tif").write_bytes(b"II*\0")
    with pytest.raises(DataError, match=r"files of several kinds: 1 like x.h5 and 1 like x.tif") as caught:
        open_source(tmp_path)
    assert caught.value.fix is not None
    assert list(open_source(caught.value.fix.removeprefix("name ")).data_vars) == ["rainfall_rate"]


@pytest.mark.parametrize("folder", ["knmi", "fmi/20170509", "mch/20150515", "bom"])
def test_real_composites_open_without_an_engine(real_data: Path, folder: str) -> None:
    ds = open_source(real_data / "radar" / folder)
    (name,) = [n for n in ds.data_vars if ds[n].ndim == 3]
    assert ds[name].attrs["units"] in ("kg m-2", "dBZ")
