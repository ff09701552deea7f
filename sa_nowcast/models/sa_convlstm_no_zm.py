"""The ablation whose attention does not look into the memory (table 1): Z = W_z Z_h."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sa_nowcast.models.attention import Attention, AttentionWeights
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import Stack
from sa_nowcast.models.gates import GatedLayer, GateWeights
from sa_nowcast.models.memory import MemoryGates, MemoryWeights

Weights = tuple[GateWeights, AttentionWeights, MemoryWeights]
State = tuple[Tensor | None, Tensor, Tensor]


class Layer(GatedLayer[Weights, State]):
    r"""One layer with self-attention and memory, kept apart; its state is (Ĥ, C, M), and its output Ĥ.

    .. math::

        (H_t, C_t) &= \mathrm{ConvLSTM}(X_t, Ĥ_{t-1}, C_{t-1}), \qquad
        Z = W_z V_h\, \mathrm{softmax}(Q_h^⊤ K_h)^⊤

        (i', o') &= σ(W_{m;z} ∗ Z + W_{m;h} ∗ H_t + b_m), \quad g' = \tanh(W_{m;z} ∗ Z + W_{m;h} ∗ H_t + b_m)

        M_t &= (1 - i') ∘ M_{t-1} + i' ∘ g', \qquad Ĥ_t = o' ∘ M_t
    """

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__(inputs, hidden, config)
        self.attention = Attention(hidden, 1, config.key_channels, config.score_scale, config.key_stride)
        self.memory = MemoryGates(2 * hidden, hidden)

    def weights(self) -> Weights:
        """Return the weights as every step of a sequence uses them."""
        return self.gates.weights(), self.attention.weights(), self.memory.weights()

    def start(self, x_BHWC: Tensor) -> State:
        """Return Ĥ_0, C_0 and M_0: zeros."""
        zeros = self.zeros(x_BHWC)
        return None, zeros, zeros

    def step(self, weights: Weights, inputs_BHWG: Tensor, state: State) -> tuple[Tensor, State]:
        """Return Ĥ_t and the next state."""
        h_hat, c, m = state
        h, c = self.gates(weights[0], inputs_BHWG, h_hat, c)
        z = self.attention(weights[1], h, (h,))
        h_hat, m = self.memory(weights[2], torch.cat([z, h.to(z.dtype)], dim=-1), m)
        return h_hat, (h_hat, c, m)

    def attention_rows(
        self, weights: Weights, x_BHWC: Tensor, state: State, position: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return how a position of H_t weighs the positions of H_t."""
        h_hat, c, _ = state
        h, _ = self.gates(weights[0], self.inputs(weights, x_BHWC), h_hat, c)
        return {"H": self.attention.row(weights[1], h, (h,), position)[:, 0]}


core = partial(Stack, Layer)
