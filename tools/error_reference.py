"""Write the lists of docs/reference/errors.md: every error that the package raises, with its remedy, from the source.

    python tools/error_reference.py

What stands above the mark on that page is written by hand. A test keeps the rest current.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from remedies.collector import PUT_IN, messages  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "errors.md"
MARK = "<!-- From here on made by tools/error_reference.py. -->\n"
KINDS = {
    "RecipeError": "RECIPE: the recipe, or an argument",
    "MissingLibraryError": "INSTALL: a library that is not installed",
    "DataError": "DATA: frames, times, units, grid, values",
    "ModelError": "MODEL: a saved model, a network, memory",
    "StorageError": "STORAGE: what cannot be written or is held by another",
    "Interrupted": "INTERRUPTED: stopped, and to be resumed",
    "SaNowcastError": "ERROR: internal",
}
FIELDS = ("found", "expected", "fix")
MOST = 4
"""Texts of a field that are listed; where there are more, as of a function that many call, they are …"""


def page(head: str) -> str:
    """Return the page: its head, and a table a class, in the order of the source."""
    parts = [head + MARK]
    found = [(kind, tuple(_text(fields.get(name, [])) for name in FIELDS)) for kind, fields in messages()]
    for kind, title in KINDS.items():
        # One that hands another error's words on says nothing of its own.
        rows = [row for row in dict.fromkeys(row for name, row in found if name == kind) if row[0].strip("… ")]
        if not rows:
            continue
        parts += [f"## {title}", "", "| found | expected | remedy |", "| --- | --- | --- |"]
        parts += [f"| {' | '.join(map(_cell, row))} |" for row in sorted(rows, key=lambda r: r[0].lower())] + [""]
    return "\n".join(parts)


def _text(texts: list[str]) -> str:
    """Return what a field of a message can say, apart by strokes."""
    texts = list(dict.fromkeys(" ".join(text.split()) for text in texts))
    return " / ".join(texts) if len(texts) <= MOST else PUT_IN


def _cell(text: str) -> str:
    text = " ".join(text.split()).replace("`", "'").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    if re.match(r"(ds|sa_nowcast)\.\S+\(", text):
        code, comma, rest = text.partition(", if ")
        return f"`{code}`{comma}{rest}"
    # Names in code are code here too.
    return re.sub(r"(?<![\w'])([A-Za-z.]*_[\w.]*\w|timesteps?)(?![\w'])", r"`\1`", text).replace("[", "\\[")


def head_of(text: str) -> str:
    """Return what is written by hand."""
    return text.partition(MARK)[0]


if __name__ == "__main__":
    PAGE.write_text(page(head_of(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")
