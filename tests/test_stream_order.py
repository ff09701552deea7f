"""The planner against slow, obvious counting: which windows there are, who reads them, and what reading costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from sa_nowcast.frames import Frames
from sa_nowcast.stream import EpochSampler, Share, StepSampler
from sa_nowcast.stream.order import Layout, StoredAxis, block_order, choose_layout
from sa_nowcast.stream.sources import starts_of
from sa_nowcast.windows import split_in_time

MANY = settings(max_examples=1000)
STEP = np.timedelta64(5, "m")


@st.composite
def axes(draw: st.DrawFn) -> StoredAxis:
    atom = draw(st.integers(1, 8))
    unit = atom * draw(st.integers(1, 12))
    return StoredAxis(draw(st.integers(1, 300)), unit, atom, draw(st.integers(0, unit - 1)), draw(st.integers(1, 50)))


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[StoredAxis], int, np.ndarray, Layout]:
    """Stores, a window's length, windows inside the stores, and a layout for them."""
    stores = draw(st.lists(axes(), min_size=1, max_size=3))
    length, budget = draw(st.integers(1, 25)), draw(st.integers(1, 20_000))
    keep = np.random.default_rng(draw(st.integers(0, 2**32))).random(1000) < draw(st.sampled_from([0.1, 0.7, 1.0]))
    first, starts = 0, []
    for store in stores:
        starts += [first + s for s in range(store.frames - length + 1) if keep[first + s]]
        first += store.frames
    return stores, length, np.asarray(starts, dtype=np.int64), choose_layout(stores, length, budget)


