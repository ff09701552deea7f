"""MovingMNIST made on the fly: any number of digits, any size and length, the same for the same (seed, index).

After Srivastava, Mansimov and Salakhutdinov (Unsupervised learning of video representations using LSTMs, 2015): digits
start anywhere, move at constant speed in any direction, are reflected at the edges, and are drawn over each other by
the maximum. Where the published code stops a digit at the edge for the rest of a step, here it is reflected exactly;
so a position is a closed formula of the time and nothing has to be stepped through.

All draws come from a counter (SplitMix64; Steele, Lea and Flood 2014) of (seed, index, draw), and ways are computed in
integers; so sequence `index` is the same alone, in any batch, in any process and on any machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.sources.idx import Part, read_digits
from sa_nowcast.sources.moving_mnist import sequences
from sa_nowcast.sources.paths import PathLike

TEST_SEED: Final = 2015
TEST_SEQUENCES: Final = 10_000
# SHA-256 of the bytes of `MovingMnist.test_set`, (10000, 20, 64, 64) in C order.
TEST_SHA256: Final = "eac852d6d4cea9c813a4aa8b5d888b1250986dd178a296af9ebb661f16c094b1"

Digits = npt.NDArray[np.uint8]
_U64 = npt.NDArray[np.uint64]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
# Draws of one digit: which one, where it starts (y, x), and its direction.
_DRAWS: Final = 4
_LARGEST: Final = 1 << 15  # pixels of free way: its product with 16 bits of phase stays in 32 bits
_PLANNED: Final = 1024  # sequences whose ways are computed together
_BLOCK: Final = 64  # sequences drawn together: their frames stay in the processor's cache


class MovingMnist:
    """An endless source of MovingMNIST sequences.

    Parameters
    ----------
    folder : path
        MNIST's idx files. Training sequences use the 60,000 training digits only, test sequences the 10,000 test
        digits only.
    part : {"train", "test"}
    seed : int
    digits : int
        Digits a sequence.
    size : int or (int, int)
        Rows and columns of a frame, at least those of a digit.
    length : int
        Frames a sequence.
    speed : float
        Pixels a frame. By default a tenth of the free way (3.6 on 64 x 64), as published.
    check_hash : bool
        Compare the digits with MNIST's hash; turn off for other digits in the same layout.

    Examples
    --------
    >>> train = MovingMnist("mnist", seed=1)  # doctest: +SKIP
    >>> train.batch(0, 32).shape  # doctest: +SKIP
    (32, 20, 64, 64)
    """

    run = 4  # sequences that are best made together: a call's fixed cost is shared, and small batches divide evenly

    def __init__(
        self,
        folder: PathLike,
        part: Part = "train",
        *,
        seed: int = 0,
        digits: int = 2,
        size: int | tuple[int, int] = 64,
        length: int = 20,
        speed: float | None = None,
        check_hash: bool = True,
    ) -> None:
        if part not in ("train", "test"):
            raise RecipeError("part", repr(part), expected="'train' or 'test'")
        self._images = read_digits(folder, part, check_hash=check_hash)
        rows, columns = (size, size) if isinstance(size, int) else size
        height, width = self._images.shape[1:]
        for name, value, least in (
            ("digits", digits, 1), ("length", length, 1), ("rows", rows, height), ("columns", columns, width),
        ):  # fmt: skip
            if not least <= value <= _LARGEST:
                raise RecipeError(name, str(value), expected=f"{least} to {_LARGEST}")
        if not 0 <= seed < 2**63:
            raise RecipeError("seed", str(seed), expected="0 to 2**63 - 1")
        self.part, self.seed, self.digits, self.length = part, seed, digits, length
        self.shape = (rows, columns)
        self._free = np.array([rows - height, columns - width], dtype=np.int32)
        # In turns (there and back) a frame.
        still = self._free == 0
        pixels = self._free / 10.0 if speed is None else np.full(2, float(speed))
        self._speed = np.where(still, 0.0, pixels / np.where(still, 1, 2 * self._free))
        self._inked, self._margin = _without_margins(self._images)
        # A digit laid out in rows of the frame's width is one run of bytes: drawing it is one copy.
        self._run = (self._inked.shape[1] - 1) * columns + self._inked.shape[2]
        self._item: np.dtype[Any] = np.dtype((np.void, self._run))

    def batch(self, start: int, count: int, out: Digits | None = None) -> Digits:
        """Return sequences ``start`` to ``start + count``.

        Parameters
        ----------
        start, count : int
        out : ndarray of uint8, optional
            (count, length, rows, columns), C-contiguous: written to and returned.

        Returns
        -------
        ndarray of uint8, shape (count, length, rows, columns)
        """
        if start < 0 or count < 0:
            raise RecipeError("start, count", f"{start}, {count}", expected="no negative number")
        shape = (count, self.length, *self.shape)
        fresh = out is None
        if out is None:
            out = np.zeros(shape, dtype=np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise RecipeError("out", f"{out.dtype} {out.shape}", expected=f"a C-contiguous uint8 array {shape}")
        for low in range(0, count, _PLANNED):
            which, corner = self.trajectories(start + low, min(_PLANNED, count - low))
            for first in range(0, len(which), _BLOCK):
                block = slice(first, first + _BLOCK)
                frames = out[low:][block]
                if not fresh:
                    frames.fill(0)  # block by block: what was just cleared is still in the cache
                self._draw(frames, which[block], corner[block])
        return out

    def __getitem__(self, index: int) -> Digits:
        """Return sequence `index`, (length, rows, columns); any index from 0 on."""
        one: Digits = self.batch(index, 1)[0]
        return one

    def describe(self, index: int) -> str:
        """Return which sequence an index is, as errors print it."""
        return f"MovingMNIST {self.part} digits, seed {self.seed}, sequence {index}"

    def batches(self, size: int, start: int = 0) -> Iterator[Digits]:
        """Yield batches of `size` sequences for ever, from sequence `start` on."""
        while True:
            yield self.batch(start, size)
            start += size

    def dataset(self, start: int, count: int) -> xr.Dataset:
        """Return sequences as a Dataset ``intensity`` (sequence, time, y, x), uint8."""
        ds = sequences(self.batch(start, count), source=f"MovingMNIST made of MNIST's {self.part} digits", first=start)
        return ds.assign_attrs(seed=self.seed, digits=self.digits, part=self.part)

    @classmethod
    def test_set(cls, folder: PathLike, *, check_hash: bool = True) -> xr.Dataset:
        """Return the fixed test set: 10,000 sequences of 20 frames of 64 x 64 with two test digits.

        Raises
        ------
        DataError
            It differs from the recorded SHA-256.
        """
        ds = cls(folder, "test", seed=TEST_SEED, check_hash=check_hash).dataset(0, TEST_SEQUENCES)
        if check_hash:
            found = hashlib.sha256(ds["intensity"].values.data).hexdigest()
            if found != TEST_SHA256:
                raise DataError("MovingMNIST test set", f"SHA-256 {found}", expected=TEST_SHA256)
        return ds

    def trajectories(self, start: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Return which digits move and where their upper left corners are.

        Returns
        -------
        which : ndarray of int64, shape (count, digits)
        corner : ndarray of int32, shape (count, length, digits, 2)
            Row and column.
        """
        draws = _uniform(self.seed, start, count, self.digits * _DRAWS).reshape(count, self.digits, _DRAWS)
        which = np.minimum((draws[..., 0] * len(self._images)).astype(np.int64), len(self._images) - 1)
        # A phase of 2**32 goes once there and back; unsigned overflow is the return to the start.
        turn = float(1 << 32)
        begin = np.rint(draws[..., 1:3] * (turn / 2)).astype(np.int64).astype(np.uint32)
        angle = draws[..., 3] * (2.0 * np.pi)
        way = np.stack([np.sin(angle), np.cos(angle)], axis=-1) * self._speed
        # Rounded to a phase, a last-bit difference between two machines' sines does not reach a frame.
        velocity = np.rint(way * turn).astype(np.int64).astype(np.uint32)
        time = np.arange(self.length, dtype=np.uint32)[:, np.newaxis, np.newaxis]
        phase = (begin[:, np.newaxis] + velocity[:, np.newaxis] * time).view(np.int32)
        there_and_back = phase ^ (phase >> 31)  # the second half, mirrored: 0 to 2**31 - 1
        return which, ((there_and_back >> 15) * self._free) >> 16

    def _draw(self, frames: Digits, which: npt.NDArray[np.int64], corner: npt.NDArray[np.int32]) -> None:
        """Draw one block of sequences into zeros, (count, length, rows, columns)."""
        count, length, rows, columns = frames.shape
        height, width = self._inked.shape[1:]
        laid = np.zeros((count, self.digits, height, columns), dtype=np.uint8)
        laid[..., :width] = self._inked[which]
        runs = laid.reshape(count, self.digits, height * columns)[..., : self._run]
        flat = frames.reshape(-1)
        # Every place where a run of bytes can start, as one item each; overlapping, so items are copied one by one.
        places = np.lib.stride_tricks.as_strided(
            flat[: self._run].view(self._item), shape=(flat.size - self._run + 1,), strides=(1,)
        )
        frame = np.arange(0, flat.size, rows * columns).reshape(count, length)
        margin = self._margin[which] @ np.array([columns, 1])
        for number in range(self.digits):
            row, column = corner[:, :, number, 0], corner[:, :, number, 1]
            place = frame + margin[:, number, np.newaxis] + row * columns + column
            run = np.ascontiguousarray(runs[:, number])
            if number == 0:
                places[place] = run.view(self._item)
                continue
            below = places[place].view(np.uint8).reshape(count, length, self._run)
            np.maximum(below, run[:, np.newaxis], out=below)
            places[place] = below.view(self._item)[..., 0]


