from __future__ import annotations

import enum
import logging
import pathlib
import uuid
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sequences import rain, weather

import sa_nowcast
from sa_nowcast.errors import DataError
from sa_nowcast.forecasts.cf import write_forecast
from sa_nowcast.metadata.attributes import match_names, normalised, plain, safe_name, safe_names, storable, text
from sa_nowcast.sources.opening import open_forecast
from sa_nowcast.verification import verify


class _Level(enum.Enum):
    SURFACE = "surface"
    NUMBER = 3


class _Crs:
    def to_wkt(self) -> str:
        return 'PROJCRS["made up"]'


class _Broken:
    def __str__(self) -> str:
        raise RuntimeError


# google/Xee#49, ecmwf/earthkit-data#825, pydata/xarray#3743: what libraries leave in attributes.
ATTRS: dict[str, Any] = {
    "dict": {"h": 35785863.0, "when": datetime(2024, 5, 1), "none": None, "inner": {"a": np.float32(1)}},
    "ordered": OrderedDict(a=1), "empty_dict": {}, "set": {"abi", "seviri"}, "frozenset": frozenset({3, 1}),
    "none": None, "true": True, "numpy_true": np.bool_(True), "moment": datetime(2024, 5, 1, 12),
    "zoned": datetime(2024, 5, 1, tzinfo=UTC), "day": date(2024, 5, 1), "stamp": pd.Timestamp("2024-05-01"),
    "nat": pd.NaT, "datetime64": np.datetime64("2024-05-01T00:05"), "timedelta": timedelta(minutes=5),
    "timedelta64": np.timedelta64(5, "m"), "period": pd.Period("2024-05"), "nested": [[1, 2], [3]],
    "matrix": np.eye(2), "strings": ["a", "b"], "objects": np.array(["a", "b"], dtype=object),
    "mixed": [1, "a", None], "nothing": [], "empty": np.array([]), "flags": [True, False],
    "flag_values": np.array([0, 1], dtype=np.int8), "huge": 2**70, "unsigned": np.uint64(2**63), "half": np.float16(1),
    "long": np.longdouble(1), "complex": 1 + 2j, "enum": _Level.SURFACE, "enum_number": _Level.NUMBER, "crs": _Crs(),
    "array": xr.DataArray(3.0), "vector": xr.DataArray([1.0, 2.0]), "series": pd.Series([1, 2]), "bytes": b"mm h-1",
    "not_utf8": b"\xe9t\xe9", "surrogate": "\udce9", "nul": "mm\0h", "path": pathlib.PurePosixPath("a/b"),
    "uuid": uuid.UUID(int=1), "decimal": Decimal("0.1"), "class": int, "function": len, "lambda": lambda: 1,
    "object": object(), "broken": _Broken(), "slice": slice(1, 2), "times": np.array(["2024-05-01"], "datetime64[s]"),
    "two_times": [datetime(2024, 5, 1), datetime(2024, 5, 2)], "nan": np.nan, "numpy_text": np.str_("text"),
    "structured": np.zeros(2, dtype=[("a", "i4")]), "namespace": SimpleNamespace(a=1), "ellipsis": ...,
    "long_text": "x" * 50_000, "many": np.zeros(20_000), "dataset": xr.Dataset(), "frame": pd.DataFrame({"a": [1]}),
    "CLASS": "DIMENSION_SCALE", "_NCProperties": "version=2", "a/b": 1, " blank": 1, "": 1, "[x]": 1, 7: "seven",
    "missing_value": -1, "coordinates": "lat lon", "line\nbreak": 1, "k" * 300: 1, "tuple": (1, 2), "range": range(3),
}  # fmt: skip


