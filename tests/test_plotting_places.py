"""Frames and forecasts are drawn where they are: two-dimensional latitude and longitude, poles, the antimeridian."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sequences import NETWORK, OPTIONS

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.plotting import animate, plot_attention, plot_forecast, plot_frames
from sa_nowcast.plotting.mesh import chart_of, position_of, positions
from sa_nowcast.training.fit import fit
from sa_nowcast.verification import persistence

matplotlib = pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install matplotlib")

MINUTE = np.timedelta64(1, "m").astype("timedelta64[ns]")
SHAPE = (12, 16)


def lambert(middle: tuple[float, float], degrees: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude of a small Lambert grid, rows from the south, as WRF has them."""
    rows, columns = np.indices(SHAPE) - np.array([[[SHAPE[0] / 2]], [[SHAPE[1] / 2]]])
    latitude = middle[0] + degrees * rows - 0.002 * degrees * columns**2
    longitude = middle[1] + degrees * columns / np.cos(np.deg2rad(latitude))
    return latitude, (longitude + 180) % 360 - 180


def field(latitude, longitude, names=("XLAT", "XLONG"), dims=("south_north", "west_east"), frames=10, **attrs):
    """One cell at row 9 and column 3 that rains, and a missing one at row 1 and column 14."""
    values = np.zeros((frames, *SHAPE), np.float32)
    values[:, 9, 3] = np.arange(frames) + 1
    values[:, 1, 14] = np.nan
    units = ("degree_north", "degree_east")
    coords = {n: (dims, c, {"units": u}) for n, c, u in zip(names, (latitude, longitude), units, strict=True)}
    coords["time"] = pd.date_range("2020-01-01", periods=frames, freq="5min")
    return xr.DataArray(values, dims=("time", *dims), coords=coords, name="RAIN", attrs={"units": "mm h-1", **attrs})


def forecast_of(data, at=4, steps=2):
    return persistence(data, init_time=data["time"].values[at], lead_times=np.arange(1, steps + 1) * 5 * MINUTE)


def meshes(figure):
    from matplotlib.collections import QuadMesh

    return [item for axes in figure.axes for item in axes.collections if isinstance(item, QuadMesh) and axes.axison
            and not hasattr(axes, "_colorbar")]  # fmt: skip


def wet(mesh) -> tuple[float, float]:
    """x and y of the middle of the only cell that rains."""
    values, corners = mesh.get_array().reshape(SHAPE), mesh.get_coordinates()
    ((row, column),) = np.argwhere(values.filled(0) > 0)
    four = corners[row : row + 2, column : column + 2].reshape(4, 2)
    return tuple(four.mean(axis=0))


@pytest.mark.parametrize(
    ("names", "dims"),
    [
        (("XLAT", "XLONG"), ("south_north", "west_east")),  # WRF
        (("nav_lat", "nav_lon"), ("y", "x")),  # NEMO
        (("lat_rho", "lon_rho"), ("eta_rho", "xi_rho")),  # ROMS
        (("TLAT", "TLONG"), ("nlat", "nlon")),  # POP, CICE
        (("latitude", "longitude"), ("rows", "columns")),
        (("lat2d", "lon2d"), ("j", "i")),
    ],
)
def test_every_cell_is_drawn_at_its_latitude_and_longitude(names, dims):
    data = field(*lambert((50, 10)), names, dims)
    latitude, longitude = data[names[0]].values[9, 3], data[names[1]].values[9, 3]
    figure = plot_forecast(forecast_of(data), data, data)
    drawn = meshes(figure)
    assert len(drawn) == 4 + 3 * 2
    for mesh in drawn[:8]:
        np.testing.assert_allclose(wet(mesh), (longitude, latitude), atol=0.01)
    axes = drawn[0].axes
    bottom, top = axes.get_ylim()
    assert bottom < top  # the first row of the file is in the south, and drawn there
    assert axes.get_aspect() == pytest.approx(1 / np.cos(np.deg2rad(data[names[0]].values.mean())))
    assert int(drawn[0].get_array().mask.sum()) == 1


