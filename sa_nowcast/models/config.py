"""What a network is made of: one frozen record, its checks and its JSON form.

This module imports no torch, so that a recipe is validated before a framework is loaded. What it asks of the registry,
whose entries name records like this one, is looked up when a record is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WrapValidator

from sa_nowcast.errors import ModelError, RecipeError, nearest
from sa_nowcast.models.record import network_record

if TYPE_CHECKING:
    from sa_nowcast.models.registry import Declared

ScoreScale = Literal["none", "sqrt"]
Output = Literal["frame", "change", "moving"]


def _networks() -> dict[str, Declared]:
    # The entries of the registry name subclasses of the record below.
    from sa_nowcast.models.registry import NETWORKS

    return NETWORKS


def _known_network(name: object) -> object:
    networks = _networks()
    if not isinstance(name, str) or name not in networks:
        raise RecipeError(
            "network.name",
            f"there is no network {name!r}",
            f"one of {', '.join(networks)}",
            f"write {nearest(str(name), networks, 0.0)!r}",
        )
    return name


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise RecipeError(
            "network.kernel",
            f"{kernel} is even, so a map would change its size",
            "an odd width",
            f"use {kernel - 1} or {kernel + 1}",
        )
    return kernel


def _layers(widths: object) -> tuple[Any, ...]:
    layers = tuple(widths) if isinstance(widths, Iterable) and not isinstance(widths, str | bytes) else ()
    if not layers:
        raise RecipeError(
            "network.hidden",
            f"{widths!r} describes no layer",
            "the channels of every layer",
            "write one number per layer, such as [64, 64, 64, 64]",
        )
    return layers


def _names_of_networks(schema: dict[str, Any]) -> None:
    """Say in the JSON Schema which networks there are."""
    networks = _networks()
    each = [f"{name} ({network.about})" for name, network in networks.items()]
    schema |= {
        "enum": list(networks),
        "description": f"{schema.get('description', '')} {', '.join(each[:-1])} or {each[-1]}.",
    }


Whole = Annotated[int, Field(ge=1)]
Widths = Annotated[tuple[Whole, ...], BeforeValidator(_layers)]
Odd = Annotated[Whole, AfterValidator(_odd)]
# Its value stays the one given: an integer that became a float would be another recipe to a run that is resumed.
_AS_GIVEN = WrapValidator(lambda value, check: (check(value), value)[1])
Weight = Annotated[float, Field(ge=0), _AS_GIVEN]


@network_record
class NetworkConfig:
    """Everything that decides a network's parameters and arithmetic; its defaults are the faithful preset.

    The grid is not part of it, but for FC-LSTM: weights do not depend on the size of the frames. A network with options
    of its own has a subclass with a field for each.

    Raises
    ------
    RecipeError
        If a value cannot make a network; the message names the field.
    ModelError
        If there is no such field; the message names the nearest one.
    """

    name: Annotated[str, BeforeValidator(_known_network), Field(json_schema_extra=_names_of_networks)] = "sa-convlstm"
    """Which network:"""

    channels: Whole = 1
    """Variables per frame, both read and predicted."""

    hidden: Widths = (64, 64, 64, 64)
    """Hidden channels of every layer, from the bottom; the paper stacks 4 layers of 64."""

    kernel: Odd = 5
    """Width of the input and hidden convolutions; odd, so that a map keeps its size. Not given in the paper; the code
    it descends from takes 5."""

    patch: Whole = 4
    """Frames are folded into patches of this many pixels a side before the first layer. Cost falls with its square,
    attention's with its fourth power. The lineage takes 4 for MovingMNIST and KTH, 1 for TaxiBJ."""

    key_channels: Whole | None = None
    """Channels of queries and keys; None takes those of the layer. Fewer limit the rank of the scores, and save
    parameters rather than time."""

    score_scale: ScoreScale = "none"
    """``"none"`` leaves the scores as they are (eq. 2); ``"sqrt"`` divides them by the square root of the key channels,
    which keeps wide layers from saturating the softmax early in training."""

    key_stride: Whole = 1
    """Keys and values are averages of this many positions a side; 1 keeps all of them (the paper). Attention's cost
    falls with the square, which is what lets it onto grids of several hundred positions a side."""

    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """While training, keep only the states at every so many steps and compute the rest again in the backward pass; 0
    keeps everything. Memory falls at the cost of about one more forward pass, on the CPU of half an update."""

    forget_bias: Annotated[float, _AS_GIVEN] = 1.0
    """Where the forget gate's bias starts. 1 lets gradients through time from the first update on."""

    output: Output = "frame"
    """``"frame"``: the 1×1 convolution gives the next frame (the paper). ``"change"``: it gives what is added to the
    last input frame and starts at zero, so that an untrained network is persistence. ``"moving"``: the network works in
    Lagrangian coordinates, along an optical flow, and weighs forecasts in them and in Eulerian ones, so that an
    untrained network is extrapolation along the motion; see `sa_nowcast.models.lagrangian.LagrangianNetwork`."""

    def __post_init__(self) -> None:
        entry = _networks()[self.name]
        outputs = entry.outputs
        if self.output not in outputs:
            raise RecipeError("network.output", f"{self.output!r}, with {self.name}", f"one of {', '.join(outputs)}")
        width = max(self.hidden)
        if entry.equal_hidden and set(self.hidden) != {width}:
            raise RecipeError(
                "network.hidden",
                f"{list(self.hidden)}, with name: {self.name}, whose layers have one width",
                "the same number for every layer",
                f"write {[width] * len(self.hidden)}, or take name: predrnn-plus-plus"
                if hasattr(entry.config, "norm")  # it is of that family
                else f"write {[width] * len(self.hidden)}",
            )
        if self.checkpoint_steps and not self.declared.checkpoints:
            raise RecipeError(
                "network.checkpoint_steps",
                f"{self.checkpoint_steps}, with {self.cause}",
                "0, as it keeps everything",
            )

    @property
    def declared(self) -> Declared:
        """What its entry says of the network, with this output."""
        entry = _networks()[self.name]
        return entry.in_lagrangian_coordinates if self.output == "moving" else entry

    @property
    def cause(self) -> str:
        """The field of a recipe that decides what is declared, for messages."""
        return "output: moving" if self.output == "moving" else f"name: {self.name}"

    @property
    def least_history(self) -> int:
        """Frames that a history needs."""
        return 1

    def require_data(self, history: int, step_ns: int | None = None) -> None:
        """Refuse a history, or a cadence in nanoseconds, that the network cannot read."""
        if history < self.least_history:
            raise RecipeError("history", f"{history}, with network.{self.cause}", f"at least {self.least_history}")

    def require_grid(self, grid: tuple[int, int]) -> None:
        """Refuse a number of rows and columns that the network cannot read; only one bound to its grid does."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values that JSON can hold.

        Returns
        -------
        dict
            Field to value; tuples as lists.
        """
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    def completed(self, history: int | None, grid: tuple[int, ...] | None) -> NetworkConfig:
        """Return the record with what only the data tell, where it has such a field and leaves it open.

        Parameters
        ----------
        history : int
            Frames that a forecast starts from.
        grid : tuple of int
            Rows and columns of a frame.
        """
        told: dict[str, Any] = {"history": history, "grid": grid}
        return dataclasses.replace(
            self, **{k: v for k, v in told.items() if hasattr(self, k) and getattr(self, k) is None}
        )

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> NetworkConfig:
        """Read what `to_dict` wrote.

        Parameters
        ----------
        fields : mapping
            Field to value. Fields that are left out take their defaults.

        Returns
        -------
        NetworkConfig
            The record, of the class that the network of this name has.

        Raises
        ------
        ModelError
            If a key is not a field; the message names the nearest one. If `fields` is no mapping.
        """
        if not isinstance(fields, Mapping):
            raise ModelError("network", f"{fields!r:.60}", "a mapping of its fields")
        entry = _networks().get(str(fields.get("name", NetworkConfig().name)))
        return (NetworkConfig if entry is None else entry.config)(**fields)
