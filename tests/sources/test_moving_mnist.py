from __future__ import annotations

import hashlib
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from source_files import digit_folder, write_idx

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources import MovingMnist, MovingMnistBackendEntrypoint
from sa_nowcast.sources.idx import read_digits
from sa_nowcast.sources.mnist_generator import TEST_SHA256

ENGINE = MovingMnistBackendEntrypoint


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digit_folder(tmp_path_factory.mktemp("digits"))


def slow(source: MovingMnist, start: int, count: int) -> np.ndarray:
    """The obvious drawing: one digit at a time, by the maximum."""
    which, corner = source.trajectories(start, count)
    out = np.zeros((count, source.length, *source.shape), np.uint8)
    for n, t, d in itertools.product(range(count), range(source.length), range(source.digits)):
        (y, x), image = corner[n, t, d], source._images[which[n, d]]
        window = out[n, t, y : y + 28, x : x + 28]
        np.maximum(window, image, out=window)
    return out


@given(
    seed=st.integers(0, 2**63 - 1), start=st.integers(0, 2**40), count=st.integers(0, 70), number=st.integers(1, 4),
    rows=st.integers(28, 50), columns=st.integers(28, 50), length=st.integers(1, 6), speed=st.floats(0, 20),
)  # fmt: skip
def test_fast_drawing_equals_the_obvious_one(
    digits: Path, seed: int, start: int, count: int, number: int, rows: int, columns: int, length: int, speed: float
) -> None:
    source = MovingMnist(
        digits, seed=seed, digits=number, size=(rows, columns), length=length, speed=speed, check_hash=False
    )
    np.testing.assert_array_equal(source.batch(start, count), slow(source, start, count))


def test_a_sequence_is_the_same_alone_in_any_batch_and_in_a_used_buffer(digits: Path) -> None:
    source = MovingMnist(digits, seed=7, check_hash=False)
    batch = source.batch(1000, 90)
    buffer = np.full((90, 20, 64, 64), 255, np.uint8)
    np.testing.assert_array_equal(source.batch(1000, 90, out=buffer), batch)
    for at in (0, 63, 64, 89):
        np.testing.assert_array_equal(source[1000 + at], batch[at])
    stream = source.batches(45, start=1000)
    np.testing.assert_array_equal(np.concatenate([next(stream), next(stream)]), batch)


def test_seeds_and_indices_give_other_sequences(digits: Path) -> None:
    one, other = (MovingMnist(digits, seed=s, check_hash=False) for s in (1, 2))
    frames = [f.tobytes() for f in (*one.batch(0, 20), *other.batch(0, 20))]
    assert len(set(frames)) == 40


def test_training_digits_and_test_digits_are_never_mixed(digits: Path) -> None:
    train = MovingMnist(digits, "train", check_hash=False).batch(0, 50)
    test = MovingMnist(digits, "test", check_hash=False).batch(0, 50)
    assert train[train > 0].min() >= 200
    assert test.max() < 200


def test_digits_move_at_constant_speed_and_are_reflected_at_the_edges(digits: Path) -> None:
    source = MovingMnist(digits, digits=1, length=60, seed=3, check_hash=False)
    _, corner = source.trajectories(0, 40)
    assert corner.min() >= 0
    assert corner.max() <= 36
    assert corner.max() == 35  # the edge is reached
    steps = np.abs(np.diff(corner[..., 0, :], axis=1))
    speed = np.hypot(*steps.max(axis=1).T)
    # 3.6 pixels a frame; each axis is rounded down to pixels, which moves a step by at most one.
    assert ((speed > 2.6) & (speed < 5.1)).all()


def test_the_dataset_is_labelled(digits: Path) -> None:
    ds = MovingMnist(digits, seed=1, check_hash=False).dataset(5, 3)
    assert ds.intensity.dims == ("sequence", "time", "y", "x")
    assert ds.intensity.dtype == np.uint8
    assert ds.sequence.values.tolist() == [5, 6, 7]
    assert ds.attrs["seed"] == 1


def test_the_published_file_opens_lazily_as_sequences(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (20, 12, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", stored)
    ds = xr.open_dataset(tmp_path / "mnist_test_seq.npy", engine=ENGINE)
    assert dict(ds.sizes) == {"sequence": 12, "time": 20, "y": 64, "x": 64}
    assert "values with dtype=uint8" in repr(ds.intensity.variable)  # not read yet
    assert ENGINE().guess_can_open(tmp_path / "mnist_test_seq.npy")
    np.testing.assert_array_equal(ds.intensity[3, ::-2, [1, 5]], stored[::-2, 3, [1, 5]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ds)).intensity.values, stored.transpose(1, 0, 2, 3))  # noqa: S301


def test_a_cut_file_and_another_array_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mnist_test_seq.npy", np.zeros((2, 3, 4, 4), np.uint8))
    whole = (tmp_path / "mnist_test_seq.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-5])
    with pytest.raises(DataError, match="is not a whole NumPy file"):
        xr.open_dataset(tmp_path / "cut.npy", engine=ENGINE)
    np.save(tmp_path / "other.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"float64 of shape \(2, 3\), expected uint8"):
        xr.open_dataset(tmp_path / "other.npy", engine=ENGINE)


def test_bad_digits_and_arguments_give_one_clear_line(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train-images-idx3-ubyte"):
        MovingMnist(tmp_path)
    with pytest.raises(DataError, match="not MNIST's digits"):
        MovingMnist(digits)
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((2, 28, 28), np.uint8))
    raw = (tmp_path / "train-images-idx3-ubyte").read_bytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(raw[:-1])
    with pytest.raises(DataError, match="1583 bytes, expected 1584"):
        read_digits(tmp_path, "train")
    for key, value in (("size", 27), ("digits", 0), ("length", 0), ("seed", -1)):
        with pytest.raises(RecipeError):
            MovingMnist(digits, check_hash=False, **{key: value})
    with pytest.raises(RecipeError, match="'train' or 'test'"):
        MovingMnist(digits, "tset", check_hash=False)


def test_the_fixed_test_set_has_the_recorded_hash(real_data: Path) -> None:
    ds = MovingMnist.test_set(real_data / "mnist")  # raises where it differs
    assert dict(ds.sizes) == {"sequence": 10_000, "time": 20, "y": 64, "x": 64}
    assert hashlib.sha256(ds.intensity.values[:1]).hexdigest() != TEST_SHA256
