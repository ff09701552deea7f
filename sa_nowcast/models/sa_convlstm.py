"""SA-ConvLSTM, the network of the paper (section 3.3, figure 2)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import Stack
from sa_nowcast.models.gates import GatedLayer, GateWeights
from sa_nowcast.models.memory import SAMWeights, SelfAttentionMemory

Weights = tuple[GateWeights, SAMWeights]
State = tuple[Tensor | None, Tensor, Tensor | None]


class Layer(GatedLayer[Weights, State]):
    r"""One layer of SA-ConvLSTM; its state is (Ĥ, C, M), and its output Ĥ.

    .. math::

        (H_t, C_t) = \mathrm{ConvLSTM}(X_t, Ĥ_{t-1}, C_{t-1}), \qquad (Ĥ_t, M_t) = \mathrm{SAM}(H_t, M_{t-1})
    """

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__(inputs, hidden, config)
        self.memory = SelfAttentionMemory(hidden, config.key_channels, config.score_scale, config.key_stride)

    def weights(self) -> Weights:
        """Return the weights as every step of a sequence uses them."""
        return self.gates.weights(), self.memory.weights()

    def start(self, x_BHWC: Tensor) -> State:
        """Return Ĥ_0, C_0 and M_0: zeros."""
        return None, self.zeros(x_BHWC), None

    def step(self, weights: Weights, inputs_BHWG: Tensor, state: State) -> tuple[Tensor, State]:
        """Return Ĥ_t and the next state."""
        h_hat, c, m = state
        h, c = self.gates(weights[0], inputs_BHWG, h_hat, c)
        h_hat, m = self.memory.step(weights[1], h, m)
        return h_hat, (h_hat, c, m)

    def attention_rows(
        self, weights: Weights, x_BHWC: Tensor, state: State, position: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return how a position of H_t weighs the positions of H_t and of M_{t-1}."""
        h_hat, c, m = state
        h, _ = self.gates(weights[0], self.inputs(weights, x_BHWC), h_hat, c)
        m = torch.zeros_like(h) if m is None else m
        rows = self.memory.attention.row(weights[1].attention, h, (h, m), position)
        return {"H": rows[:, 0], "M": rows[:, 1]}


core = partial(Stack, Layer)
