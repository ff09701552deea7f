"""Records of the networks that have options of their own, each with a field for every one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sa_nowcast.errors import RecipeError
from sa_nowcast.models.config import NetworkConfig, Odd, Weight, Whole, Widths
from sa_nowcast.models.record import network_record


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

    def require_grid(self, grid: tuple[int, int]) -> None:
        """Refuse any other grid than that which the weights are bound to."""
        if self.grid is not None and tuple(self.grid) != tuple(grid):
            raise RecipeError(
                "network.grid",
                f"{self.grid[0]}x{self.grid[1]}, which the weights of fc-lstm are bound to, and frames of "
                f"{grid[0]}x{grid[1]}",
                "one grid for training and forecasts",
                "leave network.grid and the regions of split out, and give crop: null",
            )


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
