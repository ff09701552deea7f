from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.interop.geotiff import to_geotiff
from sa_nowcast.sources import open_geotiff, open_source

rasterio = pytest.importorskip("rasterio", reason="GeoTIFF is read by rasterio: pip install rasterio")
pytest.importorskip("pyproj", reason="pip install pyproj")

TIMES = pd.date_range("2024-05-01T23:50", periods=4, freq="5min")


def write(
    path: Path, values: np.ndarray, *, bands: Any = None, tags: Any = None, corner: Any = None, **more: Any
) -> None:
    """One GeoTIFF of (row, column) or (band, row, column), north up, 1 km in EPSG:3035 unless told otherwise."""
    stack = values if values.ndim == 3 else values[None]
    scales, offsets, units = (more.pop(k, None) for k in ("scales", "offsets", "units"))
    colours = more.pop("colours", None)
    left, top, size = corner or (4e6, 3e6, 1000.0)
    place = rasterio.transform.from_origin(left, top, size, size)
    profile = {
        "driver": "GTiff", "count": len(stack), "height": stack.shape[1], "width": stack.shape[2],
        "dtype": stack.dtype.name, "crs": "EPSG:3035", "transform": place,
    }  # fmt: skip
    with rasterio.open(path, "w", **{**profile, **more}) as file:
        if colours is not None:
            file.colorinterp = [rasterio.enums.ColorInterp[colour] for colour in colours]
        file.write(stack)
        for name, given in (("scales", scales), ("offsets", offsets), ("units", units)):
            if given is not None:
                setattr(file, name, (given,) * len(stack))
        file.update_tags(**(tags or {}))
        for number, band in enumerate(bands or (), 1):
            file.set_band_description(number, band)


def stack_of(folder: Path, pattern: str = "rain_%Y%m%d_%H%M.tif", **more: Any) -> np.ndarray:
    """Four frames of codes, 255 for nodata."""
    codes = np.random.default_rng(0).integers(0, 200, (4, 6, 8)).astype(np.uint8)
    codes[:, 0, 0] = 255
    for time, frame in zip(TIMES, codes, strict=True):
        write(folder / time.strftime(pattern), frame, **{"nodata": 255, **more})
    return codes


def test_a_folder_opens_by_itself_with_nodata_missing_and_scales_applied(tmp_path: Path) -> None:
    codes = stack_of(tmp_path, scales=0.1, offsets=-1.0, units="mm h-1")
    ds = open_source(tmp_path)
    assert ds.rain.dims == ("time", "y", "x")
    assert ds.rain.chunks == ((1,) * 4, (6,), (8,))
    np.testing.assert_allclose(ds.rain.values, np.where(codes == 255, np.nan, codes * 0.1 - 1.0), rtol=1e-12)
    assert ds.time.values.tolist() == TIMES.values.astype("datetime64[ns]").tolist()
    assert ds.rain.attrs["units"] == "mm h-1"
    assert ds.rain.encoding["scale_factor"] == 0.1
    assert ds.y.values[[0, -1]].tolist() == [2_999_500.0, 2_994_500.0]
    assert ds.x.values[0] == 4_000_500.0
    assert ds.crs.attrs["grid_mapping_name"] == "lambert_azimuthal_equal_area"


@pytest.mark.parametrize(
    "pattern",
    [
        "%Y%m%d%H%M.tif", "%Y%m%d%H%M%S_rain.tif", "rain_%Y-%m-%dT%H-%M-%SZ.tif", "A%Y%j%H%M.tif", "A%Y%j.%H%M.tiff",
        "rain.%Y.%m.%d.%H.%M.tif", "rain_%Y%m%dT%H%M%SZ.TIF", "%s.tif",
    ],
)  # fmt: skip
def test_times_in_the_names_are_recognised(tmp_path: Path, pattern: str) -> None:
    stack_of(tmp_path, pattern)
    assert open_source(tmp_path).time.values.tolist() == TIMES.values.astype("datetime64[ns]").tolist()


