"""SimVP with gated spatiotemporal attention (Gao et al. 2022, Tan et al. 2025): convolutions, and no recurrence."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.maps import fold, full_precision, read_out_layer, to_multiple, unfold
from sa_nowcast.models.options import SimVPConfig
from sa_nowcast.models.rollout import WholeForecaster

SCALE = 0.01
"""Where the scales of each channel start."""
RATIO = 8
"""Times the channels of a block that its last layers have in between."""


class Gate(nn.Module):
    """A map times the logistic sigmoid of another; both from depthwise convolutions that reach 11 positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.far = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.both = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return a map of the same channels."""
        a, b = self.both(self.far(self.near(x_NCHW))).chunk(2, dim=1)
        gated: Tensor = b.sigmoid() * a
        return gated


class Block(nn.Module):
    r"""The block.

    .. math::

        y &= N(x), \qquad x' = x + s_1 ∘ (y + P_2 \, G(γ(P_1 y)))

        z &= x' + s_2 ∘ Q_2 γ(D ∗ Q_1 N'(x'))

    G is the `Gate`, γ the Gaussian error linear unit, D a depthwise 3×3 convolution, P and Q are 1×1 convolutions, s_1
    and s_2 scales of each channel, and N, N' normalise a sample over its positions and channels.

    Parameters
    ----------
    inputs, outputs : int
        Channels; where they differ, a 1×1 convolution follows.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = RATIO * inputs
        self.norm, self.other_norm = nn.GroupNorm(1, inputs), nn.GroupNorm(1, inputs)
        self.before, self.after = nn.Conv2d(inputs, inputs, 1), nn.Conv2d(inputs, inputs, 1)
        self.gate = Gate(inputs)
        self.widen, self.narrow = nn.Conv2d(inputs, wide, 1), nn.Conv2d(wide, inputs, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.scale = nn.Parameter(torch.full((inputs, 1, 1), SCALE))
        self.other_scale = nn.Parameter(torch.full((inputs, 1, 1), SCALE))
        self.out = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return maps of the output's channels."""
        y = self.norm(x_NCHW)
        x_NCHW = x_NCHW + self.scale * (y + self.after(self.gate(F.gelu(self.before(y)))))
        y = self.narrow(F.gelu(self.depthwise(self.widen(self.other_norm(x_NCHW)))))
        out: Tensor = self.out(x_NCHW + self.other_scale * y)
        return full_precision(out)


class SimVP(nn.Module):
    """An encoder of each frame, blocks that see all of them as channels, and a decoder of as many frames.

    Every second convolution of the encoder halves the sides; where one did, the decoder's gives 2×2 positions for one.
    The last one of the decoder also reads what the first of the encoder gave.

    Parameters
    ----------
    inputs, frames : int
        Channels of a folded frame, and how many are read.
    config : SimVPConfig
    """

    def __init__(self, inputs: int, frames: int, config: SimVPConfig) -> None:
        super().__init__()
        width, *between = config.hidden
        strides = [1 + n % 2 for n in range(config.spatial)]
        self.encoder = nn.ModuleList(
            rectified(nn.Conv2d(width if n else inputs, width, config.kernel, stride, padding=config.kernel // 2))
            for n, stride in enumerate(strides)
        )
        channels = frames * width
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in pairwise((channels, *between, channels))))
        self.decoder = nn.ModuleList(
            rectified(nn.Conv2d(width, width * stride**2, config.kernel, padding=config.kernel // 2), stride)
            for stride in reversed(strides)
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """Return what is read out of as many frames, (B · T, C, H, W)."""
        B, T = x_BTCHW.shape[:2]
        first, *others = self.encoder
        skip = y = full_precision(first(x_BTCHW.flatten(0, 1)))
        for layer in others:
            y = layer(y)
        y = self.blocks(y.reshape(B, -1, *y.shape[2:])).reshape(B * T, -1, *y.shape[2:])
        *others, last = self.decoder
        for layer in others:
            y = layer(y)
        out: Tensor = last(y + skip)
        return full_precision(out)


def rectified(convolution: nn.Conv2d, finer: int = 1) -> nn.Sequential:
    """Return a convolution whose channels become positions where `finer` is 2, a norm in two groups, and x σ(x)."""
    outputs = convolution.out_channels // finer**2
    norm = nn.GroupNorm(2 if outputs % 2 == 0 else 1, outputs)
    return nn.Sequential(convolution, *([nn.PixelShuffle(finer)] if finer > 1 else []), norm, nn.SiLU())


class SimVPForecaster(WholeForecaster):
    """SimVP, which gives as many frames as it reads; they are read for later ones, and cut where fewer are wanted.

    Sides that the strides do not divide are padded with zeros, and forecasts are cropped.

    Parameters
    ----------
    config : SimVPConfig
    """

    def __init__(self, config: SimVPConfig) -> None:
        super().__init__(config)
        pixels = config.channels * config.patch**2
        self.history, self.divisor = config.least_history, 2 ** (config.spatial // 2)
        self.layers = SimVP(pixels, self.history, config)
        self.head = read_out_layer(nn.Conv2d(config.hidden[0], pixels, 1), config.output)

    def forecast(self, x_BTCHW: Tensor, steps: int, truth: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the frames after x; see `WholeForecaster.forecast`."""
        frames = [x_BTCHW[:, -self.history :]]
        for _ in range(-(-steps // self.history)):
            frames.append(self.next_frames(frames[-1]))
        return torch.cat(frames[1:], 1)[:, :steps]

    def next_frames(self, x_BTCHW: Tensor) -> Tensor:
        """Return as many frames as are read."""
        patch = self.config.patch
        folded = to_multiple(fold(x_BTCHW, patch), self.divisor).permute(1, 0, 4, 2, 3)
        y_NHWC = self.head(self.layers(folded)).permute(0, 2, 3, 1).to(x_BTCHW.dtype)
        y_TBHWP = y_NHWC.reshape(*x_BTCHW.shape[:2], *y_NHWC.shape[1:]).transpose(0, 1)
        frames = unfold(y_TBHWP, patch, (x_BTCHW.shape[3], x_BTCHW.shape[4]))
        return frames + x_BTCHW[:, -1:] if self.config.output == "change" else frames


network = SimVPForecaster
