"""ConvLSTM, the baseline: the paper's stack without self-attention and without memory."""

from __future__ import annotations

from torch import Tensor

from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.gates import Gates, GateWeights
from sa_nowcast.models.rollout import RecurrentLayer

State = tuple[Tensor | None, Tensor]


class Layer(RecurrentLayer[GateWeights, State]):
    r"""One layer of ConvLSTM; its state is (H, C), and H goes up.

    .. math::

        (i, f, o) &= σ(W_x ∗ X_t + W_h ∗ H_{t-1} + b), \quad g = \tanh(W_x ∗ X_t + W_h ∗ H_{t-1} + b)

        C_t &= f ∘ C_{t-1} + i ∘ g, \qquad H_t = o ∘ \tanh(C_t)
    """

    def __init__(self, inputs: int, hidden: int, config: NetworkConfig) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = Gates(inputs, hidden, config.kernel, config.forget_bias)

    def weights(self) -> GateWeights:
        """Return the weights as every step of a sequence uses them."""
        return self.gates.weights()

    def start(self, x_BHWC: Tensor) -> State:
        """Return H_0 and C_0: zeros."""
        return None, x_BHWC.new_zeros(*x_BHWC.shape[:3], self.hidden)

    def inputs(self, weights: GateWeights, x_NHWC: Tensor) -> Tensor:
        """Return what depends on the inputs alone, for any number of frames at once."""
        return self.gates.inputs(weights, x_NHWC)

    def step(self, weights: GateWeights, share_BHWG: Tensor, state: State) -> tuple[Tensor, State]:
        """Return H_t and the next state."""
        h, c = self.gates(weights, share_BHWG, *state)
        return h, (h, c)
