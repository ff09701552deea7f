"""The baseline of Video Pixel Networks (Kalchbrenner et al., ICML 2017): pixels that do not depend on each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.convlstm import PlainLayer
from sa_nowcast.models.convolutions import Conv
from sa_nowcast.models.cores import Core, Stack, on_frames
from sa_nowcast.models.options import VPNConfig


class MultiplicativeUnit(nn.Module):
    r"""The multiplicative unit.

    .. math::

        (g_1, g_2, g_3) = σ(W ∗ h + b), \quad u = \tanh(W ∗ h + b), \qquad
        \mathrm{MU}(h) = g_1 ∘ \tanh(g_2 ∘ h + g_3 ∘ u)

    Parameters
    ----------
    width : int
        Channels of h and of what is given.
    kernel : int
        Width of its four convolutions.
    spread : int
        Distance of the positions that they read.
    """

    def __init__(self, width: int, kernel: int, spread: int = 1) -> None:
        super().__init__()
        self.gates = Conv(width, 4 * width, kernel, spread=spread)

    def forward(self, h_NHWC: Tensor) -> Tensor:
        """Return (N, H, W, width)."""
        g1, g2, g3, u = self.gates(h_NHWC).chunk(4, dim=-1)
        y: Tensor = g1.sigmoid() * (g2.sigmoid() * h_NHWC + g3.sigmoid() * u.tanh()).tanh()
        return y


class ResidualBlock(nn.Module):
    r"""The residual multiplicative block.

    .. math::

        \mathrm{RMB}(h) = h + W_2 ∗ \mathrm{MU}(\mathrm{MU}(W_1 ∗ h + b_1)) + b_2

    with 1×1 convolutions, between which there are half the channels.

    Parameters
    ----------
    width, kernel, spread
        As for `MultiplicativeUnit`.
    """

    def __init__(self, width: int, kernel: int, spread: int = 1) -> None:
        super().__init__()
        half = max(width // 2, 1)
        self.narrow = Conv(width, half, 1)
        self.units = nn.Sequential(*(MultiplicativeUnit(half, kernel, spread) for _ in range(2)))
        self.widen = Conv(half, width, 1)

    def forward(self, h_NHWC: Tensor) -> Tensor:
        """Return (N, H, W, width)."""
        y: Tensor = h_NHWC + self.widen(self.units(self.narrow(h_NHWC)))
        return y


class Baseline(Core):
    r"""The network, from maps to maps.

    .. math::

        e_t = \mathrm{RMB}^{n}(W ∗ x_t + b), \qquad H_t, C_t = \mathrm{ConvLSTM}(e_t, H_{t-1}, C_{t-1}), \qquad
        y_t = \mathrm{RMB}^{m}(H_t)

    y_t does not read the frame that it predicts. Each row of layers is of one width: the encoder has that of the first
    ConvLSTM, the decoder that of the last.

    Parameters
    ----------
    inputs : int
        Channels of the maps that are read.
    config : NetworkConfig
        ``hidden`` are the widths of the ConvLSTMs, one in the paper; n is ``encoder_blocks``, m ``decoder_blocks``.
    """

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        assert isinstance(config, VPNConfig)
        first, last, kernel = config.hidden[0], config.hidden[-1], config.kernel
        spreads = [2 ** (n % 4) if config.dilated else 1 for n in range(config.encoder_blocks)]
        self.encoder = nn.Sequential(
            Conv(inputs, first, kernel), *(ResidualBlock(first, kernel, spread) for spread in spreads)
        )
        self.context = Stack(PlainLayer, first, config)
        self.decoder = nn.Sequential(*(ResidualBlock(last, kernel) for _ in range(config.decoder_blocks)))

    def make_head(self, pixels: int, config: NetworkConfig) -> Conv:
        """Return a 1×1 convolution, bounded by the logistic sigmoid where the config says so."""
        bounded = isinstance(config, VPNConfig) and config.bounded
        return Conv(config.hidden[-1], pixels, 1, torch.sigmoid if bounded else None)

    def weights(self) -> list[Any]:
        """Return the weights of the ConvLSTMs as every step of a sequence uses them."""
        return self.context.weights()

    def start(self, x_BHWC: Tensor) -> list[Any]:
        """Return the state of each ConvLSTM before the first frame."""
        return self.context.start(x_BHWC)

    def step(self, weights: list[Any], x_BHWC: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Read one frame."""
        h, state = self.context.step(weights, self.encoder(x_BHWC), state)
        return self.decoder(h), state

    def read(self, weights: list[Any], x_TBHWC: Tensor, checkpoint_steps: int = 0) -> tuple[Tensor, list[Any]]:
        """Read known frames: they are encoded and decoded at once."""
        encoded = on_frames(self.encoder, x_TBHWC, checkpoint_steps)
        h, state = self.context.read(weights, encoded, checkpoint_steps)
        return on_frames(self.decoder, h, checkpoint_steps), state

    def compile_parts(self, **options: Any) -> None:
        """Compile encoder, decoder, and both halves of every ConvLSTM."""
        self.encoder.compile(dynamic=False, **options)
        self.decoder.compile(dynamic=False, **options)
        self.context.compile_parts(**options)


core = Baseline
