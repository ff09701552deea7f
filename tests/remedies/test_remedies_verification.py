"""Scores, references and comparisons."""

from __future__ import annotations

import pytest
import xarray as xr
from sequences import rain

import sa_nowcast
from remedies.trial import assert_installs, keywords, remedy, uninstalled, value
from sa_nowcast.hindcast import hindcast
from sa_nowcast.verification import compare, verify


@pytest.fixture(scope="module")
def truth() -> xr.DataArray:
    return rain()


@pytest.fixture(scope="module")
def forecast(truth) -> xr.DataArray:
    return hindcast(truth[:-2], "persistence", 2).compute()


@remedy("verification/plan.py", "pass reference=…lead_times=forecast.lead_time, init_time=forecast.init_time)")
@pytest.mark.parametrize("name", ["extrapolation", "climatology"])
def test_the_name_of_a_reference(name):
    truth = rain(600)
    forecast = hindcast(truth[-8:-2], "persistence", 2).compute()
    fix = yield lambda: verify(forecast, truth, reference=name)
    theirs = value(fix.partition("reference=")[2], truth=truth, forecast=forecast)
    yield lambda: verify(forecast, truth, reference=theirs)


@remedy("verification/metrics.py", "thresholds=[1.0], with values that matter in your data")
def test_a_score_of_events_without_thresholds(forecast, truth):
    forecast, truth = (data.assign_attrs(units="K") for data in (forecast, truth))
    fix = yield lambda: verify(forecast, truth, ["csi"])
    yield lambda: verify(forecast, truth, ["csi"], **keywords(fix))


@remedy("verification/metrics.py", "give members along the dimension realization, or leave it out")
@pytest.mark.parametrize("how", ["give", "leave out"])
def test_a_score_of_members_without_members(how, forecast, truth):
    yield lambda: verify(forecast, truth, ["mse", "crps_fair"])
    if how == "give":
        members = xr.concat([forecast, 2 * forecast], "realization").assign_attrs(forecast.attrs)
        yield lambda: verify(members, truth, ["mse", "crps_fair"])
    else:
        yield lambda: verify(forecast, truth, ["mse"])


@remedy("verification/sample.py", "rename them")
def test_forecasts_on_differently_named_axes(forecast, truth):
    other = forecast.rename(y="row", x="column")
    yield lambda: compare({"a": forecast, "b": other}, truth)
    yield lambda: compare({"a": forecast, "b": other.rename(row="y", column="x")}, truth)


@remedy("verification/sums.py", "give data_range=(lowest, highest) in the data's units")
def test_values_beyond_the_range_of_a_picture(forecast, truth):
    yield lambda: verify(forecast, truth, ["psnr"])
    yield lambda: verify(forecast, truth, ["psnr"], data_range=(float(truth.min()), float(truth.max())))


@remedy("computing/installing.py", "… …")
def test_no_scikit_image(forecast, truth, monkeypatch):
    def score():
        with uninstalled(monkeypatch, "skimage"):
            verify(forecast, truth, ["ssim"], data_range=(0, 100))

    fix = yield score
    assert_installs(fix, "scikit-image")
    yield lambda: verify(forecast, truth, ["ssim"], data_range=(0, 100))


# --- what is scored


@remedy("verification/inputs.py", "pass one variable, such as …[…]", "pass a … with data")
@pytest.mark.parametrize("there", [True, False])
def test_a_truth_of_other_variables(there, forecast):
    several = xr.Dataset({"a": rain(), "b": rain(seed=1)}) if there else xr.Dataset()
    fix = yield lambda: verify(forecast, several)
    yield lambda: verify(forecast, value(fix, truth=several) if there else rain().to_dataset())


@remedy("verification/inputs.py", "rename or select the others")
@pytest.mark.parametrize("how", ["rename", "select"])
def test_a_dimension_that_is_not_of_space(how, forecast, truth):
    both = forecast.expand_dims(level=[1, 2], height=[3])
    yield lambda: verify(both, truth)
    if how == "select":
        yield lambda: verify(both.isel(level=0, height=0, drop=True), truth)
    else:
        members = both.isel(height=0, drop=True).rename(level="realization")
        yield lambda: verify(members, truth)


@remedy("verification/inputs.py", "open the … with xarray")
def test_a_path_as_truth(forecast, truth, tmp_path):
    truth.to_netcdf(tmp_path / "truth.nc")
    yield lambda: verify(forecast, str(tmp_path / "truth.nc"))
    yield lambda: verify(forecast, xr.open_dataarray(tmp_path / "truth.nc"))