@pytest.mark.parametrize("turn", [(slice(None), slice(None, None, -1)), (slice(None, None, -1), slice(None))])
def test_the_picture_does_not_depend_on_the_order_of_rows_and_columns(turn):
    data = field(*lambert((50, 10)))
    rows, columns = turn
    turned = data.isel(south_north=rows, west_east=columns)
    expected, other = (meshes(plot_forecast(forecast_of(one), one, columns=1)) for one in (data, turned))
    for one, two in zip(expected, other, strict=True):
        np.testing.assert_array_equal(one.get_array(), two.get_array())
        np.testing.assert_allclose(one.get_coordinates(), two.get_coordinates())


def test_truth_without_a_place_of_its_own_is_laid_out_as_the_forecast():
    data = field(*lambert((50, 10)))
    bare = data.drop_vars(["XLAT", "XLONG"])
    figure = plot_forecast(forecast_of(data), bare)
    truth, _, ahead, _, error, _ = meshes(figure)
    assert wet(truth) == wet(ahead)
    assert float(error.get_array().max()) == 1.0  # 6 mm h-1 in the frame after the one that persists


def test_coordinates_that_are_given_for_every_time_are_those_of_the_grid():
    latitude, longitude = lambert((50, 10))
    data = field(latitude, longitude)
    whole = data.assign_coords(
        XLAT=(data.dims, np.broadcast_to(latitude, data.shape), {"units": "degree_north"}),
        XLONG=(data.dims, np.broadcast_to(longitude, data.shape), {"units": "degree_east"}),
    ).to_dataset()
    for ds in (whole, whole.reset_coords(["XLAT", "XLONG"])):
        mesh = meshes(plot_frames(ds, last=1))[0]
        np.testing.assert_allclose(wet(mesh), (longitude[9, 3], latitude[9, 3]), atol=0.01)
    moving = whole.assign_coords(XLAT=whole["XLAT"] + xr.DataArray(np.arange(10.0), dims="time"))
    assert not meshes(plot_frames(moving, last=1))  # no one place


@pytest.mark.parametrize("west", [170.0, -179.95, 0.0, 359.0])
def test_a_grid_across_the_antimeridian_or_greenwich_is_drawn_whole(west):
    latitude, longitude = lambert((-20, west))
    data = field(latitude, longitude % 360)
    mesh = meshes(plot_forecast(forecast_of(data)))[0]
    across = mesh.get_coordinates()[..., 0]
    assert np.ptp(across) < 2.5
    x, y = wet(mesh)
    assert (x - longitude[9, 3] + 180) % 360 - 180 == pytest.approx(0, abs=0.01)
    assert y == pytest.approx(latitude[9, 3], abs=0.01)
    labels = [text.get_text() for text in mesh.axes.get_xticklabels()]
    assert all(0 <= float(label.split("°")[0]) <= 180 for label in labels)


@pytest.mark.parametrize("order", ["as the grid lies", "sorted"])
def test_longitudes_along_an_axis_across_the_antimeridian_are_drawn_whole(order):
    east = (np.arange(172.0, 188.0) + 180) % 360 - 180
    values = np.zeros((3, *SHAPE))
    values[:, 4, 10] = 5.0  # at 178 W
    data = xr.DataArray(
        values,
        dims=("time", "lat", "lon"),
        coords={"time": pd.date_range("2020", periods=3, freq="h"), "lat": np.arange(12.0), "lon": east},
        attrs={"units": "K"},
    )
    data = data.sortby("lon") if order == "sorted" else data
    image = plot_forecast(forecast_of(data, at=1)).axes[0].images[0]
    assert image.get_extent() == [171.5, 187.5, -0.5, 11.5]
    ((row, column),) = np.argwhere(image.get_array() > 0)
    assert (row, column) == (11 - 4, 10)


