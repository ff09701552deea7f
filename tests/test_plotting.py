"""Figures hold the right data under the right labels, and change nothing outside of themselves."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sequences import rounded

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import DataError, MissingLibraryError, RecipeError, StorageError
from sa_nowcast.plotting import animate, plot_forecast, plot_scores
from sa_nowcast.plotting.scales import MINUS
from sa_nowcast.verification import persistence, verify

matplotlib = pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install matplotlib")

MINUTE = np.timedelta64(1, "m").astype("timedelta64[ns]")
START = np.datetime64("2019-06-10T00:00", "ns")


def sequence(frames=14, size=(20, 24), units="mm h-1", **attrs) -> xr.DataArray:
    generator = np.random.default_rng(0)
    values = np.maximum(generator.gamma(0.5, 6.0, (frames, *size)) - 1, 0)
    return xr.DataArray(
        values,
        dims=("time", "latitude", "longitude"),
        coords={
            "time": START + np.arange(frames) * 5 * MINUTE,
            "latitude": ("latitude", 50 - 0.01 * np.arange(size[0]), {"units": "degrees_north"}),
            "longitude": ("longitude", 5 + 0.01 * np.arange(size[1]), {"units": "degrees_east"}),
        },
        name="rain",
        attrs={"units": units, "long_name": "rain rate", **attrs},
    )


def forecast_of(data, steps=4, at=6):
    return persistence(data, init_time=data["time"].values[at], lead_times=np.arange(1, steps + 1) * 5 * MINUTE)


def archive_scores(data) -> xr.Dataset:
    leads = np.arange(1, 4) * 5 * MINUTE
    noisy = persistence(data, init_time=data["time"].values[:10], lead_times=leads) * 0.9
    return verify(noisy.assign_attrs(data.attrs), data, ["mse"], reference="persistence")


def panels(figure):
    return [axes for axes in figure.axes if axes.images and axes.axison and not hasattr(axes, "_colorbar")]


def drawn(figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.fixture(scope="module")
def data():
    return sequence()


def test_rows_are_history_truth_forecast_and_error_by_lead_time(data):
    forecast = forecast_of(data)
    figure = plot_forecast(forecast, data, data.isel(time=slice(3, 7)))
    maps = panels(figure)
    assert len(maps) == 16
    assert [axes.get_title() for axes in maps[:4]] == [
        "\N{MINUS SIGN}15 min\n00:15",
        "\N{MINUS SIGN}10 min\n00:20",
        "\N{MINUS SIGN}5 min\n00:25",
        "start\n00:30",
    ]
    assert [axes.get_title() for axes in maps[4:8]] == [
        "+5 min\n00:35",
        "+10 min\n00:40",
        "+15 min\n00:45",
        "+20 min\n00:50",
    ]
    assert [axes.get_ylabel() for axes in maps[::4]] == ["history", "truth", "forecast", "|error|"]
    for j in range(4):
        values = [axes.images[0].get_array() for axes in maps[j::4]]
        np.testing.assert_array_equal(values[0], data[3 + j])
        np.testing.assert_array_equal(values[1], data[7 + j])
        np.testing.assert_array_equal(values[2], data[6])
        np.testing.assert_allclose(values[3], np.abs(data.values[6] - data.values[7 + j]))


def test_values_share_one_scale_and_the_error_has_its_own(data):
    maps = panels(plot_forecast(forecast_of(data), data, data[:7]))
    assert len({id(axes.images[0].norm) for axes in maps[:12]}) == 1
    assert len({id(axes.images[0].norm) for axes in maps[12:]}) == 1
    assert maps[0].images[0].norm is not maps[12].images[0].norm


def test_colour_bars_and_title_carry_name_units_and_init_time(data):
    figure = plot_forecast(forecast_of(data), data)
    labels = {axes.get_ylabel() for axes in figure.axes}
    assert {"rain rate (mm h-1)", "|error| (mm h-1)"} <= labels
    assert figure.get_suptitle() == "rain rate (mm h-1), from 2019-06-10 00:30, persistence"


@pytest.mark.parametrize(
    ("units", "first"),
    # The last: an amount in the 5 minutes of a step.
    [("mm h-1", 0.1), ("mm/h", 0.1), ("kg m-2 s-1", 0.1 / 3600), ("mm", 0.1 / 12), ("kg m-2", 0.1 / 12)],
)
def test_rain_rates_have_discrete_levels_in_their_own_units(data, units, first):
    from matplotlib.colors import BoundaryNorm

    named = {"standard_name": "precipitation_amount"} if units in ("mm", "kg m-2") else {}
    norm = panels(plot_forecast(forecast_of(data.assign_attrs(units=units, **named))))[0].images[0].norm
    assert isinstance(norm, BoundaryNorm)
    assert norm.boundaries[0] == pytest.approx(first)


def test_other_quantities_have_an_even_scale_over_what_is_there(data):
    from matplotlib.colors import Normalize

    warm = (data + 270).assign_attrs(units="K", long_name="temperature")
    norm = panels(plot_forecast(forecast_of(warm), warm))[0].images[0].norm
    assert type(norm) is Normalize
    assert 269 < norm.vmin < 271


def test_missing_pixels_are_grey_in_values_and_error(data):
    holed = data.copy()
    holed[:, :, 10:] = np.nan
    for axes in panels(plot_forecast(forecast_of(data), holed, columns=2))[:2]:
        image = axes.images[0]
        assert image.get_array().mask[:, 10:].all()
        assert matplotlib.colors.to_hex(image.cmap.get_bad()) == "#b3b3b3"


def test_north_is_up_whatever_the_direction_of_the_axes(data):
    expected = drawn(plot_forecast(forecast_of(data), data))
    turned = data[:, ::-1, ::-1]
    np.testing.assert_array_equal(drawn(plot_forecast(forecast_of(turned), turned)), expected)
    mixed = forecast_of(turned).transpose("longitude", "lead_time", "latitude")
    labels = {axes.get_ylabel() for axes in panels(plot_forecast(mixed, data))}
    assert "forecast" in labels


def test_truth_on_flipped_axes_gives_the_same_error(data):
    expected = drawn(plot_forecast(forecast_of(data), data))
    np.testing.assert_array_equal(drawn(plot_forecast(forecast_of(data), data[:, ::-1])), expected)


def test_a_valid_time_that_truth_lacks_stays_empty(data):
    figure = plot_forecast(forecast_of(data, at=11), data)
    assert len(panels(figure)) == 2 + 4 + 2
    assert "no truth" in {text.get_text() for axes in figure.axes for text in axes.texts}


def test_many_lead_times_are_thinned_to_equal_steps_with_the_last(data):
    figure = plot_forecast(forecast_of(data, steps=7, at=2), columns=4)
    assert [axes.get_title().split("\n")[0] for axes in panels(figure)] == ["+5 min", "+15 min", "+25 min", "+35 min"]


def test_half_an_hour_of_two_minutes_has_five_columns_that_are_evenly_spread(data):
    figure = plot_forecast(forecast_of(sequence(frames=24), steps=15, at=6))
    assert [axes.get_title().split("\n")[0] for axes in panels(figure)] == [f"+{m} min" for m in (15, 30, 45, 60, 75)]


def test_several_forecasts_have_a_row_each_and_the_error_is_that_of_the_first(data):
    mean = forecast_of(data) * 0.5
    mean.attrs = data.attrs
    figure = plot_forecast({"mean": mean, "persistence": forecast_of(data)}, data, data[:7])
    maps = panels(figure)
    assert [axes.get_ylabel() for axes in maps[::4]] == ["history", "truth", "mean", "persistence", "|error|, mean"]
    for j in range(4):
        truth, first, second, error = (axes.images[0].get_array() for axes in maps[4 + j :: 4])
        np.testing.assert_array_equal(first, 0.5 * data[6])
        np.testing.assert_array_equal(second, data[6])
        np.testing.assert_allclose(error, np.abs(0.5 * data.values[6] - truth))
    assert len({id(axes.images[0].norm) for axes in maps[:16]}) == 1
    assert figure.get_suptitle() == "rain rate (mm h-1), from 2019-06-10 00:30"


def test_another_forecast_is_taken_from_the_same_init_time_and_at_the_same_lead_times(data):
    times = data["time"].values
    archive = persistence(data, init_time=times[4:8], lead_times=np.array([10, 20]) * MINUTE)[..., ::-1, :]
    figure = plot_forecast({"one": forecast_of(data), "archive": archive})
    maps = panels(figure)
    assert len(maps) == 6
    np.testing.assert_array_equal(maps[4].images[0].get_array(), data[6])
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("no archive") == 2


def test_another_forecast_from_elsewhere_is_refused(data):
    one = forecast_of(data)
    with pytest.raises(RecipeError, match=r"plot of two: init_time .* is not in it"):
        plot_forecast({"one": one, "two": forecast_of(data, at=5)})
    with pytest.raises(DataError, match="two is on the grid"):
        plot_forecast({"one": one, "two": forecast_of(data[:, 2:])})
    with pytest.raises(DataError, match="plot of two: it is in K, expected the forecast's mm h-1"):
        plot_forecast({"one": one, "two": one.assign_attrs(units="K")})
    with pytest.raises(RecipeError, match="one is called truth, as another row is"):
        plot_forecast({"one": one, "truth": one})
    with pytest.raises(RecipeError, match="forecasts: are empty"):
        plot_forecast({})


def test_large_grids_are_thinned_when_drawn():
    data = sequence(frames=3, size=(900, 1300))
    image = panels(plot_forecast(forecast_of(data, steps=1, at=1)))[0].images[0]
    assert image.get_array().shape == (300, 325)


def test_months_are_counted_in_days_and_longitudes_beyond_180_are_west():
    size = (4, 8)
    days = START + np.arange(5) * np.timedelta64(30, "D").astype("timedelta64[ns]")
    wind = xr.DataArray(
        np.random.default_rng(0).normal(size=(5, *size)),
        dims=("time", "latitude", "longitude"),
        coords={
            "time": days,
            "latitude": ("latitude", [60.0, 20.0, -20.0, -60.0], {"units": "degrees_north"}),
            "longitude": ("longitude", 45.0 * np.arange(8), {"units": "degrees_east"}),
        },
        name="wind",
    )
    forecast = persistence(wind, init_time=days[1], lead_times=np.diff(days[1:4]) * [1, 2])
    figure = plot_forecast(forecast, wind, wind)
    titles = [axes.get_title().splitlines()[0] for axes in panels(figure) if axes.get_title()]
    assert titles == [f"{MINUS}30 d", "start", "+30 d", "+60 d"]
    labels = [tick.get_text() for axes in panels(figure) for tick in axes.get_xticklabels()]
    assert any(label.endswith("°W") for label in labels)
    assert not any(label.startswith("300") for label in labels)


def test_an_interval_that_reaches_far_does_not_hide_the_curves(data):
    scores = archive_scores(data)
    scores["mse_skill_lower"] = scores["mse_skill_lower"] - 1e14
    figure = plot_scores(scores, ["mse_skill"])
    low, high = figure.axes[0].get_ylim()
    assert low >= -1.001  # one below the line of no skill
    assert low < float(scores["mse_skill"].min()) < high


def test_an_archive_needs_an_init_time(data):
    archive = persistence(data, init_time=data["time"].values[:3], lead_times=np.array([5, 10]) * MINUTE)
    with pytest.raises(RecipeError, match=r"it has 3 of init_time and none is chosen.*pass init_time="):
        plot_forecast(archive)
    assert "00:05" in plot_forecast(archive, init_time="2019-06-10T00:05").get_suptitle()
    assert "00:10" in plot_forecast(archive, init_time=data["time"].values[2]).get_suptitle()
    with pytest.raises(RecipeError, match="one of 2019-06-10T00:00, 2019-06-10T00:05, 2019-06-10T00:10"):
        plot_forecast(archive)
    with pytest.raises(RecipeError, match="init_time 2020-01-01 is not in it"):
        plot_forecast(archive, init_time="2020-01-01")


def test_another_init_time_than_a_forecast_has_is_refused(data):
    assert "00:30" in plot_forecast(forecast_of(data), init_time="2019-06-10T00:30").get_suptitle()
    with pytest.raises(RecipeError, match="init_time 2019-06-10T00:35 is not in it, expected one of 2019-06-10T00:30"):
        plot_forecast(forecast_of(data), init_time="2019-06-10T00:35")


@pytest.mark.parametrize("dim", ["channel", "band"])
def test_channels_are_chosen_by_label(data, dim):
    both = xr.concat([data, data * 2], xr.Variable(dim, ["near", "far"]))
    forecast = forecast_of(both.transpose("time", dim, ...))
    with pytest.raises(RecipeError, match="2 of channel and none is chosen, expected one of near, far"):
        plot_forecast(forecast, both)
    figure = plot_forecast(forecast, both, channel="far")
    np.testing.assert_array_equal(panels(figure)[0].images[0].get_array(), 2 * data[7])
    assert "channel far" in figure.get_suptitle()


def test_variables_are_chosen_and_bring_their_units(data):
    both = xr.concat([data, data], xr.Variable("variable", ["rain", "flow"])).assign_coords(
        units=("variable", ["mm h-1", "K"])
    )
    forecast = forecast_of(both)
    with pytest.raises(RecipeError, match="2 of variable"):
        plot_forecast(forecast)
    figure = plot_forecast(forecast, both, variable="flow")
    assert figure.get_suptitle().startswith("flow (K), from ")


def test_an_ensemble_is_drawn_as_its_mean_or_one_member(data):
    one = forecast_of(data)
    members = xr.concat([one, one * 3], xr.Variable("realization", [0, 1]), combine_attrs="override")
    figure = plot_forecast(members)
    np.testing.assert_allclose(panels(figure)[0].images[0].get_array(), 2 * data[6])
    assert figure.get_suptitle().endswith("mean of 2 members")
    figure = plot_forecast(members, realization=1)
    np.testing.assert_allclose(panels(figure)[0].images[0].get_array(), 3 * data[6])
    assert "realization 1" in figure.get_suptitle()
    assert "mean of" not in figure.get_suptitle()


def test_grids_without_coordinates_and_in_metres_are_drawn(data):
    bare = data.drop_vars(["latitude", "longitude"])
    assert drawn(plot_forecast(forecast_of(bare), bare)).size
    metres = data.rename(latitude="y", longitude="x").assign_coords(
        y=("y", 600_000 - 1000.0 * np.arange(20), {"units": "m"}), x=("x", 1000.0 * np.arange(24), {"units": "m"})
    )
    figure = plot_forecast(forecast_of(metres), metres)
    assert panels(figure)[-4].get_xlabel() == "x (km)"


def test_constant_and_all_missing_fields_are_drawn_without_warnings(data):
    for values in (data * 0, data * np.nan, (data * 0 + 280).assign_attrs(units="K")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drawn(plot_forecast(forecast_of(values), values, values[:7]))


@pytest.mark.parametrize("size", [(40, 12), (8, 40)])
def test_nothing_is_cut_at_the_edge_of_the_figure(size):
    data = sequence(size=size)
    scores = verify(archive(data), data, ["mse", "csi"], reference="persistence")
    one = forecast_of(data).isel(lead_time=[0])
    for figure in (plot_forecast(one), plot_forecast(forecast_of(data), data, data[:7]), plot_scores(scores)):
        drawn(figure)
        inside = figure.get_tightbbox(figure.canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert inside.x0 >= -0.01
        assert inside.y0 >= -0.01
        assert inside.x1 <= width + 0.01
        assert inside.y1 <= height + 0.01


def test_figures_use_no_pyplot_and_leave_settings_alone(tmp_path):
    code = """
