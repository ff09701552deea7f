"""What MkDocs does here beside rendering Markdown: runs tutorials, writes equations as MathML, checks the built pages.

A page under ``tutorials/`` is a notebook written as Markdown: its blocks of Python and shell commands run in a kernel,
from top to bottom, in an empty folder, and what they print and draw is put behind them. A block that fails fails the
build. The notebook, as it ran, lies beside the page. ``mkdocs serve`` shows pages without running them.
"""

from __future__ import annotations

import base64
import html
import os
import re
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

_state: dict[str, Any] = {"run": True}


def on_startup(command: str, **_: Any) -> None:
    _state["run"] = command == "build" and os.environ.get("DOCS_RUN", "1") != "0"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
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
    # One thread: two that wait for each other on shared cores take many times as long.
    environment |= {"COLUMNS": "100", "OMP_NUM_THREADS": "1"}
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
