"""Options that several commands share, and what is read from them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, get_type_hints

import typer

from sa_nowcast.errors import RecipeError

if TYPE_CHECKING:
    import xarray as xr

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
Product = Annotated[
    str,
    typer.Option(help="mean: least squared error; matched: its pattern, with the distribution of the observed values."),
]
Inflow = Annotated[
    str, typer.Option(help="filled or missing: what stands where the motion brings in what lay beyond the grid.")
]
Members = Annotated[
    int | None,
    typer.Option(help="Draw so many members of an ensemble; by default one forecast, of least squared error."),
]
Seed = Annotated[int, typer.Option(help="Of the members: each is a function of it, the init time and its number.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace what stands at the output already.")]
# The options of commands that read frames, in the order in which help shows them.
_OF_READING: Final[Mapping[str, Any]] = {
    "engine": Engine,
    "option": ReaderOptions,
    "variable": Variables,
    "time_pattern": TimePattern,
    "time": TimeDim,
    "y": YDim,
    "x": XDim,
    "channel": ChannelDim,
}


@dataclass(frozen=True)
class Reading:
    """How frames are read, and what their dimensions are called, as the options say."""

    engine: str | None
    options: dict[str, Any]
    variables: list[str] | None
    dims: dict[str, Any]

    @property
    def all(self) -> dict[str, Any]:
        """Everything, as keyword arguments of what looks at data."""
        from sa_nowcast.metadata.dims import DimNames

        told = DimNames(**self.dims)
        return {"engine": self.engine, "options": self.options, "variables": self.variables, "told": told}

    def open(self, source: str) -> xr.Dataset:
        """Open frames; see `sa_nowcast.sources.opening.open_data`."""
        from sa_nowcast.sources.opening import open_data

        time = self.dims.get("time")
        return open_data(source, engine=self.engine, options=self.options, variables=self.variables, time=time)


def reads(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of reading in place of its parameter ``reading``, and call it with what they say.

    Parameters
    ----------
    *names : str
        Which options, in the order of help; by default all. Those that are parameters of the command itself stay
        where they are, and count for the reading too.
    """
    names = names or tuple(_OF_READING)

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command).parameters
        added = {name: _OF_READING[name] for name in names if name not in own}

        @functools.wraps(command)
        def called(**given: Any) -> None:
            told = {name: given[name] for name in names}
            reading = Reading(
                told.get("engine"),
                reader_options(told.get("option"), told.get("time_pattern")),
                told.get("variable") or None,
                {dim: told[dim] for dim in ("time", "y", "x", "channel") if dim in told},
            )
            command(**{name: value for name, value in given.items() if name in own}, reading=reading)

        hints = get_type_hints(command, include_extras=True) | added
        shown: list[str] = []
        for name in own:
            shown += added if name == "reading" else [name]
        called.__annotations__ = {name: hints[name] for name in shown}
        called.__dict__["__signature__"] = inspect.Signature(
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=own[name].default if name in own else None,
                    annotation=hints[name],
                )
                for name in shown
            ]
        )
        return called

    return decorated


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
