"""The base model of the paper: self-attention on X_t and on H_{t-1}, then ConvLSTM (eq. 1)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sa_nowcast.models.attention import AttentionWeights, SelfAttention
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.gates import Gates, GateWeights
from sa_nowcast.models.rollout import RecurrentLayer

State = tuple[Tensor | None, Tensor]


class Weights(NamedTuple):
    """The weights of a layer as every step of a sequence uses them."""

    gates: GateWeights
    below: AttentionWeights
    before: AttentionWeights


class Layer(RecurrentLayer[Weights, State]):
    r"""One layer of the base model; its state is (H, C), and H goes up.

    .. math::

        X̂_t &= \mathrm{SA}(X_t), \qquad Ĥ_{t-1} = \mathrm{SA}(H_{t-1})

        (i, f, o) &= σ(W_x ∗ X̂_t + W_h ∗ Ĥ_{t-1} + b), \quad g = \tanh(W_x ∗ X̂_t + W_h ∗ Ĥ_{t-1} + b)

        C_t &= f ∘ C_{t-1} + i ∘ g, \qquad H_t = o ∘ \tanh(C_t)
    """

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__()
        self.hidden = hidden
        options = config.key_channels, config.score_scale, config.key_stride
        self.below = SelfAttention(inputs, *options)
        self.before = SelfAttention(hidden, *options)
        self.gates = Gates(inputs, hidden, config.kernel, config.forget_bias)

    def weights(self) -> Weights:
        """Return the weights as every step of a sequence uses them."""
        return Weights(self.gates.weights(), self.below.weights(), self.before.weights())

    def start(self, x_BHWC: Tensor) -> State:
        """Return H_0 and C_0: zeros."""
        return None, x_BHWC.new_zeros(*x_BHWC.shape[:3], self.hidden)

    def inputs(self, weights: Weights, x_NHWC: Tensor) -> Tensor:
        """Return what depends on the inputs alone, for any number of frames at once."""
        return self.gates.inputs(weights.gates, self.below.step(weights.below, x_NHWC))

    def step(self, weights: Weights, share_BHWG: Tensor, state: State) -> tuple[Tensor, State]:
        """Return H_t and the next state."""
        h, c = state
        h_hat = None if h is None else self.before.step(weights.before, h)
        h, c = self.gates(weights.gates, share_BHWG, h_hat, c)
        return h, (h, c)

    def attention_rows(
        self, weights: Weights, x_BHWC: Tensor, state: State, position: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return how a position of X_t weighs those of X_t, and one of H_{t-1} those of H_{t-1}."""
        h = self.start(x_BHWC)[1] if state[0] is None else state[0]
        return {
            "X": self.below.attention.row(weights.below, x_BHWC, (x_BHWC,), position)[:, 0],
            "H": self.before.attention.row(weights.before, h, (h,), position)[:, 0],
        }