import sys, numpy as np, xarray as xr, matplotlib
before = matplotlib.rcParams.copy()
from sa_nowcast.plotting import plot_forecast
t = np.datetime64('2020-01-01', 'ns') + np.arange(3) * np.timedelta64(5, 'm')
a = xr.DataArray(np.random.default_rng(0).random((3, 5, 6)), dims=('time', 'y', 'x'), coords={'time': t})
from sa_nowcast.verification import persistence
plot_forecast(persistence(a[:2], lead_times=np.array([5]) * np.timedelta64(1, 'm')), a).savefig(sys.argv[1])
assert 'matplotlib.pyplot' not in sys.modules
assert 'torch' not in sys.modules
assert before == matplotlib.rcParams.copy()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "figure.png")], check=True)


def test_missing_matplotlib_is_answered_with_the_install_command(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingLibraryError, match=re.escape(install("plot"))):
        plot_forecast(forecast_of(data))


def archive(data):
    return persistence(data, init_time=data["time"].values[:10], lead_times=np.arange(1, 4) * 5 * MINUTE) * 0.9


def test_score_curves_hold_scores_reference_and_interval(data):
    scores = verify(archive(data), data, ["mse", "csi"], [1.0, 10.0], reference="persistence")
    figure = plot_scores(scores)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:4] == ["mse", "csi, ≥ 1 mm h-1", "csi, ≥ 10 mm h-1", "mse skill"]
    mine, other = figure.axes[0].lines[:2]
    np.testing.assert_array_equal(mine.get_xdata(), [5, 10, 15])
    np.testing.assert_array_equal(mine.get_ydata(), scores["mse"])
    np.testing.assert_array_equal(other.get_ydata(), scores["mse_persistence"])
    assert figure.axes[0].get_xlabel() == "lead time (min)"
    assert len(figure.axes[3].collections) == 1


