"""What a notebook shows of a nowcaster: true, whole, and safe to show."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from sequences import georeferenced

from sa_nowcast.forecasts.nowcaster import Nowcaster


class _Table(HTMLParser):
    """Reads the rows of the table, and notes what is opened and not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def rows(self) -> dict[str, str]:
        cells = self.texts[1:]  # behind the heading
        return dict(zip(cells[::2], cells[1::2], strict=True))


def rows(nowcaster) -> dict[str, str]:
    return _Table(nowcaster._repr_html_()).rows


def test_it_says_network_channels_reach_grid_period_and_digest(nowcaster):
    found = rows(nowcaster)
    count = sum(weight.numel() for weight in nowcaster.network.parameters())
    assert found["network"] == f"sa-convlstm, 1 layer (4 channels), {count:,} parameters"
    assert found["channels"] == "rain (mm h-1)"
    assert found["forecast"] == "4 frames to 3, every 5 min: 15 min ahead"
    assert found["grid spacing"] == "1000 × 1000 m"
    assert found["trained on"] == nowcaster.provenance["training_period"].replace("/", " to ").replace("T", " ")
    assert found["validated on"].startswith("2020-06-01 ")
    assert found["digest"] == nowcaster.digest


def test_validation_loss_stands_beside_that_of_persistence(nowcaster):
    def loss(value, persistence):
        known = {**nowcaster.provenance, "validation_loss": value, "validation_persistence": persistence}
        return rows(replace(nowcaster, provenance=known))["validation loss"]

    assert loss(0.5, 2.0) == "0.5, 75.0 % below persistence (2)"
    assert loss(3.0, 2.0) == "3, 50.0 % above persistence (2)"
    assert loss(0.25, None) == "0.25"
    assert loss(0.25, 0.0) == "0.25, persistence 0: the frames of the validation period do not change"
    assert loss(None, None) == "none: trained without a validation period"


def test_several_channels_and_a_grid_without_coordinates_are_said(traffic_nowcaster, weather_nowcaster):
    assert rows(traffic_nowcaster)["grid spacing"] == "any: the training data had no coordinates"
    assert rows(weather_nowcaster)["channels"] == "rain (mm h-1), temperature (K)"


def test_the_projection_is_named(nowcaster):
    mapping = dict(georeferenced()["crs"].attrs)
    terms = replace(nowcaster.terms, projection={k: str(v) for k, v in mapping.items()})
    assert rows(replace(nowcaster, terms=terms))["grid spacing"] == "1000 × 1000 m, lambert azimuthal equal area"


def test_texts_are_escaped_and_nothing_is_loaded(nowcaster):
    evil = "<script src='https://example.org/x.js'>alert(1)</script>"
    terms = replace(nowcaster.terms, channels=((evil, "&<b>"),), grid_units='"><img onerror=x>')
    known = {**nowcaster.provenance, "training_period": evil, "validation_loss": evil}
    table = _Table(replace(nowcaster, terms=terms, provenance=known)._repr_html_())
    assert set(table.tags) == {"div", "strong", "table", "tr", "th", "td"}
    assert table.attributes == {"style"}
    assert table.open == []
    assert table.rows["channels"] == f"{evil} (&<b>)"


def test_colours_are_the_notebooks_own(nowcaster):
    html = nowcaster._repr_html_()
    assert "color:" not in html
    assert "background:none" in html
    assert "url(" not in html


def test_a_saved_model_says_the_same_and_one_without_provenance_says_what_it_can(nowcaster, saved):
    assert Nowcaster.load(saved)._repr_html_() == nowcaster._repr_html_()
    bare = rows(replace(nowcaster, provenance={}))
    assert "trained on" not in bare
    assert bare["channels"] == "rain (mm h-1)"
