"""PredRNN++ (Wang et al., ICML 2018): layers of Causal LSTM, and a gradient highway above the first."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sa_nowcast.models import causal_lstm
from sa_nowcast.models.cells import Cell, Convolution
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import MakeZigzagLayer, Zigzag, ZigzagLayer

Weights = tuple["HighwayWeights", Any]
State = tuple[Tensor | None, Any]


class HighwayWeights(NamedTuple):
    """The kernels of a `GradientHighway` as every step of a sequence uses them."""

    input: Tensor
    state: Tensor


class GradientHighway(Cell):
    r"""The gradient highway unit, whose state few steps stand between and any frame before.

    .. math::

        P = \tanh(W_{px} ∗ X_t + W_{pz} ∗ Z_{t-1} + b_p), \quad S = σ(W_{sx} ∗ X_t + W_{sz} ∗ Z_{t-1} + b_s), \quad
        Z_t = S ∘ P + (1 - S) ∘ Z_{t-1}

    Parameters
    ----------
    channels : int
        Channels of X and of Z.
    config : NetworkConfig
    """

    kernels = HighwayWeights

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.input = Convolution(channels, 2 * channels, config, torch.zeros(2 * channels))
        self.state = Convolution(channels, 2 * channels, config)

    def forward(self, weights: HighwayWeights, x: Tensor, z: Tensor | None) -> Tensor:
        """Return Z_t; no Z_{t-1} stands for zeros."""
        gates: Tensor = self.input(weights.input, x)
        if z is not None:
            gates = gates + self.state(weights.state, z)
        p, s = gates.chunk(2, dim=-1)
        p, s = p.tanh(), s.sigmoid()
        return s * p if z is None else torch.lerp(z, p, s)


class HighwayLayer(ZigzagLayer[Weights, State]):
    """A layer that reads the highway in place of the layer below; its state is Z, and that of the layer."""

    def __init__(
        self,
        inputs: int,
        memory: int,
        hidden: int,
        config: NetworkConfig,
        layer: MakeZigzagLayer = causal_lstm.Layer,
    ) -> None:
        super().__init__(inputs, memory, hidden, config)
        self.highway = GradientHighway(inputs, config)
        self.layer = layer(inputs, memory, hidden, config)

    def weights(self) -> Weights:
        """Return the weights as every step of a sequence uses them."""
        return self.highway.weights(), self.layer.weights()

    def start(self, x_BHWC: Tensor) -> State:
        """Return Z_0, zeros which add nothing, and the state of the layer."""
        return None, self.layer.start(x_BHWC)

    def inputs(self, weights: Weights, x_NHWC: Tensor) -> Tensor:
        """Return the map below as it is: what the cell reads depends on the highway's state."""
        return x_NHWC

    def step(self, weights: Weights, inputs_BHWG: Tensor, state: State, memory_BHWC: Any) -> tuple[Tensor, State, Any]:
        """Return H_t, the next state and the memory."""
        of_highway, of_layer = weights
        z, its = state
        z = self.highway(of_highway, inputs_BHWG, z)
        h, its, m = self.layer.step(of_layer, self.layer.inputs(of_layer, z), its, memory_BHWC)
        return h, (z, its), m


def core(inputs: int, config: NetworkConfig) -> Zigzag:
    """Return the stack: the second layer has the highway, and a stack of one has none."""
    layers: list[MakeZigzagLayer] = [causal_lstm.Layer] * len(config.hidden)
    layers[1:2] = [HighwayLayer] * len(layers[1:2])
    return Zigzag(layers, inputs, config)
