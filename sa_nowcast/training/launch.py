"""Which process of how many this is, as the launcher says: ``torchrun``, Slurm's ``srun``, or none."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from sa_nowcast.errors import RecipeError
from sa_nowcast.stream import Share


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
