"""Missing frames, filled along the motion between those beside them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from derived.test_passing import blob
from sequences import rain

from sa_nowcast.derived import fill_gaps
from sa_nowcast.errors import DataError, RecipeError


def moving(count: int = 7, speed: float = 4.0) -> xr.DataArray:
    return rain(count, 40, 80).copy(data=np.stack([blob(16 + speed * k) for k in range(count)]))


@pytest.mark.parametrize("missing", [[3], [3, 4], [1]])
def test_a_frame_is_filled_where_the_motion_brings_it(missing: list[int]) -> None:
    frames = moving()
    there = [n for n in range(7) if n not in missing]
    found = fill_gaps(frames.isel(time=there), len(missing))
    assert found.dims == frames.dims
    assert (found.time == frames.time).all()
    np.testing.assert_array_equal(found.isel(time=there), frames.isel(time=there))
    between = frames.isel(time=there).interp(time=frames.time[missing])
    error = np.square(found - frames).isel(time=missing).mean()
    assert error < 0.1 * np.square(between - frames.isel(time=missing)).mean()
    told = found.attrs["sa_nowcast_filled"].split()
    assert told == [f"2020-06-01T00:{5 * n:02d}" for n in missing]
    assert found.attrs["units"] == "mm h-1"


def test_a_frame_without_values_is_filled_and_pixels_that_are_missing_beside_it_stay_missing() -> None:
    frames = moving().transpose("y", "x", "time")
    frames[{"time": 3}] = np.nan
    frames[{"time": 2, "y": slice(0, 5)}] = np.nan
    found = fill_gaps(frames.isel(y=slice(None, None, -1)), 1)
    assert found.sizes == {"time": 7, "y": 40, "x": 80}
    assert found.isel(time=3, y=slice(-4, None)).isnull().all()
    assert found.isel(time=3, y=slice(0, 30)).notnull().all()
    # The layout of the data makes no difference.
    np.testing.assert_array_equal(found.isel(y=slice(None, None, -1)), fill_gaps(frames, 1))


def test_without_a_motion_it_is_interpolation_in_time() -> None:
    values = np.random.default_rng(0).normal(size=(6, 40, 80)).astype(np.float32)
    frames = rain(6, 40, 80).copy(data=values)
    found = fill_gaps(frames.isel(time=[0, 1, 2, 4, 5]))
    np.testing.assert_allclose(found[3], (values[2] + values[4]) / 2, atol=1e-3)


def test_what_follows_a_gap_takes_part_with_one_frame() -> None:
    frames = moving().isel(time=[0, 1, 2, 4, 5, 6])
    np.testing.assert_array_equal(fill_gaps(frames)[:5], fill_gaps(frames[:4]))


def test_longer_gaps_and_gaps_at_an_end_stay() -> None:
    frames = moving()
    frames[0] = np.nan
    for there, longest in (([0, 1, 2, 5, 6], 1), ([0, 1, 2, 3], 5), ([0, 1, 3], 0)):
        some = frames.isel(time=there)
        xr.testing.assert_identical(fill_gaps(some, longest), some)


def test_channels_are_filled_each_by_itself() -> None:
    frames = moving()
    two = xr.concat([frames, frames.copy(data=2 * frames.values[:, ::-1])], "channel").transpose(
        "time", "y", "x", "channel"
    )
    found = fill_gaps(two.isel(time=[0, 1, 2, 4, 5, 6]), channel="channel")
    alone = fill_gaps(frames.isel(time=[0, 1, 2, 4, 5, 6]))
    np.testing.assert_allclose(found.isel(channel=0).transpose(*alone.dims), alone, atol=1e-5)


def test_data_that_are_no_frames_are_refused() -> None:
    with pytest.raises(RecipeError, match="longest"):
        fill_gaps(moving(), -1)
    with pytest.raises(DataError, match="not sorted"):
        fill_gaps(moving().isel(time=[1, 0, 2]))
