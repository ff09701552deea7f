"""Write docs/reference/commands.md from what the commands say of themselves with --help.

    python tools/command_reference.py

A test keeps the page current.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import typer

from sa_nowcast.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "commands.md"

HEAD = """\
<!-- Made by tools/command_reference.py; change the help of the commands, not this page. -->
# Commands

`sa-nowcast --help` lists the commands, `sa-nowcast COMMAND --help` says what is here. Results go to standard output;
logs, progress and errors to standard error. An error is one line that tells the remedy, and an exit code:

| code | what |
| --- | --- |
| 0 | done |
| 2 | the recipe, an argument, an option that is not known, a library that is not installed |
| 3 | the data: frames, times, units, grid, gaps, a damaged chunk |
| 4 | the model: damaged, newer, or made for other data |
| 5 | storage: full, read-only, in use by another process |
| 70 | an internal fault; `sa-nowcast --traceback COMMAND ...` shows where |
| 75 | stopped by Ctrl-C, SIGTERM or SIGUSR1; the same command goes on, and what is finished stays |
| 141 | nobody read on, as behind `head -1` |

`--dry-run` checks variables, units, grid, gaps, memory and output, reads no bulk data, uses no GPU and writes nothing;
it fails with the line and the code that the command itself would fail with. The commands that only look (`validate`,
`inspect`, `schema`, `doctor`) have none. `--json` prints one JSON document whose keys stay; NaN is null.

`sa-nowcast --install-completion` makes the shell complete commands, options and the names of recipes that ship.
"""


def page() -> str:
    """Return the page."""
    group: Any = typer.main.get_command(app)
    return "\n".join([HEAD, *(_command(name, command) for name, command in group.commands.items())])


def _command(name: str, command: Any) -> str:
    text = inspect.cleandoc(command.callback.__doc__)
    about, example = re.split(r"\s*Example: ", text)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join(["sa-nowcast", name, *(_usage(a) for a in arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"## {name}", "", about, "", "```console", f"$ {example.strip()}", "```", "", f"`{usage}`", ""]
    if arguments:
        parts += ["| argument | |", "| --- | --- |"]
        parts += [f"| `{a.name.upper()}` | {_cell(a.help)} |" for a in arguments] + [""]
    if options:
        parts += ["| option | |", "| --- | --- |"]
        parts += [f"| {_names(o)} | {_cell(o.help)}{_default(o)} |" for o in options] + [""]
    return "\n".join(parts)


def _usage(argument: Any) -> str:
    word = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in option.opts)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def _default(option: Any) -> str:
    value = option.default
    if value is None or value is False or value == () or not isinstance(value, str | int | float | tuple):
        return ""
    return f" Default: `{' '.join(map(str, value)) if isinstance(value, tuple) else value}`."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