def test_several_models_share_panels_and_one_reference(data):
    scores = verify(archive(data), data, ["mse"], reference="persistence")
    figure = plot_scores({"one": scores, "two": scores * 2}, ["mse"])
    assert [line.get_label() for line in figure.axes[0].lines] == ["one", "persistence", "two"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two", "persistence"]


def test_curves_of_channels_are_chosen_by_label(data):
    both = xr.concat([data, data * 2], xr.Variable("band", ["near", "far"])).transpose("time", "band", ...)
    scores = verify(archive(both), both, ["mse"])
    with pytest.raises(RecipeError, match=r"2 of channel and none is chosen, expected one of near, far.*pass channel="):
        plot_scores(scores)
    line = plot_scores(scores, channel="far").axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), scores["mse"].sel(band="far"))


def test_unknown_curves_are_refused_with_the_known_ones(data):
    scores = verify(archive(data), data, ["mse", "csi"], [1.0])
    with pytest.raises(RecipeError, match="mae is no curve in them, expected one of mse, csi"):
        plot_scores(scores, ["mae"])
    with pytest.raises(RecipeError, match="threshold 7 is not in them, expected one of 1"):
        plot_scores(scores, ["csi"], thresholds=[7])
    with pytest.raises(RecipeError, match="scores: are empty"):
        plot_scores({})


