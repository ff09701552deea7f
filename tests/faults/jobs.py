"""What the children of a trial do; each function runs in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import pkgutil
import random
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import trials
from sequences import NETWORK, OPTIONS, georeferenced, rain

import sa_nowcast
from sa_nowcast.cli import main
from sa_nowcast.errors import StorageError
from sa_nowcast.hindcast import hindcast as make_archive


def convert(target: str, workers: int = 1, **options: Any) -> None:
    """Convert 12 frames in 3 shards."""
    from sa_nowcast.conversion import convert as make

    make(rain(12, 8, 6), target, frames_per_shard=4, workers=workers, **options)


def replace(target: str) -> None:
    """Convert something else to the same place."""
    from sa_nowcast.conversion import convert as make

    make(rain(12, 8, 6, seed=1), target, frames_per_shard=4, workers=1, existing="replace")


def hindcast(model: str, target: str, log: str = "", steps: int | None = None, **options: Any) -> None:
    """Forecast from 17 init times in 9 shards; what is begun and ended is noted in `log`."""
    from sa_nowcast.hindcast import hindcast as make
    from sa_nowcast.hindcast.shard import Shard

    put = Shard.put

    def noted(self: Shard, values: Any, complete: Any) -> dict[str, Any]:
        _note(log, f"begin {self.number}")
        entry = put(self, values, complete)
        _note(log, f"end {self.number}")
        return entry

    if log:
        Shard.put = noted  # type: ignore[method-assign]
    make(rain(), model, steps, to=target, device="cpu", **{"batch_size": 2, "shard_size": 2, **options})


def hindcast_by_batches(model: str, target: str, log: str = "") -> None:
    """Forecast from 17 init times in 3 shards of 3 batches; each batch that is computed is noted in `log`."""
    from sa_nowcast.forecasts.nowcaster import Nowcaster
    from sa_nowcast.hindcast import shard

    shard.KEEP_EVERY = 0.0  # type: ignore[misc]
    forecast = Nowcaster.block

    def noted(*args: Any) -> Any:
        _note(log, "batch")
        return forecast(*args)

    if log:
        Nowcaster.block = noted  # type: ignore[method-assign]
    hindcast(model, target, shard_size=6)


def replace_hindcast(model: str, target: str) -> None:
    """Another archive in its place."""
    hindcast(model, target, steps=2, existing="replace")


def _note(log: str, line: str) -> None:
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def model(target: str) -> None:
    """Train a small network and save it."""
    trials.train(max_steps=2).save(target)


def train(folder: str, name: str, **options: Any) -> dict[str, Any]:
    """Train as one of `COMBINATIONS` says; return what must not depend on having been killed."""
    from sa_nowcast.training.checkpoint import load_checkpoint

    made = trials.train(folder=folder, **{**trials.COMBINATIONS[name], **options})
    last = load_checkpoint(Path(folder) / "last.ckpt")
    return {
        "weights": made.digest,
        "provenance": made.provenance,
        "losses": trials.log_of(Path(folder)),
        "optimiser": repr(_plain(last["optimizer_states"])),
        "last weights": repr(_plain(last["state_dict"])),
    }


def _plain(value: Any) -> Any:
    """Tensors as their bytes."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def loaders(folder: str, faults: list[int], look_every: float, seed: int) -> list[tuple[str, float]]:
    """Read with two workers, of which one is sent each of `faults`; return what was raised, and after how long."""
    from sa_nowcast.stream import SequenceDataset, loader

    vars(importlib.import_module("sa_nowcast.stream.workers"))["LOOK_EVERY"] = look_every
    # Workers are forked from a process that has imported what they need.
    multiprocessing.set_forkserver_preload(["sa_nowcast.stream", "zarr", "sequences"])
    rng, seen = random.Random(seed), []
    dataset = SequenceDataset(rain(60), 4, 3, crop=8)
    for number in faults:
        source = loader(dataset, 2, batches=1_000_000, workers=2)
        stream = iter(source)
        for _ in range(rng.randrange(1, 20)):
            next(stream)
        began = time.monotonic()
        os.kill(rng.choice(multiprocessing.active_children()).pid or 0, number)
        try:
            for _ in stream:
                pass
        except StorageError as error:
            seen.append((str(error), time.monotonic() - began))
        del stream, source
    return seen


def cli(folder: str, *arguments: str) -> None:
    """Run the command line in a folder."""
    os.chdir(folder)
    sys.argv = ["sa-nowcast", *arguments]
    main()


def recipe(folder: str) -> None:
    """Write a recipe, its data, and the model and archive that single commands need."""
    os.chdir(folder)
    georeferenced(rain(40)).to_netcdf("rain.nc")
    tree = {
        "name": "trial",
        "history": 4,
        "steps": 3,
        "data": {"source": f"{folder}/rain.nc"},
        "network": {**NETWORK, "hidden": [4]},
        "training": {**OPTIONS, "checkpoint_every": 1},
        "verification": {"thresholds": [1]},
        "output": {"folder": "run"},
    }
    Path("trial.yaml").write_text(json.dumps(tree))
    trials.train(georeferenced(rain(40)), max_steps=2).save("rain.nowcaster")
    make_archive(georeferenced(rain(40)), "rain.nowcaster", to="archive.zarr", device="cpu", stride=3)


def later(seconds: float, job: str, *args: Any) -> Any:
    """Do a job after a while."""
    time.sleep(seconds)
    return globals()[job](*args)