@st.composite
def sequences(draw: st.DrawFn) -> list[Frames]:
    """One to three sequences of minutes with gaps, which may lie side by side in time or behind each other."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        ticks = sorted(draw(st.sets(st.integers(0, 40), min_size=3, max_size=40)))
        ticks += [ticks[-1] + 1, ticks[-1] + 2, ticks[-1] + 3]  # so that the step is told
        times = pd.Timestamp("2020-01-01") + np.asarray(ticks) * pd.Timedelta(STEP)
        array = xr.DataArray(np.zeros((len(ticks), 2, 2), np.float32), dims=("time", "y", "x"), coords={"time": times})
        found.append(Frames.from_xarray(array, gaps="skip", step=STEP))
    return found


def slow_windows(frames: Frames, length: int, stride: int, allowed: set[int]) -> list[int]:
    """Try every start: all frames allowed, every step the step; of a stretch of frames, every `stride`-th start."""
    starts, begin = [], None
    for start in range(len(frames)):
        follows = start > 0 and frames.times[start] - frames.times[start - 1] == STEP and start - 1 in allowed
        if start not in allowed:
            continue
        begin = begin if follows and begin is not None else start
        used = range(start, start + length)
        whole = all(t in allowed for t in used) and all(
            frames.times[t + 1] - frames.times[t] == STEP for t in list(used)[:-1]
        )
        if whole and (start - begin) % stride == 0:
            starts.append(start)
    return starts


@settings(max_examples=400)
@given(
    sequences(),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from(["train", "validation", "test", None]),
    st.integers(0, 3),
)
def test_windows_cross_no_gap_no_split_and_none_is_missing(
    several: list[Frames], length: int, stride: int, period: str | None, guard: int
) -> None:
    axis = sorted({t for f in several for t in f.times.tolist()})
    shares = {"validation": 0.25, "test": 0.25, "guard": guard}
    try:
        parts = split_in_time(len(axis), length, validation=0.25, test=0.25, guard=guard)
    except ValueError:
        return
    begin, end = (0, len(axis)) if period is None else getattr(parts, period)
    wanted = set(axis[begin:end])
    expected = [
        slow_windows(f, length, stride, {i for i, t in enumerate(f.times.tolist()) if t in wanted}) for f in several
    ]
    assert [s.tolist() for s in starts_of(several, length, stride, period, **shares)] == expected


@MANY
@given(plans(), st.integers(0, 2**32), st.integers(0, 5))
def test_an_epoch_has_every_window_once_in_an_order_of_seed_and_epoch_alone(
    plan: tuple[list[StoredAxis], int, np.ndarray, Layout], seed: int, epoch: int
) -> None:
    _, _, starts, layout = plan
    if not len(starts):
        return
    order = block_order(seed, epoch, starts, layout)
    assert sorted(order.tolist()) == list(range(len(starts)))
    np.testing.assert_array_equal(block_order(seed, epoch, starts, layout), order)


@MANY
@given(plans())
def test_cells_are_stored_parts_and_no_larger_than_what_may_be_held(
    plan: tuple[list[StoredAxis], int, np.ndarray, Layout],
) -> None:
    stores, _, _, layout = plan
    total = sum(s.frames for s in stores)
    assert layout.edges[0] == 0
    assert layout.edges[-1] == total
    assert (np.diff(layout.edges) > 0).all()
    assert set(np.cumsum([s.frames for s in stores]).tolist()) <= set(layout.edges.tolist())
    first = 0
    for store in stores:
        inside = [int(e) - first for e in layout.edges if 0 < e - first < store.frames]
        assert all((e + store.offset) % store.unit % store.atom == 0 for e in inside)  # no chunk is cut
        first += store.frames


def simulate(starts: np.ndarray, length: int, layout: Layout, order: np.ndarray) -> tuple[int, int]:
    """Read windows in this order as a reader does; return frames read, and the most frames held at any time."""
    held: dict[int, set[int]] = {}
    read = most = 0
    sizes = np.diff(layout.edges)
    for place, window in enumerate(order.tolist()):
        start = int(starts[window])
        cells = range(layout.cell(start), layout.cell(start + length - 1) + 1)
        lane = held.setdefault(place % layout.lanes, set())
        if not layout.whole:
            lane &= set(range(cells[0], layout.reach(cells[0], length) + 1))
        read += int(sum(sizes[c] for c in cells if c not in lane))
        lane |= set(cells)
        most = max(most, int(sum(sizes[c] for kept in held.values() for c in kept)))
    return read, most


@pytest.mark.parametrize("length", [5, 20])
@pytest.mark.parametrize(("unit", "atom"), [(1, 1), (24, 24), (160, 1), (240, 8)])
@pytest.mark.parametrize("stride", [1, None])
def test_an_epoch_reads_every_frame_about_once_and_holds_no_more_than_it_may(
    length: int, unit: int, atom: int, stride: int | None
) -> None:
    frames, nbytes = 12_000, 100
    budget = frames * nbytes // 16
    stores = [StoredAxis(frames // 2, unit, atom, 0, nbytes), StoredAxis(frames // 2, unit, atom, 3 % unit, nbytes)]
    layout = choose_layout(stores, length, budget)
    starts = np.concatenate([np.arange(0, frames // 2 - length + 1, stride or length) + s for s in (0, frames // 2)])
    for epoch in range(3):
        read, most = simulate(starts, length, layout, block_order(0, epoch, starts, layout))
        assert read / frames <= 1.15
        assert most * nbytes <= budget
    assert layout.lanes > 1  # the windows of a batch come from several places


@settings(max_examples=300)
@given(plans(), st.integers(1, 9))
def test_an_order_mixes_and_differs_between_epochs(
    plan: tuple[list[StoredAxis], int, np.ndarray, Layout], seed: int
) -> None:
    _, _, starts, layout = plan
    if len(starts) < 30:
        return
    one, other = (block_order(seed, e, starts, layout) for e in (0, 1))
    if (np.diff(layout.edges).max() > 6) or layout.whole:
        assert one.tolist() != other.tolist()


@MANY
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_shares_are_disjoint_and_together_every_window_once(samples: int, batch: int, ranks: int, epoch: int) -> None:
    shares = [[k for b in EpochSampler(samples, batch, epoch, Share(r, ranks)) for k in b] for r in range(ranks)]
    assert sorted(k for s in shares for k in s) == list(range(epoch * samples, (epoch + 1) * samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    steps = [[k for b in StepSampler(batch, 7, 2, Share(r, ranks)) for k in b] for r in range(ranks)]
    # together, ranks times the batch: what one process with the whole batch would take
    alone = [k for b in StepSampler(batch * ranks, 7, 2) for k in b]
    assert sorted(k for s in steps for k in s) == alone


def test_an_epoch_follows_an_epoch_and_can_be_chosen() -> None:
    sampler = EpochSampler(10, 4)
    assert list(sampler) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert next(iter(sampler)) == [10, 11, 12, 13]
    sampler.epoch = 5
    assert next(iter(sampler)) == [50, 51, 52, 53]
    assert len(EpochSampler(10, 4, drop_last=True)) == 2
    assert [len(b) for b in EpochSampler(10, 4, drop_last=True)] == [4, 4]
