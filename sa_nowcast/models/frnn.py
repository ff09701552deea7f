"""FRNN (Oliu, Selva and Escalera, ECCV 2018): what is seen writes a stack of states upwards, the forecast downwards."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sa_nowcast.models.cells import Cell
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.convolutions import Conv, halve, in_a_row
from sa_nowcast.models.cores import Core, on_frames, read_layer
from sa_nowcast.models.maps import convolve, full_precision, prepared, to_multiple
from sa_nowcast.models.options import FRNNConfig

PER_SCALE = 2
"""Layers between two poolings."""


class Weights(NamedTuple):
    """The kernels of a `ConvGRU` as every step of a sequence uses them."""

    input: Tensor
    gates: Tensor
    candidate: Tensor


class Kernel(nn.Module):
    """The kernel of a convolution without a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        nn.init.xavier_uniform_(self.weight)

    def prepared(self) -> Tensor:
        """Return the kernel as every step of a sequence uses it."""
        return prepared(self.weight)


class ConvGRU(Cell):
    r"""A GRU whose products are convolutions.

    .. math::

        (z, r) = σ(W_x ∗ x + W_h ∗ h + b), \quad n = \tanh(W_x ∗ x + W_h ∗ (r ∘ h) + b), \qquad
        h' = z ∘ n + (1 - z) ∘ h

    Parameters
    ----------
    inputs, hidden : int
        Channels of x and of h.
    kernel : int
        Width of all convolutions.
    """

    kernels = Weights

    def __init__(self, inputs: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.input = Kernel(inputs, 3 * hidden, kernel)
        self.gates = Kernel(hidden, 2 * hidden, kernel)
        self.candidate = Kernel(hidden, hidden, kernel)
        self.bias = nn.Parameter(torch.zeros(3 * hidden))

    def inputs(self, weights: Weights, x_NHWC: Tensor) -> Tensor:
        """Return what x and the bias give to z, r and n, for any number of frames at once."""
        return full_precision(convolve(x_NHWC, weights.input, bias=self.bias))

    def forward(self, weights: Weights, inputs_BHWG: Tensor, h_BHWC: Tensor) -> Tensor:
        """Return h'."""
        return self.step(weights, inputs_BHWG, h_BHWC)[0]

    def step(self, weights: Weights, inputs_BHWG: Tensor, h_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Return h' as output and as state."""
        width = h_BHWC.shape[-1]
        given, to_n = torch.split(inputs_BHWG, [2 * width, width], dim=-1)
        z, r = (given + full_precision(convolve(h_BHWC, weights.gates))).sigmoid().chunk(2, dim=-1)
        n = (to_n + full_precision(convolve(r * h_BHWC, weights.candidate))).tanh()
        h = torch.lerp(h_BHWC, n, z)
        return h, h


class BijectiveGRU(nn.Module):
    """A layer: a GRU from the state below to that above, and one back, which share both states.

    Parameters
    ----------
    below, above : int
        Channels of the two states.
    kernel : int
        Width of all convolutions.
    """

    def __init__(self, below: int, above: int, kernel: int) -> None:
        super().__init__()
        self.up = ConvGRU(below, above, kernel)
        self.down = ConvGRU(above, below, kernel)
        self.first = nn.Parameter(torch.zeros(above))


class State(NamedTuple):
    """The state below each layer, from the lowest layer on, and that of the top."""

    below: list[Tensor]
    top: Tensor


class Folded(Core):
    r"""The network, from maps to maps: h^0 is made of the frame, and h^l stands above layer l = 1..L.

    .. math::

        \text{history:} \quad h^0_t = \mathrm{pool}(\tanh(W_2 ∗ \tanh(W_1 ∗ x_t + b_1) + b_2)), \qquad
        h^l_t = \mathrm{GRU}^l_{up}(h^{l-1}_t, h^l_{t-1})

        \text{forecast:} \quad h^{l-1}_t = \mathrm{GRU}^l_{down}(h^l_t, h^{l-1}_{t-1}), \qquad
        x_t = W'_1 ∗ \tanh(W'_2 ∗ \mathrm{unpool}(h^0_t) + b'_2) + b'_1

    From the second forecast on, the top is renewed before: :math:`h^L_t = \mathrm{GRU}^L_{up}(h^{L-1}_{t-1},
    h^L_{t-1})`. Every two layers what is handed up is halved by its largest values, and what is handed down doubled.
    No frame is fed back.

    Parameters
    ----------
    inputs : int
        Channels of the maps that are read.
    config : NetworkConfig
        ``hidden`` are the channels of h^1..h^L, ``stem`` those of W₁; W₂ has twice as many. ``kernel`` is that of the
        frame and of the layers of the lowest two scales, from 5 on by 2 more than that of the scales above.
    """

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        assert isinstance(config, FRNNConfig)
        stem, k = config.stem, config.kernel
        self.encoder = in_a_row([inputs, stem, 2 * stem], k, torch.tanh)
        below = (2 * stem, *config.hidden[:-1])
        kernels = [k if n < 2 * PER_SCALE else min(k, max(k - 2, 3)) for n in range(len(below))]
        self.stack = nn.ModuleList(BijectiveGRU(*args) for args in zip(below, config.hidden, kernels, strict=True))
        self.decoder = Conv(2 * stem, stem, k, torch.tanh)
        self.of_scale = 2 ** -(-len(below) // PER_SCALE)

    def make_head(self, pixels: int, config: NetworkConfig) -> Conv:
        """Return the convolution that gives the frame, bounded by tanh where the config says so."""
        assert isinstance(config, FRNNConfig)
        return Conv(config.stem, pixels, config.kernel, torch.tanh if config.bounded else None)

    def weights(self) -> Any:
        """Return the weights of each layer, upwards and downwards."""
        return [(layer.up.weights(), layer.down.weights()) for layer in self._layers]

    @property
    def _layers(self) -> list[BijectiveGRU]:
        return cast("list[BijectiveGRU]", list(self.stack))

    def start(self, x_BHWC: Tensor) -> list[Tensor]:
        """Return the learned state above each layer, before the first frame."""
        B, *size = x_BHWC.shape[:3]
        coarse = [2 ** (1 + n // PER_SCALE) for n in range(len(self._layers))]
        sizes = [[-(-side // self.of_scale) * self.of_scale // c for side in size] for c in coarse]
        return [layer.first.expand(B, *size, -1) for layer, size in zip(self._layers, sizes, strict=True)]

    def read(self, weights: Any, x_TBHWC: Tensor, checkpoint_steps: int = 0) -> tuple[Tensor, State]:
        """Read known frames layer by layer, and give the first forecast."""
        below, at_first = [], self.start(x_TBHWC[0])
        x = on_frames(self._encode, x_TBHWC, checkpoint_steps)
        for n, (layer, (up, _), h) in enumerate(zip(self._layers, weights, at_first, strict=True)):
            if n % PER_SCALE == 0:
                x = on_frames(halve, x)
            below.append(x[-1])
            x, _ = read_layer(layer.up.inputs, layer.up.step, up, x, h, checkpoint_steps)
        out, state = self._down(weights, State(below, x[-1]), x_TBHWC)
        return out[None], state

    def step(self, weights: Any, x_BHWC: Tensor, state: State) -> tuple[Tensor, State]:
        """Give the next forecast; of the frame only the size is read."""
        up, layer = weights[-1][0], self._layers[-1]
        top = layer.up(up, layer.up.inputs(up, state.below[-1]), state.top)
        return self._down(weights, State(state.below, top), x_BHWC)

    def _encode(self, x_NHWC: Tensor) -> Tensor:
        y: Tensor = self.encoder(to_multiple(x_NHWC, self.of_scale))
        return y

    def _down(self, weights: Any, state: State, like: Tensor) -> tuple[Tensor, State]:
        """Return what the head reads, and the states on the way down."""
        x, below = state.top, list(state.below)
        for n in reversed(range(len(below))):
            layer, down = self._layers[n], weights[n][1]
            x = below[n] = layer.down(down, layer.down.inputs(down, x), below[n])
            if n % PER_SCALE == 0:
                x = double(x)
        y: Tensor = self.decoder(x)[:, : like.shape[-3], : like.shape[-2]]
        return y, State(below, state.top)


def double(x_NHWC: Tensor) -> Tensor:
    """Return every value at 2×2 positions."""
    return F.interpolate(x_NHWC.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest").permute(0, 2, 3, 1)


core = Folded
