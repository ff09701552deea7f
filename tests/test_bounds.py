from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from sequences import rain

from sa_nowcast.errors import DataError
from sa_nowcast.frames import Frames
from sa_nowcast.scaling import bounds_of


def bounds(
    folder: Path, attrs: dict[str, Any], dtype: str = "i2", *, raw: bool = False, zarr: bool = False
) -> tuple[float | None, float | None]:
    """Store values as they are packed, with attributes; open them, and return the bounds of a forecast."""
    da = rain(6)
    data = xr.DataArray(da.values.astype(dtype), dims=da.dims, coords=da.coords, attrs=attrs).to_dataset(name="v")
    if zarr:
        data.to_zarr(folder / "v.zarr", zarr_format=3, consolidated=False, mode="w")
        ds = xr.open_zarr(folder / "v.zarr", consolidated=False, chunks=None, mask_and_scale=not raw)
    else:
        data.to_netcdf(folder / "v.nc")
        ds = xr.open_dataset(folder / "v.nc", mask_and_scale=not raw)
    with ds:
        return bounds_of(Frames.from_xarray(ds).channels[0])


TENTHS = {"scale_factor": np.float32(0.5), "_FillValue": np.int16(-1)}
UNSIGNED = {"_Unsigned": "true", "scale_factor": np.float32(0.5), "add_offset": np.float32(0)}


@pytest.mark.parametrize("raw", [False, True], ids=["decoded", "mask_and_scale=False"])
@pytest.mark.parametrize(
    ("dtype", "attrs", "expected"),
    [
        # CF section 2.5.1: of the packed type, in packed units.
        ("i2", {**TENTHS, "valid_range": np.array([0, 200], "i2")}, (0, 100)),
        ("i2", {**TENTHS, "valid_min": np.int16(2)}, (1, None)),
        # Unidata/netcdf4-python#794: signed attributes of unsigned values.
        ("i2", {**UNSIGNED, "valid_range": np.array([0, -6], "i2")}, (0, 65530 / 2)),
        ("i1", {**UNSIGNED, "valid_max": np.int8(-2)}, (None, 127)),
        ("i1", {"_Unsigned": "true", "valid_range": np.array([0, -2], "i1")}, (0, 254)),
        ("u1", {"valid_range": np.array([0, -2], "i1")}, (0, 254)),
        ("i1", {**UNSIGNED, "valid_range": np.array([0, -1], "i1")}, (0, 127.5)),
        ("u1", {"_Unsigned": "false", "scale_factor": 1.0, "valid_range": np.array([128, 127], "u1")}, (-128, 127)),
        ("u1", {"_Unsigned": "false", "scale_factor": 1.0, "valid_range": np.array([-128, 127], "i1")}, (-128, 127)),
        # Unidata/netcdf4-python#703: of a wider type, in physical units.
        ("i2", {**TENTHS, "valid_max": np.float32(200)}, (None, 200)),
        ("i2", {**TENTHS, "valid_max": np.float64(200)}, (None, 200)),
        ("i2", {**TENTHS, "valid_max": np.int32(200)}, (None, 200)),
        ("i2", {**TENTHS, "valid_max": np.int64(40000)}, (None, 40000)),
        ("u1", {"scale_factor": 0.5, "valid_range": np.array([0, 100], "f8")}, (0, 100)),
        # Packed floats.
        ("f4", {"scale_factor": np.float64(2), "valid_max": np.float32(10)}, (None, 20)),
        ("f4", {"scale_factor": np.float64(2), "valid_max": np.float64(10)}, (None, 10)),
        # A scale below zero turns the order round.
        ("i2", {"scale_factor": -0.5, "add_offset": 10.0, "valid_range": np.array([0, 20], "i2")}, (0, 10)),
        ("i2", {"scale_factor": -0.5, "add_offset": 10.0, "valid_range": np.array([20, 0], "i2")}, (0, 10)),
        ("i2", {"scale_factor": -1.0, "valid_min": np.int16(0)}, (None, 0)),
        ("i2", {"scale_factor": -1.0, "valid_max": np.int16(5)}, (-5, None)),
        # Neither packed nor bounded: what has no sign cannot be below 0.
        ("u2", {}, (0, None)),
        ("u1", {"valid_max": np.uint8(200)}, (0, 200)),
        ("i2", {}, (None, None)),
        ("u2", {"scale_factor": 0.1, "add_offset": -5.0}, (None, None)),
        ("i2", {**TENTHS, "valid_range": "0, 100"}, (0, 100)),
        ("f4", {"valid_range": np.array([-np.inf, 3], "f4")}, (None, 3)),
    ],
)
def test_bounds_are_read_with_packing_sign_and_type(
    tmp_path: Path, dtype: str, attrs: dict[str, Any], expected: tuple[float | None, float | None], raw: bool
) -> None:
    found = bounds(tmp_path, attrs, dtype, raw=raw)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("raw", [False, True], ids=["decoded", "mask_and_scale=False"])
