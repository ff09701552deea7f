"""MCNet (Villegas et al., ICLR 2017): what moves is encoded from differences of frames, what is there from the last."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.convolutions import Conv, halve, in_a_row
from sa_nowcast.models.cores import Core, read_layer
from sa_nowcast.models.gates import Gates, GateWeights
from sa_nowcast.models.maps import to_multiple
from sa_nowcast.models.options import MCNetConfig


class State(NamedTuple):
    """H and C of the motion, and the last frame that was read."""

    h: Tensor | None
    c: Tensor
    last: Tensor


class MotionAndContent(Core):
    r"""MCNet, from maps to maps; scales l = 1..L are those of ``config.hidden``, each half as large as the one before.

    .. math::

        m^l &= \mathrm{relu}(W_m^l ∗ \mathrm{pool}(m^{l-1})), \quad m^0 = x_t - x_{t-1}; \qquad
        H_t, C_t = \mathrm{ConvLSTM}(\mathrm{pool}(m^L), H_{t-1}, C_{t-1})

        s^l &= \mathrm{convs}(\mathrm{pool}(s^{l-1})), \quad s^0 = x_t; \qquad
        r^l = W_2 ∗ \mathrm{relu}(W_1 ∗ [m^l; s^l] + b_1) + b_2

        d^L &= \mathrm{convs}([H_t; \mathrm{pool}(s^L)]); \qquad
        d^{l-1} = \mathrm{convs}(\mathrm{relu}(\mathrm{unpool}(d^l) + r^l))

    pool takes the largest of 2×2 positions, and unpool puts each value in the upper left of 2×2 zeros. The first frame
    has no difference; of a history of one frame it is zero.

    Parameters
    ----------
    inputs : int
        Channels of the maps that are read.
    config : NetworkConfig
        Motion is read by kernels of ``kernel``, at the last scale by two more, all else by 3.
    """

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        widths = config.hidden
        below, top, scales = (inputs, *widths[:-1]), widths[-1], len(widths)
        kernels = [*[config.kernel] * (scales - 1), config.kernel + 2]
        self.of_scale = 2**scales
        assert isinstance(config, MCNetConfig)
        self.weight = config.gradient_difference
        # As many convolutions at a scale as in VGG16's first three: 2, and 3 at the last.
        more = [[w] * (2 if n == scales - 1 else 1) for n, w in enumerate(widths)]
        self.motion = nn.ModuleList(Conv(*args, torch.relu) for args in zip(below, widths, kernels, strict=True))
        self.dynamics = Gates(top, top, 3, config.forget_bias, norm=False)
        self.content = nn.ModuleList(in_a_row([b, w, *also], 3) for b, w, also in zip(below, widths, more, strict=True))
        self.combination = in_a_row([2 * top, top, max(top // 2, 1), top], 3)
        self.residual = nn.ModuleList(nn.Sequential(Conv(2 * w, w, 3, torch.relu), Conv(w, w, 3)) for w in widths)
        # The last convolution of the lowest scale is the head.
        self.decoder = nn.ModuleList(
            in_a_row([w, *also, *([b] if n else [])], 3)
            for n, (b, w, also) in enumerate(zip(below, widths, more, strict=True))
        )

    def make_head(self, pixels: int, config: NetworkConfig) -> Conv:
        """Return the last convolution of the decoder, bounded by tanh where the config says so."""
        bounded = isinstance(config, MCNetConfig) and config.bounded
        return Conv(config.hidden[0], pixels, 3, torch.tanh if bounded else None)

    def weights(self) -> GateWeights:
        """Return the weights as every step of a sequence uses them."""
        return self.dynamics.weights()

    def start(self, x_BHWC: Tensor) -> State:
        """Return zeros, and the first frame as the one before it."""
        B, H, W = x_BHWC.shape[:3]
        size = (-(-side // self.of_scale) for side in (H, W))
        return State(None, x_BHWC.new_zeros(B, *size, self.dynamics.bias.shape[0] // 4), x_BHWC)

    def step(self, weights: GateWeights, x_BHWC: Tensor, state: State) -> tuple[Tensor, State]:
        """Read the change since the last frame, and give the next one."""
        moved = x_BHWC - state.last
        h, (_, c) = self._move(weights, self._inputs(weights, moved), state[:2])
        return self._decode(x_BHWC, moved, h), State(h, c, x_BHWC)

    def read(self, weights: GateWeights, x_TBHWC: Tensor, checkpoint_steps: int = 0) -> tuple[Tensor, State]:
        """Read the changes between known frames, and give the one after the last."""
        moved = x_TBHWC.diff(dim=0) if x_TBHWC.shape[0] > 1 else torch.zeros_like(x_TBHWC)
        *at_first, last = self.start(x_TBHWC[-1])
        _, (h, c) = read_layer(self._inputs, self._move, weights, moved, tuple(at_first), checkpoint_steps)
        return self._decode(last, moved[-1], h)[None], State(h, c, last)

    def _inputs(self, weights: GateWeights, moved_NHWC: Tensor) -> Tensor:
        return self.dynamics.inputs(weights, self._encode(self.motion, moved_NHWC)[0])

    def _move(self, weights: GateWeights, inputs_BHWG: Tensor, state: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, c = self.dynamics(weights, inputs_BHWG, *state)
        return h, (h, c)

    def _encode(self, convolutions: Any, x_NHWC: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what is left at the smallest scale, and the maps of each scale before they are halved."""
        x, scales = to_multiple(x_NHWC, self.of_scale), []
        for convolve in convolutions:
            scales.append(convolve(x))
            x = halve(scales[-1])
        return x, scales

    def _decode(self, x_BHWC: Tensor, moved_BHWC: Tensor, h_BHWC: Tensor) -> Tensor:
        """Return what the head reads, from the last frame, the last change, and H."""
        _, of_motion = self._encode(self.motion, moved_BHWC)
        what, of_content = self._encode(self.content, x_BHWC)
        y = self.combination(torch.cat([h_BHWC, what], dim=-1))
        scales = zip(self.decoder, self.residual, of_motion, of_content, strict=True)
        for convolve, residual, m, s in reversed(list(scales)):
            y = convolve((unpool(y) + residual(torch.cat([m, s], dim=-1))).relu())
        frame: Tensor = y[:, : x_BHWC.shape[1], : x_BHWC.shape[2]]
        return frame

    def penalty_of_frames(self, predictions_BTCHW: Tensor, truth_BTCHW: Tensor) -> Tensor | None:
        """Return the gradient-difference loss, weighted."""
        return self.weight * gradient_difference(predictions_BTCHW, truth_BTCHW) if self.weight else None


