"""The networks there are and what each is made of: their registry, one frozen record, its presets and its JSON form.

This module imports no torch, so that a recipe is validated before a framework is loaded. A network is one entry of
`NETWORKS` and one module; everything else that differs between networks is said by the entry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, WrapValidator

from sa_nowcast.errors import ModelError, RecipeError, nearest
from sa_nowcast.models.record import network_record

ScoreScale = Literal["none", "sqrt"]
Output = Literal["frame", "change", "moving"]


def _known_network(name: object) -> object:
    if not isinstance(name, str) or name not in NETWORKS:
        raise RecipeError(
            "network.name",
            f"there is no network {name!r}",
            f"one of {', '.join(NETWORKS)}",
            f"write {nearest(str(name), NETWORKS, 0.0)!r}",
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


def _grid(sides: object) -> object:
    if sides is None:
        return None
    both = tuple(sides) if isinstance(sides, list | tuple) else ()
    if len(both) != 2 or not all(isinstance(side, int) and side > 0 and side is not True for side in both):
        raise RecipeError(
            "network.grid",
            f"{sides!r:.60}",
            "the rows and columns of a frame",
            "write two whole numbers, such as [64, 64]",
        )
    return both


def _names_of_networks(schema: dict[str, Any]) -> None:
    """Say in the JSON Schema which networks there are."""
    each = [f"{name} ({network.about})" for name, network in NETWORKS.items()]
    schema |= {
        "enum": list(NETWORKS),
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
        outputs = NETWORKS[self.name].outputs
        if self.output not in outputs:
            raise RecipeError("network.output", f"{self.output!r}, with {self.name}", f"one of {', '.join(outputs)}")
        width = max(self.hidden)
        if NETWORKS[self.name].equal_hidden and set(self.hidden) != {width}:
            raise RecipeError(
                "network.hidden",
                f"{list(self.hidden)}, with name: {self.name}, whose layers have one width",
                "the same number for every layer",
                f"write {[width] * len(self.hidden)}, or take name: {_UNEQUAL}",
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
        entry = NETWORKS[self.name]
        return dataclasses.replace(entry, **_OF_LAGRANGIAN) if self.output == "moving" else entry

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
        entry = NETWORKS.get(str(fields.get("name", NetworkConfig().name)))
        return (NetworkConfig if entry is None else entry.config)(**fields)


@network_record
class ZigzagConfig(NetworkConfig):
    """Of a network whose memory goes through the stack of layers."""

    norm: bool = False
    """Of networks whose memory goes through the layers: whether every convolution to gates is normalised over the
    positions and channels of a sample, with one scale per channel. The authors' code of PredRNN++ does; that of
    PredRNN-V2, and OpenSTL, do not."""


@network_record
class PredRNNv2Config(ZigzagConfig):
    """Of PredRNN-V2."""

    decoupling: Weight = 0.1
    """Of predrnn-v2: what the decoupling of the two memories counts beside the loss, as the mean of the absolute cosine
    between what is added to each. The authors take 0.1 for MovingMNIST and 0.01 for KTH; 0 is PredRNN."""


@network_record
class MIMConfig(ZigzagConfig):
    """Of MIM and MIM*."""

    cascade: Literal["paper", "code"] = "paper"
    """Of mim and mim-star: what the first memory module of a layer reads. ``"paper"``: the difference of the map below
    between two steps; ``"code"``: that in the second layer alone, and above what the module of the layer below gives,
    as in the authors' code, by which their results were made."""


