"""Options that several commands share, and what is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from sa_nowcast.errors import RecipeError

Engine = Annotated[
    str | None,
    typer.Option(
        help="Reader, where the files do not tell: taxibj, moving_mnist, kth, array, film, geotiff, a format of radar "
        "composites (odim_hdf5, knmi_hdf5, fmi_pgm, mch_gif, bom_rf3, mrms_grib), or an engine of xarray."
    ),
]
TimePattern = Annotated[
    str | None,
    typer.Option("--time-pattern", help="The time in the files' names, such as %Y%m%d%H%M; usually found by itself."),
]
Variables = Annotated[
    list[str] | None,
    typer.Option("--variable", help="A variable to take; by default all gridded ones. May be repeated."),
]
TimeDim = Annotated[str | None, typer.Option("--time", help="Time dimension, where attributes and names do not tell.")]
YDim = Annotated[str | None, typer.Option("--y", help="Dimension of rows, likewise.")]
XDim = Annotated[str | None, typer.Option("--x", help="Dimension of columns, likewise.")]
ChannelDim = Annotated[str | None, typer.Option("--channel", help="Dimension of channels, likewise.")]
ReaderOptions = Annotated[
    list[str] | None, typer.Option("--option", help="An option of the reader as key=value. May be repeated.")
]
_PATTERN: Final = "time_pattern"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, compute and write nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace what stands at the output already.")]


def reader_options(pairs: Sequence[str] | None, time_pattern: str | None = None) -> dict[str, Any]:
    """Return ``key=value`` texts as a mapping, with the pattern of times in names where one is given.

    Values are read as YAML, so 2 is a number and [a, b] a list.
    """
    from sa_nowcast.recipe.strict_yaml import load_strict

    read: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise RecipeError("--option", f"{pair!r}", expected="key=value")
        if key in read:
            raise RecipeError("--option", f"{key} is given twice", expected="once")
        # YAML has % for directives, and patterns of times begin with it.
        read[key] = value if key == _PATTERN and value[:1] == "%" else load_strict(value, f"--option {key}")[0]
    if time_pattern is not None:
        if read.get(_PATTERN, time_pattern) != time_pattern:
            raise RecipeError("--time-pattern", f"{time_pattern!r} beside --option {_PATTERN}", expected="one of them")
        read[_PATTERN] = time_pattern
    return read
