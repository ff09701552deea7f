from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from derived_fields import ensemble, frames, lazy
from sequences import georeferenced, rain, rounded, weather, wrf

from sa_nowcast.derived import accumulate
from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.forecasts.cf import to_dataset
from sa_nowcast.interop import from_convention, to_convention
from sa_nowcast.metadata.cells import described

MINUTE = np.timedelta64(1, "m")


def _loops(values: np.ndarray, count: int, hours: float) -> np.ndarray:
    """Sums of `count` steps of (step, y, x), pixel by pixel, of a rate per hour."""
    result = np.empty((len(values) // count, *values.shape[1:]))
    for window in range(len(result)):
        for row in range(values.shape[1]):
            for column in range(values.shape[2]):
                total = 0.0
                for step in range(count):
                    total += float(values[window * count + step, row, column])
                result[window, row, column] = total * hours
    return result


@pytest.mark.parametrize("chunked", [False, True])
def test_sums_of_a_rate_are_the_written_out_ones_of_every_member(chunked: bool) -> None:
    forecast = lazy(ensemble()) if chunked else ensemble()
    got = accumulate(forecast, "8min")
    assert (got.chunks is not None) == chunked
    assert got.dims == forecast.dims
    assert got.dtype == np.float32
    for member in range(3):
        for init in range(2):
            expected = _loops(ensemble().values[member, init, :, :10, :12], 4, 2 / 60)
            np.testing.assert_allclose(got.values[member, init, :, :10, :12], expected, rtol=1e-6)
    # 9 lead times of 2 minutes: the last two minutes make no window.
    np.testing.assert_array_equal(got["lead_time"].values / MINUTE, [8, 16])
    np.testing.assert_array_equal(got["lead_time_start"].values / MINUTE, [0, 8])
    np.testing.assert_array_equal(got["valid_time"], got["init_time"] + got["lead_time"])


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        got = accumulate(lazy(ensemble()), "8min")
    np.testing.assert_array_equal(got, accumulate(ensemble(), "8min"))


def test_a_missing_step_makes_the_sum_of_its_pixel_missing_and_no_other() -> None:
    field = rain(12)
    field[7, 3, 4] = np.nan
    missing = np.isnan(accumulate(field, "15min").values)
    assert np.argwhere(missing).tolist() == [[2, 3, 4]]  # the frames at 00:35, 00:40 and 00:45 are of the third window


def test_windows_of_frames_end_on_the_clock_and_have_the_frames_up_to_their_end() -> None:
    field = frames().sel(time=slice("2019-06-10T00:06", None))
    got = accumulate(field, "20min")
    assert [str(t)[11:16] for t in got["time"].values] == ["00:40", "01:00"]
    inner = field.sel(time=slice("2019-06-10T00:22", "2019-06-10T00:40"))
    assert inner.sizes["time"] == 10
    np.testing.assert_allclose(got[0], inner.values.astype(np.float64).sum(0) / 30, rtol=1e-6)


def test_a_window_that_lacks_a_frame_is_left_out() -> None:
    field = rain(36).isel(time=np.r_[0:14, 15:36])  # without 01:10
    got = accumulate(field, "30min")
    assert [str(t)[11:16] for t in got["time"].values] == ["00:30", "01:00", "02:00", "02:30"]
    shifted = rain(36).assign_coords(time=rain(36)["time"] + np.timedelta64(90, "s"))
    got = accumulate(shifted, "30min")
    assert [str(t)[11:16] for t in got["time"].values] == ["00:30", "01:00", "01:30", "02:00", "02:30", "03:00"]
    np.testing.assert_allclose(got[0], rain(36).values[:6].sum(0) / 12, rtol=1e-6)


def test_chosen_lead_times_give_the_windows_that_they_fill() -> None:
    forecast = ensemble().isel(lead_time=[0, 1, 2, 3, 5, 6, 7])
    got = accumulate(forecast, "4min")
    np.testing.assert_array_equal(got["lead_time"].values / MINUTE, [4, 8, 16])
    np.testing.assert_array_equal(got, accumulate(ensemble(), "4min").isel(lead_time=[0, 1, 3]))


def test_sums_of_sums_are_the_sums_of_longer_windows() -> None:
    twice = accumulate(accumulate(rain(37), "15min"), "30min")
    once = accumulate(rain(37), "30min")
    np.testing.assert_allclose(twice, once, rtol=1e-6, atol=1e-6)
    assert twice.attrs["units"] == once.attrs["units"] == "mm"
    assert twice.attrs["cell_methods"] == "time: sum (interval: 15 min)"
    xr.testing.assert_equal(twice["time"], once["time"])


def test_running_sums_end_at_every_frame() -> None:
    field = rain(30)
    got = accumulate(field, "30min", every="5min")
    assert got.sizes["time"] == 25
    for number, end in enumerate(got["time"].values):
        inner = field.sel(time=slice(end - 25 * MINUTE, end))
        np.testing.assert_allclose(got[number], inner.values.astype(np.float64).sum(0) / 12, rtol=1e-6)
    np.testing.assert_array_equal(got["time"] - got["time_start"], np.full(25, 30 * MINUTE))


def test_sums_of_a_hindcast_are_verified_against_running_sums_of_the_truth() -> None:
    da = rain(40)
    hindcast = da.sa_nowcast.hindcast(6, model="persistence").isel(init_time=slice(1, 30))
    scores = hindcast.sa_nowcast.accumulate("15min").sa_nowcast.verify(
        da.sa_nowcast.accumulate("15min", every="5min"), metrics=["mae"]
    )
    errors = []
    for init in range(1, 30):
        observed = da.values[init + 4 : init + 7].astype(np.float64).sum(0) / 12
        errors.append(np.abs(3 * da.values[init].astype(np.float64) / 12 - observed).mean())
    np.testing.assert_allclose(scores["mae"][1], np.mean(errors), rtol=1e-5)


def test_amounts_that_overlap_or_leave_time_out_are_refused() -> None:
    with pytest.raises(DataError, match="amounts of 30 min every 5 min, expected amounts of one step each"):
        accumulate(accumulate(rain(40), "30min", every="5min"), "1h")
    with pytest.raises(DataError, match="amounts of 10 min every 30 min"):
        accumulate(accumulate(rain(40), "10min", every="30min"), "1h")
    product = rain(13).assign_attrs(units="kg m-2", standard_name="precipitation_amount", accumulation_minutes=5.0)
    got = accumulate(product, "15min")
    assert got.attrs["accumulation_minutes"] == 15.0
    np.testing.assert_allclose(got[0], product[1:4].sum("time"), rtol=1e-6)
    with pytest.raises(DataError, match="amounts of 1 h every 5 min"):
        accumulate(product.assign_attrs(accumulation_minutes=60), "15min")


UNITS = {
    "mm h-1": (None, "mm", 1 / 12),
    "mm/5min": (None, "mm", 1.0),
    "in h-1": (None, "in", 1 / 12),
    "kg m-2 s-1": ("precipitation_flux", "kg m-2", 300.0),
    "m s-1": ("rainfall_rate", "m", 300.0),
    "W m-2": ("surface_downwelling_shortwave_flux_in_air", "J m-2", 300.0),
    "vehicles h-1": (None, "vehicles", 1 / 12),
}


@pytest.mark.parametrize("units", UNITS)
def test_a_rate_in_any_units_gives_the_amount_in_its_own(units: str) -> None:
    name, expected, factor = UNITS[units]
    field = rain(6).assign_attrs(units=units)
    field.attrs.pop("standard_name")
    field.attrs |= {"standard_name": name} if name else {}
    got = accumulate(field.isel(time=slice(1, 3)), "5min")
    assert got.attrs["units"] == expected
    np.testing.assert_allclose(got, field.values[1:3] * factor, rtol=1e-6)


def _table() -> dict[str, str]:
    text = files("compliance_checker").joinpath("data/cf-standard-name-table.xml").read_text(encoding="utf-8")
    return dict(re.findall(r'<entry id="([^"]*)">\s*<canonical_units>([^<]*)<', text))


def test_standard_names_of_sums_are_those_of_cfs_table_with_its_units() -> None:
    table = _table()
    rates = [n for n in table if re.fullmatch(r"(lwe_)?(\w+_)?(rainfall|precipitation|snowfall)_(rate|flux)", n)]
    found = {}
    for name in rates:
        length = table[name] == "m s-1"
        field = rain(6).assign_attrs(units="mm h-1" if length else "kg m-2 s-1", standard_name=name)
        found[name] = accumulate(field, "5min").attrs.get("standard_name")
        if found[name] is not None:
            assert table[found[name]] == ("m" if length else "kg m-2"), name
            (what,) = re.fullmatch(r"(?:lwe_)?(\w+)_(?:rate|flux)", name).groups()  # type: ignore[union-attr]
            assert re.fullmatch(rf"((lwe_)?thickness_of_)?{what}_amount", found[name]), name
    # CF has amounts of neither liquid, solid nor shallow convective precipitation.
    assert {n for n, amount in found.items() if amount is None} == {n for n in rates if re.search("id_|shallow", n)}
    assert len(found) > 20
    assert accumulate(rain(6), "5min").attrs["standard_name"] == "thickness_of_rainfall_amount"


def test_cell_methods_say_sum_with_its_interval_and_keep_those_of_space() -> None:
    field = rain(6).assign_attrs(cell_methods="area: mean time: point")
    assert accumulate(field, "10min").attrs["cell_methods"] == "area: mean time: sum (interval: 5 min)"
    forecast = ensemble().assign_attrs(cell_methods="time: mean (interval: 1 min) area: mean where land")
    expected = "area: mean where land lead_time: sum (interval: 2 min)"
    assert accumulate(forecast, "8min").attrs["cell_methods"] == expected


def test_counts_stay_whole_and_what_is_declared_a_sum_is_one() -> None:
    counts = rain(6).astype(np.int32).assign_attrs(units="count").drop_attrs(deep=False)
    counts.attrs["units"] = "count"
    got = accumulate(counts, "10min")
    assert got.dtype.kind == "i"
    np.testing.assert_array_equal(got, counts.values[1:5].reshape(2, 2, 24, 20).sum(1))
    pickups = counts.assign_attrs(units="1", cell_methods="time: sum")
    np.testing.assert_array_equal(accumulate(pickups, "10min"), got)
    with pytest.raises(DataError, match="no rate and no amount"):
        accumulate(counts.assign_attrs(units="1"), "10min")


def test_times_under_another_name_and_times_that_were_rounded_are_summed() -> None:
    ds = wrf(13)
    field = ds["T2"].assign_attrs(units="mm h-1")
    got = accumulate(field, "30min")
    assert [str(t)[11:16] for t in got["XTIME"].values] == ["00:30", "01:00"]
    assert got["XTIME_start"].dims == ("Time",)
    np.testing.assert_allclose(got[1], field.values[7:13].sum(0) / 12, rtol=1e-6)
    exact = accumulate(rain(25), "30min")
    np.testing.assert_array_equal(accumulate(rounded(rain(25)), "30min"), exact)


def test_one_variable_of_several_takes_its_own_units() -> None:
    archive = weather().sa_nowcast.hindcast(4, model="persistence")
    one = archive.sel(variable="rain")
    got = accumulate(one, "10min")
    assert got.attrs["units"] == "mm"
    assert "units" not in got.coords
    with pytest.raises(DataError, match="air_temperature in K: no rate and no amount"):
        accumulate(archive.sel(variable="temperature"), "10min")


def test_what_adds_up_to_nothing_is_refused_in_one_line_that_says_what_works() -> None:
    with pytest.raises(DataError, match=r"K: no rate and no amount, expected units of a rate \(mm h-1") as caught:
        accumulate(rain().assign_attrs(units="K", standard_name="air_temperature"), "10min")
    assert "\n" not in str(caught.value)
    speed = rain().assign_attrs(units="m s-1", standard_name="wind_speed")
    for other in (speed, speed.assign_attrs(units="mm month-1"), speed.assign_attrs(units="dBZ")):
        with pytest.raises(DataError, match="no rate and no amount"):
            accumulate(other, "10min")


@pytest.mark.parametrize("window", ["12min", "2min", pd.Timedelta("7min"), np.timedelta64(61, "s")])
def test_a_window_that_is_no_multiple_of_the_step_is_refused_by_name(window: object) -> None:
    with pytest.raises(RecipeError, match=r"window: .* is no multiple of the step of the data, 5 min"):
        accumulate(rain(), window)
    with pytest.raises(RecipeError, match=r"every: .* is no multiple"):
        accumulate(rain(), "10min", every=window)


@pytest.mark.parametrize("window", ["soon", "10", 10, "", "-1h", None])
def test_what_is_no_duration_is_refused(window: object) -> None:
    with pytest.raises(RecipeError, match=r"window: .*expected a duration such as '1h'"):
        accumulate(rain(), window)


def test_durations_of_every_kind_are_one() -> None:
    for window in ("30min", "1800 s", "PT30M", pd.Timedelta("30min"), np.timedelta64(30, "m")):
        xr.testing.assert_identical(accumulate(rain(), window), accumulate(rain(), "0.5h"))


def test_a_file_has_the_bounds_of_windows_and_reads_back_as_a_forecast(tmp_path: Path) -> None:
    forecast = accumulate(ensemble().isel(init_time=0, realization=0), "6min")
    to_dataset(forecast).to_netcdf(tmp_path / "sums.nc")
    with xr.open_dataset(tmp_path / "sums.nc", decode_timedelta=True) as ds:
        assert ds["lead_time"].attrs["bounds"] == "lead_time_bnds"
        # As its only field, the bounds beside it.
        longer = ds.sa_nowcast.accumulate("18min")
        assert float(ds.sa_nowcast.verify(accumulate(frames(), "6min"), metrics=["mae"])["mae"].max()) < 1e-6
    np.testing.assert_allclose(longer[0], forecast.values.astype(np.float64).sum(0), rtol=1e-5)
    with xr.open_dataset(tmp_path / "sums.nc", decode_cf=False) as raw:
        assert raw["lead_time"].attrs["units"] == "minutes"  # of the bounds too, by CF section 7.1
        assert raw["lead_time_bnds"].values.tolist() == [[0, 6], [6, 12], [12, 18]]


def test_sums_go_to_other_conventions_and_back_and_keep_the_grid_mapping() -> None:
    hindcast = georeferenced().sa_nowcast.hindcast(6, model="persistence").isel(init_time=slice(3, 8)).load()
    sums = accumulate(hindcast, "15min")
    assert sums.encoding["grid_mapping"] == "crs"
    assert from_convention(to_convention(sums, "ecmwf")).identical(sums)


def test_sums_of_frames_have_bounds_in_a_dataset() -> None:
    sums = accumulate(rain(13), "30min")
    ds = described(sums.to_dataset())
    np.testing.assert_array_equal(ds["time_bnds"][:, 1], ds["time"])
    np.testing.assert_array_equal(ds["time_bnds"][:, 0], sums["time_start"])
    assert "bounds" not in sums["time"].attrs
    assert "time_start" not in ds.variables
