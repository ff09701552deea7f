"""Which networks are a core around which frames are folded and read out; and small ones of those that are whole."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from sa_nowcast import models
from sa_nowcast.models.config import NETWORKS


def module_of(name: str) -> Any:
    return importlib.import_module(f"sa_nowcast.models.{NETWORKS[name].module}")


CORES = [name for name in models.NAMES if hasattr(module_of(name), "core")]
OPTIONS: dict[str, dict[str, Any]] = {
    "dfn": {"hidden": (4, 5, 6), "reach": 2},
    "trajgru": {"hidden": (4, 5, 3), "kernel": 3, "links": (2, 3, 2)},
    "unet": {"hidden": (4, 5, 6), "history": 3},
    "simvp-gsta": {"hidden": (4, 10, 6), "kernel": 3, "spatial": 3, "history": 3},
    "fc-lstm": {"hidden": (7, 5), "grid": (8, 12)},
}
"""Of networks of two channels that the tests build."""


def tiny(name: str, **options: Any) -> models.Network:
    torch.manual_seed(0)
    return models.build(name, **{"channels": 2, **OPTIONS[name], **options})


def left_open(name: str) -> dict[str, Any]:
    """Return the options without those that the data decide."""
    return {key: value for key, value in OPTIONS[name].items() if key not in ("history", "grid")}
