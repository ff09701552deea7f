"""DFN (De Brabandere et al., NIPS 2016): each pixel is a mean of those around it, with weights of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import Core, on_frames, read_layer
from sa_nowcast.models.maps import full_precision
from sa_nowcast.models.options import DFNConfig
from sa_nowcast.models.rollout import Network

SLOPE = 0.01
"""Of the leaky rectifiers, for negative values."""


def filtered(x_NCHW: Tensor, logits_NCDHW: Tensor) -> Tensor:
    """Return what filters of their own make of each position, with zeros outside.

    Parameters
    ----------
    x_NCHW : Tensor
    logits_NCDHW : Tensor
        Before the softmax; of D = k × k positions around each, from the upper left by rows.

    Returns
    -------
    Tensor
        Σ_d w_d(p) x(p + d) at each position p, with w the softmax over d; (N, C, H, W).
    """
    N, C, D, H, W = logits_NCDHW.shape
    width = round(D**0.5)
    around = F.unfold(x_NCHW, width, padding=width // 2).view(N, C, D, H, W)
    return (logits_NCDHW.softmax(2) * around).sum(2)


class FilterMaker(Core):
    r"""What reads the frames, and gives the features that filters are made of.

    .. math::

        S_t = E(X_t) + R(S_{t-1}), \qquad y_t = D(S_t)

    E, R and D are convolutions, each followed by a leaky rectifier: E are five, the second of which halves the sides; R
    are two; D are two, two more on twice the sides, and one of 1×1.

    Parameters
    ----------
    inputs : int
        Channels of a folded frame.
    config : DFNConfig
    """

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        first, self.state = config.hidden[0], config.hidden[-1]
        half = config.hidden[1:-1] or config.hidden[-1:]
        down, up = [width for width in half for _ in range(2)], [width for width in half[::-1] for _ in range(2)]
        self.encoder = _chain(config.kernel, inputs, first, first, *down, self.state, stride_of_second=2)
        self.recurrent = _chain(config.kernel, self.state, self.state, self.state)
        self.decoder = _chain(config.kernel, self.state, *up)
        self.finer = nn.Sequential(*_chain(config.kernel, *half[:1] * 3), *_chain(1, half[0], self.state))

    def weights(self) -> None:
        """Return nothing: the convolutions are used as they are."""

    def start(self, x_BHWC: Tensor) -> Tensor:
        """Return S_0: zeros, on half the sides."""
        B, H, W, _ = x_BHWC.shape
        return x_BHWC.new_zeros(B, -(-H // 2), -(-W // 2), self.state)

    def step(self, weights: None, x_BHWC: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read one frame; return y_t and S_t."""
        state, _ = self._next(weights, self._encoded(weights, x_BHWC), state)
        return self._decoded(x_BHWC.shape[1:3], state), state

    def read(self, weights: None, x_TBHWC: Tensor, checkpoint_steps: int = 0) -> tuple[Tensor, Tensor]:
        """Read known frames: R alone goes step by step."""
        first = self.start(x_TBHWC[0])
        states, state = read_layer(self._encoded, self._next, weights, x_TBHWC, first, checkpoint_steps)
        return on_frames(partial(self._decoded, x_TBHWC.shape[2:4]), states, checkpoint_steps), state

    def _encoded(self, weights: None, x_NHWC: Tensor) -> Tensor:
        return _on_maps(self.encoder, x_NHWC)

    def _next(self, weights: None, encoded_BHWC: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = encoded_BHWC + _on_maps(self.recurrent, state)
        return state, state

    def _decoded(self, size: Sequence[int], state_NHWC: Tensor) -> Tensor:
        y = F.interpolate(self.decoder(state_NHWC.permute(0, 3, 1, 2)), scale_factor=2.0)
        return _on_maps(self.finer, y[..., : size[0], : size[1]].permute(0, 2, 3, 1))

    def make_head(self, pixels: int, config: NetworkConfig) -> nn.Linear:
        """Return what makes the filters, one for each pixel of a patch, and where the config says so what is added."""
        assert isinstance(config, DFNConfig)
        filters = pixels * (2 * config.reach + 1) ** 2
        head = nn.Linear(config.hidden[-1], filters + pixels * config.residual)
        with torch.no_grad():
            head.weight[filters:] = 0
            head.bias[filters:] = 0
        return head


class DynamicFilterNetwork(Network):
    """DFN's network: its read-out gives the filters, one for each channel, and each frame is filtered to the next.

    Parameters
    ----------
    config : DFNConfig
    """

    def __init__(self, config: DFNConfig) -> None:
        super().__init__(config, FilterMaker)
        self.filters = config.channels * config.patch**2 * (2 * config.reach + 1) ** 2

    def read_out(self, top: Tensor, frame: Tensor) -> Tensor:
        """Return the next frame from the features and the frame that was read; of any number of steps."""
        x = frame.reshape(-1, *frame.shape[-3:]).permute(0, 3, 1, 2)
        N = x.shape[0]  # len(x) would bind an exported program to this number
        given = full_precision(self.head(top)).reshape(N, *top.shape[-3:-1], -1).permute(0, 3, 1, 2)
        y = filtered(x, given[:, : self.filters].reshape(N, x.shape[1], -1, *x.shape[2:]))
        if given.shape[1] > self.filters:
            y = y + given[:, self.filters :]
        return y.permute(0, 2, 3, 1).reshape(frame.shape)


def _chain(kernel: int, *channels: int, stride_of_second: int = 1) -> nn.Sequential:
    """Return convolutions between channels, each followed by a leaky rectifier."""
    layers: list[nn.Module] = []
    for n, (inputs, outputs) in enumerate(pairwise(channels)):
        stride = stride_of_second if n == 1 else 1
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def _on_maps(layers: nn.Module, x_NHWC: Tensor) -> Tensor:
    """Return what convolutions make of maps with their channels last."""
    return full_precision(layers(x_NHWC.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


network = DynamicFilterNetwork