@pytest.mark.parametrize("file_format", ["netcdf", "zarr"])
@pytest.mark.parametrize("key", list(ATTRS), ids=str)
def test_any_attribute_is_written_as_text_or_left_out(key: Any, file_format: str, tmp_path: Path) -> None:
    forecast = rain(10).sa_nowcast.forecast(steps=1)
    forecast.attrs[key] = ATTRS[key]
    forecast["x"].attrs[key] = ATTRS[key]
    before = dict(forecast.attrs)
    path = write_forecast(forecast, tmp_path / "f.out", file_format)  # type: ignore[arg-type]
    assert list(forecast.attrs) == list(before)
    assert all(forecast.attrs[k] is before[k] for k in before)
    with xr.open_dataset(path, engine="zarr" if file_format == "zarr" else "netcdf4", decode_timedelta=True) as back:
        np.testing.assert_array_equal(back["rain"].values, forecast.values)
        assert back["rain"].attrs["units"] == "mm h-1"


def test_what_attributes_mean_is_kept(tmp_path: Path) -> None:
    ds = storable(xr.Dataset({"v": ("x", np.arange(2.0), ATTRS)}))
    got = ds["v"].attrs
    assert got["dict"] == '{"h": 35785863.0, "when": "2024-05-01T00:00:00", "none": null, "inner": {"a": 1.0}}'
    assert got["set"] == '["abi", "seviri"]'
    assert got["moment"] == "2024-05-01T12:00:00"
    assert got["timedelta64"] == "P0DT0H5M0S"
    assert (got["true"], got["enum"], got["enum_number"], got["huge"]) == ("true", "surface", 3, str(2**70))
    assert got["crs"] == 'PROJCRS["made up"]'
    assert got["nested"] == "[[1, 2], [3]]"
    assert got["two_times"] == ["2024-05-01T00:00:00", "2024-05-02T00:00:00"]
    assert (got["bytes"], got["not_utf8"], got["path"]) == ("mm h-1", "été", "a/b")
    for gone in ("none", "nat", "nothing", "object", "broken", "many", "CLASS", "lambda"):
        assert gone not in got


def test_what_is_left_out_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    ds = xr.Dataset({"v": ("x", [1.0], {"only_here": None, "unit": "1"})})
    with caplog.at_level(logging.WARNING, "sa_nowcast"):
        storable(ds)
        storable(ds)
    assert [r.getMessage() for r in caplog.records] == [
        "left out of what is written, because no file can hold it: v.only_here"
    ]


@pytest.mark.parametrize("key", ["dict", "set", "none", "moment", "crs", "object", "matrix", "true", "huge"])
def test_archives_and_converted_stores_hold_them_too(key: str, tmp_path: Path) -> None:
    data = rain(12)
    data.attrs[key] = ATTRS[key]
    archive = data.sa_nowcast.hindcast(2, model="persistence", to=tmp_path / "a.zarr")
    assert archive.name == "rain"
    plan = sa_nowcast.convert(data.to_dataset(), tmp_path / "c.zarr")
    with sa_nowcast.open_zarr(tmp_path / "c.zarr") as back:
        np.testing.assert_array_equal(back["rain"].values, data.values)
    assert sa_nowcast.convert(data.to_dataset(), tmp_path / "d.zarr", dry_run=True).fingerprint == plan.fingerprint


COORDS: dict[str, Any] = {
    "crs_object": ((), np.array(_Crs(), dtype=object)), "none": ((), np.array(None, dtype=object)),
    "mixed": ("x", np.array([*range(18), None, "a"], dtype=object)), "half": ("x", np.zeros(20, np.float16)),
    "complex": ((), np.array(1j)), "long": ((), np.longdouble(1)), "with/slash": ("x", np.arange(20.0)),
    "": ((), 1.0), "time_with_units": ((), np.datetime64("2024-05-01", "ns"), {"units": "days", "calendar": "x"}),
    "filled": ("x", np.arange(20.0), {"_FillValue": -1.0, "missing_value": -1.0}), "bytes": ((), np.bytes_(b"abc")),
}  # fmt: skip


