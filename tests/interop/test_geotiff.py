from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.crs import CRS
from rasterio.warp import transform

from sa_nowcast.errors import DataError, RecipeError, StorageError
from sa_nowcast.interop import geotiff
from sa_nowcast.interop.geotiff import to_geotiff
from sa_nowcast.sources.radar import open_radar
from sa_nowcast.verification import persistence


def test_a_file_per_lead_time_holds_values_place_and_times(projected: xr.DataArray, tmp_path: Path) -> None:
    files = to_geotiff(projected, tmp_path / "rain")
    assert [f.name for f in files] == [f"rain_20200601T0135_{m:04d}min.tif" for m in (5, 10, 15)]
    assert sorted(os.listdir(tmp_path / "rain")) == [f.name for f in files]
    assert os.listdir(tmp_path) == ["rain"]
    for i, path in enumerate(files):
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(file.read(1), projected.isel(lead_time=i))
            # Cell centres are coordinates; a GeoTIFF's transform starts at the outer corner.
            assert file.transform.to_gdal() == (-500.0, 1000.0, 0.0, 23500.0, 0.0, -1000.0)
            assert file.xy(0, 0) == (0.0, 23000.0)
            place = file.crs.to_dict()
            assert [place[k] for k in ("proj", "lat_0", "lon_0", "units")] == ["laea", 52, 10, "m"]
            assert np.isnan(file.nodata)
            assert file.dtypes == ("float32",)
            tags = file.tags()
            assert (tags["init_time"], tags["valid_time"]) == (
                "2020-06-01T01:35:00Z",
                f"2020-06-01T01:{40 + 5 * i}:00Z",
            )
            assert tags["units"] == "mm h-1"
            assert tags["sa_nowcast_model"] == projected.attrs["sa_nowcast_model"]
            assert file.descriptions == (f"+{5 * (i + 1)} min",)


def test_one_file_holds_a_band_per_lead_time(geographic: xr.DataArray, tmp_path: Path) -> None:
    (path,) = to_geotiff(geographic, tmp_path / "rain.tif")
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), geographic)
        assert file.crs == CRS.from_epsg(4326)
        np.testing.assert_allclose(file.transform.to_gdal(), (-0.005, 0.01, 0, 50.005, 0, -0.01))
        assert file.descriptions == ("+5 min", "+10 min", "+15 min")
        assert file.tags(2)["valid_time"] == "2020-06-01T01:45:00Z"


def test_a_grid_point_lies_where_its_latitude_and_longitude_say(projected: xr.DataArray, tmp_path: Path) -> None:
    from pyproj import Transformer

    crs = CRS.from_epsg(3035)
    to_metres = Transformer.from_crs("EPSG:4326", "EPSG:3035", always_xy=True)
    x0, y0 = to_metres.transform(10.0, 52.0)
    moved = projected.drop_vars("crs").assign_coords(x=("x", projected["x"].values + x0, {"units": "m"}),
                                                     y=("y", projected["y"].values + y0, {"units": "m"}))  # fmt: skip
    (path,) = to_geotiff(moved, tmp_path / "moved.tif", crs="EPSG:3035")
    with rasterio.open(path) as file:
        assert file.crs == crs
        row, column = file.index(x0, y0)
        assert (row, column) == (23, 0)


@pytest.mark.parametrize(
    ("folder", "engine"),
    [("radar/mch/20170131", "mch_gif"), ("radar/fmi/20170509", "fmi_pgm"), ("radar/bom", "bom_rf3")],
)
def test_gdal_finds_the_cells_of_real_composites_where_their_latitudes_and_longitudes_are(
    real_data: Path, folder: str, engine: str, tmp_path: Path
) -> None:
    data = next(iter(open_radar(real_data / folder, engine).data_vars.values())).isel(time=slice(2))
    step = data["time"].values[1] - data["time"].values[0]
    (path,) = to_geotiff(persistence(data, lead_times=[step]), tmp_path / "f.tif")
    # Rows of the file run from north to south, whichever way those of the composite do.
    north_up = data.sortby("y", ascending=False)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), north_up.isel(time=-1).values.astype(np.float32))
        for row, column in ((0, 0), (200, 150), (file.height - 1, file.width - 1)):
            x, y = file.xy(row, column)
            (longitude,), (latitude,) = transform(file.crs, "EPSG:4326", [x], [y])
            assert longitude == pytest.approx(float(north_up["longitude"][row, column]), abs=1e-4)
            assert latitude == pytest.approx(float(north_up["latitude"][row, column]), abs=1e-4)


def test_north_is_up_whichever_way_the_rows_run(projected: xr.DataArray, tmp_path: Path) -> None:
    turned = projected.isel(y=slice(None, None, -1), x=slice(None, None, -1)).transpose("x", "lead_time", "y")
    km = turned.assign_coords({n: (n, turned[n].values / 1000, {"units": "km"}) for n in ("x", "y")})
    (expected,) = to_geotiff(projected, tmp_path / "a.tif")
    for number, other in enumerate((turned, km)):
        (path,) = to_geotiff(other, tmp_path / f"{number}.tif")
        with rasterio.open(expected) as a, rasterio.open(path) as b:
            np.testing.assert_array_equal(a.read(), b.read())
            assert (a.transform, a.crs) == (b.transform, b.crs)


