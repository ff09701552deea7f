"""PredRNN (Wang et al., NeurIPS 2017): layers of ST-LSTM, through which a second memory goes in a zigzag."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sa_nowcast.models.cells import Convolution, cell_update, gain_of, gate_bias, gated_output
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.maps import full_precision, prepared
from sa_nowcast.models.rollout import Zigzag, ZigzagLayer

State = tuple[Tensor | None, Tensor]


class Weights(NamedTuple):
    """The kernels of a `Layer` as every step of a sequence uses them."""

    input: Tensor
    hidden: Tensor
    memory: Tensor
    output: Tensor
    joined: Tensor


class STLSTM(nn.Module):
    r"""The spatiotemporal LSTM.

    .. math::

        (i, f) &= σ(W_x ∗ X_t + W_h ∗ H_{t-1} + b), \quad g = \tanh(W_x ∗ X_t + W_h ∗ H_{t-1} + b), \quad
        C_t = f ∘ C_{t-1} + i ∘ g

        (i', f') &= σ(W'_x ∗ X_t + W_m ∗ M + b'), \quad g' = \tanh(W'_x ∗ X_t + W_m ∗ M + b'), \quad
        M' = f' ∘ M + i' ∘ g'

        o &= σ(W_x ∗ X_t + W_h ∗ H_{t-1} + W_o ∗ [C_t; M'] + b_o), \qquad H_t = o ∘ \tanh(W_{1×1} ∗ [C_t; M'])

    M is the memory of the layer below at the same step, or of the top one at the step before; M' goes on.

    Parameters
    ----------
    inputs : int
        Channels of X_t.
    hidden : int
        Channels of H, C, M and of every gate.
    config : NetworkConfig
    forgets : bool
        Whether f is part of it; without, what is given as `kept` takes the place of f ∘ C_{t-1}.
    """

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig, forgets: bool = True) -> None:
        super().__init__()
        of_c = "ifg" if forgets else "ig"
        self.split = [len(of_c) * hidden, hidden]
        bias = gate_bias(hidden, of_c + "ifgo", config.forget_bias)
        self.input = Convolution(inputs, len(bias), config, bias)
        self.hidden = Convolution(hidden, sum(self.split), config)
        self.memory = Convolution(hidden, 3 * hidden, config)
        self.output = Convolution(2 * hidden, hidden, config)
        self.joined = nn.Linear(2 * hidden, hidden, bias=False)

    def weights(self) -> Weights:
        """Return the kernels as every step of a sequence uses them."""
        return Weights(
            self.input.prepared(),
            self.hidden.prepared(),
            self.memory.prepared(),
            self.output.prepared(),
            prepared(self.joined.weight.T),
        )

    def forward(
        self,
        weights: Weights,
        inputs_BHWG: Tensor,
        h: Tensor | None,
        c: Tensor,
        m: Tensor | None,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return H_t, C_t, M' and what C and M gained, i ∘ g and i' ∘ g'; no H or M stands for zeros."""
        of_c, width = self.split
        to_c, to_m, to_o = ([part] for part in torch.split(inputs_BHWG, [of_c, 3 * width, width], dim=-1))
        if h is not None:
            from_h = torch.split(self.hidden(weights.hidden, h), self.split, dim=-1)
            to_c.append(from_h[0])
            to_o.append(from_h[1])
        if m is not None:
            to_m.append(self.memory(weights.memory, m))
        if kept is None:
            c, gain_c = cell_update(c, *to_c)
        else:
            gain_c = gain_of(*to_c)
            c = kept + gain_c
        m, gain_m = cell_update(torch.zeros_like(c) if m is None else m, *to_m)
        both = torch.cat([c, m], dim=-1)
        h = gated_output(full_precision(both @ weights.joined), *to_o, self.output(weights.output, both))
        return h, c, m, (gain_c, gain_m)


class Layer(ZigzagLayer[Weights, State]):
    """One layer of PredRNN, an `STLSTM`; its state is (H, C), and its output H."""

    def __init__(self, inputs: int, memory: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__(inputs, memory, hidden, config)
        self.width = hidden
        self.cell = STLSTM(inputs, hidden, config)

    def weights(self) -> Weights:
        """Return the weights as every step of a sequence uses them."""
        return self.cell.weights()

    def start(self, x_BHWC: Tensor) -> State:
        """Return H_0 and C_0: zeros."""
        return None, x_BHWC.new_zeros(*x_BHWC.shape[:3], self.width)

    def inputs(self, weights: Weights, x_NHWC: Tensor) -> Tensor:
        """Return what X gives to all gates, for any number of frames at once."""
        y: Tensor = self.cell.input(weights.input, x_NHWC)
        return y

    def step(
        self, weights: Weights, inputs_BHWG: Tensor, state: State, memory_BHWC: Tensor | None
    ) -> tuple[Tensor, State, Tensor]:
        """Return H_t, the next state and the memory."""
        h, c, m, _ = self.cell(weights, inputs_BHWG, *state, memory_BHWC)
        return h, (h, c), m


core = partial(Zigzag, Layer)