@pytest.mark.parametrize("file_format", ["netcdf", "zarr"])
@pytest.mark.parametrize("name", list(COORDS), ids=str)
def test_coordinates_that_no_file_can_hold_keep_no_forecast_from_being_written(
    name: str, file_format: str, tmp_path: Path
) -> None:
    data = rain(10).assign_coords({name: COORDS[name]})
    forecast = data.sa_nowcast.forecast(steps=1)
    path = write_forecast(forecast, tmp_path / "f.out", file_format)  # type: ignore[arg-type]
    np.testing.assert_array_equal(open_forecast(str(path)).values, forecast.values)
    assert data.sa_nowcast.hindcast(1, model="persistence", to=tmp_path / "a.zarr").sizes["lead_time"] == 1


# sgkit-dev/sgkit#62 and #81, and what else file systems, NetCDF or Zarr do not hold.
NAMES: list[Any] = [
    "rain rate [mm/h]", "/", "a\\b", "", " ", "..", ".", " rain", "rain ", "[mm]", "-x", "#", "__x", "zarr.json",
    "n" * 300, "é" * 150, "a\nb", 5, ("a", 1), "lead_time", "init_time", "valid_time", "y", "history_status", "1h",
    "dBZ/10", "x.y", "rain\t1", "日本/雨", "\u2028",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_any_name_is_stored_and_read_back_and_verified(name: Any, tmp_path: Path) -> None:
    data = rain(12).rename(None)
    data.name = name
    forecast = data.sa_nowcast.forecast(steps=2, init_time=data.time.values[8])
    whole = data.sa_nowcast.hindcast(2, model="persistence", to=tmp_path / "h.zarr")
    assert whole.sizes["init_time"] == 12
    for path in (
        write_forecast(forecast, tmp_path / "f.nc"),
        write_forecast(forecast, tmp_path / "f.zarr", "zarr"),
        tmp_path / "h.zarr",
    ):
        back = open_forecast(str(path))
        assert back.name
        assert back.attrs.get("long_name")
        if path.name != "h.zarr":
            np.testing.assert_array_equal(back.values, forecast.values)
            assert np.isfinite(float(verify(back, data, metrics=["mse"])["mse"][0]))


def test_the_old_name_becomes_the_long_name_where_there_is_none(tmp_path: Path) -> None:
    data = rain(10).rename("rain rate [mm/h]")
    del data.attrs["long_name"]
    back = open_forecast(str(write_forecast(data.sa_nowcast.forecast(steps=1), tmp_path / "f.nc")))
    assert (back.name, back.attrs["long_name"]) == ("rain_rate_mm_h", "rain rate [mm/h]")


def test_several_variables_with_such_names_are_stored_and_verified_by_name(tmp_path: Path) -> None:
    ds = weather(12)
    first, second = list(ds.data_vars)[:2]
    ds = ds[[first, second]].rename({first: "a/b", second: "a_b"}).rename({"y": "y [km/1]"})
    forecast = ds.sa_nowcast.forecast(steps=2, init_time=ds.time.values[8])
    for path in (write_forecast(forecast, tmp_path / "f.nc"), write_forecast(forecast, tmp_path / "f.zarr", "zarr")):
        back = open_forecast(str(path))
        assert set(back["variable"].values) == {"a_b", "a_b_2"}
        names = back.dims
        assert "y_km_1" in names
        scores = verify(back, ds.rename({"y [km/1]": "y_km_1"}), metrics=["mse"])
        wanted = verify(forecast, ds, metrics=["mse"])
        np.testing.assert_allclose(scores["mse"].sel(variable="a_b"), wanted["mse"].sel(variable="a_b"))
        np.testing.assert_allclose(scores["mse"].sel(variable="a_b_2"), wanted["mse"].sel(variable="a/b"))
    archive = ds.sa_nowcast.hindcast(2, model="persistence", to=tmp_path / "h.zarr")
    assert archive["variable"].values.tolist() == ["a/b", "a_b"]


def test_a_converted_store_has_safe_names_too(tmp_path: Path) -> None:
    data = rain(12).rename("rain rate [mm/h]").rename({"time": "time/utc"})
    sa_nowcast.convert(data.to_dataset(), tmp_path / "c.zarr", time="time/utc")
    with sa_nowcast.open_zarr(tmp_path / "c.zarr") as back:
        np.testing.assert_array_equal(back["rain_rate_mm_h"].values, data.values)
        assert back["rain_rate_mm_h"].dims[0] == "time_utc"


def test_safe_names_keep_what_is_safe_and_never_collide() -> None:
    assert safe_name("precip_rate") == "precip_rate"
    assert safe_name("rain rate [mm]") == "rain rate [mm]"
    assert safe_names(["a/b", "a_b", "a\\b", "a b"]) == {"a/b": "a_b_2", "a_b": "a_b", "a\\b": "a_b_3", "a b": "a b"}
    assert match_names(["a_b_2", "a b", "c"], ["a/b", "a_b", "a b"]) == {"a_b_2": "a/b", "a b": "a b"}


# h5netcdf/h5netcdf#27, h5py/h5py#1801: how libraries give text.
TEXTS = [
    "mm h-1", b"mm h-1", np.bytes_(b"mm h-1"), np.str_("mm h-1"), np.array(["mm h-1"]), np.array([b"mm h-1"]),
    np.array("mm h-1"), np.array(["mm h-1"], dtype=object), np.array(b"mm h-1", dtype=object), ["mm h-1"], (b"mm h-1",),
    b"mm h-1\0\0", "mm h-1  ", "mm h-1\n", np.array([["mm h-1"]]), np.array([b"mm h-1\0"], dtype="S8"),
    np.array(["mm h-1"], dtype=np.dtypes.StringDType()),
]  # fmt: skip


@pytest.mark.parametrize("value", TEXTS, ids=repr)
def test_text_is_text_however_it_was_read(value: Any) -> None:
    assert text(value) == "mm h-1"
    assert type(text(value)) is str
    data = rain(12)
    reference = data.sa_nowcast.forecast(steps=1, init_time=data.time.values[9])
    data.attrs = {"units": value}
    for coord in ("y", "x"):
        data[coord].attrs = {k: np.array([v.encode()]) for k, v in data[coord].attrs.items()}
    before = dict(data.attrs)
    forecast = data.sa_nowcast.forecast(steps=1, init_time=data.time.values[9])
    assert data.attrs["units"] is before["units"]
    assert forecast.attrs["units"] == "mm h-1"
    np.testing.assert_array_equal(forecast.values, reference.values)
    assert np.isfinite(float(forecast.sa_nowcast.verify(data, metrics=["mse"])["mse"][0]))


def test_attributes_that_are_set_after_the_first_use_count_too() -> None:
    data = rain(12)
    data.sa_nowcast.forecast(steps=1)
    for units in (b"mm h-1", np.array(["mm/5min"])):
        data.attrs["units"] = units
        assert data.sa_nowcast.forecast(steps=1).attrs["units"] == text(units)


def test_a_forecast_in_other_units_of_rain_is_not_scored() -> None:
    data = rain(12)
    forecast = data.sa_nowcast.forecast(steps=1, init_time=data.time.values[9])
    for units in ("mm/5min", "mm d-1", "0.1 mm h-1", "inch/hr", "kg m-2 s-1"):
        with pytest.raises(DataError, match="truth is in"):
            verify(forecast, data.assign_attrs(units=units), metrics=["mse"])
    for units in ("mm/(1 h)", "mm·h⁻¹", "l m-2 h-1", "5 mm (5 h)-1"):
        verify(forecast, data.assign_attrs(units=units), metrics=["mse"])


def test_what_holds_no_text_is_the_same_object() -> None:
    ds = weather(4)
    assert normalised(ds) is ds
    for value in (None, 1, np.float32(2), np.array([1, 2]), [1, 2]):
        assert plain(value) is value
