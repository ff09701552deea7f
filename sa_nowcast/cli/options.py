"""Options that several commands share, and what is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sa_nowcast.errors import RecipeError

Engine = Annotated[
    str | None,
    typer.Option(
        help="Reader: taxibj, moving_mnist, kth, array, film, an importer of pysteps, or an engine of xarray."
    ),
]
ReaderOptions = Annotated[
    list[str] | None, typer.Option("--option", help="An option of the reader as key=value. May be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, compute and write nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace what stands at the output already.")]


def reader_options(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Return ``key=value`` texts as a mapping; values are read as YAML, so 2 is a number and [a, b] a list."""
    from sa_nowcast.strict_yaml import load_strict

    read: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise RecipeError("--option", f"{pair!r}", expected="key=value")
        if key in read:
            raise RecipeError("--option", f"{key} is given twice", expected="once")
        read[key] = load_strict(value, f"--option {key}")[0]
    return read