def test_an_animation_has_a_picture_for_each_lead_time(data, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="animations are read back with Pillow: pip install pillow")
    path = animate(forecast_of(data), tmp_path / "x.gif", data)
    with image.open(path) as film:
        assert film.n_frames == 4
        assert film.info["duration"] == 250
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.gif"]


def test_an_animation_of_several_forecasts_has_a_panel_each_on_a_picture_that_fits_a_page(data, tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="animations are read back with Pillow: pip install pillow")
    from sa_nowcast.plotting import forecast as room

    given = []
    draw = room.moving_pictures
    monkeypatch.setattr(room, "moving_pictures", lambda *args: given.append(args) or draw(*args))
    one = forecast_of(data)
    path = animate({"mean": one, "matched": one * 2, "persistence": one}, tmp_path / "x.gif", data)
    ((shown, *_),) = given
    assert list(shown) == ["truth", "mean", "matched", "persistence"]
    np.testing.assert_array_equal(shown["truth"][2], data[9])
    np.testing.assert_array_equal(shown["matched"][2], 2 * data[6])
    with image.open(path) as film:
        assert film.n_frames == 4
        assert film.width < 1200
        seen = np.asarray(film.convert("RGB"))
        assert 5 <= np.flatnonzero((seen < 255).any(axis=(1, 2)))[-1] - len(seen) + 20 <= 15


