from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pysteps import nowcasts
from pysteps.nowcasts import interface
from sequences import rain

from sa_nowcast.errors import DataError, ModelError, RecipeError
from sa_nowcast.forecasts.defaults import set_default_model
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.interop import pysteps as ours
from sa_nowcast.interop.conventions import from_convention, to_convention
from sa_nowcast.sources.radar import open_radar
from sa_nowcast.verification import persistence


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    before = dict(interface._nowcast_methods)
    ours.register()
    yield
    interface._nowcast_methods.clear()
    interface._nowcast_methods.update(before)


def _frames() -> np.ndarray[Any, np.dtype[np.float64]]:
    return rain().values.astype(np.float64)


def test_pysteps_finds_the_method_and_it_gives_what_the_nowcaster_gives(nowcaster: Nowcaster) -> None:
    method = nowcasts.get_method("SA_Nowcast")
    frames = _frames()
    expected = nowcaster.forecast(rain(), 4).values
    result = method(frames, np.zeros((2, 24, 20)), 4, model=nowcaster)
    assert (result.shape, result.dtype) == ((4, 24, 20), np.float64)
    np.testing.assert_array_equal(result, expected)
    set_default_model(nowcaster)
    np.testing.assert_array_equal(method(frames.astype(np.float32), None, [1, 3.0]), expected[[0, 2]])
    # Only the last frames count, as many as the model's history.
    np.testing.assert_array_equal(method(frames[-4:], None, 4), expected)
    result, seconds = method(frames, None, 4, measure_time=True)
    np.testing.assert_array_equal(result, expected)
    assert 0 < seconds < 60


def test_the_product_is_chosen_as_in_a_forecast(nowcaster: Nowcaster) -> None:
    method = nowcasts.get_method("sa_nowcast")
    expected = nowcaster.forecast(rain(), 3, product="matched").values
    np.testing.assert_array_equal(method(_frames(), None, 3, model=nowcaster, product="matched"), expected)
    with pytest.raises(RecipeError, match="product: 'median', expected 'mean' or 'matched'"):
        method(_frames(), None, 3, model=nowcaster, product="median")


def test_it_stands_where_a_method_of_pysteps_stood(nowcaster: Nowcaster) -> None:
    frames = _frames()
    arguments = (frames[-1], np.ones((2, 24, 20)), 3)
    extrapolated = nowcasts.get_method("extrapolation")(*arguments)
    ours = nowcasts.get_method("sa_nowcast")(frames, *arguments[1:], model=nowcaster)
    assert ours.shape == extrapolated.shape


def test_rows_from_south_to_north_are_turned_and_turned_back(nowcaster: Nowcaster) -> None:
    method = nowcasts.get_method("sa_nowcast")
    frames = _frames()
    expected = method(frames, None, 2, model=nowcaster)
    lower = method(frames[:, ::-1], None, 2, model=nowcaster, metadata={"yorigin": "lower", "unit": "mm/h"})
    np.testing.assert_array_equal(lower[:, ::-1], expected)
    assert np.abs(lower - expected).max() > 0.05


def test_missing_values_are_missing_whether_nan_or_infinite(nowcaster: Nowcaster) -> None:
    method = nowcasts.get_method("sa_nowcast")
    frames = _frames()
    frames[:, :, :3] = np.nan
    expected = method(frames, None, 2, model=nowcaster)
    assert np.isnan(expected[:, :, :3]).all()
    assert np.isfinite(expected[:, :, 3:]).all()
    frames[:, :, :3] = np.inf
    np.testing.assert_array_equal(method(frames, None, 2, model=nowcaster), expected)
    frames[-1] = np.nan
    with pytest.raises(DataError, match="every value is missing"):
        method(frames, None, 2, model=nowcaster)


