from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from compliance_checker.runner import CheckSuite
from sequences import georeferenced, of_two_grids, rain, rounded, traffic, weather, wrf

import sa_nowcast
from sa_nowcast.errors import DataError, Interrupted, ModelError, RecipeError, StorageError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.frames import Frames
from sa_nowcast.hindcast import STATUS, hindcast, init_positions
from sa_nowcast.hindcast import shard as shards
from sa_nowcast.hindcast.shard import Shard
from sa_nowcast.metadata import dims

# Batches and single samples differ by the order of float32 sums; rain here is up to some 10 mm h-1.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}


def one_by_one(nowcaster: Nowcaster, data: xr.DataArray | xr.Dataset, archive: xr.DataArray) -> None:
    """Compare an archive with a forecast from each of its init times, labels included."""
    steps = archive.sizes["lead_time"]
    last = archive.sizes["init_time"] - 1
    for i in sorted({*range(0, last, 3), last}):  # batches are of other sizes, so that each place in one is met
        init = archive["init_time"].values[i]
        one = nowcaster.forecast(data, steps, init_time=init)
        got = archive.isel(init_time=i)
        assert got.dims == one.dims
        np.testing.assert_allclose(got.values, one.values, **ROUNDING)
        assert set(got.coords) == set(one.coords)
        for name, coord in one.coords.items():
            np.testing.assert_array_equal(got[name].values, coord.values)
            assert got[name].attrs == coord.attrs, name
        assert got.attrs == one.attrs
        assert got.encoding == one.encoding


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store, byte by byte."""
    return {str(f.relative_to(store)): f.read_bytes() for f in sorted(store.rglob("*")) if f.is_file()}


# The forecasts


def test_a_lazy_hindcast_equals_forecasts_one_by_one(
    nowcaster: Nowcaster, weather_nowcaster: Nowcaster, traffic_nowcaster: Nowcaster
) -> None:
    holed = rain().where((rain()["x"] > 2000) & (rain() != rain()[9, 4, 4]))
    south_up = georeferenced().isel(y=slice(None, None, -1))
    for model, data, steps, ends in (
        (nowcaster, rain(), None, ("init_time", "lead_time", "y", "x")),
        (nowcaster, holed, 5, ("init_time", "lead_time", "y", "x")),
        (nowcaster, south_up, 2, ("init_time", "lead_time", "y", "x")),
        (weather_nowcaster, weather(), 2, ("init_time", "variable", "lead_time", "y", "x")),
        (traffic_nowcaster, traffic(), 3, ("init_time", "lead_time", "channel", "row", "column")),
    ):
        archive = hindcast(data, model, steps, batch_size=5)
        assert archive.dims == ends
        assert archive.sizes["init_time"] == 17
        assert archive.dtype == np.float32
        one_by_one(model, data, archive)


def test_no_truth_is_needed_and_the_last_init_time_is_the_last_frame(nowcaster: Nowcaster) -> None:
    archive = hindcast(rain(), nowcaster)
    assert archive["init_time"].values[-1] == rain()["time"].values[-1]
    assert archive["valid_time"].values.max() > rain()["time"].values[-1]


def test_a_forecast_does_not_see_the_frames_after_its_init_time(nowcaster: Nowcaster) -> None:
    later = rain().copy()
    later[10:] *= 3
    first, second = (hindcast(d, nowcaster, init_times=slice(None, rain()["time"].values[9])) for d in (rain(), later))
    np.testing.assert_array_equal(first.values, second.values)


def test_nothing_is_read_before_the_hindcast_is_used_and_only_what_is_used(nowcaster: Nowcaster) -> None:
    read: list[int] = []
    data = rain()

    def counted(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        read.append(block_info[0]["chunk-location"][0])
        return block

    lazy = data.copy(data=data.chunk(time=1).data.map_blocks(counted, dtype=np.float32, meta=np.empty((0, 0, 0), "f4")))
    archive = hindcast(lazy, nowcaster, batch_size=2)
    assert read == []
    values = archive.isel(init_time=slice(4, 6)).values
    assert sorted(read) == [4, 5, 6, 7, 8]  # once each, though the two histories share three of them
    np.testing.assert_array_equal(values, hindcast(data, nowcaster, batch_size=2)[4:6].values)


def test_lazy_and_zarr_hindcasts_agree_bit_for_bit(
    nowcaster: Nowcaster, weather_nowcaster: Nowcaster, traffic_nowcaster: Nowcaster, tmp_path: Path
) -> None:
    for i, (model, data) in enumerate(
        ((nowcaster, georeferenced()), (weather_nowcaster, weather()), (traffic_nowcaster, traffic()))
    ):
        options: dict[str, Any] = {"batch_size": 3}
        stored = hindcast(data, model, to=tmp_path / f"{i}.zarr", shard_size=6, **options)
        xr.testing.assert_identical(stored.compute(), hindcast(data, model, **options).compute())
        assert stored.chunks is not None


def test_the_accessor_passes_everything_on(nowcaster: Nowcaster, saved: Path, tmp_path: Path) -> None:
    expected = hindcast(rain(), nowcaster, 2, stride=3)
    for obj in (rain(), rain().to_dataset()):
        got = obj.sa_nowcast.hindcast(2, model=saved, stride=3, to=tmp_path / "a.zarr")
        np.testing.assert_array_equal(got, expected)
    sa_nowcast.set_default_model(saved)
    np.testing.assert_array_equal(rain().sa_nowcast.hindcast(2, stride=3), expected)


def test_an_archive_verifies_itself(nowcaster: Nowcaster, tmp_path: Path) -> None:
    archive = hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", init_times=slice(None, rain()["time"].values[-4]))
    scores = archive.sa_nowcast.verify(rain(), metrics=["mse"])
    truth = rain().sel(time=archive["valid_time"]).values
    np.testing.assert_allclose(scores["mse"], ((archive.values - truth) ** 2).mean((0, 2, 3)), rtol=1e-5)
    with sa_nowcast.open_zarr(tmp_path / "a.zarr") as back:
        xr.testing.assert_allclose(back.sa_nowcast.verify(rain(), metrics=["mse"])["mse"], scores["mse"], rtol=1e-12)


def calls_to_build(count: int, source: str) -> int:
    """How many Python functions are called to lay out a lazy hindcast of so many init times."""
    values: Any = np.broadcast_to(np.float32(1), (count, 4, 4))
    if source == "dask":
        values = dask.array.from_array(values, chunks=(100, 4, 4))
    like = rain(2, 4, 4)
    data = xr.DataArray(values, dims=like.dims, coords={"y": like["y"], "x": like["x"]}, attrs=like.attrs, name="rain")
    data = data.assign_coords(time=np.datetime64("2000-01-01", "ns") + np.arange(count) * np.timedelta64(5, "m"))
    calls = 0

    def count_calls(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    hindcast(data[:20], "persistence", 2)  # imports what is imported once
    before = sys.getprofile()
    sys.setprofile(count_calls)
    try:
        archive = hindcast(data, "persistence", 2, init_times=data["time"].values, batch_size=16)
    finally:
        sys.setprofile(before)
    assert archive.chunksizes["init_time"] == (16,) * (count // 16)
    assert archive[count // 2].values.shape == (2, 4, 4)
    return calls


@pytest.mark.parametrize("source", ["memory", "dask"])
def test_a_lazy_hindcast_is_laid_out_at_the_price_of_a_task_for_each_batch(source: str) -> None:
    few, many = calls_to_build(1600, source), calls_to_build(32000, source)
    # It was some 1900 calls for each batch, and 4000 of dask data.
    assert (many - few) / ((32000 - 1600) / 16) < 60


# Init times


def test_init_times_are_chosen_by_slice_stride_and_list(nowcaster: Nowcaster) -> None:
    times = rain()["time"].values

    def chosen(**options: Any) -> list[int]:
        got = hindcast(rain(), nowcaster, **options)["init_time"].values
        return [int(np.flatnonzero(times == t)[0]) for t in got]

    assert chosen() == list(range(3, 20))
    assert chosen(stride=4) == [3, 7, 11, 15, 19]
    assert chosen(init_times=slice("2020-06-01T00:30", "2020-06-01T00:50")) == [6, 7, 8, 9, 10]
    assert chosen(init_times=slice("2020-06-01T00:30", None), stride=6) == [6, 12, 18]
    assert chosen(init_times=slice(None, times[4])) == [3, 4]
    for given in ([times[9], times[5]], ["2020-06-01T00:25", "2020-06-01T00:45"], rain()["time"][[5, 9]]):
        assert chosen(init_times=given) == [5, 9]
    assert chosen(init_times=times[4:10], stride=2) == [4, 6, 8]


def test_gaps_leave_init_times_out_and_an_asked_for_one_is_refused_with_the_reason(nowcaster: Nowcaster) -> None:
    data = rain().isel(time=[t for t in range(20) if t not in (8, 9)])
    archive = hindcast(data, nowcaster)
    left = [int(i) for i in np.flatnonzero(np.isin(rain()["time"], archive["init_time"]))]
    assert left == [3, 4, 5, 6, 7, 13, 14, 15, 16, 17, 18, 19]
    one_by_one(nowcaster, data, archive)
    with pytest.raises(DataError, match=r"rain, 2020-06-01T00:55: needs 4 frames, has 2 since the gap after .*T00:35"):
        hindcast(data, nowcaster, init_times=["2020-06-01T01:10", "2020-06-01T00:55"])
    with pytest.raises(DataError, match=r"has 1 since the gap.*; and 2 more such init times"):
        hindcast(data, nowcaster, init_times=rain()["time"].values[10:13])
    with pytest.raises(DataError, match=r"no init time in 2020-06-01T00:50 to .* has 4 frames up to it without a gap"):
        hindcast(data, nowcaster, init_times=slice("2020-06-01T00:50", "2020-06-01T01:00"))
    with pytest.raises(DataError, match=r"no init time has 4 frames up to it.*20 times|no init time has 4 frames"):
        hindcast(rain()[:3], nowcaster)


def test_init_positions_are_those_with_history_by_slow_counting() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        kept = np.sort(rng.choice(40, 25, replace=False))
        frames = Frames.from_xarray(rain(40).isel(time=kept), gaps="skip", step=np.timedelta64(5, "m"))
        slow = [i for i in range(len(kept)) if i >= 2 and kept[i] - kept[i - 2] == 2]
        if slow:
            assert init_positions(frames, 3).tolist() == slow


def test_frames_without_values_give_missing_forecasts_that_say_why_or_are_refused(
    nowcaster: Nowcaster, tmp_path: Path
) -> None:
    data = rain().copy()
    data[8] = np.nan
    for archive in (hindcast(data, nowcaster), hindcast(data, nowcaster, to=tmp_path / "a.zarr")):
        missing = np.isnan(archive.values).all(axis=(1, 2, 3))
        assert np.flatnonzero(missing).tolist() == [5, 6, 7, 8]  # init times 8 to 11
        assert not np.isnan(archive.values[~missing]).any()
        assert archive.attrs.pop("no_forecast_count", 4) == 4  # of an archive that is written
        one_by_one(nowcaster, data, archive[~missing])
    with xr.open_zarr(tmp_path / "a.zarr") as ds:
        assert np.flatnonzero(ds[STATUS]).tolist() == [5, 6, 7, 8]
        assert ds["rain"].attrs["ancillary_variables"] == STATUS
    message = r"rain, init time 2020-06-01T00:40: a frame of its history of 4 has no valid value"
    with pytest.raises(DataError, match=message):
        hindcast(data, nowcaster, missing="refuse").compute()
    with pytest.raises(DataError, match=message):
        hindcast(data, nowcaster, missing="refuse", to=tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_bad_arguments_are_one_line(nowcaster: Nowcaster, tmp_path: Path) -> None:
    def refused(kind: type[Exception], match: str, **options: Any) -> None:
        with pytest.raises(kind, match=match) as caught:
            hindcast(options.pop("data", rain()), options.pop("model", nowcaster), **options)
        assert "\n" not in str(caught.value)

    refused(RecipeError, "steps: 0, expected a whole number", steps=0)
    refused(RecipeError, "stride: -1", stride=-1)
    refused(RecipeError, "batch_size: 0", batch_size=0)
    refused(RecipeError, "existing: 'overwrite', expected 'resume' or 'replace'", existing="overwrite")
    refused(RecipeError, "missing: 'skip'", missing="skip")
    refused(RecipeError, "shard_size: given without to=", shard_size=3)
    refused(RecipeError, "cluster: given without to=", cluster="tcp://127.0.0.1:9")
    refused(RecipeError, "init_times: .*slice of times, or a sequence", init_times="2020-06-01")
    refused(RecipeError, "init_times: no time", init_times=[])
    refused(RecipeError, "is given twice", init_times=["2020-06-01T00:30", "2020-06-01T00:30"])
    refused(RecipeError, "a slice with step 2.*stride=2 beside", init_times=slice(None, None, 2))
    refused(RecipeError, "slice of times in UTC", init_times=slice("yesterday-ish", None))
    refused(DataError, "the init time is not among the data's times", init_times=["2021-01-01"])
    refused(RecipeError, "steps: not given for persistence", model="persistence")
    refused(RecipeError, "training is missing", model="climatology", steps=2)
    refused(ModelError, "no such folder", model="persistense", steps=2)
    refused(ModelError, "expected 'mm h-1'", data=rain().assign_attrs(units="dBZ"))
    refused(RecipeError, "to: s3://bucket/a.zarr", to="s3://bucket/a.zarr")
    refused(RecipeError, "cuda:7", device="cuda:7")


# References


def test_references_are_archived_by_name_and_equal_their_own_forecasts(tmp_path: Path) -> None:
    pytest.importorskip("pysteps", reason="extrapolation is by pysteps: pip install pysteps")
    for name, data, history in (
        ("persistence", georeferenced(), 1),
        ("persistence", weather(), 1),
        ("persistence", traffic(), 1),
        ("extrapolation", georeferenced().isel(y=slice(None, None, -1)), 3),
    ):
        archive = hindcast(data, name, 2, stride=4, batch_size=2)
        assert archive.sizes["init_time"] == -(-(20 - history + 1) // 4)
        plain = data.drop_vars("crs", errors="ignore") if isinstance(data, xr.Dataset) else data
        own = sa_nowcast.reference(name).forecast(plain, 2, init_time=archive["init_time"].values)
        np.testing.assert_allclose(archive, own.transpose(*archive.dims), rtol=1e-5, atol=1e-6)
        assert archive.attrs["model"] == name
    stored = hindcast(georeferenced(), "persistence", 2, to=tmp_path / "p.zarr")
    xr.testing.assert_identical(stored.compute(), hindcast(georeferenced(), "persistence", 2).compute())
    assert "crs" in stored.coords
    np.testing.assert_array_equal(stored.values[:, 1], rain().values)


def test_a_reference_with_options_is_archived_too(tmp_path: Path) -> None:
    daily = rain(96, step="30min")
    climate = sa_nowcast.reference("climatology", training=daily[:48])
    archive = hindcast(daily, climate, 3, init_times=daily["time"].values[50:60], to=tmp_path / "c.zarr")
    np.testing.assert_allclose(archive[0], daily.values[3:6], rtol=1e-6)
    assert archive.attrs["training_period"].startswith("2020-06-01")
    other = sa_nowcast.reference("climatology", training=daily)
    with pytest.raises(StorageError, match="holds another hindcast: model climatology"):
        hindcast(daily, other, 3, init_times=daily["time"].values[50:60], to=tmp_path / "c.zarr")
    flipped = sa_nowcast.reference("climatology", training=daily[:48].isel(y=slice(None, None, -1)))
    with pytest.raises(DataError, match="its grid is another than the data's"):
        hindcast(daily, flipped, 3, init_times=daily["time"].values[50:60])


def test_an_ensemble_is_archived_with_members_first(tmp_path: Path) -> None:
    pytest.importorskip("pysteps", reason="STEPS is by pysteps: pip install pysteps")
    model = sa_nowcast.reference("steps", members=2, kilometres_per_pixel=1.0)
    data = rain(8, 64, 64)
    archive = hindcast(data, model, 2, to=tmp_path / "e.zarr", stride=2)
    assert archive.dims == ("realization", "init_time", "lead_time", "y", "x")
    own = model.forecast(data, 2, init_time=archive["init_time"].values[1])
    np.testing.assert_allclose(archive[:, 1], own, rtol=1e-4, atol=1e-4)
    one = model.plan(data, 2, init_time=archive["init_time"].values[1]).compute()
    assert one.dims == ("realization", "lead_time", "y", "x")
    np.testing.assert_array_equal(one, archive[:, 1])


# The store


def test_the_store_has_one_init_time_a_chunk_checksums_and_whole_shards(nowcaster: Nowcaster, tmp_path: Path) -> None:
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", batch_size=4, shard_size=5)
    array: Any = zarr.open_array(tmp_path / "a.zarr", path="rain", mode="r")
    assert array.metadata.zarr_format == 3
    assert array.chunks == (1, 3, 24, 20)
    assert array.shards == (8, 3, 24, 20)  # whole batches
    assert array.compressors[0].to_dict()["name"] == "zstd"
    assert array.compressors[0].checksum
    assert len([f for f in (tmp_path / "a.zarr/rain/c").rglob("*") if f.is_file()]) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_dry_forecasts_are_written_so_that_a_missing_file_means_missing(tmp_path: Path) -> None:
    hindcast(rain() * 0, "persistence", 2, to=tmp_path / "a.zarr", shard_size=16)
    ds = sa_nowcast.open_zarr(tmp_path / "a.zarr")
    (tmp_path / "a.zarr/rain/c/0/0/0/0").unlink()
    with pytest.raises(DataError, match="is missing"):
        ds["rain"].load()
    with pytest.raises(DataError, match="is missing"):
        sa_nowcast.open_zarr(tmp_path / "a.zarr")


def test_the_archive_is_cf_and_round_trips(nowcaster: Nowcaster, weather_nowcaster: Nowcaster, tmp_path: Path) -> None:
    suite = CheckSuite()
    suite.load_all_available_checkers()
    for i, (model, data) in enumerate(((nowcaster, georeferenced()), (weather_nowcaster, weather()))):
        archive = hindcast(data, model, to=tmp_path / f"{i}.zarr")
        with xr.open_zarr(tmp_path / f"{i}.zarr", decode_coords="all", decode_timedelta=True) as ds:
            for name in ["rain", "temperature"][: archive.sizes.get("variable", 1)]:
                back = ds[name]
                expected = archive if "variable" not in archive.dims else archive.sel(variable=name)
                np.testing.assert_array_equal(back, expected)
                assert back["valid_time"].dims == ("init_time", "lead_time")
                np.testing.assert_array_equal(back["valid_time"], back["init_time"] + back["lead_time"])
                assert back["init_time"].attrs["standard_name"] == "forecast_reference_time"
                assert back["lead_time"].attrs["standard_name"] == "forecast_period"
                assert back.attrs["units"] == ("K" if name == "temperature" else "mm h-1")
                assert back.attrs["sa_nowcast_model"] == model.digest
            if i == 0:
                assert ds["rain"].encoding["grid_mapping"] == "crs"
                assert ds["crs"].attrs["grid_mapping_name"] == "lambert_azimuthal_equal_area"
                assert {"latitude", "longitude", "crs"} <= set(ds["rain"].coords)
        with xr.open_zarr(tmp_path / f"{i}.zarr", decode_timedelta=True) as ds:
            for variable in ds.variables.values():
                for key in ("shards", "chunks", "compressors", "filters", "serializer", "preferred_chunks"):
                    variable.encoding.pop(key, None)
            for coord in ds.coords:
                # There is none in the store either; xarray would make one for NetCDF.
                assert "_FillValue" not in zarr.open_array(tmp_path / f"{i}.zarr", path=str(coord), mode="r").attrs
                ds[coord].encoding["_FillValue"] = None
            ds.load().to_netcdf(tmp_path / f"{i}.nc")
        (groups, faults), *_ = suite.run_all(suite.load_dataset(str(tmp_path / f"{i}.nc")), ["cf:1.11"]).values()
        assert not faults
        found = {(g.weight, g.name.split()[0]) for g in groups if g.value[0] < g.value[1]}
        # Recommendations: the order of dimensions (see test_cf) and, for a temperature, whether it is on a scale.
        assert found <= {(2, "§2.4"), (2, "§3.1.2")}, found


# Whose archive it is


def test_an_archive_of_another_model_data_or_length_is_refused_with_both_shown(
    nowcaster: Nowcaster, tmp_path: Path
) -> None:
    path = tmp_path / "a.zarr"
    hindcast(rain(), nowcaster, to=path)
    before = content(path)
    for match, options in (
        (rf"model sa-convlstm {nowcaster.digest}.*expected model persistence", {"model": "persistence", "steps": 3}),
        (r"steps 3 of 5 min.*expected steps 2 of 5 min", {"steps": 2}),
        (r"init_times 17 from 2020-06-01T00:15 to .*expected init_times 9 from", {"stride": 2}),
        (r"data rain \[mm h-1\] on 24 x 20.*expected data rain", {"data": rain(seed=1)}),
    ):
        arguments: dict[str, Any] = {"data": rain(), "model": nowcaster, "to": path} | options
        with pytest.raises(StorageError, match=match) as caught:
            hindcast(**arguments)
        assert "existing='replace'" in str(caught.value)
    assert content(path) == before
    replaced = hindcast(rain(), "persistence", 3, to=path, existing="replace")
    assert replaced.attrs["model"] == "persistence"
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_a_finished_archive_is_returned_as_it_is(nowcaster: Nowcaster, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "a.zarr").rglob("*")}
    again = hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=lambda *c: calls.append(c))
    assert calls == [(17, 17)]
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "a.zarr").rglob("*")} == before
    np.testing.assert_array_equal(again, hindcast(rain(), nowcaster))


def test_what_is_no_hindcast_is_left_alone(nowcaster: Nowcaster, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/work.txt").write_text("of years")
    (tmp_path / "file").write_text("text")
    rain().to_dataset().to_zarr(tmp_path / "other.zarr", zarr_format=3, consolidated=False)
    for name in ("folder", "file", "other.zarr"):
        with pytest.raises(StorageError, match="exists and is no hindcast"):
            hindcast(rain(), nowcaster, to=tmp_path / name)
    for name in ("folder", "file"):
        with pytest.raises(StorageError, match="no Zarr store; it is left alone"):
            hindcast(rain(), nowcaster, to=tmp_path / name, existing="replace")
    (tmp_path / "a.zarr.partial").mkdir()
    (tmp_path / "a.zarr.partial/zarr.json").write_text("{}")
    with pytest.raises(StorageError, match="something else stands where the archive would grow"):
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.zarr.partial", "file", "folder", "other.zarr",
    ]  # fmt: skip
    assert (tmp_path / "folder/work.txt").read_text() == "of years"


def test_a_place_that_cannot_be_written_is_said_before_anything_is_computed(
    nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Nowcaster, "block", lambda *a: pytest.fail("computed"))
    with pytest.raises(StorageError, match="cannot be written"):
        hindcast(rain(), nowcaster, to=tmp_path / "file" / "a.zarr")
    if os.geteuid() == 0:
        return  # no folder is read-only for root
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(StorageError, match="cannot be written"):
        hindcast(rain(), nowcaster, to=tmp_path / "locked" / "a.zarr")


# Interruption


def ctrl_c_after(least: int) -> Callable[[int, int], None]:
    """A progress that is interrupted once so many init times are done."""

    def progress(done: int, total: int) -> None:
        if done >= least:
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_keeps_what_is_done_and_the_same_call_goes_on(nowcaster: Nowcaster, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 2, "shard_size": 2}
    with pytest.raises(Interrupted, match=r"stopped after 8 of 17 init times.*run the same again"):
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=ctrl_c_after(8), **options)
    assert not (tmp_path / "a.zarr").exists()
    calls: list[int] = []
    # The batch and shards that it was begun with are kept, for bytes depend on them.
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=lambda done, total: calls.append(done))
    assert calls[0] >= 8
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", **options)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


@pytest.mark.parametrize("file", ["zarr.json", "rain/zarr.json", "x/c/0"])
def test_damage_to_what_an_interrupted_one_laid_out_does_not_come_into_the_archive(
    file: str, nowcaster: Nowcaster, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"batch_size": 2, "shard_size": 2}
    with pytest.raises(Interrupted):
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=ctrl_c_after(8), **options)
    laid_out = tmp_path / "a.zarr.partial" / file
    whole = laid_out.read_bytes()
    laid_out.write_bytes(whole.replace(b"0", b"1").replace(b"\x00", b"\x01"))
    assert laid_out.read_bytes() != whole
    calls: list[int] = []
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=lambda done, total: calls.append(done), **options)
    assert calls[0] >= 8
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", **options)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


# 9 batches in one shard.
ONE_SHARD: dict[str, Any] = {"batch_size": 2, "shard_size": 18}


@pytest.fixture
def _every_batch_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "KEEP_EVERY", 0.0)


@pytest.mark.usefixtures("_every_batch_kept")
def test_progress_moves_within_a_shard_and_ctrl_c_there_keeps_its_batches(nowcaster: Nowcaster, tmp_path: Path) -> None:
    calls: list[int] = []
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", progress=lambda done, total: calls.append(done), **ONE_SHARD)
    assert calls == [*range(0, 17, 2), 17]
    whole = content(tmp_path / "b.zarr")
    assert [name for name in whole if name.startswith("rain/c/")] == ["rain/c/0/0/0/0"]
    for least in (4, 10):
        with pytest.raises(Interrupted, match=rf"stopped after {least} of 17 init times"):
            hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=ctrl_c_after(least), **ONE_SHARD)
        assert not (tmp_path / "a.zarr").exists()
    calls.clear()
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=lambda done, total: calls.append(done))
    assert calls[0] >= 10
    assert content(tmp_path / "a.zarr") == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


@pytest.mark.usefixtures("_every_batch_kept")
@pytest.mark.parametrize("damage", ["flipped", "cut", "of another size"])
def test_a_kept_batch_that_is_damaged_or_of_another_size_is_computed_again(
    damage: str, nowcaster: Nowcaster, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=ctrl_c_after(8), **ONE_SHARD)
    file = tmp_path / "a.zarr.partial.journal" / "0.2-4.batch"
    kept = bytearray(file.read_bytes())
    if damage == "flipped":
        kept[-1] ^= 1
    elif damage == "cut":
        del kept[100:]
    file.write_bytes(kept)
    options = {**ONE_SHARD, "batch_size": 3} if damage == "of another size" else ONE_SHARD
    calls: list[int] = []
    progress = lambda done, total: calls.append(done)  # noqa: E731
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=progress, **options)
    assert calls[0] == (0 if damage == "of another size" else 2)
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", **options)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


def test_batches_are_kept_together_where_that_took_a_while_and_else_not_at_all(
    nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(shards, "KEEP_EVERY", 60.0)
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", progress=lambda done, total: calls.append(done), **ONE_SHARD)
    assert calls == [0, 17]
    forecast = Nowcaster.block

    def slowly(*args: Any) -> Any:
        time.sleep(0.05)
        return forecast(*args)

    monkeypatch.setattr(shards, "KEEP_EVERY", 0.12)
    monkeypatch.setattr(Nowcaster, "block", slowly)
    with pytest.raises(Interrupted) as caught:
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=ctrl_c_after(1), **ONE_SHARD)
    kept = sorted(path.name for path in (tmp_path / "a.zarr.partial.journal").glob("*.batch"))
    assert f"stopped after {2 * len(kept)} of 17" in str(caught.value)
    assert kept == [f"0.{first}-{first + 2}.batch" for first in range(0, 2 * len(kept), 2)]
    calls.clear()
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=lambda done, total: calls.append(done))
    assert calls[0] == 2 * len(kept)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


@pytest.mark.usefixtures("_every_batch_kept")
def test_what_a_lost_worker_of_a_former_archive_writes_is_not_taken_for_this_ones(
    nowcaster: Nowcaster, tmp_path: Path
) -> None:
    journal = tmp_path / "a.zarr.partial.journal"
    small: dict[str, Any] = {"batch_size": 2, "shard_size": 2}
    for options in (small, ONE_SHARD):
        with pytest.raises(Interrupted):
            hindcast(rain(seed=1), nowcaster, to=tmp_path / "a.zarr", progress=ctrl_c_after(6), **options)
        late = [p for p in journal.iterdir() if p.name != "plan.json"]
        late += [p for p in (tmp_path / "a.zarr.partial/rain/c").rglob("*") if p.is_file()]
        former = {path: path.read_bytes() for path in late}
        assert len(former) >= 3

        def write_late(done: int, total: int, former: dict[Path, bytes] = former) -> None:
            for path, written in former.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(written)
            raise KeyboardInterrupt

        with pytest.raises(Interrupted, match="stopped after 0 of 17"):
            hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=write_late, existing="replace", **options)
        calls: list[int] = []
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=lambda done, total: calls.append(done), **options)  # noqa: B023
        assert calls[0] == 0
        hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", existing="replace", **options)
        assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")
        shutil.rmtree(tmp_path / "a.zarr")


@pytest.mark.usefixtures("_every_batch_kept")
def test_beside_the_journal_are_batches_of_one_shard_at_most(nowcaster: Nowcaster, tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def look(done: int, total: int) -> None:
        files = (tmp_path / "a.zarr.partial.journal").glob("*.batch")
        seen.append({f.name.split(".")[0] for f in files})

    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=look, batch_size=2, shard_size=6)
    assert max(map(len, seen)) == 1
    assert set().union(*seen) >= {"0", "1"}


def test_an_archive_that_has_lost_its_metadata_is_replaced_when_asked(nowcaster: Nowcaster, tmp_path: Path) -> None:
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr")
    before = content(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "zarr.json").unlink()
    with pytest.raises(StorageError, match="exists and is no hindcast"):
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr")
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", existing="replace")
    assert content(tmp_path / "a.zarr") == before


def test_an_unfinished_archive_of_something_else_is_refused(nowcaster: Nowcaster, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=ctrl_c_after(1), shard_size=2, batch_size=2)
    with pytest.raises(StorageError, match=r"a.zarr.partial: holds another hindcast: steps 3"):
        hindcast(rain(), nowcaster, 2, to=tmp_path / "a.zarr")
    hindcast(rain(), nowcaster, 2, to=tmp_path / "a.zarr", existing="replace")
    hindcast(rain(), nowcaster, 2, to=tmp_path / "b.zarr")
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


def test_an_archive_that_was_stopped_while_it_was_laid_out_is_laid_out_anew(
    nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*args: object, **options: object) -> None:
        (tmp_path / "a.zarr.partial/rain").mkdir(parents=True, exist_ok=True)
        raise Killed

    # One writer dies while it writes the metadata, one while it clears away what the first one left.
    for owner, name in ((xr.Dataset, "to_zarr"), (shutil, "rmtree")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, die)
            with pytest.raises(Killed):
                hindcast(rain(), nowcaster, to=tmp_path / "a.zarr")
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr")
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr")
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


def test_a_shard_that_was_damaged_meanwhile_is_computed_again(nowcaster: Nowcaster, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 2, "shard_size": 2}
    with pytest.raises(Interrupted):
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", progress=ctrl_c_after(8), **options)
    cut, flipped, gone = (tmp_path / f"a.zarr.partial/rain/c/{i}/0/0/0" for i in range(3))
    cut.write_bytes(cut.read_bytes()[:-3])
    data = bytearray(flipped.read_bytes())
    data[40] ^= 1
    flipped.write_bytes(data)
    gone.unlink()
    (tmp_path / "a.zarr.partial/rain/c/7").mkdir(parents=True, exist_ok=True)
    (tmp_path / "a.zarr.partial/rain/c/7/0.abc.partial").write_bytes(b"half")  # of a writer that was killed
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", **options)
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", **options)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


class FullDisk:
    """Lets the writes beneath a folder through up to a number, and then has no space left.

    A file that is opened for writing, a folder that is made and a rename count as writes; Python tells them to audit
    hooks before the operating system does them, whoever asks for them.
    """

    def __init__(self) -> None:
        self.folder, self.left, self.count = "", 0, 0
        self.lock = threading.Lock()
        sys.addaudithook(self.hear)  # there is no way to remove one; without a folder it lets everything through

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder or event not in ("open", "os.mkdir", "os.rename"):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if not str(arguments[0]).startswith(self.folder):
            return
        with self.lock:
            self.count += 1
            if self.count > self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    @contextlib.contextmanager
    def after(self, writes: float, folder: Path) -> Iterator[None]:
        """Have space for so many writes beneath `folder`."""
        self.left, self.count, self.folder = writes, 0, str(folder)
        try:
            yield
        finally:
            self.folder = ""


@pytest.fixture(scope="module")
def full_disk() -> FullDisk:
    return FullDisk()


def fill_up(
    full_disk: FullDisk, nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    options: dict[str, Any] = {"batch_size": 3, "shard_size": 6}
    with full_disk.after(float("inf"), tmp_path):
        hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", **options)
    needed, whole = full_disk.count, content(tmp_path / "b.zarr")
    print(f"{needed} writes")
    assert needed > 90
    put, kept = Shard.put, 0
    for writes in range(0, needed, every):
        target = tmp_path / f"{writes}.zarr"
        with full_disk.after(writes, tmp_path), pytest.raises(StorageError) as caught:
            hindcast(rain(), nowcaster, to=target, **options)
        assert "No space left on device" in str(caught.value), writes
        assert "\n" not in str(caught.value)
        assert not target.exists()
        journal = tmp_path / f"{writes}.zarr.partial.journal"
        done = {int(f.stem) for f in journal.glob("*.json") if f.stem.isdigit()}
        again: list[int] = []

        def noted(self: Shard, *args: Any, again: list[int] = again) -> dict[str, Any]:
            again.append(self.number)
            return put(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(Shard, "put", noted)
            hindcast(rain(), nowcaster, to=target, **options)
        assert sorted(again) == sorted({0, 1, 2} - done)
        assert content(target) == whole, writes
        kept += len(done)
        shutil.rmtree(target)
    assert kept > 0, "the disk was never full after the first shard"
    assert [p.name for p in tmp_path.iterdir()] == ["b.zarr"]


def test_a_full_disk_is_said_and_the_same_call_goes_on_to_identical_bytes(
    full_disk: FullDisk, nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_up(full_disk, nowcaster, tmp_path, monkeypatch, every=45)


@pytest.mark.slow
def test_a_disk_may_be_full_at_any_write(
    full_disk: FullDisk, nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_up(full_disk, nowcaster, tmp_path, monkeypatch, every=1)


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_of_a_file_is_said_and_the_same_call_goes_on(
    nowcaster: Nowcaster, saved: Path, tmp_path: Path
) -> None:
    """The operating system itself cuts files off: none may be as large as a shard."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from sequences import rain; from sa_nowcast.hindcast import hindcast\n"
        "from sa_nowcast.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "try: hindcast(rain(), sys.argv[1], to=sys.argv[2], batch_size=4, shard_size=8)\n"
        "except StorageError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(saved), str(tmp_path / "a.zarr")]
    shown = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout
    assert "cannot be written (File too large)" in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "a.zarr").exists()
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", batch_size=4, shard_size=8)
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", batch_size=4, shard_size=8)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