def test_uneven_latitudes_are_drawn_where_they_are():
    latitude = np.array([0, 1, 2, 4, 7, 11, 16, 22, 29, 37, 46, 56.0])
    data = field(*lambert((0, 0))).drop_vars(["XLAT", "XLONG"]).rename(south_north="lat", west_east="lon")
    data = data.assign_coords(lat=latitude, lon=np.arange(16.0))
    x, y = wet(meshes(plot_forecast(forecast_of(data)))[0])
    assert (x, y) == (3.0, pytest.approx((29 + 46 + 2 * 37) / 4))


@pytest.mark.parametrize("pole", [1, -1])
def test_round_a_pole_cells_lie_by_their_distance_and_direction_from_it(pole):
    rows, columns = np.indices(SHAPE) - np.array([[[5.5]], [[7.5]]])
    latitude, longitude = pole * (90 - 2 * np.hypot(rows, columns)), np.rad2deg(np.arctan2(columns, -pole * rows))
    data = field(latitude, longitude)
    mesh = meshes(plot_forecast(forecast_of(data)))[0]
    x, y = wet(mesh)
    assert np.hypot(x, y) == pytest.approx(2 * np.hypot(3.5, 4.5), abs=0.05)
    angle = np.rad2deg(np.arctan2(x, -pole * y))
    assert angle == pytest.approx(longitude[9, 3], abs=0.5)
    assert np.ptp(np.diff(mesh.get_coordinates()[..., 0], axis=1)) < 0.2  # cells of one size, none of them torn


def test_a_grid_round_the_globe_has_no_cell_that_reaches_across_it():
    latitude, longitude = np.meshgrid(np.linspace(-70, 70, 12), np.arange(16) * 22.5 + 73, indexing="ij")
    data = field(latitude, (longitude + 180) % 360 - 180)
    mesh = meshes(plot_forecast(forecast_of(data)))[0]
    np.testing.assert_allclose(np.diff(mesh.get_coordinates()[..., 0], axis=1), 22.5)
    assert int(mesh.get_array().mask.sum()) == 1
    assert wet(mesh)[1] == pytest.approx(latitude[9, 3])


def test_cells_without_a_place_do_not_move_the_others():
    latitude, longitude = lambert((50, 10))
    data = field(latitude, longitude)
    for missing in (np.nan, 1e20, -999.0):
        holed = data.copy()
        for name in ("XLAT", "XLONG"):
            values = holed[name].values.copy()
            values[0, :2] = missing
            holed = holed.assign_coords({name: (data.dims[1:], values, data[name].attrs)})
        mesh = meshes(plot_forecast(forecast_of(holed)))[0]
        np.testing.assert_allclose(wet(mesh), (longitude[9, 3], latitude[9, 3]), atol=0.01)
        assert np.ptp(mesh.get_coordinates()[..., 0]) < 3


def test_a_large_grid_is_thinned_and_stays_in_its_place():
    rows, columns = np.meshgrid(np.linspace(-5, 5, 900), np.linspace(175, 185, 850), indexing="ij")
    values = xr.DataArray(np.zeros((1, 900, 850), np.float32), dims=("lead_time", "y", "x"))
    values[0, 600:606, 300:306] = 7.0
    forecast = values.assign_coords(
        lead_time=[5 * MINUTE], lat=(("y", "x"), rows), lon=(("y", "x"), (columns + 180) % 360 - 180)
    )
    mesh = meshes(plot_forecast(forecast))[0]
    across = mesh.get_coordinates()
    assert (across[..., 0].min(), across[..., 0].max()) == (pytest.approx(175, abs=0.1), pytest.approx(185, abs=0.1))
    shape = tuple(size - 1 for size in across.shape[:2])
    row, column = np.argwhere(mesh.get_array().reshape(shape) == 7).mean(axis=0)
    place = across[int(row), int(column)]
    np.testing.assert_allclose(place, [columns[0, 303], rows[603, 0]], atol=0.05)


