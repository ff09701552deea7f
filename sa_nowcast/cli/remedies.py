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
    "check": "no_check",
}
# Fields of a recipe, for commands that read one and replace values by --set.
_OF_RECIPES: Final = {name: f"data.{name}" for name in ("time", "y", "x", "channel", "engine", "variables", "gaps")}
_ARGUMENT: Final = re.compile(r"(?<![\w.'\"-])([a-z_]+)=('[^']*'|\"[^\"]*\"|\[[^\]]*\]|[\w.+:%/-]*\w)?")


# Arguments that name frames on disk.
_FRAMES: Final = ("source", "data", "truth", "file", "target")
_MENDED: Final = "mended.nc"


def spelled_error(error: SaNowcastError, command: Any, given: Mapping[str, Any] | None = None) -> SaNowcastError:
    """Return the same error with what a user can do in the options of `command`.

    `given` are the arguments and options that it was called with: what Python does to a Dataset is then written as a
    command that does it to the file.
    """
    expected, fix = (None if text is None else spelled(text, command) for text in (error.expected, error.fix))
    if fix is not None and given is not None:
        fix = _of_a_file(fix, command, given)
    flag = _flag(error.where, command)
    where = error.where if flag is None else flag
    if (where, expected, fix) == (error.where, error.expected, error.fix):
        return error
    return type(error)(where, error.found, expected, fix)


def spelled(text: str, command: Any) -> str:
    """Return `text` with every ``name='value'`` that `command` has an option for written as that option.

    In text such as ``name one with y=, or pass existing='replace'``, calls such as ``ds.isel(time=0)`` stay. What there
    is no option for becomes ``--option`` or ``--set``, where the command has these and they take it, and else stays.
    """
    options = _options(command)

    def option(match: re.Match[str]) -> str:
        if _within_call(text, match.start()):
            return match[0]
        name, value = match[1], (match[2] or "")
        bare = value[1:-1] if value[:1] in ("'", '"') else value
        flag = _flag(name, command)
        if flag is not None:
            if options[_CALLED.get(name, name)].is_flag or not bare:
                return flag
            return f"{flag} {shlex.quote(bare.strip('[]'))}"
        if "override" in options:
            field = _OF_RECIPES.get(name) or (f"data.options.{name}" if name in _reader_options() else None)
            return match[0] if field is None else f"--set {shlex.quote(f'{field}={bare}')}"
        if "option" in options and name in _reader_options():
            return f"--option {shlex.quote(f'{name}={bare}')}"
        return match[0]

    return _ARGUMENT.sub(option, text)


def _of_a_file(fix: str, command: Any, given: Mapping[str, Any]) -> str:
    """Return a remedy in Python, such as ``ds.sortby('y')``, as a command that writes a mended copy of the frames."""
    found = re.search(r"(?<![\w.])(ds[.\[]|xr\.decode_cf\()", fix)
    if found is None:
        return fix
    begin, end = found.start(), _end_of_expression(fix, found.start())
    expression = fix[begin:end]
    names = re.fullmatch(r"ds\[\['([^'\]]+)'\]\]", expression)
    if names and _options(command).get("variable") is not None:
        return f"{fix[:begin]}--variable {shlex.quote(names[1])}{fix[end:]}"
    named = [given[n] for n in _FRAMES if given.get(n) and (n != "target" or command.name == "validate")]
    source = named[0][0] if named and isinstance(named[0], list | tuple) else named[0] if named else None
    if source is None or ":" in source or (isinstance(named[0], list | tuple) and len(named[0]) > 1):
        return fix
    from sa_nowcast.cli.options import reader_options

    opening = {"engine": given.get("engine"), **reader_options(given.get("option"), given.get("time_pattern"))}
    told = "".join(f", {name}={value!r}" for name, value in opening.items() if value is not None)
    code = (
        "import numpy as np, pandas as pd, xarray as xr; from sa_nowcast import open_source; "
        f"ds = open_source({str(source)!r}{told}); {expression}.to_netcdf({_MENDED!r})"
    )
    quoted = shlex.quote(code) if re.search(r'["$`\\!]', code) else f'"{code}"'
    return f"{fix[:begin]}python -c {quoted}{fix[end:]}, and {_MENDED} in place of {source}"


def _end_of_expression(text: str, begin: int) -> int:
    """Return where a chain of attributes, calls and subscripts ends."""
    depth, quote = 0, ""
    for i in range(begin, len(text)):
        character = text[i]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and depth:
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                return i
        elif not depth and not (character.isalnum() or character in "_."):
            return i
    return len(text)


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
