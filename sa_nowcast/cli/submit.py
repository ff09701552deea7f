"""sa-nowcast submit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sa_nowcast.cli import options, recipes, terminal
from sa_nowcast.cli.terminal import app


@app.command()
def submit(
    recipe: Annotated[
        str,
        typer.Argument(help="Path of a recipe YAML, or the name of one that ships.", autocompletion=recipes.complete),
    ],
    partition: Annotated[str | None, typer.Option(help="Of the cluster.")] = None,
    account: Annotated[str | None, typer.Option(help="Whose time it is.")] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of each node, one process for each; 0 trains on the CPU.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines that train together.")] = 1,
    cpus: Annotated[int, typer.Option(help="Cores of each process.")] = 8,
    memory: Annotated[str | None, typer.Option(help="Of each node, such as 64G.")] = None,
    time: Annotated[str, typer.Option(help="The longest time, such as 24:00:00 or 2-00:00:00.")] = "24:00:00",
    folder: Annotated[str | None, typer.Option(help="Where the job starts; by default here.")] = None,
    send: Annotated[bool, typer.Option("--send", help="Give the script to sbatch, not to standard output.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --send: check, print the script, send nothing.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Print a Slurm script that runs a recipe, or send it; the job saves itself before its end, and is put back.

    Example: sa-nowcast submit radar.yaml --partition gpu --gpus 4 --time 8:00:00 --send
    """
    from sa_nowcast.computing.slurm import Job
    from sa_nowcast.computing.slurm import send as give_to_sbatch
    from sa_nowcast.recipe import find_recipe

    parsed = recipes.read(recipe, None, None)
    path = find_recipe(recipe)
    job = Job(
        recipe if recipes.is_shipped(recipe) else str(path.absolute()),
        parsed.name,
        Path(folder or ".").expanduser().absolute(),
        time=time,
        nodes=nodes,
        gpus=gpus,
        cpus=cpus,
        partition=partition,
        account=account,
        memory=memory,
    )
    script = job.script()
    number = give_to_sbatch(script) if send and not dry_run else None
    if json:
        terminal.emit({"recipe": job.recipe, "script": script, "job": number})
    elif number is not None:
        terminal.result(number)
    else:
        typer.echo(script, nl=False)
