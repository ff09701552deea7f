"""The networks of SA-ConvLSTM (Lin et al., AAAI 2020, DOI 10.1609/aaai.v34i07.6819), others, and what they share.

Importing this package loads no torch; asking it for a network does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.registry import NAMES, PRESETS, preset

if TYPE_CHECKING:
    from sa_nowcast.models.acceleration import GraphedTrainingStep, compile_cells, graphed_predictions
    from sa_nowcast.models.attention import SelfAttention
    from sa_nowcast.models.estimate import available_memory, estimate_memory, require_memory
    from sa_nowcast.models.inspection import attention_map
    from sa_nowcast.models.memory import SelfAttentionMemory
    from sa_nowcast.models.rollout import Network

_LAZY = {
    "GraphedTrainingStep": "acceleration",
    "attention_map": "inspection",
    "available_memory": "estimate",
    "compile_cells": "acceleration",
    "estimate_memory": "estimate",
    "graphed_predictions": "acceleration",
    "require_memory": "estimate",
    "SelfAttention": "attention",
    "SelfAttentionMemory": "memory",
    "Network": "rollout",
}

__all__ = [
    "NAMES",
    "PRESETS",
    "GraphedTrainingStep",
    "Network",
    "NetworkConfig",
    "SelfAttention",
    "SelfAttentionMemory",
    "attention_map",
    "available_memory",
    "build",
    "compile_cells",
    "estimate_memory",
    "graphed_predictions",
    "preset",
    "require_memory",
]


def build(name_or_config: str | NetworkConfig = "sa-convlstm", **options: Any) -> Network:
    """Build a network by name, or from a whole configuration.

    Parameters
    ----------
    name_or_config : str or NetworkConfig
        One of `NAMES`, or a record that says everything.
    **options
        Fields of `NetworkConfig` to replace.

    Returns
    -------
    Network
        A torch module with random weights; ``net(x_BTCHW, steps=k)`` gives the k frames after x.

    Examples
    --------
    >>> import torch
    >>> from sa_nowcast import models
    >>> net = models.build("sa-convlstm", channels=2, hidden=(8, 8), kernel=3, patch=2)
    >>> net(torch.zeros(1, 4, 2, 10, 12), steps=3).shape
    torch.Size([1, 3, 2, 10, 12])
    """
    if isinstance(name_or_config, NetworkConfig):
        config = NetworkConfig.from_dict({**name_or_config.to_dict(), **options})
    else:
        config = preset("faithful", **{"name": name_or_config, **options})
    module = importlib.import_module(f"sa_nowcast.models.{config.declared.module}")
    if hasattr(module, "network"):
        whole: Network = module.network(config)
        return whole
    place, kind = ("lagrangian", "LagrangianNetwork") if config.output == "moving" else ("rollout", "Network")
    network: type[Network] = getattr(importlib.import_module(f"sa_nowcast.models.{place}"), kind)
    return network(config, module.core)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"sa_nowcast.models.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
