"""Every code block of the documentation runs; every recipe in it and beside it is valid."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from sa_nowcast.recipe import read_any

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A block that cannot run here is followed by a comment that says why.
NOT_RUN = re.compile(r"^```python\n(?:(?!^```).)*^```\n+<!-- not run: [^>]+ -->", re.MULTILINE | re.DOTALL)
# As much of the sample as its other pages take.
PART = ".isel(latitude=slice(128, 256), longitude=slice(0, 128))"
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


def _source(page: Path) -> str:
    """The Python blocks of a page; of a tutorial the commands between them too."""
    languages = {"python", "console"} if page.parent.name == "tutorials" else {"python"}
    found = []
    for language, body in BLOCK.findall(NOT_RUN.sub("", page.read_text(encoding="utf-8"))):
        if language not in languages:
            continue
        # What the page does, trained for less and on a part of the sample; tutorials run in full with the build.
        if language == "python":
            less = re.sub(r"max_steps=\d+", "max_steps=2, validation_samples=2", body)
            whole = r'open_sample\("mrms"\)(?=[ ]*(#.*)?$)(?!\s*\.isel)'
            found.append(re.sub(whole, rf"\g<0>{PART}", less, flags=re.MULTILINE))
        else:
            commands = re.sub(r"max_steps=\d+", "max_steps=2", body.replace("$ ", ""))
            found.append(f"__import__('subprocess').run(['bash', '-ec', {commands!r}], check=True)")
    return "\n".join(found)


def _runs(page: Path) -> ParameterSet:
    # Tutorials run whole when the pages are built; here they would run a second time. To write ONNX takes seconds.
    marks = [pytest.mark.slow] if page.parent.name == "tutorials" or page.name == "export.md" else []
    return pytest.param(page, id=_id(page), marks=marks)


@pytest.mark.parametrize("page", [_runs(p) for p in PAGES if _blocks(p, "python")])
def test_python_blocks_of_a_page_run_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SA_NOWCAST_MODEL", raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    namespace: dict[str, object] = {"__name__": "page"}
    try:
        exec(compile(_source(page), str(page), "exec"), namespace)
    finally:
        import sa_nowcast

        sa_nowcast.set_default_model(None)


@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p, "yaml")], ids=_id)
def test_whole_recipes_on_a_page_are_valid(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(_blocks(page, "yaml")):
        if "name:" in block:
            (tmp_path / f"{number}.yaml").write_text(block, encoding="utf-8")
            read_any(tmp_path / f"{number}.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=_id)
def test_every_recipe_is_valid(path: Path) -> None:
    assert read_any(path).name