# Each shard takes a while, so that there is a middle to be killed in; each that is computed leaves a line.
SLOW = """
import os, sys, time
from pathlib import Path
from sa_nowcast.hindcast import shard as shards
log, pause = Path(sys.argv[1]) if __name__ == "__main__" else Path(os.environ["LOG"]), 0.15
if not hasattr(shards.Shard, "quickly"):  # dask may load this twice
    shards.Shard.quickly = shards.Shard.put
def slowly(self, values, complete):
    time.sleep(pause)
    entry = self.quickly(values, complete)
    with log.open("a") as file:
        file.write(f"{self.number} {os.getpid()}\\n")
    return entry
shards.Shard.put = slowly
"""
WRITER = (
    SLOW
    + """
from sequences import rain
from sa_nowcast.hindcast import hindcast
hindcast(rain(), sys.argv[2], to=sys.argv[3], batch_size=2, shard_size=2)
"""
)


# Each batch takes a while, and leaves a line once it is computed.
SLOW_BATCHES = """
import sys, time
from pathlib import Path
from sequences import rain
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.hindcast import hindcast, shard
shard.KEEP_EVERY = 0.0
quickly, log = Nowcaster.block, Path(sys.argv[1])
def slowly(*args):
    time.sleep(0.15)
    found = quickly(*args)
    with log.open("a") as file:
        file.write("batch\\n")
    return found
Nowcaster.block = slowly
hindcast(rain(), sys.argv[2], to=sys.argv[3], batch_size=2, shard_size=18)
"""


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_killed_hindcast_resumes_to_identical_bytes_with_each_init_time_once(
    nowcaster: Nowcaster, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, target = tmp_path / "log", tmp_path / "a.zarr"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(log), str(saved), str(target)], env=environment())
    wait_until(lambda: len(lines(log)) >= 3)
    with pytest.raises(StorageError, match=rf"is being written by process {process.pid} on "):
        hindcast(rain(), saved, to=target)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    with pytest.raises(DataError, match="did not end"):
        sa_nowcast.open_zarr(target)
    put = Shard.put

    def logged(self: Shard, *args: Any) -> dict[str, Any]:
        entry = put(self, *args)
        with log.open("a") as file:
            file.write(f"{self.number} {os.getpid()}\n")
        return entry

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "put", logged)
        hindcast(rain(), saved, to=target)
    done = [int(line.split()[0]) for line in lines(log)]
    # Its last shard may have been whole and in the journal, but the line in this log not written yet.
    assert len(set(range(9)) - set(done)) <= 1
    assert len(set(done)) == len(done)
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", batch_size=2, shard_size=2)
    assert content(target) == content(tmp_path / "b.zarr")
    init = sa_nowcast.open_zarr(target)["init_time"].values
    assert len(set(init)) == len(init) == 17


