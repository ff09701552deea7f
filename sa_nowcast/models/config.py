"""What a network is made of: one frozen record, its presets, and its JSON form.

This module imports no torch, so that a recipe is validated before a framework is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sa_nowcast.errors import ModelError, RecipeError

NetworkName = Literal["sa-convlstm", "sa-convlstm-base", "convlstm", "convlstm-memory", "sa-convlstm-no-zm"]
ScoreScale = Literal["none", "sqrt"]
Output = Literal["frame", "change", "moving"]

NAMES: tuple[str, ...] = get_args(NetworkName)
"""The names that `build` knows."""


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that decides a network's parameters and arithmetic; its defaults are the faithful preset.

    The grid is not part of it: weights do not depend on the size of the frames.

    Parameters
    ----------
    name : str
        Which network: ``"sa-convlstm"`` (the paper's), ``"sa-convlstm-base"`` (self-attention on the input and
        the hidden state, eq. 1), ``"convlstm"`` (the baseline), ``"convlstm-memory"`` (the ablation without
        attention) or ``"sa-convlstm-no-zm"`` (the ablation whose attention does not look into the memory).
    channels : int
        Variables per frame, both read and predicted.
    hidden : tuple of int
        Hidden channels of every layer, from the bottom; the paper stacks 4 layers of 64.
    kernel : int
        Width of the input and hidden convolutions; odd, so that a map keeps its size. Not given in the paper;
        the code it descends from takes 5.
    patch : int
        Frames are folded into patches of this many pixels a side before the first layer. Cost falls with its
        square, attention's with its fourth power. The lineage takes 4 for MovingMNIST and KTH, 1 for TaxiBJ.
    key_channels : int or None
        Channels of queries and keys; None takes those of the layer. Fewer limit the rank of the scores, and
        save parameters rather than time.
    score_scale : str
        ``"none"`` leaves the scores as they are (eq. 2); ``"sqrt"`` divides them by the square root of the
        key channels, which keeps wide layers from saturating the softmax early in training.
    key_stride : int
        Keys and values are averages of this many positions a side; 1 keeps all of them (the paper). Attention's
        cost falls with the square, which is what lets it onto grids of several hundred positions a side.
    checkpoint_steps : int
        While training, keep only the states at every so many steps and compute the rest again in the backward
        pass; 0 keeps everything. Memory falls at the cost of about one more forward pass, on the CPU of half an update.
    forget_bias : float
        Where the forget gate's bias starts. 1 lets gradients through time from the first update on.
    output : str
        ``"frame"``: the 1×1 convolution gives the next frame (the paper). ``"change"``: it gives what is added
        to the last input frame and starts at zero, so that an untrained network is persistence. ``"moving"``: the
        network works in the frame of an optical flow and weighs forecasts that move and that stand, so that an
        untrained network is extrapolation along the motion; see `sa_nowcast.models.moving.MovingNetwork`.

    Raises
    ------
    RecipeError
        If a value cannot make a network; the message names the field.
    """

    name: NetworkName = "sa-convlstm"
    channels: int = 1
    hidden: tuple[int, ...] = (64, 64, 64, 64)
    kernel: int = 5
    patch: int = 4
    key_channels: int | None = None
    score_scale: ScoreScale = "none"
    key_stride: int = 1
    checkpoint_steps: int = 0
    forget_bias: float = 1.0
    output: Output = "frame"

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            nearest = difflib.get_close_matches(str(self.name), NAMES, n=1, cutoff=0.0)[0]
            raise RecipeError(
                "network.name",
                f"there is no network {self.name!r}",
                f"one of {', '.join(NAMES)}",
                f"write {nearest!r}",
            )
        for field in ("channels", "kernel", "patch", "key_stride"):
            _whole(field, getattr(self, field), at_least=1)
        _whole("checkpoint_steps", self.checkpoint_steps, at_least=0)
        if self.kernel % 2 == 0:
            raise RecipeError(
                "network.kernel",
                f"{self.kernel} is even, so a map would change its size",
                "an odd width",
                f"use {self.kernel - 1} or {self.kernel + 1}",
            )
        if isinstance(self.hidden, (str, bytes, int)) or not tuple(self.hidden):
            raise RecipeError(
                "network.hidden",
                f"{self.hidden!r} describes no layer",
                "the channels of every layer",
                "write one number per layer, such as [64, 64, 64, 64]",
            )
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for index, width in enumerate(self.hidden):
            _whole(f"hidden[{index}]", width, at_least=1)
        if self.key_channels is not None:
            _whole("key_channels", self.key_channels, at_least=1)
        for field, allowed in (("score_scale", get_args(ScoreScale)), ("output", get_args(Output))):
            if getattr(self, field) not in allowed:
                raise RecipeError(f"network.{field}", f"{getattr(self, field)!r}", f"one of {', '.join(allowed)}")
        if self.output == "moving" and self.checkpoint_steps:
            raise RecipeError(
                "network.checkpoint_steps", f"{self.checkpoint_steps}, with output: moving", "0, as it keeps everything"
            )
        bias = self.forget_bias
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not abs(bias) < float("inf"):
            raise RecipeError("network.forget_bias", f"{bias!r}", "a finite number")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values that JSON can hold.

        Returns
        -------
        dict
            Field to value; ``hidden`` as a list.
        """
        return {**dataclasses.asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> NetworkConfig:
        """Read what `to_dict` wrote.

        Parameters
        ----------
        fields : mapping
            Field to value. Fields that are left out take their defaults.

        Returns
        -------
        NetworkConfig
            The record.

        Raises
        ------
        ModelError
            If a key is not a field; the message names the nearest one.
        """
        _known_fields(fields)
        return cls(**fields)


PRESETS: dict[str, dict[str, Any]] = {
    # The paper, with docs/explanation/networks.md for what it leaves open.
    "faithful": {},
    # The paper with twice the width: 12.5 million parameters, where the paper prints 10.47.
    "wide": {"hidden": (128, 128, 128, 128)},
    # What we would train today: wide, scores that do not saturate, and persistence as the starting point.
    "tuned": {"hidden": (128, 128, 128, 128), "score_scale": "sqrt", "output": "change"},
    # The tuned one at a size that trains within minutes on two CPU cores; what `sa_nowcast.fit` takes by default.
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
        nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise RecipeError(
            "network.preset", f"there is no {name!r}", f"one of {', '.join(PRESETS)}", f"write {nearest!r}"
        )
    _known_fields(overrides)
    return NetworkConfig(**{**PRESETS[name], **overrides})


def _known_fields(fields: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(NetworkConfig)]
    for key in fields:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise ModelError(
                f"network.{key}", "is no field of a network", f"one of {', '.join(known)}", f"write {nearest!r}"
            )


def _whole(field: str, value: object, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise RecipeError(f"network.{field}", f"{value!r}", f"a whole number of at least {at_least}")
