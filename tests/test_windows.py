from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.windows import crop_corner, epoch_order, split_in_time, window_starts

SEGMENTS = st.lists(st.integers(0, 40), min_size=2, max_size=8, unique=True).map(
    lambda cuts: list(itertools.pairwise(sorted(cuts)))
)


def slow_starts(segments: list[tuple[int, int]], length: int, within: tuple[int, int], blocked: set[int]) -> list[int]:
    """Every start, tried one by one against the definition."""
    segment_of = {i: n for n, (a, b) in enumerate(segments) for i in range(a, b)}
    found = []
    for start in range(-5, 60):
        frames = range(start, start + length)
        in_one_segment = len({segment_of.get(i, -1 - i) for i in frames}) == 1 and frames[0] in segment_of
        in_split = all(within[0] <= i < within[1] for i in frames)
        if in_one_segment and in_split and not blocked & set(frames):
            found.append(start)
    return found


@given(
    SEGMENTS, st.integers(1, 8), st.tuples(st.integers(0, 40), st.integers(0, 40)), st.sets(st.integers(0, 40)).map(set)
)
def test_windows_are_all_and_only_those_that_cross_no_gap_split_or_blocked_frame(
    segments: list[tuple[int, int]], length: int, within: tuple[int, int], blocked: set[int]
) -> None:
    starts = window_starts(segments, length, within, sorted(blocked)).tolist()
    assert starts == slow_starts(segments, length, within, blocked)
    assert len(set(starts)) == len(starts)


@given(SEGMENTS, st.integers(1, 5), st.integers(1, 6))
def test_a_stride_counts_from_the_start_of_each_segment(
    segments: list[tuple[int, int]], length: int, stride: int
) -> None:
    starts = window_starts(segments, length, (0, 40), stride=stride).tolist()
    dense = slow_starts(segments, length, (0, 40), set())
    assert starts == [s for s in dense if (s - next(a for a, b in segments if a <= s < b)) % stride == 0]


SHARES = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.23, 0.28, 0.3, 0.45, 0.7])


@given(st.integers(1, 200), st.integers(1, 12), SHARES, SHARES, st.integers(0, 10), st.none() | SHARES.filter(bool))
def test_periods_are_disjoint_guarded_and_long_enough_or_one_error_says_how_many_frames_are_needed(
    frames: int, length: int, validation: float, test: float, guard: int, training: float | None
) -> None:
    options = {"validation": validation, "test": test, "guard": guard, "training": training}
    assume(validation + test + (training or 0) < 1)
    try:
        split = split_in_time(frames, length, **options)  # type: ignore[arg-type]
    except DataError as error:
        found = re.search(r"time: (\d+) frames, of which (\d+) would be left.*expected at least (\d+) ", str(error))
        assert found
        assert int(found[1]) == frames
        # The number in the message is enough, and no smaller one is.
        enough = int(found[3])
        split_in_time(enough, length, **options)  # type: ignore[arg-type]
        with pytest.raises(DataError):
            split_in_time(enough - 1, length, **options)  # type: ignore[arg-type]
        return
    periods = [p for p in (split.train, split.validation, split.test) if p[1] > p[0]]
    assert [share > 0 for share in (validation, test)] == [p[1] > p[0] for p in (split.validation, split.test)]
    assert split.train[0] == 0
    assert periods[-1][1] == frames or training is not None
    for (_, end), (begin, _) in itertools.pairwise(periods):
        assert begin >= end + guard
    for period in periods:
        assert period[1] - period[0] >= length
        assert period[1] <= frames
    for share, period in ((validation, split.validation), (test, split.test), (training, split.train)):
        if share:
            # Rounded to whole frames, unless a window needs more; training may be cut to what is left.
            assert period[1] - period[0] <= max(round(share * frames), length)
    if training is None and len(periods) > 1:
        assert sum(b - a for a, b in periods) + guard * (len(periods) - 1) == frames


@given(st.integers(0, 1000))
def test_no_window_of_one_period_shares_a_frame_with_one_of_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    length, guard = int(rng.integers(1, 8)), int(rng.integers(0, 6))
    frames = int(rng.integers(6 * length + 2 * guard, 200))
    split = split_in_time(frames, length, validation=0.2, test=0.2, guard=guard)
    used = [
        {i for s in window_starts([(0, frames)], length, p).tolist() for i in range(s, s + length)}
        for p in (split.train, split.validation, split.test)
    ]
    for one, other in itertools.combinations(used, 2):
        assert one
        assert min(other) - max(one) > guard


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": -0.1}, r"split\.validation: -0\.1, expected a share from 0 to below 1"),
        ({"test": 1.0}, r"split\.test: 1\.0"),
        ({"validation": float("nan")}, r"split\.validation: nan"),
        ({"validation": 0.6, "test": 0.5}, r"shares add up to 1\.1"),
        ({"validation": 0.5, "test": 0.5}, r"nothing to train on|add up to 1"),
        ({"training": 0.7, "validation": 0.2, "test": 0.2}, r"add up to 1\.1"),
        ({"guard": -1}, r"split\.guard: -1, expected 0 frames or more"),
    ],
)
def test_shares_and_guards_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        split_in_time(100, 4, **({"validation": 0.2, "test": 0.2, "guard": 2} | options))  # type: ignore[arg-type]


@given(st.integers(1, 97), st.integers(1, 97))
def test_shares_in_hundredths_that_add_up_to_one_are_allowed(training: int, validation: int) -> None:
    assume(training + validation < 99)
    test = 100 - training - validation
    # Their sum in floating point may lie just above 1.
    split = split_in_time(100_000, 4, training=training / 100, validation=validation / 100, test=test / 100, guard=0)
    assert split.train == (0, training * 1000)


@given(st.integers(0, 2**31), st.integers(0, 50), st.integers(1, 300))
def test_an_epochs_order_is_a_permutation_that_seed_and_epoch_decide(seed: int, epoch: int, windows: int) -> None:
    order = epoch_order(seed, epoch, windows)
    assert sorted(order.tolist()) == list(range(windows))
    np.testing.assert_array_equal(order, epoch_order(seed, epoch, windows))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(epoch_order(seed, epoch, 50).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(st.integers(0, 99), st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_a_crop_lies_within_the_grid_and_seed_and_sample_decide_it(
    seed: int, sample: int, height: int, width: int, crop: int
) -> None:
    row, column = crop_corner(seed, sample, height, width, (crop, crop))
    assert 0 <= row <= max(height - crop, 0)
    assert 0 <= column <= max(width - crop, 0)
    assert (row, column) == crop_corner(seed, sample, height, width, (crop, crop))


def test_crops_reach_every_corner() -> None:
    corners = {crop_corner(0, k, 6, 5, (4, 4)) for k in range(200)}
    assert corners == set(itertools.product(range(3), range(2)))
