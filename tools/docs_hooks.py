"""What MkDocs does here beside rendering Markdown: runs tutorials and the gallery, writes MathML, checks built pages.

A page under ``tutorials/`` is a notebook written as Markdown: its blocks of Python and shell commands run in a kernel,
from top to bottom, in an empty folder, and what they print and draw is put behind them. A block that fails fails the
build. The notebook, as it ran, lies beside the page.

The scripts of ``gallery/`` run too, one after another in one process, each in an empty folder of its own. The page
shows each under the title and text of its docstring, with the pictures that it wrote and what it printed. A picture of
the same name under ``images/`` is replaced in the site. ``mkdocs serve`` shows pages without running anything.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import html
import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
PROMPT = re.compile(r"^\$ ", re.MULTILINE)
MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
ELSEWHERE = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio|object)\b[^>]*?\b(?:src|href|data)=\"(?:https?:)?//"
)
CANONICAL = re.compile(r"<link rel=\"(?:canonical|prev|next)\"[^>]*>")
SECONDS_A_BLOCK = 600
GALLERY, PRINTED, PICTURES = "gallery", "printed.txt", (".gif", ".png")
# One thread: two that wait for each other on shared cores take many times as long.
ENVIRONMENT = {"COLUMNS": "100", "OMP_NUM_THREADS": "1"}

_state: dict[str, Any] = {"run": True, GALLERY: {}}


def on_startup(command: str, **_: Any) -> None:
    _state["run"] = command == "build" and os.environ.get("DOCS_RUN", "1") != "0"


def on_files(files: Any, config: Any) -> Any:
    """Run the gallery before any page: the home page shows a picture of it."""
    if _state["run"]:
        _state[GALLERY] = run_scripts(_scripts(config))
    for name, made in _state[GALLERY].items():
        for picture in (each for each in made if each.endswith(PICTURES)):
            places = [f"{GALLERY}/{name}/{picture}", f"images/{picture}"]
            for place in places[: 1 if files.get_file_from_path(places[1]) is None else 2]:
                if (other := files.get_file_from_path(place)) is not None:
                    files.remove(other)
                files.append(File.generated(config, place, content=made[picture]))
    return files


def _scripts(config: Any) -> list[Path]:
    return sorted((Path(config.docs_dir) / GALLERY).glob("*.py"))


def run_scripts(scripts: list[Path]) -> dict[str, dict[str, bytes]]:
    """Run scripts, and return by their names the files that each left, what it printed among them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, folder, *map(str, scripts)]
        environment = os.environ | ENVIRONMENT | {"MPLBACKEND": "Agg"}
        environment.pop("SA_NOWCAST_MODEL", None)
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise PluginError(f"{GALLERY}: {done.stderr}")
        places = {script.stem: Path(folder) / script.stem for script in scripts}
        return {
            name: {file.name: file.read_bytes() for file in sorted(place.iterdir()) if file.is_file()}
            for name, place in places.items()
        }


def page_of_scripts(scripts: list[Path], made: dict[str, dict[str, bytes]]) -> str:
    """Return a row of small pictures that lead to the scripts, and the scripts with what they left, as Markdown."""
    thumbnails, sections = [], []
    for script in scripts:
        source = script.read_text(encoding="utf-8")
        tree = ast.parse(source)
        title, _, text = (ast.get_docstring(tree) or "").partition("\n")
        title, code = title.rstrip("."), source.split("\n", tree.body[0].end_lineno or 0)[-1].strip()
        anchor, left = script.stem.lstrip("0123456789_"), made.get(script.stem, {})
        pictures = [f"{GALLERY}/{script.stem}/{name}" for name in left if name.endswith(PICTURES)]
        thumbnails += [f"[![{title}]({picture}){{ .thumbnail }}](#{anchor})" for picture in pictures[:1]]
        shown = [f"![{title}]({picture})" for picture in pictures]
        if printed := left.get(PRINTED, b"").decode().rstrip():
            shown.append(f'```text title="Output"\n{printed}\n```')
        download = f"[{script.name}]({GALLERY}/{script.name})"
        parts = [f"## {title} {{ #{anchor} }}", text.strip(), f"```python\n{code}\n```", *shown, download]
        sections.append("\n\n".join(parts))
    return "\n\n".join(["\n".join(thumbnails), *sections])


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    if page.file.src_uri == f"{GALLERY}.md":
        return f"{markdown}\n\n{page_of_scripts(_scripts(config), _state[GALLERY])}\n"
    if not (_state["run"] and page.file.src_uri.startswith("tutorials/") and BLOCK.search(markdown)):
        return markdown
    name = page.file.src_uri.removesuffix(".md")
    notebook = _run(markdown, page.file.src_uri)
    import nbformat

    files.append(File.generated(config, f"{name}.ipynb", content=nbformat.writes(notebook)))
    outputs = iter([_shown(cell, name, number, files, config) for number, cell in enumerate(_code(notebook))])
    return BLOCK.sub(lambda block: block.group(0) + next(outputs), markdown) + (
        f"\n\n[This page as a notebook, as it ran]({Path(name).name}.ipynb)\n"
    )


