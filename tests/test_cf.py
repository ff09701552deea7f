from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from compliance_checker.runner import CheckSuite
from sequences import NETWORK, OPTIONS, georeferenced, rain, traffic, weather

from sa_nowcast.errors import DataError, StorageError
from sa_nowcast.forecasts.cf import to_dataset, write_forecast
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.storage.growing import no_values
from sa_nowcast.training.fit import fit
from sa_nowcast.verification import reference
from sa_nowcast.workflow import forecast_period


@pytest.fixture(scope="module")
def suite() -> CheckSuite:
    suite = CheckSuite()
    suite.load_all_available_checkers()
    return suite


@pytest.fixture(scope="module")
def geographic() -> xr.DataArray:
    """Rain on latitude and longitude, with the attributes that meteorological files have."""
    da = rain().rename(y="latitude", x="longitude")
    da.attrs |= {"cell_methods": "time: mean", "valid_min": 0.0, "ancillary_variables": "quality"}
    da["time"].attrs["axis"] = "T"
    return da.assign_coords(
        latitude=("latitude", 50 - 0.01 * np.arange(24), {"units": "degrees_north", "standard_name": "latitude"}),
        longitude=("longitude", 0.01 * np.arange(20), {"units": "degrees_east", "standard_name": "longitude"}),
    )


@pytest.fixture(scope="module")
def archive(nowcaster: Nowcaster) -> xr.DataArray:
    ds = georeferenced()
    terms = nowcaster.terms
    frames = Frames.from_xarray(ds)
    return forecast_period(nowcaster, ds, frames, (4, 16), history=terms.history, steps=terms.steps).compute()


def findings(suite: CheckSuite, path: Path) -> list[tuple[int, str]]:
    """What compliance-checker finds wrong by CF 1.11: weight (3: error, 2: recommendation) and section."""
    (groups, faults), *_ = suite.run_all(suite.load_dataset(str(path)), ["cf:1.11"]).values()
    assert not faults, faults
    assert len(groups) > 10
    return [(g.weight, g.name.split()[0]) for g in groups if g.value[0] < g.value[1]]


def _forecasts(nowcaster: Nowcaster, weather_nowcaster: Nowcaster, geographic: xr.DataArray) -> dict[str, xr.DataArray]:
    other = fit(geographic, history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)
    return {
        "projected": nowcaster.forecast(rain()),
        "grid mapping": nowcaster.forecast(georeferenced()),
        "geographic": other.forecast(geographic, 5),
        "several variables": weather_nowcaster.forecast(weather()),
        "no units or names": other.forecast(geographic).drop_attrs(deep=False),
    }


def test_written_forecasts_pass_the_compliance_checker(
    suite: CheckSuite, nowcaster: Nowcaster, weather_nowcaster: Nowcaster, geographic: xr.DataArray, tmp_path: Path
) -> None:
    for name, forecast in _forecasts(nowcaster, weather_nowcaster, geographic).items():
        path = write_forecast(forecast, tmp_path / f"{name}.nc")
        # Section 3.1.2 recommends to say whether a temperature is one on a scale; only the input could know.
        allowed = [(2, "§3.1.2")] if name == "several variables" else []
        assert (name, findings(suite, path)) == (name, allowed)


def test_a_written_archive_passes_too_but_for_the_order_of_dimensions(
    suite: CheckSuite, archive: xr.DataArray, tmp_path: Path
) -> None:
    path = write_forecast(archive, tmp_path / "a.nc")
    # Section 2.4 recommends that other dimensions than T, Z, Y, X stand to the left of them; lead_time stands between
    # init_time, which the checker takes for T, and y.
    assert findings(suite, path) == [(2, "§2.4")]


@pytest.fixture(scope="module")
def ensemble() -> xr.DataArray:
    """Members of STEPS, from one init time."""
    pytest.importorskip("cv2", reason="STEPS is by pysteps: pip install pysteps opencv-python-headless")
    return reference("steps", members=3).forecast(georeferenced(rain(5, 64, 64)), 2)


