"""Every code block of the documentation runs; every recipe in it and beside it is valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sa_nowcast.recipe import parse_recipe, read_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A block that cannot run here is followed by a comment that says why.
NOT_RUN = re.compile(r"^```python\n(?:(?!^```).)*^```\n+<!-- not run: [^>]+ -->", re.MULTILINE | re.DOTALL)
# Blocks in these languages are shown, not run: shell sessions, example output, equations.
SHOWN = {"console", "text", "math"}


def _blocks(page: Path, language: str) -> list[str]:
    text = NOT_RUN.sub("", page.read_text(encoding="utf-8"))
    return [body for lang, body in BLOCK.findall(text) if lang == language]


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_block_names_a_language_that_is_tested_or_only_shown() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        languages = {lang for lang, _ in BLOCK.findall(text)}
        assert languages <= {"python", "yaml"} | SHOWN, page
        assert text.count("```") == 2 * len(BLOCK.findall(text)), f"{page}: a block without a language"


@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p, "python")], ids=_id)
def test_python_blocks_of_a_page_run_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SA_NOWCAST_MODEL", raising=False)
    source = "\n".join(_blocks(page, "python"))
    # The lines of the page, trained for less: the whole length is what `make quickstart` runs.
    source = re.sub(r"max_steps=\d+", "max_steps=2, validation_samples=2", source)
    namespace: dict[str, object] = {"__name__": "page"}
    try:
        exec(compile(source, str(page), "exec"), namespace)
    finally:
        import sa_nowcast

        sa_nowcast.set_default_model(None)


@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p, "yaml")], ids=_id)
def test_whole_recipes_on_a_page_are_valid(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        if "name:" in block:
            parse_recipe(block, _id(page))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=_id)
def test_every_recipe_is_valid(path: Path) -> None:
    assert read_recipe(path).name
