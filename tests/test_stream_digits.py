"""MovingMNIST made on the fly: the generator's sequences, whoever makes them; and what samples are called."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sequences import rain

from sa_nowcast.errors import RecipeError
from sa_nowcast.sources import MovingMnist
from sa_nowcast.stream import SequenceDataset, Share, StepSampler, SyntheticSamples, batches, loader


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> MovingMnist:
    """A generator from 40 made-up digits in MNIST's layout."""
    images = np.zeros((40, 28, 28), np.uint8)
    images[:, 4:24, 5:23] = np.random.default_rng(0).integers(1, 256, (40, 20, 18))
    folder = tmp_path_factory.mktemp("digits")
    header = b"\x00\x00\x08\x03" + struct.pack(">3I", *images.shape)
    (folder / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
    return MovingMnist(folder, seed=3, size=(40, 44), length=6, check_hash=False)


@pytest.fixture(scope="module")
def samples(source: MovingMnist) -> SyntheticSamples:
    return SyntheticSamples(source, epoch=30)


@given(st.lists(st.integers(0, 2**40) | st.integers(0, 6), max_size=12))
def test_a_sample_is_the_generators_sequence_of_its_number(samples: SyntheticSamples, numbers: list[int]) -> None:
    got = samples.batch(numbers)
    assert got.dtype == torch.float32
    assert got.shape == (len(numbers), 6, 1, 40, 44)
    assert got.is_contiguous()
    for x_TCHW, number in zip(got, numbers, strict=True):
        np.testing.assert_array_equal(x_TCHW[:, 0].numpy(), samples.generator[number])


def test_values_are_grey_values_and_not_scaled(samples: SyntheticSamples) -> None:
    x = samples[0]
    assert x.min() == 0
    assert 200 < float(x.max()) <= 255
    assert torch.equal(x, x.round())


def test_successive_numbers_are_made_in_one_call(samples: SyntheticSamples, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    original = MovingMnist.batch

    def counted(self: MovingMnist, start: int, count: int, out: Any = None) -> Any:
        calls.append((start, count))
        return original(self, start, count, out)

    monkeypatch.setattr(MovingMnist, "batch", counted)
    samples.batch([7, 8, 9, 3, 4, 20])
    assert calls == [(7, 3), (3, 2), (20, 1)]


def test_samples_have_no_end_and_epochs_bring_new_ones(samples: SyntheticSamples) -> None:
    assert len(samples) == 30
    one, two = (torch.cat(list(loader(samples, 7, epoch=e))) for e in (0, 1))
    assert len(one) == len(two) == 30
    assert len({x.numpy().tobytes() for x in torch.cat([one, two])}) == 60
    assert torch.equal(two, samples.batch(range(30, 60)))
    far = 10**15
    np.testing.assert_array_equal(samples[far][:, 0].numpy(), samples.generator[far])


def test_the_shares_of_all_ranks_are_every_sample_once(samples: SyntheticSamples) -> None:
    whole = torch.cat(list(loader(samples, 5)))
    shares = [torch.cat(list(loader(samples, 4, rank=rank, ranks=3))) for rank in range(3)]
    for rank, share in enumerate(shares):
        assert torch.equal(share, whole[rank::3])
    assert sum(map(len, shares)) == len(whole)


def test_a_resumed_run_goes_on_with_the_samples_of_an_unbroken_one(samples: SyntheticSamples) -> None:
    unbroken = list(batches(samples, StepSampler(4, 20)))
    resumed = list(batches(samples, StepSampler(4, 20, first=13)))
    assert all(torch.equal(a, b) for a, b in zip(resumed, unbroken[13:], strict=True))


def test_workers_divide_small_batches_evenly(samples: SyntheticSamples) -> None:
    for first in range(0, 64, 8):
        assert sum(samples.stripe(k) % 2 for k in range(first, first + 8)) == 4


@pytest.mark.slow
def test_batches_are_the_same_whatever_the_number_of_workers(samples: SyntheticSamples) -> None:
    alone = list(batches(samples, StepSampler(6, 12, share=Share(1, 2))))
    for workers in (1, 2):
        helped = list(batches(samples, StepSampler(6, 12, share=Share(1, 2)), workers=workers))
        assert all(torch.equal(a, b) for a, b in zip(helped, alone, strict=True))


def test_a_process_that_receives_them_makes_the_same(samples: SyntheticSamples) -> None:
    again = pickle.loads(pickle.dumps(samples))  # noqa: S301
    assert torch.equal(again.batch([0, 5, 99]), samples.batch([0, 5, 99]))


def test_torchs_own_loader_can_be_used(samples: SyntheticSamples) -> None:
    for ours, theirs in zip(loader(samples, 4), torch.utils.data.DataLoader(samples, 4), strict=True):
        assert torch.equal(ours, theirs)


def test_what_cannot_be_is_refused(source: MovingMnist, samples: SyntheticSamples) -> None:
    for epoch in (0, -1, 2.5, True):
        with pytest.raises(RecipeError, match=r"epoch: .*expected a whole number of at least 1"):
            SyntheticSamples(source, epoch=epoch)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="sample -1: samples are counted from 0"):
        samples.batch([0, -1])


def test_a_sequence_is_called_by_digits_seed_and_number(samples: SyntheticSamples) -> None:
    assert samples.describe(17) == "MovingMNIST train digits, seed 3, sequence 17"


def test_a_window_is_called_by_its_times() -> None:
    dataset = SequenceDataset(rain(14), 4, 2, shuffle=False)
    assert dataset.describe(3) == "2020-06-01T00:15 to 2020-06-01T00:40"


def test_a_cropped_window_is_called_by_its_rows_and_columns_too() -> None:
    dataset = SequenceDataset(rain(14), 4, 2, crop=(8, 30), seed=3)
    for sample in range(20):
        _, rows, columns = dataset.window(sample)
        assert (columns.start, columns.stop) == (0, 20)
        where = f", rows {rows.start} to {rows.start + 7} and columns 0 to 19 from the upper left"
        assert dataset.describe(sample).endswith(where)


def test_a_window_of_one_of_several_sources_is_called_by_its_source_too(tmp_path: Path) -> None:
    later = rain(14, seed=1)
    later["time"] = later["time"] + np.timedelta64(1, "D")
    path = tmp_path / "later.zarr"
    later.to_dataset().to_zarr(path, consolidated=False)
    dataset = SequenceDataset([rain(14), path], 4, 2, shuffle=False)
    assert dataset.describe(0) == "source 1, 2020-06-01T00:00 to 2020-06-01T00:25"
    assert dataset.describe(9) == f"{path}, 2020-06-02T00:00 to 2020-06-02T00:25"
