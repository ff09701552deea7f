"""Which device work runs on: asked for by name, never chosen at import."""

from __future__ import annotations

import torch

from sa_nowcast.errors import RecipeError


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is the first CUDA device where there is one, else the CPU.

    Raises
    ------
    RecipeError
        The device was asked for and is absent, or its name is not known.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise RecipeError("device", f"{name!r}", expected="auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise RecipeError(
                "device", f"{name} was asked for, and {count} CUDA devices are here", fix="give auto or cpu"
            )
    return torch.device(kind, int(index or 0)) if kind == "cuda" else torch.device("cpu")
