"""sa-nowcast watch and sa-nowcast replay: a service that forecasts from each frame that arrives."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sa_nowcast.cli import options, recipes, terminal
from sa_nowcast.cli.run import Output, Overrides
from sa_nowcast.cli.terminal import app

if TYPE_CHECKING:
    from sa_nowcast.recipe import ServiceRecipe

ServiceName = Annotated[
    str,
    typer.Argument(
        help="Path of a service's recipe, or the name of one that ships, such as service.",
        autocompletion=recipes.complete,
    ),
]


@app.command()
def watch(
    recipe: ServiceName,
    output: Output = None,
    override: Overrides = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Forecast from each frame that arrives, and publish: until Ctrl-C or SIGTERM, which end it within 10 seconds.

    Example: sa-nowcast watch service.yaml
    """
    parsed = _read(recipe, output, override)
    if dry_run:
        from sa_nowcast.operations.checks import check

        site = check(parsed)
        terminal.report(f"{parsed.name}: {site.source} to {site.folder}, {site.like.name} [{site.units}]")
        if json:
            terminal.emit(site.described())
        return
    from sa_nowcast.operations import watch as run
    from sa_nowcast.operations.service import END_WITHIN

    stop = threading.Event()

    def ended(number: int, frame: Any) -> None:
        stop.set()
        # What is half done is done again after the next start: nothing is lost by not waiting for it.
        timer = threading.Timer(END_WITHIN, os._exit, (0,))
        timer.daemon = True
        timer.start()

    former = {n: signal.signal(n, ended) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        folder = run(parsed, stop=stop, report=(lambda line: None) if quiet else terminal.report)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if json:
        terminal.emit({"folder": str(folder)})


@app.command()
def replay(
    data: Annotated[str, typer.Argument(help="The frames of a past day: files, a store, or sample:mrms.")],
    recipe: ServiceName,
    *,
    speed: Annotated[float, typer.Option(help="How many times as fast as it was.")] = 60.0,
    frames: Annotated[int | None, typer.Option(help="The first so many frames only.")] = None,
    late: Annotated[float, typer.Option(help="Share of frames that come up to three steps late.")] = 0.2,
    lost: Annotated[float, typer.Option(help="Share that never comes.")] = 0.05,
    doubled: Annotated[float, typer.Option(help="Share that comes twice.")] = 0.05,
    truncated: Annotated[float, typer.Option(help="Share that comes cut off.")] = 0.02,
    kills: Annotated[int, typer.Option(help="How many times the service is killed while it publishes.")] = 2,
    outage: Annotated[str, typer.Option(help="How long no frame comes at all, such as 1h; none.")] = "1h",
    seed: Annotated[int, typer.Option(help="Of all faults.")] = 0,
    output: Output = None,
    override: Overrides = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Feed a past day to a service, with faults, and check what it published against a hindcast of the same times.

    Both folders of the recipe, arrivals.source and output.folder, have to be new.

    Example: sa-nowcast replay sample:mrms service --speed 60
    """
    from sa_nowcast.operations import Faults
    from sa_nowcast.operations import replay as run

    parsed = _read(recipe, output, override)
    faults = Faults(
        late, lost, doubled, truncated, 0.1 if late else 0.0, kills, None if outage == "none" else outage, seed
    )
    found = run(
        data,
        parsed,
        speed=speed,
        faults=faults,
        frames=frames,
        report=(lambda line: None) if quiet else terminal.report,
    )
    if json:
        terminal.emit(asdict(found))
    else:
        for line in found.lines():
            terminal.result(line)
    if found.faults:
        raise typer.Exit(1)


def _read(name: str, output: str | None, override: list[str] | None) -> ServiceRecipe:
    from sa_nowcast.recipe import find_recipe, read_service

    return read_service(find_recipe(name), recipes.replaced(None, output, override or ()))
