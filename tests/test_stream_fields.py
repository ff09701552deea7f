"""Fields of many kinds, made by number."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
import yaml

from sa_nowcast.errors import RecipeError
from sa_nowcast.recipe import parse_recipe
from sa_nowcast.sources.synthetic_fields import KINDS, RealField, SyntheticFields
from sa_nowcast.stream import SyntheticSamples
from sa_nowcast.workflow.data import open_experiment

RNG = np.random.default_rng(0)
RAIN = RealField(np.maximum(RNG.normal(size=(20, 70, 90)), 0).astype(np.float32), rain=True)
COARSE = RealField(RNG.normal(280, 5, size=(30, 12, 20)).astype(np.float32))


@pytest.fixture(scope="module")
def fields() -> SyntheticFields:
    return SyntheticFields(32, 4, 3, seed=5, real=[RAIN, COARSE])


def numbers(fields: SyntheticFields, kind: str, count: int) -> list[int]:
    """Return the numbers of some sequences of a kind."""
    return [number for number in range(2000) if fields.kind(number) == kind][:count]


def test_a_sequence_is_a_function_of_seed_and_number(fields: SyntheticFields) -> None:
    again = SyntheticFields(32, 4, 3, seed=5, real=[RAIN, COARSE])
    for number in (3, 0, 400):
        np.testing.assert_array_equal(fields[number], again[number])
    other = SyntheticFields(32, 4, 3, seed=6, real=[RAIN, COARSE])
    assert not np.array_equal(fields[0], other[0])
    assert not np.array_equal(fields[0], fields[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_shape_and_a_scale_in_which_persistence_errs_by_one(
    fields: SyntheticFields, kind: str
) -> None:
    found = numbers(fields, kind, 12)
    assert len(found) == 12
    errors = []
    for number in found:
        x = fields[number]
        assert (x.shape, x.dtype) == ((7, 32, 32), np.float32)
        assert not np.isinf(x).any()
        errors.append(np.nanmean((x[4:] - x[3]) ** 2))
    assert 0.2 < np.median(errors) < 2.1
    assert max(errors) < 2.1


def test_the_kinds_have_their_shares_and_some_sequences_have_places_without_values(fields: SyntheticFields) -> None:
    counted = Counter(fields.kind(number) for number in range(4000))
    for kind, share in KINDS.items():
        assert abs(counted[kind] / 4000 - share) < 0.03
    missing = [np.isnan(fields[number]).any() for number in range(200)]
    assert 3 <= sum(missing) <= 30


def test_without_real_fields_all_are_made() -> None:
    fields = SyntheticFields(32)
    assert {fields.kind(number) for number in range(300)}.isdisjoint({"real", "carried"})


def test_what_is_carried_can_be_followed(fields: SyntheticFields) -> None:
    """In the mean over carried rain, a frame resembles the next one more than a later one."""
    near, far = [], []
    for number in numbers(fields, "rain", 12):
        x = np.nan_to_num(fields[number])
        near.append(np.square(x[1:] - x[:-1]).mean())
        far.append(np.square(x[4:] - x[:-4]).mean())
    assert np.mean(near) < 0.8 * np.mean(far)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"size": 16}, "size: 16, expected a whole number of at least 32"),
        ({"history": True}, "history: True, expected a whole number of at least 2"),
        ({"real": [RealField(np.zeros((5, 40, 40), np.float32))]}, "real field 0: 5 frames, expected at least 16"),
        ({"real": [RealField(np.full((20, 40, 40), np.nan, np.float32))]}, "20 frames, with missing values"),
    ],
)
def test_what_nothing_can_be_made_of_is_refused(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        SyntheticFields(**arguments)


def test_as_samples_they_are_batches_of_a_loader(fields: SyntheticFields) -> None:
    samples = SyntheticSamples(fields, epoch=50)
    batch = samples.batch([4, 9])
    assert batch.shape == (2, *samples.sample_shape)
    np.testing.assert_array_equal(batch[1, :, 0].numpy(), fields[9])
    assert len(samples) == 50
    assert samples.describe(9) == f"synthetic fields, seed 5, sequence 9 ({fields.kind(9)})"
    with pytest.raises(IndexError, match="sample -1"):
        samples.batch([0, -1])
    with pytest.raises(RecipeError, match="epoch: 0"):
        SyntheticSamples(fields, epoch=0)


def test_recipes_name_them_so_and_by_the_name_that_older_ones_have() -> None:
    tree = {
        "name": "fields", "history": 2, "steps": 2, "network": {"hidden": [4]}, "output": {"folder": "run"},
        "data": {"source": "sample:mrms", "options": {"size": 32, "test_sequences": 1}},
    }  # fmt: skip
    prepared = []
    for engine in ("synthetic_fields", "made_fields"):
        tree["data"] = {**tree["data"], "engine": engine}  # type: ignore[dict-item]
        prepared.append(open_experiment(parse_recipe(yaml.safe_dump(tree))).training("auto", None))
    assert prepared[0].identity == prepared[1].identity
    # A run that was begun by the former name goes on: its checkpoints have this identity.
    kind, data = (KINDS, 32, 4, 0, 2**31), prepared[1]
    drawn = b"".join(data.train[k].numpy().tobytes() for k in range(32))  # type: ignore[index]
    assert data.identity == hashlib.sha256(repr((kind, data.terms)).encode() + drawn).hexdigest()
    assert prepared[0].train.describe(3).startswith("synthetic fields, seed 0, sequence 3")