def test_members_channels_and_variables_are_bands(forecasts: dict[str, xr.DataArray], tmp_path: Path) -> None:
    ensemble = forecasts["geographic ensemble"]
    files = to_geotiff(ensemble, tmp_path / "members")
    with rasterio.open(files[1]) as file:
        np.testing.assert_array_equal(file.read(), ensemble.isel(lead_time=1))
        assert file.descriptions == ("4", "9", "2")
    several = forecasts["several variables"]
    files = to_geotiff(several, tmp_path / "weather", crs="EPSG:3035")
    with rasterio.open(files[0]) as file:
        assert file.descriptions == ("rain", "temperature")
        np.testing.assert_array_equal(file.read(2), several.sel(variable="temperature").isel(lead_time=0))
    with pytest.raises(DataError, match="dimension realization beside lead_time, y, x, expected none for one file"):
        to_geotiff(ensemble, tmp_path / "members.tif")


def test_missing_values_are_no_data(forecasts: dict[str, xr.DataArray], tmp_path: Path) -> None:
    missing = forecasts["missing"]
    (path,) = to_geotiff(missing, tmp_path / "m.tif", crs="EPSG:3035")
    with rasterio.open(path) as file:
        masked = file.read(masked=True)
        np.testing.assert_array_equal(masked.mask, np.isnan(missing.values))
        assert 0 < masked.mask.mean() < 1


def test_what_stood_there_is_replaced_whole_or_not_at_all(
    projected: xr.DataArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / "folder", tmp_path / "file.tif"):
        before = to_geotiff(projected, path)
        kept = [f.read_bytes() for f in before]
        with pytest.raises(StorageError, match="stands there, expected a new path"):
            to_geotiff(projected * 2, path)

        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(geotiff, "_tags" if path.suffix else "_file_name", full)
            with pytest.raises(StorageError, match=r"could not be written \(No space left on device\)"):
                to_geotiff(projected * 2, path, overwrite=True)
        assert [f.read_bytes() for f in before] == kept
        to_geotiff((projected * 2).assign_attrs(projected.attrs), path, overwrite=True)
        with rasterio.open(before[0]) as file:
            np.testing.assert_array_equal(file.read(1), projected.isel(lead_time=0) * 2)
    assert sorted(os.listdir(tmp_path)) == ["file.tif", "folder"]
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "years.txt").write_text("of work")
    with pytest.raises(StorageError, match="something else stands there"):
        to_geotiff(projected, tmp_path / "work", overwrite=True)
    assert (tmp_path / "work" / "years.txt").read_text() == "of work"
    with pytest.raises(StorageError, match="could not be written"):
        to_geotiff(projected, tmp_path / "file.tif" / "below")


def test_what_no_geotiff_can_hold_is_one_line(
    projected: xr.DataArray, archive: xr.DataArray, forecasts: dict[str, xr.DataArray], tmp_path: Path
) -> None:
    extra = forecasts["ensemble"].expand_dims("channel")
    for forecast, line in (
        (archive, "6 init times, expected one"),
        (extra, "dimensions channel, realization beside lead_time, y, x, expected at most one"),
        (projected.isel(y=[0, 1, 3]), "y is not regular"),
        (projected.isel(x=[0]), "x has one cell"),
        (forecasts["one"], "no grid mapping, expected a CRS. Fix: name it, as in crs='EPSG:3035'"),
        (forecasts["channels"], "row has no coordinate"),
        (projected.drop_vars("lead_time"), "no coordinate lead_time"),
        (projected.assign_coords(x=("x", projected["x"].values, {"units": "rad"})), "x is in rad, expected m, km"),
    ):
        with pytest.raises(DataError, match=line):
            to_geotiff(forecast, tmp_path / "f")
    with pytest.raises(RecipeError, match="crs: 'EPSG:nowhere' is no CRS that GDAL knows"):
        to_geotiff(projected, tmp_path / "f", crs="EPSG:nowhere")
    with pytest.raises(DataError, match="coordinates in lengths, expected degrees, as the CRS has"):
        to_geotiff(projected, tmp_path / "f", crs="EPSG:4326")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("order", [("rasterio", "pyproj", "netCDF4"), ("netCDF4", "pyproj", "rasterio")])
def test_its_library_lives_beside_pyproj_and_netcdf_in_one_process(order: tuple[str, ...], tmp_path: Path) -> None:
    """Wheels that bring a PROJ and a GDAL of their own have clashed before."""
    work = {
        "rasterio": "from rasterio.crs import CRS; assert CRS.from_epsg(3035).to_epsg() == 3035",
        "pyproj": "import pyproj; t = pyproj.Transformer.from_crs(4326, 3035, always_xy=True); "
        "assert round(t.transform(10, 52)[0]) == 4321000",
        "netCDF4": "import netCDF4; d = netCDF4.Dataset('a.nc', 'w'); d.createDimension('x', 2); "
        "d.createVariable('v', 'f4', ('x',), zlib=True)[:] = 1; d.close()",
    }
    code = "; ".join(work[name] for name in (*order, order[0]))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)


def test_a_grid_across_the_antimeridian_is_one_image(geographic: xr.DataArray, tmp_path: Path) -> None:
    x = str(geographic.dims[-1])
    wrapped = (np.arange(geographic.sizes[x]) + 170.0 + 180) % 360 - 180
    assert wrapped[0] > wrapped[-1]
    (file,) = to_geotiff(geographic.assign_coords({x: (x, wrapped, geographic[x].attrs)}), tmp_path / "a.tif")
    with rasterio.open(file) as image:
        assert (image.bounds.left, image.bounds.right) == (169.5, 169.5 + geographic.sizes[x])
