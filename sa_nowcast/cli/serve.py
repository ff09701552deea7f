"""sa-nowcast serve."""

from __future__ import annotations

from typing import Annotated

import typer

from sa_nowcast.cli import terminal
from sa_nowcast.cli.terminal import app


@app.command()
def serve(
    folder: Annotated[str, typer.Argument(help="The folder that a service publishes to.")],
    host: Annotated[
        str, typer.Option(help="The address to listen at; this one is reached from this machine alone.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is any that is free.")] = 8000,
    rate: Annotated[
        float, typer.Option(min=0, help="Requests a second of one client in the long run; 0 for any number.")
    ] = 50.0,
) -> None:
    """Show in a browser what a service published: map, series at points, state, files, and queries (OGC API EDR).

    Example: sa-nowcast serve nowcasts --port 8080
    """
    from sa_nowcast.serving.running import serve as run

    run(folder, host=host, port=port, rate=rate, report=terminal.report)