@remedy("verification/inputs.py", "give what was observed")
def test_a_forecast_as_truth(forecast, truth):
    yield lambda: verify(forecast, forecast)
    yield lambda: verify(forecast, truth)


@remedy("verification/inputs.py", "open the file with decode_timedelta=True")
def test_lead_times_that_are_not_decoded(forecast, truth, tmp_path):
    sa_nowcast.verification  # noqa: B018
    forecast.to_dataset(name="rain").to_netcdf(tmp_path / "a.nc")
    options = {"decode_timedelta": False}
    fix = yield lambda: verify(xr.open_dataset(tmp_path / "a.nc", **options)["rain"], truth)
    yield lambda: verify(xr.open_dataset(tmp_path / "a.nc", **keywords(fix))["rain"], truth)


@remedy("verification/inputs.py", "give data that cover them, or drop those init times")
@pytest.mark.parametrize("how", ["cover", "drop"])
def test_a_truth_of_fewer_times(how, forecast, truth):
    yield lambda: verify(forecast, truth[:12])
    if how == "cover":
        yield lambda: verify(forecast, truth)
    else:
        yield lambda: verify(forecast.isel(init_time=slice(10)), truth[:12])


@remedy("verification/inputs.py", "regrid or crop the … to the forecast's grid")
@pytest.mark.parametrize("how", ["regrid", "crop"])
def test_a_truth_on_another_grid(how, forecast):
    larger = rain(width=24)
    shifted = rain().assign_coords(x=rain()["x"] + 300)
    yield lambda: verify(forecast, larger if how == "crop" else shifted)
    if how == "crop":
        yield lambda: verify(forecast, larger.sel(x=forecast["x"]))
    else:
        yield lambda: verify(forecast, shifted.interp(x=forecast["x"]))


@remedy("metadata/thresholds.py", "convert the …, or set attrs['units'] where it is missing")
@pytest.mark.parametrize("how", ["convert", "set"])
def test_a_truth_in_other_units(how, forecast, truth):
    other = (truth / 3600).assign_attrs(units="m s-1") if how == "convert" else truth.drop_attrs(deep=False)
    yield lambda: verify(forecast, other)
    if how == "convert":
        yield lambda: verify(forecast, (other * 3600).assign_attrs(units="mm h-1"))
    else:
        other.attrs["units"] = forecast.attrs["units"]


@remedy("metadata/thresholds.py", "every value is >= 0, so that no event could be missed: take a positive one")
def test_a_threshold_of_zero(forecast, truth):
    yield lambda: verify(forecast, truth, ["csi"], thresholds=[0.0])
    yield lambda: verify(forecast, truth, ["csi"], thresholds=[0.1])


@remedy("metadata/thresholds.py", "leave it out for the default")
def test_no_thresholds_in_the_list(forecast, truth):
    yield lambda: verify(forecast, truth, thresholds=[])
    yield lambda: verify(forecast, truth)


# --- references


@remedy("verification/named.py", 'sa_nowcast.reference("climatology", training=ds), with ds the frames to average')
def test_a_climatology_of_nothing(truth):
    fix = yield lambda: sa_nowcast.reference("climatology")
    yield lambda: value(fix, ds=truth)


@remedy("verification/references.py", "train on whole cycles at the forecast's steps, or take cycle='day'")
@pytest.mark.parametrize("how", ["whole", "day"])
def test_a_climatology_that_was_not_there_at_that_time_of_the_week(how):
    data = rain(100, 4, 4, step="3h")

    def make(training, **options):
        one = sa_nowcast.reference("climatology", training=training, **options)
        return one.forecast(data, lead_times=["3h"])

    fix = yield lambda: make(data[:20], cycle="week")
    yield lambda: make(data, cycle="week") if how == "whole" else make(data[:20], **keywords(fix))


@remedy(
    "verification/optical_flow.py",
    'sa_nowcast.reference("…", kilometres_per_pixel=1.0), with the spacing of your grid',
)
@pytest.mark.parametrize("name", ["steps", "steps-mean"])
def test_a_grid_without_a_spacing(name):
    bare = rain().drop_vars(["y", "x"])
    fix = yield lambda: sa_nowcast.reference(name, members=2).forecast(bare, lead_times=["5min"])
    yield lambda: value(fix).forecast(bare, lead_times=["5min"])


@remedy("computing/installing.py", "… …")
def test_no_pysteps(monkeypatch):
    def make():
        with uninstalled(monkeypatch, "cv2"):
            sa_nowcast.reference("extrapolation").forecast(rain(), lead_times=["5min"])

    fix = yield make
    assert_installs(fix, "opencv-python-headless")
    yield lambda: sa_nowcast.reference("extrapolation").forecast(rain(), lead_times=["5min"])
