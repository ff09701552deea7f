"""Pictures and films."""

from __future__ import annotations

import pytest
import xarray as xr
from sequences import georeferenced, rain, weather

from remedies.trial import assert_installs, keywords, remedy, uninstalled
from sa_nowcast.hindcast import hindcast


@pytest.fixture(scope="module")
def forecast(nowcaster) -> xr.DataArray:
    return nowcaster.forecast(georeferenced())


@remedy("plotting/attention.py", "pass point=…", "pass point=(…, …)")
@pytest.mark.parametrize("grid", ["axes", "curvilinear"])
def test_a_point_outside_of_the_grid(grid, nowcaster):
    data = rain() if grid == "axes" else georeferenced()
    if grid != "axes":
        data = data.drop_vars(["x", "y", "crs"])
        del data["rain"].attrs["grid_mapping"]
    fix = yield lambda: data.sa_nowcast.plot_attention((1e9, 0.0), model=nowcaster)
    yield lambda: data.sa_nowcast.plot_attention(**keywords(fix), model=nowcaster)


@remedy("plotting/scales.py", "pass …=…")
def test_a_picture_of_an_archive():
    archive = hindcast(rain(), "persistence", 2).compute()
    fix = yield archive.sa_nowcast.plot
    yield lambda: archive.sa_nowcast.plot(**keywords(fix))


@remedy("computing/installing.py", "… …")
def test_no_matplotlib(forecast, monkeypatch):
    def plot():
        with uninstalled(monkeypatch, "matplotlib"):
            from sa_nowcast.plotting.canvas import new_figure

            new_figure(3, 3, "constrained")

    fix = yield plot
    assert_installs(fix, "matplotlib")
    yield forecast.sa_nowcast.plot


@remedy("computing/installing.py", "… …")
def test_no_cartopy(forecast, monkeypatch):
    def plot():
        with uninstalled(monkeypatch, "cartopy"):
            forecast.sa_nowcast.plot(coastlines=True)

    fix = yield plot
    assert_installs(fix, "cartopy")
    yield forecast.sa_nowcast.plot


@remedy("computing/installing.py", "… …")
def test_nothing_that_makes_animations(forecast, monkeypatch, tmp_path):
    from matplotlib.animation import FFMpegWriter

    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))

    def film(name: str):
        with uninstalled(monkeypatch, "av"):
            forecast.sa_nowcast.animate(tmp_path / name)

    fix = yield lambda: film("a.mp4")
    assert_installs(fix, "av")
    yield lambda: forecast.sa_nowcast.animate(tmp_path / "a.mp4")


@remedy("plotting/animation.py", "write a .gif")
def test_no_encoder(forecast, monkeypatch, tmp_path):
    from matplotlib.animation import FFMpegWriter

    from sa_nowcast.plotting import animation

    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    monkeypatch.setattr(animation, "ENCODERS", ("an encoder that there is not",))
    yield lambda: forecast.sa_nowcast.animate(tmp_path / "a.mp4")
    yield lambda: forecast.sa_nowcast.animate(tmp_path / "a.gif")


# --- what is chosen


@pytest.fixture(scope="module")
def several(weather_nowcaster) -> xr.Dataset:
    forecast = weather_nowcaster.forecast(weather())
    return xr.Dataset({str(n): forecast.sel(variable=n, drop=True) for n in forecast["variable"].values})


@remedy("plotting/scales.py", "pass variable=…")
def test_a_picture_of_several_forecasts(several):
    fix = yield several.sa_nowcast.plot
    yield lambda: several.sa_nowcast.plot(**keywords(fix))


@remedy("plotting/scales.py", "pass variable=…")
def test_a_picture_of_several_variables():
    fix = yield lambda: weather().sa_nowcast.plot()
    yield lambda: weather().sa_nowcast.plot(**keywords(fix))


@remedy("plotting/chosen.py", "leave …= out")
def test_what_belongs_to_frames_given_for_a_forecast(forecast):
    fix = yield lambda: forecast.sa_nowcast.plot(last=3)
    assert fix == "leave last= out"
    yield forecast.sa_nowcast.plot


@remedy("plotting/chosen.py", "… = ….isel(…=0)")
def test_truth_with_a_dimension_that_the_forecast_lacks(forecast):
    truth = georeferenced()["rain"].expand_dims(height=2)
    fix = yield lambda: forecast.sa_nowcast.plot(truth)
    names = {"truth": truth}
    exec(fix, names)
    yield lambda: forecast.sa_nowcast.plot(names["truth"])


@remedy("plotting/chosen.py", "convert the …")
def test_truth_in_other_units(forecast):
    truth = georeferenced()["rain"]
    other = (truth / 3600).assign_attrs(truth.attrs, units="m s-1")
    yield lambda: forecast.sa_nowcast.plot(other)
    yield lambda: forecast.sa_nowcast.plot((other * 3600).assign_attrs(truth.attrs))