def _without_margins(images: Digits) -> tuple[Digits, npt.NDArray[np.int64]]:
    """Cut every digit to one smaller box that holds its ink (20 x 20 for MNIST); return the boxes and their corners."""
    count, height, width = images.shape
    inked = images != 0
    ranges = []
    for axis, size in ((2, height), (1, width)):
        lines = inked.any(axis=axis)
        first = np.where(lines.any(axis=1), lines.argmax(axis=1), 0)
        last = np.where(lines.any(axis=1), size - 1 - lines[:, ::-1].argmax(axis=1), 0)
        box = int((last - first).max()) + 1 if count else size
        ranges.append((np.minimum(first, size - box), box))
    (top, rows), (left, columns) = ranges
    boxes = np.lib.stride_tricks.sliding_window_view(images, (rows, columns), axis=(1, 2))
    return np.ascontiguousarray(boxes[np.arange(count), top, left]), np.stack([top, left], axis=-1).astype(np.int64)


def _uniform(seed: int, start: int, count: int, draws: int) -> npt.NDArray[np.float64]:
    """Return numbers in [0, 1) that depend on nothing but (seed, index, draws, draw): (count, draws)."""
    first = start * draws % 2**64
    place = np.arange(1, count * draws + 1, dtype=np.uint64) + np.uint64(first)
    key = _mix(np.array([seed], dtype=np.uint64) + _GOLDEN)
    bits = _mix(key + place * _GOLDEN) >> np.uint64(11)
    return (bits.astype(np.float64) * 2.0**-53).reshape(count, draws)


def _mix(state: _U64) -> _U64:
    """SplitMix64's finalizer."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