@pytest.fixture
def coast(tmp_path, monkeypatch):
    """A cartopy whose only coastline runs at 178 E, 18 to 22 S, and at 10 E, 48 to 52 N; and along 80 N."""
    cartopy = pytest.importorskip("cartopy", reason="coastlines need cartopy: pip install cartopy")
    shapefile = pytest.importorskip("shapefile", reason="a coastline is written with pyshp: pip install pyshp")
    monkeypatch.setitem(cartopy.config, "data_dir", tmp_path / "cartopy")
    monkeypatch.setitem(cartopy.config, "pre_existing_data_dir", tmp_path / "absent")
    path = tmp_path / "cartopy/shapefiles/natural_earth/physical/ne_110m_coastline"
    path.parent.mkdir(parents=True)
    with shapefile.Writer(str(path), shapeType=shapefile.POLYLINE) as writer:
        writer.field("name", "C")
        arctic = [(longitude, 80.0) for longitude in range(-180, 181, 10)]
        writer.line([[(178.0, -22.0), (178.0, -18.0)], [(10.0, 48.0), (10.0, 52.0)], arctic])
        writer.record("coast")


def coasts(figure) -> list[np.ndarray]:
    from matplotlib.collections import LineCollection

    lines = [item for item in meshes(figure)[0].axes.collections if isinstance(item, LineCollection)]
    return [path.vertices for item in lines[:1] for path in item.get_paths()]


@pytest.mark.usefixtures("coast")
def test_coastlines_are_drawn_on_two_dimensional_latitude_and_longitude():
    (line,) = coasts(plot_forecast(forecast_of(field(*lambert((50, 10)))), coastlines=True))
    np.testing.assert_allclose(line, [[10, 48], [10, 52]])
    (line,) = coasts(plot_forecast(forecast_of(field(*lambert((-20, -179.9), 0.3))), coastlines=True))
    np.testing.assert_allclose((line[:, 0] + 360) % 360, 178)
    rows, columns = np.indices(SHAPE) - np.array([[[5.5]], [[7.5]]])
    polar = field(90 - 2 * np.hypot(rows, columns), np.rad2deg(np.arctan2(columns, -rows)))
    (line,) = coasts(plot_forecast(forecast_of(polar), coastlines=True))
    np.testing.assert_allclose(np.hypot(*line.T), 10)


@pytest.mark.usefixtures("coast")
def test_coastlines_are_drawn_on_a_rotated_pole():
    pytest.importorskip("pyproj", reason="projections need pyproj: pip install pyproj")
    mapping = {
        "grid_mapping_name": "rotated_latitude_longitude",
        "grid_north_pole_latitude": 40.0,
        "grid_north_pole_longitude": -170.0,
    }
    data = field(*lambert((50, 10))).drop_vars(["XLAT", "XLONG"]).rename(south_north="rlat", west_east="rlon")
    data = data.assign_coords(
        rlat=("rlat", np.linspace(-3, 3, 12), {"standard_name": "grid_latitude", "units": "degrees"}),
        rlon=("rlon", np.linspace(-3, 3, 16), {"standard_name": "grid_longitude", "units": "degrees"}),
        rotated_pole=((), 0, mapping),
    )
    axes = plot_forecast(forecast_of(data), coastlines=True).axes[0]
    (lines,) = [item.get_paths() for item in axes.collections]
    (line,) = [path.vertices for path in lines]
    np.testing.assert_allclose(line, [[0, -2], [0, 2]], atol=0.02)  # the grid's equator crosses 10 E at 50 N


