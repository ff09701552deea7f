"""`inflow`: what a forecast holds where the motion brings in what lay beyond the grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import sa_nowcast
from sa_nowcast.errors import RecipeError, StorageError
from sa_nowcast.forecasts.default_model import default_model
from sa_nowcast.hindcast import hindcast
from sa_nowcast.verification import reference


def moving(frames: int = 8, speed: int = 3) -> xr.Dataset:
    """Return rain that moves along x, by so many pixels a frame."""
    waves = np.random.default_rng(0).normal(size=(160, 160))
    smooth = np.fft.irfft2(np.fft.rfft2(waves) * np.exp(-((12 * np.hypot(*np.meshgrid(
        np.fft.fftfreq(160), np.fft.rfftfreq(160), indexing="ij"))) ** 2)), (160, 160))  # fmt: skip
    rain = np.maximum(smooth / smooth.std(), 0).astype(np.float32)
    values = np.stack([np.roll(rain, speed * t, 1)[:96, :112] for t in range(frames)])
    return xr.Dataset(
        {"rain": (("time", "y", "x"), values, {"units": "mm h-1"})},
        {
            "time": pd.date_range("2020-06-01", periods=frames, freq="5min"),
            "y": 1000.0 * np.arange(96)[::-1],
            "x": 1000.0 * np.arange(112),
        },
    )


def test_inflow_is_missing_where_it_is_asked_for_and_all_else_stays() -> None:
    ds = moving()
    filled, missing = (ds.sa_nowcast.forecast(steps=6, inflow=inflow) for inflow in ("filled", "missing"))
    assert np.isfinite(filled).all()
    gone = np.isnan(missing.values)
    np.testing.assert_array_equal(missing.values[~gone], filled.values[~gone])
    assert gone[5, :, :12].all()  # 18 pixels came in
    assert not gone[:, 16:-16, 24:-16].any()
    assert missing.attrs["sa_nowcast_inflow"] == "missing"
    assert "sa_nowcast_inflow" not in filled.attrs
    assert missing.attrs["sa_nowcast_model"] == filled.attrs["sa_nowcast_model"]


def test_the_matched_forecast_lacks_it_too() -> None:
    ds = moving()
    mean = ds.sa_nowcast.forecast(steps=3, inflow="missing")
    matched = ds.sa_nowcast.forecast(steps=3, inflow="missing", product="matched")
    np.testing.assert_array_equal(np.isnan(matched), np.isnan(mean))


def test_it_is_about_what_an_extrapolation_lacks() -> None:
    pytest.importorskip("pysteps", reason="pip install 'sa_nowcast[optical-flow]'")
    ds = moving()
    ours = np.isnan(ds.sa_nowcast.forecast(steps=6, inflow="missing").values)
    theirs = np.isnan(reference("extrapolation").forecast(ds, 6).values)
    assert (ours != theirs).mean() < 0.05


def test_an_archive_with_and_one_without_are_two_hindcasts(tmp_path: Path) -> None:
    ds, model = moving(), default_model()
    archive = hindcast(ds, model, 2, inflow="missing", to=tmp_path / "a.zarr")
    for i, init_time in enumerate(archive["init_time"].values):
        alone = ds.sa_nowcast.forecast(steps=2, inflow="missing", init_time=init_time)
        np.testing.assert_allclose(archive.isel(init_time=i).values, alone.values, rtol=1e-5, atol=1e-6)
    with pytest.raises(StorageError, match="another"):
        hindcast(ds, model, 2, to=tmp_path / "a.zarr")


def test_what_knows_no_motion_says_so(nowcaster: sa_nowcast.Nowcaster) -> None:
    ds = moving()
    with pytest.raises(RecipeError, match="inflow: 'dry', expected 'filled' or 'missing'"):
        ds.sa_nowcast.forecast(steps=2, inflow="dry")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="inflow: 'missing' of a network with output: frame, which knows no motion"):
        ds.sa_nowcast.forecast(steps=2, model=nowcaster, inflow="missing", grid="any")
    with pytest.raises(RecipeError, match=r"inflow: 'missing' of persistence, expected a network\. Fix: leave inflow"):
        hindcast(ds, "persistence", 2, inflow="missing")
