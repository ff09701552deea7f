"""Small files in exactly the layouts in which the sources are published."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest


def taxibj_stamps(first_day: str, days: int, without: tuple[int, ...] = ()) -> np.ndarray:
    """Byte strings YYYYMMDDSS of whole days, less the positions in `without`."""
    start = np.datetime64(first_day)
    stamps = [f"{str(start + day).replace('-', '')}{slot:02d}".encode() for day in range(days) for slot in range(1, 49)]
    return np.array([s for i, s in enumerate(stamps) if i not in without], dtype="S10")


def write_taxibj(path: Path, stamps: np.ndarray, seed: int = 0) -> np.ndarray:
    h5py = pytest.importorskip("h5py", reason="TaxiBJ is HDF5: pip install h5py")
    data = np.random.default_rng(seed).integers(0, 1000, (len(stamps), 2, 32, 32)).astype(np.float64)
    with h5py.File(path, "w") as file:
        file["data"], file["date"] = data, stamps
    return data


def write_idx(path: Path, images: np.ndarray) -> None:
    raw = b"\x00\x00\x08\x03" + struct.pack(">3I", *images.shape) + images.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def digit_folder(path: Path) -> Path:
    """A folder with small made-up digits: training ones are bright, test ones are dim."""
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, count, low in (("train-images-idx3-ubyte.gz", 30, 200), ("t10k-images-idx3-ubyte", 10, 100)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 5:24, 6:22] = rng.integers(low, low + 50, (count, 19, 16))
        write_idx(path / name, images)
    return path


def write_odim(path: Path, raw: np.ndarray, quantity: str, date: str, time: str) -> None:
    """An ODIM_H5 2.2 composite (OPERA): nodata 255, undetect 0, on 2 km of the OPERA grid's projection."""
    h5py = pytest.importorskip("h5py", reason="ODIM is HDF5: pip install h5py")
    pyproj = pytest.importorskip("pyproj", reason="pip install pyproj")
    proj = "+proj=laea +lat_0=55.0 +lon_0=10.0 +x_0=1950000.0 +y_0=-2100000.0 +units=m +ellps=WGS84"
    height, width = raw.shape
    projection = pyproj.Proj(proj)
    x, y = 500_000.0, -3_000_000.0
    corners = {"LL": (x, y), "LR": (x + width * 2000, y), "UL": (x, y + height * 2000)}
    corners["UR"] = (x + width * 2000, y + height * 2000)
    with h5py.File(path, "w") as file:
        file.attrs["Conventions"] = np.bytes_("ODIM_H5/V2_2")
        what = file.create_group("what")
        what.attrs.update(object=np.bytes_("COMP"), date=np.bytes_(date), time=np.bytes_(time))
        where = file.create_group("where")
        where.attrs.update(projdef=np.bytes_(proj), xsize=width, ysize=height, xscale=2000.0, yscale=2000.0)
        for name, place in corners.items():
            where.attrs[f"{name}_lon"], where.attrs[f"{name}_lat"] = projection(*place, inverse=True)
        data = file.create_group("dataset1/data1")
        data["data"] = raw
        data.create_group("what").attrs.update(
            quantity=np.bytes_(quantity), gain=0.5, offset=0.0, nodata=255.0, undetect=0.0
        )


