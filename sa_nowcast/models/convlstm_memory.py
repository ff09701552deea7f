"""The ablation with the memory and without self-attention (table 1): SAM's gates read H_t alone."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import Stack
from sa_nowcast.models.gates import GatedLayer, GateWeights
from sa_nowcast.models.memory import MemoryGates, MemoryWeights

Weights = tuple[GateWeights, MemoryWeights]
State = tuple[Tensor | None, Tensor, Tensor]


class Layer(GatedLayer[Weights, State]):
    r"""One layer of ConvLSTM with memory; its state is (Ĥ, C, M), and its output Ĥ.

    .. math::

        (H_t, C_t) &= \mathrm{ConvLSTM}(X_t, Ĥ_{t-1}, C_{t-1})

        (i', o') &= σ(W_{m;h} ∗ H_t + b_m), \quad g' = \tanh(W_{m;h} ∗ H_t + b_m)

        M_t &= (1 - i') ∘ M_{t-1} + i' ∘ g', \qquad Ĥ_t = o' ∘ M_t
    """

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__(inputs, hidden, config)
        self.memory = MemoryGates(hidden, hidden)

    def weights(self) -> Weights:
        """Return the weights as every step of a sequence uses them."""
        return self.gates.weights(), self.memory.weights()

    def start(self, x_BHWC: Tensor) -> State:
        """Return Ĥ_0, C_0 and M_0: zeros."""
        zeros = self.zeros(x_BHWC)
        return None, zeros, zeros

    def step(self, weights: Weights, inputs_BHWG: Tensor, state: State) -> tuple[Tensor, State]:
        """Return Ĥ_t and the next state."""
        h_hat, c, m = state
        h, c = self.gates(weights[0], inputs_BHWG, h_hat, c)
        h_hat, m = self.memory(weights[1], h, m)
        return h_hat, (h_hat, c, m)


core = partial(Stack, Layer)