def test_a_name_with_two_times_needs_a_pattern_and_the_remedy_works(tmp_path: Path) -> None:
    stack_of(tmp_path, "%Y%m%dT%H%M_made_20250101T0000.tif")
    with pytest.raises(DataError, match=r"none or more than one in the name.* Fix: time_pattern='%Y%m%dT%H%M' takes"):
        open_source(tmp_path)
    for pattern in ("%Y%m%dT%H%M_made", "%Y%m%dT%H%M"):  # the second is what the remedy says
        ds = open_source(tmp_path, time_pattern=pattern)
        assert ds.time.values[0] == np.datetime64("2024-05-01T23:50")


def test_folders_names_can_hold_the_date(tmp_path: Path) -> None:
    for time in TIMES:
        place = tmp_path / time.strftime("%Y/%m/%d")
        place.mkdir(parents=True, exist_ok=True)
        write(place / time.strftime("rain_%H%M.tif"), np.ones((3, 4), np.float32))
    ds = open_source(tmp_path, time_pattern="%Y/%m/%d/rain_%H%M")
    assert ds.time.values[-1] == np.datetime64("2024-05-02T00:05")


def test_tags_of_acquisition_serve_where_names_hold_no_time(tmp_path: Path) -> None:
    for number, time in enumerate(TIMES):
        write(
            tmp_path / f"frame_{number}.tif", np.ones((3, 4), np.int16),
            tags={"TIFFTAG_DATETIME": time.strftime("%Y:%m:%d %H:%M:%S")},
        )  # fmt: skip
    assert open_source(tmp_path).time.values.tolist() == TIMES.values.astype("datetime64[ns]").tolist()


def test_bands_are_times_where_their_descriptions_are(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((4, 5, 6)).astype(np.float32)
    values[2, 1, 1] = np.nan
    write(tmp_path / "rain.tif", values, bands=[t.isoformat() for t in TIMES], nodata=np.nan)
    ds = open_source(tmp_path / "rain.tif")
    np.testing.assert_array_equal(ds.rain.values, values)
    assert ds.time.values.tolist() == TIMES.values.astype("datetime64[ns]").tolist()


def test_other_bands_are_channels_and_alpha_is_a_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for time in TIMES:
        values = rng.integers(1, 9, (3, 5, 6)).astype(np.uint8)
        values[2] = 255
        values[2, 0, 0] = 0
        write(
            tmp_path / time.strftime("s_%Y%m%d%H%M.tif"), values, bands=["vis", "ir", None],
            colours=("gray", "undefined", "alpha"),
        )  # fmt: skip
    ds = open_source(tmp_path)
    assert ds.s.dims == ("time", "band", "y", "x")
    assert ds.band.values.tolist() == ["vis", "ir"]
    assert ds.sizes["band"] == 2
    assert bool(ds.s[:, :, 0, 0].isnull().all())
    assert int(ds.s.isnull().sum()) == 4 * 2


def test_degrees_feet_and_grids_without_a_place(tmp_path: Path) -> None:
    for name, crs in (("ll", "EPSG:4326"), ("feet", "EPSG:2263"), ("none", None)):
        (tmp_path / name).mkdir()
        for time in TIMES[:2]:
            write(tmp_path / name / time.strftime("v_%Y%m%d%H%M.tif"), np.ones((4, 5), np.float32), crs=crs,
                  corner=(10.0, 50.0, 0.5) if name == "ll" else None)  # fmt: skip
    ll = open_source(tmp_path / "ll")
    assert ll.v.dims == ("time", "latitude", "longitude")
    assert ll.latitude.values.tolist() == [49.75, 49.25, 48.75, 48.25]
    feet = open_source(tmp_path / "feet")
    assert feet.x.values[1] - feet.x.values[0] == pytest.approx(1000 * 1200 / 3937)  # US survey feet
    assert "us-ft" not in feet.crs.attrs["crs_wkt"]
    assert open_source(tmp_path / "none").v.dims == ("time", "y", "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.ones((6, 7), np.uint8)}, "size 6 x 7, expected 6 x 8 as in rain_20240501_2350.tif"),
        ({"corner": (4e6 + 500, 3e6, 1000.0)}, "its corner at 4.0005e"),
        ({"crs": "EPSG:3857"}, "CRS EPSG:3857, expected EPSG:3035"),
        ({"units": "dBZ"}, "units dBZ, expected mm h-1"),
    ],
)
def test_a_file_that_does_not_belong_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    stack_of(tmp_path, units="mm h-1")
    path = sorted(tmp_path.iterdir())[2]
    values = change.pop("values", np.ones((6, 8), np.uint8))
    write(path, values, **{"units": "mm h-1", **change})
    with pytest.raises(DataError, match=message):
        open_source(tmp_path)