def test_written_sums_series_and_means_over_areas_pass_the_compliance_checker(
    suite: CheckSuite, archive: xr.DataArray, geographic: xr.DataArray, tmp_path: Path
) -> None:
    one = archive.isel(init_time=0)
    persistence = geographic.sa_nowcast.hindcast(6, model="persistence").isel(init_time=5).load()
    everywhere = {"all": np.ones((24, 20), dtype=bool)}
    derived = {
        "sums": one.sa_nowcast.accumulate("5min"),
        "geographic sums": persistence.sa_nowcast.accumulate("10min"),
        "series": one.sa_nowcast.at({"a": (3000, 5000), "b": (0, 0)}, coordinates="grid"),
        "geographic series": persistence.sa_nowcast.at({"a": (49.9, 0.1)}, method="linear"),
        "means": one.sa_nowcast.over(everywhere),
        "sums of means": persistence.sa_nowcast.over(everywhere).sa_nowcast.accumulate("15min"),
    }
    for name, field in derived.items():
        path = write_forecast(field, tmp_path / f"{name}.nc")
        assert (name, findings(suite, path)) == (name, [])
        write_forecast(field, tmp_path / f"{name}.zarr", "zarr")
        with xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False) as ds:
            np.testing.assert_array_equal(ds[field.name], field)


def test_a_written_ensemble_and_other_references_pass_the_compliance_checker(
    suite: CheckSuite, ensemble: xr.DataArray, tmp_path: Path
) -> None:
    still = reference("persistence").forecast(georeferenced(), 2)
    for name, forecast in {"ensemble": ensemble, "persistence": still}.items():
        assert forecast.encoding == {"grid_mapping": "crs"}
        assert findings(suite, write_forecast(forecast, tmp_path / f"{name}.nc")) == []


def test_a_plain_to_netcdf_passes_without_an_error(suite: CheckSuite, nowcaster: Nowcaster, tmp_path: Path) -> None:
    for name, data in {"projected": rain(), "grid mapping": georeferenced()}.items():
        nowcaster.forecast(data).to_netcdf(tmp_path / f"{name}.nc")
        found = findings(suite, tmp_path / f"{name}.nc")
        # Global attributes are a Dataset's; a DataArray has none to write. Leap seconds are a recommendation.
        assert (name, set(found)) == (name, {(2, "§2.6"), (2, "§4.4")})


def test_global_attributes_say_where_it_comes_from(nowcaster: Nowcaster) -> None:
    ds = to_dataset(nowcaster.forecast(rain()), title="a title")
    assert ds.attrs["Conventions"] == "CF-1.11"
    assert ds.attrs["title"] == "a title"
    assert nowcaster.digest in ds.attrs["source"]
    assert "2020-06-01T01:35" in ds.attrs["history"]
    assert "aaai.v34i07.6819" in ds.attrs["references"]


def test_the_forecast_that_is_written_stays_as_it_was(archive: xr.DataArray, tmp_path: Path) -> None:
    before = archive.copy(deep=True)
    encodings = {n: dict(c.encoding) for n, c in archive.coords.items()}
    attrs = {n: dict(c.attrs) for n, c in archive.coords.items()}
    to_dataset(archive)
    write_forecast(archive, tmp_path / "a.nc")
    write_forecast(archive, tmp_path / "a.zarr", "zarr")
    xr.testing.assert_identical(archive, before)
    assert {n: dict(c.encoding) for n, c in archive.coords.items()} == encodings
    assert {n: dict(c.attrs) for n, c in archive.coords.items()} == attrs


@pytest.mark.parametrize("file_format", ["netcdf", "zarr"])
def test_round_trips_keep_values_coordinates_and_attributes(
    nowcaster: Nowcaster,
    traffic_nowcaster: Nowcaster,
    archive: xr.DataArray,
    ensemble: xr.DataArray,
    tmp_path: Path,
    file_format: str,
) -> None:
    holed = georeferenced(rain().where(rain()["x"] > 2000))
    forecasts = (nowcaster.forecast(holed), traffic_nowcaster.forecast(traffic()), archive, ensemble.astype("f4"))
    for number, forecast in enumerate(forecasts):
        path = write_forecast(forecast, tmp_path / f"{number}", file_format)  # type: ignore[arg-type]
        opened = (
            xr.open_zarr(path, consolidated=False, decode_coords="all", decode_timedelta=True)
            if file_format == "zarr"
            else xr.open_dataset(path, decode_coords="all", decode_timedelta=True)
        )
        with opened as ds:
            back = ds[forecast.name]
            assert back.dims == forecast.dims
            assert back.dtype == np.float32
            np.testing.assert_array_equal(back.values, forecast.values)
            assert set(back.coords) == set(forecast.coords)
            for name, coord in forecast.coords.items():
                np.testing.assert_array_equal(back[name].values, coord.values)
                assert coord.attrs.items() <= back[name].attrs.items(), name
            assert forecast.attrs.items() <= back.attrs.items()
            assert back.encoding.get("grid_mapping") == forecast.encoding.get("grid_mapping")


