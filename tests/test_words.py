"""Expressions that the field's own terms have replaced do not come back, in pages, recipes, messages and code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sa_nowcast"

# What is not written, and what is. Words that are right elsewhere are listed with what makes them wrong.
EVERYWHERE = {
    r"\bh[eo]ld(s|ing)?[- ]back\b|\bback-held\b": "validation period, or test period",
    r"\bmade[- ](fields?|samples?)\b|\bfields? made with seed\b": "synthetic fields",
    r"\bmoving[- ]frames?\b|\bframe of the motion\b": "Lagrangian coordinates",
    r"\bstanding[- ](frames?|coordinates)\b": "Eulerian coordinates",
    r"\bfor people\b": "say for whom, or leave it out",
    r"\bwhat comes next knows\b|\bknows? (your|the user's) data\b": "trained on your data",
    r"\bwhat goes up\b": "output to the next layer",
    r"\btrained (it )?for (no data|none|nothing) in particular\b": "the default model; not trained on your data",
    r"say_that_none_was_named|\bgive_back\b|\bspoil(ed|s)?\b|(?<![a-z])deaf\b": "say what it does",
    r"(?<![a-z])holes?(?![a-z])": "fragmentation (of memory), gap (of times or a grid), missing area, fault",
    r"\bmeans?(,| and) spread\b|\b(its|own|their|seeds'?) spread\b": "standard deviation",
    r"\bspread of (the )?(values|seeds)\b": "standard deviation",
    r"\bas a film\b|\bfilms? of (a |the )?(forecast|frames)": "animation",
    r"\bthere are two of each\b": "three presets of training, and four of networks",
    r"\b(is|are|stands?|what is) in the way\b|\*\*in the way": "say what exists there",
    r"\bnever saw\b|\bhas never seen\b": "was not trained on",
}
# In pictures only, where a film is no data; `film` is the name of an option and an extra there.
IN_PICTURES = {r"(?<![`\"'_.\w])films?\b(?![`\"'_.:])": "animation"}
PICTURES = (PACKAGE / "plotting", ROOT / "docs" / "how-to" / "look.md")
OLD_ENTRIES = ROOT / "docs" / "log.md"


def replaced(text: str, path: Path | None = None) -> list[str]:
    """Return each expression that is not to be written, with its line and what is written for it."""
    text = text.lower()
    pictures = path is not None and any(path.is_relative_to(place) for place in PICTURES)
    words = EVERYWHERE | (IN_PICTURES if pictures else {})
    hits = [
        (m.start(), m.group(), term) for wrong, term in words.items() for m in re.finditer(_across_lines(wrong), text)
    ]
    return [f"{text.count(chr(10), 0, at) + 1}: {' '.join(found.split())}: {term}" for at, found, term in sorted(hits)]


def _across_lines(pattern: str) -> str:
    """Let a space be a line break, too, with the indentation and the comment's sign after it."""
    return pattern.replace("[- ]", r"(-|\s+(?:#\s*)?)").replace(" ", r"\s+(?:#\s*)?")


def _files(place: Path) -> list[Path]:
    found = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix in (".py", ".md", ".yaml"))
    return [path for path in found if path != OLD_ENTRIES]


ROOMS = sorted(p for p in PACKAGE.iterdir() if p.suffix == ".py" or (p.is_dir() and not p.name.startswith("__")))
PLACES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "recipes")] + ROOMS


@pytest.mark.parametrize("place", PLACES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_fields_own_terms_are_used(place: Path) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{hit}"
        for path in _files(place)
        for hit in replaced(path.read_text(encoding="utf-8"), path)
    ]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    "text",
    [
        "the loss on held-back windows", "a recipe holds back what it scores", "on made fields",
        "trained on made\n    # fields",
        "In the moving frame", "read in a standing frame", "a text for people", "What comes next knows your data.",
        "trained for no data in particular", "room.say_that_none_was_named()", "model.spoiled(3)",
        "worker_init_fn=_deaf",
        "the holes of the heap", "scaled by its mean and spread", "There are two of each:", "a file is in the way",
    ],
)  # fmt: skip
def test_an_expression_that_was_replaced_would_be_seen(text: str) -> None:
    assert len(replaced(text)) == 1


def test_a_film_is_an_animation_in_pictures_and_data_elsewhere() -> None:
    assert replaced("films of KTH", ROOT / "docs" / "how-to" / "convert.md") == []
    assert len(replaced("write a film", PACKAGE / "plotting" / "forecast.py")) == 1
    assert replaced('the extra `film`, as in require("film")', PACKAGE / "plotting" / "forecast.py") == []


@pytest.mark.parametrize(
    "text",
    [
        "the moving average", "frames that move", "spread_skill: the ensemble spread", "showers fade and spread",
        "output: moving", "engine: made_fields", "whole frames", "in the way that CF says", "given back as DataArrays",
        "the storage lock is held by another process",
    ],
)  # fmt: skip
def test_words_that_are_right_are_left_alone(text: str) -> None:
    assert replaced(text) == []
