"""Whatever happens to the files of a model or a checkpoint: they are refused, and it is said."""

from __future__ import annotations

import json
import random
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from trials import train

import sa_nowcast
from sa_nowcast.bundle.files import MODEL, WEIGHTS
from sa_nowcast.errors import ModelError
from sa_nowcast.training.checkpoint import LAST, PREVIOUS, load_checkpoint, newest_valid

KINDS = ("flip", "several flips", "truncate", "grow", "empty", "zeros", "block", "cut out", "insert", "swap halves")


def mutant(rng: random.Random, whole: bytes, kind: str) -> bytes:
    """Other bytes than `whole`."""
    at, size = rng.randrange(len(whole)), len(whole)
    length = rng.randrange(1, 65)
    if kind in ("flip", "several flips"):
        changed = bytearray(whole)
        for place in {rng.randrange(size) for _ in range(1 if kind == "flip" else 5)}:
            changed[place] ^= 1 << rng.randrange(8)
        return bytes(changed)
    made = {
        "truncate": lambda: whole[:at],
        "grow": lambda: whole + rng.randbytes(length),
        "empty": lambda: b"",
        "zeros": lambda: bytes(size),
        "block": lambda: whole[:at] + rng.randbytes(min(length, size - at)) + whole[at + length :],
        "cut out": lambda: whole[:at] + whole[at + length :],
        "insert": lambda: whole[:at] + rng.randbytes(length) + whole[at:],
        "swap halves": lambda: whole[size // 2 :] + whole[: size // 2],
    }[kind]()
    return made if made != whole else mutant(rng, whole, "flip")


def test_a_mutant_is_never_the_original() -> None:
    rng = random.Random(0)
    for whole in (b"ab" * 50, bytes(100)):
        assert all(mutant(rng, whole, kind) != whole for kind in KINDS for _ in range(50))


@pytest.mark.faults(20, 3000)
def test_a_mutant_of_a_model_is_refused_in_one_line(repetitions: int, rng: random.Random, saved: Path) -> None:
    refused = Counter[str]()
    for i in range(repetitions):
        file = saved / (MODEL if i % 3 else WEIGHTS)
        whole = file.read_bytes()
        file.write_bytes(mutant(rng, whole, KINDS[i % len(KINDS)]))
        with pytest.raises(ModelError) as caught:
            sa_nowcast.load(str(saved))
        file.write_bytes(whole)
        assert "\n" not in str(caught.value)
        refused[file.name] += 1
    sa_nowcast.load(str(saved))
    print(f"{dict(refused)} mutants refused, 0 loaded")


def field(rng: random.Random, value: object) -> object:
    """Return JSON data in which one value, somewhere, is another."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: field(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], field(rng, value[at]), *value[at + 1 :]]
    odd = (
        None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, 0.5, -1e300, "", "x", "../../etc/passwd", "__import__('os')", [],
        {}, [[]], [1, 2], {"x": 1}, "\ud800", "\x00", "9" * 500, [[[[0]]]], "db",
    )  # fmt: skip
    return rng.choice(odd)


@pytest.mark.faults(20, 1500)
def test_a_forged_description_is_a_model_or_an_error_in_one_line(
    repetitions: int, rng: random.Random, saved: Path
) -> None:
    """Whoever forges the digest too gets a model of their own or an error, never a traceback."""
    from sa_nowcast.bundle import files as bundle

    whole = json.loads((saved / MODEL).read_text())
    loaded = 0
    for _ in range(repetitions):
        content = field(rng, whole)
        if not isinstance(content, dict):
            content = {"format": 1}
        content["sha256"] = bundle._digest(content)
        (saved / MODEL).write_text(bundle._text(content))
        try:
            made = sa_nowcast.load(str(saved))
            repr(made)
            loaded += 1
        except ModelError as error:
            assert "\n" not in str(error), content  # noqa: PT017
    print(f"{repetitions} forged descriptions: {loaded} loaded as what they say, the others refused, 0 tracebacks")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(folder=folder, max_steps=4, validation=0)
    return folder


@pytest.mark.faults(20, 2000)
def test_a_mutant_of_a_checkpoint_is_refused_and_the_one_before_is_found(
    repetitions: int, rng: random.Random, run: Path
) -> None:
    path = run / LAST
    whole = path.read_bytes()
    for i in range(repetitions):
        path.write_bytes(mutant(rng, whole, KINDS[i % len(KINDS)]))
        with pytest.raises(ModelError, match="the checkpoint is damaged"):
            load_checkpoint(path)
        found, damage = newest_valid(run)
        assert found == run / PREVIOUS
        assert damage is not None
    path.write_bytes(whole)
    assert newest_valid(run) == (path, None)
    print(f"{repetitions} mutants of a checkpoint refused, 0 loaded")


@pytest.mark.faults(2, 20)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_bits_and_says_so(
    repetitions: int, rng: random.Random, tmp_path: Path
) -> None:
    unbroken = train(folder=tmp_path)
    path = tmp_path / LAST
    for i in range(repetitions):
        path.write_bytes(mutant(rng, path.read_bytes(), KINDS[i % len(KINDS)]))
        with pytest.warns(UserWarning, match=r"last\.ckpt: the checkpoint is damaged.*from the one before, step 8"):
            assert train(folder=tmp_path).digest == unbroken.digest
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest_valid(tmp_path)[0] == path


def test_torch_reads_a_sealed_checkpoint_as_it_is(run: Path) -> None:
    assert torch.load(run / LAST, weights_only=True)["global_step"] == 4
