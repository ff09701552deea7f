"""Causal LSTM (Wang et al., ICML 2018): ST-LSTM whose second memory reads what the first has just become."""

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
    """The kernels of a `CausalLSTM` as every step of a sequence uses them."""

    input: Tensor
    hidden: Tensor
    cell: Tensor
    memory: Tensor
    new_cell: Tensor
    new_memory: Tensor
    joined: Tensor


class CausalLSTM(TwoMemoryCell):
    r"""The cell.

    .. math::

        (i, f) &= σ(W_1 ∗ [X_t, H_{t-1}, C_{t-1}] + b), \quad g = \tanh(W_1 ∗ [X_t, H_{t-1}, C_{t-1}] + b), \quad
        C_t = f ∘ C_{t-1} + i ∘ g

        (i', f') &= σ(W_2 ∗ [X_t, C_t, M] + b'), \quad g' = \tanh(W_2 ∗ [X_t, C_t] + b'), \quad
        M' = f' ∘ \tanh(W_3 ∗ M) + i' ∘ g'

        o &= \tanh(W_4 ∗ [X_t, H_{t-1}, C_t, M'] + b_o), \qquad H_t = o ∘ \tanh(W_5 ∗ [C_t; M'])

    M is the memory of the layer below at the same step, or of the top one at the step before; W_5 is 1×1.

    Parameters
    ----------
    inputs : int
        Channels of X_t.
    memory : int
        Channels of M.
    hidden : int
        Channels of H, C, M' and of every gate.
    config : NetworkConfig
    forgets : bool
        Whether f is part of it; without, what is given as `kept` takes the place of f ∘ C_{t-1}.
    """

    kernels = Weights

    def __init__(self, inputs: int, memory: int, hidden: int, config: NetworkConfig, forgets: bool = True) -> None:
        super().__init__(inputs, hidden, config, forgets)
        self.cell = Convolution(hidden, self.split[0], config)  # i, f, g
        self.memory = Convolution(memory, 3 * hidden, config)  # i', f', what is kept of M
        self.new_cell = Convolution(hidden, 4 * hidden, config)  # i', f', g', o
        self.new_memory = Convolution(hidden, hidden, config)  # o
        self.joined = Pointwise(2 * hidden, hidden)

    def forward(
        self,
        weights: Weights,
        inputs_BHWG: Tensor,
        h: Tensor | None,
        c: Tensor | None,
        m: Tensor | None,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return H_t, C_t and M'; no H, C or M stands for zeros."""
        to_c, to_m, to_o = self.addends(weights, inputs_BHWG, h)
        width = self.split[1]
        if c is not None:
            to_c.append(self.cell(weights.cell, c))
        zeros = inputs_BHWG.new_zeros(*inputs_BHWG.shape[:3], width)
        c = cell_update(zeros if c is None else c, *to_c)[0] if kept is None else kept + gain_of(*to_c)
        from_c = torch.split(self.new_cell(weights.new_cell, c), [3 * width, width], dim=-1)
        to_m.append(from_c[0])
        mixed = zeros
        if m is not None:
            gates, mixed = torch.split(self.memory(weights.memory, m), [2 * width, width], dim=-1)
            to_m.append(gates)
            mixed = mixed.tanh()
        m, _ = cell_update(mixed, *to_m)
        both = torch.cat([c, m], dim=-1)
        to_o += [from_c[1], self.new_memory(weights.new_memory, m)]
        return gated_output(full_precision(both @ weights.joined), *to_o, squash=True), c, m


class Layer(CellLayer):
    """One layer of Causal LSTM."""

    def __init__(self, inputs: int, memory: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__(inputs, memory, hidden, config)
        self.cell = CausalLSTM(inputs, memory, hidden, config)


core = partial(Zigzag, Layer)
