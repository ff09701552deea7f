"""Errors in the words of the command line: an argument of Python that a remedy names becomes this command's option."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from sa_nowcast.errors import SaNowcastError

# Arguments of Python that the command line calls otherwise.
_CALLED: Final = {
    "variables": "variable",
    "metrics": "metric",
    "thresholds": "threshold",
    "overwrite": "replace",
    "existing": "replace",
}
# Fields of a recipe, for commands that read one and replace values by --set.
_OF_RECIPES: Final = {name: f"data.{name}" for name in ("time", "y", "x", "channel", "engine", "variables", "gaps")}
_ARGUMENT: Final = re.compile(r"(?<![\w.'\"-])([a-z_]+)=('[^']*'|\"[^\"]*\"|\[[^\]]*\]|[\w.+:%/-]*\w)?")


def spelled_error(error: SaNowcastError, command: Any) -> SaNowcastError:
    """Return the same error with what a user can do in the options of `command`."""
    expected, fix = (None if text is None else spelled(text, command) for text in (error.expected, error.fix))
    flag = _flag(error.where, command)
    where = error.where if flag is None else flag
    if (where, expected, fix) == (error.where, error.expected, error.fix):
        return error
    return type(error)(where, error.found, expected, fix)


def spelled(text: str, command: Any) -> str:
    """Return `text` with every ``name='value'`` that `command` has an option for written as that option.

    Parameters
    ----------
    text : str
        Such as ``name one with y=, or pass existing='replace'``; calls such as ``ds.isel(time=0)`` stay.
    command : click.Command
        Whose options are meant. What it has no option for becomes ``--option`` or ``--set``, where it has these and
        they take it, and else stays.
    """
    options = _options(command)

    def option(match: re.Match[str]) -> str:
        if _within_call(text, match.start()):
            return match[0]
        name, value = match[1], (match[2] or "")
        bare = value[1:-1] if value[:1] in ("'", '"') else value
        flag = _flag(name, command)
        if flag is not None:
            return flag if options[_CALLED.get(name, name)].is_flag or not bare else f"{flag} {shlex.quote(bare)}"
        if "override" in options:
            field = _OF_RECIPES.get(name) or (f"data.options.{name}" if name in _reader_options() else None)
            return match[0] if field is None else f"--set {shlex.quote(f'{field}={bare}')}"
        if "option" in options and name in _reader_options():
            return f"--option {shlex.quote(f'{name}={bare}')}"
        return match[0]

    return _ARGUMENT.sub(option, text)


def _options(command: Any) -> dict[str, Any]:
    return {p.name: p for p in command.params if p.param_type_name == "option"}


def _flag(name: str, command: Any) -> str | None:
    """Return the option that stands for an argument of Python, or None."""
    own = _options(command).get(_CALLED.get(name, name))
    return None if own is None else next((o for o in own.opts if o.startswith("--")), own.opts[0])


def _within_call(text: str, at: int) -> bool:
    """Say whether a position is within the parentheses of a call."""
    calls: list[bool] = []
    for i, character in enumerate(text[:at]):
        if character == "(":
            calls.append(i > 0 and (text[i - 1].isalnum() or text[i - 1] in "_])"))
        elif character == ")" and calls:
            calls.pop()
    return any(calls)


def _reader_options() -> Mapping[str, None]:
    from sa_nowcast.sources.open import reader_options

    return dict.fromkeys(reader_options())
