"""sa-nowcast doctor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sa_nowcast.cli import options, recipes, terminal
from sa_nowcast.cli.terminal import app

if TYPE_CHECKING:
    from sa_nowcast.recipe import Recipe


@app.command()
@options.reads()
def doctor(
    target: Annotated[
        str | None,
        typer.Argument(help="A recipe or frames to plan for and to measure.", autocompletion=recipes.complete),
    ] = None,
    *,
    workers: Annotated[
        list[int] | None, typer.Option(min=0, help="Numbers of loader processes to measure. May be repeated.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each is measured.")] = 2.0,
    reading: options.Reading,
    json: options.Json = False,
) -> None:
    """Say what is installed and what the machine has; of a recipe or frames, measure how fast they can be read.

    Example: sa-nowcast doctor radar.yaml
    """
    from sa_nowcast.survey.doctor import environment

    found: dict[str, Any] = {"environment": environment()}
    if target is not None:
        found["plan"] = _plan(target, workers, seconds, reading)
    if json:
        terminal.emit(found)
        return
    _print_environment(found["environment"])
    if "plan" in found:
        _print_plan(found["plan"])


def _plan(target: str, workers: list[int] | None, seconds: float, reading: options.Reading) -> dict[str, Any]:
    from sa_nowcast.computing.devices import resolve_device
    from sa_nowcast.recipe import parse_recipe
    from sa_nowcast.sources.opening import kind_of
    from sa_nowcast.survey.doctor import plan
    from sa_nowcast.training.start import network_to_train
    from sa_nowcast.workflow.data import open_experiment

    parsed: Recipe
    if recipes.is_shipped(target) or kind_of(target) == "recipe":
        parsed = recipes.read(target, None, None)
    else:
        from sa_nowcast.survey.starter import starter_recipe

        parsed = parse_recipe(starter_recipe(reading.open(target), target, **reading.all))
    experiment = open_experiment(parsed)
    config, _ = network_to_train(parsed.network, parsed.start, channels=experiment.channels, history=parsed.history)
    return plan(
        experiment.test_frames,
        history=parsed.history,
        steps=parsed.steps,
        config=config,
        batch_size=parsed.training.batch_size,
        crop=parsed.training.crop,
        device=resolve_device(parsed.training.device),
        workers=workers or None,
        seconds=seconds,
        report=terminal.report,
    )


def _print_environment(found: Mapping[str, Any]) -> None:
    rows = [
        ("sa_nowcast", f"{found['sa_nowcast']}, Python {found['python']}, {found['platform']}"),
        ("libraries", ", ".join(f"{n} {v or 'missing'}" for n, v in found["libraries"].items())),
    ]
    rows += [
        (
            f"extra {name}",
            "installed" if extra["install"] is None else f"missing {', '.join(extra['missing'])}: {extra['install']}",
        )
        for name, extra in found["extras"].items()
    ]
    for device in found["devices"]:
        memory = f", {_gib(device['free_memory'])} of {_gib(device['memory'])} free" if "memory" in device else ""
        rows.append((device["device"], f"{device['name']}{memory}"))
    rows += [
        (
            "threads",
            f"{found['threads']} of {found['cores']} cores ("
            + ", ".join(
                f"{n} {found[n] or 'not set'}" for n in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
            )
            + ")",
        ),
        ("free memory", _gib(found["free_memory"])),
        ("default model", found["default_model"] or "the one that ships (SA_NOWCAST_MODEL is not set)"),
    ]
    terminal.print_table(rows)


def _print_plan(plan: Mapping[str, Any]) -> None:
    frames, memory = plan["frames"], plan["memory"]
    chunks = "" if frames["chunks"] is None else f", chunks {' x '.join(map(str, frames['chunks']))}"
    rows = [
        (
            "frames",
            f"{' x '.join(map(str, frames['shape']))} every {frames['step']}, {frames['nbytes'] / 1e6:.3g} MB{chunks}",
        ),
        ("windows", f"{plan['windows']} of {plan['history']} + {plan['steps']} frames; {plan['streaming']}"),
    ]
    rows += [(f"{m['workers']} workers", f"{m['windows_per_second']:.3g} windows a second") for m in plan["workers"]]
    tile = "" if memory["tile"] is None else f", in tiles of {memory['tile']} pixels"
    rows += [
        ("best", f"training.workers: {plan['best_workers']}"),
        ("training memory", f"about {_gib(memory['training'])} on {memory['device']}, {_gib(memory['free'])} are free"),
        ("forecast memory", f"about {_gib(memory['forecasting'])} for the whole grid{tile}"),
    ]
    terminal.print_table(rows)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