def test_a_gif_keeps_its_most_frequent_colours_and_writes_what_changes_once(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="animations are read back with Pillow: pip install pillow")
    from sa_nowcast.plotting.animation import write_animation

    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (12, 3)).astype(np.uint8)
    noise = colours[generator.integers(0, 12, (120, 160))]
    edges = generator.integers(0, 256, (400, 3)).astype(np.uint8)  # more than a palette has
    pictures = []
    for i in range(4):
        picture = noise.copy()
        picture[0, :100] = edges[100 * i : 100 * (i + 1)]
        picture[60 + i, 40:60] = colours[i]
        pictures.append(picture)
    write_animation(pictures, tmp_path / "four.gif", 4)
    write_animation(pictures[:1], tmp_path / "one.gif", 4)
    with image.open(tmp_path / "four.gif") as film:
        for i, picture in enumerate(pictures):
            film.seek(i)
            np.testing.assert_array_equal(np.asarray(film.convert("RGB"))[1:], picture[1:])
    assert (tmp_path / "four.gif").stat().st_size < 1.2 * (tmp_path / "one.gif").stat().st_size


def test_an_animation_refuses_other_formats_and_unwritable_places(data, tmp_path):
    with pytest.raises(RecipeError, match=r"the file is x\.avi, expected a name that ends with \.gif or \.mp4"):
        animate(forecast_of(data), tmp_path / "x.avi")
    with pytest.raises(RecipeError, match="frames_per_second is 100, expected at most 50 for a GIF"):
        animate(forecast_of(data), tmp_path / "x.gif", frames_per_second=100)
    for name in ("x.gif", "x.mp4"):
        with pytest.raises(StorageError, match="cannot be written"):
            animate(forecast_of(data), tmp_path / "absent" / name)


