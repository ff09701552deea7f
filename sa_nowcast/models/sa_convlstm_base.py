"""The base model of the paper: self-attention on X_t and on H_{t-1}, then ConvLSTM (eq. 1)."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from sa_nowcast.models.attention import AttentionWeights, SelfAttention
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.cores import Stack
from sa_nowcast.models.gates import GatedLayer, GateWeights

Weights = tuple[GateWeights, AttentionWeights, AttentionWeights]
State = tuple[Tensor | None, Tensor]


class Layer(GatedLayer[Weights, State]):
    r"""One layer of the base model; its state is (H, C), and its output H.

    .. math::

        X̂_t = \mathrm{SA}(X_t), \qquad Ĥ_{t-1} = \mathrm{SA}(H_{t-1}), \qquad
        (H_t, C_t) = \mathrm{ConvLSTM}(X̂_t, Ĥ_{t-1}, C_{t-1})
    """

    def make_parts(self, inputs: int, config: NetworkConfig) -> None:
        """Make the two attentions before the gates."""
        options = config.key_channels, config.score_scale, config.key_stride
        self.below = SelfAttention(inputs, *options)
        self.before = SelfAttention(self.hidden, *options)
        super().make_parts(inputs, config)

    def weights(self) -> Weights:
        """Return the weights as every step of a sequence uses them."""
        return self.gates.weights(), self.below.weights(), self.before.weights()

    def start(self, x_BHWC: Tensor) -> State:
        """Return H_0 and C_0: zeros."""
        return None, self.zeros(x_BHWC)

    def inputs(self, weights: Weights, x_NHWC: Tensor) -> Tensor:
        """Return the gate pre-activations from SA(X_t), for any number of frames at once."""
        return super().inputs(weights, self.below.step(weights[1], x_NHWC))

    def step(self, weights: Weights, inputs_BHWG: Tensor, state: State) -> tuple[Tensor, State]:
        """Return H_t and the next state."""
        h, c = state
        h_hat = None if h is None else self.before.step(weights[2], h)
        h, c = self.gates(weights[0], inputs_BHWG, h_hat, c)
        return h, (h, c)

    def attention_rows(
        self, weights: Weights, x_BHWC: Tensor, state: State, position: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return how a position of X_t weighs those of X_t, and one of H_{t-1} those of H_{t-1}."""
        h = self.zeros(x_BHWC) if state[0] is None else state[0]
        return {
            "X": self.below.attention.row(weights[1], x_BHWC, (x_BHWC,), position)[:, 0],
            "H": self.before.attention.row(weights[2], h, (h,), position)[:, 0],
        }


core = partial(Stack, Layer)
