"""The command line: parse, call the workflow, print, exit code."""

from __future__ import annotations

import sys
import traceback
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from sa_nowcast._version import __version__
from sa_nowcast.errors import RecipeError, SaNowcastError

if TYPE_CHECKING:
    import pandas as pd

    from sa_nowcast.recipe import Recipe

app = typer.Typer(
    name="sa-nowcast",
    help="Nowcasting on gridded data with SA-ConvLSTM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_WIDEST = 1000
_show_traceback = False
_out, _err = Console(), Console(stderr=True, highlight=False)


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


@app.command()
def run(
    recipe: Annotated[
        str, typer.Argument(help="Path of a recipe YAML, or the name of one that ships, such as quickstart.")
    ],
    seed: Annotated[int | None, typer.Option(help="Replaces training.seed.")] = None,
    output: Annotated[str | None, typer.Option(help="Replaces output.folder.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train, forecast the held-back times, score them and draw a picture, as a recipe says.

    Example: sa-nowcast run recipes/quickstart.yaml
    """
    from sa_nowcast.workflow import run as run_recipe

    parsed = _read(recipe, seed, output)
    result = run_recipe(parsed, progress=not quiet, report=lambda line: _err.print(line, soft_wrap=True))
    if not result.files:
        return  # one of several processes, and not the one that writes
    if result.already_done:
        _err.print(f"{result.folder} holds this run, finished; remove the folder to run it again")
    table = _scores_table(result.scores, parsed.name)
    # Folded by the terminal where it is narrower: cut off, a table would hide scores.
    width = Measurement.get(_out, _out.options.update(width=_WIDEST), table).maximum
    Console(width=max(_out.width, width)).print(table)
    for file in result.files:
        _out.print(str(file), soft_wrap=True)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="Path of a recipe YAML, or the name of one that ships, such as quickstart.")
    ],
    seed: Annotated[int | None, typer.Option(help="Replaces training.seed.")] = None,
    output: Annotated[str | None, typer.Option(help="Replaces output.folder.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train as a recipe says, and save the model; run goes on from there.

    Ctrl-C, SIGTERM and SIGUSR1 save the run and exit with 75; the same command goes on. Several GPUs or machines: start
    it with torchrun or srun.

    Example: sa-nowcast train recipes/quickstart.yaml
    """
    from sa_nowcast.workflow import train as train_recipe

    model = train_recipe(
        _read(recipe, seed, output), progress=not quiet, report=lambda line: _err.print(line, soft_wrap=True)
    )
    _out.print(str(model), soft_wrap=True)


@app.command()
def convert(
    source: Annotated[list[str], typer.Argument(help="A file, folder, pattern or Zarr store, or several.")],
    target: Annotated[str, typer.Argument(help="The Zarr store to make, such as radar.zarr.")],
    engine: Annotated[
        str | None, typer.Option(help="taxibj, moving_mnist, kth, an importer of pysteps, or an engine of xarray.")
    ] = None,
    variable: Annotated[
        list[str] | None, typer.Option(help="A variable to take; all by default. May be repeated.")
    ] = None,
    window: Annotated[
        int, typer.Option(help="History and steps together; decides how many frames a shard holds.")
    ] = 20,
    irregular: Annotated[str, typer.Option(help="refuse or allow times that are no multiples of one step.")] = "refuse",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a store that is there already.")] = False,
    workers: Annotated[int | None, typer.Option(help="Threads.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Address of a dask scheduler, such as tcp://host:8786.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Convert any source to a Zarr store that streams fast, whole or not at all.

    Example: sa-nowcast convert "radar/*.nc" radar.zarr --window 8
    """
    from rich.progress import Progress

    from sa_nowcast.conversion import convert as convert_source

    with Progress(console=_err, disable=quiet or dry_run) as bar:
        task = bar.add_task("converting", total=None)
        plan = convert_source(
            source if len(source) > 1 else source[0],
            target,
            engine=engine,
            variables=variable or None,
            window=window,
            irregular=cast(Literal["refuse", "allow"], irregular),
            existing="replace" if replace else "refuse",
            workers=workers,
            cluster=cluster,
            dry_run=dry_run,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(str(plan))


@app.command()
def hindcast(
    source: Annotated[str, typer.Argument(help="The frames: a file, folder, pattern or Zarr store.")],
    target: Annotated[str, typer.Argument(help="The Zarr archive to make, such as archive.zarr.")],
    model: Annotated[
        str, typer.Option(help="Folder of a saved nowcaster, or persistence, extrapolation, sprog or steps.")
    ],
    steps: Annotated[
        int | None, typer.Option(help="Lead times; by default as the model was trained for. Needed for a reference.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="As for convert.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="First init time, such as 2019-06-10T00:30.")] = None,
    stop: Annotated[str | None, typer.Option("--to", help="Last init time.")] = None,
    stride: Annotated[int, typer.Option(help="Take every so many init times.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    cluster: Annotated[str | None, typer.Option(help="Address of a dask scheduler, such as tcp://host:8786.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another archive that is there already.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Forecast from every init time to a Zarr archive; what an interrupted run finished is not done again.

    Example: sa-nowcast hindcast radar.zarr archive.zarr --model rain.nowcaster
    """
    import time

    from rich.progress import Progress

    from sa_nowcast.hindcast import hindcast as make
    from sa_nowcast.sources import chain, open_source

    began = time.perf_counter()
    with Progress(console=_err, disable=quiet) as bar:
        task = bar.add_task("forecasting", total=None)
        archive = make(
            chain(open_source(source, engine=engine)),
            model,
            steps,
            init_times=None if start is stop is None else slice(start, stop),
            stride=stride,
            to=target,
            cluster=cluster,
            device=device,
            existing="replace" if replace else "resume",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    frames = archive.sizes["init_time"] * archive.sizes["lead_time"]
    seconds = time.perf_counter() - began
    _err.print(f"{frames} frames, {frames / seconds:.3g} a second with reading and writing", soft_wrap=True)
    typer.echo(target)


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
            _err.print("".join(traceback.format_exception(fault)), markup=False, emoji=False, soft_wrap=True, end="")
        _err.print(str(error), markup=False, emoji=False, soft_wrap=True)
        sys.exit(error.exit_code)


def _read(name: str, seed: int | None, output: str | None) -> Recipe:
    """Read a recipe, and put in what the command line replaces."""
    from sa_nowcast.recipe import read_recipe

    parsed = read_recipe(_find_recipe(name))
    if seed is not None:
        if seed < 0:
            raise RecipeError("--seed", f"{seed}", expected="0 or more")
        parsed = parsed.model_copy(update={"training": parsed.training.model_copy(update={"seed": seed})})
    if output is not None:
        parsed = parsed.model_copy(update={"output": parsed.output.model_copy(update={"folder": output})})
    return parsed


def _find_recipe(name: str) -> Path:
    path = Path(name)
    if path.is_file() or path.suffix or path.is_absolute() or ".." in path.parts:
        return path
    package = Path(str(files("sa_nowcast")))
    # The wheel carries the recipes inside the package; a checkout has them beside it.
    folders = [package / "_recipes", package.parent / "recipes"]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    shipped = sorted({str(f.relative_to(folder).with_suffix("")) for folder in folders for f in folder.rglob("*.yaml")})
    raise RecipeError(name, "no such file or shipped recipe", expected=f"a path, or one of {', '.join(shipped)}")


def _scores_table(scores: pd.DataFrame, title: str) -> Table:
    """Lay out all scores by lead time, the reference's beside each in brackets; the first one with its ratio."""
    reference = str(scores["reference"].iloc[0])
    known = {"threshold", "neighbourhood", "rank"}
    fixed = {"lead_time_minutes", "metric", "value", "units", "count", "reference", "reference_value"}
    labels = [
        c for c in scores.columns if c not in known | fixed and not c.startswith("skill") and scores[c].notna().any()
    ]
    events = [c for c in scores.columns if c in known]
    table = Table(title=f"{title}: held-back times, by lead time", title_justify="left", caption_justify="left")
    columns = [
        (metric, event)
        for metric, rows in scores.groupby("metric", sort=False)
        for event in rows[events].drop_duplicates().itertuples(index=False, name=None)
    ]
    columns.sort(key=lambda column: column[0] != "mse")  # the others as they were asked for
    first = str(columns[0][0])
    for heading in (*labels, "lead [min]", first.upper(), reference, "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for metric, event in columns[1:]:
        table.add_column(_score_name(str(metric), dict(zip(events, event, strict=True))), justify="right", no_wrap=True)
    for place, rows in scores.groupby([*labels, "lead_time_minutes"], sort=False):
        cells = [*map(str, place[:-1]), f"{place[-1]:.3g}"]
        for number, (metric, event) in enumerate(columns):
            row = rows[rows["metric"] == metric]
            for name, value in zip(events, event, strict=True):
                row = row[(row[name] == value) | (row[name].isna() & (value != value))]
            value, other = row["value"].iloc[0], row["reference_value"].iloc[0]
            if number == 0:
                # Where nothing moves, persistence is exact, and there is no ratio to it.
                cells += [f"{value:.4g}", f"{other:.4g}", f"{value / other:.3f}" if other else "-"]
            else:
                cells.append(
                    f"{value:.3f} ({other:.3f})" if max(abs(value), abs(other)) < 10 else f"{value:.4g} ({other:.4g})"
                )
        table.add_row(*cells)
    units = str(scores.loc[scores["metric"] == first, "units"].iloc[0])
    table.caption = f"{first.upper()} in {units}; ratio: {first.upper()} / that of {reference}"
    if len(columns) > 1:
        table.caption += f"; the rest: ours ({reference})"
    return table


def _score_name(metric: str, event: dict[str, float]) -> str:
    name = metric.upper() if len(metric) <= 4 else metric
    if event.get("threshold") == event.get("threshold") and "threshold" in event:
        name += f">={event['threshold']:g}"
    if event.get("neighbourhood") == event.get("neighbourhood") and "neighbourhood" in event:
        name += f" in {event['neighbourhood']:g}"
    return name
