"""What a run computes on, and how: chosen once, said once, and overridable in the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sa_nowcast.computing.devices import resolve_device
from sa_nowcast.errors import RecipeError
from sa_nowcast.recipe import TrainingRecipe
from sa_nowcast.training.launch import Launch, launched

Precision = Literal["fp32", "bf16"]
Acceleration = Literal["none", "compile", "graph"]
_BF16_CAPABILITY = (8, 0)  # Ampere; earlier GPUs emulate bfloat16, slowly


@dataclass(frozen=True)
class Hardware:
    """Device, precision and acceleration of a run, and the processes that train together."""

    device: torch.device
    precision: Precision
    acceleration: Acceleration
    launch: Launch

    @property
    def autocast(self) -> torch.dtype | None:
        """The narrower type of the network's products, or None."""
        return torch.bfloat16 if self.precision == "bf16" else None

    def __str__(self) -> str:
        if self.device.type == "cuda":
            where = f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        else:
            where = f"CPU with {torch.get_num_threads()} threads"
        how = {"none": "", "compile": ", compiled cells", "graph": ", CUDA graph"}[self.acceleration]
        ranks = self.launch.share.ranks
        machines = "one machine" if self.launch.machines == 1 else f"{self.launch.machines} machines"
        many = "" if ranks == 1 else f", {ranks} processes on {machines}"
        return f"{where}, {self.precision}{how}{many}"


def choose_hardware(recipe: TrainingRecipe, *, graph: bool = True) -> Hardware:
    """Decide what the recipe leaves open; `graph`: whether the network's step can be captured as a CUDA graph.

    Raises
    ------
    RecipeError
        The device is absent, or an option needs another one.
    """
    launch = launched()
    device = _device(recipe.device, launch)
    cuda = device.type == "cuda"
    precision, acceleration = recipe.precision, recipe.acceleration
    if precision == "auto":
        precision = "bf16" if cuda and torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY else "fp32"
    if acceleration == "auto":
        # Compiling takes longer than a short run on a CPU; docs/how-to/gpu.md measures what a graph saves.
        acceleration = "graph" if graph and cuda and launch.alone else "none"
    if acceleration == "graph" and not (cuda and launch.alone):
        found = f"{device}" if not cuda else f"{launch.share.ranks} processes"
        raise RecipeError(
            "training.acceleration",
            f"graph, on {found}",
            expected="one process on a CUDA device",
            fix="give auto",
        )
    if acceleration == "compile":
        _require_compiler(device)
    if recipe.batch_size % launch.share.ranks:
        raise RecipeError(
            "training.batch_size",
            f"{recipe.batch_size} over {launch.share.ranks} processes",
            expected=f"a multiple of {launch.share.ranks}",
        )
    return Hardware(device, precision, acceleration, launch)


def _require_compiler(device: torch.device) -> None:
    """Compile next to nothing, to find out now whether anything can be compiled."""
    try:
        torch.compile(_next)(torch.zeros(8, device=device))
    except Exception as error:
        # What torch needs for it differs by device and version, and so does what it raises where that is absent.
        cause = next((line for line in str(error).splitlines() if line), type(error).__name__)
        needed = "a C++ compiler such as g++" if device.type == "cpu" else "Triton and a C compiler"
        raise RecipeError(
            "training.acceleration",
            f"compile, and torch cannot compile here ({cause})",
            expected=needed,
            fix="install it, or give none",
        ) from error


def _next(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def _device(name: str, launch: Launch) -> torch.device:
    if launch.alone:
        return resolve_device(name)
    if ":" in name:
        raise RecipeError(
            "training.device", f"{name!r} for {launch.share.ranks} processes", expected="auto, cpu or cuda"
        )
    device = resolve_device(name)
    return device if device.type == "cpu" else resolve_device(f"cuda:{launch.local_rank}")
