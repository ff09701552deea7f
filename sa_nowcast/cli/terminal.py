"""The application that commands join, and what it prints on: results on standard output, all else on standard error."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console

from sa_nowcast._version import __version__
from sa_nowcast.errors import SaNowcastError

app = typer.Typer(
    name="sa-nowcast",
    help="Nowcasting on gridded data with SA-ConvLSTM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_show_traceback = False
out, err = Console(), Console(stderr=True, highlight=False)


def report(line: str) -> None:
    """Say one line of progress."""
    err.print(line, soft_wrap=True)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
) -> None:
    global _show_traceback
    _show_traceback = traceback
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; errors become one line on standard error and an exit code."""
    try:
        app(standalone_mode=True)
    except Exception as fault:  # the outermost boundary: what no room foresaw still ends in one line
        error = fault
        if not isinstance(error, SaNowcastError):
            remedy = "run again with sa-nowcast --traceback, and report what it shows"
            error = SaNowcastError("internal", f"{type(fault).__name__}: {fault}", fix=remedy)
        if _show_traceback:
            err.print("".join(traceback.format_exception(fault)), markup=False, emoji=False, soft_wrap=True, end="")
        err.print(str(error), markup=False, emoji=False, soft_wrap=True)
        sys.exit(error.exit_code)
