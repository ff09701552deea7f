"""The command line: parse, call the workflow, print, exit code."""

from __future__ import annotations

import sys
import traceback
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich.console import Console
from rich.table import Table

from sa_nowcast._version import __version__
from sa_nowcast.errors import RecipeError, SaNowcastError

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    name="sa-nowcast",
    help="Nowcasting on gridded data with SA-ConvLSTM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
    from sa_nowcast.recipe import read_recipe
    from sa_nowcast.workflow import run as run_recipe

    parsed = read_recipe(_find_recipe(recipe))
    if seed is not None:
        if seed < 0:
            raise RecipeError("--seed", f"{seed}", expected="0 or more")
        parsed = parsed.model_copy(update={"training": parsed.training.model_copy(update={"seed": seed})})
    if output is not None:
        parsed = parsed.model_copy(update={"output": parsed.output.model_copy(update={"folder": output})})
    result = run_recipe(parsed, progress=not quiet, report=lambda line: _err.print(line, soft_wrap=True))
    if result.already_done:
        _err.print(f"{result.folder} holds this run, finished; remove the folder to run it again")
    _out.print(_scores_table(result.scores, parsed.name))
    for file in result.files:
        _out.print(str(file), soft_wrap=True)


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


def _find_recipe(name: str) -> Path:
    path = Path(name)
    if path.is_file() or path.suffix or "/" in name:
        return path
    package = Path(str(files("sa_nowcast")))
    # The wheel carries the recipes inside the package; a checkout has them beside it.
    folders = [package / "_recipes", package.parent / "recipes"]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    shipped = sorted({f.stem for folder in folders for f in folder.glob("*.yaml")})
    raise RecipeError(name, "no such file or shipped recipe", expected=f"a path, or one of {', '.join(shipped)}")


def _scores_table(scores: pd.DataFrame, title: str) -> Table:
    mse = scores[scores["metric"] == "mse"]
    csi = scores[scores["metric"] == "csi"]
    reference = str(mse["reference"].iloc[0])
    units = str(mse["units"].iloc[0])
    labels = [c for c in mse.columns if c in ("variable", "channel", "band", "flow") and mse[c].notna().any()]
    table = Table(title=f"{title}: held-back times, by lead time", title_justify="left", caption_justify="left")
    for heading in (*labels, "lead [min]", "MSE", reference, "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    thresholds = sorted(csi["threshold"].unique()) if len(csi) else []
    for threshold in thresholds:
        table.add_column(f"CSI>={threshold:g}", justify="right", no_wrap=True)
    for _, row in mse.iterrows():
        cells = [str(row[c]) for c in labels]
        cells += [f"{row['lead_time_minutes']:g}", f"{row['value']:.4g}", f"{row['reference_value']:.4g}"]
        cells.append(f"{row['value'] / row['reference_value']:.3f}")
        for threshold in thresholds:
            same = csi[(csi["threshold"] == threshold) & (csi["lead_time_minutes"] == row["lead_time_minutes"])]
            for label in labels:
                same = same[same[label] == row[label]]
            cells.append(f"{same['value'].iloc[0]:.3f} ({same['reference_value'].iloc[0]:.3f})")
        table.add_row(*cells)
    table.caption = f"MSE in {units}; ratio: MSE / MSE of {reference}"
    if thresholds:
        table.caption += f"; CSI: ours ({reference})"
    return table
