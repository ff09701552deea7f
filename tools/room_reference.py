"""Write the table of rooms in docs/explanation/house.md: the order of imports that a test keeps, and the docstrings.

    python tools/room_reference.py

The order is ROWS of tests/contracts/test_imports.py; what a room holds is the first line of its docstring. A test keeps
the page current.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sa_nowcast"
PAGE = ROOT / "docs" / "explanation" / "house.md"
ROWS = ROOT / "tests" / "contracts" / "test_imports.py"
BEGIN = "<!-- rooms: python tools/room_reference.py -->\n"
END = "<!-- end of rooms -->\n"


def page(text: str) -> str:
    """Return the page with the table that is current."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2]


def table() -> str:
    """Return the rooms as a table in Markdown, in the order in which they may import each other."""
    lines = ["| | room | what it holds |", "| --- | --- | --- |"]
    for number, row in enumerate(_rows(), start=1):
        lines += [f"| {number} | `{name}` | {about} |" for name, about in sorted(map(_room, row - {"_version"}))]
    return "\n".join(lines) + "\n"


def _rows() -> list[set[str]]:
    spec = importlib.util.spec_from_file_location("rows_of_imports", ROWS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows: list[set[str]] = module.ROWS
    return rows


def _room(name: str) -> tuple[str, str]:
    """Return a room's path in the package and the first line of its docstring."""
    place = PACKAGE.joinpath(*name.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if about is None:
        sys.exit(f"{file}: no docstring")
    path = place.relative_to(PACKAGE).as_posix()
    first = about.splitlines()[0].rstrip(".").replace("``", "`").replace("|", "\\|")
    return path + ("/" if place.is_dir() else ".py"), first


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
