"""Small ones of the networks that are no stack of recurrent layers."""

from __future__ import annotations

from typing import Any

import torch

from sa_nowcast import models

OPTIONS: dict[str, dict[str, Any]] = {
    "dfn": {"hidden": (4, 5, 6), "reach": 2},
    "trajgru": {"hidden": (4, 5, 3), "kernel": 3, "links": (2, 3, 2)},
    "unet": {"hidden": (4, 5, 6), "history": 3},
    "simvp-gsta": {"hidden": (4, 10, 6), "kernel": 3, "spatial": 3, "history": 3},
    "fc-lstm": {"hidden": (7, 5), "grid": (8, 12)},
    "mcnet": {"hidden": (8, 8), "kernel": 3},
    "vpn-baseline": {"hidden": (4, 6), "patch": 2, "encoder_blocks": 1, "decoder_blocks": 2},
    "frnn": {"hidden": (4, 5, 3), "kernel": 3, "stem": 3},
    "st-resnet": {"hidden": (6, 6)},
}
"""Of networks of two channels that the tests build."""


def tiny(name: str, **options: Any) -> models.Network:
    torch.manual_seed(0)
    return models.build(name, **{"channels": 2, **OPTIONS[name], **options})


def left_open(name: str) -> dict[str, Any]:
    """Return the options without those that the data decide."""
    return {key: value for key, value in OPTIONS[name].items() if key not in ("history", "grid")}
