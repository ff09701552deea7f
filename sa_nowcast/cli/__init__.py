"""The command line: parse, call the workflow, print, exit code. One file a command, or a few that belong together."""

from sa_nowcast.cli import convert as convert
from sa_nowcast.cli import hindcast as hindcast
from sa_nowcast.cli import run as run
from sa_nowcast.cli.terminal import app, main

__all__ = ["app", "main"]
