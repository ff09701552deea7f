"""Power spectra of real rain: against pysteps, a written-out transform and waves of known power."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sa_nowcast.errors import DataError
from sa_nowcast.sources.samples import open_sample
from sa_nowcast.verification import Statistics, collect_statistics, summarise, to_table, verify
from sa_nowcast.verification.table import from_table

from .conftest import forecast_of, observations

NAMES = ["spectra"]


@pytest.fixture(scope="module")
def truth():
    return open_sample()["precip_rate"][:6, 64:96, :32].load().fillna(0.0).drop_attrs(deep=True).assign_attrs(units="1")


@pytest.fixture(scope="module")
def forecast(truth):
    return forecast_of(truth, init=(0, 1, 2), leads=(1, 2), members=3, noise=0.3)


def plain(data):
    """Without coordinates in degrees: one pixel is as high as wide."""
    spatial = data.dims[-2:]
    return data.drop_vars(spatial).rename(dict(zip(spatial, ("y", "x"), strict=True)))


def test_spectra_equal_those_of_pysteps(forecast, truth):
    spectral = pytest.importorskip("pysteps.utils.spectral", reason="compares with pysteps: pip install pysteps")
    s = verify(plain(forecast), plain(truth), NAMES)
    np.testing.assert_allclose(s["wavelength"], 32 / np.arange(1, 17))
    for lead in range(2):
        seen = [spectral.rapsd(truth.values[i + lead + 1], fft_method=np.fft)[1:] for i in range(3)]
        made = [spectral.rapsd(forecast.values[m, i, lead], fft_method=np.fft)[1:] for m in range(3) for i in range(3)]
        own = s.isel(lead_time=lead)
        own = own.isel(wavelength=slice(0, 15))  # pysteps has none at two pixels
        np.testing.assert_allclose(own["spectrum_truth"], np.mean(seen, axis=0), rtol=1e-4)
        np.testing.assert_allclose(own["spectrum"], np.mean(made, axis=0), rtol=1e-4)
        np.testing.assert_allclose(own["spectrum_ratio"], np.mean(made, axis=0) / np.mean(seen, axis=0), rtol=1e-4)
    assert (s["spectra"] == 3).all()


@pytest.mark.parametrize(("height", "length", "dy", "dx"), [(24, 32, 1.0, 1.0), (15, 20, 2.0, 1.0), (21, 13, 1.5, 1.5)])
def test_spectra_equal_the_written_out_transform_with_missing_pixels(height, length, dy, dx):
    truth = observations(frames=4, y=height, x=length).astype(np.float64)
    axes = {"y": ("y", np.arange(height) * dy, {"units": "km"}), "x": ("x", np.arange(length) * dx, {"units": "km"})}
    truth = truth.assign_coords(axes)
    truth[2, 3:9, 4:8] = np.nan
    forecast = forecast_of(truth, init=(0, 1), leads=(1,), members=2)
    s = verify(forecast, truth, NAMES).isel(lead_time=0)
    side = max(height * dy, length * dx)
    number = int(side / max(dy, dx) / 2)
    np.testing.assert_allclose(s["wavelength"], side / np.arange(1, number + 1))
    assert s["wavelength"].attrs["units"] == "km"
    rows, columns = np.arange(height), np.arange(length)
    expected = np.zeros((3, number))
    for init in range(2):
        there = np.isfinite(truth.values[init + 1])
        fields = [truth.values[init + 1], *forecast.values[:, init, 0]]
        fields = [np.where(there, f - f[there].mean(), 0.0) for f in fields]
        for ring in range(1, number + 1):
            power = [[] for _ in fields]
            for k in range(height):
                for j in range(length):
                    u, v = (k + height // 2) % height - height // 2, (j + length // 2) % length - length // 2
                    if round(round(side * np.hypot(u / height / dy, v / length / dx), 9)) == ring:
                        wave = np.exp(-2j * np.pi * (rows[:, None] * k / height + columns * j / length))
                        for values, field in zip(power, fields, strict=True):
                            values.append(abs((field * wave).sum()) ** 2 / field.size)
            expected[:, ring - 1] += np.mean(power, axis=1) / 2
    np.testing.assert_allclose(s["spectrum_truth"], expected[0], rtol=1e-9)
    np.testing.assert_allclose(s["spectrum"], expected[1:].mean(0), rtol=1e-9)


def test_a_wave_has_its_power_at_its_wavelength():
    truth = observations(frames=3, y=16, x=16)
    truth[:] = 5.0 + np.sin(2 * np.pi * np.arange(16) * 4 / 16)
    s = verify(forecast_of(truth, init=(0,), leads=(1,), noise=0.0) * 2, truth, NAMES).isel(lead_time=0)
    assert s["wavelength"].values[3] == 4.0
    assert s["spectrum_ratio"].values[3] == pytest.approx(4.0)
    power = s["spectrum_truth"].values
    assert power[3] > 0.99 * power.sum()


def test_a_frame_of_which_less_than_half_is_present_has_no_spectrum():
    truth = observations(frames=6, y=12, x=12)
    forecast = forecast_of(truth, init=(0, 1, 2), leads=(1,), noise=0.5)
    whole = verify(forecast[[0, 2]], truth, NAMES)
    truth[2, :7] = np.nan
    xr.testing.assert_allclose(verify(forecast, truth, ["spectrum"])["spectrum"], whole["spectrum"])
    assert (verify(forecast, truth, NAMES)["spectra"] == 2).all()


def test_spectra_add_up_over_init_times_and_are_kept_in_tables(forecast, truth):
    s = verify(forecast, truth, NAMES)
    parts = [collect_statistics(forecast[:, i], truth, NAMES) for i in ([0, 1], [2])]
    xr.testing.assert_identical(summarise(Statistics.total(parts)), s)
    xr.testing.assert_identical(verify(forecast.chunk(init_time=1), truth, NAMES), s)
    back = from_table(to_table(s))[""]["spectrum_ratio"]
    np.testing.assert_allclose(back.sel(wavelength=s["wavelength"]).transpose(*s["spectrum"].dims), s["spectrum_ratio"])


def test_spectra_are_of_pixels_and_of_means_over_a_time_and_not_of_areas(forecast, truth):
    s = verify(forecast, truth, [*NAMES, "mse"], scales=["4 pixels", "pixel", "4 min"])
    np.testing.assert_array_equal(s["spectrum"].sel(scale="pixel"), verify(forecast, truth, NAMES)["spectrum"])
    assert np.isnan(s["spectrum"].sel(scale="4 pixels")).all()
    assert s["spectrum"].sel(scale="4 min").isel(lead_time=1).notnull().all()
    assert s["mse"].sel(scale="4 pixels").notnull().all()


def test_frames_of_one_row_are_refused():
    truth = observations(y=1)
    with pytest.raises(DataError, match="frames are 1 × 7, expected 2 × 2 or larger"):
        verify(forecast_of(truth), truth, NAMES)