def test_corners_that_differ_by_rounding_are_one_grid(tmp_path: Path) -> None:
    stack_of(tmp_path)
    path = sorted(tmp_path.iterdir())[2]
    write(path, np.ones((6, 8), np.uint8), corner=(4e6 + 1e-9, 3e6, 1000.0), nodata=255)
    assert open_source(tmp_path).sizes["time"] == 4


def test_files_that_pack_differently_keep_their_values(tmp_path: Path) -> None:
    codes = stack_of(tmp_path, scales=0.1)
    path = sorted(tmp_path.iterdir())[1]
    write(path, codes[1], scales=0.5, nodata=0)
    ds = open_source(tmp_path)
    np.testing.assert_allclose(ds.rain.values[1], np.where(codes[1] == 0, np.nan, codes[1] * 0.5))
    assert "scale_factor" not in ds.rain.encoding


def test_damage_duplicates_turned_grids_and_wrong_options_give_one_line(tmp_path: Path) -> None:
    stack_of(tmp_path)
    with pytest.raises(RecipeError, match="'nam' is not known to engine geotiff"):
        open_source(tmp_path, engine="geotiff", nam="a")
    with pytest.raises(RecipeError, match="bands: 3 of"):
        open_geotiff(tmp_path, bands=3)
    first = tmp_path / "rain_20240501_2350.tif"
    with pytest.raises(DataError, match="both have the time 2024-05-01T23:50:00"):
        open_geotiff([first, first])
    (tmp_path / "again_202405012350.tif").write_bytes(b"II*\0 cut")
    with pytest.raises(DataError, match=r"again_202405012350.tif: cannot be read as GeoTIFF"):
        open_source(tmp_path)
    turned = tmp_path / "turned"
    turned.mkdir()
    affine = rasterio.transform.from_origin(4e6, 3e6, 1000, 1000) * rasterio.transform.Affine.rotation(20)
    write(turned / "a_20240501_0000.tif", np.ones((4, 4), np.uint8), transform=affine)
    with pytest.raises(DataError, match="turned or sheared"):
        open_source(turned)


def test_forecasts_that_were_written_as_geotiff_read_back(tmp_path: Path) -> None:
    lead = pd.to_timedelta([5, 10, 15], "min").values
    init = np.datetime64("2024-05-01T00:00", "ns")
    forecast = xr.DataArray(
        np.random.default_rng(3).random((3, 5, 6)).astype(np.float32),
        dims=("lead_time", "y", "x"),
        coords={
            "lead_time": lead, "init_time": init, "valid_time": ("lead_time", init + lead),
            "y": ("y", 1000.0 * np.arange(5)[::-1], {"units": "m", "standard_name": "projection_y_coordinate"}),
            "x": ("x", 1000.0 * np.arange(6), {"units": "m", "standard_name": "projection_x_coordinate"}),
        },
        name="rain",
        attrs={"units": "mm h-1", "standard_name": "rainfall_rate"},
    )  # fmt: skip
    to_geotiff(forecast, tmp_path / "folder", crs="EPSG:3035")
    to_geotiff(forecast, tmp_path / "one.tif", crs="EPSG:3035")
    for source in ("folder", "one.tif"):
        ds = open_source(tmp_path / source)
        (name,) = ds.data_vars
        np.testing.assert_array_equal(ds[name].values, forecast.values)
        assert ds.time.values.tolist() == (init + lead).tolist()
        assert ds[name].attrs["units"] == "mm h-1"
        np.testing.assert_allclose(ds.y, forecast.y)
    assert name == "one"
    assert list(open_source(tmp_path / "folder").data_vars) == ["rain"]
