"""What a network is trained and validated on: numbered samples, their scaling, and what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sa_nowcast.errors import DataError, RecipeError
from sa_nowcast.forecasts.terms import Terms
from sa_nowcast.frames import Frames
from sa_nowcast.metadata import dims
from sa_nowcast.recipe import TrainingRecipe
from sa_nowcast.scaling import NOT_LINEAR, ChannelScaling, Scaling, kind_for
from sa_nowcast.sources import MovingMnist
from sa_nowcast.sources.synthetic_fields import KINDS, SyntheticFields
from sa_nowcast.stream import IN_MEMORY_BYTES, Samples, SequenceDataset, SyntheticSamples
from sa_nowcast.windows import Positions, Range, Split, shortened_windows

_SCAN_FRAMES = 64
_FINGERPRINTED = 32
_CROP_SEED = 7919  # the validation crops; apart from the training ones whatever the seed
RAIN_RATE = "mm h-1"
GREY_LEVELS = 255.0


@dataclass(frozen=True)
class TrainingData:
    """What one run is trained on."""

    train: Samples
    validation: Samples | None  # in the order in which they are used
    scaling: Scaling
    terms: Terms
    identity: str  # a digest that other data do not have
    provenance: Mapping[str, Any]  # what the nowcaster will say about the data

    @classmethod
    def from_frames(
        cls,
        frames: Frames,
        split: Split,
        history: int,
        steps: int,
        scaling: str,
        recipe: TrainingRecipe,
        *,
        skip_empty: bool,
        horizon: int | None = None,
    ) -> TrainingData:
        """Plan windows in the split's first two periods, and fit the scaling to the first.

        With a `horizon`, which is for training from a trained model, windows to train on have so many lead times, and
        any window may go beyond the end of its period, where its frames are missing; one lead time has to be there.

        Raises
        ------
        DataError
            A period without a window, or a frame without any valid value that is not to be skipped.
        RecipeError
            A loss that these data cannot have, or turns of samples that are not square.
        """
        _require_loss(frames, recipe, scaling)
        if frames.nbytes <= IN_MEMORY_BYTES:
            frames = frames.load()
        empty: list[int] = []
        fitted = Scaling.fit(scaling, frames.channels, _valid_parts(frames, split.train, empty, refuse=not skip_empty))
        blocked = np.concatenate(
            [np.asarray(empty, np.int64), empty_frames(frames, split.validation, refuse=not skip_empty)]
        )
        ahead, least = (steps, history + steps) if horizon is None else (horizon, history + 1)
        (starts, ends), chosen = _windows(frames, history + ahead, least, split, blocked)
        crop = None if recipe.crop is None else (recipe.crop, recipe.crop)
        flips, turns = (move in recipe.augment for move in ("flips", "turns"))
        train = SequenceDataset(
            frames,
            history,
            ahead,
            starts=starts,
            ends=ends,
            crop=crop,
            flips=flips,
            turns=turns,
            seed=recipe.seed,
        )
        validation = None
        if chosen is not None:
            starts, ends = chosen
            spread = np.linspace(0, len(starts) - 1, recipe.validation_samples).round().astype(int)
            # The same windows and crops at every validation: only the weights may change the loss.
            validation = SequenceDataset(
                frames,
                history,
                steps,
                starts=starts[spread],
                ends=ends[spread],
                crop=crop,
                seed=_CROP_SEED,
                shuffle=False,
            )
        terms = Terms.of(frames, history, steps)
        return cls(
            train=train,
            validation=validation,
            scaling=fitted,
            terms=terms,
            identity=_identity(frames, split, terms),
            provenance={
                "training_period": _period(frames, split.train),
                "validation_period": _period(frames, split.validation),
            },
        )

    @classmethod
    def from_synthetic(
        cls,
        train: MovingMnist | SyntheticFields,
        validation: MovingMnist | SyntheticFields,
        frames: Frames,
        history: int,
        steps: int,
        recipe: TrainingRecipe,
        *,
        named: str = "",
    ) -> TrainingData:
        """Take sequences that are made on the fly: digits, whose range is grey values 0 to 255, or synthetic fields.

        Parameters
        ----------
        train, validation : MovingMnist or SyntheticFields
            Of other seeds or digits, so that no sequence is in both.
        frames : Frames
            Sequences of the same kind: their terms are the nowcaster's.
        named : str
            The real fields among synthetic ones, for provenance.

        Raises
        ------
        RecipeError
            Augmentation, which sequences that move in all directions do not need.
        """
        if recipe.augment:
            raise RecipeError(
                "training.augment", "given for sequences that are made while training", fix="leave it out"
            )
        terms = Terms.of(frames, history, steps)
        kind: tuple[Any, ...]
        if isinstance(train, MovingMnist) and isinstance(validation, MovingMnist):
            scaling = ChannelScaling("minmax", terms.channels[0][1], 0.0, GREY_LEVELS, 0.0, GREY_LEVELS)
            kind = (train.part, train.seed, train.digits, train.length, train.shape, validation.part, validation.seed)
            drawn = repr((kind, terms, train.batch(0, 1).tobytes())).encode()
            made = [f"MovingMNIST made of MNIST's {part} digits, seed" for part in (train.part, validation.part)]
        else:
            assert isinstance(train, SyntheticFields)
            scaling = ChannelScaling("affine", None, 0.0, 1.0)  # each sequence has its own scale already
            kind = (KINDS, train.size, train.length, train.seed, validation.seed)
            drawn = repr((kind, terms)).encode() + train.batch(0, _FINGERPRINTED).tobytes()
            made, named = ["synthetic fields, seed"] * 2, f", among them pieces of {named}"
        return cls(
            train=SyntheticSamples(train),
            validation=SyntheticSamples(validation),
            scaling=Scaling((scaling,)),
            terms=terms,
            identity=hashlib.sha256(drawn).hexdigest(),
            provenance={
                "training_period": f"{made[0]} {train.seed}{named}",
                "validation_period": f"{made[1]} {validation.seed}",
            },
        )


def require_trainable(
    frames: Frames, split: Split, length: int, least: int, recipe: TrainingRecipe, scaling: str
) -> None:
    """Raise what `TrainingData.from_frames` would, as far as times and units tell; no value is read."""
    _require_loss(frames, recipe, scaling)
    _windows(frames, length, least, split, np.empty(0, np.int64))


def empty_frames(frames: Frames, period: Range, *, refuse: bool) -> Positions:
    """Return the frames of a period without any valid value, or refuse the first one."""
    empty: list[int] = []
    for _ in _valid_parts(frames, period, empty, refuse=refuse):
        pass
    return np.asarray(empty, dtype=np.int64)


def _valid_parts(frames: Frames, period: Range, empty: list[int], *, refuse: bool) -> Iterator[npt.NDArray[np.float32]]:
    """Read a period part by part, note its frames without any valid value in `empty`, and yield the others."""
    for start in range(*period, _SCAN_FRAMES):
        values = frames.read(start, min(start + _SCAN_FRAMES, period[1]))
        valid = np.isfinite(values).any(axis=(1, 2, 3))
        found = (start + np.flatnonzero(~valid)).tolist()
        if found and refuse:
            more = f" (and {len(found) - 1} more such frames near it)" if len(found) > 1 else ""
            raise DataError(
                f"{frames.name}, {frames.label(found[0])}",
                f"every value is missing{more}",
                expected="some valid values in each frame",
                fix="pass gaps='skip' (data.gaps: skip), or fill it in",
            )
        empty += found
        yield values if not found else values[valid]


def _windows(
    frames: Frames, length: int, least: int, split: Split, blocked: Positions
) -> tuple[tuple[Positions, Positions], tuple[Positions, Positions] | None]:
    """Return starts and ends of the windows to train and to validate on, or refuse a period that has none."""

    def windows_in(period: Range, name: str, fix: str) -> tuple[Positions, Positions]:
        starts, ends = shortened_windows(frames.segments, length, least, period, blocked)
        if not len(starts):
            found = f"no window of {least} successive frames in the {name} period"
            raise DataError(frames.name, found, fix=fix)
        return starts, ends

    train = windows_in(split.train, "training", "shorten history or steps, or fill the gaps")
    if split.validation[1] <= split.validation[0]:
        return train, None
    return train, windows_in(split.validation, "validation", "give validation a larger share, or 0 to do without")


def _require_loss(frames: Frames, recipe: TrainingRecipe, scaling: str) -> None:
    """Refuse a loss whose weights are for other units, or whose sums are not those of scaled values."""
    for channel in frames.channels:
        if recipe.loss == "rain-weighted" and dims.canonical_units(channel.units) != dims.canonical_units(RAIN_RATE):
            shown = "no units" if channel.units is None else f"units {channel.units!r}"
            raise RecipeError(
                "training.loss",
                f"rain-weighted, and {channel.name} has {shown}",
                expected=f"rain rates in {RAIN_RATE}, which its weights are for",
                fix="convert the values, or take loss: l2 or l1+l2",
            )
        kind = kind_for(scaling, channel)
        if recipe.loss == "accumulation" and kind in NOT_LINEAR:
            raise RecipeError(
                "training.loss",
                f"accumulation, of {channel.name} with scaling {kind}, under which a sum is not that of the values",
                expected="a linear scaling",
                fix="pass scaling='standard' (scaling: standard), or take loss: l2",
            )


def _identity(frames: Frames, split: Split, terms: Terms) -> str:
    data = hashlib.sha256(repr((frames.shape, frames.times.tolist(), split, terms)).encode())
    # Frames from all over the run's periods tell other data apart, without reading all of a large sequence again.
    last = max(split.train[1], split.validation[1]) - 1
    for position in np.linspace(split.train[0], last, _FINGERPRINTED).astype(int):
        data.update(frames.read(int(position), int(position) + 1).tobytes())
    return data.hexdigest()


def _period(frames: Frames, part: Range) -> str | None:
    return f"{frames.label(part[0])}/{frames.label(part[1] - 1)}" if part[1] > part[0] else None
