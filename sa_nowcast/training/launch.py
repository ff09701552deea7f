"""Which process of how many this is, as its launcher says (torchrun, Slurm's srun, or none), and whether all came."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed.rendezvous import rendezvous

from sa_nowcast.errors import RecipeError, SaNowcastError
from sa_nowcast.stream import Share

MEET_WITHIN: Final = 600.0
"""Seconds in which all processes have to come; torchrun waits as long for machines."""


@dataclass(frozen=True)
class Launch:
    """The processes that train together."""

    share: Share  # this process's rank, and how many there are
    local_rank: int  # its number on its own machine, which is also the number of its GPU
    per_machine: int
    machines: int
    environment: ClusterEnvironment  # how they find each other

    @property
    def alone(self) -> bool:
        """Whether this process trains by itself."""
        return self.share.ranks == 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.share.rank == 0


def launched() -> Launch:
    """Return what the launcher of this process says in the environment variables that it sets.

    Raises
    ------
    RecipeError
        Machines with different numbers of processes.
    """
    if TorchElasticEnvironment.detect():
        environment: ClusterEnvironment = TorchElasticEnvironment()
        per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", environment.world_size()))
    elif os.environ.get("SLURM_PROCID") and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and SLURMEnvironment.detect():
        # Signals are ours to handle, and a job is put back into the queue by its own script.
        environment = SLURMEnvironment(auto_requeue=False)
        per_machine = environment.world_size() // int(os.environ.get("SLURM_NNODES", "1"))
    else:
        return Launch(Share(), 0, 1, 1, LightningEnvironment())
    ranks = environment.world_size()
    if per_machine < 1 or ranks % per_machine:
        raise RecipeError(
            "training",
            f"{ranks} processes, {per_machine} on this machine",
            expected="the same number on every machine",
            fix="give the launcher the same number of processes for each machine",
        )
    share = Share(environment.global_rank(), ranks)
    return Launch(share, environment.local_rank(), per_machine, ranks // per_machine, environment)


def meet(launch: Launch, step: int, folder: Path | None) -> object:
    """Wait for all processes, and see that each goes on from the same update, `step`.

    They would meet without it, but wait for half an hour, and a folder that is not shared would be noticed by nobody.

    Returns
    -------
    object
        Through which they met; the first process may serve it, so it has to be kept. None: nobody else is to come.

    Raises
    ------
    RecipeError
        One has not come within `MEET_WITHIN`, or has other checkpoints.
    """
    if launch.alone or torch.distributed.is_initialized():
        return None
    rank, ranks = launch.share.rank, launch.share.ranks
    address, port, within = (
        launch.environment.main_address,
        launch.environment.main_port,
        timedelta(seconds=MEET_WITHIN),
    )
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    came, seen = ([f"sa_nowcast/{what}/{number}" for number in range(ranks)] for what in ("came", "seen"))
    try:
        store, _, _ = next(rendezvous("env://", rank, ranks, timeout=within))
        store.set(came[rank], str(step))
        store.wait(came, within)
        steps = [int(store.get(key)) for key in came]
        store.set(seen[rank], "")
        if launch.first:  # it may be the one that serves the others
            store.wait(seen, within)
    except torch.distributed.DistError as error:
        raise RecipeError(
            "training",
            f"not all of {ranks} processes came to {address}:{port} within {MEET_WITHIN:.0f} s",
            fix="see what those say that did not come, open this port to the other machines, and start all at once",
        ) from error
    if len(set(steps)) > 1:
        raise RecipeError(
            "training",
            f"the processes go on from different updates: {', '.join(map(str, steps))}",
            f"the same checkpoints in {folder}",
            "name an output folder on a disk that all machines share",
        )
    return store


def lost(error: Exception, launch: Launch, step: int, folder: Path | None) -> SaNowcastError | None:
    """Return what to raise in place of `error` where that says that another process is gone; else None.

    It is no `Interrupted`: a job would go back into the queue, though the other process may have met bad data.
    """
    # gloo raises nothing of its own, and says where in its source.
    if launch.alone or not (isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)):
        return None
    return SaNowcastError(
        "training",
        f"another of {launch.share.ranks} processes is gone, at update {step}",
        fix="see what that one says, and start all again"
        + (", with folder= to go on" if folder is None else f"; they go on from what is saved in {folder}"),
    )