def unpool(x_BHWC: Tensor) -> Tensor:
    """Return each value in the upper left of 2×2 zeros."""
    B, H, W, C = x_BHWC.shape
    y = x_BHWC.new_zeros(B, H, 2, W, 2, C)
    y[:, :, 0, :, 0] = x_BHWC
    return y.view(B, 2 * H, 2 * W, C)


def gradient_difference(predictions: Tensor, truth: Tensor) -> Tensor:
    r"""Return the gradient-difference loss of frames, with exponent 1.

    .. math::

        \mathrm{mean} \left| |y_{i,j} - y_{i-1,j}| - |ŷ_{i,j} - ŷ_{i-1,j}| \right|
        + \mathrm{mean} \left| |y_{i,j} - y_{i,j-1}| - |ŷ_{i,j} - ŷ_{i,j-1}| \right|

    Parameters
    ----------
    predictions, truth : Tensor, shape (..., H, W)
        A direction in which the grid has one pixel counts nothing.

    Notes
    -----
    After Mathieu, Couprie and LeCun (ICLR 2016), equation 6, arXiv:1511.05440.
    """
    total = predictions.new_zeros(())
    for dim in (-2, -1):
        if truth.shape[dim] > 1:
            total = total + (truth.diff(dim=dim).abs() - predictions.diff(dim=dim).abs()).abs().mean()
    return total


core = MotionAndContent