def test_a_hindcast_that_is_killed_twice_within_its_first_shard_goes_on_where_it_was(
    nowcaster: Nowcaster, saved: Path, tmp_path: Path
) -> None:
    log, target = tmp_path / "log", tmp_path / "a.zarr"
    command = [sys.executable, "-c", SLOW_BATCHES, str(log), str(saved), str(target)]
    journal = tmp_path / "a.zarr.partial.journal"
    kept = [0]
    for _ in range(2):
        before = len(lines(log))
        with subprocess.Popen(command, env=environment()) as process:
            wait_until(lambda before=before: len(lines(log)) >= before + 4)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
        assert not target.exists()
        assert not list((tmp_path / "a.zarr.partial" / "rain").glob("c/**/0"))
        kept.append(len(list(journal.glob("*.batch"))))
        # The one that was being written may be lost.
        assert kept[-1] >= kept[-2] + 3
    calls: list[int] = []
    hindcast(rain(), saved, to=target, progress=lambda done, total: calls.append(done))
    assert calls[0] >= 2 * (kept[-1] - 1)
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", **ONE_SHARD)
    assert content(target) == content(tmp_path / "b.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_hindcast_killed_at_any_moment_resumes_to_identical_bytes(
    nowcaster: Nowcaster, saved: Path, tmp_path: Path, seed: int
) -> None:
    hindcast(rain(), nowcaster, to=tmp_path / "b.zarr", batch_size=2, shard_size=2)
    rng = np.random.default_rng(seed)
    log, target = tmp_path / "log", tmp_path / "a.zarr"
    journal = tmp_path / "a.zarr.partial.journal"
    command = [sys.executable, "-c", WRITER, str(log), str(saved), str(target)]

    def at_work(process: subprocess.Popen[bytes]) -> bool:
        lock = tmp_path / "a.zarr.partial.lock"
        try:
            return f"process {process.pid} on" in lock.read_text()
        except FileNotFoundError:
            return process.poll() is not None or target.exists()

    kills = 0
    while not target.exists():
        with subprocess.Popen(command, env=environment()) as process:
            wait_until(lambda p=process: at_work(p))  # type: ignore[misc]
            time.sleep(float(rng.uniform(0, 1.2)))
            process.kill()
            kills += 1
    print(f"seed {seed}: {kills} kills")
    hindcast(rain(), nowcaster, to=target)
    assert content(target) == content(tmp_path / "b.zarr")
    assert not journal.exists()


