from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sa_nowcast
from sa_nowcast.bundle import files as bundle
from sa_nowcast.bundle.files import CARD, MAX_TEXT_BYTES, MODEL, RECIPE, WEIGHTS, encode, read_bundle, write_bundle
from sa_nowcast.errors import ModelError, StorageError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.storage import whole as storage


def _forged(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the description and bring its digest up to date, as an attacker would."""
    content = json.loads((folder / MODEL).read_text())
    change(content)
    content["sha256"] = bundle._digest(content)
    (folder / MODEL).write_text(json.dumps(content, indent=2, sort_keys=True))


def test_a_bundle_is_its_files_and_nothing_else(saved: Path, nowcaster: Nowcaster) -> None:
    assert sorted(f.name for f in saved.iterdir()) == [CARD, MODEL, WEIGHTS]
    assert sorted(f.name for f in saved.parent.iterdir()) == [saved.name]
    replace(nowcaster, recipe="name: r\n").save(saved, overwrite=True)
    assert sorted(f.name for f in saved.iterdir()) == [CARD, MODEL, RECIPE, WEIGHTS]
    replace(nowcaster, card="").save(saved, overwrite=True)
    assert sorted(f.name for f in saved.iterdir()) == [MODEL, WEIGHTS]


@pytest.mark.parametrize("name", [CARD, RECIPE])
def test_a_model_without_its_texts_is_the_same_model(saved: Path, nowcaster: Nowcaster, name: str) -> None:
    (saved / RECIPE).write_text("name: r\n")
    (saved / name).unlink()
    again = sa_nowcast.load(str(saved))
    assert again.digest == nowcaster.digest
    assert {CARD: again.card, RECIPE: again.recipe}[name] == ""
    assert again.card == ("" if name == CARD else nowcaster.card)


@pytest.mark.parametrize("name", [CARD, RECIPE])
def test_a_text_that_was_changed_is_read_as_it_is_and_the_model_is_the_same(
    saved: Path, nowcaster: Nowcaster, name: str
) -> None:
    (saved / name).write_bytes("# Licence: CC-BY, für alle\r\n".encode())
    again = sa_nowcast.load(str(saved))
    assert {CARD: again.card, RECIPE: again.recipe}[name] == "# Licence: CC-BY, für alle\r\n"
    assert again.digest == nowcaster.digest
    again.save(saved.with_name("again"))
    assert (saved.with_name("again") / name).read_bytes() == (saved / name).read_bytes()


@pytest.mark.parametrize("damage", ["not text", "endless", "folder", "pipe", "unreadable link"])
@pytest.mark.parametrize("name", [CARD, RECIPE])
def test_a_text_that_cannot_be_read_is_no_reason_to_refuse_the_model(
    saved: Path, nowcaster: Nowcaster, name: str, damage: str
) -> None:
    file = saved / name
    file.unlink(missing_ok=True)
    if damage == "not text":
        file.write_bytes(b"\xff\xfe\x00")
    elif damage == "endless":
        file.symlink_to("/dev/zero")
    elif damage == "folder":
        file.mkdir()
    elif damage == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(file)
    again = sa_nowcast.load(str(saved))
    assert again.digest == nowcaster.digest
    assert {CARD: again.card, RECIPE: again.recipe}[name] == ""


def test_a_text_of_more_than_a_megabyte_is_left_alone(saved: Path) -> None:
    (saved / CARD).write_bytes(b"x" * MAX_TEXT_BYTES)
    assert len(sa_nowcast.load(str(saved)).card) == MAX_TEXT_BYTES
    (saved / CARD).write_bytes(b"x" * (MAX_TEXT_BYTES + 1))
    assert sa_nowcast.load(str(saved)).card == ""


def test_a_card_that_utf8_cannot_hold_is_saved_all_the_same(nowcaster: Nowcaster, tmp_path: Path) -> None:
    saved = replace(nowcaster, card="half a pair: \ud800.").save(tmp_path / "model")
    assert sa_nowcast.load(str(saved)).card == "half a pair: ?."


def test_weights_and_description_come_back(saved: Path, nowcaster: Nowcaster) -> None:
    weights, content = read_bundle(saved)
    assert weights.keys() == nowcaster.network.state_dict().keys()
    assert all(torch.equal(weights[k], v) for k, v in nowcaster.network.state_dict().items())
    again = sa_nowcast.load(saved)  # type: ignore[arg-type]
    assert (again.terms, again.scaling, again.provenance) == (nowcaster.terms, nowcaster.scaling, nowcaster.provenance)
    assert content["sha256"] == nowcaster.digest == again.digest


# The bits that turn a letter's case, a space into a line break, a digit into its neighbour, or leave ASCII.
FLIPS = (0x01, 0x20, 0x2A, 0x80)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_every_single_byte_of_the_description_counts(saved: Path, every: int) -> None:
    whole = (saved / MODEL).read_bytes()
    for position in range(len(whole)):
        for flip in FLIPS[position % every :: every]:
            altered = bytearray(whole)
            altered[position] ^= flip
            (saved / MODEL).write_bytes(altered)
            with pytest.raises(ModelError):
                read_bundle(saved)
    (saved / MODEL).write_bytes(whole)
    read_bundle(saved)


def test_every_single_byte_of_the_weights_counts(saved: Path) -> None:
    whole = (saved / WEIGHTS).read_bytes()
    for position in [*range(64), *range(64, len(whole), 97), len(whole) - 1]:
        altered = bytearray(whole)
        altered[position] ^= 1 << position % 8
        (saved / WEIGHTS).write_bytes(altered)
        with pytest.raises(ModelError, match=r"weights\.safetensors: truncated or altered"):
            read_bundle(saved)


@pytest.mark.parametrize("name", [MODEL, WEIGHTS])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_found(saved: Path, name: str, share: float) -> None:
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError):
        sa_nowcast.load(saved)  # type: ignore[arg-type]


@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_for_a_description_are_a_model_error(saved: Path, data: bytes) -> None:
    (saved / MODEL).write_bytes(data)
    with pytest.raises(ModelError):
        read_bundle(saved)


@pytest.mark.parametrize(
    "text", ["[]", "3", "{}", '{"format": "1"}', '{"format": 1}', "[" * 100_000, '{"format": 1e999}']
)
def test_json_that_describes_no_model_is_a_model_error(saved: Path, text: str) -> None:
    (saved / MODEL).write_text(text)
    with pytest.raises(ModelError):
        read_bundle(saved)


def test_a_newer_format_says_to_install_a_newer_version(saved: Path) -> None:
    _forged(saved, lambda c: c.update(format=2))
    with pytest.raises(ModelError, match=r"format 2, expected at most 1\. Fix: install a newer sa-nowcast"):
        read_bundle(saved)


def test_a_description_without_end_is_not_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_JSON_BYTES", 100)
    with pytest.raises(ModelError, match="too large, expected at most 100 bytes"):
        read_bundle(saved)


def test_what_is_not_there_is_said(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none: no such folder, expected a saved nowcaster"):
        sa_nowcast.load(str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"it holds no model\.json"):
        sa_nowcast.load(str(tmp_path))
    (saved / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors: cannot be read"):
        sa_nowcast.load(str(saved))


def test_a_model_is_replaced_only_when_asked(saved: Path, nowcaster: Nowcaster, weather_nowcaster: Nowcaster) -> None:
    with pytest.raises(StorageError, match=r"a model stands there.*overwrite=True"):
        weather_nowcaster.save(saved)
    assert sa_nowcast.load(str(saved)).digest == nowcaster.digest
    weather_nowcaster.save(saved, overwrite=True)
    assert sa_nowcast.load(str(saved)).digest == weather_nowcaster.digest
    assert [f.name for f in saved.parent.iterdir()] == [saved.name]


def test_an_empty_folder_is_written_to_when_asked(nowcaster: Nowcaster, tmp_path: Path) -> None:
    target = tmp_path / "empty.nowcaster"
    target.mkdir()
    with pytest.raises(StorageError, match=r"an empty folder stands there.*overwrite=True"):
        nowcaster.save(target)
    nowcaster.save(target, overwrite=True)
    assert sa_nowcast.load(str(target)).digest == nowcaster.digest


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_model_is_never_overwritten(
    saved: Path, nowcaster: Nowcaster, tmp_path: Path, overwrite: bool
) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter1.tex").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("a file")
    # A folder of results into which somebody copied a model's files.
    mixed = tmp_path / "mixed"
    shutil.copytree(saved, mixed)
    (mixed / "chapter2.tex").write_text("more years")
    for path in (thesis, file, mixed):
        with pytest.raises(StorageError, match="something that is no model stands there"):
            nowcaster.save(path, overwrite=overwrite)
    assert (thesis / "chapter1.tex").read_text() == "years of work"
    assert (mixed / "chapter2.tex").read_text() == "more years"
    assert file.read_text() == "a file"


@pytest.mark.parametrize("lost", ["model.json", "weights.safetensors"])
def test_a_model_that_has_lost_a_file_is_replaced_when_asked(saved: Path, nowcaster: Nowcaster, lost: str) -> None:
    (saved / lost).unlink()
    with pytest.raises(StorageError, match="a model stands there"):
        nowcaster.save(saved)
    nowcaster.save(saved, overwrite=True)
    assert Nowcaster.load(saved).digest == nowcaster.digest


def test_a_folder_that_cannot_be_made_is_a_storage_error(nowcaster: Nowcaster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        nowcaster.save(tmp_path / "file" / "model")


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
def test_a_write_that_fails_leaves_the_former_model_whole_and_nothing_else(
    saved: Path,
    nowcaster: Nowcaster,
    weather_nowcaster: Nowcaster,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
    at: int,
) -> None:
    calls = 0

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at + 1:
                raise fault
            return function(*args)

        return call

    # Four syncs, then the exchange of the two folders.
    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(storage, "_exchanged", failing(storage._exchanged))
    with pytest.raises((StorageError, KeyboardInterrupt)):
        replace(weather_nowcaster, recipe="name: r\n").save(saved, overwrite=True)
    monkeypatch.undo()
    assert sa_nowcast.load(str(saved)).digest == nowcaster.digest
    assert [f.name for f in saved.parent.iterdir()] == [saved.name]


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [lambda o, f: f.write(pickle.dumps(o)), torch.save], ids=["pickle", "torch"])
def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(
    saved: Path, tmp_path: Path, save: Callable[[Any, Any], None]
) -> None:
    with (saved / WEIGHTS).open("wb") as file:
        save({"layers.0.weight": Hostile(tmp_path / "owned")}, file)
    import hashlib

    digest = hashlib.sha256((saved / WEIGHTS).read_bytes()).hexdigest()
    _forged(saved, lambda c: c.update(weights_sha256=digest))
    with pytest.raises(ModelError, match=r"weights\.safetensors: damaged"):
        sa_nowcast.load(str(saved))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("hidden", [[10**9], [200_000, 200_000], [2**62], [4] * 10_000])
def test_a_description_of_a_huge_network_is_refused_without_memory_for_it(saved: Path, hidden: list[int]) -> None:
    _forged(saved, lambda c: c["network"].update(hidden=hidden))
    before = psutil.Process().memory_info().rss
    with pytest.raises(ModelError, match="do not fit together"):
        sa_nowcast.load(str(saved))
    # The smallest of these networks declares 200 MB of weights; a description may cost a tenth of that.
    assert psutil.Process().memory_info().rss - before < 100e6


def test_a_weights_file_that_declares_more_than_it_holds_is_refused(saved: Path) -> None:
    import hashlib

    header = json.dumps({"head.weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (saved / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
    digest = hashlib.sha256((saved / WEIGHTS).read_bytes()).hexdigest()
    _forged(saved, lambda c: c.update(weights_sha256=digest))
    with pytest.raises(ModelError, match="damaged"):
        sa_nowcast.load(str(saved))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("network"),
        lambda c: c.pop("scaling"),
        lambda c: c.pop("terms"),
        lambda c: c["network"].update(hidden=[8]),
        lambda c: c["network"].update(name="resnet"),
        lambda c: c["network"].update(surprise=1),
        lambda c: c["network"].update(hidden="4"),
        lambda c: c["terms"].update(history=0),
        lambda c: c["terms"].update(history="4"),
        lambda c: c["terms"].update(steps=None),
        lambda c: c["terms"].update(step_ns=0),
        lambda c: c["terms"].update(step_ns=3.5),
        lambda c: c["terms"].update(surprise=1),
        lambda c: c["terms"].update(channels=[["rain"]]),
        lambda c: c["terms"].update(channels=[["rain", "mm h-1"]] * 2),
        lambda c: c["terms"].update(channels=3),
        lambda c: c["terms"].update(dy="1000"),
        lambda c: c["terms"].update(projection=[1]),
        lambda c: c.update(scaling=[]),
        lambda c: c.update(scaling=c["scaling"] * 2),
        lambda c: c.update(provenance=3),
    ],
)
def test_a_description_that_makes_no_sense_is_a_model_error(
    saved: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    _forged(saved, change)
    with pytest.raises(ModelError) as caught:
        sa_nowcast.load(str(saved))
    assert "\n" not in str(caught.value)


def test_weights_of_another_type_are_refused(saved: Path) -> None:
    weights, content = read_bundle(saved)
    description = {k: v for k, v in content.items() if k not in ("format", "sha256", "weights_sha256")}
    shutil.rmtree(saved)
    write_bundle(saved, {k: v.double() for k, v in weights.items()}, description, overwrite=False)
    with pytest.raises(ModelError, match="float64"):
        sa_nowcast.load(str(saved))


def test_the_bytes_are_a_function_of_the_content(nowcaster: Nowcaster) -> None:
    weights = nowcaster.network.state_dict()
    assert encode(weights, {"a": 1, "b": 2}) == encode(dict(reversed(weights.items())), {"b": 2, "a": 1})