def test_spacing_and_step_are_checked_where_they_are_given(nowcaster: Nowcaster) -> None:
    method = nowcasts.get_method("sa_nowcast")
    expected = method(_frames(), None, 2, model=nowcaster)
    np.testing.assert_array_equal(method(_frames(), None, 2, model=nowcaster, timestep=5.0, kmperpixel=1.0), expected)
    with pytest.raises(ModelError, match="step is 10 min, expected 5 min"):
        method(_frames(), None, 2, model=nowcaster, timestep=10)
    with pytest.raises(ModelError, match="grid spacing 2000 x 2000 m, expected 1000 x 1000 m"):
        method(_frames(), None, 2, model=nowcaster, kmperpixel=2)


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        ({"timesteps": 0}, RecipeError, "timesteps: 0, expected a whole number from 1 on"),
        ({"timesteps": True}, RecipeError, "timesteps: True"),
        ({"timesteps": []}, RecipeError, "timesteps"),
        ({"timesteps": [2, 1]}, RecipeError, "expected a whole number from 1 on, or an ascending list"),
        ({"timesteps": "three"}, RecipeError, "timesteps: 'three'"),
        ({"timesteps": [1, 1.5]}, RecipeError, "timesteps: 1.5, expected whole steps of the model"),
        ({"n_cascade_levels": 6}, RecipeError, "no option n_cascade_levels, expected model, metadata"),
        ({"precip": np.zeros((24, 20))}, DataError, r"precip: shape \(24, 20\), float64, expected numbers of shape"),
        ({"precip": np.zeros((3, 24, 20))}, DataError, "needs 4 frames, has 3"),
        ({"precip": np.full((4, 24, 20), "x")}, DataError, "expected numbers"),
        ({"precip": rain().values - 15}, DataError, "values down to -15, expected rain in mm h-1"),
        ({"velocity": np.zeros((2, 20, 24))}, DataError, r"velocity: shape \(2, 20, 24\), expected \(2, 24, 20\)"),
        ({"metadata": {"transform": "dB"}}, DataError, "transform 'dB'.*dB_transform"),
        ({"metadata": {"unit": "dBZ"}}, ModelError, "units 'dBZ', expected 'mm h-1'"),
        ({"model": "nowhere"}, ModelError, "no such folder"),
    ],
)
def test_what_cannot_be_nowcast_is_one_line(
    nowcaster: Nowcaster, change: dict[str, Any], error: type[Exception], line: str
) -> None:
    arguments = {"precip": _frames(), "velocity": None, "timesteps": 2, "model": nowcaster, **change}
    with pytest.raises(error, match=line) as caught:
        nowcasts.get_method("sa_nowcast")(**arguments)
    assert "\n" not in str(caught.value)


def test_a_model_of_several_channels_is_refused(traffic_nowcaster: Nowcaster) -> None:
    with pytest.raises(ModelError, match="channels in, out, expected one channel, as pysteps has"):
        nowcasts.get_method("sa_nowcast")(_frames(), None, 2, model=traffic_nowcaster)


def test_registering_twice_is_the_same_and_another_method_is_never_replaced() -> None:
    ours.register()
    ours.register("saconvlstm")
    assert nowcasts.get_method("saconvlstm") is ours.forecast
    with pytest.raises(RecipeError, match="'STEPS' is a method of pysteps already"):
        ours.register("STEPS")
    assert nowcasts.get_method("steps") is not ours.forecast


def test_the_package_alone_does_not_import_pysteps() -> None:
    code = "import sa_nowcast.interop.pysteps, sys; print('pysteps' in sys.modules, 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


# --- blending


def test_the_external_nowcast_is_the_analysis_and_then_the_forecast(
    projected: xr.DataArray, forecasts: dict[str, xr.DataArray]
) -> None:
    data = rain()
    rates = ours.to_blending(projected, data, transform=None)
    assert (rates.shape, rates.dtype) == ((1, 4, 24, 20), np.float64)
    np.testing.assert_array_equal(rates[0, 0], data.sel(time=projected["init_time"]))
    np.testing.assert_array_equal(rates[0, 1:], projected)
    decibels = ours.to_blending(projected, data)
    wet = rates >= 0.1
    np.testing.assert_allclose(decibels[wet], 10 * np.log10(rates[wet]))
    assert (decibels[~wet] == -15).all()
    assert 0 < wet.mean() < 1
    ensemble = forecasts["ensemble"]
    members = ours.to_blending(ensemble, data.isel(time=-1), transform=None)
    np.testing.assert_array_equal(members[:, 1:], ensemble)
    holed = ours.to_blending(forecasts["missing"], data)
    assert (np.isnan(holed[0, 1:]) == np.isnan(forecasts["missing"].values)).all()


