"""The application that commands join, and what it prints on: results on standard output, all else on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from sa_nowcast._version import __version__
from sa_nowcast.errors import ForecastWarning, Interrupted, RecipeError, SaNowcastError, StorageError

if TYPE_CHECKING:
    from rich.progress import Progress

_STORAGE = "make room, give the right to read and write it, or name another place"
_CALLED_WITH = "sa_nowcast.called_with"
BROKEN_PIPE = 141  # what a shell shows for a program that SIGPIPE ended


class _Commands(TyperGroup):
    """The group of all commands: what stops one of them from outside ends it in one line, and says so by its code."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Read the command line."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except KeyboardInterrupt as stop:
            raise _interrupted(str(info_name), stop) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, and keep what it is called with."""
        ctx.meta[_CALLED_WITH] = args[1:]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _close_broken_pipe()
        except KeyboardInterrupt as stop:
            raise _interrupted(str(ctx.invoked_subcommand), stop) from None
        except SaNowcastError as error:
            from sa_nowcast.cli.remedies import spelled_error

            command = self.commands.get(str(ctx.invoked_subcommand))
            if command is None:
                raise
            called = command.make_context(command.name, list(ctx.meta[_CALLED_WITH]), ctx, resilient_parsing=True)
            raise spelled_error(error, command, called.params) from error


def _interrupted(what: str, stop: KeyboardInterrupt) -> Interrupted:
    return Interrupted(what, f"stopped by {str(stop) or 'Ctrl-C'}", fix="run the same again; what is finished stays")


app = typer.Typer(
    name="sa-nowcast",
    cls=_Commands,
    help="Nowcasting on gridded data with SA-ConvLSTM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_show_traceback = False


class _Results(Console):
    """Standard output; where nobody reads on, as behind `head`, the command ends quietly."""

    def on_broken_pipe(self) -> None:
        """End the command."""
        _close_broken_pipe()


out, err = _Results(), Console(stderr=True, highlight=False)


def report(line: str) -> None:
    """Say one line of progress."""
    err.print(line, soft_wrap=True, markup=False, emoji=False)


def progress(quiet: bool) -> Progress:
    """Return a progress bar on standard error; without one where nobody watches, a log holds lines only."""
    from rich.progress import Progress

    return Progress(console=err, disable=quiet or not sys.stderr.isatty())


def result(line: object) -> None:
    """Print one line of results, whole, whatever the width of the terminal: a path is there to be copied."""
    out.print(str(line), soft_wrap=True, markup=False, emoji=False, highlight=False)


def print_table(
    rows: Iterable[Sequence[str]], style: Callable[[str], str] = lambda first: "bold", title: str | None = None
) -> None:
    """Print rows of text, the first column in a style of its own; the last one folds where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    shown = [(Text(first, style(first)), *map(Text, others)) for first, *others in rows]
    columns = len(shown[0]) if shown else 0
    for column in range(1, columns + 1):
        table.add_column(no_wrap=column < columns, overflow="ellipsis" if column < columns else "fold")
    for row in shown:
        table.add_row(*row)
    out.print(table)


def emit(document: Mapping[str, Any]) -> None:
    """Print one JSON document; a number that JSON has no word for (NaN, infinite) becomes null."""
    typer.echo(json.dumps(_plain(document), indent=2, allow_nan=False, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    """Run the command line; errors become one line on standard error and an exit code.

    With ``--json`` they are one JSON document on standard output too, as the result would be.
    """
    as_json = _asks_for_json(sys.argv[1:])
    try:
        with _signals_interrupt(), _warnings_in_a_line():
            try:
                code = app(prog_name="sa-nowcast", standalone_mode=not as_json)
                sys.exit(code if isinstance(code, int) else 0)  # with --json; else the line above ends the program
            except KeyboardInterrupt as stop:  # outside of any command
                raise _interrupted("sa-nowcast", stop) from None
    except Exception as fault:  # the outermost boundary: what no room foresaw still ends in one line
        error: Exception = fault
        if isinstance(error, OSError) and error.errno is not None and error.strerror:
            where = str(error.filename or "storage")
            error = StorageError(where, f"cannot be read or written ({error.strerror})", fix=_STORAGE)
        if as_json and hasattr(error, "format_message"):  # click's, about the command line
            told = getattr(error, "ctx", None)
            where = "sa-nowcast" if told is None else told.command_path
            error = RecipeError(where, error.format_message(), fix=f"{where} --help")
        if not isinstance(error, SaNowcastError):
            remedy = "run again with sa-nowcast --traceback, and report what it shows"
            error = SaNowcastError("internal", f"{type(fault).__name__}: {fault}", fix=remedy)
        if _show_traceback:
            err.print("".join(traceback.format_exception(fault)), markup=False, emoji=False, soft_wrap=True, end="")
        if as_json:
            emit(error.as_dict())
        err.print(str(error), markup=False, emoji=False, soft_wrap=True)
        sys.exit(error.exit_code)
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _close_broken_pipe()


def _asks_for_json(arguments: Sequence[str]) -> bool:
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in before


@contextlib.contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Show warnings that are meant for users as one line, without the code that they arose in."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category in (UserWarning, ForecastWarning):
            report(f"warning: {message}")
        else:
            former(message, category, *where, **more)

    former = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = former


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 (Slurm's warning) end a command as Ctrl-C does; training listens for itself."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    main_thread = threading.current_thread() is threading.main_thread()
    former = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGUSR1)} if main_thread else {}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _close_broken_pipe() -> NoReturn:
    # The interpreter flushes standard output at its end; what is left must have somewhere to go.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(BROKEN_PIPE)