def test_truth_and_history_may_be_datasets(data, tmp_path):
    whole = xr.Dataset({"rain": data, "other": data * 2})
    forecast = forecast_of(data)
    figure = plot_forecast(forecast, whole, whole.isel(time=slice(3, 7)))
    np.testing.assert_array_equal(panels(figure)[4].images[0].get_array(), data[7])
    animate(forecast.isel(lead_time=[0]), tmp_path / "x.gif", whole)


def shown(path) -> tuple[list[np.ndarray], float]:
    """The pictures of an animation as a player shows them, (height, width, 3), and how many a second."""
    av = pytest.importorskip("av", reason="animations need PyAV: pip install av")
    with av.open(str(path)) as film:
        frames = [
            frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for frame in film.decode(video=0)
        ]
        return frames, float(film.streams.video[0].average_rate)


def test_an_mp4_shows_what_the_gif_shows_on_an_even_number_of_pixels(data, tmp_path):
    pytest.importorskip("av", reason="animations need PyAV: pip install av")
    image = pytest.importorskip("PIL.Image", reason="animations are read back with Pillow: pip install pillow")
    odd = data.isel(latitude=slice(0, 11))
    animate(forecast_of(odd), tmp_path / "x.gif", odd)
    path = animate(forecast_of(odd), tmp_path / "x.mp4", odd, frames_per_second=2.5)
    frames, rate = shown(path)
    assert rate == 2.5
    assert len(frames) == 4
    with image.open(tmp_path / "x.gif") as film:
        for i, frame in enumerate(frames):
            film.seek(i)
            picture = np.asarray(film.convert("RGB"))
            height, width = picture.shape[:2]
            assert frame.shape == (height + height % 2, width + width % 2, 3)
            # Lossy, and colours are shared by 2 by 2 pixels: all but the edges of fine structure agree.
            assert np.median(abs(frame[:height, :width].astype(int) - picture)) <= 1
            assert abs(frame[:height, :width].astype(int) - picture).mean() < 6
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.gif", "x.mp4"]


def test_an_animation_keeps_colours_and_gets_a_white_edge_where_a_side_is_odd(tmp_path):
    pytest.importorskip("av", reason="animations need PyAV: pip install av")
    from sa_nowcast.plotting.animation import write_animation

    colours = [(215, 48, 39), (26, 152, 80), (47, 126, 188)]
    write_animation([np.full((33, 51, 3), colour, np.uint8) for colour in colours], tmp_path / "x.mp4", 4)
    frames, _ = shown(tmp_path / "x.mp4")
    for colour, frame in zip(colours, frames, strict=True):
        assert frame.shape == (34, 52, 3)
        np.testing.assert_allclose(frame[:24, :40], np.broadcast_to(colour, (24, 40, 3)), atol=4)
        assert frame[33].min() > 200


