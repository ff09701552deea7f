"""The networks there are, and what is known of each before it is built; their presets.

This module imports no torch, so that a recipe is validated before a framework is loaded. A network is one entry of
`NETWORKS` and one module, and a record in `sa_nowcast.models.options` where it has options of its own; everything else
that differs between networks is said by the entry.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sa_nowcast.errors import RecipeError, nearest
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.options import (
    DFNConfig,
    FCLSTMConfig,
    FRNNConfig,
    MCNetConfig,
    MIMConfig,
    PredRNNv2Config,
    SimVPConfig,
    STResNetConfig,
    TrajGRUConfig,
    UNetConfig,
    VPNConfig,
    ZigzagConfig,
)


class Memory(NamedTuple):
    """Values that a layer of a `Stack` holds, per position and hidden channel."""

    state: int
    """Maps of its state."""
    step: int
    """For one step without gradients."""
    kept: int
    """For the backward pass of one step."""
    kept_keys: int = 0
    """The same, of maps that are averaged by ``key_stride``."""
    attends_below: bool = False
    """Whether an attention on the input keeps as much again as that on the state."""


@dataclasses.dataclass(frozen=True)
class Declared:
    """What is known of a network before it is built.

    Parameters
    ----------
    module : str
        The module of `sa_nowcast.models` that holds it. It has ``core(inputs, config)``, which returns the
        `sa_nowcast.models.cores.Core` of a `sa_nowcast.models.rollout.Network`; or ``network(config)``, which returns a
        whole one.
    about : str
        A few words for tables.
    memory : Memory, optional
        What it holds, to be estimated at once; without it each estimate counts the tensors of a run without values.
    config : type of NetworkConfig
        Its record; a subclass where it has options of its own.
    outputs : tuple of str
        The outputs that it can have.
    equal_hidden : bool
        Whether all layers need the same number of hidden channels.
    attends : bool
        Whether it has an attention to be looked at.
    feeds_back : bool
        Whether it reads its own predictions: only then can training give it truth in their place.
    predicts_known : bool
        Whether it predicts known frames too: only then can training replace them by predictions.
    graphs : bool
        Whether a training step can be captured as a CUDA graph.
    checkpoints : bool
        Whether it heeds ``checkpoint_steps``.
    tiles : bool
        Whether a large grid may be forecast in tiles.
    needs_scaling : bool
        Whether it needs values of about 1; one that scales each window by itself is given them as they are, up to an
        affine scaling, and pixels that were never observed take a value of their window.
    """

    module: str
    about: str
    memory: Memory | None = None
    config: type[NetworkConfig] = NetworkConfig
    outputs: tuple[str, ...] = ("frame", "change", "moving")
    equal_hidden: bool = False
    attends: bool = False
    feeds_back: bool = True
    predicts_known: bool = True
    graphs: bool = True
    checkpoints: bool = True
    tiles: bool = True
    needs_scaling: bool = True

    @property
    def in_lagrangian_coordinates(self) -> Declared:
        """The same of the network with ``output: moving``.

        The history is read for its motion; small matrices are copied to the device as it goes, which no graph can hold;
        and the optical flow needs the whole grid.
        """
        return dataclasses.replace(
            self,
            attends=False,
            feeds_back=False,
            predicts_known=False,
            graphs=False,
            checkpoints=False,
            tiles=False,
            needs_scaling=False,
        )


# Networks that forecast, and predict no known frame. A graph would hold neither a penalty nor a history that grows.
_FORECASTS: dict[str, Any] = {"outputs": ("frame", "change"), "predicts_known": False, "graphs": False}
_AT_ONCE: dict[str, Any] = {**_FORECASTS, "feeds_back": False}
_WHOLE: dict[str, Any] = {"checkpoints": False}  # no core of a rollout

NETWORKS: dict[str, Declared] = {
    "sa-convlstm": Declared("sa_convlstm", "the paper's", Memory(3, 24, 23, 2), attends=True),
    "sa-convlstm-base": Declared(
        "sa_convlstm_base",
        "self-attention on the input and the hidden state, eq. 1",
        Memory(2, 18, 13, 1, True),
        attends=True,
    ),
    "convlstm": Declared("convlstm", "the baseline", Memory(2, 14, 10)),
    "convlstm-memory": Declared("convlstm_memory", "the ablation without attention", Memory(3, 18, 16)),
    "sa-convlstm-no-zm": Declared(
        "sa_convlstm_no_zm",
        "the ablation whose attention does not look into the memory",
        Memory(3, 24, 21, 1),
        attends=True,
    ),
    "predrnn": Declared("predrnn", "ST-LSTM with zigzag memory", config=ZigzagConfig, equal_hidden=True),
    "predrnn-v2": Declared(
        "predrnn_v2",
        "PredRNN with decoupled memories",
        config=PredRNNv2Config,
        outputs=("frame", "change"),
        equal_hidden=True,
        graphs=False,
    ),
    "causal-lstm": Declared("causal_lstm", "two memories in a cascade", config=ZigzagConfig),
    "predrnn-plus-plus": Declared("predrnn_plus_plus", "Causal LSTM with a gradient highway", config=ZigzagConfig),
    "mim": Declared("mim", "Memory In Memory on PredRNN's stack", config=MIMConfig, equal_hidden=True),
    "mim-star": Declared("mim_star", "Memory In Memory on PredRNN++'s stack", config=MIMConfig),
    "unet": Declared("unet", "U-Net that reads the history as channels", config=UNetConfig, **_FORECASTS, **_WHOLE),
    "simvp-gsta": Declared("simvp_gsta", "convolutions alone, gated", config=SimVPConfig, **_AT_ONCE, **_WHOLE),
    "fc-lstm": Declared(
        "fc_lstm", "LSTM on the frame as a vector", config=FCLSTMConfig, tiles=False, **_FORECASTS, **_WHOLE
    ),
    "dfn": Declared("dfn", "filters that the network makes for each pixel", config=DFNConfig, outputs=("frame",)),
    "trajgru": Declared("trajgru", "state gathered along learned flows", config=TrajGRUConfig, **_AT_ONCE, **_WHOLE),
    "mcnet": Declared("mcnet", "motion and content", config=MCNetConfig, **_FORECASTS),
    "vpn-baseline": Declared(
        "vpn_baseline",
        "Video Pixel Network with pixels that do not depend on each other",
        config=VPNConfig,
        outputs=("frame", "change"),
    ),
    "frnn": Declared("frnn", "states that frames and forecast share", config=FRNNConfig, **_AT_ONCE),
    "st-resnet": Declared(
        "st_resnet",
        "residual units on the last frames, and those of days and weeks before",
        config=STResNetConfig,
        equal_hidden=True,
        **_FORECASTS,
    ),
}
"""The networks, by the name that `build` and recipes know."""

NAMES: tuple[str, ...] = tuple(NETWORKS)
"""The names that `build` knows."""

if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Literal[NAMES]

PRESETS: dict[str, dict[str, Any]] = {
    # The paper, with docs/explanation/networks.md for what it leaves open.
    "faithful": {},
    # The paper with twice the width: 12.5 million parameters, where the paper prints 10.47.
    "wide": {"hidden": (128, 128, 128, 128)},
    # What we would train today: wide, scores that do not saturate, and persistence as the starting point.
    "tuned": {"hidden": (128, 128, 128, 128), "score_scale": "sqrt", "output": "change"},
    # The tuned one at a size that trains within minutes on two CPU cores.
    "small": {"hidden": (32, 32), "kernel": 3, "score_scale": "sqrt", "output": "change"},
}
"""Named starting points; each holds only what differs from the defaults of `NetworkConfig`."""


def preset(name: str = "faithful", /, **overrides: Any) -> NetworkConfig:
    """Return a named configuration, with some fields replaced.

    Parameters
    ----------
    name : str
        ``"faithful"`` (the paper), ``"wide"`` (the paper with 128 channels), ``"tuned"`` or ``"small"``.
    **overrides
        Fields of `NetworkConfig` to replace.

    Returns
    -------
    NetworkConfig
        The record.
    """
    if name not in PRESETS:
        raise RecipeError(
            "network.preset",
            f"there is no {name!r}",
            f"one of {', '.join(PRESETS)}",
            f"write {nearest(str(name), PRESETS, 0.0)!r}",
        )
    fields = {**PRESETS[name], **overrides}
    entry = NETWORKS.get(str(fields.get("name", NetworkConfig().name)))
    if entry is not None and "output" not in overrides and fields.get("output") not in entry.outputs:
        fields.pop("output", None)  # what a preset says of the output is for the networks that have a choice
    return NetworkConfig.from_dict(fields)
