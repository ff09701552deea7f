"""Radar composites and GeoTIFF stacks."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import xarray as xr
from sequences import rain

from remedies.trial import keywords, remedy

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from source_files import write_fmi, write_knmi, write_odim
from test_geotiff_stacks import stack_of, write
from test_radar import REDDISH, write_bom, write_mch

from sa_nowcast.sources import open_radar, open_source

CODES = np.full((7, 6), 100, np.uint16)


def _two_odim(folder: Path, quantities: tuple[str, str] = ("RATE", "RATE"), rows: tuple[int, int] = (4, 4)) -> None:
    for number in range(2):
        raw = np.ones((rows[number], 6), np.uint8)
        write_odim(folder / f"{number}.h5", raw, quantities[number], "20240105", f"10{5 * number:02d}00")


# --- any files


@remedy("sources/paths.py", "name files that are there; relative paths start at …")
@pytest.mark.parametrize("wrong", ["none/a.nc", "none/*.nc"])
def test_no_file_there(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fix = yield lambda: open_source(wrong)
    assert fix.endswith(str(tmp_path))
    (tmp_path / "none").mkdir()
    rain(4).to_netcdf(tmp_path / "none" / "a.nc")


@remedy("sources/paths.py", "leave one of them out")
def test_a_time_in_two_files(tmp_path):
    for i, part in enumerate((slice(0, 3), slice(2, 5))):
        rain(5).isel(time=part).to_netcdf(tmp_path / f"{i}.nc")
    yield lambda: open_source(tmp_path)
    (tmp_path / "1.nc").unlink()


@remedy("sources/files.py", "leave the file out")
def test_a_file_without_rows(tmp_path):
    rain(2).to_netcdf(tmp_path / "0.nc")
    rain(4).isel(time=slice(2, 4), y=slice(0)).to_netcdf(tmp_path / "1.nc")
    yield lambda: open_source(tmp_path)
    (tmp_path / "1.nc").unlink()


@remedy("sources/paths.py", "open the files of each grid on their own")
def test_files_of_two_grids(tmp_path):
    rain(2).to_netcdf(tmp_path / "0.nc")
    rain(4, 10, 10).isel(time=slice(2, 4)).to_netcdf(tmp_path / "1.nc")
    yield lambda: open_source(tmp_path)
    yield lambda: [open_source(tmp_path / f"{i}.nc") for i in range(2)]


@remedy(
    "sources/paths.py",
    "name the files by their times, as in rain_20240501_0005.nc, and give time_pattern='%Y%m%d_%H%M'",
    "time_pattern=… takes the first that the name holds",
)
@pytest.mark.parametrize("name", ["radar{}.nc", "%Y%m%d%H%M_made_202501010000.nc"])
def test_files_without_a_time(name, tmp_path):
    times = rain(3)["time"].to_index()
    for i, time in enumerate(times):
        rain(3)[i].drop_vars("time").to_netcdf(tmp_path / time.strftime(name.format(i)))
    fix = yield lambda: open_source(tmp_path)
    if "name the files" in fix:
        for time, file in zip(times, sorted(tmp_path.iterdir()), strict=True):
            file.rename(tmp_path / time.strftime("rain_%Y%m%d_%H%M.nc"))
    yield lambda: open_source(tmp_path, **keywords(fix))


@remedy("sources/paths.py", "name the files by their times, …")
@pytest.mark.parametrize("how", ["rename", "pattern"])
def test_pictures_without_a_time(how, tmp_path):
    times = rain(3)["time"].to_index()
    for i in range(3):
        write(tmp_path / f"picture{i}.tif", np.ones((4, 5), np.uint8))
    yield lambda: open_source(tmp_path)
    shape = "rain_%Y%m%d_%H%M.tif" if how == "rename" else "%y-%j-%H-%M.tif"
    for time, file in zip(times, sorted(tmp_path.iterdir()), strict=True):
        file.rename(tmp_path / time.strftime(shape))
    yield lambda: open_source(tmp_path, **({} if how == "rename" else {"time_pattern": "%y-%j-%H-%M"}))


@remedy("sources/paths.py", "leave one of them out")
def test_a_time_in_two_composites(tmp_path):
    _two_odim(tmp_path)
    shutil.copy(tmp_path / "0.h5", tmp_path / "again.h5")
    yield lambda: open_radar(tmp_path, "odim_hdf5")
    (tmp_path / "again.h5").unlink()


@remedy("sources/open.py", "name …")
def test_a_folder_of_several_kinds(tmp_path):
    _two_odim(tmp_path)
    stack_of(tmp_path)
    (tmp_path / "rain_20240501_2350.tif").rename(tmp_path / "rain_20240501_2345.tif")
    fix = yield lambda: open_source(tmp_path)
    yield lambda: open_source(fix.removeprefix("name "))


# --- the formats


@remedy("sources/paths.py", "open the files of each grid on their own")
def test_composites_of_two_grids(tmp_path):
    _two_odim(tmp_path, rows=(4, 5))
    yield lambda: open_radar(tmp_path, "odim_hdf5").load()
    yield lambda: [open_radar(tmp_path / f"{i}.h5", "odim_hdf5").load() for i in range(2)]


@remedy("sources/odim.py", "leave the file out")
def test_a_composite_of_another_quantity(tmp_path):
    _two_odim(tmp_path, ("RATE", "DBZH"))
    yield lambda: open_radar(tmp_path, "odim_hdf5").load()
    (tmp_path / "1.h5").unlink()


@remedy("sources/odim.py", "name one of them, such as qty=…")
def test_a_quantity_that_is_not_there(tmp_path):
    _two_odim(tmp_path, ("DBZH", "DBZH"))
    fix = yield lambda: open_source(tmp_path, qty="RATE")
    yield lambda: open_source(tmp_path, **keywords(fix))


@remedy("sources/odim.py", "give files of one of these quantities")
def test_a_quantity_that_is_not_known(tmp_path):
    _two_odim(tmp_path, ("VRAD", "VRAD"))
    yield lambda: open_source(tmp_path)
    _two_odim(tmp_path)


@remedy("sources/odim.py", "add them to the file's dataset1/what")
def test_an_amount_of_no_period(tmp_path):
    _two_odim(tmp_path, ("ACRR", "ACRR"))
    yield lambda: open_source(tmp_path).load()
    for number in range(2):
        with h5py.File(tmp_path / f"{number}.h5", "a") as file:
            file["dataset1"].create_group("what").attrs.update(
                startdate=np.bytes_("20240105"), starttime=np.bytes_(f"09{5 * number:02d}00"),
                enddate=np.bytes_("20240105"), endtime=np.bytes_(f"10{5 * number:02d}00"),
            )  # fmt: skip


@remedy("sources/knmi.py", "leave image out")
def test_an_image_that_is_not_there(tmp_path):
    write_knmi(tmp_path / "a.h5", CODES)
    yield lambda: open_source(tmp_path, image=3)
    yield lambda: open_source(tmp_path)


@remedy("sources/knmi.py", "leave qty out, or name qty=…")
@pytest.mark.parametrize("how", ["leave out", "name"])
def test_another_quantity_than_the_file_says(how, tmp_path):
    write_knmi(tmp_path / "a.h5", CODES, parameter="ACCUMULATED_PRECIPITATION_[MM]")
    fix = yield lambda: open_source(tmp_path, qty="DBZH")
    yield lambda: open_source(tmp_path, **(keywords(fix) if how == "name" else {}))


@remedy("sources/knmi.py", "give accutime=5")
def test_an_accumulation_of_no_period(tmp_path):
    write_knmi(tmp_path / "a.h5", CODES, minutes=None)
    fix = yield lambda: open_source(tmp_path)
    yield lambda: open_source(tmp_path, **keywords(fix))


@remedy("sources/knmi.py", "leave accutime out")
def test_another_period_than_the_file_says(tmp_path):
    write_knmi(tmp_path / "a.h5", CODES, minutes=60)
    yield lambda: open_source(tmp_path, accutime=5)
    yield lambda: open_source(tmp_path)


FMI = np.full((1226, 760), 100, np.uint8)


@remedy("sources/fmi.py", "download it again")
def test_a_pgm_that_was_cut_short(tmp_path):
    write_fmi(tmp_path / "a.pgm", FMI[:9], "201705091050")
    yield lambda: open_source(tmp_path)
    write_fmi(tmp_path / "a.pgm", FMI, "201705091050")


@remedy("sources/fmi.py", "take the time from the names: time_pattern='%Y%m%d%H%M'")
def test_a_header_without_a_time(tmp_path):
    write_fmi(tmp_path / "201705091050.pgm", FMI, "yesterday")
    fix = yield lambda: open_source(tmp_path)
    yield lambda: open_source(tmp_path, **keywords(fix))


MCH = np.full((640, 710), 120, np.uint8)
SAID = "generated by Meteoswiss\nPRDT={}151351545 SCALE=mmh2LASSEN8bitmm_mn COLOR=reddish {}\n"


def _mch(folder: Path, product: str = "AQC", accumulated: str = "ACCUm=000010 ", palette=REDDISH) -> None:
    write_mch(folder / f"{product}151351545F_00010.801.gif", MCH, SAID.format(product, accumulated), palette)


@remedy("sources/mch.py", "leave product out, or product=…")
@pytest.mark.parametrize("how", ["leave out", "name"])
def test_another_product_than_the_file_says(how, tmp_path):
    _mch(tmp_path)
    fix = yield lambda: open_source(tmp_path, product="CPC")
    yield lambda: open_source(tmp_path, **(keywords(fix) if how == "name" else {}))


@remedy("sources/mch.py", "leave accutime out")
def test_another_period_than_the_picture_says(tmp_path):
    _mch(tmp_path)
    yield lambda: open_source(tmp_path, accutime=5)
    yield lambda: open_source(tmp_path)


@remedy("sources/mch.py", "give accutime=60")
def test_a_product_without_a_period(tmp_path):
    _mch(tmp_path, "CPC", "")
    fix = yield lambda: open_source(tmp_path)
    yield lambda: open_source(tmp_path, **keywords(fix))


@remedy("sources/mch.py", "take the original file")
def test_a_picture_of_other_colours(tmp_path):
    _mch(tmp_path, palette=REDDISH[::-1])
    yield lambda: open_source(tmp_path)
    _mch(tmp_path)


@remedy("sources/bom.py", "open it with engine='netcdf4', which keeps units as they are")
def test_a_composite_in_kelvin(tmp_path):
    write_bom(tmp_path / "a.nc", 10, "K")
    fix = yield lambda: open_source(tmp_path / "a.nc", engine="bom_rf3")
    yield lambda: xr.open_dataset(tmp_path / "a.nc", **keywords(fix))


# --- GeoTIFF


@remedy("sources/geotiff.py", "rio warp … … --res …, and name the new file")
def test_a_turned_grid(tmp_path):
    turn = rasterio.transform.from_origin(4e6, 3e6, 1000, 1000) * rasterio.transform.Affine.rotation(20)
    write(tmp_path / "a_20240501_0000.tif", np.ones((4, 4), np.uint8), transform=turn)
    fix = yield lambda: open_source(tmp_path)
    words = shlex.split(fix.partition(", and")[0])
    program = str(Path(sys.executable).with_name(words[0]))
    subprocess.run([program, *words[1:]], check=True, env=os.environ)
    yield lambda: open_source(words[3])


@remedy("sources/paths.py", "open the files of each grid on their own")
def test_pictures_of_two_grids(tmp_path):
    stack_of(tmp_path)
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "rain_20240502_1000.tif", np.ones((6, 7), np.uint8))
    yield lambda: open_source(tmp_path)
    yield lambda: [open_source(str(place / "*.tif")) for place in (tmp_path, tmp_path / "other")]


@remedy("sources/geotiff.py", "leave out the files whose times others have")
def test_bands_whose_times_other_files_have(tmp_path):
    for name, minutes in (("a.tif", ("00", "10")), ("b.tif", ("05", "15"))):
        bands = [f"2024-05-01T00:{minute}" for minute in minutes]
        write(tmp_path / name, np.ones((2, 4, 5), np.uint8), bands=bands)
    yield lambda: open_source(tmp_path)
    (tmp_path / "b.tif").unlink()


@remedy("sources/geotiff.py", "open it again")
def test_a_picture_that_was_changed_since(tmp_path):
    stack_of(tmp_path)
    opened = open_source(tmp_path)
    write(sorted(tmp_path.iterdir())[0], np.ones((9, 9), np.uint8))
    yield opened.load
    write(sorted(tmp_path.iterdir())[0], np.ones((6, 8), np.uint8))
    yield lambda: open_source(tmp_path).load()