def masked(mask: int, folder: str, *arguments: str) -> None:
    """Run the command line in a folder under a umask."""
    os.umask(mask)
    cli(folder, *arguments)


def import_all() -> list[str]:
    """Import every module of the package; return those whose optional library is not there."""
    missing = []
    for module in pkgutil.walk_packages(sa_nowcast.__path__, "sa_nowcast."):
        try:
            importlib.import_module(module.name)
        except ImportError:
            missing.append(module.name)
    return missing


def call_out() -> None:
    """Use the network."""
    socket.create_connection(("192.0.2.1", 80), timeout=1)


# The stages of `test_state_machine.py`, in one folder: store.zarr, run/ and model.nowcaster, archive.zarr.

SMALL = {**OPTIONS, "max_steps": 3, "crop": 8, "validate_every": 2, "checkpoint_every": 1}


def stage_convert(folder: str, frames: int, existing: str) -> None:
    """Convert so many frames."""
    from sa_nowcast.conversion import convert as make

    make(rain(frames, 8, 8), f"{folder}/store.zarr", frames_per_shard=4, workers=1, existing=existing)


def stage_train(folder: str) -> dict[str, Any]:
    """Train on the store and save the model; return what must not depend on what happened on the way."""
    from sa_nowcast.training.checkpoint import load_checkpoint
    from sa_nowcast.training.fit import fit

    spans: dict[str, Any] = {"history": 2, "steps": 2, "validation": 0.4}
    made = fit(
        sa_nowcast.open_zarr(f"{folder}/store.zarr"),
        network=NETWORK,
        folder=f"{folder}/run",
        progress=False,
        **spans,
        **SMALL,
    )
    made.save(f"{folder}/model.nowcaster", overwrite=True)
    last = load_checkpoint(Path(folder) / "run" / "last.ckpt")
    return {
        "weights": made.digest,
        "losses": trials.log_of(Path(folder) / "run"),
        "optimiser": repr(_plain(last["optimizer_states"])),
    }


def stage_hindcast(folder: str, existing: str) -> Any:
    """Forecast from every init time of the store; return the archive as it is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = make_archive(
            sa_nowcast.open_zarr(f"{folder}/store.zarr"),
            f"{folder}/model.nowcaster",
            to=f"{folder}/archive.zarr",
            batch_size=2,
            shard_size=4,
            device="cpu",
            existing=existing,
        )
    return made.init_time.values, made.values


def stage_verify(folder: str) -> Any:
    """Score the archive against the store; return the MSE by lead time."""
    archive = sa_nowcast.open_zarr(f"{folder}/archive.zarr")
    truth = sa_nowcast.open_zarr(f"{folder}/store.zarr")
    known = archive["rain"].isel(init_time=archive["valid_time"].max("lead_time") <= truth.time.max())
    return sa_nowcast.verify(known, truth, ["mse"]).mse.values


def peak_memory(
    fields: dict[str, Any], grid: tuple[int, int], batch: int, history: int, steps: int, train: bool
) -> int:
    """Do two updates or one forecast; return the most bytes that this process held meanwhile, above those before."""
    from sa_nowcast import models

    def work(config: models.NetworkConfig, grid: tuple[int, int], batch: int, history: int, steps: int) -> None:
        net = models.build(config.completed(history, grid))
        x = torch.rand(batch, history + steps, config.channels, *grid)
        if train:
            optimizer, first = torch.optim.Adam(net.parameters(), 1e-3), net.first_predicted(history)
            for _ in range(2):  # Adam's moments are there from the first update on
                optimizer.zero_grad()
                predictions, penalty = net.predictions_and_penalty(x, history)
                loss = (predictions[:, first - 1 :] - x[:, first:]).square().mean()
                (loss if penalty is None else loss + penalty).backward()
                optimizer.step()
        else:
            with torch.inference_mode():
                net.eval()(x[:, :history], steps=steps)

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

    # What the first step sets up once, and what it gives back, would else count or be taken again unseen.
    work(models.NetworkConfig.from_dict({**fields, "hidden": [4]}), (16, 16), 1, 2, 2)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    work(models.NetworkConfig.from_dict(fields), grid, batch, history, steps)
    return status("VmHWM") - before


def watched(folder: str, *arguments: str) -> None:
    """Run the command line in a folder; fail where a file or folder elsewhere is made, written, renamed or removed."""
    places = {
        "os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.symlink": (1,), "os.link": (1,),
        "os.truncate": (0,),
    }  # fmt: skip
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    elsewhere: list[str] = []

    def note(event: str, values: tuple[Any, ...]) -> None:
        written = places.get(
            event, (0,) if event == "open" and isinstance(values[2], int) and values[2] & writes else ()
        )
        for place in written:
            path = values[place]
            if isinstance(path, str | bytes | os.PathLike):
                full = os.path.abspath(os.fsdecode(path))
                if not full.startswith((folder, "/dev/", "/proc/")) and not _is_relative_to_descriptor(event, values):
                    elsewhere.append(f"{event} {full}")

    sys.addaudithook(note)
    try:
        cli(folder, *arguments)
    finally:
        if elsewhere:
            raise AssertionError("\n".join(elsewhere))


def _is_relative_to_descriptor(event: str, values: tuple[Any, ...]) -> bool:
    """Say whether a path counts from an open folder, as `shutil.rmtree` removes."""
    return event in ("os.remove", "os.rmdir") and len(values) > 1 and values[1] not in (None, -1)