@pytest.mark.usefixtures("coast")
def test_coastlines_are_drawn_on_the_scan_angles_of_a_geostationary_satellite():
    pyproj = pytest.importorskip("pyproj", reason="projections need pyproj: pip install pyproj")
    mapping = {
        "grid_mapping_name": "geostationary",
        "perspective_point_height": 35786023.0,
        "longitude_of_projection_origin": 0.0,
        "sweep_angle_axis": "y",
        "semi_major_axis": 6378137.0,
        "semi_minor_axis": 6356752.314,
    }
    data = field(*lambert((50, 10))).drop_vars(["XLAT", "XLONG"]).rename(south_north="y", west_east="x")
    data = data.assign_coords(
        y=("y", np.linspace(0.14, 0.10, 12), {"standard_name": "projection_y_coordinate", "units": "rad"}),
        x=("x", np.linspace(-0.02, 0.04, 16), {"standard_name": "projection_x_coordinate", "units": "rad"}),
        goes=((), 0, mapping),
    )
    axes = plot_forecast(forecast_of(data), coastlines=True).axes[0]
    pieces = [path.vertices for item in axes.collections for path in item.get_paths()]
    there = pyproj.Proj(proj="geos", h=35786023.0, lon_0=0, a=6378137.0, b=6356752.314, sweep="y")
    expected = np.transpose(there([10, 10], [48, 52])) / 35786023.0
    assert any(piece.shape == (2, 2) and np.allclose(piece, expected, atol=1e-4) for piece in pieces)


def test_without_cartopy_the_drawing_is_the_same_without_coastlines(monkeypatch):
    data = field(*lambert((50, 10)))
    monkeypatch.setitem(sys.modules, "cartopy", None)
    figure = plot_forecast(forecast_of(data))
    assert not coasts(figure)
    np.testing.assert_allclose(wet(meshes(figure)[0]), (data["XLONG"][9, 3], data["XLAT"][9, 3]), atol=0.01)


