"""The picture of attention shows the network's own weights, at the right place and under the right name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from sequences import NETWORK, OPTIONS, rain, traffic

from sa_nowcast.errors import DataError, ModelError, RecipeError
from sa_nowcast.models.inspection import attention_map
from sa_nowcast.plotting import plot_attention
from sa_nowcast.training.fit import fit

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install matplotlib")

POINT = (12_000.0, 7_000.0)  # row 11 and column 7 of the grid of `rain`


@pytest.fixture(scope="module")
def deep():
    """Two layers, patches of 2, keys of 2 by 2 patches: no size of the grid below divides by both."""
    network = {**NETWORK, "hidden": (4, 4, 4), "patch": 2, "key_stride": 2}
    return fit(rain(height=23, width=21), history=4, steps=3, network=network, progress=False, **OPTIONS)


def maps(figure) -> dict[str, np.ndarray]:
    """The drawn weights by title; north up, west to the left."""
    return {
        axes.get_title(): np.asarray(axes.images[0].get_array())
        for axes in figure.axes
        if axes.images and axes.get_title().startswith("layer")
    }


def inputs(figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.get_title() == "last input"]


def query(figure) -> set[tuple[float, float]]:
    """Where the crosses are, (y, x)."""
    return {
        (float(line.get_ydata()[0]), float(line.get_xdata()[0]))
        for axes in figure.axes
        for line in axes.lines
        if line.get_marker() == "+"
    }


def weights_of(nowcaster, data, place, layer) -> dict[str, np.ndarray]:
    """What attention_map says of the last known frame, over what equal weights would be."""
    values = torch.from_numpy(data.values[-4:].copy())[None, :, None]
    scaled = nowcaster.scaling.to_network(values, torch)
    rows = attention_map(nowcaster.network, scaled, place, layer=layer)
    return {key: row[0].numpy() * row[0].numel() for key, row in rows.items()}


def test_weights_are_those_of_the_network_spread_over_the_pixels_they_stand_for(deep):
    data = rain(height=23, width=21)
    figure = plot_attention(deep, data, (float(data.y[11]), float(data.x[7])))
    drawn = maps(figure)
    for number, name, layer in ((1, "first", 0), (3, "last", 2)):
        expected = weights_of(deep, data, (11, 7), layer)
        for key, text in (("H", "hidden state h"), ("M", "memory m")):
            found = drawn[f"layer {number} ({name})\n{text}"]
            assert found.shape == (23, 21)
            for row in range(23):
                for column in range(21):
                    assert found[row, column] == pytest.approx(expected[key][row // 4, column // 4], rel=1e-5)
    assert len(drawn) == 4
    for frame in inputs(figure):
        np.testing.assert_array_equal(frame, data.values[-1])


def test_the_query_is_marked_in_the_coordinates_of_the_grid(nowcaster):
    figure = plot_attention(nowcaster, rain(), (12_300.0, 6_800.0))
    ((y, x),) = query(figure)
    assert y == pytest.approx(12_000)
    assert x == pytest.approx(7_000)
    (square,) = {(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for a in figure.axes[:1] for p in a.patches}
    # Rows 8 to 11 are 15 to 12 km, columns 4 to 7 are 4 to 7 km; half a pixel more on each side.
    np.testing.assert_allclose(square, (3_500, 15_500, 4_000, -4_000))


def test_the_picture_does_not_depend_on_how_the_data_are_laid_out(nowcaster):
    expected = plot_attention(nowcaster, rain(), POINT)
    for turned in (rain()[:, ::-1], rain()[:, :, ::-1], rain().transpose("x", "time", "y")):
        figure = plot_attention(nowcaster, turned, POINT)
        assert figure.get_suptitle() == expected.get_suptitle()
        assert query(figure) == query(expected)
        for name, weights in maps(expected).items():
            np.testing.assert_allclose(maps(figure)[name], weights, rtol=1e-5)


def test_weights_share_one_scale_centred_on_equal_weights(deep):
    figure = plot_attention(deep, rain(height=23, width=21), POINT)
    norms = [axes.images[0].norm for axes in figure.axes if axes.get_title().startswith("layer")]
    assert len({id(norm) for norm in norms}) == 1
    assert norms[0](1.0) == pytest.approx(0.5)
    assert norms[0].vmax >= max(weights.max() for weights in maps(figure).values())


def test_title_and_colour_bars_carry_network_point_init_time_and_units(nowcaster):
    figure = plot_attention(nowcaster, rain(), POINT, init_time="2020-06-01T01:00")
    assert figure.get_suptitle() == "attention of sa-convlstm at y 12 km, x 7 km, from 2020-06-01 01:00"
    labels = {axes.get_ylabel() for axes in figure.axes}
    assert {"rain rate (mm h-1)", "weight (1: all places alike)"} <= labels
    np.testing.assert_array_equal(inputs(figure)[0], rain().values[12])


def test_a_network_of_one_layer_has_one_row_and_layers_are_counted_from_one(nowcaster, deep):
    assert list(maps(plot_attention(nowcaster, rain(), POINT))) == [
        "layer 1 (first and last)\nhidden state h",
        "layer 1 (first and last)\nmemory m",
    ]
    data = rain(height=23, width=21)
    middle = maps(plot_attention(deep, data, (float(data.y[11]), float(data.x[7])), layers=[2]))
    assert list(middle) == ["layer 2\nhidden state h", "layer 2\nmemory m"]
    expected = weights_of(deep, data, (11, 7), 1)["M"]
    np.testing.assert_allclose(middle["layer 2\nmemory m"][::4, ::4], expected, rtol=1e-5)


def test_a_grid_without_coordinates_is_asked_by_row_and_column(traffic_nowcaster):
    figure = plot_attention(traffic_nowcaster, traffic(), (3, 5), shown="out")
    assert query(figure) == {(3.0, 5.0)}
    assert "at row 3, column 5" in figure.get_suptitle()
    np.testing.assert_array_equal(inputs(figure)[0], traffic().values[-1, 1])
    first = plot_attention(traffic_nowcaster, traffic(), (3, 5))
    np.testing.assert_array_equal(inputs(first)[0], traffic().values[-1, 0])
    with pytest.raises(RecipeError, match="shown: through is not in the data, expected one of in, out"):
        plot_attention(traffic_nowcaster, traffic(), (3, 5), shown="through")


def test_on_a_grid_that_is_thinned_the_query_stays_in_its_place(traffic_nowcaster):
    wide = traffic(6).pad(column=(0, 880), constant_values=0.0)  # 900 columns: drawn as 300
    figure = plot_attention(traffic_nowcaster, wide, (3, 600))
    assert inputs(figure)[0].shape == (24, 300)
    ((row, column),) = query(figure)
    assert row == 3
    assert column == pytest.approx((600 + 0.5) / 3 - 0.5)


def test_several_variables_are_drawn_by_their_names_and_units(weather_nowcaster):
    from sequences import weather

    figure = plot_attention(weather_nowcaster, weather(), POINT, shown="temperature")
    assert "temperature (K)" in {axes.get_ylabel() for axes in figure.axes}
    np.testing.assert_allclose(inputs(figure)[0], weather()["temperature"].values[-1])


@pytest.mark.parametrize("missing", [0.3, 0.9])
def test_missing_pixels_stay_grey_and_weights_are_everywhere(nowcaster, missing):
    data = rain()
    data[-1] = data[-1].where(np.random.default_rng(0).random(data.shape[1:]) > missing)
    figure = plot_attention(nowcaster, data, POINT)
    image = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(image), np.isnan(data.values[-1]))
    assert all(np.isfinite(weights).all() for weights in maps(figure).values())


def test_a_network_without_attention_is_refused_in_one_line():
    network = {**NETWORK, "name": "convlstm"}
    plain = fit(rain(), history=4, steps=3, network=network, progress=False, **OPTIONS)
    with pytest.raises(ModelError, match=r"^MODEL attention map: convlstm has no attention\.$"):
        plot_attention(plain, rain(), POINT)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"point": (12_000.0, 99_000.0)}, r"point: x 99000.0 is outside of the grid, expected x from 0 to 19000 m"),
        ({"point": (float("nan"), 0.0)}, "point: y nan is outside of the grid"),
        ({"point": 3}, r"point: 3, expected two numbers, \(y, x\)"),
        ({"layers": [2]}, "layers: 2 is not in the network, expected 'first', 'last' or 1 to 1"),
        ({"layers": ["top"]}, "layers: 'top' is not in the network"),
        ({"layers": []}, "layers: none is named"),
        ({"init_time": "yesterday evening"}, "init_time: 'yesterday evening', expected one time in UTC"),
        ({"grid": "all"}, "expected 'check' or 'any'"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_one_line(nowcaster, options, line):
    with pytest.raises(RecipeError, match=line):
        plot_attention(nowcaster, rain(), **{"point": POINT, **options})


def test_data_that_the_model_cannot_use_are_refused_as_in_a_forecast(nowcaster):
    with pytest.raises(DataError, match="the init time is not among the data's times"):
        plot_attention(nowcaster, rain(), POINT, init_time="2021-01-01")
    with pytest.raises(DataError, match="needs 4 frames, has 3"):
        plot_attention(nowcaster, rain(frames=3), POINT)
    with pytest.raises(ModelError, match="units 'K'"):
        plot_attention(nowcaster, rain().assign_attrs(units="K"), POINT)


def test_nothing_of_the_picture_is_cut(deep):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for size in ((23, 60), (60, 23)):
        figure = plot_attention(deep, rain(height=size[0], width=size[1]), (5_000.0, 5_000.0))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        inside = figure.get_tightbbox(canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert min(inside.x0, inside.y0) >= -0.01
        assert inside.x1 <= width + 0.01
        assert inside.y1 <= height + 0.01


@pytest.mark.slow
def test_real_temperature_is_drawn_with_its_place_in_degrees(real_data):
    with xr.open_dataset(real_data / "era5" / "era5_t2m_uk_2019-03-01_2019-03-20.nc") as era5:
        data = era5.isel(time=slice(0, 40)).load()
    options = {**OPTIONS, "crop": None}
    network = {**NETWORK, "patch": 1, "key_stride": 2}
    figure = plot_attention(
        fit(data, history=4, steps=2, network=network, progress=False, **options), data, (51.5, -0.1)
    )
    assert "at 51.5°N, 0°, from 2019-03-02 15:00" in figure.get_suptitle()
    assert "2 metre temperature (K)" in {axes.get_ylabel() for axes in figure.axes}
