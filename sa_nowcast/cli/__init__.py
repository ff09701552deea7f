"""The command line: parse, call the workflow, print, exit code. One file a command, or a few that belong together."""

from sa_nowcast.cli import init as init  # isort: skip - help lists the commands in this order
from sa_nowcast.cli import validate as validate  # isort: skip
from sa_nowcast.cli import convert as convert  # isort: skip
from sa_nowcast.cli import run as run  # isort: skip
from sa_nowcast.cli import forecast as forecast  # isort: skip
from sa_nowcast.cli import hindcast as hindcast  # isort: skip
from sa_nowcast.cli import calibrate as calibrate  # isort: skip
from sa_nowcast.cli import verify as verify  # isort: skip
from sa_nowcast.cli import watch as watch  # isort: skip
from sa_nowcast.cli import plot as plot  # isort: skip
from sa_nowcast.cli import serve as serve  # isort: skip
from sa_nowcast.cli import export as export  # isort: skip
from sa_nowcast.cli import inspect as inspect  # isort: skip
from sa_nowcast.cli import doctor as doctor  # isort: skip
from sa_nowcast.cli import submit as submit  # isort: skip
from sa_nowcast.cli.terminal import app, main

__all__ = ["app", "main"]
