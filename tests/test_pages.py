"""The pages hold together: links lead somewhere, terms are spelled one way, all public names are described."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import sa_nowcast

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def _prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def _anchors(page: Path) -> set[str]:
    from markdown.extensions.toc import slugify

    titles = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {slugify(re.sub(r"[`*]|\]\([^)]*\)", "", title), "-") for title in titles}


def _broken(page: Path, text: str) -> list[str]:
    found = []
    for target in LINK.findall(text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in _anchors(place)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_an_anchor_that_are_there(page: Path) -> None:
    pytest.importorskip("markdown", reason="comes with mkdocs: make docs")
    assert _broken(page, _prose(page)) == []


def test_a_broken_link_would_be_seen() -> None:
    pytest.importorskip("markdown", reason="comes with mkdocs: make docs")
    text = "[a](index.md) [b](nothing.md) [c](index.md#nothing) [d](index.md#what-it-is-not)"
    assert _broken(DOCS / "log.md", text) == ["nothing.md", "index.md#nothing"]


def test_every_page_is_in_the_navigation() -> None:
    nav = re.search(r"^nav:\n.*", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert nav is not None
    listed = set(re.findall(r"[\w/-]+\.md", nav.group(0)))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert yaml.safe_load(nav.group(0))


# What is not written, and what is.
SPELLINGS = {
    r"lead-time": "lead time",
    r"leadtime": "lead time",
    r"init-time": "init time",
    r"initiali[sz]ation times?": "init time",
    r"forecast reference time": "init time",
    r"valid-time": "valid time",
    r"hind-cast|reforecast": "hindcast",
    r"now-cast": "nowcast",
    r"data set": "dataset, or data",
    r"time-?step": "step, or frame",
    r"colors?\b": "colour",
    r"gr[a]y\b": "grey",
    r"normali[z]e": "normalise",
    r"behavio[r]\b": "behaviour",
    r"optimi[z]er\b": "optimiser",
    r"reali[z]ed?\b": "realise",
    r"visuali[z]": "visualise",
    r"sa-nowcast package|SA-Nowcast|SA_nowcast": "sa_nowcast",
    r"SA-Conv-LSTM|SAConvLSTM|SA-convLSTM": "SA-ConvLSTM",
    r"Xarray|X-array": "xarray",
    r"PySTEPS|pySTEPS|PySteps": "pysteps",
    r"Moving[ -]MNIST": "MovingMNIST",
    r"Numpy": "NumPy",
    r"netCDF|Netcdf|NetCdf": "NetCDF",
    r"GeoTiff|Geotiff": "GeoTIFF",
}
CODE = re.compile(r"`[^`\n]*`|\]\([^)]*\)|https?://\S+")


def _misspelt(text: str) -> list[str]:
    text = CODE.sub("", text)
    return [
        f"{found}: {right}" for wrong, right in SPELLINGS.items() for found in re.findall(rf"(?<![\w/]){wrong}", text)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_terms_are_spelled_one_way(page: Path) -> None:
    assert _misspelt(_prose(page)) == []


def test_another_spelling_would_be_seen_and_code_is_left_alone() -> None:
    assert _misspelt("The lead-time of a `lead-time` in Moving MNIST") == [
        "lead-time: lead time",
        "Moving MNIST: MovingMNIST",
    ]


def _described() -> list[object]:
    things: list[object] = []
    for page in ("api.md", "recipe.md", "errors.md"):
        for name in re.findall(r"^::: (\S+)$", (DOCS / "reference" / page).read_text(encoding="utf-8"), re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            try:
                things.append(getattr(importlib.import_module(module), attribute))
            except ModuleNotFoundError:  # a method, or a module of a package that hides it
                things.append(importlib.import_module(name))
            if isinstance(things[-1], ModuleType) or importlib.util.find_spec(name.rpartition(".")[0]) is None:
                things.extend(vars(importlib.import_module(name)).values())
    return things


PACKAGES = {f"sa_nowcast.{info.name}" for info in pkgutil.iter_modules(sa_nowcast.__path__) if info.ispkg}
ROOMS = ["sa_nowcast", *sorted(PACKAGES - {"sa_nowcast.cli"})]


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_in_the_reference(room: str) -> None:
    described = {id(thing) for thing in _described()}
    module = importlib.import_module(room)
    names = [n for n in getattr(module, "__all__", []) if not n.startswith("__")]
    things = {n: getattr(module, n) for n in names}
    rooms = {n for n, thing in things.items() if isinstance(thing, ModuleType) and thing.__name__ in ROOMS}
    missing = [n for n, thing in things.items() if id(thing) not in described and n not in rooms | {"errors"}]
    assert missing == [], f"docs/reference/api.md lacks names of {room}"


def test_every_room_is_on_the_page_about_the_house() -> None:
    text = (DOCS / "explanation" / "house.md").read_text(encoding="utf-8")
    rooms = {info.name + ("/" if info.ispkg else ".py") for info in pkgutil.iter_modules(sa_nowcast.__path__)}
    assert {room for room in rooms if f"`{room}`" not in text} == {"_version.py"}


def test_the_table_of_rooms_has_the_order_that_is_tested_and_what_rooms_say_of_themselves() -> None:
    tool = _tool("room_reference")
    text = tool.PAGE.read_text(encoding="utf-8")
    assert text == tool.page(text), "run python tools/room_reference.py"
    assert len(tool.table().splitlines()) > 40


def _tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="make docs installs it")
    return _tool("docs_hooks")


@pytest.mark.parametrize(
    "line",
    [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<img alt="a" src="http://example.org/a.png">',
    ],
)
def test_a_page_that_would_fetch_something_from_elsewhere_fails_the_build(line: str, tmp_path: Path) -> None:
    hooks = _hooks()
    (tmp_path / "good.html").write_text(
        '<a href="https://example.org">a</a><img src="a.png"><script src="b.js"></script>'
    )
    assert hooks.check_site(tmp_path) == []
    (tmp_path / "bad.html").write_text(line)
    (fault,) = hooks.check_site(tmp_path)
    assert fault.startswith("bad.html: ")


def test_equations_become_mathml() -> None:
    pytest.importorskip("latex2mathml", reason="make docs installs it")
    page = r'<p><span class="arithmatex">\(a &lt; b\)</span></p><div class="arithmatex">\[x_t\]</div>'
    found = _hooks().on_page_content(page)
    assert found.count("<math") == 2
    assert 'display="block"' in found
    assert "arithmatex" not in found
    assert "<msub><mi>x</mi><mi>t</mi></msub>" in found


def test_a_tutorial_that_fails_fails_the_build_and_names_the_page() -> None:
    hooks = _hooks()
    pytest.importorskip("nbclient", reason="make docs installs it")
    from mkdocs.exceptions import PluginError

    with pytest.raises(PluginError, match=r"tutorials/x\.md.*ZeroDivisionError"):
        hooks._run("text\n\n```python\n1 / 0\n```\n", "tutorials/x.md")


SCRIPTS = sorted((DOCS / "gallery").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_script_of_the_gallery_is_short_and_has_a_title_and_a_text(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    tree = ast.parse(source)
    title, empty, *text = (ast.get_docstring(tree) or "").splitlines()
    assert title.endswith(".")
    assert (empty, bool(text)) == ("", True)
    code = source.splitlines()[tree.body[0].end_lineno or 0 :]
    assert len([line for line in code if line.strip()]) <= 25


def test_the_gallery_has_twelve_scripts_and_draws_the_picture_that_the_first_pages_begin_with() -> None:
    assert len(SCRIPTS) == 12
    assert '"nowcast.gif"' in (DOCS / "gallery" / "02_animation.py").read_text(encoding="utf-8")
    picture = DOCS / "images" / "nowcast.gif"
    assert picture.stat().st_size < 400_000
    for page in (ROOT / "README.md", DOCS / "index.md"):
        first = next(
            target for target in LINK.findall(page.read_text(encoding="utf-8")) if not target.startswith("http")
        )
        assert (page.parent / first).resolve() == picture


def test_scripts_run_one_by_one_and_stand_on_the_page_with_what_they_left(tmp_path: Path) -> None:
    hooks = _hooks()
    (tmp_path / "01_first.py").write_text('"""Write.\n\nIt writes."""\n\nname = "a.png"\nopen(name, "w").close()\n')
    (tmp_path / "02_next.py").write_text(
        '"""Print.\n\nIt prints.\n"""\n\nimport os\n\nprint(os.listdir(), "name" in dir())\n'
    )
    scripts = sorted(tmp_path.glob("*.py"))
    made = hooks.run_scripts(scripts)
    assert set(made["01_first"]) == {"a.png", "printed.txt"}
    page = hooks.page_of_scripts(scripts, made)
    assert page.splitlines()[0] == "[![Write](gallery/01_first/a.png){ .thumbnail }](#first)"
    code = '```python\nname = "a.png"\nopen(name, "w").close()\n```'
    first = f"## Write {{ #first }}\n\nIt writes.\n\n{code}\n\n![Write](gallery/01_first/a.png)\n\n[01_first.py]("
    assert first in page
    assert "```text title=\"Output\"\n['printed.txt'] False\n```\n\n[02_next.py](gallery/02_next.py)" in page


def test_a_script_that_fails_fails_the_build_and_is_named(tmp_path: Path) -> None:
    hooks = _hooks()
    from mkdocs.exceptions import PluginError

    (tmp_path / "03_wrong.py").write_text('"""Divide."""\n\n1 / 0\n')
    with pytest.raises(PluginError, match=r"(?s)gallery: .*03_wrong\.py.*ZeroDivisionError"):
        hooks.run_scripts([tmp_path / "03_wrong.py"])
