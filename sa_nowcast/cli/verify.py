"""sa-nowcast verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sa_nowcast.cli import options, terminal
from sa_nowcast.cli.scores_table import print_scores
from sa_nowcast.cli.terminal import app
from sa_nowcast.metadata.bounds import UNIT_RANGE


@app.command()
@options.reads()
def verify(
    archives: Annotated[list[str], typer.Argument(help="Forecasts or archives, NetCDF or Zarr; each is a model.")],
    truth: Annotated[str, typer.Argument(help="The observed frames: a file, folder, pattern or Zarr store.")],
    *,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A score, such as mse, csi, fss or ssim; mse, and csi where there are thresholds, by default."
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="Of csi and others: in the data's units, or with its own, such as '1 mm h-1'."),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            help="What values are means over before they are scored: pixel, '20 km', '1 h' or '20 km 1 h'. May be "
            "repeated; by default single pixels and lead times."
        ),
    ] = None,
    reference: Annotated[
        str, typer.Option(help="What skill is measured against: persistence, the path of an archive, or none.")
    ] = "persistence",
    data_range: Annotated[
        tuple[float, float], typer.Option(help="Values that stand for 0 and 1 in ssim, psnr, frame_mse and frame_mae.")
    ] = UNIT_RANGE,
    clip: Annotated[bool, typer.Option("--clip", help="Clip forecasts to the data range in these.")] = False,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="With -o, an interval of each score too, by a block bootstrap.")
    ] = False,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write the scores too: .csv or .nc.")] = None,
    reading: options.Reading,
    replace: options.Replace = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Score forecasts against what was observed, by lead time; several archives in one table, on the same sample.

    Example: sa-nowcast verify archive.zarr radar.zarr --threshold 1 --threshold 5 -o scores.csv
    """
    from sa_nowcast.storage.whole import require_place
    from sa_nowcast.verification.bootstrap import Bootstrap
    from sa_nowcast.verification.metrics import default_metrics
    from sa_nowcast.verification.scoring import Scoring
    from sa_nowcast.workflow.scoring import SCORE_SUFFIXES, plan_scores, table_of, write_scores

    place = None if output is None else require_place(output, SCORE_SUFFIXES, replace)
    scoring = Scoring(
        metric or default_metrics(threshold),
        threshold or None,
        data_range=data_range,
        clip=clip,
        valid_times="common",
        bootstrap=Bootstrap(scores=intervals),
        scales=scale or None,
    )
    against = None if reference == "none" else reference
    plan = plan_scores(archives, reading.open(truth), scoring, reference=against, **reading.dims)
    if plan.left_out:
        terminal.report(plan.left_out)
    if dry_run:
        if json:
            terminal.emit(plan.as_dict())
        return
    terminal.report(f"scoring {plan.describe()}")
    scores = plan.compute()
    table = table_of(scores)
    if place is not None:
        write_scores(scores, place)
        terminal.report(f"written to {place}")
    if json:
        terminal.emit({"scores": table.to_dict("records"), "left_out": plan.left_out, "output": output})
    else:
        print_scores(table, ", ".join(Path(a).name for a in archives))
