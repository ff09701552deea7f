"""PredRNN (Wang et al., NeurIPS 2017): layers of ST-LSTM, through which a second memory goes in a zigzag."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sa_nowcast.models.cells import CellLayer, Convolution, Pointwise, TwoMemoryCell, cell_update, gain_of, gated_output
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import Zigzag
from sa_nowcast.models.maps import full_precision


class Weights(NamedTuple):
    """The kernels of a `Layer` as every step of a sequence uses them."""

    input: Tensor
    hidden: Tensor
    memory: Tensor
    output: Tensor
    joined: Tensor


class STLSTM(TwoMemoryCell):
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

    kernels = Weights

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig, forgets: bool = True) -> None:
        super().__init__(inputs, hidden, config, forgets)
        self.memory = Convolution(hidden, 3 * hidden, config)
        self.output = Convolution(2 * hidden, hidden, config)
        self.joined = Pointwise(2 * hidden, hidden)

    def forward(
        self,
        weights: Weights,
        inputs_BHWG: Tensor,
        h: Tensor | None,
        c: Tensor | None,
        m: Tensor | None,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return H_t, C_t, M' and what C and M gained, i ∘ g and i' ∘ g'; no H, C or M stands for zeros."""
        to_c, to_m, to_o = self.addends(weights, inputs_BHWG, h)
        zeros = inputs_BHWG.new_zeros(*inputs_BHWG.shape[:3], self.split[1])
        if m is not None:
            to_m.append(self.memory(weights.memory, m))
        if kept is None:
            c, gain_c = cell_update(zeros if c is None else c, *to_c)
        else:
            gain_c = gain_of(*to_c)
            c = kept + gain_c
        m, gain_m = cell_update(zeros if m is None else m, *to_m)
        both = torch.cat([c, m], dim=-1)
        h = gated_output(full_precision(both @ weights.joined), *to_o, self.output(weights.output, both))
        return h, c, m, (gain_c, gain_m)


class Layer(CellLayer):
    """One layer of PredRNN, an `STLSTM`."""

    def __init__(self, inputs: int, memory: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__(inputs, memory, hidden, config)
        self.cell: STLSTM = STLSTM(inputs, hidden, config)


core = partial(Zigzag, Layer)