def test_json_holds_no_types_and_there_cf_holds(tmp_path: Path, raw: bool) -> None:
    packed = {**TENTHS, "valid_range": np.array([0, 200], "i2")}
    assert bounds(tmp_path, packed, zarr=True, raw=raw) == (0, 100)
    assert bounds(tmp_path, {**TENTHS, "valid_max": np.float32(200)}, zarr=True, raw=raw) == (None, 200)
    assert bounds(tmp_path, {**UNSIGNED, "valid_range": np.array([0, -6], "i2")}, zarr=True, raw=raw) == (0, 32765)


def test_a_bound_that_a_user_sets_on_decoded_values_is_in_their_units(tmp_path: Path) -> None:
    da = rain(6)
    da.to_dataset().to_netcdf(
        tmp_path / "a.nc", encoding={"rain": {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}}
    )
    with xr.open_dataset(tmp_path / "a.nc") as ds:
        ds["rain"].attrs |= {"valid_min": 1, "valid_max": 30}
        assert bounds_of(Frames.from_xarray(ds).channels[0]) == (1, 30)


@pytest.mark.parametrize(
    "attrs",
    [
        {"valid_range": np.array([0], "i2")},
        {"valid_range": np.array([0, 1, 2], "i2")},
        {"valid_range": "low to high"},
        {"valid_min": "none"},
        {"valid_min": np.float32(np.nan)},
        {"valid_min": np.int16(5), "valid_max": np.int16(2)},
        {"valid_range": np.array([5, 2], "i2")},
        {"valid_min": np.array([0, 1], "i2")},
    ],
    ids=str,
)
def test_what_is_no_bound_is_refused_by_name(tmp_path: Path, attrs: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"v: valid_.* is .*expected two numbers, the smaller first"):
        bounds(tmp_path, {**TENTHS, **attrs})


def test_the_largest_value_of_goes_rain_is_forecast(tmp_path: Path) -> None:
    # Unidata/netcdf4-python#794, as GOES-16 RRQPE is stored.
    da, scale = rain(10), np.float32(0.00152602)
    attrs = {"_FillValue": np.int16(-1), "_Unsigned": "true", "valid_range": np.array([0, -6], "i2"),
             "scale_factor": scale, "add_offset": np.float32(0), "units": "mm h-1"}  # fmt: skip
    stored = xr.DataArray((da.values / scale).round().astype("u2").view("i2"), dims=da.dims, coords=da.coords)
    stored.assign_attrs(attrs).to_dataset(name="RRQPE").to_netcdf(tmp_path / "goes.nc")
    with xr.open_dataset(tmp_path / "goes.nc") as ds:
        channel = Frames.from_xarray(ds).channels[0]
        assert bounds_of(channel) == pytest.approx((0, 65530 * float(scale)))
        assert float(ds.sa_nowcast.forecast(steps=1).max()) > 0.8 * float(ds["RRQPE"][-1].max())