def write_mrms_grib(path: Path, values: np.ndarray, time: tuple[int, int, int, int, int, int]) -> None:
    """An MRMS precipitation rate as one GRIB2 message (WMO FM 92): -3 no coverage, 0 dry, simple packing of 0.1."""
    rows, columns = values.shape
    packed = np.rint((values + 3.0) * 10).astype(np.uint16)

    def section(number: int, body: bytes) -> bytes:
        return struct.pack(">IB", len(body) + 5, number) + body

    year, month, day, hour, minute, second = time
    identification = struct.pack(">HHBBBHBBBBBBB", 161, 0, 2, 1, 1, year, month, day, hour, minute, second, 0, 7)
    north, west, step = 50_000_000, 265_000_000, 10_000
    grid = struct.pack(">BIBBH", 0, rows * columns, 0, 0, 0) + struct.pack(
        ">BBIBIBIIIIIiIBiIIIB",
        1, 0, 6_367_470, 0, 0, 0, 0, columns, rows, 0, 0xFFFFFFFF,
        north, west, 0x30, north - (rows - 1) * step, west + (columns - 1) * step, step, step, 0,
    )  # fmt: skip
    product = struct.pack(">HH", 0, 0) + struct.pack(
        ">BBBBBHBBIBBIBBI", 1, 7, 2, 0, 0, 0, 0, 1, 0, 102, 0, 0, 255, 0, 0
    )
    scale = struct.pack(">IHfhHBB", rows * columns, 0, -30.0, 0, 1, 16, 0)
    body = b"".join(
        [
            section(1, identification), section(3, grid), section(4, product), section(5, scale),
            section(6, b"\xff"), section(7, packed.astype(">u2").tobytes()), b"7777",
        ]
    )  # fmt: skip
    path.write_bytes(b"GRIB" + struct.pack(">HBBQ", 0, 0, 2, 16 + len(body)) + body)


def write_knmi(
    path: Path,
    codes: np.ndarray,
    formula: str = "GEO = 0.010000 * PV + 0.000000",
    *,
    start: str = "2024-05-01T00:00",
    minutes: float | None = 5,
    missing: int | None = None,
    outside: int | None = None,
    parameter: str | None = None,
) -> None:
    """A composite in KNMI's HDF5 format 3.5, the end of its accumulation `minutes` after `start`."""
    h5py = pytest.importorskip("h5py", reason="KNMI's files are HDF5: pip install h5py")
    rows, columns = codes.shape
    begin = np.datetime64(start, "s")

    def stamp(time: np.datetime64) -> np.bytes_:
        return np.bytes_(time.item().strftime("%d-%b-%Y;%H:%M:%S.000").upper())

    end = begin + np.timedelta64(round((minutes or 0) * 60), "s")
    with h5py.File(path, "w") as file:
        overview = file.create_group("overview")
        overview.attrs["product_datetime_end"] = stamp(end)
        if minutes is not None:
            overview.attrs["product_datetime_start"] = stamp(begin)
        place = file.create_group("geographic")
        place.attrs.update(
            geo_dim_pixel=np.bytes_("KM,KM"), geo_number_columns=np.int32([columns]), geo_number_rows=np.int32([rows]),
            geo_pixel_size_x=np.float32([1]), geo_pixel_size_y=np.float32([-1]), geo_column_offset=np.float32([0]),
            geo_row_offset=np.float32([3650]),
        )  # fmt: skip
        place.create_group("map_projection").attrs["projection_proj4_params"] = np.bytes_(
            "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.14 +b=6356.75 +x_0=0 y_0=0"
        )
        image = file.create_group("image1")
        image["image_data"] = codes
        if parameter is not None:
            image.attrs["image_geo_parameter"] = np.bytes_(parameter)
        largest = int(np.iinfo(codes.dtype).max)
        image.create_group("calibration").attrs.update(
            calibration_formulas=np.bytes_(formula),
            calibration_missing_data=np.int32([largest if missing is None else missing]),
            calibration_out_of_image=np.int32([largest if outside is None else outside]),
        )


FMI_HEADER = """P5
# obstime {time}
# producttype CAPPI
# param {param}
# metersperpixel_x 999.674053
# metersperpixel_y 999.62859
# projection radar {{
# type {projection}
# centrallongitude 25
# centrallatitude 90
# truelatitude 60
# bottomleft 18.600000 57.930000
# topright 34.903000 69.005000
# }}
{more}760 1226
{largest}
"""


def write_fmi(path: Path, codes: np.ndarray, time: str, **header: object) -> None:
    """A composite in FMI's PGM, gzipped where the name says so; 760 x 1226 pixels."""
    words = {"param": "CorrectedReflectivity", "projection": "stereographic", "more": "", "largest": 255, **header}
    raw = FMI_HEADER.format(time=time, **words).encode() + codes.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