# Clusters


@pytest.fixture(scope="module")
def distributed() -> Any:
    return pytest.importorskip("distributed", reason="clusters need pip install distributed")


@pytest.fixture
def cluster(distributed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "slowly.py").write_text(SLOW)
    for key, value in environment(LOG=str(tmp_path / "log")).items():
        monkeypatch.setenv(key, value)
    preload = {"distributed.worker.preload": [str(tmp_path / "slowly.py")]}
    import dask

    with (
        dask.config.set(preload),  # type: ignore[no-untyped-call]
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50, local_directory=tmp_path
        ) as local,
    ):
        yield local


def test_two_workers_of_which_one_is_killed_write_the_bytes_that_one_process_writes(
    nowcaster: Nowcaster, cluster: Any, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"batch_size": 2, "shard_size": 2}
    hindcast(georeferenced(), nowcaster, to=tmp_path / "one.zarr", **options)
    # Read lazily by the workers, from a file.
    georeferenced().to_netcdf(tmp_path / "rain.nc")
    log = tmp_path / "log"
    with xr.open_dataset(tmp_path / "rain.nc") as lazy:
        hindcast(lazy, nowcaster, to=tmp_path / "two.zarr", cluster=cluster.scheduler_address, **options)
        assert len({line.split()[1] for line in lines(log)}) == 2, "one worker did it all"
        log.unlink()

        def kill() -> None:
            wait_until(lambda: len(lines(log)) >= 2)
            os.kill(int(lines(log)[0].split()[1]), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        hindcast(lazy, nowcaster, to=tmp_path / "killed.zarr", cluster=cluster, **options)
        killer.join()
    put = [line.split()[0] for line in lines(log)]
    assert sorted(put, key=int) == [str(i) for i in range(9)]
    one = content(tmp_path / "one.zarr")
    assert content(tmp_path / "two.zarr") == one
    assert content(tmp_path / "killed.zarr") == one


@pytest.mark.slow
def test_references_dask_arrays_and_errors_go_through_a_cluster(
    nowcaster: Nowcaster, cluster: Any, tmp_path: Path
) -> None:
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        for name in ("near", "far"):
            where = client if name == "far" else None
            hindcast(rain().chunk(time=3), "persistence", 2, to=tmp_path / f"{name}.zarr", shard_size=16, cluster=where)
        assert content(tmp_path / "near.zarr") == content(tmp_path / "far.zarr")
        empty = rain().copy()
        empty[9] = np.nan
        with pytest.raises(DataError, match="has no valid value"):
            hindcast(empty, nowcaster, to=tmp_path / "e.zarr", missing="refuse", cluster=client)
        with client.as_current():  # a lazy one is computed by the workers
            np.testing.assert_array_equal(
                hindcast(rain().chunk(time=3), nowcaster, batch_size=4).compute(),
                hindcast(rain(), nowcaster, batch_size=4).compute(scheduler="synchronous"),
            )


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_said(nowcaster: Nowcaster, distributed: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", cluster="tcp://127.0.0.1:9")


def test_a_journal_that_was_left_by_a_process_killed_at_its_end_is_cleared(
    nowcaster: Nowcaster, tmp_path: Path
) -> None:
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr")
    journal = tmp_path / "a.zarr.partial.journal"
    journal.mkdir()
    (journal / "plan.json").write_text(json.dumps({"laid_out": True}))
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_a_replacement_that_was_whole_when_its_process_was_killed_takes_its_place(
    nowcaster: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(whole: Path, target: Path) -> None:
        raise Killed

    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr")
    before = (tmp_path / "a.zarr").stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr("sa_nowcast.storage.growing.put_in_place", die)
        with pytest.raises(Killed):
            hindcast(rain(), nowcaster, to=tmp_path / "a.zarr", existing="replace")
    hindcast(rain(), nowcaster, to=tmp_path / "a.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    assert (tmp_path / "a.zarr").stat().st_ino != before


def test_the_dimension_names_that_a_user_tells_are_used(nowcaster: Nowcaster) -> None:
    odd = rain().drop_vars(("y", "x")).rename(time="scan", y="azimuth", x="gate")
    names: dict[str, Any] = {"time": "scan", "y": "azimuth", "x": "gate"}
    np.testing.assert_array_equal(hindcast(odd, nowcaster, **names), hindcast(rain(), nowcaster))
    pytest.importorskip("pysteps", reason="extrapolation is by pysteps: pip install pysteps")
    ours = hindcast(odd, "extrapolation", 2, stride=8, **names)
    assert ours.dims == ("init_time", "lead_time", "azimuth", "gate")
    np.testing.assert_array_equal(ours, hindcast(rain(), "extrapolation", 2, stride=8))


def test_a_lazy_hindcast_can_be_pickled(nowcaster: Nowcaster) -> None:
    archive = hindcast(rain(), nowcaster, init_times=rain()["time"].values[5:9])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(archive)), archive)  # noqa: S301
    assert archive.chunks is not None
    assert archive["init_time"].attrs == dims.INIT_TIME_ATTRS


def test_rounded_times_give_the_hindcast_of_the_exact_ones(nowcaster: Nowcaster, sequence: xr.DataArray) -> None:
    exact, jittered = (d.sa_nowcast.hindcast(model=nowcaster) for d in (sequence, rounded(sequence)))
    xr.testing.assert_identical(exact.compute(), jittered.compute())


@pytest.mark.parametrize(
    "init_times",
    [
        slice("2020-06-01T00:30Z", "2020-06-01T00:40Z"),
        slice("2020-06-01T02:30+02:00", "2020-06-01T02:40+02:00"),
        ["2020-06-01T00:30Z", "2020-06-01T02:35+02:00", pd.Timestamp("2020-06-01T00:40", tz="UTC")],
        slice(pd.Timestamp("2020-06-01T00:30", tz="UTC"), np.datetime64("2020-06-01T00:40")),
    ],
)
def test_init_times_are_read_with_their_offset(
    nowcaster: Nowcaster, sequence: xr.DataArray, init_times: object
) -> None:
    # xcube-dev/xcube#605, developmentseed/titiler#1170
    archive = hindcast(sequence, nowcaster, init_times=init_times)
    wanted = [np.datetime64(f"2020-06-01T00:{minute}") for minute in (30, 35, 40)]
    assert archive["init_time"].values.tolist() == np.array(wanted, dtype="datetime64[ns]").tolist()


def test_a_file_of_wrf_is_hindcast_archived_and_scored(tmp_path: Path) -> None:
    ds = wrf(20)
    archive = hindcast(ds[["T2"]], "persistence", 2, to=tmp_path / "a.zarr")
    assert archive.dims == ("init_time", "lead_time", "south_north", "west_east")
    assert archive["XLAT"].dims == ("south_north", "west_east")
    scores = archive.isel(init_time=slice(0, 10)).sa_nowcast.verify(ds, metrics=["mse"])
    values = ds["T2"].values
    wanted = [((values[n : n + 10] - values[:10]).astype(np.float64) ** 2).mean() for n in (1, 2)]
    np.testing.assert_allclose(scores["mse"].values, wanted, rtol=1e-6)


def test_of_several_grids_the_variables_of_the_model_are_forecast(nowcaster: Nowcaster, sequence: xr.DataArray) -> None:
    both = of_two_grids(sequence)
    xr.testing.assert_identical(
        hindcast(both, nowcaster).compute(), hindcast(sequence.to_dataset(), nowcaster).compute()
    )


def test_a_hindcast_beyond_nanoseconds_is_refused(nowcaster: Nowcaster, sequence: xr.DataArray) -> None:
    late = sequence.assign_coords(time=pd.date_range("2261-12-30", periods=sequence.sizes["time"], freq="5min"))
    with pytest.raises(DataError, match="the valid times reach beyond 2262-04-11"):
        hindcast(late, nowcaster, 30_000)
