"""From frames in a folder to published forecasts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from operations.service_files import (
    POINTS,
    caught_up,
    drop,
    events,
    frames,
    incoming,
    published,
    service,
    status,
    times_of,
)
from sa_nowcast.derived import fill_gaps
from sa_nowcast.errors import StorageError
from sa_nowcast.hindcast import hindcast
from sa_nowcast.operations import checks
from sa_nowcast.operations.clock import folder_name
from sa_nowcast.operations.journal import Journal
from sa_nowcast.operations.publishing import Outputs
from sa_nowcast.operations.scoring import Scores
from sa_nowcast.operations.service import Service
from sa_nowcast.verification import Bootstrap, summarise, verify


def names(ds: xr.Dataset, numbers: range | list[int]) -> list[str]:
    return [folder_name(times_of(ds)[n]) for n in numbers]


def test_every_init_time_with_a_history_is_published_as_a_hindcast_forecasts_it(tmp_path: Path, saved: Path) -> None:
    ds = frames(9)
    incoming(tmp_path, ds, range(9))
    folder = caught_up(service(tmp_path, ds, saved, points=POINTS))
    assert published(folder) == names(ds, range(3, 9))
    assert (folder / "latest").read_text() == names(ds, [8])[0]
    expected = hindcast(ds, str(saved), 3, batch_size=1)
    with xr.open_zarr(folder / "archive.zarr", decode_timedelta=True) as archive:
        found = archive["rain"].sel(init_time=expected.init_time)
        np.testing.assert_array_equal(found.values, expected.values)
        assert (archive["history_status"].sel(init_time=expected.init_time) == 0).all()
    with xr.open_dataset(folder / "forecasts" / names(ds, [8])[0] / "forecast.nc", decode_timedelta=True) as one:
        np.testing.assert_array_equal(one["rain"].values, expected.isel(init_time=-1).values)
        assert one.attrs["sa_nowcast_frames"].split()[-1] == "2020-06-01T00:40:00Z"
    told = status(folder)
    assert (told["state"], told["counts"]["frames"], told["counts"]["forecasts"]) == ("stopped", 9, 6)
    assert [e["init_time"] for e in events(folder, "published")][:2] == ["2020-06-01T00:40:00Z", "2020-06-01T00:35:00Z"]
    # Started again, nothing is done twice.
    before = {p: p.stat().st_mtime_ns for p in (folder / "forecasts").rglob("*")}
    caught_up(service(tmp_path, ds, saved, points=POINTS))
    assert {p: p.stat().st_mtime_ns for p in (folder / "forecasts").rglob("*")} == before
    assert len(events(folder, "published")) == 6


def test_frames_that_are_late_doubled_damaged_or_unlike_are_told_of_and_stop_nothing(
    tmp_path: Path, saved: Path
) -> None:
    ds = frames(8)
    folder = incoming(tmp_path, ds, [0, 1, 2, 4, 5])
    drop(ds, 1, folder, "rain_again.nc")
    content = drop(ds, 7, folder, "cut.nc").read_bytes()
    (folder / "cut.nc").write_bytes(content[: len(content) // 2])
    thousandths = ds.assign(rain=ds["rain"] / 10).assign_coords(ds.coords)
    thousandths["rain"].attrs = {**ds["rain"].attrs, "units": "cm h-1"}
    drop(thousandths, 6, folder)
    warm = ds.copy()
    warm["rain"] = ds["rain"].assign_attrs(units="K")
    drop(warm, 7, folder, "warm.nc")
    drop(ds.isel(x=slice(2, None)), 7, folder, "narrow.nc")
    drop(ds.assign_coords(time=ds.time + np.timedelta64(40, "D")), 7, folder, "future.nc")
    drop(ds.assign_coords(time=ds.time + np.timedelta64(90, "s")), 1, folder, "rain_between.nc")
    drop(ds.assign(rain=ds["rain"].where(ds.time < ds.time[7])), 7, folder, "nothing.nc")
    recipe = service(tmp_path, ds, saved, fill_gaps=0)
    out = caught_up(recipe)
    counts = status(out)["counts"]
    assert counts["refused"] == {"unreadable": 1, "units": 1, "grid": 1, "time": 2, "empty": 1}
    assert (counts["frames"], counts["duplicate"], counts["converted"]) == (6, 1, 1)
    assert published(out) == []  # of every history the frame of 00:15 is missing
    assert "lacks 2020-06-01T00:15:00Z" in events(out, "state")[-2]["reasons"][0]
    drop(ds, 3, folder)
    caught_up(recipe)
    assert published(out) == names(ds, range(3, 7))
    assert status(out)["counts"]["late"] == 1
    expected = hindcast(ds, str(saved), 3, batch_size=1)
    with xr.open_zarr(out / "archive.zarr", decode_timedelta=True) as archive:
        found = archive["rain"].sel(init_time=ds.time[6])
        np.testing.assert_allclose(found, expected.sel(init_time=ds.time[6]), rtol=1e-3, atol=1e-3)  # cm h-1 as float32
    # What is written anew is read anew.
    drop(ds, 7, folder, "cut.nc")
    os.utime(folder / "cut.nc", (2e9, 1.1e9))
    caught_up(recipe)
    assert published(out) == names(ds, range(3, 8))


def test_no_forecast_is_published_from_frames_older_than_allowed(tmp_path: Path, saved: Path) -> None:
    ds = frames(9)
    folder = incoming(tmp_path, ds, [0, 1, 2, 3])
    recipe = service(tmp_path, ds, saved, now=3, max_age="12min")
    out = caught_up(recipe)
    assert published(out) == names(ds, [3])
    for number in (4, 5, 6, 7, 8):
        drop(ds, number, folder)
    late = service(tmp_path, ds, saved, max_age="12min")
    caught_up(late)
    assert published(out) == names(ds, [3, 6, 7, 8])
    assert sorted(e["init_time"] for e in events(out, "expired")) == ["2020-06-01T00:20:00Z", "2020-06-01T00:25:00Z"]
    later = str(ds.time.values[8] + np.timedelta64(1, "h"))
    stale = late.model_copy(update={"clock": late.clock.model_copy(update={"origin": later})})
    caught_up(stale)
    assert events(out, "state")[-2]["state"] == "no data"


def test_old_forecasts_are_removed_after_newer_ones_are_there(tmp_path: Path, saved: Path) -> None:
    ds = frames(12)
    folder = incoming(tmp_path, ds, range(8))
    out = caught_up(service(tmp_path, ds, saved, now=7, keep="27min", max_age="27min", fill_gaps=0))
    for number in range(8, 12):
        drop(ds, number, folder)
    caught_up(service(tmp_path, ds, saved, keep="27min", max_age="27min", fill_gaps=0))
    assert published(out) == names(ds, range(6, 12))
    with xr.open_zarr(out / "archive.zarr", decode_timedelta=True) as archive:
        there = archive["rain"].notnull().any(["lead_time", "y", "x"])
        assert archive.init_time.values[there.values].astype("M8[ns]").astype(int).tolist() == times_of(ds)[6:]
        assert archive.init_time.values[archive["history_status"].values == 0].size == 6
    with xr.open_zarr(out / "observed.zarr") as observed:
        kept = observed["rain"].notnull().any(["y", "x"]).values
        assert observed.time.values[kept].astype("M8[ns]").astype(int).tolist() == times_of(ds)[2:]


@pytest.mark.parametrize(
    "at",
    [
        pytest.param("put_archive", marks=pytest.mark.slow),
        "publish",
        pytest.param("finish", marks=pytest.mark.slow),
        pytest.param("put_frame", marks=pytest.mark.slow),
    ],
)
def test_what_was_interrupted_is_done_once(
    at: str, tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = frames(6)
    incoming(tmp_path, ds, range(6))
    recipe = service(tmp_path, ds, saved)
    own = getattr(Outputs, at)
    calls = []

    def stopped(self: Outputs, *given):
        own(self, *given)
        calls.append(at)
        if len(calls) in (1, 2):
            raise MemoryError  # as abrupt as a signal: nothing in the service handles it

    monkeypatch.setattr(Outputs, at, stopped)
    for _ in range(2):
        with pytest.raises(MemoryError):
            caught_up(recipe)
    out = caught_up(recipe)
    assert published(out) == names(ds, [3, 4, 5])
    told = [e["init_time"] for e in events(out) if e["event"] in ("published", "recovered")]
    assert sorted(told) == [f"2020-06-01T00:{m}:00Z" for m in (15, 20, 25)]
    assert (out / "latest").read_text() == names(ds, [5])[0]
    expected = hindcast(ds, str(saved), 3, batch_size=1)
    with xr.open_zarr(out / "archive.zarr", decode_timedelta=True) as archive:
        np.testing.assert_array_equal(archive["rain"].sel(init_time=expected.init_time), expected)


@pytest.mark.slow
def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path, saved: Path) -> None:
    ds = frames(5)
    incoming(tmp_path, ds, range(5))
    recipe = service(tmp_path, ds, saved)
    out = caught_up(recipe)
    (out / "forecasts" / f".{names(ds, [4])[0]}.host-1-00000000.partial").mkdir()
    caught_up(recipe)
    assert published(out) == names(ds, [3, 4])


def test_the_self_verification_is_that_of_a_hindcast(tmp_path: Path, saved: Path) -> None:
    ds = frames(11)
    incoming(tmp_path, ds, [n for n in range(11) if n != 8])
    recipe = service(tmp_path, ds, saved)
    out = caught_up(recipe)
    times = pd.date_range(ds.time.values[0], periods=14, freq="5min")
    whole = ds["rain"].where(ds.time != ds.time[8]).reindex(time=times)
    inits = ds.time.values[[3, 4, 5, 6, 7, 9, 10]]
    expected = hindcast(fill_gaps(whole), str(saved), 3, init_times=inits, batch_size=1).load()
    theirs = verify(
        expected, whole, ["mse"], reference="persistence", valid_times="all", bootstrap=Bootstrap(samples=0)
    )
    checked = checks.check(recipe)
    journal = Journal(out / "state" / "journal.sqlite")
    scores = Scores(checked, Outputs(checked, ""), journal)
    ours = summarise(scores.statistics(-(2**62), "persistence"), valid_times="all", bootstrap=Bootstrap(samples=0))
    journal.close()
    xr.testing.assert_identical(ours.drop_attrs(), theirs.drop_attrs())
    table = json.loads((out / "verification.json").read_text())
    day = table["windows"]["day"]
    assert [lead["mse"] for lead in day["leads"]] == theirs["mse"].values.tolist()
    assert [lead["skill_persistence"] for lead in day["leads"]] == theirs["mse_skill"].values.tolist()
    assert [lead["pairs"] for lead in day["leads"]] == theirs["forecasts"].values.tolist()
    assert day["init_times"] == 6


def test_skill_below_its_bound_is_a_state(tmp_path: Path, saved: Path) -> None:
    ds = frames(6)
    incoming(tmp_path, ds, range(6))
    out = caught_up(service(tmp_path, ds, saved, verification={"bound": 0.999}))
    assert status(out)["skill"]["state"] == "below"
    assert [e for e in events(out, "state") if e["state"] == "degraded"]
    assert "skill of the last day" in [e for e in events(out, "state") if e["state"] == "degraded"][-1]["reasons"][0]


def test_a_store_that_grows_is_read_as_it_grows(tmp_path: Path, saved: Path) -> None:
    ds = frames(8)
    place = tmp_path / "incoming"
    ds.isel(time=slice(0, 4)).to_zarr(place, zarr_format=3, consolidated=False)
    recipe = service(tmp_path, ds, saved)
    out = caught_up(recipe)
    assert published(out) == names(ds, [3])
    ds[["rain"]].drop_vars(["latitude", "longitude", "y", "x"]).isel(time=slice(4, 8)).to_zarr(
        place, append_dim="time", consolidated=False
    )
    caught_up(recipe)
    assert published(out) == names(ds, range(3, 8))


@pytest.mark.slow
def test_a_service_that_was_killed_before_it_had_said_what_it_is_starts_again(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = frames(4)
    incoming(tmp_path, ds, range(4))
    recipe = service(tmp_path, ds, saved)

    def stopped(self: Outputs) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "tidy", stopped)
        with pytest.raises(MemoryError):
            caught_up(recipe)
    assert not (tmp_path / "out" / "service.json").exists()
    assert published(caught_up(recipe)) == names(ds, [3])


@pytest.mark.slow
def test_two_services_cannot_run_in_one_folder(tmp_path: Path, saved: Path) -> None:
    from sa_nowcast.storage.whole import locked

    ds = frames(4)
    incoming(tmp_path, ds, range(4))
    recipe = service(tmp_path, ds, saved)
    out = caught_up(recipe)
    with locked(out / "state" / "lock", out), pytest.raises(StorageError, match="is being written by process"):
        caught_up(recipe)


@pytest.mark.slow
def test_memory_and_what_is_kept_of_frames_do_not_grow(tmp_path: Path, saved: Path) -> None:
    ds = frames(30)
    incoming(tmp_path, ds, range(30))
    checked = checks.check(service(tmp_path, ds, saved))
    running = Service(checked, lambda line: None)
    while any(running.step()):
        assert len(running.frames) <= checked.history + 2
    running.close()
    assert pd.Timestamp(status(checked.folder)["heartbeat"]) > pd.Timestamp("2020-01-01", tz="UTC")
