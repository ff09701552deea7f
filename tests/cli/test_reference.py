"""The pages on commands and errors are what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_on_commands_is_current() -> None:
    made = tool("command_reference")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run python tools/command_reference.py"


def test_the_page_on_errors_holds_every_error_of_the_source() -> None:
    made = tool("error_reference")
    written = made.PAGE.read_text(encoding="utf-8")
    assert written == made.page(made.head_of(written)), "run python tools/error_reference.py"
    assert len(written.splitlines()) > 300
