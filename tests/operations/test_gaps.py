"""Frames that are missing from a history, and what becomes of the forecast when they come."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
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
from sa_nowcast.hindcast import hindcast
from sa_nowcast.operations.clock import folder_name
from sa_nowcast.operations.judging import Report, judge
from sa_nowcast.operations.publishing import Outputs


def names(ds: xr.Dataset, numbers: list[int]) -> list[str]:
    return [folder_name(times_of(ds)[n]) for n in numbers]


def judged(recipe, folder: Path, ds: xr.Dataset, numbers: list[int]) -> Report:
    """Return what a replay would say of a service that these frames have reached."""
    found = Report(frames=len(numbers))
    judge(recipe, folder, [times_of(ds)[n] for n in numbers], found)
    assert found.faults == []
    return found


def test_a_gap_of_one_frame_is_filled_until_the_frame_comes(tmp_path: Path, saved: Path) -> None:
    ds = frames(9)
    there = [n for n in range(9) if n != 4]
    folder = incoming(tmp_path, ds, there)
    recipe = service(tmp_path, ds, saved, points=POINTS, output={"formats": ["netcdf", "geotiff", "stac"]})
    out = caught_up(recipe)
    assert published(out) == names(ds, [3, 5, 6, 7, 8])
    whole = fill_gaps(ds["rain"].isel(time=there))
    expected = hindcast(whole, str(saved), 3, init_times=ds.time.values[[3, 5, 6, 7, 8]], batch_size=1)
    with xr.open_zarr(out / "archive.zarr", decode_timedelta=True) as archive:
        np.testing.assert_array_equal(archive["rain"].sel(init_time=ds.time.values[5]), expected[1])
    seven = out / "forecasts" / names(ds, [7])[0]
    with xr.open_dataset(seven / "forecast.nc", decode_timedelta=True) as one:
        assert one.attrs["sa_nowcast_filled"] == "2020-06-01T00:20:00Z"
        assert one.attrs["comment"].endswith("filled along the motion: 2020-06-01T00:20:00Z")
        assert len(one.attrs["sa_nowcast_frames"].split()) == 3
        former = one.attrs["sa_nowcast_as_of"]
    assert json.loads((seven / "points.json").read_text())["filled"] == ["2020-06-01T00:20:00Z"]
    assert json.loads((seven / "item.json").read_text())["properties"]["sa_nowcast:filled"] == ["2020-06-01T00:20:00Z"]
    eight = out / "forecasts" / names(ds, [8])[0]
    with xr.open_dataset(eight / "forecast.nc", decode_timedelta=True) as one:
        assert "sa_nowcast_filled" not in one.attrs  # its history begins after the gap
    told = status(out)
    assert (told["counts"]["filled"], told["counts"]["replaced"], told["newest_filled"]) == (3, 0, [])
    assert judged(recipe, out, ds, there).filled == 3
    pairs = judged(recipe, out, ds, there).pairs

    drop(ds, 4, folder)
    before = (eight / "forecast.nc").stat().st_mtime_ns
    caught_up(recipe)
    assert published(out) == names(ds, [3, 4, 5, 6, 7, 8])
    assert (eight / "forecast.nc").stat().st_mtime_ns == before
    told = status(out)["counts"]
    assert (told["filled"], told["replaced"], told["forecasts"], told["late"]) == (3, 3, 6, 1)
    again = {e["init_time"]: e for e in events(out, "replaced")}
    assert sorted(again) == [f"2020-06-01T00:{m}:00Z" for m in (25, 30, 35)]
    assert again["2020-06-01T00:35:00Z"]["replaces"] == former
    with xr.open_dataset(seven / "forecast.nc", decode_timedelta=True) as one:
        assert "sa_nowcast_filled" not in one.attrs
        assert one.attrs["sa_nowcast_as_of"] == again["2020-06-01T00:35:00Z"]["as_of"] > former
    # What was verified of the earlier ones is verified anew.
    assert judged(recipe, out, ds, list(range(9))).pairs > pairs
    # Nothing is made a third time.
    caught_up(recipe)
    assert len(events(out, "replaced")) == 3


def test_from_longer_gaps_no_forecast_is_made_and_the_older_one_stays(tmp_path: Path, saved: Path) -> None:
    ds = frames(9)
    there = [0, 1, 2, 3, 4, 7]
    folder = incoming(tmp_path, ds, there)
    recipe = service(tmp_path, ds, saved, now=7)
    out = caught_up(recipe)
    assert published(out) == names(ds, [3, 4])
    last = [e for e in events(out, "state") if e["state"] == "late"][-1]["reasons"]
    assert last == ["the newest forecast is from 2020-06-01T00:20:00Z: the history of 2020-06-01T00:35:00Z lacks "
                    "2020-06-01T00:30:00Z, 2020-06-01T00:25:00Z"]  # fmt: skip
    drop(ds, 5, folder)  # a gap of one is left, and the forecast of 00:25 is possible
    caught_up(recipe)
    assert published(out) == names(ds, [3, 4, 5, 7])
    judged(recipe, out, ds, sorted([*there, 5]))


@pytest.mark.slow
def test_a_gap_may_begin_before_the_history_and_be_as_long_as_the_recipe_says(tmp_path: Path, saved: Path) -> None:
    ds = frames(12)
    there = [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    incoming(tmp_path, ds, there)
    recipe = service(tmp_path, ds, saved, fill_gaps=2)
    out = caught_up(recipe)
    assert published(out) == names(ds, [3, 4, 7, 8, 9, 10, 11])
    nine = out / "forecasts" / names(ds, [9])[0]
    assert json.loads((nine / "points.json").read_text())["filled"] == ["2020-06-01T00:30:00Z"]
    judged(recipe, out, ds, there)


@pytest.mark.slow
def test_forecasts_that_are_too_old_when_the_frame_comes_stay_as_they_are(tmp_path: Path, saved: Path) -> None:
    ds = frames(10)
    folder = incoming(tmp_path, ds, [0, 1, 2, 3, 5, 6])
    out = caught_up(service(tmp_path, ds, saved, max_age="16min", now=6))
    assert status(out)["counts"]["filled"] == 2
    drop(ds, 4, folder)
    late = service(tmp_path, ds, saved, max_age="16min", now=9)
    caught_up(late)
    assert [e["init_time"] for e in events(out, "replaced")] == ["2020-06-01T00:30:00Z"]
    assert status(out)["counts"]["expired"] == 1
    assert judged(late, out, ds, list(range(7))).filled == 1  # that of 00:25


@pytest.mark.slow
@pytest.mark.parametrize("at", ["put_archive", "publish"])
def test_what_is_made_anew_is_so_after_a_crash(
    at: str, tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = frames(16)
    folder = incoming(tmp_path, ds, [0, 1, 2, 3, 5, 6])
    recipe = service(tmp_path, ds, saved, max_age="31min", now=8)
    out = caught_up(recipe)
    drop(ds, 4, folder)
    own = getattr(Outputs, at)

    def stopped(self: Outputs, *given):
        own(self, *given)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Outputs, at, stopped)
        with pytest.raises(MemoryError):
            caught_up(recipe)
    # By now the frames are older than allowed: what was begun is done all the same.
    recipe = service(tmp_path, ds, saved, max_age="31min")
    caught_up(recipe)
    with xr.open_zarr(out / "archive.zarr", decode_timedelta=True) as archive:
        own_time = archive["rain"].sel(init_time=ds.time.values[6])
        np.testing.assert_array_equal(
            own_time, hindcast(ds[["rain"]].isel(time=slice(0, 7)), str(saved), 3, batch_size=1)[-1]
        )
    with xr.open_dataset(out / "forecasts" / names(ds, [6])[0] / "forecast.nc", decode_timedelta=True) as one:
        np.testing.assert_array_equal(one["rain"], own_time)
    judged(recipe, out, ds, list(range(7)))


def test_a_forecast_that_was_away_for_its_successor_is_there_again(tmp_path: Path, saved: Path) -> None:
    ds = frames(4)
    incoming(tmp_path, ds, range(4))
    recipe = service(tmp_path, ds, saved)
    out = caught_up(recipe)
    (name,) = published(out)
    (out / "forecasts" / name).rename(out / "forecasts" / f".{name}.former")
    caught_up(recipe)
    assert published(out) == [name]
    assert len(events(out, "published")) == 1