def on_page_content(html: str, **_: Any) -> str:
    return MATH.sub(_mathml, html)


def on_post_build(config: Any) -> None:
    faults = check_site(Path(config.site_dir))
    if faults:
        raise PluginError("\n".join(faults))


def check_site(site: Path) -> list[str]:
    """What in the built pages would ask another host for a script, style, font or picture."""
    faults = []
    for path in sorted(site.rglob("*.html")):
        text = CANONICAL.sub("", path.read_text(encoding="utf-8"))
        faults += [f"{path.relative_to(site)}: {found.group(0)}" for found in ELSEWHERE.finditer(text)]
    for path in sorted(site.rglob("*.css")):
        if re.search(r"url\(['\"]?(?:https?:)?//", path.read_text(encoding="utf-8")):
            faults.append(f"{path.relative_to(site)}: url() of another host")
    return faults


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _run(markdown: str, name: str) -> Any:
    import nbclient
    import nbformat

    notebook = nbformat.v4.new_notebook()
    pieces = iter(BLOCK.split(markdown))  # text, language, code, text, ..., text
    for text in pieces:
        if text.strip():
            notebook.cells.append(nbformat.v4.new_markdown_cell(text.strip()))
        if language := next(pieces, None):
            code = next(pieces).strip()
            # This magic raises where a command fails.
            code = code if language == "python" else "%%bash -e\n" + PROMPT.sub("", code)
            notebook.cells.append(nbformat.v4.new_code_cell(code))
    environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment |= ENVIRONMENT
    environment.pop("SA_NOWCAST_MODEL", None)
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            timeout=SECONDS_A_BLOCK,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            extra_arguments=["--Application.log_level=ERROR"],
        )
        try:
            client.execute(env=environment)
        except nbclient.exceptions.CellExecutionError as error:
            raise PluginError(ANSI.sub("", f"{name}: {error.ename}: {error.evalue}\n{error.traceback}")) from error
        for output in (o for cell in _code(notebook) for o in cell.outputs if "text" in o):
            output["text"] = output["text"].replace(f"{folder}/", "")
    return notebook


def _shown(cell: Any, name: str, number: int, files: Any, config: Any) -> str:
    """The outputs of a cell as Markdown; pictures become files of the site."""
    text, pictures = "", []
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            picture = f"{name}-{number}-{len(pictures)}.png"
            files.append(File.generated(config, picture, content=base64.b64decode(data["image/png"])))
            pictures.append(f"\n\n![What the lines above draw]({Path(picture).name})")
        else:
            text += output.get("text", "") or data.get("text/plain", "") + "\n"
    lines = "\n".join(line.rstrip() for line in ANSI.sub("", text).strip("\n").splitlines())
    return (f'\n\n```text title="Output"\n{lines}\n```' if lines else "") + "".join(pictures)


def _mathml(found: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    display = "block" if found.group(2) == "[" else "inline"
    return convert(html.unescape(found.group(3)).strip(), display=display)


def main(folder: str, *scripts: str) -> None:
    """Run scripts in one process, each in a new folder with its name, where what it prints becomes a file."""
    for script in scripts:
        place = Path(folder) / Path(script).stem
        place.mkdir()
        os.chdir(place)
        with open(PRINTED, "w", encoding="utf-8") as printed, contextlib.redirect_stdout(printed):
            runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