def test_the_program_ffmpeg_makes_the_animation_that_pyav_makes():
    pytest.importorskip("av", reason="animations need PyAV: pip install av")
    from matplotlib.animation import FFMpegWriter

    if not FFMpegWriter.isAvailable():
        pytest.skip("matplotlib finds no ffmpeg: install it")
    import io
    from fractions import Fraction

    from sa_nowcast.plotting import animation

    picture = np.full((32, 48, 3), 255, np.uint8)
    picture[8:24, 8:40] = (215, 48, 39)
    both = [
        shown_bytes(io.BytesIO(content))
        for content in (
            animation._by_ffmpeg([picture] * 3, Fraction(4), FFMpegWriter.bin_path()),
            animation._by_av([picture] * 3, Fraction(4)),
        )
    ]
    assert [len(frames) for frames in both] == [3, 3]
    # They thin the colours out differently, which is seen at edges alone.
    assert np.median(abs(both[0][0].astype(int) - both[1][0])) <= 1
    for frames in both:
        np.testing.assert_allclose(frames[0][12:20, 12:36], np.broadcast_to((215, 48, 39), (8, 24, 3)), atol=4)


def shown_bytes(stream) -> list[np.ndarray]:
    import av

    with av.open(stream) as film:
        return [frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for frame in film.decode(video=0)]


