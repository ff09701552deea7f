"""SA-ConvLSTM, the network of the paper (section 3.3, figure 2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.gates import Gates, GateWeights
from sa_nowcast.models.memory import SAMWeights, SelfAttentionMemory
from sa_nowcast.models.rollout import RecurrentLayer

State = tuple[Tensor | None, Tensor, Tensor | None]


class Weights(NamedTuple):
    """The weights of a layer as every step of a sequence uses them."""

    gates: GateWeights
    memory: SAMWeights


class Layer(RecurrentLayer[Weights, State]):
    r"""One layer of SA-ConvLSTM; its state is (Ĥ, C, M), and Ĥ goes up.

    .. math::

        (i, f, o) &= σ(W_x ∗ X_t + W_h ∗ Ĥ_{t-1} + b), \quad g = \tanh(W_x ∗ X_t + W_h ∗ Ĥ_{t-1} + b)

        C_t &= f ∘ C_{t-1} + i ∘ g, \qquad H_t = o ∘ \tanh(C_t), \qquad (Ĥ_t, M_t) = \mathrm{SAM}(H_t, M_{t-1})
    """

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = Gates(inputs, hidden, config.kernel, config.forget_bias)
        self.memory = SelfAttentionMemory(hidden, config.key_channels, config.score_scale, config.key_stride)

    def weights(self) -> Weights:
        """Return the weights as every step of a sequence uses them."""
        return Weights(self.gates.weights(), self.memory.weights())

    def start(self, x_BHWC: Tensor) -> State:
        """Return Ĥ_0, C_0 and M_0: zeros."""
        return None, x_BHWC.new_zeros(*x_BHWC.shape[:3], self.hidden), None

    def inputs(self, weights: Weights, x_NHWC: Tensor) -> Tensor:
        """Return what depends on the inputs alone, for any number of frames at once."""
        return self.gates.inputs(weights.gates, x_NHWC)

    def step(self, weights: Weights, share_BHWG: Tensor, state: State) -> tuple[Tensor, State]:
        """Return Ĥ_t and the next state."""
        h_hat, c, m = state
        h, c = self.gates(weights.gates, share_BHWG, h_hat, c)
        h_hat, m = self.memory.step(weights.memory, h, m)
        return h_hat, (h_hat, c, m)

    def attention_rows(
        self, weights: Weights, x_BHWC: Tensor, state: State, position: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return how a position of H_t weighs the positions of H_t and of M_{t-1}."""
        h_hat, c, m = state
        h, _ = self.gates(weights.gates, self.inputs(weights, x_BHWC), h_hat, c)
        m = torch.zeros_like(h) if m is None else m
        rows = self.memory.attention.row(weights.memory.attention, h, (h, m), position)
        return {"H": rows[:, 0], "M": rows[:, 1]}