def test_an_animation_on_two_dimensional_coordinates_says_where_it_has_no_truth(tmp_path):
    from PIL import Image

    data = field(*lambert((50, 10)))
    animate(forecast_of(data, at=8), tmp_path / "a.gif", data)
    with Image.open(tmp_path / "a.gif") as film:
        pictures = []
        for i in range(film.n_frames):
            film.seek(i)
            pictures.append(np.asarray(film.convert("RGB")).astype(int))
    assert len(pictures) == 2
    left = [picture[:, : picture.shape[1] // 2] for picture in pictures]
    grey = [(abs(half - 0xB3).max(axis=2) < 3).mean() for half in left]
    assert grey[0] < 0.05 < grey[1]


def test_attention_is_asked_and_marked_at_latitude_and_longitude():
    latitude, longitude = lambert((50, 10))
    data = field(latitude, longitude, frames=30).fillna(0)
    nowcaster = fit(data, history=4, steps=3, network={**NETWORK, "patch": 2}, progress=False, **OPTIONS)
    place = latitude[9, 3] + 0.02, longitude[9, 3] - 0.02
    figure = plot_attention(nowcaster, data, place)
    crosses = {(line.get_xdata()[0], line.get_ydata()[0]) for axes in figure.axes for line in axes.lines
               if line.get_marker() == "+"}  # fmt: skip
    ((x, y),) = crosses
    np.testing.assert_allclose((x, y), (longitude[9, 3], latitude[9, 3]), atol=0.01)
    np.testing.assert_allclose(wet(meshes(figure)[0]), (longitude[9, 3], latitude[9, 3]), atol=0.01)
    assert f"{latitude[9, 3]:.2f}°N" in figure.get_suptitle()
    with pytest.raises(RecipeError, match=r"point: 0, 0 is outside of the grid, expected latitude from 49"):
        plot_attention(nowcaster, data, (0, 0))
    for wrong in ((0, 0), ("a", 10), (float("nan"), 10)):
        with pytest.raises(RecipeError) as error:
            plot_attention(nowcaster, data, wrong)
        assert error.value.fix is not None
        plot_attention(
            nowcaster, data, eval(error.value.fix.removeprefix("pass point="))
        )  # the remedy as it is printed
    # The same for a file that begins in the north: the network sees the data turned, so only the place is the same.
    turned = plot_attention(nowcaster, data[:, ::-1], place)
    assert {
        (round(line.get_xdata()[0], 6), round(line.get_ydata()[0], 6))
        for axes in turned.axes for line in axes.lines if line.get_marker() == "+"
    } == {(round(x, 6), round(y, 6))}  # fmt: skip


def test_positions_are_known_by_attributes_before_names():
    grid = {"dims": ("a", "b"), "data": np.zeros((2, 2))}
    for name, attrs, expected in (
        ("phi", {"standard_name": "latitude"}, "latitude"),
        ("lam", {"units": "degreesE"}, "longitude"),
        ("XLONG_M", {}, "longitude"),
        ("geolat_t", {"units": "degrees"}, "latitude"),
        ("grid_latitude", {"standard_name": "grid_latitude", "units": "degrees"}, None),
        ("lat", {"units": "m"}, None),
        ("flatness", {}, None),
        ("lonely", {}, None),
    ):
        assert position_of(name, xr.Variable(grid["dims"], grid["data"], attrs)) == expected, name
    pair = xr.DataArray(np.zeros((2, 2)), dims=("a", "b"), coords={"lat": (("a", "b"), np.zeros((2, 2)))})
    assert positions(pair, "a", "b") is None


def test_a_chart_begins_where_the_grid_has_nothing():
    latitude, longitude = np.meshgrid([10.0, 20.0], [-5.0, 0.0, 5.0], indexing="ij")
    x, y = chart_of(latitude, longitude % 360).project(longitude % 360, latitude)
    np.testing.assert_allclose(x, longitude)
    np.testing.assert_array_equal(y, latitude)


# --- frames


def rain(frames=10, **attrs):
    return field(*lambert((50, 10)), frames=frames, **attrs)


def titles(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_the_last_frames_are_panels_under_their_times():
    figure = rain().sa_nowcast.plot()
    assert titles(figure) == ["2020-01-01 00:20", "00:25", "00:30", "00:35", "00:40", "00:45"]
    assert figure.get_suptitle() == "RAIN (mm h-1), 2020-01-01 00:20 to 00:45"
    assert [float(mesh.get_array().max()) for mesh in meshes(figure)] == [5, 6, 7, 8, 9, 10]
    assert len({id(mesh.norm) for mesh in meshes(figure)}) == 1
    figure = plot_frames(rain(), last=2, init_time="2020-01-01T00:10Z")
    assert titles(figure) == ["2020-01-01 00:05", "00:10"]
    assert titles(plot_frames(rain(1))) == ["2020-01-01 00:00"]
    assert len(titles(plot_frames(rain(3), last=50))) == 3


def test_frames_of_any_step_are_drawn_and_an_amount_is_of_its_step():
    holed = rain(units="mm", standard_name="precipitation_amount").isel(time=[0, 1, 2, 7])
    figure = plot_frames(holed)
    assert titles(figure) == ["2020-01-01 00:00", "00:05", "00:10", "00:35"]
    assert meshes(figure)[0].norm.boundaries[0] == pytest.approx(0.1 / 12)


def test_frames_of_integers_and_truth_values_are_drawn():
    counts = xr.DataArray(
        np.arange(48).reshape(3, 4, 4), dims=("time", "y", "x"), coords={"time": pd.date_range("2020", periods=3)}
    )
    for data in (counts.astype("uint8"), counts > 20, counts.chunk({"time": 1})):
        assert len(titles(data.rename("n").sa_nowcast.plot())) == 3


def test_several_variables_and_channels_are_chosen_and_wrong_choices_are_one_line(tmp_path):
    both = xr.Dataset({"rain": rain(), "snow": rain() * 2})
    with pytest.raises(RecipeError, match=r"2 variables and none is chosen, expected one of rain, snow\. Fix: pass v"):
        both.sa_nowcast.plot()
    assert float(meshes(both.sa_nowcast.plot(variable="snow", last=1))[0].get_array().max()) == 20
    with pytest.raises(RecipeError, match="variable hail is not in it, expected one of rain, snow"):
        both.sa_nowcast.plot(variable="hail")
    levels = xr.concat([rain(), rain() * 3], xr.Variable("level", [850, 500])).transpose("time", ...)
    with pytest.raises(RecipeError, match="2 of channel and none is chosen, expected one of 850, 500"):
        plot_frames(levels)
    for chosen in (500, "500"):
        assert float(meshes(plot_frames(levels, channel=chosen, last=1))[0].get_array().max()) == 30
    with pytest.raises(RecipeError, match="last: is 0, expected at least 1"):
        plot_frames(rain(), last=0)
    with pytest.raises(RecipeError, match="no frame at 2020-01-01T00:01"):
        plot_frames(rain(), init_time="2020-01-01T00:01")
    with pytest.raises(RecipeError, match=r"truth: given beside frames, expected a forecast\. Fix: leave truth= out"):
        rain().sa_nowcast.plot(truth=rain())
    with pytest.raises(RecipeError, match="truth: given beside frames"):
        animate(rain(), tmp_path / "a.gif", rain())
    with pytest.raises(DataError, match="time"):
        plot_frames(rain().isel(time=0))
    with pytest.raises(DataError, match="an xarray Dataset or DataArray"):
        plot_frames(np.zeros((2, 3, 3)))


def test_frames_are_animated(tmp_path):
    from PIL import Image

    rain().sa_nowcast.animate(tmp_path / "a.gif", last=4)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 4


# --- which forecast of an archive


def test_an_archive_beside_truth_is_drawn_from_the_last_init_time_that_has_all_of_it():
    data = rain(12)
    leads = np.arange(1, 4) * 5 * MINUTE
    archive = persistence(data, init_time=data["time"].values, lead_times=leads)
    start = "from 2020-01-01 00:40"
    assert start in plot_forecast(archive, data).get_suptitle()
    shuffled = archive.isel(init_time=[8, 2, 11, 5])
    assert start in plot_forecast(shuffled, data).get_suptitle()
    # Of none that has all, the one with most; times that a file rounded are the same.
    late = archive.isel(init_time=[9, 10, 11])
    assert "from 2020-01-01 00:45" in plot_forecast(late, data).get_suptitle()
    jitter = data.assign_coords(time=data["time"] + np.timedelta64(300, "ns"))
    assert start in plot_forecast(archive, jitter).get_suptitle()
    figure = plot_forecast(archive, data, init_time=data["time"].values[11])
    assert "no truth" in {text.get_text() for axes in figure.axes for text in axes.texts}
    assert "|error|" not in {axes.get_ylabel() for axes in figure.axes}


def test_truth_on_another_grid_or_in_other_units_is_refused():
    data = rain()
    with pytest.raises(DataError, match="truth is on the grid"):
        plot_forecast(forecast_of(data), data.isel(west_east=slice(0, 10)))
    with pytest.raises(DataError, match="it is in K, expected the forecast's mm h-1"):
        plot_forecast(forecast_of(data), data.assign_attrs(units="K"))
    levels = data.expand_dims(level=[1, 2])
    with pytest.raises(DataError, match=r"it has 2 of level.*Fix: truth = truth.isel\(level=0\)"):
        plot_forecast(forecast_of(data), levels)


def test_rows_and_columns_may_be_in_any_order():
    data = rain().drop_vars(["XLAT", "XLONG"]).rename(south_north="lat", west_east="lon")
    data = data.assign_coords(lat=np.linspace(50, 51, 12), lon=np.linspace(0, 1.5, 16))
    image = plot_forecast(forecast_of(data).transpose("lon", "lead_time", "lat")).axes[0].images[0]
    assert image.get_array().shape == SHAPE
    assert np.argwhere(image.get_array().filled(0) > 0).tolist() == [[11 - 9, 3]]


def test_a_dataset_of_several_forecasts_is_drawn_by_the_variable_that_is_chosen(tmp_path):
    both = xr.Dataset({"rain": forecast_of(rain()), "snow": forecast_of(rain()) * 2})
    with pytest.raises(RecipeError, match=r"2 variables and none is chosen.*pass variable='rain'"):
        both.sa_nowcast.plot()
    assert float(meshes(both.sa_nowcast.plot(variable="snow"))[0].get_array().max()) == 10
    both.sa_nowcast.animate(tmp_path / "a.gif", variable="snow")
    with pytest.raises(RecipeError, match="variable hail is not in it, expected one of rain, snow"):
        plot_forecast(both, variable="hail")