def test_a_failed_animation_leaves_the_old_one_and_nothing_else(data, tmp_path):
    path = tmp_path / "x.mp4"
    path.mkdir()
    with pytest.raises(StorageError, match=r"x\.mp4: cannot be written"):
        animate(forecast_of(data).isel(lead_time=[0]), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.mp4"]


def test_an_mp4_without_ffmpeg_and_pyav_is_answered_with_the_install_command(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingLibraryError, match=r"neither is installed.*\.gif.*" + re.escape(install("film"))):
        animate(forecast_of(data), tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def coast(tmp_path, monkeypatch):
    """A cartopy whose only coastline, at its coarsest scale, runs from 5.02 E, 49.85 N to 5.1 E, 49.95 N."""
    cartopy, shapefile = (
        pytest.importorskip("cartopy", reason="coastlines need cartopy: pip install cartopy"),
        pytest.importorskip("shapefile", reason="a coastline is written with pyshp: pip install pyshp"),
    )
    pytest.importorskip("cartopy.io.shapereader", reason="coastlines need cartopy: pip install cartopy")
    monkeypatch.setitem(cartopy.config, "data_dir", tmp_path / "cartopy")
    monkeypatch.setitem(cartopy.config, "pre_existing_data_dir", tmp_path / "absent")
    path = tmp_path / "cartopy/shapefiles/natural_earth/physical/ne_110m_coastline"
    path.parent.mkdir(parents=True)
    with shapefile.Writer(str(path), shapeType=shapefile.POLYLINE) as writer:
        writer.field("name", "C")
        writer.line([[(5.02, 49.85), (5.1, 49.95)], [(100.0, 0.0), (101.0, 1.0)]])
        writer.record("coast")
    return path.with_suffix(".shp")


def coasts(figure) -> list[list[np.ndarray]]:
    from matplotlib.collections import LineCollection

    return [
        [path.vertices for item in axes.collections if isinstance(item, LineCollection) for path in item.get_paths()]
        for axes in panels(figure)
    ]


def test_coastlines_lie_where_the_grid_is(data, coast):
    figure = plot_forecast(forecast_of(data), data, coastlines=True)
    assert len(coasts(figure)) == 12
    for lines in coasts(figure):
        (line,) = lines
        np.testing.assert_allclose(line, [[5.02, 49.85], [5.1, 49.95]])
    assert coasts(plot_forecast(forecast_of(data)))[0]
    assert not coasts(plot_forecast(forecast_of(data), coastlines=False))[0]


def test_coastlines_are_found_on_a_grid_from_0_to_360_degrees(data, coast):
    turned = data.assign_coords(longitude=data["longitude"] + 360)
    (line,) = coasts(plot_forecast(forecast_of(turned), coastlines=True))[0]
    np.testing.assert_allclose(line[:, 0], [365.02, 365.1])


@pytest.mark.parametrize("unit", ["m", "km"])
def test_coastlines_are_projected_by_the_grid_mapping(data, coast, unit):
    pyproj = pytest.importorskip("pyproj", reason="projections need pyproj: pip install pyproj")
    crs = pyproj.CRS.from_proj4("+proj=laea +lon_0=10 +lat_0=52 +datum=WGS84")
    there = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    east, north = there.transform(5.06, 49.9)
    size = {"m": 1.0, "km": 1000.0}[unit]
    grid = data.rename(latitude="y", longitude="x").assign_coords(
        y=("y", (north + 1500.0 * np.arange(10, -10, -1)) / size, {"units": unit}),
        x=("x", (east + 1500.0 * np.arange(-12, 12)) / size, {"units": unit}),
        crs=xr.DataArray(0, attrs=crs.to_cf()),
    )
    (line,) = coasts(plot_forecast(forecast_of(grid), coastlines=True))[0]
    expected = np.transpose(there.transform([5.02, 5.1], [49.85, 49.95])) / size
    np.testing.assert_allclose(line, expected, rtol=1e-9)


def test_coastlines_are_never_downloaded(data, coast, monkeypatch):
    import socket

    from sa_nowcast.plotting.coast import _lonlat_lines

    coast.unlink()
    _lonlat_lines.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    assert not coasts(plot_forecast(forecast_of(data)))[0]
    with pytest.raises(StorageError, match=r"no coastlines on this computer.*cartopy_feature_download physical"):
        plot_forecast(forecast_of(data), coastlines=True)


def test_maps_without_cartopy_have_no_coastlines_and_say_so_only_when_asked(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "cartopy", None)
    assert not coasts(plot_forecast(forecast_of(data)))[0]
    with pytest.raises(MissingLibraryError, match=r"cartopy is not installed\. Fix: " + re.escape(install("maps"))):
        plot_forecast(forecast_of(data), coastlines=True)


def test_coastlines_on_a_grid_without_a_place_are_refused(data):
    bare = data.drop_vars(["latitude", "longitude"]).rename(latitude="y", longitude="x")
    with pytest.raises(DataError, match="coastlines: the grid has no coordinates"):
        plot_forecast(forecast_of(bare), coastlines=True)
    metres = bare.assign_coords(y=("y", 1e3 * np.arange(20), {"units": "m"}), x=("x", 1e3 * np.arange(24)))
    with pytest.raises(DataError, match="coastlines: the grid has no grid mapping"):
        plot_forecast(forecast_of(metres), coastlines=True)


def test_a_notebook_shows_the_figure_as_a_picture(data):
    figure = plot_forecast(forecast_of(data))
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("step", "wanted"), [("100ms", (1, "s")), ("90s", (1, "s")), ("5min", (60, "min")), ("1D", (86400, "d"))]
)
def test_lead_times_are_told_in_a_unit_that_people_read(step: str, wanted: tuple[int, str]) -> None:
    from sa_nowcast.plotting.chosen import unit_of

    assert unit_of(np.arange(1, 4) * pd.Timedelta(step).to_timedelta64()) == wanted


def test_a_picture_across_the_antimeridian_is_drawn_in_one_piece():
    data = sequence()
    wrapped = (np.arange(24) + 168.0 + 180) % 360 - 180
    turned = data.assign_coords(longitude=("longitude", wrapped, data["longitude"].attrs))
    first, second = (panels(plot_forecast(forecast_of(d), truth=d))[0].images[0] for d in (data, turned))
    np.testing.assert_array_equal(first.get_array(), second.get_array())
    assert tuple(second.get_extent()[:2]) == (167.5, 191.5)


def test_truth_and_history_with_rounded_times_are_those_of_the_exact_ones():
    data = sequence()
    exact = drawn(plot_forecast(forecast_of(data), truth=data, history=data))
    other = rounded(data)
    np.testing.assert_array_equal(drawn(plot_forecast(forecast_of(data), truth=other, history=other)), exact)


@pytest.mark.parametrize("moment", ["2019-06-10T00:10Z", "2019-06-10T02:10+02:00", np.datetime64("2019-06-10T00:10")])
def test_the_init_time_to_draw_is_read_with_its_offset(moment):
    data = sequence()
    archive = persistence(data, init_time=data["time"].values[:6], lead_times=[5 * MINUTE, 10 * MINUTE])
    figure = plot_forecast(archive, init_time=moment)
    assert "2019-06-10 00:10" in figure.get_suptitle()
