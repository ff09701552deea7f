from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sequences import rain

from sa_nowcast.errors import DataError
from sa_nowcast.scaling import ChannelScaling, Scaling
from sa_nowcast.stream import SequenceDataset, StepSampler, prepare

SCALING = Scaling((ChannelScaling("standard", "K", 2.0, 3.0),))
HISTORY = 3
RAW = hnp.arrays(np.float32, (1, 6, 1, 2, 3), elements=st.floats(-9, 9, width=32) | st.just(np.float32("nan"))).map(
    torch.from_numpy
)


def slow_fill(raw: np.ndarray, history: int) -> np.ndarray:
    """Pixel by pixel after the rule: the latest valid before it, else the earliest of the history, else 0 scaled."""
    out = np.zeros_like(raw)
    for b, c, y, x in np.ndindex(raw.shape[0], *raw.shape[2:]):
        series = raw[b, :, c, y, x]
        for t in range(len(series)):
            before = [v for v in series[: t + 1] if np.isfinite(v)]
            early = [v for v in series[:history] if np.isfinite(v)]
            value = before[-1] if before else early[0] if early else None
            out[b, t, c, y, x] = 0 if value is None else (value - np.float32(2)) / np.float32(3)
    return out


@given(RAW)
def test_missing_pixels_are_filled_by_the_rule(raw: torch.Tensor) -> None:
    x, valid = prepare(raw, SCALING, HISTORY)
    np.testing.assert_array_equal(valid.numpy(), np.isfinite(raw.numpy()))
    np.testing.assert_array_equal(x.numpy(), slow_fill(raw.numpy(), HISTORY))


@given(RAW, hnp.arrays(np.float32, (1, 3, 1, 2, 3), elements=st.floats(-9, 9, width=32) | st.just(np.float32("nan"))))
def test_nothing_of_the_future_enters_the_history(raw: torch.Tensor, other: np.ndarray) -> None:
    changed = raw.clone()
    changed[:, HISTORY:] = torch.from_numpy(other)
    assert torch.equal(
        prepare(raw, SCALING, HISTORY).x_BTCHW[:, :HISTORY], prepare(changed, SCALING, HISTORY).x_BTCHW[:, :HISTORY]
    )
    # and a forecast, which has no future, fills its history the same
    assert torch.equal(
        prepare(raw[:, :HISTORY], SCALING, HISTORY).x_BTCHW, prepare(raw, SCALING, HISTORY).x_BTCHW[:, :HISTORY]
    )


def _dataset(**options: object) -> SequenceDataset:
    return SequenceDataset(rain(14), 4, 2, **({"crop": (8, 12), "seed": 3} | options))  # type: ignore[arg-type]


def test_a_sample_is_the_part_of_the_data_that_its_plan_says() -> None:
    dataset, field = _dataset(), rain(14).values
    for sample in range(20):
        start, rows, columns = dataset.window(sample)
        got = dataset[sample]
        assert got.shape == (6, 1, 8, 12)
        np.testing.assert_array_equal(got[:, 0].numpy(), field[start : start + 6, rows, columns])


def test_a_sample_is_a_function_of_seed_and_number_in_any_order() -> None:
    one, other = _dataset(), _dataset()
    forward = [one.window(k) for k in range(40)]
    assert [other.window(k) for k in reversed(range(40))] == forward[::-1]
    assert [_dataset(seed=4).window(k) for k in range(40)] != forward


def test_every_epoch_visits_every_window_once_in_an_order_of_its_own() -> None:
    dataset = _dataset()
    epochs = [[dataset.window(e * 9 + k)[0] for k in range(9)] for e in range(3)]
    assert all(sorted(e) == list(range(9)) for e in epochs)
    assert epochs[0] != epochs[1]
    plain = _dataset(shuffle=False)
    assert [plain.window(k)[0] for k in range(18)] == [*range(9), *range(9)]


def test_a_crop_that_is_larger_than_the_grid_takes_the_whole_of_it() -> None:
    assert _dataset(crop=(100, 12))[0].shape == (6, 1, 24, 12)
    assert _dataset(crop=None)[0].shape == (6, 1, 24, 20)


def test_what_is_too_large_for_memory_is_read_alike() -> None:
    in_memory, lazy = _dataset(), _dataset(in_memory=False)
    for sample in range(12):
        assert torch.equal(in_memory[sample], lazy[sample])


def test_no_windows_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 6 frames"):
        SequenceDataset(rain(14), 4, 2, starts=[])


@given(st.integers(1, 8), st.integers(1, 30), st.integers(0, 30))
def test_a_resumed_sampler_goes_on_as_the_unbroken_one_would(batch: int, steps: int, first: int) -> None:
    first = min(first, steps)
    whole = list(StepSampler(batch, steps))
    assert list(StepSampler(batch, steps, first)) == whole[first:]
    assert [k for b in whole for k in b] == list(range(batch * steps))
    assert len(StepSampler(batch, steps, first)) == steps