def test_pysteps_blends_the_forecast_with_a_model(projected: xr.DataArray, tmp_path: Path) -> None:
    from pysteps.blending import steps as blending
    from pysteps.motion import get_method as motion
    from pysteps.utils.transformation import dB_transform

    sequence = rain(23, 64, 64)
    data = sequence[:20]
    # Labels of a forecast on what came to be: the small network of the tests is hardly trained.
    coords = {"lead_time": projected["lead_time"], "init_time": projected["init_time"]}
    perfect = sequence[20:].rename(time="lead_time").assign_coords(coords)
    nowcast, mirrored = (ours.to_blending(f, data) for f in (perfect, perfect.copy(data=perfect.values[:, :, ::-1])))
    observed, _ = dB_transform(data.values[-3:].astype(float), threshold=0.1, zerovalue=-15.0)
    nwp = np.roll(nowcast, 4, axis=2)
    with contextlib.redirect_stdout(io.StringIO()):
        velocity = motion("lucaskanade")(observed)

        def blended(field: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
            return blending.forecast(  # type: ignore[no-any-return]
                observed, nwp, velocity, np.broadcast_to(velocity, (1, 4, 2, 64, 64)).copy(), 3, 5.0,
                datetime.datetime(2020, 6, 1, 1, 35), 1,
                precip_nowcast=field, nowcasting_method="external_nowcast",
                n_cascade_levels=4, precip_thr=-10.0, kmperpixel=1.0, noise_method=None, vel_pert_method=None,
                mask_method=None, probmatching_method=None, resample_distribution=False, seed=1,
                outdir_path_skill=str(tmp_path),
            )  # fmt: skip

        result, other = blended(nowcast), blended(mirrored)
    assert result.shape == (1, 3, 64, 64)
    assert np.isfinite(result).all()
    # The blend follows the nowcast that it was given.
    for step in range(3):
        ours_, theirs = (np.abs(b[0, step] - nowcast[0, step + 1]).mean() for b in (result, other))
        assert ours_ < 0.5 * theirs, step


def test_what_cannot_be_blended_is_one_line(
    projected: xr.DataArray, archive: xr.DataArray, forecasts: dict[str, xr.DataArray]
) -> None:
    data = rain()
    for forecast, analysis, line in (
        (archive, data, "6 init times, expected one"),
        (forecasts["several variables"], data, "several variables"),
        (projected.isel(lead_time=[0, 2]), data, "lead times that are not 1, 2, ... steps"),
        (projected, data[:-1], "no frame at 2020-06-01T01:35"),
        (projected, data.isel(x=slice(1, None)), r"y \(24\), x \(19\), expected y \(24\), x \(20\)"),
        (projected, data.assign_coords(x=data["x"] + 1), "other x than the forecast"),
        (projected, data.assign_attrs(units="dBZ"), "analysis: units 'dBZ', expected mm h-1"),
        (projected.assign_attrs(units="K"), data, "rain: units 'K', expected mm h-1"),
    ):
        with pytest.raises(DataError, match=line):
            ours.to_blending(forecast, analysis)
    with pytest.raises(RecipeError, match="transform: 'sqrt'"):
        ours.to_blending(projected, data, transform="sqrt")  # type: ignore[arg-type]


# --- metadata


def test_the_exporter_of_pysteps_writes_the_names_that_the_convention_has(
    forecasts: dict[str, xr.DataArray], tmp_path: Path
) -> None:
    from pysteps.io.exporters import (
        close_forecast_files,
        export_forecast_dataset,
        initialize_forecast_exporter_netcdf,
    )

    for kind in ("projected", "ensemble", "geographic"):
        forecast = forecasts[kind]
        described = ours.to_metadata(forecast)
        with contextlib.redirect_stdout(io.StringIO()):
            exporter = initialize_forecast_exporter_netcdf(
                str(tmp_path), kind, datetime.datetime(2020, 6, 1, 1, 35), 5, forecast.sizes["lead_time"],
                (24, 20), described, n_ens_members=forecast.sizes.get("realization", 1),
            )  # fmt: skip
        export_forecast_dataset(forecast.values, exporter)
        close_forecast_files(exporter)
        converted = to_convention(forecast, "pysteps")
        assert isinstance(converted, xr.Dataset)
        with xr.open_dataset(tmp_path / f"{kind}.nc") as written:
            (name,) = [n for n, v in written.data_vars.items() if v.ndim >= 3]
            theirs, own = written[name], converted[name]
            assert own.dims == theirs.dims
            for coord in set(theirs.dims):
                if coord == "time":
                    np.testing.assert_array_equal(own[coord].values, theirs[coord].values)
                else:
                    np.testing.assert_allclose(own[coord], theirs[coord], rtol=1e-6, atol=1e-6)
                keys = {"axis", "units", "standard_name", "long_name"}
                for key in keys & theirs[coord].attrs.keys():
                    assert own[coord].attrs[key] == theirs[coord].attrs[key], (kind, coord, key)
            assert converted.attrs["projection"] == written.attrs["projection"] == described["projection"]
            for axis in ("lat", "lon"):
                if axis in converted:
                    assert converted[axis].dims == written[axis].dims


@pytest.mark.parametrize(
    ("folder", "engine", "pattern"), [("radar/mch/20170131", "mch_gif", "*.gif"), ("radar/knmi", "knmi_hdf5", "*.h5")]
)
def test_a_real_composite_goes_back_to_pysteps_as_its_importer_read_it(
    real_data: Path, folder: str, engine: str, pattern: str
) -> None:
    from pysteps.io import get_method

    files = sorted((real_data / folder).rglob(pattern))[:2]
    options = {"mch_gif": {"product": "AQC", "unit": "mm", "accutime": 5.0}, "knmi_hdf5": {"qty": "ACRR"}}
    values, _, theirs = get_method(engine, "importer")(str(files[1]), **options[engine])
    data = next(iter(open_radar(real_data / folder, engine).data_vars.values())).isel(time=slice(2))
    forecast = persistence(data, lead_times=[np.timedelta64(5, "m")])
    own = ours.to_metadata(forecast)
    units = {"m": 1.0, "km": 1000.0}[theirs["cartesian_unit"]]
    for key in ("x1", "x2", "y1", "y2", "xpixelsize", "ypixelsize"):
        assert own[key] == pytest.approx(float(theirs[key]) * units, abs=1e-6), key
    assert [own[k] for k in ("unit", "yorigin")] == [theirs[k] for k in ("unit", "yorigin")]
    converted = to_convention(forecast, "pysteps")
    assert isinstance(converted, xr.Dataset)
    np.testing.assert_allclose(converted["precip_accum"].isel(time=0), values, rtol=1e-6)
    assert converted["precip_accum"].attrs["units"] == "mm"
    back = from_convention(converted)
    xr.testing.assert_identical(back, forecast)
    assert back.attrs["units"] == "kg m-2"


def test_metadata_needs_a_regular_grid_with_a_projection(forecasts: dict[str, xr.DataArray]) -> None:
    projected = forecasts["projected"]
    described = ours.to_metadata(projected)
    assert [described[k] for k in ("x1", "x2", "y1", "y2")] == [-500, 19500, -500, 23500]
    assert (described["yorigin"], described["unit"], described["accutime"]) == ("upper", "mm/h", 5.0)
    assert "+proj=laea +lat_0=52 +lon_0=10" in described["projection"]
    assert ours.to_metadata(projected.isel(y=slice(None, None, -1)))["yorigin"] == "lower"
    with pytest.raises(DataError, match="no grid mapping"):
        ours.to_metadata(forecasts["one"])
    with pytest.raises(DataError, match="y is not regular"):
        ours.to_metadata(projected.isel(y=[0, 1, 3]))
    with pytest.raises(DataError, match="units 'K', expected mm h-1, mm or dBZ"):
        ours.to_metadata(projected.assign_attrs(units="K"))


def test_the_entry_point_of_pysteps_pull_request_418_is_the_method() -> None:
    (entry,) = importlib.metadata.entry_points(group="pysteps.plugins.nowcasts", name="sa_nowcast")
    assert entry.load() is ours.forecast
