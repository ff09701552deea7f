"""The ablation with the memory and without self-attention (table 1): SAM's gates read H_t alone."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.gates import Gates, GateWeights
from sa_nowcast.models.memory import MemoryGates, MemoryWeights
from sa_nowcast.models.rollout import RecurrentLayer

State = tuple[Tensor | None, Tensor, Tensor]


class Weights(NamedTuple):
    """The weights of a layer as every step of a sequence uses them."""

    gates: GateWeights
    memory: MemoryWeights


class Layer(RecurrentLayer[Weights, State]):
    r"""One layer of ConvLSTM with memory; its state is (Ĥ, C, M), and Ĥ goes up.

    .. math::

        (i, f, o) &= σ(W_x ∗ X_t + W_h ∗ Ĥ_{t-1} + b), \quad g = \tanh(W_x ∗ X_t + W_h ∗ Ĥ_{t-1} + b)

        C_t &= f ∘ C_{t-1} + i ∘ g, \qquad H_t = o ∘ \tanh(C_t)

        (i', o') &= σ(W_{m;h} ∗ H_t + b_m), \quad g' = \tanh(W_{m;h} ∗ H_t + b_m)

        M_t &= (1 - i') ∘ M_{t-1} + i' ∘ g', \qquad Ĥ_t = o' ∘ M_t
    """

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = Gates(inputs, hidden, config.kernel, config.forget_bias)
        self.memory = MemoryGates(hidden, hidden)

    def weights(self) -> Weights:
        """Return the weights as every step of a sequence uses them."""
        return Weights(self.gates.weights(), self.memory.weights())

    def start(self, x_BHWC: Tensor) -> State:
        """Return Ĥ_0, C_0 and M_0: zeros."""
        zeros = x_BHWC.new_zeros(*x_BHWC.shape[:3], self.hidden)
        return None, zeros, zeros

    def inputs(self, weights: Weights, x_NHWC: Tensor) -> Tensor:
        """Return what depends on the inputs alone, for any number of frames at once."""
        return self.gates.inputs(weights.gates, x_NHWC)

    def step(self, weights: Weights, share_BHWG: Tensor, state: State) -> tuple[Tensor, State]:
        """Return Ĥ_t and the next state."""
        h_hat, c, m = state
        h, c = self.gates(weights.gates, share_BHWG, h_hat, c)
        h_hat, m = self.memory(weights.memory, h, m)
        return h_hat, (h_hat, c, m)
