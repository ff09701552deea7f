"""Write the lists of docs/reference/errors.md: every error that the package raises, with its remedy, from the source.

    python tools/error_reference.py

What stands above the mark on that page is written by hand. A test keeps the rest current.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sa_nowcast"
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
FIELDS = ("where", "found", "expected", "fix")


def page(head: str) -> str:
    """Return the page: its head, and a table a class, in the order of the source."""
    parts = [head + MARK]
    found = list(_errors())
    for kind, title in KINDS.items():
        rows = list(dict.fromkeys((e["found"], e["expected"], e["fix"]) for name, e in found if name == kind))
        if not rows:
            continue
        parts += [f"## {title}", "", "| found | expected | remedy |", "| --- | --- | --- |"]
        parts += [f"| {' | '.join(map(_cell, row))} |" for row in sorted(rows, key=lambda r: r[0].lower())] + [""]
    return "\n".join(parts)


def _errors() -> Iterator[tuple[str, dict[str, str]]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                if any(isinstance(a, ast.Starred) for a in node.args):
                    continue
                given = dict(zip(FIELDS, node.args, strict=False)) | {k.arg: k.value for k in node.keywords if k.arg}
                texts = {name: _text(given[name]) if name in given else "" for name in FIELDS}
                if texts["found"].strip("… "):  # one that hands another error's words on says nothing of its own
                    yield node.func.id, texts


def _text(node: ast.expr) -> str:
    """Return a message as it reads, with … for what is put in."""
    if isinstance(node, ast.Constant):
        return "" if node.value is None else str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(v) if isinstance(v, ast.Constant) else "…" for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return " / ".join(dict.fromkeys(t for t in (_text(node.body), _text(node.orelse)) if t))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("install", "pip_install"):
        wanted = " ".join(map(_text, node.args))
        return (
            f"pip install, of what the extra {wanted} needs" if node.func.id == "install" else f"pip install {wanted}"
        )
    return "…"


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