def test_several_variables_are_written_as_variables_with_attributes_of_their_own(
    weather_nowcaster: Nowcaster, tmp_path: Path
) -> None:
    forecast = weather_nowcaster.forecast(weather())
    with xr.open_dataset(write_forecast(forecast, tmp_path / "w.nc"), decode_timedelta=True) as ds:
        assert set(ds.data_vars) == {"rain", "temperature"}
        for name, standard_name, units in (
            ("rain", "rainfall_rate", "mm h-1"),
            ("temperature", "air_temperature", "K"),
        ):
            assert ds[name].dims == ("lead_time", "y", "x")
            assert (ds[name].attrs["standard_name"], ds[name].attrs["units"]) == (standard_name, units)
            np.testing.assert_array_equal(ds[name], forecast.sel(variable=name))


def test_a_flipped_bit_in_a_written_zarr_store_is_found(nowcaster: Nowcaster, tmp_path: Path) -> None:
    path = write_forecast(nowcaster.forecast(rain()), tmp_path / "f.zarr", "zarr")
    (chunk,) = [f for f in (path / "rain").rglob("*") if f.is_file() and f.name != "zarr.json"]
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)
    with pytest.raises(Exception, match=r"[Cc]hecksum|[Cc]orrupt"):
        xr.open_zarr(path, consolidated=False)["rain"].load()


@pytest.mark.parametrize(("file_format", "name"), [("netcdf", "f.nc"), ("zarr", "f.zarr")])
def test_what_stood_there_is_replaced_whole_or_not_at_all(
    nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str, name: str
) -> None:
    def written() -> float:
        path = tmp_path / name
        ds = xr.open_zarr(path, consolidated=False) if path.is_dir() else xr.open_dataset(path)
        with ds:
            return float(ds["rain"].max())

    forecast = nowcaster.forecast(rain())
    write_forecast(forecast * 0, tmp_path / name, file_format)  # type: ignore[arg-type]
    write_forecast(forecast, tmp_path / name, file_format)  # type: ignore[arg-type]
    assert written() == float(forecast.max())

    def full(*args: object, **options: object) -> None:
        raise RuntimeError("NetCDF: HDF error")

    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset, "to_zarr" if file_format == "zarr" else "to_netcdf", full)
        with pytest.raises(StorageError, match="could not be written"):
            write_forecast(forecast * 0, tmp_path / name, file_format)  # type: ignore[arg-type]
    assert written() == float(forecast.max())
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_a_folder_that_is_no_store_is_never_replaced(nowcaster: Nowcaster, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "years.txt").write_text("of work")
    for file_format in ("netcdf", "zarr"):
        with pytest.raises(StorageError, match="a folder that is no Zarr store stands there"):
            write_forecast(nowcaster.forecast(rain()), tmp_path / "data", file_format)  # type: ignore[arg-type]
    assert os.listdir(tmp_path / "data") == ["years.txt"]
    assert os.listdir(tmp_path) == ["data"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        write_forecast(nowcaster.forecast(rain()), tmp_path / "file" / "f.nc")


def test_what_is_no_forecast_is_refused() -> None:
    with pytest.raises(DataError, match="rain: no coordinate lead_time, expected a forecast"):
        to_dataset(rain())


def test_a_template_lays_out_a_store_and_raises_when_it_is_computed(tmp_path: Path) -> None:
    template = no_values((4, 3, 2), np.float32)
    ds = xr.Dataset({"rain": (("init_time", "y", "x"), template)})
    ds["rain"].encoding["chunks"] = (2, 3, 2)
    ds.to_zarr(tmp_path / "s.zarr", compute=False, consolidated=False)
    with xr.open_zarr(tmp_path / "s.zarr", consolidated=False) as opened:
        assert opened["rain"].shape == (4, 3, 2)
        assert opened["rain"].dtype == np.float32
        assert opened["rain"].chunks == ((2, 2), (3,), (2,))
    with pytest.raises(AssertionError, match="a template of a store was computed"):
        template.compute()
