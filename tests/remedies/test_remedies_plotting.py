"""Pictures and films."""

from __future__ import annotations

import pytest
import xarray as xr
from sequences import georeferenced, rain

from remedies.trial import assert_installs, remedy, uninstalled
from sa_nowcast.hindcast import hindcast


@pytest.fixture(scope="module")
def forecast(nowcaster) -> xr.DataArray:
    return nowcaster.forecast(georeferenced())


@remedy("plotting/attention.py", "pass point=(y, x)")
def test_a_point_outside_of_the_grid(nowcaster):
    from sa_nowcast.plotting import attention

    yield lambda: attention(nowcaster, rain(), point=(1e9, 0.0))
    yield lambda: attention(nowcaster, rain(), point=(5000.0, 3000.0))


@remedy("plotting/canvas.py", "pass …=")
def test_a_picture_of_an_archive():
    archive = hindcast(rain(), "persistence", 2).compute()
    fix = yield archive.sa_nowcast.plot
    name = fix.removeprefix("pass ").rstrip("=")
    yield lambda: archive.sa_nowcast.plot(**{name: archive[name].values[0]})


@remedy("plotting/canvas.py", 'pip install "sa-nowcast[plot]"')
def test_no_matplotlib(forecast, monkeypatch):
    def plot():
        with uninstalled(monkeypatch, "matplotlib"):
            from sa_nowcast.plotting.canvas import new_figure

            new_figure(3, 3, "constrained")

    fix = yield plot
    assert_installs(fix, "matplotlib")
    yield forecast.sa_nowcast.plot


@remedy("plotting/coast.py", 'pip install "sa-nowcast[maps]"')
def test_no_cartopy(forecast, monkeypatch):
    def plot():
        with uninstalled(monkeypatch, "cartopy"):
            forecast.sa_nowcast.plot(coastlines=True)

    fix = yield plot
    assert_installs(fix, "cartopy")
    yield forecast.sa_nowcast.plot


@remedy("plotting/film.py", 'pip install "sa-nowcast[film]", which brings PyAV, or write a .gif')
@pytest.mark.parametrize("how", ["install", "gif"])
def test_nothing_that_makes_films(how, forecast, monkeypatch, tmp_path):
    from matplotlib.animation import FFMpegWriter

    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))

    def film(name: str):
        with uninstalled(monkeypatch, "av"):
            forecast.sa_nowcast.animate(tmp_path / name)

    fix = yield lambda: film("a.mp4")
    assert_installs(fix, "av")
    yield lambda: film("a.gif") if how == "gif" else forecast.sa_nowcast.animate(tmp_path / "a.mp4")


@remedy("plotting/film.py", "write a .gif")
def test_no_encoder(forecast, monkeypatch, tmp_path):
    from matplotlib.animation import FFMpegWriter

    from sa_nowcast.plotting import film

    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    monkeypatch.setattr(film, "ENCODERS", ("an encoder that there is not",))
    yield lambda: forecast.sa_nowcast.animate(tmp_path / "a.mp4")
    yield lambda: forecast.sa_nowcast.animate(tmp_path / "a.gif")