@network_record
class TrajGRUConfig(NetworkConfig):
    """Of TrajGRU; the defaults are the setting of MovingMNIST++."""

    hidden: Widths = (64, 96, 96)
    patch: Whole = 1

    setting: Literal["moving-mnist", "hko-7"] = "moving-mnist"
    """Of trajgru: the convolutions around its layers. ``"moving-mnist"`` keeps the sides of the frame in the lowest
    layer and halves them from layer to layer; ``"hko-7"`` divides them by 5, 3 and 2, for frames of several hundred
    pixels a side, of which the layers see 1/5, 1/15 and 1/30."""

    links: Widths = (13,)
    """Of trajgru: how many flow fields each layer gathers its state along; one number for all layers, or one for each.
    The authors take 13, and 13, 13 and 9 for HKO-7."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.links) not in (1, len(self.hidden)):
            raise RecipeError(
                "network.links",
                f"{list(self.links)}, with {len(self.hidden)} layers",
                "one number for all layers, or one for each",
                f"write links: {list(self.links[:1])}",
            )


@network_record
class DFNConfig(NetworkConfig):
    """Of DFN; the defaults are the published widths."""

    hidden: Widths = (32, 64, 128)
    kernel: Odd = 3
    patch: Whole = 1

    reach: Annotated[int, Field(ge=0)] = 4
    """Of dfn: how many positions a filter reaches to each side; the paper's are of 9×9."""

    residual: bool = False
    """Of dfn: whether a map is added to what the filters give, which starts at zero. Without, as in the paper, a value
    can only come from those around it: rain that forms where there is none is beyond it."""


@network_record
class UNetConfig(NetworkConfig):
    """Of a U-Net; the defaults are RainNet's widths."""

    hidden: Widths = (64, 128, 256, 512, 1024)
    kernel: Odd = 3
    patch: Whole = 1

    history: Whole | None = None
    """Of unet and simvp-gsta: how many frames the network reads as channels; a longer history gives its last ones.
    None: as many as forecasts start from, and without data 4 (RainNet), or 10 (SimVP)."""

    @property
    def least_history(self) -> int:
        """Frames that are read."""
        return self.history or 4


@network_record
class SimVPConfig(UNetConfig):
    """Of SimVP; the defaults are OpenSTL's sizes for MovingMNIST."""

    hidden: Widths = (64, 512, 512, 512, 512, 512, 512, 512)

    spatial: Whole = 4
    """Of simvp-gsta: how many convolutions each frame passes before the blocks, and after them; every second one halves
    the sides. OpenSTL takes 4 for MovingMNIST and 2 for TaxiBJ."""

    @property
    def least_history(self) -> int:
        """Frames that are read."""
        return self.history or 10


@network_record
class BoundedConfig(NetworkConfig):
    """Of a network whose forecast the paper bounds by a function."""

    bounded: bool = False
    """Of mcnet, frnn, st-resnet, vpn-baseline and fc-lstm: whether the forecast passes through the function of the
    paper, tanh, or of vpn-baseline and fc-lstm the logistic sigmoid. Data then have to be scaled to its range, as by
    minmax."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounded and self.output != "frame":
            raise RecipeError("network.bounded", f"true, with output: {self.output}", "false, or output: frame")


@network_record
class FCLSTMConfig(BoundedConfig):
    """Of FC-LSTM; the defaults are the published sizes."""

    hidden: Widths = (2048, 2048)
    patch: Whole = 1

    grid: Annotated[tuple[Whole, ...] | None, BeforeValidator(_grid)] = None
    """Of fc-lstm: rows and columns of the frames that its weights are bound to. None: those of the data, and without
    data 64×64."""


@network_record
class MCNetConfig(BoundedConfig):
    """Of MCNet: ``hidden`` are the channels of each scale, and its 3×3 convolutions are that whatever the kernel."""

    hidden: Widths = (64, 128, 256)
    patch: Whole = 1

    gradient_difference: Weight = 1.0
    """Of mcnet: what the mean absolute error of the differences between neighbouring pixels counts beside the loss, as
    in the paper; 0 leaves it out."""


@network_record
class VPNConfig(BoundedConfig):
    """Of the VPN baseline: ``hidden`` are the channels of the ConvLSTM, and of the blocks on both of its sides.

    The defaults train on a CPU. The paper's are ``hidden`` 256, ``patch`` 1, and 8 and 12 blocks.
    """

    hidden: Widths = (64,)
    kernel: Odd = 3

    encoder_blocks: Whole = 4
    """Of vpn-baseline: residual multiplicative blocks before the ConvLSTM; 8 in the paper."""

    decoder_blocks: Whole = 6
    """Of vpn-baseline: residual multiplicative blocks after the ConvLSTM; 12 in the paper."""

    dilated: bool = False
    """Of vpn-baseline: whether the blocks before the ConvLSTM read positions 1, 2, 4, 8, 1, … apart."""


@network_record
class FRNNConfig(BoundedConfig):
    """Of FRNN: ``hidden`` are the channels above each layer, with a pooling before every second one.

    The defaults train on a CPU. The paper's ``hidden`` are 128, 128, 256, 256, 512, 512, 256 and 256.
    """

    hidden: Widths = (64, 64, 128, 128)
    patch: Whole = 1

    stem: Whole = 32
    """Of frnn: channels of the first convolution of a frame, of which the second has twice as many."""


@network_record
class STResNetConfig(BoundedConfig):
    """Of ST-ResNet: ``hidden`` are the channels of each residual unit; by default those of the paper for TaxiBJ."""

    hidden: Widths = (64,) * 12
    kernel: Odd = 3
    patch: Whole = 1

    closeness: Whole = 3
    """Of st-resnet: how many of the last frames are read; 3 in the paper for TaxiBJ."""

    period: Annotated[int, Field(ge=0)] = 0
    """Of st-resnet: how many frames of the same time of the days before are read; 1 in the paper for TaxiBJ. The
    history has to contain them, and `frames_a_day` to be given. 0 reads none, as data without a daily period need."""

    trend: Annotated[int, Field(ge=0)] = 0
    """Of st-resnet: how many frames of the same time of the weeks before are read; 1 in the paper for TaxiBJ. As
    `period`."""

    frames_a_day: Whole | None = None
    """Of st-resnet: frames between the same time of two days, such as 48 of a cadence of 30 minutes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.period or self.trend) and self.frames_a_day is None:
            raise RecipeError(
                "network.frames_a_day",
                f"not given, with period: {self.period} and trend: {self.trend}",
                "the number of frames between the same time of two days, such as 48 of a cadence of 30 minutes",
            )

    @property
    def lags(self) -> list[list[int]]:
        """Steps between a forecast and the frames that it reads: close ones, of days and of weeks before."""
        day = self.frames_a_day or 0
        rows = ((self.closeness, 1), (self.period, day), (self.trend, 7 * day))
        return [[every * n for n in range(1, count + 1)] for count, every in rows if count]

    @property
    def least_history(self) -> int:
        """Frames of a history that holds those of days and weeks before."""
        return max((lags[-1] for lags in self.lags[1:]), default=1)

    def require_data(self, history: int, step_ns: int | None = None) -> None:
        """Refuse data whose days have another number of frames than the network's."""
        day_ns = 86_400 * 10**9
        if self.frames_a_day is not None and step_ns is not None and self.frames_a_day * step_ns != day_ns:
            whole = day_ns % step_ns == 0
            raise RecipeError(
                "network.frames_a_day",
                f"{self.frames_a_day}, and the data have a frame every {step_ns / 60e9:g} min",
                f"{day_ns // step_ns}" if whole else "neither period nor trend, as no two days have the same times",
            )
        super().require_data(history, step_ns)


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

# In Lagrangian coordinates the history is read for its motion; small matrices are copied to the device as it goes,
# which no graph can hold; and the optical flow needs the whole grid.
_OF_LAGRANGIAN: dict[str, Any] = dict.fromkeys(
    ("attends", "feeds_back", "predicts_known", "graphs", "checkpoints", "tiles", "needs_scaling"), False
)

_UNEQUAL = "predrnn-plus-plus"
"""The network to take for layers of several widths, for its convolutions read the memory."""

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
